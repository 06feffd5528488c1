//! The way to a node: its Unix socket, or TCP with mutual TLS. Statuses become [`Failure`]s that
//! say what to do next.

use std::error::Error as _;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gabion_api::v1::firewall_client::FirewallClient;
use tokio::runtime::Runtime;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Response, Status};

use crate::failure::Failure;

/// How long the node has to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// The largest answer that is accepted: a policy of some 100,000 rules and its canonical text.
const MESSAGE_BYTES: usize = 64 << 20;

/// Which node, and how to reach it.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Connection {
    /// The node's Unix socket
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "GABION_SOCKET",
        default_value = "/run/gabion/gabiond.sock",
        help_heading = "Connection"
    )]
    pub(crate) socket: PathBuf,

    /// A node elsewhere, over mutual TLS (needs --ca, --cert and --key)
    #[arg(
        long,
        global = true,
        value_name = "HOST:PORT",
        env = "GABION_SERVER",
        help_heading = "Connection"
    )]
    pub(crate) server: Option<String>,

    /// The cluster's CA certificate
    #[arg(long, global = true, value_name = "PEM", env = "GABION_CA", help_heading = "Connection")]
    pub(crate) ca: Option<PathBuf>,

    /// Your certificate, made by `gabion pki issue`
    #[arg(
        long,
        global = true,
        value_name = "PEM",
        env = "GABION_CERT",
        help_heading = "Connection"
    )]
    pub(crate) cert: Option<PathBuf>,

    /// Your certificate's key
    #[arg(
        long,
        global = true,
        value_name = "PEM",
        env = "GABION_KEY",
        help_heading = "Connection"
    )]
    pub(crate) key: Option<PathBuf>,
}

/// A connection to one node. Its methods block.
#[derive(Debug)]
pub(crate) struct Node {
    runtime: Runtime,
    firewall: FirewallClient<Channel>,
    target: String,
}

impl Connection {
    /// The node's Unix socket and nothing else.
    pub(crate) fn local(socket: PathBuf) -> Self {
        Self { socket, server: None, ca: None, cert: None, key: None }
    }

    /// Connects.
    ///
    /// # Errors
    /// If the node cannot be reached or a certificate cannot be read.
    pub(crate) fn open(&self) -> Result<Node, Failure> {
        let target = self.server.clone().unwrap_or_else(|| self.socket.display().to_string());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::new(format!("cannot start: {error}")))?;
        let endpoint = match &self.server {
            Some(server) => self.secure_endpoint(server)?,
            None => self.socket_endpoint()?,
        };
        let channel = runtime
            .block_on(endpoint.connect_timeout(CONNECT).connect())
            .map_err(|error| self.refused(&target, &error))?;
        let firewall = FirewallClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES);
        Ok(Node { runtime, firewall, target })
    }

    fn socket_endpoint(&self) -> Result<Endpoint, Failure> {
        Endpoint::from_shared(format!("unix://{}", self.socket.display())).map_err(|error| {
            Failure::new(format!("{} is not a socket's path: {error}", self.socket.display()))
        })
    }

    fn secure_endpoint(&self, server: &str) -> Result<Endpoint, Failure> {
        let [ca, cert, key] = [
            ("--ca", "GABION_CA", &self.ca),
            ("--cert", "GABION_CERT", &self.cert),
            ("--key", "GABION_KEY", &self.key),
        ]
        .map(|(flag, variable, path)| {
            let path = path.as_deref().ok_or_else(|| {
                Failure::new(format!("{flag} is missing: {server} is reached over mutual TLS"))
                    .next(format!("give {flag} PEM, or set {variable}"))
                    .next("make certificates with: gabion pki init, gabion pki issue")
            })?;
            read_pem(path)
        });
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(ca?))
            .identity(Identity::from_pem(cert?, key?));
        Endpoint::from_shared(format!("https://{server}"))
            .map_err(|_| {
                Failure::new(format!("`{server}` is not HOST:PORT"))
                    .next("write for instance --server node-1.example.org:4450")
            })?
            .tls_config(tls)
            .map_err(|error| {
                Failure::new(format!("the certificates cannot be used: {}", chain(&error)))
                    .next("look at them with: openssl x509 -noout -text -in FILE")
            })
    }

    fn refused(&self, target: &str, error: &tonic::transport::Error) -> Failure {
        let text = chain(error);
        let failure = Failure::new(format!("cannot connect to {target}: {text}"));
        if self.server.is_some() {
            return if is_about_certificates(&text) {
                failure.next(
                    "is --ca the CA that signed the node's certificate, and --server a name in it?",
                )
            } else {
                failure
                    .next("is gabiond running there, and `api.listen` in its gabiond.toml set?")
                    .next("can this machine reach the port? Data interfaces never serve the API")
            };
        }
        match io_kind(error) {
            Some(ErrorKind::PermissionDenied) => failure
                .next("only root and the group of the socket may connect: try sudo")
                .next(format!("look at it with: ls -l {target}")),
            _ => failure
                .next("is gabiond running? systemctl status gabiond; journalctl -u gabiond -n 50")
                .next("is its socket elsewhere? See api.unix_socket in gabiond.toml; give --socket PATH")
                .next("is the node another machine? Give --server HOST:PORT --ca --cert --key"),
        }
    }
}

