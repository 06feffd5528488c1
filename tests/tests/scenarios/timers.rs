//! Every idle timer: its default, a second of its own for all rules, and one for a single rule. The
//! clock is virtual: a day of it passes in no time.

use std::time::Duration;

use gabion_engine::build;

use super::POLICY;
use super::dialogue::Dialogue;

const CLIENT: &str = "198.51.100.9:40000";
const SERVER: &str = "10.1.0.10:443";

/// The wheel is late by less, never early.
const LATE: Duration = Duration::from_millis(500);
const EARLY: Duration = Duration::from_millis(1);

/// A timer of the policy, how long it takes by itself, and what brings a flow under it.
struct Timer {
    name: &'static str,
    default: Duration,
    begin: fn(&mut Dialogue),
}

const FLOW_TIMERS: [Timer; 8] = [
    Timer { name: "tcp-opening", default: Duration::from_secs(30), begin: half_open },
    Timer { name: "tcp-established", default: Duration::from_secs(7_440), begin: established },
    Timer { name: "tcp-closing", default: Duration::from_secs(240), begin: closing },
    Timer { name: "tcp-closed", default: Duration::from_secs(10), begin: reset },
    Timer { name: "udp", default: Duration::from_secs(300), begin: answered_udp },
    Timer { name: "udp-unreplied", default: Duration::from_secs(120), begin: udp },
    Timer { name: "icmp", default: Duration::from_secs(60), begin: ping },
    Timer { name: "other", default: Duration::from_secs(300), begin: gre },
];

fn half_open(dialogue: &mut Dialogue) {
    let syn = build::tcp().from(CLIENT).to(SERVER).syn().seq(1_000).window(64_000);
    dialogue.send("ext", &syn.frame());
}

fn established(dialogue: &mut Dialogue) {
    half_open(dialogue);
    let server = build::tcp().from(SERVER).to(CLIENT).syn().seq(5_000).ack(1_001).window(64_000);
    dialogue.send("int", &server.frame());
    let client = build::tcp().from(CLIENT).to(SERVER).seq(1_001).ack(5_001).window(64_000);
    dialogue.send("ext", &client.frame());
}

/// Both sides have sent a FIN; the last is not acknowledged.
fn closing(dialogue: &mut Dialogue) {
    established(dialogue);
    let client = build::tcp().from(CLIENT).to(SERVER).fin().seq(1_001).ack(5_001).window(64_000);
    dialogue.send("ext", &client.frame());
    let server = build::tcp().from(SERVER).to(CLIENT).fin().seq(5_001).ack(1_002).window(64_000);
    dialogue.send("int", &server.frame());
}

fn reset(dialogue: &mut Dialogue) {
    established(dialogue);
    let client = build::tcp().from(CLIENT).to(SERVER).rst().seq(1_001).window(64_000);
    dialogue.send("ext", &client.frame());
}

fn udp(dialogue: &mut Dialogue) {
    dialogue.send("ext", &build::udp().from(CLIENT).to(SERVER).frame());
}

fn answered_udp(dialogue: &mut Dialogue) {
    udp(dialogue);
    dialogue.send("int", &build::udp().from(SERVER).to(CLIENT).frame());
}

fn ping(dialogue: &mut Dialogue) {
    dialogue.send("ext", &build::icmp_echo().from("198.51.100.9").to("10.1.0.10").id(5).frame());
}

fn gre(dialogue: &mut Dialogue) {
    let packet = build::protocol(47).from("198.51.100.9").to("10.1.0.10").payload(&[0; 8]);
    dialogue.send("ext", &packet.frame());
}

/// One rule that lets everything in; `settings` and `rule` hold more keys.
fn policy(settings: &str, rule: &str) -> String {
    format!(
        "
apiVersion: gabion/v1
zones:
  internet: {{ interfaces: [ext] }}
  spokes: {{ interfaces: [int], networks: [10.0.0.0/8] }}
settings: {{ default: {{ action: drop }}{settings} }}
rules:
  - {{ name: in, from: internet, to: spokes, action: allow{rule} }}
"
    )
}

/// The flow that the timer is for ends after `time` without a packet, not before.
#[track_caller]
fn check(policy: &str, timer: &Timer, time: Duration) {
    let mut dialogue = Dialogue::new(policy);
    (timer.begin)(&mut dialogue);
    let name = timer.name;
    assert_eq!(dialogue.flows().len(), 1, "{name}: there is a flow");
    dialogue.wait(time - EARLY, &[], &[]);
    assert_eq!(dialogue.flows().len(), 1, "{name}: it lives for {time:?}");
    dialogue.wait(EARLY + LATE, &[], &[]);
    assert_eq!(dialogue.flows().len(), 0, "{name}: it ends after {time:?}");
}

