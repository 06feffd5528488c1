//! Every table has a limit and a reason; who is in goes on.

use std::time::Duration;

use gabion_engine::{DropReason, Event, Limits, build};
use gabion_tests::walk::{read_packet, seen::Kind as Seen};

use super::POLICY;
use super::dialogue::Dialogue;

fn syn(port: u16) -> Vec<u8> {
    build::tcp().from(&format!("198.51.100.9:{port}")).to("10.1.0.10:443").syn().seq(1).frame()
}

/// Sends the first packets of a conversation: who answers an answer is no invention.
fn converse(dialogue: &mut Dialogue, port: u16) {
    let (client, server) = (format!("198.51.100.9:{port}"), "10.1.0.10:53");
    dialogue.send("ext", &build::udp().from(&client).to(server).frame());
    dialogue.send("int", &build::udp().from(server).to(&client).frame());
    dialogue.send("ext", &build::udp().from(&client).to(server).frame());
}

/// Covers: 3.9
#[test]
fn in_a_full_table_what_lives_stays_and_what_was_never_heard_of_again_makes_room() {
    let limits = Limits { flows: 64, ..Limits::default() };
    let mut dialogue = Dialogue::with_limits(POLICY, limits);
    for port in 2_000..2_060 {
        converse(&mut dialogue, port);
    }
    for number in 0..2_000 {
        let from = format!("198.51.{}.{}:1025", number / 200, number % 200 + 1);
        dialogue.send("ext", &build::udp().from(&from).to("10.1.0.10:53").frame());
        assert_eq!(dialogue.sent.len(), 1, "the newcomer is let in");
        // Servers answer invented sources too.
        dialogue.send("int", &build::udp().from("10.1.0.10:53").to(&from).frame());
        // One that is answered is there to stay, and a handshake can be completed.
        if number == 1_000 {
            converse(&mut dialogue, 2_060);
            open(&mut dialogue, 1_024);
        }
    }
    assert_eq!(dialogue.engine.counters().evicted, 2_000 + 62 - 64);
    for port in 2_000..2_061 {
        let reply = build::udp().from("10.1.0.10:53").to(&format!("198.51.100.9:{port}"));
        dialogue.send("int", &reply.frame());
        assert_eq!(dialogue.sent.len(), 1, "{port} lives");
    }
    assert!(dialogue.flows().iter().any(|flow| flow.starts_with("established")));
    let said = |event: &&Event| matches!(event, Event::LimitReached { .. });
    assert_eq!(dialogue.events.iter().filter(said).count(), 1);
}

/// Covers: 3.9
#[test]
fn a_table_full_of_live_flows_refuses_new_ones() {
    let limits = Limits { flows: 64, ..Limits::default() };
    let mut dialogue = Dialogue::with_limits(POLICY, limits);
    for port in 2_000..2_064 {
        converse(&mut dialogue, port);
    }
    dialogue.step("ext", &syn(9_999), &[], &["drop:flow-table-full"]);
    let reply = build::udp().from("10.1.0.10:53").to("198.51.100.9:2000").frame();
    let back = "ext: udp 10.1.0.10:53 > 198.51.100.9:2000 +0 ttl 63";
    dialogue.step("int", &reply, &[back], &["forwarded"]);
}

/// To send twice is no sign of life: only to send again after an answer is.
///
/// Covers: 3.9
#[test]
fn who_repeats_without_an_answer_makes_room() {
    let limits = Limits { flows: 64, ..Limits::default() };
    let mut dialogue = Dialogue::with_limits(POLICY, limits);
    for number in 0..200 {
        let from = format!("198.51.100.{}:1025", number + 1);
        for _ in 0..3 {
            dialogue.send("ext", &build::udp().from(&from).to("10.1.0.10:53").frame());
            assert_eq!(dialogue.sent.len(), 1, "the newcomer is let in");
        }
    }
    assert_eq!(dialogue.engine.counters().evicted, 200 - 64);
}

