//! From the validated policy to the rule set that the engine asks.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use sha2::{Digest, Sha256};
use time::Date;

use crate::address::{AddressSet, IpRange};
use crate::classifier::{AddressMatch, Answers, Classified, Classifier, Conditions, ServiceMatch};
use crate::diagnostic::Place;
use crate::limits::{COMPILED_RANGES, ZONE_PAIR_RULES};
use crate::object::{ObjectId, Term};
use crate::policy::{
    Match, NatKind, NatPolicy, Policy, PoolPolicy, RulePolicy, SourcePolicy, ZonePolicy, Zones,
};
use crate::ruleset::{NatTable, Networks, default_name};
use crate::service::{Service, ServiceSet, TCP, UDP};
use crate::timeouts::RuleTimeouts;
use crate::{
    Decision, DestinationNat, NatId, NatRule, Published, Rule, RuleId, RuleSet, SourceAddress,
    SourceNat, Zone, ZoneId,
};

/// A policy that is right but too large.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CompileError {
    #[error("the rules up to here hold over {COMPILED_RANGES} addresses and services, the limit")]
    TooManyRanges(Place),
    #[error("the rules up to here fill over {ZONE_PAIR_RULES} places of zone pairs, the limit")]
    TooManyPairs(Place),
}

/// Compiles what is in force on `today`; without a date, everything.
pub(crate) fn compile(policy: &Policy, today: Option<Date>) -> Result<RuleSet, CompileError> {
    let mut compiler = Compiler::new(policy);
    let (mut rules, mut deciding, mut monitoring) = (Vec::new(), Vec::new(), Vec::new());
    let mut timeouts = RuleTimeouts::default();
    for rule in policy.rules.iter().filter(|rule| !rule.meta.has_expired(today)) {
        let number = u32::try_from(rules.len()).expect("the check keeps rules below their limit");
        rules.push(rule_entry(rule));
        timeouts.add(&policy.settings.timeouts, &rule.timeouts);
        let list = if rule.action.is_some() { &mut deciding } else { &mut monitoring };
        list.push(compiler.classified(number, rule)?);
    }
    rules.extend(default_rules(policy));
    let by_name = by_name(&rules);
    let nat = compiler.nat_tables(today)?;
    let most_flows = policy.settings.flood.flows_per_source;
    let entries = policy.nat.iter().enumerate();
    Ok(RuleSet {
        zones: policy.zones.iter().map(zone).collect(),
        networks: networks(policy),
        decisions: decisions(&rules),
        rules: rules.into(),
        by_name,
        timeouts,
        deciding: Classifier::new(policy.zones.len(), deciding, Answers::First),
        monitoring: Classifier::new(policy.zones.len(), monitoring, Answers::All),
        nat: entries.map(|(index, rule)| nat_entry(nat_id(index), rule, most_flows)).collect(),
        destination_nat: nat.destination,
        source_nat: nat.source,
        translated: AddressSet::new(nat.translated),
        published: nat.published,
        settings: policy.settings.clone(),
        digest: Sha256::digest(policy.print()).into(),
    })
}

struct Compiler<'p> {
    policy: &'p Policy,
    ranges: usize,
    places: usize,
    /// Equal sets are kept once.
    sets: HashSet<Arc<AddressSet>>,
    services: HashSet<Arc<ServiceSet>>,
    service_objects: HashMap<ObjectId, Arc<ServiceSet>>,
}

struct NatTables {
    destination: NatTable,
    source: NatTable,
    translated: Vec<IpRange>,
    published: Vec<Published>,
}

impl<'p> Compiler<'p> {
    fn new(policy: &'p Policy) -> Self {
        Self {
            policy,
            ranges: 0,
            places: 0,
            sets: HashSet::new(),
            services: HashSet::new(),
            service_objects: HashMap::new(),
        }
    }

    fn nat_tables(&mut self, today: Option<Date>) -> Result<NatTables, CompileError> {
        let (mut destination, mut source) = (Vec::new(), Vec::new());
        let (mut translated, mut published) = (Vec::new(), Vec::new());
        for (index, rule) in self.policy.nat.iter().enumerate() {
            if rule.meta.has_expired(today) {
                continue;
            }
            translated.extend(translated_ranges(self.policy, rule));
            published.extend(published_ports(self.policy, rule));
            let conditions = self.nat_conditions(rule)?;
            let (table, out) = match &rule.kind {
                NatKind::Destination(_) => (&mut destination, Zones::Any),
                NatKind::Source(kind) => (&mut source, kind.out.clone()),
            };
            let number = u32::from(nat_id(index).0);
            table.push(Classified { rule: number, from: rule.from.clone(), to: out, conditions });
        }
        let zones = self.policy.zones.len();
        let table = |rules| NatTable(Classifier::new(zones, rules, Answers::First));
        Ok(NatTables {
            destination: table(destination),
            source: table(source),
            translated,
            published,
        })
    }

