//! The commit of a group's start positions, beside the passes: a pass starts it and ends, and its answer asks for the next
//! pass. A coordinator that does not answer holds no slot.

use std::time::Duration;

use futures::{FutureExt, future::BoxFuture};
use sluice_crds::conditions::reason;
use sluice_planner::snapshot::{Committed, Millis, Snapshot, TopicPartition};
use tokio::{sync::oneshot, time::Instant};
use tokio_util::task::AbortOnDropHandle;

use super::{Moment, backoff, offsets::Commit};
use crate::kafka::port::ReadError;

/// A commit that is not answered in this time has failed: three times the longest that a request of the readers takes.
const ANSWER: Duration = Duration::from_secs(30);
/// The longest wait after a commit that failed.
const LONGEST: Duration = Duration::from_secs(60);
/// Offsets that were read up to so many milliseconds after the commit's answer may have been asked for before it.
const CROSSING: Millis = 3_000;

/// What a commit does: it answers when Kafka has.
pub type Committing = BoxFuture<'static, Result<(), ReadError>>;

/// The commit of one group's start positions.
#[derive(Debug, Default)]
pub struct Starting {
    state: State,
    /// Failures in a row.
    failures: u32,
}

#[derive(Debug, Default)]
enum State {
    /// None was needed yet.
    #[default]
    Idle,
    /// Kafka has not answered.
    Running {
        commit: Commit,
        answer: oneshot::Receiver<Result<(), ReadError>>,
        /// Ends it when the consumer is gone, or follows another group.
        _task: AbortOnDropHandle<()>,
    },
    /// Committed at this time; offsets that were read before do not show it.
    Done { at: Millis },
    /// Not committed, and tried again at this time.
    Failed { error: ReadError, until: Instant },
}

/// How far the commit that a first pod needs is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Kafka has taken it; the newest snapshot does not show that yet.
    Committed,
    /// Kafka has not answered.
    Waits,
    /// It failed, and is tried again after this time.
    Failed(ReadError, Duration),
}

impl Starting {
    /// Takes Kafka's answer in, if it has come. `Some` once for each commit that was made.
    pub fn answered(&mut self, now: Moment) -> Option<Commit> {
        let State::Running { answer, commit, .. } = &mut self.state else { return None };
        let answer = match answer.now_or_never()? {
            Ok(answer) => answer,
            // The task has ended without an answer: it panicked.
            Err(_) => Err(broken()),
        };
        match answer {
            Ok(()) => {
                let commit = std::mem::take(commit);
                *self = Self { state: State::Done { at: now.millis() }, failures: 0 };
                Some(commit)
            }
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                let after = backoff::delay(self.failures, fastrand::f64()).min(LONGEST);
                self.state = State::Failed { error, until: now.instant + after };
                None
            }
        }
    }

    /// How far `commit` is; it is started where it has to be. `ring` asks for a pass when it is answered.
    pub fn advance(
        &mut self,
        commit: Commit,
        snapshot: &Snapshot,
        start: impl FnOnce(Vec<(TopicPartition, i64)>) -> Committing,
        ring: impl FnOnce() + Send + 'static,
        now: Moment,
    ) -> Progress {
        match &self.state {
            State::Running { .. } => return Progress::Waits,
            State::Done { at } if is_older(snapshot, *at + CROSSING) => return Progress::Committed,
            State::Failed { error, until } if now.instant < *until => {
                return Progress::Failed(error.clone(), now.until(*until));
            }
            State::Idle | State::Done { .. } | State::Failed { .. } => {}
        }
        let (sender, answer) = oneshot::channel();
        let committing = start(commit.offsets.clone());
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            let answer = tokio::time::timeout(ANSWER, committing).await;
            // The receiver is dropped with the task.
            drop(sender.send(answer.unwrap_or_else(|_| Err(silent()))));
            ring();
        }));
        self.state = State::Running { commit, answer, _task: task };
        Progress::Waits
    }
}

