//! What an answer means: done, try again, or dead. Pure; the reasons stand in docs/adr/0005-http-contract.md.

use std::{collections::HashMap, time::Duration};

use http::{
    HeaderMap, StatusCode,
    header::{CONTENT_TYPE, LOCATION, RETRY_AFTER},
};
use serde_json::Value;

/// The longest `Retry-After` that is honoured: a receiver that is back earlier should not wait for us for an hour.
const MAX_RETRY_AFTER: Duration = Duration::from_mins(5);
/// How much of an answer's body is quoted in a reason.
const QUOTED: usize = 200;

/// What the receiver said of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The call is done.
    Done,
    /// These records of the call are not done, by their ids; the others are.
    Partly(HashMap<String, Item>),
    /// Not done; the records, or some of them, may be what is in the way.
    Failed {
        /// Why, for people.
        reason: String,
        /// Not before this time has passed.
        after: Option<Duration>,
    },
    /// Not done, and nobody said why: the receiver may have stumbled over one of the records, or be away.
    NoAnswer {
        /// Why, for people.
        reason: String,
        /// Not before this time has passed.
        after: Option<Duration>,
    },
    /// Not done, and another call would fail as well: the receiver, or the way to it, is what is in the way.
    Unavailable {
        /// Why, for people.
        reason: String,
        /// Not before this time has passed.
        after: Option<Duration>,
    },
    /// The receiver will never take this: of one record, the record is dead; of several, at least one is.
    Refused {
        /// Why, for people.
        reason: String,
        /// The receiver does not know the batch's media type at all.
        media_type: bool,
    },
}

/// What a partial answer says of a record that is not done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Item {
    /// It will never be handled.
    pub dead: bool,
    /// Why, if the receiver says so.
    pub reason: Option<String>,
}

/// Reads a complete answer. `several` tells that the call carried a batch, whose answer may be partial.
pub fn read(
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    several: bool,
    now: jiff::Timestamp,
) -> Verdict {
    if status.is_success() {
        return if several { read_partial(headers, body) } else { Verdict::Done };
    }
    let after = retry_after(headers, now);
    match status.as_u16() {
        // Only these speak of what was sent. All other 4xx (401, 403, 404, 405, 410 …) speak of the receiver's address or
        // rights: with them a wrong URL or an expired token would bury a whole topic.
        400 | 413 | 415 | 422 | 431 => {
            Verdict::Refused { reason: describe(status, body), media_type: status == 415 }
        }
        408 | 409 | 425 | 500 | 501 | 505..=599 => {
            Verdict::Failed { reason: describe(status, body), after }
        }
        // A proxy, on behalf of a receiver that broke off or took too long.
        502 | 504 => Verdict::NoAnswer { reason: describe(status, body), after },
        300..=399 => {
            let to =
                headers.get(LOCATION).and_then(|v| v.to_str().ok()).unwrap_or("an unnamed address");
            let reason = format!(
                "the receiver answered {status}: redirects are not followed; write {to} into handler.http.url"
            );
            Verdict::Unavailable { reason, after }
        }
        _ => Verdict::Unavailable { reason: describe(status, body), after },
    }
}

/// A batch's answer with 2xx: done, unless its body says in Lambda's `batchItemFailures` what is not.
fn read_partial(headers: &HeaderMap, body: &[u8]) -> Verdict {
    let failed = |reason: &str| Verdict::Failed {
        reason: format!(
            "the receiver's answer {reason}, so no record of the batch counts as done: {}",
            quote(body)
        ),
        after: None,
    };
    if body.iter().all(u8::is_ascii_whitespace) {
        return Verdict::Done;
    }
    let Ok(answer) = serde_json::from_slice::<Value>(body) else {
        // A page of text is no partial answer. What calls itself JSON and is not could have been one.
        return if is_json(headers) {
            failed("is not the JSON that it says it is")
        } else {
            Verdict::Done
        };
    };
    let items = match answer.get("batchItemFailures") {
        None | Some(Value::Null) => return Verdict::Done,
        Some(Value::Array(items)) => items,
        Some(_) => return failed("has a batchItemFailures that is not a list"),
    };
    let mut failures = HashMap::with_capacity(items.len());
    for item in items {
        let id = match item.get("itemIdentifier").and_then(Value::as_str) {
            Some(id) if !id.is_empty() => id.to_owned(),
            _ => return failed("names a failed item without its itemIdentifier"),
        };
        let dead = match item.get("dead") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(dead)) => *dead,
            Some(_) => return failed("has a \"dead\" that is neither true nor false"),
        };
        let reason =
            item.get("reason").and_then(Value::as_str).map(|reason| quote(reason.as_bytes()));
        failures.insert(id, Item { dead, reason });
    }
    if failures.is_empty() { Verdict::Done } else { Verdict::Partly(failures) }
}

fn is_json(headers: &HeaderMap) -> bool {
    let media_type = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let media_type = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media_type == "application/json" || media_type.ends_with("+json")
}

/// `Retry-After` as seconds or as a date.
fn retry_after(headers: &HeaderMap, now: jiff::Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let after = if let Ok(seconds) = text.parse::<u64>() {
        Duration::from_secs(seconds)
    } else {
        let at = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
        // A date that has passed: now.
        Duration::try_from(at.duration_since(now)).unwrap_or_default()
    };
    Some(after.min(MAX_RETRY_AFTER))
}

fn describe(status: StatusCode, body: &[u8]) -> String {
    let quoted = quote(body);
    if quoted.is_empty() {
        format!("the receiver answered {status}")
    } else {
        format!("the receiver answered {status}: {quoted}")
    }
}

