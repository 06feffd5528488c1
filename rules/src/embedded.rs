//! The tests that a policy carries.

/// How an embedded test ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestOutcome {
    pub name: String,
    pub passed: bool,
    /// As in `allow by web-in`.
    pub expected: String,
    pub actual: String,
    /// Where the test stands in the policy text, from 1.
    pub line: u32,
}
