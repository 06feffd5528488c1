//! A node in this process, its directory, and clients for it.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU16;
use std::sync::atomic::Ordering::Relaxed;

use gabion_api::v1::firewall_client::FirewallClient;
use gabion_api::v1::{CommitRequest, CommitResponse, GetRequest, GetResponse};
use gabiond::config::Config;
use gabiond::node::{Node, Prepared};
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::net::UnixStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

pub(crate) type Client = FirewallClient<Channel>;

/// Where a node lives; outlives the node, so that it can be started again.
pub(crate) struct Home {
    directory: TempDir,
    pub(crate) health: [u16; 2],
    pub(crate) api: u16,
}

impl Home {
    pub(crate) fn new() -> Self {
        let [http, tcp, api] = free_ports();
        Self { directory: tempfile::tempdir().unwrap(), health: [http, tcp], api }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("gabiond.sock")
    }

    /// The settings, with more of the `[api]` section behind them.
    pub(crate) fn settings(&self, api: &str) -> String {
        let state = self.path("state");
        self.settings_in(&state, api)
    }

    pub(crate) fn settings_in(&self, state: &Path, api: &str) -> String {
        let (state, socket) = (state.display(), self.socket());
        let (socket, log) = (socket.display(), self.path("events.jsonl"));
        let [http, tcp] = self.health;
        format!(
            "[node]\nname = \"t\"\nstate_dir = \"{state}\"\ndatapath = \"null\"\n\
             [interfaces]\next = \"eth1\"\nint = \"eth2\"\n\
             [health]\nport = {http}\ntcp_port = {tcp}\n[metrics]\nlisten = \"\"\n\
             [log]\njson = \"{}\"\n[api]\nunix_socket = \"{socket}\"\n{api}",
            log.display()
        )
    }

    pub(crate) async fn start(&self) -> Node {
        self.start_with("").await
    }

    pub(crate) async fn start_with(&self, api: &str) -> Node {
        let config = Config::parse(&self.settings(api), "gabiond.toml").unwrap();
        Prepared::new(config).unwrap().start().await.unwrap()
    }

    pub(crate) async fn client(&self) -> Client {
        connect(&self.socket()).await
    }
}

/// A client of a node's Unix socket.
pub(crate) async fn connect(socket: &Path) -> Client {
    FirewallClient::new(channel(socket).await)
}

pub(crate) async fn channel(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://local").connect_with_connector(connector).await.unwrap()
}

/// Ports that nobody listens on, all different. Not of the range from which the kernel takes those of clients: one that
/// was free a moment ago was another test's connection then, and a node did not start.
fn free_ports<const N: usize>() -> [u16; N] {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 10_000;
    const END: u16 = 32_000;
    let begin = (std::process::id() as u16).wrapping_mul(97);
    let next = || FIRST + begin.wrapping_add(NEXT.fetch_add(1, Relaxed)) % (END - FIRST);
    let is_free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    [(); N].map(|()| std::iter::repeat_with(next).find(is_free).unwrap())
}

/// A policy that lets this port in.
pub(crate) fn policy(port: u16) -> String {
    format!(
        "apiVersion: gabion/v1\n\
         zones:\n  outside: {{ interfaces: [ext] }}\n  inside: {{ interfaces: [int], networks: [10.0.0.0/8] }}\n\
         settings:\n  default: {{ action: drop }}\n\
         rules:\n  - {{ name: web-in, from: outside, to: inside, service: tcp/{port}, action: allow }}\n"
    )
}

pub(crate) async fn commit(
    client: &mut Client,
    policy: &str,
    expected_revision: u64,
) -> Result<CommitResponse, Status> {
    let policy = policy.to_owned();
    let request = CommitRequest { policy, expected_revision, comment: "a test".to_owned() };
    client.commit(request).await.map(tonic::Response::into_inner)
}

pub(crate) async fn in_force(client: &mut Client) -> GetResponse {
    client.get(GetRequest { revision: None }).await.unwrap().into_inner()
}
