//! The log handler: a line for each batch, and a delay in place of work. For trials, for the demo, and for whoever wants to
//! see what arrives; `cargo lab verify` reads the lines.

use std::{
    fmt::Write as _,
    io,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use sluice_crds::kafkaconsumer::handler::LogHandler as Spec;
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    time::Instant,
};

use crate::{Batch, Handler, Outcomes, Record};

/// The most that a call may be shortened by what the calls before it slept too long. A machine that stood still for
/// longer has lost that time, as a real handler would have.
const MAX_DEBT: Duration = Duration::from_millis(100);

/// Writes one line for each batch when it is done:
///
/// `{"handled":{"topic":"t","partition":3,"offsets":"5-9,11","started":1790000000000.123,"at":1790000000005.456,"pod":"p"}}`
///
/// The offsets stand in the order in which they were handled, as ascending ranges with both ends; the times are
/// milliseconds since the Unix epoch, of the call's start and of the moment in which the line was written.
#[derive(Debug)]
pub struct LogHandler<W = io::Stdout> {
    pace: Pace,
    pod: String,
    out: Mutex<W>,
}

impl LogHandler {
    /// A handler that writes to the standard output.
    pub fn new(spec: &Spec, pod: &str) -> Self {
        Self::with_output(spec, pod, io::stdout())
    }
}

impl<W: io::Write + Send> LogHandler<W> {
    /// A handler that writes its lines elsewhere.
    pub fn with_output(spec: &Spec, pod: &str, out: W) -> Self {
        let delay = |d: Option<sluice_crds::Duration>| d.unwrap_or_default().to_std();
        let pace = Pace::new(delay(spec.delay_per_record), delay(spec.delay_per_batch));
        Self { pace, pod: pod.to_owned(), out: Mutex::new(out) }
    }

    /// Writes a line as a whole. There is no await between the line and the outcome, so that a batch cannot be written and
    /// then be cancelled before it was reported.
    fn write(&self, line: &str) -> io::Result<()> {
        let write = || {
            // A panic while the lock was held can at worst have left half a line behind.
            let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
            out.write_all(line.as_bytes())?;
            out.flush()
        };
        // A slow reader of the pod's log must hold up this batch, but not the other tasks of this thread.
        match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
            Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(write),
            _ => write(),
        }
    }
}

#[async_trait]
impl<W: io::Write + Send + 'static> Handler for LogHandler<W> {
    async fn handle(&self, batch: &Batch) -> Outcomes {
        let started = now_ms();
        let due = self.pace.start(batch.len(), Instant::now());
        if due > Instant::now() {
            tokio::select! {
                biased;
                () = batch.cancellation().cancelled() => return Outcomes::retry("cancelled before its time was over"),
                () = tokio::time::sleep_until(due) => {}
            }
        }
        let outcomes = match self.write(&line(batch.records(), started, now_ms(), &self.pod)) {
            Ok(()) => Outcomes::done(),
            Err(error) => Outcomes::retry(format!("the line could not be written: {error}")),
        };
        self.pace.finish(due, Instant::now());
        outcomes
    }
}

fn now_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64() * 1e3
}

/// The line of a batch, with its end.
fn line(records: &[Record], started: f64, at: f64, pod: &str) -> String {
    let (topic, partition) =
        records.first().map_or(("", -1), |record| (record.topic(), record.partition()));
    let mut text = String::with_capacity(160);
    // Writing into a String cannot fail.
    let _ = writeln!(
        text,
        r#"{{"handled":{{"topic":{},"partition":{partition},"offsets":"{}","started":{started:.3},"at":{at:.3},"pod":{}}}}}"#,
        serde_json::Value::from(topic),
        ranges(records.iter().map(Record::offset)),
        serde_json::Value::from(pod),
    );
    text
}

