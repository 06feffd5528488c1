//! `gabion show`: what a node has and does, as tables or JSON.

mod counters;
mod flows;
mod health;
mod policy;
mod revisions;

use anyhow::Result;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Show {
    Policy(policy::Policy),
    Revisions(revisions::Revisions),
    Flows(flows::Flows),
    Counters(counters::Counters),
    Health(health::Health),
}

impl Show {
    /// # Errors
    /// If the node does not answer, or refuses.
    pub(crate) fn run(&self) -> Result<()> {
        match self {
            Self::Policy(policy) => policy.run(),
            Self::Revisions(revisions) => revisions.run(),
            Self::Flows(flows) => flows.run(),
            Self::Counters(counters) => counters.run(),
            Self::Health(health) => health.run(),
        }
    }
}
