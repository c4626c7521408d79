//! The records of one partition that wait in the pod, and which of them may go out together.
//!
//! A lane is an ordering domain: a key, or the whole partition. State is kept only for lanes that are in work, wait for
//! their next try, or have records behind one of these; all other records stand in one queue in the order of their
//! offsets. Pure: no client, no clock, no handler.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;
use sluice_crds::kafkaconsumer::Ordering;

use super::{backoff::Backoff, tracker::Slot};
use crate::{Outcome, Outcomes, Record};

/// A record and what the engine must know of it.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub(crate) record: Record,
    pub(crate) slot: Slot,
    /// Tries that failed.
    pub(crate) tries: u32,
    /// When it first came back from the handler without being done, milliseconds since the epoch; 0 before.
    pub(crate) since: i64,
}

impl Pending {
    pub(crate) fn new(record: Record, slot: Slot) -> Self {
        Self { record, slot, tries: 0, since: 0 }
    }
}

/// Names a lane. Records without key have no order among them: each is a lane of its own, which is only kept while it waits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum LaneId {
    Partition,
    Key(Bytes),
    Single(Slot),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In the batch with this number.
    InWork(u64),
    /// Its records may go.
    Ready,
    /// Its first record failed and waits until then.
    Waiting(Instant),
}

#[derive(Debug)]
struct Lane {
    state: State,
    queue: VecDeque<Pending>,
    /// Its number in the batch that it is in.
    number: u32,
    /// How large a batch it may be part of: halved when a whole batch fails, until the guilty record stands alone.
    limit: usize,
    /// Good batches of the pod when it failed last: more of them since then means that the other side works.
    good: u64,
    blocked: bool,
}

/// What is needed to judge failures.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Judge {
    pub(crate) backoff: Backoff,
    pub(crate) now: Instant,
    /// The same moment, milliseconds since the epoch.
    pub(crate) now_millis: i64,
    /// Batches of the pod so far in which something went well.
    pub(crate) good: u64,
}

/// What came of a batch.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) done: usize,
    pub(crate) done_bytes: usize,
    pub(crate) failed: usize,
    pub(crate) dead: usize,
    /// The first failure's reason, with its offset and the tries so far.
    pub(crate) reason: Option<(i64, u32, String)>,
    /// Lanes that became blocked with it.
    pub(crate) newly_blocked: usize,
}

/// A lane that stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Blocked {
    pub(crate) offset: i64,
    pub(crate) since: i64,
    pub(crate) tries: u32,
    pub(crate) lanes: u32,
}

/// The lanes of one partition.
#[derive(Debug)]
pub(crate) struct Lanes {
    ordering: Ordering,
    /// Records that no lane holds, in the order of their offsets.
    fresh: VecDeque<Pending>,
    by_id: HashMap<LaneId, Lane>,
    ready: VecDeque<LaneId>,
    timers: BTreeMap<(Instant, u64), LaneId>,
    timer: u64,
    /// Records in the queues of lanes that are ready, in work, waiting.
    ready_records: usize,
    behind_work: usize,
    behind_failure: usize,
    blocked: usize,
    /// The slot after the highest that was handed out.
    begun: Slot,
}

/// The end of one lane's part of a batch.
struct LaneEnd {
    id: Option<LaneId>,
    failed: Vec<Pending>,
    asked: Option<Duration>,
    dead: bool,
    tried: bool,
}

impl Lanes {
    pub(crate) fn new(ordering: Ordering) -> Self {
        Self {
            ordering,
            fresh: VecDeque::new(),
            by_id: HashMap::new(),
            ready: VecDeque::new(),
            timers: BTreeMap::new(),
            timer: 0,
            ready_records: 0,
            behind_work: 0,
            behind_failure: 0,
            blocked: 0,
            begun: 0,
        }
    }

    pub(crate) fn push(&mut self, pending: Pending) {
        self.fresh.push_back(pending);
    }

