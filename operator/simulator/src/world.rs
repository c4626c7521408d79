//! Partitions, pods and their group, in steps of [`STEP`] milliseconds.

use std::{collections::VecDeque, sync::Arc};

use sluice_crds::{kafkaconsumer::Ordering, report::ProgressReport, tuning::Tuning};
use sluice_planner::snapshot::{
    Committed, Group, GroupState, Member, Millis, Partition, Snapshot, TopicPartition,
};

/// The length of a step, milliseconds.
pub const STEP: Millis = 50;
/// A pod commits each second while records flow.
const COMMIT: Millis = 1_000;
/// And this often when idle.
const IDLE_COMMIT: Millis = 30_000;

/// What a pod is like.
#[derive(Clone, Copy, Debug)]
pub struct PodModel {
    /// From being created to having joined the group.
    pub start: Millis,
    /// How long partitions that move stand still.
    pub pause: Millis,
    /// The handler's time for a batch beside that for its records, seconds.
    pub per_batch: f64,
    /// The handler's time for a record, seconds.
    pub per_record: f64,
    /// Slots beyond which more only wait for each other.
    pub knee: f64,
    /// From new knobs being written to their being in force.
    pub knobs_arrive: Millis,
    /// The ordering domain.
    pub ordering: Ordering,
}

impl Default for PodModel {
    fn default() -> Self {
        Self {
            start: 3_000,
            pause: 1_000,
            per_batch: 0.0,
            per_record: 0.002,
            knee: f64::INFINITY,
            knobs_arrive: 1_000,
            ordering: Ordering::Partition,
        }
    }
}

impl PodModel {
    /// Records per second of one slot.
    fn slot_rate(&self, tuning: Tuning) -> f64 {
        let batch = f64::from(tuning.knobs.batch_size);
        let waits = (f64::from(tuning.knobs.concurrency) / self.knee).max(1.0);
        batch / ((self.per_batch + self.per_record * batch) * waits)
    }
}

/// A partition.
#[derive(Debug)]
struct Log {
    id: TopicPartition,
    /// Share of the arrivals.
    share: f64,
    end: f64,
    done: f64,
    committed: i64,
    /// When `committed` was written.
    report: Option<Arc<ProgressReport>>,
    sequence: u64,
    epoch: Millis,
    handled: f64,
    /// The pod's number.
    owner: Option<u32>,
    paused_until: Millis,
    /// A record that fails again and again.
    stuck_at: Option<f64>,
    /// When the end was where, to tell how old the oldest unprocessed record is.
    ends: VecDeque<(Millis, f64)>,
}

/// A pod.
#[derive(Debug)]
struct Pod {
    number: u32,
    joins_at: Millis,
    joined: bool,
    tuning: Tuning,
    handled: f64,
    slot_seconds: f64,
    commit_at: Millis,
    committed_at: Millis,
    /// Since the last commit: slot seconds that could have been used, records, and those that went out in full batches.
    could: f64,
    records: f64,
    full: f64,
    slot_seconds_before: f64,
}

/// Everything that is modelled.
#[derive(Debug)]
pub struct World {
    /// Milliseconds since the Unix epoch, virtual.
    pub now: Millis,
    model: PodModel,
    logs: Vec<Log>,
    pods: Vec<Pod>,
    desired: u32,
    next_pod: u32,
    tuning: Tuning,
    in_force_at: Millis,
    rebalancing_until: Millis,
}

impl World {
    /// A topic with partitions of these shares, and no pods yet.
    #[must_use]
    pub fn new(now: Millis, shares: &[f64], model: PodModel, tuning: Tuning) -> Self {
        let all: f64 = shares.iter().sum();
        let topic: Arc<str> = "orders".into();
        let logs = (0..).zip(shares).map(|(partition, share)| Log {
            id: TopicPartition { topic: topic.clone(), partition },
            share: share / all,
            end: 0.0,
            done: 0.0,
            committed: 0,
            report: None,
            sequence: 0,
            epoch: 0,
            handled: 0.0,
            owner: None,
            paused_until: 0,
            stuck_at: None,
            ends: VecDeque::from([(now, 0.0)]),
        });
        Self {
            now,
            model,
            logs: logs.collect(),
            pods: Vec::new(),
            desired: 0,
            next_pod: 0,
            tuning,
            in_force_at: 0,
            rebalancing_until: 0,
        }
    }

    /// Puts `records` into the topic at once, spread by the partitions' shares.
    pub fn fill(&mut self, records: f64) {
        for log in &mut self.logs {
            log.end += records * log.share;
        }
    }

    /// From now on the next record of this partition fails again and again.
    pub fn block(&mut self, partition: usize) {
        self.logs[partition].stuck_at = Some(self.logs[partition].done);
    }

    /// Desired pods.
    #[must_use]
    pub fn desired(&self) -> u32 {
        self.desired
    }

