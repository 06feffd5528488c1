//! The packet thread's side: what the engine has for its peers is sealed and sent, what comes is opened and handed over.
//!
//! Sessions bring the keys. Nothing here waits, and nothing is allocated once each peer has been spoken to.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use gabion_datapath::{FromPeer, PEER_BATCH, PeerCounters, PeerSockets, PeerTraffic, ToPeer};
use gabion_engine::{
    ClusterStatus, Datagrams, Engine, InterfaceId, NodeId, Offload, Presence, Session, Time,
    Unwrapped, Verdict, Wrapped,
};

use super::beside::Beside;
use super::known::Known;
use super::machine::Hearing;
use super::seal::{OpenError, Opener, RENEW_AFTER, Sealer, epoch_of};
use super::sessions::{Local, SessionChange};
use super::workers::Workers;

/// Datagrams of each kind that a turn takes.
const DATAGRAMS_PER_TURN: u32 = 256;
/// Wrapped packets of both directions after which keys are renewed: well before a counter of 32 bits has come round.
const WRAPPED_RENEW_AFTER: u64 = 1 << 31;
/// How long the keys before are taken after new ones have come.
const OLD_KEYS: Duration = Duration::from_secs(10);
/// When a renewed session's keys are first used: by then the peer has them.
const SETTLING: Duration = Duration::from_secs(1);

/// The sockets, and the keys of each peer.
#[derive(Debug)]
pub struct Links {
    sockets: PeerSockets,
    /// In the order in which the sockets were given them.
    links: Vec<Link>,
    known: Arc<Known>,
    /// The member that this worker is, and how many there are of each node.
    me: NodeId,
    workers: Workers,
    /// The process's life, and its keys between its own workers.
    incarnation: u64,
    beside: Option<Beside>,
    /// After how much silence a peer is lost.
    patience: Duration,
    /// Buffers, kept for their capacity.
    records: Vec<u8>,
    sealed: Vec<Vec<u8>>,
    wrapped: Vec<Wrapped>,
    /// Reading failed last time, which has been said.
    failing: bool,
}

/// A frame that came wrapped and is to be forwarded.
#[derive(Debug)]
pub struct Leaving<'a> {
    pub out: InterfaceId,
    /// Where the frame stands.
    pub buffer: &'a mut Vec<u8>,
    pub frame: Range<usize>,
    pub offload: Offload,
    /// Nothing else in the buffer is wanted.
    pub is_last: bool,
}

#[derive(Debug)]
struct Link {
    /// The member.
    node: NodeId,
    /// The node that it is a worker of, whose session it is.
    session: NodeId,
    incarnation: u64,
    sealing: Option<Sealer>,
    /// The keys of a renewed session, until they are used.
    next: Option<(Sealer, Time)>,
    opening: Option<Opener>,
    before: Option<(Opener, Time)>,
    /// Wrapped packets under the keys of this session, in either direction.
    wrapped: u64,
    renewal_asked: bool,
    counts: LinkCounts,
}

/// What has gone between this node and a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkCounts {
    /// Sync datagrams that were sealed and given to the kernel, and that were opened.
    pub sealed: u64,
    pub opened: u64,
    /// Datagrams that were refused.
    pub malformed: u64,
    pub unknown_epoch: u64,
    pub forged: u64,
    pub replayed: u64,
    /// Datagrams that came before a session stood: a peer may have its keys a moment earlier.
    pub early: u64,
    /// Datagrams of the engine's for which there was no key.
    pub unsent: u64,
}

impl LinkCounts {
    /// Datagrams from the peer's address that were not taken.
    pub const fn refused(&self) -> u64 {
        self.malformed + self.unknown_epoch + self.forged + self.replayed
    }
}

/// All that the packet thread knows of its peers at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterSnapshot {
    pub status: ClusterStatus,
    pub links: Vec<(NodeId, LinkCounts)>,
    /// Of both sockets.
    pub sync: PeerCounters,
    pub wrapped: PeerCounters,
}

impl Links {
    /// Of the only worker of a node. `peers` in the order in which `sockets` were given them.
    pub fn new(
        sockets: PeerSockets,
        peers: &[NodeId],
        known: Arc<Known>,
        patience: Duration,
    ) -> Self {
        let me = known.own();
        Self::of_worker(sockets, peers, known, patience, Workers(1), me)
    }