    /// Records that wait for a turn (and not for their lane).
    pub(crate) fn waiting(&self) -> usize {
        self.fresh.len() + self.ready_records
    }

    /// Whether records wait only because their lane is in work: more slots would not help them.
    pub(crate) fn held_by_order(&self) -> bool {
        self.behind_work > 0
            || (self.ordering == Ordering::Partition
                && !self.fresh.is_empty()
                && self
                    .by_id
                    .get(&LaneId::Partition)
                    .is_some_and(|lane| matches!(lane.state, State::InWork(_))))
    }

    /// When the next lane may be tried again.
    pub(crate) fn next_try(&self) -> Option<Instant> {
        self.timers.first_key_value().map(|((at, _), _)| *at)
    }

    /// Lanes that wait for their next try.
    pub(crate) fn waiting_lanes(&self) -> usize {
        self.timers.len()
    }

    /// Lanes whose first record was tried too often.
    pub(crate) fn blocked_lanes(&self) -> usize {
        self.blocked
    }

    /// The blocked lane with the lowest offset. Looks at all lanes: for reports, not for records.
    pub(crate) fn blocked(&self) -> Option<Blocked> {
        if self.blocked == 0 {
            return None;
        }
        let first =
            self.by_id.values().filter(|lane| lane.blocked).filter_map(|lane| lane.queue.front());
        first.min_by_key(|head| head.slot).map(|head| Blocked {
            offset: head.record.offset,
            since: head.since,
            tries: head.tries,
            lanes: self.blocked as u32,
        })
    }

    /// The next batch of up to `size` records. Empty when nothing may go now.
    pub(crate) fn take(&mut self, now: Instant, size: usize, batch: u64) -> Vec<Pending> {
        self.wake(now);
        let mut out: Vec<Pending> = Vec::new();
        let mut limit = size.max(1);
        let mut number = 0;
        while let Some(id) = self.ready.front() {
            let Some(lane) = self.by_id.get_mut(id) else {
                self.ready.pop_front();
                continue;
            };
            if lane.queue.is_empty() {
                if let Some(id) = self.ready.pop_front() {
                    self.by_id.remove(&id);
                }
                continue;
            }
            if out.len() >= limit.min(lane.limit) {
                break;
            }
            limit = limit.min(lane.limit);
            self.ready_records -= lane.queue.len();
            let take = lane.queue.len().min(limit - out.len());
            for mut pending in lane.queue.drain(..take) {
                pending.record.lane = number;
                out.push(pending);
            }
            self.behind_work += lane.queue.len();
            lane.state = State::InWork(batch);
            lane.number = number;
            number += 1;
            self.ready.pop_front();
        }
        while out.len() < limit {
            let Some(mut pending) = self.fresh.pop_front() else { break };
            let id = match (self.ordering, &pending.record.key) {
                (Ordering::Partition, _) => LaneId::Partition,
                (Ordering::Key, Some(key)) => LaneId::Key(key.clone()),
                (Ordering::Key, None) => {
                    pending.record.lane = number;
                    number += 1;
                    out.push(pending);
                    continue;
                }
            };
            match self.by_id.get_mut(&id) {
                None => {
                    pending.record.lane = number;
                    let lane = Lane {
                        state: State::InWork(batch),
                        queue: VecDeque::new(),
                        number,
                        limit: usize::MAX,
                        good: 0,
                        blocked: false,
                    };
                    self.by_id.insert(id, lane);
                    number += 1;
                    out.push(pending);
                }
                Some(lane) if lane.state == State::InWork(batch) && lane.queue.is_empty() => {
                    pending.record.lane = lane.number;
                    out.push(pending);
                }
                Some(_) if id == LaneId::Partition => {
                    self.fresh.push_front(pending);
                    break;
                }
                Some(lane) => {
                    lane.queue.push_back(pending);
                    match lane.state {
                        State::InWork(_) => self.behind_work += 1,
                        State::Ready => self.ready_records += 1,
                        State::Waiting(_) => self.behind_failure += 1,
                    }
                }
            }
        }
        for pending in &mut out {
            pending.record.attempt = pending.tries + 1;
            self.begun = self.begun.max(pending.slot + 1);
        }
        out
    }

