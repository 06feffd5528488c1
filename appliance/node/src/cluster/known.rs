//! What is known of each peer: written by the sessions, read by whoever shows it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gabion_engine::NodeId;
use tokio::sync::{Notify, watch};

use super::hello::{Hello, PolicyMark, Reach};
use super::machine::{Hearing, Machine};
use super::refusal::Refusal;
use super::session::{Judge, Session};

/// All peers of this node.
#[derive(Debug)]
pub struct Known {
    own: NodeId,
    incarnation: u64,
    /// Fixed at start: all members but this node.
    peers: BTreeMap<NodeId, Peer>,
    /// A machine that is silent may be frozen: nothing is done about it that cannot be taken back.
    resets_held: AtomicBool,
}

#[derive(Debug)]
struct Peer {
    address: IpAddr,
    state: Mutex<State>,
    /// Sessions are counted: the one that stands is the last.
    current: watch::Sender<u64>,
    renewal: Notify,
    hearing: watch::Sender<Hearing>,
    reach: watch::Sender<Reach>,
}

#[derive(Debug, Default)]
struct State {
    incarnation: u64,
    boot: Option<[u8; 16]>,
    up: Option<Up>,
    policy: Option<PolicyMark>,
    /// Its process has gone, and that has been told.
    gone: bool,
    trouble: Option<String>,
    policy_differs: bool,
    refused: [u64; Refusal::LABELS.len()],
    machine: Machine,
    /// At how many addresses its machine answered while it was heard, and what was in the way of asking at others.
    answering: usize,
    not_asked: Option<String>,
}

#[derive(Debug, Clone, Copy)]
struct Up {
    version: u8,
    epoch: u8,
    since: Instant,
}

/// A peer, as the sessions know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerReport {
    pub node: NodeId,
    pub address: IpAddr,
    /// Of the session that stands: how long, the protocol's version, the keys' epoch.
    pub session: Option<(Duration, u8, u8)>,
    /// The highest that it has shown, 0 for none.
    pub incarnation: u64,
    pub policy: Option<PolicyMark>,
    /// Why there is no session.
    pub trouble: Option<String>,
    /// How often a session was refused, in the order of `Refusal::LABELS`.
    pub refused: [u64; Refusal::LABELS.len()],
    pub machine: Machine,
    /// How many addresses of data interfaces it has told, and at how many its machine answered while it was heard.
    pub addresses: usize,
    pub answering: usize,
    /// What was in the way of asking at the others.
    pub not_asked: Option<String>,
}

impl PeerReport {
    /// Why nobody could tell whether its machine lives, if it were silent.
    pub fn machine_trouble(&self) -> Option<String> {
        let is_heard = self.machine == Machine::Alive;
        let why = match (&self.not_asked, self.addresses) {
            _ if !is_heard || self.answering > 0 => return None,
            (Some(why), _) => why.clone(),
            (None, 0) => "it tells no address".to_owned(),
            (None, count) => format!("none of its {count} addresses answers"),
        };
        Some(format!(
            "its machine cannot be asked on data interfaces: {why}: no connection is reset when it goes"
        ))
    }
}

impl Known {
    pub fn new(own: NodeId, incarnation: u64, members: &BTreeMap<NodeId, IpAddr>) -> Self {
        let peer = |(node, address): (&NodeId, &IpAddr)| {
            let peer = Peer {
                address: *address,
                state: Mutex::default(),
                current: watch::Sender::new(0),
                renewal: Notify::new(),
                hearing: watch::Sender::default(),
                reach: watch::Sender::default(),
            };
            (*node, peer)
        };
        let peers = members.iter().filter(|(node, _)| **node != own).map(peer).collect();
        Self { own, incarnation, peers, resets_held: AtomicBool::new(false) }
    }

    pub const fn own(&self) -> NodeId {
        self.own
    }

