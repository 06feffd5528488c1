//! `gabion drain` and `gabion undrain`.

use std::time::{Duration, Instant};

use anyhow::Result;
use gabion_api::v1::{ClusterStatusRequest, ClusterStatusResponse, SetDrainingRequest};
use indicatif::{ProgressBar, ProgressStyle};

use super::json::ClusterJson;
use crate::connect::{Connection, Node};
use crate::failure::Failure;
use crate::present::{count, print_json, say};

/// How often it is asked how far the node is.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// Has a node hand its flows over to the others, and its probes answer 503
///
/// It forwards packets of the flows that it had until it is stopped. Exit status 0 when it has begun, with --wait when
/// nothing is left. JSON: as `gabion cluster status`.
#[derive(Debug, clap::Args)]
pub(crate) struct Drain {
    /// Waits until the node owns no flow any more
    #[arg(long)]
    wait: bool,

    /// How long to wait, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60, requires = "wait")]
    timeout: u64,

    /// Prints JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: Connection,
}

/// Has a node that drains, or has drained, take flows again
///
/// JSON: as `gabion cluster status`.
#[derive(Debug, clap::Args)]
pub(crate) struct Undrain {
    /// Prints JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: Connection,
}

impl Drain {
    /// # Errors
    /// If the node does not answer or stands alone, or has flows left when the time is over.
    pub(crate) fn run(&self) -> Result<()> {
        let mut node = self.connection.open()?;
        let mut status = set(&mut node, true)?;
        if self.wait {
            status = self.until_empty(&mut node, status)?;
        }
        if self.json {
            print_json(&ClusterJson::from(&status))?;
        } else if status.owned == 0 {
            say(format_args!("Node {} owns no flow: it may be stopped.", status.node))?;
        } else {
            say(format_args!(
                "Node {} hands {} flows over: gabion cluster status, or gabion drain --wait",
                status.node,
                count(status.owned)
            ))?;
        }
        Ok(())
    }

    fn until_empty(
        &self,
        node: &mut Node,
        mut status: ClusterStatusResponse,
    ) -> Result<ClusterStatusResponse> {
        let (begun, limit) = (Instant::now(), Duration::from_secs(self.timeout));
        let style = ProgressStyle::with_template("{bar:40} {pos} of {len} flows handed over")?;
        // Drawn on a terminal only.
        let bar = ProgressBar::new(status.owned).with_style(style);
        while status.owned > 0 {
            if status.state != "draining" {
                bar.abandon();
                let what = format!("node {} no longer drains: it is {}", status.node, status.state);
                return Err(Failure::new(what).next("gabion drain --wait").into());
            }
            if begun.elapsed() >= limit {
                bar.abandon();
                let what = format!(
                    "node {} still owns {} flows after {} s",
                    status.node, status.owned, self.timeout
                );
                return Err(Failure::new(what)
                    .next("do the others live? gabion cluster status")
                    .next("flows of the node's own addresses can not go: gabion show flows")
                    .into());
            }
            std::thread::sleep(ASK_EVERY);
            status = node.call(async |api| api.cluster_status(ClusterStatusRequest {}).await)?;
            bar.set_length(bar.length().unwrap_or(0).max(status.owned));
            bar.set_position(bar.length().unwrap_or(0) - status.owned);
        }
        bar.finish_and_clear();
        Ok(status)
    }
}

impl Undrain {
    /// # Errors
    /// If the node does not answer or stands alone.
    pub(crate) fn run(&self) -> Result<()> {
        let mut node = self.connection.open()?;
        let status = set(&mut node, false)?;
        if self.json {
            print_json(&ClusterJson::from(&status))?;
        } else {
            say(format_args!("Node {} takes flows again: it is {}.", status.node, status.state))?;
        }
        Ok(())
    }
}

fn set(node: &mut Node, draining: bool) -> Result<ClusterStatusResponse> {
    Ok(node.call(async |api| api.set_draining(SetDrainingRequest { draining }).await)?)
}