/// Offsets in the order given, neighbours drawn together: `5-9,11,14-20`.
fn ranges(offsets: impl IntoIterator<Item = i64>) -> String {
    let mut text = String::new();
    let mut close = |(first, last): (i64, i64)| {
        let comma = if text.is_empty() { "" } else { "," };
        // Writing into a String cannot fail.
        let _ = if first == last {
            write!(text, "{comma}{first}")
        } else {
            write!(text, "{comma}{first}-{last}")
        };
    };
    let mut open: Option<(i64, i64)> = None;
    for offset in offsets {
        open = match open {
            Some((first, last)) if offset == last + 1 => Some((first, offset)),
            other => {
                other.into_iter().for_each(&mut close);
                Some((offset, offset))
            }
        };
    }
    open.into_iter().for_each(&mut close);
    text
}

/// Delays that are right in the long run. A timer wakes up late (2 ms become 3, and 500 records a second 324); so what a
/// call slept too long is a debt that shortens the next. It has no clock of its own: now is an argument.
///
/// A debt belongs to a slot, that is to calls one after the other: with as many slots as calls at once, concurrency c
/// gives c times the rate of one. The time between two calls is no debt: a slot that waited for records did not work.
#[derive(Debug)]
struct Pace {
    per_record: Duration,
    per_batch: Duration,
    /// The debts of the slots that are free. The one used last is used next, so that the slots that a lower concurrency
    /// no longer needs stay at the bottom.
    free: Mutex<Vec<Duration>>,
}

impl Pace {
    fn new(per_record: Duration, per_batch: Duration) -> Self {
        Self { per_record, per_batch, free: Mutex::new(Vec::new()) }
    }

    /// Begins a call, and says when its time is over: before its start when its slot owes more than the call takes.
    fn start(&self, records: usize, now: Instant) -> Instant {
        let debt = self.free().pop().unwrap_or_default();
        let length = self.per_batch
            + self.per_record.saturating_mul(u32::try_from(records).unwrap_or(u32::MAX));
        // The clock is that of the machine's start; in its first 100 ms nobody owes anything.
        (now + length).checked_sub(debt).unwrap_or(now)
    }

    /// Ends a call; what it took beyond its time, writing included, is its slot's debt.
    fn finish(&self, due: Instant, now: Instant) {
        self.free().push(now.saturating_duration_since(due).min(MAX_DEBT));
    }

    fn free(&self) -> MutexGuard<'_, Vec<Duration>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{cmp::Reverse, collections::BinaryHeap};

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::Outcome;

    const MS: Duration = Duration::from_millis(1);

    /// Runs calls in a time of its own, so many at once, each of which wakes up `late` if it sleeps at all. Says how
    /// many milliseconds all took together.
    fn run(pace: &Pace, calls: usize, at_once: usize, records: usize, late: Duration) -> u128 {
        let start = Instant::now();
        let mut now = start;
        let mut in_work = BinaryHeap::new();
        for _ in 0..calls {
            if in_work.len() == at_once {
                let Reverse((end, due)) = in_work.pop().unwrap();
                now = end;
                pace.finish(due, now);
            }
            let due = pace.start(records, now);
            in_work.push(Reverse((if due > now { due + late } else { now }, due)));
        }
        while let Some(Reverse((end, due))) = in_work.pop() {
            now = end;
            pace.finish(due, now);
        }
        (now - start).as_millis()
    }

    #[test]
    fn a_timer_that_wakes_up_late_does_not_lower_the_rate() {
        for late in [Duration::ZERO, MS / 3, MS, 5 * MS, 30 * MS] {
            let took = run(&Pace::new(2 * MS, Duration::ZERO), 1_000, 1, 1, late);
            assert!(
                (1_998..=2_032).contains(&took),
                "1000 records at 500/s took {took} ms, waking up {late:?} late"
            );
        }
    }

    #[test]
    fn a_batch_takes_its_own_time_and_that_of_its_records() {
        let took = run(&Pace::new(2 * MS, 10 * MS), 100, 1, 20, MS);
        assert!((4_998..=5_002).contains(&took), "100 batches of 50 ms took {took} ms");
    }

