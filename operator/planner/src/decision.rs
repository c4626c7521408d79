//! What the planner says of one consumer at one moment, with its reason and the numbers it comes from.

use sluice_crds::tuning::Knobs;

/// A decision.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// Pods that are to run.
    pub replicas: u32,
    /// Knobs that they are to run with.
    pub knobs: Knobs,
    /// What changes of the knobs and why, one sentence; `None` where they are those in place.
    pub knobs_message: Option<String>,
    /// Why so many pods, one word.
    pub reason: Reason,
    /// Why, one sentence with its numbers.
    pub message: String,
    /// What it comes from.
    pub numbers: Numbers,
    /// The bound that is in the way of the number that the lag asks for.
    pub limit: Option<Limit>,
    /// Whether the group's members should be read: a decision is near.
    pub wants_group: bool,
}

/// Declares the reasons once: the list of all of them cannot lack one.
macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// Why a decision is as it is: a fixed list.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason {
            $($(#[$doc])* $name,)+
        }

        impl Reason {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// As status and events have it.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }
        }
    };
}

reasons! {
    /// Something of the lag is not known: nothing moves.
    LagUnknown,
    /// The pods keep up with what arrives.
    Steady,
    /// Arrivals need more pods.
    ArrivalsUp,
    /// A backlog needs more pods.
    Backlog,
    /// The desired pods drain a backlog.
    Draining,
    /// Arrivals rose in one step: the next reading tells whether they stay.
    JumpSuspected,
    /// Fewer pods are enough; they are removed once that has held for the whole window.
    WaitingToShrink,
    /// The highest demand of the window fits into fewer pods.
    ArrivalsDown,
    /// Nothing arrived for the window and no lag is left.
    Idle,
    /// Records arrived while no pod ran.
    Wake,
    /// More concurrency is enough: no further pods are needed.
    KnobsFirst,
    /// Pods are starting or stopping, or the group is rebalancing.
    GroupUnsettled,
    /// The capacity of a pod was not measured yet.
    Learning,
    /// A record fails again and again; more pods would not help.
    RecordStuck,
    /// One partition receives more than a pod can handle; more pods would not help.
    HotPartition,
    /// All pods that a bound allows run, and more arrives than they can handle.
    BoundReached,
    /// More pods run than there are partitions, or than the bounds allow.
    Bounds,
}

/// A bound that is in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// `maxReplicas`.
    MaxReplicas,
    /// `minReplicas` holds more pods than are needed.
    MinReplicas,
    /// The number of partitions.
    Partitions,
}

/// The numbers of a decision; what is not known is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Numbers {
    /// Unprocessed records.
    pub lag: Option<i64>,
    /// Age of the oldest of them in seconds.
    pub behind: Option<f64>,
    /// The lag beyond what is in flight anyway.
    pub backlog: Option<i64>,
    /// Records per second that arrive: mean of the last minute, or since they last jumped.
    pub arrivals: Option<f64>,
    /// Records per second that are handled, mean of the last ten seconds.
    pub handled: Option<f64>,
    /// Records per second that must be handled.
    pub demand: Option<f64>,
    /// Records per second that a pod can handle, at the decided count.
    pub capacity: Option<f64>,
}
