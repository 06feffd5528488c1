//! Which limits are reached: said once when it begins and once when it is over, not for each packet.

use std::time::Duration;

use crate::event::Event;
use crate::{DropReason, Engine, Time, Verdict};

/// How long nothing has met a limit before that is over.
const OVER_AFTER: Duration = Duration::from_secs(5);

/// The limits that are reached now.
#[derive(Debug)]
pub(crate) struct Pressure {
    limits: [Option<Reached>; DropReason::ALL.len()],
    /// When to look whether one is over.
    look: Option<Time>,
}

#[derive(Debug, Clone, Copy)]
struct Reached {
    since: Time,
    last: Time,
    /// Packets that were refused, and flows that had to make room.
    times: u64,
}

impl Pressure {
    pub(crate) const fn new() -> Self {
        Self { limits: [None; DropReason::ALL.len()], look: None }
    }

    /// The limit was met. Returns whether that is news.
    pub(crate) fn meet(&mut self, now: Time, limit: DropReason) -> bool {
        let reached = &mut self.limits[limit.index()];
        let is_new = reached.is_none();
        let reached = reached.get_or_insert(Reached { since: now, last: now, times: 0 });
        reached.last = now;
        reached.times += 1;
        self.look.get_or_insert(now + OVER_AFTER);
        is_new
    }

    pub(crate) const fn poll_timeout(&self) -> Option<Time> {
        self.look
    }

    /// One limit that nothing has met lately; call until `None`.
    pub(crate) fn poll_over(&mut self, now: Time) -> Option<Event> {
        if self.look.is_none_or(|look| now < look) {
            return None;
        }
        for limit in DropReason::ALL {
            let place = &mut self.limits[limit.index()];
            if let Some(reached) = *place
                && now >= reached.last + OVER_AFTER
            {
                *place = None;
                let Reached { since, last, times } = reached;
                return Some(Event::LimitOver { limit: *limit, times, lasted: last.since(since) });
            }
        }
        let last = self.limits.iter().flatten().map(|reached| reached.last).min();
        self.look = last.map(|last| last + OVER_AFTER);
        None
    }
}

impl Engine {
    /// Takes down that a limit was met, and says so where it is news.
    pub(crate) fn meet_limit(&mut self, now: Time, limit: DropReason) {
        if self.pressure.meet(now, limit) {
            self.journal.push(Event::LimitReached { limit });
        }
    }

    /// Counts packets that waited for a neighbour and have made room for others.
    pub(crate) fn count_given_way(&mut self, now: Time) {
        let frames = self.neighbours.take_given_way();
        if frames > 0 {
            let verdict = Verdict::Drop(DropReason::NeighbourQueueFull);
            self.counters.release(verdict, u64::from(frames));
            self.meet_limit(now, DropReason::NeighbourQueueFull);
        }
    }

    pub(crate) fn end_pressure(&mut self, now: Time) {
        while let Some(event) = self.pressure.poll_over(now) {
            self.journal.push(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_said_once_when_met_and_once_when_over() {
        let at = |seconds: u64| Time::from_nanos(seconds * 1_000_000_000);
        let limit = DropReason::HalfOpenLimit;
        let mut pressure = Pressure::new();
        assert!(pressure.meet(at(1), limit));
        assert!(!pressure.meet(at(2), limit));
        assert!(pressure.meet(at(4), DropReason::SourceQuota));
        assert_eq!(pressure.poll_timeout(), Some(at(6)));
        assert_eq!(pressure.poll_over(at(6)), None);
        assert_eq!(pressure.poll_timeout(), Some(at(7)));
        let over = Event::LimitOver { limit, times: 2, lasted: Duration::from_secs(1) };
        assert_eq!(pressure.poll_over(at(8)), Some(over));
        assert_eq!(pressure.poll_over(at(8)), None);
        assert!(pressure.poll_over(at(9)).is_some());
        assert_eq!(pressure.poll_over(at(9)), None);
        assert_eq!(pressure.poll_timeout(), None);
        assert!(pressure.meet(at(10), limit));
    }
}
