//! UDP questions, and much data: TCP and UDP streams.

use anyhow::{Context as _, Result, ensure};

use super::network::{CLIENT, PUBLISHED_V4, PUBLISHED_V6, WEB_1_V4, WEB_1_V6};
use super::{check, rule, succeed};
use crate::lab::scenario::{Check, Expect, Late};
use crate::lab::servers::SHOP;
use crate::lab::stage::Stage;

const SECTION: &str = "UDP, and much data";

/// What a TCP stream carries: enough for windows to open.
const STREAM_BYTES: u64 = 64 << 20;

/// Share of UDP datagrams that may be lost, in per cent: the machine's cores are shared.
const LOSS: f64 = 2.0;

pub(super) fn checks() -> Vec<Check> {
    vec![
        check(
            SECTION,
            ("dns-v4", "a DNS question", "dig"),
            Expect::Allowed,
            rule("dns-in"),
            |stage| dig(stage, WEB_1_V4, "A", PUBLISHED_V4),
        ),
        check(
            SECTION,
            ("dns-v6", "a DNS question over IPv6", "dig"),
            Expect::Allowed,
            rule("dns-in"),
            |stage| dig(stage, WEB_1_V6, "AAAA", PUBLISHED_V6),
        ),
        check(
            SECTION,
            ("stream-tcp-v4", "64 MiB over TCP", "iperf3"),
            Expect::Allowed,
            rule("bulk-in"),
            |stage| tcp(stage, WEB_1_V4, &[]),
        ),
        check(
            SECTION,
            ("stream-tcp-reverse-v4", "64 MiB over TCP towards the client", "iperf3"),
            Expect::Allowed,
            rule("bulk-in"),
            |stage| tcp(stage, WEB_1_V4, &["--reverse"]),
        ),
        check(
            SECTION,
            ("stream-tcp-v6", "64 MiB over TCP and IPv6", "iperf3"),
            Expect::Allowed,
            rule("bulk-in"),
            |stage| tcp(stage, WEB_1_V6, &[]),
        ),
        check(
            SECTION,
            ("stream-udp-v4", "50 Mbit/s over UDP for a second", "iperf3"),
            Expect::Allowed,
            rule("bulk-in"),
            |stage| udp(stage, WEB_1_V4),
        ),
    ]
}

fn dig(stage: &mut Stage, server: &str, kind: &str, answer: &str) -> Result<String> {
    let at = format!("@{server}");
    let program = ["dig", "+short", "+time=2", "+tries=1", &at, SHOP, kind];
    let finished = succeed(stage, CLIENT, &program, 5)?;
    let text = finished.stdout.trim();
    ensure!(text == answer, "the answer is `{text}`, not {answer}");
    Ok(format!("{SHOP} is {text}"))
}

fn tcp(stage: &mut Stage, server: &str, options: &[&str]) -> Result<String> {
    let bytes = STREAM_BYTES.to_string();
    let mut program = vec!["iperf3", "--json", "--client", server, "--bytes", &bytes];
    program.extend(options);
    let report = iperf(stage, &program)?;
    let sum = &report["end"]["sum_received"];
    let received = sum["bytes"].as_u64().context("iperf3 does not tell the bytes")?;
    // iperf3 stops the clock when all is sent: what both sockets' buffers hold is still on the way, 10 MiB by default.
    ensure!(received >= STREAM_BYTES * 3 / 4, "only {received} bytes came");
    let rate = sum["bits_per_second"].as_f64().context("iperf3 does not tell the rate")?;
    Ok(format!("{} MiB, {:.2} Gbit/s", received >> 20, rate / 1e9))
}

fn udp(stage: &mut Stage, server: &str) -> Result<String> {
    let program =
        ["iperf3", "--json", "--client", server, "--udp", "--bitrate", "50M", "--time", "1"];
    let report = iperf(stage, &program)?;
    let sum = &report["end"]["sum"];
    let packets = sum["packets"].as_u64().context("iperf3 does not tell the packets")?;
    let lost = sum["lost_percent"].as_f64().context("iperf3 does not tell the loss")?;
    ensure!(packets > 0 && lost < 100.0, "all of {packets} datagrams were lost");
    if lost > LOSS {
        return Err(Late(format!("{lost:.1} % of {packets} datagrams were lost")).into());
    }
    Ok(format!("{packets} datagrams, {lost:.1} % lost"))
}

fn iperf(stage: &Stage, program: &[&str]) -> Result<serde_json::Value> {
    let finished = stage.run(CLIENT, program, 20)?;
    let report: serde_json::Value = serde_json::from_str(&finished.stdout)
        .with_context(|| format!("iperf3 printed no report: {}", finished.stderr.trim()))?;
    if let Some(error) = report["error"].as_str() {
        anyhow::bail!("iperf3: {error}");
    }
    Ok(report)
}
