//! Which records of one partition are done, and up to where that may be committed.
//!
//! Only delivered records count: gaps in the offsets (compaction, transaction markers) are normal. Pure: no clock, no client.

use std::collections::VecDeque;

/// Names a delivered record within one assignment of its partition: the first is 0, the next 1, whatever their offsets.
pub(crate) type Slot = u64;

#[derive(Debug)]
struct Entry {
    offset: i64,
    timestamp: Option<i64>,
    done: bool,
}

/// The delivered records from the first that is not done.
#[derive(Debug, Default)]
pub(crate) struct Tracker {
    /// The slot of `entries[0]`.
    first: Slot,
    /// Never begins with an entry that is done.
    entries: VecDeque<Entry>,
    /// The offset after the last delivered record; before one was delivered, where the partition starts, if that is known.
    next: Option<i64>,
    open: usize,
}

impl Tracker {
    /// A tracker for a partition that starts at this offset.
    pub(crate) fn starting_at(next: Option<i64>) -> Self {
        Self { next, ..Self::default() }
    }

    /// Takes a delivered record. `None` when it, or one after it, was delivered before: then it is already accounted for.
    pub(crate) fn deliver(&mut self, offset: i64, timestamp: Option<i64>) -> Option<Slot> {
        if self.next.is_some_and(|next| offset < next) {
            return None;
        }
        self.next = Some(offset + 1);
        self.entries.push_back(Entry { offset, timestamp, done: false });
        self.open += 1;
        Some(self.first + self.entries.len() as Slot - 1)
    }

    /// A record is done. Telling it twice changes nothing.
    pub(crate) fn done(&mut self, slot: Slot) {
        let Some(entry) =
            slot.checked_sub(self.first).and_then(|i| self.entries.get_mut(i as usize))
        else {
            return;
        };
        if entry.done {
            return;
        }
        entry.done = true;
        self.open -= 1;
        while self.entries.front().is_some_and(|entry| entry.done) {
            self.entries.pop_front();
            self.first += 1;
        }
    }

    /// What may be committed: the offset of the first record that is not done, or the one after all that was delivered.
    pub(crate) fn committable(&self) -> Option<i64> {
        self.entries.front().map(|entry| entry.offset).or(self.next)
    }

    /// Nothing is open, and the client has gone past offsets that are never delivered (transaction markers, aborted
    /// records): follow it, or the lag never gets to 0.
    pub(crate) fn follow(&mut self, position: i64) {
        if self.entries.is_empty() && self.next.is_none_or(|next| position > next) {
            self.next = Some(position);
        }
    }

    /// The offset that is to be delivered next.
    pub(crate) fn next(&self) -> Option<i64> {
        self.next
    }

    /// Records between `next` and this offset are gone for good: go on there.
    pub(crate) fn jump(&mut self, offset: i64) {
        self.next = Some(self.next.map_or(offset, |next| next.max(offset)));
    }

    /// Records that are not done.
    pub(crate) fn open(&self) -> usize {
        self.open
    }

    /// Records that cannot be committed yet: open, or done behind an open one.
    pub(crate) fn held(&self) -> usize {
        self.entries.len()
    }

    /// Records that are done beyond what may be committed.
    pub(crate) fn done_beyond(&self) -> usize {
        self.entries.len() - self.open
    }

    /// The time stamp of the first record that is not done.
    pub(crate) fn oldest_open(&self) -> Option<i64> {
        self.entries.front().and_then(|entry| entry.timestamp)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_commit_stays_below_the_first_record_that_is_not_done() {
        let mut tracker = Tracker::starting_at(Some(5));
        assert_eq!(tracker.committable(), Some(5));
        let slots: Vec<_> =
            [5, 6, 9, 10].map(|offset| tracker.deliver(offset, Some(offset)).unwrap()).into();
        tracker.done(slots[1]);
        tracker.done(slots[3]);
        assert_eq!((tracker.committable(), tracker.done_beyond(), tracker.open()), (Some(5), 2, 2));
        tracker.done(slots[0]);
        assert_eq!(
            (tracker.committable(), tracker.oldest_open()),
            (Some(9), Some(9)),
            "a gap is no record"
        );
        tracker.done(slots[2]);
        tracker.done(slots[2]);
        assert_eq!(
            (tracker.committable(), tracker.done_beyond(), tracker.open()),
            (Some(11), 0, 0)
        );
    }

    #[test]
    fn the_commit_follows_the_position_past_markers_only_when_nothing_is_open() {
        let mut tracker = Tracker::starting_at(None);
        let slot = tracker.deliver(3, None).unwrap();
        tracker.follow(9);
        assert_eq!(tracker.committable(), Some(3));
        tracker.done(slot);
        assert_eq!(tracker.committable(), Some(4));
        tracker.follow(9);
        assert_eq!(tracker.committable(), Some(9));
        tracker.follow(2);
        assert_eq!(tracker.committable(), Some(9), "never backwards");
    }

    #[test]
    fn a_record_that_is_delivered_again_is_not_handled_again() {
        let mut tracker = Tracker::starting_at(Some(0));
        assert!(tracker.deliver(0, None).is_some());
        assert!(tracker.deliver(0, None).is_none());
        assert!(tracker.deliver(1, None).is_some());
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_list_of_all_records(gaps in prop::collection::vec(1_i64..4, 1..80), order in any::<u64>(), some in 0_usize..80) {
            let mut tracker = Tracker::starting_at(Some(0));
            let mut offset = 0;
            let mut all = Vec::new();
            for gap in gaps {
                all.push((offset, tracker.deliver(offset, None).unwrap(), false));
                offset += gap;
            }
            let end = all.last().unwrap().0 + 1;
            let mut random = fastrand::Rng::with_seed(order);
            let mut which: Vec<usize> = (0..all.len()).collect();
            random.shuffle(&mut which);
            for i in which.into_iter().take(some) {
                all[i].2 = true;
                tracker.done(all[i].1);
                let first = all.iter().find(|(_, _, done)| !done).map(|(offset, ..)| *offset);
                prop_assert_eq!(tracker.committable(), Some(first.unwrap_or(end)));
                let beyond = all.iter().filter(|(offset, _, done)| *done && first.is_some_and(|first| *offset > first)).count();
                prop_assert_eq!(tracker.done_beyond(), beyond);
                prop_assert_eq!(tracker.open(), all.iter().filter(|(_, _, done)| !done).count());
            }
        }
    }
}
