//! A flow as the table keeps it: three lines of the cache, of which a packet of an established flow
//! reads the first before it knows anything, and the others because it counts.

use gabion_rules::{NatId, RuleId, ZoneId};

use super::{Admission, DestinationChoice, Flow, Side, SourceChoice, Tracker};
use crate::event::{FlowId, Generation, Usage};
use crate::nat::MappingId;
use crate::neighbours::NeighbourId;
use crate::tcp::{StoredTcp, TcpTracker};
use crate::timers::Links;
use crate::translate::Lease;
use crate::{Direction, InterfaceId, Time};

/// A place of the table, taken or free. Arrays are indexed by [`Direction`].
#[derive(Debug, Clone)]
#[repr(C, align(64))]
pub(crate) struct Entry {
    // The first line.
    /// Both addresses of each key, or, of a wide flow, where its addresses are.
    pub(super) addresses: [u64; 2],
    pub(super) ports: [u32; 2],
    expires: Time,
    hops: [Option<NeighbourId>; 2],
    epoch: u32,
    /// The lower half: two generations of one table do not lie 2^32 apart.
    generation: u32,
    zones: [ZoneId; 2],
    pub(super) kind: Kind,
    pub(super) protocol: u8,
    marks: u16,
    // The second and the third.
    bytes: [u64; 2],
    id: FlowId,
    opened: Time,
    tcp: StoredTcp,
    packets: [u32; 2],
    packets_upper: [u16; 2],
    rule: RuleId,
    lease: u32,
    guest_of: u32,
    destination: u16,
    source: u16,
    ingress: [InterfaceId; 2],
    pub(super) timer: Links,
}

const _: () = assert!(size_of::<Entry>() == 192);

/// What a place holds, and how its flow is tracked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Free,
    Tcp,
    Udp,
    Icmp,
    Association,
    Other,
}

/// Bits of `marks`.
const HALF_OPEN: u16 = 1;
const LOGGED: u16 = 1 << 1;
const FROM_OWN_ADDRESS: u16 = 1 << 2;
const REPLIED: u16 = 1 << 3;
/// The addresses are longer than four bytes and stand elsewhere.
const WIDE: u16 = 1 << 4;
/// The keys are each other's reverse: packets leave as they came.
const PLAIN: u16 = 1 << 5;
/// No packet passes.
const SHUT: u16 = 1 << 8;

/// Both sides send ICMP queries, by leave of the policy that has judged the flow last.
const BOTH_ASK: u16 = 1 << 6;
/// See `Flow::expendable`.
const EXPENDABLE: u16 = 1 << 7;

/// Of `destination` and `source`: no NAT rule has these ids.
const AS_SENT: u16 = u16::MAX;
const BY_MAPPING: u16 = u16::MAX - 1;
const FILTERED: u16 = u16::MAX - 2;
const BY_HAIRPIN: u16 = u16::MAX - 1;

/// Of `lease`: nothing, a shared port without or with a NAT rule's number, a mapping's id. Of
/// `guest_of`, zero is none.
const NOTHING: u32 = 0;
const SHARED_PORT: u32 = 1;
const SHARED_PORT_OF: u32 = 2;
const MAPPING: u32 = SHARED_PORT_OF + u16::MAX as u32 + 1;

impl Entry {
    /// A place that was never taken.
    pub(super) fn free() -> Self {
        Self {
            addresses: [0; 2],
            ports: [0; 2],
            expires: Time::ZERO,
            hops: [None; 2],
            epoch: 0,
            generation: 0,
            zones: [ZoneId(0); 2],
            kind: Kind::Free,
            protocol: 0,
            marks: 0,
            bytes: [0; 2],
            id: FlowId(0),
            opened: Time::ZERO,
            tcp: StoredTcp::default(),
            packets: [0; 2],
            packets_upper: [0; 2],
            rule: RuleId(0),
            lease: NOTHING,
            guest_of: 0,
            destination: 0,
            source: 0,
            ingress: [InterfaceId(0); 2],
            timer: Links::NONE,
        }
    }

