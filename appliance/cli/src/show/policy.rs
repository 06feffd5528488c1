//! `gabion show policy`.

use anyhow::Result;
use gabion_api::v1::GetRequest;
use serde::Serialize;

use crate::connect::Connection;
use crate::present::{RevisionJson, print_json, write_out};

/// Prints the policy in force, or an earlier one, as it was committed
///
/// JSON: {"revision":{..},"policy","canonical"}
#[derive(Debug, clap::Args)]
pub(crate) struct Policy {
    /// Which revision [default: the one in force]
    revision: Option<u64>,

    /// In the canonical form, as `gabion check --print` writes it
    #[arg(long)]
    canonical: bool,

    /// Prints JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Serialize)]
struct PolicyJson {
    revision: Option<RevisionJson>,
    policy: String,
    canonical: String,
}

impl Policy {
    pub(crate) fn run(&self) -> Result<()> {
        let request = GetRequest { revision: self.revision };
        let response = self.connection.open()?.call(async move |api| api.get(request).await)?;
        if self.json {
            print_json(&PolicyJson {
                revision: response.revision.map(Into::into),
                policy: response.policy,
                canonical: response.canonical,
            })?;
        } else {
            write_out(if self.canonical { response.canonical } else { response.policy })?;
        }
        Ok(())
    }
}
