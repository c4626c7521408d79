//! The requests that are not answered yet, by tag. Without Kafka.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use crate::kafka::port::ReadError;

/// What a request asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Question {
    /// Ids and leaders of the topics.
    Topics,
    /// A broker's setting.
    Setting,
    /// The first offsets of a leader's partitions.
    Starts {
        /// The broker.
        leader: i32,
    },
    /// The ends of a leader's partitions.
    Ends {
        /// The broker.
        leader: i32,
        /// Whether it is about committed records only.
        committed: bool,
    },
    /// A group's committed offsets.
    Offsets {
        /// The number under which it is followed.
        group: u64,
        /// Who is asked: its coordinator, as far as that is known.
        broker: i32,
    },
    /// A group's members.
    Members {
        /// The number under which it is followed.
        group: u64,
    },
    /// To commit for a group.
    Commit {
        /// The number under which it is followed.
        group: u64,
    },
}

/// A request that is not answered yet.
#[derive(Debug)]
pub struct InFlight {
    /// What it asks.
    pub question: Question,
    /// When.
    pub asked: Instant,
    /// The round that asked it.
    pub round: u64,
    /// Who waits for the end of a commit.
    pub waiting: Option<oneshot::Sender<Result<(), ReadError>>>,
}

/// All requests that are not answered yet. A tag is never used twice, so that a late answer is that to its own question.
#[derive(Debug, Default)]
pub struct Requests {
    tag: u64,
    open: HashMap<u64, InFlight>,
    questions: HashSet<Question>,
    round: u64,
    /// How many of this round's are open.
    awaited: usize,
    /// What this round has asked.
    asked: HashSet<Question>,
}

impl Requests {
    /// Begins a round. What librdkafka has not answered in `forgotten` is given up, and may be asked again.
    pub fn begin_round(&mut self, forgotten: Duration) {
        self.round += 1;
        self.awaited = 0;
        self.asked.clear();
        self.open.retain(|_, open| open.asked.elapsed() < forgotten);
        self.questions = self.open.values().map(|open| open.question).collect();
    }

    /// The tag for a question; `None` if it was asked in this round, or before without an answer so far.
    pub fn ask(&mut self, question: Question) -> Option<u64> {
        if !self.asked.insert(question) || !self.questions.insert(question) {
            return None;
        }
        self.awaited += 1;
        Some(self.open(question, None))
    }

    /// The tag for a commit, which is never left out.
    pub fn commit(&mut self, group: u64, waiting: oneshot::Sender<Result<(), ReadError>>) -> u64 {
        self.open(Question::Commit { group }, Some(waiting))
    }

    fn open(
        &mut self,
        question: Question,
        waiting: Option<oneshot::Sender<Result<(), ReadError>>>,
    ) -> u64 {
        self.tag += 1;
        self.open.insert(
            self.tag,
            InFlight { question, asked: Instant::now(), round: self.round, waiting },
        );
        self.tag
    }

    /// The request that is answered; `None` if it was given up.
    pub fn answered(&mut self, tag: u64) -> Option<InFlight> {
        let open = self.open.remove(&tag)?;
        if open.waiting.is_none() {
            self.questions.remove(&open.question);
            self.awaited -= usize::from(self.is_of_this_round(&open));
        }
        Some(open)
    }

    /// Whether this round has asked it.
    pub fn is_of_this_round(&self, open: &InFlight) -> bool {
        open.round == self.round
    }

    /// Whether something that this round has asked is open.
    pub fn awaits_an_answer(&self) -> bool {
        self.awaited > 0
    }

    /// Whether nothing at all is open.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);
    const SLOW: Question = Question::Ends { leader: 1, committed: true };
    const QUICK: Question = Question::Ends { leader: 2, committed: true };

    #[test]
    fn what_is_open_is_not_asked_again_and_holds_up_its_own_round_only() {
        let mut requests = Requests::default();
        requests.begin_round(LONG);
        let slow = requests.ask(SLOW).unwrap();
        let quick = requests.ask(QUICK).unwrap();
        requests.answered(quick).unwrap();
        assert!(requests.awaits_an_answer());
        assert_eq!(requests.ask(QUICK), None, "once a round");

        requests.begin_round(LONG);
        assert_eq!(requests.ask(SLOW), None, "it is open");
        let quick = requests.ask(QUICK).unwrap();
        requests.answered(quick).unwrap();
        assert!(!requests.awaits_an_answer() && !requests.is_empty());

        let late = requests.answered(slow).unwrap();
        assert_eq!(late.question, SLOW);
        assert!(!requests.is_of_this_round(&late) && requests.is_empty());
        assert_eq!(requests.ask(SLOW), None, "once a round, even if it was left out");
        requests.begin_round(LONG);
        assert!(requests.ask(SLOW).is_some());
    }

    #[test]
    fn a_late_answer_is_never_taken_for_that_to_another_question() {
        let mut requests = Requests::default();
        requests.begin_round(LONG);
        let old = requests.ask(SLOW).unwrap();
        requests.begin_round(Duration::ZERO);
        let new = requests.ask(SLOW).unwrap();
        assert!(new != old && requests.answered(old).is_none() && requests.awaits_an_answer());
        assert!(
            requests.answered(new).is_some()
                && requests.answered(new).is_none()
                && requests.is_empty()
        );
    }

    #[test]
    fn commits_are_kept_apart() {
        let mut requests = Requests::default();
        requests.begin_round(LONG);
        let tags = [(); 2].map(|()| requests.commit(7, oneshot::channel().0));
        assert!(!requests.is_empty() && !requests.awaits_an_answer() && tags[0] != tags[1]);
        assert!(
            tags.map(|tag| requests.answered(tag).unwrap().waiting.is_some())
                .iter()
                .all(|waits| *waits)
        );
        assert!(requests.is_empty());
    }
}
