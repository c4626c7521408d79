//! Passes in order: which consumer is due, how many at once, how long one may take, and how long it waits after a
//! failure. What a pass does is `pass`.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{
    StreamExt,
    stream::{BoxStream, FuturesUnordered},
};
use kube::{Resource, core::error_boundary::InvalidObject, runtime::reflector::ObjectRef};
use sluice_crds::{KafkaConsumer, conditions::reason, error::sentence};
use tokio::{sync::Mutex as AsyncMutex, time::Instant};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::health::Health;
use super::schedule::{Key, Schedule};
use crate::{
    cluster::{
        events::Event,
        watch::{Guarded, Request, Scope, Stores},
    },
    identity::Identity,
    pass::{
        self, Moment, backoff,
        claims::Claim,
        context::{Context, Shared},
        memory::{Memory, Tried, Waiting},
        validate::{self, Rules},
    },
};

/// A pass that takes longer is cut off and tried again. Its steps have bounds of their own, together 20 s.
const PASS: Duration = Duration::from_secs(25);
/// The longest wait while the name of an object is somebody else's.
const REMOVAL: Duration = Duration::from_secs(30);
/// Requests within this time of the first are one.
const DEBOUNCE: Duration = Duration::from_millis(20);

/// The consumers of one scope, whose passes are run.
struct Passes {
    /// What a pass is given.
    context: Context,
    kept: Mutex<HashMap<Key, Arc<Kept>>>,
}

/// What is kept of one consumer.
#[derive(Default)]
struct Kept {
    uid: String,
    waiting: Mutex<Waiting>,
    /// A pass holds it: the schedule never runs two passes of one consumer at once, and one that was cut off lets go.
    memory: AsyncMutex<Memory>,
    /// Whether the object cannot be read.
    unreadable: AtomicBool,
}

/// Why a pass failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A step failed.
    #[error(transparent)]
    Pass(#[from] pass::Error),
    /// It took too long.
    #[error("the pass took longer than {} s", PASS.as_secs())]
    Timeout,
    /// It panicked: a bug, which is not to stop the other consumers.
    #[error("the pass panicked")]
    Panic,
}

impl Error {
    /// The longest wait after it.
    fn longest(&self) -> Duration {
        match self {
            // What is in the way is looked for by one GET, and nobody tells when it is gone.
            Self::Pass(error) if error.waits_for_removal() => REMOVAL,
            _ => Duration::MAX,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Pass(error) => error.reason(),
            Self::Timeout => "Timeout",
            Self::Panic => "Panic",
        }
    }
}

/// Runs all scopes until `stop`; passes that run then are finished.
pub async fn run(
    shared: &Arc<Shared>,
    health: &Arc<Health>,
    scopes: Vec<Scope>,
    concurrency: u16,
    stop: CancellationToken,
) {
    let gates: Vec<_> = scopes.iter().map(|_| Gate::default()).collect();
    let opening: Vec<_> = scopes
        .iter()
        .zip(&gates)
        .map(|(scope, gate)| {
            let (shared, health) = (Arc::clone(shared), Arc::clone(health));
            let (stores, gate, all) = (scope.stores.clone(), gate.clone(), gates.clone());
            AbortOnDropHandle::new(tokio::spawn(async move {
                may_begin(&shared, &stores, &gate, &all).await;
                health.done(WATCHES);
                gate.open.cancel();
            }))
        })
        .collect();
    let mut all = Vec::new();
    let mut running = FuturesUnordered::new();
    for (scope, gate) in scopes.into_iter().zip(gates) {
        let Scope { stores, requests, wake } = scope;
        let context = Context { shared: Arc::clone(shared), stores, wake };
        let passes = Arc::new(Passes { context, kept: Mutex::default() });
        all.push(Arc::clone(&passes));
        running.push(run_scope(passes, requests, concurrency, gate.open, stop.clone()));
    }
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            ended = running.next() => if ended.is_none() { break },
            _ = tick.tick() => {
                health.tick();
                let (waiting, unreadable): (Vec<_>, Vec<_>) = all.iter().map(|p| p.objects()).unzip();
                shared.metrics.objects(waiting.iter().sum(), unreadable.iter().sum());
            }
        }
    }
    drop(opening);
}

/// What the operator is not ready without: the lists of one scope, and an answer about each of the others.
pub const WATCHES: &str = "the first lists of the watches";
/// How long a scope with all its lists waits for those of the others, if nothing is heard of them.
const OTHERS: Duration = Duration::from_secs(10);

