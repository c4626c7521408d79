//! The hash by which a later pass sees that something is still what was built.

use serde::Serialize;

/// FNV-1a (64 bits) over the value's JSON. Not the standard library's hasher, which may change with the toolchain: then
/// an upgrade of the operator would roll every pod.
///
/// # Errors
/// When the value cannot be written as JSON.
pub fn hash<T: Serialize>(value: &T) -> Result<String, serde_json::Error> {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in serde_json::to_vec(value)? {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    Ok(format!("{hash:016x}"))
}
