//! Several engines side by side, without a clock, a link or a fault of their own: what is sent comes at
//! once, unless a test cuts the wire.

use std::collections::BTreeSet;
use std::time::Duration;

use gabion_engine::{
    ClusterConfig, ClusterStatus, DropReason, Engine, EngineConfig, Event, Frame, Generation,
    Limits, Neighbour, NodeId, NodeState, Offload, Session, Time, Verdict, WRAPPED_FRAME,
};
use gabion_tests::network::{interface_id, network};
use gabion_tests::words;

/// As long as nothing is sent or lost by these, time is looked at so often.
const STEP: Duration = Duration::from_millis(5);

pub(super) struct Wall {
    pub now: Time,
    policy: String,
    nodes: Vec<Option<Engine>>,
    incarnations: Vec<u64>,
    paused: Option<(u8, Engine)>,
    /// From and to: nothing goes this way.
    pub cut: BTreeSet<(u8, u8)>,
    /// The same for wrapped packets only.
    pub cut_wrapped: BTreeSet<(u8, u8)>,
    /// How long everything is on its way.
    pub delay: Duration,
    on_its_way: Vec<(Time, Sent)>,
    /// From, to, and what: the sync datagrams so far.
    pub said: Vec<(u8, u8, Vec<u8>)>,
    /// What happens to each wrapped datagram on its way, and how often it comes.
    pub tamper: fn(&mut Vec<u8>),
    pub copies: usize,
    /// Whether a new session's peer unwraps what a datapath has wrapped.
    pub unwraps: bool,
    /// What left since the last step, as `node interface: words`.
    left: Vec<String>,
    /// The frames that left at the last step.
    pub frames: Vec<Vec<u8>>,
}

/// A datagram between two nodes.
#[derive(Clone)]
struct Sent {
    from: u8,
    to: u8,
    bytes: Vec<u8>,
    is_wrapped: bool,
}

impl Wall {
    /// So many nodes, 1 and up, that have found each other and are ready.
    pub(super) fn new(nodes: u8, policy: &str) -> Self {
        let mut wall = Self {
            now: Time::from_nanos(1_000_000_000),
            policy: policy.to_owned(),
            nodes: (0..nodes).map(|_| None).collect(),
            incarnations: vec![0; usize::from(nodes)],
            paused: None,
            cut: BTreeSet::new(),
            cut_wrapped: BTreeSet::new(),
            delay: Duration::ZERO,
            on_its_way: Vec::new(),
            said: Vec::new(),
            tamper: |_| (),
            copies: 1,
            unwraps: true,
            left: Vec::new(),
            frames: Vec::new(),
        };
        for node in 1..=nodes {
            wall.start(node);
        }
        wall.wait(Duration::from_secs(1));
        for node in 1..=nodes {
            assert_eq!(wall.status(node).state, NodeState::Ready, "{:?}", wall.status(node));
        }
        wall
    }

    /// Starts a node that knows nothing, and its sessions.
    pub(super) fn start(&mut self, node: u8) {
        self.boot(node);
        self.meet(node);
    }

    /// Starts a node that has not found anybody yet.
    pub(super) fn boot(&mut self, node: u8) {
        let place = usize::from(node - 1);
        self.incarnations[place] += 1;
        let members = (1..=self.nodes.len() as u8).map(NodeId).collect();
        let cluster = ClusterConfig {
            node: NodeId(node),
            members,
            machines: Vec::new(),
            incarnation: self.incarnations[place],
            secret: [9; 16],
            sync_mtu: 1_500,
            heartbeat: Duration::from_millis(100),
            heartbeats_missed: 4,
            reset_lost: true,
        };
        let limits = Limits { flows: 1_024, mappings: 1_024, ..Limits::default() };
        let seed = [node; 32];
        let config = EngineConfig { limits, seed, cluster: Some(cluster) };
        let mut engine = Engine::new(self.now, config);
        engine.set_network(network());
        let loaded = gabion_rules::load("wall.yaml", &self.policy, None);
        engine.set_rules(Generation(1), loaded.unwrap().rule_set);
        engine.open();
        self.nodes[place] = Some(engine);
    }

