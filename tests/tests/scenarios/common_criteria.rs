//! The tests of the Common Criteria module for stateful traffic filters: sessions by each of their
//! attributes, rules by each of theirs, and what the log says. A self-test after the module.

use std::time::Duration;

use gabion_engine::{DropReason, Event, InterfaceId, build};

use super::dialogue::Dialogue;
use super::{ALLOW_ALL, OUTBOUND};

fn policy(rules: &str) -> String {
    let (head, _) = ALLOW_ALL.split_once("rules:").unwrap();
    format!("{head}settings:\n  default: {{ action: drop, log: all }}\nrules:\n{rules}")
}

fn udp(from: &str, to: &str) -> Vec<u8> {
    build::udp().from(from).to(to).payload(b"x").frame()
}

fn tcp(from: &str, to: &str) -> Vec<u8> {
    build::tcp().syn().from(from).to(to).frame()
}

/// What the log says of the last packet: `opened` or the reason, and the rule.
fn logged(dialogue: &mut Dialogue, policy: &str) -> Option<String> {
    let loaded = gabion_rules::load("scenario.yaml", policy, None).unwrap();
    let name = |rule: gabion_rules::RuleId| &loaded.rule_set.rules()[rule.0 as usize].name;
    let mut lines = dialogue.events.drain(..).filter_map(|event| match event {
        Event::FlowOpened(flow) => Some(format!("opened by {}", name(flow.rule))),
        Event::Denied(denial) => {
            let rule = denial.decided.map(|decided| format!(" by {}", name(decided.rule)));
            Some(format!("{}{}", denial.reason.label(), rule.unwrap_or_default()))
        }
        _ => None,
    });
    lines.next_back()
}

/// For each attribute: a packet that a rule names is permitted, the same is dropped by the same rule
/// with the other action, and one that differs in that attribute alone is dropped by the default. Each
/// is in the log with its rule.
///
/// Covers: CC-1.2, CC-1.3, CC-1.9, CC-AUD1
#[test]
fn every_attribute_permits_denies_and_misses() {
    let (a, b) = ("198.51.100.9", "10.1.0.10");
    let (a6, b6) = ("2600:9::9", "2600:2::10");
    let at = |ip: &str, port: u16| {
        if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
    };
    let u = |s: &str, sp: u16, d: &str, dp: u16| udp(&at(s, sp), &at(d, dp));
    let t = |s: &str, sp: u16, d: &str, dp: u16| tcp(&at(s, sp), &at(d, dp));
    let echo = |s: &str, d: &str| build::icmp_echo().from(s).to(d).frame();
    let other = |protocol: u8, s: &str, d: &str| {
        build::protocol(protocol).from(s).to(d).payload(&[0; 16]).frame()
    };
    #[rustfmt::skip]
    let rows: &[(&str, &str, Vec<u8>, Vec<u8>)] = &[
        ("IPv4 source",       "source: 198.51.100.9",     u(a, 7, b, 9),   u("198.51.100.10", 7, b, 9)),
        ("IPv4 destination",  "destination: 10.1.0.10",   u(a, 7, b, 9),   u(a, 7, "10.1.0.11", 9)),
        ("IPv4 protocol",     "service: proto/47",        other(47, a, b), other(50, a, b)),
        ("IPv6 source",       "source: '2600:9::9'",      u(a6, 7, b6, 9), u("2600:9::8", 7, b6, 9)),
        ("IPv6 destination",  "destination: '2600:2::10'", u(a6, 7, b6, 9), u(a6, 7, "2600:2::11", 9)),
        ("IPv6 next header",  "service: proto/50",        other(50, a6, b6), other(47, a6, b6)),
        ("TCP source port",   "service: tcp/7->any",      t(a, 7, b, 9),   t(a, 8, b, 9)),
        ("TCP dest port",     "service: tcp/9",           t(a, 7, b, 9),   t(a, 7, b, 10)),
        ("TCP not UDP",       "service: tcp/9",           t(a, 7, b, 9),   u(a, 7, b, 9)),
        ("UDP source port",   "service: udp/7->any",      u(a6, 7, b6, 9), u(a6, 8, b6, 9)),
        ("UDP dest port",     "service: udp/9",           u(a6, 7, b6, 9), u(a6, 7, b6, 10)),
        ("ICMP type",         "service: icmp/8",          echo(a, b),      echo(a6, b6)),
        ("ICMP code",         "service: icmp/8/0",        echo(a, b),      u(a, 7, b, 9)),
        ("ICMPv6 type",       "service: icmpv6/128",      echo(a6, b6),    echo(a, b)),
        ("interface",         "from: internet",           u(a, 7, b, 9),   vec![]),
    ];
    for (name, attribute, hit, miss) in rows {
        for (action, outcome) in
            [("allow", "opened by the-rule"), ("drop", "rule-drop by the-rule")]
        {
            println!("{name}, {action}");
            let from = if attribute.starts_with("from") { "" } else { "from: any, " };
            let rule = format!(
                "  - {{ name: the-rule, {from}to: any, {attribute}, action: {action}, log: all }}\n"
            );
            let policy = policy(&rule);
            let mut dialogue = Dialogue::new(&policy);
            dialogue.send("ext", hit);
            assert_eq!(dialogue.sent.len(), usize::from(action == "allow"));
            assert_eq!(logged(&mut dialogue, &policy).as_deref(), Some(outcome));
            let (by, miss) = match miss.as_slice() {
                [] => ("int", u(b, 9, a, 8)),
                miss => ("ext", miss.to_vec()),
            };
            dialogue.send(by, &miss);
            assert_eq!(dialogue.sent, [], "no match");
            let said = logged(&mut dialogue, &policy).unwrap();
            assert!(said.starts_with("rule-drop by default:"), "{said}");
        }
    }
}

