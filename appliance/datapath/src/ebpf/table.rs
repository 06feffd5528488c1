//! The flow table of the fast path: memory that the programs read, changed by plain stores, without system calls.
//!
//! One thread owns it, or each of several a part. A flow's slot is read by programs at any time, so it is written while its turn is odd, and a
//! slot that is given up is used again only after a pause: a program that has found the old flow is done by then.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU16, fence};
use std::time::{Duration, Instant};

use super::between::Peers;
use super::flow::{
    FlowEntry, FlowPlace, FlowUsage, Head, HopId, InstallFlowError, NextHop, RelayEntry, TcpWindow,
    WireEndpoint, WireKey,
};
use super::index::{Index, Refused, words};
use super::layout::{
    self, Control, Flow, HOST_PORTS, Hop, KIND_LEGS, KIND_OWN, KIND_RELAY, OPENING, Past, SHIFT,
    UNSCALED, WORKER_SHIFT, Wide, ZONE_OF_PEERS,
};
use super::mapping::SharedArray;
use super::ports::{NO_ZONE, Ports};
use super::questions::Questions;
use super::shards::ShardTable;
use crate::Port;

/// Far longer than any program runs, even where a hypervisor stops a processor in the middle.
const REST: Duration = Duration::from_secs(2);

/// Nanoseconds in a unit of the programs' time, as a shift.
pub(super) const SEEN_SHIFT: u32 = 30;

/// IP protocol numbers.
pub(super) const TCP: u8 = 6;
const UDP: u8 = 17;

/// The tables that programs and node share, as one worker has them: its part of the flows, and hops of its own.
#[derive(Debug)]
pub struct FlowTable {
    pub(super) index: Arc<Index>,
    pub(super) flows: Arc<SharedArray<Flow>>,
    pub(super) wide: Arc<SharedArray<Wide>>,
    pub(super) hops: Arc<SharedArray<Hop>>,
    pub(super) ports: Arc<Ports>,
    pub(super) control: Arc<SharedArray<Control>>,
    pub(super) pasts: Arc<SharedArray<Past>>,
    pub(super) shards: ShardTable,
    pub(super) questions: Arc<Questions>,
    pub(super) part: Part,
    /// As many as flows, where there are other nodes.
    pub(super) heads: Arc<SharedArray<layout::Head>>,
    pub(super) peers: Arc<Peers>,
    /// The half of `hops` that is this process's: flows of an earlier one go on by the other.
    pub(super) half: u32,
    pub(super) free: Places,
    pub(super) free_wide: Places,
}

/// What of the tables is one worker's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub(super) worker: u16,
    /// Its first place in `flows`, `wide` and `pasts`, of so many.
    pub(super) first: u32,
    pub(super) count: u32,
}

/// The lower bits of a stamp.
pub(super) const JUDGEMENT: u32 = (1 << WORKER_SHIFT) - 1;

impl Part {
    pub(super) fn slots(self) -> Range<usize> {
        self.first as usize..(self.first + self.count) as usize
    }

    /// The judgement's number among those of all workers; zero is none.
    fn stamp(self, judgement: u32) -> u32 {
        match judgement.checked_sub(1) {
            None => 0,
            Some(judgement) => u32::from(self.worker) << WORKER_SHIFT | (judgement % JUDGEMENT + 1),
        }
    }
}

/// What is to stand in a slot.
struct Content<'a> {
    kind: u8,
    stamp: u32,
    keys: &'a [WireKey; 2],
    zones: [u16; 2],
    hops: [u32; 2],
    tenancies: [u16; 2],
    tcp: Option<[TcpWindow; 2]>,
    heads: [Option<Head>; 2],
}

impl Content<'_> {
    fn opening(&self) -> u8 {
        let Some([originator, _]) = self.tcp else { return 0 };
        let bit = |is: bool, bit: u8| if is { bit } else { 0 };
        bit(originator.opening, OPENING) | bit(originator.unscaled, UNSCALED)
    }
}