    /// The node finds all others that are there.
    pub(super) fn meet(&mut self, node: u8) {
        for other in self.alive().into_iter().filter(|other| *other != node) {
            self.connect(node, other);
            self.connect(other, node);
        }
    }

    /// The process ends, and its peers see their sessions end.
    pub(super) fn kill(&mut self, node: u8) {
        self.power_off(node);
        for other in self.alive() {
            let now = self.now;
            self.engine(other).handle_session(now, NodeId(node), Session::Lost);
        }
        self.settle();
    }

    /// The node is silent from now on.
    pub(super) fn power_off(&mut self, node: u8) {
        self.nodes[usize::from(node - 1)] = None;
    }

    /// Nothing answers on any of the node's addresses.
    pub(super) fn find_gone(&mut self, node: u8) {
        let now = self.now;
        for other in self.alive() {
            self.engine(other).handle_session(now, NodeId(node), Session::Gone);
        }
    }

    /// The node does nothing until `resume`.
    pub(super) fn pause(&mut self, node: u8) {
        let place = usize::from(node - 1);
        self.paused = self.nodes[place].take().map(|engine| (node, engine));
    }

    pub(super) fn resume(&mut self, node: u8) {
        let (paused, engine) = self.paused.take().unwrap();
        assert_eq!(paused, node);
        self.nodes[usize::from(node - 1)] = Some(engine);
    }

    pub(super) fn engine(&mut self, node: u8) -> &mut Engine {
        self.nodes[usize::from(node - 1)].as_mut().unwrap()
    }

    pub(super) fn status(&mut self, node: u8) -> ClusterStatus {
        let now = self.now;
        self.engine(node).cluster_status(now).unwrap()
    }

    /// The nodes' reasons for drops so far, each once.
    pub(super) fn drops(&mut self) -> BTreeSet<String> {
        let mut drops = BTreeSet::new();
        for node in self.alive() {
            let counters = self.engine(node).counters();
            let met = DropReason::ALL.iter().filter(|reason| counters.dropped(**reason) > 0);
            drops.extend(met.map(|reason| format!("{node} drop:{}", reason.label())));
        }
        drops
    }

    /// A frame comes in, and everything happens that follows from it; what left.
    pub(super) fn send(&mut self, node: u8, interface: &str, frame: &[u8]) -> Vec<String> {
        self.send_offloaded(node, interface, frame, Offload::default())
    }

    /// The same with work that was left to the network card.
    pub(super) fn send_offloaded(
        &mut self,
        node: u8,
        interface: &str,
        frame: &[u8],
        offload: Offload,
    ) -> Vec<String> {
        let mut bytes = frame.to_vec();
        let mut frame = Frame { bytes: &mut bytes, offload };
        let now = self.now;
        self.frames.clear();
        let verdict = self.engine(node).handle_frame(now, interface_id(interface), &mut frame);
        // Sync datagrams leave before the packet that they are about.
        self.settle();
        self.note(node, verdict, &bytes);
        std::mem::take(&mut self.left)
    }

    /// The same for a packet that may be an answer: whoever directs its key waits for its owner's word.
    pub(super) fn claim(&mut self, node: u8, interface: &str, frame: &[u8]) -> Vec<String> {
        let mut left = self.send(node, interface, frame);
        left.extend(self.wait(Duration::from_millis(25)));
        left
    }

    /// A node hears a sync datagram of a peer's that no peer has sent.
    pub(super) fn hear(&mut self, node: u8, from: u8, datagram: &[u8]) {
        let now = self.now;
        self.engine(node).handle_peer(now, NodeId(from), datagram);
        self.settle();
    }

    /// Lets time pass; what left meanwhile.
    pub(super) fn wait(&mut self, time: Duration) -> Vec<String> {
        let end = self.now + time;
        self.frames.clear();
        while self.now < end {
            self.now = self.now + STEP.min(end.since(self.now));
            let now = self.now;
            for (_, sent) in
                self.on_its_way.extract_if(.., |(at, _)| *at <= now).collect::<Vec<_>>()
            {
                self.arrive(&sent);
            }
            for node in self.alive() {
                self.engine(node).handle_timeout(now);
            }
            self.settle();
        }
        std::mem::take(&mut self.left)
    }

