//! How busy the pod is: slots in use over time, and how long the handler takes. Pure: `now` is an argument.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// The window of the handler's percentile is a minute, in parts of this length.
const PART: Duration = Duration::from_secs(10);
const PARTS: usize = 6;

/// What is seen of the pod at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Load {
    /// Batches in work.
    pub(crate) in_use: usize,
    /// Batches that could be in work with these knobs and partitions.
    pub(crate) slots: usize,
    /// Records wait although slots are free: their lanes are in work.
    pub(crate) held_by_order: bool,
}

/// What was measured between two reports.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Reading {
    /// Seconds of slots in use since the start.
    pub(crate) slot_seconds: f64,
    /// Mean slots in use ÷ usable slots since the reading before, 0 to 1.
    pub(crate) busy: f64,
    /// Mean usable slots since the reading before.
    pub(crate) usable_slots: f64,
    /// Share of the batches that went out full since the reading before.
    pub(crate) full_batches: f64,
    /// 99th percentile of a call in the last minute.
    pub(crate) handler_p99: Duration,
}

/// Measures.
#[derive(Debug)]
pub(crate) struct Meter {
    at: Instant,
    load: Load,
    slot_seconds: f64,
    /// Integrals since the last reading.
    used: f64,
    usable: f64,
    seconds: f64,
    full: u64,
    batches: u64,
    times: [Histogram<u32>; PARTS],
    part: usize,
    part_since: Instant,
    last: Reading,
}

impl Meter {
    /// `None` if the histogram's bounds were wrong, which they are not.
    pub(crate) fn new(now: Instant) -> Option<Self> {
        // From a microsecond to an hour, two digits: 20 KiB a part.
        let part = || Histogram::<u32>::new_with_bounds(1, 3_600_000_000, 2).ok();
        Some(Self {
            at: now,
            load: Load::default(),
            slot_seconds: 0.0,
            used: 0.0,
            usable: 0.0,
            seconds: 0.0,
            full: 0,
            batches: 0,
            times: [part()?, part()?, part()?, part()?, part()?, part()?],
            part: 0,
            part_since: now,
            last: Reading::default(),
        })
    }

    /// From now on the load is this.
    pub(crate) fn load(&mut self, now: Instant, load: Load) {
        if self.load != load {
            self.advance(now);
            self.load = load;
        }
    }

    /// A batch goes out.
    pub(crate) fn sent(&mut self, full: bool) {
        self.batches += 1;
        self.full += u64::from(full);
    }

    /// A call has ended.
    pub(crate) fn ended(&mut self, now: Instant, took: Duration) {
        self.rotate(now);
        if let Some(part) = self.times.get_mut(self.part) {
            part.saturating_record((took.as_micros() as u64).max(1));
        }
    }

    /// What was measured since the last reading.
    pub(crate) fn read(&mut self, now: Instant) -> Reading {
        self.advance(now);
        self.rotate(now);
        // Two readings in a row (a revoke right after a tick) would say nothing of so short a time.
        if self.seconds >= 0.2 {
            self.last = Reading {
                slot_seconds: self.slot_seconds,
                busy: if self.usable > 0.0 { (self.used / self.usable).min(1.0) } else { 0.0 },
                usable_slots: self.usable / self.seconds,
                full_batches: if self.batches > 0 {
                    self.full as f64 / self.batches as f64
                } else {
                    0.0
                },
                handler_p99: self.p99(),
            };
            (self.used, self.usable, self.seconds, self.full, self.batches) = (0.0, 0.0, 0.0, 0, 0);
        }
        self.last.slot_seconds = self.slot_seconds;
        self.last
    }

    fn advance(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now.max(self.at);
        let in_use = self.load.in_use as f64;
        self.slot_seconds += in_use * seconds;
        self.used += in_use * seconds;
        self.seconds += seconds;
        // While records wait for their lanes and slots are free, no more slots could be in use than are. Weighed by time:
        // at a low load that happens for a moment now and then and says little, under a hot key it is so all the time.
        let usable = if self.load.held_by_order && self.load.in_use < self.load.slots {
            in_use
        } else {
            (self.load.slots as f64).max(in_use)
        };
        self.usable += usable * seconds;
    }

