//! A tracker in the fourteen words that a flow keeps of it.

use super::learn::Learning;
use super::window::{Grant, MAX_SHIFT, Side, Syn};
use super::{Pending, TcpState, TcpTracker};
use crate::Direction;

/// What is kept between two segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct StoredTcp {
    sides: [StoredSide; 2],
    pending: [u32; 3],
    bits: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct StoredSide {
    isn: u32,
    end: u32,
    ack: u32,
    edge: u32,
    window: u32,
}

const _: () = assert!(size_of::<StoredTcp>() == 56);

/// Single bits of `bits`; above them the state, the kind of what is pending, and three scales.
const HAS_REPLIER: u32 = 1;
const SIMULTANEOUS: u32 = 1 << 1;
const PENDING_HAS_ACK: u32 = 1 << 2;
/// Of the originator, and two to the left that of the replier.
const GRANTED: u32 = 1 << 3;
const FIN: u32 = 1 << 4;
const REPEATED: u32 = 1 << 5;
const SIDE_BITS: u32 = 3;
const STATE: u32 = 9;
const PENDING: u32 = 12;
const SCALES: u32 = 14;
const SCALE_BITS: u32 = 5;
const LEARNING: u32 = 29;

/// By their numbers in `bits`.
const LEARNED: [Learning; 7] = [
    Learning::Done,
    Learning::Nothing,
    Learning::Heard(Direction::Original),
    Learning::Heard(Direction::Reply),
    Learning::Unsure(Direction::Original),
    Learning::Unsure(Direction::Reply),
    Learning::Followed,
];

impl From<&TcpTracker> for StoredTcp {
    fn from(tracker: &TcpTracker) -> Self {
        let TcpTracker { state, originator, replier, simultaneous, pending, learning } = tracker;
        let mut stored = Self::default();
        stored.put_side(0, originator);
        if let Some(replier) = replier {
            stored.bits |= HAS_REPLIER;
            stored.put_side(1, replier);
        }
        stored.set(SIMULTANEOUS, *simultaneous);
        stored.bits |= (*state as u32) << STATE;
        let kind = match pending {
            Pending::Nothing => 0,
            Pending::StrayAck(ack) => {
                stored.pending[0] = *ack;
                1
            }
            Pending::NewSyn(syn) => {
                stored.put_syn(syn);
                2
            }
            Pending::OtherSynAck(syn) => {
                stored.put_syn(syn);
                3
            }
        };
        stored.bits |= kind << PENDING;
        let place = LEARNED.iter().position(|stored| stored == learning).unwrap_or_default();
        stored.bits |= (place as u32) << LEARNING;
        stored
    }
}

impl From<&StoredTcp> for TcpTracker {
    fn from(stored: &StoredTcp) -> Self {
        let state = match stored.bits >> STATE & 7 {
            0 => TcpState::SynSent,
            1 => TcpState::SynReceived,
            2 => TcpState::Established,
            3 => TcpState::Closing,
            _ => TcpState::Closed,
        };
        let pending = match stored.bits >> PENDING & 3 {
            0 => Pending::Nothing,
            1 => Pending::StrayAck(stored.pending[0]),
            2 => Pending::NewSyn(stored.syn()),
            _ => Pending::OtherSynAck(stored.syn()),
        };
        Self {
            state,
            originator: stored.side(0),
            replier: stored.has(HAS_REPLIER).then(|| stored.side(1)),
            simultaneous: stored.has(SIMULTANEOUS),
            pending,
            learning: LEARNED[(stored.bits >> LEARNING) as usize % LEARNED.len()],
        }
    }
}

impl StoredTcp {
    pub(crate) const WORDS: usize = 14;

    /// As it goes to another node.
    pub(crate) fn words(&self) -> [u32; Self::WORDS] {
        let [a, b] = self.sides.map(|side| [side.isn, side.end, side.ack, side.edge, side.window]);
        let mut words = [0; Self::WORDS];
        let all = a.into_iter().chain(b).chain(self.pending).chain([self.bits]);
        for (word, value) in words.iter_mut().zip(all) {
            *word = value;
        }
        words
    }

    /// Whatever the words are: each combination of bits is a tracker.
    pub(crate) fn from_words(words: [u32; Self::WORDS]) -> Self {
        let side = |at: usize| StoredSide {
            isn: words[at],
            end: words[at + 1],
            ack: words[at + 2],
            edge: words[at + 3],
            window: words[at + 4],
        };
        let pending = [words[10], words[11], words[12]];
        Self { sides: [side(0), side(5)], pending, bits: words[13] }
    }