/// Covers: 3.9
#[test]
fn connections_that_are_over_make_room() {
    // A flood of SYNs, each with its RST: no handshake is open and no table may fill.
    let limits = Limits { flows: 64, ..Limits::default() };
    let mut dialogue = Dialogue::with_limits(POLICY, limits);
    open(&mut dialogue, 1_024);
    for number in 0..1_000 {
        let from = format!("198.51.{}.{}:1025", number / 200, number % 200 + 1);
        let segment = || build::tcp().from(&from).to("10.1.0.10:443");
        dialogue.send("ext", &segment().syn().seq(1).frame());
        assert_eq!(dialogue.sent.len(), 1, "the newcomer is let in");
        dialogue.send("ext", &segment().rst().seq(2).frame());
    }
    open(&mut dialogue, 1_026);
    let open = dialogue.flows().iter().filter(|flow| flow.starts_with("established")).count();
    assert_eq!(open, 2);
}

/// Completes a handshake from this port.
fn open(dialogue: &mut Dialogue, port: u16) {
    let (client, server) = (format!("198.51.100.9:{port}"), "10.1.0.10:443");
    dialogue.send("ext", &syn(port));
    let answer = build::tcp().from(server).to(&client).syn().seq(5).ack(2).window(64_000);
    dialogue.send("int", &answer.frame());
    let ack = build::tcp().from(&client).to(server).seq(2).ack(6).window(64_000);
    dialogue.send("ext", &ack.frame());
    assert_eq!(dialogue.sent.len(), 1);
}

/// Covers: CC-1.10
#[test]
fn half_open_connections_are_limited_and_completed_ones_are_not() {
    let policy = POLICY.replace(
        "  default: { action: drop, log: sampled }",
        "  default: { action: drop, log: sampled }\n  flood: { half-open: 6 }",
    );
    let mut dialogue = Dialogue::new(&policy);
    for port in [1_025, 1_026, 1_027] {
        dialogue.send("ext", &syn(port));
    }
    challenged(&mut dialogue, &syn(1_028));
    let server = build::tcp().from("10.1.0.10:443").to("198.51.100.9:1025").syn().seq(5).ack(2);
    dialogue.send("int", &server.window(64_000).frame());
    let client = build::tcp().from("198.51.100.9:1025").to("10.1.0.10:443").seq(2).ack(6);
    dialogue.send("ext", &client.window(64_000).frame());
    dialogue.step(
        "ext",
        &syn(1_028),
        &["int: tcp 198.51.100.9:1028 > 10.1.0.10:443 S ttl 63"],
        &["forwarded"],
    );
}

/// A SYN that is answered with an acknowledgement that its sender will not take for one; returns what it acknowledges.
fn challenged(dialogue: &mut Dialogue, syn: &[u8]) -> u32 {
    dialogue.send("ext", syn);
    let counters = dialogue.engine.counters();
    assert!(counters.rejected(DropReason::SynChallenged) > 0, "{counters:?}");
    let (_, challenge) = dialogue.sent.last().expect("a challenge");
    assert!(challenge.len() <= syn.len(), "nothing is amplified");
    let (asked, seen) = (read_packet(&syn[14..]).unwrap(), read_packet(&challenge[14..]).unwrap());
    assert_eq!(seen.key, asked.key.reversed());
    let (Seen::Tcp { sequence: isn, .. }, Seen::Tcp { acknowledgement, syn: false, length: 0, .. }) =
        (asked.kind, seen.kind)
    else {
        panic!("{seen:?}");
    };
    assert!(isn.wrapping_sub(acknowledgement).cast_signed() >= 0, "it was never sent");
    acknowledgement
}

/// For so many from anybody there is room, and for as many from those that are known.
const FOUR_HALF_OPEN: &str =
    "  default: { action: drop, log: sampled }\n  flood: { half-open-per-destination: 8 }";

/// A SYN of a host nobody knows, to the server's IPv4 or IPv6 address.
fn invented(number: u16, to: &str) -> Vec<u8> {
    let from = match to {
        "10.1.0.10:443" => {
            format!("198.51.{}.{}:{}", number / 200, number % 200 + 1, 1_025 + number)
        }
        _ => format!("[2600:9:{number:x}::1]:{}", 1_025 + number),
    };
    build::tcp().from(&from).to(to).syn().seq(u32::from(number)).frame()
}

