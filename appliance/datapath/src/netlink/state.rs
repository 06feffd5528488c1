//! The picture of the network that the receiver has been told, and how it changes. No sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{InterfaceAddress, Link, LinkIndex, NeighbourState, NetworkEvent, Route};

/// One message of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    Link(Link),
    LinkGone(LinkIndex),
    Address(InterfaceAddress),
    AddressGone(InterfaceAddress),
    Route(Route),
    /// In place of all routes of its prefix and metric.
    RouteReplaced(Route),
    RouteGone(Route),
    Neighbour(LinkIndex, IpAddr, NeighbourState),
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct NetworkState {
    links: BTreeMap<LinkIndex, Link>,
    addresses: BTreeSet<InterfaceAddress>,
    routes: BTreeSet<Route>,
    neighbours: BTreeMap<(LinkIndex, IpAddr), NeighbourState>,
}

impl NetworkState {
    /// Applies what the kernel says; tells only what has changed by it.
    pub(super) fn apply(&mut self, change: Change, tell: &mut Vec<NetworkEvent>) {
        match change {
            Change::Link(link) => {
                if self.links.get(&link.index) != Some(&link) {
                    tell.push(NetworkEvent::LinkChanged(link.clone()));
                    self.links.insert(link.index, link);
                }
            }
            Change::LinkGone(index) => {
                if self.links.remove(&index).is_some() {
                    tell.push(NetworkEvent::LinkGone(index));
                }
            }
            Change::Address(address) => {
                if self.addresses.insert(address) {
                    tell.push(NetworkEvent::AddressAdded(address));
                }
            }
            Change::AddressGone(address) => {
                if self.addresses.remove(&address) {
                    tell.push(NetworkEvent::AddressRemoved(address));
                }
            }
            Change::Route(route) => {
                if self.routes.insert(route) {
                    tell.push(NetworkEvent::RouteAdded(route));
                }
            }
            Change::RouteReplaced(route) => self.replace_route(route, tell),
            Change::RouteGone(route) => {
                if self.routes.remove(&route) {
                    tell.push(NetworkEvent::RouteRemoved(route));
                }
            }
            Change::Neighbour(index, ip, state) => self.set_neighbour(index, ip, state, tell),
        }
    }

    /// Whether the kernel may have changed more by this than it says: IPv4 routes go silently with
    /// their link and with the address that they prefer.
    pub(super) fn hides_more(&self, change: &Change) -> bool {
        match change {
            Change::Link(link) => {
                !link.up && self.links.get(&link.index).is_some_and(|before| before.up)
            }
            Change::LinkGone(_) | Change::AddressGone(_) => true,
            Change::Address(_)
            | Change::Route(_)
            | Change::RouteReplaced(_)
            | Change::RouteGone(_)
            | Change::Neighbour(..) => false,
        }
    }

    /// Becomes `fresh` and tells the differences: what has gone first, then links before what
    /// stands on them.
    pub(super) fn become_fresh(&mut self, fresh: Self, tell: &mut Vec<NetworkEvent>) {
        for &(index, ip) in self.neighbours.keys() {
            if !fresh.neighbours.contains_key(&(index, ip)) {
                tell.push(NetworkEvent::Neighbour { index, ip, state: NeighbourState::Gone });
            }
        }
        tell.extend(self.routes.difference(&fresh.routes).copied().map(NetworkEvent::RouteRemoved));
        tell.extend(
            self.addresses.difference(&fresh.addresses).copied().map(NetworkEvent::AddressRemoved),
        );
        for index in self.links.keys() {
            if !fresh.links.contains_key(index) {
                tell.push(NetworkEvent::LinkGone(*index));
            }
        }
        for link in fresh.links.values() {
            if self.links.get(&link.index) != Some(link) {
                tell.push(NetworkEvent::LinkChanged(link.clone()));
            }
        }
        tell.extend(
            fresh.addresses.difference(&self.addresses).copied().map(NetworkEvent::AddressAdded),
        );
        tell.extend(fresh.routes.difference(&self.routes).copied().map(NetworkEvent::RouteAdded));
        for (&(index, ip), &state) in &fresh.neighbours {
            if self.neighbours.get(&(index, ip)) != Some(&state) {
                tell.push(NetworkEvent::Neighbour { index, ip, state });
            }
        }
        *self = fresh;
    }

    fn replace_route(&mut self, route: Route, tell: &mut Vec<NetworkEvent>) {
        let same_place = |other: &Route| {
            (other.destination, other.prefix_length, other.metric)
                == (route.destination, route.prefix_length, route.metric)
        };
        let replaced: Vec<Route> = self
            .routes
            .iter()
            .filter(|other| same_place(other) && **other != route)
            .copied()
            .collect();
        for other in replaced {
            self.routes.remove(&other);
            tell.push(NetworkEvent::RouteRemoved(other));
        }
        if self.routes.insert(route) {
            tell.push(NetworkEvent::RouteAdded(route));
        }
    }

    fn set_neighbour(
        &mut self,
        index: LinkIndex,
        ip: IpAddr,
        state: NeighbourState,
        tell: &mut Vec<NetworkEvent>,
    ) {
        let before = if state == NeighbourState::Gone {
            self.neighbours.remove(&(index, ip))
        } else {
            self.neighbours.insert((index, ip), state)
        };
        if before.unwrap_or(NeighbourState::Gone) != state {
            tell.push(NetworkEvent::Neighbour { index, ip, state });
        }
    }
}

#[cfg(test)]
mod tests;
