//! Writes one row a second, in the background.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{ClusterState, ClusterWatch, GroupReader, GroupSample, Row};
use crate::load::producer::millis_now;

const SECOND: Duration = Duration::from_secs(1);

/// Records until it is finished or dropped.
#[derive(Debug)]
pub struct Recorder {
    rows: Arc<Mutex<Vec<Row>>>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Recorder {
    /// Records a group; with a watch, also what the cluster says of the consumer. `each` sees every row as it is written.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(
        mut group: GroupReader,
        cluster: Option<Arc<ClusterWatch>>,
        mut each: impl FnMut(&Row) + Send + 'static,
    ) -> anyhow::Result<Self> {
        let (rows, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (shared, stopped) = (Arc::clone(&rows), Arc::clone(&stop));
        // Kafka's client blocks: it has a thread of its own.
        let thread = thread::Builder::new().name("lab-record".into()).spawn(move || {
            let start = Instant::now();
            let mut last: Option<Row> = None;
            while !stopped.load(Ordering::Relaxed) {
                let at = millis_now();
                let sample = group.read();
                let row = match &cluster {
                    Some(cluster) => {
                        cluster.look(|state| row(at, sample, Some(state), last.as_ref()))
                    }
                    None => row(at, sample, None, last.as_ref()),
                };
                each(&row);
                last = Some(row.clone());
                lock(&shared).push(row);
                // Rows lie on a grid from the start; one that came late leaves its place empty.
                let next = SECOND * (start.elapsed().as_secs() as u32 + 1);
                while start.elapsed() < next && !stopped.load(Ordering::Relaxed) {
                    thread::sleep(
                        next.saturating_sub(start.elapsed()).min(Duration::from_millis(100)),
                    );
                }
            }
        })?;
        Ok(Self { rows, stop, thread: Some(thread) })
    }

    /// The rows so far.
    pub fn rows(&self) -> Vec<Row> {
        lock(&self.rows).clone()
    }

    /// Ends the recording.
    pub async fn finish(mut self) -> Vec<Row> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A recorder that panicked has left the rows until then.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
        std::mem::take(&mut *lock(&self.rows))
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A thread that panicked left whole rows behind.
fn lock(rows: &Mutex<Vec<Row>>) -> MutexGuard<'_, Vec<Row>> {
    rows.lock().unwrap_or_else(PoisonError::into_inner)
}

fn row(at: i64, sample: GroupSample, cluster: Option<&ClusterState>, last: Option<&Row>) -> Row {
    let rate = |now: Option<i64>, before: Option<i64>| {
        let seconds = (at - last?.at) as f64 / 1e3;
        (seconds > 0.0).then_some((now? - before?) as f64 / seconds)
    };
    let status = cluster.and_then(|state| state.consumer.as_ref()?.status.as_ref());
    let decision = cluster.and_then(ClusterState::decision);
    Row {
        at,
        produced_rate: rate(sample.produced, last.and_then(|row| row.produced)),
        produced: sample.produced,
        committed_rate: rate(sample.committed, last.and_then(|row| row.committed)),
        committed: sample.committed,
        lag: sample.lag,
        members: sample.members,
        group_state: sample.state,
        wanted: cluster.and_then(ClusterState::wanted),
        ready: cluster.and_then(ClusterState::ready),
        batch_size: status.and_then(|status| status.batch_size),
        concurrency: status.and_then(|status| status.concurrency),
        behind: status.and_then(|status| status.behind_seconds),
        reason: decision.map(|decision| decision.reason.clone()),
        message: decision.map(|decision| decision.message.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_needs_two_readings_and_an_unknown_one_gives_none() {
        let sample = |produced| GroupSample { produced, ..GroupSample::default() };
        let first = row(1_000, sample(Some(500)), None, None);
        assert_eq!((first.produced, first.produced_rate), (Some(500), None));
        let second = row(3_000, sample(Some(1_100)), None, Some(&first));
        assert_eq!(second.produced_rate, Some(300.0));
        let unknown = row(4_000, sample(None), None, Some(&second));
        assert_eq!(
            (
                unknown.produced_rate,
                row(5_000, sample(Some(9)), None, Some(&unknown)).produced_rate
            ),
            (None, None)
        );
    }
}
