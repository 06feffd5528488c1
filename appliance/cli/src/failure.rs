//! An error as an operator needs it: what went wrong, and what to do next.

use std::fmt;

use serde::Serialize;

/// Something that stopped a command. The exit status is 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Failure {
    #[serde(rename = "error")]
    pub(crate) what: String,
    /// One step a line.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) next: Vec<String>,
    /// The output says it all already: nothing more is printed.
    #[serde(skip)]
    pub(crate) silent: bool,
}

impl Failure {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), next: Vec::new(), silent: false }
    }

    /// For a command whose output has shown what failed.
    pub(crate) fn shown() -> Self {
        Self { what: String::new(), next: Vec::new(), silent: true }
    }

    /// Adds a step that the operator can take.
    pub(crate) fn next(mut self, step: impl Into<String>) -> Self {
        self.next.push(step.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        for (index, step) in self.next.iter().enumerate() {
            let label = if index == 0 { "next:" } else { "     " };
            write!(f, "\n {label} {step}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}
