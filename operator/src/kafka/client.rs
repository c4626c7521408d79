//! The client that all admin calls share: what it may connect to, how much it takes, and what it says.
//!
//! It is made of librdkafka's own functions because rdkafka's safe API has none of the callbacks on which the bounds stand:
//! - `resolve_cb` and `connect_cb` are the only ways to an address, of a bootstrap server and of an announced broker alike.
//! - `on_broker_state_change` is called in librdkafka's main thread for each broker that it learns of, before the next one.
//!   Past the bound it waits there until the client is closed, which ends the adding: threads stay bounded.
//!
//! Invariants, on which every `unsafe` block here stands:
//! - `rk` is valid from `new` to `drop`, and destroyed once.
//! - `shared` is boxed and freed after `rk` was destroyed, which ends all threads of librdkafka's: a callback's opaque
//!   pointer is always valid. What it points to is `Sync`.
//! - A callback never unwinds into C: none of them calls what panics.
//! - Strings from librdkafka are NUL-terminated or null, and copied.
#![allow(unsafe_code)]

use std::{
    collections::{BTreeSet, HashSet},
    ffi::{CStr, c_char, c_int, c_void},
    mem::ManuallyDrop,
    net::IpAddr,
    ptr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, bindings as c,
    error::{KafkaError, RDKafkaErrorCode},
};

use super::{Limits, addresses, cause::Cause};

/// The largest answer that is taken. The largest that are asked for are the offsets of 500 partitions with 4 KiB of metadata
/// each (the most that a broker keeps by default) and the description of some 40,000 partitions (about 60 bytes each). A
/// larger one closes the connection, and the cause is named.
const LARGEST_ANSWER: &str = "4194304";
/// How long a cause is told after it was seen: librdkafka repeats itself twice a minute.
const RECENT: Duration = Duration::from_secs(60);
/// librdkafka's warnings of one client that are logged as such each minute; the others are there at level debug.
const WARNINGS: u32 = 10;
/// Addresses of allowed names that are remembered.
const RESOLVED: usize = 4_096;
/// Past the bound, each further broker waits for so long that the reader can close the client first.
const BRAKE: Duration = Duration::from_millis(20);

/// A client of librdkafka's.
pub struct Client {
    rk: *mut c::rd_kafka_t,
    shared: Box<Shared>,
}

/// What callbacks and reader share.
struct Shared {
    limits: Limits,
    is_closing: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Why the last connection failed.
    failed: Option<(Instant, RDKafkaErrorCode, String)>,
    /// What was last not allowed.
    refused: Option<(Instant, String)>,
    /// The ids of all brokers that were ever announced.
    brokers: BTreeSet<i32>,
    /// The addresses of names that are allowed.
    resolved: HashSet<IpAddr>,
    /// The minute that is counted, and its warnings so far.
    minute: Option<Instant>,
    warnings: u32,
}

// SAFETY: librdkafka's handle may be used from any thread, and `Shared` is `Sync`.
unsafe impl Send for Client {}

impl Drop for Client {
    fn drop(&mut self) {
        self.shared.is_closing.store(true, Ordering::SeqCst);
        // It never joined its group, so there is nothing to leave; waiting for that could last.
        let flags = c::RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE;
        // SAFETY: the handle is valid and destroyed once; `shared` is freed after this.
        unsafe { c::rd_kafka_destroy_flags(self.rk, flags) }
    }
}

