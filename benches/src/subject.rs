//! An engine that is ready to decide: a policy in force, a network, neighbours that are known.

use std::net::IpAddr;

use gabion_engine::{
    ClusterConfig, Engine, EngineConfig, Event, Frame, Generation, Interface, InterfaceId, Limits,
    Neighbour, Network, Offload, Route, Time, Verdict,
};

/// 203.0.113.1/24 and 2600:1::1/64; the default routes.
pub const EXTERNAL: InterfaceId = InterfaceId(0);
/// 10.1.0.1/16 and 2600:2::1/64.
pub const INTERNAL: InterfaceId = InterfaceId(1);
/// When the engine was made. Benchmarks need not let time pass.
pub const START: Time = Time::from_nanos(1_000_000_000);

/// The node's link address on both interfaces, as `gabion_engine::build` addresses frames.
const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const NEIGHBOUR_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];

/// An engine and the moment at which it is.
#[derive(Debug)]
pub struct Subject {
    pub engine: Engine,
}

impl Subject {
    /// An engine with this policy and room for this many flows.
    ///
    /// # Panics
    /// When the policy is refused.
    pub fn new(policy: &str, flows: u32) -> Self {
        Self::build(policy, flows, None)
    }

    /// The same for a member of a cluster.
    ///
    /// # Panics
    /// When the policy is refused.
    pub fn in_cluster(policy: &str, flows: u32, cluster: ClusterConfig) -> Self {
        Self::build(policy, flows, Some(cluster))
    }

    fn build(policy: &str, flows: u32, cluster: Option<ClusterConfig>) -> Self {
        let loaded = gabion_rules::load("subject.yaml", policy, None)
            .unwrap_or_else(|diagnostics| panic!("the subject's policy: {diagnostics}"));
        let limits = Limits { flows, mappings: flows, ..Limits::default() };
        let config = EngineConfig { limits, seed: [7; 32], cluster };
        let mut engine = Engine::new(START, config);
        engine.set_network(network());
        engine.set_rules(Generation(1), loaded.rule_set);
        engine.open();
        Self { engine }
    }

    /// Hands a frame over and says what became of it; the frame is changed where it is forwarded.
    pub fn handle(&mut self, from: InterfaceId, bytes: &mut [u8]) -> Verdict {
        let mut frame = Frame { bytes, offload: Offload::default() };
        self.engine.handle_frame(START, from, &mut frame)
    }

    /// Takes what the engine has to say, and answers its questions for neighbours.
    pub fn drain(&mut self) {
        loop {
            while self.engine.poll_transmit().is_some() {}
            let Some(event) = self.engine.poll_event() else { return };
            if let Event::NeighbourWanted { interface, address } = event {
                let known = Neighbour::Reachable { mac: NEIGHBOUR_MAC };
                self.engine.handle_neighbour(START, interface, address.to_ip(), known);
            }
        }
    }

    /// Sends a frame through the engine and returns it as it left. One that has to wait for a
    /// neighbour is sent again once the neighbour is known.
    ///
    /// # Panics
    /// When it does not leave.
    pub fn pass(&mut self, from: InterfaceId, bytes: &[u8]) -> Vec<u8> {
        let mut left = bytes.to_vec();
        let mut verdict = self.handle(from, &mut left);
        self.drain();
        if verdict == Verdict::Held {
            left.copy_from_slice(bytes);
            verdict = self.handle(from, &mut left);
        }
        assert!(matches!(verdict, Verdict::Forward { .. }), "{verdict:?}");
        left
    }
}

/// The network of all subjects.
///
/// # Panics
/// Never: its addresses are constants.
pub fn network() -> Network {
    let interface = |name: &str, addresses: [&str; 2]| Interface {
        name: name.to_owned(),
        mac: NODE_MAC,
        mtu: 1_500,
        up: true,
        addresses: addresses.map(|a| a.parse().expect("a constant prefix")).to_vec(),
    };
    let route = |prefix: &str, gateway: Option<&str>, out: InterfaceId| Route {
        prefix: prefix.parse().expect("a constant prefix"),
        gateway: gateway.map(|gateway| gateway.parse::<IpAddr>().expect("a constant address")),
        out: Some(out),
        metric: 0,
    };
    Network {
        interfaces: vec![
            interface("ext", ["203.0.113.1/24", "2600:1::1/64"]),
            interface("int", ["10.1.0.1/16", "2600:2::1/64"]),
        ],
        routes: vec![
            route("203.0.113.0/24", None, EXTERNAL),
            route("2600:1::/64", None, EXTERNAL),
            route("10.1.0.0/16", None, INTERNAL),
            route("2600:2::/64", None, INTERNAL),
            route("0.0.0.0/0", Some("203.0.113.254"), EXTERNAL),
            route("::/0", Some("2600:1::fe"), EXTERNAL),
        ],
        host_addresses: Vec::new(),
        host_ports: vec![4_480],
        host_services: Vec::new(),
    }
}