    fn put_side(&mut self, at: usize, side: &Side) {
        let Side { isn, end, grant, window, scale, fin, repeated } = *side;
        // Nothing follows a FIN.
        debug_assert!(fin.is_none_or(|fin| fin == end), "{side:?}");
        let Grant { ack, edge } = grant.unwrap_or(Grant { ack: 0, edge: 0 });
        self.sides[at] = StoredSide { isn, end, ack, edge, window };
        let shift = at as u32 * SIDE_BITS;
        self.set(GRANTED << shift, grant.is_some());
        self.set(FIN << shift, fin.is_some());
        self.set(REPEATED << shift, repeated);
        self.put_scale(at as u32, scale);
    }

    fn side(&self, at: usize) -> Side {
        let StoredSide { isn, end, ack, edge, window } = self.sides[at];
        let shift = at as u32 * SIDE_BITS;
        Side {
            isn,
            end,
            grant: self.has(GRANTED << shift).then_some(Grant { ack, edge }),
            window,
            scale: self.scale(at as u32),
            fin: self.has(FIN << shift).then_some(end),
            repeated: self.has(REPEATED << shift),
        }
    }

    fn put_syn(&mut self, syn: &Syn) {
        let Syn { isn, end, ack, window, scale } = *syn;
        // A SYN and what comes with it are one packet.
        let length = end.wrapping_sub(isn) & 0xffff;
        self.pending = [isn, ack.unwrap_or(0), length << 16 | u32::from(window)];
        self.set(PENDING_HAS_ACK, ack.is_some());
        self.put_scale(2, scale);
    }

    fn syn(&self) -> Syn {
        let [isn, ack, rest] = self.pending;
        Syn {
            isn,
            end: isn.wrapping_add(rest >> 16),
            ack: self.has(PENDING_HAS_ACK).then_some(ack),
            window: rest as u16,
            scale: self.scale(2),
        }
    }

    /// Larger shifts are taken for the largest, so no more need be kept of them.
    fn put_scale(&mut self, at: u32, scale: Option<u8>) {
        let number = scale.map_or(0, |shift| u32::from(shift.min(MAX_SHIFT)) + 1);
        self.bits |= number << (SCALES + at * SCALE_BITS);
    }

    fn scale(&self, at: u32) -> Option<u8> {
        let number = self.bits >> (SCALES + at * SCALE_BITS) & 0x1f;
        number.checked_sub(1).map(|shift| shift as u8)
    }

    fn set(&mut self, bit: u32, on: bool) {
        if on {
            self.bits |= bit;
        }
    }

    const fn has(&self, bit: u32) -> bool {
        self.bits & bit != 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn side() -> impl Strategy<Value = Side> {
        let scale = prop::option::of(0..=MAX_SHIFT);
        (any::<[u32; 3]>(), any::<Option<(u32, u32)>>(), scale, any::<[bool; 2]>()).prop_map(
            |([isn, end, window], grant, scale, [fin, repeated])| Side {
                isn,
                end,
                grant: grant.map(|(ack, edge)| Grant { ack, edge }),
                window,
                scale,
                fin: fin.then_some(end),
                repeated,
            },
        )
    }

    fn syn() -> impl Strategy<Value = Syn> {
        let scale = prop::option::of(0..=MAX_SHIFT);
        (any::<u32>(), any::<u16>(), any::<Option<u32>>(), any::<u16>(), scale).prop_map(
            |(isn, length, ack, window, scale)| Syn {
                isn,
                end: isn.wrapping_add(length.into()),
                ack,
                window,
                scale,
            },
        )
    }

    fn trackers() -> impl Strategy<Value = TcpTracker> {
        let state = prop::sample::select(vec![
            TcpState::SynSent,
            TcpState::SynReceived,
            TcpState::Established,
            TcpState::Closing,
            TcpState::Closed,
        ]);
        let pending = prop_oneof![
            Just(Pending::Nothing),
            any::<u32>().prop_map(Pending::StrayAck),
            syn().prop_map(Pending::NewSyn),
            syn().prop_map(Pending::OtherSynAck),
        ];
        let learning = prop::sample::select(LEARNED.to_vec());
        (state, side(), prop::option::of(side()), any::<bool>(), pending, learning).prop_map(
            |(state, originator, replier, simultaneous, pending, learning)| TcpTracker {
                state,
                originator,
                replier,
                simultaneous,
                pending,
                learning,
            },
        )
    }

    proptest! {
        #[test]
        fn nothing_of_a_tracker_is_lost(tracker in trackers()) {
            prop_assert_eq!(TcpTracker::from(&StoredTcp::from(&tracker)), tracker);
        }
    }
}
