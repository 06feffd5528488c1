//! A flow as its backup keeps it: all that another node needs to go on with it under rules of its own.

use super::NodeId;
use super::message::{Birth, Term};
use super::rendezvous::Pair;
use super::wire::{Reader, Writer};
use super::wrap::ZoneTag;
use crate::FlowKey;
use crate::flows::{DestinationChoice, Flow, SourceChoice, Tracker};
use crate::tcp::{StoredTcp, TcpTracker};

/// Both keys, how far it is, and how long it has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) original: FlowKey,
    pub(crate) reply: FlowKey,
    pub(crate) birth: Birth,
    pub(crate) term: Term,
    /// Which of the owner's records of the flow at this term.
    pub(crate) version: u32,
    /// The zones that its packets come from, by the hashes of their names.
    pub(crate) zones: [ZoneTag; 2],
    /// The nodes that packets of each direction came in by, as in [`super::share::Share`].
    pub(crate) legs: [NodeId; 2],
    pub(crate) tracker: Tracker,
    pub(crate) translation: Translation,
    /// Milliseconds until it would end if no further packet came.
    pub(crate) remaining: u32,
}

/// What the adopter has to hold in its own NAT's tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Translation {
    /// The packets leave as they came, or their destination alone is another.
    None,
    /// The source was translated by a mapping, or by a port that connections share.
    Mapping,
    SharedPort,
    /// The flow came in by a mapping of somebody's.
    Guest,
}

const TCP: u8 = 1;
const UDP: u8 = 2;
const ICMP: u8 = 3;
const ASSOCIATION: u8 = 4;
const OTHER: u8 = 5;
/// Of the tracker's byte, above the kind.
const REPLIED: u8 = 1 << 7;
const BOTH_ASK: u8 = 1 << 6;

impl Record {
    /// The key that the record is kept by.
    pub(crate) fn first(&self) -> Pair {
        Pair::from(self.original)
    }

    pub(crate) fn second(&self) -> Pair {
        Pair::from(self.reply)
    }

    pub(crate) fn write(&self, to: &mut Writer<'_>) {
        to.u64(self.birth.0);
        to.u64(self.term.0);
        to.u32(self.version);
        for zone in self.zones {
            to.bytes(&zone.bytes());
        }
        for leg in self.legs {
            to.u8(leg.0);
        }
        to.u32(self.remaining);
        to.u8(match self.translation {
            Translation::None => 0,
            Translation::Mapping => 1,
            Translation::SharedPort => 2,
            Translation::Guest => 3,
        });
        to.key(&self.original);
        to.key(&self.reply);
        match &self.tracker {
            Tracker::Tcp(tcp) => {
                to.u8(TCP);
                for word in StoredTcp::from(tcp).words() {
                    to.u32(word);
                }
            }
            Tracker::Udp { replied } => to.u8(UDP | mark(*replied, REPLIED)),
            Tracker::Icmp { replied, both_ask } => {
                to.u8(ICMP | mark(*replied, REPLIED) | mark(*both_ask, BOTH_ASK));
            }
            Tracker::Association { replied } => to.u8(ASSOCIATION | mark(*replied, REPLIED)),
            Tracker::Other { replied } => to.u8(OTHER | mark(*replied, REPLIED)),
        }
    }

    pub(crate) fn read(from: &mut Reader<'_>) -> Option<Self> {
        let (birth, term, version) = (Birth(from.u64()?), Term(from.u64()?), from.u32()?);
        let zones = [from.bytes()?, from.bytes()?].map(ZoneTag::from_bytes);
        let legs = [NodeId(from.u8()?), NodeId(from.u8()?)];
        let remaining = from.u32()?;
        let translation = match from.u8()? {
            0 => Translation::None,
            1 => Translation::Mapping,
            2 => Translation::SharedPort,
            3 => Translation::Guest,
            _ => return None,
        };
        let (original, reply) = (from.key()?, from.key()?);
        let kind = from.u8()?;
        let replied = kind & REPLIED != 0;
        let tracker = match kind & !(REPLIED | BOTH_ASK) {
            TCP => {
                let mut words = [0; StoredTcp::WORDS];
                for word in &mut words {
                    *word = from.u32()?;
                }
                Tracker::Tcp(TcpTracker::from(&StoredTcp::from_words(words)))
            }
            UDP => Tracker::Udp { replied },
            ICMP => Tracker::Icmp { replied, both_ask: kind & BOTH_ASK != 0 },
            ASSOCIATION => Tracker::Association { replied },
            OTHER => Tracker::Other { replied },
            _ => return None,
        };
        let fits = original.protocol == reply.protocol
            && original.source.address.family() == reply.destination.address.family()
            && matches!(tracker, Tracker::Tcp(_)) == (original.protocol == 6);
        fits.then_some(Self {
            original,
            reply,
            birth,
            term,
            version,
            zones,
            legs,
            tracker,
            translation,
            remaining,
        })
    }
}

impl Translation {
    pub(crate) fn of(flow: &Flow) -> Self {
        use crate::translate::Lease;
        match (flow.lease, flow.admission.source, flow.admission.destination) {
            (_, _, DestinationChoice::Mapping | DestinationChoice::Filtered) => Self::Guest,
            (Lease::Mapping(_), _, _) => Self::Mapping,
            (Lease::SharedPort(_), _, _) => Self::SharedPort,
            (Lease::Nothing, SourceChoice::AsSent | SourceChoice::Rule(_), _)
            | (Lease::Nothing, SourceChoice::Hairpin, _) => Self::None,
        }
    }
}

const fn mark(on: bool, mark: u8) -> u8 {
    if on { mark } else { 0 }
}
