//! What nobody names: objects, zones, tests.

use crate::object::{Object, ObjectId, Term};
use crate::policy::{Match, NatKind, Policy, PoolPolicy, Zones};

use super::{Lint, Report};

/// From so many rules on a policy should have a test.
const RULES_TO_TEST: usize = 10;

pub(super) fn lint_unused(policy: &Policy, report: &mut Report<'_>) {
    let used = used_objects(policy);
    for (kind, names) in [
        ("address", unused(&policy.addresses, &used.addresses)),
        ("service", unused(&policy.services, &used.services)),
    ] {
        for (name, place) in names {
            let message = format!("no rule uses the {kind} object `{name}`");
            report.other(Lint::UnusedObject, place, message, "remove it");
        }
    }
    unused_zones(policy, report);
    if let Some(first) = policy.rules.first()
        && policy.rules.len() >= RULES_TO_TEST
        && policy.tests.is_empty()
    {
        let message = format!("the policy has {} rules and no tests", policy.rules.len());
        let help = "write under `tests` what must never change by accident";
        report.other(Lint::NoTests, first.place, message, help);
    }
}

fn unused_zones(policy: &Policy, report: &mut Report<'_>) {
    let mut lists = policy.rules.iter().flat_map(|rule| [&rule.from, &rule.to]).chain(
        policy.nat.iter().flat_map(|rule| match &rule.kind {
            NatKind::Destination(_) => [&rule.from, &rule.from],
            NatKind::Source(kind) => [&rule.from, &kind.out],
        }),
    );
    let mut named = vec![false; policy.zones.len()];
    let any = lists.any(|zones| match zones {
        Zones::Any => true,
        Zones::Listed(zones) => {
            zones.iter().for_each(|zone| named[usize::from(zone.0)] = true);
            false
        }
    });
    if any || policy.rules.is_empty() {
        return;
    }
    for (zone, _) in policy.zones.iter().zip(named).filter(|(_, named)| !named) {
        let message = format!("no rule names the zone `{}`", zone.name);
        let help = "nothing passes from it or to it but by the default";
        report.other(Lint::UnusedZone, zone.place, message, help);
    }
}

/// Whether each object is named by a rule, or by an object that is.
struct Used {
    addresses: Vec<bool>,
    services: Vec<bool>,
}

fn used_objects(policy: &Policy) -> Used {
    let mut used = Used {
        addresses: vec![false; policy.addresses.len()],
        services: vec![false; policy.services.len()],
    };
    for rule in &policy.rules {
        mark(terms(&rule.source), &policy.addresses, &mut used.addresses);
        mark(terms(&rule.destination), &policy.addresses, &mut used.addresses);
        mark(terms(&rule.service), &policy.services, &mut used.services);
    }
    for rule in &policy.nat {
        mark(terms(&rule.source), &policy.addresses, &mut used.addresses);
        mark(terms(&rule.service), &policy.services, &mut used.services);
        let lists = match &rule.kind {
            NatKind::Destination(kind) => [&*kind.to, &*kind.target],
            NatKind::Source(kind) => match &kind.address {
                PoolPolicy::OwnAddress => [terms(&kind.destination), &[]],
                PoolPolicy::Pool { terms: pool, .. } => [terms(&kind.destination), pool],
            },
        };
        for list in lists {
            mark(list, &policy.addresses, &mut used.addresses);
        }
    }
    used
}

fn terms<T>(wanted: &Match<T>) -> &[Term<T>] {
    match wanted {
        Match::Any => &[],
        Match::Terms(terms) => terms,
    }
}

/// Marks the objects of a list and all that they name.
fn mark<T>(terms: &[Term<T>], objects: &[Object<T>], used: &mut [bool]) {
    let named = |terms: &[Term<T>]| -> Vec<ObjectId> {
        let id = |term: &Term<T>| match term {
            Term::Object(id) => Some(*id),
            Term::Value(_) => None,
        };
        terms.iter().filter_map(id).collect()
    };
    let mut waiting = named(terms);
    while let Some(ObjectId(index)) = waiting.pop() {
        if !std::mem::replace(&mut used[index], true) {
            waiting.extend(named(&objects[index].terms));
        }
    }
}

fn unused<'o, T>(
    objects: &'o [Object<T>],
    used: &[bool],
) -> Vec<(&'o str, crate::diagnostic::Place)> {
    let unused = objects.iter().zip(used).filter(|(_, used)| !**used);
    unused.map(|(object, _)| (&*object.name, object.place)).collect()
}
