//! The operator: the only place that talks to the API server and reads Kafka.
//!
//! A pass over one `KafkaConsumer` is [`pass`]: observe → validate → decide → settle → target → build → apply →
//! report, one file a step. [`control`] says when a pass runs, [`cluster`] reads and writes the API server, [`kafka`] reads Kafka. What is
//! decided lives in `sluice-planner`; what users and pods see as types in `sluice-crds`.
//!
//! # Arguments (each also by environment)
//!
//! | argument | environment | default |
//! | --- | --- | --- |
//! | `--watch-namespaces a,b` | `SLUICE_WATCH_NAMESPACES` | all namespaces |
//! | `--consumer-image IMAGE` | `SLUICE_CONSUMER_IMAGE` | none: then each `spec.pod.image` is required |
//! | `--consumer-run-as-user ID\|assigned` | `SLUICE_CONSUMER_RUN_AS_USER` | 65532; `assigned`: the platform chooses |
//! | `--max-replicas-per-consumer N` | `SLUICE_MAX_REPLICAS_PER_CONSUMER` | 256 |
//! | `--listen ADDR` | `SLUICE_LISTEN` | `[::]:8080`, or `0.0.0.0:8080` without IPv6 (`/livez`, `/readyz`, `/metrics`) |
//! | `--concurrency N` | `SLUICE_CONCURRENCY` | 16 passes at once |
//! | `--allowed-brokers LIST` | `SLUICE_ALLOWED_BROKERS` | every broker may be connected to |
//! | `--max-partitions-per-consumer N` | `SLUICE_MAX_PARTITIONS_PER_CONSUMER` | 20,000 |
//! | `--log FILTER` | `SLUICE_LOG` | `info` (`tracing` syntax) |
//! | `--log-format text\|json` | `SLUICE_LOG_FORMAT` | `text` |
//! | — | `POD_NAME` | downward API: names the source of events |
//!
//! # Permissions (a Role in each watched namespace, or a ClusterRole)
//!
//! | group | resource | verbs | needed by | why |
//! | --- | --- | --- | --- | --- |
//! | `sluice.dev` | `kafkaconsumers` | list, watch | `cluster/watches.rs` | what users ask for |
//! | `sluice.dev` | `kafkaconsumers/status` | patch | `pass/report/writer.rs` | what users read back, by server-side apply |
//! | `sluice.dev` | `kafkaconsumers/finalizers` | update | `cluster/apply.rs` | owner references with `blockOwnerDeletion`, where the admission plugin OwnerReferencesPermissionEnforcement is on |
//! | `apps` | `deployments` | get, list, watch, create, patch | `cluster/watches.rs`, `children.rs`, `apply.rs` | the consumer's pods. Server-side apply needs create and patch; `get` asks whether one that no watch shows is really absent |
//! | `apps` | `replicasets` | list | `cluster/configs.rs` | which static configurations are still named, before one is deleted |
//! | (core) | `configmaps` | get, list, watch, create, patch, delete | `cluster/watches.rs`, `children.rs`, `apply.rs`, `configs.rs` | static configurations and tuning file, as above; a static configuration that nothing names any more is deleted |
//! | (core) | `pods` | list, watch, patch | `cluster/watches.rs`, `apply.rs` | what stands in their way; `patch` annotates them, so that the kubelet syncs the tuning file at once |
//! | `events.k8s.io` | `events` | create | `cluster/events.rs` | what `kubectl describe` shows |
//!
//! Nothing else is deleted (the garbage collector follows the owner references), no Secret is read,
//! and nothing cluster-scoped is touched. docs/operations.md has the same table. At the start the operator asks discovery for `sluice.dev`, which every account may. It needs no leader
//! election lease: one replica, strategy `Recreate`.

pub mod args;
pub mod clock;
mod cluster;
pub mod control;
mod hash;
mod identity;
pub mod kafka;
mod metrics;
mod pass;
mod platform;
