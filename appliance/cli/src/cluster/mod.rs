//! `gabion cluster`, `gabion drain` and `gabion undrain`: a node among its peers.

mod drain;
mod json;
mod status;

use anyhow::Result;

pub(crate) use drain::{Drain, Undrain};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Cluster {
    Status(status::Status),
}

impl Cluster {
    /// # Errors
    /// If the node does not answer, or stands alone.
    pub(crate) fn run(&self) -> Result<()> {
        let Self::Status(status) = self;
        status.run()
    }
}
