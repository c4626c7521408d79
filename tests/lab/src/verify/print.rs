//! A verdict as a person reads it.

use std::fmt;

use super::Verdict;

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { topic, produced, handled, .. } = self;
        writeln!(f, "{topic}: {produced} records in the topic, {handled} of them handled")?;
        for (name, count) in [
            ("lost", self.lost),
            ("handled more than once", self.duplicated),
            ("out of order", self.out_of_order),
            ("begun before an earlier one was done", self.overlapping),
        ] {
            writeln!(f, "  {count:>9} {name}")?;
        }
        for (name, count) in [
            ("acknowledged, but not in the topic", self.missing),
            ("not where the load put them", self.misplaced),
            ("handled beside those (other loads, or deleted since)", self.elsewhere),
        ] {
            if count > 0 {
                writeln!(f, "  {count:>9} {name}")?;
            }
        }
        let delay = self.delay;
        writeln!(
            f,
            "  delay p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
            delay.p50_ms, delay.p99_ms, delay.max_ms
        )?;
        for example in &self.examples {
            writeln!(f, "  {example}")?;
        }
        Ok(())
    }
}
