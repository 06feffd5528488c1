//! ICMP queries through NAT (RFC 5508 section 3).

use std::collections::BTreeSet;

use gabion_engine::build;

use super::probe::{Probe, out};

/// Covers: 5508-1, 5508-1a
#[test]
fn a_query_has_one_identifier_for_all_hosts() {
    let mut probe = Probe::new(&out("address: 203.0.113.16, ports: 2000-2255"));
    let mut ask = |from: &str, id: u16, to: &str| {
        let ping = build::icmp_echo().from(from).to(to).id(id).frame();
        probe.dialogue.send("int", &ping);
        let words = probe.dialogue.left()[0].clone();
        // `ext: icmp 203.0.113.16 > 198.51.100.9 echo 2000 ttl 63`
        let external: u16 = words.split(' ').nth(6).unwrap().parse().unwrap();
        let reply = build::icmp_echo_reply().from(to).to("203.0.113.16").id(external).frame();
        let told = format!("int: icmp {to} > {from} reply {id} ttl 63");
        probe.dialogue.step("ext", &reply, &[&told], &["forwarded"]);
        external
    };
    let first = ask("10.1.0.10", 7, "198.51.100.9");
    assert_eq!(ask("10.1.0.10", 7, "198.51.100.77"), first);
    let others: BTreeSet<u16> =
        (11..111).map(|host| ask(&format!("10.1.0.{host}"), 7, "198.51.100.9")).collect();
    assert_eq!(others.len(), 100, "no two hosts share one");
    assert!(!others.contains(&first));
}

/// Regression: the router that reports an error about a query was taken for the host that was asked.
///
/// Covers: 5508-2, 5508-6, 7857-11
#[test]
fn a_query_lives_for_a_minute_and_errors_change_nothing() {
    let mut probe = Probe::new(&out("address: 203.0.113.16, ports: 2000-2000"));
    let ping = |host: &str| build::icmp_echo().from(host).to("198.51.100.9").id(7).frame();
    let reply = build::icmp_echo_reply().from("198.51.100.9").to("203.0.113.16").id(2_000).frame();
    probe.dialogue.send("int", &ping("10.1.0.10"));
    let (_, as_sent) = probe.dialogue.sent[0].clone();
    let error = build::icmp_error_about(&as_sent, 3, 1, [0; 4]).from("192.0.2.77").frame();
    for _ in 0..2 {
        probe.wait(29);
        let about = "int: icmp 192.0.2.77 > 10.1.0.10 error 3/1 about \
                     [echo 7 10.1.0.10 > 198.51.100.9] ttl 63";
        probe.dialogue.step("ext", &error, &[about], &["forwarded"]);
    }
    // Another's query has to wait for the identifier as long as the first lives.
    probe.dialogue.send("int", &ping("10.1.0.11"));
    assert_eq!(probe.dialogue.flows().len(), 1);
    probe.dialogue.step(
        "ext",
        &reply,
        &["int: icmp 198.51.100.9 > 10.1.0.10 reply 7 ttl 63"],
        &["forwarded"],
    );
    probe.wait(61);
    probe.dialogue.step("ext", &error, &[], &["drop:icmp-error-unmatched"]);
    probe.dialogue.step("ext", &reply, &[], &["drop:icmp-unsolicited"]);
    probe.dialogue.send("int", &ping("10.1.0.11"));
    assert_eq!(probe.dialogue.flows().len(), 1);
}

/// Covers: 5508-10c, 5508-11
#[test]
fn other_types_are_not_translated() {
    let mut probe = Probe::new(&out("address: 203.0.113.16"));
    // Source quench, redirect, timestamp, information, address mask.
    for kind in [4, 5, 13, 14, 15, 16, 17, 18] {
        let message = build::icmp(kind, 0, [0, 1, 0, 1]).from("10.1.0.10").to("198.51.100.9");
        probe.dialogue.step("int", &message.frame(), &[], &["drop:icmp-type"]);
    }
}
