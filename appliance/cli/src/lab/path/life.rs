//! The node's own life: before its first policy, its health, a crash, a restart, an orderly end.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;

use super::network::{
    CLIENT, ISP, NODE, NODE_EXT_V4, NODE_EXT_V6, PUBLISHED_V4, WEB_1_V4, WEB_1_V6,
};
use super::{POLICY, Seen, check, fetch, in_time, nothing, reason, succeed};
use crate::lab::node::{HEALTH_HTTP_PORT, HEALTH_TCP_PORT, METRICS};
use crate::lab::scenario::{Check, Expect};
use crate::lab::stage::Stage;

const BEGINNING: &str = "Before the first policy, and with it";
const END: &str = "Crash, restart, end";

/// The issue's own figure for start and stop.
const PROMPT: Duration = Duration::from_secs(1);

pub(super) fn beginning() -> Vec<Check> {
    vec![
        check(
            BEGINNING,
            ("node-starts", "gabiond starts", "gabiond"),
            Expect::Node("in 1 s"),
            nothing(),
            |stage| {
                let took = stage.start_node()?;
                in_time(took, PROMPT)?;
                Ok(format!("ready for a policy after {} ms", took.as_millis()))
            },
        ),
        check(
            BEGINNING,
            ("closed-before-policy", "ping web-1, both families", "ping"),
            Expect::Dropped,
            reason("not-ready"),
            nothing_passes,
        ),
        check(
            BEGINNING,
            ("health-before-policy", "the load balancer's probe", "curl"),
            Expect::Node("503"),
            nothing(),
            |stage| probe(stage, NODE_EXT_V4, "503", "no-policy"),
        ),
        check(
            BEGINNING,
            ("push", "the first policy, over gRPC", "gabion"),
            Expect::Node("committed"),
            nothing(),
            first_push,
        ),
        check(
            BEGINNING,
            ("health-v4", "the probe again", "curl"),
            Expect::Node("200"),
            nothing(),
            |stage| probe(stage, NODE_EXT_V4, "200", ""),
        ),
        check(
            BEGINNING,
            ("health-v6", "the probe over IPv6", "curl"),
            Expect::Node("200"),
            nothing(),
            |stage| probe(stage, NODE_EXT_V6, "200", ""),
        ),
        check(
            BEGINNING,
            ("health-tcp", "the probe's TCP mode", "TCP"),
            Expect::Node("accepted"),
            nothing(),
            tcp_probe,
        ),
    ]
}

pub(super) fn end() -> Vec<Check> {
    vec![
        check(
            END,
            ("metrics", "Prometheus reads /metrics", "curl"),
            Expect::Node("readable"),
            nothing(),
            metrics,
        ),
        check(
            END,
            ("crash-fails-closed", "kill -9 gabiond: nothing passes", "ping"),
            Expect::Dropped,
            nothing(),
            |stage| {
                stage.end_node(Signal::KILL)?;
                nothing_passes(stage)
            },
        ),
        check(
            END,
            ("restart-same-policy", "started again, with the same policy", "gabiond"),
            Expect::Node("in 1 s"),
            nothing(),
            restart,
        ),
        check(
            END,
            ("orderly-end", "SIGTERM", "kill"),
            Expect::Node("in 1 s"),
            nothing(),
            |stage| {
                let took = stage.end_node(Signal::TERM)?;
                in_time(took, PROMPT)?;
                Ok(format!("gone after {} ms", took.as_millis()))
            },
        ),
        check(
            END,
            ("closed-after-end", "ping web-1, both families", "ping"),
            Expect::Dropped,
            nothing(),
            nothing_passes,
        ),
    ]
}

/// The kernel of the node's namespace is set to forward: only the node's guard keeps it from it.
fn nothing_passes(stage: &mut Stage) -> Result<String> {
    for address in [WEB_1_V4, WEB_1_V6] {
        let program = ["ping", "-n", "-c", "2", "-i", "0.2", "-W", "1", address];
        let finished = stage.run(CLIENT, &program, 5)?;
        ensure!(
            finished.code == Some(1),
            "ping {address} ended with {:?}: {}",
            finished.code,
            finished.stdout.trim()
        );
    }
    Ok("no answer in 1 s".to_owned())
}

/// Asks the health endpoint from outside, as a load balancer does.
fn probe(stage: &mut Stage, address: &str, code: &str, reason: &str) -> Result<String> {
    let address = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
    let url = format!("http://{address}:{HEALTH_HTTP_PORT}/");
    let text = fetch(stage, ISP, &url, &["--write-out", "\n%{http_code}"])?;
    let (body, seen) = text.rsplit_once('\n').context("curl prints no status")?;
    let body = body.split_whitespace().collect::<Vec<_>>().join(" ");
    ensure!(seen == code, "the status is {seen}: {body}");
    ensure!(body.contains(reason), "the body does not name {reason}: {body}");
    Ok(format!("{seen}: {body}"))
}

fn tcp_probe(stage: &mut Stage) -> Result<String> {
    stage.lab.namespace(ISP).enter(|| {
        let address: SocketAddr = format!("{NODE_EXT_V4}:{HEALTH_TCP_PORT}").parse()?;
        let mut stream = TcpStream::connect_timeout(&address, 5 * PROMPT)?;
        // A node may close at once: the connection is the answer.
        let _ = stream.write_all(b"");
        Ok(format!("port {HEALTH_TCP_PORT} accepts"))
    })
}

fn first_push(stage: &mut Stage) -> Result<String> {
    let path = stage.lab.directory().join("policy.yaml");
    std::fs::write(&path, POLICY)?;
    let socket = stage.socket();
    let (path, socket) = (path.to_string_lossy(), socket.to_string_lossy());
    let finished =
        stage.gabion(NODE, &["push", &path, "--socket", &socket, "--comment", "gabion lab"])?;
    ensure!(finished.code == Some(0), "gabion push: {}", finished.stderr.trim());
    stage.wait_ready()?;
    let revision = stage.in_force()?.context("no policy is in force")?;
    Ok(format!("revision {}, {} rules, tests passed", revision.number, revision.rules))
}

fn metrics(stage: &mut Stage) -> Result<String> {
    let url = format!("http://{METRICS}/metrics");
    let finished = succeed(stage, NODE, &["curl", "--silent", "--max-time", "5", &url], 7)?;
    let samples = finished.stdout.lines().filter(|line| line.starts_with("gabion_")).count();
    ensure!(samples > 0, "there is no sample called gabion_*");
    for name in ["rule-reject", "web-in"] {
        ensure!(finished.stdout.contains(name), "no sample names {name}");
    }
    Ok(format!("{samples} samples"))
}

fn restart(stage: &mut Stage) -> Result<String> {
    let took = stage.start_node()? + stage.wait_ready()?;
    let Some(policy) = stage.policy()? else {
        bail!("no policy is in force after the restart");
    };
    ensure!(policy.policy == POLICY, "another policy is in force after the restart");
    let page = fetch(stage, CLIENT, &format!("http://{PUBLISHED_V4}/"), &[])?;
    let seen = Seen::parse(&page)?;
    in_time(took, PROMPT)?;
    Ok(format!("ready after {} ms, {} answers", took.as_millis(), seen.server))
}