    /// A batch that [`Lanes::take`] gave has ended. `done` is told of each record that is done.
    pub(crate) fn complete(
        &mut self,
        batch: Vec<Pending>,
        outcomes: Outcomes,
        judge: &Judge,
        mut done: impl FnMut(Slot),
    ) -> Verdict {
        let mut verdict = Verdict::default();
        let size = batch.len();
        let (whole, mut each) = match outcomes {
            Outcomes::All(outcome) => (Some(outcome), Vec::new().into_iter()),
            Outcomes::Each(outcomes) => (None, outcomes.into_iter()),
        };
        let mut ends: Vec<LaneEnd> = Vec::new();
        for mut pending in batch {
            let number = pending.record.lane as usize;
            if number >= ends.len() {
                let id = match (self.ordering, &pending.record.key) {
                    (Ordering::Partition, _) => Some(LaneId::Partition),
                    (Ordering::Key, Some(key)) => Some(LaneId::Key(key.clone())),
                    // A single one that failed before has a lane by now.
                    (Ordering::Key, None) => {
                        (pending.since != 0).then_some(LaneId::Single(pending.slot))
                    }
                };
                ends.push(LaneEnd {
                    id,
                    failed: Vec::new(),
                    asked: None,
                    dead: false,
                    tried: false,
                });
            }
            let Some(end) = ends.get_mut(number) else { continue };
            let outcome = whole
                .clone()
                .or_else(|| each.next())
                .unwrap_or_else(|| Outcome::retry("the handler named no outcome for this record"));
            let (reason, asked, dead) = match outcome {
                Outcome::Done => {
                    verdict.done += 1;
                    verdict.done_bytes += bytes_of(&pending.record);
                    done(pending.slot);
                    continue;
                }
                Outcome::NotTried => {
                    if pending.since == 0 {
                        pending.since = judge.now_millis;
                    }
                    end.failed.push(pending);
                    continue;
                }
                Outcome::Retry { reason, after } => (reason, after, false),
                Outcome::Dead { reason } => (reason, None, true),
            };
            pending.tries = pending.tries.saturating_add(1);
            if pending.since == 0 {
                pending.since = judge.now_millis;
            }
            verdict.failed += 1;
            verdict.dead += usize::from(dead);
            if verdict.reason.is_none() {
                verdict.reason = Some((pending.record.offset, pending.tries, reason.into_owned()));
            }
            // The lane waits for its first record; what came after it only goes with it.
            if end.failed.is_empty() {
                (end.asked, end.dead, end.tried) = (asked, dead, true);
            }
            end.failed.push(pending);
        }
        let whole_failed = whole.is_some() && verdict.done == 0;
        // Lanes that failed together come back together: a receiver that is away is not called once for each of them.
        let together = fastrand::f64();
        for end in ends {
            let random = if whole_failed { together } else { fastrand::f64() };
            self.end_lane(end, whole_failed.then_some(size), random, judge, &mut verdict);
        }
        verdict
    }

