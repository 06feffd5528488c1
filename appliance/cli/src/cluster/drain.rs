//! `gabion drain` and `gabion undrain`.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::Result;
use gabion_api::v1::{
    ClusterStatusRequest, ClusterStatusResponse, Endpoint, Flow, ListFlowsRequest,
    SetDrainingRequest,
};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::json::ClusterJson;
use crate::connect::{Connection, Node};
use crate::failure::Failure;
use crate::present::{FlowJson, count, endpoint, print_json, say};

/// How many flows that are left are named, and how many are looked through.
const NAMED: usize = 5;
const LISTED: u64 = 10_000;
/// How often it is asked how far the node is.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// Has a node hand its flows over to the others, and its probes answer 503
///
/// It forwards packets of the flows that it had until it is stopped. Exit status 0 when it has begun, with --wait when
/// nothing is left. JSON: as `gabion cluster status`; with --wait also "left": the flows that could not go, as
/// `gabion show flows` has them.
#[derive(Debug, clap::Args)]
pub(crate) struct Drain {
    /// Waits until the node owns no flow any more that lives
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
        let status = set(&mut node, true)?;
        if self.wait {
            return self.until_empty(&mut node, status);
        }
        if self.json {
            return Ok(print_json(&ClusterJson::from(&status))?);
        }
        tell(&status)
    }

    fn until_empty(&self, node: &mut Node, mut status: ClusterStatusResponse) -> Result<()> {
        let (begun, limit) = (Instant::now(), Duration::from_secs(self.timeout));
        let style = ProgressStyle::with_template("{bar:40} {pos} of {len} flows handed over")?;
        // Drawn on a terminal only.
        let bar = ProgressBar::new(left(&status)).with_style(style);
        while left(&status) > 0 && begun.elapsed() < limit {
            if status.state != "draining" {
                bar.abandon();
                let what = format!("node {} no longer drains: it is {}", status.node, status.state);
                return Err(Failure::new(what).next("gabion drain --wait").into());
            }
            std::thread::sleep(ASK_EVERY);
            status = node.call(async |api| api.cluster_status(ClusterStatusRequest {}).await)?;
            bar.set_length(bar.length().unwrap_or(0).max(left(&status)));
            bar.set_position(bar.length().unwrap_or(0) - left(&status));
        }
        bar.finish_and_clear();
        let flows = if left(&status) > 0 { living(node)? } else { Vec::new() };
        if self.json {
            let (status, left) = (ClusterJson::from(&status), flows.iter().cloned());
            print_json(&DrainJson { status, left: left.map(FlowJson::from).collect() })?;
        }
        if left(&status) > 0 {
            return Err(self.too_long(&status, &flows).into());
        }
        if self.json { Ok(()) } else { tell(&status) }
    }

    fn too_long(&self, status: &ClusterStatusResponse, flows: &[Flow]) -> Failure {
        let shown: Vec<String> = flows.iter().take(NAMED).map(named).collect();
        let more = if flows.len() > NAMED { "; and more" } else { "" };
        Failure::new(format!(
            "node {} still owns {} flows after {} s: {}{more}",
            status.node,
            left(status),
            self.timeout,
            shown.join("; ")
        ))
        .next("do the others live? gabion cluster status")
        .next("flows of the node's own addresses can not go: they end when it is stopped")
    }
}

/// What is left, and the flows that could not go.
#[derive(Debug, Serialize)]
struct DrainJson {
    #[serde(flatten)]
    status: ClusterJson,
    left: Vec<FlowJson>,
}

/// Flows that still have to go: those that are over wait for late packets, and are nobody's loss.
const fn left(status: &ClusterStatusResponse) -> u64 {
    status.owned.saturating_sub(status.closing)
}

fn tell(status: &ClusterStatusResponse) -> Result<()> {
    if left(status) == 0 {
        say(format_args!("Node {} owns no flow that lives: it may be stopped.", status.node))?;
    } else {
        say(format_args!(
            "Node {} hands {} flows over: gabion cluster status, or gabion drain --wait",
            status.node,
            count(left(status))
        ))?;
    }
    Ok(())
}

/// The node's flows that are not over.
fn living(node: &mut Node) -> Result<Vec<Flow>> {
    let request = ListFlowsRequest { filter: None, limit: LISTED };
    let stream = node.call(async move |api| api.list_flows(request).await)?;
    let mut flows = Vec::new();
    node.read(stream, |flow: Flow| {
        if flow.state != "closed" {
            flows.push(flow);
        }
        ControlFlow::Continue(())
    })?;
    Ok(flows)
}

/// A flow in a few words.
fn named(flow: &Flow) -> String {
    let end = |end: &Option<Endpoint>| end.as_ref().map_or_else(|| "?".to_owned(), endpoint);
    let (from, to) = (end(&flow.source), end(&flow.destination));
    format!("{} {from} > {to} by {}", flow.protocol, flow.rule)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_is_not_waited_for() {
        let status = ClusterStatusResponse { owned: 5, closing: 5, ..Default::default() };
        assert_eq!(left(&status), 0);
        assert_eq!(left(&ClusterStatusResponse { owned: 6, ..status }), 1);
    }

    #[test]
    fn flows_that_cannot_go_are_named() {
        let end = |address: &str, port: u32| Some(Endpoint { address: address.to_owned(), port });
        let flow = Flow {
            protocol: "tcp".to_owned(),
            source: end("10.1.0.10", 40_000),
            destination: end("198.51.100.9", 443),
            rule: "out".to_owned(),
            ..Default::default()
        };
        assert_eq!(named(&flow), "tcp 10.1.0.10:40000 > 198.51.100.9:443 by out");
    }
}
