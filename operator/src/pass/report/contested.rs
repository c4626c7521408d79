//! The condition `Contested`: who else writes this consumer's objects. Pure.

use sluice_crds::conditions::reason;
use tokio::time::Instant;

use super::conditions::Verdict;
use crate::cluster::written::Written;

/// Whether somebody else writes what Sluice writes, and what follows from that.
pub fn verdict(written: &Written, now: Instant) -> Verdict {
    let disputes = [
        ("spec.replicas of the Deployment", &written.replicas_contest),
        ("the Deployment", &written.deployment.contest),
        ("the ConfigMap with the knobs", &written.tuning.contest),
    ];
    let found: Vec<_> = disputes
        .into_iter()
        .filter_map(|(what, contest)| contest.dispute(now).map(|(rival, left)| (what, rival, left)))
        .collect();
    let Some((what, rival, _)) = found.iter().max_by_key(|(_, _, left)| *left) else {
        return Verdict::no(reason::SOLE_WRITER, "nobody else writes this consumer's objects");
    };
    let left = found.iter().any(|(_, _, left)| *left);
    let advice = "stop that writer (a HorizontalPodAutoscaler, another operator, a policy), or set \
                  the annotation sluice.dev/paused: \"true\"";
    if left {
        Verdict::yes(
            reason::LEFT_TO_OTHER,
            format!(
                "{} writes {what} too. Sluice took it back three times, and leaves it alone until \
                 that writer has been silent for 5 minutes: {advice}",
                rival.manager
            ),
        )
    } else {
        Verdict::yes(
            reason::TAKEN_BACK,
            format!("{} wrote {what} too, and Sluice took it back: {advice}", rival.manager),
        )
    }
}
