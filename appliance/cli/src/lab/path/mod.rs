//! `path`: the way of packets through one node, tried with real programs over IPv4 and IPv6.

mod network;

mod bulk;
mod closed;
mod control;
mod icmp;
mod life;
mod mtu;
mod refused;
mod steady;
mod web;

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::build::Lab;
use super::node::NodePlan;
use super::process::{Finished, Running};
use super::scenario::{Act, Because, Check, Expect, Late, Scenario};
use super::servers::{WebServer, make_certificate, start_dns, start_iperf};
use super::stage::Stage;
use network::{NODE, PUBLISHED_V4, PUBLISHED_V6, REMOTE, WEB_1, WEB_2};

/// One node between the internet and two web servers.
pub(crate) const SCENARIO: Scenario = Scenario {
    name: "path",
    title: "Gabion lab: one node, real packets",
    drawing: network::DRAWING,
    hints: &[
        "ip netns exec NS-client curl http://203.0.113.7/",
        "ip netns exec NS-client ping 10.1.0.10",
        "ip netns exec NS-client traceroute -n 2600:2:0:1::10",
        "ip netns exec NS-web-1 curl http://192.0.2.80/",
    ],
    programs: &[
        "ip",
        "setpriv",
        "timeout",
        "nginx",
        "dnsmasq",
        "iperf3",
        "curl",
        "dig",
        "ping",
        "traceroute",
    ],
    topology: network::topology,
    servers: start_servers,
    node: NodePlan {
        host: NODE,
        interfaces: &[("ext", "eth1"), ("int", "eth2")],
        more: Cow::Borrowed(""),
    },
    policy: POLICY,
    checks,
};

const POLICY: &str = include_str!("policy.yaml");

/// Bytes of the file that web servers offer: larger than any socket buffer on the way.
const LARGE: usize = 16 << 20;

const WEB_SERVERS: [WebServer; 3] = [
    WebServer { host: WEB_1, large: LARGE },
    WebServer { host: WEB_2, large: LARGE },
    WebServer { host: REMOTE, large: 0 },
];

fn start_servers(lab: &Lab) -> Result<Vec<Running>> {
    make_certificate(lab)?;
    let mut servers = Vec::new();
    for server in WEB_SERVERS {
        servers.push(server.start(lab)?);
    }
    let answer = [PUBLISHED_V4, PUBLISHED_V6]
        .map(|address| address.parse::<IpAddr>().expect("the plan's addresses are literals"));
    servers.push(start_dns(lab, WEB_1, answer)?);
    servers.push(start_iperf(lab, WEB_1)?);
    Ok(servers)
}

/// In the order in which they are run: the node starts in the first group and ends in the last.
fn checks() -> Vec<Check> {
    let groups = [
        life::beginning(),
        web::checks(),
        refused::checks(),
        icmp::checks(),
        bulk::checks(),
        mtu::checks(),
        control::checks(),
        closed::checks(),
        life::end(),
    ];
    groups.into_iter().flatten().collect()
}

/// An address family, where a check is made for both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

/// What a check tries: name, description and program.
type Trial = (&'static str, &'static str, &'static str);

fn check(
    section: &'static str,
    (name, tried, tool): Trial,
    expect: Expect,
    because: Because,
    act: impl Fn(&mut Stage) -> Result<String> + 'static,
) -> Check {
    let act: Act = Box::new(act);
    Check { section, name, tried, tool, expect, because, act }
}

/// The node must count a hit of this rule.
fn rule(name: &'static str) -> Because {
    Because { rule: Some(name), ..Because::default() }
}

/// The node must count a hit of this rule, and a flow of it translated by these NAT rules.
fn translated(name: &'static str, nat: &'static [&'static str]) -> Because {
    Because { rule: Some(name), nat, ..Because::default() }
}

/// The node must count this drop reason.
fn reason(label: &'static str) -> Because {
    Because { reason: Some(label), ..Because::default() }
}

/// The node must count a hit of this rule and this drop reason.
fn refusal(name: &'static str, label: &'static str) -> Because {
    Because { rule: Some(name), reason: Some(label), ..Because::default() }
}

fn nothing() -> Because {
    Because::default()
}

/// Runs a program that must succeed.
fn succeed(stage: &Stage, host: &str, program: &[&str], seconds: u64) -> Result<Finished> {
    let finished = stage.run(host, program, seconds)?;
    match finished.code {
        Some(0) => Ok(finished),
        Some(code) => {
            anyhow::bail!("{} ended with {code}: {}", finished.line, last_line(&finished))
        }
        None => anyhow::bail!("{} took more than {seconds} s", finished.line),
    }
}

/// What took longer than it should is late.
fn in_time(took: Duration, limit: Duration) -> Result<()> {
    if took < limit {
        return Ok(());
    }
    Err(Late(format!("only after {} ms", took.as_millis())).into())
}

fn last_line(finished: &Finished) -> &str {
    let text = if finished.stderr.trim().is_empty() { &finished.stdout } else { &finished.stderr };
    text.trim().lines().last().unwrap_or("it printed nothing")
}

/// Fetches a page with curl and returns its text.
fn fetch(stage: &Stage, host: &str, url: &str, options: &[&str]) -> Result<String> {
    let mut program = vec!["curl", "--silent", "--show-error", "--max-time", "5"];
    program.extend(options);
    program.push(url);
    Ok(succeed(stage, host, &program, 7)?.stdout.trim().to_owned())
}

/// What a web server said about its client: `web-1 sees 10.1.0.1 port 2481`.
struct Seen {
    server: String,
    address: String,
    port: u16,
}

impl Seen {
    fn parse(page: &str) -> Result<Self> {
        let words: Vec<_> = page.split_whitespace().collect();
        let &[server, "sees", address, "port", port] = words.as_slice() else {
            anyhow::bail!("the web server's page reads `{page}`");
        };
        Ok(Self { server: server.to_owned(), address: address.to_owned(), port: port.parse()? })
    }

    fn must_be_from(&self, address: &str) -> Result<()> {
        ensure!(
            self.address == address,
            "{} sees the client as {}, not as {address}",
            self.server,
            self.address
        );
        Ok(())
    }
}
