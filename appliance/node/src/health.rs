//! The answer to load balancers' probes.
//!
//! HTTP mode: 200 when ready, 503 with the reasons otherwise; limits that are reached are named in either. TCP mode: the port is open when ready
//! and refuses otherwise. Each device has listeners of its own, bound to it, so that an answer leaves
//! by the interface that the probe came in on, whatever the routes say: Azure probes every NIC from
//! the same address (168.63.129.16). They come and go with their devices.
//!
//! Azure's documentation warns that probes may fail while TCP timestamps are on. Linux has no switch
//! for that per socket: `net.ipv4.tcp_timestamps = 0` in the node's image does it.
//!
//! Tasks: [`Health::serve`] owns the list of devices; one task for each listener, one for each
//! connection, of which a listener has at most `connections` at a time: the oldest makes room for the next,
//! so that clients that say nothing do not keep probes out. Every task may be cancelled at any time: they own nothing but their socket.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use crate::config;
use crate::http::{self, Response, Status};
use crate::readiness::{Changes, Readiness};

/// Connections that the kernel keeps while none is accepted.
const BACKLOG: u32 = 128;

/// The devices that exist: name and kernel's number. A recreated device has another number.
pub type Devices = BTreeMap<String, u32>;

/// Why probes cannot be answered on a device.
#[derive(Debug, thiserror::Error)]
pub enum BindProbeError {
    #[error(
        "port {port} on {device} is taken by another program; free it or change health.{setting}"
    )]
    InUse { port: u16, device: String, setting: &'static str },
    #[error("cannot listen on {device} port {port}: {source}")]
    Other { port: u16, device: String, source: io::Error },
}

/// The health endpoint.
#[derive(Debug)]
pub struct Health {
    settings: config::Health,
    readiness: Arc<Readiness>,
    /// Data and management devices, and the loopback; `None`: every device there is.
    wanted: Option<Vec<String>>,
}

impl Health {
    pub fn new(config: &config::Config, readiness: Arc<Readiness>) -> Self {
        let data = config.interfaces.iter().map(|interface| interface.device.clone());
        let wanted = data.chain(config.management.iter().cloned()).chain(["lo".to_owned()]);
        // Why a node is held is to be heard, also where nobody knows which interfaces are whose.
        let wanted = config.node.hold.is_none().then(|| wanted.collect());
        Self { settings: config.health, readiness, wanted }
    }

    /// Whether both ports are free on the loopback, so that a port in use is found at start.
    ///
    /// # Errors
    /// When another program has one of them.
    pub fn check_ports(&self) -> Result<(), BindProbeError> {
        for mode in [Mode::Http, Mode::Tcp] {
            drop(self.bind(mode, "lo")?);
        }
        Ok(())
    }

    /// Answers probes on every wanted device that is there, until cancelled.
    pub async fn serve(self, mut devices: watch::Receiver<Devices>) {
        let health = Arc::new(self);
        let mut listeners: BTreeMap<String, (u32, JoinSet<()>)> = BTreeMap::new();
        loop {
            let there = devices.borrow_and_update().clone();
            listeners.retain(|device, (index, _)| there.get(device) == Some(index));
            for (device, index) in &there {
                if health.wants(device) && !listeners.contains_key(device) {
                    let mut tasks = JoinSet::new();
                    for mode in [Mode::Http, Mode::Tcp] {
                        tasks.spawn(listen(Arc::clone(&health), mode, device.clone()));
                    }
                    listeners.insert(device.clone(), (*index, tasks));
                }
            }
            if devices.changed().await.is_err() {
                // Nobody will tell of devices any more; those that are there go on.
                std::future::pending::<()>().await;
            }
        }
    }

    fn wants(&self, device: &String) -> bool {
        self.wanted.as_ref().is_none_or(|wanted| wanted.contains(device))
    }

