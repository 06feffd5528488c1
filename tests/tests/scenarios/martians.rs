//! Addresses that never cross, under rules that permit everything: nothing leaves, each is counted
//! and each is in the event log.

use gabion_engine::{DropReason, Event, build};

use super::dialogue::Dialogue;
use super::{ALLOW_ALL, STRICT};

/// Where the other side of a packet is, of the same family.
fn other_side(address: &str, from: &str) -> &'static str {
    match (address.contains(':'), from) {
        (false, "ext") => "10.1.0.10",
        (false, _) => "198.51.100.9",
        (true, "ext") => "2600:2::10",
        (true, _) => "2600:9::9",
    }
}

#[track_caller]
fn refused(dialogue: &mut Dialogue, from: &str, frame: &[u8], reason: DropReason) {
    dialogue.events.clear();
    dialogue.step(from, frame, &[], &[&format!("drop:{}", reason.label())]);
    let logged = dialogue
        .events
        .iter()
        .any(|event| matches!(event, Event::Denied(denial) if denial.reason == reason));
    assert!(logged, "{reason:?} is not in the log");
    // One record a second for each reason is enough.
    dialogue.wait(std::time::Duration::from_secs(1), &[], &[]);
}

#[track_caller]
fn refused_as_source(dialogue: &mut Dialogue, sources: &[&str], reason: DropReason) {
    for from in ["ext", "int"] {
        for source in sources {
            let frame = build::protocol(99).from(source).to(other_side(source, from)).frame();
            println!("{source} in by {from}");
            refused(dialogue, from, &frame, reason);
        }
    }
}

#[track_caller]
fn refused_as_destination(dialogue: &mut Dialogue, destinations: &[&str]) {
    for from in ["ext", "int"] {
        for to in destinations {
            let other = if from == "ext" { "int" } else { "ext" };
            let frame = build::protocol(99).from(other_side(to, other)).to(to).frame();
            println!("to {to} in by {from}");
            refused(dialogue, from, &frame, DropReason::MartianDestination);
        }
    }
}

/// Covers: CC-1.6c, 3.17
#[test]
fn nobody_sends_from_or_to_all_hosts_of_a_network() {
    let mut dialogue = Dialogue::new(ALLOW_ALL);
    let broadcasts = ["255.255.255.255", "203.0.113.255", "10.1.255.255", "192.0.2.255"];
    // RFC 1812 section 4.2.3.1: the broadcasts of old.
    let old_ones = ["203.0.113.0", "10.1.0.0", "192.0.2.0"];
    refused_as_source(&mut dialogue, &broadcasts, DropReason::MartianSource);
    refused_as_destination(&mut dialogue, &broadcasts);
    refused_as_source(&mut dialogue, &old_ones, DropReason::MartianSource);
    refused_as_destination(&mut dialogue, &old_ones);
}

/// RFC 4291 section 2.6.1: each router of a link has the address of the link itself, so this node
/// has it and nobody behind it.
///
/// Covers: CC-1.7a
#[test]
fn the_address_of_all_routers_of_a_link_is_the_nodes() {
    let mut dialogue = Dialogue::new(ALLOW_ALL);
    for (from, other, links) in [
        ("ext", "2600:9::9", ["2600:1::", "2600:2::"]),
        ("int", "2600:2::9", ["2600:1::", "2600:2::"]),
    ] {
        for link in links {
            let frame = build::protocol(99).from(other).to(link).frame();
            refused(&mut dialogue, from, &frame, DropReason::ToNode);
        }
        refused_as_source(&mut dialogue, &links, DropReason::SpoofedSource);
    }
}

/// Who could would take the place of a connection that source NAT has yet to make.
///
/// Covers: CC-1.7a, 3.3, 3.17
#[test]
fn nobody_sends_from_an_address_of_a_pool() {
    let mut dialogue = Dialogue::new(super::POLICY);
    let syn = build::tcp().syn().from("203.0.113.4:1025").to("203.0.113.7:443").frame();
    refused(&mut dialogue, "ext", &syn, DropReason::SpoofedSource);
    // A published address may be another host's own, for other ports than those.
    let published = build::udp().from("203.0.113.8:1025").to("10.1.0.10:53").frame();
    dialogue.step(
        "ext",
        &published,
        &["int: udp 203.0.113.8:1025 > 10.1.0.10:53 +0 ttl 63"],
        &["forwarded"],
    );
}