    fn classified(&mut self, number: u32, rule: &RulePolicy) -> Result<Classified, CompileError> {
        self.count_places(&rule.from, &rule.to, rule.place)?;
        let conditions = Conditions {
            source: self.addresses(&rule.source, rule.place)?,
            destination: self.addresses(&rule.destination, rule.place)?,
            service: self.service(&rule.service, rule.place)?,
        };
        Ok(Classified { rule: number, from: rule.from.clone(), to: rule.to.clone(), conditions })
    }

    fn nat_conditions(&mut self, rule: &NatPolicy) -> Result<Conditions, CompileError> {
        let (out, destination, family) = match &rule.kind {
            NatKind::Destination(kind) => (&Zones::Any, &Match::Terms(kind.to.clone()), None),
            NatKind::Source(kind) => (&kind.out, &kind.destination, pool_family(&kind.address)),
        };
        self.count_places(&rule.from, out, rule.place)?;
        Ok(Conditions {
            source: match (self.addresses(&rule.source, rule.place)?, family) {
                // Source and destination of a packet are of one family: it is enough to ask once.
                (source, None) => source,
                (AddressMatch::Any, Some(family)) => self.intern(AddressSet::new([family])),
                (AddressMatch::Set(set), Some(family)) => self.intern(set.within(family)),
                (AddressMatch::Ipv4Range(..), Some(family)) if family.first().is_ipv6() => {
                    self.intern(AddressSet::default())
                }
                (source @ AddressMatch::Ipv4Range(..), Some(_)) => source,
            },
            destination: self.addresses(destination, rule.place)?,
            service: self.service(&rule.service, rule.place)?,
        })
    }

    fn addresses(
        &mut self,
        wanted: &Match<IpRange>,
        place: Place,
    ) -> Result<AddressMatch, CompileError> {
        let Match::Terms(terms) = wanted else { return Ok(AddressMatch::Any) };
        if let [Term::Value(range)] = &**terms
            && let (IpAddr::V4(first), IpAddr::V4(last)) = (range.first(), range.last())
        {
            self.count_ranges(1, place)?;
            return Ok(AddressMatch::Ipv4Range(first.to_bits(), last.to_bits()));
        }
        let resolved = &self.policy.resolved;
        let set = match &**terms {
            [Term::Object(_)] => resolved.address_set(terms),

            terms => {
                // Counted before the set is built, so that the limit bounds the work too.
                self.count_ranges(self.policy.resolved.range_count(terms), place)?;
                interned(&mut self.sets, resolved.address_set(terms))
            }
        };
        Ok(match set.only_ipv4_range() {
            Some((first, last)) => AddressMatch::Ipv4Range(first, last),
            None => AddressMatch::Set(set),
        })
    }

    fn intern(&mut self, set: AddressSet) -> AddressMatch {
        AddressMatch::Set(interned(&mut self.sets, Arc::new(set)))
    }

    fn service(
        &mut self,
        wanted: &Match<Service>,
        place: Place,
    ) -> Result<ServiceMatch, CompileError> {
        let Match::Terms(terms) = wanted else { return Ok(ServiceMatch::Any) };
        if let [Term::Object(id)] = &**terms
            && let Some(set) = self.service_objects.get(id)
        {
            return Ok(ServiceMatch::Set(set.clone()));
        }
        self.count_ranges(self.policy.resolved.services(terms).count(), place)?;
        let set = Arc::new(ServiceSet::new(self.policy.resolved.services(terms)));
        let set = interned(&mut self.services, set);
        if let [Term::Object(id)] = &**terms {
            self.service_objects.insert(*id, set.clone());
        }
        Ok(ServiceMatch::Set(set))
    }

    fn count_ranges(&mut self, count: usize, place: Place) -> Result<(), CompileError> {
        self.ranges += count;
        if self.ranges > COMPILED_RANGES { Err(CompileError::TooManyRanges(place)) } else { Ok(()) }
    }

    fn count_places(&mut self, from: &Zones, to: &Zones, place: Place) -> Result<(), CompileError> {
        let count = |zones: &Zones| match zones {
            Zones::Any => 1,
            Zones::Listed(zones) => zones.len(),
        };
        self.places += count(from) * count(to);
        if self.places > ZONE_PAIR_RULES { Err(CompileError::TooManyPairs(place)) } else { Ok(()) }
    }
}

impl CompileError {
    pub(crate) fn place(&self) -> Place {
        match self {
            Self::TooManyRanges(place) | Self::TooManyPairs(place) => *place,
        }
    }
}

/// The one that is kept of all sets equal to `set`.
fn interned<S: Eq + Hash>(kept: &mut HashSet<Arc<S>>, set: Arc<S>) -> Arc<S> {
    if let Some(same) = kept.get(&set) {
        return same.clone();
    }
    kept.insert(set.clone());
    set
}

