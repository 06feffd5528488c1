//! A scenario is a network, its servers, a policy, and checks that are run one after the other.
//!
//! A check says what it expects the node to report (rule, reason, NAT rules) and does something
//! with a real program; `runner` compares the node's own counters before and after.

use anyhow::Result;

use super::build::Lab;
use super::node::NodePlan;
use super::process::Running;
use super::stage::Stage;
use super::topology::Topology;

/// What a lab is built from and what is checked in it.
#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// The picture of the network.
    pub(crate) drawing: &'static str,
    /// Commands to try in a lab that was left up; `NS-` stands for the namespaces' prefix.
    pub(crate) hints: &'static [&'static str],
    /// What has to be installed.
    pub(crate) programs: &'static [&'static str],
    pub(crate) topology: fn() -> Topology,
    pub(crate) servers: fn(&Lab) -> Result<Vec<Running>>,
    pub(crate) node: NodePlan,
    pub(crate) policy: &'static str,
    pub(crate) checks: fn() -> Vec<Check>,
}

/// One thing that is tried.
pub(crate) struct Check {
    pub(crate) section: &'static str,
    pub(crate) name: &'static str,
    /// What is tried, for the report.
    pub(crate) tried: &'static str,
    /// The real program that tries it.
    pub(crate) tool: &'static str,
    pub(crate) expect: Expect,
    pub(crate) because: Because,
    /// Returns what was seen, in a few words; an error is a check that failed.
    pub(crate) act: Act,
}

/// What a check does.
pub(crate) type Act = Box<dyn Fn(&mut Stage) -> Result<String>>;

/// What is to become of the packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expect {
    Allowed,
    Rejected,
    Dropped,
    /// A request to the node, or what the node itself does.
    Node(&'static str),
}

impl Expect {
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Rejected => "rejected",
            Self::Dropped => "dropped",
            Self::Node(label) => label,
        }
    }
}

/// What the node must say about it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Because {
    /// A rule whose hits must rise.
    pub(crate) rule: Option<&'static str>,
    /// A drop reason whose counter must rise.
    pub(crate) reason: Option<&'static str>,
    /// NAT rules that a flow of `rule` must name.
    pub(crate) nat: &'static [&'static str],
}

/// A number that a check has measured, for the table at the end and for the JSON.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    pub(crate) column: &'static str,
    pub(crate) text: String,
    pub(crate) value: serde_json::Value,
}

/// The error of a check in which nothing was wrong but what a busy machine explains: it took longer than promised, or
/// more was lost. The scenario fails with it, tests do not.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Late(pub(crate) String);

/// How a check ended.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) passed: bool,
    /// Failed with [`Late`].
    pub(crate) late: bool,
    pub(crate) seen: String,
    /// Rule, reason and translation as the node reports them.
    pub(crate) why: Vec<String>,
}

impl Outcome {
    pub(super) fn not_tried() -> Self {
        let seen = "not tried: no node is running".to_owned();
        Self { passed: false, late: false, seen, why: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use crate::lab::SCENARIOS;

    #[test]
    fn the_policies_are_valid_and_name_what_the_checks_expect() {
        for scenario in SCENARIOS {
            let loaded = gabion_rules::load(scenario.name, scenario.policy, None)
                .unwrap_or_else(|problems| panic!("{problems}"));
            let rules: BTreeSet<_> =
                loaded.rule_set.rules().iter().map(|rule| rule.name.as_str()).collect();
            let nat: BTreeSet<_> =
                loaded.rule_set.nat_rules().iter().map(gabion_rules::NatRule::name).collect();
            for check in (scenario.checks)() {
                if let Some(rule) = check.because.rule {
                    assert!(rules.contains(rule), "{}: no rule {rule}", check.name);
                }
                for name in check.because.nat {
                    assert!(nat.contains(name), "{}: no NAT rule {name}", check.name);
                }
            }
        }
    }

    #[test]
    fn check_names_are_unique_and_descriptions_fit_their_column() {
        for scenario in SCENARIOS {
            let mut names = BTreeSet::new();
            for check in (scenario.checks)() {
                assert!(names.insert(check.name), "{} twice", check.name);
                let fits = check.tried.chars().count() < crate::lab::progress::TRIED;
                assert!(fits, "{} is too long", check.tried);
                let expected = check.expect.label();
                assert!(expected.len() < crate::lab::progress::EXPECT, "{expected} is too long");
            }
        }
    }
}
