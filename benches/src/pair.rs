//! Two engines that are one firewall, and what they say to each other.

use std::time::Duration;

use gabion_engine::{
    ClusterConfig, Datagrams, Engine, Frame, InterfaceId, Neighbour, NodeId, NodeState, Offload,
    Session, Time, Unwrapped, Verdict, Wrapped,
};

use crate::subject::START;
use crate::{EXTERNAL, INTERNAL, Subject};

/// How far apart moments are at which the two do what is due.
const STEP: Duration = Duration::from_millis(20);
/// Longer than a join takes.
const READY_WITHIN: Duration = Duration::from_secs(10);

/// The gateways and the servers of the benchmarks' flows.
const NEIGHBOURS: [(InterfaceId, &str); 4] = [
    (EXTERNAL, "203.0.113.254"),
    (EXTERNAL, "2600:1::fe"),
    (INTERNAL, "10.1.0.10"),
    (INTERNAL, "2600:2::10"),
];

/// Two nodes whose datagrams come at once, and are neither sealed nor opened.
#[derive(Debug)]
pub struct Pair {
    pub now: Time,
    pub engines: [Engine; 2],
    /// Kept for its capacity.
    datagram: Vec<u8>,
}

impl Pair {
    /// Two nodes with this policy and room for so many flows, ready.
    ///
    /// # Panics
    /// When the policy is refused, or they do not become ready.
    pub fn new(policy: &str, flows: u32) -> Self {
        let engines = [1, 2].map(|node| Subject::in_cluster(policy, flows, config(node)).engine);
        let mut pair = Self { now: START, engines, datagram: Vec::new() };
        for (engine, peer) in pair.engines.iter_mut().zip([2, 1]) {
            let (send, receive) = ([peer; 16], [3 - peer; 16]);
            let session = Session::Up { incarnation: 1, epoch: 0, send, receive, unwraps: false };
            engine.handle_session(START, NodeId(peer), session);
        }
        for engine in &mut pair.engines {
            for (interface, address) in NEIGHBOURS {
                let address = address.parse().expect("a constant address");
                let known = Neighbour::Reachable { mac: [2, 0, 0, 0, 1, 1] };
                engine.handle_neighbour(START, interface, address, known);
            }
        }
        let limit = START + READY_WITHIN;
        while !pair.are_ready() {
            assert!(pair.now < limit, "{:?}", pair.engines[0].cluster_status(pair.now));
            pair.pass_time(STEP);
        }
        pair
    }

    fn are_ready(&self) -> bool {
        let status = |engine: &Engine| engine.cluster_status(self.now);
        let is_ready = |engine| status(engine).is_some_and(|s| s.state == NodeState::Ready);
        self.engines.iter().all(is_ready)
    }

    /// Lets time pass and both do what is due.
    pub fn pass_time(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now = (self.now + STEP).min(end);
            for engine in &mut self.engines {
                engine.handle_timeout(self.now);
                while engine.poll_event().is_some() {}
            }
            self.talk();
        }
    }

    /// Takes what either has to say to the other.
    pub fn talk(&mut self) {
        let Self { now, engines: [first, second], datagram } = self;
        loop {
            let mut said = false;
            while first.poll_peer(*now, datagram).is_some() {
                second.handle_peer(*now, NodeId(1), datagram);
                said = true;
            }
            while second.poll_peer(*now, datagram).is_some() {
                first.handle_peer(*now, NodeId(2), datagram);
                said = true;
            }
            if !said {
                return;
            }
        }
    }

    /// Has a node decide a frame.
    pub fn handle(
        &mut self,
        node: usize,
        from: InterfaceId,
        bytes: &mut [u8],
        offload: Offload,
    ) -> Verdict {
        let mut frame = Frame { bytes, offload };
        self.engines[node].handle_frame(self.now, from, &mut frame)
    }

    /// Gives all that a node has handed over to the other one; `leave` hears what becomes of it.
    pub fn hand_over(&mut self, node: usize, leave: &mut dyn FnMut(&Unwrapped, &[u8])) {
        let Self { now, engines, .. } = self;
        while let Some(mut wrapped) = engines[node].poll_wrapped() {
            let Wrapped { bytes, stride, .. } = &mut wrapped;
            let mut rest = Datagrams::new(*stride);
            let from = NodeId(node as u8 + 1);
            while let Some(unwrapped) =
                engines[1 - node].handle_datagrams(*now, from, bytes, &mut rest)
            {
                leave(&unwrapped, &bytes[unwrapped.frame.clone()]);
            }
            engines[node].recycle(wrapped);
        }
    }
}

fn config(node: u8) -> ClusterConfig {
    ClusterConfig {
        node: NodeId(node),
        members: vec![NodeId(1), NodeId(2)],
        machines: Vec::new(),
        incarnation: 1,
        secret: [9; 16],
        sync_mtu: 1_500,
        heartbeat: Duration::from_millis(100),
        heartbeats_missed: 4,
        reset_lost: true,
    }
}
