//! One session: TLS 1.3 with both certificates, HELLO, and the keys that come of it.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use gabion_engine::NodeId;
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::hello::Hello;
use super::identity::{Identity, is_about_certificates, name_of, node_of, reason};
use super::message::{Message, ReadMessageError};
use super::refusal::Refusal;
use super::seal;
use super::workers::Workers;

/// By when a session stands, or never.
const DEADLINE: Duration = Duration::from_secs(5);
/// What a peer that is refused gets to read why.
const LAST_WORD: Duration = Duration::from_millis(500);
/// Section 6 of docs/cluster.md; RFC 8446 section 7.5.
const LABEL: &[u8] = b"EXPORTER-gabion-cluster";

/// The keys of a session, each for one direction and one purpose.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Keys {
    pub sync_send: seal::Key,
    pub sync_receive: seal::Key,
    pub wrapped_send: seal::Key,
    pub wrapped_receive: seal::Key,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys")
    }
}

/// Those of each worker here with each worker there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeysOfWorkers(Arc<[Vec<Keys>]>);

impl KeysOfWorkers {
    pub fn of(&self, own: u8, peer: u8) -> Option<&Keys> {
        self.0.get(usize::from(own))?.get(usize::from(peer))
    }
}

impl From<Keys> for KeysOfWorkers {
    fn from(keys: Keys) -> Self {
        Self([vec![keys]].into())
    }
}

/// A session that stands.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) stream: TlsStream<TcpStream>,
    pub(super) peer: Hello,
    /// The protocol's, as agreed.
    pub(super) version: u8,
    pub(super) epoch: u8,
    pub(super) keys: KeysOfWorkers,
}

/// Why no session stands.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenSessionError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it does not answer within {} s", DEADLINE.as_secs())]
    Silent,
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("it refuses this node: {why}")]
    RefusedBy { seen: u64, why: String },
}

impl From<ReadMessageError> for OpenSessionError {
    fn from(error: ReadMessageError) -> Self {
        match error {
            ReadMessageError::Io(error) => tls_error(error),
            ReadMessageError::Refused(refusal) => Self::Refused(refusal),
        }
    }
}

/// What a peer says is asked of this, as soon as it is known: whether a session may be held with it.
pub(super) trait Judge {
    /// Looks at a HELLO that fits, and remembers it if it is taken.
    fn judge(&self, peer: NodeId, theirs: &Hello) -> Result<(), Refusal>;
}

/// Opens a session with a peer of a higher number.
pub(super) async fn open(
    identity: &Identity,
    stream: TcpStream,
    ours: &Hello,
    peer: NodeId,
    judge: &impl Judge,
) -> Result<Session, OpenSessionError> {
    let handshake = async {
        let name = ServerName::try_from(name_of(peer, &ours.cluster))
            .map_err(|_| Refusal::Malformed("a name that is none"))?;
        let connector = TlsConnector::from(Arc::clone(&identity.client));
        let mut stream = TlsStream::from(connector.connect(name, stream).await.map_err(tls_error)?);
        Message::Hello(ours.encode()).write(&mut stream).await?;
        let theirs = hear(&mut stream).await?;
        let version = consider(ours, &theirs, peer, judge);
        settle(stream, ours, theirs, version, ours.epoch).await
    };
    timeout(DEADLINE, handshake).await.map_err(|_| OpenSessionError::Silent)?
}

/// Takes a session that the member at an address opens.
pub(super) async fn accept(
    identity: &Identity,
    stream: TcpStream,
    ours: &Hello,
    (peer, address): (NodeId, IpAddr),
    judge: &impl Judge,
    taken: impl AsyncFnOnce(&Session),
) -> Result<Session, OpenSessionError> {
    let handshake = async {
        let acceptor = TlsAcceptor::from(Arc::clone(&identity.server));
        let mut stream = TlsStream::from(acceptor.accept(stream).await.map_err(tls_error)?);
        let named = of_certificate(&stream, &ours.cluster)?;
        let theirs = hear(&mut stream).await?;
        let epoch = theirs.epoch;
        let version = if named == peer {
            consider(ours, &theirs, named, judge)
        } else {
            let why = format!("it is for node {named}, and {address} is node {peer}'s address");
            Err(Refusal::Certificate(why))
        };
        let mut session = settle(stream, ours, theirs, version, epoch).await?;
        // What comes sealed with these keys can be opened before the peer has them.
        taken(&session).await;
        Message::Hello(ours.encode()).write(&mut session.stream).await?;
        Ok(session)
    };
    timeout(DEADLINE, handshake).await.map_err(|_| OpenSessionError::Silent)?
}

