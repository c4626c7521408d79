//! A broker on loopback that speaks just enough of Kafka to be asked, and then answers as it was told to.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

pub const LIST_OFFSETS: i16 = 2;
pub const METADATA: i16 = 3;
pub const OFFSET_FETCH: i16 = 9;
pub const FIND_COORDINATOR: i16 = 10;
pub const DESCRIBE_GROUPS: i16 = 15;
const API_VERSIONS: i16 = 18;
const TELEMETRY_SUBSCRIPTIONS: i16 = 71;
const PUSH_TELEMETRY: i16 = 72;

/// The end and the committed offset of every partition: there is lag, so that a group is read every
/// second.
const END: i64 = 10;
const COMMITTED: i64 = 5;

/// What the broker answers.
#[derive(Clone)]
pub struct Answers {
    /// Sent to whoever connects, before anything else.
    pub greeting: &'static [u8],
    /// Whether it offers KIP-714, with an array of −1 elements as the answer.
    pub telemetry: bool,
    /// The brokers that it announces, beside itself as number 1: number, host and port.
    pub others: Vec<(i32, String, u16)>,
    /// How many partitions each topic has; none: no topic exists.
    pub partitions: i32,
    /// The number of the broker that leads a partition.
    pub leader: fn(i32) -> i32,
    /// The first offset of every partition; the committed one is 5 and the end 10.
    pub start: i64,
    /// How often it knows no topic before it knows them.
    pub unknown_at_first: usize,
    /// Whether it stops to answer who the brokers are, once a group's offsets were asked for.
    pub hides_brokers: bool,
    /// What it says of a group.
    pub group: fn(&str) -> Group,
}

/// What the broker says of a group.
#[derive(Clone, Copy, Default)]
pub struct Group {
    /// An error instead of the offsets.
    pub error: i16,
    /// An error instead of the offset of the last partition.
    pub error_of_last: i16,
    /// The size of the metadata of each committed offset.
    pub metadata: usize,
    /// How many members it has, and how many partitions each of them.
    pub members: i32,
    pub assigned: i32,
}

impl Default for Answers {
    fn default() -> Self {
        Self {
            greeting: b"",
            telemetry: false,
            others: Vec::new(),
            partitions: 0,
            leader: |_| 1,
            start: 0,
            unknown_at_first: 0,
            hides_brokers: false,
            group: |_| Group::default(),
        }
    }
}

/// A request that it got.
#[derive(Clone, Debug)]
pub struct Asked {
    pub api: i16,
    pub at: Instant,
    /// The group, where it is about one.
    pub group: String,
    /// Whether it is about the starts of logs.
    pub starts: bool,
    /// How many partitions it names, or topics where it asks for metadata; without topics, it asks
    /// who the brokers are.
    pub named: usize,
}

/// A broker that listens until the test's process ends.
pub struct FakeBroker {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    /// Where it says that it is.
    own: (String, u16),
    answers: Answers,
    accepts: AtomicUsize,
    asked: Mutex<Vec<Asked>>,
}

impl FakeBroker {
    pub fn start(answers: Answers) -> Self {
        Self::start_at("127.0.0.1", answers)
    }

    /// Listens on this host, which is an address of this machine.
    pub fn start_at(host: &str, answers: Answers) -> Self {
        let listener = TcpListener::bind((host, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let (accepts, asked) = (AtomicUsize::new(0), Mutex::default());
        let shared =
            Arc::new(Shared { own: (host.to_owned(), address.port()), answers, accepts, asked });
        let own = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                own.accepts.fetch_add(1, Ordering::SeqCst);
                let own = Arc::clone(&own);
                thread::spawn(move || serve(stream, &own));
            }
        });
        Self { address, shared }
    }

    /// How many connections were made to it.
    pub fn accepts(&self) -> usize {
        self.shared.accepts.load(Ordering::SeqCst)
    }

    /// What it was asked of this kind.
    pub fn asked(&self, api: i16) -> Vec<Asked> {
        let asked = self.shared.asked.lock().unwrap();
        asked.iter().filter(|asked| asked.api == api).cloned().collect()
    }
}

