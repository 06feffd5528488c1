//! `gabion show revisions`.

use anyhow::Result;
use gabion_api::v1::ListRevisionsRequest;

use crate::connect::Connection;
use crate::present::{Grid, RevisionJson, Tone, print_json, right, say, time_text};

/// Lists the revisions that the node keeps, newest first
///
/// JSON: [{"number","in_force","digest","committed_at","author","comment","rules"}]
#[derive(Debug, clap::Args)]
pub(crate) struct Revisions {
    /// At most so many
    #[arg(long, default_value_t = 50)]
    limit: u32,

    /// Prints JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: Connection,
}

/// Digits of a digest that tell revisions apart.
const DIGEST: usize = 12;

impl Revisions {
    pub(crate) fn run(&self) -> Result<()> {
        let request = ListRevisionsRequest { limit: self.limit };
        let mut node = self.connection.open()?;
        let response = node.call(async move |api| api.list_revisions(request).await)?;
        if self.json {
            let revisions: Vec<RevisionJson> =
                response.revisions.into_iter().map(Into::into).collect();
            print_json(&revisions)?;
            return Ok(());
        }
        if response.revisions.is_empty() {
            say(format_args!("{} has no policy yet. Commit one: gabion push FILE", node.target()))?;
            return Ok(());
        }
        let mut grid = Grid::new([
            right("rev"),
            "".into(),
            "committed".into(),
            "author".into(),
            right("rules"),
            "digest".into(),
            "comment".into(),
        ]);
        for revision in response.revisions {
            let at = time_text(revision.committed_at.as_ref()).unwrap_or_default();
            let at = at.get(..19).unwrap_or(&at).replace('T', " ");
            grid.toned_row([
                (Tone::Plain, revision.number.to_string()),
                (Tone::Good, if revision.in_force { "in force" } else { "" }.to_owned()),
                (Tone::Plain, at),
                (Tone::Plain, revision.author),
                (Tone::Plain, revision.rules.to_string()),
                (Tone::Faint, revision.digest.chars().take(DIGEST).collect()),
                (Tone::Plain, revision.comment),
            ]);
        }
        say(grid.text())?;
        Ok(())
    }
}
