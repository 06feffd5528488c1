//! SYNs from outside to an external endpoint of somebody inside: a simultaneous open through NAT, or
//! nobody's business (RFC 5382 REQ-4).

use std::time::Duration;

use super::*;

const PEER: &str = "198.51.100.9:7000";
const INSIDE: &str = "10.1.0.10:7000";

/// Outbound SNAT that filters by address and port, and rules that let anybody in.
fn policy(default: &str, inbound: &str) -> String {
    format!(
        "
apiVersion: gabion/v1
zones:
  internet: {{ interfaces: [ext] }}
  spokes: {{ interfaces: [int], networks: [10.0.0.0/8] }}
settings: {{ default: {{ action: {default} }} }}
nat:
  - {{ name: out, kind: snat, from: spokes, out: internet, address: 203.0.113.4, ports: 1024-65000,
      filtering: address-and-port-dependent }}
rules:
  - {{ name: in, from: internet, to: spokes, action: {inbound} }}
  - {{ name: out, from: spokes, to: internet, action: allow }}
"
    )
}

/// A node with a mapping of `INSIDE`, and its external endpoint.
fn mapped(default: &str, inbound: &str) -> (Dialogue, String) {
    let mut dialogue = Dialogue::new(&policy(default, inbound));
    let elsewhere = build::tcp().from(INSIDE).to("198.51.100.200:80").syn().seq(1).frame();
    dialogue.send("int", &elsewhere);
    let external = dialogue.engine.flows(0, 1).0[0].reply.destination.to_string();
    (dialogue, external)
}

fn knock(external: &str) -> Vec<u8> {
    build::tcp().from(PEER).to(external).syn().seq(9_000).window(64_000).frame()
}

fn told(external: &str) -> String {
    format!("ext: icmp 203.0.113.1 > 198.51.100.9 error 3/3 about [tcp {PEER} > {external}] ttl 64")
}

/// Covers: 5382-4, 6092-34, timer-incoming-syn
#[test]
fn an_unsolicited_syn_is_told_after_six_seconds_not_before() {
    for inbound in ["allow", "reject"] {
        let (mut dialogue, external) = mapped("drop", inbound);
        dialogue.step("ext", &knock(&external), &[], &["drop:nat-filtered"]);
        // It comes again, as SYNs do, and is told once.
        for _ in 0..2 {
            dialogue.wait(Duration::from_millis(2_500), &[], &[]);
            dialogue.step("ext", &knock(&external), &[], &["drop:nat-filtered"]);
        }
        dialogue.wait(Duration::from_millis(999), &[], &[]);
        let due = dialogue.engine.poll_timeout().unwrap();
        assert!(due.since(dialogue.now) <= Duration::from_millis(1), "somebody wakes the engine");
        dialogue.wait(Duration::from_millis(1), &[&told(&external)], &[]);
        dialogue.wait(Duration::from_secs(60), &[], &[]);
        // From then on it is a new one.
        dialogue.step("ext", &knock(&external), &[], &["drop:nat-filtered"]);
    }
}

/// Both ends of a hole punched with TCP: the outside's SYN comes first and is told nothing, the
/// inside's goes out, and the outside's next one meets it.
///
/// Covers: 5382-4, 5382-2a, 5382-2
#[test]
fn a_simultaneous_open_through_nat_is_left_alone() {
    let (mut dialogue, external) = mapped("drop", "allow");
    dialogue.step("ext", &knock(&external), &[], &["drop:nat-filtered"]);
    dialogue.wait(Duration::from_secs(1), &[], &[]);
    let inside = || build::tcp().from(INSIDE).to(PEER).window(64_000);
    let outside = || build::tcp().from(PEER).to(&external).window(64_000);
    let (out, back) =
        (format!("ext: tcp {external} > {PEER}"), format!("int: tcp {PEER} > {INSIDE}"));
    for (from, frame, left) in [
        ("int", inside().syn().seq(100).frame(), format!("{out} S ttl 63")),
        ("ext", outside().syn().seq(9_000).frame(), format!("{back} S ttl 63")),
        ("int", inside().syn().seq(100).ack(9_001).frame(), format!("{out} S. ttl 63")),
        ("ext", outside().syn().seq(9_000).ack(101).frame(), format!("{back} S. ttl 63")),
        (
            "ext",
            outside().seq(9_001).ack(101).payload(b"hello").frame(),
            format!("{back} . +5 ttl 63"),
        ),
    ] {
        dialogue.step(from, &frame, &[&left], &["forwarded"]);
    }
    // The six seconds end, and nobody is told anything.
    dialogue.wait(Duration::from_secs(20), &[], &[]);
    assert!(
        dialogue.flows().contains(&format!("established {INSIDE} > {PEER} | {PEER} > {external}"))
    );
}