    /// Of one of several workers, which is the member `me`; its `peers` are all other members.
    pub(super) fn of_worker(
        sockets: PeerSockets,
        peers: &[NodeId],
        known: Arc<Known>,
        patience: Duration,
        workers: Workers,
        me: NodeId,
    ) -> Self {
        let link = |node: &NodeId| Link {
            node: *node,
            session: workers.node_of(*node),
            incarnation: 0,
            sealing: None,
            next: None,
            opening: None,
            before: None,
            wrapped: 0,
            renewal_asked: false,
            counts: LinkCounts::default(),
        };
        Self {
            sockets,
            links: peers.iter().map(link).collect(),
            known,
            me,
            workers,
            incarnation: 0,
            beside: None,
            patience,
            records: Vec::new(),
            sealed: vec![Vec::new(); PEER_BATCH],
            wrapped: Vec::with_capacity(PEER_BATCH),
            failing: false,
        }
    }

    /// Has it speak with the other workers of its node, in this life of the process.
    pub(super) fn speak_beside(mut self, incarnation: u64, beside: Beside) -> Self {
        (self.incarnation, self.beside) = (incarnation, Some(beside));
        self
    }

    /// Handles to be waited for.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn handles(&self) -> io::Result<[std::os::fd::OwnedFd; 2]> {
        self.sockets.handles()
    }

    /// Takes what has become of a session, and tells the engine.
    pub fn handle_session(&mut self, now: Time, change: &SessionChange, engine: &mut Engine) {
        let (SessionChange::Up { peer, .. }
        | SessionChange::Lost { peer }
        | SessionChange::Gone { peer }) = *change;
        for link in self.links.iter_mut().filter(|link| link.session == peer) {
            let (own, theirs) =
                (self.workers.worker_of(self.me), self.workers.worker_of(link.node));
            let Some(session) = link.change(now, change, own, theirs) else { continue };
            engine.handle_session(now, link.node, session);
        }
    }

    /// New keys between this worker and the others of its node, when it is time.
    fn renew_beside(&mut self, now: Time, engine: &mut Engine) {
        let Self { beside: Some(beside), links, me, workers, incarnation, .. } = self else {
            return;
        };
        let Some(number) = beside.turn(now) else { return };
        let node = workers.node_of(*me);
        for link in links.iter_mut().filter(|link| link.session == node) {
            let change = SessionChange::Up {
                peer: node,
                incarnation: *incarnation,
                version: Local::VERSIONS.1,
                epoch: number as u8,
                keys: beside.keys(number, *me, link.node).into(),
                // The kernel is the same.
                unwraps: false,
            };
            if let Some(session) = link.change(now, &change, 0, 0) {
                engine.handle_session(now, link.node, session);
            }
        }
    }

    /// Hands what has come to the engine; `leave` sends a frame that is to be forwarded. Returns whether more may wait.
    pub fn receive(
        &mut self,
        now: Time,
        engine: &mut Engine,
        leave: &mut dyn FnMut(Leaving<'_>),
    ) -> bool {
        let received = self.try_receive(now, engine, leave);
        let was_failing = std::mem::replace(&mut self.failing, received.is_err());
        // Peers hear nothing more of what was asked, and take this node for dead in time; its own flows go on.
        if let Err(error) = &received
            && !was_failing
        {
            tracing::error!(%error, "the cluster's sockets fail");
        }
        received.unwrap_or(false)
    }

    fn try_receive(
        &mut self,
        now: Time,
        engine: &mut Engine,
        leave: &mut dyn FnMut(Leaving<'_>),
    ) -> io::Result<bool> {
        let Self { sockets, links, known, .. } = self;
        let mut sync = |FromPeer { peer, buffer, length, .. }: FromPeer<'_>| {
            if let Some(records) = links[peer].open(now, &mut buffer[..length]) {
                engine.handle_peer(now, links[peer].node, records);
            }
        };
        let synced = sockets.receive(PeerTraffic::Sync, DATAGRAMS_PER_TURN, &mut sync)?;
        let mut wrapped = |FromPeer { peer, buffer, length, stride, segment }: FromPeer<'_>| {
            links[peer].count_wrapped(length.div_ceil(stride) as u64, known);
            let node = links[peer].node;
            let mut rest = Datagrams::new(stride);
            if let Some(segment) = segment {
                rest = rest.of_segments(segment);
            }
            // The buffer may be another's once its last frame has left.
            while !rest.is_empty(length)
                && let Some(unwrapped) =
                    engine.handle_datagrams(now, node, &mut buffer[..length], &mut rest)
            {
                let Unwrapped { verdict, frame, offload } = unwrapped;
                if let Verdict::Forward { out } = verdict {
                    let is_last = rest.is_empty(length);
                    leave(Leaving { out, buffer, frame, offload, is_last });
                }
            }
        };
        let unwrapped = sockets.receive(PeerTraffic::Wrapped, DATAGRAMS_PER_TURN, &mut wrapped)?;
        Ok(synced >= DATAGRAMS_PER_TURN || unwrapped >= DATAGRAMS_PER_TURN)
    }

    /// Sends what the engine has for its peers.
    pub fn send(&mut self, now: Time, engine: &mut Engine) {
        self.renew_beside(now, engine);
        self.send_sync(now, engine);
        self.send_wrapped(engine);
    }

    fn send_sync(&mut self, now: Time, engine: &mut Engine) {
        let Self { sockets, links, known, records, sealed, .. } = self;
        let mut peers = [0; PEER_BATCH];
        let mut count = 0;
        while let Some(to) = engine.poll_peer(now, records) {
            let Some(peer) = links.iter().position(|link| link.node == to) else { continue };
            if links[peer].seal(now, records, &mut sealed[count], known) {
                peers[count] = peer;
                count += 1;
            }
            if count == PEER_BATCH {
                send_sealed(sockets, &peers, sealed);
                count = 0;
            }
        }
        send_sealed(sockets, &peers[..count], sealed);
    }

    fn send_wrapped(&mut self, engine: &mut Engine) {
        loop {
            let wrapped = std::iter::from_fn(|| engine.poll_wrapped());
            self.wrapped.extend(wrapped.take(PEER_BATCH));
            if self.wrapped.is_empty() {
                return;
            }
            let mut datagrams = [ToPeer::default(); PEER_BATCH];
            let mut count = 0;
            for Wrapped { to, bytes, stride } in &self.wrapped {
                if let Some(peer) = self.links.iter().position(|link| link.node == *to) {
                    let pieces = bytes.len().div_ceil((*stride).max(1)) as u64;
                    self.links[peer].count_wrapped(pieces, &self.known);
                    datagrams[count] = ToPeer { peer, bytes, stride: *stride };
                    count += 1;
                }
            }
            self.sockets.send(PeerTraffic::Wrapped, &datagrams[..count]);
            for wrapped in self.wrapped.drain(..) {
                engine.recycle(wrapped);
            }
        }
    }

    /// Says how well each peer is heard.
    pub fn tell_hearing(&self, status: &ClusterStatus) {
        for member in &status.members {
            let is_late = member.silent.is_none_or(|silent| silent >= self.patience / 2);
            let hearing = match member.presence {
                Presence::Unknown | Presence::Dead => Hearing::Lost,
                Presence::Alive if is_late => Hearing::Silent,
                Presence::Alive => Hearing::Well,
            };
            self.known.hear(member.node, hearing);
        }
    }

    /// How the nodes are, as this worker sees them.
    pub fn status(&self, now: Time, engine: &Engine) -> ClusterStatus {
        self.workers.status_of_nodes(engine.cluster_status(now).unwrap_or_default())
    }

    /// What the engine and this know at the moment.
    pub fn snapshot(&self, now: Time, engine: &Engine) -> ClusterSnapshot {
        let counts = |link: &Link| (link.node, link.counts);
        ClusterSnapshot {
            status: self.status(now, engine),
            links: self
                .workers
                .counts_of_nodes(self.workers.node_of(self.me), self.links.iter().map(counts)),
            sync: self.sockets.counters(PeerTraffic::Sync),
            wrapped: self.sockets.counters(PeerTraffic::Wrapped),
        }
    }
}