    fn rotate(&mut self, now: Instant) {
        let mut behind = now.saturating_duration_since(self.part_since);
        if behind >= PART * PARTS as u32 {
            self.times.iter_mut().for_each(Histogram::reset);
            self.part_since = now;
            return;
        }
        while behind >= PART {
            behind -= PART;
            self.part_since += PART;
            self.part = (self.part + 1) % PARTS;
            if let Some(part) = self.times.get_mut(self.part) {
                part.reset();
            }
        }
    }

    fn p99(&self) -> Duration {
        let total: u64 = self.times.iter().map(Histogram::len).sum();
        if total == 0 {
            return Duration::ZERO;
        }
        let Some((first, rest)) = self.times.split_first() else { return Duration::ZERO };
        let mut all = first.clone();
        for part in rest {
            // The bounds are the same, so that this cannot fail.
            let _ = all.add(part);
        }
        Duration::from_micros(all.value_at_quantile(0.99))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn load(in_use: usize, slots: usize, held_by_order: bool) -> Load {
        Load { in_use, slots, held_by_order }
    }

    #[test]
    fn busy_is_the_mean_of_slots_in_use_over_usable_slots() {
        let start = Instant::now();
        let mut meter = Meter::new(start).unwrap();
        meter.load(start, load(4, 4, false));
        meter.load(start + SECOND, load(0, 4, false));
        let reading = meter.read(start + 2 * SECOND);
        assert_eq!((reading.slot_seconds, reading.busy, reading.usable_slots), (4.0, 0.5, 4.0));
        let reading = meter.read(start + 3 * SECOND);
        assert_eq!(
            (reading.slot_seconds, reading.busy),
            (4.0, 0.0),
            "the next reading begins anew, the counter does not"
        );
    }

    #[test]
    fn a_hot_key_leaves_one_slot_usable() {
        let start = Instant::now();
        let mut meter = Meter::new(start).unwrap();
        meter.load(start, load(1, 16, true));
        let reading = meter.read(start + SECOND);
        assert_eq!((reading.usable_slots, reading.busy), (1.0, 1.0));
    }

    #[test]
    fn a_moment_of_waiting_at_a_low_load_says_little() {
        let start = Instant::now();
        let mut meter = Meter::new(start).unwrap();
        meter.load(start, load(1, 16, true));
        meter.load(start + SECOND / 100, load(0, 16, false));
        assert!(meter.read(start + SECOND).usable_slots > 15.0);
    }

    #[test]
    fn fewer_slots_than_batches_in_work_is_not_more_than_busy() {
        let start = Instant::now();
        let mut meter = Meter::new(start).unwrap();
        meter.load(start, load(8, 2, false));
        assert!((meter.read(start + SECOND).busy - 1.0).abs() < 1e-9);
    }

    #[test]
    fn the_percentile_forgets_what_is_older_than_a_minute() {
        let start = Instant::now();
        let mut meter = Meter::new(start).unwrap();
        meter.ended(start, Duration::from_secs(5));
        for _ in 0..9 {
            meter.ended(start, Duration::from_millis(2));
        }
        assert!(meter.read(start + SECOND).handler_p99 > Duration::from_secs(4));
        meter.ended(start + 65 * SECOND, Duration::from_millis(2));
        assert!(meter.read(start + 66 * SECOND).handler_p99 < Duration::from_millis(3));
    }

    #[test]
    fn full_batches_are_a_share_of_what_went_out() {
        let start = Instant::now();
        let mut meter = Meter::new(start).unwrap();
        meter.sent(true);
        meter.sent(false);
        assert!((meter.read(start + SECOND).full_batches - 0.5).abs() < 1e-9);
    }
}