    /// Pods that have joined.
    #[must_use]
    pub fn ready(&self) -> u32 {
        self.pods.iter().filter(|p| p.joined).count() as u32
    }

    /// Pods that exist.
    #[must_use]
    pub fn exist(&self) -> u32 {
        self.pods.len() as u32
    }

    /// The desired knobs.
    #[must_use]
    pub fn tuning(&self) -> Tuning {
        self.tuning
    }

    /// Unprocessed records.
    #[must_use]
    pub fn lag(&self) -> f64 {
        self.logs.iter().map(|log| log.end - log.done).sum()
    }

    /// Age of the oldest unprocessed record in seconds, as it is.
    #[must_use]
    pub fn behind(&self) -> f64 {
        self.logs.iter().map(|log| log.behind(self.now)).fold(0.0, f64::max)
    }

    /// Writes the number of pods: further ones start, the newest go.
    pub fn scale(&mut self, replicas: u32) {
        self.desired = replicas;
        while self.pods.len() < replicas as usize {
            let number = self.next_pod;
            self.next_pod += 1;
            self.pods.push(Pod {
                number,
                joins_at: self.now + self.model.start,
                joined: false,
                tuning: self.tuning,
                handled: 0.0,
                slot_seconds: 0.0,
                // Pods do not commit at the same moment.
                commit_at: self.now + self.model.start + Millis::from(number * 137 % 1_000),
                committed_at: self.now,
                could: 0.0,
                records: 0.0,
                full: 0.0,
                slot_seconds_before: 0.0,
            });
        }
        let mut left = false;
        while self.pods.len() > replicas as usize {
            let Some(last) = self.pods.len().checked_sub(1) else { break };
            left |= self.pods[last].joined;
            self.commit(last);
            self.pods.pop();
        }
        if left {
            self.assign();
        }
    }

    /// Writes other knobs; the pods take them a little later.
    pub fn tune(&mut self, tuning: Tuning) {
        self.tuning = tuning;
        self.in_force_at = self.now + self.model.knobs_arrive;
    }

    /// One step, with arrivals of `rate` records per second.
    pub fn step(&mut self, rate: f64) {
        self.now += STEP;
        let seconds = STEP as f64 / 1e3;
        for log in &mut self.logs {
            log.end += rate * log.share * seconds;
            log.ends.push_back((self.now, log.end));
            while log.ends.len() > 2 && log.ends[1].1 <= log.done {
                log.ends.pop_front();
            }
        }
        if self.now >= self.in_force_at {
            for pod in &mut self.pods {
                pod.tuning = self.tuning;
            }
        }
        let mut joined = false;
        for pod in self.pods.iter_mut().filter(|p| !p.joined && p.joins_at <= self.now) {
            pod.joined = true;
            joined = true;
        }
        if joined {
            self.assign();
        }
        for index in 0..self.pods.len() {
            self.handle(index, seconds);
            if self.pods[index].joined && self.pods[index].commit_at <= self.now {
                self.pods[index].commit_at += COMMIT;
                let busy = self.pods[index].records > 0.0;
                if busy || self.now - self.pods[index].committed_at >= IDLE_COMMIT {
                    self.commit(index);
                }
            }
        }
    }

    /// A pod works for `seconds`.
    fn handle(&mut self, index: usize, seconds: f64) {
        let (pod, model) = (&mut self.pods[index], self.model);
        if !pod.joined {
            return;
        }
        let mut mine: Vec<&mut Log> = self
            .logs
            .iter_mut()
            .filter(|l| l.owner == Some(pod.number) && l.paused_until <= self.now)
            .collect();
        let slots = f64::from(pod.tuning.knobs.concurrency);
        let each_slot = model.slot_rate(pod.tuning) * seconds;
        let (usable, each) = match model.ordering {
            Ordering::Partition => (slots.min(mine.len() as f64), each_slot),
            Ordering::Key => (slots, each_slot * slots),
        };
        pod.could += usable * seconds;
        // Fair shares: who needs less leaves the rest to the others.
        mine.sort_by(|a, b| a.ready().total_cmp(&b.ready()));
        let mut left = usable * each_slot;
        let mut others = mine.len() as f64;
        for log in mine {
            let take = log.ready().min(left / others).min(each).max(0.0);
            let backlogged = log.ready() - take >= f64::from(pod.tuning.knobs.batch_size);
            log.done += take;
            log.handled += take;
            pod.handled += take;
            pod.records += take;
            pod.full += if backlogged { take } else { 0.0 };
            pod.slot_seconds += if each_slot > 0.0 { take / each_slot * seconds } else { 0.0 };
            left -= take;
            others -= 1.0;
        }
    }

