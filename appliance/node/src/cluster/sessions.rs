//! The sessions with all peers: opened to those of higher numbers, taken from those of lower ones.
//!
//! Tasks: one for each peer of a higher number, which connects again and again; one that accepts, and one for each
//! connection that it has accepted, at most `HANDSHAKES` of them before their session stands. They share [`Known`], and
//! tell the node of what changes by [`Told`]. All may be cancelled at any time: they own nothing but their stream,
//! and its end tells the peer that this node has gone.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use gabion_engine::NodeId;
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::hello::{Hello, PolicyMark, Reach};
use super::identity::Identity;
use super::known::Known;
use super::message::{Message, ReadMessageError};
use super::session::{self, KeysOfWorkers, OpenSessionError, Session};
use super::workers::Workers;

/// The pause before a peer is tried again: doubled each time, and spread so that nodes do not go in step.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Connections whose session does not stand yet.
const HANDSHAKES: usize = 32;
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// A machine that has come back answers the next sign of life with a reset.
const KEEPALIVE: Duration = Duration::from_secs(1);
const KEEPALIVES_MISSED: u32 = 10;

/// What this node says of itself, and whom it speaks with.
#[derive(Debug, Clone)]
pub struct Local {
    pub cluster: String,
    pub node: NodeId,
    pub incarnation: u64,
    pub boot: [u8; 16],
    /// Lowest and highest version of the protocol.
    pub versions: (u8, u8),
    pub members: BTreeMap<NodeId, IpAddr>,
    pub port: u16,
    /// How long a session's keys are used.
    pub renew: Duration,
    pub policy: watch::Receiver<PolicyMark>,
    pub reach: watch::Receiver<Reach>,
    /// Whether this node's datapath takes what another's has wrapped.
    pub unwraps: bool,
    pub workers: Workers,
}

impl Local {
    /// The versions that this program speaks.
    pub const VERSIONS: (u8, u8) = (1, 1);
}

/// What has become of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionChange {
    /// It stands, with these keys; the ones before are taken for a while longer.
    Up {
        peer: NodeId,
        incarnation: u64,
        version: u8,
        epoch: u8,
        keys: KeysOfWorkers,
        unwraps: bool,
    },
    /// The peer's process has gone.
    Lost { peer: NodeId },
    /// The peer's machine has.
    Gone { peer: NodeId },
}

/// What the sessions tell the rest of the node.
pub trait Told: Send + Sync + 'static {
    /// To be passed on before anything that the peer sends afterwards.
    fn session(&self, change: SessionChange) -> impl Future<Output = ()> + Send;

    /// Something that an operator should know.
    fn event(&self, message: String);

    /// A peer has seen a larger incarnation of this node than it has.
    fn outgrown(&self, seen: u64);
}

impl<T: Told> Told for Arc<T> {
    fn session(&self, change: SessionChange) -> impl Future<Output = ()> + Send {
        T::session(self, change)
    }

    fn event(&self, message: String) {
        T::event(self, message);
    }

    fn outgrown(&self, seen: u64) {
        T::outgrown(self, seen);
    }
}

/// Why there can be no sessions.
#[derive(Debug, thiserror::Error)]
#[error(
    "cluster.session_port {port} on {address}: {source}; is that this machine's address in cluster.members, and the port free?"
)]
pub struct OpenSessionsError {
    address: IpAddr,
    port: u16,
    source: io::Error,
}

