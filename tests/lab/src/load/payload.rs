//! What a record carries: the run, its number in the run and in its key, and its time; as JSON, so that any receiver can
//! read it. A payload that is asked to be shorter than its fields is as long as they are.

use std::io::Write;

use serde::Deserialize;

/// The fields of a record's value.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Payload<'a> {
    /// The run that made the record.
    pub run: &'a str,
    /// Its number in the run, from 0.
    pub seq: u64,
    /// Its number among the records of its key (or, without keys, of its partition), from 0.
    pub key_seq: u64,
    /// When it was made: milliseconds since the Unix epoch, the same as Kafka's CreateTime.
    pub time: i64,
}

impl<'a> Payload<'a> {
    /// Writes the record's value into `buffer`, filled up to `size` bytes.
    pub fn write(&self, size: usize, buffer: &mut Vec<u8>) {
        const PAD: &str = r#","pad":""#;
        buffer.clear();
        // Writing to memory cannot fail.
        let _ = write!(
            buffer,
            r#"{{"run":"{}","seq":{},"keySeq":{},"time":{}"#,
            self.run, self.seq, self.key_seq, self.time
        );
        if buffer.len() + PAD.len() + 2 <= size {
            buffer.extend_from_slice(PAD.as_bytes());
            buffer.resize(size - 2, b'.');
            buffer.push(b'"');
        }
        buffer.push(b'}');
    }

    /// Reads a record's value; `None` when it is not of this load generator.
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

/// The key with a number, as it stands in Kafka.
pub fn key_text(number: u32) -> String {
    format!("key-{number:06}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_record_carries_is_what_is_read_back() {
        let payload =
            Payload { run: "0badcafe", seq: 123_456, key_seq: 42, time: 1_790_000_000_000 };
        let mut buffer = Vec::new();
        for size in [0, 70, 78, 79, 80, 100, 1_000, 900_000] {
            payload.write(size, &mut buffer);
            assert_eq!(
                Payload::read(&buffer).as_ref(),
                Some(&payload),
                "{size}: {:?}",
                String::from_utf8_lossy(&buffer)
            );
            assert!(size < 80 || buffer.len() == size, "{} bytes in place of {size}", buffer.len());
        }
    }

    #[test]
    fn a_value_of_somebody_else_is_not_taken_for_ours() {
        for value in ["", "hello", "{}", r#"{"run":"x","seq":-1,"keySeq":0,"time":0}"#] {
            assert_eq!(Payload::read(value.as_bytes()), None, "{value:?}");
        }
    }
}
