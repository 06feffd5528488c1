//! Nodes, the connections of clients through them, and everything that may happen next.

use stateright::{Model, Property};

use super::heal;
use super::node::{
    Birth, Claim, Entry, FLOWS, Id, Join, Kind, MOST_NODES, Message, Net, Node, Packet, Passage,
    Port, Power, Rules,
};

/// How much may go wrong on one path.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) crashes: u8,
    pub(super) pauses: u8,
    /// Live peers that are taken for dead.
    pub(super) suspicions: u8,
    /// Connections, one after the other, with the same addresses.
    pub(super) lives: [u8; FLOWS],
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Cluster {
    pub(super) rules: Rules,
    pub(super) bounds: Bounds,
}

/// What client and server know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Connection {
    pub(super) life: u8,
    /// First packets of this life.
    firsts: u8,
    pub(super) runs: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub(super) nodes: Vec<Node>,
    /// All that was ever sent: any of it may arrive, in any order, again and again, or never.
    pub(super) net: Net,
    pub(super) connections: [Connection; FLOWS],
    crashes: u8,
    pauses: u8,
    suspicions: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Step {
    First {
        flow: u8,
        at: Id,
    },
    Packet {
        flow: u8,
        key: u8,
        at: Id,
    },
    Close {
        flow: u8,
        at: Id,
    },
    Deliver(Message),
    /// Nobody has answered: the owner goes on.
    GoOn {
        flow: u8,
        at: Id,
    },
    Suspect {
        at: Id,
        peer: Id,
    },
    Trust {
        at: Id,
        peer: Id,
    },
    Crash(Id),
    Restart(Id),
    Pause(Id),
    Resume(Id),
    Join(Id),
}

impl Model for Cluster {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            nodes: (0..self.rules.nodes).map(|id| Node::new(id, &self.rules)).collect(),
            net: Net::new(),
            connections: [Connection::default(); FLOWS],
            crashes: 0,
            pauses: 0,
            suspicions: 0,
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        for node in &state.nodes {
            self.steps_of(state, node, steps);
        }
        steps.extend(
            state
                .net
                .iter()
                .filter(|message| state.node(message.to).power == Power::Up)
                .map(|message| Step::Deliver(*message)),
        );
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        state.take(step, &self.rules);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("S2: a port is one flow's", |_, state: &State| {
                state.ports_are_apart()
            }),
            Property::always("S3: nothing that is gone comes back", |_, state: &State| {
                state.nodes.iter().all(stays_gone)
            }),
            Property::always("S4: what is left alone converges", |model, state: &State| {
                heal::converges(state, &model.rules)
            }),
        ]
    }
}

impl Cluster {
    fn steps_of(&self, state: &State, node: &Node, steps: &mut Vec<Step>) {
        let (at, bounds) = (node.id, &self.bounds);
        match node.power {
            Power::Paused => return steps.push(Step::Resume(at)),
            Power::Down => return steps.push(Step::Restart(at)),
            Power::Up => {}
        }
        if state.crashes < bounds.crashes {
            steps.push(Step::Crash(at));
        }
        if state.pauses < bounds.pauses {
            steps.push(Step::Pause(at));
        }
        if !node.has_joined && state.can_join(node, &self.rules) {
            steps.push(Step::Join(at));
        }
        for peer in state.nodes.iter().filter(|peer| peer.id != at) {
            let seen = node.view[usize::from(peer.id)];
            let is_gone = peer.power != Power::Up || peer.incarnation != seen;
            if seen != 0 && (is_gone || state.suspicions < bounds.suspicions) {
                steps.push(Step::Suspect { at, peer: peer.id });
            }
            if seen != peer.incarnation && peer.power == Power::Up {
                steps.push(Step::Trust { at, peer: peer.id });
            }
        }
        for flow in 0..FLOWS as u8 {
            let connection = state.connections[usize::from(flow)];
            let may_begin = connection.runs && connection.firsts < 2
                || !connection.runs && connection.life < bounds.lives[usize::from(flow)];
            if may_begin && node.may_begin(flow, &self.rules) {
                steps.push(Step::First { flow, at });
            }
            // Also one that is late: of a connection that has ended.
            if connection.life > 0 {
                steps.extend((0..self.rules.keys).map(|key| Step::Packet { flow, key, at }));
            }
            if let Some(own) = node.own[usize::from(flow)] {
                if own.is_doubtful {
                    steps.push(Step::GoOn { flow, at });
                } else if own.claim.is_open && connection.runs {
                    steps.push(Step::Close { flow, at });
                }
            }
        }
    }
}