/// The start of a body on one line.
fn quote(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(4 * QUOTED)]);
    let line: String = text
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .chars()
        .filter(|c| !c.is_control())
        .collect();
    match line.char_indices().nth(QUOTED) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> jiff::Timestamp {
        "2026-09-21T14:00:00Z".parse().unwrap()
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(n, v)| (http::HeaderName::from_static(n), http::HeaderValue::from_static(v)))
            .collect()
    }

    fn status(code: u16) -> Verdict {
        read(StatusCode::from_u16(code).unwrap(), &HeaderMap::new(), b"", true, now())
    }

    fn body(content_type: &'static str, body: &str) -> Verdict {
        read(
            StatusCode::OK,
            &headers(&[("content-type", content_type)]),
            body.as_bytes(),
            true,
            now(),
        )
    }

    #[test]
    fn a_status_says_what_becomes_of_the_records() {
        for code in [200, 201, 202, 204] {
            assert_eq!(status(code), Verdict::Done, "{code}");
        }
        for code in [400, 413, 415, 422, 431] {
            assert!(matches!(status(code), Verdict::Refused { .. }), "{code}");
        }
        for code in [408, 409, 425, 500, 501, 505, 599] {
            assert!(matches!(status(code), Verdict::Failed { .. }), "{code}");
        }
        for code in [502, 504] {
            assert!(matches!(status(code), Verdict::NoAnswer { .. }), "{code}");
        }
        for code in [301, 307, 401, 403, 404, 405, 410, 429, 451, 503] {
            assert!(matches!(status(code), Verdict::Unavailable { .. }), "{code}");
        }
    }

    #[test]
    fn a_redirect_is_not_followed_and_the_reason_says_what_to_write() {
        let moved = headers(&[("location", "https://new.example/records")]);
        let Verdict::Unavailable { reason, .. } =
            read(StatusCode::PERMANENT_REDIRECT, &moved, b"", false, now())
        else {
            unreachable!()
        };
        assert!(reason.contains("https://new.example/records into handler.http.url"), "{reason}");
    }

    #[test]
    fn retry_after_is_honoured_as_seconds_and_as_a_date() {
        for (text, seconds) in [
            ("7", Some(7)),
            ("0", Some(0)),
            ("86400", Some(300)),
            ("Mon, 21 Sep 2026 14:00:30 GMT", Some(30)),
            ("Mon, 21 Sep 2026 13:00:00 GMT", Some(0)),
            ("-5", None),
            ("soon", None),
        ] {
            let headers = headers(&[("retry-after", text)]);
            for code in [StatusCode::TOO_MANY_REQUESTS, StatusCode::INTERNAL_SERVER_ERROR] {
                let (Verdict::Unavailable { after, .. } | Verdict::Failed { after, .. }) =
                    read(code, &headers, b"", false, now())
                else {
                    unreachable!()
                };
                assert_eq!(after, seconds.map(Duration::from_secs), "{text}");
            }
        }
    }

    #[test]
    fn a_partial_answer_names_what_is_not_done() {
        let answer = r#"{"batchItemFailures": [{"itemIdentifier": "a", "more": 1},
            {"itemIdentifier": "b", "dead": true, "reason": "no such\ncustomer"}]}"#;
        let dead = Item { dead: true, reason: Some("no such customer".into()) };
        let ids = HashMap::from([("a".to_owned(), Item::default()), ("b".to_owned(), dead)]);
        for content_type in [
            "application/json",
            "application/json; charset=utf-8",
            "text/plain",
            "application/x+json",
        ] {
            assert_eq!(body(content_type, answer), Verdict::Partly(ids.clone()), "{content_type}");
        }
    }

    #[test]
    fn what_lambda_takes_as_success_is_success() {
        for answer in [
            "",
            " ",
            "null",
            "{}",
            r#"{"batchItemFailures": []}"#,
            r#"{"batchItemFailures": null}"#,
            "[]",
            r#"{"ok": true}"#,
        ] {
            assert_eq!(body("application/json", answer), Verdict::Done, "{answer:?}");
        }
        assert_eq!(body("text/html", "<html>batchItemFailures</html>"), Verdict::Done);
    }

    #[test]
    fn an_answer_that_could_have_named_failures_counts_as_one() {
        for answer in [
            "{\"batchItemFailures\": [{\"itemId",
            "not JSON",
            r#"{"batchItemFailures": {}}"#,
            r#"{"batchItemFailures": "a"}"#,
            r#"{"batchItemFailures": ["a"]}"#,
            r#"{"batchItemFailures": [{"itemIdentifier": ""}]}"#,
            r#"{"batchItemFailures": [{"itemIdentifier": null}]}"#,
            r#"{"batchItemFailures": [{"id": "a"}]}"#,
            r#"{"batchItemFailures": [{"itemIdentifier": "a"}, 3]}"#,
            r#"{"batchItemFailures": [{"itemIdentifier": "a", "dead": "yes"}]}"#,
        ] {
            assert!(
                matches!(body("application/json", answer), Verdict::Failed { .. }),
                "{answer:?}"
            );
        }
    }

    #[test]
    fn of_one_record_the_status_alone_speaks() {
        let json = headers(&[("content-type", "application/json")]);
        assert_eq!(read(StatusCode::OK, &json, b"not JSON", false, now()), Verdict::Done);
    }

    #[test]
    fn a_reason_quotes_the_answer_on_one_short_line() {
        let long = format!("first\nsecond\u{1b}[31m {}", "ä".repeat(5_000));
        let Verdict::Refused { reason, .. } =
            read(StatusCode::BAD_REQUEST, &HeaderMap::new(), long.as_bytes(), false, now())
        else {
            unreachable!()
        };
        assert!(
            reason.starts_with("the receiver answered 400 Bad Request: first second[31m ää"),
            "{reason}"
        );
        assert!(reason.chars().count() < 260 && !reason.contains('\n'), "{reason}");
    }
}
