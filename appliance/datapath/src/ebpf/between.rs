//! Other nodes: where packets for them go, and the program at the interface by which theirs come.
//!
//! What other nodes hand over to this one does not outlive the process: the program goes with it, and flows that such
//! packets are of are moved for as long only as other nodes would wait to hear of it. Then they take its flows over. What
//! this node hands over to others goes on meanwhile: they know what was put before it.

use std::io;
use std::net::IpAddr;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::sync::atomic::{AtomicU32, fence};
use std::time::Duration;

use aya::programs::tc::SchedClassifierLink;
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::device::{Route, route_to};
use super::flow::Head;
use super::layout::{self, Peer};
use super::mapping::SharedArray;
use super::program::Programs;

/// How nodes hand packets to each other.
#[derive(Debug, Clone)]
pub struct SyncLink {
    /// The interface that has this node's address.
    pub interface: String,
    pub address: IpAddr,
    /// UDP port of wrapped packets.
    pub port: u16,
    /// The other nodes, by number.
    pub peers: Vec<(u8, IpAddr)>,
    /// How long another node waits to hear of this one.
    pub patience: Duration,
}

impl layout::Head {
    /// Nobody reads it meanwhile.
    pub(super) fn write(&self, heads: &[Option<Head>; 2]) {
        for (words, head) in self.words.iter().zip(heads) {
            let head = head.unwrap_or([0; 32]);
            for (word, bytes) in words.iter().zip(head.as_chunks().0) {
                word.store(u64::from_ne_bytes(*bytes), Relaxed);
            }
        }
    }
}

/// The programs' table of other nodes.
#[derive(Debug)]
pub(super) struct Peers {
    places: SharedArray<Peer>,
}

impl Peers {
    /// What an earlier process has said of them holds until this one begins to say it.
    pub(super) const fn new(places: SharedArray<Peer>) -> Self {
        Self { places }
    }

    pub(super) fn close(&self) {
        self.places.iter().for_each(|place| place.open.store(0, Release));
    }

    pub(super) fn set_open(&self, node: u8, is_open: bool) {
        if let Some(place) = self.places.get(usize::from(node)) {
            place.open.store(is_open.into(), Release);
        }
    }

    /// Says between which addresses packets go, and which way; `None` has them go to the engine.
    pub(super) fn set_way(&self, node: u8, local: IpAddr, remote: IpAddr, route: Option<Route>) {
        let Some(place) = self.places.get(usize::from(node)) else { return };
        let turn = place.turn.load(Relaxed);
        place.turn.store(turn | 1, Relaxed);
        fence(Release);
        place.interface.store(route.map_or(0, |route| route.interface), Relaxed);
        let next = route.and_then(|route| route.gateway).unwrap_or(remote);
        place.version.store(version(remote), Relaxed);
        place.next_version.store(version(next), Relaxed);
        for (words, address) in
            [(&place.local, local), (&place.remote, remote), (&place.next, next)]
        {
            store(words, address);
        }
        place.turn.store((turn | 1).wrapping_add(1), Release);
    }
}

fn version(address: IpAddr) -> u16 {
    if address.is_ipv4() { 4 } else { 6 }
}

fn store(words: &[AtomicU32; 4], address: IpAddr) {
    let mut octets = [0; 16];
    match address {
        IpAddr::V4(v4) => octets[..4].copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => octets = v6.octets(),
    }
    for (word, bytes) in words.iter().zip(octets.as_chunks().0) {
        word.store(u32::from_ne_bytes(*bytes), Relaxed);
    }
}

/// The program at the sync interface, which has come and gone with that.
#[derive(Debug)]
pub(super) struct Between {
    sync: SyncLink,
    /// The kernel's number of the interface, and what keeps the program there.
    attached: Option<(u32, SchedClassifierLink)>,
    /// The kernel has refused it, which has been said.
    is_refused: bool,
    /// Ways to other nodes as they were told last.
    routes: Vec<Option<Route>>,
}

impl Between {
    pub(super) fn new(sync: SyncLink) -> Self {
        let routes = vec![None; sync.peers.len()];
        Self { sync, attached: None, is_refused: false, routes }
    }

    pub(super) const fn patience(&self) -> Duration {
        self.sync.patience
    }

    /// Whether packets of other nodes are unwrapped.
    pub(super) const fn is_attached(&self) -> bool {
        self.attached.is_some()
    }

    /// Follows the interface's name, and the ways to other nodes. Where the kernel refuses the program, what other nodes
    /// hand over comes to the node's socket.
    pub(super) fn follow(&mut self, programs: &mut Programs, peers: &Peers) {
        self.find_ways(peers);
        let now = index_of(&self.sync.interface).ok();
        if self.attached.as_ref().map(|(interface, _)| *interface) == now {
            return;
        }
        self.attached = None;
        let Some(interface) = now else { return };
        match programs.attach_unwrap(&self.sync.interface) {
            Ok(link) => (self.attached, self.is_refused) = (Some((interface, link)), false),
            Err(error) => {
                if !std::mem::replace(&mut self.is_refused, true) {
                    tracing::warn!(
                        "{error}; until then gabiond unwraps what other nodes hand over"
                    );
                }
            }
        }
    }

    /// The kernel says where it would send a packet of this node's to each.
    fn find_ways(&mut self, peers: &Peers) {
        let Self { sync, routes, .. } = self;
        for (&(node, remote), known) in sync.peers.iter().zip(routes) {
            let route = route_to(sync.address, remote).ok().flatten();
            if route != *known {
                *known = route;
                peers.set_way(node, sync.address, remote, route);
            }
        }
    }
}

fn index_of(name: &str) -> io::Result<u32> {
    let any = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    Ok(name_to_index(&any, name)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn nothing_is_routed_to_what_is_here() {
        let here = IpAddr::from([127, 0, 0, 1]);
        assert_eq!(route_to(here, IpAddr::from([127, 0, 0, 2])).unwrap(), None);
        assert_eq!(index_of("lo").unwrap(), 1);
    }
}
