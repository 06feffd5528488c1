//! What the kernel's programs do with packets of flows that the engine has handed over, in plain words: a table of
//! `gabion_engine::FastPath`, and a packet's way by it. For tests that have no kernel of their own.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gabion_engine::{
    Endpoint, FastFlow, FastHop, FastPath, FastPlace, FastRelay, FastUsage, FastWay, FlowHeader,
    FlowKey, InterfaceId, NodeId, Time, Usage,
};
use gabion_rules::ZoneId;

const LINK: usize = 14;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// How far below the oldest byte in flight a segment may start.
const BELOW_FLIGHT: u32 = 2;
/// Nanoseconds in a unit of the time at which a flow was seen, as a shift.
const SEEN_SHIFT: u32 = 30;

/// To be given to an engine, and to be asked before it.
#[derive(Debug, Clone, Default)]
pub struct ModelTable(Arc<Mutex<Tables>>);

#[derive(Debug, Default)]
struct Tables {
    stamp: u32,
    last: u32,
    flows: HashMap<u32, (FastFlow, FastUsage)>,
    relays: HashMap<u32, (FastRelay, FastUsage)>,
    peers: HashSet<NodeId>,
    keys: HashMap<FlowKey, (u32, usize)>,
    hops: HashMap<u32, (u16, FastWay)>,
    zones: HashMap<InterfaceId, ZoneId>,
    /// Until when packets go between nodes; for ever, where nobody says.
    between: Option<Time>,
    moved: u64,
}

/// What became of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Moved {
    Out(InterfaceId, Vec<u8>),
    /// As a UDP payload, for the node that owns its flow.
    ToPeer(NodeId, Vec<u8>),
}

impl FastPath for ModelTable {
    fn install(&mut self, flow: &FastFlow) -> Option<FastPlace> {
        let mut tables = self.tables();
        let place = tables.lead(flow.keys)?;
        let usage = FastUsage { tcp: flow.tcp.unwrap_or_default(), ..FastUsage::default() };
        tables.flows.insert(place, (*flow, usage));
        Some(FastPlace(place))
    }

    fn renew(&mut self, place: FastPlace, flow: &FastFlow) {
        let mut tables = self.tables();
        let (entry, usage) = tables.flows.get_mut(&place.0).expect("an installed flow");
        assert_eq!(entry.keys, flow.keys, "keys never change");
        *entry = *flow;
        for (side, seen) in usage.tcp.iter_mut().zip(flow.tcp.unwrap_or_default()) {
            side.end = later(side.end, seen.end);
            side.ack = later(side.ack, seen.ack);
            side.edge = later(side.edge, seen.edge);
            side.window = side.window.max(seen.window);
            side.opening = seen.opening;
            side.fin |= seen.fin;
        }
    }

    fn remove(&mut self, place: FastPlace) -> FastUsage {
        let mut tables = self.tables();
        let flow = tables.flows.remove(&place.0).map(|(flow, usage)| (flow.keys, usage));
        let relay = tables.relays.remove(&place.0).map(|(relay, usage)| (relay.keys, usage));
        let (keys, usage) = flow.or(relay).expect("an installed flow");
        for key in keys {
            tables.keys.remove(&key);
        }
        usage
    }

    fn install_relay(&mut self, relay: &FastRelay) -> Option<FastPlace> {
        let mut tables = self.tables();
        let place = tables.lead(relay.keys)?;
        tables.relays.insert(place, (*relay, FastUsage::default()));
        Some(FastPlace(place))
    }

    fn renew_relay(&mut self, place: FastPlace, relay: &FastRelay) {
        let mut tables = self.tables();
        let (entry, _) = tables.relays.get_mut(&place.0).expect("an installed relay");
        assert_eq!(entry.keys, relay.keys, "keys never change");
        *entry = *relay;
    }

    fn set_peer(&mut self, peer: NodeId, is_open: bool) {
        let peers = &mut self.tables().peers;
        if is_open {
            peers.insert(peer)
        } else {
            peers.remove(&peer)
        };
    }

    fn take_usage(&mut self, place: FastPlace) -> FastUsage {
        let mut tables = self.tables();
        let Tables { flows, relays, .. } = &mut *tables;
        let flow = flows.get_mut(&place.0).map(|(_, usage)| usage);
        let relay = relays.get_mut(&place.0).map(|(_, usage)| usage);
        let usage = flow.or(relay).expect("an installed flow");
        let left = FastUsage { moved: [Usage::default(); 2], ..*usage };
        std::mem::replace(usage, left)
    }

