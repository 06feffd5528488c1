//! Several nodes as one firewall: docs/cluster.md.
//!
//! Owner, director and forwarder of a flow follow from arithmetic over the members that this node takes for
//! alive. The shell moves two kinds of bytes between nodes and understands neither: sync datagrams, which it
//! seals and opens, and wrapped packets, which carry a tag of their own.

// What nodes say, and what they remember of it.
mod member;
mod relay;
mod rendezvous;
mod wire;
mod message;
mod record;
mod channel;
mod aging;
mod digests;
mod directory;
mod share;
mod waiting;
mod wrap;

// What the engine does about it, in the order of a flow's life.
mod announce;
mod word;
mod strict;
mod consult;
mod hand_over;
mod unwrap;
mod receive;
mod gather;
mod listen;
mod halves;
mod adopt;
mod presence;
mod pass;
mod drain;
mod ports;
mod behind;
mod lost_leg;

use std::collections::VecDeque;
use std::time::Duration;

use crate::chains::Keyed;
use crate::recent::Recent;
use crate::{InterfaceId, Time};

pub(crate) use rendezvous::{Machines, Rendezvous, View};

pub use unwrap::{Datagrams, Unwrapped};

pub use member::{Coverage, MemberStatus, NodeId, NodeState, Presence};

use behind::Behind;
use channel::Channel;
pub(crate) use consult::{Errand, FindPassage, Passage, Whose};
use digests::{Sums, Watch};
use directory::Directory;
use lost_leg::Search;
use message::Term;
use pass::Sweep;
use ports::{Ends, Resting};
pub(crate) use relay::Relay;
use rendezvous::Pair;
use share::Shares;
use waiting::Waiting;
pub use wrap::FlowHeader;
use wrap::{Tags, ZoneTag};

/// What is fixed for a node's life in its cluster.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    pub node: NodeId,
    /// All members that are configured, this node among them; at most [`NodeId::MAX`].
    pub members: Vec<NodeId>,
    /// Those of them that are workers of one machine, in their order, for each machine that has several.
    pub machines: Vec<Vec<NodeId>>,
    /// Larger at every start of this node.
    pub incarnation: u64,
    /// Keys the choice of directors; the same at all members.
    pub secret: [u8; 16],
    /// The largest IP packet that the links between nodes carry.
    pub sync_mtu: u16,
    /// A node says twice in this time that it lives; a peer of which nothing was heard for `heartbeats_missed` times
    /// as long is dead.
    pub heartbeat: Duration,
    pub heartbeats_missed: u32,
    /// Whether TCP connections are reset one side of which sends by way of a machine that has gone.
    pub reset_lost: bool,
}

impl ClusterConfig {
    /// The members that are workers of this one's machine, in their order, itself among them; nobody where it is the only one.
    pub fn beside(&self) -> Vec<NodeId> {
        let found = self.machines.iter().find(|members| members.contains(&self.node));
        found.filter(|members| members.len() > 1).cloned().unwrap_or_default()
    }
}

/// What the shell knows of its session with a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Session {
    /// The peer has shown who it is. The tag of wrapped packets is made with `send` and checked with
    /// `receive`; those of the session before are taken for a while longer. Only where the peer's datapath `unwraps`
    /// is this node's let wrap: no process sees the packet then.
    Up { incarnation: u64, epoch: u8, send: [u8; 16], receive: [u8; 16], unwraps: bool },
    /// The peer's process has gone: its address refuses or has reset the session.
    Lost,
    /// The peer's machine has gone: none of its addresses answers, on whatever link. A peer that is silent
    /// and is not known to have gone may forward packets still.
    Gone,
}

/// A packet for its owner, or for the director that knows it: one or more UDP payloads for port 6081.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wrapped {
    pub to: NodeId,
    /// Datagrams of `stride` bytes each, the last one of what is left.
    pub bytes: Vec<u8>,
    pub stride: usize,
}

