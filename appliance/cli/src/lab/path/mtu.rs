//! Path MTU discovery: a smaller link behind the node, and the node's own.

use anyhow::{Context as _, Result, ensure};

use super::network::{
    CLIENT, CLIENT_V4, CLIENT_V6, ISP, MTU, NODE, PUBLISHED_V4, WEB_1, WEB_1_V6, WEB_2,
};
use super::{Because, Family, LARGE, check, fetch, reason, rule, succeed};
use crate::lab::scenario::{Check, Expect};
use crate::lab::stage::Stage;

const SECTION: &str = "Smaller links on the way";

/// Between the isp and the client: the isp's own ICMP error has to get through the node.
const BEHIND: u16 = 1300;
/// Between the node and the isp: the node has to say it.
const OWN: u16 = 1400;

pub(super) fn checks() -> Vec<Check> {
    let own = || Because { reason: Some("too-big"), ..rule("web-in") };
    vec![
        check(
            SECTION,
            ("mtu-behind-v4", "1300 behind the isp, through DNAT", "curl"),
            Expect::Allowed,
            rule("web-in"),
            |stage| behind(stage, Family::V4),
        ),
        check(
            SECTION,
            ("mtu-behind-v6", "1300 behind the isp, over IPv6", "curl"),
            Expect::Allowed,
            rule("web-in"),
            |stage| behind(stage, Family::V6),
        ),
        check(
            SECTION,
            ("mtu-own-v4", "1400 on the node's own link", "curl"),
            Expect::Allowed,
            own(),
            |stage| own_link(stage, Family::V4),
        ),
        check(
            SECTION,
            ("mtu-own-v6", "1400 on the node's own link, over IPv6", "curl"),
            Expect::Allowed,
            own(),
            |stage| own_link(stage, Family::V6),
        ),
        check(
            SECTION,
            ("mtu-ping-df", "1500 bytes that must not be fragmented", "ping"),
            Expect::Rejected,
            reason("too-big"),
            ping_too_big,
        ),
    ]
}

fn behind(stage: &mut Stage, family: Family) -> Result<String> {
    narrowed(stage, &[(ISP, "client")], BEHIND, |stage| transfer(stage, family, BEHIND))
}

fn own_link(stage: &mut Stage, family: Family) -> Result<String> {
    narrowed(stage, &[(ISP, "node"), (NODE, "eth1")], OWN, |stage| transfer(stage, family, OWN))
}

/// Downloads to the client, and asks the servers which path MTU they have learnt.
fn transfer(stage: &mut Stage, family: Family, mtu: u16) -> Result<String> {
    let url = match family {
        Family::V4 => format!("http://{PUBLISHED_V4}/large"),
        Family::V6 => format!("http://[{WEB_1_V6}]/large"),
    };
    let options = ["--output", "/dev/null", "--write-out", "%{size_download}"];
    let size = fetch(stage, CLIENT, &url, &options)?;
    ensure!(size == LARGE.to_string(), "{size} of {LARGE} bytes came");
    let (client, servers): (_, &[&str]) = match family {
        Family::V4 => (CLIENT_V4, &[WEB_1, WEB_2]),
        Family::V6 => (CLIENT_V6, &[WEB_1]),
    };
    let learnt = format!("mtu {mtu}");
    for server in servers {
        let route = succeed(stage, server, &["ip", "route", "get", client], 2)?;
        if route.stdout.contains(&learnt) {
            return Ok(format!("16 MiB, {server} has learnt {learnt}"));
        }
    }
    anyhow::bail!("16 MiB came, but no server has learnt {learnt}")
}

fn ping_too_big(stage: &mut Stage) -> Result<String> {
    narrowed(stage, &[(NODE, "eth2"), (super::network::LAN, "node")], OWN, |stage| {
        let program = [
            "ping",
            "-n",
            "-c",
            "1",
            "-W",
            "2",
            "-M",
            "do",
            "-s",
            "1472",
            super::network::WEB_1_V4,
        ];
        let finished = stage.run(CLIENT, &program, 4)?;
        let line = finished
            .stdout
            .lines()
            .chain(finished.stderr.lines())
            .find(|line| line.contains("mtu"))
            .with_context(|| format!("ping hears of no MTU: {}", finished.stdout.trim()))?;
        ensure!(line.contains(&OWN.to_string()), "{line}");
        Ok(line.trim().to_owned())
    })
}

/// Does `work` with smaller MTUs and puts everything back, what the hosts have learnt as well.
fn narrowed(
    stage: &mut Stage,
    devices: &[(&str, &str)],
    mtu: u16,
    work: impl FnOnce(&mut Stage) -> Result<String>,
) -> Result<String> {
    let set = |stage: &Stage, mtu: u16| -> Result<()> {
        for (host, device) in devices {
            succeed(stage, host, &["ip", "link", "set", device, "mtu", &mtu.to_string()], 2)?;
        }
        Ok(())
    };
    set(stage, mtu)?;
    let outcome = work(stage);
    set(stage, MTU)?;
    for host in [CLIENT, WEB_1, WEB_2] {
        succeed(stage, host, &["ip", "route", "flush", "cache"], 2)?;
        succeed(stage, host, &["ip", "-6", "route", "flush", "cache"], 2)?;
    }
    outcome
}
