//! The compiled policy: immutable, shared, asked once per flow.

use std::net::IpAddr;

use crate::{
    Action, Decision, DestinationNat, ExplainError, Explanation, LogMode, NatId, NatQuery, NatRule,
    PacketText, Query, RuleId, Settings, SourceNat, ZoneId,
};

/// A compiled policy.
#[derive(Debug)]
pub struct RuleSet {
    zones: Vec<Zone>,
    rules: Vec<Rule>,
    settings: Settings,
    nat: Vec<NatRule>,
    digest: [u8; 32],
}

/// A zone as the engine needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    pub name: String,
    /// Logical interface names; the node maps them to devices.
    pub interfaces: Vec<String>,
    /// All prefixes behind the zone; empty means "whatever no other zone claims".
    pub networks: Vec<ipnet::IpNet>,
}

/// A rule, or a zone pair's default, as reports name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Unique. Defaults are called `default:FROM->TO`.
    pub name: String,
    /// Where the rule stands in the policy text, from 1; for a default, where the setting stands.
    pub line: u32,
    /// `None` for a monitor rule, which counts and never decides.
    pub action: Option<Action>,
    pub log: LogMode,
}

/// In which zone an address lies, as far as the policy tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ZoneLookup {
    Zone(ZoneId),
    /// No zone's networks hold the address and several zones list no networks.
    Ambiguous(Vec<ZoneId>),
    /// No zone's networks hold the address and every zone lists its networks.
    Nowhere,
}

impl RuleSet {
    /// Decides the first packet of a flow. Monitor rules that match above the deciding rule are
    /// reported to `monitor` in their order.
    pub fn decide(&self, _query: &Query, _monitor: &mut dyn FnMut(RuleId)) -> Decision {
        unimplemented!()
    }

    /// The destination NAT rule for a packet as it came in: the first that matches.
    pub fn destination_nat(&self, _query: &NatQuery) -> Option<&DestinationNat> {
        unimplemented!()
    }

    /// The source NAT rule for a packet that `decide` has allowed (after destination NAT): the
    /// first that matches.
    pub fn source_nat(&self, _query: &Query) -> Option<&SourceNat> {
        unimplemented!()
    }

    /// The addresses that destination NAT publishes and pools of source NAT use: the node answers
    /// ARP and ND for them where they are on a link of its own.
    pub fn translated_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        std::iter::empty()
    }

    /// The zone that lists the logical interface `name`.
    pub fn zone_of_interface(&self, name: &str) -> Option<ZoneId> {
        let index = self.zones.iter().position(|zone| zone.interfaces.iter().any(|i| i == name))?;
        u16::try_from(index).ok().map(ZoneId)
    }

    /// Whether a packet with this source may come in from `zone`: the source lies in the zone's
    /// networks or, where it lists none, in no other zone's.
    pub fn source_belongs(&self, _zone: ZoneId, _source: IpAddr) -> bool {
        unimplemented!()
    }

    /// The zone of an address by the zones' networks, longest prefix first; the zones without
    /// networks share what is left.
    pub fn zone_of_address(&self, _address: IpAddr) -> ZoneLookup {
        unimplemented!()
    }

    /// The zone called `name`.
    pub fn zone_named(&self, name: &str) -> Option<ZoneId> {
        let index = self.zones.iter().position(|zone| zone.name == name)?;
        u16::try_from(index).ok().map(ZoneId)
    }

    /// What would become of a packet, from the policy alone: routes are the zones' networks.
    ///
    /// # Errors
    ///
    /// The packet names a zone or an interface that the policy does not have.
    pub fn explain(&self, _packet: &PacketText) -> Result<Explanation, ExplainError> {
        unimplemented!()
    }

    /// SHA-256 of the policy's canonical text.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// All NAT rules in their written order: index with [`NatId`](crate::NatId).
    pub fn nat_rules(&self) -> &[NatRule] {
        &self.nat
    }

    pub fn destination_nat_by_id(&self, id: NatId) -> Option<&DestinationNat> {
        match self.nat.get(usize::from(id.0))? {
            NatRule::Destination(rule) => Some(rule),
            NatRule::Source(_) => None,
        }
    }

    pub fn source_nat_by_id(&self, id: NatId) -> Option<&SourceNat> {
        match self.nat.get(usize::from(id.0))? {
            NatRule::Source(rule) => Some(rule),
            NatRule::Destination(_) => None,
        }
    }

    pub fn zones(&self) -> &[Zone] {
        &self.zones
    }

    /// The written rules in their order, then the defaults: index with [`RuleId`].
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }
}
