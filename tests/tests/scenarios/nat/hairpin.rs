//! Inside hosts that meet by their external endpoints (RFC 4787 section 6).

use gabion_engine::build;

use super::probe::{BOTH, Probe, Protocol, address, out};

const X: &str = "10.1.0.10:5000";
const Y: &str = "10.1.0.11:6000";
const SERVER: &str = "198.51.100.9:53";

/// Source and destination as the other side sees them.
fn pass(probe: &mut Probe, protocol: Protocol, from: &str, to: &str) -> Option<(String, String)> {
    probe.pass("int", &protocol.frame(from, to), "int")
}

fn seen(source: &str, destination: &str) -> Option<(String, String)> {
    Some((source.to_owned(), destination.to_owned()))
}

/// Covers: 4787-9, 4787-9a, 5382-8, 5382-8a
#[test]
fn a_hairpinned_packet_carries_the_external_endpoint() {
    for protocol in BOTH {
        for address in ["203.0.113.16", "self", "192.88.99.1"] {
            let how = format!("address: {address}, filtering: endpoint-independent");
            let mut probe = Probe::new(&out(&how));
            let x = probe.outward(protocol, X, SERVER).unwrap();
            let y = probe.outward(protocol, Y, SERVER).unwrap();
            assert_eq!(pass(&mut probe, protocol, X, &y), seen(&x, Y), "{address}");
            // The answer, by the external endpoints too.
            let answer = match protocol {
                Protocol::Tcp => build::tcp().from(Y).to(&x).syn().seq(9).ack(2).window(64_000),
                Protocol::Udp => build::udp().from(Y).to(&x).payload(b"!"),
            };
            assert_eq!(probe.pass("int", &answer.frame(), "int"), seen(&y, X), "{address}");
            // One mapping for outside and inside peers.
            assert_eq!(probe.outward(protocol, X, "198.51.100.77:9"), Some(x));
        }
    }
}

/// A socket that has not sent anything yet is given its endpoint then.
#[test]
fn the_first_packet_of_a_socket_may_be_hairpinned() {
    let mut probe = Probe::new(&out("address: 203.0.113.16, filtering: endpoint-independent"));
    let y = probe.outward(Protocol::Udp, Y, SERVER).unwrap();
    let (x, to) = pass(&mut probe, Protocol::Udp, X, &y).unwrap();
    assert_eq!(to, Y);
    assert_eq!(probe.outward(Protocol::Udp, X, SERVER), Some(x));
}

/// Filtering holds for hosts inside as for those outside: each side opens its own way.
#[test]
fn both_sides_can_open_the_way() {
    for protocol in BOTH {
        for filtering in ["address-and-port-dependent", "address-dependent"] {
            let how = format!("address: 203.0.113.16, filtering: {filtering}");
            let mut probe = Probe::new(&out(&how));
            let x = probe.outward(protocol, X, SERVER).unwrap();
            let y = probe.outward(protocol, Y, SERVER).unwrap();
            let first = protocol.frame(X, &y);
            for _ in 0..3 {
                probe.dialogue.step("int", &first, &[], &["drop:nat-filtered"]);
            }
            assert_eq!(probe.dialogue.flows().len(), 3, "the way that is half open is kept once");
            assert_eq!(pass(&mut probe, protocol, Y, &x), seen(&y, X), "{protocol:?} {filtering}");
            assert_eq!(pass(&mut probe, protocol, X, &y), seen(&x, Y), "{protocol:?} {filtering}");
            assert_eq!(probe.dialogue.flows().len(), 3);
        }
    }
}

/// Who was not sent to stays out, hairpinned or not.
#[test]
fn a_way_that_is_open_for_one_is_shut_for_others() {
    let mut probe = Probe::new(&out("address: 203.0.113.16"));
    let x = probe.outward(Protocol::Udp, X, SERVER).unwrap();
    let y = probe.outward(Protocol::Udp, Y, SERVER).unwrap();
    assert_eq!(pass(&mut probe, Protocol::Udp, X, &y), None);
    // Another socket of Y's, another host, and somebody outside who says he is X or Y.
    assert_eq!(pass(&mut probe, Protocol::Udp, "10.1.0.11:6001", &x), None);
    assert_eq!(pass(&mut probe, Protocol::Udp, "10.1.0.12:6000", &x), None);
    assert_eq!(probe.inward(Protocol::Udp, &y, &x), None);
    assert_eq!(probe.inward(Protocol::Udp, &x, &y), None);
    assert_eq!(pass(&mut probe, Protocol::Udp, Y, &x), seen(&y, X));
}

#[test]
fn a_way_that_nobody_answers_shuts_again() {
    let mut probe = Probe::new(&out("address: 203.0.113.16"));
    let x = probe.outward(Protocol::Udp, X, SERVER).unwrap();
    let y = probe.outward(Protocol::Udp, Y, SERVER).unwrap();
    assert_eq!(pass(&mut probe, Protocol::Udp, X, &y), None);
    probe.wait(60);
    probe.outward(Protocol::Udp, X, SERVER).unwrap();
    probe.outward(Protocol::Udp, Y, SERVER).unwrap();
    probe.wait(61);
    assert_eq!(pass(&mut probe, Protocol::Udp, Y, &x), None);
    // Now Y's own way is half open, and X's packet finds it.
    assert_eq!(pass(&mut probe, Protocol::Udp, X, &y), seen(&x, Y));
}

