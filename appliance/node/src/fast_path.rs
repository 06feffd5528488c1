//! The datapath's table of flows, in the engine's words.

use std::time::Duration;

use gabion_datapath::ebpf::{
    FlowEntry, FlowPlace, FlowTable, HopId, NextHop, Past, RelayEntry, TcpAnswer, TcpWindow,
    WireEndpoint, WireKey,
};
use gabion_datapath::{LinkAddress, Port};
use gabion_engine::{
    Address, Endpoint, FastAnswer, FastFlow, FastHop, FastPast, FastPath, FastPlace, FastRelay,
    FastRemains, FastUsage, FastWay, FastWindow, FlowKey, InterfaceId, NodeId, Time, Usage,
};
use gabion_rules::ZoneId;

use crate::clock::time;

/// A hop that nobody has: the tenancy is never zero where somebody does.
const NOBODY: HopId = HopId { place: 0, tenancy: 0 };

/// The table that engine and programs share.
#[derive(Debug)]
pub struct SharedTable {
    table: FlowTable,
}

impl SharedTable {
    pub fn new(table: FlowTable) -> Self {
        Self { table }
    }

    fn way(&self, way: FastWay) -> Option<NextHop> {
        Some(NextHop {
            interface: self.table.interface(Port(way.out.0))?,
            source: LinkAddress(way.source),
            destination: LinkAddress(way.destination),
            // No IP packet is longer.
            mtu: u16::try_from(way.mtu).unwrap_or(u16::MAX),
        })
    }
}

impl FastPath for SharedTable {
    fn install(&mut self, flow: &FastFlow) -> Option<FastPlace> {
        match self.table.install(&entry(flow)) {
            Ok(place) => {
                self.table.note(place, &past(&flow.past));
                Some(FastPlace(place.0))
            }
            Err(error) => {
                tracing::debug!(%error, "a flow stays with the engine");
                None
            }
        }
    }

    fn renew(&mut self, place: FastPlace, flow: &FastFlow) {
        self.table.renew(FlowPlace(place.0), &entry(flow));
        self.table.note(FlowPlace(place.0), &past(&flow.past));
    }

    fn remove(&mut self, place: FastPlace) -> FastUsage {
        usage(&self.table.remove(FlowPlace(place.0)))
    }

    fn take_usage(&mut self, place: FastPlace) -> FastUsage {
        usage(&self.table.take_usage(FlowPlace(place.0)))
    }

    fn install_relay(&mut self, relay: &FastRelay) -> Option<FastPlace> {
        match self.table.install_relay(&relay_entry(relay)) {
            Ok(place) => Some(FastPlace(place.0)),
            Err(error) => {
                tracing::debug!(%error, "a flow of another node's stays with the engine");
                None
            }
        }
    }

    fn renew_relay(&mut self, place: FastPlace, relay: &FastRelay) {
        self.table.renew_relay(FlowPlace(place.0), &relay_entry(relay));
    }

    fn set_peer(&mut self, peer: NodeId, is_open: bool) {
        self.table.set_peer(peer.0, is_open);
    }

    fn set_hop(&mut self, hop: FastHop, way: Option<FastWay>) {
        // Beyond the table's places: packets of such flows come to the engine.
        if hop.place < self.table.hop_limit() {
            let way = way.and_then(|way| self.way(way));
            self.table.set_hop(HopId { place: hop.place, tenancy: hop.tenancy }, way);
        }
    }

    fn set_zone(&mut self, interface: InterfaceId, zone: Option<ZoneId>) {
        self.table.set_zone(Port(interface.0), zone.map(|zone| zone.0));
    }

    fn set_challenge_state(&mut self, state: [u64; 4]) {
        self.table.set_challenge_state(state);
    }

    fn challenge(&mut self, destination: Endpoint, zone: ZoneId) {
        self.table.challenge(wire(destination), zone.0);
    }

    fn may_have_challenged(&self) -> bool {
        self.table.may_have_challenged()
    }

