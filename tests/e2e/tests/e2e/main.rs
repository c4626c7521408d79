//! The promises, on a real cluster and a real Kafka: `cargo test -p sluice-e2e`, or one of them by a part of its name.
//!
//! The lab comes up once for all tests and goes down at the end, also after a failure or Ctrl-C. Where it cannot run, the
//! tests are skipped with a line that says why; under `CI=true` that is a failure. `SLUICE_LAB_KEEP=1` leaves it up.

mod deletion;
mod failures;
mod handlers;
mod install;
mod modes;
mod others;
mod partitions;
mod refusals;
mod scaling;

use std::{
    env,
    process::ExitCode,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use libtest_mimic::{Arguments, Failed, Trial};
use sluice_e2e::World;
use sluice_lab::{Lab, prerequisites, progress::Progress};
use tokio::{runtime::Handle, task::JoinHandle};

/// No test takes longer: a wait that was forgotten ends here.
const LIMIT: Duration = Duration::from_secs(300);

type Test =
    (&'static str, fn(Arc<World>) -> futures::future::BoxFuture<'static, anyhow::Result<()>>);

/// Lists tests by the names of their functions.
macro_rules! tests {
    ($($module:ident::$name:ident),* $(,)?) => {
        &[$((concat!(stringify!($module), "::", stringify!($name)), |world| Box::pin($module::$name(world)))),*]
    };
}

/// In the order in which they run: what everything stands on first, and at the end what takes the operator away.
const TESTS: &[Test] = tests![
    install::the_operator_runs_under_the_charts_rights,
    install::a_consumer_runs_and_says_so,
    refusals::bad_consumers_are_refused_with_a_sentence,
    refusals::an_unknown_topic_is_reported_and_never_created,
    refusals::a_wrong_broker_address_is_reported_and_harms_nobody_else,
    refusals::pods_that_cannot_run_are_explained,
    refusals::a_broken_tuning_file_keeps_the_knobs,
    modes::replicas_are_the_users_in_mode_manual,
    modes::a_dry_run_changes_nothing,
    modes::a_suspended_consumer_keeps_its_offsets,
    modes::a_paused_consumer_is_left_alone,
    modes::two_consumers_of_one_group_are_told,
    handlers::records_of_every_shape_arrive_as_they_are,
    handlers::a_receiver_that_fails_hangs_or_is_away_costs_no_record,
    handlers::a_receiver_may_be_away_for_two_minutes,
    others::what_others_do_to_its_objects_costs_no_pod,
    handlers::a_custom_handler_runs,
    scaling::a_spike_is_followed_up_and_down,
    scaling::pods_go_to_zero_and_wake,
    scaling::a_steady_load_moves_nothing,
    scaling::the_consumer_protocol_scales_too,
    partitions::added_partitions_and_deleted_records_are_followed,
    partitions::a_transactions_marker_is_no_lag,
    failures::a_rolling_restart_loses_and_repeats_nothing,
    failures::a_killed_pod_loses_nothing,
    failures::kafka_may_stop_and_start,
    failures::the_api_server_may_restart,
    failures::the_operator_may_restart_in_mid_scale,
    others::an_older_definition_is_told_and_slows_nothing,
    install::an_operator_of_some_namespaces_keeps_to_them,
    deletion::a_deleted_consumer_leaves_only_its_offsets,
    deletion::an_uninstalled_operator_leaves_the_consumers_running,
];

/// Two that wait most of their time, and run side by side: the second begins with the first.
const BESIDE: (&str, &str) = (
    "handlers::a_receiver_may_be_away_for_two_minutes",
    "others::what_others_do_to_its_objects_costs_no_pod",
);

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // One after the other (but for BESIDE): they share two cores and one broker, and some stop it.
    arguments.test_threads = Some(1);
    let (filter, exact) = (arguments.filter.clone(), arguments.exact);
    let wanted = |name: &str| {
        filter.as_deref().is_none_or(|f| if exact { name == f } else { name.contains(f) })
    };
    if arguments.list || !TESTS.iter().any(|(name, _)| wanted(name)) {
        let trials = TESTS.iter().map(|(name, _)| Trial::test(*name, || Ok(()))).collect();
        return libtest_mimic::run(&arguments, trials).exit_code();
    }
    if let Some(obstacle) = prerequisites::obstacle() {
        return skip(&arguments, &obstacle);
    }
    match World::start(&mut Progress::default()) {
        Ok((lab, runtime)) => {
            end_on_signals(runtime.handle());
            let code = run(&arguments, lab, runtime.handle(), wanted(BESIDE.1));
            take_down();
            code
        }
        Err(error) => {
            eprintln!("error: the lab did not come up: {error:#}");
            take_down();
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments, lab: Lab, runtime: &Handle, beside: bool) -> ExitCode {
    let world = match runtime.block_on(World::new(lab)) {
        Ok(world) => Arc::new(world),
        Err(error) => {
            eprintln!("error: the lab cannot be used: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let early: Early = Arc::default();
    let second = TESTS.iter().find(|(name, _)| beside && *name == BESIDE.1);
    let trials = TESTS
        .iter()
        .map(|&(name, test)| {
            let (world, runtime, early) = (world.clone(), runtime.clone(), early.clone());
            Trial::test(name, move || {
                if let Some((_, second)) = second.filter(|_| name == BESIDE.0) {
                    *lock(&early) = Some(runtime.spawn(second(world.clone())));
                }
                let begun = (name == BESIDE.1).then(|| lock(&early).take()).flatten();
                play(&runtime, &world, begun.unwrap_or_else(|| runtime.spawn(test(world.clone()))))
            })
        })
        .collect();
    libtest_mimic::run(arguments, trials).exit_code()
}

/// The test that began before its turn.
type Early = Arc<Mutex<Option<JoinHandle<anyhow::Result<()>>>>>;

fn lock(early: &Early) -> MutexGuard<'_, Option<JoinHandle<anyhow::Result<()>>>> {
    early.lock().unwrap_or_else(PoisonError::into_inner)
}

fn play(
    runtime: &Handle,
    world: &World,
    test: JoinHandle<anyhow::Result<()>>,
) -> Result<(), Failed> {
    let outcome = runtime.block_on(async {
        let limit = LIMIT + others::hold();
        let abort = test.abort_handle();
        match tokio::time::timeout(limit, test).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(panicked)) => Err(anyhow::anyhow!("the test panicked: {panicked}")),
            Err(_) => {
                abort.abort();
                Err(anyhow::anyhow!("the test did not end within {limit:?}"))
            }
        }
    });
    outcome.map_err(|error| {
        let seen = world.explain().unwrap_or_else(|error| format!("nothing: {error:#}"));
        Failed::from(format!("{error:#}\nwhat was seen of it: {seen}"))
    })
}

/// Says why nothing was tested; a machine that is to test everything must not pass by skipping.
fn skip(arguments: &Arguments, obstacle: &str) -> ExitCode {
    eprintln!("end-to-end tests are skipped: {obstacle}");
    if env::var("CI").as_deref() == Ok("true") {
        eprintln!("error: CI=true, where nothing may be skipped");
        return ExitCode::FAILURE;
    }
    let trials = TESTS
        .iter()
        .map(|(name, _)| Trial::test(*name, || Ok(())).with_ignored_flag(true))
        .collect();
    libtest_mimic::run(arguments, trials).exit_code()
}

fn end_on_signals(runtime: &Handle) {
    runtime.spawn(async {
        let mut terminate =
            match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
                Ok(terminate) => terminate,
                Err(error) => return eprintln!("no signal can be waited for: {error}"),
            };
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        // From a thread of its own: it waits for processes to end.
        let _ = tokio::task::spawn_blocking(take_down).await;
        std::process::exit(130);
    });
}

fn take_down() {
    if env::var_os("SLUICE_LAB_KEEP").is_some() {
        eprintln!("the lab stays up (SLUICE_LAB_KEEP); end it with `cargo lab down`");
    } else if let Err(error) = Lab::take_down(&mut Progress::default()) {
        eprintln!("error: the lab could not be taken down: {error:#}");
    }
}
