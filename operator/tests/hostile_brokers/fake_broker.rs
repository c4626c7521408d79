//! A broker on loopback that speaks just enough of Kafka to be asked, and then answers as it was told to.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

const METADATA: i16 = 3;
const API_VERSIONS: i16 = 18;
const TELEMETRY_SUBSCRIPTIONS: i16 = 71;
const PUSH_TELEMETRY: i16 = 72;

/// What the broker answers.
#[derive(Clone, Default)]
pub struct Answers {
    /// Sent to whoever connects, before anything else.
    pub greeting: &'static [u8],
    /// Whether it offers KIP-714, with an array of −1 elements as the answer.
    pub telemetry: bool,
    /// The brokers that it announces, beside itself as number 1.
    pub others: Vec<(i32, SocketAddr)>,
    /// How many partitions each topic has; none: no topic exists.
    pub partitions: i32,
}

/// A broker that listens until the test's process ends.
pub struct FakeBroker {
    pub address: SocketAddr,
    accepts: Arc<AtomicUsize>,
}

impl FakeBroker {
    pub fn start(answers: Answers) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let accepts = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&accepts);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                counter.fetch_add(1, Ordering::SeqCst);
                let answers = answers.clone();
                thread::spawn(move || serve(stream, address, &answers));
            }
        });
        Self { address, accepts }
    }

    /// How many connections were made to it.
    pub fn accepts(&self) -> usize {
        self.accepts.load(Ordering::SeqCst)
    }
}

/// Serves a connection until it is closed.
fn serve(mut stream: TcpStream, own: SocketAddr, answers: &Answers) -> Option<()> {
    stream.write_all(answers.greeting).ok()?;
    loop {
        let mut size = [0; 4];
        stream.read_exact(&mut size).ok()?;
        let mut request = vec![0; usize::try_from(i32::from_be_bytes(size)).ok()?];
        stream.read_exact(&mut request).ok()?;
        let api = i16::from_be_bytes(request[0..2].try_into().ok()?);
        let mut answer = request[4..8].to_vec();
        match api {
            API_VERSIONS => api_versions(&mut answer, answers),
            METADATA => metadata(&mut answer, &request, own, answers),
            TELEMETRY_SUBSCRIPTIONS => telemetry(&mut answer),
            _ => return None,
        }
        let size = i32::try_from(answer.len()).ok()?;
        stream.write_all(&size.to_be_bytes()).ok()?;
        stream.write_all(&answer).ok()?;
    }
}

/// Version 3, whichever was asked for: librdkafka asks for that one first.
fn api_versions(answer: &mut Vec<u8>, answers: &Answers) {
    let mut apis = vec![(METADATA, 0, 4), (API_VERSIONS, 0, 3)];
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

/// Version 4.
fn metadata(answer: &mut Vec<u8>, request: &[u8], own: SocketAddr, answers: &Answers) {
    let text = |text: &str, answer: &mut Vec<u8>| {
        answer.extend((text.len() as i16).to_be_bytes());
        answer.extend(text.as_bytes());
    };
    let mut brokers = vec![(1, own)];
    brokers.extend(&answers.others);
    answer.extend(0_i32.to_be_bytes());
    answer.extend((brokers.len() as i32).to_be_bytes());
    for (id, address) in brokers {
        answer.extend(id.to_be_bytes());
        text(&address.ip().to_string(), answer);
        answer.extend(i32::from(address.port()).to_be_bytes());
        answer.extend((-1_i16).to_be_bytes());
    }
    text("fake", answer);
    answer.extend(1_i32.to_be_bytes());
    let topics = topics(request);
    answer.extend((topics.len() as i32).to_be_bytes());
    for topic in topics {
        let error: i16 = if answers.partitions == 0 { 3 } else { 0 };
        answer.extend(error.to_be_bytes());
        text(&topic, answer);
        answer.push(0);
        answer.extend(answers.partitions.to_be_bytes());
        for partition in 0..answers.partitions {
            answer.extend(0_i16.to_be_bytes());
            for number in [partition, 1, 1, 1, 1, 1] {
                answer.extend(i32::to_be_bytes(number));
            }
        }
    }
}

/// The topics that a metadata request names.
fn topics(request: &[u8]) -> Vec<String> {
    let client = i16::from_be_bytes([request[8], request[9]]).max(0) as usize;
    let mut rest = &request[10 + client..];
    let mut take = |count: usize| {
        let (taken, left) = rest.split_at(count);
        rest = left;
        taken
    };
    let count = i32::from_be_bytes(take(4).try_into().unwrap());
    (0..count)
        .map(|_| {
            let length = i16::from_be_bytes(take(2).try_into().unwrap());
            String::from_utf8(take(length as usize).to_vec()).unwrap()
        })
        .collect()
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