impl Node {
    /// Sends one request and waits for the answer.
    ///
    /// # Errors
    /// The status that the node answers with, as a [`Failure`].
    pub(crate) fn call<T>(
        &mut self,
        request: impl AsyncFnOnce(&mut FirewallClient<Channel>) -> Result<Response<T>, Status>,
    ) -> Result<T, Failure> {
        self.ask(request).map_err(|status| refusal(&self.target, &status))
    }

    /// As [`call`](Self::call), for those who look at the status themselves.
    ///
    /// # Errors
    /// The status that the node answers with.
    pub(crate) fn ask<T>(
        &mut self,
        request: impl AsyncFnOnce(&mut FirewallClient<Channel>) -> Result<Response<T>, Status>,
    ) -> Result<T, Status> {
        self.runtime.block_on(request(&mut self.firewall)).map(Response::into_inner)
    }

    /// Reads a stream to its end, handing each message to `each`, which may end it early.
    ///
    /// # Errors
    /// The status that ended the stream.
    pub(crate) fn read<T>(
        &mut self,
        mut stream: tonic::Streaming<T>,
        mut each: impl FnMut(T) -> std::ops::ControlFlow<()>,
    ) -> Result<(), Failure> {
        loop {
            match self.runtime.block_on(stream.message()) {
                Ok(Some(message)) => {
                    if each(message).is_break() {
                        return Ok(());
                    }
                }
                Ok(None) => return Ok(()),
                Err(status) => return Err(refusal(&self.target, &status)),
            }
        }
    }

    /// The node's address, as messages name it.
    pub(crate) fn target(&self) -> &str {
        &self.target
    }
}

/// What a status means to an operator.
pub(crate) fn refusal(target: &str, status: &Status) -> Failure {
    let message = match status.source() {
        // tonic's own words for a broken connection are "transport error".
        Some(cause) => chain(cause),
        None => status.message().to_owned(),
    };
    match status.code() {
        Code::PermissionDenied => Failure::new(format!("{target} does not permit it: {message}"))
            .next("your certificate's role must allow it: gabion pki issue --client NAME=operator"),
        Code::Unauthenticated => Failure::new(format!("{target} does not know you: {message}"))
            .next("give --cert and --key of a certificate that the cluster's CA has signed"),
        Code::Unavailable => Failure::new(format!("{target} is not available: {message}"))
            .next("is it stopping or restarting? gabion show health; systemctl status gabiond"),
        Code::Unimplemented => Failure::new(format!(
            "{target} does not know this request: {message}"
        ))
        .next("is gabiond older than this tool? Compare: gabion --version, gabion show health"),
        Code::ResourceExhausted => {
            let failure = Failure::new(format!("{target} has no room for it: {message}"));
            if message.contains("no space") {
                failure.next("is the disk of its state_dir full? df -h /var/lib/gabion")
            } else {
                failure
            }
        }
        // tonic's way to say that a request is too large.
        Code::OutOfRange => Failure::new(format!("{target} does not take it: {message}"))
            .next("a policy of this size? Raise api.message_bytes in gabiond.toml"),
        Code::Unknown if status.source().is_some() => {
            Failure::new(format!("{target} broke the connection: {message}"))
                .next("over TLS: has the cluster's CA signed --cert, and is it still valid?")
                .next("is gabiond still running there? journalctl -u gabiond -n 50")
        }
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::InvalidArgument
        | Code::DeadlineExceeded
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::Internal
        | Code::DataLoss => Failure::new(message),
    }
}

fn read_pem(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|error| {
        Failure::new(format!("cannot read {}: {error}", path.display()))
            .next("make certificates with: gabion pki init, gabion pki issue")
    })
}

fn is_about_certificates(text: &str) -> bool {
    ["certificate", "UnknownCA", "invalid peer"].iter().any(|word| text.contains(word))
}

/// The error and its causes, without saying the same twice.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let part = error.to_string();
        if !text.contains(&part) && part != "transport error" {
            if !text.is_empty() {
                text += ": ";
            }
            text += &part;
        }
        next = error.source();
    }
    text
}

fn io_kind(error: &(dyn std::error::Error + 'static)) -> Option<ErrorKind> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return Some(io.kind());
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_next_step_that_fits() {
        let told = |status: Status| refusal("node-1", &status).to_string();
        let viewer = told(Status::permission_denied("viewer"));
        assert!(viewer.contains("gabion pki issue --client NAME=operator"), "{viewer}");
        let large = told(Status::out_of_range("decoded message length too large"));
        assert!(large.contains("api.message_bytes"), "{large}");
        let full = told(Status::resource_exhausted("no space left for a file"));
        assert!(full.contains("df -h"), "{full}");
        let watchers = told(Status::resource_exhausted("as many clients watch as allowed"));
        assert!(!watchers.contains("df -h"), "{watchers}");
    }
}
