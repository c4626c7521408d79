//! What was read over the last minutes, and what follows from it: rates, lag, seconds behind.
//!
//! Observations alone: nothing that was decided is kept here ([`crate::memory`] has what was
//! learnt).

use std::{cmp::Ordering, collections::VecDeque};

use crate::{
    jump::Jump,
    snapshot::{Committed, Millis, Partition, Snapshot, TopicPartition},
};

/// How long readings are kept.
const KEPT: Millis = 150_000;
/// Readings of the end that are kept of one partition, at most: 640 bytes, 41 MB for 64,000.
const READINGS: usize = 40;
/// A lane that is blocked is given this long before its partition counts as stuck …
const BLOCKED: Millis = 5_000;
/// … and one of which nothing is handled though its pod reports, this long (or three of its slowest calls).
const STALLED: Millis = 15_000;
/// A reading older than this is not taken for now: the broker does not answer.
pub const STALE: Millis = 10_000;
/// Readings come every 15 s at the slowest: what was needed in a longer gap is not known.
const GAP: Millis = 30_000;
/// A reading that is older than the newest by more than this was not overtaken: the clock went
/// back.
const STEP_BACK: Millis = 5_000;
/// Ends that were read within this time are of one moment.
const TOGETHER: Millis = 1_500;

/// How a snapshot was taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It is a new one.
    New,
    /// It is a new one after a long gap: the reader was silent, or its clock went forward.
    AfterGap,
    /// It is known already, or not newer than what is known.
    Known,
    /// The reader's clock went back: all that was read before is forgotten.
    ClockWentBack,
}

/// What was read of a consumer's topics and group over the last minutes.
#[derive(Clone, Debug, Default)]
pub struct Readings {
    /// The partitions of the newest snapshot, sorted, and what is kept of each.
    ids: Vec<TopicPartition>,
    tracks: Vec<Track>,
    /// When the newest snapshot was read.
    newest: Option<Millis>,
    /// Between the newest three snapshots.
    gaps: [Option<Millis>; 2],
    /// Moments and sums over all partitions, of snapshots in which all was known.
    totals: VecDeque<Total>,
    /// Jumps of the arrivals.
    pub(crate) jump: Jump,
}

/// Sums over all partitions at a moment.
#[derive(Clone, Copy, Debug)]
struct Total {
    at: Millis,
    end: i64,
    handled: i64,
}

/// One partition's readings.
#[derive(Clone, Debug, Default)]
struct Track {
    /// When the end was where.
    ends: VecDeque<(Millis, i64)>,
    /// Committed offset, epoch and records handled: what moves while the partition is worked on.
    progress: (i64, i64, u64),
    /// When that last moved, or there was no lag.
    moved: Millis,
    /// The newest report's own time, and when it was first read.
    reported: (i64, Millis),
}

impl Readings {
    /// Takes a snapshot. Taking the same one twice changes nothing.
    pub(crate) fn record(&mut self, snapshot: &Snapshot) -> Taken {
        let mut taken = Taken::New;
        match self.newest {
            Some(newest) if newest - snapshot.at > STEP_BACK => {
                *self = Self::default();
                taken = Taken::ClockWentBack;
            }
            // The same one again, or the clock has not caught up with a small step back.
            Some(newest) if newest >= snapshot.at => return Taken::Known,
            Some(newest) if snapshot.at - newest > GAP => taken = Taken::AfterGap,
            _ => {}
        }
        self.gaps = [self.newest.map(|newest| snapshot.at - newest), self.gaps[0]];
        self.newest = Some(snapshot.at);
        let mut total = Some((0, 0));
        if self.follow(snapshot) {
            // Sums before and after are of different partitions.
            self.totals.clear();
        }
        for (partition, track) in snapshot.partitions.iter().zip(&mut self.tracks) {
            let both = track.record(partition, snapshot.at);
            total =
                total.zip(both).map(|((ends, done), (end, handled))| (ends + end, done + handled));
        }
        if let Some((end, handled)) = total.filter(|_| self.was_read_together(snapshot)) {
            if self.totals.back().is_some_and(|last| end < last.end) {
                // A topic was deleted and created again.
                self.totals.clear();
            }
            self.totals.push_back(Total { at: snapshot.at, end, handled });
            while self.totals.front().is_some_and(|t| t.at < snapshot.at - KEPT) {
                self.totals.pop_front();
            }
            self.jump.observe(
                snapshot.at,
                self.newest_interval(),
                self.arrivals_before_newest(10_000),
            );
        }
        taken
    }