/// The start of one scope's passes.
#[derive(Clone, Default)]
struct Gate {
    /// Its claims to groups are known, or the API server has refused to list its objects.
    settled: CancellationToken,
    /// Its passes may begin.
    open: CancellationToken,
}

/// Returns when a scope's passes may begin: when each of its watches has its first list (a pass that did
/// not see a child would create it again), and when the claims of the other scopes are known: else the
/// first consumer that is seen would have the group. A scope that cannot be listed stops no other; its
/// claims are taken when it can.
async fn may_begin(shared: &Shared, stores: &Stores, gate: &Gate, all: &[Gate]) {
    tokio::select! {
        () = stores.ready() => {}
        () = stores.refused() => {
            gate.settled.cancel();
            stores.ready().await;
        }
    }
    for consumer in stores.consumers.state().iter().filter_map(|object| object.0.as_ref().ok()) {
        let (platform, rules) = (&shared.platform, &mut Rules::default());
        let Ok(valid) = validate::validate(consumer, None, platform, rules) else { continue };
        if let Some((group, claim)) = Claim::of(consumer) {
            shared.groups.claim(&group, claim);
        }
        // Those that were rolling before a restart are of the few that may.
        let name = ObjectRef::new(valid.id.deployment_name()).within(&valid.id.namespace);
        shared.rollouts.resume(&valid, stores.deployments.get(&name).as_deref());
    }
    gate.settled.cancel();
    let settled = async {
        for other in all {
            other.settled.cancelled().await;
        }
    };
    if tokio::time::timeout(OTHERS, settled).await.is_err() {
        tracing::warn!("nothing is heard of some namespaces: the others begin without them");
    }
}

/// Runs the passes of one scope, when they are due and as slots are free, until `stop`; passes that run then are finished.
async fn run_scope(
    passes: Arc<Passes>,
    mut requests: BoxStream<'static, Request>,
    concurrency: u16,
    open: CancellationToken,
    stop: CancellationToken,
) {
    let mut schedule = Schedule::new(usize::from(concurrency));
    let mut running = FuturesUnordered::new();
    loop {
        let stopping = stop.is_cancelled();
        let now = Instant::now();
        // Until the gate is open what is asked for waits.
        while open.is_cancelled()
            && !stopping
            && let Some(key) = schedule.start(now)
        {
            running.push(turn(key, Arc::clone(&passes)));
        }
        if stopping && running.is_empty() {
            return;
        }
        let due = schedule.next_due().filter(|_| open.is_cancelled() && !stopping);
        let next = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some((key, again)) = running.next() => {
                schedule.ended(key, again.map(|after| Instant::now() + after));
            }
            // The watches fill the stores as they are read: also before the gate is open.
            Some(request) = requests.next(), if !stopping => {
                if request.gone {
                    passes.forgive(&request.consumer);
                }
                schedule.request(request.consumer, Instant::now() + DEBOUNCE);
            }
            () = next => {}
            () = open.cancelled(), if !open.is_cancelled() => {}
            () = stop.cancelled(), if !stopping => {}
        }
    }
}

fn identity(key: &Key, uid: &str) -> Identity {
    Identity {
        namespace: key.namespace.clone().unwrap_or_default(),
        name: key.name.clone(),
        uid: uid.to_owned(),
    }
}

/// `namespace/name`.
struct Short<'a>(&'a Option<String>, &'a str);

impl std::fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.0.as_deref().unwrap_or_default(), self.1)
    }
}

/// One consumer's turn: not while it waits after a failure, not longer than allowed, and counted. Answers when it is due
/// again though nothing asks for it.
async fn turn(key: Key, passes: Arc<Passes>) -> (Key, Option<Duration>) {
    let Some(object) = passes.context.stores.consumers.get(&key) else {
        passes.forget(&key);
        return (key, None);
    };
    let kept = passes.kept(&object);
    let tried = Tried::of(&*object);
    if let Some(rest) = kept.rest(tried, Instant::now()) {
        return (key, Some(rest));
    }
    kept.unreadable.store(object.0.is_err(), Ordering::Relaxed);
    let consumer = match &object.0 {
        Ok(consumer) => Arc::new(consumer.clone()),
        Err(invalid) => {
            passes.unreadable(&object, invalid, &kept).await;
            return (key, None);
        }
    };
    let began = Instant::now();
    let ended = pass(&consumer, &passes, &kept).await;
    let metrics = &passes.context.shared.metrics;
    match ended {
        Ok(again) => {
            metrics.pass("ok", began.elapsed());
            kept.recovered();
            (key, again)
        }
        Err(error) => {
            metrics.pass("error", began.elapsed());
            metrics.error(error.reason());
            let after = kept.failed(tried, Instant::now(), error.longest());
            let (consumer, again) = (Short(&key.namespace, &key.name), after.as_secs());
            let error = sentence(&error);
            tracing::warn!(%consumer, %error, "a pass failed; it is tried again in {again} s");
            (key, Some(after))
        }
    }
}