/// Covers: CC-1.3
#[test]
fn a_rule_is_logged_where_it_says_so() {
    for (action, log, records) in
        [("allow", "all", 1), ("allow", "none", 0), ("drop", "all", 1), ("drop", "none", 0)]
    {
        let rule = format!("  - {{ name: r, from: any, to: any, action: {action}, log: {log} }}\n");
        let mut dialogue = Dialogue::new(&policy(&rule));
        dialogue.send("ext", &udp("198.51.100.9:7", "10.1.0.10:9"));
        let is_record = |event: &&Event| matches!(event, Event::FlowOpened(_) | Event::Denied(_));
        assert_eq!(dialogue.events.iter().filter(is_record).count(), records, "{action} {log}");
    }
}

/// Covers: CC-AUD1
#[test]
fn a_record_names_addresses_ports_protocol_and_interface() {
    let rule = |action: &str| {
        policy(&format!("  - {{ name: r, from: any, to: any, action: {action}, log: all }}\n"))
    };
    let frame = udp("198.51.100.9:7", "10.1.0.10:9");
    let mut dialogue = Dialogue::new(&rule("drop"));
    dialogue.send("ext", &frame);
    let [Event::Denied(denial)] = dialogue.events[..] else { panic!("{:?}", dialogue.events) };
    assert_eq!(denial.reason, DropReason::RuleDrop);
    assert_eq!(denial.interface, InterfaceId(0));
    let query = denial.decided.unwrap().query;
    assert_eq!(query.source.to_string(), "198.51.100.9");
    assert_eq!(query.destination.to_string(), "10.1.0.10");
    let transport = gabion_rules::Transport::Udp { source_port: 7, destination_port: 9 };
    assert_eq!(query.transport, transport);

    let mut dialogue = Dialogue::new(&rule("allow"));
    dialogue.send("ext", &frame);
    let opened = dialogue.events.iter().find_map(|event| match event {
        Event::FlowOpened(flow) => Some(*flow),
        _ => None,
    });
    let flow = opened.unwrap();
    assert_eq!(flow.original.source.to_string(), "198.51.100.9:7");
    assert_eq!(flow.original.destination.to_string(), "10.1.0.10:9");
    assert_eq!((flow.original.protocol, flow.interface), (17, InterfaceId(0)));
}

