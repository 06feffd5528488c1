//! Conversations through the appliance, mostly as hosts lead them, and in every way that they may go wrong.

use std::net::SocketAddr;

use gabion_engine::build::{self, FrameBuilder};
use gabion_engine::{InterfaceId, Transmit};
use gabion_tests::random::Random;
use gabion_tests::walk::read_packet;

const EXT: InterfaceId = InterfaceId(0);
const INT: InterfaceId = InterfaceId(1);

/// What conversations begin as: by which interface, from whom, to whom.
const TCP: [(InterfaceId, &str, &str); 13] = [
    // As they are, and to published services.
    (EXT, "198.51.100.9", "10.1.0.10:443"),
    (EXT, "198.51.100.9", "203.0.113.7:443"),
    (EXT, "198.51.100.10", "203.0.113.7:2222"),
    (EXT, "198.51.100.10", "203.0.113.8:443"),
    (EXT, "2600:9::9", "[2600:2::10]:443"),
    (EXT, "2600:9::9", "[2600:1::7]:443"),
    // Behind an address of the appliance's.
    (EXT, "198.51.100.9", "10.1.0.11:443"),
    // Outwards, behind the pool.
    (INT, "10.1.0.10", "198.51.100.9:443"),
    (INT, "10.1.0.12", "198.51.100.10:80"),
    (INT, "10.1.0.11", "198.51.100.9:8080"),
    (INT, "2600:2::10", "[2600:9::9]:443"),
    // Back in by the interface that it came out of.
    (INT, "10.1.0.12", "203.0.113.7:443"),
    // To somebody behind the pool, whom a stranger may reach under some policies.
    (EXT, "198.51.100.10", "203.0.113.4:2000"),
];
const UDP: [(InterfaceId, &str, &str); 6] = [
    (EXT, "198.51.100.9", "10.1.0.10:53"),
    (EXT, "2600:9::9", "[2600:2::10]:53"),
    (INT, "10.1.0.10", "198.51.100.9:53"),
    (INT, "10.1.0.12", "198.51.100.10:4500"),
    (INT, "2600:2::10", "[2600:9::9]:4500"),
    (EXT, "198.51.100.10", "203.0.113.4:2000"),
];

/// One conversation, as its hosts see it.
#[derive(Debug, Clone)]
pub(super) struct Talk {
    is_tcp: bool,
    /// Who sends what by which interface: the opener, and the other as far as anything has come to it.
    ends: [Option<End>; 2],
    hosts: [Host; 2],
    /// How many of the last packets have not come through.
    lost: u32,
}

#[derive(Debug, Clone, Copy)]
struct End {
    interface: InterfaceId,
    own: SocketAddr,
    other: SocketAddr,
}

/// What a TCP knows of itself.
#[derive(Debug, Clone, Copy)]
struct Host {
    first: u32,
    next: u32,
    /// The furthest that it has let the other go, and its largest window.
    edge: u32,
    window: u16,
    shift: u8,
    has_scale: bool,
    /// It has sent its FIN.
    is_done: bool,
}

impl Host {
    /// It has not sent its SYN.
    fn is_silent(&self) -> bool {
        self.next == self.first
    }
}

/// A frame that is to be sent, and what it does to its sender when it leaves the appliance.
#[derive(Debug, Clone)]
pub(super) struct Sending {
    pub(super) from: InterfaceId,
    pub(super) builder: FrameBuilder,
    side: usize,
    advance: u32,
    grant: Option<(u32, u16)>,
    fin: bool,
}

impl Talk {
    pub(super) fn begin(random: &mut Random) -> Self {
        let is_tcp = random.below(3) > 0;
        let (interface, from, to) = if is_tcp { random.pick(&TCP) } else { random.pick(&UDP) };
        let port = 20_000 + random.below(3_000) as u16;
        let own = SocketAddr::new(from.parse().unwrap(), port);
        let mut other: SocketAddr = to.parse().unwrap();
        if other.port() == 2_000 {
            other.set_port(2_000 + random.below(8) as u16);
        }
        let has_scale = random.below(3) > 0;
        let mut host = || {
            // Half of them pass through zero soon.
            let first = random.next() as u32;
            let first = if first & 1 == 0 { first } else { 0_u32.wrapping_sub(first % 20_000) };
            let shift = random.pick(&[0, 1, 3, 7, 14]);
            let window = random.pick(&[1, 100, 1_000, 10_000, 65_535]);
            Host { first, next: first, edge: 0, window, shift, has_scale, is_done: false }
        };
        let hosts = [host(), host()];
        let end = End { interface, own, other };
        Self { is_tcp, ends: [Some(end), None], hosts, lost: 0 }
    }