/// One pass with its time limit, in a task of its own: a panic in it ends the pass and nothing else.
async fn pass(
    consumer: &Arc<KafkaConsumer>,
    passes: &Arc<Passes>,
    kept: &Arc<Kept>,
) -> Result<Option<Duration>, Error> {
    let (consumer, passes, kept) = (Arc::clone(consumer), Arc::clone(passes), Arc::clone(kept));
    let task = AbortOnDropHandle::new(tokio::spawn(async move {
        let mut memory = kept.memory.lock().await;
        pass::reconcile(&consumer, &passes.context, &mut memory, Moment::now()).await
    }));
    match tokio::time::timeout(PASS, task).await {
        Ok(Ok(ended)) => Ok(ended?),
        Ok(Err(_)) => Err(Error::Panic),
        Err(_) => Err(Error::Timeout),
    }
}

impl Passes {
    /// What is kept of a consumer; one that was made again under the same name begins anew.
    fn kept(&self, object: &Guarded) -> Arc<Kept> {
        let key = ObjectRef::from_obj(object);
        let uid = object.meta().uid.clone().unwrap_or_default();
        let mut all = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = all.get(&key)
            && kept.uid == uid
        {
            return Arc::clone(kept);
        }
        let kept = Arc::new(Kept { uid, ..Kept::default() });
        if let Some(old) = all.insert(key.clone(), Arc::clone(&kept)) {
            self.drop_kept(&key, &old.uid);
        }
        kept
    }

    /// Drops what is kept of a consumer that is gone: its subscription, its claim to a group, its numbers.
    fn forget(&self, key: &Key) {
        let old = self.kept.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
        if let Some(old) = old {
            self.drop_kept(key, &old.uid);
        }
    }

    fn drop_kept(&self, key: &Key, uid: &str) {
        self.context.shared.groups.release(uid);
        self.context.shared.rollouts.release(uid);
        self.context.shared.metrics.forget(&identity(key, uid));
        tracing::info!(consumer = %Short(&key.namespace, &key.name), "gone");
    }

    /// Something of a consumer is gone, maybe what was in its way: it is tried again at once.
    fn forgive(&self, key: &Key) {
        if let Some(kept) = self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(key) {
            kept.lock().until = None;
        }
    }

    /// How many consumers wait after a failure, and how many objects cannot be read.
    fn objects(&self) -> (usize, usize) {
        let all = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = all.values().filter(|kept| kept.lock().failures > 0).count();
        (waiting, all.values().filter(|kept| kept.unreadable.load(Ordering::Relaxed)).count())
    }

    /// Says that an object cannot be read, once for each of its versions.
    async fn unreadable(&self, object: &Guarded, invalid: &InvalidObject, kept: &Kept) {
        let mut memory = kept.memory.lock().await;
        let version = object.meta().resource_version.clone();
        if memory.unreadable == version && version.is_some() {
            return;
        }
        memory.unreadable = version;
        let note = format!(
            "this object cannot be read by this version of the operator: {}",
            invalid.error
        );
        let event = Event::warning(reason::INVALID_SPEC, "Read", note);
        let shared = &self.context.shared;
        // What was shown of it while it could be read is no longer so.
        shared.metrics.forget(&identity(&ObjectRef::from_obj(object), &kept.uid));
        shared.events.publish(vec![event], &object.object_ref(&()));
    }
}

impl Kept {
    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long the consumer has to wait still. One whose spec or annotations were changed is tried at once.
    fn rest(&self, tried: Tried, now: Instant) -> Option<Duration> {
        let waiting = self.lock();
        let until = waiting.until.filter(|_| waiting.tried == tried)?;
        Some(until.saturating_duration_since(now)).filter(|rest| !rest.is_zero())
    }

    fn failed(&self, tried: Tried, now: Instant, longest: Duration) -> Duration {
        let mut waiting = self.lock();
        waiting.failures = waiting.failures.saturating_add(1);
        let after = backoff::delay(waiting.failures, fastrand::f64()).min(longest);
        waiting.until = Some(now + after);
        waiting.tried = tried;
        after
    }

    fn recovered(&self) {
        *self.lock() = Waiting::default();
    }
}
