//! The life of a thread that reads one Kafka cluster: a client, a [`Reader`] on it, and what is said while there is none.

use std::{
    sync::{Arc, Weak, mpsc},
    time::{Duration, Instant},
};

use sluice_crds::conditions::reason;

use super::{
    Limits,
    admin::Admin,
    client, errors,
    following::{Command, Following},
    port::{ReadError, Unread},
    pulse::{self, Pulse},
    reader::{End, Reader},
};
use crate::clock;

/// A client that was closed for what its brokers announced is made again after this.
const CLOSED: Duration = Duration::from_secs(300);
/// While nothing is read, a sign of life is given this often.
const PULSE: Duration = Duration::from_secs(1);

/// Reads until the other end of `inbox` is dropped, or the thread is replaced.
pub(super) fn run(
    addresses: &str,
    group: &str,
    limits: &Arc<Limits>,
    inbox: &mpsc::Receiver<Command>,
    pulse: &Pulse,
) {
    let mut groups = Vec::new();
    loop {
        let admin = match Admin::new(addresses, group, limits) {
            Ok(admin) => admin,
            Err(error) => {
                let error = client::one_line(&error.to_string());
                tracing::warn!(addresses, error, "librdkafka does not take these addresses");
                let error = ReadError {
                    reason: reason::UNREACHABLE,
                    message: format!("{addresses} cannot be used as addresses of brokers"),
                };
                refuse(&error, &mut groups, inbox, None, pulse);
                return;
            }
        };
        let mut reader = Reader::new(addresses, admin, inbox, limits, pulse);
        reader.groups = groups;
        match reader.read() {
            End::Dropped => return,
            End::TooManyBrokers => {
                pulse::request_failed();
                groups = std::mem::take(&mut reader.groups);
                // This closes the client, and with it every connection and thread.
                drop(reader);
                tracing::warn!(addresses, most = limits.brokers, "too many brokers are announced");
                let error = errors::too_many_brokers(addresses, limits);
                let until = Instant::now() + CLOSED;
                if !refuse(&error, &mut groups, inbox, Some(until), pulse) {
                    return;
                }
            }
        }
    }
}

/// Tells all groups that this cluster is not read, until `until` (or for as long as it is followed). Whether it is still
/// followed.
fn refuse(
    error: &ReadError,
    groups: &mut Vec<Weak<Following>>,
    inbox: &mpsc::Receiver<Command>,
    until: Option<Instant>,
    pulse: &Pulse,
) -> bool {
    let tell = |following: &Following| {
        following.publish(None, |reading| {
            reading.error = Some(error.clone());
            reading.unread = Unread::All;
            reading.read_at = Some(clock::now());
            true
        });
    };
    groups.iter().filter_map(Weak::upgrade).for_each(|following| tell(&following));
    loop {
        if !pulse.beat() {
            return false;
        }
        let left = until.map_or(PULSE, |until| until.saturating_duration_since(Instant::now()));
        if left.is_zero() {
            return true;
        }
        match inbox.recv_timeout(left.min(PULSE)) {
            Ok(Command::Follow(group)) => {
                if let Some(following) = group.upgrade() {
                    tell(&following);
                }
                groups.push(group);
            }
            Ok(Command::Commit(commit)) => _ = commit.answer.send(Err(error.clone())),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return false,
        }
    }
}