/// Serves a connection until it is closed.
fn serve(mut stream: TcpStream, shared: &Shared) -> Option<()> {
    let answers = &shared.answers;
    stream.write_all(answers.greeting).ok()?;
    loop {
        let mut size = [0; 4];
        stream.read_exact(&mut size).ok()?;
        let mut request = vec![0; usize::try_from(i32::from_be_bytes(size)).ok()?];
        stream.read_exact(&mut request).ok()?;
        let api = i16::from_be_bytes(request[0..2].try_into().ok()?);
        let client = i16::from_be_bytes([request[8], request[9]]).max(0) as usize;
        let body = Body(&request[10 + client..]);
        let mut answer = request[4..8].to_vec();
        let (mut group, mut starts, mut named) = (String::new(), false, 0);
        match api {
            API_VERSIONS => api_versions(&mut answer, answers),
            METADATA => {
                let before = shared.asked.lock().unwrap();
                let of_topics = |asked: &&Asked| asked.api == METADATA && asked.named > 0;
                let is_unknown = before.iter().filter(of_topics).count() < answers.unknown_at_first;
                drop(before);
                named = metadata(&mut answer, body, shared, is_unknown);
            }
            LIST_OFFSETS => (starts, named) = list_offsets(&mut answer, body, answers),
            OFFSET_FETCH => (group, named) = offset_fetch(&mut answer, body, answers),
            FIND_COORDINATOR => find_coordinator(&mut answer, &shared.own),
            DESCRIBE_GROUPS => group = describe_groups(&mut answer, body, answers),
            TELEMETRY_SUBSCRIPTIONS => telemetry(&mut answer),
            _ => return None,
        }
        let asked = Asked { api, at: Instant::now(), group, starts, named };
        let is_silent = answers.hides_brokers
            && api == METADATA
            && named == 0
            && shared.asked.lock().unwrap().iter().any(|asked| asked.api == OFFSET_FETCH);
        shared.asked.lock().unwrap().push(asked);
        if is_silent {
            continue;
        }
        let size = i32::try_from(answer.len()).ok()?;
        stream.write_all(&size.to_be_bytes()).ok()?;
        stream.write_all(&answer).ok()?;
    }
}

/// What is left of a request's body.
struct Body<'a>(&'a [u8]);

impl Body<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (taken, left) = self.0.split_at(N);
        self.0 = left;
        taken.try_into().unwrap()
    }

    fn number(&mut self) -> i32 {
        i32::from_be_bytes(self.take())
    }

    fn text(&mut self) -> String {
        let length = i16::from_be_bytes(self.take()).max(0) as usize;
        let (text, left) = self.0.split_at(length);
        self.0 = left;
        String::from_utf8(text.to_vec()).unwrap()
    }
}

fn text(text: &str, answer: &mut Vec<u8>) {
    answer.extend((text.len() as i16).to_be_bytes());
    answer.extend(text.as_bytes());
}

fn number(number: i32, answer: &mut Vec<u8>) {
    answer.extend(number.to_be_bytes());
}

/// Version 3, whichever was asked for: librdkafka asks for that one first.
fn api_versions(answer: &mut Vec<u8>, answers: &Answers) {
    let mut apis = vec![
        (LIST_OFFSETS, 1, 1),
        (METADATA, 0, 4),
        (OFFSET_FETCH, 2, 2),
        (FIND_COORDINATOR, 0, 0),
        (DESCRIBE_GROUPS, 0, 0),
        (API_VERSIONS, 0, 3),
    ];
    if answers.telemetry {
        apis.extend([(TELEMETRY_SUBSCRIPTIONS, 0, 0), (PUSH_TELEMETRY, 0, 0)]);
    }
    answer.extend(0_i16.to_be_bytes());
    answer.push(apis.len() as u8 + 1);
    for (api, min, max) in apis {
        for number in [api, min, max] {
            answer.extend(number.to_be_bytes());
        }
        answer.push(0);
    }
    answer.extend(0_i32.to_be_bytes());
    answer.push(0);
}

