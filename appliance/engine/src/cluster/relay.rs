//! Packets that the kernel wraps and unwraps by itself: of a flow of another node's whose owner is known for certain, and
//! of this node's flows that come in by another (docs/cluster.md section 7).

use gabion_rules::ZoneId;

use super::directory::Hint;
use super::rendezvous::{Pair, View};
use super::wrap::{ZoneTag, inner_mtu};
use super::{Cluster, NodeId};
use crate::chains::{HasKey, Keyed};
use crate::fast_path::{FastLeg, FastPlace, FastRelay, FastWrap};
use crate::flows::Slot;
use crate::packet::protocol;
use crate::{Direction, Engine, FlowHeader, FlowKey, InterfaceId, Time, Usage};

/// A flow of another node's that the datapath has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Relay {
    key: Pair,
    place: FastPlace,
    fast: FastRelay,
}

/// Of each direction.
pub(super) type Ways = [Option<(InterfaceId, FlowKey)>; 2];

impl HasKey for Relay {
    type Key = Pair;

    fn key(&self) -> Pair {
        self.key
    }
}

impl Engine {
    /// A packet has been handed over to the owner of its flow; the datapath may do so with the next ones of its direction.
    pub(crate) fn offer_relay(&mut self, from: InterfaceId, key: FlowKey, to: NodeId) {
        let Self { cluster: Some(cluster), offloading, topology, .. } = self else { return };
        let (Some(table), Some(relays)) = (&mut offloading.table, &mut offloading.relays) else {
            return;
        };
        let Some(zone) = topology.zone(from) else { return };
        let is_movable = matches!(key.protocol, protocol::TCP | protocol::UDP);
        let Some(header) = cluster.relay_header(to, zone, &key).filter(|_| is_movable) else {
            return;
        };
        let pair = Pair::from(key);
        let known = relays.get(&pair).copied();
        let keys = known.map_or([key, key.reversed()], |relay| relay.fast.keys);
        let before =
            known.filter(|relay| relay.fast.peer == to && relay.fast.stamp == offloading.stamp);
        let mut ways = before.map_or([None; 2], |relay| relay.fast.ways);
        ways[usize::from(keys[0] != key)] = Some(FastWrap { zone, header });
        let mtu = inner_mtu(cluster.config.sync_mtu);
        let fast = FastRelay { stamp: offloading.stamp, keys, ways, peer: to, mtu };
        if let Some(relay) = relays.get_mut(&pair) {
            relay.fast = fast;
            table.renew_relay(relay.place, &fast);
        } else if let Some(place) = table.install_relay(&fast) {
            if relays.get_or_insert(Relay { key: pair, place, fast }).is_some() {
                offloading.installed += 1;
            } else {
                table.remove(place);
            }
        }
    }

    /// A flow's packets go on to its new owner, also where the next one comes when this process has ended.
    pub(super) fn go_on_handing_over(&mut self, now: Time, ways: Ways, hint: Hint) {
        for (interface, key) in ways.into_iter().flatten() {
            let Some(cluster) = &mut self.cluster else { return };
            cluster.note_hint(now, Hint { key: Pair::from(key), ..hint });
            self.offer_relay(interface, key, hint.owner);
        }
    }

    /// By which interfaces packets of a flow's directions come in, and their keys; nothing of those that other nodes hand
    /// over.
    pub(super) fn ways_here(&self, slot: Slot) -> Ways {
        Direction::BOTH.map(|direction| {
            let cluster = self.cluster.as_ref()?;
            let is_here = cluster.shares.get(slot).legs[direction.index()] == cluster.me();
            let way = || (self.flows[slot].ingress(direction), self.flows.key(slot, direction));
            is_here.then(way)
        })
    }

    /// The key is somebody else's now, or this node's.
    pub(crate) fn drop_relay(&mut self, key: &Pair) {
        let offloading = &mut self.offloading;
        let (Some(table), Some(relays)) = (&mut offloading.table, &mut offloading.relays) else {
            return;
        };
        if let Some(relay) = relays.remove(key) {
            offloading.installed -= 1;
            let moved = table.remove(relay.place).moved;
            self.count_relayed(relay.fast.peer, moved);
        }
    }

