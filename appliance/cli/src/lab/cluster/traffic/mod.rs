//! Traffic between the two sides: what is tried, and by whom.
//!
//! Each side has one thread for its servers and one for what it begins itself. Content follows from a seed and
//! is compared byte for byte where it arrives.

mod datagrams;
mod live;
mod once;
mod serve;
mod words;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;

use anyhow::Result;
use tokio::net::TcpSocket;

pub(crate) use live::{Ending, Live, State};
pub(crate) use once::Told;
pub(crate) use serve::Servers;

use super::balancer::{Transport, Tuple};
use super::dice::Dice;
use super::network;
use crate::lab::namespace::Namespace;

/// What the firewall is to do with a connection's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Nothing: the client's address is kept.
    Plain,
    /// From a client to a published address.
    Dnat,
    /// From the server to the internet, behind an address that all nodes share.
    Snat,
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Family {
    V4,
    V6,
}

/// Who begins a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    Client,
    Server,
}

/// One connection that is to be made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Errand {
    pub(crate) number: u32,
    pub(crate) transport: Transport,
    pub(crate) kind: Kind,
    pub(crate) source: IpAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) seed: u64,
}

/// Which connections are wanted; each combination gets its turn.
#[derive(Debug, Clone)]
pub(crate) struct Mix {
    pub(crate) transports: Vec<Transport>,
    pub(crate) kinds: Vec<Kind>,
    pub(crate) families: Vec<Family>,
    pub(crate) seed: u64,
}

impl Mix {
    /// So many connections, numbered from 0.
    pub(crate) fn errands(&self, count: u32) -> Vec<Errand> {
        let mut dice = Dice::new(self.seed);
        let at = |number: usize, length| number % length;
        let errand = |number: u32| {
            let turn = number as usize;
            let transport = self.transports[at(turn, self.transports.len())];
            let turn = turn / self.transports.len();
            let kind = self.kinds[at(turn, self.kinds.len())];
            let turn = turn / self.kinds.len();
            let family = self.families[at(turn, self.families.len())];
            Errand::new(number, transport, kind, family, dice.next())
        };
        (0..count).map(errand).collect()
    }
}

impl Errand {
    fn new(number: u32, transport: Transport, kind: Kind, family: Family, seed: u64) -> Self {
        let some_client = client_address(family, (seed % u64::from(network::CLIENTS)) as u8);
        let (source, destination) = match kind {
            Kind::Plain => (some_client, server_address(family)),
            // Addresses of echoes are not translated by ports: they go to the server itself.
            Kind::Dnat if transport == Transport::Echo => (some_client, server_address(family)),
            Kind::Dnat => (some_client, published_address(family)),
            Kind::Snat if transport == Transport::Echo => (server_address(family), some_client),
            Kind::Snat => (server_address(family), client_address(family, 0)),
        };
        let port = if transport == Transport::Echo { 0 } else { words::PORT };
        let destination = SocketAddr::new(destination, port);
        Self { number, transport, kind, source, destination, seed }
    }

    pub(crate) const fn side(&self) -> Side {
        match self.kind {
            Kind::Plain | Kind::Dnat => Side::Client,
            Kind::Snat => Side::Server,
        }
    }

    /// What each load balancer sees of the connection: the one that its beginner's packets pass, and the one that
    /// the answers pass.
    pub(crate) fn tuples(
        &self,
        local: Option<SocketAddr>,
        seen_as: Option<SocketAddr>,
    ) -> Option<[Tuple; 2]> {
        if self.transport == Transport::Echo {
            // A shared address hides the server of an echo, whose answer names it.
            let hidden = match self.kind {
                Kind::Plain | Kind::Dnat => self.source,
                Kind::Snat => shared_address(self.source),
            };
            let target = self.destination.ip();
            return Some([Tuple::echo(self.source, target), Tuple::echo(target, hidden)]);
        }
        let local = local?;
        // Nobody saw the initiator of a connection that failed; without source NAT it is known all the same.
        let seen_as = seen_as.or((self.kind != Kind::Snat).then_some(local))?;
        let answering = match self.kind {
            Kind::Plain | Kind::Snat => self.destination,
            Kind::Dnat => {
                let family = if local.is_ipv4() { Family::V4 } else { Family::V6 };
                SocketAddr::new(server_address(family), words::PORT)
            }
        };
        let asking = Tuple::new(self.transport, local, self.destination);
        Some([asking, Tuple::new(self.transport, answering, seen_as)])
    }
}

impl fmt::Display for Errand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, transport, kind, source, destination, .. } = self;
        write!(f, "{transport:?} {kind:?} {source} > {destination} (number {number})")
    }
}

/// Runs errands of one side at a rate that holds for both sides together; none begins once `stop` is set.
pub(crate) fn run_once(
    namespace: &Namespace,
    errands: Vec<Errand>,
    per_second: f64,
    stop: Arc<AtomicBool>,
) -> JoinHandle<Result<Vec<Told>>> {
    namespace.spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(once::run(errands, per_second, &stop)))
    })
}

/// A TCP socket that is bound to the errand's source.
fn bound(errand: &Errand) -> io::Result<TcpSocket> {
    let socket = if errand.source.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_nodelay(true)?;
    socket.bind(SocketAddr::new(errand.source, next_port()))?;
    Ok(socket)
}

/// Source ports are used in turn and by one connection only: behind destination NAT a server could not tell
/// two apart that use one port, and refuses for a minute what looks like the one that it has just closed.
fn next_port() -> u16 {
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 55_000;
    static USED: AtomicU32 = AtomicU32::new(0);
    (FIRST + USED.fetch_add(1, Ordering::Relaxed) % COUNT) as u16
}

/// Where a side's servers answer datagrams.
pub(crate) fn served_addresses(side: Side) -> Vec<IpAddr> {
    [Family::V4, Family::V6]
        .map(|family| match side {
            Side::Client => client_address(family, 0),
            Side::Server => server_address(family),
        })
        .to_vec()
}

fn client_address(family: Family, number: u8) -> IpAddr {
    let host = number + 9;
    match family {
        Family::V4 => IpAddr::from([198, 51, 100, host]),
        // As the plan writes it: the decimal number's digits stand in the hexadecimal address.
        Family::V6 => literal(&format!("2600:1:0:9::{host}")),
    }
}

fn server_address(family: Family) -> IpAddr {
    match family {
        Family::V4 => literal(network::SERVER_V4),
        Family::V6 => literal(network::SERVER_V6),
    }
}

fn published_address(family: Family) -> IpAddr {
    match family {
        Family::V4 => literal(network::PUBLISHED_V4),
        Family::V6 => literal(network::PUBLISHED_V6),
    }
}

fn shared_address(of: IpAddr) -> IpAddr {
    literal(if of.is_ipv4() { network::SHARED_V4 } else { network::SHARED_V6 })
}

fn literal(text: &str) -> IpAddr {
    text.parse().expect("the plan's addresses are literals")
}