/// Version 4. How many topics were named.
fn metadata(answer: &mut Vec<u8>, mut body: Body, shared: &Shared, is_unknown: bool) -> usize {
    let (own, answers) = (&shared.own, &shared.answers);
    let mut brokers = vec![(1, own.0.clone(), own.1)];
    brokers.extend(answers.others.iter().cloned());
    number(0, answer);
    number(brokers.len() as i32, answer);
    for (id, host, port) in brokers {
        number(id, answer);
        text(&host, answer);
        number(port.into(), answer);
        answer.extend((-1_i16).to_be_bytes());
    }
    text("fake", answer);
    number(1, answer);
    let count = body.number().max(0);
    number(count, answer);
    for _ in 0..count {
        let is_unknown = is_unknown || answers.partitions == 0;
        let error: i16 = if is_unknown { 3 } else { 0 };
        answer.extend(error.to_be_bytes());
        text(&body.text(), answer);
        answer.push(0);
        let partitions = if is_unknown { 0 } else { answers.partitions };
        number(partitions, answer);
        for partition in 0..partitions {
            answer.extend(0_i16.to_be_bytes());
            for field in [partition, (answers.leader)(partition), 1, 1, 1, 1] {
                number(field, answer);
            }
        }
    }
    count as usize
}

/// Version 1. Whether starts are asked for, and how many partitions were named.
fn list_offsets(answer: &mut Vec<u8>, mut body: Body, answers: &Answers) -> (bool, usize) {
    let (_replica, topics, mut all) = (body.number(), body.number(), 0);
    let mut is_start = false;
    number(topics, answer);
    for _ in 0..topics {
        text(&body.text(), answer);
        let partitions = body.number();
        number(partitions, answer);
        for _ in 0..partitions {
            number(body.number(), answer);
            is_start = i64::from_be_bytes(body.take()) == -2;
            answer.extend(0_i16.to_be_bytes());
            answer.extend((-1_i64).to_be_bytes());
            answer.extend((if is_start { answers.start } else { END }).to_be_bytes());
        }
        all += partitions as usize;
    }
    (is_start, all)
}

/// Version 2. The group, and how many partitions were named.
fn offset_fetch(answer: &mut Vec<u8>, mut body: Body, answers: &Answers) -> (String, usize) {
    let (name, topics, mut all) = (body.text(), body.number(), 0);
    let group = (answers.group)(&name);
    number(topics, answer);
    for _ in 0..topics {
        text(&body.text(), answer);
        let partitions = body.number();
        number(partitions, answer);
        for _ in 0..partitions {
            let partition = body.number();
            number(partition, answer);
            answer.extend(COMMITTED.to_be_bytes());
            text(&"x".repeat(group.metadata), answer);
            let is_last = partition + 1 == answers.partitions;
            let error = if is_last { group.error_of_last } else { 0 };
            answer.extend(error.to_be_bytes());
        }
        all += partitions as usize;
    }
    answer.extend(group.error.to_be_bytes());
    (name, all)
}

/// Version 0: it coordinates every group.
fn find_coordinator(answer: &mut Vec<u8>, own: &(String, u16)) {
    answer.extend(0_i16.to_be_bytes());
    number(1, answer);
    text(&own.0, answer);
    number(own.1.into(), answer);
}

/// Version 0. The group.
fn describe_groups(answer: &mut Vec<u8>, mut body: Body, answers: &Answers) -> String {
    let count = body.number();
    assert_eq!(count, 1, "groups are described one by one");
    let name = body.text();
    let group = (answers.group)(&name);
    number(1, answer);
    answer.extend(0_i16.to_be_bytes());
    for field in [&name, "Stable", "consumer", "range"] {
        text(field, answer);
    }
    number(group.members, answer);
    for member in 0..group.members {
        for field in [&format!("member-{member}"), "client", "/127.0.0.1"] {
            text(field, answer);
        }
        number(0, answer);
        let mut assignment = vec![0, 0];
        number(1, &mut assignment);
        text("orders", &mut assignment);
        number(group.assigned, &mut assignment);
        (0..group.assigned).for_each(|partition| number(partition, &mut assignment));
        number(-1, &mut assignment);
        number(assignment.len() as i32, answer);
        answer.extend(assignment);
    }
    name
}

fn telemetry(answer: &mut Vec<u8>) {
    // Header of version 1, throttle time, no error, client instance id, subscription id.
    answer.push(0);
    answer.extend([0; 4 + 2]);
    answer.extend([7; 16]);
    answer.extend(1_i32.to_be_bytes());
    // A compact array whose length says −1, then what remains.
    answer.push(0);
    answer.extend([0; 4 + 4 + 1 + 1 + 1]);
}