/// Covers: CC-1.6d, CC-1.6e, CC-1.6f, CC-1.7b, 6092-1, 6092-2, 6092-3, 3.17
#[test]
fn martians_do_not_cross_in_either_direction() {
    let mut dialogue = Dialogue::new(ALLOW_ALL);
    #[rustfmt::skip]
    let martians = [
        "0.0.0.0", "0.1.2.3", "240.0.0.1", "254.255.255.255",       // CC-1.6f
        "127.0.0.1", "::1",                                         // CC-1.6e
        "224.0.0.5", "239.1.2.3", "ff02::1", "ff05::2", "ff08::2",  // CC-1.6d, up to organization-local
        "ff0e::1",                                                  // and global: nothing is multicast here
        "169.254.1.1", "fe80::1",                                   // CC-1.7b
        "::", "::10.1.0.10", "fec0::1", "2001:db8::1", "3fff::1", "2001:10::1", "2001:20::1", "100::1",
    ];
    refused_as_source(&mut dialogue, &martians, DropReason::MartianSource);
    refused_as_destination(&mut dialogue, &martians);
}

/// Covers: CC-1.6g
#[test]
fn the_strict_profile_takes_no_ipv6_beside_global_unicast() {
    let mut dialogue = Dialogue::new(STRICT);
    let beside = ["::", "::2", "64:ff9b::a01:a", "4000::1", "fd00::1", "fe00::1", "1000::1"];
    refused_as_source(&mut dialogue, &beside, DropReason::MartianSource);
    refused_as_destination(&mut dialogue, &beside);
    let ping = build::icmp_echo().from("2600:9::9").to("2600:2::10").frame();
    dialogue.step(
        "ext",
        &ping,
        &["int: icmpv6 2600:9::9 > 2600:2::10 echo 1 ttl 63"],
        &["forwarded"],
    );
    // Looking for a neighbour, or for a second owner of an address, is not forwarding (4890-local).
    for source in ["fe80::1", "::"] {
        let solicitation = build::neighbour_solicitation([2; 6], source, "2600:1::1");
        dialogue.step("ext", &solicitation, &[], &["local"]);
    }
}

/// Covers: CC-1.7a, CC-1.7c, 6092-5, 6092-6, 3.17
#[test]
fn a_source_belongs_to_the_networks_of_the_interface_it_comes_by() {
    let mut dialogue = Dialogue::new(ALLOW_ALL);
    let own = ["203.0.113.1", "10.1.0.1", "2600:1::1", "2600:2::1", "192.168.9.9"];
    refused_as_source(&mut dialogue, &own, DropReason::SpoofedSource);
    let inside = build::udp().from("10.9.9.9:1025").to("10.1.0.10:53").frame();
    refused(&mut dialogue, "ext", &inside, DropReason::SpoofedSource);
    let inside = build::udp().from("[2600:2::77]:1025").to("[2600:2::10]:53").frame();
    refused(&mut dialogue, "ext", &inside, DropReason::SpoofedSource);
    let foreign = build::udp().from("198.51.100.77:1025").to("198.51.100.9:53").frame();
    refused(&mut dialogue, "int", &foreign, DropReason::SpoofedSource);
    let foreign = build::udp().from("[2600:9::77]:1025").to("[2600:9::9]:53").frame();
    refused(&mut dialogue, "int", &foreign, DropReason::SpoofedSource);
}

/// Covers: 3.17
#[test]
fn land_goes_nowhere() {
    let mut dialogue = Dialogue::new(ALLOW_ALL);
    for (from, host) in [("ext", "198.51.100.9:80"), ("int", "10.1.0.10:80")] {
        let syn = build::tcp().syn().from(host).to(host).frame();
        refused(&mut dialogue, from, &syn, DropReason::Land);
    }
}

/// Covers: 6092-7
#[test]
fn unique_local_addresses_pass_between_inside_zones_alone() {
    let policy = ALLOW_ALL
        .replace("'2600:2::/32'", "'2600:2::/32', 'fd00:2::/32'")
        .replace("rules:", "  lab: { interfaces: [spare], networks: ['fd00:3::/32'] }\nrules:");
    let mut dialogue = Dialogue::new(&policy);
    dialogue.change_network(|network| {
        for (index, prefix, out) in [(3, "fd00:2::/32", 1), (3, "fd00:3::/32", 2)] {
            let mut route = network.routes[index].clone();
            route.prefix = prefix.parse().unwrap();
            route.out = Some(gabion_engine::InterfaceId(out));
            network.routes.push(route);
        }
    });
    let dns = |from: &str, to: &str| build::udp().from(from).to(to).frame();
    dialogue.step(
        "int",
        &dns("[fd00:2::10]:1025", "[fd00:3::10]:53"),
        &["spare: udp [fd00:2::10]:1025 > [fd00:3::10]:53 +0 ttl 63"],
        &["forwarded"],
    );
    let out = dns("[fd00:2::10]:1025", "[2600:9::9]:53");
    refused(&mut dialogue, "int", &out, DropReason::MartianSource);
    let reached = dns("[2600:9::9]:1025", "[fd00:2::10]:53");
    refused(&mut dialogue, "ext", &reached, DropReason::MartianDestination);
    let from_outside = dns("[fd00:9::9]:1025", "[2600:2::10]:53");
    refused(&mut dialogue, "ext", &from_outside, DropReason::MartianSource);
}
