#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::{Loopback, Wire};

/// Sends frames numbered from zero through the faults, a few per turn; returns what arrives.
fn arrivals(seed: u64, faults: Faults, frames: u8) -> Vec<Vec<u8>> {
    let (inner, wire) = Loopback::new(1).unwrap();
    let mut faulty = Faulty::new(inner, seed, faults);
    let mut seen = Vec::new();
    for numbers in (0..frames).collect::<Vec<_>>().chunks(3) {
        for &number in numbers {
            wire.inject(Port(0), frame(number), VnetHeader::default());
        }
        turn(&mut faulty, &mut seen);
    }
    // What was held back at the end.
    turn(&mut faulty, &mut seen);
    seen
}

fn turn(faulty: &mut Faulty<Loopback>, seen: &mut Vec<Vec<u8>>) {
    while faulty
        .receive(4, &mut |frames| seen.extend(frames.iter().map(|frame| frame.bytes.to_vec())))
        .unwrap()
        > 0
    {}
}

fn frame(number: u8) -> Vec<u8> {
    let mut bytes = vec![number; 14];
    bytes.extend([number; 4]);
    bytes
}

fn all(frames: u8) -> Vec<Vec<u8>> {
    (0..frames).map(frame).collect()
}

proptest! {
    #[test]
    fn without_faults_nothing_changes(seed: u64) {
        prop_assert_eq!(arrivals(seed, Faults::NONE, 40), all(40));
    }

    #[test]
    fn delay_reorders_and_loses_nothing(seed: u64) {
        let mut seen = arrivals(seed, Faults { delayed: 300, ..Faults::NONE }, 40);
        seen.sort();
        prop_assert_eq!(seen, all(40));
    }

    #[test]
    fn a_seed_spoils_the_same_way_twice(seed: u64) {
        let faults = Faults { lost: 200, doubled: 200, delayed: 200, corrupted: 200 };
        prop_assert_eq!(arrivals(seed, faults, 40), arrivals(seed, faults, 40));
    }

    #[test]
    fn corruption_turns_one_bit_behind_the_ethernet_header(seed: u64) {
        let seen = arrivals(seed, Faults { corrupted: 1000, ..Faults::NONE }, 40);
        for (seen, sent) in seen.iter().zip(all(40)) {
            prop_assert_eq!(&seen[..14], &sent[..14]);
            let turned: u32 = seen.iter().zip(&sent).map(|(a, b)| (a ^ b).count_ones()).sum();
            prop_assert_eq!(turned, 1);
        }
    }
}

#[test]
fn always_means_always() {
    assert_eq!(arrivals(1, Faults { lost: 1000, ..Faults::NONE }, 40), Vec::<Vec<u8>>::new());
    let doubled = arrivals(1, Faults { doubled: 1000, ..Faults::NONE }, 40);
    assert_eq!(doubled, all(40).into_iter().flat_map(|f| [f.clone(), f]).collect::<Vec<_>>());
}

#[test]
fn a_few_of_a_thousand_strike_sometimes() {
    let seen = arrivals(7, Faults { lost: 500, ..Faults::NONE }, 200);
    assert!((50..150).contains(&seen.len()), "{}", seen.len());
    assert_ne!(arrivals(7, Faults { delayed: 500, ..Faults::NONE }, 40), all(40));
}

#[test]
fn frames_leave_by_the_inner_datapath() {
    let (inner, wire): (Loopback, Wire) = Loopback::new(2).unwrap();
    let mut faulty = Faulty::new(inner, 1, Faults { doubled: 1000, ..Faults::NONE });
    wire.inject(Port(0), *b"frame", VnetHeader::default());
    let to_other = &mut |frames: &mut [FrameMut<'_>]| {
        frames.iter_mut().for_each(|frame| frame.out = Some(Port(1)));
    };
    faulty.receive(8, to_other).unwrap();
    faulty.flush().unwrap();
    assert_eq!(wire.take(Port(1)).unwrap().bytes, b"frame");
    assert_eq!(wire.take(Port(1)).unwrap().bytes, b"frame");
    assert_eq!(wire.take(Port(1)), None);
    assert_eq!(faulty.counters(Port(0)).received, 1);
}
