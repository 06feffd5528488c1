//! Flows whose copies have fallen behind: their packets have gone on since. A copy is brought up to date
//! when packets pause, so that a connection whose node is lost can be ended where its ends really are.

use std::collections::VecDeque;
use std::time::Duration;

use super::share::{BEHIND, REPLICATED};
use crate::flows::Slot;
use crate::{Engine, Time};

/// After its first packet since the last record a flow is given so long to come to a pause.
const PAUSE: Duration = Duration::from_millis(1);

/// So many records a second bring copies up to date, a twentieth of what the sync path carries: with more
/// flows than that in motion each of them is late.
const PER_SECOND: u32 = 10_000;
const INTERVAL: Duration = Duration::from_nanos(1_000_000_000 / PER_SECOND as u64);
/// What may leave at once after a quiet time.
const BURST: Duration = Duration::from_millis(100);

/// No more wait; the next packet of one that found no room tries again.
const QUEUE_MAX: usize = 65_536;

/// Whose turn it is.
#[derive(Debug, Default)]
pub(super) struct Behind {
    queue: VecDeque<(Slot, Time)>,
    /// When the next record may leave if those before were spread evenly.
    next: Time,
}

impl Behind {
    pub(super) fn new(flows: u32) -> Self {
        let room = QUEUE_MAX.min(flows as usize);
        Self { queue: VecDeque::with_capacity(room), next: Time::ZERO }
    }

    /// Whether there was room.
    fn push(&mut self, slot: Slot, due: Time) -> bool {
        let fits = self.queue.len() < self.queue.capacity();
        if fits {
            self.queue.push_back((slot, due));
        }
        fits
    }

    fn poll(&mut self, now: Time) -> Option<Slot> {
        let (slot, _) = *self.queue.front().filter(|(_, due)| *due <= now && self.next <= now)?;
        self.queue.pop_front();
        if now.since(self.next) > BURST {
            self.next = Time::from_nanos(now.as_nanos().saturating_sub(BURST.as_nanos() as u64));
        }
        self.next = self.next + INTERVAL;
        Some(slot)
    }

    pub(super) fn poll_timeout(&self) -> Option<Time> {
        self.queue.front().map(|(_, due)| self.next.max(*due))
    }
}

impl Engine {
    /// Whether copies are to say where a connection is that has come to a pause.
    pub(crate) fn keeps_copies_exact(&self) -> bool {
        self.cluster.as_ref().is_some_and(|cluster| cluster.config.reset_lost)
    }

    /// A packet of the flow has moved what its copy does not know of.
    pub(crate) fn fall_behind(&mut self, now: Time, slot: Slot) {
        if !self.keeps_copies_exact() {
            return;
        }
        let Some(cluster) = &mut self.cluster else { return };
        let share = cluster.shares.get(slot);
        if share.has(REPLICATED) && !share.has(BEHIND) && cluster.behind.push(slot, now + PAUSE) {
            cluster.shares.mark(slot, BEHIND, true);
        }
    }

    /// Brings copies up to date, as many as may be.
    pub(super) fn catch_up(&mut self, now: Time) {
        let Self { cluster: Some(cluster), flows, .. } = self else { return };
        while let Some(slot) = cluster.behind.poll(now) {
            if cluster.shares.get(slot).has(BEHIND) {
                cluster.shares.mark(slot, BEHIND, false);
                cluster.replicate(flows, slot);
            }
        }
    }
}
