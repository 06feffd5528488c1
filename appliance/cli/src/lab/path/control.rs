//! Policy changes and refusals of bad ones, explanations, certificates, the event log.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use gabion_api::v1::ExplainRequest;

use super::network::{CLIENT, NODE, WEB_1, WEB_1_V4};
use super::{POLICY, check, nothing};
use crate::lab::node::API;
use crate::lab::process::Finished;
use crate::lab::scenario::{Check, Expect};
use crate::lab::stage::Stage;

const SECTION: &str = "Policy and control";

/// Ports of the rules `keep-in` and `cut-in`.
const KEPT: u16 = 7001;
const CUT: u16 = 7002;

pub(super) fn checks() -> Vec<Check> {
    let request = |name, tried, expect, act: fn(&mut Stage) -> Result<String>| {
        check(SECTION, (name, tried, "gabion"), Expect::Node(expect), nothing(), act)
    };
    vec![
        request("explain-agrees", "explain says what has happened", "agrees", explain_agrees),
        request("live-flows", "a live connection is listed", "shown", live_flow),
        request("change-keeps-and-cuts", "a rule goes: its connection too", "1 of 2", change),
        request("rollback", "back to the first policy", "committed", rollback),
        request("bad-policy-refused", "a policy with a wrong key", "refused", bad_policy),
        request("failing-test-refused", "a policy whose own test fails", "refused", failing_test),
        request("stale-revision-refused", "a policy on an old revision", "refused", stale_revision),
        request("dry-run", "a dry run that prints JSON", "unchanged", dry_run),
        request("mutual-tls", "the API over TCP with a certificate", "accepted", right_certificate),
        request("stranger-refused", "the same with another CA's", "refused", wrong_certificate),
        request("event-log", "the log names rule and reason", "written", event_log),
    ]
}

/// Packets of the earlier checks, what became of them, and by which rule.
const PACKETS: [(&str, &str, &str); 6] = [
    ("tcp 198.51.100.9:40000 -> 203.0.113.7:443 in internet", "allow", "web-in"),
    ("tcp 198.51.100.9:40000 -> 10.1.0.10:22 in internet", "reject", "no-partner-ssh"),
    ("tcp 198.51.100.9:40000 -> 10.1.0.10:8080 in internet", "drop", "default:internet->spokes"),
    ("udp [2600:1:0:9::9]:40000 -> [2600:2:0:1::10]:53 in internet", "allow", "dns-in"),
    ("tcp 10.1.0.10:40000 -> 192.0.2.80:80 in spokes", "allow", "patching"),
    ("tcp 10.1.0.10:40000 -> 203.0.113.7:80 in spokes", "allow", "hairpin"),
];

fn explain_agrees(stage: &mut Stage) -> Result<String> {
    for (packet, verdict, rule) in PACKETS {
        let request = ExplainRequest { packet: packet.to_owned(), policy: String::new() };
        let explained = stage.api()?.call(async move |api| api.explain(request).await)?;
        ensure!(
            explained.verdict == verdict && explained.rule == rule,
            "`{packet}`: {} by {}, not {verdict} by {rule}",
            explained.verdict,
            explained.rule
        );
    }
    Ok(format!("{} packets: same verdict, same rule", PACKETS.len()))
}

fn live_flow(stage: &mut Stage) -> Result<String> {
    let mut held = Held::open(stage, KEPT)?;
    held.echo()?;
    let finished = gabion(stage, &["show", "flows", "--rule", "keep-in", "--json"])?;
    ensure!(finished.code == Some(0), "gabion show flows: {}", finished.stderr.trim());
    let flows: serde_json::Value = serde_json::from_str(&finished.stdout)?;
    let flow = flows
        .as_array()
        .and_then(|flows| flows.iter().find(|flow| flow["state"] == "established"))
        .with_context(|| format!("no established flow of keep-in: {}", finished.stdout.trim()))?;
    Ok(format!("keep-in, established, {} packets", flow["original"]["packets"]))
}

