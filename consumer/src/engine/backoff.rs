//! When a lane that failed is tried again. Pure: the random number is an argument.

use std::time::Duration;

use sluice_crds::kafkaconsumer::delivery::Retry;

/// The longest pause that the other side may ask for.
const LONGEST_ASKED: Duration = Duration::from_mins(5);

/// Exponential backoff with full jitter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    max_retries: u32,
    min: Duration,
    max: Duration,
}

impl Backoff {
    pub(crate) fn new(retry: &Retry) -> Self {
        // A minimum of 0 would make a busy loop of a receiver that refuses at once.
        let min = retry.min_backoff.to_std().max(Duration::from_millis(1));
        Self {
            max_retries: retry.max_retries.max(0) as u32,
            min,
            max: retry.max_backoff.to_std().max(min),
        }
    }

    /// Whether a record that failed this often stands in its lane's way for good.
    pub(crate) fn exhausted(&self, tries: u32) -> bool {
        tries > self.max_retries
    }

    /// How long a record waits after its n-th failed try (the first is 1). `random` is between 0 and 1; `asked` is what
    /// the other side asked for.
    pub(crate) fn delay(
        &self,
        tries: u32,
        blocked: bool,
        asked: Option<Duration>,
        random: f64,
    ) -> Duration {
        let delay = if blocked {
            // The longest backoff; a little jitter keeps lanes that failed together from coming back together.
            self.max.mul_f64(0.75 + 0.25 * random)
        } else {
            let doubled = self
                .min
                .saturating_mul(1_u32.checked_shl(tries.saturating_sub(1)).unwrap_or(u32::MAX));
            doubled.min(self.max).mul_f64(random)
        };
        delay.max(asked.unwrap_or_default().min(LONGEST_ASKED))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn backoff() -> Backoff {
        Backoff::new(&Retry::default())
    }

    #[test]
    fn the_bound_doubles_up_to_the_longest_and_jitter_takes_all_below_it() {
        for (tries, bound) in [
            (1, 200),
            (2, 400),
            (3, 800),
            (6, 6_400),
            (7, 10_000),
            (40, 10_000),
            (u32::MAX, 10_000),
        ] {
            assert_eq!(backoff().delay(tries, false, None, 1.0), MS(bound), "{tries}");
            assert_eq!(backoff().delay(tries, false, None, 0.0), MS(0), "{tries}");
        }
    }

    #[test]
    fn a_blocked_lane_is_tried_at_the_longest_backoff() {
        assert!(
            !backoff().exhausted(3) && backoff().exhausted(4),
            "three retries after the first try"
        );
        assert_eq!(backoff().delay(1, true, None, 1.0), MS(10_000));
        assert!(backoff().delay(1, true, None, 0.0) >= MS(7_500));
    }

    #[test]
    fn the_other_side_may_ask_for_more_but_not_for_ever() {
        assert_eq!(backoff().delay(1, false, Some(MS(3_000)), 0.5), MS(3_000));
        assert_eq!(backoff().delay(1, false, Some(MS(3_600_000)), 0.5), LONGEST_ASKED);
    }
}
