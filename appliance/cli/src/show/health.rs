//! `gabion show health`.

use std::time::Duration;

use anyhow::Result;
use gabion_api::v1::StatusRequest;
use serde::Serialize;

use crate::connect::Connection;
use crate::failure::Failure;
use crate::present::{Paint, Tone, duration, print_json, say};

/// Shows whether the node is ready and, if not, why
///
/// Exit status 0 if it is ready, 1 if not.
/// JSON: {"node","ready","reasons","version","revision","uptime_seconds",
/// "limits_reached","hold","planned"}
#[derive(Debug, clap::Args)]
pub(crate) struct Health {
    /// Prints JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Serialize)]
struct HealthJson {
    node: String,
    ready: bool,
    reasons: Vec<String>,
    version: String,
    revision: u64,
    uptime_seconds: f64,
    limits_reached: Vec<String>,
    /// Why the node is held; empty when it is not.
    hold: String,
    planned: Vec<String>,
}

impl Health {
    pub(crate) fn run(&self) -> Result<()> {
        let mut node = self.connection.open()?;
        let status = node.call(async |api| api.status(StatusRequest {}).await)?;
        let uptime: Duration =
            status.uptime.and_then(|uptime| uptime.try_into().ok()).unwrap_or_default();
        let health = HealthJson {
            node: status.node,
            ready: status.ready,
            reasons: status.reasons,
            version: status.version,
            revision: status.revision,
            uptime_seconds: uptime.as_secs_f64(),
            limits_reached: status.limits_reached,
            hold: status.hold,
            planned: status.planned,
        };
        if self.json {
            print_json(&health)?;
        } else {
            show(&health, uptime)?;
        }
        if health.ready { Ok(()) } else { Err(Failure::shown().into()) }
    }
}

fn show(health: &HealthJson, uptime: Duration) -> std::io::Result<()> {
    let paint = Paint::stdout();
    let HealthJson { node, version, revision, .. } = health;
    let (tone, state) = if health.ready { (Tone::Good, "ready") } else { (Tone::Bad, "not ready") };
    let policy = match revision {
        0 => "no policy".to_owned(),
        revision => format!("policy revision {revision}"),
    };
    let uptime = duration(uptime);
    let state = paint.apply(tone, state);
    say(format_args!("{node} is {state}: {policy}, up for {uptime}, version {version}"))?;
    for reason in &health.reasons {
        match reason.as_str() {
            "held" => say(format_args!("  held: {}", health.hold))?,
            reason => say(format_args!("  {reason}: {}", advice(reason)))?,
        }
    }
    for limit in &health.limits_reached {
        let degraded = paint.apply(Tone::Warning, "degraded");
        say(format_args!("  {degraded}: {limit} reached: gabion show counters"))?;
    }
    for planned in &health.planned {
        let word = paint.apply(Tone::Warning, "planned");
        say(format_args!("  {word}: {planned}"))?;
    }
    Ok(())
}

/// What a reason asks of the operator.
fn advice(reason: &str) -> &'static str {
    match reason {
        "no-policy" => "commit one: gabion push FILE",
        "guard-missing" => "is guard.program in gabiond.toml there? journalctl -u gabiond -n 50",
        "datapath-not-proved" => "are the devices under [interfaces] up? ip -br link",
        "worker-stalled" => "is the machine overloaded? gabion show counters; top",
        "syncing" => {
            "do the others live, and have they this node's sessions? gabion cluster status"
        }
        "draining" => {
            "its flows are handed over: gabion cluster status; gabion undrain takes it back"
        }
        "stopping" => "the node has been told to stop",
        _ => "journalctl -u gabiond -n 50",
    }
}
