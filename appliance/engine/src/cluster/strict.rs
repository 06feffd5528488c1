//! Strict rules: the first packet of a flow waits until all who are asked for its keys know of the flow.

use std::time::Duration;

use super::announce::{key_of, slot_of};
use super::consult::{Errand, Passage, Question};
use super::rendezvous::Pair;
use super::share::AWAITED;
use super::waiting::Asked;
use crate::flows::Slot;
use crate::{Direction, DropReason, Engine, Time, Verdict};

/// So long a packet waits (docs/cluster.md section 2).
pub(super) const STRICT_HOLD: Duration = Duration::from_millis(200);

impl Engine {
    /// By a flow of this node's, once it may have packets.
    pub(crate) fn passage(&self, slot: Slot, direction: Direction) -> Passage {
        let awaited = self.cluster.as_ref().filter(|_| self.is_awaited(slot));
        match awaited.zip(key_of(&self.flows, slot, 0)) {
            Some((cluster, key)) => {
                let (to, question) = (cluster.me(), Question::Known);
                Passage::Elsewhere(Errand { to, key, question })
            }
            None => Passage::Here(slot, direction),
        }
    }

    fn is_awaited(&self, slot: Slot) -> bool {
        let cluster = self.cluster.as_ref().filter(|cluster| !cluster.is_alone());
        cluster.is_some_and(|cluster| cluster.shares.get(slot).has(AWAITED))
    }

    /// All know of the flow: its packets go.
    pub(super) fn release_known(&mut self, now: Time, key: &Pair) {
        let Some(cluster) = &mut self.cluster else { return };
        for asked in cluster.waiting.take_known_about(key) {
            self.decide_again(now, asked);
        }
    }

    /// A packet has waited for long enough.
    pub(super) fn end_wait(&mut self, now: Time, asked: Asked) {
        let found = slot_of(&self.flows, &asked.key);
        if found.is_some_and(|slot| self.is_awaited(slot)) {
            self.counters.release(Verdict::Drop(DropReason::NotRegistered), 1);
        } else {
            self.decide_again(now, asked);
        }
    }
}