    /// Makes the tracks those of the snapshot's partitions, in its order; whether others are there
    /// than before. Both sides are sorted, so one walk is enough.
    fn follow(&mut self, snapshot: &Snapshot) -> bool {
        if self.ids.iter().eq(snapshot.partitions.iter().map(|p| &p.id)) {
            return false;
        }
        let first = self.ids.is_empty();
        let mut known = std::mem::take(&mut self.tracks);
        self.tracks = positions(&snapshot.partitions, &self.ids, |p, id| p.id.cmp(id))
            .map(|known_at| match known_at {
                Some(at) => std::mem::take(&mut known[at]),
                None => Track { moved: snapshot.at, ..Track::default() },
            })
            .collect();
        self.ids = snapshot.partitions.iter().map(|p| p.id.clone()).collect();
        !first
    }

    /// The snapshot's partitions, each with what is kept of it.
    fn tracks_of<'a>(
        &'a self,
        snapshot: &'a Snapshot,
    ) -> impl Iterator<Item = (&'a Partition, Option<&'a Track>)> {
        let at = positions(&snapshot.partitions, &self.ids, |p, id| p.id.cmp(id));
        snapshot.partitions.iter().zip(at.map(|at| at.map(|at| &self.tracks[at])))
    }

    /// Whether the ends are of about one moment. Where a broker does not answer, its partitions' are not; a sum would then
    /// show their arrivals as none, and all at once when it is back.
    fn was_read_together(&self, snapshot: &Snapshot) -> bool {
        let oldest = snapshot.partitions.iter().map(|p| p.end_at).min().unwrap_or(snapshot.at);
        // Where readings come seldom, they also take longer.
        let since = self.totals.back().map_or(0, |last| snapshot.at - last.at);
        snapshot.at - oldest <= TOGETHER.max(since / 2)
    }

    /// Arrivals of the newest interval between two readings, records per second.
    pub fn newest_interval(&self) -> Option<f64> {
        let newest = self.totals.back()?;
        let before = self.totals.iter().rev().find(|t| t.at <= newest.at - 700)?;
        rate(*before, *newest, |t| t.end)
    }

    /// How far the newest interval reaches back, milliseconds.
    pub(crate) fn newest_span(&self) -> Option<Millis> {
        let newest = self.totals.back()?;
        let before = self.totals.iter().rev().find(|t| t.at <= newest.at - 700)?;
        Some(newest.at - before.at)
    }

    /// Between two readings, where that is known, milliseconds: one that is late makes no interval.
    pub fn interval(&self) -> Option<Millis> {
        let [newest, before] = self.gaps;
        Some(newest?.min(before?))
    }

    /// Mean arrivals over `span` before the newest interval: what the newest one is compared with.
    fn arrivals_before_newest(&self, span: Millis) -> Option<f64> {
        let newest = self.totals.back()?;
        let to = *self.totals.iter().rev().find(|t| t.at <= newest.at - 700)?;
        let from = self.before(to.at - span)?;
        rate(from, to, |t| t.end)
    }

    /// The last sums before a moment, so that a gap in the readings is part of the mean and not cut out of it; no older
    /// than the last jump, and the oldest where the readings do not reach so far.
    fn before(&self, at: Millis) -> Option<Total> {
        let restart = self.jump.restart();
        let mut found = None;
        for total in self.totals.iter().filter(|t| t.at >= restart) {
            if found.is_some() && total.at > at {
                break;
            }
            found = Some(*total);
        }
        found
    }

    /// How far the readings reach back, milliseconds.
    pub fn reach(&self, now: Millis) -> Millis {
        self.totals.front().map_or(0, |t| now - t.at)
    }

    /// Mean arrivals over the last `span` (or since the last jump), records per second.
    pub fn arrivals(&self, span: Millis) -> Option<f64> {
        let newest = *self.totals.back()?;
        let from = self.before(newest.at - span)?;
        rate(from, newest, |t| t.end)
    }

    /// How much of the last `span` [`Self::arrivals`] is the mean of, milliseconds.
    pub(crate) fn span(&self, span: Millis) -> Option<Millis> {
        let newest = self.totals.back()?;
        Some(newest.at - self.before(newest.at - span)?.at)
    }

    /// Mean records handled over the last `span`, records per second.
    pub fn handled(&self, span: Millis) -> Option<f64> {
        let newest = *self.totals.back()?;
        let from = *self.totals.iter().find(|t| t.at >= newest.at - span)?;
        rate(from, newest, |t| t.handled).map(|r| r.max(0.0))
    }

    /// Each partition's share of the arrivals, in the snapshot's order; equal shares where nothing arrived.
    pub fn shares(&self, snapshot: &Snapshot) -> Vec<f64> {
        let from = (snapshot.at - 60_000).max(self.jump.restart());
        let arrived: Vec<f64> = self
            .tracks_of(snapshot)
            .map(|(_, track)| track.map_or(0.0, |track| track.arrived_since(from)))
            .collect();
        let all: f64 = arrived.iter().sum();
        let count = arrived.len().max(1) as f64;
        // A few records say little of how they spread.
        if all < 20.0 * count {
            vec![1.0 / count; arrived.len()]
        } else {
            arrived.iter().map(|a| a / all).collect()
        }
    }

    /// Age of the oldest unprocessed record in seconds, by the reader's own readings; 0 without
    /// lag. `None` where it is older than the readings and no report tells of it.
    pub fn behind(&self, snapshot: &Snapshot, now: Millis) -> Option<f64> {
        let mut most = 0.0_f64;
        for (partition, track) in self.tracks_of(snapshot) {
            if partition.lag()? > 0 {
                most = most.max(track?.behind(partition, now)?);
            }
        }
        Some(most)
    }

    /// Which partitions' records wait behind one that fails again and again, or behind a call that does not end: pods
    /// would not help them. In the snapshot's order.
    pub fn stuck(&self, snapshot: &Snapshot, now: Millis) -> Vec<bool> {
        self.tracks_of(snapshot)
            .map(|(partition, track)| track.is_some_and(|track| track.is_stuck(partition, now)))
            .collect()
    }

    /// Whether nothing arrived in the newest interval.
    pub fn is_quiet(&self) -> bool {
        self.newest_interval() == Some(0.0)
    }
}

