//! The rate schedule: how many records are due at a moment. Pure: the time is an argument.

use std::{str::FromStr, time::Duration};

use anyhow::{Context, bail, ensure};

/// Rates one after the other, such as `300x30s,3600x90s,300x60s`; the last may have no end: `300x30s,3600`.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    steps: Vec<Step>,
}

/// A rate, and for how long.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Step {
    rate: f64,
    /// `None`: until the load is stopped or its rate is set.
    lasts: Option<Duration>,
}

impl Schedule {
    /// One rate for a time.
    pub fn steady(rate: f64, lasts: Duration) -> Self {
        Self { steps: vec![Step { rate, lasts: Some(lasts) }] }
    }

    /// One rate until the load is stopped.
    pub fn endless(rate: f64) -> Self {
        Self { steps: vec![Step { rate, lasts: None }] }
    }

    /// This schedule, followed by a rate for a time. After an endless step it has no effect.
    #[must_use]
    pub fn then(mut self, rate: f64, lasts: Duration) -> Self {
        self.steps.push(Step { rate, lasts: Some(lasts) });
        self
    }

    /// This schedule, followed by a rate until the load is stopped.
    #[must_use]
    pub fn then_endless(mut self, rate: f64) -> Self {
        self.steps.push(Step { rate, lasts: None });
        self
    }
}

impl FromStr for Schedule {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let mut steps: Vec<Step> = Vec::new();
        for part in text.split(',').map(str::trim) {
            let (rate, lasts) = match part.split_once('x') {
                Some((rate, lasts)) => {
                    let lasts: sluice_crds::Duration = lasts.trim().parse()?;
                    (rate, Some(lasts.to_std()))
                }
                None => (part, None),
            };
            let rate = rate.trim().trim_end_matches("/s");
            let rate: f64 = rate.parse().with_context(|| {
                format!("{part:?} is no step of a schedule: write RATExTIME, such as 300x30s, or RATE for the last one")
            })?;
            ensure!(
                rate.is_finite() && (0.0..=10e6).contains(&rate),
                "the rate {rate} is not between 0 and 10,000,000"
            );
            if steps.last().is_some_and(|step| step.lasts.is_none()) {
                bail!(
                    "only the last step of a schedule may have no time, so {part:?} would never come"
                );
            }
            steps.push(Step { rate, lasts });
        }
        Ok(Self { steps })
    }
}

/// Turns a schedule into numbers of records: the total that is due at a moment, without drift.
#[derive(Clone, Debug)]
pub struct Pacer {
    /// Ascending by start. The first starts at zero.
    segments: Vec<Segment>,
    ends: Option<Duration>,
}

/// From `start` on, `rate` records a second come on top of `due_before`.
#[derive(Clone, Copy, Debug)]
struct Segment {
    start: Duration,
    rate: f64,
    due_before: f64,
}

impl Pacer {
    /// A pacer that follows a schedule from its first moment.
    pub fn new(schedule: &Schedule) -> Self {
        let (mut start, mut due_before, mut segments) = (Duration::ZERO, 0.0, Vec::new());
        for step in &schedule.steps {
            segments.push(Segment { start, rate: step.rate, due_before });
            let Some(lasts) = step.lasts else { return Self { segments, ends: None } };
            start += lasts;
            due_before += step.rate * lasts.as_secs_f64();
        }
        Self { segments, ends: Some(start) }
    }

    /// Records that are due in all when `elapsed` has passed since the start.
    pub fn due(&self, elapsed: Duration) -> u64 {
        self.due_exactly(self.ends.map_or(elapsed, |ends| ends.min(elapsed))).round() as u64
    }

    fn due_exactly(&self, elapsed: Duration) -> f64 {
        self.segments.iter().rev().find(|segment| segment.start <= elapsed).map_or(0.0, |segment| {
            segment.due_before + segment.rate * elapsed.saturating_sub(segment.start).as_secs_f64()
        })
    }

    /// Whether nothing more will come.
    pub fn is_over(&self, elapsed: Duration) -> bool {
        self.ends.is_some_and(|ends| elapsed >= ends)
    }

    /// From `elapsed` on, one rate until the end; what was planned for later is dropped.
    pub fn set_rate(&mut self, elapsed: Duration, rate: f64) {
        let due_before = self.due_exactly(elapsed);
        self.segments.retain(|segment| segment.start < elapsed);
        self.segments.push(Segment { start: elapsed, rate, due_before });
        self.ends = None;
    }

    /// The rate at a moment.
    pub fn rate(&self, elapsed: Duration) -> f64 {
        if self.is_over(elapsed) {
            return 0.0;
        }
        self.segments
            .iter()
            .rev()
            .find(|segment| segment.start <= elapsed)
            .map_or(0.0, |segment| segment.rate)
    }

    /// When each rate began, in order.
    pub fn changes(&self) -> impl Iterator<Item = (Duration, f64)> + '_ {
        self.segments.iter().map(|segment| (segment.start, segment.rate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn a_schedule_is_read_as_it_is_written() {
        let read: Schedule = "300x30s, 3600/sx1m30s,300".parse().unwrap();
        assert_eq!(
            read,
            Schedule::steady(300.0, secs(30)).then(3600.0, secs(90)).then_endless(300.0)
        );
    }

    #[test]
    fn a_schedule_that_cannot_be_followed_is_refused_with_its_reason() {
        for (text, says) in [
            ("", "is no step of a schedule"),
            ("fastx3s", "is no step of a schedule"),
            ("300,3600x90s", "would never come"),
            ("-1x3s", "is not between"),
            ("300x3", "not a duration"),
        ] {
            let error = text.parse::<Schedule>().unwrap_err().to_string();
            assert!(error.contains(says), "{text:?}: {error}");
        }
    }

    #[test]
    fn the_number_due_follows_the_schedule_without_drift() {
        let pacer = Pacer::new(&"300x30s,3600x90s,300x60s".parse().unwrap());
        for (at, due) in [
            (0, 0),
            (1, 300),
            (30, 9_000),
            (31, 12_600),
            (120, 333_000),
            (180, 351_000),
            (500, 351_000),
        ] {
            assert_eq!(pacer.due(secs(at)), due, "after {at} s");
        }
        // However often it is asked, the parts add up to the whole.
        let (mut sent, mut steps) = (0, 0);
        while sent < 351_000 && steps < 1_000_000 {
            steps += 1;
            sent += pacer.due(Duration::from_micros(steps * 1_777)) - sent;
        }
        assert_eq!(sent, 351_000);
        assert!(pacer.is_over(secs(180)) && !pacer.is_over(secs(179)));
    }

    #[test]
    fn a_rate_that_is_set_replaces_what_was_planned() {
        let mut pacer = Pacer::new(&"300x30s,3600x90s".parse().unwrap());
        pacer.set_rate(secs(10), 1_000.0);
        assert_eq!(
            (pacer.due(secs(10)), pacer.due(secs(12)), pacer.due(secs(1_000))),
            (3_000, 5_000, 993_000)
        );
        assert!(!pacer.is_over(secs(1_000)));
        assert_eq!(pacer.changes().collect::<Vec<_>>(), [(secs(0), 300.0), (secs(10), 1_000.0)]);
        assert!(
            (pacer.rate(secs(9)) - 300.0).abs() < 1e-9
                && (pacer.rate(secs(11)) - 1_000.0).abs() < 1e-9
        );
    }
}
