#![allow(clippy::unwrap_used)]

use super::*;
use crate::build;
use crate::frame::{Frame, Offload};
use crate::packet::{Parsed, Segment};
use proptest::prelude::*;

const IN: InterfaceId = InterfaceId(0);
const TIMEOUT: Duration = Duration::from_secs(5);

/// A table under test; what goes in must come out or be held.
struct Bench {
    table: Fragments,
    now: Time,
    taken: u32,
    gone: u32,
    /// Of those that are gone.
    given_way: u32,
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Held,
    Complete(Vec<Vec<u8>>),
    Dropped(DropReason, u32),
}

impl Bench {
    fn new(limits: Limits) -> Self {
        let table = Fragments::new(&limits, [7; 16]);
        Self { table, now: Time::from_nanos(1), taken: 0, gone: 0, given_way: 0 }
    }

    fn wait(&mut self, duration: Duration) -> Vec<u32> {
        self.now = self.now + duration;
        let expired: Vec<u32> = std::iter::from_fn(|| self.table.poll_expired(self.now)).collect();
        self.gone += expired.iter().sum::<u32>();
        expired
    }

    fn send(&mut self, bytes: &[u8]) -> Outcome {
        self.send_by(IN, bytes)
    }

    fn send_by(&mut self, from: InterfaceId, bytes: &[u8]) -> Outcome {
        let packet = parse(bytes);
        self.taken += 1;
        let outcome = match self.table.handle_fragment(self.now, from, bytes, &packet, TIMEOUT) {
            Reassembly::Held => Outcome::Held,
            Reassembly::Complete(fragments) => {
                assert!(!matches!(fragments[0].packet.segment, Segment::Later));
                self.gone += fragments.len() as u32;
                Outcome::Complete(fragments.into_iter().map(|kept| kept.bytes).collect())
            }
            Reassembly::Dropped { reason, with } => {
                self.gone += 1 + with;
                Outcome::Dropped(reason, with)
            }
        };
        let given_way = self.table.take_given_way();
        self.given_way += given_way;
        self.gone += given_way;
        self.check();
        outcome
    }

    /// The counts are exact, and the limits hold.
    fn check(&self) {
        let Fragments { datagrams, deadlines, sources, total, held, limits, .. } = &self.table;
        assert_eq!(self.taken, self.gone + held);
        assert_eq!(*held as usize, datagrams.values().map(|d| d.pieces.len()).sum::<usize>());
        assert_eq!(total.bytes, datagrams.values().map(|d| d.cost).sum::<u32>());
        assert_eq!(total.datagrams as usize, datagrams.len());
        assert_eq!(deadlines.len(), datagrams.len());
        assert_eq!(total.bytes, sources.values().map(|share| share.bytes).sum::<u32>());
        assert_eq!(total.datagrams, sources.values().map(|share| share.datagrams).sum::<u32>());
        assert!(total.datagrams <= limits.fragmented_datagrams);
        assert!(total.bytes <= limits.fragment_bytes);
        for datagram in datagrams.values() {
            assert!(datagram.pieces.len() < limits.fragments_per_datagram as usize + 1);
            assert!(datagram.spoiled.is_none() || datagram.pieces.is_empty());
        }
    }
}

fn parse(bytes: &[u8]) -> Packet {
    let mut bytes = bytes.to_vec();
    let frame = Frame { bytes: &mut bytes, offload: Offload::default() };
    match Packet::parse(&frame).unwrap() {
        Parsed::Ip(packet) => packet,
        Parsed::Arp(_) => panic!("not a fragment"),
    }
}

fn datagram(source: &str, payload: usize) -> Vec<u8> {
    let destination = if source.starts_with('[') { "[2600:2::10]:53" } else { "10.1.0.10:53" };
    let bytes: Vec<u8> = (0..payload).map(|n| n as u8).collect();
    build::udp().from(source).to(destination).payload(&bytes).dont_fragment(false).frame()
}

const V4: &str = "198.51.100.9:4000";
const V6: &str = "[2600:9::9]:4000";

/// A piece of `whole` from eight-octet unit `start` to `end`; UDP header included.
fn piece(whole: &[u8], start: usize, end: usize, more: bool) -> Vec<u8> {
    build::piece(whole, start * 8..end * 8, more, 1)
}

