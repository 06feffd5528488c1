//! `flood`: what becomes of good clients while somebody floods the node with packets of one kind.

mod attack;
mod clients;
mod network;
mod trial;

use std::borrow::Cow;

use anyhow::{Context as _, Result, ensure};

use super::build::Lab;
use super::node::NodePlan;
use super::process::Running;
use super::scenario::{Because, Check, Expect, Scenario};
use super::servers::{WebServer, make_certificate};
use super::stage::Stage;
use attack::Kind;
pub(crate) use attack::Load;
use network::{CLIENT, NODE, WEB};

/// One node between good clients, an attacker and a web server.
pub(crate) const SCENARIO: Scenario = Scenario {
    name: "flood",
    title: "Gabion lab: floods, and what good clients notice of them",
    drawing: network::DRAWING,
    hints: &["ip netns exec NS-client curl http://10.1.0.10/"],
    programs: &["ip", "setpriv", "timeout", "nginx", "curl"],
    topology: network::topology,
    servers: start_servers,
    // A table that the floods can fill.
    node: NodePlan {
        host: NODE,
        interfaces: &[("ext", "eth1"), ("int", "eth2")],
        more: Cow::Borrowed("\n[limits]\nflows = 16384\n"),
    },
    policy: POLICY,
    checks,
};

const POLICY: &str = include_str!("policy.yaml");

fn start_servers(lab: &Lab) -> Result<Vec<Running>> {
    make_certificate(lab)?;
    let server = WebServer { host: WEB, large: 0 }.start(lab)?;
    // Every address of the newcomers' network is the client's own.
    let [high, low] = network::NEWCOMERS;
    let route = format!("{high}.{low}.0.0/16");
    let output = lab
        .namespace(CLIENT)
        .command(super::namespace::Lifetime::Bound, "ip")
        .args(["route", "add", "local", &route, "dev", "lo"])
        .output()
        .context("cannot run `ip`")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(vec![server])
}

const SECTION: &str = "Floods, good clients meanwhile, and an established connection";

/// Name, what is sent, and the drop reason that must be counted.
const FLOODS: [(&str, &str, Kind, Option<&str>); 11] = [
    ("none", "nothing: the control", Kind::Nothing, None),
    ("syn-random", "SYNs, invented sources", Kind::SynFromAnywhere, Some("syn-challenged")),
    ("syn-twice", "the same, each repeated", Kind::SynTwice, Some("syn-challenged")),
    ("syn-one", "SYNs from one source", Kind::SynFromOne, Some("source-quota")),
    ("syn-rst", "SYNs with RSTs, invented sources", Kind::SynAndRst, None),
    ("ack", "ACKs of no connection", Kind::AckFromAnywhere, Some("tcp-not-syn")),
    ("refused", "SYNs that a rule rejects", Kind::RefusedFromAnywhere, Some("rule-reject")),
    ("udp-random", "UDP, invented sources", Kind::UdpFromAnywhere, None),
    ("udp-one", "UDP from one source", Kind::UdpFromOne, Some("source-quota")),
    ("echo", "echo requests, invented sources", Kind::EchoFromAnywhere, None),
    ("fragments", "first fragments alone", Kind::FragmentsFromAnywhere, None),
];

fn checks() -> Vec<Check> {
    let floods = FLOODS.into_iter().zip(0..).map(|((name, tried, kind, reason), number)| Check {
        section: SECTION,
        name,
        tried,
        tool: "raw socket",
        expect: Expect::Node("endured"),
        because: Because { reason, ..Because::default() },
        act: Box::new(move |stage: &mut Stage| {
            if !stage.is_node_running() {
                stage.start_node()?;
                stage.push(POLICY)?;
            }
            trial::run(stage, kind, number)
        }),
    });
    floods.collect()
}