impl Client {
    /// A client of the brokers at these addresses. Nothing is sent yet.
    ///
    /// # Errors
    /// When librdkafka does not take the settings.
    pub fn new(bootstrap_servers: &str, group: &str, limits: &Limits) -> Result<Self, KafkaError> {
        let config = ClientConfig::new()
            .set("bootstrap.servers", bootstrap_servers)
            .set("client.id", "sluice-operator")
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            // A metadata request creates topics on a stock broker: asking must not.
            .set("allow.auto.create.topics", "false")
            // librdkafka trusts the number of elements that a broker puts in front of its telemetry subscriptions, and
            // aborts the process on −1 (confluentinc/librdkafka#5577).
            .set("enable.metrics.push", "false")
            // The last one is the bound; it must not be below the other two.
            .set("message.max.bytes", "1000000")
            .set("fetch.max.bytes", "1000000")
            .set("receive.message.max.bytes", LARGEST_ANSWER)
            .set("log.connection.close", "false")
            .set("socket.keepalive.enable", "true")
            .set("socket.connection.setup.timeout.ms", "5000")
            .set("reconnect.backoff.max.ms", "2000")
            .create_native_config()?;
        let shared = Box::new(Shared {
            limits: limits.clone(),
            is_closing: AtomicBool::new(false),
            state: Mutex::default(),
        });
        let opaque = ptr::from_ref::<Shared>(&shared).cast_mut().cast::<c_void>();
        let mut words = [0; 512];
        // SAFETY: `config` is valid; the callbacks have the types that librdkafka declares. `rd_kafka_new` takes `config` over
        // where it succeeds, and writes a string of at most the given size where it does not.
        let rk = unsafe {
            let conf = config.ptr();
            c::rd_kafka_conf_set_opaque(conf, opaque);
            c::rd_kafka_conf_set_log_cb(conf, Some(on_log));
            c::rd_kafka_conf_set_error_cb(conf, Some(on_error));
            c::rd_kafka_conf_set_connect_cb(conf, Some(on_connect));
            rd_kafka_conf_set_resolve_cb(conf, Some(on_resolve));
            c::rd_kafka_conf_interceptor_add_on_new(conf, NAME.as_ptr(), Some(on_new), opaque);
            let config = ManuallyDrop::new(config);
            let kind = c::rd_kafka_type_t::RD_KAFKA_CONSUMER;
            let rk = c::rd_kafka_new(kind, config.ptr(), words.as_mut_ptr(), words.len());
            if rk.is_null() {
                drop(ManuallyDrop::into_inner(config));
                let words = string(words.as_ptr()).unwrap_or_default();
                return Err(KafkaError::ClientCreation(words));
            }
            rk
        };
        Ok(Self { rk, shared })
    }

    /// librdkafka's handle; valid as long as this lives.
    pub(super) fn handle(&self) -> *mut c::rd_kafka_t {
        self.rk
    }

    /// Serves the callback of errors, without waiting.
    pub fn serve(&self) {
        // SAFETY: the handle is valid.
        unsafe { c::rd_kafka_poll(self.rk, 0) };
    }

    /// Why the last connection that failed within the minute did so.
    pub fn connection_error(&self) -> Option<(RDKafkaErrorCode, String)> {
        let failed = self.shared.lock().failed.clone();
        failed.filter(|(at, ..)| at.elapsed() < RECENT).map(|(_, code, words)| (code, words))
    }

    /// Whom the operator may not connect to, if that was tried within the minute.
    pub fn refused(&self) -> Option<String> {
        let refused = self.shared.lock().refused.clone();
        refused.filter(|(at, _)| at.elapsed() < RECENT).map(|(_, host)| host)
    }

    /// The ids of all brokers that were announced.
    pub fn announced(&self) -> Vec<i32> {
        self.shared.lock().brokers.iter().copied().collect()
    }

    /// Whether more brokers were announced than the operator connects to: then this client is to be closed.
    pub fn has_too_many_brokers(&self) -> bool {
        self.shared.lock().brokers.len() > self.shared.limits.brokers
    }
}