    /// In the order of their numbers.
    pub fn reports(&self) -> Vec<PeerReport> {
        let report = |(node, peer): (&NodeId, &Peer)| {
            let state = peer.lock();
            PeerReport {
                node: *node,
                address: peer.address,
                session: state.up.map(|up| (up.since.elapsed(), up.version, up.epoch)),
                incarnation: state.incarnation,
                policy: state.policy,
                trouble: state.trouble.clone(),
                refused: state.refused,
                machine: state.machine,
                addresses: peer.reach.borrow().addresses.len(),
                answering: state.answering,
                not_asked: state.not_asked.clone(),
            }
        };
        self.peers.iter().map(report).collect()
    }

    /// Has a peer's keys renewed: they have sealed many datagrams. From any thread.
    pub fn renew(&self, node: NodeId) {
        if let Some(peer) = self.peers.get(&node) {
            peer.renewal.notify_one();
        }
    }

    pub(super) async fn renewal(&self, node: NodeId) {
        match self.peers.get(&node) {
            Some(peer) => peer.renewal.notified().await,
            None => std::future::pending().await,
        }
    }

    /// Says how well a peer is heard. From the packet thread.
    pub fn hear(&self, node: NodeId, hearing: Hearing) {
        if let Some(peer) = self.peers.get(&node) {
            peer.hearing.send_if_modified(|last| std::mem::replace(last, hearing) != hearing);
        }
    }

    pub(super) fn hearing(&self, node: NodeId) -> Option<watch::Receiver<Hearing>> {
        self.peers.get(&node).map(|peer| peer.hearing.subscribe())
    }

    /// A peer has said where its machine can be asked.
    pub(super) fn reaches(&self, node: NodeId, reach: Reach) {
        if let Some(peer) = self.peers.get(&node) {
            peer.reach.send_if_modified(|last| {
                let is_news = *last != reach;
                *last = reach;
                is_news
            });
        }
    }

    pub(super) fn reach(&self, node: NodeId) -> Option<watch::Receiver<Reach>> {
        self.peers.get(&node).map(|peer| peer.reach.subscribe())
    }

    /// Whether another peer has said to have an address.
    pub(super) fn is_of_another(&self, node: NodeId, address: IpAddr) -> bool {
        let mut others = self.peers.iter().filter(|(other, _)| **other != node);
        others.any(|(_, peer)| peer.reach.borrow().addresses.contains(&address))
    }

    pub(super) fn machine(&self, node: NodeId, machine: Machine) {
        if let Some(peer) = self.peers.get(&node) {
            peer.lock().machine = machine;
        }
    }

    /// What came of asking the machine of a peer that is heard.
    pub(super) fn asked(&self, node: NodeId, answering: usize, not_asked: Option<String>) {
        if let Some(peer) = self.peers.get(&node) {
            let mut state = peer.lock();
            (state.answering, state.not_asked) = (answering, not_asked);
        }
    }

    /// A machine may be frozen for a while, from now on or no longer: it is not taken for gone.
    pub fn hold_resets(&self, held: bool) {
        self.resets_held.store(held, Ordering::Release);
    }

    pub(super) fn are_resets_held(&self) -> bool {
        self.resets_held.load(Ordering::Acquire)
    }

    /// Where sessions are held with the peers.
    pub(super) fn addresses(&self) -> impl Iterator<Item = (NodeId, IpAddr)> {
        self.peers.iter().map(|(node, peer)| (*node, peer.address))
    }

    pub(super) fn peer_at(&self, address: IpAddr) -> Option<NodeId> {
        let found = self.peers.iter().find(|(_, peer)| peer.address == address);
        found.map(|(node, _)| *node)
    }

