//! A packet that belongs to no flow of this node's: is it somebody else's?

use super::directory::Hint;
use super::rendezvous::Pair;
use super::{Cluster, NodeId};
use crate::admit::{begins_flow, is_opening, transport_of};
use crate::flows::Slot;
use crate::judge::{Case, Refusal};
use crate::packet::{Packet, Segment};
use crate::recheck::Nobody;
use crate::shards::WorkerId;
use crate::translate::Translator;
use crate::{Direction, Engine, FlowKey, InterfaceId, Time};

/// Which way a packet goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passage {
    /// By a flow of this node's.
    Here(Slot, Direction),
    /// To another node, or after word from one.
    Elsewhere(Errand),
    /// By a flow of another engine of this node, or by one that begins there.
    Worker(WorkerId),
}

/// Finds the flow by which a packet passes: any node's, or this node's whatever others say.
pub(crate) trait FindPassage:
    FnOnce(&mut Engine, Time, InterfaceId, &Packet) -> Result<Passage, Refusal>
{
}

impl<F> FindPassage for F where
    F: FnOnce(&mut Engine, Time, InterfaceId, &Packet) -> Result<Passage, Refusal>
{
}

/// What is asked about a packet, and whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Errand {
    pub(crate) to: NodeId,
    pub(crate) key: Pair,
    pub(crate) question: Question,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Question {
    /// Nothing: the owner is known.
    None,
    /// Whose it is; it is somebody's or nobody's.
    Whose,
    /// Whether it is anybody's: if not, the rules decide here.
    Claim,
    /// Whether it is still this node's, which has stood still for a while.
    Mine,
    /// Nothing: it is this node's, and waits until others know of its flow.
    Known,
}

/// What a node knows of a flow that is not its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    Nobodys,
    Of(NodeId),
    /// To this node, not to the one that is asked here.
    Known(NodeId),
}

impl Question {
    /// What is asked by a packet of which a copy is kept.
    pub(super) const fn of_copy(self) -> Self {
        match self {
            Self::None => Self::Whose,
            other @ (Self::Whose | Self::Claim | Self::Mine | Self::Known) => other,
        }
    }
}

impl Errand {
    /// The same for a packet that is not sent again.
    pub(crate) const fn without_copy(self) -> Self {
        let question = match self.question {
            Question::Whose => Question::None,
            other @ (Question::None | Question::Claim | Question::Mine | Question::Known) => other,
        };
        Self { question, ..self }
    }
}

impl Engine {
    /// Whom a packet without a flow is to be handed to; `None` for the node itself.
    pub(crate) fn consult(
        &mut self,
        now: Time,
        from: InterfaceId,
        packet: &Packet,
        key: FlowKey,
    ) -> Option<Errand> {
        let cluster = self.cluster.as_mut()?;
        let pair = Pair::from(key);
        let opens = matches!(&packet.segment, Segment::Tcp(tcp) if is_opening(tcp));
        if cluster.is_alone() {
            // Who is about to be found may know whose it is.
            let waits = !opens && cluster.expects_company(now);
            let errand = Errand { to: cluster.me(), key: pair, question: Question::Claim };
            return waits.then_some(errand);
        }
        if let Some((to, question)) = cluster.known_owner(now, &pair) {
            let question = if opens { Question::None } else { question };
            return Some(Errand { to, key: pair, question });
        }
        if let Some(to) = cluster.port_owner(&self.translator, &key) {
            let question = if opens { Question::None } else { Question::Whose };
            return Some(Errand { to, key: pair, question });
        }
        if opens {
            return None;
        }
        let to = cluster.director(&pair);
        let may_begin =
            begins_flow(&packet.segment).is_ok() && self.would_permit(from, packet, key);
        // Where this node is the director itself, the owner may be about to register it here.
        let question = if may_begin { Question::Claim } else { Question::Whose };
        Some(Errand { to, key: pair, question })
    }

