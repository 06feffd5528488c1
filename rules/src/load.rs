//! The way from text to a rule set in force: the one entry that the node and the tool call.

use std::sync::Arc;

use crate::{Diagnostic, Diagnostics, Policy, RuleSet, TestOutcome};

/// A policy that passed all checks and its own tests.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub policy: Arc<Policy>,
    pub rule_set: Arc<RuleSet>,
    pub warnings: Vec<Diagnostic>,
    /// The embedded tests in their order; all passed.
    pub tests: Vec<TestOutcome>,
}

/// Reads, checks, compiles and tests a policy. `file_name` is what diagnostics call it.
///
/// `today` is for `meta.expires` alone: a rule whose day has passed is left out of the rule set,
/// with a warning that names it. Without a date no rule expires. The embedded tests are run as if
/// no rule had expired, so that a policy that was good once can always be loaded again.
///
/// # Errors
///
/// Every problem of the text, in its order.
pub fn load(
    _file_name: &str,
    _text: &str,
    _today: Option<time::Date>,
) -> Result<Loaded, Diagnostics> {
    unimplemented!()
}
