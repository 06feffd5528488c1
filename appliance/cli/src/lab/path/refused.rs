//! What rules refuse, loudly or silently, and what never gets as far as a rule.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::network::{CLIENT, NODE_EXT_V4, WEB_1_V4, WEB_1_V6};
use super::{check, in_time, last_line, reason, refusal, succeed};
use crate::lab::scenario::{Check, Expect};
use crate::lab::stage::Stage;

const SECTION: &str = "Refused";

/// A rejection spares its receiver the wait.
const AT_ONCE: Duration = Duration::from_millis(900);

/// An address of the spokes, used by somebody in the internet.
const SPOOFED: &str = "10.9.9.9";

pub(super) fn checks() -> Vec<Check> {
    let ssh = || refusal("no-partner-ssh", "rule-reject");
    let snmp = || refusal("no-snmp", "rule-reject");
    let unmatched = || refusal("default:internet->spokes", "rule-drop");
    vec![
        check(
            SECTION,
            ("reject-tcp-v4", "TCP to port 22: RST", "curl"),
            Expect::Rejected,
            ssh(),
            |stage| reset(stage, &format!("http://{WEB_1_V4}:22/")),
        ),
        check(
            SECTION,
            ("reject-tcp-v6", "TCP to port 22 over IPv6: RST", "curl"),
            Expect::Rejected,
            ssh(),
            |stage| reset(stage, &format!("http://[{WEB_1_V6}]:22/")),
        ),
        check(
            SECTION,
            ("reject-udp-v4", "UDP to port 161: ICMP 3/13", "dig"),
            Expect::Rejected,
            snmp(),
            // Linux shows code 13 to the sender as EHOSTUNREACH.
            |stage| prohibited(stage, WEB_1_V4, "host unreachable"),
        ),
        check(
            SECTION,
            ("reject-udp-v6", "UDP to port 161 over IPv6: ICMPv6 1/1", "dig"),
            Expect::Rejected,
            snmp(),
            // Linux shows code 1 to the sender as EACCES.
            |stage| prohibited(stage, WEB_1_V6, "permission denied"),
        ),
        check(
            SECTION,
            ("drop-tcp-v4", "TCP to port 8080, which listens: silence", "curl"),
            Expect::Dropped,
            unmatched(),
            |stage| silence(stage, &format!("http://{WEB_1_V4}:8080/"), &[]),
        ),
        check(
            SECTION,
            ("drop-tcp-v6", "TCP to port 8080 over IPv6: silence", "curl"),
            Expect::Dropped,
            unmatched(),
            |stage| silence(stage, &format!("http://[{WEB_1_V6}]:8080/"), &[]),
        ),
        check(
            SECTION,
            ("drop-to-node", "ping to the node itself: silence", "ping"),
            Expect::Dropped,
            reason("to-node"),
            node_is_silent,
        ),
        check(
            SECTION,
            ("drop-spoofed-source", "from the internet with an inside address", "curl"),
            Expect::Dropped,
            reason("spoofed-source"),
            spoofed,
        ),
    ]
}

/// curl must be refused, and quickly.
fn reset(stage: &mut Stage, url: &str) -> Result<String> {
    /// curl(1): failed to connect to host.
    const NOT_CONNECTED: i32 = 7;
    let program = ["curl", "--silent", "--show-error", "--max-time", "5", url];
    let finished = stage.run(CLIENT, &program, 7)?;
    ensure!(
        finished.code == Some(NOT_CONNECTED),
        "curl ended with {:?} after {} ms: {}",
        finished.code,
        finished.took.as_millis(),
        last_line(&finished)
    );
    in_time(finished.took, AT_ONCE)?;
    Ok(format!("connection refused after {} ms", finished.took.as_millis()))
}

/// dig must hear at once that the port is prohibited.
fn prohibited(stage: &mut Stage, address: &str, error: &str) -> Result<String> {
    let at = format!("@{address}");
    let program = ["dig", "+time=5", "+tries=1", "-p", "161", &at, "prohibited.example"];
    let finished = stage.run(CLIENT, &program, 7)?;
    let line = finished
        .stdout
        .lines()
        .chain(finished.stderr.lines())
        .find(|line| line.contains(error))
        .with_context(|| format!("dig does not report `{error}`: {}", last_line(&finished)))?;
    in_time(finished.took, AT_ONCE).context(line.to_owned())?;
    Ok(format!("{error} after {} ms", finished.took.as_millis()))
}

/// curl must hear nothing at all.
fn silence(stage: &mut Stage, url: &str, options: &[&str]) -> Result<String> {
    /// curl(1): operation timeout.
    const TIMED_OUT: i32 = 28;
    let mut program = vec!["curl", "--silent", "--show-error", "--max-time", "1"];
    program.extend(options);
    program.push(url);
    let finished = stage.run(CLIENT, &program, 4)?;
    ensure!(
        finished.code == Some(TIMED_OUT),
        "curl ended with {:?}: {}",
        finished.code,
        last_line(&finished)
    );
    Ok("no answer in 1 s".to_owned())
}

fn node_is_silent(stage: &mut Stage) -> Result<String> {
    let program = ["ping", "-n", "-c", "1", "-W", "1", NODE_EXT_V4];
    let finished = stage.run(CLIENT, &program, 4)?;
    ensure!(finished.code == Some(1), "ping ended with {:?}: {}", finished.code, finished.stdout);
    Ok("no answer in 1 s".to_owned())
}

fn spoofed(stage: &mut Stage) -> Result<String> {
    let address = format!("{SPOOFED}/32");
    succeed(stage, CLIENT, &["ip", "addr", "add", &address, "dev", "lo"], 2)?;
    let seen = silence(stage, &format!("http://{WEB_1_V4}/"), &["--interface", SPOOFED]);
    succeed(stage, CLIENT, &["ip", "addr", "del", &address, "dev", "lo"], 2)?;
    seen
}