/// Covers: 5382-4a
#[test]
fn where_the_rules_drop_nobody_is_told() {
    let (mut dialogue, external) = mapped("reject", "drop");
    dialogue.step("ext", &knock(&external), &[], &["drop:nat-filtered"]);
    dialogue.wait(Duration::from_secs(60), &[], &[]);
}

/// An external address behind whose port is nobody: the rules' default says how to deal with what
/// they do not know.
///
/// Covers: 5382-4, 5382-4a
#[test]
fn where_nobody_is_mapped_the_default_decides() {
    for (default, told_of) in [("drop", false), ("reject", true)] {
        let mut dialogue = Dialogue::new(&policy(default, "allow"));
        dialogue.step("ext", &knock("203.0.113.4:5555"), &[], &["drop:nat-filtered"]);
        let told = told("203.0.113.4:5555");
        let told = if told_of { vec![told.as_str()] } else { vec![] };
        dialogue.wait(Duration::from_secs(6), &told, &[]);
    }
}

/// A flood of SYNs fills the memory for them and nothing else; what the node says keeps to its rate.
///
/// Covers: 5382-4, 3.14
#[test]
fn a_flood_of_unsolicited_syns_is_bounded() {
    let (mut dialogue, external) = mapped("drop", "allow");
    for port in 1_025..6_025 {
        let from = format!("198.51.100.9:{port}");
        dialogue.send("ext", &build::tcp().from(&from).to(&external).syn().seq(1).frame());
        assert!(dialogue.sent.is_empty());
    }
    let before = dialogue.engine.counters().clone();
    dialogue.now = dialogue.now + Duration::from_secs(6);
    dialogue.engine.handle_timeout(dialogue.now);
    let mut sent = 0;
    while dialogue.engine.poll_transmit().is_some() {
        sent += 1;
    }
    assert!((1..=1_024).contains(&sent), "{sent} answers");
    assert_eq!(dialogue.engine.counters().frames_in, before.frames_in);
    // There is room again.
    dialogue.send("ext", &knock(&external));
    dialogue.wait(Duration::from_secs(6), &[&told(&external)], &[]);
}

/// The guard is gone: what was going to be said is not.
#[test]
fn a_closed_node_tells_nobody() {
    let (mut dialogue, external) = mapped("drop", "allow");
    dialogue.send("ext", &knock(&external));
    dialogue.engine.close();
    dialogue.wait(Duration::from_secs(60), &[], &[]);
}

/// The answers that wait keep within the rate of all answers, and no more wait than the node has room
/// for.
///
/// Covers: 5508-10d
#[test]
fn answers_to_unsolicited_syns_keep_within_the_limits() {
    let (mut dialogue, external) = mapped("drop", "allow");
    dialogue.commit(&policy("drop, log: none }, flood: { answers-per-second: 5", "allow"));
    let knock = |number: u16| {
        let peer = format!("198.51.{}.{}:7000", 100 + number / 200, number % 200 + 1);
        build::tcp().from(&peer).to(&external).syn().frame()
    };
    for number in 0..20 {
        dialogue.send("ext", &knock(number));
    }
    let before = dialogue.engine.counters().answers_sent;
    dialogue.now = dialogue.now + Duration::from_secs(6);
    dialogue.engine.handle_timeout(dialogue.now);
    assert_eq!(dialogue.engine.counters().answers_sent - before, 5);
    assert_eq!(dialogue.engine.counters().answers_limited, 15);

    let (mut dialogue, _) = mapped("drop", "allow");
    for number in 0..1_100 {
        dialogue.send("ext", &knock(number));
    }
    assert_eq!(dialogue.engine.counters().answers_limited, 1_100 - 1_024, "nobody waits for them");
}
