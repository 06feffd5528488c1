//! What nodes say to each other in sync datagrams: records of type, length and value (docs/cluster.md
//! section 6).

use super::NodeId;
use super::digests::PART;
use super::record::Record;
use super::rendezvous::{Pair, View};
use super::wire::{Reader, Writer};

/// When a flow got its owner, on a clock that all nodes push forward together (L. Lamport, "Time, Clocks,
/// and the Ordering of Events in a Distributed System", 1978): the largest says who owns it now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Term(pub(crate) u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Message {
    Heartbeat(Heartbeat),
    /// The datagram's number: what stands behind it is repeated until it is acknowledged.
    Number(u32),
    /// The highest number that has come, and which of the 64 before it.
    Acknowledgement {
        highest: u32,
        before: u64,
    },
    Register(Registration),
    /// A larger claim to a key of the receiver's.
    Owned {
        key: Pair,
        claim: Claim,
    },
    /// A flow of the key that the receiver has registered has ended so: it is this one, or a later one.
    Ended {
        key: Pair,
        end: End,
    },
    /// A flow has ended.
    Gone {
        key: Pair,
        end: End,
    },
    Record(Record),
    /// The receiver is to own the flow from now on.
    Handover(Record),
    /// It does, or its rules do not permit it.
    Taken {
        key: Pair,
        accepted: bool,
        term: Term,
    },
    /// Whose a flow is, from its owner; `ask` is the number of the packet that asked, if one did.
    Hint {
        ask: u32,
        key: Pair,
        owner: NodeId,
        term: Term,
    },
    /// Nobody owns the key of the packet that claimed it: it is the asker's.
    Granted {
        ask: u32,
    },
    /// A packet came to a node that does not own its flow and knows of nobody who does.
    NotMine {
        ask: u32,
        key: Pair,
    },
    /// The key's owner is the sender, who registers it with somebody else: what the receiver keeps of it at
    /// this term or before is old.
    Elsewhere {
        key: Pair,
        term: Term,
    },
    /// Sums of what the sender has registered at the receiver, the first or the second half.
    Digest {
        part: u8,
        sums: [u32; PART],
    },
    /// The sums of these buckets differ: the receiver is to register what is in them again.
    Pull {
        buckets: u64,
    },
    /// Keys of these buckets that the sender has registered in an earlier round only are not its own.
    Told {
        buckets: u64,
        round: u32,
    },
}

/// Says that a node lives, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Heartbeat {
    /// Later ones have larger numbers.
    pub(crate) number: u32,
    pub(crate) state: u8,
    /// Whether the receiver has been told all that it is to know.
    pub(crate) told: bool,
    pub(crate) incarnation: u64,
    /// Of whom the sender has heard lately.
    pub(crate) heard: View,
    /// How often it has taken the receiver for dead.
    pub(crate) losses: u32,
    pub(crate) policy: u64,
    pub(crate) clock: Term,
}

/// Which flow it is, of those that have had a key: its first owner, and his term. Whoever takes it over
/// keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Birth(pub(crate) u64);

/// A flow's end, as its owner at this term has seen it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) birth: Birth,
    pub(crate) term: Term,
    /// Its two sides have closed it: nothing is left of it at a later owner's either, who may have taken it
    /// over without knowing.
    pub(crate) is_over: bool,
}

/// A key that the sender owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Registration {
    pub(crate) key: Pair,
    /// The key that the flow's record is kept by, where it is another.
    pub(crate) first: Option<Pair>,
    pub(crate) claim: Claim,
    /// How often the sender has told the receiver of all its keys.
    pub(crate) round: u32,
}

/// Somebody's right to a key: the largest claim holds, whoever heard of it first. (`tests/cluster_model`
/// finds two nodes that give way to each other where the first one holds.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) rank: Rank,
    pub(crate) term: Term,
    pub(crate) owner: NodeId,
    pub(crate) birth: Birth,
}

impl Claim {
    /// Whether this claim holds against another. Of one flow that two have, one of whom has seen its end, the
    /// end holds; a later flow of the same key is larger than one that is over.
    pub(crate) fn beats(&self, other: &Self) -> bool {
        let is_over = self.rank == Rank::Closed;
        let is_contested = self.birth == other.birth
            && is_over != (other.rank == Rank::Closed)
            && ![self.rank, other.rank].contains(&Rank::Copy);
        if is_contested {
            return is_over;
        }
        (self.rank, self.term, self.owner) > (other.rank, other.term, other.owner)
    }
}

impl Birth {
    /// Of no flow.
    pub(crate) const NONE: Self = Self(0);

    /// Of the flow that a node begins at this reading of the clock.
    pub(crate) const fn of(term: Term, node: NodeId) -> Self {
        Self(term.0 << 4 | (node.0 as u64 - 1) & 15)
    }
}

impl End {
    /// Whether an owner's claim at this term is ended by it.
    pub(crate) fn ends(&self, birth: Birth, term: Term) -> bool {
        self.birth == birth && (self.is_over || self.term >= term)
    }
}

