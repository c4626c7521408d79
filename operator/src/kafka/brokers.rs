//! OffsetSpec broker to ask: the cluster's brokers, and who of them coordinates a group. Without Kafka.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

/// The brokers that are known, by id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Brokers(BTreeSet<i32>);

impl Brokers {
    /// Adds those that are new.
    pub fn add(&mut self, ids: impl IntoIterator<Item = i32>) {
        self.0.extend(ids.into_iter().filter(|id| *id >= 0));
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The next one after this, all around; `None` where none is known.
    pub fn after(&self, broker: i32) -> Option<i32> {
        self.0.range(broker.saturating_add(1)..).next().or(self.0.first()).copied()
    }
}

/// A search for the broker that does something, by asking one after the other: who does not, says so at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Search {
    asked: Option<i32>,
    refusals: usize,
}

impl Search {
    /// Whom to ask: who it was the last time, else anyone.
    pub fn broker(&mut self, brokers: &Brokers) -> Option<i32> {
        if self.asked.is_none() {
            self.asked = brokers.after(-1);
        }
        self.asked
    }

    /// It is that one.
    pub fn found(&mut self, broker: i32) {
        *self = Self { asked: Some(broker), refusals: 0 };
    }

    /// It is not that one, or it does not answer. Whether there is another one to ask before all have refused.
    pub fn refused(&mut self, broker: i32, brokers: &Brokers) -> bool {
        if self.asked == Some(broker) {
            self.asked = brokers.after(broker);
            self.refusals += 1;
        }
        self.refusals < brokers.count()
    }

    /// Begins to count again.
    pub fn again(&mut self) {
        self.refusals = 0;
    }

    /// Whether it goes on.
    pub fn is_open(&self) -> bool {
        self.refusals > 0 || self.asked.is_none()
    }
}

/// When to ask who the brokers are: when none of those that are known does what is asked for, and less often while that
/// goes on.
#[derive(Clone, Debug)]
pub struct BrokerSearchPace {
    is_wanted: bool,
    last: Option<Instant>,
    wait: Duration,
}

impl Default for BrokerSearchPace {
    fn default() -> Self {
        Self { is_wanted: false, last: None, wait: SOONEST }
    }
}

const SOONEST: Duration = Duration::from_secs(5);
const LATEST: Duration = Duration::from_secs(60);

impl BrokerSearchPace {
    /// All that are known were asked for something, and none does it.
    pub fn want(&mut self) {
        self.is_wanted = true;
    }

    /// Whether to ask now.
    pub fn is_due(&self, now: Instant) -> bool {
        self.is_wanted && self.last.is_none_or(|last| now.duration_since(last) >= self.wait)
    }

    /// It was asked.
    pub fn searched(&mut self, now: Instant) {
        if self.last.is_some() {
            self.wait = (self.wait * 2).min(LATEST);
        }
        (self.is_wanted, self.last) = (false, Some(now));
    }

    /// One of them does it.
    pub fn found(&mut self) {
        self.wait = SOONEST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_broker_is_asked_once_around() {
        let mut brokers = Brokers::default();
        let mut search = Search::default();
        assert_eq!(search.broker(&brokers), None);
        brokers.add([5, 1, -1, 3]);
        assert_eq!((brokers.count(), search.broker(&brokers)), (3, Some(1)));
        assert!(search.refused(1, &brokers) && search.is_open());
        assert_eq!(search.broker(&brokers), Some(3));
        assert!(
            search.refused(1, &brokers),
            "an old answer says nothing of the one who is asked now"
        );
        assert_eq!(search.broker(&brokers), Some(3));
        search.found(3);
        assert!(!search.is_open());
        assert_eq!(search.broker(&brokers), Some(3));

        let others: Vec<_> = (0..3)
            .map(|_| search.broker(&brokers).map(|b| (b, search.refused(b, &brokers))))
            .collect();
        assert_eq!(others, [Some((3, true)), Some((5, true)), Some((1, false))]);
    }

    #[test]
    fn a_search_that_finds_nothing_is_repeated_less_and_less_often() {
        let (mut pace, begin) = (BrokerSearchPace::default(), Instant::now());
        assert!(!pace.is_due(begin), "nobody wants it");
        let mut searches = Vec::new();
        for second in 0..300 {
            pace.want();
            let now = begin + Duration::from_secs(second);
            if pace.is_due(now) {
                pace.searched(now);
                searches.push(second);
            }
        }
        assert_eq!(searches, [0, 5, 15, 35, 75, 135, 195, 255]);
        pace.found();
        pace.want();
        assert!(pace.is_due(begin + Duration::from_secs(260)), "soon again, once one was found");
    }
}
