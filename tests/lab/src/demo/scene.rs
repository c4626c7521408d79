//! What is known of the play at a moment, for those who show it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::record::{ClusterState, DecisionSeen};

/// Readings over which a shown rate is the mean: batches of half a second would else look like noise.
const SMOOTH: usize = 4;

/// The play so far.
#[derive(Clone, Debug, Default)]
pub struct Scene {
    /// When the play began, milliseconds since the Unix epoch.
    pub begun: i64,
    /// What is played now.
    pub phase: Phase,
    /// Every phase's beginning.
    pub phases: Vec<Phase>,
    /// Readings, two a second.
    pub readings: Vec<Reading>,
    /// Decisions as they fell.
    pub decisions: Vec<DecisionSeen>,
    /// What `kubectl get` would say.
    pub status: String,
    totals: VecDeque<(i64, u64, u64)>,
}

/// A part of an act.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Phase {
    /// In a few words.
    pub title: String,
    /// What is to be seen in it.
    pub text: String,
    /// Its beginning, milliseconds since the Unix epoch.
    pub since: i64,
}

/// One reading.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reading {
    /// Milliseconds since the Unix epoch.
    pub at: i64,
    /// Records a second that arrive.
    pub arriving: f64,
    /// Records a second that are handled.
    pub handled: f64,
    /// Records that have arrived and are not handled.
    pub backlog: u64,
    /// Pods asked for.
    pub wanted: i32,
    /// Pods that are ready.
    pub ready: i32,
    /// The concurrency asked for.
    pub concurrency: i32,
    /// The batch size asked for.
    pub batch_size: i32,
}

impl Scene {
    /// The seconds since the play began.
    pub fn seconds(&self, at: i64) -> f64 {
        (at - self.begun) as f64 / 1e3
    }

    /// The newest reading.
    pub fn now(&self) -> Reading {
        self.readings.last().copied().unwrap_or_default()
    }

    /// A new part begins.
    pub fn enter(&mut self, phase: Phase) {
        self.phases.push(phase.clone());
        self.phase = phase;
    }

    /// Other records are looked at from now on: what was read before says nothing of them.
    pub fn forget_readings(&mut self) {
        self.readings.clear();
        self.totals.clear();
    }

    /// Takes a reading from totals of records and from what the cluster says.
    pub fn read(&mut self, at: i64, arrived: u64, handled: u64, cluster: &ClusterState) {
        self.totals.push_back((at, arrived, handled));
        while self.totals.len() > SMOOTH + 1 {
            self.totals.pop_front();
        }
        let (since, arrived_before, handled_before) =
            self.totals.front().copied().unwrap_or((at, arrived, handled));
        let seconds = ((at - since) as f64 / 1e3).max(0.001);
        let status = cluster.consumer.as_ref().and_then(|consumer| consumer.status.as_ref());
        self.readings.push(Reading {
            at,
            arriving: arrived.saturating_sub(arrived_before) as f64 / seconds,
            handled: handled.saturating_sub(handled_before) as f64 / seconds,
            backlog: arrived.saturating_sub(handled),
            wanted: cluster.wanted().unwrap_or(0),
            ready: cluster.ready().unwrap_or(0),
            concurrency: status.and_then(|status| status.concurrency).unwrap_or(0),
            batch_size: status.and_then(|status| status.batch_size).unwrap_or(0),
        });
        self.decisions.clone_from(&cluster.decisions);
        if let Some(status) = status {
            let shown = |value: Option<String>| value.unwrap_or_else(|| "?".to_owned());
            self.status = format!(
                "operator sees: replicas {}/{}  lag {}  behind {}  capacity {} per pod",
                shown(status.ready_replicas.map(|n| n.to_string())),
                shown(status.desired_replicas.map(|n| n.to_string())),
                shown(status.lag.map(|n| n.to_string())),
                shown(status.behind_seconds.map(|n| format!("{n:.1} s"))),
                shown(status.capacity_per_pod.map(|n| format!("{n:.0}/s"))),
            );
        }
    }
}

/// The scene as the play and its viewers share it.
#[derive(Clone, Debug, Default)]
pub struct Shared(Arc<Mutex<Scene>>);

impl Shared {
    /// Looks at it, or changes it.
    pub fn lock(&self) -> MutexGuard<'_, Scene> {
        // A viewer that panicked changed nothing.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_the_mean_of_two_seconds_and_a_backlog_is_what_is_not_handled() {
        let mut scene = Scene::default();
        for n in 0..20_u64 {
            // 300/s arrive; one batch of 300 is done every second.
            scene.read(n as i64 * 500, n * 150, n / 2 * 300, &ClusterState::default());
        }
        let now = scene.now();
        assert!(
            (now.arriving - 300.0).abs() < 1e-9 && (now.handled - 300.0).abs() < 1e-9,
            "{now:?}"
        );
        assert_eq!(now.backlog, 19 * 150 - 9 * 300);
    }
}