/// Covers: CC-1.10, 3.14
#[test]
fn random_sources_beyond_the_limit_never_reach_the_target_and_it_is_said_once() {
    let policy = POLICY.replace("  default: { action: drop, log: sampled }", FOUR_HALF_OPEN);
    for to in ["10.1.0.10:443", "[2600:2::10]:443"] {
        let mut dialogue = Dialogue::new(&policy);
        let mut reached = 0;
        for number in 0..500 {
            dialogue.send("ext", &invented(number, to));
            reached += dialogue.left().iter().filter(|left| left.starts_with("int")).count();
            dialogue.wait(Duration::from_millis(10), &[], &[]);
        }
        assert_eq!(reached, 4);
        let counters = dialogue.engine.counters();
        assert_eq!(counters.rejected(DropReason::SynChallenged), 496);
        let said = |event: &&Event| matches!(event, Event::LimitReached { .. });
        assert_eq!(dialogue.events.iter().filter(said).count(), 1);
        dialogue.wait(Duration::from_secs(6), &[], &[]);
        let over = dialogue.events.iter().any(|event| {
            matches!(event, Event::LimitOver { limit: DropReason::SynChallenged, times: 496, .. })
        });
        assert!(over, "it was not said that the flood is over");
    }
}

/// Covers: 3.14
#[test]
fn who_repeats_a_syn_gets_the_place_of_the_oldest() {
    let policy = POLICY.replace("  default: { action: drop, log: sampled }", FOUR_HALF_OPEN);
    let mut dialogue = Dialogue::new(&policy);
    for number in 0..4 {
        dialogue.send("ext", &invented(number, "10.1.0.10:443"));
        dialogue.wait(Duration::from_millis(1), &[], &[]);
    }
    dialogue.wait(Duration::from_secs(2), &[], &[]);
    challenged(&mut dialogue, &syn(1_025));
    // A copy that the network made, or a flood that sends everything twice, is no repetition.
    dialogue.wait(Duration::from_millis(199), &[], &[]);
    challenged(&mut dialogue, &syn(1_025));
    dialogue.wait(Duration::from_millis(1), &[], &[]);
    let reached = "int: tcp 198.51.100.9:1025 > 10.1.0.10:443 S ttl 63";
    dialogue.step("ext", &syn(1_025), &[reached], &["forwarded"]);
    assert_eq!(dialogue.engine.counters().evicted, 1);
    // The one that made room is gone, with its answer; the newcomer's comes back.
    let answer = |to: &str, ack| {
        let answer = build::tcp().from("10.1.0.10:443").to(to).syn().seq(5).ack(ack);
        answer.window(64_000).frame()
    };
    dialogue.step("int", &answer("198.51.0.1:1025", 1), &[], &["drop:tcp-not-syn"]);
    let back = "ext: tcp 10.1.0.10:443 > 198.51.100.9:1025 S. ttl 63";
    dialogue.step("int", &answer("198.51.100.9:1025", 2), &[back], &["forwarded"]);
    // Once it has completed a handshake, its next one need not be repeated.
    let ack = build::tcp().from("198.51.100.9:1025").to("10.1.0.10:443").seq(2).ack(6);
    dialogue.send("ext", &ack.window(64_000).frame());
    dialogue.send("ext", &invented(9, "10.1.0.10:443"));
    challenged(&mut dialogue, &invented(10, "10.1.0.10:443"));
    let reached = "int: tcp 198.51.100.9:1026 > 10.1.0.10:443 S ttl 63";
    dialogue.step("ext", &syn(1_026), &[reached], &["forwarded"]);
}

