//! What the kernel knows of the network: links, addresses, routes, neighbours.
//!
//! `NetworkWatch::start` dumps it, subscribes to its changes and tells both as `NetworkEvent`s over
//! one bounded channel. The watch keeps a picture of what it has told, so that a receiver that
//! applies every event always ends with the kernel's state: when the kernel had to drop messages, or
//! changes routes without a message (IPv4 does when a link goes down or an address goes), the watch
//! dumps again and tells the differences. `pnet` is not used: rtnetlink covers discovery.
//!
//! Tasks: `watch` owns the multicast socket and the picture; `requests` drives the socket for dumps
//! and neighbour requests, which `NetworkWatch` shares. The channel to the receiver is
//! `EVENT_CHANNEL_DEPTH` deep; while it is full the watch does not read, the kernel's buffer fills
//! up, and the overrun ends in a new dump: memory stays bounded and nothing is lost. The tasks own
//! nothing that outlives them, so cancelling is safe; dropping the receiver ends `watch`, dropping
//! every `NetworkWatch` after that ends `requests`.
//!
//! Left out: tables other than main, source-specific routes, type of service, and all next hops of a
//! multipath route but the first.

mod parse;
mod state;
mod watch;

use std::io;
use std::net::IpAddr;

use crate::LinkAddress;

pub use watch::{NeighbourRequestError, NetworkWatch, read_messages};

/// Events that may wait for a slow receiver: a dump of some hundred routes and neighbours.
pub const EVENT_CHANNEL_DEPTH: usize = 1024;

/// The kernel's number of an interface; a recreated interface gets another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkIndex(pub u32);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: LinkIndex,
    pub name: String,
    /// `None` for links that have no Ethernet address.
    pub mac: Option<LinkAddress>,
    /// Bytes of the largest IP packet.
    pub mtu: u32,
    /// Administratively up, with a carrier.
    pub up: bool,
    /// The link that takes this one's frames before the host's stack sees them: a bridge, a bond, or what is before a
    /// virtual function.
    pub above: Option<LinkIndex>,
}

/// An address of the host. IPv6 addresses appear when duplicate detection has let them through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct InterfaceAddress {
    pub index: LinkIndex,
    pub ip: IpAddr,
    pub prefix_length: u8,
}

/// A route of the main table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Unspecified with length 0 for a default route.
    pub destination: IpAddr,
    pub prefix_length: u8,
    /// The lowest wins among routes of the same prefix.
    pub metric: u32,
    pub target: RouteTarget,
    /// The address that the host itself would send from.
    pub preferred_source: Option<IpAddr>,
}

/// Where a route leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteTarget {
    /// Out of this link, to the gateway or, without one, straight to the destination.
    /// Of a multipath route, the first next hop.
    Link { index: LinkIndex, gateway: Option<IpAddr> },
    /// Drop silently.
    Blackhole,
    /// Drop, and tell the sender that the host is unreachable.
    Unreachable,
    /// Drop, and tell the sender that communication is prohibited.
    Prohibit,
}

/// What the kernel knows of a neighbour's link address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NeighbourState {
    /// Confirmed lately, or set by an operator.
    Reachable(LinkAddress),
    /// To be used, but not confirmed lately: `request_neighbour` makes the kernel confirm it.
    Stale(LinkAddress),
    /// The kernel is asking.
    Resolving,
    /// The neighbour did not answer.
    Failed,
    /// The kernel has forgotten the neighbour.
    Gone,
}

/// One change. What a receiver has not been told of does not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkEvent {
    /// A link is new, or has changed in name, address, MTU or being up.
    LinkChanged(Link),
    LinkGone(LinkIndex),
    AddressAdded(InterfaceAddress),
    AddressRemoved(InterfaceAddress),
    RouteAdded(Route),
    RouteRemoved(Route),
    Neighbour {
        index: LinkIndex,
        ip: IpAddr,
        state: NeighbourState,
    },
    /// All of a dump has been told: the first marks the end of the start, later ones that changes
    /// may have been told late.
    Resynced,
}

/// Why the watch could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartNetworkWatchError {
    #[error("cannot open a netlink socket")]
    Socket(#[source] io::Error),
    #[error("the kernel does not tell its {what}")]
    Dump {
        what: &'static str,
        #[source]
        source: rtnetlink::Error,
    },
}