impl State {
    pub(super) fn node(&self, id: Id) -> &Node {
        &self.nodes[usize::from(id)]
    }

    pub(super) fn take(&mut self, step: Step, rules: &Rules) {
        let mut out = Net::new();
        match step {
            Step::First { flow, at } => {
                let connection = &mut self.connections[usize::from(flow)];
                if !connection.runs {
                    // No datagram is late by more than the time between two connections of one client's port
                    // but an end that is told again.
                    self.net.retain(|message| {
                        message.flow != flow || matches!(message.kind, Kind::Gone { .. })
                    });
                    *connection = Connection { life: connection.life + 1, firsts: 0, runs: true };
                }
                connection.firsts += 1;
                let life = connection.life;
                self.nodes[usize::from(at)].begin(flow, life, rules, &mut out);
            }
            Step::Packet { flow, key, at } => {
                self.packet(flow, at, Packet { key, ingress: at, hops: 2 }, rules, &mut out);
            }
            Step::Close { flow, at } => {
                self.connections[usize::from(flow)].runs = false;
                self.nodes[usize::from(at)].end(flow, rules, &mut out);
            }
            Step::Deliver(message) => {
                self.nodes[usize::from(message.to)].receive(message, rules, &mut out);
            }
            Step::GoOn { flow, at } => {
                if let Some(own) = &mut self.nodes[usize::from(at)].own[usize::from(flow)] {
                    own.is_doubtful = false;
                }
            }
            Step::Suspect { at, peer } => {
                let lives = self.node(peer).power == Power::Up
                    && self.node(peer).incarnation == self.node(at).view[usize::from(peer)];
                self.suspicions += u8::from(lives);
                self.change_view(at, peer, 0, rules, &mut out);
            }
            Step::Trust { at, peer } => {
                let incarnation = self.node(peer).incarnation;
                self.change_view(at, peer, incarnation, rules, &mut out);
                // A session has two ends: who holds the earlier incarnation for alive learns better.
                let (seen, own) =
                    (self.node(peer).view[usize::from(at)], self.node(at).incarnation);
                if seen != own && self.node(peer).met[usize::from(at)] != own {
                    self.change_view(peer, at, own, rules, &mut out);
                }
            }
            Step::Crash(id) => {
                self.crashes += 1;
                self.nodes[usize::from(id)].crash();
                self.net.retain(|message| message.from != id);
            }
            Step::Restart(id) => {
                self.nodes[usize::from(id)].restart(rules);
                // Keys have died with the process.
                self.net.retain(|message| message.to != id);
            }
            Step::Pause(id) => {
                self.pauses += 1;
                self.nodes[usize::from(id)].power = Power::Paused;
            }
            Step::Resume(id) => self.nodes[usize::from(id)].resume(),
            Step::Join(id) => self.join(id, rules),
        }
        // Nothing can be sealed for an incarnation that one has not met.
        out.retain(|message| {
            let met = self.node(message.from).met[usize::from(message.to)];
            met == self.node(message.to).incarnation
        });
        self.net.append(&mut out);
    }

    /// A packet that is late on its way comes to where it is as if it came there later.
    fn packet(&mut self, flow: u8, at: Id, packet: Packet, rules: &Rules, out: &mut Net) {
        let node = &mut self.nodes[usize::from(at)];
        if node.power != Power::Up {
            return;
        }
        match node.packet(flow, packet, rules, out) {
            Passage::Handled(claim) => {
                self.nodes[usize::from(packet.ingress)].hear_hint(flow, claim, rules);
            }
            Passage::On(next) => {
                for (next, packet) in next {
                    self.packet(flow, next, packet, rules, out);
                }
            }
        }
    }

    fn change_view(&mut self, at: Id, peer: Id, incarnation: u8, rules: &Rules, out: &mut Net) {
        let node = &mut self.nodes[usize::from(at)];
        node.see(peer, incarnation);
        for flow in 0..FLOWS as u8 {
            node.register(flow, rules, out);
        }
    }

