//! Publishing what a round has found: one reading for each group.

use std::{sync::Arc, time::Duration};

use sluice_crds::conditions::reason;

use super::{
    super::{addresses, client, errors, following::Following, port::ReadError, round},
    Reader, TopicState,
};
use crate::clock;

impl Reader<'_> {
    /// Publishes what is known of a group.
    pub(super) fn publish(&mut self, following: &Following) {
        if self.pulse.is_abandoned() {
            return;
        }
        let excess = self.excess(following);
        let state = self.states.entry(following.id()).or_default();
        let topics = &following.what().topics;
        let is_touched = state.is_touched()
            || topics
                .iter()
                .any(|name| self.topics.get(&**name).is_none_or(TopicState::is_touched));
        let view = (is_touched && excess.is_none()).then(|| {
            let committed_only = following.committed_only();
            round::view(self.addresses, topics, &self.topics, state, committed_only)
        });
        let is_unknown = topics.iter().any(|name| !self.topics.contains_key(&**name));
        let undescribed = self.topics_failed.as_ref().filter(|_| is_unknown);
        let client = self.admin.client();
        let explain = |error: ReadError| match (client.refused(), client.connection_error()) {
            (Some(host), _)
                if matches!(error.reason, reason::UNREACHABLE | reason::PARTLY_KNOWN) =>
            {
                addresses::not_allowed(&host)
            }
            (None, Some(cause)) if error.reason == reason::UNREACHABLE => {
                let cause = client::cause(Some(&cause), self.cluster_id.is_some());
                errors::unreachable(self.addresses, cause)
            }
            _ => error,
        };
        let (now, interval) = (clock::now(), self.pace.interval());
        // What nobody has answered for in this round is as it was.
        let Some(view) = view.or_else(|| excess.map(|error| round::View::none(Some(error)))) else {
            following.publish(Some(Duration::MAX), |reading| {
                (reading.read_at, reading.interval) = (Some(now), Some(interval));
                false
            });
            return;
        };
        let error = view
            .error
            .or_else(|| undescribed.map(|failure| errors::read_error(self.addresses, failure)));
        let error = error.map(explain);
        let ids = topics
            .iter()
            .filter_map(|name| Some((name.to_string(), self.topics.get(&**name)?.id.clone()?)))
            .collect();
        following.publish(view.quiet, |reading| {
            let is_new = reading.error != error
                || reading.unread != view.unread
                || reading.cluster_id != self.cluster_id
                || reading.protocol != self.protocol
                || reading.topic_ids != ids;
            // An older one is still what is known; it says itself how old it is.
            reading.snapshot = view.snapshot.map(Arc::new).or_else(|| reading.snapshot.take());
            reading.error = error;
            reading.unread = view.unread;
            reading.read_at = Some(now);
            reading.interval = Some(interval);
            reading.cluster_id.clone_from(&self.cluster_id);
            reading.protocol = self.protocol;
            reading.topic_ids = ids;
            is_new
        });
    }
}
