//! Conditions change when they have held, not with each reading: one lost answer of a broker would be a status write and
//! two events for every consumer of its cluster. Pure but for what is kept of a pass for the next.

use std::{collections::BTreeMap, time::Duration};

use sluice_crds::conditions::reason;
use tokio::time::Instant;

use super::conditions::Verdict;

/// A change is reported when it has held for this long: about three readings.
pub const HOLD: Duration = Duration::from_secs(3);

/// What a person chose takes effect at once, and so does its end.
const CHOSEN: [&str; 8] = [
    reason::PAUSED,
    reason::SUSPENDED,
    reason::MANUAL,
    reason::DRY_RUN,
    reason::INVALID_SPEC,
    reason::OTHER_CONSUMER,
    reason::FOREIGN_MEMBERS,
    reason::WITHIN_BOUNDS,
];

/// Changes that have not held for long enough.
#[derive(Debug, Default)]
pub struct Damper(BTreeMap<&'static str, (Change, Instant)>);

/// What changes: the status, or under the same status the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    Status(Option<bool>),
    Reason(String),
}

impl Damper {
    /// What to report of a condition that was reported as `before` and is `new` now.
    pub fn damp(
        &mut self,
        type_: &'static str,
        before: Option<Verdict>,
        new: Verdict,
        now: Instant,
    ) -> Verdict {
        let change = match &before {
            Some(before) if before.status == new.status && before.reason == new.reason => {
                self.0.remove(type_);
                return new;
            }
            Some(before) if before.status == new.status => Change::Reason(new.reason.clone()),
            _ => Change::Status(new.status),
        };
        let was_unknown = before.as_ref().is_none_or(|before| before.status.is_none());
        let was_chosen = before.as_ref().is_some_and(|b| CHOSEN.contains(&b.reason.as_str()));
        // From unknown to good, or to unknown, nobody is alarmed.
        let is_calm = was_unknown && new.status != Some(false);
        if is_calm || was_chosen || CHOSEN.contains(&new.reason.as_str()) {
            self.0.remove(type_);
            return new;
        }
        let since = match self.0.get(type_) {
            Some((pending, since)) if *pending == change => *since,
            _ => {
                self.0.insert(type_, (change, now));
                now
            }
        };
        if now.duration_since(since) >= HOLD {
            self.0.remove(type_);
            return new;
        }
        before.unwrap_or_else(|| Verdict::pending("the first readings are on their way"))
    }

    /// When the next change will have held for long enough.
    pub fn due(&self) -> Option<Instant> {
        self.0.values().map(|(_, since)| *since + HOLD).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(begin: Instant, millis: u64) -> Instant {
        begin + Duration::from_millis(millis)
    }

    #[tokio::test(start_paused = true)]
    async fn one_bad_reading_changes_no_condition_and_three_seconds_of_them_do() {
        let (mut damper, begin) = (Damper::default(), Instant::now());
        let good = Verdict::yes(reason::REACHABLE, "all");
        let bad = Verdict::no(reason::UNREACHABLE, "no broker answers");
        let mut see = |new: &Verdict, before: &Verdict, millis| {
            damper.damp("K", Some(before.clone()), new.clone(), at(begin, millis))
        };
        for second in [0, 2, 4, 6] {
            assert_eq!(see(&bad, &good, second * 1_000), good);
            assert_eq!(see(&good, &good, second * 1_000 + 1_000), good);
        }
        for millis in [10_000, 11_000, 12_900] {
            assert_eq!(see(&bad, &good, millis), good);
        }
        assert_eq!(see(&bad, &good, 13_000), bad);
        assert_eq!(see(&good, &bad, 14_000), bad);
        assert_eq!(see(&good, &bad, 17_000), good);
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_consumer_does_not_begin_with_an_alarm() {
        let (mut damper, begin) = (Damper::default(), Instant::now());
        let bad = Verdict::no(reason::BROKER_ERROR, "not coordinator");
        let first = damper.damp("K", None, bad, begin);
        assert_eq!(first.status, None);
        assert_eq!(damper.due(), Some(at(begin, 3_000)));
        let good = Verdict::yes(reason::REACHABLE, "all");
        assert_eq!(damper.damp("K", Some(first), good.clone(), at(begin, 1_000)), good);
        assert_eq!(damper.due(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_person_chose_is_reported_at_once() {
        let (mut damper, now) = (Damper::default(), Instant::now());
        let before = Verdict::yes(reason::FOLLOWING_LAG, "it does");
        let paused = Verdict::no(reason::PAUSED, "paused by annotation");
        assert_eq!(damper.damp("S", Some(before.clone()), paused.clone(), now), paused);
        assert_eq!(damper.damp("S", Some(paused), before.clone(), now), before);
    }
}
