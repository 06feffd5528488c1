//! The tasks of the watch, and requests to the kernel's neighbour table.

use std::net::IpAddr;
use std::pin::pin;

use futures::{FutureExt, StreamExt, TryStreamExt};
use netlink_packet_route::neighbour::{NeighbourFlags, NeighbourState as KernelState};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::packet_core::{NLM_F_REPLACE, NetlinkMessage, NetlinkPayload};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder};
use tokio::sync::mpsc;

use super::parse::{self, Replaces};
use super::state::{Change, NetworkState};
use super::{EVENT_CHANNEL_DEPTH, LinkIndex, NetworkEvent, StartNetworkWatchError};

const GROUPS: [MulticastGroup; 6] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Neigh,
];

/// Messages that are applied before the changes are told.
const MESSAGES_PER_TURN: usize = 256;

/// Asks the kernel about neighbours while the watch runs.
#[derive(Debug, Clone)]
pub struct NetworkWatch {
    requests: Handle,
}

/// Why the kernel was not made to resolve a neighbour.
#[derive(Debug, thiserror::Error)]
#[error("the kernel does not resolve {ip} on link {index}", index = index.0)]
pub struct NeighbourRequestError {
    index: LinkIndex,
    ip: IpAddr,
    #[source]
    source: rtnetlink::Error,
}

impl NetworkWatch {
    /// Dumps the network of the calling thread's namespace and watches it from then on. The first
    /// events tell all that is there and end with `Resynced`. Wants a tokio runtime with IO.
    ///
    /// # Errors
    /// When no netlink socket is to be had or the first dump fails.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn start() -> Result<(Self, mpsc::Receiver<NetworkEvent>), StartNetworkWatchError> {
        let (connection, requests, _) =
            rtnetlink::new_connection().map_err(StartNetworkWatchError::Socket)?;
        tokio::spawn(connection);
        // Subscribed before the dump: a change during it is told twice rather than not at all.
        let (connection, _, messages) =
            rtnetlink::new_multicast_connection(&GROUPS).map_err(StartNetworkWatchError::Socket)?;
        let (events, receiver) = mpsc::channel(EVENT_CHANNEL_DEPTH);
        let fresh = dump(&requests).await?;
        let mut watch = Watch {
            requests: requests.clone(),
            state: NetworkState::default(),
            incomplete: false,
            events,
        };
        tokio::spawn(async move {
            // Polled by this task alone, so that a full channel stops the reading.
            let mut connection = pin!(connection.fuse());
            let mut messages = messages.ready_chunks(MESSAGES_PER_TURN);
            if watch.resynced(fresh).await.is_err() {
                return;
            }
            loop {
                let batch = tokio::select! {
                    () = &mut connection => return tracing::error!("the netlink socket has closed"),
                    () = watch.events.closed() => return,
                    batch = messages.next() => batch,
                };
                let Some(batch) = batch else { return };
                if watch.turn(batch.iter().map(|(message, _)| message)).await.is_err() {
                    return;
                }
            }
        });
        Ok((Self { requests }, receiver))
    }

    /// Makes the kernel resolve a neighbour, or confirm one that is stale; the answer comes as an
    /// event. Harmless for one that is reachable.
    ///
    /// The kernel sees no traffic of ours, so it never confirms a neighbour by itself: ask for every
    /// stale one that is in use.
    ///
    /// # Errors
    /// When the link does not exist or the kernel's table is full.
    pub async fn request_neighbour(
        &self,
        index: LinkIndex,
        ip: IpAddr,
    ) -> Result<(), NeighbourRequestError> {
        // NTF_USE starts resolution and changes nothing else (rtnetlink's default is a permanent entry).
        let request = self
            .requests
            .neighbours()
            .add(index.0, ip)
            .state(KernelState::None)
            .flags(NeighbourFlags::Use)
            .replace();
        request.execute().await.map_err(|source| NeighbourRequestError { index, ip, source })
    }
}

struct Watch {
    requests: Handle,
    /// What the receiver has been told.
    state: NetworkState,
    /// The kernel may have changed more than it has said.
    incomplete: bool,
    events: mpsc::Sender<NetworkEvent>,
}

/// The receiver has gone.
struct Unwatched;

