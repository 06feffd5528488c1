//! `gabion show flows`.

use std::ops::ControlFlow;

use anyhow::Result;
use gabion_api::v1::{Endpoint, Flow, FlowFilter, ListFlowsRequest, Usage};

use crate::connect::Connection;
use crate::present::{FlowJson, Grid, bytes, duration, endpoint, print_json, right, say};

/// Lists live flows
///
/// JSON: [{"id","protocol","source":{"address","port"},"destination":{..},"translated":{"source",
/// "destination"},"from_zone","to_zone","rule","nat_rules","state","original":{"packets","bytes"},
/// "reply":{..},"age_seconds","expires_in_seconds"}]
#[derive(Debug, clap::Args)]
pub(crate) struct Flows {
    /// tcp, udp, icmp, icmpv6, or a protocol number
    #[arg(long, short = 'P', default_value = "", hide_default_value = true)]
    protocol: String,

    /// An address or a prefix, as either side sees it
    #[arg(long, short, value_name = "ADDRESS", default_value = "", hide_default_value = true)]
    source: String,

    /// An address or a prefix, as either side sees it
    #[arg(long, short, value_name = "ADDRESS", default_value = "", hide_default_value = true)]
    destination: String,

    /// The source's or the destination's
    #[arg(long, short)]
    port: Option<u16>,

    /// The rule that allowed it
    #[arg(long, short, default_value = "", hide_default_value = true)]
    rule: String,

    /// The zone of either side
    #[arg(long, short, default_value = "", hide_default_value = true)]
    zone: String,

    /// syn-sent, syn-received, established, closing, closed, unreplied or replied
    #[arg(long, default_value = "", hide_default_value = true)]
    state: String,

    /// At most so many; 0 means all
    #[arg(long, default_value_t = 1000)]
    limit: u64,

    /// Prints JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: Connection,
}

impl Flows {
    pub(crate) fn run(&self) -> Result<()> {
        let request = ListFlowsRequest { filter: Some(self.filter()), limit: self.limit };
        let mut node = self.connection.open()?;
        let stream = node.call(async move |api| api.list_flows(request).await)?;
        let mut flows = Vec::new();
        node.read(stream, |flow| {
            flows.push(flow);
            ControlFlow::Continue(())
        })?;
        if self.json {
            print_json(&flows.into_iter().map(FlowJson::from).collect::<Vec<_>>())?;
            return Ok(());
        }
        if flows.is_empty() {
            say("There is no such flow.")?;
            return Ok(());
        }
        say(table(&flows).text())?;
        let shown = u64::try_from(flows.len()).unwrap_or(u64::MAX);
        if self.limit > 0 && shown == self.limit {
            println!("\nThe first {shown}; for more: --limit 0");
        }
        Ok(())
    }

    fn filter(&self) -> FlowFilter {
        FlowFilter {
            protocol: self.protocol.clone(),
            source: self.source.clone(),
            destination: self.destination.clone(),
            port: self.port.map_or(0, u32::from),
            rule: self.rule.clone(),
            zone: self.zone.clone(),
            state: self.state.clone(),
        }
    }
}

fn table(flows: &[Flow]) -> Grid {
    let mut grid = Grid::new([
        "proto".into(),
        "source".into(),
        "destination".into(),
        "rule".into(),
        "state".into(),
        right("there"),
        right("back"),
        right("expires"),
    ]);
    for flow in flows {
        let (source, destination) = ends(flow);
        let rules = std::iter::once(&flow.rule).chain(&flow.nat_rules);
        grid.row([
            flow.protocol.clone(),
            source,
            destination,
            rules.cloned().collect::<Vec<_>>().join("\n"),
            flow.state.clone(),
            volume(flow.original.as_ref()),
            volume(flow.reply.as_ref()),
            expiry(flow),
        ]);
    }
    grid
}

/// Both ends; what NAT makes of each stands below it.
fn ends(flow: &Flow) -> (String, String) {
    let translated = flow.translated.clone().unwrap_or_default();
    (
        end(flow.source.as_ref(), translated.source.as_ref()),
        end(flow.destination.as_ref(), translated.destination.as_ref()),
    )
}

fn end(original: Option<&Endpoint>, translated: Option<&Endpoint>) -> String {
    let shown = original.map_or_else(|| "?".to_owned(), endpoint);
    match translated {
        Some(translated) if Some(translated) != original => {
            format!("{shown}\n> {}", endpoint(translated))
        }
        Some(_) | None => shown,
    }
}

fn volume(usage: Option<&Usage>) -> String {
    bytes(usage.map_or(0, |usage| usage.bytes))
}

fn expiry(flow: &Flow) -> String {
    let left: Option<std::time::Duration> = flow.expires_in.and_then(|left| left.try_into().ok());
    left.map_or_else(|| "-".to_owned(), duration)
}
