//! The guard against a real kernel: a host that forwards between two networks, in namespaces.
//!
//! Runs with GABION_NETNS=1 as root, with iproute2 and nftables; otherwise it says that it is skipped. That something does *not*
//! come is never a matter of time: a later packet on the same path that does come is awaited first.

#![allow(clippy::unwrap_used)]

mod network;

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use network::{HEALTH_PORT, Network, PATIENCE};

const GUARD: &str = env!("CARGO_BIN_EXE_gabion-guard");
const CONFIGURE: &str =
    r#"{"configure":{"data_devices":["eth1","eth2","not-yet"],"tcp_ports":[4480]}}"#;
/// More than any test waits with.
const EVENTS: usize = 16;
const INSTALLED: &str = r#"{"event":"installed"}"#;
const LOST: &str = r#"{"event":"lost"}"#;

/// A guard that serves this test as it serves the daemon.
struct Guard {
    process: Child,
    input: Option<ChildStdin>,
    events: Receiver<String>,
}

impl Guard {
    fn start(network: &Network) -> Self {
        let mut process = network
            .command(network.host(), &[GUARD])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (sender, events) = sync_channel(EVENTS);
        thread::spawn(move || {
            output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Self { input: process.stdin.take(), process, events }
    }

    /// A guard that has put its rules in place.
    fn in_place(network: &Network) -> Self {
        let mut guard = Self::start(network);
        guard.say(CONFIGURE);
        assert_eq!(guard.hears(), INSTALLED);
        guard
    }

    fn say(&mut self, line: &str) {
        writeln!(self.input.as_mut().unwrap(), "{line}").unwrap();
    }

    fn hears(&self) -> String {
        self.events.recv_timeout(PATIENCE).expect("the guard has something to say")
    }

    /// As the daemon does when it stops.
    fn end(mut self) {
        self.input = None;
        assert!(self.process.wait().unwrap().success());
    }

    fn signal(&self, name: &str) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The network to test in, or none if such tests are not asked for.
fn network() -> Option<Network> {
    if std::env::var_os("GABION_NETNS").is_none_or(|value| value != "1") {
        println!("skipped: needs root and network namespaces; run it with GABION_NETNS=1");
        return None;
    }
    Some(Network::new())
}

fn show(network: &Network) -> (Option<i32>, String) {
    let Output { status, stdout, .. } =
        network.command(network.host(), &[GUARD, "show"]).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap())
}

/// Covers: CC-1.1a
#[test]
fn the_kernel_neither_forwards_nor_answers() {
    let Some(network) = network() else { return };
    network.kernel_forwards_and_answers();

    let guard = Guard::in_place(&network);
    network.kernel_is_silent();
    network.management_is_untouched();
    guard.end();

    network.kernel_is_silent();
}

/// Covers: CC-1.1a, CC-FAIL
#[test]
fn rules_outlive_a_guard_that_is_killed() {
    let Some(network) = network() else { return };
    Guard::in_place(&network).kill();
    network.kernel_is_silent();
    assert_eq!(show(&network).0, Some(0));

    // A new guard changes nothing before it is told to.
    let mut guard = Guard::start(&network);
    network.kernel_is_silent();
    guard.say(CONFIGURE);
    assert_eq!(guard.hears(), INSTALLED);
    network.kernel_is_silent();
}

#[test]
fn a_device_that_is_made_anew_is_guarded() {
    let Some(network) = network() else { return };
    let _guard = Guard::in_place(&network);
    network.make_data_devices_anew();
    network.kernel_is_silent();
}

#[test]
fn rules_that_others_change_come_back() {
    let Some(network) = network() else { return };
    let guard = Guard::in_place(&network);
    let others: [&[&str]; 7] = [
        &[GUARD, "remove"],
        &["nft", "flush", "ruleset"],
        &["nft", "delete", "table", "inet", "gabion_guard"],
        &["nft", "flush", "chain", "inet", "gabion_guard", "forward"],
        &["nft", "insert", "rule", "inet", "gabion_guard", "from_data", "accept"],
        &["nft", "add", "chain", "inet", "gabion_guard", "theirs"],
        &["nft", "add", "table", "inet", "gabion_guard", "{ flags dormant; }"],
    ];
    for other in others {
        network.run(network.host(), other);
        assert_eq!((guard.hears(), guard.hears()), (LOST.to_owned(), INSTALLED.to_owned()));
        assert_eq!(show(&network).0, Some(0), "after {other:?}");
    }
    network.kernel_is_silent();
}

/// Covers: CC-1.1a, CC-FAIL
#[test]
fn nothing_passes_between_a_flush_and_its_repair() {
    let Some(network) = network() else { return };
    let guard = Guard::in_place(&network);
    guard.signal("STOP");
    network.run(network.host(), &["nft", "flush", "ruleset"]);
    network.kernel_is_silent();
    guard.signal("CONT");
    assert_eq!((guard.hears(), guard.hears()), (LOST.to_owned(), INSTALLED.to_owned()));
    guard.kill();
    network.kernel_is_silent();
}

/// The first one's node is ready all the while, and the second one's never is.
#[test]
fn a_second_guard_does_not_disturb_the_first() {
    let Some(network) = network() else { return };
    let first = Guard::in_place(&network);
    let mut second = Guard::start(&network);
    second.say(CONFIGURE);
    let error = second.hears();
    assert!(error.contains("another gabion-guard holds the rules"), "{error}");
    assert!(first.events.try_recv().is_err(), "the first one has noticed");
    network.kernel_is_silent();
    first.kill();
    // Now it is the second one's turn; it tries again by itself.
    let mut heard = second.hears();
    while heard != INSTALLED {
        heard = second.hears();
    }
    network.kernel_is_silent();
}

#[test]
fn what_others_do_elsewhere_is_none_of_our_business() {
    let Some(network) = network() else { return };
    let guard = Guard::in_place(&network);
    network.run(network.host(), &["nft", "add", "table", "inet", "theirs"]);
    network.run(network.host(), &["nft", "add", "table", "ip", "gabion_guard"]);
    // If they had been taken for ours, these would not be the next events.
    network.run(network.host(), &[GUARD, "remove"]);
    assert_eq!((guard.hears(), guard.hears()), (LOST.to_owned(), INSTALLED.to_owned()));
    let left = network.run(network.host(), &["nft", "list", "tables"]);
    assert!(left.contains("inet theirs") && left.contains("ip gabion_guard"), "{left}");
}

#[test]
fn a_new_configuration_replaces_the_old_one() {
    let Some(network) = network() else { return };
    let mut guard = Guard::in_place(&network);
    guard.say(r#"{"configure":{"data_devices":["eth1"],"tcp_ports":[1,2]}}"#);
    assert_eq!(guard.hears(), INSTALLED);
    let (code, text) = show(&network);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.ends_with("in place, guarding eth1\n"), "{text}");

    guard.say(r#"{"configure":{"data_devices":[],"tcp_ports":[]}}"#);
    let refused = guard.hears();
    assert!(refused.contains("error") && refused.contains("nothing to guard"), "{refused}");
    let (code, text) = show(&network);
    assert_eq!(code, Some(0), "a refused configuration changes nothing");
    assert!(text.ends_with("in place, guarding eth1\n"), "{text}");
}

#[test]
fn show_tells_rules_that_are_not_in_place() {
    let Some(network) = network() else { return };
    let (code, text) = show(&network);
    assert_eq!(code, Some(1));
    assert!(text.contains("table inet gabion_guard is not there"), "{text}");

    Guard::in_place(&network).end();
    network.run(network.host(), &["nft", "flush", "chain", "inet", "gabion_guard", "forward"]);
    let (code, text) = show(&network);
    assert_eq!(code, Some(1));
    assert!(text.contains("chain forward has 0 rules instead of 6"), "{text}");
}

#[test]
fn without_the_capability_the_error_names_it() {
    let Some(_network) = network() else { return };
    const NOBODY: u32 = 65534;
    // A copy that nobody may read, wherever the build puts its own.
    let copy = std::env::temp_dir().join(format!("gab-guard-{}", std::process::id()));
    std::fs::copy(GUARD, &copy).unwrap();
    let output = Command::new(&copy).arg("show").uid(NOBODY).gid(NOBODY).output();
    std::fs::remove_file(&copy).unwrap();
    let output = output.unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(message.contains("CAP_NET_ADMIN is missing"), "{message}");
}

#[test]
fn the_health_port_is_that_of_the_configuration() {
    assert!(CONFIGURE.contains(&HEALTH_PORT.to_string()));
}