    /// The same for what can not begin a flow, or was found to be an error about one.
    pub(crate) fn consult_about(&mut self, now: Time, key: FlowKey) -> Option<Errand> {
        let cluster = self.cluster.as_mut().filter(|cluster| !cluster.is_alone())?;
        let pair = Pair::from(key);
        let known = cluster
            .known_owner(now, &pair)
            .or_else(|| Some((cluster.port_owner(&self.translator, &key)?, Question::Whose)));
        let (to, question) = known.unwrap_or((cluster.director(&pair), Question::Whose));
        (to != cluster.me()).then_some(Errand { to, key: pair, question })
    }

    /// Whether others may have taken the flow over while this node stood still.
    pub(crate) fn is_doubted(&self, slot: Slot) -> bool {
        self.cluster.as_ref().is_some_and(|cluster| cluster.is_doubted(slot))
    }

    /// The same at a packet: whom it has to be asked of.
    pub(crate) fn doubted(&mut self, now: Time, slot: Slot, key: FlowKey) -> Option<Errand> {
        let cluster = self.cluster.as_mut()?;
        cluster.notice_pause(now);
        if !cluster.is_doubted(slot) {
            return None;
        }
        let pair = Pair::from(key);
        let holder = cluster.rendezvous.holder(&pair, cluster.directors, cluster.me());
        let Some(to) = holder else {
            if let Some(share) = cluster.shares.get_mut(slot) {
                share.doubt = cluster.pauses;
            }
            return None;
        };
        Some(Errand { to, key: pair, question: Question::Mine })
    }

    pub(super) fn would_permit(&self, from: InterfaceId, packet: &Packet, key: FlowKey) -> bool {
        let transport = transport_of(packet, &key);
        self.judge(&mut Nobody, &Case { from, key, transport, pinned: None }).is_ok()
    }
}

impl Cluster {
    fn is_doubted(&self, slot: Slot) -> bool {
        self.shares.get(slot).doubt != self.pauses
    }

    /// The live node that has given out the port to which packets of the key are sent, if another has.
    fn port_owner(&self, translator: &Translator, key: &FlowKey) -> Option<NodeId> {
        translator.owner_of(key).filter(|owner| *owner != self.me() && self.is_alive(*owner))
    }

    /// The live owner of a key, if this node has heard of one, and whether he is to confirm it.
    pub(super) fn known_owner(&mut self, now: Time, key: &Pair) -> Option<(NodeId, Question)> {
        let me = self.me();
        if let Some(hint) = self.directory.hint(now, key) {
            if hint.owner != me && self.is_alive(hint.owner) {
                return Some((hint.owner, Question::None));
            }
            self.directory.drop_hint(key);
        }
        let entry = *self.directory.entry(key)?;
        let owner = entry.claim.owner;
        if self.is_live(owner, entry.incarnation) {
            return (owner != me).then_some((owner, Question::Whose));
        }
        // Whoever keeps the flow's copy keeps it by its first key.
        let director = self.director(&entry.first?);
        (director != me).then_some((director, Question::Whose))
    }

    /// Whose a key is, as far as this node knows; or who is asked whether it is anybody's.
    pub(crate) fn peek_owner(&self, translator: &Translator, key: &FlowKey) -> Whose {
        let pair = Pair::from(*key);
        let hinted = self.directory.peek_hint(&pair).map(|hint| hint.owner);
        let registered = self
            .directory
            .entry(&pair)
            .filter(|entry| self.is_live(entry.claim.owner, entry.incarnation));
        let hinted = hinted.filter(|owner| self.is_alive(*owner));
        let known = hinted.or(registered.map(|entry| entry.claim.owner));
        let known = known.filter(|owner| *owner != self.me());
        match known.or_else(|| self.port_owner(translator, key)) {
            Some(owner) => Whose::Of(owner),
            None if self.is_alone() || self.director(&pair) == self.me() => Whose::Nobodys,
            None => Whose::Known(self.director(&pair)),
        }
    }

    pub(super) fn note_hint(&mut self, now: Time, hint: Hint) {
        self.directory.note_hint(now, self.view, hint);
    }
}
