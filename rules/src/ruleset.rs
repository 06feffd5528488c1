//! The compiled policy: immutable, shared, asked once per flow.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

use crate::address::AddressSet;
use crate::classifier::Classifier;
use crate::timeouts::RuleTimeouts;
use crate::{
    Action, Decision, DestinationNat, LogMode, NatId, NatQuery, NatRule, Published, Query, RuleId,
    Settings, SourceNat, Timeouts, ZoneId,
};

/// A compiled policy.
#[derive(Debug)]
pub struct RuleSet {
    pub(crate) zones: Vec<Zone>,
    pub(crate) networks: Networks,
    /// The written rules that are in force, then one default for each ordered zone pair.
    pub(crate) rules: Arc<[Rule]>,
    /// What the deciding rules and then the defaults decide, apart from what only people read: few
    /// cache lines.
    pub(crate) decisions: Box<[Decision]>,
    pub(crate) by_name: Vec<RuleId>,
    pub(crate) timeouts: RuleTimeouts,
    pub(crate) deciding: Classifier,
    /// The monitor rules, apart from the others: they only count.
    pub(crate) monitoring: Classifier,
    /// Of both kinds and all days, by id.
    pub(crate) nat: Vec<NatRule>,
    pub(crate) destination_nat: NatTable,
    pub(crate) source_nat: NatTable,
    pub(crate) translated: AddressSet,
    pub(crate) published: Vec<Published>,
    pub(crate) settings: Settings,
    pub(crate) digest: [u8; 32],
}

/// The NAT rules of one kind that are in force.
#[derive(Debug)]
pub(crate) struct NatTable(pub Classifier);

/// The networks of all zones; none stands twice.
#[derive(Debug, Default)]
pub(crate) struct Networks {
    v4: PrefixMap<Ipv4Net, ZoneId>,
    v6: PrefixMap<Ipv6Net, ZoneId>,
}

/// A zone as the engine needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    pub name: String,
    /// Logical interface names; the node maps them to devices.
    pub interfaces: Vec<String>,
    /// All prefixes behind the zone; empty means "whatever no other zone claims".
    pub networks: Vec<IpNet>,
}