    /// A taken place but for the keys' addresses, which the table puts in.
    pub(super) fn new(flow: &Flow, is_wide: bool) -> Self {
        let Flow { id, original, reply, sides, admission, tracker, opened, expires, .. } = flow;
        let ports = [original, reply]
            .map(|key| u32::from(key.source.port) | u32::from(key.destination.port) << 16);
        let mut entry = Self {
            ports,
            expires: *expires,
            hops: sides.map(|side| side.hop),
            epoch: flow.epoch,
            kind: Kind::Other,
            protocol: original.protocol,
            id: *id,
            opened: *opened,
            lease: match flow.lease {
                Lease::Nothing => NOTHING,
                Lease::SharedPort(None) => SHARED_PORT,
                Lease::SharedPort(Some(NatId(rule))) => SHARED_PORT_OF + u32::from(rule),
                Lease::Mapping(id) => MAPPING + id.0,
            },
            guest_of: flow.guest_of.map_or(0, |id| id.0 + 1),
            ingress: sides.map(|side| side.ingress),
            ..Self::free()
        };
        for (direction, side) in Direction::BOTH.into_iter().zip(sides) {
            entry.add_usage(direction, side.usage);
        }
        entry.set_admission(admission);
        entry.set_tracker(tracker);
        entry.mark(HALF_OPEN, flow.half_open);
        entry.mark(EXPENDABLE, flow.expendable);
        entry.mark(LOGGED, flow.logged);
        entry.mark(FROM_OWN_ADDRESS, flow.is_from_own_address);
        entry.mark(WIDE, is_wide);
        entry.mark(SHUT, admission.destination == DestinationChoice::Filtered);
        entry.mark(PLAIN, *reply == original.reversed());
        entry
    }

    /// All of it. `keys` and `generation` are what the table makes of what stands here.
    pub(super) fn flow(&self, keys: [crate::FlowKey; 2], generation: Generation) -> Flow {
        let [original, reply] = keys;
        Flow {
            id: self.id,
            original,
            reply,
            sides: Direction::BOTH.map(|direction| Side {
                ingress: self.ingress[direction.index()],
                hop: self.hop(direction),
                usage: self.usage(direction),
            }),
            admission: self.admission(generation),
            tracker: self.tracker(),
            half_open: self.is_half_open(),
            expendable: self.is_expendable(),
            logged: self.has(LOGGED),
            lease: match self.lease {
                NOTHING => Lease::Nothing,
                SHARED_PORT => Lease::SharedPort(None),
                rule if rule < MAPPING => {
                    Lease::SharedPort(Some(NatId((rule - SHARED_PORT_OF) as u16)))
                }
                id => Lease::Mapping(MappingId(id - MAPPING)),
            },
            guest_of: self.guest_of(),
            is_from_own_address: self.has(FROM_OWN_ADDRESS),
            epoch: self.epoch,
            opened: self.opened,
            expires: self.expires,
        }
    }

    pub(crate) const fn id(&self) -> FlowId {
        self.id
    }

    /// The zone that packets of a direction come from.
    pub(crate) const fn zone(&self, direction: Direction) -> ZoneId {
        self.zones[direction.index()]
    }

    /// That packets of a direction come in by.
    pub(crate) const fn ingress(&self, direction: Direction) -> InterfaceId {
        self.ingress[direction.index()]
    }

    pub(crate) const fn rule(&self) -> RuleId {
        self.rule
    }

    pub(crate) const fn opened(&self) -> Time {
        self.opened
    }

    /// The mapping that it came in by.
    pub(crate) fn guest_of(&self) -> Option<MappingId> {
        self.guest_of.checked_sub(1).map(MappingId)
    }

    /// Whether it came in by somebody's mapping, and has none of its own.
    pub(crate) const fn is_stranger(&self) -> bool {
        self.guest_of != 0 && self.lease < MAPPING
    }

    /// Whether no packet passes, as the mapping at its end does not let its sender in.
    pub(crate) const fn is_filtered(&self) -> bool {
        self.has(SHUT)
    }

    pub(crate) const fn expires(&self) -> Time {
        self.expires
    }

    pub(crate) const fn set_expires(&mut self, expires: Time) {
        self.expires = expires;
    }

    /// The topology under which it was last looked at.
    pub(crate) const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The flow has been looked at under this topology: next hops of another are forgotten.
    pub(crate) fn set_epoch(&mut self, epoch: u32) {
        if self.epoch != epoch {
            self.hops = [None; 2];
        }
        self.epoch = epoch;
    }

    pub(crate) const fn hop(&self, direction: Direction) -> Option<NeighbourId> {
        self.hops[direction.index()]
    }

    pub(crate) const fn set_hop(&mut self, direction: Direction, hop: NeighbourId) {
        self.hops[direction.index()] = Some(hop);
    }

    pub(crate) const fn is_half_open(&self) -> bool {
        self.has(HALF_OPEN)
    }