/// Opens the socket that peers of lower numbers connect to.
///
/// # Errors
/// When the address is not the machine's or the port is taken.
pub fn bind(address: IpAddr, port: u16) -> Result<std::net::TcpListener, OpenSessionsError> {
    let open = || {
        let listener = std::net::TcpListener::bind((address, port))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    open().map_err(|source| OpenSessionsError { address, port, source })
}

/// The sessions of this node.
#[derive(Debug)]
pub struct Sessions<T> {
    local: Local,
    identity: Arc<ArcSwap<Identity>>,
    known: Arc<Known>,
    told: T,
}

impl<T: Told> Sessions<T> {
    /// The identity may be replaced at any time: sessions that are opened from then on use the new one.
    pub const fn new(
        local: Local,
        identity: Arc<ArcSwap<Identity>>,
        known: Arc<Known>,
        told: T,
    ) -> Self {
        Self { local, identity, known, told }
    }

    /// Keeps the sessions until cancelled.
    ///
    /// # Errors
    /// When the runtime refuses the socket.
    pub async fn run(self, listener: std::net::TcpListener) -> io::Result<()> {
        let listener = TcpListener::from_std(listener)?;
        let sessions = Arc::new(self);
        let mut tasks = JoinSet::new();
        for (peer, address) in &sessions.local.members {
            if *peer > sessions.local.node {
                tasks.spawn(Arc::clone(&sessions).keep(*peer, *address));
            }
        }
        tasks.spawn(Arc::clone(&sessions).accept(listener));
        tasks.spawn(Arc::clone(&sessions).follow_policy());
        // None of them ends.
        while tasks.join_next().await.is_some() {}
        Ok(())
    }

    /// Holds a session with a peer of a higher number, one after the other.
    async fn keep(self: Arc<Self>, peer: NodeId, address: IpAddr) {
        let (mut pause, mut epoch) = (PAUSE_MIN, 0_u8);
        loop {
            match self.open(peer, address, epoch).await {
                Ok(mut session) => {
                    pause = PAUSE_MIN;
                    loop {
                        epoch = session.epoch.wrapping_add(1);
                        let number = self.take(&session).await;
                        let renewed = tokio::select! {
                            end = self.hold(&mut session, number) => {
                                self.ended(peer, number, &end).await;
                                None
                            }
                            next = self.renew(peer, address, epoch) => Some(next),
                        };
                        let Some(next) = renewed else { break };
                        session = next;
                    }
                }
                Err(error) => self.troubled(peer, &error).await,
            }
            sleep(spread(pause)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// The next session, with fresh keys, when it is time.
    async fn renew(&self, peer: NodeId, address: IpAddr, epoch: u8) -> Session {
        tokio::select! {
            () = sleep(self.local.renew) => {}
            () = self.known.renewal(peer) => {}
        }
        loop {
            match self.open(peer, address, epoch).await {
                Ok(session) => return session,
                Err(error) => self.troubled(peer, &error).await,
            }
            sleep(spread(PAUSE_MAX)).await;
        }
    }

    async fn open(
        &self,
        peer: NodeId,
        address: IpAddr,
        epoch: u8,
    ) -> Result<Session, OpenSessionError> {
        let connecting = async {
            let socket = socket(self.local.members[&self.local.node])?;
            socket.bind(SocketAddr::new(self.local.members[&self.local.node], 0))?;
            socket.connect(SocketAddr::new(address, self.local.port)).await
        };
        let stream = timeout(CONNECT_TIMEOUT, connecting)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        keep_alive(&stream)?;
        let ours = self.hello(epoch);
        session::open(&self.identity.load_full(), stream, &ours, peer, &*self.known).await
    }

    /// Takes sessions from peers of lower numbers.
    async fn accept(self: Arc<Self>, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(HANDSHAKES));
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let Ok((stream, from)) = listener.accept().await else {
                // Mostly: out of descriptors, which passes.
                sleep(ACCEPT_PAUSE).await;
                continue;
            };
            // Others have no business here; a full house makes a peer try again.
            let Some(peer) = self.known.peer_at(from.ip().to_canonical()) else { continue };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
            let sessions = Arc::clone(&self);
            connections.spawn(async move {
                let mut number = 0;
                let accepted = async {
                    keep_alive(&stream)?;
                    let ours = sessions.hello(0);
                    let of = (peer, from.ip());
                    let taken = async |session: &Session| number = sessions.take(session).await;
                    session::accept(
                        &sessions.identity.load_full(),
                        stream,
                        &ours,
                        of,
                        &*sessions.known,
                        taken,
                    )
                    .await
                }
                .await;
                drop(place);
                match accepted {
                    Ok(mut session) => {
                        let end = sessions.hold(&mut session, number).await;
                        sessions.ended(peer, number, &end).await;
                    }
                    Err(error) => {
                        // Its keys are with the packet thread already.
                        sessions.known.down(peer, number);
                        sessions.troubled(peer, &error).await;
                    }
                }
            });
        }
    }

    async fn take(&self, session: &Session) -> u64 {
        let Session { ref peer, version, epoch, ref keys, .. } = *session;
        let keys = keys.clone();
        let (number, is_news) = self.known.up(session);
        let Hello { node, incarnation, policy, unwraps, .. } = *peer;
        self.known.reaches(node, peer.reach.clone());
        self.told
            .session(SessionChange::Up { peer: node, incarnation, version, epoch, keys, unwraps })
            .await;
        if is_news {
            self.told.event(format!(
                "node {node}: the session stands: incarnation {incarnation}, protocol version {version}"
            ));
        }
        self.compare_policy(node, policy);
        number
    }

    /// Reads and writes until the session ends.
    async fn hold(&self, session: &mut Session, number: u64) -> End {
        let node = session.peer.node;
        let (mut reader, mut writer) = tokio::io::split(&mut session.stream);
        let reading = async {
            loop {
                match Message::read(&mut reader).await {
                    Ok(Some(Message::Policy(mark))) => self.compare_policy(node, mark),
                    Ok(Some(Message::Reach(reach))) => self.known.reaches(node, reach),
                    Ok(Some(Message::Hello(_))) => {}
                    Ok(Some(Message::Refused { why, .. })) => return End::Refused(why),
                    Ok(None) => return End::Gone,
                    Err(ReadMessageError::Io(error)) => return End::of(&error),
                    Err(ReadMessageError::Refused(refusal)) => {
                        return End::Refused(format!("{}: {refusal}", refusal.label()));
                    }
                }
            }
        };
        let writing = async {
            let (mut policy, mut reach) = (self.local.policy.clone(), self.local.reach.clone());
            loop {
                let news = tokio::select! {
                    Ok(()) = policy.changed() => Message::Policy(*policy.borrow_and_update()),
                    Ok(()) = reach.changed() => Message::Reach(reach.borrow_and_update().clone()),
                    // Nobody will tell of anything any more.
                    else => std::future::pending().await,
                };
                if let Err(error) = news.write(&mut writer).await {
                    return End::of(&error);
                }
            }
        };
        // Whoever has opened it closes it, once it has the next one.
        let replaced = async {
            self.known.replaced(node, number).await;
            sleep(CONNECT_TIMEOUT).await;
        };
        tokio::select! {
            end = reading => end,
            end = writing => end,
            () = replaced => End::Replaced,
        }
    }

    async fn ended(&self, peer: NodeId, number: u64, end: &End) {
        if !self.known.down(peer, number) {
            return;
        }
        let why = match end {
            End::Replaced => return,
            End::Gone => "its process has gone",
            End::Silent(why) | End::Refused(why) => why,
        };
        self.known.trouble(peer, None, &format!("the session has ended: {why}"));
        self.told.event(format!("node {peer}: the session has ended: {why}"));
        if *end == End::Gone && self.known.gone(peer) {
            self.told.session(SessionChange::Lost { peer }).await;
        }
    }

    async fn troubled(&self, peer: NodeId, error: &OpenSessionError) {
        let refusal = match error {
            OpenSessionError::Refused(refusal) => Some(refusal),
            OpenSessionError::RefusedBy { seen, .. } => {
                if *seen > self.local.incarnation {
                    self.told.outgrown(*seen);
                }
                None
            }
            OpenSessionError::Io(error) => {
                if error.kind() == io::ErrorKind::ConnectionRefused && self.known.gone(peer) {
                    self.told.session(SessionChange::Lost { peer }).await;
                }
                None
            }
            OpenSessionError::Silent => None,
        };
        let label = refusal.map_or_else(String::new, |refusal| format!("{}: ", refusal.label()));
        let text = format!("{label}{error}");
        if self.known.trouble(peer, refusal, &text) {
            self.told.event(format!("node {peer}: no session: {text}"));
        }
    }

    /// Tells of peers whose policy is no longer this node's.
    async fn follow_policy(self: Arc<Self>) {
        let mut policy = self.local.policy.clone();
        while policy.changed().await.is_ok() {
            let ours = *policy.borrow_and_update();
            for (node, theirs) in self.known.own_policy(ours) {
                self.policy_differs(node, theirs, ours);
            }
        }
        std::future::pending::<()>().await;
    }

    fn compare_policy(&self, node: NodeId, theirs: PolicyMark) {
        let ours = *self.local.policy.borrow();
        if self.known.policy(node, theirs, ours) {
            self.policy_differs(node, theirs, ours);
        }
    }

    fn policy_differs(&self, node: NodeId, theirs: PolicyMark, ours: PolicyMark) {
        self.told.event(format!(
            "node {node}: peer-policy-differs: its revision {} is not the policy of this node's revision {}: push one to both",
            theirs.revision, ours.revision
        ));
    }

    fn hello(&self, epoch: u8) -> Hello {
        let local = &self.local;
        Hello {
            cluster: local.cluster.clone(),
            versions: local.versions,
            node: local.node,
            incarnation: local.incarnation,
            boot: local.boot,
            epoch,
            policy: *local.policy.borrow(),
            reach: local.reach.borrow().clone(),
            unwraps: local.unwraps,
            workers: local.workers.0,
        }
    }
}

/// How a session ends.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    /// Another one stands with the same peer.
    Replaced,
    /// The peer's kernel says that nobody holds its end.
    Gone,
    /// Nothing comes through: that says nothing of the peer.
    Silent(String),
    Refused(String),
}

impl End {
    fn of(error: &io::Error) -> Self {
        let gone = [
            io::ErrorKind::ConnectionReset,
            io::ErrorKind::ConnectionAborted,
            io::ErrorKind::BrokenPipe,
            io::ErrorKind::UnexpectedEof,
        ];
        if gone.contains(&error.kind()) { Self::Gone } else { Self::Silent(error.to_string()) }
    }
}

fn socket(address: IpAddr) -> io::Result<TcpSocket> {
    if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }
}

/// Has silence end the session, in seconds and not in hours.
fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVES_MISSED)?;
    let all = (KEEPALIVE * KEEPALIVES_MISSED).as_millis();
    sockopt::set_tcp_user_timeout(stream, u32::try_from(all).unwrap_or(u32::MAX))?;
    Ok(())
}

/// Half of the pause, and as much more as chance has it.
fn spread(pause: Duration) -> Duration {
    let mut chance = [0; 1];
    // Without randomness nodes may go in step, which is no harm.
    let _ = aws_lc_rs::rand::fill(&mut chance);
    pause / 2 + pause / 2 * u32::from(chance[0]) / 255
}

#[cfg(test)]
mod tests;
