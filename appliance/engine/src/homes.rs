//! The home addresses of mobile hosts' flows (RFC 6092 REC-27). Few flows have any, so they are kept
//! beside the flow table, and no more than it has flows.

use crate::chains::{HasKey, Keyed};
use crate::flows::Slot;
use crate::judge::Plan;
use crate::packet::{Homes, Packet, Segment};
use crate::{Direction, DropReason, Engine, InterfaceId, sanity};

/// By slot: the homes that packets of the original direction name.
#[derive(Debug)]
pub(crate) struct HomesOfFlows(Keyed<HomesOfFlow>);

#[derive(Debug, Clone, Copy)]
struct HomesOfFlow {
    slot: u32,
    homes: Homes,
}

impl HasKey for HomesOfFlow {
    type Key = u32;

    fn key(&self) -> u32 {
        self.slot
    }
}

impl HomesOfFlows {
    /// For a table of so many flows; `key` seeds the hash.
    pub(crate) fn new(flows: u32, key: [u8; 16]) -> Self {
        Self(Keyed::new(flows, key))
    }

    /// Whether a flow's packets of this direction name these homes.
    pub(crate) fn are_of(&self, slot: Slot, direction: Direction, homes: &Homes) -> bool {
        if self.0.len() == 0 {
            return homes.is_none();
        }
        let known = self.0.get(&slot.0).map(|known| known.homes).unwrap_or_default();
        match direction {
            Direction::Original => known == *homes,
            Direction::Reply => known.reversed() == *homes,
        }
    }

    /// Whether packets of a flow name any.
    pub(crate) fn has(&self, slot: Slot) -> bool {
        self.0.len() > 0 && self.0.get(&slot.0).is_some()
    }

    pub(crate) fn remember(&mut self, slot: Slot, homes: Homes) {
        if !homes.is_none() {
            self.0.get_or_insert(HomesOfFlow { slot: slot.0, homes });
        }
    }

    pub(crate) fn forget(&mut self, slot: Slot) {
        if self.0.len() > 0 {
            self.0.remove(&slot.0);
        }
    }
}

impl Engine {
    /// A home is an address like any other: no martian, and nobody is at home in another zone's
    /// networks. ICMP errors, which belong to no flow, name none.
    pub(crate) fn check_homes(&self, from: InterfaceId, packet: &Packet) -> Result<(), DropReason> {
        let homes = &packet.homes;
        if homes.is_none() {
            return Ok(());
        }
        if matches!(packet.segment, Segment::IcmpError { .. }) {
            return Err(DropReason::ExtensionHeader);
        }
        let profile = self.settings().profile;
        let (source, destination) = packet.summed_addresses();
        sanity::check(source, destination, profile)?;
        let policy = self.policy.as_ref().ok_or(DropReason::NotReady)?;
        let zone = self.topology.zone(from).ok_or(DropReason::NoZone)?;
        match homes.source.and_then(|home| policy.rules.zone_of_network(home.to_ip())) {
            Some(owner) if owner != zone => Err(DropReason::SpoofedSource),
            Some(_) | None => Ok(()),
        }
    }

    /// NAT would have to change what the checksum does not cover.
    pub(crate) fn check_translatable(packet: &Packet, plan: &Plan) -> Result<(), DropReason> {
        if packet.homes.is_none() || plan.is_as_sent() {
            Ok(())
        } else {
            Err(DropReason::ExtensionHeader)
        }
    }
}