/// Whether the offsets that are missing were read before a time.
fn is_older(snapshot: &Snapshot, time: Millis) -> bool {
    let missing = snapshot.partitions.iter().filter(|p| p.committed == Committed::None);
    missing.map(|p| p.committed_at).all(|at| at <= time)
}

fn silent() -> ReadError {
    let message = format!("the group's coordinator has not answered within {} s", ANSWER.as_secs());
    ReadError { reason: reason::UNREACHABLE, message }
}

fn broken() -> ReadError {
    ReadError { reason: reason::BROKER_ERROR, message: "the commit was broken off".to_owned() }
}

#[cfg(test)]
mod tests {
    use sluice_planner::snapshot::Partition;

    use super::*;

    fn snapshot(committed_at: Millis) -> Snapshot {
        let partition = Partition {
            id: TopicPartition { topic: "orders".into(), partition: 0 },
            start: Some(0),
            end: Some(0),
            end_at: 0,
            committed: Committed::None,
            committed_at,
            report: None,
        };
        Snapshot { at: committed_at, partitions: vec![partition], group: None }
    }

    fn at(millis: u64, begin: Moment) -> Moment {
        let later = Duration::from_millis(millis);
        Moment { time: begin.time + later, instant: begin.instant + later }
    }

    /// One that never answers, or answers so.
    fn answer(answer: Option<Result<(), ReadError>>) -> Committing {
        match answer {
            Some(answer) => Box::pin(std::future::ready(answer)),
            None => Box::pin(std::future::pending()),
        }
    }

    fn commit() -> Commit {
        Commit { started: 1, ..Commit::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_commit_is_made_once_and_told_once_though_the_offsets_are_read_later() {
        let (mut starting, begin) = (Starting::default(), Moment::now());
        let old = snapshot(begin.millis());
        let advance = |starting: &mut Starting, snapshot: &Snapshot, now, ok| {
            starting.advance(commit(), snapshot, |_| answer(ok), || (), now)
        };
        assert_eq!(advance(&mut starting, &old, begin, Some(Ok(()))), Progress::Waits);
        assert_eq!(starting.answered(begin), None, "it has not been polled yet");
        assert_eq!(advance(&mut starting, &old, begin, None), Progress::Waits);
        tokio::task::yield_now().await;
        assert_eq!(starting.answered(begin), Some(commit()));
        assert_eq!(starting.answered(begin), None);
        assert_eq!(advance(&mut starting, &old, begin, None), Progress::Committed);
        // A reading of later says that there is still none: somebody deleted the group.
        let later = at(10_000, begin);
        let new = snapshot(later.millis());
        assert_eq!(advance(&mut starting, &new, later, None), Progress::Waits);
    }

    #[tokio::test(start_paused = true)]
    async fn a_commit_without_an_answer_fails_after_a_while_and_is_tried_again_later() {
        let (mut starting, begin) = (Starting::default(), Moment::now());
        let old = snapshot(begin.millis());
        let (rung, mut bell) = oneshot::channel();
        let ring = move || rung.send(()).unwrap();
        let first = starting.advance(commit(), &old, |_| answer(None), ring, begin);
        assert_eq!(first, Progress::Waits);
        tokio::time::sleep(ANSWER + Duration::from_secs(1)).await;
        assert_eq!(bell.try_recv(), Ok(()));
        let now = at(31_000, begin);
        assert_eq!(starting.answered(now), None);
        let again = starting.advance(commit(), &old, |_| panic!("too soon"), || (), now);
        let Progress::Failed(error, rest) = again else { panic!("{again:?}") };
        assert_eq!(error, silent());
        let later = at(31_000 + rest.as_millis() as u64 + 1, begin);
        let again = starting.advance(commit(), &old, |_| answer(None), || (), later);
        assert_eq!(again, Progress::Waits);
    }
}
