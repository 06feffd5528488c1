//! Steps out of a fuzzer's bytes: one byte a choice, so that a changed byte is another choice and
//! what follows stays what it was.

use std::time::Duration;

use super::steps::{ADDRESSES, Kind, NetworkChange, PORTS, Packet, Step};

/// As many steps as one walk may have: longer ones find nothing that these do not, only slower.
const STEPS_MAX: usize = 200;

/// Reads a walk. Any bytes are one; behind their end all choices are the first.
pub fn steps(bytes: &[u8]) -> Vec<Step> {
    let mut choices = Choices(bytes);
    let mut steps = Vec::new();
    while !choices.0.is_empty() && steps.len() < STEPS_MAX {
        steps.push(step(&mut choices));
    }
    steps
}

struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// One of `count`.
    fn of(&mut self, count: usize) -> usize {
        usize::from(self.byte()) % count
    }
}

fn step(choices: &mut Choices<'_>) -> Step {
    match choices.byte() % 32 {
        0..=9 => Step::Packet { from: interface(choices), packet: packet(choices) },
        10..=12 => likely(choices),
        13..=14 => Step::Garbage {
            from: interface(choices),
            packet: packet(choices),
            flips: (0..=choices.of(4)).map(|_| (choices.of(120), choices.byte())).collect(),
            cut: usize::from(choices.byte()),
        },
        15..=20 => Step::Answer { of: choices.of(12), more: choices.byte() },
        21..=23 => Step::Error {
            about: choices.of(12),
            kind: choices.byte() % 16,
            code: choices.byte() % 16,
            mtu: choices.word() % 1_700,
        },
        24..=26 => Step::Wait(time(choices)),
        27 => Step::Commit(choices.of(10)),
        28 => Step::Network(network(choices)),
        29..=30 => Step::Neighbour {
            known: !choices.byte().is_multiple_of(4),
            out: interface(choices),
            which: choices.of(ADDRESSES.len() + 2),
        },
        _ => Step::Gate { open: !choices.byte().is_multiple_of(4) },
    }
}

fn interface(choices: &mut Choices<'_>) -> u16 {
    u16::from(choices.byte() % 3)
}

/// Up to some hours, the short ones finely.
fn time(choices: &mut Choices<'_>) -> Duration {
    let count = u64::from(choices.byte());
    match choices.byte() % 4 {
        0 => Duration::from_millis(count),
        1 => Duration::from_millis(count * 100),
        2 => Duration::from_secs(count),
        _ => Duration::from_secs(count * 60),
    }
}

fn network(choices: &mut Choices<'_>) -> NetworkChange {
    match choices.of(8) {
        0 => NetworkChange::WithoutRoutes,
        1 => NetworkChange::OtherAddress,
        2 => NetworkChange::LinkDown,
        3 => NetworkChange::SmallMtu,
        _ => NetworkChange::AsBuilt,
    }
}

/// A first packet that most policies let pass.
fn likely(choices: &mut Choices<'_>) -> Step {
    let port = 5_000 + u16::from(choices.byte() % 12);
    let plain = Packet {
        kind: Kind::Udp,
        source: 1,
        destination: 0,
        ports: (port, 53),
        hop_limit: 64,
        length: choices.of(60),
        dont_fragment: false,
        offloaded: false,
        cut: None,
    };
    match choices.byte() % 8 {
        0..=2 => Step::Packet { from: 1, packet: plain },
        3..=4 => {
            let destination = [1, 2, 4][choices.of(3)];
            let kind = Kind::Tcp(1);
            let packet = Packet { kind, source: 0, destination, ports: (port, 443), ..plain };
            Step::Packet { from: 0, packet: Packet { length: 0, ..packet } }
        }
        5 => {
            let kind = Kind::Tcp(1);
            Step::Packet { from: 1, packet: Packet { kind, ports: (port, 443), ..plain } }
        }
        6 => {
            let ports = (port, 2_000 + u16::from(choices.byte() % 8));
            let packet = Packet { source: 7, destination: 3, ports, ..plain };
            Step::Packet { from: 0, packet }
        }
        _ => Step::Packet { from: 1, packet: Packet { kind: Kind::Echo, ..plain } },
    }
}

fn packet(choices: &mut Choices<'_>) -> Packet {
    let kind = match choices.byte() % 16 {
        0..=5 => Kind::Tcp(choices.byte() % 32),
        6..=10 => Kind::Udp,
        11..=12 => Kind::Echo,
        13 => Kind::EchoReply,
        _ => Kind::Other([47, 50, 132, 0][choices.of(4)]),
    };
    let special = choices.byte();
    Packet {
        kind,
        source: choices.of(ADDRESSES.len()),
        destination: choices.of(ADDRESSES.len()),
        ports: (port(choices), port(choices)),
        hop_limit: if special & 1 == 1 { choices.byte() % 4 } else { 64 },
        length: if special & 2 == 2 { usize::from(choices.word()) % 3_000 } else { choices.of(40) },
        dont_fragment: special & 4 == 4,
        offloaded: special & 24 == 24,
        cut: (special & 96 == 96)
            .then(|| (choices.byte(), special & 128 == 128, u32::from(choices.byte() % 4))),
    }
}

fn port(choices: &mut Choices<'_>) -> u16 {
    match choices.byte() {
        place @ 0..=127 => PORTS[usize::from(place) % PORTS.len()],
        place @ 128..=239 => 2_000 + u16::from(place % 12),
        _ => choices.word(),
    }
}
