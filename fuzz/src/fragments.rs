//! Fragments in any order, with any lie about their place, against a model that only knows what a
//! sound datagram is.

use std::collections::{BTreeMap, BTreeSet};

use gabion_engine::{DropReason, Verdict, build};
use gabion_tests::walk::World;

/// Datagrams under way; each is known by its identification.
const DATAGRAMS: usize = 4;
/// A multiple of eight and a rest.
const PAYLOAD: usize = 8 * 40 + 5;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Piece {
    start: usize,
    end: usize,
    more: bool,
    variant: u8,
}

/// Bytes, four at a time: which datagram and variant, where it begins and how long it is (in eighths),
/// and what it says of more to come. What leaves is one whole sound datagram, byte for byte; a
/// datagram that came whole and sound, with nothing else under its name, leaves.
pub(crate) fn fragments(bytes: &[u8]) {
    let mut world = World::begin();
    world.learn("10.1.0.10", [2, 0, 0, 0, 1, 1]);
    world.learn("2600:2::10", [2, 0, 0, 0, 1, 2]);
    // Of these the rest may be missing.
    let mut refused = BTreeSet::new();
    let mut came: BTreeMap<usize, Vec<Piece>> = BTreeMap::new();
    for choice in bytes.chunks_exact(4).take(64) {
        let datagram = usize::from(choice[0]) % DATAGRAMS;
        let (whole, length) = whole(datagram, choice[0] >> 6);
        let start = usize::from(choice[1]) % length.div_ceil(8) * 8;
        let end = match choice[3] >> 1 & 3 {
            0 => length,
            1 => (start + usize::from(choice[2])).min(length),
            _ => (start + usize::from(choice[2]) * 8).min(length),
        };
        let piece = Piece { start, end, more: choice[3] & 1 == 1, variant: choice[0] >> 6 };
        let frame = build::piece(&whole, start..end, piece.more, datagram as u32);
        let atomic = start == 0 && !piece.more;
        let verdict = world.send(0, frame);
        let left: Vec<Vec<u8>> = world.left_last().iter().map(|sent| sent.bytes.clone()).collect();
        if atomic {
            // A packet by itself: it is none of the others' business (RFC 6946).
            continue;
        }
        let full = Verdict::Drop(DropReason::FragmentTableFull);
        // A source keeps one datagram in so small a table: the older one gives way.
        refused.extend(came.keys().filter(|other| **other != datagram));
        if verdict == full {
            refused.insert(datagram);
        }
        let pieces = came.entry(datagram).or_default();
        pieces.push(piece);
        if left.is_empty() {
            let owed = !refused.contains(&datagram) && is_plainly_whole(pieces, length);
            assert!(!owed, "{pieces:?} came and do not leave: {verdict:?}");
        } else {
            leave_as_they_came(&left, pieces, datagram);
            came.remove(&datagram);
            refused.remove(&datagram);
        }
    }
    world.run_out();
}

/// The frame of a datagram, in one of four variants of its payload, and how long it is behind the
/// IP header.
fn whole(datagram: usize, variant: u8) -> (Vec<u8>, usize) {
    let payload: Vec<u8> = (0..PAYLOAD).map(|place| place as u8 ^ variant << 6).collect();
    let builder = build::udp().payload(&payload).dont_fragment(false);
    let builder = if datagram.is_multiple_of(2) {
        builder.from("198.51.100.9:5003").to("10.1.0.10:53")
    } else {
        builder.from("[2600:9::9]:5003").to("[2600:2::10]:53")
    };
    (builder.frame(), PAYLOAD + 8)
}

/// Whether the pieces are one datagram, each come once, in whatever order, and none is refused for
/// its own sake.
fn is_plainly_whole(pieces: &[Piece], length: usize) -> bool {
    let mut sorted = pieces.to_vec();
    sorted.sort();
    let variant = sorted[0].variant;
    let mut next = 0;
    for piece in &sorted {
        let last = piece.end == length;
        let sound = piece.start == next && piece.more != last && piece.end > piece.start;
        if !sound
            || piece.variant != variant
            || (!last && !(piece.end - piece.start).is_multiple_of(8))
        {
            return false;
        }
        next = piece.end;
    }
    // The first holds the UDP header, and eight pieces are as many as the node keeps.
    next == length && sorted.len() <= 8
}

fn leave_as_they_came(left: &[Vec<u8>], pieces: &[Piece], datagram: usize) {
    let mut next = 0;
    for (index, frame) in left.iter().enumerate() {
        let place = |piece: &&Piece| {
            let (whole, _) = whole(datagram, piece.variant);
            let came = build::piece(&whole, piece.start..piece.end, piece.more, datagram as u32);
            let header = if datagram.is_multiple_of(2) { 34 } else { 54 };
            came.len() == frame.len()
                && came[header..] == frame[header..]
                && fragment_field(&came) == fragment_field(frame)
        };
        let piece = pieces.iter().find(place).expect("what leaves has come");
        assert_eq!(piece.start, next, "{pieces:?}");
        assert_eq!(piece.more, index + 1 < left.len(), "{pieces:?}");
        next = piece.end;
    }
}

fn fragment_field(frame: &[u8]) -> [u8; 2] {
    let at = if frame[14] >> 4 == 4 { 20 } else { 56 };
    [frame[at], frame[at + 1]]
}
