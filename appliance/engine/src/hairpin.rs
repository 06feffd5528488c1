//! Packets from inside to the external endpoint of an inside host (RFC 4787 section 6). They are taken
//! as if they had left and come back: the sender shows the external endpoint by which it would have
//! left, and the target's mapping lets that in or does not. What it does not let in opens the sender's
//! own mapping all the same, as a packet that leaves does, so that both sides can open their ways.

use gabion_rules::{Mapping, RuleSet, SourceNat, ZoneId};

use crate::flows::{DestinationChoice, Slot};
use crate::judge::{Case, Outcome, Refusal, Witness, query};
use crate::nat::MappingId;
use crate::{DropReason, Endpoint, Engine, FlowKey, InterfaceId, Time};

/// By which interface a packet would leave, and translated by which rule.
pub(crate) type Outward<'r> = (InterfaceId, &'r SourceNat);

impl Engine {
    /// How a packet would leave to its destination as it was sent, which is an external endpoint;
    /// `None` for packets that come from there, or are not translated on the way.
    pub(crate) fn outward<'r>(
        &self,
        rules: &'r RuleSet,
        from: ZoneId,
        case: &Case,
    ) -> Option<Outward<'r>> {
        let destination = case.key.destination;
        let out = match self.topology.owner(destination.address) {
            Some(out) => out,
            None => self.topology.next_hop(destination.address)?.out,
        };
        let to = self.topology.zone(out).filter(|to| *to != from)?;
        Some((out, rules.source_nat(&query(from, to, case, destination))?))
    }

    /// Whether and how a mapping lets a packet in.
    pub(crate) fn enter_by_mapping<W: Witness>(
        &self,
        witness: &mut W,
        rules: &RuleSet,
        from: ZoneId,
        case: &Case,
        id: MappingId,
    ) -> Result<(DestinationChoice, Endpoint), Refusal> {
        let stage = "destination-nat";
        let (translator, key) = (&self.translator, &case.key);
        let internal = translator.mappings.get(id).internal;
        if internal == key.source {
            witness.step(stage, Outcome::Drop, format_args!("nobody is his own peer"));
            return Err(DropReason::NatConflict.into());
        }
        let outward = self.outward(rules, from, case);
        let seen = outward.map_or(key.source, |outward| self.seen_as(outward, key));
        let is_guest = case.pinned.is_some_and(|pinned| pinned.address == internal.address)
            && (outward.is_some() || translator.keeps(rules, id));
        if is_guest
            || translator.admits(rules, id, seen.address)
            || outward.is_some() && self.has_sent(key, seen)
        {
            witness.step(stage, Outcome::Translate, format_args!("mapping of {internal}"));
            return Ok((DestinationChoice::Mapping, internal));
        }
        witness.step(stage, Outcome::Drop, format_args!("the mapping admits others only"));
        match outward {
            // Another mapping would stand for the sender another time: nobody can await it.
            Some((_, nat)) if nat.mapping == Mapping::EndpointIndependent => {
                Ok((DestinationChoice::Filtered, internal))
            }
            Some(_) | None => Err(self.filtered(rules, from, case, Some(internal))),
        }
    }

    /// The external endpoint that stands for the sender; port 0 where it has none yet.
    fn seen_as(&self, (out, nat): Outward<'_>, key: &FlowKey) -> Endpoint {
        let own = self.topology.own_address(out, key.source.address.family());
        self.translator.preview(nat, key, own)
    }

    /// Whether the host behind the destination has sent to the sender's external endpoint, in vain.
    fn has_sent(&self, key: &FlowKey, seen: Endpoint) -> bool {
        let answer = FlowKey { source: seen, ..*key };
        self.flows.find(&answer).is_some_and(|(slot, _)| self.flows[slot].is_filtered())
    }

    /// The flow of this key that nothing passes by, if there is one.
    pub(crate) fn find_filtered(&mut self, now: Time, key: &FlowKey) -> Option<Slot> {
        let (slot, _) = self.flows.find(key)?;
        (self.flows[slot].is_filtered() && !self.has_expired(now, slot)).then_some(slot)
    }
}
