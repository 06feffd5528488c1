//! The two UDP sockets between the nodes of a cluster: sync datagrams, and packets that are handed to their owner.
//!
//! Plain sockets on this node's sync address; the kernel does addresses, routes and neighbours. Both are read and
//! written in batches, and wrapped packets as superframes: one call for many datagrams of one length, in either
//! direction. It knows peers by their place in the list that it was opened with, and takes nothing from others.

#[expect(unsafe_code, reason = "neither std nor rustix knows who has an address")]
mod interface;
#[expect(unsafe_code, reason = "rustix has no recvmmsg, nor the segments of UDP superframes")]
mod socket;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

pub use interface::{LocalInterface, interface_of};
use socket::{Address, Arrivals, Outcome};

/// Datagrams that one call sends or receives at most.
pub const PEER_BATCH: usize = 32;
/// The largest sync datagram that is received: more than the largest sync MTU.
const SYNC_BYTES: usize = 9_216;
/// The largest datagram, or superframe of datagrams, that UDP carries.
const WRAPPED_BYTES: usize = 65_536;
/// Room behind that for what one superframe had no room for: a TCP superframe of 65,535 bytes is longer by the
/// headers of each of its segments when it is wrapped, 84 bytes of 1,452.
const CONTINUED_BYTES: usize = 8_192;
/// Receives that are looked at together: of superframes fewer, as they are larger.
const WRAPPED_BATCH: usize = 8;
/// linux/udp.h UDP_MAX_SEGMENTS, as kernels before 6.9 have it.
const SEGMENTS_MAX: usize = 64;
/// Payload of the largest UDP packet with options of neither IP version.
const PAYLOAD_MAX: usize = 65_487;
/// What may wait in the kernel for a packet thread that is busy: a tenth of a second of sync.
const BUFFER_BYTES: usize = 8 << 20;

/// Which of the two sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerTraffic {
    Sync,
    Wrapped,
}

/// Bytes for a peer: one datagram, or several of `stride` bytes each and one of what is left.
#[derive(Debug, Clone, Copy, Default)]
pub struct ToPeer<'a> {
    /// Place in the list of peers.
    pub peer: usize,
    pub bytes: &'a [u8],
    pub stride: usize,
}

/// Bytes of a peer: one datagram, or several of `stride` bytes each and one of what is left, that came together.
#[derive(Debug)]
pub struct FromPeer<'a> {
    /// Place in the list of peers.
    pub peer: usize,
    /// The first `length` bytes are what came. Whoever keeps it leaves another in its place.
    pub buffer: &'a mut Vec<u8>,
    pub length: usize,
    pub stride: usize,
    /// Of a single one, how long segments are if it is a superframe that the peer's kernel has wrapped whole: `unwrap`
    /// of `bpf/tc.c` has written that in the place of the source port.
    pub segment: Option<u16>,
}

/// Where a peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerPlace {
    pub address: IpAddr,
    pub ports: PeerPorts,
}

/// The UDP ports of one end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerPorts {
    pub sync: u16,
    pub wrapped: u16,
}

/// What one of the sockets has done since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PeerCounters {
    /// Datagrams that were handed to the handler, each piece of a superframe counted.
    pub received: u64,
    pub sent: u64,
    /// Datagrams that were larger than any that is expected, dropped.
    pub truncated: u64,
    /// Datagrams from addresses that are no peer's, dropped.
    pub strangers: u64,
    /// Datagrams that the kernel refused: its queue was full, or they were too large for the link.
    pub send_drops: u64,
}

/// Both sockets of this node. To be used by one thread.
#[derive(Debug)]
pub struct PeerSockets {
    sync: Channel,
    wrapped: Channel,
}

#[derive(Debug)]
struct Channel {
    socket: OwnedFd,
    peers: Vec<Address>,
    arrivals: Arrivals,
    counters: PeerCounters,
    /// The kernel takes superframes; if the device cannot, it refuses and they are cut here.
    segments: bool,
}

impl PeerSockets {
    /// Opens both on this address, in the calling thread's network namespace. Each peer has the same ports. With
    /// CAP_NET_ADMIN the kernel keeps more of what waits.
    ///
    /// # Errors
    /// When the address is not this machine's or a port is taken.
    pub fn open(
        local: IpAddr,
        peers: &[IpAddr],
        sync_port: u16,
        wrapped_port: u16,
    ) -> Result<Self, (PeerTraffic, io::Error)> {
        let ports = PeerPorts { sync: sync_port, wrapped: wrapped_port };
        let peers: Vec<_> =
            peers.iter().map(|address| PeerPlace { address: *address, ports }).collect();
        Self::open_at(PeerPlace { address: local, ports }, &peers)
    }

    /// The same where several share an address, and have ports of their own.
    ///
    /// # Errors
    /// As [`PeerSockets::open`].
    pub fn open_at(
        local: PeerPlace,
        peers: &[PeerPlace],
    ) -> Result<Self, (PeerTraffic, io::Error)> {
        let open = |traffic, of: fn(PeerPorts) -> u16, arrivals| {
            let at = |place: &PeerPlace| SocketAddr::new(place.address, of(place.ports));
            let peers = peers.iter().map(|peer| Address::new(at(peer))).collect();
            Channel::open(at(&local), peers, arrivals).map_err(|error| (traffic, error))
        };
        let local_ip = local.address;
        let mut sockets = Self {
            sync: open(
                PeerTraffic::Sync,
                |ports| ports.sync,
                Arrivals::new(PEER_BATCH, SYNC_BYTES, 0),
            )?,
            wrapped: open(
                PeerTraffic::Wrapped,
                |ports| ports.wrapped,
                Arrivals::new(WRAPPED_BATCH, WRAPPED_BYTES, CONTINUED_BYTES),
            )?,
        };
        // A kernel without it hands over each datagram by itself.
        sockets.wrapped.segments = socket::join_segments(&sockets.wrapped.socket).is_ok();
        if local_ip.is_ipv6() {
            // Members' programs make no checksums (RFC 6936 section 5).
            socket::take_without_checksum(&sockets.wrapped.socket)
                .map_err(|error| (PeerTraffic::Wrapped, error))?;
        }
        Ok(sockets)
    }

