//! Who else writes what Sluice writes, and when Sluice gives way. Two controllers that both insist would write against
//! each other for ever: pods would start and stop, or roll, without an end.

use std::{collections::VecDeque, time::Duration};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use tokio::time::Instant;

/// So many take-backs …
const TAKE_BACKS: usize = 3;
/// … within this time, and the field is left to the other writer …
const WITHIN: Duration = Duration::from_secs(120);
/// … until that one has been silent for this long.
const SILENT: Duration = Duration::from_secs(300);

/// A writer of which no field is left in the API server's book, such as one that removed a label; or
/// one that has our own name.
const UNKNOWN: &str = "another writer (its name is not recorded)";

/// Who wrote a field last, and what tells one write of that one from the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rival {
    /// Its field manager.
    pub manager: String,
    /// What it wrote: the time by the API server's book, and the value where there is one.
    pub mark: String,
}

impl Rival {
    /// The newest writer by the API server's book that is not `ours`. `owns` picks the entries that matter.
    pub fn of(
        fields: &[ManagedFieldsEntry],
        ours: &[&str],
        owns: impl Fn(&ManagedFieldsEntry) -> bool,
        mark: &str,
    ) -> Self {
        let time = |entry: &&ManagedFieldsEntry| entry.time.as_ref().map(|t| t.0);
        // An autoscaler, and `kubectl scale`, write through the subresource `scale`.
        let others =
            fields.iter().filter(|e| owns(e) && e.subresource.as_deref() != Some("status"));
        let newest = others
            .filter(|e| e.manager.as_deref().is_some_and(|manager| !ours.contains(&manager)))
            .max_by_key(time);
        let at = newest.as_ref().and_then(time).unwrap_or(Timestamp::UNIX_EPOCH);
        let manager = newest.and_then(|entry| entry.manager.clone());
        Self {
            manager: manager.unwrap_or_else(|| UNKNOWN.to_owned()),
            mark: format!("{at} {mark}"),
        }
    }
}

/// The dispute about one field.
#[derive(Debug, Default)]
pub struct Contest {
    taken_back: VecDeque<Instant>,
    rival: Option<Rival>,
    /// When the rival last wrote.
    active: Option<Instant>,
    yielded: bool,
}

impl Contest {
    /// The rival has changed the field. `true`: it may be taken back; `false`: it is left to the rival for now.
    pub fn may_take_back(&mut self, rival: Rival, now: Instant) -> bool {
        if self.rival.as_ref() != Some(&rival) {
            (self.rival, self.active) = (Some(rival), Some(now));
        }
        let silent = self.active.is_none_or(|active| now.duration_since(active) >= SILENT);
        if self.yielded && silent {
            self.yielded = false;
            self.taken_back.clear();
        }
        self.forget(now);
        if self.taken_back.len() >= TAKE_BACKS {
            self.yielded = true;
        }
        !self.yielded
    }

    /// The field was taken back.
    pub fn took_back(&mut self, now: Instant) {
        self.taken_back.push_back(now);
    }

    /// The field is as Sluice wants it.
    pub fn agrees(&mut self, now: Instant) {
        if !self.taken_back.is_empty() || self.yielded {
            self.yielded = false;
            self.forget(now);
        }
    }

    /// The rival, and whether the field is left to it, as long as the dispute is of the last two minutes.
    pub fn dispute(&self, now: Instant) -> Option<(&Rival, bool)> {
        let recent = self.taken_back.iter().any(|at| now.duration_since(*at) < WITHIN);
        self.rival.as_ref().filter(|_| self.yielded || recent).map(|rival| (rival, self.yielded))
    }

    fn forget(&mut self, now: Instant) {
        while self.taken_back.front().is_some_and(|at| now.duration_since(*at) >= WITHIN) {
            self.taken_back.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rival(mark: &str) -> Rival {
        Rival { manager: "kube-controller-manager".to_owned(), mark: mark.to_owned() }
    }

    #[tokio::test(start_paused = true)]
    async fn after_three_take_backs_the_field_is_left_until_the_other_is_silent() {
        let (mut contest, begin) = (Contest::default(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        for n in 0..3 {
            assert!(contest.may_take_back(rival(&n.to_string()), at(n * 15)), "{n}");
            contest.took_back(at(n * 15));
        }
        assert!(!contest.may_take_back(rival("3"), at(45)));
        assert_eq!(contest.dispute(at(45)), Some((&rival("3"), true)));
        // It goes on writing: the silence begins with its last write.
        assert!(!contest.may_take_back(rival("4"), at(300)));
        assert!(!contest.may_take_back(rival("4"), at(599)));
        assert!(contest.may_take_back(rival("4"), at(600)));
        assert_eq!(contest.dispute(at(600)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn now_and_then_a_field_is_taken_back_without_end() {
        let (mut contest, begin) = (Contest::default(), Instant::now());
        for n in 0..20 {
            let now = begin + Duration::from_secs(n * 50);
            assert!(contest.may_take_back(rival(&n.to_string()), now), "{n}");
            contest.took_back(now);
            contest.agrees(now);
        }
        assert_eq!(contest.dispute(begin + Duration::from_secs(5_000)), None);
    }
}