// --- F-1 to F-12 -----------------------------------------------------------------------------------

/// No fragment goes before its first.
///
/// Covers: F-9, 4787-14
#[test]
fn fragments_wait_for_the_first_and_leave_in_order() {
    for source in [V4, V6] {
        let pieces = build::fragmented(&datagram(source, 4_000), 1_280, 7);
        let mut bench = Bench::new(Limits::default());
        for last in (1..pieces.len()).rev() {
            assert_eq!(bench.send(&pieces[last]), Outcome::Held);
        }
        assert_eq!(bench.send(&pieces[0]), Outcome::Complete(pieces));
        assert_eq!((bench.table.held(), bench.table.poll_timeout()), (0, None));
    }
}

/// An overlap takes the datagram and all that still comes of it.
///
/// Covers: F-4, 3.5
#[test]
fn overlap_spoils_the_datagram_until_its_timeout() {
    for source in [V4, V6] {
        let whole = datagram(source, 792);
        for (start, end, more) in [
            (0, 40, true),  // the first, longer
            (0, 20, true),  // the first, shorter
            (16, 40, true), // into the first
            (50, 70, true), // into the last
            (8, 16, true),  // inside
            (16, 80, true), // over all
            (62, 70, false),
        ] {
            let mut bench = Bench::new(Limits::default());
            assert_eq!(bench.send(&piece(&whole, 0, 30, true)), Outcome::Held);
            assert_eq!(bench.send(&piece(&whole, 60, 100, false)), Outcome::Held);
            let dropped = Outcome::Dropped(DropReason::FragmentOverlap, 2);
            assert_eq!(bench.send(&piece(&whole, start, end, more)), dropped, "{start}..{end}");
            let dropped = Outcome::Dropped(DropReason::FragmentOverlap, 0);
            assert_eq!(bench.send(&piece(&whole, 30, 60, true)), dropped);
            assert!(bench.wait(Duration::from_secs(4)).is_empty());
            assert_eq!(bench.send(&piece(&whole, 0, 30, true)), dropped, "still spoiled");
            assert_eq!(bench.wait(Duration::from_secs(1)), [0]);
            assert_eq!(bench.send(&piece(&whole, 0, 30, true)), Outcome::Held);
        }
    }
}

/// A second first fragment of the same length that says otherwise.
///
/// Covers: F-3
#[test]
fn other_bytes_in_the_same_place_are_an_overlap() {
    let whole = datagram(V4, 792);
    let other = datagram("198.51.100.9:4001", 792);
    let mut bench = Bench::new(Limits::default());
    bench.send(&piece(&whole, 0, 30, true));
    let dropped = Outcome::Dropped(DropReason::FragmentOverlap, 1);
    assert_eq!(bench.send(&piece(&other, 0, 30, true)), dropped);
    let dropped = Outcome::Dropped(DropReason::FragmentOverlap, 0);
    assert_eq!(bench.send(&piece(&whole, 30, 100, false)), dropped);
}

/// The same again is no overlap and takes no room.
///
/// Covers: F-10
#[test]
fn duplicates_are_tolerated_without_growth() {
    for source in [V4, V6] {
        let pieces = build::fragmented(&datagram(source, 3_000), 1_280, 7);
        let mut bench = Bench::new(Limits::default());
        for place in [0, 2] {
            assert_eq!(bench.send(&pieces[place]), Outcome::Held);
            let before = (bench.table.held, bench.table.total);
            for _ in 0..100 {
                let dropped = Outcome::Dropped(DropReason::FragmentDuplicate, 0);
                assert_eq!(bench.send(&pieces[place]), dropped);
            }
            assert_eq!((bench.table.held, bench.table.total), before);
        }
        assert_eq!(bench.send(&pieces[1]), Outcome::Complete(pieces));
    }
}