/// Covers: CC-1.4
#[test]
fn rules_are_tied_to_interfaces() {
    let zones = "  lab: { interfaces: [spare], networks: [192.0.2.0/24] }\nsettings:";
    let rules = "  - { name: r, from: lab, to: spokes, action: allow }\n";
    let policy = policy(rules).replace("settings:", zones);
    let mut dialogue = Dialogue::new(&policy);
    let leaving = ["int: udp 192.0.2.9:7 > 10.1.0.10:9 +1 ttl 63"];
    dialogue.step("spare", &udp("192.0.2.9:7", "10.1.0.10:9"), &leaving, &["forwarded"]);
    dialogue.step("ext", &udp("192.0.2.9:8", "10.1.0.10:9"), &[], &["drop:spoofed-source"]);
    dialogue.step("ext", &udp("198.51.100.9:7", "10.1.0.10:9"), &[], &["drop:rule-drop"]);
    // The flow is its interfaces' too.
    dialogue.step("ext", &udp("192.0.2.9:7", "10.1.0.10:9"), &[], &["drop:spoofed-source"]);
}

/// Covers: CC-1.8
#[test]
fn the_first_rule_that_matches_wins_however_specific() {
    let allow = |name: &str, more: &str| {
        format!("  - {{ name: {name}, from: any, to: any{more}, action: allow }}\n")
    };
    let drop = |name: &str, more: &str| {
        format!("  - {{ name: {name}, from: any, to: any{more}, action: drop }}\n")
    };
    let (wide, narrow) = (", service: udp", ", source: 198.51.100.9, service: udp/9");
    for (first, second, passes) in [
        (allow("a", narrow), drop("b", narrow), true),
        (drop("a", narrow), allow("b", narrow), false),
        (allow("a", wide), drop("b", narrow), true),
        (drop("a", wide), allow("b", narrow), false),
        (allow("a", narrow), drop("b", wide), true),
        (drop("a", narrow), allow("b", wide), false),
    ] {
        let mut dialogue = Dialogue::new(&policy(&format!("{first}{second}")));
        dialogue.send("ext", &udp("198.51.100.9:7", "10.1.0.10:9"));
        assert_eq!(dialogue.sent.len(), usize::from(passes), "{first}{second}");
    }
}

/// Covers: CC-1.5d, 6092-17
#[test]
fn a_udp_session_is_its_four_attributes_until_it_times_out() {
    for (client, server, other) in [
        ("10.1.0.10", "198.51.100.9", ["10.1.0.11", "198.51.100.8"]),
        ("[2600:2::10]", "[2600:9::9]", ["[2600:2::11]", "[2600:9::8]"]),
    ] {
        let mut dialogue = Dialogue::new(OUTBOUND);
        dialogue.send("int", &udp(&format!("{client}:5000"), &format!("{server}:53")));
        let reply =
            |s: &str, sp: u16, d: &str, dp: u16| udp(&format!("{s}:{sp}"), &format!("{d}:{dp}"));
        for stray in [
            reply(other[1], 53, client, 5_000),
            reply(server, 54, client, 5_000),
            reply(server, 53, other[0], 5_000),
            reply(server, 53, client, 5_001),
        ] {
            dialogue.step("ext", &stray, &[], &["drop:rule-drop"]);
        }
        let good = reply(server, 53, client, 5_000);
        dialogue.send("ext", &good);
        assert_eq!(dialogue.sent.len(), 1);
        dialogue.wait(Duration::from_secs(301), &[], &[]);
        dialogue.step("ext", &good, &[], &["drop:rule-drop"]);
    }
}

/// Covers: 6092-33
#[test]
fn strangers_do_not_join_a_tcp_session() {
    let mut dialogue = Dialogue::new(OUTBOUND);
    dialogue.send("int", &tcp("[2600:2::10]:5000", "[2600:9::9]:80"));
    let answer = |from: &str, to: &str| build::tcp().syn().ack(2).from(from).to(to).frame();
    for from in ["[2600:9::9]:81", "[2600:9::8]:80"] {
        let stray = answer(from, "[2600:2::10]:5000");
        dialogue.step("ext", &stray, &[], &["drop:tcp-not-syn"]);
        let syn = tcp(from, "[2600:2::10]:5000");
        dialogue.step("ext", &syn, &[], &["drop:rule-drop"]);
    }
    dialogue.send("ext", &answer("[2600:9::9]:80", "[2600:2::10]:5000"));
    assert_eq!(dialogue.sent.len(), 1);
}

