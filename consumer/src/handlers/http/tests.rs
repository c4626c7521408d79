//! The handler against receivers on the wire: those that answer, and those that do not.

use std::{collections::VecDeque, net::SocketAddr};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, State},
    response::Response,
};
use http::header::CONTENT_TYPE;
use sluice_crds::Duration as SpecDuration;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::Notify,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::*;

const DEADLINE: Duration = Duration::from_secs(20);

/// A call as the receiver saw it.
#[derive(Clone, Debug)]
struct Seen {
    from: SocketAddr,
    headers: HeaderMap,
    body: Bytes,
}

impl Seen {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    /// The offsets of its records.
    fn offsets(&self) -> Vec<i64> {
        let of =
            |event: &serde_json::Value| event["kafkaoffset"].as_str().unwrap().parse().unwrap();
        match self.header("content-type") {
            "application/cloudevents-batch+json" => {
                serde_json::from_slice::<Vec<_>>(&self.body).unwrap().iter().map(of).collect()
            }
            "application/cloudevents+json" => {
                vec![of(&serde_json::from_slice(&self.body).unwrap())]
            }
            _ => vec![self.header("ce-kafkaoffset").parse().unwrap()],
        }
    }
}

/// A receiver that notes what it gets, and answers from a list; beyond the list, with 204.
#[derive(Clone, Default)]
struct Receiver {
    seen: Arc<Mutex<Vec<Seen>>>,
    answers: Arc<Mutex<VecDeque<Response>>>,
}