    /// Nothing comes through any more.
    pub(super) fn is_stuck(&self) -> bool {
        self.lost > 5
    }

    /// What one of the two sends next; `None` where it has heard of nobody yet.
    pub(super) fn next(&mut self, random: &mut Random) -> Option<Sending> {
        let side = match self.ends[1] {
            None => 0,
            // A SYN is answered before its sender goes on.
            Some(_) if self.is_tcp && self.hosts[1].is_silent() && !random.is_one_in(20) => 1,
            Some(_) => random.below(2) as usize,
        };
        let end = self.ends[side]?;
        let (own, other) = (end.own.to_string(), end.other.to_string());
        self.lost += 1;
        let mut sending = if self.is_tcp { self.tcp(side, random) } else { udp(side, random) };
        sending.from = end.interface;
        sending.builder = unusual(sending.builder.from(&own).to(&other), random);
        Some(sending)
    }

    /// The appliance has sent something on: the other end knows now whom to answer.
    pub(super) fn heard(&mut self, sending: &Sending, left: &Transmit) {
        let Some(seen) = read_packet(&left.bytes[14..]) else { return };
        let address = |endpoint: gabion_engine::Endpoint| {
            SocketAddr::new(endpoint.address.to_ip(), endpoint.port)
        };
        let (own, other) = (address(seen.key.destination), address(seen.key.source));
        self.lost = 0;
        if sending.side == 0 {
            self.ends[1] = Some(End { interface: left.out, own, other });
        }
        let host = &mut self.hosts[sending.side];
        host.next = host.next.wrapping_add(sending.advance);
        host.is_done |= sending.fin;
        if let Some((edge, window)) = sending.grant {
            host.edge = edge;
            host.window = window;
        }
    }

    fn tcp(&self, side: usize, random: &mut Random) -> Sending {
        let (own, other) = (self.hosts[side], self.hosts[1 - side]);
        let builder = build::tcp().window(own.window);
        let quiet = Sending { from: EXT, builder, side, advance: 0, grant: None, fin: false };
        if own.is_silent() {
            return opening(quiet, own, other);
        }
        let sequence = own.next;
        let shift = if own.has_scale && other.has_scale { own.shift } else { 0 };
        let ack = other.next;
        // Nothing follows a FIN, mostly.
        let length = if own.is_done && !random.is_one_in(10) { 0 } else { payload(random) };
        let free = other.edge.wrapping_sub(sequence);
        // What hosts do nearly always: as much as they may.
        if random.below(100) < 80 {
            let length = if free < 1 << 31 { length.min(free as usize) } else { 0 };
            let window = if random.is_one_in(8) { random.next() as u16 } else { own.window };
            let edge = ack.wrapping_add((u32::from(window) << shift).max(1));
            let builder = quiet.builder.seq(sequence).ack(ack).window(window);
            let builder = builder.payload(&vec![5; length]);
            let grant = Some((edge, own.window));
            return Sending { builder, advance: length as u32, grant, ..quiet };
        }
        let near = |value: u32, random: &mut Random| {
            value.wrapping_add(random.below(5) as u32).wrapping_sub(2)
        };
        let plain = |sequence: u32, ack: u32| quiet.builder.clone().seq(sequence).ack(ack);
        let builder = match random.below(20) {
            // Sent before, and kept alive.
            0..=2 => plain(sequence.wrapping_sub(random.below(3_000) as u32), ack)
                .payload(&vec![5; payload(random)]),
            3 => plain(sequence.wrapping_sub(1), ack).payload(&[5][..random.below(2) as usize]),
            // At the right edge of what the other has granted.
            4 | 5 => plain(near(other.edge, random).wrapping_sub(length as u32), ack)
                .payload(&vec![5; length]),
            6 => plain(near(other.edge, random), ack),
            // At the left edge.
            7 => {
                let window = u32::from(other.window) << if shift > 0 { other.shift } else { 0 };
                plain(near(sequence.wrapping_sub(window), random), ack)
            }
            // Acknowledges what was not sent, or what was long ago.
            8 | 9 => plain(sequence, near(ack, random)),
            10 => {
                let window = u32::from(own.window) << shift;
                plain(sequence, near(ack.wrapping_sub(window), random))
            }
            11 => plain(random.next() as u32, random.next() as u32),
            // Zero window.
            12 => plain(sequence, ack).window(0),
            13 => {
                let builder = plain(sequence, ack).fin().payload(&vec![5; length]);
                let advance = if own.is_done { 0 } else { length as u32 + 1 };
                return Sending { builder, advance, fin: true, ..quiet };
            }
            14 if random.is_one_in(2) => plain(near(sequence, random), ack).rst(),
            15 => {
                // Somebody begins anew, or says so.
                let first = if random.is_one_in(3) { random.next() as u32 } else { own.first };
                quiet.builder.clone().seq(first).syn().wscale(own.shift)
            }
            16 => plain(own.first, other.next).syn(),
            17 => plain(sequence, ack).urg().psh().payload(&vec![5; length]),
            _ => tcp_options(plain(sequence, ack), random).payload(&vec![5; length]),
        };
        Sending { builder, ..quiet }
    }
}

