//! How many pods? The smallest count whose fullest pod can do what its partitions need.

/// A count of pods that the partitions need, and whether it suffices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needed {
    /// Pods.
    pub pods: u32,
    /// Whether the fullest pod can do what its partitions need; with one partition a pod more do not help.
    pub enough: bool,
}

/// The smallest useful count of pods whose fullest one copes.
///
/// `needs` are the records per second of each partition; `limit` says how many a pod with that many
/// partitions may have. A count is useful only if it makes the fullest pod smaller: 12 partitions
/// on 7 pods leave two on some, as 6 pods do.
pub fn needed(needs: &[f64], limit: impl Fn(u32) -> f64) -> Needed {
    let partitions = needs.len() as u32;
    if partitions == 0 || needs.iter().sum::<f64>() <= 0.0 {
        return Needed { pods: u32::from(partitions > 0), enough: true };
    }
    let mut fullest = needs.to_vec();
    fullest.sort_unstable_by(|a, b| b.total_cmp(a));
    useful(&fullest, &limit).map_or_else(
        || {
            // Even a partition a pod is too much for the hottest: more than it takes for the others is wasted on it.
            let hot = fullest.partition_point(|need| *need > limit(1));
            let for_rest = useful(&fullest[hot..], &limit).unwrap_or(0);
            Needed { pods: (hot as u32 + for_rest).clamp(1, partitions), enough: false }
        },
        |pods| Needed { pods, enough: true },
    )
}

/// The smallest count of pods of which the fullest copes with its partitions; `fullest` is sorted
/// from the largest need to the smallest.
fn useful(fullest: &[f64], limit: impl Fn(u32) -> f64) -> Option<u32> {
    let partitions = fullest.len() as u32;
    let mut sum = 0.0;
    // What the first, the first two, … partitions need together.
    let sums: Vec<f64> = fullest
        .iter()
        .map(|need| {
            sum += need;
            sum
        })
        .collect();
    if sum <= 0.0 {
        return (partitions > 0).then_some(1);
    }
    // Partitions of the fullest pod, from all of them down to one.
    let mut per_pod = partitions;
    while per_pod > 0 {
        let pods = partitions.div_ceil(per_pod);
        let per_pod_now = partitions.div_ceil(pods);
        if sums[per_pod_now as usize - 1] <= limit(per_pod_now) {
            return Some(pods);
        }
        // The next count with a smaller fullest pod.
        per_pod = per_pod_now - 1;
    }
    None
}

/// The count within the bounds: where `max` cuts it off, the largest useful one below.
pub fn within(pods: u32, min: u32, max: Option<u32>, partitions: u32) -> u32 {
    let most = max.unwrap_or(partitions).min(partitions);
    let pods = if pods > most { useful_below(most, partitions) } else { pods };
    pods.max(min).min(partitions)
}

/// The smallest count with a fullest pod as small as `most` pods have it.
fn useful_below(most: u32, partitions: u32) -> u32 {
    if most == 0 || partitions == 0 { 0 } else { partitions.div_ceil(partitions.div_ceil(most)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn even(partitions: usize, total: f64) -> Vec<f64> {
        vec![total / partitions as f64; partitions]
    }

    #[test]
    fn the_fullest_pod_decides() {
        for (partitions, total, limit, pods) in [
            (12, 300.0, 400.0, 1),
            (12, 1_900.0, 400.0, 6), // four pods have three partitions each: 475 > 400
            (12, 3_600.0, 500.0, 12), // eleven would leave two on one pod: 600 > 500
            (12, 2_250.0, 400.0, 6),
            (6, 950.0, 400.0, 3),
            (5, 59.0, 10.0, 5),  // never one above the partitions (keda#4483)
            (64, 1e9, 10.0, 64), // and never stuck below them (keda#2908)
            (126, 63.0 * 400.0, 400.0, 63),
            (12, 0.0, 400.0, 1),
        ] {
            assert_eq!(
                needed(&even(partitions, total), |_| limit).pods,
                pods,
                "{partitions} partitions, {total}/s, {limit}/s a pod"
            );
        }
    }

    #[test]
    fn a_hot_partition_gets_no_pods_that_cannot_help_it() {
        let mut needs = vec![10.0; 12];
        needs[3] = 900.0;
        let answer = needed(&needs, |_| 400.0);
        assert_eq!((answer.pods, answer.enough), (2, false));
    }

    #[test]
    fn bounds_cut_to_counts_that_help() {
        for (pods, min, max, partitions, answer) in [
            (12, 1, None, 12, 12),
            (12, 1, Some(11), 12, 6),
            (12, 1, Some(4), 12, 4),
            (1, 3, None, 12, 3),
            (1, 20, None, 12, 12),
            (0, 0, None, 12, 0),
        ] {
            assert_eq!(
                within(pods, min, max, partitions),
                answer,
                "{pods} in {min}..{max:?} of {partitions}"
            );
        }
    }
}
