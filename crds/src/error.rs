//! Errors in words, as statuses, logs and terminals show them.

use std::error::Error;

/// An error and its causes as one sentence, `what failed: why: why that`. Each cause is there once:
/// some errors of libraries end with their cause, and have it as their source too.
pub fn sentence(error: &dyn Error) -> String {
    let mut sentence = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !sentence.contains(&words) {
            sentence = format!("{sentence}: {words}");
        }
        source = cause.source();
    }
    sentence
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Failure {
        #[error("cannot read a")]
        Read(#[source] io::Error),
        #[error("cannot write a: {0}")]
        Write(#[source] io::Error),
        #[error("no start")]
        Start(#[source] Box<Failure>),
        #[error(transparent)]
        Other(Box<Failure>),
    }

    #[test]
    fn each_cause_is_in_the_sentence_once() {
        let cause = || io::Error::other("the disk is full");
        for (error, expected) in [
            (Failure::Read(cause()), "cannot read a: the disk is full"),
            (Failure::Write(cause()), "cannot write a: the disk is full"),
            (
                Failure::Start(Box::new(Failure::Read(cause()))),
                "no start: cannot read a: the disk is full",
            ),
            (Failure::Other(Box::new(Failure::Read(cause()))), "cannot read a: the disk is full"),
        ] {
            assert_eq!(sentence(&error), expected);
        }
    }
}
