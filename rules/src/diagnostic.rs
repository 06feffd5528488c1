//! What is wrong with a policy, where it is, and what to do about it.

use std::fmt;
use std::sync::Arc;

/// How bad a [`Diagnostic`] is: an error refuses the policy, a warning does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Severity {
    Error,
    Warning,
}

/// One problem of a policy. Its `Display` is `file:line:column: text`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    /// What is wrong, with the value and, where there is one, the limit.
    pub message: String,
    /// What to do about it; may be empty.
    pub help: String,
    /// The name under which the text was loaded.
    pub file: Arc<str>,
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
    /// Bytes that are meant, from (line, column); 0 where a place and no text is meant.
    pub length: u32,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)
    }
}

/// Why a policy was refused: all of its problems in the order of the text, at least one an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    /// The problem to show where there is room for one: the first error.
    pub fn first(&self) -> Option<&Diagnostic> {
        self.0.iter().find(|d| d.severity == Severity::Error).or(self.0.first())
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.0.iter()
    }
}

/// One problem a line.
impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{diagnostic}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}