    /// A socket for a port of one device, both families, not listening yet.
    fn bind(&self, mode: Mode, device: &str) -> Result<TcpSocket, BindProbeError> {
        let port = self.port(mode);
        bind(device, port).map_err(|source| {
            let device = device.to_owned();
            if source.kind() == io::ErrorKind::AddrInUse {
                BindProbeError::InUse { port, device, setting: mode.setting() }
            } else {
                BindProbeError::Other { port, device, source }
            }
        })
    }

    fn port(&self, mode: Mode) -> u16 {
        match mode {
            Mode::Http => self.settings.http_port,
            Mode::Tcp => self.settings.tcp_port,
        }
    }

    fn answer(&self) -> Response {
        let obstacles = self.readiness.obstacles();
        let status = if obstacles.is_empty() { Status::Ok } else { Status::ServiceUnavailable };
        let mut body = String::from(if obstacles.is_empty() { "ready\n" } else { "not ready\n" });
        for obstacle in obstacles {
            body += &format!("{}: {}\n", obstacle.label(), obstacle.detail());
        }
        for limit in self.readiness.limits_reached() {
            body += &format!("degraded: {} reached\n", limit.label());
        }
        for notice in self.readiness.notices() {
            body += &format!("planned: {}\n", notice.text);
        }
        Response { status, content_type: http::TEXT, body }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Http,
    Tcp,
}

impl Mode {
    const fn setting(self) -> &'static str {
        match self {
            Self::Http => "port",
            Self::Tcp => "tcp_port",
        }
    }
}

fn bind(device: &str, port: u16) -> io::Result<TcpSocket> {
    let (socket, address) = match TcpSocket::new_v6() {
        Ok(socket) => {
            rustix::net::sockopt::set_ipv6_v6only(&socket, false)?;
            (socket, SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
        }
        // A kernel without IPv6.
        Err(_) => (TcpSocket::new_v4()?, SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))),
    };
    socket.set_reuseaddr(true)?;
    socket.bind_device(Some(device.as_bytes()))?;
    socket.bind(address)?;
    Ok(socket)
}

/// Listens for as long as the mode says so, again and again.
async fn listen(health: Arc<Health>, mode: Mode, device: String) {
    let mut connections = VecDeque::new();
    let mut changes = health.readiness.changes();
    loop {
        if mode == Mode::Tcp {
            while !health.readiness.is_ready() {
                changes.next().await;
            }
        }
        match health.bind(mode, &device).map(|socket| socket.listen(BACKLOG)) {
            Ok(Ok(listener)) => {
                accept(&health, mode, &listener, &mut connections, &mut changes).await;
            }
            Ok(Err(error)) => tracing::error!(%error, %device, "cannot answer probes"),
            Err(error) => tracing::error!("cannot answer probes: {error}"),
        }
        // Ended by a change of readiness or by an error; either way a new socket is due.
        changes.next().await;
    }
}

/// Accepts until the mode forbids it.
async fn accept(
    health: &Arc<Health>,
    mode: Mode,
    listener: &TcpListener,
    connections: &mut VecDeque<AbortHandle>,
    changes: &mut Changes,
) {
    let closed = async {
        while mode == Mode::Http || health.readiness.is_ready() {
            changes.next().await;
        }
    };
    tokio::pin!(closed);
    loop {
        let accepted = tokio::select! {
            () = &mut closed => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else { return };
        connections.retain(|connection| !connection.is_finished());
        if connections.len() >= health.settings.connections
            && let Some(oldest) = connections.pop_front()
        {
            oldest.abort();
        }
        let health = Arc::clone(health);
        let connection = tokio::spawn(async move {
            match mode {
                Mode::Http => {
                    http::answer(stream, health.settings.timeout, async |_: &_| health.answer())
                        .await;
                }
                Mode::Tcp => until_closed(stream, health.settings.timeout).await,
            }
        });
        connections.push_back(connection.abort_handle());
    }
}

/// A TCP probe opens and closes; closing first is left to it.
async fn until_closed(mut stream: TcpStream, deadline: std::time::Duration) {
    let mut byte = [0; 64];
    let _ =
        timeout(deadline, async { while matches!(stream.read(&mut byte).await, Ok(1..)) {} }).await;
}

#[cfg(test)]
mod tests;
