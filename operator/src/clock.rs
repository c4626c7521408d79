//! The operator's clock for all that is compared: the age of a reading, the time since a write. It
//! begins with the system's time when the process starts and never steps, so that a clock that is
//! set back makes no old reading look new. Times that people read (conditions, events) are the
//! system's, [`jiff::Timestamp::now`].
//!
//! The price: when the system's clock steps, the time stamps of records, which others wrote, are
//! compared with a clock that is off by the step until the operator restarts.

use std::sync::LazyLock;

use jiff::Timestamp;
use sluice_planner::snapshot::Millis;
use tokio::time::Instant;

/// The same moment by both clocks.
static BEGIN: LazyLock<(Millis, std::time::Instant)> =
    LazyLock::new(|| (Timestamp::now().as_millisecond(), std::time::Instant::now()));

/// Milliseconds since the Unix epoch at a moment.
pub fn millis(instant: Instant) -> Millis {
    let (begin, at) = *BEGIN;
    let instant = instant.into_std();
    let since = |later: std::time::Instant, earlier| later.saturating_duration_since(earlier);
    begin + since(instant, at).as_millis() as Millis - since(at, instant).as_millis() as Millis
}

/// Milliseconds since the Unix epoch, now.
pub fn now() -> Millis {
    millis(Instant::now())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn moments_are_as_far_apart_as_they_were_and_the_first_is_the_worlds() {
        let now = Instant::now();
        let world = Timestamp::now().as_millisecond();
        assert!((millis(now) - world).abs() < 1_000, "{} is not {world}", millis(now));
        let apart = |instant: Instant| millis(instant) - millis(now);
        assert!((apart(now + Duration::from_secs(60)) - 60_000).abs() <= 1);
        let Some(before) = now.checked_sub(Duration::from_secs(60)) else { return };
        assert!((apart(before) + 60_000).abs() <= 1);
    }
}