/// Places that are free: those never used, and those that rest.
#[derive(Debug)]
pub(super) struct Places {
    limit: u32,
    fresh: u32,
    resting: VecDeque<(Instant, u32)>,
}

impl Places {
    /// All that `is_used` does not say of; none is given that has been used lately.
    pub(super) fn but(limit: u32, is_used: &[bool]) -> Self {
        let mut places = Self::new(limit);
        places.fresh = is_used.iter().rposition(|&used| used).map_or(0, |last| last as u32 + 1);
        (0..places.fresh)
            .filter(|&place| !is_used[place as usize])
            .for_each(|place| places.give_back(place));
        places
    }

    pub(super) const fn new(limit: u32) -> Self {
        Self { limit, fresh: 0, resting: VecDeque::new() }
    }

    fn take(&mut self) -> Option<u32> {
        if let Some(&(since, place)) = self.resting.front()
            && since.elapsed() >= REST
        {
            self.resting.pop_front();
            return Some(place);
        }
        (self.fresh < self.limit).then(|| {
            self.fresh += 1;
            self.fresh - 1
        })
    }

    fn give_back(&mut self, place: u32) {
        self.resting.push_back((Instant::now(), place));
    }
}

impl FlowTable {
    /// Has the programs move the flow.
    ///
    /// # Errors
    /// The flow is not installed, and nothing has changed.
    pub fn install(&mut self, entry: &FlowEntry) -> Result<FlowPlace, InstallFlowError> {
        let is_followed = entry.tcp.is_some() == (entry.keys[0].protocol == TCP);
        let is_movable = is_followed && !entry.zones.contains(&NO_ZONE);
        if !is_movable {
            return Err(InstallFlowError::NotMovable);
        }
        self.put(&self.content_of_flow(entry))
    }

    /// Has the programs hand the flow's packets over to the node that owns it.
    ///
    /// # Errors
    /// The flow is not installed, and nothing has changed.
    pub fn install_relay(&mut self, entry: &RelayEntry) -> Result<FlowPlace, InstallFlowError> {
        if !self.has_heads() {
            return Err(InstallFlowError::NotMovable);
        }
        self.put(&content_of_relay(entry))
    }

    fn put(&mut self, content: &Content<'_>) -> Result<FlowPlace, InstallFlowError> {
        let is_wide = is_wide(content.keys).ok_or(InstallFlowError::NotMovable)?;
        let limit = self.free.limit;
        let place = self.free.take().ok_or(InstallFlowError::Full { limit })?;
        let wide = if is_wide { self.free_wide.take() } else { Some(0) };
        let Some(wide) = wide else {
            self.free.give_back(place);
            return Err(InstallFlowError::Full { limit });
        };
        let (slot, wide) = (self.part.first + place, self.part.first + wide);
        let flow = &self.flows[slot as usize];
        // Odd already, or zero: never used.
        let turn = flow.turn.load(Relaxed) | 1;
        flow.turn.store(turn, Relaxed);
        fence(Release);
        write_keys(flow, &self.wide[wide as usize], content.keys, is_wide, wide);
        flow.start(content.tcp);
        self.write_judgement(slot, content);
        flow.turn.store(turn.wrapping_add(1), Release);
        match self.lead(content.keys, slot) {
            Ok(()) => Ok(FlowPlace(place)),
            Err(refused) => {
                self.retire(FlowPlace(place));
                Err(refused)
            }
        }
    }

    /// Puts both keys into the index, or none.
    fn lead(&self, keys: &[WireKey; 2], slot: u32) -> Result<(), InstallFlowError> {
        let error = |refused| match refused {
            Refused::Full => InstallFlowError::NoRoom,
            Refused::Taken => InstallFlowError::KeyTaken,
        };
        let [original, reply] = [0, 1].map(|direction| (slot << 1 | direction) + 1);
        self.index.insert(&keys[0], original).map_err(error)?;
        self.index.insert(&keys[1], reply).map_err(|refused| {
            self.index.remove(&keys[0], original);
            error(refused)
        })
    }

