//! `gabion rollback`: an earlier revision's text is committed again.

use anyhow::{Context as _, Result};
use gabion_api::v1::RollbackRequest;

use crate::connect::Connection;
use crate::present::{RevisionJson, print_json, say};
use crate::push::{committed, in_force, refused};

/// Commits an earlier revision's text again, as a new revision
///
/// JSON: {"number","in_force","digest","committed_at","author","comment","rules"}
#[derive(Debug, clap::Args)]
pub(crate) struct Rollback {
    /// Which revision; `gabion show revisions` lists them
    revision: u64,

    /// The revision that you have seen in force [default: the one in force]
    #[arg(long, value_name = "REVISION")]
    expect: Option<u64>,

    /// What the change is for
    #[arg(long, short = 'm', value_name = "TEXT", default_value = "")]
    comment: String,

    /// Prints JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: Connection,
}

impl Rollback {
    /// # Errors
    /// If there is no such revision, or another one is in force than expected.
    pub(crate) fn run(&self) -> Result<()> {
        let mut node = self.connection.open()?;
        let current = in_force(&mut node)?.and_then(|current| current.revision);
        let seen = current.map_or(0, |revision| revision.number);
        let expected_revision = self.expect.unwrap_or(seen);
        let comment = self.comment.clone();
        let request = RollbackRequest { revision: self.revision, expected_revision, comment };
        let response = match node.ask(async move |api| api.rollback(request).await) {
            Ok(response) => response,
            Err(status) => return Err(refused(&mut node, expected_revision, &status).into()),
        };
        let revision = response.revision.context("the node does not name the new revision")?;
        if self.json {
            print_json(&RevisionJson::from(revision))?;
        } else {
            say(committed(&revision, response.flows_at_commit))?;
        }
        Ok(())
    }
}
