//! What is right and yet hardly meant: rules that never decide, objects that nobody names, servers
//! that are published and never reached. Nothing here refuses a policy.

mod addresses;
mod cover;
mod hulls;
mod index;
mod names;
mod nat;
mod order;
mod owners;
mod parity;
mod space;
mod unused;

use time::Date;

use crate::diagnostic::Place;
use crate::diagnostic::Problems;
use crate::policy::{Meta, Policy};

pub use names::{Lint, LintGroup};

use cover::{Ground, Work};
use owners::Owners;
use space::{Regions, Surveyor};

/// Reports what the lints of `group` find. Rules whose day has passed on `today` count as left out;
/// `file` is what reports call the text.
pub(crate) fn lint(
    policy: &Policy,
    file: &str,
    today: Option<Date>,
    group: LintGroup,
    problems: &mut Problems,
) {
    let mut surveyor = Surveyor::new(policy);
    let rules = Ground::new(rule_regions(policy, today, &mut surveyor));
    let nat = nat::Tables::new(policy, today, &mut surveyor);
    let mut report = Report { policy, file, group, problems };
    let mut work = Work::new();
    order::lint_rules(policy, &rules, &mut work, &mut report);
    let owners = Owners::new(policy);
    nat::lint_nat((policy, &rules, &owners), &nat, &mut surveyor, &mut work, &mut report);
    addresses::lint_addresses(policy, &rules, (&nat, &owners), &mut work, &mut report);
    parity::lint_parity(policy, &rules, &mut report);
    unused::lint_unused(policy, &mut report);
    report.budget(&work);
}

/// Of the rules that are in force; the others match nothing.
fn rule_regions(policy: &Policy, today: Option<Date>, surveyor: &mut Surveyor<'_>) -> Vec<Regions> {
    let regions = policy.rules.iter().map(|rule| {
        if rule.meta.has_expired(today) {
            return [None, None];
        }
        let zones = (surveyor.zones(&rule.from), surveyor.zones(&rule.to));
        surveyor.regions(zones, &rule.source, &rule.destination, &rule.service)
    });
    regions.collect()
}

fn is_something(regions: &Regions) -> bool {
    regions.iter().any(Option::is_some)
}

/// Where findings go, but for those that the policy silences.
struct Report<'r> {
    policy: &'r Policy,
    file: &'r str,
    group: LintGroup,
    problems: &'r mut Problems,
}

impl Report<'_> {
    fn wants(&self, lint: Lint) -> bool {
        (lint.group() == LintGroup::Usual || self.group == LintGroup::Pedantic)
            && !self.policy.allow_lints.contains(&lint)
    }

    /// Of a rule or NAT rule, which may silence it.
    fn rule(
        &mut self,
        lint: Lint,
        (place, meta): (Place, &Meta),
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        if !meta.allow_lints.contains(&lint) {
            self.other(lint, place, message, help);
        }
    }

    /// Of anything else.
    fn other(
        &mut self,
        lint: Lint,
        place: Place,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        if self.wants(lint) {
            self.problems.warn(lint, place.span, message, help);
        }
    }

    /// As in "`web-in` (policy.yaml:7)".
    fn named(&self, name: &str, place: Place) -> String {
        format!("`{name}` ({}:{})", self.file, place.line)
    }

    /// Some of several, as in "`a` (policy.yaml:7), `b` (policy.yaml:8) and 3 more".
    fn named_all<'n>(&self, all: impl ExactSizeIterator<Item = (&'n str, Place)>) -> String {
        const SHOWN: usize = 3;
        let count = all.len();
        let shown: Vec<String> =
            all.take(SHOWN).map(|(name, place)| self.named(name, place)).collect();
        match (count.saturating_sub(SHOWN), &*shown) {
            (0, [first @ .., last]) if !first.is_empty() => {
                format!("{} and {last}", first.join(", "))
            }
            (0, _) => shown.join(", "),
            (more, _) => format!("{} and {more} more", shown.join(", ")),
        }
    }

    fn budget(&mut self, work: &Work) {
        let Some(first) = self.policy.rules.first().filter(|_| work.unknown > 0) else { return };
        let message = format!("{} comparisons of rules were given up", work.unknown);
        let help = "they would take too long; what the lints found above is right all the same";
        self.other(Lint::LintsIncomplete, first.place, message, help);
    }
}

#[cfg(test)]
mod tests;