    /// Gives an installed flow another judgement, other next hops, and windows that have moved on. Of TCP, no
    /// scale is new; it may not be opening any more, and a side may have sent its FIN.
    pub fn renew(&mut self, place: FlowPlace, entry: &FlowEntry) {
        self.put_again(place, &self.content_of_flow(entry));
    }

    /// Gives an installed relay another judgement, and other ways.
    pub fn renew_relay(&mut self, place: FlowPlace, entry: &RelayEntry) {
        self.put_again(place, &content_of_relay(entry));
    }

    fn put_again(&self, place: FlowPlace, content: &Content<'_>) {
        let flow = &self.flows[self.slot(place)];
        let turn = flow.turn.load(Relaxed);
        flow.turn.store(turn | 1, Relaxed);
        fence(Release);
        self.write_judgement(self.slot(place) as u32, content);
        flow.move_on(content.tcp);
        flow.turn.store(turn.wrapping_add(2), Release);
    }

    /// Takes the flow back and tells what was done for it.
    pub fn remove(&mut self, place: FlowPlace) -> FlowUsage {
        let keys = self.keys(place);
        let slot = self.slot(place);
        for (direction, key) in keys.iter().enumerate() {
            self.index.remove(key, ((slot as u32) << 1 | direction as u32) + 1);
        }
        let flow = &self.flows[slot];
        flow.turn.fetch_or(1, Acquire);
        let usage = self.take_usage(place);
        self.retire(place);
        usage
    }

    /// The place is nobody's from now on.
    fn retire(&mut self, place: FlowPlace) {
        let flow = &self.flows[self.slot(place)];
        flow.turn.fetch_or(1, Relaxed);
        if flow.version.load(Relaxed) == 6 {
            self.free_wide.give_back(flow.addresses[0][0].load(Relaxed) - self.part.first);
        }
        self.free.give_back(place.0);
    }

    /// Of a place in this worker's part.
    pub(super) const fn slot(&self, place: FlowPlace) -> usize {
        (self.part.first + place.0) as usize
    }

    /// Whose keys are, of this worker and the others.
    pub fn shards(&self) -> ShardTable {
        self.shards.clone()
    }

    /// What was done for the flow since this was asked last, and where its windows stand.
    pub fn take_usage(&mut self, place: FlowPlace) -> FlowUsage {
        let slot = self.slot(place);
        self.flows[slot].take_usage(&self.pasts[slot])
    }

    /// From now on, flows of this judgement only are used; with zero, none.
    pub fn set_stamp(&mut self, stamp: u32) {
        let control = &self.control[usize::from(self.part.worker)];
        control.stamp.store(self.part.stamp(stamp), Release);
        if stamp != 0 {
            // All that is there has been judged by this process.
            control.hops.store(self.half, Relaxed);
            control.resuming.store(0, Release);
        }
    }

    /// Says which TCP ports the guard leaves to the host on data interfaces. What is for none of them, nor otherwise the
    /// host's, is kept from the host's stack by the programs, before the guard drops it there. More ports than there
    /// are places for: nothing is.
    pub fn set_host_ports(&mut self, ports: &[u16]) {
        let [first, places @ ..] = &self.control[0].host_ports;
        let known = if ports.len() <= HOST_PORTS { ports } else { &[] };
        let mut known = known.iter().map(|port| port.to_be());
        // While the first is zero, the others mean nothing.
        first.store(0, Release);
        let told = known.next().unwrap_or(0);
        places.iter().for_each(|place| place.store(known.next().unwrap_or(0), Release));
        first.store(told, Release);
    }

    /// Says where packets for a hop go; `None` has them go to the engine.
    ///
    /// # Panics
    /// When there is no such place.
    pub fn set_hop(&mut self, id: HopId, hop: Option<NextHop>) {
        let entry = &self.hops[self.hop_place(id) as usize];
        let Some(hop) = hop else { return entry.source_and_tenancy.store(0, Release) };
        let source = word(hop.source.0, id.tenancy);
        let destination = word(hop.destination.0, hop.mtu);
        let is_of_source = entry.source_and_tenancy.load(Relaxed) == source
            && entry.interface.load(Relaxed) == hop.interface;
        // Mostly nothing has changed, and programs on other processors have the line.
        if is_of_source && entry.destination_and_mtu.load(Relaxed) == destination {
            return;
        }
        if !is_of_source {
            // Nobody's while it is written.
            entry.source_and_tenancy.store(0, Relaxed);
            fence(Release);
        }
        entry.destination_and_mtu.store(destination, Relaxed);
        entry.interface.store(hop.interface, Relaxed);
        entry.source_and_tenancy.store(source, Release);
    }

