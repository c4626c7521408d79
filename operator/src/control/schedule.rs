//! Which consumer's pass is next. Pure: what is asked, what runs, and the time go in; the next consumer comes out.
//!
//! A burst of requests is one pass, at the time of the first of them. A consumer has one pass at a time. The slots are
//! shared by namespace, in turns, and a namespace takes a further slot only while more are free than it holds (the
//! "dynamic thresholds" of Choudhury and Hahne, with α = 1): alone it has half of them, two have a third each, and a
//! namespace whose passes all hang leaves slots to the others ([ADR 14](../../../docs/adr/0014-fair-passes.md)).

use std::collections::{BTreeMap, HashMap, VecDeque};

use kube::runtime::reflector::ObjectRef;
use tokio::time::Instant;

use crate::cluster::watch::Guarded;

/// A consumer.
pub type Key = ObjectRef<Guarded>;

/// The consumers that have a pass before them.
#[derive(Debug)]
pub struct Schedule {
    /// Passes at once.
    slots: usize,
    states: HashMap<Key, State>,
    /// Consumers that wait for a time, with a number of their own: an [`ObjectRef`] has no order.
    due: BTreeMap<(Instant, u64), Key>,
    /// Consumers whose time has come, by namespace.
    ready: HashMap<String, VecDeque<Key>>,
    /// Namespaces with ready consumers; the first is next.
    turns: VecDeque<String>,
    /// How many passes of a namespace run.
    held: HashMap<String, usize>,
    /// Passes that run.
    running: usize,
    number: u64,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// For its time: the key in `due`.
    Waits((Instant, u64)),
    /// For a slot.
    Ready,
    /// Its pass runs; another was asked for meanwhile.
    Runs { again: Option<Instant> },
}

impl Schedule {
    /// With so many slots.
    pub fn new(slots: usize) -> Self {
        Self {
            slots: slots.max(1),
            states: HashMap::new(),
            due: BTreeMap::new(),
            ready: HashMap::new(),
            turns: VecDeque::new(),
            held: HashMap::new(),
            running: 0,
            number: 0,
        }
    }

    /// Asks for a pass at a time. Of several requests the earliest counts.
    pub fn request(&mut self, key: Key, at: Instant) {
        match self.states.get_mut(&key) {
            Some(State::Ready) => return,
            Some(State::Runs { again }) => {
                *again = Some(again.map_or(at, |earlier| earlier.min(at)));
                return;
            }
            Some(State::Waits(place)) if place.0 <= at => return,
            Some(State::Waits(place)) => {
                let place = *place;
                self.due.remove(&place);
            }
            None => {}
        }
        self.number += 1;
        let place = (at, self.number);
        self.due.insert(place, key.clone());
        self.states.insert(key, State::Waits(place));
    }

    /// The next consumer whose pass may begin now; it runs until [`Schedule::ended`].
    pub fn start(&mut self, now: Instant) -> Option<Key> {
        while let Some(entry) = self.due.first_entry().filter(|entry| entry.key().0 <= now) {
            let key = entry.remove();
            let namespace = namespace(&key);
            let queue = self.ready.entry(namespace.clone()).or_default();
            if queue.is_empty() {
                self.turns.push_back(namespace);
            }
            queue.push_back(key.clone());
            self.states.insert(key, State::Ready);
        }
        let turn = self.turns.iter().position(|namespace| self.may_take(namespace))?;
        let namespace = self.turns.remove(turn)?;
        let queue = self.ready.get_mut(&namespace)?;
        let key = queue.pop_front()?;
        if queue.is_empty() {
            self.ready.remove(&namespace);
        } else {
            self.turns.push_back(namespace.clone());
        }
        *self.held.entry(namespace).or_default() += 1;
        self.running += 1;
        self.states.insert(key.clone(), State::Runs { again: None });
        Some(key)
    }

