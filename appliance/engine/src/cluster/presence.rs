//! Who is there: heartbeats, views, joining; and the engine's clockwork for all of it.

use std::time::Duration;

use super::message::{Heartbeat, Message};
use super::rendezvous::View;
use super::wrap::ZoneTag;
use super::{Cluster, ClusterStatus, Coverage, MemberStatus, NodeId, NodeState, Presence, Session};
use crate::hash::keyed;
use crate::{Engine, InterfaceId, Time};

/// A flow that has not shown that it lives is kept elsewhere too when it is so old.
pub(super) const REPLICATE_AFTER: Duration = Duration::from_secs(1);

/// How long a node that starts waits for members that neither answer nor refuse.
const JOIN_WAIT: Duration = Duration::from_secs(3);

/// All flows are looked at for records that are due in so long.
const SCAN_EVERY: Duration = Duration::from_secs(1);

/// Of a datagram's outer headers: IPv6, UDP, and the seal.
const DATAGRAM_OVERHEAD: usize = 40 + 8 + 32;

impl Engine {
    /// Takes what the shell has learnt of its session with a peer.
    pub fn handle_session(&mut self, now: Time, peer: NodeId, session: Session) {
        let Some(cluster) = &mut self.cluster else { return };
        cluster.notice_pause(now);
        let Some(known) = cluster.peer(peer) else { return };
        match session {
            Session::Up { incarnation, epoch, send, receive, unwraps } => {
                let is_new = known.incarnation != incarnation;
                if is_new {
                    known.tags.forget(now);
                }
                known.session = true;
                known.unwraps = unwraps;
                known.refused_us = false;
                known.tags.renew(now, epoch, send, receive);
                if is_new {
                    known.incarnation = incarnation;
                    known.channel.restart();
                    known.heard = None;
                    known.has_told = false;
                    known.hears_us = false;
                    known.last_beat = None;
                    known.told = false;
                    cluster.note_back(peer);
                    cluster.directory.begin(peer, incarnation);
                    cluster.beat_now(now);
                    self.end_all_rests(now, peer);
                }
            }
            Session::Lost => {
                known.heard = None;
                known.refused_us = true;
                known.tags.forget(now);
            }
            Session::Gone => cluster.note_gone(now, peer),
        }
        self.outdate_judgements();
        self.look_around(now);
        self.tell_peers(now);
    }

    /// Writes the next sync datagram in place of what `datagram` holds, and says for whom.
    pub fn poll_peer(&mut self, now: Time, datagram: &mut Vec<u8>) -> Option<NodeId> {
        let Self { cluster: Some(cluster), flows, .. } = self else { return None };
        let room = usize::from(cluster.config.sync_mtu).saturating_sub(DATAGRAM_OVERHEAD);
        for at in 0..cluster.peers.len() {
            if !cluster.peers[at].session {
                continue;
            }
            let node = cluster.peers[at].node;
            // Out of its place for as long as the rest is asked what there is to say.
            let mut channel = std::mem::take(&mut cluster.peers[at].channel);
            let say = |item: &_| cluster.word(now, flows, node, item);
            let is_there = channel.poll(now, room, datagram, say);
            cluster.peers[at].channel = channel;
            if is_there {
                return Some(node);
            }
        }
        None
    }

    /// What stands for the policy in force in what peers hear: theirs is compared with it.
    pub fn set_policy_hash(&mut self, hash: u64) {
        if let Some(cluster) = &mut self.cluster {
            cluster.policy = hash;
        }
    }

    /// `None` for a node that stands alone.
    pub fn cluster_status(&self, now: Time) -> Option<ClusterStatus> {
        let cluster = self.cluster.as_ref()?;
        let member = |peer: &super::Peer| MemberStatus {
            node: peer.node,
            presence: match (cluster.is_alive(peer.node), peer.incarnation) {
                (true, _) => Presence::Alive,
                (false, 0) => Presence::Unknown,
                (false, _) => Presence::Dead,
            },
            state: peer.state,
            incarnation: peer.incarnation,
            silent: peer.heard.map(|heard| now.since(heard)),
            unacknowledged: peer.channel.unacknowledged() as u64,
            lag: peer.channel.oldest().map_or(Duration::ZERO, |oldest| now.since(oldest)),
            wrapped_out: peer.wrapped_out,
            wrapped_in: peer.wrapped_in,
            refused: peer.refused,
            same_policy: peer.policy.map(|policy| policy == cluster.policy),
        };
        Some(ClusterStatus {
            node: cluster.me(),
            state: cluster.state,
            members: cluster.peers.iter().map(member).collect(),
            owned: self.flows.len().into(),
            closing: cluster.shares.closed,
            replicas: cluster.directory.replicas() as u64,
            directed: cluster.directory.entries() as u64,
            coverage: Coverage {
                covered: cluster.shares.covered,
                established: cluster.shares.established,
            },
        })
    }