impl Receiver {
    async fn start(answers: impl IntoIterator<Item = Response>) -> (Self, String) {
        let receiver = Self {
            answers: Arc::new(Mutex::new(answers.into_iter().collect())),
            ..Self::default()
        };
        let app = Router::new().fallback(Self::receive).with_state(receiver.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/records?source=kafka", listener.local_addr().unwrap());
        let app = app.into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(axum::serve(listener, app).into_future());
        (receiver, url)
    }

    async fn receive(
        State(receiver): State<Self>,
        ConnectInfo(from): ConnectInfo<SocketAddr>,
        request: axum::extract::Request,
    ) -> Response {
        assert_eq!(
            (request.method().as_str(), request.uri().to_string().as_str()),
            ("POST", "/records?source=kafka")
        );
        let (head, body) = request.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        receiver.seen.lock().unwrap().push(Seen { from, headers: head.headers, body });
        receiver.answers.lock().unwrap().pop_front().unwrap_or_else(|| answer(204, ""))
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    fn calls(&self) -> Vec<Vec<i64>> {
        self.seen().iter().map(Seen::offsets).collect()
    }
}

fn answer(status: u16, body: impl Into<Body>) -> Response {
    Response::builder()
        .status(status)
        .header(CONTENT_TYPE, "application/json")
        .body(body.into())
        .unwrap()
}

fn failures(offsets: &[i64]) -> Response {
    let items: Vec<_> = offsets
        .iter()
        .map(|o| serde_json::json!({ "itemIdentifier": format!("partition:3/offset:{o}") }))
        .collect();
    answer(200, serde_json::json!({ "batchItemFailures": items }).to_string())
}

fn handler(url: &str) -> HttpHandler {
    handler_within(url, SpecDuration::from_secs(15))
}

fn handler_within(url: &str, timeout: SpecDuration) -> HttpHandler {
    let headers = [("X-Tenant".to_owned(), "acme".to_owned())].into();
    HttpHandler::new(&Spec { url: url.to_owned(), timeout, headers }, "shop.orders").unwrap()
}

/// Records 1 to `count`, each in a lane of its own.
fn records(count: i64) -> Vec<Record> {
    (1..=count)
        .map(|n| {
            Record::new("orders", 3, n)
                .with_key(format!("k{n}"))
                .with_payload("v")
                .with_lane(n as u32)
        })
        .collect()
}

async fn handle(handler: &HttpHandler, records: Vec<Record>) -> Outcomes {
    timeout(DEADLINE, handler.handle(&Batch::new(records))).await.unwrap()
}

/// The outcomes in short: `.` done, `r` retry, `d` dead, `-` not tried; a batch as a whole in capitals.
fn short(outcomes: &Outcomes) -> String {
    let letter = |outcome: &Outcome| match outcome {
        Outcome::Done => '.',
        Outcome::Retry { .. } => 'r',
        Outcome::Dead { .. } => 'd',
        Outcome::NotTried => '-',
    };
    match outcomes {
        Outcomes::All(outcome) => letter(outcome).to_ascii_uppercase().to_string(),
        Outcomes::Each(each) => each.iter().map(letter).collect(),
    }
}

fn reason(outcomes: &Outcomes) -> String {
    let first = match outcomes {
        Outcomes::All(outcome) => outcome,
        Outcomes::Each(each) => each.iter().find(|o| !matches!(o, Outcome::Done)).unwrap(),
    };
    match first {
        Outcome::Retry { reason, .. } | Outcome::Dead { reason } => reason.to_string(),
        Outcome::Done | Outcome::NotTried => String::new(),
    }
}

#[tokio::test]
async fn one_record_arrives_with_all_that_the_contract_names() {
    let (receiver, url) = Receiver::start([]).await;
    let record = Record::new("orders", 3, 42)
        .with_key(vec![0, 255])
        .with_payload(vec![0, 159, 146, 150])
        .with_header("tenant", Some("acme".into()))
        .with_header(
            "traceparent",
            Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into()),
        );
    assert_eq!(short(&handle(&handler(&url), vec![record]).await), ".");
    let [seen] = &receiver.seen()[..] else { unreachable!() };
    assert_eq!(&seen.body[..], [0, 159, 146, 150]);
    assert_eq!(seen.header("ce-keybase64"), "AP8=");
    assert_eq!(seen.header("ce-kafkaheaders").split(',').next(), Some("tenant:YWNtZQ=="));
    assert_eq!(seen.header("idempotency-key"), "shop.orders/orders-3-42@-1");
    assert_eq!(seen.header("sluice-attempt"), "1");
    assert_eq!(seen.header("x-tenant"), "acme");
    assert_eq!(seen.header("user-agent"), concat!("sluice/", env!("CARGO_PKG_VERSION")));
    assert!(seen.header("traceparent").starts_with("00-4bf9"));
}

#[tokio::test]
async fn several_records_are_one_call_on_a_connection_that_is_kept() {
    let (receiver, url) = Receiver::start([]).await;
    let handler = handler(&url);
    for _ in 0..3 {
        assert_eq!(short(&handle(&handler, records(3)).await), "...");
    }
    assert_eq!(receiver.calls(), [[1, 2, 3]; 3]);
    let connections: HashSet<_> = receiver.seen().iter().map(|seen| seen.from).collect();
    assert_eq!(connections.len(), 1);
}

#[tokio::test]
async fn a_partial_answer_is_done_but_for_what_it_names() {
    let (_, url) = Receiver::start([failures(&[2, 4])]).await;
    let outcomes = handle(&handler(&url), records(5)).await;
    assert_eq!(short(&outcomes), ".r.r.");
    assert!(reason(&outcomes).contains("batchItemFailures"));
}

#[tokio::test]
async fn a_partial_answer_can_say_that_a_record_is_dead() {
    let items = r#"{"batchItemFailures": [{"itemIdentifier": "partition:3/offset:2", "dead": true, "reason": "no such customer"}]}"#;
    let (_, url) = Receiver::start([answer(200, items)]).await;
    let outcomes = handle(&handler(&url), records(3)).await;
    assert_eq!(short(&outcomes), ".d.");
    assert!(reason(&outcomes).ends_with("no such customer"));
}

#[tokio::test]
async fn an_answer_that_cannot_be_understood_loses_nothing() {
    for bad in [
        answer(200, "{\"batchItemFailures\": ["),
        failures(&[2, 99]),
        answer(200, r#"{"batchItemFailures":[{}]}"#),
    ] {
        let (_, url) = Receiver::start([bad]).await;
        let short = short(&handle(&handler(&url), records(3)).await);
        assert!(short == "R" || short == "rrr", "{short}");
    }
}

#[tokio::test]
async fn a_batch_that_failed_as_a_whole_is_for_the_engine_to_divide() {
    let (receiver, url) = Receiver::start([answer(500, "database is away")]).await;
    let outcomes = handle(&handler(&url), records(3)).await;
    assert_eq!(short(&outcomes), "R");
    assert_eq!(
        reason(&outcomes),
        "the receiver answered 500 Internal Server Error: database is away"
    );
    assert_eq!(receiver.calls().len(), 1);
}

#[tokio::test]
async fn a_receiver_that_is_overloaded_is_left_alone_for_as_long_as_it_asks() {
    let mut busy = answer(429, "");
    busy.headers_mut().insert("retry-after", HeaderValue::from_static("7"));
    let (_, url) = Receiver::start([busy]).await;
    let Outcomes::Each(each) = handle(&handler(&url), records(2)).await else { unreachable!() };
    for outcome in each {
        assert!(
            matches!(outcome, Outcome::Retry { after: Some(after), .. } if after.as_secs() == 7),
            "{outcome:?}"
        );
    }
}

#[tokio::test]
async fn a_wrong_address_buries_no_record() {
    for status in [401, 403, 404, 405, 410, 308] {
        let (_, url) = Receiver::start([answer(status, "")]).await;
        assert_eq!(short(&handle(&handler(&url), records(1)).await), "r", "{status}");
    }
}

#[tokio::test]
async fn a_record_that_the_receiver_refuses_is_dead() {
    for status in [400, 413, 422] {
        let (_, url) = Receiver::start([answer(status, "no such customer")]).await;
        let outcomes = handle(&handler(&url), records(1)).await;
        assert_eq!(short(&outcomes), "d", "{status}");
        assert!(reason(&outcomes).ends_with("no such customer"));
    }
}

#[tokio::test]
async fn one_bad_record_does_not_take_its_batch_along() {
    let (receiver, url) =
        Receiver::start([answer(400, ""), answer(204, ""), answer(422, "bad")]).await;
    // 2, 4 and 5 are of one lane; 5 must not overtake 2, and neither may 4.
    let lanes = [1, 2, 3, 2, 2];
    let records =
        records(5).into_iter().zip(lanes).map(|(record, lane)| record.with_lane(lane)).collect();
    assert_eq!(short(&handle(&handler(&url), records).await), ".d.--");
    assert_eq!(receiver.calls(), [vec![1, 2, 3, 4, 5], vec![1], vec![2], vec![3]]);
}

#[tokio::test]
async fn a_receiver_that_knows_no_batches_gets_single_records() {
    let (receiver, url) = Receiver::start([answer(415, "")]).await;
    let handler = handler(&url);
    assert_eq!(short(&handle(&handler, records(2)).await), "..");
    assert_eq!(short(&handle(&handler, records(2)).await), "..");
    assert_eq!(receiver.calls(), [vec![1, 2], vec![1], vec![2], vec![1], vec![2]]);
}

#[tokio::test]
async fn a_batch_that_is_too_large_for_one_call_is_sent_in_several_and_in_order() {
    let (receiver, url) = Receiver::start([]).await;
    let records: Vec<_> =
        records(5).into_iter().map(|r| r.with_payload(vec![b'x'; 300_000])).collect();
    assert_eq!(short(&handle(&handler(&url), records).await), ".....");
    assert_eq!(receiver.calls(), [vec![1, 2], vec![3, 4], vec![5]]);
}

#[tokio::test]
async fn a_record_of_900_kb_arrives() {
    let (receiver, url) = Receiver::start([]).await;
    let value = vec![7; 900_000];
    let records: Vec<_> = records(2).into_iter().map(|r| r.with_payload(value.clone())).collect();
    assert_eq!(short(&handle(&handler(&url), records).await), "..");
    assert!(receiver.seen().iter().all(|seen| seen.body == value), "each alone, in binary mode");
}

#[tokio::test]
async fn what_follows_a_failure_in_a_later_call_is_not_sent() {
    let (receiver, url) = Receiver::start([failures(&[1])]).await;
    let lanes = [1, 2, 1, 2];
    let records = records(4).into_iter().zip(lanes);
    let records =
        records.map(|(r, lane)| r.with_lane(lane).with_payload(vec![b'x'; 300_000])).collect();
    assert_eq!(short(&handle(&handler(&url), records).await), "r.-.");
    assert_eq!(receiver.calls(), [vec![1, 2], vec![4]]);
}

#[tokio::test]
async fn an_answer_without_end_is_not_read_to_its_end() {
    let endless = futures::stream::repeat_with(|| {
        Ok::<_, std::convert::Infallible>(Bytes::from(vec![b' '; 65_536]))
    });
    for body in [Body::from_stream(endless), Body::from(vec![b' '; MAX_ANSWER + 1])] {
        let (_, url) = Receiver::start([answer(200, body)]).await;
        let outcomes = handle(&handler(&url), records(2)).await;
        assert_eq!(short(&outcomes), "R");
        assert!(reason(&outcomes).contains("larger than 1048576 bytes"), "{}", reason(&outcomes));
    }
}

#[tokio::test]
async fn a_receiver_that_stalls_is_given_up_at_the_timeout() {
    let (_, url) = Receiver::start([answer(
        200,
        Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>()),
    )])
    .await;
    let handler = handler_within(&url, SpecDuration::from_millis(100));
    let outcomes = handle(&handler, records(2)).await;
    assert_eq!(short(&outcomes), "R");
    assert!(reason(&outcomes).contains("within 100ms"), "{}", reason(&outcomes));
}

/// A server that does as it likes with each connection.
async fn raw<F>(serve: impl Fn(tokio::net::TcpStream) -> F + Send + 'static) -> String
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    url
}

#[tokio::test]
async fn a_receiver_that_breaks_off_costs_no_record() {
    for (bytes, why) in [
        ("", "call failed"),
        ("HTTP/1.1 200 OK\r\ncontent-le", "call failed"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf", "broke off"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhalf", "broke off"),
        ("SSH-2.0-OpenSSH_9.2\r\n", "call failed"),
    ] {
        let url = raw(move |mut stream| async move {
            let _ = stream.read(&mut vec![0; 65_536]).await;
            let _ = stream.write_all(bytes.as_bytes()).await;
        })
        .await;
        for count in [1, 2] {
            let outcomes = handle(&handler(&url), records(count)).await;
            // The engine divides what may have failed because of one record.
            assert_eq!(short(&outcomes), "R", "{bytes:?}");
            assert!(reason(&outcomes).contains(why), "{bytes:?}: {}", reason(&outcomes));
        }
    }
}

#[tokio::test]
async fn a_receiver_that_does_not_answer_is_not_asked_for_each_record_of_a_batch() {
    for (first, calls) in [(answer(503, ""), 2), (answer(504, ""), 2), (answer(500, ""), 4)] {
        // Refused as a whole, so that the records go one by one.
        let (receiver, url) = Receiver::start([answer(400, ""), first]).await;
        let outcomes = handle(&handler(&url), records(3)).await;
        assert_eq!(receiver.calls().len(), calls);
        assert_eq!(short(&outcomes), if calls == 2 { "r--" } else { "r.." });
    }
}

#[tokio::test]
async fn a_receiver_that_is_not_there_is_named_with_its_cause() {
    let url = format!(
        "http://{}/",
        TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
    );
    let outcomes = handle(&handler(&url), records(2)).await;
    assert_eq!(short(&outcomes), "rr", "there is nothing to divide");
    assert!(
        reason(&outcomes).to_lowercase().contains("connection refused"),
        "{}",
        reason(&outcomes)
    );
}

#[tokio::test]
async fn a_call_is_cut_off_when_the_batch_is_cancelled() {
    let (arrived, gone) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (arrived_, gone_) = (arrived.clone(), gone.clone());
    let url = raw(move |mut stream| {
        let (arrived, gone) = (arrived_.clone(), gone_.clone());
        async move {
            let mut buffer = vec![0; 65_536];
            let _ = stream.read(&mut buffer).await;
            arrived.notify_one();
            // The client hangs up: end of stream, or a reset.
            while stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
            gone.notify_one();
        }
    })
    .await;
    let token = CancellationToken::new();
    let batch = Batch::new(records(2)).with_cancellation(token.clone());
    let handler = handler(&url);
    let (outcomes, ()) = timeout(DEADLINE, async {
        tokio::join!(handler.handle(&batch), async {
            arrived.notified().await;
            token.cancel();
        })
    })
    .await
    .unwrap();
    assert_eq!(short(&outcomes), "--");
    timeout(DEADLINE, gone.notified()).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_called_is_refused_before_the_first_record() {
    let spec = |url: &str, name: &str, value: &str| Spec {
        url: url.into(),
        timeout: SpecDuration::from_secs(1),
        headers: [(name.to_owned(), value.to_owned())].into(),
    };
    for (url, name, value, says) in [
        ("orders.svc/x", "a", "b", "must begin with http://"),
        ("ftp://orders/x", "a", "b", "must begin with http://"),
        ("http:///x", "a", "b", "no address"),
        ("http://me:secret@orders/x", "a", "b", "user name"),
        ("http://orders/a b", "a", "b", "no address"),
        ("http://orders/", "Content-Type", "text/plain", "written by the handler"),
        ("http://orders/", "CE-Id", "1", "written by the handler"),
        ("http://orders/", "a b", "1", "no header name"),
        ("http://orders/", "a", "x\ny", "no header can carry"),
    ] {
        let error = HttpHandler::new(&spec(url, name, value), "g").unwrap_err().to_string();
        assert!(error.contains(says), "{url} {name}: {error}");
    }
    assert!(HttpHandler::new(&spec("https://orders.example/x", "a", "b"), "g").is_ok());
    assert!(
        HttpHandler::new(
            &Spec { timeout: SpecDuration::default(), ..spec("http://o/", "a", "b") },
            "g"
        )
        .is_err()
    );
}

#[test]
fn the_answer_to_the_largest_batch_fits_into_what_is_read() {
    let item = r#"{"itemIdentifier":"partition:2147483647/offset:9223372036854775807"},"#;
    assert!(500 * item.len() * 4 < MAX_ANSWER);
}