/// Covers: timer-udp, timer-tcp-established, timer-tcp-transitory, timer-after-rst, timer-icmp-query, 7857-2.1
/// Covers: 4787-5, 4787-5c, 5508-2, 6092-12, 6092-14
#[test]
fn each_timer_has_its_default() {
    for timer in &FLOW_TIMERS {
        check(&policy("", ""), timer, timer.default);
    }
}

/// Covers: timer-virtual, timer-udp, timer-tcp-established, timer-tcp-transitory, timer-icmp-query
/// Covers: 4787-5b, 5382-5a, 5508-2a
#[test]
fn each_timer_can_be_a_second() {
    for timer in &FLOW_TIMERS {
        let settings = format!(", timeouts: {{ {}: 1s }}", timer.name);
        check(&policy(&settings, ""), timer, Duration::from_secs(1));
    }
}

/// Covers: timer-virtual, 4787-5a, 6092-15
#[test]
fn each_timer_can_be_a_rules_own() {
    for timer in &FLOW_TIMERS {
        let settings = format!(", timeouts: {{ {}: 5s }}", timer.name);
        let rule = format!(", timeouts: {{ {}: 1s }}", timer.name);
        check(&policy(&settings, &rule), timer, Duration::from_secs(1));
        let rule = format!(", timeouts: {{ {}: 7d }}", timer.name);
        check(&policy(&settings, &rule), timer, Duration::from_hours(7 * 24));
    }
}

/// Covers: timer-fragment, timer-virtual
#[test]
fn fragments_wait_as_long_as_their_timer() {
    for (settings, seconds) in
        [("", 5), (", timeouts: { fragment: 1s }", 1), (", timeouts: { fragment: 1m }", 60)]
    {
        let mut dialogue = Dialogue::new(&policy(settings, ""));
        let whole = build::udp().from(CLIENT).to(SERVER).payload(&[1; 2_000]).dont_fragment(false);
        let pieces = build::fragmented(&whole.frame(), 1_500, 1);
        dialogue.step("ext", &pieces[0], &[], &["held"]);
        dialogue.wait(Duration::from_secs(seconds) - EARLY, &[], &[]);
        dialogue.wait(EARLY + LATE, &[], &["drop:fragment-timeout", "held=-1"]);
    }
}

/// A rule has its timers for as long as its policy is in force; then the flow gets those of the rule
/// that decides now, with its next packet.
#[test]
fn a_flow_takes_the_timers_of_the_rule_in_force() {
    let rule = |time: &str| policy("", &format!(", timeouts: {{ udp-unreplied: {time} }}"));
    let more_rules = rule("10s").replace(
        "rules:",
        "rules:\n  - { name: first, from: internet, to: spokes, service: udp/1, action: allow, timeouts: { udp-unreplied: 1s } }",
    );
    let mut dialogue = Dialogue::new(&rule("2s"));
    udp(&mut dialogue);
    dialogue.commit(&more_rules);
    udp(&mut dialogue);
    dialogue.wait(Duration::from_secs(10) - EARLY, &[], &[]);
    assert_eq!(dialogue.flows().len(), 1);
    dialogue.wait(EARLY + LATE, &[], &[]);
    assert_eq!(dialogue.flows().len(), 0);
}

/// Flows of other rules, and of the default, keep the timers of the settings.
#[test]
fn other_rules_keep_the_timers_of_all() {
    let policy = POLICY.replace(
        "service: udp/53, action: allow",
        "service: udp/53, action: allow, timeouts: { udp-unreplied: 1s }",
    );
    let mut dialogue = Dialogue::new(&policy);
    dialogue.send("ext", &build::udp().from(CLIENT).to("10.1.0.10:53").frame());
    dialogue.send("int", &build::udp().from("10.1.0.10:5000").to("198.51.100.9:9").frame());
    assert_eq!(dialogue.flows().len(), 2);
    dialogue.wait(Duration::from_secs(1) + LATE, &[], &[]);
    assert_eq!(dialogue.flows().len(), 1);
    dialogue.wait(Duration::from_secs(118), &[], &[]);
    assert_eq!(dialogue.flows().len(), 1);
    dialogue.wait(Duration::from_secs(2), &[], &[]);
    assert_eq!(dialogue.flows().len(), 0);
}