/// Covers: CC-1.5e
#[test]
fn an_icmp_session_is_its_addresses_identifier_type_and_code() {
    for (client, server, other) in
        [("10.1.0.10", "198.51.100.9", "198.51.100.8"), ("2600:2::10", "2600:9::9", "2600:9::8")]
    {
        let mut dialogue = Dialogue::new(OUTBOUND);
        dialogue.send("int", &build::icmp_echo().from(client).to(server).id(7).frame());
        let reply = || build::icmp_echo_reply().from(server).to(client).id(7);
        dialogue.step("ext", &reply().id(8).frame(), &[], &["drop:icmp-unsolicited"]);
        dialogue.step("ext", &reply().from(other).frame(), &[], &["drop:icmp-unsolicited"]);
        // Another type: the other side asks, which no rule permits.
        let asks = build::icmp_echo().from(server).to(client).id(7).frame();
        dialogue.step("ext", &asks, &[], &["drop:rule-drop"]);
        let answers = build::icmp_echo_reply().from(client).to(server).id(7).frame();
        dialogue.step("int", &answers, &[], &["drop:icmp-unsolicited"]);
        // Another code.
        dialogue.step("ext", &reply().lie_transport(1, &[1]).frame(), &[], &["drop:icmp-type"]);
        dialogue.send("ext", &reply().frame());
        assert_eq!(dialogue.sent.len(), 1);
        dialogue.wait(Duration::from_secs(61), &[], &[]);
        dialogue.step("ext", &reply().frame(), &[], &["drop:icmp-unsolicited"]);
    }
}

/// Two hosts may use one identifier towards each other at the same time (some always use 1), where the
/// rules let both ask; a new policy is asked again.
///
/// Covers: CC-1.5e, 2979-T
#[test]
fn both_sides_may_ask_with_one_identifier_where_rules_let_them() {
    let (a, b) = ("10.1.0.10", "198.51.100.9");
    let mut dialogue = Dialogue::new(ALLOW_ALL);
    for _ in 0..2 {
        for (by, from, to) in [("int", a, b), ("ext", b, a)] {
            let back = if by == "int" { "ext" } else { "int" };
            dialogue.send(by, &build::icmp_echo().from(from).to(to).id(1).frame());
            assert_eq!(dialogue.sent.len(), 1);
            dialogue.send(back, &build::icmp_echo_reply().from(to).to(from).id(1).frame());
            assert_eq!(dialogue.sent.len(), 1);
        }
    }
    dialogue.commit(OUTBOUND);
    let asks = build::icmp_echo().from(b).to(a).id(1).frame();
    dialogue.step("ext", &asks, &[], &["drop:rule-drop"]);
    dialogue.send("int", &build::icmp_echo().from(a).to(b).id(1).frame());
    assert_eq!(dialogue.sent.len(), 1);
}

/// Covers: CC-1.1a, CC-FAIL
#[test]
fn what_is_full_lets_nothing_through() {
    use gabion_engine::Limits;
    let limits = Limits {
        flows: 64,
        mappings: 64,
        transmit_queue: 1,
        events: 1,
        neighbours: 16,
        parked: 1,
        parked_per_neighbour: 1,
        ..Limits::default()
    };
    let mut dialogue = Dialogue::with_limits(OUTBOUND, limits);
    dialogue.resolve = false;
    for n in 0..2_000_u16 {
        let denied = tcp(&format!("198.51.{}.9:{}", n % 200, 1_025 + n), "10.1.0.10:22");
        dialogue.send("ext", &denied);
        assert_eq!(dialogue.sent, [], "a denied packet, with every table full");
        let from = format!("10.1.0.{}:{}", 2 + n % 200, 1_025 + n);
        dialogue.send("int", &udp(&from, "198.51.100.9:53"));
    }
    let counters = dialogue.engine.counters();
    assert!(counters.dropped(DropReason::NeighbourQueueFull) > 0);
    assert_eq!(counters.frames_in, counters.decided() + counters.held);
}