/// Covers: 3.14
#[test]
fn who_answers_a_challenge_is_known_and_nobody_else() {
    let policy = POLICY.replace("  default: { action: drop, log: sampled }", FOUR_HALF_OPEN);
    for to in ["10.1.0.10:443", "[2600:2::10]:443"] {
        let mut dialogue = Dialogue::new(&policy);
        (0..4).for_each(|number| dialogue.send("ext", &invented(number, to)));
        let syn = invented(300, to);
        let number = challenged(&mut dialogue, &syn);
        let key = read_packet(&syn[14..]).unwrap().key;
        let (client, server) = (key.source.to_string(), key.destination.to_string());
        let rst =
            |from: &str, number: u32| build::tcp().from(from).to(&server).rst().seq(number).frame();
        // A number that is not the challenge's, or somebody else's.
        let port = key.source.port + 1;
        let other = client.replace(&key.source.port.to_string(), &port.to_string());
        dialogue.step("ext", &rst(&client, number ^ 1), &[], &["drop:tcp-not-syn"]);
        dialogue.step("ext", &rst(&other, number), &[], &["drop:tcp-not-syn"]);
        challenged(&mut dialogue, &syn);
        assert_eq!(dialogue.flows().len(), 4);
        dialogue.step("ext", &rst(&client, number), &[], &["drop:challenge-met"]);
        dialogue.send("ext", &syn);
        assert!(dialogue.left()[0].starts_with("int: tcp"), "{:?}", dialogue.left());
        assert_eq!(dialogue.flows().len(), 5);
        // The places of the known are not for others, and are not without end.
        challenged(&mut dialogue, &invented(301, to));
        let next = |port: u16| {
            let from = client.replace(&key.source.port.to_string(), &port.to_string());
            build::tcp().from(&from).to(&server).syn().seq(1).frame()
        };
        for port in 2_000..2_003 {
            dialogue.send("ext", &next(port));
        }
        assert_eq!(dialogue.flows().len(), 8);
        dialogue.step("ext", &next(2_003), &[], &["drop:half-open-limit"]);
        assert_eq!(dialogue.engine.counters().answers_limited, 0);
    }
}

/// Covers: 3.14
#[test]
fn a_challenge_is_good_for_a_while() {
    let policy = POLICY.replace("  default: { action: drop, log: sampled }", FOUR_HALF_OPEN);
    for (pause, verdict) in [(8, "drop:challenge-met"), (18, "drop:tcp-not-syn")] {
        let mut dialogue = Dialogue::new(&policy);
        (0..4).for_each(|number| dialogue.send("ext", &invented(number, "10.1.0.10:443")));
        let number = challenged(&mut dialogue, &syn(1_025));
        dialogue.wait(Duration::from_secs(pause), &[], &[]);
        let rst = build::tcp().from("198.51.100.9:1025").to("10.1.0.10:443").rst().seq(number);
        dialogue.step("ext", &rst.frame(), &[], &[verdict]);
    }
}

/// Covers: 6888-5
#[test]
fn an_ipv6_source_is_its_network_whatever_address_it_takes() {
    let policy = POLICY.replace(
        "  default: { action: drop, log: sampled }",
        "  default: { action: drop, log: sampled }\n  flood: { half-open-per-source: 3, flows-per-source: 5 }",
    );
    let mut dialogue = Dialogue::new(&policy);
    let syn = |host: u16| {
        build::tcp().from(&format!("[2600:9::{host:x}]:2000")).to("[2600:2::10]:443").syn().frame()
    };
    let dns = |host: u16| {
        build::udp().from(&format!("[2600:9::{host:x}]:2000")).to("[2600:2::10]:53").frame()
    };
    for host in 1..4 {
        dialogue.send("ext", &syn(host));
        assert_eq!(dialogue.sent.len(), 1);
    }
    dialogue.step("ext", &syn(4), &[], &["drop:source-quota"]);
    dialogue.send("ext", &dns(5));
    dialogue.send("ext", &dns(6));
    dialogue.step("ext", &dns(7), &[], &["drop:source-quota"]);
    let other = build::udp().from("[2600:9:0:1::7]:2000").to("[2600:2::10]:53").frame();
    dialogue.send("ext", &other);
    assert_eq!(dialogue.sent.len(), 1);
}

/// Covers: 6888-5, 6888-11
#[test]
fn a_subscriber_is_told_of_its_quota_and_its_rate() {
    let policy = POLICY.replace(
        "  default: { action: drop, log: sampled }",
        "  default: { action: drop, log: sampled }\n  flood: { flows-per-source: 3, new-flows-per-source-per-second: 2 }",
    );
    let mut dialogue = Dialogue::new(&policy);
    let query =
        |port: u16| build::udp().from(&format!("10.1.0.10:{port}")).to("198.51.100.9:53").frame();
    dialogue.send("int", &query(1_025));
    dialogue.send("int", &query(1_026));
    let told = |port: u16| {
        format!(
            "int: icmp 10.1.0.1 > 10.1.0.10 error 3/13 about \
             [udp 10.1.0.10:{port} > 198.51.100.9:53] ttl 64"
        )
    };
    dialogue.send("int", &query(1_027));
    assert_eq!(dialogue.left(), [told(1_027)]);
    assert_eq!(dialogue.engine.counters().rejected(DropReason::SourceRate), 1);
    dialogue.wait(Duration::from_secs(1), &[], &[]);
    dialogue.send("int", &query(1_027));
    dialogue.send("int", &query(1_028));
    assert_eq!(dialogue.left(), [told(1_028)]);
    assert_eq!(dialogue.engine.counters().rejected(DropReason::SourceQuota), 1);
}