/// Options of a SYN: the largest segment, selective acknowledgements, a scale, and timestamps.
fn offers(order: u32, shift: u8) -> Vec<u8> {
    let (mss, scale, sack) = ([2, 4, 5, 0xb4], [1, 3, 3, shift], [1, 1, 4, 2]);
    match order {
        1 => [mss, sack, scale].concat(),
        2 => [mss, scale, sack].concat(),
        _ => [mss, [4, 2, 8, 10], [0, 0, 0, 9], [0, 0, 0, 0], scale].concat(),
    }
}

/// A SYN, or the answer to one.
fn opening(quiet: Sending, own: Host, other: Host) -> Sending {
    let builder = quiet.builder.clone().syn().seq(own.first);
    let builder = match (own.has_scale, own.first % 4) {
        (true, 0) => builder.mss(1_460).wscale(own.shift),
        // As hosts send them.
        (true, order) => builder.tcp_options(&offers(order, own.shift)),
        (false, 0) => builder,
        (false, _) => builder.mss(1_460),
    };
    let window = u32::from(own.window);
    let (builder, edge) = if quiet.side == 0 {
        (builder, other.first.wrapping_add(1).wrapping_add(window))
    } else {
        (builder.ack(other.next), other.next.wrapping_add(window))
    };
    Sending { builder, advance: 1, grant: Some((edge, own.window)), ..quiet }
}

fn udp(side: usize, random: &mut Random) -> Sending {
    let length = payload(random);
    let builder = build::udp().payload(&vec![5; length]);
    let builder = match random.below(20) {
        0 => builder.without_checksum(),
        // A surplus behind the datagram (RFC 9868), or less than it says.
        1 => builder.lie_transport(4, &(random.below(length as u64 + 12) as u16).to_be_bytes()),
        _ => builder,
    };
    Sending { from: EXT, builder, side, advance: 0, grant: None, fin: false }
}

fn payload(random: &mut Random) -> usize {
    match random.below(8) {
        0 | 1 => 0,
        2..=4 => random.below(100) as usize,
        5 | 6 => random.below(1_448) as usize,
        // About the MTU.
        _ => 1_400 + random.below(80) as usize,
    }
}

/// Options that an established connection has, and those that it has not.
fn tcp_options(builder: FrameBuilder, random: &mut Random) -> FrameBuilder {
    match random.below(10) {
        0..=3 => builder.timestamp(random.next() as u32, 7),
        4 => builder.tcp_options(&[1, 1, 5, 10, 0, 0, 0, 1, 0, 0, 0, 2]),
        5 => {
            let blocks = 8 * (1 + random.below(4) as u8);
            let option = [&[1, 1, 5, 2 + blocks], &vec![9; blocks.into()][..]].concat();
            builder.tcp_options(&option)
        }
        6 => builder.mss(1_000),
        7 => builder.tcp_options(&[30, 4, 1, 1]),
        8 => builder.tcp_options(&[0, 0, 0, 0]),
        _ => {
            let bytes = random.next().to_be_bytes();
            builder.tcp_options(&bytes[..4 + 4 * random.below(2) as usize])
        }
    }
}

/// One packet in some has something about it that packets of a flow rarely have.
fn unusual(builder: FrameBuilder, random: &mut Random) -> FrameBuilder {
    let builder = builder
        .dont_fragment(random.below(3) > 0)
        .identification(random.next() as u16)
        .hop_limit(random.pick(&[64, 64, 64, 128, 255, 2]));
    match random.below(60) {
        0 => builder.hop_limit(random.below(2) as u8),
        1 => builder.bad_transport_checksum(),
        2 => builder.bad_ip_checksum(),
        3 => builder.partial_checksum(),
        // Type of service and traffic class; the reserved flag; a length that is not the frame's.
        4 | 5 => builder.lie_ip(1, &[random.next() as u8 & 0xf0]),
        6 => builder.lie_ip(6, &[0x80]),
        7 => builder.lie_ip(2, &(random.below(120) as u16).to_be_bytes()),
        _ => builder,
    }
}
