//! The API's listeners: a Unix socket, and TLS for clients with a certificate.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, Stream};
use gabion_api::v1::firewall_server::FirewallServer;
use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tonic::transport::server::{Connected, Router};
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic_health::pb::health_server::{Health, HealthServer};

use super::Control;
use super::accept::{Accept, Admitted};
use crate::config::{Api, ApiTls};
use crate::readiness::Readiness;

/// Owner and group of the socket may connect.
const SOCKET_MODE: u32 = 0o660;
/// A client that has not finished its TLS handshake by then is cut off.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Idle connections are asked for a sign of life, and cut off without one.
pub(super) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
pub(super) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// What requests still get when the node stops.
const GRACE: Duration = Duration::from_millis(300);
/// A pause after a failed accept, which mostly means that descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Sockets that are open but not served yet, so that privileges can go in between.
#[derive(Debug)]
pub struct ApiListeners {
    unix: UnixListener,
    tcp: Vec<TcpListener>,
    tls: Option<ServerTlsConfig>,
    settings: Api,
}

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("api.unix_socket {}: {source}; check the directory and its owner", path.display())]
    Socket { path: PathBuf, source: io::Error },
    #[error("api.unix_socket {}: another gabiond serves it; stop that one first", .0.display())]
    SocketInUse(PathBuf),
    #[error("api.unix_socket {}: something that is no socket is in the way; move it", .0.display())]
    NoSocket(PathBuf),
    #[error("api.listen {address}: {source}; free the address or change api.listen")]
    Address { address: SocketAddr, source: io::Error },
    #[error("api.{setting} {}: {why}; gabion pki init makes certificates", path.display())]
    Pem { setting: &'static str, path: PathBuf, why: String },
}

/// Opens the sockets and reads the certificates.
///
/// # Errors
/// [`ListenError`].
pub fn bind(settings: &Api) -> Result<ApiListeners, ListenError> {
    let tls = settings.tls.as_ref().map(read_tls).transpose()?;
    let mut tcp = Vec::new();
    for address in settings.tls.iter().flat_map(|tls| &tls.listen) {
        let error = |source| ListenError::Address { address: *address, source };
        let listener = TcpListener::bind(address).map_err(error)?;
        listener.set_nonblocking(true).map_err(error)?;
        tcp.push(listener);
    }
    let unix = bind_unix(&settings.unix_socket)?;
    Ok(ApiListeners { unix, tcp, tls, settings: settings.clone() })
}

/// Reads the certificates, and opens nothing.
///
/// # Errors
/// [`ListenError`].
pub fn check_tls(settings: &Api) -> Result<(), ListenError> {
    settings.tls.as_ref().map_or(Ok(()), |tls| read_tls(tls).map(drop))
}

fn bind_unix(path: &Path) -> Result<UnixListener, ListenError> {
    let error = |source| ListenError::Socket { path: path.to_owned(), source };
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(error)?;
    }
    if let Ok(there) = fs::symlink_metadata(path) {
        if !there.file_type().is_socket() {
            return Err(ListenError::NoSocket(path.to_owned()));
        }
        if UnixStream::connect(path).is_ok() {
            return Err(ListenError::SocketInUse(path.to_owned()));
        }
        fs::remove_file(path).map_err(error)?;
    }
    let listener = listen_unix(path).map_err(|errno| error(errno.into()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE)).map_err(error)?;
    listener.set_nonblocking(true).map_err(error)?;
    Ok(listener)
}

/// Nobody else can ever connect: the file gets the mode that the socket has when it is bound (`unix_bind` of Linux). Not by
/// the umask, which is the whole process's: what other threads made meanwhile could not be opened.
fn listen_unix(path: &Path) -> rustix::io::Result<UnixListener> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(SOCKET_MODE))?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(UnixListener::from(socket))
}

/// As the standard library's.
const BACKLOG: i32 = 128;

/// Every file is read and understood here, so that the error names it.
fn read_tls(settings: &ApiTls) -> Result<ServerTlsConfig, ListenError> {
    let certificate = read_pem("certificate", &settings.certificate)?;
    certificates("certificate", &settings.certificate, &certificate)?;
    let key = read_pem("key", &settings.key)?;
    PrivateKeyDer::from_pem_slice(&key).map_err(|error| ListenError::Pem {
        setting: "key",
        path: settings.key.clone(),
        why: error.to_string(),
    })?;
    let client_ca = read_pem("client_ca", &settings.client_ca)?;
    certificates("client_ca", &settings.client_ca, &client_ca)?;
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(&certificate, &key))
        .client_ca_root(Certificate::from_pem(&client_ca))
        .timeout(HANDSHAKE_TIMEOUT);
    Server::builder().tls_config(tls.clone()).map_err(|error| {
        let source = std::error::Error::source(&error).map(ToString::to_string);
        ListenError::Pem {
            setting: "key",
            path: settings.key.clone(),
            why: source.unwrap_or_else(|| error.to_string()),
        }
    })?;
    Ok(tls)
}