    fn set_hop(&mut self, hop: FastHop, way: Option<FastWay>) {
        let hops = &mut self.tables().hops;
        match way {
            Some(way) => drop(hops.insert(hop.place, (hop.tenancy, way))),
            None => drop(hops.remove(&hop.place)),
        }
    }

    fn set_zone(&mut self, interface: InterfaceId, zone: Option<ZoneId>) {
        let zones = &mut self.tables().zones;
        match zone {
            Some(zone) => drop(zones.insert(interface, zone)),
            None => drop(zones.remove(&interface)),
        }
    }

    fn set_stamp(&mut self, stamp: u32) {
        self.tables().stamp = stamp;
    }
}

impl ModelTable {
    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process has turned: what other nodes have to do with goes on until then.
    pub fn confirm(&self, until: Time) {
        self.tables().between = Some(until);
    }

    /// The process has gone, and another comes, which takes nothing over but what is other nodes'.
    pub fn keep_relays(&self) {
        let mut tables = self.tables();
        let Tables { flows, keys, relays, .. } = &mut *tables;
        flows.clear();
        keys.retain(|_, (place, _)| relays.contains_key(place));
    }

    /// Packets that went this way.
    pub fn moved(&self) -> u64 {
        self.tables().moved
    }

    /// What becomes of a packet that comes in by an interface; nothing of one that is the engine's.
    pub fn pass(&self, now: Time, from: InterfaceId, frame: &[u8]) -> Option<Moved> {
        let packet = Packet::read(frame)?;
        let mut tables = self.tables();
        let &(place, direction) = tables.keys.get(&packet.key)?;
        let zone = tables.zones.get(&from).copied();
        if let Some((relay, usage)) = tables.relays.get(&place).copied() {
            let wrap = relay.ways[direction].filter(|wrap| Some(wrap.zone) == zone)?;
            let length = packet.end - LINK;
            let is_open = !packet.segment.is_some_and(|segment| segment.fin)
                && tables.peers.contains(&relay.peer)
                && tables.is_current(relay.stamp);
            if !is_open || length as u32 > relay.mtu {
                return None;
            }
            let usage = seen(usage, direction, now, length);
            tables.relays.insert(place, (relay, usage));
            tables.moved += 1;
            let bytes = [&wrap.header, &frame[LINK..packet.end]].concat();
            return Some(Moved::ToPeer(relay.peer, bytes));
        }
        let (flow, _) = tables.flows.get(&place)?;
        let is_here = zone == Some(flow.zones[direction]) && flow.legs[direction].is_none();
        is_here.then(|| tables.move_on(now, &packet, (place, direction), frame))?
    }

    /// The same of one that a peer has wrapped.
    pub fn unwrap(&self, now: Time, peer: NodeId, datagram: &[u8]) -> Option<Moved> {
        let (header, inner) = datagram.split_first_chunk::<{ size_of::<FlowHeader>() }>()?;
        let link = [&[0; 12], &header[2..4]].concat();
        let frame = [&link, inner].concat();
        let packet = Packet::read(&frame)?;
        let mut tables = self.tables();
        let &(place, direction) = tables.keys.get(&packet.key)?;
        let (flow, _) = tables.flows.get(&place)?;
        let leg = flow.legs[direction]?;
        let is_its = leg.peer == peer && leg.header == *header;
        is_its.then(|| tables.move_on(now, &packet, (place, direction), &frame))?
    }
}

impl Tables {
    fn is_current(&self, stamp: u32) -> bool {
        self.stamp != 0 && self.stamp == stamp
    }

    fn is_confirmed(&self, now: Time) -> bool {
        self.between.is_none_or(|until| now <= until)
    }

    /// Room for a flow whose keys nobody has.
    fn lead(&mut self, keys: [FlowKey; 2]) -> Option<u32> {
        if keys.iter().any(|key| self.keys.contains_key(key)) {
            return None;
        }
        self.last += 1;
        for (direction, key) in keys.into_iter().enumerate() {
            self.keys.insert(key, (self.last, direction));
        }
        Some(self.last)
    }

