//! A length of time as people write it in YAML: `500ms`, `90s`, `2m`, `1h30m`.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A non-negative length of time, written as a string of numbers with units (`h`, `m`, `s`, `ms`), as Go and CEL write it.
///
/// It keeps whole milliseconds, takes more than a hundred years for a hundred, and prints the shortest form: `90s` and `1m30s` are the same value, printed `1m30s`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(std::time::Duration);

/// Milliseconds of a hundred years: beyond it arithmetic on instants may overflow, and nobody means it.
const LONGEST: f64 = 876_600.0 * 3_600e3;

/// Why a string is not a [`Duration`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration: write a number and a unit, such as 500ms, 90s, 2m or 1h30m")]
pub struct ParseError(String);

impl Duration {
    /// A duration of whole milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(std::time::Duration::from_millis(millis))
    }

    /// A duration of whole seconds.
    pub const fn from_secs(secs: u64) -> Self {
        Self(std::time::Duration::from_secs(secs))
    }

    /// The same length as the standard library's type.
    pub const fn to_std(self) -> std::time::Duration {
        self.0
    }

    /// The length in seconds, with its fraction.
    pub fn as_secs_f64(self) -> f64 {
        self.0.as_secs_f64()
    }
}

impl From<Duration> for std::time::Duration {
    fn from(value: Duration) -> Self {
        value.0
    }
}

impl FromStr for Duration {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let error = || ParseError(text.to_owned());
        let mut rest = text;
        let mut millis = 0_f64;
        if rest.is_empty() {
            return Err(error());
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(error)?;
            let number: f64 = rest[..digits].parse().map_err(|_| error())?;
            rest = &rest[digits..];
            let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
            millis += number
                * match &rest[..unit] {
                    "ms" => 1.0,
                    "s" => 1e3,
                    "m" => 60e3,
                    "h" => 3_600e3,
                    _ => return Err(error()),
                };
            rest = &rest[unit..];
        }
        if !millis.is_finite() {
            return Err(error());
        }
        // The API server takes more; refused here, the whole object could not be read.
        Ok(Self::from_millis(millis.round().min(LONGEST) as u64))
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        if millis == 0 {
            return f.write_str("0s");
        }
        let (h, m, s, ms) =
            (millis / 3_600_000, millis / 60_000 % 60, millis / 1_000 % 60, millis % 1_000);
        for (value, unit) in [(h, "h"), (m, "m"), (s, "s"), (ms, "ms")] {
            if value > 0 {
                write!(f, "{value}{unit}")?;
            }
        }
        Ok(())
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl JsonSchema for Duration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // The pattern is what CEL's duration() takes, less signs and the units below a millisecond.
        json_schema!({ "type": "string", "maxLength": 32, "pattern": r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_read_and_printed_back_in_its_shortest_form() {
        for (text, millis, printed) in [
            ("90s", 90_000, "1m30s"),
            ("2m", 120_000, "2m"),
            ("500ms", 500, "500ms"),
            ("1h30m", 5_400_000, "1h30m"),
            ("1.5s", 1_500, "1s500ms"),
            ("0s", 0, "0s"),
        ] {
            let duration: Duration = text.parse().unwrap();
            assert_eq!(duration, Duration::from_millis(millis), "{text}");
            assert_eq!(duration.to_string(), printed, "{text}");
            assert_eq!(printed.parse::<Duration>().unwrap(), duration, "{text}");
        }
    }

    #[test]
    fn more_than_a_hundred_years_are_a_hundred_years() {
        let longest: Duration = "99999999999h".parse().unwrap();
        assert_eq!(longest, "900000h".parse().unwrap());
        assert!(longest > "800000h".parse().unwrap());
        assert_eq!(longest.to_string().parse::<Duration>().unwrap(), longest);
    }

    #[test]
    fn what_is_no_duration_is_refused_with_a_sentence_that_says_what_to_write() {
        for text in ["", "5", "s", "5 s", "-5s", "5d", "1e9h", "5s5"] {
            let error = text.parse::<Duration>().unwrap_err();
            assert!(error.to_string().contains("90s"), "{text}: {error}");
        }
    }
}