    /// The policy or the network is another: by which interface a zone's packets come.
    pub(crate) fn name_zones(&mut self) {
        let Self { cluster: Some(cluster), policy: Some(policy), topology, network, .. } = self
        else {
            return;
        };
        let name = |zone: &gabion_rules::Zone| ZoneTag::new(keyed([0; 16], &zone.name));
        cluster.zone_tags = policy.rules.zones().iter().map(name).collect();
        let interfaces = (0..network.interfaces.len()).map(|place| InterfaceId(place as u16));
        cluster.zones = interfaces
            .filter_map(|interface| {
                let zone = topology.zone(interface)?;
                Some((*cluster.zone_tags.get(usize::from(zone.0))?, interface))
            })
            .collect();
    }

    /// The cluster's part of `handle_timeout`.
    pub(crate) fn turn_cluster(&mut self, now: Time) {
        let Some(cluster) = &mut self.cluster else { return };
        cluster.notice_pause(now);
        self.follow_pauses();
        let Some(cluster) = &mut self.cluster else { return };
        let mut has_new_keys = false;
        for peer in &mut cluster.peers {
            peer.channel.handle_timeout(now);
            has_new_keys |= peer.tags.handle_timeout(now);
        }
        if has_new_keys {
            self.outdate_judgements();
        }
        let Some(cluster) = &mut self.cluster else { return };
        if now.since(cluster.beat) >= cluster.beat_every() {
            cluster.beat_now(now);
        }
        self.look_around(now);
        self.tell_peers(now);
        self.ask_again(now);
        self.drop_overdue(now);
        self.go_on_with_pass();
        self.sweep_directory(now);
        self.scan_some(now);
        self.look_for_orphans(now);
        self.search_lost_legs(now);
        self.catch_up(now);
    }

    pub(crate) fn cluster_timeout(&self) -> Option<Time> {
        let cluster = self.cluster.as_ref()?;
        let beat = cluster.beat + cluster.beat_every();
        let is_busy = cluster.pass.or(cluster.orphans).is_some() || !cluster.sweeps.is_empty();
        let pass = is_busy.then_some(Time::ZERO);
        let channels = cluster.peers.iter().filter_map(|peer| peer.channel.poll_timeout());
        let gone = cluster.peers.iter().filter(|peer| !cluster.is_alive(peer.node));
        let searches = gone.filter_map(|peer| peer.search?.poll_timeout());
        // All notice a death at the same moment, so that nobody is asked about it who does not know of it.
        let deaths = cluster.peers.iter().filter(|peer| cluster.is_alive(peer.node));
        let deaths = deaths.filter_map(|peer| Some(peer.heard? + cluster.patience_with_silence()));
        let others = searches.chain(cluster.behind.poll_timeout()).chain(pass).chain([beat]);
        channels.chain(cluster.waiting.poll_timeout()).chain(deaths).chain(others).min()
    }

    /// Sees who is alive, and acts where that has changed.
    pub(super) fn look_around(&mut self, now: Time) {
        let Some(cluster) = &mut self.cluster else { return };
        let heard = cluster.heard(now);
        // Who did not hear a node that stood still says so for as long as he has not heard of it again.
        let is_back = cluster.has_stood_still(now, Duration::ZERO);
        let is_alive = |peer: &&super::Peer| {
            let waits_for_us = is_back && cluster.view.contains(peer.node);
            heard.contains(peer.node) && (peer.hears_us || waits_for_us)
        };
        let alive: View = cluster.peers.iter().filter(is_alive).map(|peer| peer.node).collect();
        let view = alive.with(cluster.me());
        let staying = cluster.staying(view);
        if view != cluster.view || staying != cluster.directors {
            cluster.change_view(view, staying);
            self.recall_waiting(now);
        }
        self.see_whether_joined(now);
    }

    /// Whether this node knows what others have; one that stands alone always does.
    #[must_use]
    pub fn has_joined(&self) -> bool {
        self.cluster.as_ref().is_none_or(|cluster| cluster.state != NodeState::Joining)
    }

    fn see_whether_joined(&mut self, now: Time) {
        let Some(cluster) = &mut self.cluster else { return };
        if cluster.state != NodeState::Joining {
            return;
        }
        let waited = now.since(cluster.started) >= JOIN_WAIT;
        let is_settled = |peer: &super::Peer| {
            let is_absent = peer.refused_us || waited;
            if cluster.view.contains(peer.node) { peer.has_told } else { is_absent }
        };
        if cluster.peers.iter().all(is_settled) {
            cluster.state = NodeState::Ready;
            self.translator.set_open(true);
        }
    }

    fn scan_some(&mut self, now: Time) {
        let Some(cluster) = &mut self.cluster else { return };
        let since = now.since(cluster.scanned);
        if since < cluster.config.heartbeat {
            return;
        }
        cluster.scanned = now;
        let slots = u128::from(self.flows.slots());
        let share = (slots * since.min(SCAN_EVERY).as_nanos()).div_ceil(SCAN_EVERY.as_nanos());
        self.scan_flows(now, share as u32);
    }
}