    /// As much as there is for hints; none where there are no other nodes.
    pub(crate) fn room_for_relays(&self) -> Option<Keyed<Relay>> {
        let cluster = self.cluster.as_ref()?;
        Some(Keyed::new(self.limits.flows / 4, cluster.config.secret))
    }

    /// Places to be looked at for relays.
    pub(crate) fn relay_places(&self) -> u32 {
        self.offloading.relays.as_ref().map_or(0, Keyed::places)
    }

    /// A hint is as old as its last packet, whoever has moved that; and without it there is no relay.
    pub(crate) fn review_relay(&mut self, now: Time, place: u32) {
        let Self { cluster: Some(cluster), offloading, .. } = self else { return };
        let (Some(table), Some(relays)) = (&mut offloading.table, &offloading.relays) else {
            return;
        };
        let Some(Relay { key, place, fast }) = relays.at(place).copied() else { return };
        let moved = table.take_usage(place).moved;
        let is_used = moved.iter().any(|usage| usage.packets > 0);
        let hint = match is_used {
            true => cluster.directory.hint(now, &key),
            false => cluster.directory.peek_hint(&key).copied(),
        };
        let is_good =
            hint.is_some_and(|hint| hint.owner == fast.peer && cluster.is_alive(hint.owner));
        self.count_relayed(fast.peer, moved);
        if !is_good {
            self.drop_relay(&key);
        }
    }

    fn count_relayed(&mut self, to: NodeId, moved: [Usage; 2]) {
        if let Some(peer) = self.cluster.as_mut().and_then(|cluster| cluster.peer(to)) {
            peer.wrapped_out += moved.iter().map(|usage| usage.packets).sum::<u64>();
        }
    }

    /// Packets of a flow of this node's that the kernel has unwrapped.
    pub(crate) fn count_handed_over(&mut self, slot: Slot, direction: Direction, moved: Usage) {
        let Some(cluster) = &mut self.cluster else { return };
        let leg = cluster.shares.get(slot).legs[direction.index()];
        if let Some(peer) = cluster.peer(leg) {
            peer.wrapped_in += moved.packets;
        }
    }

    /// Who hands packets of each direction over, and what stands before them. `None` where that is not known: whoever
    /// follows a connection has to see each of its segments.
    pub(crate) fn fast_legs(
        &self,
        slot: Slot,
        zones: [ZoneId; 2],
        keys: [FlowKey; 2],
    ) -> Option<[Option<FastLeg>; 2]> {
        let Some(cluster) = &self.cluster else { return Some([None; 2]) };
        let legs = cluster.shares.get(slot).legs;
        let mut found = [None; 2];
        for (place, peer) in legs.into_iter().enumerate() {
            if peer == cluster.me() {
                continue;
            }
            let tag = cluster.zone_tag(zones[place])?;
            let known = cluster.peers.iter().find(|known| known.node == peer)?;
            let known = Some(known).filter(|known| cluster.is_alive(known.node))?;
            let header = known.tags.expected(peer, tag, &keys[place])?;
            found[place] = Some(FastLeg { peer, header });
        }
        Some(found)
    }

    /// Whom packets may be handed over to without a look: who is heard.
    pub(super) fn tell_peers(&mut self, now: Time) {
        let Self { cluster: Some(cluster), offloading, .. } = self else { return };
        let Some(table) = &mut offloading.table else { return };
        let is_open = |peer: &&super::Peer| peer.session && !cluster.is_silent(now, peer.node);
        let alive = cluster.peers.iter().filter(|peer| cluster.is_alive(peer.node));
        let open: View = alive.filter(is_open).map(|peer| peer.node).collect();
        if open != cluster.handed {
            for peer in &cluster.peers {
                table.set_peer(peer.node, open.contains(peer.node));
            }
            cluster.handed = open;
        }
    }
}

impl Cluster {
    fn zone_tag(&self, zone: ZoneId) -> Option<ZoneTag> {
        self.zone_tags.get(usize::from(zone.0)).copied()
    }

    fn relay_header(&self, to: NodeId, zone: ZoneId, key: &FlowKey) -> Option<FlowHeader> {
        let tag = self.zone_tag(zone)?;
        let peer = self.peers.iter().find(|peer| peer.node == to && peer.unwraps)?;
        peer.tags.flow_header(self.me(), tag, key)
    }
}
