//! Progress of long work, for a person who looks: what is done now, and how long it took.

use std::{
    io::Write,
    time::{Duration, Instant},
};

/// Prints a line a step to standard error, each with the time since the start.
#[derive(Debug)]
pub struct Progress {
    start: Instant,
    quiet: bool,
}

impl Default for Progress {
    fn default() -> Self {
        Self { start: Instant::now(), quiet: false }
    }
}

impl Progress {
    /// Prints nothing.
    pub fn quiet() -> Self {
        Self { quiet: true, ..Self::default() }
    }

    /// A step begins.
    pub fn step(&mut self, what: &str) {
        if !self.quiet {
            // Nobody is left to tell when standard error is closed.
            let _ = writeln!(std::io::stderr(), "{:>6.1}s  {what}", self.elapsed().as_secs_f64());
        }
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }
}