impl Cluster {
    /// Who does not leave, or all if everybody does.
    fn staying(&self, view: View) -> View {
        let leaves = |node: &NodeId| match self.peers.iter().find(|peer| peer.node == *node) {
            Some(peer) => peer.state == NodeState::Draining,
            None => self.state == NodeState::Draining,
        };
        let staying: View = view.nodes().filter(|node| !leaves(node)).collect();
        if staying.is_empty() { view } else { staying }
    }

    fn change_view(&mut self, view: View, directors: View) {
        let before = std::mem::replace(&mut self.view, view);
        self.directors = directors;
        for peer in &mut self.peers {
            let (was, is) = (before.contains(peer.node), view.contains(peer.node));
            if was && !is {
                // What it is to know it is told when it is back.
                peer.channel.clear();
                peer.losses = peer.losses.wrapping_add(1);
                self.losses = self.losses.wrapping_add(1);
            }
            if was != is {
                peer.has_told &= is;
                peer.round = peer.round.wrapping_add(u32::from(is));
                peer.owes = if is { u64::MAX } else { 0 };
            }
            peer.told = false;
        }
        self.pass = Some(0);
        self.orphans = Some(0);
    }

    /// After a silence of its own that made it dead to others, this node takes nothing that it owns for
    /// certain, and nobody's silence for his death.
    pub(super) fn notice_pause(&mut self, now: Time) {
        if now.since(self.beat) < self.patience_with_silence() {
            return;
        }
        self.pauses = self.pauses.wrapping_add(1);
        self.paused_at = Some(now);
        for peer in &mut self.peers {
            if self.view.contains(peer.node) {
                peer.heard = Some(now);
            }
        }
        self.beat_now(now);
    }

    /// Whether this node has only just started, and somebody may be there of whom it has not heard.
    pub(super) fn expects_company(&self, now: Time) -> bool {
        let is_young = self.state == NodeState::Joining && now.since(self.started) < JOIN_WAIT;
        is_young && self.peers.iter().any(|peer| !peer.refused_us)
    }

    /// Of whom this node has heard lately.
    fn heard(&self, now: Time) -> View {
        let patience = self.patience_with_silence();
        let is_heard = |peer: &&super::Peer| {
            peer.session && peer.heard.is_some_and(|heard| now.since(heard) < patience)
        };
        self.peers.iter().filter(is_heard).map(|peer| peer.node).collect()
    }

    /// Whether a heartbeat of a live peer is overdue.
    pub(super) fn is_silent(&self, now: Time, node: NodeId) -> bool {
        self.peers.iter().any(|peer| peer.node == node && self.is_overdue(now, peer))
    }

    pub(super) fn is_somebody_silent(&self, now: Time) -> bool {
        self.peers.iter().any(|peer| self.is_overdue(now, peer))
    }

    fn is_overdue(&self, now: Time, peer: &super::Peer) -> bool {
        let overdue = self.config.heartbeat * 3 / 2;
        self.is_alive(peer.node) && peer.heard.is_none_or(|heard| now.since(heard) > overdue)
    }

    /// Whether it is so short a time since that what it sees and what waits for it may be from before; or so
    /// much more.
    pub(super) fn has_stood_still(&self, now: Time, more: Duration) -> bool {
        let long = self.patience_with_silence() + more;
        self.paused_at.is_some_and(|paused| now.since(paused) < long)
    }

    /// Twice in the time of one: of a link that loses 5 %, three in a row are lost each quarter of an hour.
    fn beat_every(&self) -> Duration {
        self.config.heartbeat / 2
    }

    pub(super) fn patience_with_silence(&self) -> Duration {
        self.config.heartbeat * self.config.heartbeats_missed
    }

    pub(super) fn beat_now(&mut self, now: Time) {
        self.beat = now;
        let (incarnation, heard, clock) = (self.config.incarnation, self.heard(now), self.clock);
        let (policy, state) = (self.policy, number_of(self.state));
        self.beats = self.beats.wrapping_add(1);
        let number = self.beats;
        for peer in &mut self.peers {
            if !peer.session {
                continue;
            }
            peer.channel.note(Message::Heartbeat(Heartbeat {
                number,
                state,
                told: peer.told,
                incarnation,
                heard,
                losses: peer.losses,
                policy,
                clock,
            }));
        }
    }
}

const fn number_of(state: NodeState) -> u8 {
    match state {
        NodeState::Joining => 0,
        NodeState::Ready => 1,
        NodeState::Draining => 2,
    }
}

pub(super) const fn state_of(number: u8) -> NodeState {
    match number {
        1 => NodeState::Ready,
        2 => NodeState::Draining,
        _ => NodeState::Joining,
    }
}
