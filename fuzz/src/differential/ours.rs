//! The engine, in virtual time.

use std::time::Duration;

use gabion_engine::{
    Engine, EngineConfig, Event, Frame, Generation, Interface, InterfaceId, Limits, Neighbour,
    Network, Offload, Route, Time, Transmit, Verdict,
};
use gabion_tests::network::NODE_MAC;
use gabion_tests::words;

use super::Router;
use super::script::Side;

/// What `linux.rs` says in nftables.
const POLICY: &str = r"
apiVersion: gabion/v1
zones:
  internet: { interfaces: [ext] }
  spokes: { interfaces: [int], networks: [10.1.0.0/24, '2600:2::/64'] }
settings:
  default: { action: drop, log: none }
  flood: { half-open: 60000, half-open-per-destination: 60000, half-open-per-source: 60000, flows-per-source: 60000 }
nat:
  - { name: web, kind: dnat, from: internet, to: 203.0.113.7, service: tcp/443, target: 10.1.0.10 }
  - { name: dns, kind: dnat, from: internet, to: 203.0.113.7, service: udp/53, target: 10.1.0.10 }
  - { name: out, kind: snat, from: spokes, out: internet, source: 10.1.0.0/24, address: self }
rules:
  - { name: in, from: internet, to: spokes, service: [tcp/443, tcp/22, udp/53, icmp/echo-request, icmpv6/echo-request], action: allow }
  - { name: out, from: spokes, to: internet, action: allow }
";

#[derive(Debug)]
pub(super) struct Ours {
    engine: Engine,
    now: Time,
}

impl Ours {
    pub(super) fn new() -> Self {
        let loaded = gabion_rules::load("differential.yaml", POLICY, None)
            .unwrap_or_else(|error| panic!("{error}"));
        let now = Time::from_nanos(1_000_000_000);
        let limits = Limits { flows: 65_536, mappings: 65_536, ..Limits::default() };
        let mut engine = Engine::new(now, EngineConfig { limits, seed: [5; 32], cluster: None });
        engine.set_network(network());
        engine.set_rules(Generation(1), loaded.rule_set);
        engine.open();
        Self { engine, now }
    }

    fn drain(&mut self) -> Vec<Transmit> {
        let mut left = Vec::new();
        loop {
            while let Some(frame) = self.engine.poll_transmit() {
                left.push(frame);
            }
            let Some(event) = self.engine.poll_event() else { return left };
            if let Event::NeighbourWanted { interface, address } = event {
                let mac = words::mac_of(address.to_ip());
                let known = Neighbour::Reachable { mac };
                self.engine.handle_neighbour(self.now, interface, address.to_ip(), known);
            }
        }
    }
}

impl Router for Ours {
    fn send(&mut self, from: Side, frame: &[u8]) -> (Vec<(Side, Vec<u8>)>, &'static str) {
        self.now = self.now + Duration::from_micros(200);
        self.engine.handle_timeout(self.now);
        let mut bytes = frame.to_vec();
        let mut frame = Frame { bytes: &mut bytes, offload: Offload::default() };
        let verdict = self.engine.handle_frame(self.now, interface(from), &mut frame);
        let mut left: Vec<(Side, Vec<u8>)> =
            self.drain().into_iter().map(|sent| (side(sent.out), sent.bytes)).collect();
        let word = match verdict {
            Verdict::Forward { out } => {
                left.insert(0, (side(out), bytes));
                "forward"
            }
            Verdict::Queued { .. } => "forward",
            Verdict::ToPeer { .. } => "to-peer",
            Verdict::ToWorker { .. } => "to-worker",
            Verdict::Held => "held",
            Verdict::Local => "local",
            Verdict::Answered => "answered",
            Verdict::Drop(reason) | Verdict::Reject(reason) => reason.label(),
        };
        (left, word)
    }
}

const fn interface(side: Side) -> InterfaceId {
    InterfaceId(match side {
        Side::Outside => 0,
        Side::Inside => 1,
    })
}

fn side(interface: InterfaceId) -> Side {
    if interface.0 == 0 { Side::Outside } else { Side::Inside }
}

fn network() -> Network {
    let interface = |name: &str, addresses: [&str; 2]| Interface {
        name: name.to_owned(),
        mac: NODE_MAC,
        mtu: 1_500,
        up: true,
        addresses: addresses.map(|address| address.parse().unwrap()).to_vec(),
    };
    let route = |prefix: &str, out: u16| Route {
        prefix: prefix.parse().unwrap(),
        gateway: None,
        out: Some(InterfaceId(out)),
        metric: 0,
    };
    Network {
        interfaces: vec![
            interface("ext", ["198.51.100.1/24", "2600:9::1/64"]),
            interface("int", ["10.1.0.1/24", "2600:2::1/64"]),
        ],
        routes: vec![
            route("198.51.100.0/24", 0),
            route("2600:9::/64", 0),
            route("10.1.0.0/24", 1),
            route("2600:2::/64", 1),
        ],
        host_addresses: Vec::new(),
        host_ports: Vec::new(),
        host_services: Vec::new(),
    }
}
