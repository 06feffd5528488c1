//! `gabion cluster status`.

use anyhow::Result;
use gabion_api::v1::{ClusterMember, ClusterStatusRequest, ClusterStatusResponse};

use super::json::{ClusterJson, coverage, span};
use crate::connect::Connection;
use crate::present::{Grid, Paint, Tone, count, duration, print_json, right, say};

/// Shows the members as this node sees them: who lives, who has a session, how far sync is
///
/// JSON: {"cluster","node","address","state","incarnation","view":[..],"owned","closing","replicas","directed","covered",
/// "established","coverage","sync_mtu","warning","members":[{"node","address","presence","state","incarnation",
/// "silent_seconds","session":{"seconds","version","epoch"},"trouble","same_policy","revision","unacknowledged",
/// "lag_seconds","wrapped_out","wrapped_in","refused","datagrams_out","datagrams_in","machine","machine_trouble"}]}
#[derive(Debug, clap::Args)]
pub(crate) struct Status {
    /// Prints JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: Connection,
}

impl Status {
    pub(crate) fn run(&self) -> Result<()> {
        let mut node = self.connection.open()?;
        let status = node.call(async |api| api.cluster_status(ClusterStatusRequest {}).await)?;
        if self.json {
            print_json(&ClusterJson::from(&status))?;
        } else {
            show(&status)?;
        }
        Ok(())
    }
}

fn show(status: &ClusterStatusResponse) -> std::io::Result<()> {
    let paint = Paint::stdout();
    let ClusterStatusResponse { cluster, node, address, state, view, .. } = status;
    let state = paint.apply(tone_of_state(state), state);
    let numbers: Vec<String> = view.iter().map(ToString::to_string).collect();
    say(format_args!(
        "Node {node} of {cluster} ({address}) is {state}. It takes for alive: {}.",
        numbers.join(", ")
    ))?;
    say(format_args!(
        "It owns {} flows, keeps copies of {} and knows the owners of {}. Coverage: {:.1} % of {} established.",
        count(status.owned),
        count(status.replicas),
        count(status.directed),
        // Rounded down: 100 is all of them.
        (coverage(status) * 1_000.0).floor() / 10.0,
        count(status.established),
    ))?;
    if !status.warning.is_empty() {
        say(format_args!("{} {}", paint.apply(Tone::Warning, "warning:"), status.warning))?;
    }
    say("")?;
    say(members(status).text())?;
    for member in status.members.iter().filter(|member| !member.trouble.is_empty()) {
        let label = paint.apply(Tone::Bad, &format!("node {}:", member.node));
        say(format_args!("{label} {}", member.trouble))?;
    }
    for member in status.members.iter().filter(|member| !member.machine_trouble.is_empty()) {
        let label = paint.apply(Tone::Warning, &format!("node {}:", member.node));
        say(format_args!("{label} {}", member.machine_trouble))?;
    }
    Ok(())
}

fn members(status: &ClusterStatusResponse) -> Grid {
    let mut grid = Grid::new([
        right("node"),
        "address".into(),
        "is".into(),
        "machine".into(),
        "state".into(),
        "session".into(),
        right("version"),
        "policy".into(),
        right("lag"),
        right("unacked"),
        right("wrapped out"),
        right("in"),
        right("refused"),
    ]);
    for member in &status.members {
        let presence = if member.presence == "alive" { Tone::Good } else { Tone::Bad };
        // Nothing is known of the state of one that was never heard of.
        let state = if member.presence == "unknown" { "-" } else { member.state.as_str() };
        let refused = if member.refused > 0 { Tone::Warning } else { Tone::Plain };
        let session = member.session.as_ref();
        let age = session.and_then(|session| span(session.age)).map(duration);
        let (policy_tone, policy) = policy(member);
        grid.toned_row([
            (Tone::Strong, member.node.to_string()),
            (Tone::Plain, member.address.clone()),
            (presence, member.presence.clone()),
            (tone_of_machine(&member.machine), member.machine.clone()),
            (tone_of_state(state), state.to_owned()),
            (Tone::Plain, age.unwrap_or_else(|| "none".to_owned())),
            (Tone::Plain, session.map_or_else(dash, |session| session.version.to_string())),
            (policy_tone, policy.to_owned()),
            (Tone::Plain, span(member.lag).map_or_else(dash, duration)),
            (Tone::Plain, count(member.unacknowledged)),
            (Tone::Plain, count(member.wrapped_out)),
            (Tone::Plain, count(member.wrapped_in)),
            (refused, count(member.refused)),
        ]);
    }
    grid
}

fn policy(member: &ClusterMember) -> (Tone, &'static str) {
    match member.same_policy {
        Some(true) => (Tone::Good, "same"),
        Some(false) => (Tone::Warning, "differs"),
        None => (Tone::Plain, "-"),
    }
}

fn dash() -> String {
    "-".to_owned()
}

fn tone_of_machine(machine: &str) -> Tone {
    match machine {
        "alive" => Tone::Good,
        "cut off" => Tone::Warning,
        "gone" => Tone::Bad,
        _ => Tone::Plain,
    }
}

fn tone_of_state(state: &str) -> Tone {
    match state {
        "ready" => Tone::Good,
        "joining" | "draining" => Tone::Warning,
        _ => Tone::Plain,
    }
}
