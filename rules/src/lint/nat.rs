//! NAT rules that never apply, servers that nobody may reach, and pools that are soon empty.

use std::ops::RangeInclusive;
use std::rc::Rc;

use time::Date;

use crate::address::IpRange;
use crate::policy::{
    DestinationPolicy, Match, NatKind, NatPolicy, Policy, PoolPolicy, SourcePolicy,
};
use crate::{Action, Mapping};

use super::cover::{Cover, Ground, Work};
use super::owners::Owners;
use super::space::{Family, Region, Regions, Span, Surveyor};
use super::{Lint, Report, is_something};

/// The NAT rules of each kind that are in force.
pub(super) struct Tables {
    pub destination: Ground,
    /// Whether a destination NAT rule stays in force.
    pub lasts_destination: Vec<bool>,
    /// Where destination NAT sends packets, by family; sorted, not touching.
    pub targets: [Vec<Span>; 2],
    source: Ground,
    /// Indices of the policy's NAT rules, for each table.
    destination_rules: Vec<usize>,
    source_rules: Vec<usize>,
}

impl Tables {
    pub(super) fn new(policy: &Policy, today: Option<Date>, surveyor: &mut Surveyor<'_>) -> Self {
        let (mut destination, mut source) = (Vec::new(), Vec::new());
        let (mut destination_rules, mut source_rules) = (Vec::new(), Vec::new());
        let mut targets: Vec<IpRange> = Vec::new();
        for (index, rule) in policy.nat.iter().enumerate() {
            if rule.meta.has_expired(today) {
                continue;
            }
            let from = surveyor.zones(&rule.from);
            match &rule.kind {
                NatKind::Destination(kind) => {
                    let to = Match::Terms(kind.to.clone());
                    let zones = (from, 1);
                    destination.push(surveyor.regions(zones, &rule.source, &to, &rule.service));
                    destination_rules.push(index);
                    targets.extend(kind.targets.iter().filter_map(|to| IpRange::new(*to, *to)));
                }
                NatKind::Source(kind) => {
                    let zones = (from, surveyor.zones(&kind.out));
                    let to = &kind.destination;
                    let mut regions = surveyor.regions(zones, &rule.source, to, &rule.service);
                    if let Some(family) = pool_family(kind) {
                        regions[1 - family as usize] = None;
                    }
                    source.push(regions);
                    source_rules.push(index);
                }
            }
        }
        let targets = crate::address::AddressSet::new(targets);
        let lasts = |index: &usize| policy.nat[*index].meta.expires.is_none();
        Self {
            destination: Ground::new(destination),
            lasts_destination: destination_rules.iter().map(lasts).collect(),
            targets: [targets.spans(true), targets.spans(false)],
            source: Ground::new(source),
            destination_rules,
            source_rules,
        }
    }
}

/// `None` where any family will do.
fn pool_family(kind: &SourcePolicy) -> Option<Family> {
    let PoolPolicy::Pool { ranges, .. } = &kind.address else { return None };
    let is_ipv4 = ranges.first()?.start().is_ipv4();
    Some(if is_ipv4 { Family::V4 } else { Family::V6 })
}

pub(super) fn lint_nat(
    (policy, rules, owners): (&Policy, &Ground, &Owners),
    tables: &Tables,
    surveyor: &mut Surveyor<'_>,
    work: &mut Work,
    report: &mut Report<'_>,
) {
    let allows = allowing(policy);
    for (place, index) in tables.destination_rules.iter().enumerate() {
        let rule = &policy.nat[*index];
        let shadowed = lint_shadowed(
            policy,
            (&tables.destination, &tables.destination_rules),
            place,
            work,
            report,
        );
        if let (false, NatKind::Destination(kind)) = (shadowed, &rule.kind)
            && policy.default.action != Action::Allow
        {
            let regions = &tables.destination.rules[place];
            let aside = (rules, &*allows, owners);
            lint_unpermitted(policy, (rule, kind, regions), aside, work, report);
        }
    }
    for (place, index) in tables.source_rules.iter().enumerate() {
        let rule = &policy.nat[*index];
        lint_shadowed(policy, (&tables.source, &tables.source_rules), place, work, report);
        if let NatKind::Source(kind) = &rule.kind {
            lint_pool(policy, rule, kind, surveyor, report);
        }
    }
}

/// Whether NAT rules above leave nothing of one; reports it.
fn lint_shadowed(
    policy: &Policy,
    (table, indices): (&Ground, &[usize]),
    place: usize,
    work: &mut Work,
    report: &mut Report<'_>,
) -> bool {
    let rule = &policy.nat[indices[place]];
    if !is_something(&table.rules[place]) {
        let message = format!("the NAT rule `{}` never matches", rule.name);
        let help = "its addresses and service are not of one address family";
        report.rule(Lint::NeverMatches, (rule.place, &rule.meta), message, help);
        return true;
    }
    work.next_rule();
    let lasts = |above: usize| above < place && policy.nat[indices[above]].meta.expires.is_none();
    match table.cover(&table.rules[place], lasts, work) {
        Cover::By(above) => {
            let takes = if above.len() == 1 { "takes" } else { "take" };
            let above = above.into_iter().map(|above| &policy.nat[indices[above]]);
            let above: Vec<_> = above.map(|rule| (&*rule.name, rule.place)).collect();
            let named = report.named_all(above.into_iter());
            let message = format!(
                "the NAT rule `{}` never applies: {named} above it {takes} all of its packets",
                rule.name
            );
            let help = format!("move `{}` up, or remove it", rule.name);
            report.rule(Lint::ShadowedNat, (rule.place, &rule.meta), message, help);
            true
        }
        Cover::Open => false,
        Cover::Unknown => {
            work.unknown += 1;
            false
        }
    }
}