#[test]
fn a_hairpinned_way_outlives_a_policy_that_permits_it() {
    let mut probe = Probe::new(&out("address: 203.0.113.16"));
    let x = probe.outward(Protocol::Udp, X, SERVER).unwrap();
    let y = probe.outward(Protocol::Udp, Y, SERVER).unwrap();
    assert_eq!(pass(&mut probe, Protocol::Udp, X, &y), None);
    let same = super::probe::policy(&out("address: 203.0.113.16"));
    probe.dialogue.commit(&same);
    assert_eq!(pass(&mut probe, Protocol::Udp, Y, &x), seen(&y, X));
    probe.dialogue.commit(&same);
    assert_eq!(pass(&mut probe, Protocol::Udp, X, &y), seen(&x, Y));
    probe.dialogue.commit(&same.replace("default: { action: allow }", "default: { action: drop }"));
    assert_eq!(pass(&mut probe, Protocol::Udp, X, &y), None);
    assert_eq!(pass(&mut probe, Protocol::Udp, Y, &x), None);
}

/// Covers: 5508-7, 5508-7a, 7857-12
#[test]
fn errors_about_hairpinned_packets_come_back_by_the_external_endpoints() {
    let mut probe = Probe::new(&out("address: 203.0.113.16, filtering: endpoint-independent"));
    let x = probe.outward(Protocol::Udp, X, SERVER).unwrap();
    let y = probe.outward(Protocol::Udp, Y, SERVER).unwrap();
    assert_eq!(pass(&mut probe, Protocol::Udp, X, &y), seen(&x, Y));
    let (_, as_received) = probe.dialogue.sent[0].clone();
    let error = build::icmp_error_about(&as_received, 3, 3, [0; 4]).from("10.1.0.11").frame();
    let told = format!("int: icmp 203.0.113.16 > 10.1.0.10 error 3/3 about [udp {X} > {y}] ttl 63");
    probe.dialogue.step("int", &error, &[&told], &["forwarded"]);
}

/// Queries to a server that is published whole (RFC 5508 REQ-7: Basic NAT).
#[test]
fn queries_to_a_published_server_are_hairpinned() {
    let publish =
        "  - { name: publish, kind: dnat, from: any, to: 203.0.113.7, target: 10.1.0.20 }\n";
    let mut probe = Probe::new(&(publish.to_owned() + &out("address: 203.0.113.16")));
    let ping = build::icmp_echo().from("10.1.0.10").to("203.0.113.7").id(7).frame();
    probe.dialogue.send("int", &ping);
    let words = probe.dialogue.left()[0].clone();
    let id: u16 = words.split(' ').nth(6).unwrap().parse().unwrap();
    assert_eq!(words, format!("int: icmp 203.0.113.16 > 10.1.0.20 echo {id} ttl 63"));
    let reply = build::icmp_echo_reply().from("10.1.0.20").to("203.0.113.16").id(id).frame();
    let told = "int: icmp 203.0.113.7 > 10.1.0.10 reply 7 ttl 63";
    probe.dialogue.step("int", &reply, &[told], &["forwarded"]);
}

/// Who is not translated on his way out has no external endpoint: he gets the node's address, so that
/// the answer comes back.
#[test]
fn without_a_rule_of_its_own_a_host_is_hairpinned_to_the_nodes_address() {
    let how = "source: 10.1.0.11, address: 203.0.113.16, filtering: endpoint-independent";
    let mut probe = Probe::new(&out(how));
    let y = probe.outward(Protocol::Udp, Y, SERVER).unwrap();
    let (x, to) = pass(&mut probe, Protocol::Udp, X, &y).unwrap();
    assert_eq!((address(&x), &*to), ("10.1.0.1", Y));
    let answer = probe.pass("int", &Protocol::Udp.frame(Y, &x), "int");
    assert_eq!(answer, seen(&y, X));
}

/// What filtering has kept from a host was not seen by it, and it has nothing to report.
///
/// Covers: 5508-7, 3.1
#[test]
fn an_error_about_what_was_filtered_does_not_pass() {
    let how = "address: 203.0.113.16, filtering: address-and-port-dependent";
    let mut probe = Probe::new(&out(how));
    let x = probe.outward(Protocol::Udp, X, SERVER).unwrap();
    let y = probe.outward(Protocol::Udp, Y, SERVER).unwrap();
    assert_eq!(pass(&mut probe, Protocol::Udp, X, &y), None);
    let never_seen = build::udp().from(&x).to(Y).payload(b"probe").frame();
    let error = build::icmp_error_about(&never_seen, 3, 3, [0; 4]).from(address(Y)).frame();
    probe.dialogue.step("int", &error, &[], &["drop:icmp-error-unmatched"]);
}
