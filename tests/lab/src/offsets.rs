//! Sets of offsets, kept as ranges: what was acknowledged, and what was handled. No I/O.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A set of offsets of one partition. Its size in memory follows the number of gaps, not of offsets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<(i64, i64)>", into = "Vec<(i64, i64)>")]
pub struct OffsetSet {
    /// First offset of a range → its last, inclusive. Ranges neither touch nor overlap.
    ranges: BTreeMap<i64, i64>,
    len: u64,
}

impl OffsetSet {
    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one offset; false when it was there.
    pub fn insert(&mut self, offset: i64) -> bool {
        self.insert_range(offset, offset) == 1
    }

    /// Adds all offsets from `first` to `last`, both included. The answer is how many of them are new.
    pub fn insert_range(&mut self, first: i64, last: i64) -> u64 {
        if last < first {
            return 0;
        }
        let (mut from, mut to, mut known) = (first, last, 0);
        // Every range that overlaps or touches the new one melts into it.
        while let Some((&start, &end)) = self.ranges.range(..=to.saturating_add(1)).next_back() {
            if end < from - 1 {
                break;
            }
            self.ranges.remove(&start);
            known += (end.min(last) - start.max(first) + 1).max(0) as u64;
            (from, to) = (from.min(start), to.max(end));
        }
        self.ranges.insert(from, to);
        let added = (last - first + 1) as u64 - known;
        self.len += added;
        added
    }

    /// Whether an offset is in the set.
    pub fn contains(&self, offset: i64) -> bool {
        self.ranges.range(..=offset).next_back().is_some_and(|(_, &end)| end >= offset)
    }

    /// Whether all of `other` is in this set.
    pub fn covers(&self, other: &Self) -> bool {
        other.ranges.iter().all(|(&first, &last)| {
            self.ranges.range(..=first).next_back().is_some_and(|(_, &end)| end >= last)
        })
    }

    /// How many offsets are in the set.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The smallest offset.
    pub fn first(&self) -> Option<i64> {
        self.ranges.first_key_value().map(|(&first, _)| first)
    }

    /// The largest offset.
    pub fn last(&self) -> Option<i64> {
        self.ranges.last_key_value().map(|(_, &last)| last)
    }

    /// The ranges, first and last offset included, in ascending order.
    pub fn ranges(&self) -> impl Iterator<Item = (i64, i64)> + '_ {
        self.ranges.iter().map(|(&first, &last)| (first, last))
    }
}

impl From<Vec<(i64, i64)>> for OffsetSet {
    fn from(ranges: Vec<(i64, i64)>) -> Self {
        let mut set = Self::new();
        for (first, last) in ranges {
            set.insert_range(first, last);
        }
        set
    }
}

impl From<OffsetSet> for Vec<(i64, i64)> {
    fn from(set: OffsetSet) -> Self {
        set.ranges().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_set_of_ranges_counts_as_a_plain_set_does() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..200 {
            let (mut ranges, mut plain) = (OffsetSet::new(), BTreeSet::new());
            for _ in 0..30 {
                let first = random.i64(0..60);
                let last = first + random.i64(0..8);
                let fresh = (first..=last).filter(|offset| plain.insert(*offset)).count();
                assert_eq!(ranges.insert_range(first, last), fresh as u64);
            }
            assert_eq!(ranges.len(), plain.len() as u64);
            assert_eq!(
                (ranges.first(), ranges.last()),
                (plain.first().copied(), plain.last().copied())
            );
            assert!((0..80).all(|offset| ranges.contains(offset) == plain.contains(&offset)));
            let listed: Vec<_> = ranges.ranges().collect();
            assert!(
                listed.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0),
                "ranges touch: {listed:?}"
            );
        }
    }

    #[test]
    fn covering_means_every_offset_of_the_other() {
        let handled = OffsetSet::from(vec![(0, 9), (11, 20)]);
        assert!(handled.covers(&OffsetSet::from(vec![(2, 9), (11, 12)])));
        assert!(!handled.covers(&OffsetSet::from(vec![(9, 11)])));
        assert!(handled.covers(&OffsetSet::new()));
        assert!(!OffsetSet::new().covers(&handled));
    }
}
