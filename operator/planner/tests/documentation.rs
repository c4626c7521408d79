//! docs/operations.md has the planner's rules in the order in which it asks them.

#![allow(missing_docs, clippy::unwrap_used)]

use std::{env, fmt::Write, fs, path::Path};

use sluice_planner::RULES;

const BEGIN: &str =
    "<!-- rules: begin; written by a test of the planner, see CONTRIBUTING.md -->\n";
const END: &str = "<!-- rules: end -->";
const RENEW: &str = "RENEW=1 cargo test -p sluice-planner --test documentation";

fn table() -> String {
    let mut table = "| | rule | when | pods |\n| --- | --- | --- | --- |\n".to_owned();
    for (number, rule) in (1..).zip(RULES) {
        let (reason, when, then) = (rule.reason.as_str(), rule.when, rule.then);
        writeln!(table, "| {number} | `{reason}` | {when} | {then} |").unwrap();
    }
    table
}

#[test]
fn the_order_of_the_rules_is_documented() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operations.md");
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (written, after) = rest.split_once(END).unwrap();
    if env::var_os("RENEW").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{}{END}{after}", table())).unwrap();
        return;
    }
    assert_eq!(written, table(), "the rules have changed; to renew the table: {RENEW}");
}
