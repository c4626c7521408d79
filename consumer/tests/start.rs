//! What the consumer's binary says when it cannot start.

#![allow(missing_docs, clippy::unwrap_used)]

use std::process::Command;

#[test]
fn a_start_that_fails_names_each_cause_once() {
    let folder = tempfile::tempdir().unwrap();
    let start = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluice-consumer"));
        command.env("SLUICE_CONFIG_DIR", folder.path()).output().unwrap()
    };
    let file = folder.path().join("consumer.yaml");
    let path = file.display();
    let missing = format!("the configuration {path} cannot be opened: No such file or directory");
    let broken = "the configuration cannot be read: invalid type: string \"a\"".to_owned();
    for (text, expected) in [(None, missing), (Some("a"), broken)] {
        if let Some(text) = text {
            std::fs::write(&file, text).unwrap();
        }
        let output = start();
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.starts_with(&format!("error: {expected}")), "{said}");
        let cause = expected.rsplit(": ").next().unwrap();
        assert_eq!((said.matches(cause).count(), said.lines().count()), (1, 1), "{said}");
    }
}
