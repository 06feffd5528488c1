//! The way from text to a rule set: the one entry that the node and the tool call.

use std::sync::Arc;

use time::Date;

use crate::compile::compile;
use crate::diagnostic::{Problems, Source, Span};
use crate::limits::{POLICY_BYTES, YAML_NODES};
use crate::policy::Meta;
use crate::{
    Diagnostic, Diagnostics, Lint, LintGroup, Policy, RuleSet, TestOutcome, check, document, lint,
    yaml,
};

/// A policy that passed all checks and its own tests.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub policy: Arc<Policy>,
    pub rule_set: Arc<RuleSet>,
    pub warnings: Vec<Diagnostic>,
    /// The embedded tests in their order; all passed.
    pub tests: Vec<TestOutcome>,
}

/// Why a policy was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub diagnostics: Diagnostics,
    /// The embedded tests in their order; empty where it did not come to them.
    pub tests: Vec<TestOutcome>,
}

/// Reads, checks, compiles and tests a policy. `file_name` is what diagnostics call it.
///
/// `today` is for `meta.expires` alone: a rule whose day has passed is left out of the rule set,
/// with a warning that names it. Without a date no rule expires. The embedded tests are run as if
/// no rule had expired, so that a policy that was good once can always be loaded again; those that
/// an expired rule makes fail are warnings.
///
/// # Errors
///
/// Every problem of the text, in its order.
pub fn load(file_name: &str, text: &str, today: Option<Date>) -> Result<Loaded, Diagnostics> {
    load_and_test(file_name, text, today).map_err(|refused| refused.diagnostics)
}

/// As [`load`]; of a policy that its tests refuse, their outcomes too.
///
/// # Errors
///
/// As [`load`].
pub fn load_and_test(
    file_name: &str,
    text: &str,
    today: Option<Date>,
) -> Result<Loaded, Box<Refused>> {
    let source = Source::new(file_name, text);
    let mut problems = Problems::default();
    let mut tests = Vec::new();
    let loaded = load_with(&source, text, today, &mut problems, &mut tests);
    conclude(loaded, tests, problems, &source)
}

/// As [`load_and_test`]; what the lints of `group` find is among the warnings.
///
/// The lints of a hundred thousand rules take about two seconds: whoever waits for a policy to come
/// into force loads it, and asks [`Policy::lint`] afterwards.
///
/// # Errors
///
/// As [`load`].
pub fn load_and_lint(
    file_name: &str,
    text: &str,
    today: Option<Date>,
    group: LintGroup,
) -> Result<Loaded, Box<Refused>> {
    let source = Source::new(file_name, text);
    let mut problems = Problems::default();
    let mut tests = Vec::new();
    let loaded = load_with(&source, text, today, &mut problems, &mut tests);
    if let Some((policy, _)) = &loaded {
        lint::lint(policy, file_name, today, group, &mut problems);
    }
    conclude(loaded, tests, problems, &source)
}

impl Policy {
    /// What the lints of `group` find in a policy that was loaded from `text`, in the order of the text.
    pub fn lint(
        &self,
        file_name: &str,
        text: &str,
        today: Option<Date>,
        group: LintGroup,
    ) -> Vec<Diagnostic> {
        let mut problems = Problems::default();
        lint::lint(self, file_name, today, group, &mut problems);
        problems.into_diagnostics(&Source::new(file_name, text))
    }
}

fn conclude(
    loaded: Option<(Policy, RuleSet)>,
    tests: Vec<TestOutcome>,
    problems: Problems,
    source: &Source<'_>,
) -> Result<Loaded, Box<Refused>> {
    let is_refused = problems.any_errors();
    let diagnostics = problems.into_diagnostics(source);
    match loaded {
        Some((policy, rule_set)) if !is_refused => Ok(Loaded {
            policy: Arc::new(policy),
            rule_set: Arc::new(rule_set),
            warnings: diagnostics,
            tests,
        }),
        Some(_) | None => Err(Box::new(Refused { diagnostics: Diagnostics(diagnostics), tests })),
    }
}

fn load_with(
    source: &Source<'_>,
    text: &str,
    today: Option<Date>,
    problems: &mut Problems,
    tests: &mut Vec<TestOutcome>,
) -> Option<(Policy, RuleSet)> {
    let policy = parse(source, text, problems)?;
    let rule_set = compile_or_report(&policy, None, problems)?;
    *tests = policy.run_tests(&rule_set);
    report_failures(&policy, tests, problems);
    if problems.any_errors() {
        return None;
    }
    let has_expired = warn_of_expired(&policy, today, problems);
    if !has_expired {
        return Some((policy, rule_set));
    }
    let rule_set = compile_or_report(&policy, today, problems)?;
    warn_of_failures(&policy, &policy.run_tests(&rule_set), problems);
    Some((policy, rule_set))
}

fn parse(source: &Source<'_>, text: &str, problems: &mut Problems) -> Option<Policy> {
    if text.len() > POLICY_BYTES {
        problems.over(Span::default(), "bytes of policy", text.len(), POLICY_BYTES);
        return None;
    }
    let skeleton = yaml::Skeleton::new(text);
    let root = yaml::parse(text, skeleton.as_ref(), YAML_NODES, problems)?;
    let document = document::read_document(root, problems);
    check::check(document, source, problems)
}

fn compile_or_report(
    policy: &Policy,
    today: Option<Date>,
    problems: &mut Problems,
) -> Option<RuleSet> {
    let compiled = compile(policy, today);
    compiled.map_err(|error| problems.error(error.place().span, error.to_string())).ok()
}

fn report_failures(policy: &Policy, outcomes: &[TestOutcome], problems: &mut Problems) {
    for (test, outcome) in policy.tests.iter().zip(outcomes).filter(|(_, outcome)| !outcome.passed)
    {
        let TestOutcome { name, expected, actual, .. } = outcome;
        let message = format!("the test `{name}` fails: expected {expected}, got {actual}");
        let help = "`gabion explain` shows the stages that the packet passes";
        problems.error_with(test.place.span, message, help);
    }
}

fn warn_of_expired(policy: &Policy, today: Option<Date>, problems: &mut Problems) -> bool {
    let rules = policy.rules.iter().map(|rule| (&rule.name, &rule.meta, rule.place));
    let nat = policy.nat.iter().map(|rule| (&rule.name, &rule.meta, rule.place));
    let mut any = false;
    for (name, meta, place) in rules.chain(nat).filter(|(_, meta, _)| meta.has_expired(today)) {
        let day = meta.expires.map(|date| date.to_string()).unwrap_or_default();
        let message = format!("the rule `{name}` expired on {day} and is left out");
        if may_warn(policy, meta) {
            let help = "remove it, or set a later `expires`";
            problems.warn(Lint::ExpiredRule, place.span, message, help);
        }
        any = true;
    }
    any
}

fn may_warn(policy: &Policy, meta: &Meta) -> bool {
    let lint = Lint::ExpiredRule;
    !policy.allow_lints.contains(&lint) && !meta.allow_lints.contains(&lint)
}

fn warn_of_failures(policy: &Policy, outcomes: &[TestOutcome], problems: &mut Problems) {
    for (test, outcome) in policy.tests.iter().zip(outcomes).filter(|(_, outcome)| !outcome.passed)
    {
        let TestOutcome { name, expected, actual, .. } = outcome;
        let message = format!(
            "without the expired rules the test `{name}` fails: expected {expected}, got {actual}"
        );
        let help = "remove the test together with the rule";
        problems.warn(Lint::ExpiredRule, test.place.span, message, help);
    }
}
