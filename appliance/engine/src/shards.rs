//! Several engines of one node, one for each packet thread: whose a packet is, and its way there.
//!
//! A flow is one engine's, both directions of it. Its keys stand in a directory that all engines of the node share, from
//! before its first packet leaves until it ends: whichever thread a packet comes to, its flow is found. What has no flow
//! is decided where its source's flows are, so that what one source may have is counted in one place, and all mappings
//! of an inside host are in one (RFC 4787 REQ-1); a packet to an external endpoint, where its port is given out. A
//! packet that comes to another thread is handed over as it came, once: whoever it is handed to decides.

use std::fmt::Debug;

use gabion_rules::FloodLimits;

use crate::address::SourceNetwork;
use crate::admit::begins_flow;
use crate::challenge::Challenges;
use crate::flows::Flow;
use crate::fragments::KeptFragment;
use crate::judge::Refusal;
use crate::packet::Packet;
use crate::{Address, DropReason, Engine, FlowKey, Frame, InterfaceId, Offload, Time, Verdict};

/// An engine among those of its node, from 0 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(pub u16);

/// Why packets of two keys are not this engine's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotClaimed {
    #[error("one of the keys is another worker's")]
    Taken,
    #[error("the directory has no place for one of the keys")]
    NoRoom,
}

/// The directory that the engines of a node share, and the ways between their threads. Calls return at once.
pub trait Shards: Debug + Send {
    fn me(&self) -> WorkerId;

    /// How many engines there are, this one among them.
    fn workers(&self) -> u16;

    /// Notes that packets of these keys are this engine's.
    ///
    /// # Errors
    /// Nothing has changed.
    fn claim(&mut self, keys: [&FlowKey; 2]) -> Result<(), NotClaimed>;

    /// Forgets what was claimed.
    fn release(&mut self, keys: [&FlowKey; 2]);

    /// Whose packets of this key are.
    fn find(&self, key: &FlowKey) -> Option<WorkerId>;

    /// Where flows of a source begin: an address, or the first of the network that counts as one source.
    fn choose(&self, source: Address) -> WorkerId;

    /// What the numbers of challenges are made of, by all engines of the node: the answer to one may come to any of them.
    fn challenge_key(&self) -> [u8; 16];

    /// Hands a frame over, which the other engine takes by [`Engine::handle_from_worker`]; false where there is no room.
    fn hand_over(&mut self, to: WorkerId, from: InterfaceId, frame: &Frame<'_>) -> bool;
}

/// The engine's place among those of its node.
#[derive(Debug, Default)]
pub(crate) struct Sharding {
    shards: Option<Box<dyn Shards>>,
    /// Whether the frame in hand has been handed over: it goes no further.
    is_taken_over: bool,
}

impl Sharding {
    pub(crate) fn workers(&self) -> u16 {
        self.shards.as_ref().map_or(1, |shards| shards.workers())
    }

    pub(crate) fn claim(&mut self, flow: &Flow) -> Result<(), DropReason> {
        let Some(shards) = &mut self.shards else { return Ok(()) };
        shards.claim([&flow.original, &flow.reply]).map_err(|refused| match refused {
            NotClaimed::Taken => DropReason::NatConflict,
            NotClaimed::NoRoom => DropReason::FlowTableFull,
        })
    }

    pub(crate) fn release(&mut self, flow: &Flow) {
        if let Some(shards) = &mut self.shards {
            shards.release([&flow.original, &flow.reply]);
        }
    }

    /// Whose a key is, if it is another engine's.
    fn other(&self, key: &FlowKey) -> Option<WorkerId> {
        let shards = self.shards.as_ref().filter(|_| !self.is_taken_over)?;
        shards.find(key).filter(|worker| *worker != shards.me())
    }
}

impl Engine {
    /// Has the engine be one of several of its node. To be called before it has a policy. In a cluster each is a member of
    /// its own, and ports are dealt to members.
    pub fn join_shards(&mut self, shards: Box<dyn Shards>) {
        let (me, workers) = (shards.me(), shards.workers());
        if self.cluster.is_none() {
            self.translator.deal_ports(me, workers);
        }
        // No two flows of the node have one number.
        self.last_flow_id = u64::from(me.0);
        self.half_open.challenges = Challenges::new(shards.challenge_key());
        self.sharding = Sharding { shards: Some(shards), is_taken_over: false };
    }

