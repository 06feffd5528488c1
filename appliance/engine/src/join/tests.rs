#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::build::{self, FrameBuilder};

/// Frames as they come: one behind the other, with room for headers between.
#[derive(Default)]
struct Joiner {
    buffer: Vec<u8>,
    run: Option<Run>,
}

impl Joiner {
    fn push(&mut self, frame: &[u8]) -> bool {
        let Some(run) = &mut self.run else {
            self.buffer = frame.to_vec();
            self.run = Some(Run::new(frame, Sums::Whole));
            return true;
        };
        self.buffer.extend_from_slice(&[0xee; 18]);
        let place = self.buffer.len()..self.buffer.len() + frame.len();
        self.buffer.extend_from_slice(frame);
        run.join(&mut self.buffer, place)
    }

    fn take(&mut self) -> Option<(&[u8], Offload)> {
        let (end, offload) = self.run.take()?.finish(&mut self.buffer);
        Some((&self.buffer[..end], offload))
    }
}

const FIRST: u32 = u32::MAX - 5_000;

fn segment(is_ipv4: bool) -> FrameBuilder {
    let tcp = build::tcp().ack(77).window(900).timestamp(5, 6);
    if is_ipv4 {
        tcp.from("198.51.100.9:40000").to("10.1.0.10:80")
    } else {
        tcp.from("[2001:db8::9]:40000").to("[2001:db8:1::10]:80")
    }
}

/// A segment of a stream, `number` segments behind the first and `at` bytes.
fn part(is_ipv4: bool, number: u16, at: usize, payload: &[u8]) -> FrameBuilder {
    let part = segment(is_ipv4).seq(FIRST.wrapping_add(at as u32)).payload(payload);
    if is_ipv4 { with_id(part, number) } else { part }
}

fn with_id(frame: FrameBuilder, number: u16) -> FrameBuilder {
    frame.lie_ip(4, &0xfffe_u16.wrapping_add(number).to_be_bytes()).lie_ip(6, &[0x40, 0])
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 7) as u8).collect()
}

proptest! {
    /// Against the frame that a host makes, which leaves the cutting to its card.
    #[test]
    fn segments_make_up_the_superframe_that_they_were_cut_from(
        is_ipv4: bool,
        is_pushed: bool,
        size in 1..1_449_usize,
        count in 2..40_usize,
        last in 0..1_448_usize,
    ) {
        let payload = bytes(size * (count - 1) + 1 + last % size);
        let mut joiner = Joiner::default();
        let last = payload.chunks(size).count() - 1;
        for (number, chunk) in payload.chunks(size).enumerate() {
            let part = part(is_ipv4, number as u16, number * size, chunk);
            let part = if is_pushed && number == last { part.psh() } else { part };
            prop_assert!(joiner.push(&part.frame()));
        }
        let whole = part(is_ipv4, 0, 0, &payload).segment_size(size as u16);
        let whole = if is_pushed { whole.psh() } else { whole };
        let (joined, offload) = joiner.take().unwrap();
        prop_assert_eq!(offload, whole.offload());
        prop_assert!(joined == whole.frame());
        prop_assert!(joiner.take().is_none());
    }

    #[test]
    fn any_frame_alone_leaves_as_it_came(frame in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut joiner = Joiner::default();
        prop_assert!(joiner.push(&frame));
        prop_assert_eq!(joiner.take(), Some((&*frame, Offload::default())));
    }

    #[test]
    fn no_bytes_make_it_panic(
        flips in prop::collection::vec((0..200_usize, any::<u8>()), 0..4),
        is_ipv4: bool,
    ) {
        let mut joiner = Joiner::default();
        let mut first = part(is_ipv4, 0, 0, &bytes(120)).frame();
        let second = part(is_ipv4, 1, 120, &bytes(120)).frame();
        for (at, value) in flips {
            let at = at % first.len();
            first[at] = value;
        }
        prop_assert!(joiner.push(&first));
        let _ = joiner.push(&second);
        prop_assert!(joiner.take().is_some());
    }
}

#[test]
fn what_cutting_does_not_make_is_not_joined() {
    let payload = bytes(100);
    for is_ipv4 in [true, false] {
        let first = || part(is_ipv4, 0, 0, &payload);
        let next = || part(is_ipv4, 1, 100, &payload);
        let ttl = if is_ipv4 { 8 } else { 7 };
        let others = [
            ("a gap", part(is_ipv4, 1, 101, &payload)),
            ("once more", part(is_ipv4, 1, 0, &payload)),
            ("another acknowledgement", next().ack(78)),
            ("another window", next().window(901)),
            ("other options", next().timestamp(5, 7)),
            ("another hop limit", next().lie_ip(ttl, &[9])),
            ("the end", next().fin()),
            ("urgent data", next().urg()),
            ("a wrong checksum", next().bad_transport_checksum()),
            ("a larger one", part(is_ipv4, 1, 100, &bytes(101))),
            ("no data", part(is_ipv4, 1, 100, &[])),
        ];
        for (what, other) in others {
            let mut joiner = Joiner::default();
            assert!(joiner.push(&first().frame()));
            assert!(!joiner.push(&other.frame()), "{what}");
            assert_eq!(joiner.take(), Some((&*first().frame(), Offload::default())), "{what}");
        }
        for (what, first) in [
            ("pushed", first().psh()),
            ("ended", first().fin()),
            ("wrong", first().bad_transport_checksum()),
        ] {
            let mut joiner = Joiner::default();
            assert!(joiner.push(&first.frame()));
            assert!(!joiner.push(&next().frame()), "{what}");
        }
    }
    let mut joiner = Joiner::default();
    assert!(joiner.push(&part(true, 0, 0, &payload).frame()));
    assert!(!joiner.push(&part(true, 2, 100, &payload).frame()), "identifications count");
}

#[test]
fn a_shorter_segment_is_the_last() {
    let mut joiner = Joiner::default();
    assert!(joiner.push(&part(true, 0, 0, &bytes(100)).frame()));
    assert!(joiner.push(&part(true, 1, 100, &bytes(99)).frame()));
    assert!(!joiner.push(&part(true, 2, 199, &bytes(99)).frame()));
}

#[test]
fn no_superframe_is_larger_than_an_ip_packet() {
    let mut joiner = Joiner::default();
    let payload = bytes(1_400);
    let mut count = 0;
    while joiner.push(&part(true, count, usize::from(count) * 1_400, &payload).frame()) {
        count += 1;
    }
    assert_eq!(usize::from(count), (IP_BYTES - 52) / 1_400);
    assert!(joiner.take().unwrap().0.len() <= IP_BYTES + ETHERNET);
}
