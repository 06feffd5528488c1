//! One address family forgotten.

use crate::Action;
use crate::policy::{Match, Policy, RulePolicy};
use crate::service::{IcmpFamily, Service};

use super::cover::Ground;
use super::space::{Family, Regions};
use super::{Lint, Report};

/// For each zone that packets come from, the zones that they go to.
type Pairs = Vec<u64>;

pub(super) fn lint_parity(policy: &Policy, ground: &Ground, report: &mut Report<'_>) {
    let both = dual_pairs(policy);
    lint_pairs(policy, ground, &both, report);
    for action in [Action::Allow, Action::Drop, Action::Reject] {
        lint_icmp(policy, ground, &both, action, report);
    }
}

/// The pairs of zones that have both families behind them, of which one at least says so.
fn dual_pairs(policy: &Policy) -> Pairs {
    let says = |zone: usize, ipv4: bool| {
        policy.zones[zone].networks.iter().any(|network| network.addr().is_ipv4() == ipv4)
    };
    let has = |zone: usize, ipv4: bool| policy.zones[zone].networks.is_empty() || says(zone, ipv4);
    let zones = policy.zones.len();
    let is_dual = |from: usize, to: usize| {
        [from, to].iter().all(|zone| has(*zone, true) && has(*zone, false))
            && [from, to].iter().any(|zone| says(*zone, true) && says(*zone, false))
    };
    let row = |from| (0..zones).filter(|to| is_dual(from, *to)).fold(0, |row, to| row | 1 << to);
    (0..zones).map(row).collect()
}

/// Adds the pairs of a rule in one family.
fn add(pairs: &mut Pairs, regions: &Regions, family: Family) {
    let Some(region) = &regions[family as usize] else { return };
    for (from, row) in pairs.iter_mut().enumerate() {
        if region.from >> from & 1 == 1 {
            *row |= region.to;
        }
    }
}

/// Pairs for which some rules allow one family and none the other.
fn lint_pairs(policy: &Policy, ground: &Ground, both: &Pairs, report: &mut Report<'_>) {
    let mut allowed = [vec![0; both.len()], vec![0; both.len()]];
    let rules = || {
        let rules = policy.rules.iter().zip(&ground.rules);
        rules.filter(|(rule, _)| rule.action == Some(Action::Allow))
    };
    for (_, regions) in rules() {
        for family in Family::ALL {
            add(&mut allowed[family as usize], regions, family);
        }
    }
    for (family, other, name) in
        [(Family::V4, Family::V6, "IPv4"), (Family::V6, Family::V4, "IPv6")]
    {
        let mut missing: Pairs = both
            .iter()
            .zip(&allowed[other as usize])
            .map(|(both, allowed)| both & !allowed)
            .collect();
        for (rule, regions) in rules() {
            let Some(region) = &regions[family as usize] else { continue };
            for (from, row) in missing.iter_mut().enumerate() {
                let pair = *row & region.to;
                if region.from >> from & 1 == 0 || pair == 0 {
                    continue;
                }
                *row &= !pair;
                let to = pair.trailing_zeros() as usize;
                let message = format!(
                    "rules allow {name} from `{}` to `{}` and nothing of the other family, which both zones have",
                    policy.zones[from].name, policy.zones[to].name
                );
                let help = "write the same rules for the other family, or remove its `networks`";
                report.rule(Lint::Ipv6Parity, (rule.place, &rule.meta), message, help);
            }
        }
    }
}

/// Rules that name ICMP of one family where no rule with the same action names the other's.
fn lint_icmp(
    policy: &Policy,
    ground: &Ground,
    both: &Pairs,
    action: Action,
    report: &mut Report<'_>,
) {
    let rules = || {
        let rules = policy.rules.iter().zip(&ground.rules);
        rules.filter(|(rule, _)| rule.action == Some(action))
    };
    let mut named = [vec![0; both.len()], vec![0; both.len()]];
    for (rule, regions) in rules() {
        for family in Family::ALL {
            if names_icmp(policy, rule, family) {
                add(&mut named[family as usize], regions, family);
            }
        }
    }
    for (family, other, name) in
        [(Family::V4, Family::V6, "icmpv6"), (Family::V6, Family::V4, "icmp")]
    {
        for (rule, regions) in rules() {
            let Some(region) = &regions[family as usize] else { continue };
            if rule.service == Match::Any
                || !names_icmp(policy, rule, family)
                || !is_for_both(policy, rule)
            {
                continue;
            }
            let pair = both.iter().enumerate().find_map(|(from, row)| {
                let wanted = if region.from >> from & 1 == 1 { region.to & row } else { 0 };
                let missing = wanted & !named[other as usize][from];
                (missing != 0).then(|| (from, missing.trailing_zeros() as usize))
            });
            let Some((from, to)) = pair else { continue };
            let message = format!(
                "the rule `{}` {}s ICMP, and no rule does so with {name} from `{}` to `{}`",
                rule.name,
                action.label(),
                policy.zones[from].name,
                policy.zones[to].name
            );
            let help = format!("add the {name} service that is meant as well");
            report.rule(Lint::Ipv6Parity, (rule.place, &rule.meta), message, help);
        }
    }
}

fn names_icmp(policy: &Policy, rule: &RulePolicy, family: Family) -> bool {
    let wanted = match family {
        Family::V4 => IcmpFamily::V4,
        Family::V6 => IcmpFamily::V6,
    };
    match &rule.service {
        Match::Any => true,
        Match::Terms(terms) => policy
            .resolved
            .services(terms)
            .any(|service| matches!(service, Service::Icmp(family, ..) if *family == wanted)),
    }
}

/// Whether the rule's addresses are of both families.
fn is_for_both(policy: &Policy, rule: &RulePolicy) -> bool {
    [&rule.source, &rule.destination].into_iter().all(|wanted| match wanted {
        Match::Any => true,
        Match::Terms(terms) => {
            let set = policy.resolved.address_set(terms);
            set.has_ipv4() && set.has_ipv6()
        }
    })
}
