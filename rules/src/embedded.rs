//! The tests that a policy carries.

use crate::policy::TestPolicy;
use crate::{Action, Explanation, Policy, RuleSet};

/// How an embedded test ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestOutcome {
    pub name: String,
    pub passed: bool,
    /// As in `allow by web-in`.
    pub expected: String,
    /// The same, or why the packet could not be followed.
    pub actual: String,
    /// Where the test stands in the policy text, from 1.
    pub line: u32,
}

impl Policy {
    /// Runs the embedded tests against a rule set that was compiled from this policy.
    ///
    /// Where destination NAT spreads connections over several targets, the expectation must hold for
    /// each of them.
    pub fn run_tests(&self, rule_set: &RuleSet) -> Vec<TestOutcome> {
        self.tests.iter().map(|test| run(test, rule_set)).collect()
    }
}

fn run(test: &TestPolicy, rule_set: &RuleSet) -> TestOutcome {
    let expected = sentence(test.expect, test.rule.as_deref(), test.nat.as_deref());
    let mut actual = String::new();
    let mut passed = true;
    for target in 0..rule_set.target_count(&test.packet) {
        let (holds, text) = match rule_set.explain_target(&test.packet, target) {
            Ok(explanation) => compare(test, &explanation, rule_set),
            Err(error) => (false, error.to_string()),
        };
        actual = text;
        if !holds {
            passed = false;
            break;
        }
    }
    TestOutcome { name: test.name.clone(), passed, expected, actual, line: test.place.line }
}

fn compare(test: &TestPolicy, explanation: &Explanation, rule_set: &RuleSet) -> (bool, String) {
    let rule = explanation.rule.and_then(|id| rule_set.rules().get(id.0 as usize));
    let rule = rule.map(|rule| rule.name.as_str());
    let nat = explanation.nat.iter().filter_map(|id| rule_set.nat_rules().get(usize::from(id.0)));
    let nat: Vec<String> = nat.map(|rule| rule.name().to_owned()).collect();
    let holds = explanation.action == test.expect
        && test.rule.as_deref().is_none_or(|expected| rule == Some(expected))
        && test.nat.as_ref().is_none_or(|expected| *expected == nat);
    let mut text = sentence(explanation.action, rule, test.nat.is_some().then_some(&*nat));
    if rule.is_none()
        && let Some(step) = explanation.steps.last()
    {
        text += &format!(" ({})", step.detail);
    }
    (holds, text)
}

/// As in `allow by web-in with NAT publish-web`.
fn sentence(action: Action, rule: Option<&str>, nat: Option<&[String]>) -> String {
    let by = rule.map(|rule| format!(" by {rule}")).unwrap_or_default();
    let with = match nat {
        None => String::new(),
        Some([]) => " without NAT".to_owned(),
        Some(names) => format!(" with NAT {}", names.join(", ")),
    };
    format!("{}{by}{with}", action.label())
}
