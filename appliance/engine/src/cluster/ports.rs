//! Ports of shared addresses that this node may not give out, as others use them still (docs/cluster.md
//! section 5).

use super::NodeId;
use super::rendezvous::Pair;
use super::share::{REPLICATED, Share};
use crate::chains::HasKey;
use crate::flows::Flow;
use crate::{Engine, FlowKey, Time};

/// The port of a flow of this node's that has ended, and of which another may still keep a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Resting {
    key: Pair,
    /// Who is to say that he has forgotten it.
    holder: NodeId,
}

/// What a peer has just acknowledged.
#[derive(Debug, Default)]
pub(super) struct Ends {
    pub(super) heard: Vec<Pair>,
    /// It has been told of everything.
    pub(super) all: bool,
    /// First keys of flows of which it was the last to hear.
    pub(super) known: Vec<Pair>,
}

impl HasKey for Resting {
    type Key = Pair;

    fn key(&self) -> Pair {
        self.key
    }
}

impl Engine {
    /// Another node uses the port that is in this key, if it is one that this node gives out.
    pub(super) fn hold_port(&mut self, now: Time, key: &Pair) {
        if let Some(reply) = self.external_of(key) {
            self.translator.hold_foreign(now, &reply);
        }
    }

    /// It does no longer.
    pub(super) fn free_port(&mut self, now: Time, key: &Pair) {
        if let Some(reply) = self.external_of(key) {
            self.translator.release_foreign(now, &reply);
        }
    }

    /// A flow has ended whose copy its backup might take for a live flow's yet: if it took this node for
    /// dead, and a late packet came. The port rests until the backup has heard.
    pub(super) fn rest_port(&mut self, now: Time, share: &Share, flow: &Flow) {
        let key = Pair::from(flow.reply);
        let Some(holder) = share.holders[0].filter(|_| share.has(REPLICATED)) else { return };
        if flow.original.source == flow.reply.destination || self.external_of(&key).is_none() {
            return;
        }
        let Some(cluster) = &mut self.cluster else { return };
        let resting = Resting { key, holder };
        if cluster.resting.get(&key).is_none() && cluster.resting.get_or_insert(resting).is_some() {
            self.translator.hold_foreign(now, &flow.reply);
        }
    }

    /// Backups have heard of the ends of flows of these keys.
    pub(super) fn end_rests(&mut self, now: Time, from: NodeId) {
        let Some(cluster) = &mut self.cluster else { return };
        let Ends { mut heard, all, known } = std::mem::take(&mut cluster.heard_ends);
        for key in known {
            self.release_known(now, &key);
        }
        for key in heard.drain(..) {
            self.end_rest(now, from, &key);
        }
        if let Some(cluster) = &mut self.cluster {
            // Kept for its capacity.
            cluster.heard_ends.heard = heard;
        }
        if all {
            self.end_all_rests(now, from);
        }
    }

    /// A peer has begun anew, or has been told of everything: it keeps nothing that has ended.
    pub(super) fn end_all_rests(&mut self, now: Time, from: NodeId) {
        let Some(cluster) = &mut self.cluster else { return };
        let places = 0..cluster.resting.places();
        let of_peer = places.filter_map(|place| cluster.resting.at(place));
        let keys: Vec<Pair> =
            of_peer.filter(|rest| rest.holder == from).map(|rest| rest.key).collect();
        for key in keys {
            self.end_rest(now, from, &key);
        }
    }

    fn end_rest(&mut self, now: Time, from: NodeId, key: &Pair) {
        let Some(cluster) = &mut self.cluster else { return };
        if cluster.resting.get(key).is_some_and(|rest| rest.holder == from) {
            cluster.resting.remove(key);
            self.free_port(now, key);
        }
    }

    /// The key of answers to a flow that is translated to one of this node's ports of a shared address.
    pub(super) fn external_of(&self, key: &Pair) -> Option<FlowKey> {
        let me = self.cluster.as_ref()?.me();
        let ways = [key.key(), key.key().reversed()];
        ways.into_iter().find(|way| self.translator.owner_of(way) == Some(me))
    }
}
