//! The first packet of some flows waits until all who are asked for their keys know of the flow: where a rule is
//! strict, and where answers could be taken for questions.

use std::time::Duration;

use super::announce::{key_of, slot_of};
use super::consult::{Errand, Passage, Question};
use super::rendezvous::Pair;
use super::share::AWAITED;
use super::waiting::Asked;
use crate::flows::{Slot, Tracker};
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

    /// Whether the rule that permits the flow says so.
    pub(super) fn is_strict(&self, slot: Slot) -> bool {
        let rules = self.policy.as_ref().map_or(&[][..], |policy| policy.rules.rules());
        let rule = self.flows.get(slot).and_then(|flow| rules.get(flow.rule().0 as usize));
        rule.is_some_and(|rule| rule.is_strict)
    }

    /// Whether answers look like questions of their own to a node that has not heard of the flow, and are no
    /// answers to a port that tells whose it is: it would translate them its own way.
    pub(super) fn is_answered_elsewhere(&self, slot: Slot) -> bool {
        let Some(flow) = self.flows.get(slot) else { return false };
        let reply = self.flows.key(slot, Direction::Reply);
        !matches!(flow.tracker(), Tracker::Tcp(_))
            && key_of(&self.flows, slot, 1).is_some()
            && !flow.is_from_own_address()
            && self.translator.owner_of(&reply).is_none()
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
        let awaited = found.filter(|slot| self.is_awaited(*slot));
        if awaited.is_some_and(|slot| self.is_strict(slot)) {
            self.counters.release(Verdict::Drop(DropReason::NotRegistered), 1);
        } else {
            if let Some((slot, cluster)) = awaited.zip(self.cluster.as_mut()) {
                cluster.shares.mark(slot, AWAITED, false);
            }
            self.decide_again(now, asked);
        }
    }
}
