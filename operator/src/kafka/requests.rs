//! The requests that are not answered yet, by tag. Without Kafka.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use crate::kafka::port::ReadError;

/// What a request asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Question {
    /// Ids and leaders of the topics.
    Topics {
        /// Which part of them.
        chunk: u32,
    },
    /// Who the brokers are.
    Brokers,
    /// A broker's setting.
    Setting,
    /// The first offsets of a leader's partitions.
    Starts {
        /// The broker.
        leader: i32,
        /// Which part of them.
        chunk: u32,
    },
    /// The ends of a leader's partitions.
    Ends {
        /// The broker.
        leader: i32,
        /// Whether it is about committed records only.
        committed: bool,
        /// Which part of them.
        chunk: u32,
    },
    /// A group's committed offsets.
    Offsets {
        /// The number under which it is followed.
        group: u64,
        /// Who is asked: its coordinator, as far as that is known.
        broker: i32,
        /// Which part of them.
        chunk: u32,
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

/// Partitions, by topic and number.
pub type Partitions = [(Arc<str>, i32)];
/// The same, owned.
pub type PartitionList = Vec<(Arc<str>, i32)>;

/// A request that is not answered yet.
#[derive(Debug)]
pub struct InFlight {
    /// What it asks.
    pub question: Question,
    /// When.
    pub asked: Instant,
    /// The round that asked it.
    pub round: u64,
    /// The partitions that it is about.
    pub partitions: PartitionList,
    /// Who waits for the end of a commit.
    pub waiting: Option<oneshot::Sender<Result<(), ReadError>>>,
}

/// All requests that are not answered yet. A tag is never used twice, so that a late answer is that to its own question.
#[derive(Debug, Default)]
pub struct Requests {
    tag: u64,
    in_flight: HashMap<u64, InFlight>,
    questions: HashSet<Question>,
    round: u64,
    /// How many of this round's are not answered.
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
        self.in_flight.retain(|_, request| request.asked.elapsed() < forgotten);
        self.questions = self.in_flight.values().map(|request| request.question).collect();
    }

    /// The tag for a question; `None` if it was asked in this round, or before without an answer so far.
    pub fn ask(
        &mut self,
        question: Question,
        partitions: PartitionList,
    ) -> Option<(u64, &Partitions)> {
        if !self.asked.insert(question) || !self.questions.insert(question) {
            return None;
        }
        self.awaited += 1;
        let tag = self.send(question, partitions, None);
        Some((tag, self.in_flight.get(&tag).map_or(&[], |request| request.partitions.as_slice())))
    }

    /// The tag for a commit, which is never left out.
    pub fn commit(&mut self, group: u64, waiting: oneshot::Sender<Result<(), ReadError>>) -> u64 {
        self.send(Question::Commit { group }, PartitionList::new(), Some(waiting))
    }

    fn send(
        &mut self,
        question: Question,
        partitions: PartitionList,
        waiting: Option<oneshot::Sender<Result<(), ReadError>>>,
    ) -> u64 {
        self.tag += 1;
        let (asked, round) = (Instant::now(), self.round);
        let request = InFlight { question, asked, round, partitions, waiting };
        self.in_flight.insert(self.tag, request);
        self.tag
    }

    /// The request that is answered; `None` if it was given up.
    pub fn answered(&mut self, tag: u64) -> Option<InFlight> {
        let request = self.in_flight.remove(&tag)?;
        if request.waiting.is_none() {
            self.questions.remove(&request.question);
            self.awaited -= usize::from(self.is_of_this_round(&request));
        }
        Some(request)
    }

    /// Whether this round has asked it.
    pub fn is_of_this_round(&self, request: &InFlight) -> bool {
        request.round == self.round
    }

    /// Whether something that this round has asked is not answered yet.
    pub fn awaits_an_answer(&self) -> bool {
        self.awaited > 0
    }

    /// Whether all is answered.
    pub fn is_empty(&self) -> bool {
        self.in_flight.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);
    const SLOW: Question = Question::Ends { leader: 1, committed: true, chunk: 0 };
    const QUICK: Question = Question::Ends { leader: 2, committed: true, chunk: 0 };

    fn ask(requests: &mut Requests, question: Question) -> Option<u64> {
        requests.ask(question, PartitionList::new()).map(|(tag, _)| tag)
    }

    #[test]
    fn what_is_open_is_not_asked_again_and_holds_up_its_own_round_only() {
        let mut requests = Requests::default();
        requests.begin_round(LONG);
        let slow = ask(&mut requests, SLOW).unwrap();
        let quick = ask(&mut requests, QUICK).unwrap();
        requests.answered(quick).unwrap();
        assert!(requests.awaits_an_answer());
        assert_eq!(ask(&mut requests, QUICK), None, "once a round");

        requests.begin_round(LONG);
        assert_eq!(ask(&mut requests, SLOW), None, "it is open");
        let quick = ask(&mut requests, QUICK).unwrap();
        requests.answered(quick).unwrap();
        assert!(!requests.awaits_an_answer() && !requests.is_empty());

        let late = requests.answered(slow).unwrap();
        assert_eq!(late.question, SLOW);
        assert!(!requests.is_of_this_round(&late) && requests.is_empty());
        assert_eq!(ask(&mut requests, SLOW), None, "once a round, even if it was left out");
        requests.begin_round(LONG);
        assert!(ask(&mut requests, SLOW).is_some());
    }

    #[test]
    fn a_late_answer_is_never_taken_for_that_to_another_question() {
        let mut requests = Requests::default();
        requests.begin_round(LONG);
        let old = ask(&mut requests, SLOW).unwrap();
        requests.begin_round(Duration::ZERO);
        let new = ask(&mut requests, SLOW).unwrap();
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
