//! Jump or noise? A jump is an interval far above (or below) the mean, confirmed by the next; all else is noise.

use crate::snapshot::Millis;

/// Far: by this factor, and by more than chance would.
const FACTOR: f64 = 1.4;
/// A jump that waits for the next reading holds other scale-ups no longer than this.
const PATIENCE: Millis = 4_000;

/// What is known of jumps.
#[derive(Clone, Copy, Debug, Default)]
pub struct Jump {
    /// An interval was far off, and the next is awaited.
    suspected: Option<Suspicion>,
    /// When the last confirmed jump began: means reach back no further.
    restart: Millis,
    /// Until when the newest interval alone stands for the arrivals.
    fresh_until: Millis,
}

#[derive(Clone, Copy, Debug)]
struct Suspicion {
    at: Millis,
    up: bool,
    mean: f64,
}

impl Jump {
    /// Takes the newest interval's rate and the mean before it.
    pub(crate) fn observe(&mut self, at: Millis, newest: Option<f64>, mean: Option<f64>) {
        let Some(newest) = newest else { return };
        if let Some(suspicion) = self.suspected {
            if far(newest, suspicion.mean) == Some(suspicion.up) {
                // The interval in which it was suspected was partly old: the mean starts with the one that confirms it.
                self.restart = at - 1_200;
                self.fresh_until = at + 4_000;
                self.suspected = None;
                return;
            }
            self.suspected = None;
        }
        if let Some(mean) = mean
            && let Some(up) = far(newest, mean)
        {
            self.suspected = Some(Suspicion { at, up, mean });
        }
    }

    /// Whether a jump up waits to be confirmed.
    pub fn is_suspected(&self, now: Millis) -> bool {
        self.suspected.is_some_and(|s| s.up && now - s.at < PATIENCE)
    }

    /// Whether a jump was just confirmed: the newest interval then stands for the arrivals.
    pub fn is_fresh(&self, now: Millis) -> bool {
        now < self.fresh_until
    }

    /// Means reach back no further than this.
    pub fn restart(&self) -> Millis {
        self.restart
    }
}

/// Whether a rate is far above (`true`) or below (`false`) the mean. Small numbers scatter by their square root.
fn far(rate: f64, mean: f64) -> Option<bool> {
    let chance = 4.0 * mean.max(1.0).sqrt() + 5.0;
    if rate > mean * FACTOR && rate - mean > chance {
        Some(true)
    } else if rate < mean / FACTOR && mean - rate > chance {
        Some(false)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(readings: &[(f64, f64)]) -> Jump {
        let mut jump = Jump::default();
        for (n, &(newest, mean)) in readings.iter().enumerate() {
            jump.observe(n as Millis * 1_000 + 100_000, Some(newest), Some(mean));
        }
        jump
    }

    #[test]
    fn a_jump_is_believed_at_its_second_interval() {
        assert!(after(&[(300.0, 300.0), (3_600.0, 300.0)]).is_suspected(101_000));
        let confirmed = after(&[(300.0, 300.0), (3_600.0, 300.0), (3_600.0, 600.0)]);
        assert!(
            !confirmed.is_suspected(102_000)
                && confirmed.is_fresh(102_000)
                && confirmed.restart() > 100_000
        );
    }

    #[test]
    fn a_single_interval_is_noise() {
        let passed = after(&[(300.0, 300.0), (900.0, 300.0), (310.0, 350.0)]);
        assert!(!passed.is_suspected(102_000) && !passed.is_fresh(102_000));
    }

    #[test]
    fn noise_of_a_fifth_is_no_jump() {
        for newest in [240.0, 280.0, 330.0, 360.0] {
            assert!(!after(&[(newest, 300.0)]).is_suspected(100_000), "{newest}");
        }
    }
}