/// Nothing lies behind the end, and there is one end.
///
/// Covers: F-8, CC-1.6a
#[test]
fn contradicting_ends_spoil_the_datagram() {
    let whole = datagram(V4, 1_592);
    for (first, second) in [
        ((10, 20, false), (20, 30, true)),
        ((10, 20, false), (20, 30, false)),
        ((20, 30, true), (10, 20, false)),
        ((20, 30, false), (10, 20, false)),
    ] {
        let mut bench = Bench::new(Limits::default());
        assert_eq!(bench.send(&piece(&whole, first.0, first.1, first.2)), Outcome::Held);
        let dropped = Outcome::Dropped(DropReason::FragmentInvalid, 1);
        assert_eq!(bench.send(&piece(&whole, second.0, second.1, second.2)), dropped);
    }
    // The end that is cut off is known by its offset; `more` differs, so it is no duplicate.
    let mut bench = Bench::new(Limits::default());
    bench.send(&piece(&whole, 10, 20, true));
    let dropped = Outcome::Dropped(DropReason::FragmentOverlap, 1);
    assert_eq!(bench.send(&piece(&whole, 10, 20, false)), dropped);
}

/// The clock of RFC 8200 section 4.5 runs from the first that was seen.
///
/// Covers: CC-1.6b, F-11
#[test]
fn incomplete_datagrams_are_given_up_in_time() {
    let mut bench = Bench::new(Limits::default());
    let pieces = build::fragmented(&datagram(V4, 4_000), 1_280, 7);
    bench.send(&pieces[0]);
    let deadline = bench.now + TIMEOUT;
    bench.wait(Duration::from_secs(3));
    bench.send(&pieces[2]);
    assert_eq!(bench.table.poll_timeout(), Some(deadline));
    let almost = (deadline - bench.now) - Duration::from_nanos(1);
    assert!(bench.wait(almost).is_empty());
    assert_eq!(bench.wait(Duration::from_nanos(1)), [2]);
    assert_eq!((bench.table.held(), bench.table.len(), bench.table.poll_timeout()), (0, 0, None));
    assert_eq!(bench.send(&pieces[1]), Outcome::Held);
}

#[test]
fn fragments_meet_by_interface_addresses_and_identification() {
    let whole = datagram(V4, 792);
    let first = piece(&whole, 0, 30, true);
    let rest = piece(&whole, 30, 100, false);
    let mut bench = Bench::new(Limits::default());
    assert_eq!(bench.send(&first), Outcome::Held);
    assert_eq!(bench.send_by(InterfaceId(1), &rest), Outcome::Held);
    assert_eq!(bench.send(&build::piece(&whole, 240..800, false, 2)), Outcome::Held);
    let other = datagram("198.51.100.10:4000", 792);
    assert_eq!(bench.send(&piece(&other, 30, 100, false)), Outcome::Held);
    assert_eq!(bench.send(&rest), Outcome::Complete(vec![first, rest]));
    assert_eq!(bench.table.held(), 3);
}

// --- Limits (F-11) -----------------------------------------------------------------------------------

/// Spreads sources over networks of their own.
fn source(n: usize) -> String {
    format!("198.51.{}.{}:4000", 100 + n / 250, 1 + n % 250)
}

#[test]
fn in_a_full_table_the_oldest_gives_way() {
    let mut bench = Bench::new(Limits { fragmented_datagrams: 10, ..Limits::default() });
    let wholes: Vec<_> = (0..11).map(|n| datagram(&source(n), 792)).collect();
    for whole in &wholes {
        assert_eq!(bench.send(&piece(whole, 0, 30, true)), Outcome::Held);
    }
    assert_eq!((bench.table.len(), bench.given_way), (10, 1));
    for whole in &wholes[1..] {
        let completed = bench.send(&piece(whole, 30, 100, false));
        assert!(matches!(completed, Outcome::Complete(_)));
    }
    assert_eq!(bench.send(&piece(&wholes[0], 30, 100, false)), Outcome::Held);
}