/// Where in a wrapped datagram the frame begins that `handle_wrapped` makes of it.
pub const WRAPPED_FRAME: usize = 18;

/// What `gabion cluster status` shows of the engine's side.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterStatus {
    pub node: NodeId,
    pub state: NodeState,
    pub members: Vec<MemberStatus>,
    /// Flows that this node owns, and of which it keeps a copy for others.
    pub owned: u64,
    /// Of those that it owns: TCP connections that are over.
    pub closing: u64,
    pub replicas: u64,
    pub directed: u64,
    pub coverage: Coverage,
}

/// How many wrapped packets of others are remembered, so that each is handled once, and for how long.
const ASKS_REMEMBERED: u32 = 16_384;
const ASK_LIFE: Duration = Duration::from_secs(2);

/// Wrapped packets that wait for the shell; more are dropped as `peer-queue-full`.
const WRAPPED_MAX: usize = 4_096;

/// A node's part in its cluster.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) config: ClusterConfig,
    rendezvous: Rendezvous,
    machines: Machines,
    /// Who is alive, this node among them.
    view: View,
    /// Those of them that are asked for keys: all that do not leave, unless all do.
    directors: View,
    peers: Vec<Peer>,
    clock: Term,
    state: NodeState,
    shares: Shares,
    directory: Directory,
    waiting: Waiting,
    /// Which packets that somebody asks about were handled.
    handled: Recent,
    /// By which interface packets of a zone come in, by the zone's name.
    zones: Vec<(ZoneTag, InterfaceId)>,
    /// By the policy's number of the zone.
    zone_tags: Vec<ZoneTag>,
    wrapped: VecDeque<Wrapped>,
    /// Whom the kernel hands packets over to.
    handed: View,
    spare: Vec<Wrapped>,
    policy: u64,
    started: Time,
    beat: Time,
    beats: u32,
    /// How often this node has stood still for so long that it was dead to others.
    pub(crate) pauses: u16,
    paused_at: Option<Time>,
    /// How often a peer was lost.
    losses: u16,
    behind: Behind,
    /// The slot from which flows' holders are to be looked at anew.
    pass: Option<u32>,
    /// The slot from which flows are looked at for records that are due.
    scan: u32,
    scanned: Time,
    /// What peers have let go, to be taken out.
    sweeps: VecDeque<Sweep>,
    /// Ports of flows that have ended, of which a backup has not heard; and of whose ends it has, by now.
    resting: Keyed<Resting>,
    heard_ends: Ends,
    swept: Time,
    /// The replica from which those of dead owners are copied on.
    orphans: Option<u32>,
}

/// Another member.
#[derive(Debug)]
struct Peer {
    node: NodeId,
    channel: Channel,
    tags: Tags,
    /// Whether a session has stood and has not been lost since.
    session: bool,
    /// Whether its datapath takes what this node's has wrapped.
    unwraps: bool,
    /// Whether it was found not to be there.
    refused_us: bool,
    heard: Option<Time>,
    last_beat: Option<u32>,
    /// When its machine was found to have gone, until it is heard again; and how far the search for what it left is.
    gone: Option<Time>,
    search: Option<Search>,
    incarnation: u64,
    state: NodeState,
    /// Whether it has been told all that it is to know, and it has told us.
    told: bool,
    has_told: bool,
    /// Whether it has heard of this node lately, as it said last: who does not is taken for dead, so that
    /// both sides of a link that carries one way only see the same.
    hears_us: bool,
    /// How often it was taken for dead, and how often it has taken this node for dead, as it said last.
    losses: u32,
    lost_us: u32,
    /// How often it was told of all keys, or of those of some buckets, and of which it still has to hear
    /// that this round is over.
    round: u32,
    owes: u64,
    /// Of what it is to know, as far as this node's flows have been looked at; and what is seen of its own.
    sums: Sums,
    watch: Watch,
    /// The last round of its own that it has ended.
    round_in: u32,
    policy: Option<u64>,
    wrapped_out: u64,
    wrapped_in: u64,
    refused: u64,
}

