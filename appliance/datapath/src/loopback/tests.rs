#![allow(clippy::unwrap_used)]

use super::*;

const LEFT: Port = Port(0);
const RIGHT: Port = Port(1);

fn partial() -> VnetHeader {
    VnetHeader { flags: VnetHeader::NEEDS_CHECKSUM, checksum_start: 34, ..VnetHeader::default() }
}

#[test]
fn a_frame_crosses_changed_and_is_counted_once() {
    let (mut datapath, wire) = Loopback::new(2).unwrap();
    assert!(wire.inject(LEFT, *b"frame", partial()));
    datapath.wait(None).unwrap();
    let handled = datapath
        .receive(8, &mut |frames| {
            let [frame] = frames else { panic!("{frames:?}") };
            assert_eq!((frame.from, frame.vnet), (LEFT, partial()));
            frame.bytes[0] = b'F';
            frame.out = Some(RIGHT);
        })
        .unwrap();
    assert_eq!(handled, 1);
    assert_eq!(wire.take(RIGHT), None, "frames wait for flush");
    datapath.flush().unwrap();
    assert_eq!(wire.take(RIGHT), Some(OwnedFrame { bytes: b"Frame".to_vec(), vnet: partial() }));
    assert_eq!(datapath.counters(LEFT), PortCounters { received: 1, ..Default::default() });
    assert_eq!(datapath.counters(RIGHT), PortCounters { sent: 1, ..Default::default() });
}

#[test]
fn budget_bounds_a_turn_and_order_is_kept() {
    let (mut datapath, wire) = Loopback::new(1).unwrap();
    for number in 0..5_u8 {
        wire.inject(LEFT, [number], VnetHeader::default());
    }
    let mut seen = Vec::new();
    for expected in [2, 2, 1, 0] {
        let handled = datapath.receive(2, &mut |frames| {
            seen.extend(frames.iter().map(|frame| frame.bytes[0]));
        });
        assert_eq!(handled.unwrap(), expected);
    }
    assert_eq!(seen, [0, 1, 2, 3, 4]);
}

#[test]
fn own_frames_leave_behind_forwarded_ones() {
    let (mut datapath, wire) = Loopback::new(2).unwrap();
    wire.inject(LEFT, *b"first", VnetHeader::default());
    datapath.receive(1, &mut |frames| frames[0].out = Some(RIGHT)).unwrap();
    assert!(datapath.transmit(RIGHT, b"second", VnetHeader::default()));
    datapath.flush().unwrap();
    assert_eq!(wire.take(RIGHT).unwrap().bytes, b"first");
    assert_eq!(wire.take(RIGHT).unwrap().bytes, b"second");
}

#[test]
fn a_port_without_cable_receives_and_sends_nothing() {
    let (mut datapath, wire) = Loopback::new(2).unwrap();
    wire.inject(RIGHT, *b"lost", VnetHeader::default());
    wire.set_up(RIGHT, false);
    assert!(!datapath.port_up(RIGHT));
    assert_eq!(datapath.probe(), Err(ProbeError::PortDown("loopback1".to_owned())));
    assert!(!wire.inject(RIGHT, *b"lost", VnetHeader::default()));
    datapath.transmit(RIGHT, b"lost", VnetHeader::default());
    datapath.flush().unwrap();
    assert_eq!(datapath.counters(RIGHT), PortCounters { transmit_drops: 1, ..Default::default() });

    wire.set_up(RIGHT, true);
    assert_eq!(datapath.probe(), Ok(()));
    assert!(wire.inject(RIGHT, *b"there", VnetHeader::default()));
}

#[test]
fn a_full_wire_drops_and_counts() {
    let (mut datapath, wire) = Loopback::new(1).unwrap();
    for _ in 0..WIRE_FRAMES {
        assert!(wire.inject(LEFT, *b"x", VnetHeader::default()));
    }
    assert!(!wire.inject(LEFT, *b"x", VnetHeader::default()));
    assert_eq!(datapath.counters(LEFT), PortCounters { ring_drops: 1, ..Default::default() });

    for _ in 0..WIRE_FRAMES {
        assert!(datapath.transmit(LEFT, b"x", VnetHeader::default()));
    }
    assert!(!datapath.transmit(LEFT, b"x", VnetHeader::default()));
    assert_eq!(datapath.counters(LEFT).transmit_drops, 1);
}

#[test]
fn another_thread_injects_and_wakes() {
    let (mut datapath, wire) = Loopback::new(1).unwrap();
    let thread = std::thread::spawn(move || wire.inject(LEFT, *b"x", VnetHeader::default()));
    let mut seen = 0;
    while seen == 0 {
        datapath.wait(None).unwrap();
        seen = datapath.receive(1, &mut |_| ()).unwrap();
    }
    assert!(thread.join().unwrap());
}
