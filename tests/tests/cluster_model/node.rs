//! What one node does: docs/cluster.md, sections 1 to 5 and 8, without bytes and clocks.

use std::collections::{BTreeMap, BTreeSet};

pub(super) type Id = u8;

pub(super) const FLOWS: usize = 2;
pub(super) const MOST_NODES: usize = 3;

/// What may be left out, to show that it is needed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub(super) nodes: u8,
    /// Two for flows whose destination is translated: their halves have directors of their own.
    pub(super) keys: u8,
    /// Flows have their source translated; each node has one port to give out.
    pub(super) ports: bool,
    pub(super) conflict: Conflict,
    pub(super) tombstone: Tombstone,
    pub(super) release: Release,
    pub(super) join: Join,
}

/// Who keeps a flow that two have registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Conflict {
    Largest,
    FirstCome,
}

/// What the end of a flow is remembered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tombstone {
    Birth,
    Key,
}

/// When the port of a flow that is gone is given out again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Release {
    /// Every member has acknowledged that the flow is gone.
    AllHeard,
    AtOnce,
}

/// Whom a node that has started must have heard before it gives out ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Join {
    AllMembers,
    View,
}

/// Says who owns a flow: the largest is true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Claim {
    pub(super) term: u8,
    /// A packet has come back.
    pub(super) is_open: bool,
    pub(super) owner: Id,
    pub(super) incarnation: u8,
    /// The first packet that made it: another connection with the same addresses has another.
    pub(super) birth: Birth,
    /// By the node whose port it is.
    pub(super) port: Option<Id>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Birth {
    pub(super) life: u8,
    pub(super) node: Id,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Entry {
    Unknown,
    Known { claim: Claim, has_record: bool },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Own {
    pub(super) claim: Claim,
    /// This node may have been taken for dead meanwhile.
    pub(super) is_doubtful: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Port {
    Free,
    Used,
    /// Its flow is another's, or gone: these have not said yet that they know.
    Resting {
        flow: u8,
        birth: Birth,
        ended: bool,
        unheard: u8,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Power {
    Up,
    Paused,
    Down,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Node {
    pub(super) id: Id,
    pub(super) power: Power,
    pub(super) incarnation: u8,
    pub(super) has_joined: bool,
    /// The incarnations of those that it holds to be alive; 0 for the others.
    pub(super) view: [u8; MOST_NODES],
    /// The incarnations with which it has had sessions.
    pub(super) met: [u8; MOST_NODES],
    pub(super) own: [Option<Own>; FLOWS],
    /// What it knows as director or backup, by flow and key.
    pub(super) known: [[Entry; 2]; FLOWS],
    /// Tombstones: what has ended, and in which term.
    pub(super) gone: [BTreeMap<Birth, u8>; FLOWS],
    pub(super) hint: [Option<Claim>; FLOWS],
    pub(super) port: Port,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Kind {
    Register { key: u8, claim: Claim, has_record: bool },
    Owned { claim: Claim },
    Gone { claim: Claim },
    GoneHeard { birth: Birth },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Message {
    pub(super) from: Id,
    pub(super) to: Id,
    pub(super) flow: u8,
    pub(super) kind: Kind,
}

/// A client's packet: on which side it came, where, and how often it may be passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) key: u8,
    pub(super) ingress: Id,
    pub(super) hops: u8,
}

#[derive(Debug)]
pub(super) enum Passage {
    Handled(Claim),
    On(Vec<(Id, Packet)>),
}

pub(super) type Net = BTreeSet<Message>;

impl Node {
    pub(super) fn new(id: Id, rules: &Rules) -> Self {
        let mut view = [0; MOST_NODES];
        view[..usize::from(rules.nodes)].fill(1);
        Self {
            id,
            power: Power::Up,
            incarnation: 1,
            has_joined: true,
            view,
            met: view,
            own: [None; FLOWS],
            known: [[Entry::Unknown; 2]; FLOWS],
            gone: Default::default(),
            hint: [None; FLOWS],
            port: Port::Free,
        }
    }

    /// A process that begins with nothing.
    pub(super) fn restart(&mut self, rules: &Rules) {
        let incarnation = self.incarnation + 1;
        *self = Self::new(self.id, rules);
        self.incarnation = incarnation;
        self.has_joined = false;
        self.view = [0; MOST_NODES];
        self.view[usize::from(self.id)] = incarnation;
        self.met = self.view;
    }

    pub(super) fn sees(&self, claim: &Claim) -> bool {
        self.view[usize::from(claim.owner)] == claim.incarnation
    }

    fn ranked(&self, flow: u8, key: u8, rules: &Rules) -> impl Iterator<Item = Id> {
        let nodes = rules.nodes;
        (0..nodes)
            .map(move |place| (flow + key + place) % nodes)
            .filter(|node| self.view[usize::from(*node)] != 0)
    }

    fn director(&self, flow: u8, key: u8, rules: &Rules) -> Id {
        self.ranked(flow, key, rules).next().unwrap_or(self.id)
    }

    pub(super) fn holder(&self, flow: u8, key: u8, rules: &Rules) -> Option<Id> {
        self.ranked(flow, key, rules).find(|node| *node != self.id)
    }

    fn send(&self, to: Id, flow: u8, kind: Kind, out: &mut Net) {
        out.insert(Message { from: self.id, to, flow, kind });
    }

    fn others(&self, rules: &Rules) -> impl Iterator<Item = Id> {
        let id = self.id;
        (0..rules.nodes).filter(move |node| *node != id)
    }

    /// The first packet of a connection.
    pub(super) fn begin(&mut self, flow: u8, life: u8, rules: &Rules, out: &mut Net) {
        let birth = Birth { life, node: self.id };
        let port = rules.ports.then_some(self.id);
        let (owner, incarnation) = (self.id, self.incarnation);
        let claim = Claim { term: 1, is_open: false, owner, incarnation, birth, port };
        self.take(flow, claim);
        self.register(flow, rules, out);
    }

    fn take(&mut self, flow: u8, claim: Claim) {
        let place = usize::from(flow);
        self.own[place] = Some(Own { claim, is_doubtful: false });
        self.hint[place] = None;
        self.known[place] = [Entry::Unknown; 2];
        if claim.port == Some(self.id) {
            self.port = Port::Used;
        }
    }

    /// Also what a doubtful owner asks: the answer says whether it still is one.
    pub(super) fn register(&self, flow: u8, rules: &Rules, out: &mut Net) {
        let Some(own) = self.own[usize::from(flow)] else { return };
        for key in 0..rules.keys {
            if let Some(holder) = self.holder(flow, key, rules) {
                let has_record = own.claim.is_open && key == 0;
                let kind = Kind::Register { key, claim: own.claim, has_record };
                self.send(holder, flow, kind, out);
            }
        }
    }

    /// A packet of a connection, as it came or as a peer has wrapped it.
    pub(super) fn packet(
        &mut self,
        flow: u8,
        packet: Packet,
        rules: &Rules,
        out: &mut Net,
    ) -> Passage {
        let (place, Packet { key, ingress, hops }) = (usize::from(flow), packet);
        if let Some(own) = &mut self.own[place] {
            if own.is_doubtful {
                self.register(flow, rules, out);
                return Passage::On(Vec::new());
            }
            if !own.claim.is_open {
                own.claim.is_open = true;
                self.register(flow, rules, out);
            }
            return self.passage(flow);
        }
        let on = |key| Packet { key, ingress, hops: hops.saturating_sub(1) };
        let hint = self.hint[place].filter(|hint| self.sees(hint));
        match (hint, self.known[place][usize::from(key)]) {
            (Some(hint), _) if hops > 0 => Passage::On(vec![(hint.owner, on(key))]),
            (None, Entry::Known { claim, .. }) if self.sees(&claim) && claim.owner != self.id => {
                Passage::On(if hops > 0 { vec![(claim.owner, on(key))] } else { Vec::new() })
            }
            (None, Entry::Known { claim, has_record: true }) => {
                self.adopt(flow, claim, rules, out);
                self.passage(flow)
            }
            (None, _) if hops > 0 => Passage::On(self.ask(flow, packet, rules)),
            (Some(_) | None, _) => Passage::On(Vec::new()),
        }
    }

    fn passage(&self, flow: u8) -> Passage {
        match self.own[usize::from(flow)] {
            Some(own) => Passage::Handled(own.claim),
            None => Passage::On(Vec::new()),
        }
    }

    fn ask(&self, flow: u8, packet: Packet, rules: &Rules) -> Vec<(Id, Packet)> {
        let on = |key| Packet { key, hops: packet.hops - 1, ..packet };
        let director = self.director(flow, packet.key, rules);
        // The record is where the first key is directed.
        let first = self.director(flow, 0, rules);
        if director != self.id {
            return vec![(director, on(packet.key))];
        }
        if first != self.id {
            return vec![(first, on(0))];
        }
        let last = Packet { key: 0, hops: 0, ..packet };
        let seen = self.others(rules).filter(|peer| self.view[usize::from(*peer)] != 0);
        seen.map(|peer| (peer, last)).collect()
    }

    /// What the owner says to the node that a packet came to.
    pub(super) fn hear_hint(&mut self, flow: u8, claim: Claim, rules: &Rules) {
        if claim.owner != self.id && self.own[usize::from(flow)].is_none() {
            self.owned(flow, claim, rules);
        }
    }

    fn adopt(&mut self, flow: u8, claim: Claim, rules: &Rules, out: &mut Net) {
        let (owner, incarnation) = (self.id, self.incarnation);
        self.take(flow, Claim { term: claim.term + 1, owner, incarnation, ..claim });
        self.register(flow, rules, out);
    }

    pub(super) fn end(&mut self, flow: u8, rules: &Rules, out: &mut Net) {
        let Some(own) = self.own[usize::from(flow)].take() else { return };
        for peer in self.others(rules) {
            self.send(peer, flow, Kind::Gone { claim: own.claim }, out);
        }
        self.bury(flow, own.claim, rules);
        self.rest(flow, own.claim, true, rules);
    }

    fn bury(&mut self, flow: u8, gone: Claim, rules: &Rules) {
        let place = usize::from(flow);
        let term = self.gone[place].entry(gone.birth).or_default();
        *term = gone.term.max(*term);
        for entry in &mut self.known[place] {
            if matches!(entry, Entry::Known { claim, .. } if covers(&gone, claim, rules)) {
                *entry = Entry::Unknown;
            }
        }
        self.hint[place] = self.hint[place].filter(|hint| !covers(&gone, hint, rules));
    }

    pub(super) fn is_gone(&self, flow: u8, claim: &Claim, rules: &Rules) -> bool {
        let mut gone = self.gone[usize::from(flow)].iter();
        gone.any(|(birth, term)| {
            covers(&Claim { birth: *birth, term: *term, ..*claim }, claim, rules)
        })
    }

    fn hear_gone(&mut self, from: Id, flow: u8, gone: Claim, rules: &Rules, out: &mut Net) {
        let own = self.own[usize::from(flow)].map(|own| own.claim);
        // It ended for one who had lost it already.
        let known = self.known[usize::from(flow)].iter().filter_map(|entry| match entry {
            Entry::Known { claim, .. } => Some(*claim),
            Entry::Unknown => None,
        });
        let lives =
            known.chain(own).find(|claim| claim.birth == gone.birth && claim.term > gone.term);
        if let Some(claim) = lives {
            return self.send(from, flow, Kind::Owned { claim }, out);
        }
        if let Some(own) = own.filter(|own| covers(&gone, own, rules)) {
            self.own[usize::from(flow)] = None;
            self.rest(flow, own, true, rules);
        }
        self.bury(flow, gone, rules);
        if let Port::Resting { flow: of, birth, ended, unheard } = &mut self.port
            && (*of, *birth) == (flow, gone.birth)
        {
            *ended = true;
            *unheard &= !(1 << from);
            self.free_port();
        }
        // Who hears of an end says so to him who may give the port out again.
        if let Some(block) = gone.port.filter(|block| *block != self.id) {
            self.send(block, flow, Kind::GoneHeard { birth: gone.birth }, out);
        }
    }

    /// What becomes of a port of this node's whose flow it owns no more.
    fn rest(&mut self, flow: u8, claim: Claim, ended: bool, rules: &Rules) {
        if claim.port != Some(self.id) {
            return;
        }
        let unheard = match rules.release {
            Release::AllHeard => self.others(rules).fold(0, |set, peer| set | 1 << peer),
            Release::AtOnce => 0,
        };
        self.port = Port::Resting { flow, birth: claim.birth, ended, unheard };
        self.free_port();
    }

    pub(super) fn free_port(&mut self) {
        if matches!(self.port, Port::Resting { ended: true, unheard: 0, .. }) {
            self.port = Port::Free;
        }
    }

    /// Becomes a forwarder.
    fn give_up(&mut self, flow: u8, to: Claim, rules: &Rules) {
        if let Some(own) = self.own[usize::from(flow)].take() {
            let is_the_same = own.claim.birth == to.birth;
            self.rest(flow, own.claim, !is_the_same, rules);
        }
        self.hint[usize::from(flow)] = Some(to);
    }

    pub(super) fn receive(&mut self, message: Message, rules: &Rules, out: &mut Net) {
        let Message { from, flow, kind, .. } = message;
        match kind {
            Kind::Register { key, claim, has_record } => {
                self.registration(from, flow, key, (claim, has_record), rules, out);
            }
            Kind::Owned { claim } => self.owned(flow, claim, rules),
            Kind::Gone { claim } => self.hear_gone(from, flow, claim, rules, out),
            Kind::GoneHeard { birth } => {
                if let Port::Resting { flow: of, birth: its, unheard, .. } = &mut self.port
                    && (*of, *its) == (flow, birth)
                {
                    *unheard &= !(1 << from);
                    self.free_port();
                }
            }
        }
    }

    fn registration(
        &mut self,
        from: Id,
        flow: u8,
        key: u8,
        (claim, has_record): (Claim, bool),
        rules: &Rules,
        out: &mut Net,
    ) {
        let place = usize::from(flow);
        if self.is_gone(flow, &claim, rules) {
            return self.send(from, flow, Kind::Gone { claim }, out);
        }
        if let Some(own) = self.own[place] {
            if own.claim > claim {
                return self.send(from, flow, Kind::Owned { claim: own.claim }, out);
            }
            self.give_up(flow, claim, rules);
        }
        let entry = &mut self.known[place][usize::from(key)];
        let mut has_record = has_record;
        match *entry {
            Entry::Known { claim: known, has_record: copy } if known.owner != claim.owner => {
                let is_alive = self.view[usize::from(known.owner)] == known.incarnation;
                let keeps = match rules.conflict {
                    Conflict::Largest => known > claim && (is_alive || copy),
                    Conflict::FirstCome => is_alive,
                };
                if keeps {
                    return self.send(from, flow, Kind::Owned { claim: known }, out);
                }
                if is_alive {
                    let kind = Kind::Owned { claim };
                    out.insert(Message { from: self.id, to: known.owner, flow, kind });
                }
            }
            Entry::Known { claim: known, .. } if known > claim => return,
            Entry::Known { claim: known, has_record: copy } => {
                has_record |= copy && known.term == claim.term;
            }
            Entry::Unknown => {}
        }
        *entry = Entry::Known { claim, has_record };
    }

    fn owned(&mut self, flow: u8, claim: Claim, rules: &Rules) {
        if claim.owner == self.id || self.is_gone(flow, &claim, rules) {
            return;
        }
        match self.own[usize::from(flow)] {
            Some(own) => {
                let yields = match rules.conflict {
                    Conflict::Largest => claim > own.claim,
                    Conflict::FirstCome => !own.claim.is_open || claim > own.claim,
                };
                if yields {
                    self.give_up(flow, claim, rules);
                }
            }
            None => {
                // A hint to one that is gone is void.
                let hint = self.hint[usize::from(flow)];
                if hint.is_none_or(|hint| hint < claim || !self.sees(&hint)) {
                    self.hint[usize::from(flow)] = Some(claim);
                }
            }
        }
    }
}

/// Whether the end of one flow is the end of what is claimed.
fn covers(gone: &Claim, claim: &Claim, rules: &Rules) -> bool {
    let is_it = match rules.tombstone {
        Tombstone::Birth => claim.birth == gone.birth,
        Tombstone::Key => true,
    };
    is_it && claim.term <= gone.term
}