/// All addresses of the pool's family; `None` where any family will do.
fn pool_family(address: &PoolPolicy) -> Option<IpRange> {
    let PoolPolicy::Pool { ranges, .. } = address else { return None };
    let family = match ranges.first()?.start() {
        IpAddr::V4(_) => IpNet::from(Ipv4Net::default()),
        IpAddr::V6(_) => IpNet::from(Ipv6Net::default()),
    };
    Some(family.into())
}

/// The addresses for which the node may have to answer because of a rule.
fn translated_ranges(policy: &Policy, rule: &NatPolicy) -> Vec<IpRange> {
    let terms = match &rule.kind {
        NatKind::Destination(kind) => &kind.to,
        NatKind::Source(SourcePolicy { address: PoolPolicy::Pool { terms, .. }, .. }) => terms,
        NatKind::Source(SourcePolicy { address: PoolPolicy::OwnAddress, .. }) => return Vec::new(),
    };
    policy.resolved.address_set(terms).ranges().collect()
}

/// The ids of rules, sorted by their names.
fn by_name(rules: &[Rule]) -> Vec<RuleId> {
    let mut ids: Vec<RuleId> = (0..).map(RuleId).take(rules.len()).collect();
    ids.sort_unstable_by_key(|id| rules[id.0 as usize].name.as_str());
    ids
}

/// The ports that a rule publishes, unless it publishes them all.
fn published_ports(policy: &Policy, rule: &NatPolicy) -> Vec<Published> {
    let (NatKind::Destination(kind), Match::Terms(services)) = (&rule.kind, &rule.service) else {
        return Vec::new();
    };
    let addresses = policy.resolved.address_set(&kind.to);
    let ports = policy.resolved.services(services).filter_map(|service| match service {
        Service::Tcp(ports) => Some((TCP, ports.destination.clone())),
        Service::Udp(ports) => Some((UDP, ports.destination.clone())),
        Service::Icmp(..) | Service::Protocol(_) => None,
    });
    let some = ports.filter(|(_, ports)| *ports.start() > 1 || *ports.end() < u16::MAX);
    some.flat_map(|(protocol, ports)| {
        addresses.ranges().map(move |range| Published {
            addresses: range.first()..=range.last(),
            protocol,
            ports: ports.clone(),
        })
    })
    .collect()
}

fn rule_entry(rule: &RulePolicy) -> Rule {
    Rule {
        name: rule.name.clone(),
        line: rule.place.line,
        action: rule.action,
        log: rule.log,
        is_strict: rule.is_strict,
    }
}

/// Of all rules but those that monitor.
fn decisions(rules: &[Rule]) -> Box<[Decision]> {
    let decision = |(rule, entry): (RuleId, &Rule)| {
        entry.action.map(|action| Decision { rule, action, log: entry.log })
    };
    (0..).map(RuleId).zip(rules).filter_map(decision).collect()
}

/// One per ordered zone pair, by source zone, then by destination zone.
fn default_rules(policy: &Policy) -> impl Iterator<Item = Rule> + '_ {
    let default = &policy.default;
    let pairs = policy.zones.iter().flat_map(|from| policy.zones.iter().map(move |to| (from, to)));
    pairs.map(|(from, to)| Rule {
        name: default_name(&from.name, &to.name),
        line: default.place.unwrap_or(from.place).line,
        action: Some(default.action),
        log: default.log,
        is_strict: false,
    })
}

fn zone(zone: &ZonePolicy) -> Zone {
    Zone {
        name: zone.name.clone(),
        interfaces: zone.interfaces.clone(),
        networks: zone.networks.clone(),
    }
}

fn networks(policy: &Policy) -> Networks {
    let mut networks = Networks::default();
    for (index, zone) in (0..).map(ZoneId).zip(&policy.zones) {
        for net in &zone.networks {
            networks.insert(*net, index);
        }
    }
    networks
}

fn nat_id(index: usize) -> NatId {
    NatId(u16::try_from(index).expect("the check keeps NAT rules below their limit"))
}

/// A source may hold `most_ports` of a rule that names no number.
fn nat_entry(id: NatId, rule: &NatPolicy, most_ports: u32) -> NatRule {
    let (name, line) = (rule.name.clone(), rule.place.line);
    match &rule.kind {
        NatKind::Destination(kind) => NatRule::Destination(DestinationNat {
            id,
            name,
            line,
            targets: kind.targets.clone(),
            target_port: kind.target_port,
        }),
        NatKind::Source(kind) => NatRule::Source(SourceNat {
            id,
            name,
            line,
            address: match &kind.address {
                PoolPolicy::OwnAddress => SourceAddress::OwnAddress,
                PoolPolicy::Pool { ranges, .. } => SourceAddress::Pool(ranges.clone()),
            },
            ports: kind.ports.clone(),
            ports_per_source: kind.ports_per_source.unwrap_or(most_ports),
            mapping: kind.mapping,
            filtering: kind.filtering,
        }),
    }
}