fn send_sealed(sockets: &mut PeerSockets, peers: &[usize], sealed: &[Vec<u8>]) {
    let mut datagrams = [ToPeer::default(); PEER_BATCH];
    for (datagram, (peer, bytes)) in datagrams.iter_mut().zip(peers.iter().zip(sealed)) {
        *datagram = ToPeer { peer: *peer, bytes, stride: bytes.len() };
    }
    if !peers.is_empty() {
        sockets.send(PeerTraffic::Sync, &datagrams[..peers.len()]);
    }
}

impl Link {
    /// What has become of the session, for the engine.
    fn change(
        &mut self,
        now: Time,
        change: &SessionChange,
        own: u8,
        theirs: u8,
    ) -> Option<Session> {
        Some(match change {
            SessionChange::Up { incarnation, version, epoch, keys, unwraps, .. } => {
                let keys = keys.of(own, theirs)?;
                let (incarnation, epoch) = (*incarnation, *epoch);
                let sealer = Sealer::new(*version, epoch, &keys.sync_send);
                let opener = Opener::new(*version, epoch, &keys.sync_receive);
                self.take(now, incarnation, sealer, opener);
                let (send, receive) = (keys.wrapped_send, keys.wrapped_receive);
                Session::Up { incarnation, epoch, send, receive, unwraps: *unwraps }
            }
            SessionChange::Lost { .. } => {
                self.forget();
                Session::Lost
            }
            // Its keys stay: what comes of it all the same is authentic.
            SessionChange::Gone { .. } => Session::Gone,
        })
    }