    fn move_on(
        &mut self,
        now: Time,
        packet: &Packet,
        (place, direction): (u32, usize),
        frame: &[u8],
    ) -> Option<Moved> {
        let (flow, usage) = self.flows.get(&place).copied()?;
        let hop = flow.hops[direction]?;
        let &(tenancy, way) = self.hops.get(&hop.place)?;
        let length = packet.end - LINK;
        // Others take over what comes by them.
        let is_whole = flow.legs == [None; 2];
        if !(is_whole || self.is_confirmed(now)) {
            return None;
        }
        if !self.is_current(flow.stamp) || tenancy != hop.tenancy || length as u32 > way.mtu {
            return None;
        }
        let usage = packet.moves(usage, &flow, direction)?;
        let usage = seen(usage, direction, now, length);
        self.flows.insert(place, (flow, usage));
        self.moved += 1;
        let leaves = flow.keys[1 - direction].reversed();
        Some(Moved::Out(way.out, packet.rewrite(frame, leaves, way)))
    }
}

fn seen(mut usage: FastUsage, direction: usize, now: Time, length: usize) -> FastUsage {
    usage.moved[direction] += Usage { packets: 1, bytes: length as u64 };
    let unit = (now.as_nanos() >> SEEN_SHIFT) + 1;
    usage.seen[direction] = Time::from_nanos(unit << SEEN_SHIFT);
    usage
}

/// A packet that may go by the table.
#[derive(Debug, Clone, Copy)]
struct Packet {
    key: FlowKey,
    transport: usize,
    end: usize,
    segment: Option<Segment>,
}

#[derive(Debug, Clone, Copy)]
struct Segment {
    sequence: u32,
    acknowledgement: u32,
    window: u32,
    payload: u32,
    fin: bool,
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

fn long(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from(word(bytes, at)?) << 16 | u32::from(word(bytes, at + 2)?))
}

fn address(bytes: &[u8], at: usize, is_wide: bool) -> Option<IpAddr> {
    if is_wide {
        let octets: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
        return Some(octets.into());
    }
    let octets: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(octets.into())
}

impl Packet {
    fn read(frame: &[u8]) -> Option<Self> {
        let is_wide = match word(frame, 12)? {
            0x0800 => false,
            0x86dd => true,
            _ => return None,
        };
        let (protocol, hop_limit, addresses, transport, length) = if is_wide {
            let length = 40 + usize::from(word(frame, 18)?);
            (frame[20], frame[21], [22, 38], LINK + 40, length)
        } else {
            let is_plain = frame[14] == 0x45 && word(frame, 20)? & 0x3fff == 0;
            let header = frame.get(LINK..LINK + 20)?;
            if !is_plain || sum(header.chunks(2).map(|two| word(two, 0).unwrap_or(0))) != 0xffff {
                return None;
            }
            (frame[23], frame[22], [26, 30], LINK + 20, usize::from(word(frame, 16)?))
        };
        let end = LINK + length;
        if hop_limit <= 1 || frame.len() < end || !matches!(protocol, TCP | UDP) {
            return None;
        }
        let endpoint = |side: usize| {
            let port = word(frame, transport + 2 * side)?;
            Some(Endpoint { address: address(frame, addresses[side], is_wide)?.into(), port })
        };
        let key = FlowKey { source: endpoint(0)?, destination: endpoint(1)?, protocol };
        let segment =
            if protocol == TCP { Some(Segment::read(frame, transport, end)?) } else { None };
        Some(Self { key, transport, end, segment })
    }

    /// What the flow is after this packet; nothing if it does not fit.
    fn moves(&self, mut usage: FastUsage, flow: &FastFlow, direction: usize) -> Option<FastUsage> {
        let Some(segment) = self.segment else { return Some(usage) };
        let (sender, receiver) = (usage.tcp[direction], usage.tcp[1 - direction]);
        let end = segment.sequence.wrapping_add(segment.payload);
        let fin = u32::from(segment.fin);
        let ack = segment.acknowledgement;
        let beyond = u32::from(segment.payload == 0);
        let oldest = sender.end.wrapping_sub(receiver.window).wrapping_sub(BELOW_FLIGHT);
        let slack = if sender.opening { 0 } else { sender.window };
        let is_in_window = at_most(oldest, end.wrapping_add(fin))
            && at_most(end, receiver.edge.wrapping_add(beyond))
            && at_most(sender.ack.wrapping_sub(slack), ack)
            && at_most(ack, receiver.end);
        let is_behind_fin = sender.fin && (segment.fin || !at_most(end, sender.end));
        let is_early_fin = segment.fin && !at_most(sender.end, end.wrapping_add(fin));
        let is_below = sender.opening && !at_most(sender.end, segment.sequence);
        let is_finished = sender.fin
            && receiver.fin
            && at_most(sender.end, receiver.ack)
            && at_most(receiver.end, sender.ack);
        if !is_in_window || is_behind_fin || is_early_fin || is_below || is_finished {
            return None;
        }
        let shift = flow.tcp?[direction].shift;
        let window = (segment.window << shift).max(1);
        let side = &mut usage.tcp[direction];
        side.end = later(side.end, end.wrapping_add(fin));
        side.ack = later(side.ack, ack);
        side.edge = later(side.edge, ack.wrapping_add(window));
        side.window = side.window.max(window);
        side.fin |= segment.fin;
        Some(usage)
    }

