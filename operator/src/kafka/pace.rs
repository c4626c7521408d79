//! How often a cluster is read. Without Kafka and without a clock.

use std::time::Duration;

/// Between the beginnings of two rounds.
pub const INTERVAL: Duration = Duration::from_secs(1);
/// The most that the interval grows to when rounds take long.
pub const LONGEST: Duration = Duration::from_secs(15);

/// The interval between rounds: longer where a round takes more than half of it.
#[derive(Clone, Debug)]
pub struct Pace {
    interval: Duration,
    /// Whether the round before was too slow.
    slow: bool,
    /// How long each answer of this round took.
    answers: Vec<Duration>,
}

impl Default for Pace {
    fn default() -> Self {
        Self { interval: INTERVAL, slow: false, answers: Vec::new() }
    }
}

impl Pace {
    /// Between the beginnings of two rounds.
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// How long a round waits for its answers before what is known is published without the rest.
    pub fn patience(&self) -> Duration {
        self.interval / 2
    }

    /// Notes how long an answer took. Requests that failed are not counted: a broker that is away makes them long, and is
    /// no reason to look at it less often.
    pub fn answered(&mut self, took: Duration) {
        self.answers.push(took);
    }

    /// Ends a round; the new interval, where it changed.
    pub fn end_of_round(&mut self) -> Option<Duration> {
        let took = took(&mut self.answers)?;
        self.answers.clear();
        let fits = (took * 2).clamp(INTERVAL, LONGEST);
        // One slow round is nothing: the first one makes the connections, and any one may meet a collection of garbage.
        let (slow, was_slow) = (fits > self.interval * 5 / 4, self.slow);
        self.slow = slow;
        if (slow && was_slow) || fits < self.interval * 3 / 4 {
            self.interval = fits;
            self.slow = false;
            return Some(fits);
        }
        None
    }
}

/// How long a round took: until its last answer, but no more than twice the median, so that one slow broker, which is not
/// asked again before it has answered, does not slow the reading of the others.
fn took(answers: &mut [Duration]) -> Option<Duration> {
    answers.sort_unstable();
    let median = *answers.get(answers.len() / 2)?;
    answers.last().map(|last| (*last).min(median * 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(pace: &mut Pace, millis: &[u64]) -> Option<u64> {
        for answer in millis {
            pace.answered(Duration::from_millis(*answer));
        }
        pace.end_of_round().map(|interval| interval.as_millis() as u64)
    }

    #[test]
    fn rounds_that_take_more_than_half_the_interval_make_it_longer_and_short_ones_bring_it_back() {
        let mut pace = Pace::default();
        assert_eq!(round(&mut pace, &[10, 100, 490]), None);
        assert_eq!(round(&mut pace, &[700, 800, 900]), None, "one slow round is nothing");
        assert_eq!(round(&mut pace, &[700, 800, 900]), Some(1_800));
        assert_eq!(pace.patience(), Duration::from_millis(900));
        assert_eq!(round(&mut pace, &[700, 800, 900]), None, "it fits now");
        assert_eq!(round(&mut pace, &[10, 20, 30]), Some(1_000));
        for _ in 0..10 {
            round(&mut pace, &[60_000]);
        }
        assert_eq!(pace.interval(), LONGEST);
    }

    #[test]
    fn one_slow_broker_does_not_slow_the_reading_of_the_others() {
        let mut pace = Pace::default();
        for _ in 0..10 {
            assert_eq!(round(&mut pace, &[5, 5, 2_900]), None);
        }
    }

    #[test]
    fn a_slow_start_and_a_time_without_answers_change_nothing() {
        let mut pace = Pace::default();
        assert_eq!(round(&mut pace, &[2_500]), None);
        assert_eq!(round(&mut pace, &[]), None);
        assert_eq!(round(&mut pace, &[10]), None);
        assert_eq!(round(&mut pace, &[2_500]), None);
        assert_eq!(pace.interval(), INTERVAL);
    }
}