/// The rules that allow, in their order.
fn allowing(policy: &Policy) -> Vec<usize> {
    let rules = policy.rules.iter().enumerate();
    rules.filter(|(_, rule)| rule.action == Some(Action::Allow)).map(|(index, _)| index).collect()
}

/// Reports a published server to which no rule allows anything.
fn lint_unpermitted(
    policy: &Policy,
    (rule, kind, regions): (&NatPolicy, &DestinationPolicy, &Regions),
    (rules, allows, owners): (&Ground, &[usize], &Owners),
    work: &mut Work,
    report: &mut Report<'_>,
) {
    for family in Family::ALL {
        let Some(region) = &regions[family as usize] else { continue };
        for target in &kind.targets {
            work.next_rule();
            let number = crate::address::number(*target);
            let translated = Region {
                to: owners.of(family, number),
                destinations: [(number, number)].into(),
                services: services_at(region, kind.target_port),
                ..region.clone()
            };
            let is_denied =
                |allow: &usize| is_denied(policy, (&translated, family), rules, *allow, work);
            if !allows.iter().all(is_denied) {
                continue;
            }
            let message =
                format!("`{}` publishes {target}, and no rule allows a packet to it", rule.name);
            let help = "NAT permits nothing: allow the server's address and port in `rules`";
            report.rule(Lint::UnpermittedNat, (rule.place, &rule.meta), message, help);
            return;
        }
    }
}

/// Whether rules that deny, above one that allows, leave nothing of what it allows of `region`. Where
/// it is not known, something is left.
fn is_denied(
    policy: &Policy,
    (region, family): (&Region, Family),
    rules: &Ground,
    allow: usize,
    work: &mut Work,
) -> bool {
    if work.spend(1).is_none() {
        return false;
    }
    let Some(allowed) = &rules.rules[allow][family as usize] else { return true };
    let Some(both) = allowed.intersection(region) else { return true };
    let mut wanted = [None, None];
    wanted[family as usize] = Some(both);
    let denies = |above: usize| {
        above < allow && policy.rules[above].action.is_some_and(|action| action != Action::Allow)
    };
    matches!(rules.cover(&wanted, denies, work), Cover::By(_))
}

/// The services of packets as they go on to the server.
fn services_at(region: &Region, port: Option<u16>) -> Rc<[super::space::ServiceBox]> {
    let Some(port) = port.map(u128::from) else { return region.services.clone() };
    region.services.iter().map(|[protocol, source, _]| [*protocol, *source, (port, port)]).collect()
}

fn lint_pool(
    policy: &Policy,
    rule: &NatPolicy,
    kind: &SourcePolicy,
    surveyor: &mut Surveyor<'_>,
    report: &mut Report<'_>,
) {
    if kind.mapping != Mapping::EndpointIndependent {
        // A port is shared by connections to different servers.
        return;
    }
    let ports = count(&kind.ports);
    let quota = kind.ports_per_source.unwrap_or(policy.settings.flood.flows_per_source);
    let at = (rule.place, &rule.meta);
    if u128::from(quota) >= ports {
        let message = format!(
            "one source may hold {quota} ports of `{}`, and each of its addresses has {ports}",
            rule.name
        );
        let help = format!("set `ports-per-source` below {ports}, or give it more `ports`");
        report.rule(Lint::NatPoolSize, at, message, help);
        return;
    }
    let Match::Terms(_) = &rule.source else { return };
    let families = pool_family(kind).map_or(Family::ALL.to_vec(), |family| vec![family]);
    let sources = surveyor.addresses(&rule.source);
    let spans = families.iter().flat_map(|family| sources[*family as usize].iter());
    let sources: u128 =
        spans.fold(0, |all, span| all.saturating_add(span.1 - span.0).saturating_add(1));
    let all_ports = addresses(kind).saturating_mul(ports);
    if sources > all_ports && sources <= SOURCES_COUNTED {
        let message = format!(
            "`{}` is for {sources} sources and has {all_ports} ports in all, less than one for each",
            rule.name
        );
        report.rule(Lint::NatPoolSize, at, message, "give it more addresses, or more `ports`");
    }
}

/// Larger networks are plans of addresses and not as many hosts: the 10.0.0.0/8 of a cloud.
const SOURCES_COUNTED: u128 = 1 << 20;

fn count(ports: &RangeInclusive<u16>) -> u128 {
    u128::from(ports.end() - ports.start()) + 1
}

fn addresses(kind: &SourcePolicy) -> u128 {
    match &kind.address {
        PoolPolicy::OwnAddress => 1,
        PoolPolicy::Pool { ranges, .. } => ranges.iter().fold(0, |all, range| {
            let number = crate::address::number;
            all.saturating_add(number(*range.end()) - number(*range.start())).saturating_add(1)
        }),
    }
}
