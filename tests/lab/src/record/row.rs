//! One second as a line of CSV. No I/O but the writing.

use std::io::{self, Write};

use jiff::Timestamp;

/// One second of a recording. What is not known is empty in the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// Milliseconds since the Unix epoch.
    pub at: i64,
    /// Records a second that arrived since the row before.
    pub produced_rate: Option<f64>,
    /// The sum of the partitions' end offsets.
    pub produced: Option<i64>,
    /// Records a second that were committed since the row before.
    pub committed_rate: Option<f64>,
    /// The sum of the committed offsets.
    pub committed: Option<i64>,
    /// End less committed: it lags behind what is handled by up to a second of commits.
    pub lag: Option<i64>,
    /// Members of the group.
    pub members: Option<usize>,
    /// The group's state in the broker's word.
    pub group_state: Option<String>,
    /// Pods asked for.
    pub wanted: Option<i32>,
    /// Pods that are ready.
    pub ready: Option<i32>,
    /// The batch size asked for.
    pub batch_size: Option<i32>,
    /// The concurrency asked for.
    pub concurrency: Option<i32>,
    /// Seconds behind, as the operator sees it.
    pub behind: Option<f64>,
    /// The reason of the last decision.
    pub reason: Option<String>,
    /// Its sentence.
    pub message: Option<String>,
}

/// The names of the columns.
pub const HEADER: &str = "time,produced_rate,produced,committed_rate,committed,lag,members,group_state,replicas_wanted,\
                          replicas_ready,batch_size,concurrency,behind_s,reason,message";

impl Row {
    /// The row as a line, without its end.
    pub fn csv(&self) -> String {
        let time = Timestamp::from_millisecond(self.at)
            .map_or_else(|_| self.at.to_string(), |time| format!("{time:.3}"));
        [
            time,
            rounded(self.produced_rate),
            shown(self.produced.as_ref()),
            rounded(self.committed_rate),
            shown(self.committed.as_ref()),
            shown(self.lag.as_ref()),
            shown(self.members.as_ref()),
            quoted(self.group_state.as_deref()),
            shown(self.wanted.as_ref()),
            shown(self.ready.as_ref()),
            shown(self.batch_size.as_ref()),
            shown(self.concurrency.as_ref()),
            rounded(self.behind),
            quoted(self.reason.as_deref()),
            quoted(self.message.as_deref()),
        ]
        .join(",")
    }
}

/// Writes header and rows.
///
/// # Errors
/// When the writer fails.
pub fn write_csv(rows: &[Row], mut to: impl Write) -> io::Result<()> {
    writeln!(to, "{HEADER}")?;
    rows.iter().try_for_each(|row| writeln!(to, "{}", row.csv()))
}

fn shown<T: ToString>(value: Option<&T>) -> String {
    value.map(ToString::to_string).unwrap_or_default()
}

fn rounded(value: Option<f64>) -> String {
    value.map(|value| format!("{value:.1}")).unwrap_or_default()
}

/// RFC 4180: text that holds a comma, a quote or a line's end stands in quotes, and quotes are doubled.
fn quoted(text: Option<&str>) -> String {
    let text = text.unwrap_or_default();
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_a_field_for_each_name_and_unknown_is_empty() {
        let columns = HEADER.split(',').count();
        let empty = Row { at: 1_790_000_000_123, ..Row::default() }.csv();
        assert_eq!(empty, format!("2026-09-21T14:13:20.123Z{}", ",".repeat(columns - 1)));
        let full = Row {
            lag: Some(0),
            produced_rate: Some(299.96),
            reason: Some("ScaledUp".into()),
            message: Some("1 → 12, \"at once\"".into()),
            ..Row::default()
        };
        assert_eq!(
            full.csv(),
            "1970-01-01T00:00:00.000Z,300.0,,,,0,,,,,,,,ScaledUp,\"1 → 12, \"\"at once\"\"\""
        );
    }

    #[test]
    fn a_file_begins_with_the_names() {
        let mut file = Vec::new();
        write_csv(&[Row::default()], &mut file).unwrap();
        let text = String::from_utf8(file).unwrap();
        assert!(text.starts_with("time,produced_rate") && text.lines().count() == 2);
    }
}