fn read_pem(setting: &'static str, path: &Path) -> Result<Vec<u8>, ListenError> {
    fs::read(path).map_err(|error| ListenError::Pem {
        setting,
        path: path.to_owned(),
        why: error.to_string(),
    })
}

fn certificates(setting: &'static str, path: &Path, pem: &[u8]) -> Result<(), ListenError> {
    let error = |why: String| ListenError::Pem { setting, path: path.to_owned(), why };
    let mut count = 0;
    for certificate in CertificateDer::pem_slice_iter(pem) {
        certificate.map_err(|why| error(why.to_string()))?;
        count += 1;
    }
    if count == 0 { Err(error("it holds no certificate".to_owned())) } else { Ok(()) }
}

impl ApiListeners {
    /// Serves until the node stops, then gives requests a moment to end.
    ///
    /// # Errors
    /// When the runtime refuses a socket or a server fails.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn serve(self, control: Control) -> Result<(), ServeError> {
        let services = Services { control: Arc::new(control), settings: self.settings };
        let readiness = Arc::clone(&services.control.readiness);
        let mut servers = JoinSet::new();
        let unix = tokio::net::UnixListener::from_std(self.unix)?;
        servers.spawn(run(services.router(None)?, services.incoming(unix), Arc::clone(&readiness)));
        for listener in self.tcp {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let router = services.router(self.tls.clone())?;
            servers.spawn(run(router, services.incoming(listener), Arc::clone(&readiness)));
        }
        while let Some(ended) = servers.join_next().await {
            ended.map_err(io::Error::other)??;
        }
        let _ = fs::remove_file(&services.settings.unix_socket);
        Ok(())
    }
}

/// Why the API is no longer served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("the API's socket: {0}")]
    Socket(#[from] io::Error),
    #[error("the API's server: {0}")]
    Server(#[from] tonic::transport::Error),
    #[error("the API's description: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

async fn run<I>(
    router: Router,
    incoming: impl Stream<Item = io::Result<Admitted<I>>> + Send,
    readiness: Arc<Readiness>,
) -> Result<(), ServeError>
where
    I: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let cut_off = async {
        readiness.stopped().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        served = router.serve_with_incoming_shutdown(incoming, readiness.stopped()) => {
            served.map_err(ServeError::from)
        }
        () = cut_off => Ok(()),
    }
}

/// What every listener offers.
struct Services {
    control: Arc<Control>,
    settings: Api,
}

impl Services {
    fn router(&self, tls: Option<ServerTlsConfig>) -> Result<Router, ServeError> {
        let firewall = FirewallServer::from_arc(Arc::clone(&self.control))
            .max_decoding_message_size(self.settings.message_bytes)
            // An answer may hold a text twice: as committed and canonical.
            .max_encoding_message_size(self.settings.message_bytes.saturating_mul(4));
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(gabion_api::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()?;
        let mut server = Server::builder()
            .max_concurrent_streams(self.settings.streams)
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .tcp_nodelay(true);
        if let Some(tls) = tls {
            server = server.tls_config(tls)?;
        }
        let health = health(Arc::clone(&self.control.readiness));
        Ok(server.add_service(firewall).add_service(health).add_service(reflection))
    }

    /// Connections, of which only so many are there at a time; more wait in the kernel's backlog
    /// until one ends or has been silent for too long.
    fn incoming<L: Accept>(
        &self,
        listener: L,
    ) -> impl Stream<Item = io::Result<Admitted<L::Io>>> + Send + use<L> {
        let places = Arc::new(Semaphore::new(self.settings.connections));
        stream::unfold((listener, places), async |(listener, places)| {
            let place = Arc::clone(&places).acquire_owned().await.ok()?;
            let io = loop {
                match listener.accept().await {
                    Ok(io) => break io,
                    Err(error) => {
                        tracing::warn!(%error, "a connection to the API was not accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            };
            Some((Ok(Admitted::new(io, place)), (listener, places)))
        })
    }
}

/// `grpc.health.v1`: serving when the node is ready.
fn health(readiness: Arc<Readiness>) -> HealthServer<impl Health> {
    let (reporter, service) = tonic_health::server::health_reporter();
    tokio::spawn(async move {
        let mut changes = readiness.changes();
        loop {
            let status = if readiness.is_ready() {
                tonic_health::ServingStatus::Serving
            } else {
                tonic_health::ServingStatus::NotServing
            };
            for service in ["", "gabion.v1.Firewall"] {
                reporter.set_service_status(service, status).await;
            }
            if readiness.is_stopping() {
                return;
            }
            changes.next().await;
        }
    });
    service
}
