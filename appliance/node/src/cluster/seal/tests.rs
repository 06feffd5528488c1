#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const KEY: Key = [7; 16];

fn pair() -> (Sealer, Opener) {
    (Sealer::new(1, 3, &KEY), Opener::new(1, 3, &KEY))
}

fn sealed(sealer: &mut Sealer, records: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::new();
    assert!(sealer.seal(records, &mut datagram));
    datagram
}

/// A generator without a crate: the tests need spread, not secrecy.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

#[test]
fn the_header_is_as_specified() {
    let (mut sealer, _) = pair();
    sealed(&mut sealer, b"");
    let datagram = sealed(&mut sealer, b"records");
    assert_eq!(datagram[..12], [1, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(datagram.len(), OVERHEAD + 7);
    assert!(!datagram.windows(7).any(|bytes| bytes == b"records"));
}

/// 10,000 of each kind: all are refused, and afterwards what is authentic is taken as before.
#[test]
fn what_is_not_authentic_is_refused_and_changes_nothing() {
    const EACH: usize = 10_000;
    let (mut sealer, mut opener) = pair();
    let mut random = Random(1);
    let early = sealed(&mut sealer, b"early");
    let late = sealed(&mut sealer, b"one that comes late");
    opener.open(&mut early.clone()).unwrap();
    for _ in 0..5 {
        opener.open(&mut sealed(&mut sealer, b"more")).unwrap();
    }
    let next = sealed(&mut sealer, b"one that comes next");
    let before = opener.window.clone();
    let mut refused = [0; 4];
    for round in 0..EACH {
        let real = if round % 2 == 0 { &late } else { &next };
        let mut forged: Vec<u8> = (0..random.below(100)).map(|_| random.below(256) as u8).collect();
        forged.splice(0..0, real[..12].iter().copied());
        let mut flipped = real.clone();
        let bit = random.below(flipped.len() * 8);
        flipped[bit / 8] ^= 1 << (bit % 8);
        let mut truncated = real[..random.below(real.len())].to_vec();
        let mut replayed = early.clone();
        for (kind, datagram) in
            [&mut forged, &mut flipped, &mut truncated, &mut replayed].into_iter().enumerate()
        {
            refused[kind] += usize::from(opener.open(datagram).is_err());
            assert_eq!(opener.window, before);
        }
    }
    assert_eq!(refused, [EACH; 4]);
    assert_eq!(opener.open(&mut next.clone()).unwrap(), b"one that comes next");
    assert_eq!(opener.open(&mut late.clone()).unwrap(), b"one that comes late");
}

#[test]
fn every_refusal_has_its_name() {
    let (mut sealer, mut opener) = pair();
    let real = sealed(&mut sealer, b"records");
    let mut with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut datagram = real.clone();
        change(&mut datagram);
        opener.open(&mut datagram).map(<[u8]>::to_vec)
    };
    assert_eq!(with(&|datagram| datagram[0] = 2), Err(OpenError::Malformed));
    assert_eq!(with(&|datagram| datagram[3] = 1), Err(OpenError::Malformed));
    assert_eq!(with(&|datagram| datagram.truncate(27)), Err(OpenError::Malformed));
    assert_eq!(with(&|datagram| datagram[1] = 4), Err(OpenError::Epoch));
    assert_eq!(with(&|datagram| datagram[11] = 9), Err(OpenError::Forged));
    assert_eq!(
        with(&|datagram| datagram[4] = 9),
        Err(OpenError::Replayed),
        "past the last counter"
    );
    assert_eq!(with(&|_| ()), Ok(b"records".to_vec()));
    assert_eq!(with(&|_| ()), Err(OpenError::Replayed));
}

#[test]
fn another_key_opens_nothing() {
    let (mut sealer, _) = pair();
    let mut other = Opener::new(1, 3, &[8; 16]);
    assert_eq!(other.open(&mut sealed(&mut sealer, b"x")), Err(OpenError::Forged));
}

#[test]
fn a_spent_key_seals_no_more() {
    let (mut sealer, _) = pair();
    sealer.counter = COUNTER_MAX - 1;
    let mut datagram = Vec::new();
    assert!(sealer.seal(b"last", &mut datagram));
    assert!(!sealer.seal(b"one more", &mut datagram));
    assert_eq!(datagram, b"");
}

proptest! {
    #[test]
    fn what_is_sealed_is_opened_once(records in prop::collection::vec(any::<u8>(), 0..1_500), times in 1..4) {
        let (mut sealer, mut opener) = pair();
        for _ in 0..times {
            let datagram = sealed(&mut sealer, &records);
            let mut arrived = datagram.clone();
            prop_assert_eq!(opener.open(&mut arrived), Ok(&*records));
            let mut again = datagram;
            prop_assert_eq!(opener.open(&mut again), Err(OpenError::Replayed));
        }
        prop_assert_eq!((sealer.count(), opener.count()), (times as u64, times as u64));
    }

    /// The window against a set of all counters that were ever taken.
    #[test]
    fn a_counter_is_taken_once_while_it_is_in_the_window(
        jumps in prop::collection::vec((any::<bool>(), 0..3_000_u64), 1..200)
    ) {
        let mut window = Window::default();
        let mut taken = BTreeSet::new();
        for (ahead, distance) in jumps {
            let distance = if distance < 2_000 { distance % 80 } else { distance };
            let counter =
                if ahead { window.next + distance } else { window.next.saturating_sub(distance) };
            let highest = taken.last().copied();
            let in_window = highest.is_none_or(|highest| counter + WINDOW > highest);
            prop_assert_eq!(window.is_new(counter), in_window && !taken.contains(&counter));
            if window.is_new(counter) {
                window.take(counter);
                taken.insert(counter);
            }
        }
    }
}
