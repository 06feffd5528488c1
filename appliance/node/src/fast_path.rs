//! The datapath's table of flows, in the engine's words.

use std::time::Duration;

use gabion_datapath::ebpf::{
    FlowEntry, FlowPlace, FlowTable, HopId, NextHop, TcpWindow, WireEndpoint, WireKey,
};
use gabion_datapath::{LinkAddress, Port};
use gabion_engine::{
    Endpoint, FastFlow, FastHop, FastPath, FastPlace, FastUsage, FastWay, FastWindow, FlowKey,
    InterfaceId, Time, Usage,
};
use gabion_rules::ZoneId;

use crate::clock::Clock;

/// A hop that nobody has: the tenancy is never zero where somebody does.
const NOBODY: HopId = HopId { place: 0, tenancy: 0 };

/// The table that engine and programs share.
#[derive(Debug)]
pub struct SharedTable {
    table: FlowTable,
    /// CLOCK_MONOTONIC when the engine's time began.
    beginning: Duration,
}

impl SharedTable {
    pub fn new(table: FlowTable, clock: &Clock) -> Self {
        Self { table, beginning: clock.beginning() }
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

    fn time(&self, seen: Duration) -> Time {
        let since = seen.saturating_sub(self.beginning).as_nanos();
        Time::from_nanos(u64::try_from(since).unwrap_or(u64::MAX))
    }

    fn usage(&self, usage: &gabion_datapath::ebpf::FlowUsage) -> FastUsage {
        FastUsage {
            moved: [0, 1]
                .map(|at: usize| Usage { packets: usage.packets[at], bytes: usage.bytes[at] }),
            seen: usage.last_seen.map(|seen| self.time(seen)),
            tcp: usage.tcp.map(|TcpWindow { end, ack, edge, window, shift }| FastWindow {
                end,
                ack,
                edge,
                window,
                shift,
            }),
        }
    }
}

impl FastPath for SharedTable {
    fn install(&mut self, flow: &FastFlow) -> Option<FastPlace> {
        match self.table.install(&entry(flow)) {
            Ok(FlowPlace(place)) => Some(FastPlace(place)),
            Err(error) => {
                tracing::debug!(%error, "a flow stays with the engine");
                None
            }
        }
    }

    fn renew(&mut self, place: FastPlace, flow: &FastFlow) {
        self.table.renew(FlowPlace(place.0), &entry(flow));
    }

    fn remove(&mut self, place: FastPlace) -> FastUsage {
        let usage = self.table.remove(FlowPlace(place.0));
        self.usage(&usage)
    }

    fn take_usage(&mut self, place: FastPlace) -> FastUsage {
        let usage = self.table.take_usage(FlowPlace(place.0));
        self.usage(&usage)
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

    fn set_stamp(&mut self, stamp: u32) {
        self.table.set_stamp(stamp);
    }
}

fn entry(flow: &FastFlow) -> FlowEntry {
    let hop = |hop: Option<FastHop>| {
        hop.map_or(NOBODY, |hop| HopId { place: hop.place, tenancy: hop.tenancy })
    };
    let window =
        |FastWindow { end, ack, edge, window, shift }| TcpWindow { end, ack, edge, window, shift };
    FlowEntry {
        stamp: flow.stamp,
        keys: flow.keys.map(key),
        zones: flow.zones.map(|zone| zone.0),
        hops: flow.hops.map(hop),
        tcp: flow.tcp.map(|windows| windows.map(window)),
    }
}

fn key(key: FlowKey) -> WireKey {
    let endpoint = |endpoint: Endpoint| WireEndpoint {
        address: endpoint.address.to_ip(),
        port: endpoint.port,
    };
    WireKey {
        protocol: key.protocol,
        source: endpoint(key.source),
        destination: endpoint(key.destination),
    }
}
