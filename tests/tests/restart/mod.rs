//! A node whose kernel moves what is settled (`node.datapath = "ebpf"`), while its daemon is killed, stopped, changed
//! and started again. Root with `GABION_NETNS=1`, and the built binaries.
#![allow(clippy::unwrap_used)]

mod workers;
pub(crate) mod world;

use std::io::{BufRead as _, BufReader};
use std::net::UdpSocket;
use std::time::Duration;

use world::{Daemon, World, ask, transfer};

const EBPF: &str = "datapath = \"ebpf\"\n[limits]\nflows = 4096";

pub(crate) const POLICY: &str = "\
apiVersion: gabion/v1
zones:
  internet: { interfaces: [ext] }
  spokes: { interfaces: [int], networks: [10.0.0.0/8] }
settings:
  default: { action: drop }
nat:
  - { name: out, kind: snat, from: spokes, out: internet, address: self }
rules:
  - { name: web, from: spokes, to: internet, service: tcp/7000, action: allow }
  - { name: games, from: spokes, to: internet, service: udp/7000, action: allow }
";

/// Enough for the kernel to move most of it.
const LENGTH: usize = 400_000;

/// Times that a datagram is sent before nobody answers, and where somebody does.
const SILENCE: u32 = 3;
const PATIENCE: u32 = 100;

/// A node under the policy, and a socket whose flow the kernel moves.
fn begin(world: &World, settings: &str) -> (Daemon, UdpSocket) {
    let daemon = world.start(settings);
    world.push(POLICY);
    world.await_ready();
    let socket = world.udp();
    assert!(ask(&socket, b"one", PATIENCE) && ask(&socket, b"two", PATIENCE), "{}", world.log());
    (daemon, socket)
}

#[test]
fn established_flows_go_on_while_the_daemon_is_killed_and_started() {
    let Some(world) = World::build() else { return };
    let (daemon, socket) = begin(&world, EBPF);
    let mut stream = world.connected();
    transfer(&mut stream, 1, LENGTH);
    let before = world.flow("tcp");
    assert!(world.done_by_kernel("forwarded") > 0, "{}", world.log());
    assert!(world.done_by_kernel("tcp-flags") > 0, "a SYN is looked at");
    daemon.kill();

    transfer(&mut stream, 2, LENGTH);
    assert!(ask(&socket, b"three", PATIENCE));
    assert!(world.dial(Duration::from_millis(600)).is_none(), "a new connection with nobody there");
    assert!(!ask(&world.udp(), b"stranger", SILENCE), "a new flow with nobody there");

    let daemon = world.start(EBPF);
    transfer(&mut stream, 3, LENGTH);
    world.await_ready();
    transfer(&mut stream, 4, LENGTH);
    assert!(ask(&socket, b"four", PATIENCE), "{}", world.log());
    // What was ever moved is told within a second or two.
    let after = world.flow_of_bytes("tcp", 4 * LENGTH as u64);
    // The same connection behind the same port.
    assert_eq!(after["translated"], before["translated"], "{before} {after}");
    assert!(after["translated"].is_object(), "{after}");
    assert_eq!((&after["rule"], &after["state"]), (&"web".into(), &"established".into()));
    assert!(after["age_seconds"].as_f64().unwrap() >= before["age_seconds"].as_f64().unwrap());
    assert_eq!(world.flow("udp")["rule"], "games");
    // What is new has another port, and what ends is seen to end.
    transfer(&mut world.connected(), 5, 10_000);
    drop(stream);

    // A stop in order is no different.
    let mut stream = world.connected();
    transfer(&mut stream, 6, LENGTH);
    daemon.stop();
    transfer(&mut stream, 7, LENGTH);
    let detached = world.gabiond(EBPF).arg("--detach").status().unwrap();
    assert!(detached.success());
    assert!(!ask(&socket, b"five", SILENCE), "detached, and it goes on");
}