/// A rule, or a zone pair's default, as reports name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Unique. Defaults are called `default:FROM->TO`.
    pub name: String,
    /// Where the rule stands in the policy text, from 1; for a default, where the setting stands
    /// or, where it is not written, the zone by which the packet comes in.
    pub line: u32,
    /// `None` for a monitor rule, which counts and never decides.
    pub action: Option<Action>,
    pub log: LogMode,
    /// Whether, in a cluster, the first packet of a flow waits until other nodes know of the flow.
    pub is_strict: bool,
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
    /// reported to `monitor` in their order. Allocates nothing.
    ///
    /// # Panics
    ///
    /// If a zone of `query` is not one of [`zones`](Self::zones), here and in all other lookups.
    pub fn decide(&self, query: &Query, monitor: &mut dyn FnMut(RuleId)) -> Decision {
        let index = self.deciding.first_index(query).map_or_else(
            || {
                let pair = usize::from(query.from.0) * self.zones.len() + usize::from(query.to.0);
                self.deciding.len() + pair
            },
            |index| index as usize,
        );
        let decision = self.decisions[index];
        if !self.monitoring.is_empty() {
            let above = self.monitoring.matching(query, decision.rule.0);
            above.for_each(|rule| monitor(RuleId(rule)));
        }
        decision
    }

    /// What becomes of a packet that no rule matches, whatever its zones.
    pub fn default_action(&self) -> Action {
        let default = self.rules.last().expect("there is a default for each zone pair");
        default.action.expect("a default decides")
    }

    /// The destination NAT rule for a packet as it came in: the first that matches.
    pub fn destination_nat(&self, query: &NatQuery) -> Option<&DestinationNat> {
        // No rule asks where the packet goes: that is what it decides.
        let query = Query {
            from: query.from,
            to: query.from,
            source: query.source,
            destination: query.destination,
            transport: query.transport,
        };
        self.destination_nat_by_id(self.destination_nat.first(&query)?)
    }

    /// The source NAT rule for a packet that `decide` has allowed (after destination NAT): the
    /// first that matches. Rules with a pool are for packets of the pool's family.
    pub fn source_nat(&self, query: &Query) -> Option<&SourceNat> {
        self.source_nat_by_id(self.source_nat.first(query)?)
    }

    /// The addresses that destination NAT publishes and pools of source NAT use: the node answers
    /// ARP and ND for them where they are on a link of its own.
    /// Each once, at most [`limits::TRANSLATED_ADDRESSES`](crate::limits::TRANSLATED_ADDRESSES).
    pub fn translated_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.translated.addresses()
    }

    /// The ports that destination NAT publishes on addresses which source NAT may use as well: a
    /// server's, so that no other connection may have them. Rules that publish an address with all
    /// its ports are left out: what source NAT uses of it, they leave.
    pub fn published(&self) -> impl Iterator<Item = Published> + '_ {
        self.published.iter().cloned()
    }

    /// The zone that lists the logical interface `name`.
    pub fn zone_of_interface(&self, name: &str) -> Option<ZoneId> {
        let index = self.zones.iter().position(|zone| zone.interfaces.iter().any(|i| i == name))?;
        u16::try_from(index).ok().map(ZoneId)
    }

    /// Whether a packet with this source may come in from `zone`: the longest prefix of all zones'
    /// networks that holds the source is the zone's or, where no network holds it, the zone lists
    /// none.
    pub fn source_belongs(&self, zone: ZoneId, source: IpAddr) -> bool {
        match self.networks.zone_of(source) {
            Some(owner) => owner == zone,
            None => self.zones[usize::from(zone.0)].networks.is_empty(),
        }
    }

    /// The zone that lists the address among its networks.
    pub fn zone_of_network(&self, address: IpAddr) -> Option<ZoneId> {
        self.networks.zone_of(address)
    }

    /// The zone of an address by the zones' networks, longest prefix first; the zones without
    /// networks share what is left.
    pub fn zone_of_address(&self, address: IpAddr) -> ZoneLookup {
        if let Some(zone) = self.networks.zone_of(address) {
            return ZoneLookup::Zone(zone);
        }
        let rest = (0..).map(ZoneId).zip(&self.zones).filter(|(_, zone)| zone.networks.is_empty());
        let rest: Vec<ZoneId> = rest.map(|(id, _)| id).collect();
        match *rest {
            [] => ZoneLookup::Nowhere,
            [zone] => ZoneLookup::Zone(zone),
            [_, _, ..] => ZoneLookup::Ambiguous(rest),
        }
    }

    /// The zone called `name`.
    pub fn zone_named(&self, name: &str) -> Option<ZoneId> {
        let index = self.zones.iter().position(|zone| zone.name == name)?;
        u16::try_from(index).ok().map(ZoneId)
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

    /// The same, for those who need them longer than the rest of the rule set.
    pub fn shared_rules(&self) -> Arc<[Rule]> {
        Arc::clone(&self.rules)
    }

    /// The rule, or the default, called `name`.
    pub fn rule_named(&self, name: &str) -> Option<RuleId> {
        let name_of = |id: &RuleId| self.rules[id.0 as usize].name.as_str();
        let place = self.by_name.binary_search_by_key(&name, name_of).ok()?;
        self.by_name.get(place).copied()
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How many bytes the search for rules of all kinds takes.
    pub fn matcher_bytes(&self) -> usize {
        let nat = [&self.destination_nat.0, &self.source_nat.0];
        nat.into_iter().chain([&self.deciding, &self.monitoring]).map(Classifier::bytes).sum()
    }

    /// The idle timers of flows that `rule` admitted: its own and, where it has none, those of the
    /// settings.
    pub fn timeouts(&self, rule: RuleId) -> &Timeouts {
        self.timeouts.of(rule).unwrap_or(&self.settings.timeouts)
    }
}

/// The name of the default rule of a zone pair.
pub(crate) fn default_name(from: &str, to: &str) -> String {
    format!("default:{from}->{to}")
}

impl NatTable {
    fn first(&self, query: &Query) -> Option<NatId> {
        self.0.first(query).and_then(|rule| u16::try_from(rule).ok()).map(NatId)
    }
}

impl Networks {
    pub(crate) fn insert(&mut self, net: IpNet, zone: ZoneId) {
        match net {
            IpNet::V4(net) => self.v4.insert(net, zone),
            IpNet::V6(net) => self.v6.insert(net, zone),
        };
    }

    fn zone_of(&self, address: IpAddr) -> Option<ZoneId> {
        match address {
            IpAddr::V4(address) => self.v4.get_lpm(&address.into()).map(|(_, zone)| *zone),
            IpAddr::V6(address) => self.v6.get_lpm(&address.into()).map(|(_, zone)| *zone),
        }
    }
}

#[cfg(test)]
mod tests;