impl Shared {
    /// # Safety
    /// `opaque` is what was given to librdkafka in `new`, in a callback.
    unsafe fn of<'a>(opaque: *mut c_void) -> &'a Self {
        // SAFETY: it outlives all callbacks.
        unsafe { &*opaque.cast::<Self>() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a connection to this host was not allowed.
    fn refuse(&self, host: &str) {
        let mut state = self.lock();
        if state.refused.as_ref().is_none_or(|(at, _)| at.elapsed() >= RECENT) {
            tracing::warn!(host, "a broker is not in --allowed-brokers: no connection is made");
            state.refused = Some((Instant::now(), host.to_owned()));
        }
    }
}

const NAME: &CStr = c"sluice";

unsafe extern "C" {
    // rdkafka-sys leaves this one out.
    fn rd_kafka_conf_set_resolve_cb(
        conf: *mut c::rd_kafka_conf_t,
        resolve_cb: Option<
            unsafe extern "C" fn(
                *const c_char,
                *const c_char,
                *const libc::addrinfo,
                *mut *mut libc::addrinfo,
                *mut c_void,
            ) -> c_int,
        >,
    );
}

/// Resolves a name, or frees what was found where there is none. A name that no rule can allow is not even looked up.
unsafe extern "C" fn on_resolve(
    node: *const c_char,
    service: *const c_char,
    hints: *const libc::addrinfo,
    found: *mut *mut libc::addrinfo,
    opaque: *mut c_void,
) -> c_int {
    // SAFETY: the arguments are those of getaddrinfo, or a list that it has made; the list is read while it lives.
    unsafe {
        if node.is_null() {
            libc::freeaddrinfo(*found);
            return 0;
        }
        let shared = Shared::of(opaque);
        let allowed = &shared.limits.allowed;
        if allowed.is_everything() {
            return libc::getaddrinfo(node, service, hints, found);
        }
        let name = string(node).unwrap_or_default();
        let host = addresses::host(&name);
        if !allowed.may_allow(host) {
            shared.refuse(host);
            return libc::EAI_FAIL;
        }
        let result = libc::getaddrinfo(node, service, hints, found);
        if result == 0 && allowed.allows_name(host) {
            let mut state = shared.lock();
            let mut next = *found;
            while !next.is_null() {
                if state.resolved.len() >= RESOLVED {
                    state.resolved.clear();
                }
                state.resolved.extend(ip((*next).ai_addr));
                next = (*next).ai_next;
            }
        }
        result
    }
}

/// Connects, where that is allowed. The name is not asked here: another may stand there by now than was resolved.
unsafe extern "C" fn on_connect(
    socket: c_int,
    address: *const libc::sockaddr,
    length: c_int,
    _node: *const c_char,
    opaque: *mut c_void,
) -> c_int {
    // SAFETY: the address has the length that librdkafka says, and the socket is its own.
    unsafe {
        let shared = Shared::of(opaque);
        if !shared.limits.allowed.is_everything() {
            let ip = ip(address);
            let allowed = |ip| {
                shared.limits.allowed.allows_address(ip) || shared.lock().resolved.contains(&ip)
            };
            if !ip.is_some_and(allowed) {
                shared.refuse(&ip.map(|ip| ip.to_string()).unwrap_or_default());
                return libc::EACCES;
            }
        }
        if libc::connect(socket, address, length.try_into().unwrap_or(0)) == 0 {
            return 0;
        }
        match std::io::Error::last_os_error().raw_os_error() {
            Some(libc::EINPROGRESS) | None => 0,
            Some(error) => error,
        }
    }
}

/// # Safety
/// `address` is null or a live address of the family that it says.
unsafe fn ip(address: *const libc::sockaddr) -> Option<IpAddr> {
    if address.is_null() {
        return None;
    }
    // SAFETY: the family says which of the two it is; the copy needs no alignment.
    unsafe {
        match c_int::from((*address).sa_family) {
            libc::AF_INET => {
                let address = address.cast::<libc::sockaddr_in>().read_unaligned();
                Some(IpAddr::from(address.sin_addr.s_addr.to_ne_bytes()))
            }
            libc::AF_INET6 => {
                let address = address.cast::<libc::sockaddr_in6>().read_unaligned();
                Some(IpAddr::from(address.sin6_addr.s6_addr).to_canonical())
            }
            _ => None,
        }
    }
}

unsafe extern "C" fn on_new(
    rk: *mut c::rd_kafka_t,
    _conf: *const c::rd_kafka_conf_t,
    opaque: *mut c_void,
    _words: *mut c_char,
    _size: usize,
) -> c::rd_kafka_resp_err_t {
    // SAFETY: the handle is valid here for calls like this one.
    unsafe {
        c::rd_kafka_interceptor_add_on_broker_state_change(
            rk,
            NAME.as_ptr(),
            Some(on_broker),
            opaque,
        )
    }
}

/// A broker was added, or changed its state. librdkafka holds its lock meanwhile, so that it adds no other one.
unsafe extern "C" fn on_broker(
    _rk: *mut c::rd_kafka_t,
    id: i32,
    _protocol: *const c_char,
    _name: *const c_char,
    _port: c_int,
    _state: *const c_char,
    opaque: *mut c_void,
) -> c::rd_kafka_resp_err_t {
    // SAFETY: see `Shared::of`.
    let shared = unsafe { Shared::of(opaque) };
    let is_too_many = id >= 0 && {
        let brokers = &mut shared.lock().brokers;
        let is_new = brokers.insert(id);
        is_new && brokers.len() > shared.limits.brokers
    };
    if is_too_many && !shared.is_closing.load(Ordering::SeqCst) {
        thread::sleep(BRAKE);
    }
    c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
}

unsafe extern "C" fn on_error(
    _rk: *mut c::rd_kafka_t,
    code: c_int,
    words: *const c_char,
    opaque: *mut c_void,
) {
    // SAFETY: see `Shared::of`; the words live as long as the call.
    let (shared, words) = unsafe { (Shared::of(opaque), string(words).unwrap_or_default()) };
    // That all brokers are down follows; the cause is what came before.
    let all_down = c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN;
    if code == all_down as c_int {
        return;
    }
    let code = c::rd_kafka_resp_err_t::try_from(code)
        .map_or(RDKafkaErrorCode::Unknown, RDKafkaErrorCode::from);
    shared.lock().failed = Some((Instant::now(), code, words));
}

/// librdkafka's own lines, from any of its threads. A broker can make it write many.
unsafe extern "C" fn on_log(
    rk: *const c::rd_kafka_t,
    level: c_int,
    facility: *const c_char,
    words: *const c_char,
) {
    // SAFETY: the opaque is that of `new`; the strings live as long as the call.
    let (shared, facility, words) = unsafe {
        let opaque = c::rd_kafka_opaque(rk);
        if opaque.is_null() {
            return;
        }
        (
            Shared::of(opaque),
            string(facility).unwrap_or_default(),
            one_line(&string(words).unwrap_or_default()),
        )
    };
    let warns = level <= 4 && {
        let mut state = shared.lock();
        if state.minute.is_none_or(|minute| minute.elapsed() >= Duration::from_secs(60)) {
            (state.minute, state.warnings) = (Some(Instant::now()), 0);
        }
        state.warnings += 1;
        state.warnings <= WARNINGS
    };
    if warns {
        tracing::warn!(target: "sluice_operator::librdkafka", facility, "{words}");
    } else {
        tracing::debug!(target: "sluice_operator::librdkafka", facility, level, "{words}");
    }
}

/// Why there is no connection, as a status may say it.
pub fn cause(error: Option<&(RDKafkaErrorCode, String)>, spoke_kafka: bool) -> Cause {
    error.map_or(Cause::NoConnection, |(code, words)| Cause::of(*code, words, spoke_kafka))
}

/// Words for a line of the log: those of a broker may contain line breaks, and would forge lines.
pub(super) fn one_line(words: &str) -> String {
    words.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// # Safety
/// `pointer` is null or a live NUL-terminated string.
pub(super) unsafe fn string(pointer: *const c_char) -> Option<String> {
    // SAFETY: see above.
    (!pointer.is_null()).then(|| unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned())
}
