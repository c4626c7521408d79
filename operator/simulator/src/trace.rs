//! How fast records arrive: a schedule of rates with noise on it.

/// Arrivals of all partitions together, records per second over time.
#[derive(Clone, Debug)]
pub struct Trace {
    /// From when on (milliseconds) it heads for which rate, and how long it takes to get there.
    points: Vec<Point>,
    /// Standard deviation of the noise, as a share of the rate.
    noise: f64,
    seed: u64,
}

#[derive(Clone, Copy, Debug)]
struct Point {
    at: i64,
    rate: f64,
    within: i64,
}

/// Milliseconds in which noise forgets itself: slow enough not to average out within a reading.
const NOISE_MEMORY: f64 = 20_000.0;

impl Trace {
    /// A constant rate.
    #[must_use]
    pub fn constant(rate: f64) -> Self {
        Self { points: vec![Point { at: 0, rate, within: 0 }], noise: 0.0, seed: 1 }
    }

    /// From `at` (milliseconds) on another rate, at once.
    #[must_use]
    pub fn step(self, at: i64, rate: f64) -> Self {
        self.ramp(at, 0, rate)
    }

    /// From `at` on towards another rate, evenly over `within` milliseconds.
    #[must_use]
    pub fn ramp(mut self, at: i64, within: i64, rate: f64) -> Self {
        self.points.push(Point { at, rate, within });
        self
    }

    /// With noise: a share of the rate (standard deviation) that changes within tens of seconds.
    #[must_use]
    pub fn noisy(mut self, share: f64, seed: u64) -> Self {
        (self.noise, self.seed) = (share, seed);
        self
    }

    /// The rate without its noise.
    #[must_use]
    pub fn planned(&self, at: i64) -> f64 {
        let mut rate = 0.0;
        for point in self.points.iter().filter(|p| p.at <= at) {
            let share = if point.within == 0 {
                1.0
            } else {
                ((at - point.at) as f64 / point.within as f64).min(1.0)
            };
            rate += (point.rate - rate) * share;
        }
        rate
    }

    /// Starts to play the trace.
    #[must_use]
    pub fn play(&self) -> Playing {
        Playing { trace: self.clone(), random: fastrand::Rng::with_seed(self.seed), deviation: 0.0 }
    }
}

/// A trace that is played.
#[derive(Clone, Debug)]
pub struct Playing {
    trace: Trace,
    random: fastrand::Rng,
    deviation: f64,
}

impl Playing {
    /// Records per second now, `step` milliseconds after the last call.
    pub fn rate(&mut self, at: i64, step: i64) -> f64 {
        let planned = self.trace.planned(at);
        if self.trace.noise == 0.0 {
            return planned;
        }
        // A first-order process with the noise's deviation; twelve uniform numbers make a normal one.
        let keep = (-step as f64 / NOISE_MEMORY).exp();
        let normal = (0..12).map(|_| self.random.f64()).sum::<f64>() - 6.0;
        self.deviation = self.deviation * keep + normal * (1.0 - keep * keep).sqrt();
        planned * (1.0 + self.trace.noise * self.deviation.clamp(-3.0, 3.0)).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ramp_ends_where_it_heads_for() {
        let trace = Trace::constant(300.0).ramp(10_000, 60_000, 3_000.0);
        assert!((trace.planned(40_000) - 1_650.0).abs() < 1.0);
        assert!((trace.planned(80_000) - 3_000.0).abs() < 1e-9);
    }

    #[test]
    fn noise_has_the_deviation_it_is_said_to_have_and_is_the_same_each_time() {
        let trace = Trace::constant(1_000.0).noisy(0.1, 7);
        let play = || {
            let mut playing = trace.play();
            (0..400_000).map(|n| playing.rate(n * 50, 50)).collect::<Vec<_>>()
        };
        let rates = play();
        let mean = rates.iter().sum::<f64>() / rates.len() as f64;
        let deviation =
            (rates.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / rates.len() as f64).sqrt();
        assert!(
            (mean - 1_000.0).abs() < 20.0 && (85.0..115.0).contains(&deviation),
            "{mean} ± {deviation}"
        );
        assert_eq!(rates, play());
    }
}
