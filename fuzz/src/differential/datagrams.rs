//! Conversations of UDP and ICMP, and datagrams in pieces.

use std::ops::Range;

use gabion_engine::build;

use super::rng::Rng;
use super::script::{Conversation, ECHO_PATHS, Packet, Path, Step, UDP_PATHS, complaint};

pub(super) fn udp(rng: &mut Rng, port: u16) -> Conversation {
    let path = *rng.of(&UDP_PATHS);
    let mut steps = Vec::new();
    let data = |rng: &mut Rng| vec![b'u'; rng.below(64) as usize + 8];
    for turn in 0..3 + rng.below(5) {
        let builder = build::udp().payload(&data(rng));
        let step = match rng.below(14) {
            0..=3 => path.ask("plain", builder, port),
            4..=6 if turn > 0 => path.answer("plain", builder, port),
            7 => path
                .answer("udp: from another port", builder, port)
                .changed(|builder| builder.from(&Path::end(path.server, path.server_port + 1))),
            8 => path.ask("udp: bad checksum", builder.bad_transport_checksum(), port),
            9 if !path.is_v6() => path.ask("udp: no checksum", builder.without_checksum(), port),
            10 => path.ask("udp: length too long", builder.lie_transport(4, &[0, 250]), port),
            11 => path.ask("udp: length too short", builder.lie_transport(4, &[0, 7]), port),
            12 => path.ask("hop limit 1", builder.hop_limit(1), port),
            13 => complaint(rng, &path),
            _ => path.ask("plain", builder, port),
        };
        steps.push(step);
    }
    Conversation { name: path.name, steps }
}

pub(super) fn echo(rng: &mut Rng, port: u16) -> Conversation {
    let path = *rng.of(&ECHO_PATHS);
    let mut steps = Vec::new();
    for turn in 0..3 + rng.below(5) {
        let request = build::icmp_echo().id(port).echo_seq(turn as u16).payload(b"ping");
        let reply = build::icmp_echo_reply().id(port).echo_seq(turn as u16).payload(b"ping");
        let step = match rng.below(10) {
            0..=3 => path.ask("plain", request, port),
            4..=5 if turn > 0 => path.answer("plain", reply, port),
            6 => path.ask("echo: an unasked reply", reply.id(port + 1), port),
            7 => path.ask("echo: bad checksum", request.bad_transport_checksum(), port),
            8 => complaint(rng, &path),
            _ => path.ask("plain", request, port),
        };
        steps.push(step);
    }
    Conversation { name: path.name, steps }
}

/// A datagram in pieces, some of them wrong.
pub(super) fn fragments(rng: &mut Rng, port: u16) -> Conversation {
    let path = *rng.of(&UDP_PATHS);
    let payload: Vec<u8> = (0..200).collect();
    let builder = build::udp()
        .payload(&payload)
        .dont_fragment(false)
        .from(&Path::end(path.client, port))
        .to(&Path::end(path.asked, path.server_port));
    let identification = rng.next() as u32;
    let piece = |what, range: Range<usize>, more| Step {
        from: path.client_side,
        what,
        packet: Packet::Piece { builder: builder.clone(), range, more, identification },
        learns: path.hides,
    };
    let steps = match rng.below(8) {
        0 => vec![piece("fragment: first", 0..104, true), piece("fragment: last", 104..208, false)],
        1 => vec![piece("fragment: last", 104..208, false), piece("fragment: first", 0..104, true)],
        2 => vec![
            piece("fragment: first", 0..104, true),
            piece("fragment: overlap", 96..152, true),
            piece("fragment: rest of an overlap", 152..208, false),
        ],
        3 => vec![
            piece("fragment: first", 0..104, true),
            piece("fragment: duplicate", 0..104, true),
            piece("fragment: last after a duplicate", 104..208, false),
        ],
        4 => vec![
            piece("fragment: tiny", 0..8, true),
            piece("fragment: rest of a tiny", 8..208, false),
        ],
        5 => vec![
            piece("fragment: first", 0..104, true),
            piece("fragment: two ends", 104..160, false),
            piece("fragment: behind an end", 160..208, false),
        ],
        6 => vec![
            piece("fragment: odd length", 0..101, true),
            piece("fragment: rest of an odd", 104..208, false),
        ],
        _ => vec![piece("fragment: last without a first", 104..208, false)],
    };
    Conversation { name: path.name, steps }
}
