//! Rules that come too late, say nothing new, or stand against each other (the anomalies of E.
//! Al-Shaer and H. Hamed, "Modeling and Management of Firewall Policies", 2004, section 3).

use std::collections::HashMap;
use std::ops::Range;
use std::time::Duration;

use crate::policy::{Match, Policy, RulePolicy};
use crate::settings::Timer;
use crate::{Action, LogMode};

use super::cover::{Cover, Ground, Work};
use super::hulls::Hulls;
use super::space::{Family, Regions};
use super::{Lint, Report, is_something};

/// What becomes of a packet that a rule decides.
type Effect = (Action, LogMode, Vec<(Timer, Duration)>, bool);

struct Order<'o> {
    policy: &'o Policy,
    ground: &'o Ground,
    hulls: Hulls,
    /// Equal numbers for equal effects; `None` for monitor rules, which are never equal.
    effects: Vec<Option<u32>>,
    default: Option<u32>,
}

pub(super) fn lint_rules(
    policy: &Policy,
    ground: &Ground,
    work: &mut Work,
    report: &mut Report<'_>,
) {
    let order = Order::new(policy, ground);
    for (index, rule) in policy.rules.iter().enumerate() {
        if !is_something(&ground.rules[index]) {
            continue;
        }
        work.next_rule();
        match ground.cover(
            &ground.rules[index],
            |above| above < index && lasts(policy, above),
            work,
        ) {
            Cover::By(above) => order.report_covered(rule, above.into_iter().collect(), report),
            Cover::Open => order.lint_open(index, work, report),
            Cover::Unknown => work.unknown += 1,
        }
    }
}

/// Whether a rule decides, today and later.
fn lasts(policy: &Policy, rule: usize) -> bool {
    let rule = &policy.rules[rule];
    rule.action.is_some() && rule.meta.expires.is_none()
}

impl<'o> Order<'o> {
    fn new(policy: &'o Policy, ground: &'o Ground) -> Self {
        let mut numbers: HashMap<Effect, u32> = HashMap::new();
        let mut number = |effect: Effect| {
            let next = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
            *numbers.entry(effect).or_insert(next)
        };
        let effect = |rule: &RulePolicy| {
            Some((rule.action?, rule.log, rule.timeouts.clone(), rule.is_strict))
        };
        let effects: Vec<_> =
            policy.rules.iter().map(|rule| effect(rule).map(&mut number)).collect();
        let default = number((policy.default.action, policy.default.log, Vec::new(), false));
        let hulls = Hulls::new(&ground.rules);
        Self { policy, ground, hulls, effects, default: Some(default) }
    }

    fn report_covered(&self, rule: &RulePolicy, above: Vec<usize>, report: &mut Report<'_>) {
        let rules = above.iter().map(|index| &self.policy.rules[*index]);
        let named = report.named_all(rules.clone().map(|rule| (&*rule.name, rule.place)));
        let does_the_same =
            rule.action.is_some() && rules.clone().all(|above| above.action == rule.action);
        let takes = if above.len() == 1 { "takes" } else { "take" };
        let name = &rule.name;
        let (lint, message, help) = match rule.action {
            Some(_) if does_the_same => (
                Lint::RedundantRule,
                format!(
                    "the rule `{name}` changes nothing: {named} above it {takes} all of its packets and does the same"
                ),
                "remove it".to_owned(),
            ),
            Some(_) => (
                Lint::ShadowedRule,
                format!(
                    "the rule `{name}` never decides: {named} above it {takes} all of its packets"
                ),
                format!("move `{name}` up, or remove it"),
            ),
            None => (
                Lint::ShadowedRule,
                format!(
                    "the rule `{name}` never counts: {named} above it {takes} all of its packets"
                ),
                format!("move `{name}` up, or remove it"),
            ),
        };
        report.rule(lint, (rule.place, &rule.meta), message, help);
    }

