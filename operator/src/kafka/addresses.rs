//! `bootstrapServers`, looked at before a client is made of it. Without Kafka.

use sluice_crds::conditions::reason;

use super::{Limits, port::ReadError};

/// The most addresses of one consumer: librdkafka starts a thread for each.
pub const MOST_ADDRESSES: usize = 16;

/// Why these addresses are not read from, if they are not.
pub fn refusal(bootstrap_servers: &str, limits: &Limits) -> Option<ReadError> {
    // librdkafka splits at spaces too.
    let hosts: Vec<&str> =
        bootstrap_servers.split([',', ' ']).filter(|entry| !entry.is_empty()).map(host).collect();
    if hosts.len() > MOST_ADDRESSES {
        let message = format!(
            "bootstrapServers has {} addresses; at most {MOST_ADDRESSES} are read from: name a few \
             of the brokers, they know the others",
            hosts.len()
        );
        return Some(ReadError { reason: reason::TOO_MANY_ADDRESSES, message });
    }
    let refused = hosts.iter().find(|host| !limits.allowed.may_allow(host))?;
    Some(not_allowed(refused))
}

/// This broker is not in the administrator's list.
pub fn not_allowed(host: &str) -> ReadError {
    // Brokers announce names; a name has no other characters, and is not longer.
    let host: String = host
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || ".:-_[]".contains(*c))
        .take(255)
        .collect();
    ReadError {
        reason: reason::BROKER_NOT_ALLOWED,
        message: format!(
            "the operator may not connect to {host}: ask the administrator to add it to the \
             operator's allowedBrokers"
        ),
    }
}

/// The host of an address as librdkafka reads it: `[protocol://]host[:port][/…]`.
pub fn host(address: &str) -> &str {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let rest = rest.split_once('/').map_or(rest, |(name, _)| name);
    let host = match rest.rsplit_once(':') {
        Some((host, _)) if !host.contains(':') || host.ends_with(']') => host,
        _ => rest,
    };
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    if host.is_empty() { "localhost" } else { host }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(addresses: &str, allowed: &str) -> Option<&'static str> {
        let limits = Limits { allowed: allowed.parse().unwrap(), ..Limits::default() };
        refusal(addresses, &limits).map(|error| error.reason)
    }

    #[test]
    fn hosts_are_found_in_every_spelling_of_an_address() {
        for (address, name) in [
            ("kafka:9092", "kafka"),
            ("kafka", "kafka"),
            ("PLAINTEXT://kafka:9092", "kafka"),
            ("[::1]:9092", "::1"),
            ("[::1]", "::1"),
            ("fd00::1", "fd00::1"),
            (":9092", "localhost"),
            ("kafka:9092/path", "kafka"),
        ] {
            assert_eq!(host(address), name, "{address}");
        }
    }

    #[test]
    fn more_than_sixteen_addresses_are_refused() {
        let addresses = |count: usize, separator: &str| {
            (0..count).map(|n| format!("b{n}:9092")).collect::<Vec<_>>().join(separator)
        };
        for separator in [",", " ", ", "] {
            assert_eq!(refused(&addresses(16, separator), ""), None);
            assert_eq!(
                refused(&addresses(17, separator), ""),
                Some(reason::TOO_MANY_ADDRESSES),
                "{separator:?}"
            );
        }
    }

    #[test]
    fn one_address_that_is_not_allowed_refuses_all() {
        assert_eq!(refused("a.kafka:9092,b.kafka:9092", ".kafka"), None);
        assert_eq!(refused("a.kafka,evil:22", ".kafka"), Some(reason::BROKER_NOT_ALLOWED));
        assert_eq!(refused("10.0.0.5:22", ".kafka,10.1.0.0/16"), Some(reason::BROKER_NOT_ALLOWED));
        assert_eq!(refused("resolves.later:9092", "10.1.0.0/16"), None, "its addresses decide");
    }
}