    /// More handles of both sockets, to be waited for.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn handles(&self) -> io::Result<[OwnedFd; 2]> {
        Ok([self.sync.socket.try_clone()?, self.wrapped.socket.try_clone()?])
    }

    /// Hands over what has come, about `budget` datagrams at most, and returns how many.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn receive(
        &mut self,
        traffic: PeerTraffic,
        budget: u32,
        handle: &mut dyn FnMut(FromPeer<'_>),
    ) -> io::Result<u32> {
        self.channel(traffic).receive(budget, handle)
    }

    /// Sends datagrams, at most `PEER_BATCH` of them. What the kernel does not take is counted and gone.
    ///
    /// # Panics
    /// When there are more, or one for no peer.
    pub fn send(&mut self, traffic: PeerTraffic, datagrams: &[ToPeer<'_>]) {
        self.channel(traffic).send(datagrams);
    }

    pub const fn counters(&self, traffic: PeerTraffic) -> PeerCounters {
        match traffic {
            PeerTraffic::Sync => self.sync.counters,
            PeerTraffic::Wrapped => self.wrapped.counters,
        }
    }

    const fn channel(&mut self, traffic: PeerTraffic) -> &mut Channel {
        match traffic {
            PeerTraffic::Sync => &mut self.sync,
            PeerTraffic::Wrapped => &mut self.wrapped,
        }
    }
}

impl Channel {
    fn open(local: SocketAddr, peers: Vec<Address>, arrivals: Arrivals) -> io::Result<Self> {
        let socket = socket::open(local, BUFFER_BYTES)?;
        let counters = PeerCounters::default();
        Ok(Self { socket, peers, arrivals, counters, segments: false })
    }

    fn receive(&mut self, budget: u32, handle: &mut dyn FnMut(FromPeer<'_>)) -> io::Result<u32> {
        let Self { socket, peers, arrivals, counters, .. } = self;
        let mut handled = 0;
        while handled < budget {
            let count = arrivals.receive(socket)?;
            arrivals.continue_superframes(count);
            for arrival in arrivals.iter(count) {
                if arrival.is_truncated {
                    counters.truncated += 1;
                    continue;
                }
                let Some(peer) = socket::find(peers, arrival.from, arrival.port) else {
                    counters.strangers += 1;
                    continue;
                };
                let segment = arrival.stride.is_none().then_some(arrival.port);
                let segment = segment.filter(|&segment| segment != peers[peer].port());
                let socket::Arrival { buffer, length, stride, .. } = arrival;
                let stride = stride.unwrap_or(length).max(1);
                let count = length.div_ceil(stride);
                handled += count as u32;
                counters.received += count as u64;
                if length > 0 {
                    handle(FromPeer { peer, buffer, length, stride, segment });
                }
            }
            if !arrivals.is_full(count) {
                break;
            }
        }
        Ok(handled)
    }

    fn send(&mut self, datagrams: &[ToPeer<'_>]) {
        let mut parts = [ToPeer::default(); PEER_BATCH];
        let mut count = 0;
        for ToPeer { peer, bytes, stride } in datagrams {
            let stride = (*stride).max(1);
            let at_once = if self.segments { joined_at_most(stride) } else { 1 };
            for bytes in bytes.chunks(at_once * stride) {
                parts[count] = ToPeer { peer: *peer, bytes, stride };
                count += 1;
                if count == PEER_BATCH {
                    self.send_parts(&parts);
                    count = 0;
                }
            }
        }
        self.send_parts(&parts[..count]);
    }

    fn send_parts(&mut self, mut rest: &[ToPeer<'_>]) {
        while let [first, ..] = rest {
            match socket::send(&self.socket, rest, &self.peers) {
                Outcome::Sent(count) => {
                    self.counters.sent += rest[..count].iter().map(ToPeer::count).sum::<u64>();
                    rest = &rest[count..];
                }
                Outcome::Refused(error) => {
                    if first.count() > 1 {
                        // EIO: the device computes no checksums, so the kernel cuts nothing for it.
                        self.segments &= error != rustix::io::Errno::IO;
                        self.send_each(first);
                    } else {
                        self.counters.send_drops += 1;
                    }
                    rest = &rest[1..];
                }
                Outcome::Full => {
                    self.counters.send_drops += rest.iter().map(ToPeer::count).sum::<u64>();
                    return;
                }
            }
        }
    }

    /// Sends the datagrams of a superframe one by one.
    fn send_each(&mut self, superframe: &ToPeer<'_>) {
        let ToPeer { peer, bytes, stride } = *superframe;
        for bytes in bytes.chunks(stride) {
            self.send_parts(&[ToPeer { peer, bytes, stride }]);
        }
    }
}

impl ToPeer<'_> {
    /// How many datagrams.
    const fn count(&self) -> u64 {
        let stride = if self.stride == 0 { 1 } else { self.stride };
        self.bytes.len().div_ceil(stride) as u64
    }
}

/// How many datagrams of so many bytes one superframe holds.
fn joined_at_most(stride: usize) -> usize {
    SEGMENTS_MAX.min(PAYLOAD_MAX / stride).max(1)
}

#[cfg(test)]
mod tests;