    /// A session stands: the earlier one is over. Returns its number among the peer's, and whether there was none
    /// before.
    pub(super) fn up(&self, session: &Session) -> (u64, bool) {
        let Some(peer) = self.peers.get(&session.peer.node) else { return (0, false) };
        let mut state = peer.lock();
        let Session { version, epoch, .. } = *session;
        let is_news = state.up.replace(Up { version, epoch, since: Instant::now() }).is_none();
        state.trouble = None;
        state.gone = false;
        peer.current.send_modify(|number| *number += 1);
        (*peer.current.borrow(), is_news)
    }

    /// Whether a session was the last with its peer; it is over then.
    pub(super) fn down(&self, node: NodeId, number: u64) -> bool {
        let Some(peer) = self.peers.get(&node) else { return false };
        let mut state = peer.lock();
        let was_last = *peer.current.borrow() == number;
        if was_last {
            state.up = None;
        }
        was_last
    }

    /// Returns when a later session with the peer stands.
    pub(super) async fn replaced(&self, node: NodeId, number: u64) {
        let Some(peer) = self.peers.get(&node) else { return };
        let mut current = peer.current.subscribe();
        // The sender lives as long as `self`.
        let _ = current.wait_for(|current| *current != number).await;
    }

    /// Whether it is news that the peer's process has gone.
    pub(super) fn gone(&self, node: NodeId) -> bool {
        let Some(peer) = self.peers.get(&node) else { return false };
        let mut state = peer.lock();
        state.boot.is_some() && state.up.is_none() && !std::mem::replace(&mut state.gone, true)
    }

    /// Why there is no session; returns whether that is news.
    pub(super) fn trouble(&self, node: NodeId, refusal: Option<&Refusal>, text: &str) -> bool {
        let Some(peer) = self.peers.get(&node) else { return false };
        let mut state = peer.lock();
        let label = refusal.map(Refusal::label);
        for (place, count) in Refusal::LABELS.iter().zip(&mut state.refused) {
            *count += u64::from(label == Some(*place));
        }
        // What a peer that has a session is refused is another machine's trouble, but no less news.
        let is_news = state.trouble.as_deref() != Some(text);
        state.trouble = Some(text.to_owned());
        is_news
    }

    /// A peer's policy; returns whether it is news that it differs from this node's.
    pub(super) fn policy(&self, node: NodeId, theirs: PolicyMark, ours: PolicyMark) -> bool {
        let Some(peer) = self.peers.get(&node) else { return false };
        let mut state = peer.lock();
        state.policy = Some(theirs);
        let differs = theirs.digest != ours.digest;
        let before = std::mem::replace(&mut state.policy_differs, differs);
        differs && !before
    }

    /// This node's policy has changed: peers whose policies differ now, and did not before.
    pub(super) fn own_policy(&self, ours: PolicyMark) -> Vec<(NodeId, PolicyMark)> {
        let differ = |(node, peer): (&NodeId, &Peer)| {
            let mut state = peer.lock();
            let theirs = state.policy?;
            let differs = theirs.digest != ours.digest;
            let before = std::mem::replace(&mut state.policy_differs, differs);
            (differs && !before).then_some((*node, theirs))
        };
        self.peers.iter().filter_map(differ).collect()
    }
}

impl Judge for Known {
    fn judge(&self, node: NodeId, theirs: &Hello) -> Result<(), Refusal> {
        let duplicate = |seen| Refusal::Duplicate { node, seen, theirs: theirs.incarnation };
        if node == self.own {
            return Err(duplicate(self.incarnation));
        }
        let Some(peer) = self.peers.get(&node) else {
            let why = format!("node {node} is not among this node's cluster.members");
            return Err(Refusal::Certificate(why));
        };
        let mut state = peer.lock();
        let is_other = state.boot.is_some_and(|boot| boot != theirs.boot);
        if theirs.incarnation < state.incarnation
            || (theirs.incarnation == state.incarnation && is_other)
        {
            return Err(duplicate(state.incarnation));
        }
        state.incarnation = theirs.incarnation;
        state.boot = Some(theirs.boot);
        Ok(())
    }
}

impl Peer {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Whatever panicked has left whole values behind.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