/// How much a flow has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    /// Nobody owns it: a copy of it is there.
    Copy,
    /// It is over but for late packets.
    Closed,
    /// No packet has come back, or the originator has taken another than the one that did.
    Opening,
    /// One has come back, and the originator has not said that it reached him: it may have been an old one.
    Answered,
    Open,
}

/// What a datagram holds that is no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

const HEARTBEAT: u8 = 1;
const NUMBER: u8 = 2;
const ACKNOWLEDGEMENT: u8 = 3;
const DIGEST: u8 = 4;
/// From here on a receiver that does not know a type must not take the datagram.
const REGISTER: u8 = 128;
const OWNED: u8 = 129;
const GONE: u8 = 130;
const RECORD: u8 = 131;
const HANDOVER: u8 = 132;
const TAKEN: u8 = 133;
const HINT: u8 = 134;
const GRANTED: u8 = 135;
const NOT_MINE: u8 = 136;
const TOLD: u8 = 137;
const ENDED: u8 = 138;
const ELSEWHERE: u8 = 139;
const PULL: u8 = 140;

/// Types below may be skipped by whoever does not know them.
const FIRST_REQUIRED: u8 = 128;

/// Of a claim's first byte, above the rank.
const HAS_FIRST: u8 = 1 << 7;
const HAS_BIRTH: u8 = 1 << 6;

impl Message {
    /// Appends the message as it stands in a datagram.
    pub(crate) fn write(&self, datagram: &mut Vec<u8>) {
        let begin = datagram.len();
        datagram.extend_from_slice(&[self.kind(), 0, 0]);
        self.write_value(&mut Writer(datagram));
        let length = (datagram.len() - begin - 3) as u16;
        datagram[begin + 1..begin + 3].copy_from_slice(&length.to_be_bytes());
    }

    const fn kind(&self) -> u8 {
        match self {
            Self::Heartbeat(_) => HEARTBEAT,
            Self::Number(_) => NUMBER,
            Self::Acknowledgement { .. } => ACKNOWLEDGEMENT,
            Self::Register(_) => REGISTER,
            Self::Owned { .. } => OWNED,
            Self::Gone { .. } => GONE,
            Self::Record(_) => RECORD,
            Self::Handover(_) => HANDOVER,
            Self::Taken { .. } => TAKEN,
            Self::Hint { .. } => HINT,
            Self::Granted { .. } => GRANTED,
            Self::NotMine { .. } => NOT_MINE,
            Self::Digest { .. } => DIGEST,
            Self::Pull { .. } => PULL,
            Self::Told { .. } => TOLD,
            Self::Ended { .. } => ENDED,
            Self::Elsewhere { .. } => ELSEWHERE,
        }
    }

    fn write_value(&self, to: &mut Writer<'_>) {
        match self {
            Self::Heartbeat(beat) => beat.write(to),
            Self::Number(number) | Self::Granted { ask: number } => to.u32(*number),
            Self::Acknowledgement { highest, before } => {
                to.u32(*highest);
                to.u64(*before);
            }
            Self::Register(registration) => registration.write(to),
            Self::Owned { key, claim } => {
                claim.write(to, 0);
                to.pair(key);
            }
            Self::Gone { key, end } | Self::Ended { key, end } => {
                to.u8(end.is_over.into());
                to.u64(end.birth.0);
                to.u64(end.term.0);
                to.pair(key);
            }
            Self::Elsewhere { key, term } => {
                to.u64(term.0);
                to.pair(key);
            }
            Self::Record(record) | Self::Handover(record) => record.write(to),
            Self::Taken { key, accepted, term } => {
                to.u8((*accepted).into());
                to.u64(term.0);
                to.pair(key);
            }
            Self::Hint { ask, key, owner, term } => {
                to.u32(*ask);
                to.u8(owner.0);
                to.u64(term.0);
                to.pair(key);
            }
            Self::NotMine { ask, key } => {
                to.u32(*ask);
                to.pair(key);
            }
            Self::Digest { part, sums } => {
                to.u8(*part);
                for sum in sums {
                    to.u32(*sum);
                }
            }
            Self::Pull { buckets } => to.u64(*buckets),
            Self::Told { buckets, round } => {
                to.u64(*buckets);
                to.u32(*round);
            }
        }
    }

