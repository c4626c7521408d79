//! Which key a record has, and which partition a key has. Pure, and the same for the same seed.
//!
//! The rule: key number `k` goes to partition `k mod P` (of the partitions in use), so that load is even as long as keys
//! are. Without skew, record number `n` has key number `n mod K`; with skew `s`, key `k` is drawn with a probability
//! proportional to `1 / (k + 1)^s` (Zipf). Without keys, record `n` goes to partition `n mod P`.

/// How keys are spread over the records.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Skew {
    /// One after the other: every key equally often.
    Even,
    /// Drawn by Zipf's law with this exponent: 1 is strong, 0 is even.
    Zipf(f64),
}

/// Chooses keys and partitions.
#[derive(Clone, Debug)]
pub struct KeyPlan {
    partitions: Vec<i32>,
    keys: u32,
    /// With Zipf: the cumulated probability of the keys up to each one.
    cumulated: Vec<f64>,
    random: fastrand::Rng,
    next: u64,
    /// Records of each key (or, without keys, of each partition) so far.
    sequence: Vec<u64>,
}

/// What was chosen for one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The key's number; `None` for a record without a key.
    pub key: Option<u32>,
    /// The partition.
    pub partition: i32,
    /// How many records of this key (or, without keys, of this partition) came before.
    pub sequence: u64,
}

impl KeyPlan {
    /// A plan for some partitions and a number of keys; with 0 keys the records have none.
    pub fn new(partitions: Vec<i32>, keys: u32, skew: Skew, seed: u64) -> Self {
        let cumulated = match skew {
            Skew::Even => Vec::new(),
            Skew::Zipf(exponent) => {
                let weights = (0..keys).map(|key| f64::from(key + 1).powf(-exponent));
                let sum: f64 = weights.clone().sum();
                weights
                    .scan(0.0, |so_far, weight| {
                        *so_far += weight / sum;
                        Some(*so_far)
                    })
                    .collect()
            }
        };
        let lanes = if keys == 0 { partitions.len() } else { keys as usize };
        Self {
            partitions,
            keys,
            cumulated,
            random: fastrand::Rng::with_seed(seed),
            next: 0,
            sequence: vec![0; lanes],
        }
    }

    /// The choice for the next record.
    pub fn choose(&mut self) -> Choice {
        let number = self.next;
        self.next += 1;
        let lane = if self.keys == 0 {
            (number % self.partitions.len() as u64) as usize
        } else if self.cumulated.is_empty() {
            (number % u64::from(self.keys)) as usize
        } else {
            let drawn = self.random.f64();
            self.cumulated.partition_point(|&up_to| up_to < drawn).min(self.keys as usize - 1)
        };
        let sequence = self.sequence[lane];
        self.sequence[lane] += 1;
        Choice {
            key: (self.keys > 0).then_some(lane as u32),
            partition: self.partitions[lane % self.partitions.len()],
            sequence,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn per_partition(plan: &mut KeyPlan, records: usize) -> BTreeMap<i32, usize> {
        let mut counts = BTreeMap::new();
        for _ in 0..records {
            *counts.entry(plan.choose().partition).or_default() += 1;
        }
        counts
    }

    #[test]
    fn load_is_even_unless_skew_is_asked_for() {
        for keys in [0, 12, 1_200] {
            let mut plan = KeyPlan::new((0..12).collect(), keys, Skew::Even, 1);
            let counts = per_partition(&mut plan, 12_000);
            assert_eq!(counts.len(), 12);
            assert!(counts.values().all(|&count| count == 1_000), "{keys} keys: {counts:?}");
        }
    }

    #[test]
    fn a_key_stays_on_its_partition_and_counts_its_records() {
        for skew in [Skew::Even, Skew::Zipf(1.0)] {
            let mut plan = KeyPlan::new(vec![3, 5], 7, skew, 1);
            let mut seen: BTreeMap<u32, (i32, u64)> = BTreeMap::new();
            for _ in 0..500 {
                let choice = plan.choose();
                let entry = seen.entry(choice.key.unwrap()).or_insert((choice.partition, 0));
                assert_eq!(*entry, (choice.partition, choice.sequence));
                assert_eq!(choice.partition, [3, 5][choice.key.unwrap() as usize % 2]);
                entry.1 += 1;
            }
        }
    }

    #[test]
    fn a_skewed_load_has_hot_keys() {
        let mut plan = KeyPlan::new((0..4).collect(), 100, Skew::Zipf(1.0), 1);
        let mut counts = vec![0_u32; 100];
        for _ in 0..100_000 {
            counts[plan.choose().key.unwrap() as usize] += 1;
        }
        // The harmonic number of 100 is 5.187: the first key has 19.3 % of the records, the tenth 1.93 %.
        assert!((18_500..20_000).contains(&counts[0]), "{}", counts[0]);
        assert!((1_700..2_150).contains(&counts[9]), "{}", counts[9]);
    }
}
