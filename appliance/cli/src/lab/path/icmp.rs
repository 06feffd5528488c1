//! ping, with fragments too, and traceroute.

use anyhow::{Context as _, Result, ensure};

use super::network::{CLIENT, NODE_EXT_V4, NODE_EXT_V6, WEB_1_V4, WEB_1_V6};
use super::{check, rule, succeed};
use crate::lab::scenario::{Check, Expect};
use crate::lab::stage::Stage;

const SECTION: &str = "ICMP";

/// Three fragments of an Ethernet link.
const LARGE: &str = "4000";

pub(super) fn checks() -> Vec<Check> {
    vec![
        check(
            SECTION,
            ("ping-v4", "ping web-1", "ping"),
            Expect::Allowed,
            rule("ping-in"),
            |stage| ping(stage, WEB_1_V4, "56"),
        ),
        check(
            SECTION,
            ("ping-v6", "ping web-1 over IPv6", "ping"),
            Expect::Allowed,
            rule("ping-in"),
            |stage| ping(stage, WEB_1_V6, "56"),
        ),
        check(
            SECTION,
            ("fragments-v4", "4000 bytes in fragments, both ways", "ping"),
            Expect::Allowed,
            rule("ping-in"),
            |stage| ping(stage, WEB_1_V4, LARGE),
        ),
        check(
            SECTION,
            ("fragments-v6", "the same over IPv6", "ping"),
            Expect::Allowed,
            rule("ping-in"),
            |stage| ping(stage, WEB_1_V6, LARGE),
        ),
        check(
            SECTION,
            ("traceroute-v4", "the node is a hop on the way to web-1", "traceroute"),
            Expect::Allowed,
            rule("traceroute-in"),
            |stage| traceroute(stage, WEB_1_V4, NODE_EXT_V4),
        ),
        check(
            SECTION,
            ("traceroute-v6", "the same over IPv6", "traceroute"),
            Expect::Allowed,
            rule("traceroute-in"),
            |stage| traceroute(stage, WEB_1_V6, NODE_EXT_V6),
        ),
    ]
}

fn ping(stage: &mut Stage, address: &str, size: &str) -> Result<String> {
    let program = ["ping", "-n", "-c", "3", "-i", "0.1", "-W", "2", "-s", size, address];
    let finished = succeed(stage, CLIENT, &program, 8)?;
    let received = finished.stdout.lines().find(|line| line.contains("received"));
    let received = received.context("ping prints no summary")?;
    ensure!(received.contains("3 received"), "{received}");
    let times = finished.stdout.lines().find_map(|line| line.strip_prefix("rtt "));
    let average = times.and_then(|line| line.split('/').nth(4)).unwrap_or("?");
    Ok(format!("3 of 3 answers, {average} ms"))
}

fn traceroute(stage: &mut Stage, address: &str, node: &str) -> Result<String> {
    let program = ["traceroute", "-n", "-q", "1", "-w", "2", "-m", "5", address];
    let finished = succeed(stage, CLIENT, &program, 15)?;
    // ` 2  203.0.113.1  0.512 ms`
    let hops: Vec<_> =
        finished.stdout.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).collect();
    let way = hops.join(" > ");
    ensure!(hops.get(1) == Some(&node), "the second hop is not {node}: {way}");
    ensure!(hops.last() == Some(&address), "the way does not end at {address}: {way}");
    Ok(way)
}
