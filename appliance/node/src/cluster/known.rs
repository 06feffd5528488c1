//! What is known of each peer: written by the sessions, read by whoever shows it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gabion_engine::NodeId;
use tokio::sync::{Notify, watch};

use super::hello::{Hello, PolicyMark};
use super::refusal::Refusal;
use super::session::{Judge, Session};

/// All peers of this node.
#[derive(Debug)]
pub struct Known {
    own: NodeId,
    incarnation: u64,
    /// Fixed at start: all members but this node.
    peers: BTreeMap<NodeId, Peer>,
}

#[derive(Debug)]
struct Peer {
    address: IpAddr,
    state: Mutex<State>,
    /// Sessions are counted: the one that stands is the last.
    current: watch::Sender<u64>,
    renewal: Notify,
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
}

impl Known {
    pub fn new(own: NodeId, incarnation: u64, members: &BTreeMap<NodeId, IpAddr>) -> Self {
        let peer = |(node, address): (&NodeId, &IpAddr)| {
            let peer = Peer {
                address: *address,
                state: Mutex::default(),
                current: watch::Sender::new(0),
                renewal: Notify::new(),
            };
            (*node, peer)
        };
        let peers = members.iter().filter(|(node, _)| **node != own).map(peer).collect();
        Self { own, incarnation, peers }
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