    /// A pod commits its partitions, with a report for each.
    fn commit(&mut self, index: usize) {
        let (pod, now) = (&mut self.pods[index], self.now);
        let partitions = self.logs.iter().filter(|l| l.owner == Some(pod.number)).count();
        let concurrency = f64::from(pod.tuning.knobs.concurrency);
        let usable = match self.model.ordering {
            Ordering::Partition => concurrency.min(partitions as f64),
            Ordering::Key => concurrency,
        };
        let waits = (concurrency / self.model.knee).max(1.0);
        let p99 = (self.model.per_batch
            + self.model.per_record * f64::from(pod.tuning.knobs.batch_size))
            * waits
            * 1e3;
        for log in self.logs.iter_mut().filter(|l| l.owner == Some(pod.number)) {
            log.committed = log.done.floor() as i64;
            log.sequence += 1;
            log.report = Some(Arc::new(ProgressReport {
                version: 1,
                pod: format!("pod-{}", pod.number),
                boot: pod.joins_at,
                epoch: log.epoch,
                sequence: log.sequence,
                at: now,
                handled: log.handled as u64,
                blocked: log
                    .stuck_at
                    .filter(|at| log.done >= *at && log.end >= log.done + 1.0)
                    .map(|at| sluice_crds::report::BlockedLane {
                        offset: at as i64,
                        since: log.epoch,
                        attempts: 4,
                        lanes: 1,
                    }),
                pod_handled: pod.handled as u64,
                slot_seconds: pod.slot_seconds,
                busy: if pod.could > 0.0 {
                    ((pod.slot_seconds - pod.slot_seconds_before) / pod.could).clamp(0.0, 1.0)
                } else {
                    0.0
                },
                usable_slots: usable,
                full_batches: if pod.records > 0.0 { pod.full / pod.records } else { 0.0 },
                handler_p99_ms: p99,
                rebalance_pause_ms: self.model.pause as u64,
                partitions: partitions as u32,
                revision: pod.tuning.revision,
                ..ProgressReport::default()
            }));
        }
        pod.committed_at = now;
        (pod.could, pod.records, pod.full) = (0.0, 0.0, 0.0);
        pod.slot_seconds_before = pod.slot_seconds;
    }

    /// Deals the partitions out evenly; those that stay with their pod do not stand.
    fn assign(&mut self) {
        for index in 0..self.pods.len() {
            if self.pods[index].joined {
                self.commit(index);
            }
        }
        let members: Vec<u32> = self.pods.iter().filter(|p| p.joined).map(|p| p.number).collect();
        let (count, partitions) = (members.len(), self.logs.len());
        let mut room: Vec<(u32, usize)> = Vec::new();
        for (n, member) in members.iter().enumerate() {
            room.push((*member, partitions / count + usize::from(n < partitions % count)));
        }
        let mut moving = Vec::new();
        for (n, log) in self.logs.iter_mut().enumerate() {
            match room.iter_mut().find(|(member, left)| Some(*member) == log.owner && *left > 0) {
                Some((_, left)) => *left -= 1,
                None => moving.push(n),
            }
        }
        for n in moving {
            let log = &mut self.logs[n];
            let next = room.iter_mut().find(|(_, left)| *left > 0);
            log.owner = next.map(|(member, left)| {
                *left -= 1;
                *member
            });
            (log.paused_until, log.epoch, log.sequence, log.handled) =
                (self.now + self.model.pause, self.now, 0, 0.0);
        }
        self.rebalancing_until = self.now + self.model.pause;
    }

    /// What a reader reads now.
    #[must_use]
    pub fn read(&self) -> Snapshot {
        let partitions = self.logs.iter().map(|log| Partition {
            id: log.id.clone(),
            start: Some(0),
            end: Some(log.end as i64),
            end_at: self.now,
            committed: Committed::At(log.committed),
            committed_at: self.now,
            report: log.report.clone(),
        });
        let members = self.pods.iter().filter(|p| p.joined).map(|pod| Member {
            client_id: format!("pod-{}", pod.number),
            partitions: self
                .logs
                .iter()
                .filter(|l| l.owner == Some(pod.number))
                .map(|l| l.id.clone())
                .collect(),
        });
        let members: Vec<_> = members.collect();
        let state = match (members.is_empty(), self.now < self.rebalancing_until) {
            (true, _) => GroupState::Empty,
            (_, true) => GroupState::Rebalancing,
            _ => GroupState::Stable,
        };
        Snapshot {
            at: self.now,
            partitions: partitions.collect(),
            group: Some(Group { at: self.now, state, members }),
        }
    }
}

impl Log {
    /// Records that a pod could take now.
    fn ready(&self) -> f64 {
        (self.stuck_at.unwrap_or(self.end).min(self.end) - self.done).max(0.0)
    }

    fn behind(&self, now: Millis) -> f64 {
        if self.end - self.done < 1.0 {
            return 0.0;
        }
        let at = self.ends.iter().find(|(_, end)| *end > self.done).map_or(now, |(at, _)| *at);
        (now - at) as f64 / 1e3
    }
}