    pub(super) fn can_join(&self, node: &Node, rules: &Rules) -> bool {
        let hears = |peer: &Node| {
            node.view[usize::from(peer.id)] == peer.incarnation && peer.power == Power::Up
        };
        self.nodes.iter().filter(|peer| peer.id != node.id).all(|peer| match rules.join {
            Join::AllMembers => hears(peer),
            Join::View => hears(peer) || node.view[usize::from(peer.id)] == 0,
        })
    }

    /// Takes over at once what peers would send in a stream.
    pub(super) fn join(&mut self, id: Id, rules: &Rules) {
        let peers: Vec<Node> = self.nodes.iter().filter(|peer| peer.id != id).cloned().collect();
        let node = &mut self.nodes[usize::from(id)];
        let heard = peers.iter().filter(|peer| node.view[usize::from(peer.id)] != 0);
        for peer in heard {
            for flow in 0..FLOWS as u8 {
                let owned = peer.own[usize::from(flow)].map(|own| own.claim);
                let kept = peer.known[usize::from(flow)].iter().filter_map(|entry| match entry {
                    Entry::Known { claim, .. } => Some(*claim),
                    Entry::Unknown => None,
                });
                let hint = peer.hint[usize::from(flow)];
                for claim in kept.chain(owned).chain(hint).filter(|claim| claim.port == Some(id)) {
                    let unheard = (0..rules.nodes)
                        .filter(|peer| *peer != id)
                        .fold(0, |set, peer| set | 1 << peer);
                    let birth = claim.birth;
                    node.port = Port::Resting { flow, birth, ended: false, unheard };
                }
            }
        }
        node.has_joined = true;
    }

    pub(super) fn owners(&self, flow: usize) -> impl Iterator<Item = &Claim> {
        let lives = self.nodes.iter().filter(|node| node.power != Power::Down);
        lives.filter_map(move |node| node.own[flow].as_ref().map(|own| &own.claim))
    }

    fn ports_are_apart(&self) -> bool {
        let port = |claim: &Claim| claim.port;
        self.owners(0)
            .filter_map(port)
            .all(|one| self.owners(1).filter_map(port).all(|other| one != other))
    }
}

/// Nothing that this node knows to be gone is anything else to it.
fn stays_gone(node: &Node) -> bool {
    (0..FLOWS).all(|flow| {
        let gone =
            |birth: Birth, term: u8| node.gone[flow].get(&birth).is_some_and(|gone| term <= *gone);
        let own = node.own[flow].map(|own| own.claim);
        let known = node.known[flow].iter().filter_map(|entry| match entry {
            Entry::Known { claim, .. } => Some(*claim),
            Entry::Unknown => None,
        });
        own.into_iter()
            .chain(known)
            .chain(node.hint[flow])
            .all(|claim| !gone(claim.birth, claim.term))
    })
}

impl Node {
    /// Whether a first packet makes a flow here, and is not for another's.
    pub(super) fn may_begin(&self, flow: u8, rules: &Rules) -> bool {
        let place = usize::from(flow);
        let is_directed = self.known[place]
            .iter()
            .any(|entry| matches!(entry, Entry::Known { claim, .. } if self.sees(claim)));
        let has_port = !rules.ports || self.has_joined && self.port == Port::Free;
        self.own[place].is_none() && !is_directed && has_port
    }

    pub(super) fn see(&mut self, peer: Id, incarnation: u8) {
        let seen = &mut self.view[usize::from(peer)];
        // Who starts anew has nothing to forget.
        if incarnation > 1 && incarnation != *seen {
            if let Port::Resting { unheard, .. } = &mut self.port {
                *unheard &= !(1 << peer);
            }
            self.free_port();
        }
        self.view[usize::from(peer)] = incarnation;
        if incarnation != 0 {
            self.met[usize::from(peer)] = incarnation;
        }
    }

    fn crash(&mut self) {
        self.power = Power::Down;
        self.own = [None; FLOWS];
        self.known = [[Entry::Unknown; 2]; FLOWS];
        self.gone = Default::default();
        self.hint = [None; FLOWS];
        self.view = [0; MOST_NODES];
        self.met = [0; MOST_NODES];
        self.port = Port::Free;
    }

    pub(super) fn resume(&mut self) {
        self.power = Power::Up;
        for own in self.own.iter_mut().flatten() {
            own.is_doubtful = true;
        }
    }
}