/// Two live connections; the new policy lacks the rule of one.
fn change(stage: &mut Stage) -> Result<String> {
    let mut kept = Held::open(stage, KEPT)?;
    let mut cut = Held::open(stage, CUT)?;
    kept.echo()?;
    cut.echo()?;
    let without = POLICY.lines().filter(|line| !line.contains("cut-in"));
    let policy = without.collect::<Vec<_>>().join("\n") + "\n";
    let finished = push(stage, &policy, &[])?;
    ensure!(finished.code == Some(0), "gabion push: {}", finished.stderr.trim());
    kept.echo().context("the connection that is still allowed")?;
    if cut.echo().is_ok() {
        bail!("the connection that is no longer allowed goes on");
    }
    kept.echo().context("the connection that is still allowed, later")?;
    Ok("the one still allowed goes on, the other is cut".to_owned())
}

fn rollback(stage: &mut Stage) -> Result<String> {
    let finished = gabion(stage, &["rollback", "1"])?;
    ensure!(finished.code == Some(0), "gabion rollback: {}", finished.stderr.trim());
    let policy = stage.policy()?.context("no policy is in force")?;
    ensure!(policy.policy == POLICY, "another policy than the first is in force");
    let number = policy.revision.unwrap_or_default().number;
    Ok(format!("revision {number} has the first one's text"))
}

fn bad_policy(stage: &mut Stage) -> Result<String> {
    let policy = POLICY.replace("action: reject", "aktion: reject");
    let line = POLICY.lines().position(|line| line.contains("action: reject")).unwrap_or(0) + 1;
    refused(stage, &policy, &[], &format!(":{line}:"))
}

fn failing_test(stage: &mut Stage) -> Result<String> {
    let policy = POLICY.replace("expect: reject", "expect: allow");
    refused(stage, &policy, &[], "no ssh for partners")
}

fn stale_revision(stage: &mut Stage) -> Result<String> {
    let number = stage.in_force()?.context("no policy is in force")?.number;
    let stale = (number - 1).to_string();
    refused(stage, POLICY, &["--expect", &stale], &format!("revision {number}"))
}

fn dry_run(stage: &mut Stage) -> Result<String> {
    let before = stage.in_force()?;
    let policy = POLICY.replace("log: all", "log: none");
    let finished = push(stage, &policy, &["--dry-run", "--json"])?;
    ensure!(finished.code == Some(0), "gabion push --dry-run: {}", finished.stderr.trim());
    let warnings: serde_json::Value = serde_json::from_str(&finished.stdout)?;
    ensure!(warnings.is_array(), "it prints {warnings}");
    ensure!(stage.in_force()? == before, "another revision is in force");
    Ok("the warnings as JSON, the same revision in force".to_owned())
}

fn right_certificate(stage: &mut Stage) -> Result<String> {
    let finished = over_tls(stage, "pki")?;
    ensure!(finished.code == Some(0), "gabion show health: {}", finished.stderr.trim());
    Ok(format!("{API} answers"))
}

fn wrong_certificate(stage: &mut Stage) -> Result<String> {
    let finished = over_tls(stage, "stranger")?;
    ensure!(finished.code == Some(1), "gabion show health ended with {:?}", finished.code);
    first_line(&finished.stderr)
}

fn event_log(stage: &mut Stage) -> Result<String> {
    let log = stage.place().event_log();
    let lines: Vec<_> = log.lines().collect();
    for line in &lines {
        serde_json::from_str::<serde_json::Value>(line)
            .with_context(|| format!("not JSON: {line}"))?;
    }
    for (what, words) in [
        ("the rejected SSH connection", ["no-partner-ssh", "rule-reject"]),
        ("the translated web connection", ["web-in", "publish-web"]),
    ] {
        ensure!(
            lines.iter().any(|line| words.iter().all(|word| line.contains(word))),
            "no line names {what} ({})",
            words.join(", ")
        );
    }
    Ok(format!("{} lines, each JSON", lines.len()))
}