impl Watch {
    /// Applies and tells a few messages, then dumps if they may not be all.
    async fn turn<'a>(
        &mut self,
        messages: impl Iterator<Item = &'a NetlinkMessage<RouteNetlinkMessage>> + Send,
    ) -> Result<(), Unwatched> {
        let mut tell = Vec::new();
        for message in messages {
            match reading(message) {
                Reading::Change(change) => {
                    self.incomplete |= self.state.hides_more(&change);
                    self.state.apply(change, &mut tell);
                }
                Reading::Overrun => {
                    tracing::warn!("the kernel has dropped network events: dumping again");
                    self.incomplete = true;
                }
                Reading::Nothing => {}
            }
        }
        self.tell(tell).await?;
        if !self.incomplete {
            return Ok(());
        }
        match dump(&self.requests).await {
            Ok(fresh) => {
                self.incomplete = false;
                self.resynced(fresh).await
            }
            Err(error) => {
                // Events go on, and the next one tries again.
                tracing::error!(error = &error as &dyn std::error::Error, "no dump of the network");
                Ok(())
            }
        }
    }

    async fn resynced(&mut self, fresh: NetworkState) -> Result<(), Unwatched> {
        let mut tell = Vec::new();
        self.state.become_fresh(fresh, &mut tell);
        tell.push(NetworkEvent::Resynced);
        self.tell(tell).await
    }

    async fn tell(&self, tell: Vec<NetworkEvent>) -> Result<(), Unwatched> {
        for event in tell {
            self.events.send(event).await.map_err(|_| Unwatched)?;
        }
        Ok(())
    }
}

enum Reading {
    Change(Change),
    Overrun,
    Nothing,
}

#[expect(clippy::wildcard_enum_match_arm, reason = "acknowledgements and the like say nothing")]
fn reading(message: &NetlinkMessage<RouteNetlinkMessage>) -> Reading {
    match &message.payload {
        NetlinkPayload::InnerMessage(inner) => {
            let replaces = if message.header.flags & NLM_F_REPLACE == 0 {
                Replaces::No
            } else {
                Replaces::Yes
            };
            parse::change(inner, replaces).map_or(Reading::Nothing, Reading::Change)
        }
        NetlinkPayload::Overrun(_) => Reading::Overrun,
        _ => Reading::Nothing,
    }
}

/// What the watch would tell of messages as they stand in a buffer of the kernel's. What is no
/// message ends the reading.
pub fn read_messages(mut buffer: &[u8]) -> Vec<NetworkEvent> {
    let mut state = NetworkState::default();
    let mut told = Vec::new();
    while let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(buffer) {
        if let Reading::Change(change) = reading(&message) {
            state.apply(change, &mut told);
        }
        // NLMSG_ALIGN of linux/netlink.h; a header is 16 bytes.
        let length = (message.header.length as usize).next_multiple_of(4).max(16);
        let Some(rest) = buffer.get(length..) else { break };
        buffer = rest;
    }
    told
}

/// All that the kernel knows now.
async fn dump(requests: &Handle) -> Result<NetworkState, StartNetworkWatchError> {
    let failed = |what| move |source| StartNetworkWatchError::Dump { what, source };
    let mut state = NetworkState::default();
    // A fresh picture: nobody is told of the steps to it.
    let mut told = Vec::new();

    let mut links = requests.link().get().execute();
    while let Some(message) = links.try_next().await.map_err(failed("links"))? {
        if let Some(link) = parse::link(&message) {
            state.apply(Change::Link(link), &mut told);
        }
    }
    let mut addresses = requests.address().get().execute();
    while let Some(message) = addresses.try_next().await.map_err(failed("addresses"))? {
        if let Some(address) = parse::address(&message) {
            state.apply(Change::Address(address), &mut told);
        }
    }
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessageBuilder::<IpAddr>::new().build();
        request.header.address_family = family;
        let mut routes = pin!(requests.route().get(request).execute());
        while let Some(message) = routes.try_next().await.map_err(failed("routes"))? {
            if let Some(route) = parse::route(&message) {
                state.apply(Change::Route(route), &mut told);
            }
        }
        let mut neighbours = pin!(requests.neighbours().get().set_address_family(family).execute());
        while let Some(message) = neighbours.try_next().await.map_err(failed("neighbours"))? {
            if let Some((index, ip, neighbour)) = parse::neighbour(&message) {
                state.apply(Change::Neighbour(index, ip, neighbour), &mut told);
            }
        }
    }
    Ok(state)
}
