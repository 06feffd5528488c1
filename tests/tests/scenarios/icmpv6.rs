//! ICMPv6 through a firewall and at it (RFC 4890), and the codes of ICMP errors in either family.

use gabion_engine::{Event, build};

use super::dialogue::Dialogue;
use super::{ALLOW_ALL, POLICY};

const CLIENT: &str = "2600:9::9";
const SERVER: &str = "2600:2::10";

/// Covers: 4890-must, 4890-normal, 6092-18, 6092-19, 2979-P
#[test]
fn errors_of_every_kind_pass_about_a_flow_and_end_none() {
    #[rustfmt::skip]
    let v6 = [(1, 0), (1, 1), (1, 2), (1, 3), (1, 4), (1, 5), (1, 6), (2, 0), (3, 0), (3, 1), (4, 0), (4, 1), (4, 2)];
    let v4 = [
        (3, 0),
        (3, 1),
        (3, 2),
        (3, 3),
        (3, 4),
        (3, 9),
        (3, 10),
        (3, 13),
        (11, 0),
        (11, 1),
        (12, 0),
    ];
    type Kinds<'k> = &'k [(u8, u8)];
    let cases: [(&str, &str, Kinds<'_>); 2] =
        [("[2600:2::10]:5000", "[2600:9::9]:53", &v6), ("10.1.0.10:5000", "198.51.100.9:53", &v4)];
    for (inside, outside, kinds) in cases {
        let mut dialogue = Dialogue::new(ALLOW_ALL);
        let query = build::udp().from(inside).to(outside).payload(&[0; 1_400]).frame();
        dialogue.send("int", &query);
        let sent = dialogue.sent[0].1.clone();
        let flows = dialogue.flows();
        for &(kind, code) in kinds {
            let rest = if (kind, code) == (3, 4) || kind == 2 { [0, 0, 5, 20] } else { [0; 4] };
            let error = build::icmp_error_about(&sent, kind, code, rest).frame();
            dialogue.send("ext", &error);
            let left = dialogue.left();
            assert_eq!(left.len(), 1, "{kind}/{code}");
            assert!(left[0].contains(&format!("error {kind}/{code}")), "{left:?}");
            assert_eq!(dialogue.flows(), flows, "{kind}/{code}");
        }
    }
}

/// Covers: 6092-10, 4890-must
#[test]
fn errors_about_nothing_that_is_known_do_not_pass() {
    let mut dialogue = Dialogue::new(ALLOW_ALL);
    let never_sent = build::udp().from("[2600:2::10]:5000").to("[2600:9::9]:53").frame();
    for (kind, code) in [(1, 0), (1, 1), (1, 3), (1, 4), (2, 0), (3, 0), (4, 1)] {
        let error = build::icmp_error_about(&never_sent, kind, code, [0, 0, 0, 0]).frame();
        dialogue.step("ext", &error, &[], &["drop:icmp-error-unmatched"]);
    }
}

/// Covers: 4890-must
#[test]
fn echo_passes_by_rule_in_both_directions() {
    for (from, client, server) in [("ext", CLIENT, SERVER), ("int", SERVER, CLIENT)] {
        let mut dialogue = Dialogue::new(ALLOW_ALL);
        dialogue.send(from, &build::icmp_echo().from(client).to(server).id(9).frame());
        assert_eq!(dialogue.left().len(), 1);
        let back = if from == "ext" { "int" } else { "ext" };
        dialogue.send(back, &build::icmp_echo_reply().from(server).to(client).id(9).frame());
        assert_eq!(dialogue.left().len(), 1);
    }
}

/// Everything but errors and echo, with each hop limit that matters, under a rule that permits all.
///
/// Covers: 4890-never, 4890-unless, 4890-policy
#[test]
fn no_other_type_crosses() {
    let mut dialogue = Dialogue::new(ALLOW_ALL);
    for kind in (0..=u8::MAX).filter(|kind| !matches!(kind, 1..=4 | 128 | 129)) {
        for hop_limit in [1, 64, 255] {
            let message = build::icmp(kind, 0, [0; 4]).from(CLIENT).to(SERVER);
            dialogue.send("ext", &message.hop_limit(hop_limit).frame());
            assert_eq!(dialogue.sent, [], "type {kind}, hop limit {hop_limit}");
        }
        let message = build::icmp(kind, 0, [0; 4]).from(CLIENT).to(SERVER).frame();
        dialogue.step("ext", &message, &[], &["drop:icmp-type"]);
    }
    assert_eq!(dialogue.flows(), [""; 0]);
}

/// What the node needs to be heard of on its links reaches the host under rules that drop everything,
/// under the strict profile, and through any zone.
///
/// Covers: 4890-local
#[test]
fn neighbour_and_listener_discovery_work_under_any_rules() {
    let drop_all = ALLOW_ALL.replace("action: allow", "action: drop");
    let strict = super::STRICT.replace("action: allow", "action: drop");
    for policy in [&drop_all, &strict] {
        let mut dialogue = Dialogue::new(policy);
        for source in ["fe80::1", "2600:1::99", "::"] {
            let frame = build::neighbour_solicitation([2; 6], source, "2600:1::1");
            dialogue.step("ext", &frame, &[], &["local"]);
        }
        let told = build::neighbour_advertisement([2; 6], "2600:1::fe", [2; 6], "2600:1::1");
        dialogue.step("ext", &told, &[], &["local"]);
        for kind in [133, 134] {
            let router = build::icmp(kind, 0, [0; 4]).from("fe80::1").to("ff02::1").hop_limit(255);
            dialogue.step("ext", &router.frame(), &[], &["local"]);
        }
        for (kind, to) in
            [(130, "ff02::1"), (131, "ff02::1:ff00:1"), (132, "ff02::2"), (143, "ff02::16")]
        {
            let alert = build::icmp(kind, 0, [0; 4]).from("fe80::1").to(to).hop_limit(1);
            let alert = alert.extension_header(0, &[0, 5, 2, 0, 0, 1, 0]).frame();
            dialogue.step("ext", &alert, &[], &["local"]);
        }
    }
    // And the node answers for addresses that only NAT knows, whatever the rules say.
    let policy = POLICY.replace("action: allow", "action: drop");
    let mut dialogue = Dialogue::new(&policy);
    let asked = build::neighbour_solicitation([2, 0, 0, 0, 0, 9], "2600:1::99", "2600:1::7");
    dialogue.send("ext", &asked);
    assert_eq!(dialogue.sent.len(), 1);
}

/// A message of the link that could have come from beyond it is no message of the link.
///
/// Covers: 4890-local, 4890-never
#[test]
fn discovery_from_beyond_the_link_is_dropped() {
    let mut dialogue = Dialogue::new(ALLOW_ALL);
    let solicitation = build::neighbour_solicitation([2; 6], "2600:1::99", "2600:1::1");
    let mut routed = solicitation.clone();
    routed[14 + 7] = 254;
    dialogue.step("ext", &routed, &[], &["drop:icmp-type"]);
    let mut wrong = solicitation;
    *wrong.last_mut().unwrap() ^= 1;
    dialogue.step("ext", &wrong, &[], &["drop:transport-checksum"]);
}

/// RFC 4291 section 2.7: nothing comes from a group, and an answer would go to all of it.
#[test]
fn a_solicitation_from_a_group_is_not_answered() {
    let mut dialogue = Dialogue::new(POLICY);
    for group in ["ff02::1", "ff0e::9"] {
        let asked = build::neighbour_solicitation([2, 0, 0, 0, 0, 9], group, "2600:1::7");
        dialogue.step("ext", &asked, &[], &["local"]);
    }
}

/// Each type and code is a rule's to name.
///
/// Covers: CC-1.2
#[test]
fn rules_match_type_and_code() {
    let rows = [
        ("icmpv6/echo-request", CLIENT, SERVER, true),
        ("icmpv6/128/0", CLIENT, SERVER, true),
        ("icmpv6/128/1", CLIENT, SERVER, false),
        ("icmpv6/1", CLIENT, SERVER, false),
        ("icmp", CLIENT, SERVER, false),
        ("icmp/echo-request", "198.51.100.9", "10.1.0.10", true),
        ("icmp/8/0", "198.51.100.9", "10.1.0.10", true),
        ("icmp/8/3", "198.51.100.9", "10.1.0.10", false),
        ("icmp/13", "198.51.100.9", "10.1.0.10", false),
    ];
    for (service, client, server, passes) in rows {
        let policy = ALLOW_ALL
            .replace("action: allow", &format!("service: {service}, action: allow, log: all"));
        let mut dialogue = Dialogue::new(&policy);
        dialogue.send("ext", &build::icmp_echo().from(client).to(server).frame());
        assert_eq!(dialogue.sent.len(), usize::from(passes), "{service}");
        let denied = dialogue.events.iter().any(|event| matches!(event, Event::Denied(_)));
        assert_eq!(denied, !passes, "{service}");
    }
}