    fn read(kind: u8, from: &mut Reader<'_>) -> Option<Self> {
        Some(match kind {
            HEARTBEAT => Self::Heartbeat(Heartbeat::read(from)?),
            NUMBER => Self::Number(from.u32()?),
            ACKNOWLEDGEMENT => Self::Acknowledgement { highest: from.u32()?, before: from.u64()? },
            REGISTER => Self::Register(Registration::read(from)?),
            OWNED => Self::Owned { claim: Claim::read(from)?.0, key: from.pair()? },
            ENDED => Self::Ended { end: End::read(from)?, key: from.pair()? },
            ELSEWHERE => Self::Elsewhere { term: Term(from.u64()?), key: from.pair()? },
            GONE => Self::Gone { end: End::read(from)?, key: from.pair()? },
            RECORD => Self::Record(Record::read(from)?),
            HANDOVER => Self::Handover(Record::read(from)?),
            TAKEN => {
                let accepted = from.u8()? != 0;
                Self::Taken { accepted, term: Term(from.u64()?), key: from.pair()? }
            }
            HINT => {
                let (ask, owner) = (from.u32()?, from.node()?);
                Self::Hint { ask, owner, term: Term(from.u64()?), key: from.pair()? }
            }
            GRANTED => Self::Granted { ask: from.u32()? },
            NOT_MINE => Self::NotMine { ask: from.u32()?, key: from.pair()? },
            DIGEST => {
                let (part, mut sums) = (from.u8()?, [0; PART]);
                for sum in &mut sums {
                    *sum = from.u32()?;
                }
                Self::Digest { part, sums }
            }
            PULL => Self::Pull { buckets: from.u64()? },
            TOLD => Self::Told { buckets: from.u64()?, round: from.u32()? },
            _ => return None,
        })
    }
}

impl Heartbeat {
    fn write(&self, to: &mut Writer<'_>) {
        to.u32(self.number);
        to.u8(self.state);
        to.u8(self.told.into());
        to.u64(self.incarnation);
        to.u16(self.heard.bits());
        to.u32(self.losses);
        to.u64(self.policy);
        to.u64(self.clock.0);
    }

    fn read(from: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            number: from.u32()?,
            state: from.u8()?,
            told: from.u8()? != 0,
            incarnation: from.u64()?,
            heard: View::from_bits(from.u16()?),
            losses: from.u32()?,
            policy: from.u64()?,
            clock: Term(from.u64()?),
        })
    }
}

impl Registration {
    fn write(&self, to: &mut Writer<'_>) {
        self.claim.write(to, if self.first.is_some() { HAS_FIRST } else { 0 });
        to.u32(self.round);
        to.pair(&self.key);
        if let Some(first) = &self.first {
            to.pair(first);
        }
    }

    fn read(from: &mut Reader<'_>) -> Option<Self> {
        let (claim, marks) = Claim::read(from)?;
        let (round, key) = (from.u32()?, from.pair()?);
        let first = if marks & HAS_FIRST != 0 { Some(from.pair()?) } else { None };
        Some(Self { key, first, claim, round })
    }
}

impl Claim {
    /// Who has owned the flow from the beginning need not say since when.
    fn write(&self, to: &mut Writer<'_>, marks: u8) {
        let is_first = self.birth == Birth::of(self.term, self.owner);
        to.u8(self.rank as u8 | marks | if is_first { 0 } else { HAS_BIRTH });
        to.u8(self.owner.0);
        to.u64(self.term.0);
        if !is_first {
            to.u64(self.birth.0);
        }
    }

    /// With the marks that stand in its first byte.
    fn read(from: &mut Reader<'_>) -> Option<(Self, u8)> {
        let marks = from.u8()?;
        let (rank, owner) = (Rank::of(marks & !(HAS_FIRST | HAS_BIRTH))?, from.node()?);
        let term = Term(from.u64()?);
        let is_first = marks & HAS_BIRTH == 0;
        let birth = if is_first { Birth::of(term, owner) } else { Birth(from.u64()?) };
        Some((Self { rank, term, owner, birth }, marks))
    }
}

impl End {
    fn read(from: &mut Reader<'_>) -> Option<Self> {
        let is_over = from.u8()? != 0;
        Some(Self { is_over, birth: Birth(from.u64()?), term: Term(from.u64()?) })
    }
}

impl Rank {
    const fn of(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Copy),
            1 => Some(Self::Closed),
            2 => Some(Self::Opening),
            3 => Some(Self::Answered),
            4 => Some(Self::Open),
            _ => None,
        }
    }
}

/// The messages of a datagram, in their order; ends with the first that is none.
pub(crate) fn messages(datagram: &[u8]) -> impl Iterator<Item = Result<Message, Malformed>> {
    let mut rest = Some(datagram);
    std::iter::from_fn(move || {
        loop {
            let here = rest.take().filter(|here| !here.is_empty())?;
            let Some((kind, value, behind)) = split(here) else { return Some(Err(Malformed)) };
            let mut reader = Reader(value);
            match Message::read(kind, &mut reader) {
                // What a later version adds to the end of a value is not looked at.
                Some(message) => {
                    rest = Some(behind);
                    return Some(Ok(message));
                }
                None if is_known(kind) || kind >= FIRST_REQUIRED => return Some(Err(Malformed)),
                None => rest = Some(behind),
            }
        }
    })
}

const fn is_known(kind: u8) -> bool {
    matches!(kind, HEARTBEAT..=DIGEST | REGISTER..=PULL)
}

fn split(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (header, rest) = bytes.split_first_chunk::<3>()?;
    let length = usize::from(u16::from_be_bytes([header[1], header[2]]));
    let (value, behind) = rest.split_at_checked(length)?;
    Some((header[0], value, behind))
}

#[cfg(test)]
pub(super) mod tests;
