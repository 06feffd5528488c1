//! The validated policy: every reference resolves, every value is in its range.

/// A policy that passed all checks.
#[derive(Debug)]
pub struct Policy {}

impl Policy {
    /// The canonical text: parsing it again gives the same policy. Comments are not kept.
    pub fn print(&self) -> String {
        unimplemented!()
    }
}
