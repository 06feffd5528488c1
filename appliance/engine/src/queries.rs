//! Queries of a known ICMP flow: who may ask in it, and who may answer.
//!
//! One identifier stands for both directions of a flow, so that the other side's own queries with the
//! same identifier have the flow's key. They are no part of it: the rules are asked about each until
//! they permit one, and from then on both sides ask and both answer.

use std::fmt;

use gabion_rules::RuleId;

use crate::admit::icmp_transport;
use crate::flows::{Slot, Tracker};
use crate::judge::{Case, Outcome, Refusal, Witness};
use crate::packet::{Packet, Segment};
use crate::{Direction, DropReason, Engine, InterfaceId};

/// Hears nothing: a hit was counted when the flow began.
struct Deaf;

impl Witness for Deaf {
    fn monitor(&mut self, _: RuleId) {}
    fn step(&mut self, _: &'static str, _: Outcome, _: fmt::Arguments<'_>) {}
}

impl Engine {
    /// Checks that a packet goes the right way for its type, if it is an ICMP query: requests come
    /// from the side that asks, replies from the other.
    pub(crate) fn check_query(
        &mut self,
        slot: Slot,
        direction: Direction,
        from: InterfaceId,
        packet: &Packet,
    ) -> Result<(), Refusal> {
        let Segment::IcmpQuery { kind, code, request, .. } = packet.segment else { return Ok(()) };
        if request == (direction == Direction::Original) {
            return Ok(());
        }
        let Tracker::Icmp { replied, both_ask } = self.flows[slot].tracker() else { return Ok(()) };
        if both_ask {
            return Ok(());
        }
        if !request {
            return Err(DropReason::IcmpUnsolicited.into());
        }
        let key = self.flows.key(slot, direction);
        let transport = icmp_transport(key.protocol, kind, code);
        let case = Case { from, key, transport, pinned: None };
        let plan = self.judge(&mut Deaf, &case)?;
        if !plan.is_as_sent() || !self.flows.rewrite(slot, direction).is_identity() {
            // Translated, the two would need identifiers of their own.
            return Err(DropReason::NatConflict.into());
        }
        self.flows[slot].set_tracker(&Tracker::Icmp { replied, both_ask: true });
        Ok(())
    }
}