/// FragmentSmack (CVE-2018-5391) from forged sources, many times what the table holds: whoever sends
/// sound datagrams meanwhile loses none, whole or in reversed order.
///
/// Covers: F-11, 3.5, 4787-14a
#[test]
fn a_flood_from_everywhere_keeps_no_good_datagram_out() {
    let limits = Limits { fragmented_datagrams: 64, fragment_bytes: 1 << 18, ..Limits::default() };
    let mut bench = Bench::new(limits);
    let mut pieces = build::fragmented(&datagram("203.0.113.5:4000", 3_000), 1_280, 1);
    let mut last = Outcome::Held;
    for n in 0..2_000 {
        let flood = datagram(&format!("198.{}.{}.7:4000", 18 + n / 250, n % 250), 1_592);
        assert_eq!(bench.send(&build::piece(&flood, 8..1_208, true, 9)), Outcome::Held);
        let place = n % pieces.len();
        last = bench.send(&pieces[place]);
        if place + 1 == pieces.len() {
            assert!(matches!(last, Outcome::Complete(_)), "{n}: {last:?}");
            pieces.reverse();
        }
    }
    assert_ne!(last, Outcome::Dropped(DropReason::FragmentTableFull, 0));
}

/// Covers: F-11
#[test]
fn datagram_of_too_many_fragments_is_dropped_whole() {
    let mut bench = Bench::new(Limits { fragments_per_datagram: 4, ..Limits::default() });
    let whole = datagram(V4, 792);
    for n in 0..4 {
        assert_eq!(bench.send(&piece(&whole, 8 * n, 8 * n + 8, true)), Outcome::Held);
    }
    let dropped = Outcome::Dropped(DropReason::FragmentTableFull, 4);
    assert_eq!(bench.send(&piece(&whole, 32, 40, true)), dropped);
    let dropped = Outcome::Dropped(DropReason::FragmentTableFull, 0);
    assert_eq!(bench.send(&piece(&whole, 40, 100, false)), dropped);
}

#[test]
fn exactly_as_many_fragments_as_allowed_complete() {
    let mut bench = Bench::new(Limits { fragments_per_datagram: 4, ..Limits::default() });
    let whole = datagram(V4, 312);
    for n in 0..3 {
        assert_eq!(bench.send(&piece(&whole, 10 * n, 10 * n + 10, true)), Outcome::Held);
    }
    assert!(matches!(bench.send(&piece(&whole, 30, 40, false)), Outcome::Complete(_)));
}

/// A flood from one source leaves room for all others, in datagrams and in bytes.
///
/// Covers: F-11, 4787-14a
#[test]
fn one_source_does_not_take_the_table() {
    let limits = Limits { fragmented_datagrams: 100, fragment_bytes: 100_000, ..Limits::default() };
    for size in [40, 1_400] {
        for flood in ["198.51.100.9:4000", "[2600:9::9]:4000"] {
            let mut bench = Bench::new(limits);
            let whole = datagram(flood, size + 400);
            for n in 0..200 {
                let first = build::piece(&whole, 0..size, true, n);
                if bench.send(&first) != Outcome::Held {
                    break;
                }
            }
            assert!(bench.table.total.datagrams >= 25, "{:?}", bench.table.total);
            let pieces = build::fragmented(&datagram("203.0.113.5:4000", 3_000), 1_280, 1);
            for _ in 0..20 {
                let outcomes: Vec<_> = pieces.iter().map(|bytes| bench.send(bytes)).collect();
                assert_eq!(outcomes.last(), Some(&Outcome::Complete(pieces.clone())));
            }
        }
    }
}

/// An IPv6 host has a whole /64 to send from.
#[test]
fn addresses_of_one_ipv6_network_are_one_source() {
    let mut bench = Bench::new(Limits { fragmented_datagrams: 100, ..Limits::default() });
    for n in 0..100 {
        let whole = datagram(&format!("[2600:9::{n:x}:9]:4000"), 792);
        bench.send(&piece(&whole, 0, 30, true));
    }
    assert_eq!(bench.table.len(), 25);
}

/// 38.0.0.1 begins like 2600:1::, which is somebody else.
#[test]
fn an_ipv4_address_is_no_ipv6_network() {
    let mut bench = Bench::new(Limits { fragmented_datagrams: 100, ..Limits::default() });
    for source in ["38.0.0.1", "[2600:1::9]"] {
        for number in 1..=100 {
            let whole = datagram(&format!("{source}:4000"), 792);
            bench.send(&build::piece(&whole, 0..240, true, number));
        }
    }
    assert_eq!(bench.table.len(), 50, "a quarter of the table each");
}

// --- Properties ------------------------------------------------------------------------------------