fn rate(from: Total, to: Total, of: impl Fn(&Total) -> i64) -> Option<f64> {
    let seconds = (to.at - from.at) as f64 / 1e3;
    // Below half a second a rate is mostly chance.
    (seconds >= 0.5).then(|| (of(&to) - of(&from)) as f64 / seconds)
}

/// Where each of `wanted` is in `among`: both are sorted, so that one walk over them tells.
fn positions<'a, A, B>(
    wanted: &'a [A],
    among: &'a [B],
    mut compare: impl FnMut(&A, &B) -> Ordering + 'a,
) -> impl Iterator<Item = Option<usize>> + 'a {
    let mut next = 0;
    wanted.iter().map(move |one| {
        while let Some(other) = among.get(next) {
            match compare(one, other) {
                Ordering::Less => return None,
                Ordering::Equal => {
                    next += 1;
                    return Some(next - 1);
                }
                Ordering::Greater => next += 1,
            }
        }
        None
    })
}

/// The least time between two readings of this age that are kept: the newest ten seconds whole, a
/// minute to five seconds, and older ones the more coarsely the older they are.
fn spacing(age: Millis) -> Millis {
    match age {
        ..10_000 => 0,
        10_000..60_000 => 5_000,
        60_000..150_000 => 15_000,
        _ => age / 2,
    }
}

impl Track {
    /// Keeps one more reading of the end.
    fn push(&mut self, at: Millis, end: i64) {
        let last = self.ends.len().wrapping_sub(1);
        if self.ends.len() > 1 && self.ends[last].1 == end && self.ends[last - 1].1 == end {
            // Where nothing arrives, the first and the last reading tell all.
            self.ends[last].0 = at;
            return;
        }
        if self.ends.len() == READINGS {
            // The first stays: it tells how far back the readings reach.
            let mut kept = self.ends[0].0;
            self.ends.retain(|&(when, _)| {
                let keep = when == kept || when - kept >= spacing(at - when);
                if keep {
                    kept = when;
                }
                keep
            });
            if self.ends.len() == READINGS {
                let mut n = 0;
                self.ends.retain(|_| {
                    n += 1;
                    n % 2 == 1 || n > READINGS / 2
                });
            }
        }
        self.ends.push_back((at, end));
    }

    /// Whether records wait behind one that fails again and again, or behind a call that does not end.
    fn is_stuck(&self, partition: &Partition, now: Millis) -> bool {
        let Some(report) = &partition.report else { return false };
        let unmoved = now - self.moved;
        if report.blocked.is_some() {
            return unmoved > BLOCKED;
        }
        let patience = STALLED.max((report.handler_p99_ms * 3.0) as Millis);
        // The pod is alive: it went on reporting while nothing moved.
        unmoved > patience && self.reported.1 - self.moved > patience / 2
    }