    /// Places for next hops.
    pub fn hop_limit(&self) -> u32 {
        self.hops.len() as u32 / 2 / u32::from(self.shards.workers())
    }

    fn hop_place(&self, hop: HopId) -> u32 {
        let workers = u32::from(self.shards.workers());
        (self.half * workers + u32::from(self.part.worker)) * self.hop_limit() + hop.place
    }

    /// Says of which zone an interface is; one of none moves no packets.
    ///
    /// # Panics
    /// When there is no such port.
    pub fn set_zone(&mut self, port: Port, zone: Option<u16>) {
        self.ports.set_zone(port, zone);
    }

    /// The kernel's number of an interface; `None` while there is none.
    pub fn interface(&self, port: Port) -> Option<u32> {
        self.ports.interface(port)
    }

    fn write_judgement(&self, slot: u32, content: &Content<'_>) {
        let flow = &self.flows[slot as usize];
        let store = |place: &[AtomicU16; 2], values: [u16; 2]| {
            place.iter().zip(values).for_each(|(place, value)| place.store(value, Relaxed));
        };
        let shifts = flow.shifts[0].load(Relaxed);
        flow.shifts[0].store(shifts & SHIFT | content.kind | content.opening(), Relaxed);
        flow.stamp.store(self.part.stamp(content.stamp), Relaxed);
        store(&flow.zones, content.zones);
        store(&flow.tenancies, content.tenancies);
        for (place, hop) in flow.hops.iter().zip(content.hops) {
            place.store(hop, Relaxed);
        }
        if content.kind != KIND_OWN {
            self.heads[slot as usize].write(&content.heads);
        }
    }

    fn content_of_flow<'a>(&self, entry: &'a FlowEntry) -> Content<'a> {
        let FlowEntry { stamp, ref keys, mut zones, hops, tcp, mut legs } = *entry;
        let mut tenancies = hops.map(|hop| hop.tenancy);
        for at in 0..2 {
            if legs[at].is_some() {
                zones[at] = ZONE_OF_PEERS;
                if !self.has_heads() {
                    // They come to the engine.
                    (legs[at], tenancies[at]) = (None, 0);
                }
            }
        }
        let kind = if legs == [None; 2] { KIND_OWN } else { KIND_LEGS };
        let hops = hops.map(|hop| self.hop_place(hop));
        Content { kind, stamp, keys, zones, hops, tenancies, tcp, heads: legs }
    }

    fn has_heads(&self) -> bool {
        self.heads.len() == self.flows.len()
    }

    /// Whether packets are handed over to a node; they come to the engine otherwise.
    pub fn set_peer(&mut self, node: u8, is_open: bool) {
        self.peers.set_open(node, is_open);
    }

    pub(super) fn keys(&self, place: FlowPlace) -> [WireKey; 2] {
        let flow = &self.flows[self.slot(place)];
        let is_wide = flow.version.load(Relaxed) == 6;
        [0, 1].map(|direction: usize| {
            let address = |side: usize| -> IpAddr {
                if !is_wide {
                    let word = flow.addresses[direction][side].load(Relaxed);
                    return IpAddr::from(word.to_ne_bytes());
                }
                let wide = &self.wide[flow.addresses[0][0].load(Relaxed) as usize];
                let mut octets = [0; 16];
                for (at, half) in octets.chunks_exact_mut(8).enumerate() {
                    let word = wide.words[direction][2 * side + at].load(Relaxed);
                    half.copy_from_slice(&word.to_ne_bytes());
                }
                IpAddr::from(octets)
            };
            let endpoint = |side: usize| {
                let port = u16::from_be(flow.ports[direction][side].load(Relaxed));
                WireEndpoint { address: address(side), port }
            };
            let protocol = flow.protocol.load(Relaxed);
            WireKey { protocol, source: endpoint(0), destination: endpoint(1) }
        })
    }
}