    fn rewrite(&self, frame: &[u8], leaves: FlowKey, way: FastWay) -> Vec<u8> {
        let mut bytes = frame[..self.end].to_vec();
        bytes[..6].copy_from_slice(&way.destination);
        bytes[6..12].copy_from_slice(&way.source);
        let is_wide = bytes[12] == 0x86;
        let (hop_limit, addresses) = if is_wide { (21, 22..54) } else { (22, 26..34) };
        bytes[hop_limit] -= 1;
        let before: Vec<u8> = self.words_of(&bytes, addresses.clone());
        for (at, endpoint) in [leaves.source, leaves.destination].into_iter().enumerate() {
            let octets = match endpoint.address.to_ip() {
                IpAddr::V4(v4) => v4.octets().to_vec(),
                IpAddr::V6(v6) => v6.octets().to_vec(),
            };
            let start = addresses.start + at * octets.len();
            bytes[start..start + octets.len()].copy_from_slice(&octets);
            let port = self.transport + 2 * at;
            bytes[port..port + 2].copy_from_slice(&endpoint.port.to_be_bytes());
        }
        let after = self.words_of(&bytes, addresses);
        self.mend(&mut bytes, &before, &after);
        if !is_wide {
            if leaves != self.key && bytes[20] & 0x40 != 0 {
                bytes[18..20].fill(0);
            }
            bytes[24..26].fill(0);
            let header = bytes[LINK..LINK + 20].chunks(2).map(|two| word(two, 0).unwrap_or(0));
            let checksum = !sum(header);
            bytes[24..26].copy_from_slice(&checksum.to_be_bytes());
        }
        bytes
    }

    fn words_of(&self, bytes: &[u8], addresses: std::ops::Range<usize>) -> Vec<u8> {
        [&bytes[addresses], &bytes[self.transport..self.transport + 4]].concat()
    }

    /// RFC 1624: a wrong checksum stays wrong.
    fn mend(&self, bytes: &mut [u8], before: &[u8], after: &[u8]) {
        let at = self.transport + if self.segment.is_some() { 16 } else { 6 };
        let old = word(bytes, at).unwrap_or(0);
        let is_none = self.segment.is_none() && old == 0;
        if is_none || before == after {
            return;
        }
        let taken = before.chunks(2).map(|two| !word(two, 0).unwrap_or(0));
        let put = after.chunks(2).map(|two| word(two, 0).unwrap_or(0));
        let mut new = !sum([!old].into_iter().chain(taken).chain(put));
        if self.segment.is_none() && new == 0 {
            new = 0xffff;
        }
        bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
    }
}

impl Segment {
    /// One that moves nothing but windows, with the options of an established connection.
    fn read(frame: &[u8], at: usize, end: usize) -> Option<Self> {
        const ACK: u8 = 0x10;
        const FIN: u8 = 0x01;
        const SYN_RST: u8 = 0x06;
        let header = usize::from(*frame.get(at + 12)? >> 4) * 4;
        let flags = *frame.get(at + 13)?;
        if header < 20 || at + header > end || flags & ACK == 0 || flags & SYN_RST != 0 {
            return None;
        }
        let mut options = &frame[at + 20..at + header];
        while let Some(&kind) = options.first() {
            let length = match kind {
                0 => break,
                1 => 1,
                5 | 8 => usize::from(*options.get(1)?),
                _ => return None,
            };
            options = options.get(length.max(1)..)?;
        }
        let payload = (end - at - header) as u32;
        let window = u32::from(word(frame, at + 14)?);
        let (sequence, acknowledgement) = (long(frame, at + 4)?, long(frame, at + 8)?);
        Some(Self { sequence, acknowledgement, window, payload, fin: flags & FIN != 0 })
    }
}

fn sum(words: impl Iterator<Item = u16>) -> u16 {
    let mut sum: u32 = words.map(u32::from).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Modulo 2^32 (RFC 9293 section 3.4).
fn at_most(a: u32, b: u32) -> bool {
    b.wrapping_sub(a).cast_signed() >= 0
}

fn later(a: u32, b: u32) -> u32 {
    if at_most(a, b) { b } else { a }
}