    fn take(&mut self, now: Time, incarnation: u64, sealer: Sealer, opener: Opener) {
        if incarnation != self.incarnation {
            // Nothing of an earlier incarnation is authentic any more.
            self.forget();
        }
        self.incarnation = incarnation;
        self.before = self.opening.replace(opener).map(|before| (before, now + OLD_KEYS));
        (self.wrapped, self.renewal_asked) = (0, false);
        if self.sealing.is_some() {
            self.next = Some((sealer, now + SETTLING));
        } else {
            self.sealing = Some(sealer);
        }
    }

    fn forget(&mut self) {
        (self.sealing, self.next, self.opening, self.before) = (None, None, None, None);
    }

    fn seal(&mut self, now: Time, records: &[u8], datagram: &mut Vec<u8>, known: &Known) -> bool {
        if let Some((next, _)) = self.next.take_if(|(_, from)| *from <= now) {
            self.sealing = Some(next);
        }
        let Some(sealer) = &mut self.sealing else {
            self.counts.unsent += 1;
            return false;
        };
        if !sealer.seal(records, datagram) {
            self.counts.unsent += 1;
            return false;
        }
        self.counts.sealed += 1;
        let received = self.opening.as_ref().map_or(0, Opener::count);
        if sealer.count().max(received) >= RENEW_AFTER {
            self.ask_renewal(known);
        }
        true
    }

    /// Counts wrapped packets: their tags have counters of 32 bits.
    fn count_wrapped(&mut self, packets: u64, known: &Known) {
        self.wrapped += packets;
        if self.wrapped >= WRAPPED_RENEW_AFTER {
            self.ask_renewal(known);
        }
    }

    /// Once for each session; the one who opens sessions acts on it.
    fn ask_renewal(&mut self, known: &Known) {
        if !std::mem::replace(&mut self.renewal_asked, true) {
            known.renew(self.session);
        }
    }

    fn open<'d>(&mut self, now: Time, datagram: &'d mut [u8]) -> Option<&'d [u8]> {
        if self.before.as_ref().is_some_and(|(_, until)| *until <= now) {
            self.before = None;
        }
        if self.opening.is_none() {
            self.counts.early += 1;
            return None;
        }
        let epoch = epoch_of(datagram);
        let openers =
            self.opening.iter_mut().chain(self.before.iter_mut().map(|(before, _)| before));
        let opener = openers.into_iter().find(|opener| Some(opener.epoch()) == epoch);
        let opened = opener.map_or(Err(OpenError::Epoch), |opener| opener.open(datagram));
        let count = match opened {
            Ok(_) => &mut self.counts.opened,
            Err(OpenError::Malformed) => &mut self.counts.malformed,
            Err(OpenError::Epoch) => &mut self.counts.unknown_epoch,
            Err(OpenError::Forged) => &mut self.counts.forged,
            Err(OpenError::Replayed) => &mut self.counts.replayed,
        };
        *count += 1;
        opened.ok()
    }
}

#[cfg(test)]
mod tests;