    fn alive(&self) -> Vec<u8> {
        (1..=self.nodes.len() as u8).filter(|n| self.nodes[usize::from(n - 1)].is_some()).collect()
    }

    fn connect(&mut self, node: u8, peer: u8) {
        let key = |from: u8, to: u8| [from * 16 + to; 16];
        let incarnation = self.incarnations[usize::from(peer - 1)];
        let (send, receive) = (key(node, peer), key(peer, node));
        let (now, unwraps) = (self.now, self.unwraps);
        let session = Session::Up { incarnation, epoch: 0, send, receive, unwraps };
        self.engine(node).handle_session(now, NodeId(peer), session);
    }

    fn note(&mut self, node: u8, verdict: Verdict, bytes: &[u8]) {
        if let Verdict::Forward { out } = verdict {
            let name = ["ext", "int", "spare"][usize::from(out.0)];
            let words = words::describe(bytes, Offload::default());
            self.left.push(format!("{node} {name}: {words}"));
            self.frames.push(bytes.to_vec());
        }
    }

    fn settle(&mut self) {
        while self.alive().into_iter().any(|node| self.drain(node)) {}
        for node in self.alive() {
            let counters = self.engine(node).counters();
            assert_eq!(counters.frames_in, counters.decided() + counters.held, "one verdict each");
        }
    }

    /// Moves what a node has to say; whether it said anything.
    fn drain(&mut self, node: u8) -> bool {
        let (now, mut moved) = (self.now, false);
        while let Some(transmit) = self.engine(node).poll_transmit() {
            self.note(node, Verdict::Forward { out: transmit.out }, &transmit.bytes);
            moved = true;
        }
        while let Some(event) = self.engine(node).poll_event() {
            if let Event::NeighbourWanted { interface, address } = event {
                let mac = words::mac_of(address.to_ip());
                let known = Neighbour::Reachable { mac };
                self.engine(node).handle_neighbour(now, interface, address.to_ip(), known);
                moved = true;
            }
        }
        let mut datagram = Vec::new();
        while let Some(to) = self.engine(node).poll_peer(now, &mut datagram) {
            moved = true;
            self.said.push((node, to.0, datagram.clone()));
            self.carry(Sent { from: node, to: to.0, bytes: datagram.clone(), is_wrapped: false });
        }
        while let Some(wrapped) = self.engine(node).poll_wrapped() {
            moved = true;
            for datagram in wrapped.bytes.chunks(wrapped.stride) {
                let mut bytes = datagram.to_vec();
                (self.tamper)(&mut bytes);
                let sent = Sent { from: node, to: wrapped.to.0, bytes, is_wrapped: true };
                for _ in 0..self.copies {
                    self.carry(sent.clone());
                }
            }
            self.engine(node).recycle(wrapped);
        }
        moved
    }

    fn carry(&mut self, sent: Sent) {
        let way = (sent.from, sent.to);
        if self.cut.contains(&way) || sent.is_wrapped && self.cut_wrapped.contains(&way) {
            return;
        }
        match self.delay {
            Duration::ZERO => self.arrive(&sent),
            delay => self.on_its_way.push((self.now + delay, sent)),
        }
    }

    fn arrive(&mut self, sent: &Sent) {
        let Sent { from, to, bytes, is_wrapped } = sent;
        let (now, from, to) = (self.now, NodeId(*from), *to);
        if !self.alive().contains(&to) {
            return;
        }
        if *is_wrapped {
            let mut bytes = bytes.clone();
            let verdict = self.engine(to).handle_wrapped(now, from, &mut bytes);
            self.note(to, verdict, bytes.get(WRAPPED_FRAME..).unwrap_or_default());
        } else {
            self.engine(to).handle_peer(now, from, bytes);
        }
    }
}
