//! Shows the play as plain lines: for a pipe, a log, a continuous integration.

use super::scene::Scene;

/// How often a line of numbers comes, in seconds.
const EVERY: f64 = 5.0;

/// What was told so far.
#[derive(Debug, Default)]
pub struct Lines {
    phases: usize,
    decisions: usize,
    numbers_at: f64,
}

impl Lines {
    /// The lines that are new since the last time.
    pub fn next(&mut self, scene: &Scene) -> Vec<String> {
        let mut lines = Vec::new();
        for phase in scene.phases.iter().skip(self.phases) {
            lines.push(format!(
                "{:>6.1}s  == {}: {}",
                scene.seconds(phase.since),
                phase.title,
                phase.text
            ));
        }
        self.phases = scene.phases.len();
        for decision in scene.decisions.iter().skip(self.decisions) {
            lines.push(format!(
                "{:>6.1}s  -> {}: {}",
                scene.seconds(decision.at),
                decision.reason,
                decision.message
            ));
        }
        self.decisions = scene.decisions.len();
        let now = scene.now();
        let at = scene.seconds(now.at);
        if !scene.readings.is_empty() && at >= self.numbers_at {
            self.numbers_at = (at / EVERY).floor() * EVERY + EVERY;
            lines.push(format!(
                "{at:>6.1}s     {:>5.0}/s arrive  {:>5.0}/s handled  {:>6} waiting  pods {:>2} ready of {:>2}  batch {}  concurrency {}",
                now.arriving, now.handled, now.backlog, now.ready, now.wanted, now.batch_size, now.concurrency
            ));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        demo::scene::Phase,
        record::{ClusterState, DecisionSeen},
    };

    #[test]
    fn each_decision_and_phase_is_told_once_and_numbers_every_five_seconds() {
        let (mut scene, mut lines) = (Scene::default(), Lines::default());
        scene.enter(Phase { title: "a".into(), text: "b".into(), since: 0 });
        let mut told = Vec::new();
        for n in 0..=20_i64 {
            let decisions =
                vec![DecisionSeen { reason: "ScaleUp".into(), ..DecisionSeen::default() }];
            scene.read(
                n * 500,
                n as u64,
                0,
                &ClusterState { decisions, ..ClusterState::default() },
            );
            told.extend(lines.next(&scene));
        }
        let count = |what: &str| told.iter().filter(|line| line.contains(what)).count();
        assert_eq!((count("== a"), count("ScaleUp"), count("arrive")), (1, 1, 3));
    }
}