    fn end_lane(
        &mut self,
        end: LaneEnd,
        failed_together: Option<usize>,
        random: f64,
        judge: &Judge,
        verdict: &mut Verdict,
    ) {
        let Some(head) = end.failed.first() else {
            let Some(id) = end.id else { return };
            let Some(lane) = self.by_id.get_mut(&id) else { return };
            self.blocked -= usize::from(std::mem::take(&mut lane.blocked));
            if lane.queue.is_empty() {
                self.by_id.remove(&id);
            } else {
                lane.limit = lane.limit.saturating_mul(2);
                lane.state = State::Ready;
                self.behind_work -= lane.queue.len();
                self.ready_records += lane.queue.len();
                self.ready.push_back(id);
            }
            return;
        };
        let (tries, slot) = (head.tries, head.slot);
        let blocked = end.dead || judge.backoff.exhausted(tries);
        let delay = judge.backoff.delay(tries.max(1), blocked && end.tried, end.asked, random);
        let due = judge.now + delay;
        let id = end.id.unwrap_or(LaneId::Single(slot));
        let lane = self.by_id.entry(id.clone()).or_insert_with(|| Lane {
            state: State::Ready,
            queue: VecDeque::new(),
            number: 0,
            limit: usize::MAX,
            good: judge.good,
            blocked: false,
        });
        if let Some(size) = failed_together {
            // Nobody knows which record is to blame. When others went well since, it is one of these: halve. When nothing
            // goes well at all, it is the other side that is away, and more and smaller calls would not bring it back:
            // halve only now and then, in case all that there is is one bad record with good ones behind it.
            lane.limit = lane.limit.min(size);
            if judge.good > lane.good || tries.is_multiple_of(4) {
                lane.limit = (lane.limit / 2).max(1);
            }
        }
        lane.good = judge.good;
        verdict.newly_blocked += usize::from(blocked && !lane.blocked);
        self.blocked = self.blocked + usize::from(blocked) - usize::from(lane.blocked);
        lane.blocked = blocked;
        if matches!(lane.state, State::InWork(_)) {
            self.behind_work -= lane.queue.len();
        }
        for pending in end.failed.into_iter().rev() {
            lane.queue.push_front(pending);
        }
        self.behind_failure += lane.queue.len();
        lane.state = State::Waiting(due);
        self.timer += 1;
        self.timers.insert((due, self.timer), id);
    }

    /// Lanes whose time has come are ready.
    fn wake(&mut self, now: Instant) {
        while let Some(first) = self.timers.first_entry()
            && first.key().0 <= now
        {
            let id = first.remove();
            if let Some(lane) = self.by_id.get_mut(&id) {
                lane.state = State::Ready;
                self.behind_failure -= lane.queue.len();
                self.ready_records += lane.queue.len();
                self.ready.push_back(id);
            }
        }
    }

    /// The partition goes: forgets the records after the last that was begun, which the next owner handles. Those before
    /// it that still wait have to be finished here: the commit stops at the first of them, and what was done beyond it
    /// would be handled again.
    pub(crate) fn finish_begun(&mut self) {
        let begun = self.begun;
        self.fresh.truncate(self.fresh.partition_point(|pending| pending.slot < begun));
        for lane in self.by_id.values_mut() {
            let before = lane.queue.len();
            lane.queue.truncate(lane.queue.partition_point(|pending| pending.slot < begun));
            let dropped = before - lane.queue.len();
            match lane.state {
                State::InWork(_) => self.behind_work -= dropped,
                State::Ready => self.ready_records -= dropped,
                State::Waiting(_) => self.behind_failure -= dropped,
            }
        }
    }

    /// Records that wait, those of blocked lanes left out. Looks at all lanes if one is blocked.
    pub(crate) fn unfinished(&self) -> usize {
        let queued = self.fresh.len() + self.ready_records + self.behind_work + self.behind_failure;
        let blocked = self.by_id.values().filter(|lane| lane.blocked);
        queued - if self.blocked > 0 { blocked.map(|lane| lane.queue.len()).sum() } else { 0 }
    }

    /// Forgets all that waits.
    pub(crate) fn clear(&mut self) {
        *self = Self::new(self.ordering);
    }

    /// Records that wait behind work in their lane.
    pub(crate) fn behind_work(&self) -> usize {
        self.behind_work
    }
}

/// Bytes of a record as people count them.
pub(crate) fn bytes_of(record: &Record) -> usize {
    let headers = record
        .headers
        .iter()
        .map(|header| header.name.len() + header.value.as_ref().map_or(0, Bytes::len));
    record.key.as_ref().map_or(0, Bytes::len)
        + record.payload.as_ref().map_or(0, Bytes::len)
        + headers.sum::<usize>()
}

#[cfg(test)]
#[path = "lanes_tests.rs"]
mod tests;