    /// A rule that some packets meet.
    fn lint_open(&self, index: usize, work: &mut Work, report: &mut Report<'_>) {
        let rule = &self.policy.rules[index];
        if !lasts(self.policy, index) {
            return;
        }
        if let Some(below) = self.same_below(index, work) {
            let what = match below {
                Below::Rule(below) => {
                    let below = &self.policy.rules[below];
                    format!("{} below it does", report.named(&below.name, below.place))
                }
                Below::Default => "the default does".to_owned(),
            };
            let message = format!(
                "the rule `{}` changes nothing: without it {what} the same with all of its packets",
                rule.name
            );
            report.rule(Lint::RedundantRule, (rule.place, &rule.meta), message, "remove it");
        } else if report.wants(Lint::ConflictingRules)
            && let Some(above) = self.conflict(index, work)
        {
            let above = &self.policy.rules[above];
            let message = format!(
                "the rule `{}` and {} above it match the same packets in part and disagree",
                rule.name,
                report.named(&above.name, above.place)
            );
            let help = format!("`{}` decides those: is that the order that you mean?", above.name);
            report.rule(Lint::ConflictingRules, (rule.place, &rule.meta), message, help);
        }
    }

    /// Who decides the same of all packets of a rule that is taken out.
    fn same_below(&self, index: usize, work: &mut Work) -> Option<Below> {
        let (wanted, effect) = (&self.ground.rules[index], self.effects[index]);
        let same = |below: usize| {
            below > index && self.effects[below] == effect && lasts(self.policy, below)
        };
        let below = self.ground.including(wanted, same, work);
        let end = below.first().copied().unwrap_or(self.effects.len());
        if below.is_empty() && (effect != self.default || is_catch_all(&self.policy.rules[index])) {
            return None;
        }
        if self.meets_other(index, end, work) {
            return None;
        }
        Some(below.first().map_or(Below::Default, |below| Below::Rule(*below)))
    }

    /// Whether a rule with another effect stands between the rule and `end` and meets its packets.
    fn meets_other(&self, index: usize, end: usize, work: &mut Work) -> bool {
        let wanted = &self.ground.rules[index];
        let effect = self.effects[index];
        let found = self.first_near(index, index + 1..end, work, |other| {
            (self.effects[other].is_none() || self.effects[other] != effect)
                && overlap(&self.ground.rules[other], wanted)
        });
        // Not known is not said.
        !matches!(found, Some(None))
    }

    /// The first rule above that disagrees on a part of the packets; neither holds the other.
    fn conflict(&self, index: usize, work: &mut Work) -> Option<usize> {
        let (rules, wanted) = (&self.ground.rules, &self.ground.rules[index]);
        let found = self.first_near(index, 0..index, work, |above| {
            let action = self.policy.rules[above].action;
            action.is_some()
                && action != self.policy.rules[index].action
                && overlap(&rules[above], wanted)
                && !includes(wanted, &rules[above])
        });
        if found.is_none() {
            work.unknown += 1;
        }
        found.flatten()
    }

    /// The first rule of a range for which `holds` holds, asked of those that may have a packet in
    /// common with the rule. `None` when the budget is spent.
    fn first_near(
        &self,
        index: usize,
        others: Range<usize>,
        work: &mut Work,
        holds: impl Fn(usize) -> bool,
    ) -> Option<Option<usize>> {
        for start in others.clone().step_by(HULLS_PER_STEP) {
            work.spend(1)?;
            let stretch = start..others.end.min(start + HULLS_PER_STEP);
            for other in self.hulls.near(index, stretch) {
                work.spend(1)?;
                if holds(other) {
                    return Some(Some(other));
                }
            }
        }
        Some(None)
    }
}

/// As many are compared as fast as two rules are.
const HULLS_PER_STEP: usize = 16;

enum Below {
    Rule(usize),
    Default,
}

/// "Everything else", written out: it may say what the default says.
fn is_catch_all(rule: &RulePolicy) -> bool {
    rule.source == Match::Any && rule.destination == Match::Any && rule.service == Match::Any
}

fn overlap(a: &Regions, b: &Regions) -> bool {
    Family::ALL.into_iter().any(|family| {
        let (a, b) = (&a[family as usize], &b[family as usize]);
        a.as_ref().zip(b.as_ref()).is_some_and(|(a, b)| a.overlaps(b))
    })
}

/// Whether `all` holds `part`.
fn includes(all: &Regions, part: &Regions) -> bool {
    Family::ALL.into_iter().all(|family| match (&all[family as usize], &part[family as usize]) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(all), Some(part)) => all.includes(part),
    })
}
