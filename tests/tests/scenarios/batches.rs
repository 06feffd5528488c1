//! Frames in batches fare as they do one by one.

use std::time::Duration;

use gabion_engine::build::{tcp, udp};
use gabion_engine::{Event, Frame, InterfaceId, Limits, Neighbour, Offload, Transmit, Verdict};
use proptest::prelude::*;

use super::POLICY;
use super::dialogue::Dialogue;

/// One of few packets: openings, answers and strays of a dozen connections, so that packets of one
/// batch open, use and close the same flow.
fn frame(kind: u8, host: u8) -> (InterfaceId, Vec<u8>) {
    let (outside, inside) = (InterfaceId(0), InterfaceId(1));
    let client = format!("10.1.0.{}:4000", 10 + host % 6);
    let wide = format!("[2600:2::{}]:4000", 1 + host % 6);
    let server = "198.51.100.7:443";
    let from_client = || tcp().from(&client).to(server);
    match kind {
        0 => (inside, from_client().syn().seq(1).window(9_000).frame()),
        1 => (inside, from_client().seq(2).ack(1).window(9_000).frame()),
        2 => (inside, from_client().rst().seq(2).frame()),
        3 => (inside, udp().from(&client).to("198.51.100.7:53").payload(b"what").frame()),
        4 => (inside, udp().from(&wide).to("[2600:9::7]:53").payload(b"what").frame()),
        5 => (outside, udp().from("[2600:9::7]:53").to(&wide).payload(b"this").frame()),
        6 => (outside, tcp().from(server).to("203.0.113.1:5000").syn().ack(2).frame()),
        7 => (inside, vec![host; usize::from(host) * 2]),
        _ => (inside, from_client().syn().seq(u32::from(host)).frame()),
    }
}

/// All that can be seen of a dialogue's end of a turn.
fn turn(dialogue: &mut Dialogue) -> (Vec<Transmit>, Vec<Event>) {
    let engine = &mut dialogue.engine;
    let (mut sent, mut events) = (Vec::new(), Vec::new());
    loop {
        sent.extend(std::iter::from_fn(|| engine.poll_transmit()));
        let Some(event) = engine.poll_event() else { return (sent, events) };
        if let Event::NeighbourWanted { interface, address } = &event {
            let known = Neighbour::Reachable { mac: [2, 0, 0, 0, 1, 1] };
            engine.handle_neighbour(dialogue.now, *interface, address.to_ip(), known);
        }
        events.push(event);
    }
}

proptest! {
    /// Covers: 4787-11
    #[test]
    fn frames_of_a_batch_fare_as_one_by_one(
        batches in prop::collection::vec(
            (prop::collection::vec((0..9_u8, 0..12_u8), 0..70), 0..400_u64), 1..8,
        ),
    ) {
        // So few flows that the table is full at times.
        let limits = Limits { flows: 64, mappings: 64, ..Limits::default() };
        let mut singly = Dialogue::with_limits(POLICY, limits);
        let mut together = Dialogue::with_limits(POLICY, limits);
        for (batch, seconds) in batches {
            let frames: Vec<_> = batch.iter().map(|&(kind, host)| frame(kind, host)).collect();
            let (mut one, mut many) = (frames.clone(), frames);
            let offload = Offload::default();
            let expected: Vec<Verdict> = one
                .iter_mut()
                .map(|(from, bytes)| {
                    let now = singly.now;
                    singly.engine.handle_frame(now, *from, &mut Frame { bytes, offload })
                })
                .collect();
            let mut verdicts = Vec::new();
            let mut borrowed: Vec<_> =
                many.iter_mut().map(|(from, bytes)| (*from, Frame { bytes, offload })).collect();
            together.engine.handle_frames(together.now, &mut borrowed, &mut verdicts);
            prop_assert_eq!(verdicts, expected);
            prop_assert_eq!(many, one);
            prop_assert_eq!(turn(&mut together), turn(&mut singly));
            prop_assert_eq!(together.engine.counters(), singly.engine.counters());
            for dialogue in [&mut singly, &mut together] {
                dialogue.now = dialogue.now + Duration::from_secs(seconds);
                let now = dialogue.now;
                dialogue.engine.handle_timeout(now);
            }
            prop_assert_eq!(together.engine.flows(0, 999), singly.engine.flows(0, 999));
        }
    }
}