    /// A pass ended; the next one of this consumer is due at `again`, or sooner where it was asked for meanwhile.
    pub fn ended(&mut self, key: Key, again: Option<Instant>) {
        let Some(State::Runs { again: asked }) = self.states.remove(&key) else { return };
        self.running -= 1;
        let namespace = namespace(&key);
        if let Some(held) = self.held.get_mut(&namespace) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&namespace);
            }
        }
        if let Some(at) = [again, asked].into_iter().flatten().min() {
            self.request(key, at);
        }
    }

    /// When the next consumer's time comes.
    pub fn next_due(&self) -> Option<Instant> {
        self.due.first_key_value().map(|((at, _), _)| *at)
    }

    /// Whether a namespace may have another slot.
    fn may_take(&self, namespace: &str) -> bool {
        let free = self.slots - self.running;
        free > self.held.get(namespace).copied().unwrap_or(0)
    }
}

fn namespace(key: &Key) -> String {
    key.namespace.clone().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn key(namespace: &str, name: &str) -> Key {
        ObjectRef::new(name).within(namespace)
    }

    fn after(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    fn all(schedule: &mut Schedule, now: Instant) -> Vec<Key> {
        std::iter::from_fn(|| schedule.start(now)).collect()
    }

    #[test]
    fn of_a_burst_the_first_request_sets_the_time() {
        let (mut schedule, start) = (Schedule::new(4), Instant::now());
        for millis in (0..100).step_by(5) {
            schedule.request(key("a", "x"), after(start, millis + 20));
        }
        assert_eq!(schedule.next_due(), Some(after(start, 20)));
        assert_eq!(schedule.start(after(start, 19)), None);
        assert_eq!(all(&mut schedule, after(start, 20)), [key("a", "x")]);
    }

    #[test]
    fn a_consumer_has_one_pass_at_a_time_and_what_is_asked_meanwhile_is_one_more() {
        let (mut schedule, start) = (Schedule::new(4), Instant::now());
        schedule.request(key("a", "x"), start);
        assert_eq!(all(&mut schedule, start), [key("a", "x")]);
        for millis in [30, 20, 40] {
            schedule.request(key("a", "x"), after(start, millis));
        }
        assert!(all(&mut schedule, after(start, 50)).is_empty(), "its pass runs");
        schedule.ended(key("a", "x"), Some(after(start, 5_000)));
        assert_eq!(schedule.next_due(), Some(after(start, 20)));
        assert_eq!(all(&mut schedule, after(start, 50)), [key("a", "x")]);
        schedule.ended(key("a", "x"), None);
        assert_eq!(schedule.next_due(), None);
    }

    #[test]
    fn a_retry_gives_way_to_an_earlier_request_and_comes_back_to_no_later_one() {
        let (mut schedule, start) = (Schedule::new(4), Instant::now());
        schedule.request(key("a", "x"), after(start, 5_000));
        schedule.request(key("a", "x"), after(start, 20));
        schedule.request(key("a", "x"), after(start, 9_000));
        assert_eq!(all(&mut schedule, after(start, 20)), [key("a", "x")]);
        assert_eq!(schedule.next_due(), None);
    }

    #[test]
    fn a_namespace_whose_passes_never_end_leaves_slots_to_the_others() {
        let (mut schedule, start) = (Schedule::new(16), Instant::now());
        for number in 0..200 {
            schedule.request(key("slow", &number.to_string()), start);
        }
        assert_eq!(all(&mut schedule, start).len(), 8, "alone it has half of them");
        for number in 0..200 {
            schedule.request(key("slower", &number.to_string()), start);
        }
        assert_eq!(all(&mut schedule, start).len(), 4);
        // However many come, each of the first has a slot at once.
        for namespace in ["a", "b", "c"] {
            schedule.request(key(namespace, "x"), start);
            assert_eq!(all(&mut schedule, start), [key(namespace, "x")]);
        }
    }

    #[test]
    fn namespaces_take_turns() {
        let (mut schedule, start) = (Schedule::new(1), Instant::now());
        for name in ["1", "2", "3"] {
            schedule.request(key("many", name), start);
        }
        schedule.request(key("few", "1"), start);
        let mut order = Vec::new();
        while let Some(key) = schedule.start(start) {
            order.push(key.namespace.clone().unwrap());
            schedule.ended(key, None);
        }
        assert_eq!(order, ["many", "few", "many", "many"]);
    }
}