/// Cuts of `0..units` into pieces, in an order, some of them twice.
fn cuts(units: usize) -> impl Strategy<Value = (Vec<(usize, usize)>, Vec<usize>)> {
    prop::collection::btree_set(1..units, 1..20).prop_flat_map(move |cuts| {
        let starts: Vec<usize> = std::iter::once(0).chain(cuts.iter().copied()).collect();
        let ends = cuts.iter().copied().chain(std::iter::once(units));
        let pieces: Vec<_> = starts.into_iter().zip(ends).collect();
        let order: Vec<usize> = (0..pieces.len()).chain(0..pieces.len() / 3).collect();
        (Just(pieces), Just(order).prop_shuffle())
    })
}

proptest! {
    #[test]
    fn any_cut_in_any_order_completes_once_with_the_same_bytes(
        (pieces, order) in cuts(100),
        v6: bool,
    ) {
        let whole = datagram(if v6 { V6 } else { V4 }, 792);
        let frames: Vec<_> = pieces.iter()
            .map(|&(start, end)| piece(&whole, start, end, end != 100)).collect();
        let mut bench = Bench::new(Limits::default());
        let mut seen = vec![false; frames.len()];
        for place in order {
            let outcome = bench.send(&frames[place]);
            let again = std::mem::replace(&mut seen[place], true);
            if seen.iter().all(|&seen| seen) {
                prop_assert_eq!(outcome, Outcome::Complete(frames));
                prop_assert_eq!(bench.table.held(), 0);
                return Ok(());
            }
            let expected = if again {
                Outcome::Dropped(DropReason::FragmentDuplicate, 0)
            } else {
                Outcome::Held
            };
            prop_assert_eq!(outcome, expected);
        }
    }

    #[test]
    fn a_cut_with_an_overlap_never_completes(
        (pieces, order) in cuts(100),
        start in 0_usize..99,
        length in 1_usize..50,
        place in any::<prop::sample::Index>(),
    ) {
        let bad = (start, (start + length).min(100));
        // Nor may it be a whole packet.
        prop_assume!(!pieces.contains(&bad) && bad != (0, 100));
        let whole = datagram(V4, 792);
        let frame = |&(start, end): &(usize, usize)| piece(&whole, start, end, end != 100);
        let mut order = order;
        order.retain({
            let mut seen = vec![false; pieces.len()];
            move |&place| !std::mem::replace(&mut seen[place], true)
        });
        // After a piece that it overlaps: before, it might be a piece of another cut. Before the
        // last, which completes the datagram.
        let overlaps = |&place: &usize| pieces[place].0 < bad.1 && bad.0 < pieces[place].1;
        let first = order.iter().position(overlaps).unwrap();
        prop_assume!(first + 1 < order.len());
        let mut frames: Vec<_> = order.iter().map(|&place| frame(&pieces[place])).collect();
        frames.insert(first + 1 + place.index(order.len() - first - 1), frame(&bad));
        let mut bench = Bench::new(Limits::default());
        for bytes in frames {
            prop_assert!(!matches!(bench.send(&bytes), Outcome::Complete(_)));
        }
    }

    /// Whatever comes: counts are exact and limits hold (`Bench::check`).
    #[test]
    fn counts_stay_exact_and_memory_bounded(
        steps in prop::collection::vec(
            (0_usize..6, 0_u32..4, 0_usize..12, 1_usize..6, any::<bool>(), 0_u64..2_000), 0..200),
        datagrams in 1_u32..8,
        fragments in 2_u32..6,
        bytes in 500_u32..5_000,
    ) {
        let limits = Limits {
            fragmented_datagrams: datagrams,
            fragments_per_datagram: fragments,
            fragment_bytes: bytes,
            ..Limits::default()
        };
        let mut bench = Bench::new(limits);
        for (from, identification, start, length, more, wait) in steps {
            let (start, end) = (3 * start, 3 * (start + length));
            let more = more || start == 0;
            let whole = datagram(&source(from), 792);
            bench.send(&build::piece(&whole, start * 8..end * 8, more, identification));
            bench.wait(Duration::from_millis(wait));
            bench.check();
        }
        bench.wait(TIMEOUT);
        bench.check();
        prop_assert_eq!(bench.table.held(), 0);
        prop_assert_eq!(bench.table.total, Share::default());
        prop_assert!(bench.table.sources.is_empty());
    }
}