    #[test]
    fn calls_at_once_have_the_rate_of_one_each() {
        let pace = Pace::new(2 * MS, Duration::ZERO);
        let took = run(&pace, 2_000, 4, 1, MS);
        assert!((998..=1_004).contains(&took), "2000 records at 4 x 500/s took {took} ms");
        assert_eq!(pace.free().len(), 4, "one slot for each call at once");
    }

    #[test]
    fn time_without_records_is_not_worked_off_later() {
        let pace = Pace::new(2 * MS, Duration::ZERO);
        let start = Instant::now();
        let due = pace.start(1, start);
        pace.finish(due, due);
        let an_hour_later = due + Duration::from_secs(3_600);
        assert_eq!(pace.start(1, an_hour_later) - an_hour_later, 2 * MS);
    }

    #[test]
    fn a_pod_that_stood_still_does_not_race_through_what_it_missed() {
        let pace = Pace::new(2 * MS, Duration::ZERO);
        run(&pace, 1, 1, 1, Duration::from_secs(30));
        let took = run(&pace, 500, 1, 1, Duration::ZERO);
        assert!(took + MAX_DEBT.as_millis() >= 1_000, "500 records at 500/s took {took} ms");
    }

    #[test]
    fn offsets_are_ranges_in_the_order_of_handling() {
        for (offsets, text) in [
            (vec![], ""),
            (vec![5], "5"),
            (vec![5, 6, 7, 8, 9, 11, 14, 15], "5-9,11,14-15"),
            (vec![7, 5, 6, 8], "7,5-6,8"),
            (vec![5, 5, 6], "5,5-6"),
        ] {
            assert_eq!(ranges(offsets), text);
        }
    }

    fn batch(offsets: &[i64]) -> Batch {
        Batch::new(offsets.iter().map(|&offset| Record::new("orders", 3, offset)).collect())
    }

    #[tokio::test]
    async fn a_line_is_the_json_that_tools_read() {
        let handler = LogHandler::with_output(&Spec::default(), "orders-x2x2x", Vec::new());
        assert_eq!(handler.handle(&batch(&[5, 6, 9])).await, Outcomes::done());
        let text = String::from_utf8(handler.out.into_inner().unwrap()).unwrap();
        let line: serde_json::Value =
            serde_json::from_str(text.strip_suffix('\n').unwrap()).unwrap();
        let handled = &line["handled"];
        assert_eq!(handled["topic"], "orders");
        assert_eq!(handled["partition"], 3);
        assert_eq!(handled["offsets"], "5-6,9");
        assert_eq!(handled["pod"], "orders-x2x2x");
        let (started, at) = (handled["started"].as_f64().unwrap(), handled["at"].as_f64().unwrap());
        assert!(started > 1.7e12 && at >= started, "{text}");
    }

    #[tokio::test]
    async fn a_batch_that_was_cancelled_is_neither_written_nor_done() {
        let spec =
            Spec { delay_per_batch: Some(sluice_crds::Duration::from_secs(10)), ..Spec::default() };
        let handler = LogHandler::with_output(&spec, "p", Vec::new());
        let token = CancellationToken::new();
        let batch = batch(&[1]).with_cancellation(token.clone());
        let (outcomes, ()) = tokio::join!(handler.handle(&batch), async { token.cancel() });
        assert!(matches!(outcomes, Outcomes::All(Outcome::Retry { .. })));
        assert!(handler.out.into_inner().unwrap().is_empty());
    }

    /// A pipe whose reader has gone.
    #[derive(Debug)]
    struct Broken;

    impl io::Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_line_that_could_not_be_written_is_not_done() {
        let handler = LogHandler::with_output(&Spec::default(), "p", Broken);
        assert!(matches!(handler.handle(&batch(&[1])).await, Outcomes::All(Outcome::Retry { .. })));
    }
}