    fn know(&mut self, source: Address) {
        self.table.know(source.to_ip());
    }

    fn set_stamp(&mut self, stamp: u32) {
        self.table.set_stamp(stamp);
    }

    fn stamp(&self) -> u32 {
        self.table.stamp()
    }

    fn begin_resuming(&mut self) -> u32 {
        self.table.begin_resuming()
    }

    fn remains(&mut self, place: FastPlace) -> Option<FastRemains> {
        let remains = self.table.remains(FlowPlace(place.0))?;
        let Past { opened, ingress, packets, bytes, .. } = remains.past;
        Some(FastRemains {
            keys: remains.keys.map(flow_key),
            ingress: ingress.map(|ports| ports.map(|port| InterfaceId(port.0))),
            tcp: remains.tcp.map(|windows| windows.map(fast_window)),
            usage: [0, 1].map(|at: usize| Usage { packets: packets[at], bytes: bytes[at] }),
            opened: time(opened),
            seen: time(remains.seen),
        })
    }
}

fn usage(usage: &gabion_datapath::ebpf::FlowUsage) -> FastUsage {
    FastUsage {
        moved: [0, 1].map(|at: usize| Usage { packets: usage.packets[at], bytes: usage.bytes[at] }),
        seen: usage.last_seen.map(time),
        tcp: usage.tcp.map(fast_window),
        answer: usage.answer.map(|TcpAnswer { sequence, shift }| FastAnswer { sequence, shift }),
    }
}

fn fast_window(window: TcpWindow) -> FastWindow {
    let TcpWindow { end, ack, edge, window, shift, fin, opening, unscaled } = window;
    FastWindow { end, ack, edge, window, shift, fin, opening, unscaled }
}

fn past(past: &FastPast) -> Past {
    let since_boot = |time: Time| Duration::from_nanos(time.as_nanos());
    Past {
        opened: since_boot(past.opened),
        seen: since_boot(past.now),
        ingress: Some(past.ingress.map(|interface| Port(interface.0))),
        packets: past.usage.map(|usage| usage.packets),
        bytes: past.usage.map(|usage| usage.bytes),
    }
}

fn flow_key(key: WireKey) -> FlowKey {
    let endpoint =
        |endpoint: WireEndpoint| Endpoint { address: endpoint.address.into(), port: endpoint.port };
    FlowKey {
        protocol: key.protocol,
        source: endpoint(key.source),
        destination: endpoint(key.destination),
    }
}

fn entry(flow: &FastFlow) -> FlowEntry {
    let hop = |hop: Option<FastHop>| {
        hop.map_or(NOBODY, |hop| HopId { place: hop.place, tenancy: hop.tenancy })
    };
    let window = |window: FastWindow| {
        let FastWindow { end, ack, edge, window, shift, fin, opening, unscaled } = window;
        TcpWindow { end, ack, edge, window, shift, fin, opening, unscaled }
    };
    FlowEntry {
        stamp: flow.stamp,
        keys: flow.keys.map(wire_key),
        zones: flow.zones.map(|zone| zone.0),
        hops: flow.hops.map(hop),
        tcp: flow.tcp.map(|windows| windows.map(window)),
        // The header names the peer.
        legs: flow.legs.map(|leg| leg.map(|leg| leg.header)),
    }
}

fn relay_entry(relay: &FastRelay) -> RelayEntry {
    RelayEntry {
        stamp: relay.stamp,
        keys: relay.keys.map(wire_key),
        ways: relay.ways.map(|way| way.map(|way| (way.zone.0, way.header))),
        peer: relay.peer.0,
        mtu: u16::try_from(relay.mtu).unwrap_or(u16::MAX),
    }
}

/// A key in the datapath's words.
pub fn wire_key(key: FlowKey) -> WireKey {
    WireKey { protocol: key.protocol, source: wire(key.source), destination: wire(key.destination) }
}

fn wire(endpoint: Endpoint) -> WireEndpoint {
    WireEndpoint { address: endpoint.address.to_ip(), port: endpoint.port }
}