impl Cluster {
    pub(crate) fn new(now: Time, config: ClusterConfig, flows: u32, secret: [u8; 16]) -> Self {
        let configured: View = config.members.iter().copied().collect();
        let me = config.node;
        let others = configured.without(me).nodes();
        Self {
            rendezvous: Rendezvous::new(config.secret),
            machines: Machines::new(&config.machines),
            view: View::NONE.with(me),
            directors: View::NONE.with(me),
            peers: others.map(|node| Peer::new(node, flows)).collect(),
            clock: Term(0),
            state: NodeState::Joining,
            shares: Shares::new(flows),
            directory: Directory::new(now, flows, secret),
            waiting: Waiting::default(),
            handled: Recent::new(ASKS_REMEMBERED, ASK_LIFE),
            zones: Vec::new(),
            zone_tags: Vec::new(),
            wrapped: VecDeque::new(),
            handed: View::NONE,
            spare: Vec::new(),
            policy: 0,
            started: now,
            beat: now,
            beats: 0,
            pauses: 0,
            paused_at: None,
            losses: 0,
            behind: Behind::new(flows),
            pass: None,
            scan: 0,
            scanned: now,
            sweeps: VecDeque::new(),
            resting: Keyed::new(flows / 4, secret),
            heard_ends: Ends::default(),
            swept: now,
            orphans: None,
            config,
        }
    }

    const fn me(&self) -> NodeId {
        self.config.node
    }

    fn peer(&mut self, node: NodeId) -> Option<&mut Peer> {
        self.peers.iter_mut().find(|peer| peer.node == node)
    }

    /// Whether nobody else is there.
    fn is_alone(&self) -> bool {
        self.view.len() == 1
    }

    fn is_alive(&self, node: NodeId) -> bool {
        self.view.contains(node)
    }

    /// Whether a node is still the one that it was when it said something.
    fn is_live(&self, node: NodeId, incarnation: u64) -> bool {
        self.is_alive(node) && (node == self.me() || self.is_in_life(node, incarnation))
    }

    /// Whether a peer, dead or alive, has not begun anew since it said something.
    fn is_in_life(&self, node: NodeId, incarnation: u64) -> bool {
        self.peers.iter().any(|peer| (peer.node, peer.incarnation) == (node, incarnation))
    }

    /// Which of its lives a peer is in.
    fn incarnation_of(&mut self, node: NodeId) -> u64 {
        self.peer(node).map_or(0, |peer| peer.incarnation)
    }

    /// Whether it is another worker of this machine.
    fn is_beside(&self, node: NodeId) -> bool {
        node != self.me() && self.machines.around(self.me()).contains(node)
    }

    fn director(&self, key: &Pair) -> NodeId {
        self.rendezvous.director(key, self.directors).unwrap_or(self.me())
    }

    /// A reading of the clock that nobody has had.
    fn tick(&mut self) -> Term {
        self.clock.0 += 1;
        self.clock
    }

    fn hear(&mut self, term: Term) {
        self.clock = self.clock.max(term);
    }
}

impl Peer {
    fn new(node: NodeId, flows: u32) -> Self {
        Self {
            node,
            channel: Channel::new(flows),
            tags: Tags::default(),
            session: false,
            unwraps: false,
            refused_us: false,
            heard: None,
            last_beat: None,
            gone: None,
            search: None,
            incarnation: 0,
            state: NodeState::Joining,
            told: false,
            has_told: false,
            hears_us: false,
            losses: 0,
            lost_us: 0,
            round: 0,
            owes: 0,
            sums: Sums::default(),
            watch: Watch::default(),
            round_in: 0,
            policy: None,
            wrapped_out: 0,
            wrapped_in: 0,
            refused: 0,
        }
    }
}
