//! The kernel's network as the engine wants it: one value for interfaces, addresses and routes, and
//! what is known of neighbours.
//!
//! One task owns the picture. It reads the kernel's events (a bounded channel that loses nothing, see
//! `gabion_datapath::netlink`) and the neighbours that the packet thread wants, and sends commands to
//! the packet thread. It may be cancelled at any time.

mod picture;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use gabion_datapath::netlink::{LinkIndex, NeighbourState, NetworkEvent, NetworkWatch};
use gabion_engine::{InterfaceId, Neighbour, Network};
use ipnet::IpNet;
use tokio::sync::{mpsc, watch};

use crate::health::Devices;
use crate::readiness::Readiness;
use crate::worker::{Command, NeighbourWanted, WorkerGone, WorkerHandle};

pub use picture::Picture;
pub(crate) use picture::half;

/// The task's state.
#[derive(Debug)]
pub struct Follower {
    pub picture: Picture,
    pub worker: WorkerHandle,
    pub readiness: Arc<Readiness>,
    pub devices: watch::Sender<Devices>,
    /// Of data interfaces, as others can reach them.
    pub addresses: watch::Sender<Vec<IpAddr>>,
    /// How many neighbours are remembered as in use: the engine's own limit.
    pub neighbours_max: usize,
}

/// What the kernel last said of a neighbour, and whether packets have asked for it.
#[derive(Debug, Default)]
struct Neighbours {
    known: BTreeMap<(InterfaceId, IpAddr), NeighbourState>,
    /// The kernel sees none of our packets, so it confirms a neighbour only when it is asked to.
    wanted: BTreeSet<(InterfaceId, IpAddr)>,
}

impl Follower {
    /// Follows the kernel until the packet thread has ended or the watch has.
    pub async fn run(
        mut self,
        watch: NetworkWatch,
        mut events: mpsc::Receiver<NetworkEvent>,
        mut wanted: mpsc::Receiver<NeighbourWanted>,
    ) {
        let mut neighbours = Neighbours::default();
        let mut batch = Vec::new();
        let ended = loop {
            tokio::select! {
                read = events.recv_many(&mut batch, 256) => {
                    if read == 0 {
                        break "the kernel's network is no longer watched";
                    }
                    let told = self.apply(&watch, &mut neighbours, batch.drain(..)).await;
                    // The rest of a dump is told first: the engine gets whole pictures.
                    let published = told.is_ok() && (!events.is_empty() || self.publish().await.is_ok());
                    if !published {
                        return;
                    }
                }
                request = wanted.recv() => {
                    let Some(request) = request else { return };
                    if self.resolve(&watch, &mut neighbours, request).await.is_err() {
                        return;
                    }
                }
            }
        };
        tracing::error!("{ended}");
        self.readiness.network(Err(ended.to_owned()));
    }

    async fn apply(
        &mut self,
        watch: &NetworkWatch,
        neighbours: &mut Neighbours,
        events: impl Iterator<Item = NetworkEvent> + Send,
    ) -> Result<(), WorkerGone> {
        for event in events {
            if let NetworkEvent::Neighbour { index, ip, state } = event {
                self.neighbour(watch, neighbours, index, ip, state).await?;
            } else {
                self.picture.apply(event);
            }
        }
        Ok(())
    }

    /// Tells the engine, the health endpoint and readiness what has changed.
    async fn publish(&mut self) -> Result<(), WorkerGone> {
        let Some(network) = self.picture.network() else {
            // What is wrong with a device need not be of the engine's network.
            if self.picture.is_whole() {
                self.readiness.network(self.picture.missing().map_or(Ok(()), Err));
            }
            return Ok(());
        };
        let addresses = global_addresses(&network);
        self.addresses.send_if_modified(|last| {
            let is_news = *last != addresses;
            *last = addresses;
            is_news
        });
        self.worker.send_all(|| Command::SetNetwork(network.clone())).await?;
        self.devices.send_replace(self.picture.devices());
        let missing = self.picture.missing();
        self.readiness.network(missing.map_or(Ok(()), Err));
        Ok(())
    }

    async fn neighbour(
        &self,
        watch: &NetworkWatch,
        neighbours: &mut Neighbours,
        index: LinkIndex,
        ip: IpAddr,
        state: NeighbourState,
    ) -> Result<(), WorkerGone> {
        let Some(interface) = self.picture.interface(index) else { return Ok(()) };
        let key = (interface, ip);
        match state {
            NeighbourState::Gone => neighbours.known.remove(&key),
            NeighbourState::Reachable(_)
            | NeighbourState::Stale(_)
            | NeighbourState::Resolving
            | NeighbourState::Failed => neighbours.known.insert(key, state),
        };
        let in_use = neighbours.wanted.contains(&key);
        if in_use && matches!(state, NeighbourState::Stale(_) | NeighbourState::Gone) {
            request(watch, index, ip).await;
        }
        if matches!(state, NeighbourState::Gone | NeighbourState::Failed) {
            neighbours.wanted.remove(&key);
        }
        self.tell(interface, ip, state).await
    }

    /// Answers from what is known, and has the kernel find out what is not.
    async fn resolve(
        &self,
        watch: &NetworkWatch,
        neighbours: &mut Neighbours,
        wanted: NeighbourWanted,
    ) -> Result<(), WorkerGone> {
        let key = (wanted.interface, wanted.address.to_ip());
        if neighbours.wanted.len() < self.neighbours_max {
            neighbours.wanted.insert(key);
        }
        let known = neighbours.known.get(&key).copied();
        if let Some(state @ (NeighbourState::Reachable(_) | NeighbourState::Stale(_))) = known {
            self.tell(key.0, key.1, state).await?;
        }
        if !matches!(known, Some(NeighbourState::Reachable(_)))
            && let Some(index) = self.picture.link(key.0)
        {
            request(watch, index, key.1).await;
        }
        Ok(())
    }

    async fn tell(
        &self,
        interface: InterfaceId,
        address: IpAddr,
        state: NeighbourState,
    ) -> Result<(), WorkerGone> {
        let neighbour = match state {
            NeighbourState::Reachable(mac) | NeighbourState::Stale(mac) => {
                Neighbour::Reachable { mac: mac.0 }
            }
            NeighbourState::Failed => Neighbour::Failed,
            NeighbourState::Gone => Neighbour::Gone,
            NeighbourState::Resolving => return Ok(()),
        };
        self.worker.send_all(|| Command::Neighbour { interface, address, neighbour }).await
    }
}

/// The addresses of interfaces that are up, but for those of one link alone.
fn global_addresses(network: &Network) -> Vec<IpAddr> {
    let up = network.interfaces.iter().filter(|interface| interface.up);
    let addresses = up.flat_map(|interface| &interface.addresses).map(IpNet::addr);
    let is_global = |address: &IpAddr| match address {
        IpAddr::V4(v4) => !v4.is_link_local() && !v4.is_loopback(),
        IpAddr::V6(v6) => !v6.is_unicast_link_local() && !v6.is_loopback(),
    };
    addresses.filter(is_global).collect()
}

async fn request(watch: &NetworkWatch, index: LinkIndex, ip: IpAddr) {
    if let Err(error) = watch.request_neighbour(index, ip).await {
        tracing::debug!("{error}");
    }
}