fn content_of_relay(entry: &RelayEntry) -> Content<'_> {
    let RelayEntry { stamp, ref keys, ways, peer, mtu } = *entry;
    Content {
        kind: KIND_RELAY,
        stamp,
        keys,
        // Nothing comes from there that is not unwrapped.
        zones: ways.map(|way| way.map_or(ZONE_OF_PEERS, |(zone, _)| zone)),
        hops: [peer.into(); 2],
        tenancies: [mtu; 2],
        tcp: None,
        heads: ways.map(|way| way.map(|(_, head)| head)),
    }
}

/// Whether the flow is one of IPv6; `None` for one that the programs cannot move.
fn is_wide(keys: &[WireKey; 2]) -> Option<bool> {
    let [original, reply] = *keys;
    let families = [original, reply]
        .map(|key| [key.source, key.destination].map(|endpoint| endpoint.address.is_ipv6()));
    let is_wide = families[0][0];
    let is_one = families.as_flattened().iter().all(|&family| family == is_wide);
    let is_known = original.protocol == reply.protocol && matches!(original.protocol, TCP | UDP);
    (is_one && is_known).then_some(is_wide)
}

fn write_keys(flow: &Flow, wide: &Wide, keys: &[WireKey; 2], is_wide: bool, place: u32) {
    for (direction, key) in keys.iter().enumerate() {
        for (side, endpoint) in [key.source, key.destination].into_iter().enumerate() {
            flow.ports[direction][side].store(endpoint.port.to_be(), Relaxed);
            match endpoint.address {
                IpAddr::V4(v4) if !is_wide => {
                    let word = u32::from_ne_bytes(v4.octets());
                    flow.addresses[direction][side].store(word, Relaxed);
                }
                address @ (IpAddr::V4(_) | IpAddr::V6(_)) => {
                    for (at, word) in words(address).into_iter().enumerate() {
                        wide.words[direction][2 * side + at].store(word, Relaxed);
                    }
                }
            }
        }
    }
    if is_wide {
        flow.addresses[0][0].store(place, Relaxed);
    }
    let [original, reply] = *keys;
    let (from, to) = ([original.source, original.destination], [reply.destination, reply.source]);
    let ports = |endpoint: WireEndpoint| endpoint.port.to_be_bytes().to_vec();
    flow.address_delta.store(delta(from.map(octets), to.map(octets)), Relaxed);
    flow.port_delta.store(delta(from.map(ports), to.map(ports)), Relaxed);
    flow.version.store(if is_wide { 6 } else { 4 }, Relaxed);
    flow.protocol.store(original.protocol, Relaxed);
}

fn octets(endpoint: WireEndpoint) -> Vec<u8> {
    match endpoint.address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// By how much a one's-complement sum changes, in words as they stand in memory (RFC 1624 equation 3; RFC 1071
/// section 2: byte order does not matter).
fn delta(from: [Vec<u8>; 2], to: [Vec<u8>; 2]) -> u16 {
    let words = |bytes: [Vec<u8>; 2]| -> Vec<u16> {
        bytes.concat().chunks_exact(2).map(|word| u16::from_ne_bytes([word[0], word[1]])).collect()
    };
    let old = words(from).into_iter().map(|word| u32::from(!word));
    let mut sum: u32 = old.chain(words(to).into_iter().map(u32::from)).sum();
    while sum > u32::from(u16::MAX) {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// A link address and what stands behind it, as they lie in memory.
fn word(address: [u8; 6], behind: u16) -> u64 {
    let [a, b, c, d, e, f] = address;
    let [x, y] = behind.to_ne_bytes();
    u64::from_ne_bytes([a, b, c, d, e, f, x, y])
}
