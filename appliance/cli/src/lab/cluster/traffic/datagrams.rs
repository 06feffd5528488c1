//! Questions that are asked again and again over UDP or as ICMP echoes: a socket, and what goes over it.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result};
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};
use tokio::net::UdpSocket;

use super::serve::DATAGRAM_HEAD;
use super::words::{CHUNK, Direction, Sight, content};
use super::{Errand, next_port};
use crate::lab::cluster::balancer::Transport;

/// Bytes of an ICMP echo before its content (RFC 792, RFC 4443 section 4.1).
const ECHO_HEAD: usize = 8;

/// One flow of UDP or of echoes, from the side that asks.
#[derive(Debug)]
pub(super) struct Asker {
    socket: UdpSocket,
    errand: Errand,
}

/// An answer that was as it should be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answered {
    /// The asker as the other side sees it, of UDP.
    pub(super) sight: Option<SocketAddr>,
}

impl Asker {
    pub(super) async fn open(errand: Errand) -> Result<Self> {
        let socket = match errand.transport {
            Transport::Echo => echo_socket(errand.source)?,
            Transport::Tcp | Transport::Udp => {
                UdpSocket::bind((errand.source, next_port())).await?
            }
        };
        socket.connect(errand.destination).await?;
        Ok(Self { socket, errand })
    }

    pub(super) fn local(&self) -> Result<SocketAddr> {
        Ok(self.socket.local_addr()?)
    }

    /// Sends a question; that an earlier one was refused is no error.
    pub(super) async fn ask(&self, part: u64) {
        let Errand { seed, transport, source, .. } = self.errand;
        let mut bytes = match transport {
            Transport::Echo => {
                let kind = if source.is_ipv4() { 8 } else { 128 };
                let [high, low] = (part as u16).to_be_bytes();
                // The kernel fills in the checksum and the identifier.
                vec![kind, 0, 0, 0, 0, 0, high, low]
            }
            Transport::Tcp | Transport::Udp => Vec::new(),
        };
        bytes.extend(seed.to_be_bytes());
        bytes.extend(part.to_be_bytes());
        bytes.extend(content(seed, Direction::Up, part, CHUNK));
        let _ = self.socket.send(&bytes).await;
    }

    /// Waits for the next answer that is right to the byte.
    pub(super) async fn answer(&self) -> Answered {
        let mut bytes = [0; 2_048];
        loop {
            let Ok(length) = self.socket.recv(&mut bytes).await else { continue };
            if let Some(answered) = self.read(&bytes[..length]) {
                return answered;
            }
        }
    }

    fn read(&self, bytes: &[u8]) -> Option<Answered> {
        let is_echo = self.errand.transport == Transport::Echo;
        let bytes = if is_echo { bytes.get(ECHO_HEAD..)? } else { bytes };
        let (head, rest) = bytes.split_at_checked(DATAGRAM_HEAD)?;
        let seed = u64::from_be_bytes(head[..8].try_into().ok()?);
        let part = u64::from_be_bytes(head[8..].try_into().ok()?);
        let (sight, direction, rest) = if is_echo {
            (None, Direction::Up, rest)
        } else {
            let (sight, rest) = rest.split_first_chunk()?;
            (Some(Sight::read(*sight).0), Direction::Down, rest)
        };
        let is_right = seed == self.errand.seed && rest == content(seed, direction, part, CHUNK);
        is_right.then_some(Answered { sight })
    }
}

/// A socket for echoes, which needs no privilege where the namespace allows it.
fn echo_socket(source: IpAddr) -> Result<UdpSocket> {
    let (family, protocol) = match source {
        IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP),
        IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6),
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::DGRAM, flags, Some(protocol))
        .context("no socket for echoes")?;
    rustix::net::bind(&socket, &SocketAddr::new(source, 0))?;
    Ok(UdpSocket::from_std(std::net::UdpSocket::from(socket))?)
}
