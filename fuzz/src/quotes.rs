//! ICMP errors about live flows, with lies in them.

use std::net::IpAddr;

use gabion_engine::{FlowReport, build};
use gabion_tests::walk::World;

use crate::mend::mend;

/// A frame that has left the node, with the interface it left by.
type Left = (u16, Vec<u8>);

/// Some flows, each with a packet in flight in each direction that has one.
fn flows(world: &mut World) -> Vec<Left> {
    let mut left = Vec::new();
    let mut send = |world: &mut World, from: u16, frame: Vec<u8>| {
        world.send(from, frame);
        left.extend(world.left_last().iter().map(|sent| (sent.out.0, sent.bytes.clone())));
    };
    for (address, mac) in
        [("203.0.113.254", 9), ("10.1.0.10", 10), ("2600:1::fe", 11), ("2600:2::10", 12)]
    {
        world.learn(address, [2, 0, 0, 0, 1, mac]);
    }
    let long = [7; 900];
    send(
        world,
        1,
        build::udp().from("10.1.0.10:5000").to("198.51.100.9:53").payload(&long).frame(),
    );
    send(
        world,
        1,
        build::tcp().from("10.1.0.10:5001").to("198.51.100.9:443").syn().seq(700).frame(),
    );
    send(
        world,
        1,
        build::icmp_echo().from("10.1.0.10").to("198.51.100.9").id(77).payload(&long).frame(),
    );
    send(
        world,
        0,
        build::tcp().from("198.51.100.9:40000").to("203.0.113.7:443").syn().seq(100).frame(),
    );
    send(
        world,
        1,
        build::tcp().from("10.1.0.10:443").to("198.51.100.9:40000").syn().seq(900).ack(101).frame(),
    );
    send(
        world,
        0,
        build::tcp()
            .from("198.51.100.9:40000")
            .to("203.0.113.7:443")
            .seq(101)
            .ack(901)
            .payload(&long)
            .frame(),
    );
    send(
        world,
        0,
        build::udp().from("198.51.100.9:5003").to("10.1.0.10:53").payload(&long).frame(),
    );
    send(
        world,
        0,
        build::udp().from("[2600:9::9]:5003").to("[2600:2::10]:53").payload(&long).frame(),
    );
    send(
        world,
        0,
        build::tcp().from("[2600:9::9]:5004").to("[2600:1::7]:443").syn().seq(5).frame(),
    );
    left
}

/// Bytes: which packet, type, code, rest of the header, how much is quoted, by which interface; then
/// changes of bytes behind the Ethernet header. What passes is a whole truth about a flow; nothing
/// of the flows changes; nobody outside sees an address of the inside that is hidden.
pub(crate) fn quote(bytes: &[u8]) {
    let Some(([which, kind, code, r0, r1, r2, r3, cut, elsewhere], changes)) =
        bytes.split_first_chunk::<9>()
    else {
        return;
    };
    let mut world = World::begin();
    let left = flows(&mut world);
    assert_eq!(left.len(), 9, "every packet leaves");
    let (out, sent) = &left[usize::from(*which) % left.len()];
    let quoted = &sent[..sent.len().min(14 + usize::from(*cut) * 4)];
    if quoted.len() < 54 {
        return;
    }
    let mut error = build::icmp_error_about(quoted, *kind, *code, [*r0, *r1, *r2, *r3]).frame();
    for change in changes.chunks_exact(2) {
        let place = 14 + usize::from(change[0]) % (error.len() - 14);
        error[place] ^= change[1];
    }
    mend(&mut error);
    let from = if elsewhere % 8 == 7 { 1 - out } else { *out };

    let before: Vec<FlowReport> = world.flows();
    world.send(from, error.clone());
    let is_error = gabion_tests::walk::read_packet(&error[14..])
        .is_some_and(|seen| matches!(seen.kind, gabion_tests::walk::Kind::Error { .. }));
    if is_error {
        assert_eq!(world.flows(), before, "an ICMP error changes nothing");
        for frame in world.left_last() {
            assert!(frame.bytes.len() <= error.len() || frame.out.0 == from, "it grows");
            if frame.out.0 == 0 {
                no_inside_address(&frame.bytes, &before);
            }
        }
    }
    world.run_out();
}

/// Where the addresses of the packet and of its quote stand, none is one of the inside that NAT
/// hides: 10.1.0.10 is hidden to all but those who have asked for it by that address.
fn no_inside_address(frame: &[u8], flows: &[FlowReport]) {
    if frame[14] >> 4 != 4 {
        return;
    }
    let Some(quote) = frame.get(14 + 20 + 8..).filter(|quote| quote.len() >= 20) else { return };
    let address = |bytes: &[u8]| IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let receiver = address(&frame[30..34]);
    let knows = flows.iter().any(|flow| {
        flow.original.source.address.to_ip() == receiver && flow.original == flow.reply.reversed()
    });
    let inside = |address: IpAddr| matches!(address, IpAddr::V4(v4) if v4.octets()[0] == 10);
    for shown in [address(&frame[26..30]), address(&quote[12..16]), address(&quote[16..20])] {
        assert!(!inside(shown) || knows, "{shown} is shown outside");
    }
}