    /// Takes a reading; the end, and what is done, where both are known.
    fn record(&mut self, partition: &Partition, at: Millis) -> Option<(i64, i64)> {
        let end = partition.end?;
        if self.ends.back().is_some_and(|&(_, last)| end < last) {
            self.ends.clear();
        }
        if self.ends.back().is_none_or(|&(when, _)| when < partition.end_at) {
            self.push(partition.end_at, end);
        }
        let Committed::At(committed) = partition.committed else {
            return (partition.committed == Committed::None)
                .then_some((end, partition.start.unwrap_or(0)));
        };
        let report = partition.report.as_ref();
        let progress = (committed, report.map_or(0, |r| r.epoch), report.map_or(0, |r| r.handled));
        if self.progress != progress || partition.lag() == Some(0) {
            (self.progress, self.moved) = (progress, at);
        }
        if let Some(report) = report
            && self.reported.0 != report.at
        {
            self.reported = (report.at, at);
        }
        let beyond = partition.report.as_ref().map_or(0, |report| report.done_beyond as i64);
        Some((end, committed + beyond))
    }

    fn arrived_since(&self, from: Millis) -> f64 {
        let (Some(&(_, newest)), Some(&(_, oldest))) = (self.ends.back(), self.ends.front()) else {
            return 0.0;
        };
        let after = self.ends.iter().position(|&(when, _)| when >= from).unwrap_or(self.ends.len());
        if after == 0 || after == self.ends.len() {
            return if after == 0 { (newest - oldest) as f64 } else { 0.0 };
        }
        // Between two readings the end moved evenly: one that was away for a while has its share of that while.
        let ((t0, e0), (t1, e1)) = (self.ends[after - 1], self.ends[after]);
        let share = (from - t0) as f64 / (t1 - t0).max(1) as f64;
        newest as f64 - (e0 as f64 + (e1 - e0) as f64 * share)
    }

    /// Seconds since the end passed the first unprocessed offset.
    fn behind(&self, partition: &Partition, now: Millis) -> Option<f64> {
        let first = match partition.committed {
            Committed::At(offset) => offset.max(partition.start?),
            Committed::None => partition.start?,
            Committed::Unknown => return None,
        };
        // The readings around the moment at which the end passed it; between them the end moved evenly.
        let after = self.ends.iter().position(|&(_, end)| end > first)?;
        let passed = if after == 0 {
            // Older than the readings: its own time stamp tells.
            let oldest = self.ends.front().map_or(now, |&(at, _)| at);
            partition.report.as_ref().and_then(|report| report.oldest_open)?.min(oldest)
        } else {
            let ((t0, e0), (t1, e1)) = (self.ends[after - 1], self.ends[after]);
            t0 + (t1 - t0) * (first - e0 + 1) / (e1 - e0).max(1)
        };
        Some(((now - passed) as f64 / 1e3).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn partitions_are_found_again_in_one_walk() {
        let before: Vec<u32> = (0..10_000).collect();
        // Every third is gone, and some are new.
        let after: Vec<u32> = (0..12_000).filter(|n| n % 3 != 0).collect();
        let compared = Cell::new(0);
        let found: Vec<_> = positions(&after, &before, |a, b| {
            compared.set(compared.get() + 1);
            a.cmp(b)
        })
        .collect();
        assert_eq!(found.len(), after.len());
        for (n, at) in after.iter().zip(found) {
            assert_eq!(at.map(|at| before[at]), (*n < 10_000).then_some(*n));
        }
        assert!(compared.get() <= before.len() + after.len(), "{} comparisons", compared.get());
    }

    #[test]
    fn readings_reach_far_back_in_bounded_memory() {
        let mut track = Track::default();
        for second in 0..7_200 {
            track.push(second * 1_000, second * 100);
            assert!(track.ends.len() <= READINGS && track.ends.capacity() <= 64);
            assert_eq!(track.ends[0], (0, 0));
        }
        let now = 7_199_000;
        for pair in track.ends.make_contiguous().windows(2) {
            let (age, apart) = (now - pair[0].0, pair[1].0 - pair[0].0);
            assert!(apart <= 1_000.max(age), "{apart} ms between readings {age} ms old");
            assert!(age > 60_000 || apart <= 6_000, "{apart} ms between readings {age} ms old");
        }
        // Nothing arrives: two readings are enough.
        let mut idle = Track::default();
        (0..600).for_each(|second| idle.push(second * 1_000, 5));
        assert_eq!(idle.ends, [(0, 5), (599_000, 5)]);
    }
}
