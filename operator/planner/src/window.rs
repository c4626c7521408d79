//! May it shrink? Only to what the highest demand of the window needs.

use std::collections::VecDeque;

use crate::snapshot::Millis;

/// The counts that were needed over the window.
#[derive(Clone, Debug, Default)]
pub struct Window {
    needed: VecDeque<(Millis, u32)>,
    since: Option<Millis>,
}

impl Window {
    /// Notes what is needed now.
    pub(crate) fn note(&mut self, now: Millis, pods: u32, span: Millis) {
        self.since.get_or_insert(now);
        // Only the larger of later ones can ever be the maximum.
        while self.needed.back().is_some_and(|&(_, older)| older <= pods) {
            self.needed.pop_back();
        }
        self.needed.push_back((now, pods));
        while self.needed.len() > 1 && self.needed.front().is_some_and(|&(at, _)| at < now - span) {
            self.needed.pop_front();
        }
    }

    /// Begins again: what was needed before says nothing (the lag was unknown).
    pub(crate) fn restart(&mut self) {
        *self = Self::default();
    }

    /// The highest count of the window, once there is a whole window of it.
    pub fn highest(&self, now: Millis, span: Millis) -> Option<u32> {
        let since = self.since?;
        (now - since >= span).then(|| self.needed.front().map(|&(_, pods)| pods)).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_go_only_after_a_whole_window_that_did_not_need_them() {
        let mut window = Window::default();
        for (now, pods) in [(0, 12), (10_000, 12), (20_000, 1), (30_000, 1), (40_000, 1)] {
            window.note(now, pods, 30_000);
        }
        assert_eq!(window.highest(40_000, 30_000), Some(12));
        window.note(50_500, 1, 30_000);
        assert_eq!(window.highest(50_500, 30_000), Some(1));
    }

    #[test]
    fn without_a_whole_window_nothing_is_said() {
        let mut window = Window::default();
        window.note(0, 1, 30_000);
        window.note(29_000, 1, 30_000);
        assert_eq!(window.highest(29_000, 30_000), None);
        window.restart();
        window.note(31_000, 1, 30_000);
        assert_eq!(window.highest(31_000, 30_000), None);
    }
}
