//! How long a consumer waits after a pass that failed: kube's controller knows no backoff for each object.

use std::time::Duration;

/// The first delay.
const FIRST: Duration = Duration::from_secs(1);
/// The longest delay before jitter.
const LONGEST: Duration = Duration::from_secs(300);

/// The delay after the `failures`th failure in a row (from 1): doubling from 1 s up to 5 min, ± 20 % by `dice` (0 to 1),
/// so that consumers that failed together do not come back together.
pub fn delay(failures: u32, dice: f64) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let base = FIRST.saturating_mul(1 << doublings).min(LONGEST);
    base.mul_f64(0.8 + 0.4 * dice.clamp(0.0, 1.0))
}

/// The interval of the pass that nothing asked for, 5 min ± 10 % by `dice`: a net under watches that missed something.
pub fn safety_net(dice: f64) -> Duration {
    LONGEST.mul_f64(0.9 + 0.2 * dice.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_from_a_second_to_five_minutes_and_stay_there() {
        let seconds: Vec<_> = (1..=12).map(|n| delay(n, 0.5).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        assert_eq!(delay(u32::MAX, 0.5).as_secs(), 300);
        assert_eq!(delay(0, 0.5).as_secs(), 1);
    }

    #[test]
    fn jitter_spreads_a_delay_by_a_fifth_and_no_more() {
        assert_eq!(delay(3, 0.0), Duration::from_millis(3_200));
        assert_eq!(delay(3, 1.0), Duration::from_millis(4_800));
        assert_eq!(delay(3, 7.0), Duration::from_millis(4_800));
    }
}
