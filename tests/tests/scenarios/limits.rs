//! Every table has a limit and a reason; who is in goes on.

use gabion_engine::{Limits, build};

use super::POLICY;
use super::dialogue::Dialogue;

fn syn(port: u16) -> Vec<u8> {
    build::tcp().from(&format!("198.51.100.9:{port}")).to("10.1.0.10:443").syn().seq(1).frame()
}

#[test]
fn a_full_flow_table_refuses_new_flows_and_keeps_old_ones() {
    let limits = Limits { flows: 64, ..Limits::default() };
    let mut dialogue = Dialogue::with_limits(POLICY, limits);
    for port in 1_025..1_025 + 64 {
        dialogue.send("ext", &syn(port));
    }
    dialogue.step("ext", &syn(9_999), &[], &["drop:flow-table-full"]);
    let reply = build::tcp().from("10.1.0.10:443").to("198.51.100.9:1025").syn().seq(5).ack(2);
    dialogue.step(
        "int",
        &reply.window(64_000).frame(),
        &["ext: tcp 10.1.0.10:443 > 198.51.100.9:1025 S. ttl 63"],
        &["forwarded"],
    );
}

#[test]
fn half_open_connections_are_limited_and_completed_ones_are_not() {
    // CC-1.10.
    let policy = POLICY.replace(
        "  default: { action: drop, log: sampled }",
        "  default: { action: drop, log: sampled }\n  flood: { half-open: 3 }",
    );
    let mut dialogue = Dialogue::new(&policy);
    for port in [1_025, 1_026, 1_027] {
        dialogue.send("ext", &syn(port));
    }
    dialogue.step("ext", &syn(1_028), &[], &["drop:half-open-limit"]);
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
    dialogue.step("int", &one_more, &[], &["drop:mapping-table-full"]);
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
    dialogue.wait(std::time::Duration::from_secs(1), &[], &[]);
    dialogue.send("ext", &telnet(4));
    assert_eq!(dialogue.left().len(), 1);
}
