//! Rules whose addresses do not go with their service or their zones, and rules that allow everything.

use crate::Action;
use crate::policy::{Match, Policy, RulePolicy};

use super::cover::{Cover, Ground, Work};
use super::nat::Tables;
use super::owners::Owners;
use super::space::{Family, Region, Span, includes, intersection};
use super::{Lint, Report, is_something};

pub(super) fn lint_addresses(
    policy: &Policy,
    rules: &Ground,
    (nat, owners): (&Tables, &Owners),
    work: &mut Work,
    report: &mut Report<'_>,
) {
    for (rule, regions) in policy.rules.iter().zip(&rules.rules) {
        // A rule that has expired matches nothing either; that is reported already.
        if !is_something(regions) {
            if rule.meta.expires.is_none() {
                let message = format!("the rule `{}` never matches", rule.name);
                let help = "its source, destination and service are not of one address family";
                report.rule(Lint::NeverMatches, (rule.place, &rule.meta), message, help);
            }
            continue;
        }
        let regions: Vec<(Family, &Region)> = Family::ALL
            .into_iter()
            .filter_map(|family| Some((family, regions[family as usize].as_ref()?)))
            .collect();
        if published(rule, &regions, nat, work) {
            let message = format!("the rule `{}` is for an address that it never sees", rule.name);
            let help = "destination NAT comes before the rules: write the servers' addresses";
            report.rule(Lint::PublishedDestination, (rule.place, &rule.meta), message, help);
        } else {
            lint_zones(policy, rule, &regions, owners, report);
        }
        lint_any(policy, rule, &regions, report);
    }
    if policy.default.action == Action::Allow {
        let place = policy.default.place.unwrap_or(policy.zones[0].place);
        let message = "the default allows everything that no rule decides";
        let help = "write `default: { action: drop }` and allow what is needed";
        report.other(Lint::AnyAny, place, message, help);
    }
}

fn lint_zones(
    policy: &Policy,
    rule: &RulePolicy,
    regions: &[(Family, &Region)],
    owners: &Owners,
    report: &mut Report<'_>,
) {
    let meets = |mask: u64, family: Family, spans: &[Span]| owners.meet(family, spans, mask);
    let names = |mask: u64| {
        let zones = policy.zones.iter().enumerate().filter(|(zone, _)| mask >> zone & 1 == 1);
        zones.map(|(_, zone)| format!("`{}`", zone.name)).collect::<Vec<_>>().join(", ")
    };
    if let Some((_, region)) = regions.first() {
        if !regions.iter().any(|(family, region)| meets(region.from, *family, &region.sources)) {
            let message =
                format!("no source of the rule `{}` lies in {}", rule.name, names(region.from));
            let help = "packets with such a source are dropped as spoofed before any rule";
            report.rule(Lint::ForeignSource, (rule.place, &rule.meta), message, help);
        } else if !regions
            .iter()
            .any(|(family, region)| meets(region.to, *family, &region.destinations))
        {
            let message =
                format!("no destination of the rule `{}` lies in {}", rule.name, names(region.to));
            let help = "the zones' `networks` say that packets to it go elsewhere";
            report.rule(Lint::ForeignDestination, (rule.place, &rule.meta), message, help);
        }
    }
}

/// Whether all packets of a rule have another destination by the time the rules see them.
fn published(
    rule: &RulePolicy,
    regions: &[(Family, &Region)],
    nat: &Tables,
    work: &mut Work,
) -> bool {
    if rule.destination == Match::Any || nat.destination.rules.is_empty() {
        return false;
    }
    work.next_rule();
    regions.iter().all(|(family, region)| {
        let mut wanted = [None, None];
        // Destination NAT does not ask where packets go.
        wanted[*family as usize] = Some(Region { to: 1, ..(*region).clone() });
        let is_target =
            !intersection(&nat.targets[*family as usize], &region.destinations).is_empty();
        !is_target
            && matches!(
                nat.destination.cover(&wanted, |rule| nat.lasts_destination[rule], work),
                Cover::By(_)
            )
    })
}

fn lint_any(
    policy: &Policy,
    rule: &RulePolicy,
    regions: &[(Family, &Region)],
    report: &mut Report<'_>,
) {
    if rule.action != Some(Action::Allow) || rule.service != Match::Any {
        return;
    }
    let is_all = |(family, region): &(Family, &Region)| {
        let all = [family.all_addresses()];
        includes(&region.sources, &all) && includes(&region.destinations, &all)
    };
    let zones = policy.zones.iter().enumerate();
    let outside = zones.clone().filter(|(_, zone)| zone.networks.is_empty());
    let outside = outside.fold(0_u64, |mask, (zone, _)| mask | 1 << zone);
    let everywhere = zones.fold(0_u64, |mask, (zone, _)| mask | 1 << zone);
    let Some((_, region)) = regions.iter().find(|part| is_all(part)) else { return };
    let lets_in = if outside == everywhere {
        // Which zone is outside the policy does not say.
        outside.count_ones() > 1 && region.from == everywhere && region.to == everywhere
    } else {
        region.from & outside != 0 && region.to & !outside != 0
    };
    if lets_in {
        let message = format!("the rule `{}` allows everything from outside", rule.name);
        let help = "name the destinations and services that are meant";
        report.rule(Lint::AnyAny, (rule.place, &rule.meta), message, help);
    }
}