    /// Decides a frame that another engine has handed over, as `handle_frame` does. What is to be forwarded is rewritten in place.
    pub fn handle_from_worker(
        &mut self,
        now: Time,
        from: InterfaceId,
        frame: &mut Frame<'_>,
    ) -> Verdict {
        self.sharding.is_taken_over = true;
        let verdict = self.handle_frame(now, from, frame);
        self.sharding.is_taken_over = false;
        verdict
    }

    /// The engine by which a packet passes that has no flow here; `None` for this one.
    pub(crate) fn other_worker(&self, packet: &Packet, key: &FlowKey) -> Option<WorkerId> {
        let shards = self.sharding.shards.as_ref().filter(|_| !self.sharding.is_taken_over)?;
        let found = shards.find(key).or_else(|| {
            // What begins no flow is refused as well here as there.
            begins_flow(&packet.segment).ok()?;
            Some(self.worker_of_first(key))
        });
        found.filter(|worker| *worker != shards.me())
    }

    /// The engine that decides the first packet of a key.
    fn worker_of_first(&self, key: &FlowKey) -> WorkerId {
        let Some(shards) = &self.sharding.shards else { return WorkerId(0) };
        let source = SourceNetwork::from(key.source.address).address();
        self.translator.worker_of(key).unwrap_or_else(|| shards.choose(source))
    }

    /// The engine that decides the first packet of a key; `None` for this one.
    pub(crate) fn other_worker_of_first(&self, key: &FlowKey) -> Option<WorkerId> {
        let shards = self.sharding.shards.as_ref().filter(|_| !self.sharding.is_taken_over)?;
        Some(self.worker_of_first(key)).filter(|worker| *worker != shards.me())
    }

    /// The engine that knows what becomes of packets of a key.
    pub(crate) fn worker_for(&self, key: &FlowKey) -> WorkerId {
        let found = self.sharding.shards.as_ref().and_then(|shards| shards.find(key));
        found.unwrap_or_else(|| self.worker_of_first(key))
    }

    /// The engine whose flow has this key; an error is about it.
    pub(crate) fn other_worker_about(&self, key: &FlowKey) -> Option<WorkerId> {
        self.sharding.other(key)
    }

    /// Hands a frame over as it came.
    pub(crate) fn give(
        &mut self,
        to: WorkerId,
        from: InterfaceId,
        frame: &Frame<'_>,
    ) -> Result<Verdict, Refusal> {
        let shards = self.sharding.shards.as_mut();
        if shards.is_some_and(|shards| shards.hand_over(to, from, frame)) {
            Ok(Verdict::ToWorker { worker: to })
        } else {
            Err(DropReason::WorkerQueueFull.into())
        }
    }

    /// Hands the fragments of a datagram over one by one: whose it is keeps them again until they are whole. The verdict
    /// is that of the last; the others have been counted as held.
    pub(crate) fn give_datagram(
        &mut self,
        to: WorkerId,
        from: InterfaceId,
        fragments: Vec<KeptFragment>,
    ) -> Verdict {
        let others = fragments.len() as u64 - 1;
        let mut verdict = Verdict::Held;
        for (place, KeptFragment { mut bytes, .. }) in fragments.into_iter().enumerate() {
            let frame = Frame { bytes: &mut bytes, offload: Offload::default() };
            verdict =
                self.give(to, from, &frame).unwrap_or_else(|refusal| Verdict::Drop(refusal.reason));
            if place as u64 != others {
                self.counters.release(verdict, 1);
            }
        }
        verdict
    }

    /// This engine's part of limits that are the node's; what counts one source is counted by one engine.
    pub(crate) fn flood(&self) -> FloodLimits {
        self.share_of(self.settings().flood)
    }

    pub(crate) fn share_of(&self, whole: FloodLimits) -> FloodLimits {
        let workers = u32::from(self.sharding.workers());
        let part = |whole: u32| if whole == 0 { 0 } else { (whole / workers).max(1) };
        FloodLimits {
            half_open: part(whole.half_open),
            half_open_per_destination: part(whole.half_open_per_destination),
            answers_per_second: part(whole.answers_per_second),
            sampled_logs_per_second: part(whole.sampled_logs_per_second),
            all_logs_per_second: part(whole.all_logs_per_second),
            ..whole
        }
    }
}
