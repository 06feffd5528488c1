//! The validated policy: every reference resolves, every value is in its range, and lists still say
//! what was written (`web-farm`, not its addresses).

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::IpNet;
use time::Date;

use crate::address::IpRange;
use crate::diagnostic::Place;
use crate::object::{Object, Term};
use crate::resolve::Resolved;
use crate::service::Service;
use crate::settings::Timer;
use crate::{Action, Filtering, Lint, LogMode, Mapping, PacketText, Settings, ZoneId};

/// A policy that passed all checks.
///
/// Two policies are equal if they say the same; where it stands in their texts does not count.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    pub(crate) zones: Vec<ZonePolicy>,
    pub(crate) addresses: Vec<Object<IpRange>>,
    pub(crate) services: Vec<Object<Service>>,
    pub(crate) resolved: Resolved,
    pub(crate) default: DefaultPolicy,
    pub(crate) settings: Settings,
    /// Lints that are not to speak.
    pub(crate) allow_lints: Vec<Lint>,
    pub(crate) nat: Vec<NatPolicy>,
    pub(crate) rules: Vec<RulePolicy>,
    pub(crate) tests: Vec<TestPolicy>,
}

/// A rule that is in force up to a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiry<'p> {
    /// The rule's, or the NAT rule's.
    pub name: &'p str,
    /// The last day on which the rule is in force.
    pub expires: Date,
    pub line: u32,
}

impl Policy {
    /// All rules and NAT rules that end one day, rules first.
    pub fn expiries(&self) -> impl Iterator<Item = Expiry<'_>> {
        let rules = self.rules.iter().map(|rule| (&rule.name, &rule.meta, rule.place));
        let nat = self.nat.iter().map(|rule| (&rule.name, &rule.meta, rule.place));
        rules.chain(nat).filter_map(|(name, meta, place)| {
            Some(Expiry { name, expires: meta.expires?, line: place.line })
        })
    }

    pub(crate) fn zone_name(&self, zone: ZoneId) -> &str {
        &self.zones[usize::from(zone.0)].name
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ZonePolicy {
    pub name: String,
    pub place: Place,
    pub interfaces: Vec<String>,
    pub networks: Vec<IpNet>,
}

/// What a rule asks of an address or a service.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Match<T> {
    Any,
    /// Never empty.
    Terms(Vec<Term<T>>),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Zones {
    Any,
    /// Never empty, no zone twice.
    Listed(Vec<ZoneId>),
}

#[derive(Debug, Clone)]
pub(crate) struct DefaultPolicy {
    pub action: Action,
    pub log: LogMode,
    /// `None` where nothing is written.
    pub place: Option<Place>,
}

/// A default that is written out says the same as one that is not.
impl PartialEq for DefaultPolicy {
    fn eq(&self, other: &Self) -> bool {
        (self.action, self.log) == (other.action, other.log)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NatPolicy {
    pub name: String,
    pub place: Place,
    pub from: Zones,
    pub source: Match<IpRange>,
    pub service: Match<Service>,
    pub kind: NatKind,
    pub meta: Meta,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum NatKind {
    Destination(DestinationPolicy),
    Source(SourcePolicy),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DestinationPolicy {
    pub to: Vec<Term<IpRange>>,
    pub target: Vec<Term<IpRange>>,
    /// `target` put in full: of the family of `to`, never empty, none twice.
    pub targets: Vec<IpAddr>,
    pub target_port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SourcePolicy {
    pub direction: NatDirection,
    pub out: Zones,
    pub destination: Match<IpRange>,
    pub address: PoolPolicy,
    pub ports: RangeInclusive<u16>,
    /// `None`: as many as one source may have flows.
    pub ports_per_source: Option<u32>,
    pub mapping: Mapping,
    pub filtering: Filtering,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NatDirection {
    Inbound,
    Outbound,
}

impl NatDirection {
    /// The mapping of a rule that names none.
    pub(crate) fn mapping(self) -> Mapping {
        match self {
            Self::Inbound => Mapping::Symmetric,
            Self::Outbound => Mapping::EndpointIndependent,
        }
    }
}

/// The ports that source NAT uses unless told otherwise.
pub(crate) const DEFAULT_NAT_PORTS: RangeInclusive<u16> = 1_024..=u16::MAX;
pub(crate) const DEFAULT_FILTERING: Filtering = Filtering::AddressAndPortDependent;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum PoolPolicy {
    OwnAddress,
    Pool {
        terms: Vec<Term<IpRange>>,
        /// `terms` put in full: one family, never empty, sorted, not touching.
        ranges: Vec<RangeInclusive<IpAddr>>,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RulePolicy {
    pub name: String,
    pub place: Place,
    pub from: Zones,
    pub to: Zones,
    pub source: Match<IpRange>,
    pub destination: Match<IpRange>,
    pub service: Match<Service>,
    /// `None` for a monitor rule.
    pub action: Option<Action>,
    pub log: LogMode,
    /// What is not as in the settings; each timer at most once, in the order of their list.
    pub timeouts: Vec<(Timer, Duration)>,
    /// Whether first packets wait until other nodes know of their flows.
    pub is_strict: bool,
    pub meta: Meta,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Meta {
    pub owner: Option<String>,
    pub ticket: Option<String>,
    pub expires: Option<Date>,
    pub description: Option<String>,
    /// Lints that are not to speak of the rule.
    pub allow_lints: Vec<Lint>,
}

impl Meta {
    /// The last day is a day in force.
    pub(crate) fn has_expired(&self, today: Option<Date>) -> bool {
        self.expires.zip(today).is_some_and(|(expires, today)| expires < today)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TestPolicy {
    pub name: String,
    pub place: Place,
    pub packet: PacketText,
    pub expect: Action,
    pub rule: Option<String>,
    pub nat: Option<Vec<String>>,
}