#[test]
fn what_xdp_moves_goes_on_over_a_restart_and_can_be_given_back() {
    let Some(world) = World::build() else { return };
    world.carry_whole_frames();
    let xdp = format!("hook = \"xdp\"\n{EBPF}");
    let (daemon, socket) = begin(&world, &xdp);
    let mut stream = world.connected();
    transfer(&mut stream, 1, LENGTH);
    assert!(world.has_xdp("int") && world.has_xdp("ext"), "{}", world.log());
    assert_eq!(world.hooks(), serde_json::json!([["xdp", "tc"], ["xdp", "tc"]]));
    daemon.kill();
    assert!(world.has_xdp("int") && world.has_xdp("ext"));
    transfer(&mut stream, 2, LENGTH);
    let daemon = world.start(&xdp);
    world.await_ready();
    transfer(&mut stream, 3, LENGTH);
    assert!(ask(&socket, b"three", PATIENCE), "{}", world.log());
    daemon.stop();
    let daemon = world.start(&format!("hook = \"tc\"\n{EBPF}"));
    assert_eq!(world.hooks(), serde_json::json!([["tc"], ["tc"]]));
    assert!(!world.has_xdp("int") && !world.has_xdp("ext"), "{}", world.log());
    world.await_ready();
    transfer(&mut stream, 4, LENGTH);
    daemon.stop();
    world.start(&xdp).stop();
    assert!(world.has_xdp("int"));
    assert!(world.gabiond(&xdp).arg("--detach").status().unwrap().success());
    assert!(!world.has_xdp("int") && !world.has_xdp("ext"));
}

#[test]
fn what_the_policy_no_longer_permits_ends_when_the_daemon_is_back() {
    let Some(world) = World::build() else { return };
    let (daemon, socket) = begin(&world, EBPF);
    let mut stream = world.connected();
    transfer(&mut stream, 1, LENGTH);
    daemon.kill();
    // A node that moves no packets takes the new policy meanwhile.
    let daemon = world.start("datapath = \"null\"");
    world.push(&POLICY.replace("udp/7000, action: allow", "udp/7000, action: drop"));
    daemon.stop();
    assert!(ask(&socket, b"three", PATIENCE), "nobody has judged it yet");
    let _daemon = world.start(EBPF);
    world.await_ready();
    assert!(!ask(&socket, b"four", SILENCE), "{}", world.log());
    transfer(&mut stream, 2, LENGTH);
}

#[test]
fn tables_of_other_limits_are_not_taken_over_and_another_datapath_detaches() {
    let Some(world) = World::build() else { return };
    let (daemon, socket) = begin(&world, EBPF);
    daemon.kill();
    let daemon = world.start("datapath = \"auto\"\n[limits]\nflows = 2048");
    world.await_ready();
    assert!(world.log().contains("none is taken over"), "{}", world.log());
    // It begins anew, by the rules.
    assert!(ask(&socket, b"three", PATIENCE) && ask(&socket, b"four", PATIENCE));
    daemon.kill();
    assert!(world.path("bpf/node").exists());
    let _daemon = world.start("datapath = \"userspace\"");
    world.await_ready();
    assert!(!world.path("bpf/node").exists(), "programs of before stay");
    assert!(ask(&socket, b"five", PATIENCE));
}

#[test]
fn flows_that_nobody_confirms_end() {
    let Some(world) = World::build() else { return };
    let (daemon, socket) = begin(&world, &format!("fail_closed_after_s = 1\n{EBPF}"));
    daemon.kill();
    // It goes on for a while, and then no more: the end is awaited, not timed.
    let word = |round: u32| round.to_be_bytes();
    let last = (0..).find(|&round| !ask(&socket, &word(round), SILENCE)).unwrap();
    assert!(!ask(&socket, &word(last), SILENCE), "it has come back with nobody there");
    let _daemon = world.start(EBPF);
    world.await_ready();
    assert!(ask(&socket, b"three", PATIENCE), "{}", world.log());
}

#[test]
fn without_privilege_auto_goes_on_and_ebpf_says_what_it_wants() {
    let Some(world) = World::build() else { return };
    let bounded = |settings: &str| {
        let mut command = world.gabiond(settings);
        // Between `setpriv` and the daemon: the same program once more, without what programs need.
        let words: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        let at = words.iter().position(|word| word == "--pdeathsig").unwrap();
        let mut all = std::process::Command::new("ip");
        all.args(&words[..at]).args(["--bounding-set", "-all,+net_admin,+net_raw"]);
        all.args(["--inh-caps", "-all,+net_admin,+net_raw"]).args(&words[at..]);
        command = all;
        command.stdout(std::process::Stdio::null());
        command
    };
    let refused = bounded(EBPF).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success(), "{said}");
    for part in ["ebpf", "CAP_BPF", "userspace"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let mut child = bounded(&EBPF.replace("ebpf", "auto"))
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let mut lines = stderr.lines().map_while(Result::ok);
    let said = lines.find(|line| line.contains("every packet goes through gabiond"));
    assert!(said.is_some_and(|line| line.contains("CAP_BPF")));
    // It goes on without.
    while std::os::unix::net::UnixStream::connect(world.path("socket")).is_err() {
        assert!(child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}