fn of_certificate(stream: &TlsStream<TcpStream>, cluster: &str) -> Result<NodeId, Refusal> {
    let certificates = stream.get_ref().1.peer_certificates();
    let leaf = certificates.and_then(<[_]>::first);
    let leaf = leaf.ok_or_else(|| Refusal::Certificate("there is none".to_owned()))?;
    node_of(leaf, cluster).map_err(Refusal::Certificate)
}

async fn hear(stream: &mut TlsStream<TcpStream>) -> Result<Hello, OpenSessionError> {
    loop {
        match Message::read(stream).await? {
            Some(Message::Hello(fields)) => return Ok(Hello::decode(&fields)?),
            Some(Message::Refused { seen, why }) => {
                return Err(OpenSessionError::RefusedBy { seen, why });
            }
            Some(Message::Policy(_) | Message::Reach(_)) => {}
            None => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        }
    }
}

/// The version that is spoken, if the peer is who its certificate says and fits.
fn consider(
    ours: &Hello,
    theirs: &Hello,
    named: NodeId,
    judge: &impl Judge,
) -> Result<u8, Refusal> {
    let version = ours.agree(theirs)?;
    if theirs.node != named {
        let why = format!("it is for node {named}, and the peer says that it is {}", theirs.node);
        return Err(Refusal::Certificate(why));
    }
    judge.judge(named, theirs)?;
    Ok(version)
}

/// Takes the keys out, or tells the peer why not.
async fn settle(
    mut stream: TlsStream<TcpStream>,
    ours: &Hello,
    theirs: Hello,
    version: Result<u8, Refusal>,
    epoch: u8,
) -> Result<Session, OpenSessionError> {
    let version = match version {
        Ok(version) => version,
        Err(refusal) => {
            let seen = if let Refusal::Duplicate { seen, .. } = refusal { seen } else { 0 };
            let why = format!("{}: {refusal}", refusal.label());
            let told = Message::Refused { seen, why };
            let _ = timeout(LAST_WORD, async {
                told.write(&mut stream).await?;
                stream.shutdown().await
            })
            .await;
            return Err(refusal.into());
        }
    };
    let workers = Workers(ours.workers);
    let of_worker = |own| {
        workers.members(theirs.node).map(|peer| keys(&stream, own, peer)).collect::<Result<_, _>>()
    };
    let keys: Result<Arc<[_]>, rustls::Error> = workers.members(ours.node).map(of_worker).collect();
    let keys = keys.map_err(|error| OpenSessionError::Io(io::Error::other(error)))?;
    let keys = KeysOfWorkers(keys);
    Ok(Session { stream, peer: theirs, version, epoch, keys })
}

fn keys(stream: &TlsStream<TcpStream>, own: NodeId, peer: NodeId) -> Result<Keys, rustls::Error> {
    let key = |purpose: &str, from: NodeId, to: NodeId| {
        let context = format!("{purpose} {from} {to}");
        let context = Some(context.as_bytes());
        match stream {
            TlsStream::Client(stream) => {
                stream.get_ref().1.export_keying_material(seal::Key::default(), LABEL, context)
            }
            TlsStream::Server(stream) => {
                stream.get_ref().1.export_keying_material(seal::Key::default(), LABEL, context)
            }
        }
    };
    Ok(Keys {
        sync_send: key("sync", own, peer)?,
        sync_receive: key("sync", peer, own)?,
        wrapped_send: key("wrapped", own, peer)?,
        wrapped_receive: key("wrapped", peer, own)?,
    })
}

/// TLS tells its errors inside those of its stream.
fn tls_error(error: io::Error) -> OpenSessionError {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(tls) if is_about_certificates(tls) => Refusal::Certificate(reason(tls)).into(),
        _ => error.into(),
    }
}
