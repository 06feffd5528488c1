#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::Address;

const FLOWS: u32 = 64;

/// So many for anybody, and as many again for who is known.
fn limits(all: u32, each: u32) -> FloodLimits {
    FloodLimits {
        half_open: 2 * all,
        half_open_per_destination: 2 * each,
        ..gabion_rules::Settings::default().flood
    }
}

fn at(millis: u64) -> Time {
    Time::from_nanos(millis * 1_000_000)
}

fn server(number: u8) -> Endpoint {
    Endpoint { address: Address::from([10, 1, 0, number]), port: 443 }
}

fn newcomer(source: u32, to: u8) -> Newcomer {
    let source = Endpoint { address: Address::from(source.to_be_bytes()), port: 40_000 };
    let key = FlowKey { source, destination: server(to), protocol: 6 };
    Newcomer { key, destination: server(to), sequence: source.port.into() }
}

/// `limit` handshakes of anybody to server 1 that began at `at(0)`.
fn full(limit: u8) -> HalfOpen {
    let mut half_open = HalfOpen::new(FLOWS, [[3; 16], [4; 16]]);
    for number in 0..u32::from(limit) {
        let place = half_open.admit(at(0), &limits(40, limit.into()), &newcomer(number, 1));
        assert_eq!(place, Ok(None));
        half_open.add(at(0), Slot(number), server(1));
    }
    half_open
}

/// Covers: CC-1.10, 3.14
#[test]
fn at_the_limit_who_does_not_come_back_is_refused() {
    let mut half_open = full(8);
    for source in 100..2_000 {
        let now = at(u64::from(source) * 10);
        assert_eq!(
            half_open.admit(now, &limits(40, 8), &newcomer(source, 1)),
            Err(DropReason::SynChallenged)
        );
        // Another server is none of its business.
        assert_eq!(half_open.admit(now, &limits(40, 8), &newcomer(source, 2)), Ok(None));
    }
}

#[test]
fn a_repeated_syn_takes_the_place_of_the_oldest() {
    let mut half_open = full(8);
    let (limits, late) = (limits(40, 8), newcomer(100, 1));
    assert!(half_open.admit(at(500), &limits, &late).is_err());
    // A copy, not a repetition.
    assert!(half_open.admit(at(600), &limits, &late).is_err());
    // Another sequence number is another SYN.
    assert!(half_open.admit(at(1_500), &limits, &Newcomer { sequence: 9, ..late }).is_err());
    assert_eq!(half_open.admit(at(1_500), &limits, &late), Ok(Some(Slot(0))));
    half_open.take(Slot(0));
    half_open.add(at(1_500), Slot(0), server(1));
    let later = newcomer(101, 1);
    assert!(half_open.admit(at(1_600), &limits, &later).is_err());
    assert_eq!(half_open.admit(at(2_600), &limits, &later), Ok(Some(Slot(1))));
    // What was refused too long ago is forgotten.
    assert!(half_open.admit(at(20_000), &limits, &late).is_err());
}

#[test]
fn a_source_that_is_known_has_places_of_its_own() {
    let mut half_open = full(8);
    let limits = limits(40, 8);
    half_open.know(at(0), newcomer(7, 1).key.source.address.into());
    for number in 8..16 {
        assert_eq!(half_open.admit(at(1), &limits, &newcomer(7, 1)), Ok(None));
        half_open.add(at(1), Slot(number), server(1));
    }
    // When those are full too, the oldest of all makes room, once it has had half a second.
    assert_eq!(half_open.admit(at(400), &limits, &newcomer(7, 1)), Err(DropReason::HalfOpenLimit));
    assert_eq!(half_open.admit(at(500), &limits, &newcomer(7, 1)), Ok(Some(Slot(0))));
    assert!(half_open.admit(at(500), &limits, &newcomer(8, 1)).is_err());
    assert!(half_open.admit(at(601_000), &limits, &newcomer(7, 1)).is_err());
}

#[test]
fn nobody_who_was_let_in_makes_room_before_a_second_is_over() {
    let mut half_open = full(8);
    let limits = limits(40, 8);
    // A flood that knows of repetition: each SYN twice.
    for source in 100..200 {
        assert!(half_open.admit(at(0), &limits, &newcomer(source, 1)).is_err());
    }
    let mut let_in = 0;
    for source in 100..200 {
        if let Ok(Some(slot)) = half_open.admit(at(1_000), &limits, &newcomer(source, 1)) {
            half_open.take(slot);
            half_open.add(at(1_000), slot, server(1));
            let_in += 1;
        }
    }
    assert_eq!(let_in, 8);
    // And who is known does not wait for as long.
    half_open.know(at(1_000), newcomer(7, 1).key.source.address.into());
    assert!(half_open.admit(at(1_500), &limits, &newcomer(7, 1)).is_ok());
}

proptest! {
    /// Against queues: who makes room is the oldest of the limit that is reached.
    #[test]
    fn places_are_queues_by_destination(
        steps in prop::collection::vec((0..3_u8, 0..FLOWS, 1..4_u8, 0..700_u64), 1..300),
    ) {
        let limits = limits(12, 5);
        let mut half_open = HalfOpen::new(FLOWS, [[3; 16], [4; 16]]);
        let mut model: VecDeque<(Slot, u8, u64)> = VecDeque::new();
        // Every source is known, so that only the queues decide.
        for source in 0..200 {
            half_open.know(at(0), newcomer(source, 1).key.source.address.into());
        }
        let mut now = 0;
        for (kind, slot, to, pause) in steps {
            now += pause;
            let slot = Slot(slot);
            let held = model.iter().position(|(held, ..)| *held == slot);
            match (kind, held) {
                (0, Some(held)) => {
                    half_open.take(slot);
                    model.remove(held);
                }
                (_, None) => {
                    let mut there = model.iter().filter(|(_, other, _)| *other == to);
                    let oldest = if there.clone().count() >= 10 {
                        Some(there.next().unwrap())
                    } else if model.len() >= 24 {
                        model.front()
                    } else {
                        None
                    };
                    let expected = match oldest {
                        Some((slot, _, since)) if now - since >= 500 => Ok(Some(*slot)),
                        Some(_) => Err(DropReason::HalfOpenLimit),
                        None => Ok(None),
                    };
                    let found = half_open.admit(at(now), &limits, &newcomer(7, to));
                    prop_assert_eq!(found, expected);
                    if let Ok(room) = found {
                        if let Some(room) = room {
                            half_open.take(room);
                            model.retain(|(slot, ..)| *slot != room);
                        }
                        half_open.add(at(now), slot, server(to));
                        model.push_back((slot, to, now));
                    }
                }
                (_, Some(_)) => {}
            }
            prop_assert_eq!(half_open.len() as usize, model.len());
            prop_assert!(model.len() <= 24);
        }
        for (slot, ..) in model {
            half_open.take(slot);
            half_open.take(slot);
        }
        prop_assert_eq!(half_open.len(), 0);
        prop_assert_eq!(half_open.by_destination.len(), 0);
        prop_assert_eq!(half_open.all.first(), None);
    }
}
