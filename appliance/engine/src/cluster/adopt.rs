//! Taking over a flow whose owner has gone, at a packet of it; and giving flows away.

use std::time::Duration;

use super::directory::Replica;
use super::message::{Claim, Rank};
use super::record::{Record, Translation};
use super::rendezvous::Pair;
use super::{Cluster, NodeId};
use crate::flows::{Flow, Slot, SourceChoice, Tracker};
use crate::packet::{Packet, Segment};
use crate::recheck::Standing;
use crate::translate::{Inherited, Lease};
use crate::{Direction, Endpoint, Engine, FlowKey, Time};
use gabion_rules::NatId;

impl Engine {
    /// Takes over the flow of a key that is not this node's, if it keeps a copy of it and the owner has
    /// gone.
    pub(crate) fn adopt_for(
        &mut self,
        now: Time,
        key: &FlowKey,
        packet: &Packet,
        handed: Option<NodeId>,
    ) -> Option<(Slot, Direction)> {
        let cluster = self.cluster.as_mut()?;
        let replica = cluster.directory.replica(&Pair::from(*key)).copied()?;
        cluster.notice_pause(now);
        let fits = is_a_sign_of_life(&replica.record, key, packet);
        // Packets that have waited while this node stood still show nothing, nor does its view.
        let may_be_late = cluster.has_stood_still(now, Duration::ZERO);
        if !fits || may_be_late || !cluster.is_adoptable(now, &replica, handed) {
            return None;
        }
        self.adopt(now, &replica)?;
        self.flows.find(key)
    }

    /// Makes the flow of a copy this node's.
    pub(super) fn adopt(&mut self, now: Time, replica: &Replica) -> Option<Slot> {
        let slot = self.take_over(now, &replica.record, replica.expires).ok()?;
        self.cluster.as_mut()?.directory.take_replica(&replica.record.first());
        Some(slot)
    }

    /// Makes the flow this node's, if its own rules permit it.
    pub(super) fn take_over(
        &mut self,
        now: Time,
        record: &Record,
        expires: Time,
    ) -> Result<Slot, Standing> {
        let flow = self.flow_of(now, record, expires).ok_or(Standing::Revoked)?;
        let admission = self.judge_anew(&flow)?;
        self.forget_entry(now, &record.second());
        let lease =
            self.hold_translation(now, record, admission.source).ok_or(Standing::Revoked)?;
        let flow = Flow { admission, lease, ..flow };
        let slot = self.insert_flow(now, &flow).map_err(|_| Standing::Revoked)?;
        let Some(cluster) = &mut self.cluster else { return Err(Standing::Revoked) };
        cluster.hear(record.term);
        self.announce(slot, Some(record));
        self.tell_change(slot, &flow.tracker);
        Ok(slot)
    }

    /// Whether this node's rules permit the flow of a copy.
    pub(super) fn permits_copy(&mut self, now: Time, replica: &Replica) -> bool {
        let flow = self.flow_of(now, &replica.record, replica.expires);
        flow.is_some_and(|flow| self.judge_anew(&flow).is_ok())
    }

    fn flow_of(&mut self, now: Time, record: &Record, expires: Time) -> Option<Flow> {
        let cluster = self.cluster.as_ref()?;
        let [from, to] = record.zones;
        let interface =
            |tag| cluster.zones.iter().find(|(zone, _)| *zone == tag).map(|found| found.1);
        let (from, to) = (interface(from)?, interface(to)?);
        let tracker = match record.tracker {
            Tracker::Tcp(tcp) => Tracker::Tcp(tcp.adopted()?),
            other @ (Tracker::Udp { .. }
            | Tracker::Icmp { .. }
            | Tracker::Association { .. }
            | Tracker::Other { .. }) => other,
        };
        let flow = self.unjudged_flow([record.original, record.reply], [from, to], tracker)?;
        Some(Flow { opened: now, expires, ..flow })
    }

    /// Holds the external endpoint that the flow has; `None` where it can not go on with it here.
    fn hold_translation(
        &mut self,
        now: Time,
        record: &Record,
        source: SourceChoice,
    ) -> Option<Lease> {
        let Record { original, reply, .. } = *record;
        match (record.translation, source) {
            (Translation::None, _) => Some(Lease::Nothing),
            (Translation::Mapping | Translation::SharedPort, SourceChoice::Rule(id)) => {
                self.inherit_translation(now, &original, &reply, id)
            }
            (Translation::Mapping | Translation::SharedPort | Translation::Guest, _) => None,
        }
    }

    /// Holds the external endpoint of a flow that was begun elsewhere or earlier, as this rule's.
    pub(crate) fn inherit_translation(
        &mut self,
        now: Time,
        original: &FlowKey,
        reply: &FlowKey,
        rule: NatId,
    ) -> Option<Lease> {
        let nat = self.policy.as_ref()?.rules.source_nat_by_id(rule)?;
        let external = reply.destination;
        let own = self.topology.is_own(external.address).then_some(external.address);
        let port = if original.is_icmp_query() { original.source.port } else { reply.source.port };
        let destination = Endpoint { port, ..reply.source };
        let key = FlowKey { destination, ..*original };
        let flow = Inherited { key, sent_to: original.destination.address, external };
        let held = self.translator.inherit(now, &self.flows, nat, &flow, own);
        held.ok().map(|translated| translated.lease)
    }
}

impl Cluster {
    /// Whether the owner of a copied flow has gone, and the flow is this node's to take.
    pub(super) fn is_adoptable(
        &self,
        now: Time,
        replica: &Replica,
        handed: Option<NodeId>,
    ) -> bool {
        let first = replica.record.first();
        let is_orphan = !self.is_live(replica.owner, replica.incarnation);
        // Another may keep a newer copy: whoever directs the key now knows, and sends its packets there.
        let is_ours = handed.is_some() || self.director(&first) == self.me();
        // Who hands it over himself lives, or did when he sent it.
        let is_his =
            handed == Some(replica.owner) && self.is_in_life(replica.owner, replica.incarnation);
        // Somebody has taken it over already, or has a newer copy; one as old as this is no reason to wait for him,
        // who waits for this node.
        let is_taken = self.directory.entry(&first).is_some_and(|entry| {
            let Claim { owner, rank, term, .. } = entry.claim;
            let is_more = rank > Rank::Copy || term > replica.record.term;
            is_more && owner != self.me() && self.is_live(owner, entry.incarnation)
        });
        is_orphan && is_ours && !is_his && !is_taken && replica.expires > now
    }
}

/// Whether a packet shows that the flow lives: anybody can send a RST, or an error, about anything.
fn is_a_sign_of_life(record: &Record, key: &FlowKey, packet: &Packet) -> bool {
    let direction = if record.original == *key { Direction::Original } else { Direction::Reply };
    match (&record.tracker, &packet.segment) {
        (Tracker::Tcp(tcp), Segment::Tcp(segment)) => tcp.is_revived_by(direction, segment),
        (Tracker::Tcp(_), _) | (_, Segment::IcmpError { .. }) => false,
        (
            Tracker::Udp { .. }
            | Tracker::Icmp { .. }
            | Tracker::Association { .. }
            | Tracker::Other { .. },
            _,
        ) => true,
    }
}