/// A source that holds flows from before is limited in each second, not in its first alone.
///
/// Covers: 6888-5
#[test]
fn new_flows_are_limited_in_every_second() {
    let policy = POLICY.replace(
        "  default: { action: drop, log: sampled }",
        "  default: { action: drop, log: sampled }\n  flood: { new-flows-per-source-per-second: 3 }",
    );
    let mut dialogue = Dialogue::new(&policy);
    for second in 0..4 {
        for number in 0..3 {
            let from = format!("198.51.100.9:{}", 1_025 + second * 10 + number);
            dialogue.send("ext", &build::udp().from(&from).to("10.1.0.10:53").frame());
            assert_eq!(dialogue.sent.len(), 1, "second {second}, flow {number}");
        }
        let beyond = build::udp().from("198.51.100.9:9999").to("10.1.0.10:53").frame();
        dialogue.step("ext", &beyond, &[], &["drop:source-rate"]);
        dialogue.wait(Duration::from_millis(999), &[], &[]);
        dialogue.step("ext", &beyond, &[], &["drop:source-rate"]);
        dialogue.wait(Duration::from_millis(1), &[], &[]);
    }
}

#[test]
fn a_source_has_a_quota() {
    let policy = POLICY.replace(
        "  default: { action: drop, log: sampled }",
        "  default: { action: drop, log: sampled }\n  flood: { flows-per-source: 2 }",
    );
    let mut dialogue = Dialogue::new(&policy);
    dialogue.send("ext", &syn(1_025));
    dialogue.send("ext", &syn(1_026));
    dialogue.step("ext", &syn(1_027), &[], &["drop:source-quota"]);
    let other = build::tcp().from("198.51.100.10:1025").to("10.1.0.10:443").syn().seq(1).frame();
    dialogue.step(
        "ext",
        &other,
        &["int: tcp 198.51.100.10:1025 > 10.1.0.10:443 S ttl 63"],
        &["forwarded"],
    );
}

#[test]
fn mappings_are_limited() {
    let limits = Limits { mappings: 64, ..Limits::default() };
    let mut dialogue = Dialogue::with_limits(POLICY, limits);
    for port in 1_025..1_025 + 64 {
        let from = format!("10.1.0.10:{port}");
        dialogue.send("int", &build::udp().from(&from).to("198.51.100.9:53").frame());
    }
    let one_more = build::udp().from("10.1.0.10:9999").to("198.51.100.9:53").frame();
    let told = "int: icmp 10.1.0.1 > 10.1.0.10 error 3/13 about \
                [udp 10.1.0.10:9999 > 198.51.100.9:53] ttl 64";
    dialogue.step("int", &one_more, &[told], &["reject:mapping-table-full"]);
}

#[test]
fn answers_are_limited() {
    let policy = POLICY.replace(
        "  default: { action: drop, log: sampled }",
        "  default: { action: drop, log: sampled }\n  flood: { answers-per-second: 2 }",
    );
    let mut dialogue = Dialogue::new(&policy);
    let telnet = |port: u16| {
        build::tcp().from(&format!("198.51.100.9:{port}")).to("10.1.0.10:23").syn().frame()
    };
    dialogue.send("ext", &telnet(1));
    dialogue.send("ext", &telnet(2));
    dialogue.step("ext", &telnet(3), &[], &["drop:rule-reject"]);
    dialogue.wait(Duration::from_secs(1), &[], &[]);
    dialogue.send("ext", &telnet(4));
    assert_eq!(dialogue.left().len(), 1);
}