    pub(crate) const fn set_half_open(&mut self, half_open: bool) {
        self.mark(HALF_OPEN, half_open);
    }

    pub(crate) const fn is_expendable(&self) -> bool {
        self.has(EXPENDABLE)
    }

    pub(crate) const fn set_expendable(&mut self, expendable: bool) {
        self.mark(EXPENDABLE, expendable);
    }

    /// Whether packets leave with the addresses and ports with which they came.
    pub(super) const fn is_plain(&self) -> bool {
        self.has(PLAIN)
    }

    pub(crate) const fn is_from_own_address(&self) -> bool {
        self.has(FROM_OWN_ADDRESS)
    }

    pub(super) const fn is_wide(&self) -> bool {
        self.has(WIDE)
    }

    /// Whether the flow was admitted under this generation, or permitted by it since.
    pub(crate) const fn is_of(&self, generation: Generation) -> bool {
        self.generation == generation.0 as u32
    }

    pub(super) const fn generation(&self) -> u32 {
        self.generation
    }

    pub(super) fn set_admission(&mut self, admission: &Admission) {
        let Admission { generation, from, to, rule, destination, source } = admission;
        self.generation = generation.0 as u32;
        self.mark(BOTH_ASK, false);
        self.zones = [*from, *to];
        self.rule = *rule;
        self.destination = match destination {
            DestinationChoice::AsSent => AS_SENT,
            DestinationChoice::Mapping => BY_MAPPING,
            DestinationChoice::Filtered => FILTERED,
            DestinationChoice::Rule(NatId(id)) => *id,
        };
        self.source = match source {
            SourceChoice::AsSent => AS_SENT,
            SourceChoice::Hairpin => BY_HAIRPIN,
            SourceChoice::Rule(NatId(id)) => *id,
        };
    }

    fn admission(&self, generation: Generation) -> Admission {
        Admission {
            generation,
            from: self.zones[0],
            to: self.zones[1],
            rule: self.rule,
            destination: match self.destination {
                AS_SENT => DestinationChoice::AsSent,
                BY_MAPPING => DestinationChoice::Mapping,
                FILTERED => DestinationChoice::Filtered,
                id => DestinationChoice::Rule(NatId(id)),
            },
            source: match self.source {
                AS_SENT => SourceChoice::AsSent,
                BY_HAIRPIN => SourceChoice::Hairpin,
                id => SourceChoice::Rule(NatId(id)),
            },
        }
    }

    pub(crate) fn tracker(&self) -> Tracker {
        let replied = self.has(REPLIED);
        match self.kind {
            Kind::Tcp => Tracker::Tcp(TcpTracker::from(&self.tcp)),
            Kind::Udp => Tracker::Udp { replied },
            Kind::Icmp => Tracker::Icmp { replied, both_ask: self.has(BOTH_ASK) },
            Kind::Association => Tracker::Association { replied },
            Kind::Other | Kind::Free => Tracker::Other { replied },
        }
    }

    pub(crate) fn set_tracker(&mut self, tracker: &Tracker) {
        let (kind, has_replied) = match tracker {
            Tracker::Tcp(tcp) => {
                self.tcp = StoredTcp::from(tcp);
                (Kind::Tcp, false)
            }
            Tracker::Udp { replied } => (Kind::Udp, *replied),
            Tracker::Icmp { replied, both_ask } => {
                self.mark(BOTH_ASK, *both_ask);
                (Kind::Icmp, *replied)
            }
            Tracker::Association { replied } => (Kind::Association, *replied),
            Tracker::Other { replied } => (Kind::Other, *replied),
        };
        self.kind = kind;
        self.mark(REPLIED, has_replied);
    }

    pub(crate) const fn usage(&self, direction: Direction) -> Usage {
        let at = direction.index();
        let packets = (self.packets_upper[at] as u64) << 32 | self.packets[at] as u64;
        Usage { packets, bytes: self.bytes[at] }
    }

    /// Counts packets: up to 2^48, nine years at a million in a second.
    pub(crate) const fn add_usage(&mut self, direction: Direction, moved: Usage) {
        let at = direction.index();
        let packets = self.usage(direction).packets + moved.packets;
        self.packets[at] = packets as u32;
        self.packets_upper[at] = (packets >> 32) as u16;
        self.bytes[at] += moved.bytes;
    }

    const fn has(&self, mark: u16) -> bool {
        self.marks & mark != 0
    }

    const fn mark(&mut self, mark: u16, on: bool) {
        self.marks = if on { self.marks | mark } else { self.marks & !mark };
    }
}
