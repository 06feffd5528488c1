//! Buffers that packets between nodes come in, one after the other and several together.

use gabion_engine::{
    Checksum, Datagrams, Frame, NodeId, Offload, SegmentKind, Unwrapped, Verdict, Wrapped, build,
};
use gabion_tests::network::interface_id;

use super::super::POLICY;
use super::wall::Wall;
use super::{CLIENT, HOST, client, open};

const SIZE: u16 = 1_340;

/// A packet of the client's that comes to node 2, handed over to node 1, which owns its flow; as datagrams.
fn handed_over(wall: &mut Wall, frame: &build::FrameBuilder) -> (Vec<u8>, usize) {
    let mut bytes = frame.frame();
    let now = wall.now;
    let engine = wall.engine(2);
    let mut frame = Frame { bytes: &mut bytes, offload: frame.offload() };
    let verdict = engine.handle_frame(now, interface_id("ext"), &mut frame);
    assert_eq!(verdict, Verdict::ToPeer { node: NodeId(1) });
    let Wrapped { bytes, stride, .. } = engine.poll_wrapped().unwrap();
    (bytes, stride)
}

fn take(wall: &mut Wall, buffer: &mut [u8], stride: usize) -> Unwrapped {
    let (now, mut rest) = (wall.now, Datagrams::new(stride));
    let length = buffer.len();
    let taken = wall.engine(1).handle_datagrams(now, NodeId(2), buffer, &mut rest).unwrap();
    assert!(rest.is_empty(length) && matches!(taken.verdict, Verdict::Forward { .. }), "{taken:?}");
    taken
}

fn data(at: u32, payload: &[u8]) -> build::FrameBuilder {
    client(40_000).seq(CLIENT + 1_001 + at).ack(HOST + 5_001).payload(payload)
}

/// Regression: what is left undone in one datagram is not in the next that comes into its buffer.
#[test]
fn a_buffer_remembers_no_sum_that_was_left_undone() {
    let mut wall = Wall::new(2, POLICY);
    open(&mut wall, 40_000, 1, 2);
    let mut buffer = vec![0; 65_536];
    let whole = data(0, &[7; 900]);
    let undone = data(0, &[9; 1_200]).partial_checksum();
    for (frame, is_undone) in [(&undone, true), (&whole, false), (&undone, true), (&whole, false)] {
        let (datagram, stride) = handed_over(&mut wall, frame);
        buffer[..datagram.len()].copy_from_slice(&datagram);
        let taken = take(&mut wall, &mut buffer[..datagram.len()], stride);
        let Offload { checksum, segments } = taken.offload;
        assert_eq!((checksum != Checksum::Unverified, segments), (is_undone, None));
    }
}

/// The same within one buffer: two datagrams that came together, of which only the first has its sum undone.
#[test]
fn a_sum_that_was_left_undone_is_of_its_datagram_alone() {
    let mut wall = Wall::new(2, POLICY);
    open(&mut wall, 40_000, 1, 2);
    let payload = [7; 900];
    let (first, stride) = handed_over(&mut wall, &data(0, &payload).partial_checksum());
    let (second, _) = handed_over(&mut wall, &data(900, &payload));
    let mut buffer = [first, second].concat();
    let (now, mut rest) = (wall.now, Datagrams::new(stride));
    let mut take = || {
        let taken = wall.engine(1).handle_datagrams(now, NodeId(2), &mut buffer, &mut rest);
        taken.unwrap().offload
    };
    let offloads = [take(), take()];
    assert!(matches!(offloads[0].checksum, Checksum::Partial { .. }), "{offloads:?}");
    assert_eq!(offloads[1], Offload::default());
}

/// A superframe that was cut for the way between nodes is, at its owner, the very frame that came in.
#[test]
fn a_superframe_that_was_cut_arrives_as_it_was() {
    let mut wall = Wall::new(2, POLICY);
    open(&mut wall, 40_000, 1, 2);
    let payload: Vec<u8> = (0..47 * u32::from(SIZE)).map(|at| (at / 7) as u8).collect();
    let frame = data(0, &payload).timestamp(1, 2).segment_size(SIZE);
    let (mut datagrams, stride) = handed_over(&mut wall, &frame);
    let taken = take(&mut wall, &mut datagrams, stride);
    let Offload { checksum: Checksum::Partial { .. }, segments: Some(segments) } = taken.offload
    else {
        panic!("{taken:?}");
    };
    assert_eq!((segments.kind, segments.size), (SegmentKind::TcpIpv4, SIZE));
    let left = &datagrams[taken.frame];
    assert!(left.ends_with(&payload));
    assert_eq!(left.len(), frame.frame().len());
}
