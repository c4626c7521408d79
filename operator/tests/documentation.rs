//! What docs/operations.md lists is what the code says: people and alerts match on these words.

#![allow(missing_docs, clippy::unwrap_used)]

use std::{collections::BTreeSet, fs, path::Path};

fn operations() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations.md");
    fs::read_to_string(path).unwrap()
}

/// The words that follow `mark` and an opening quote, in all sources of the operator.
fn quoted_after(mark: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let source = fs::read_to_string(&path).unwrap();
            let code = source.split("#[cfg(test)]").next().unwrap();
            for rest in code.split(mark).skip(1) {
                if let Some(word) = rest.trim_start().strip_prefix('"') {
                    found.insert(word.split('"').next().unwrap().to_owned());
                }
            }
        }
    }
    found
}

#[test]
fn every_event_is_documented() {
    let documented = operations();
    let mut events = quoted_after("Event::normal(");
    events.extend(quoted_after("Event::warning("));
    assert!(events.len() > 10, "{events:?}");
    for event in events {
        assert!(documented.contains(&format!("`{event}`")), "the event {event} is not documented");
    }
}

#[test]
fn every_condition_and_reason_is_documented() {
    let documented = operations();
    let source = include_str!("../../crds/src/conditions.rs");
    let words: BTreeSet<_> =
        source.split(": &str = \"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert!(words.len() > 30, "{words:?}");
    for word in words {
        let listed = [format!("`{word}`"), format!("| {word} |")];
        assert!(listed.iter().any(|l| documented.contains(l)), "{word} is not documented");
    }
}