/// Pushes a policy that must be refused with `words`, and must change nothing.
fn refused(stage: &mut Stage, policy: &str, options: &[&str], words: &str) -> Result<String> {
    let before = stage.in_force()?;
    let finished = push(stage, policy, options)?;
    let said = format!("{}\n{}", finished.stdout, finished.stderr);
    ensure!(
        finished.code == Some(1),
        "gabion push ended with {:?}: {}",
        finished.code,
        said.trim()
    );
    ensure!(said.contains(words), "the message does not contain `{words}`: {}", said.trim());
    ensure!(stage.in_force()? == before, "another revision is in force now");
    let line = said.lines().find(|line| line.contains(words)).unwrap_or_default();
    Ok(line
        .trim()
        .trim_start_matches(['×', ' '])
        .replace(&*stage.lab.directory().to_string_lossy(), ""))
}

fn push(stage: &mut Stage, policy: &str, options: &[&str]) -> Result<Finished> {
    let path = stage.lab.directory().join("next-policy.yaml");
    std::fs::write(&path, policy)?;
    let path = path.to_string_lossy();
    let mut arguments = vec!["push", &*path];
    arguments.extend(options);
    gabion(stage, &arguments)
}

/// The tool against the node's Unix socket.
fn gabion(stage: &Stage, arguments: &[&str]) -> Result<Finished> {
    let socket = stage.socket();
    let socket = socket.to_string_lossy();
    let mut arguments = arguments.to_vec();
    arguments.extend(["--socket", &*socket]);
    stage.gabion(NODE, &arguments)
}

/// The tool over mutual TLS, as the client whose certificate lies in `directory`.
fn over_tls(stage: &Stage, directory: &str) -> Result<Finished> {
    let root = stage.lab.directory();
    let path = |directory: &str, file: &str| {
        root.join(directory).join(file).to_string_lossy().into_owned()
    };
    let arguments = [
        "show",
        "health",
        "--json",
        "--server",
        API,
        "--ca",
        &path("pki", "ca.pem"),
        "--cert",
        &path(directory, "lab.pem"),
        "--key",
        &path(directory, "lab.key"),
    ];
    stage.gabion(NODE, &arguments)
}

fn first_line(text: &str) -> Result<String> {
    Ok(text.lines().next().context("no message was printed")?.trim().to_owned())
}

/// A connection from the client to an echo server on web-1.
struct Held {
    stream: TcpStream,
}

impl Held {
    fn open(stage: &Stage, port: u16) -> Result<Self> {
        // The listener is there before the client tries; the echoing thread ends with its client.
        let listener = stage
            .lab
            .namespace(WEB_1)
            .enter(move || Ok(TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], port)))?))?;
        std::thread::spawn(move || -> Result<()> {
            let (mut stream, _) = listener.accept()?;
            drop(listener);
            let mut word = [0; 4];
            loop {
                stream.read_exact(&mut word)?;
                stream.write_all(&word)?;
            }
        });
        let address: SocketAddr = format!("{WEB_1_V4}:{port}").parse()?;
        let stream = stage.lab.namespace(CLIENT).enter(move || {
            let stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))
                .with_context(|| format!("cannot connect to {address}"))?;
            stream.set_read_timeout(Some(Duration::from_millis(1500)))?;
            stream.set_nodelay(true)?;
            Ok(stream)
        })?;
        Ok(Self { stream })
    }

    fn echo(&mut self) -> Result<()> {
        let mut answer = [0; 4];
        self.stream.write_all(b"ping")?;
        self.stream.read_exact(&mut answer).context("no echo came back")?;
        ensure!(&answer == b"ping", "the echo is {answer:?}");
        Ok(())
    }
}
