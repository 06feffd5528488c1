//! Flows that the datapath moves by itself, in a table that engine and datapath share.
//!
//! An entry is a cache of the engine's decision. It is put there when the flow is settled, names the judgement that it
//! comes from, and is used only while that one is in force: after a change of policy or network the next packet of each
//! direction comes to the engine and renews it. What a packet may change is in the entry too (usage, TCP windows) and is
//! taken back before the engine looks at the flow.
//!
//! In a cluster it is known of each direction which node its packets come in by: those of a flow of this node's that
//! another one hands over are unwrapped, those of a flow of another node's are wrapped (`cluster/relay.rs`).

mod resume;
mod table;

use std::time::Duration;

use crate::chains::Keyed;
use crate::cluster::Relay;
use crate::flows::{Slot, Tracker};
use crate::neighbours::NeighbourId;
use crate::tcp::{TcpEffect, TcpState};
use crate::{Address, Direction, Engine, InterfaceId, Time, Usage};

pub use resume::{FastRemains, Resumed};
pub use table::{
    FastAnswer, FastFlow, FastHop, FastLeg, FastPast, FastPath, FastPlace, FastRelay, FastUsage,
    FastWay, FastWindow, FastWrap,
};

/// The engine's side of the table.
#[derive(Debug, Default)]
pub(crate) struct Offloading {
    pub(crate) table: Option<Box<dyn FastPath>>,
    /// Of each flow's slot, the place plus one; zero while it has none.
    places: Vec<u32>,
    pub(crate) installed: u32,
    /// Flows of other nodes.
    pub(crate) relays: Option<Keyed<Relay>>,
    /// Counts what outdates every judgement: topologies, and the node's own pauses.
    pub(crate) stamp: u32,
    pauses: u16,
    /// Where the round through all flows goes on, and when the next begins.
    round: u32,
    next_round: Time,
    /// Where the one through handshakes goes on, and when it was last looked at some.
    handshake: u32,
    handshakes_seen: Time,
}

impl Offloading {
    fn place(&self, slot: Slot) -> Option<FastPlace> {
        self.places.get(slot.0 as usize).and_then(|place| place.checked_sub(1)).map(FastPlace)
    }
}

/// How often every flow's usage is taken, so that what is shown is no older.
const ROUND: Duration = Duration::from_secs(1);

/// The same where other nodes are to know exactly how connections are that have come to rest, but no more than what a
/// twentieth of a processor can look at.
const CLOSE_ROUND: Duration = Duration::from_millis(5);
const PER_FLOW: Duration = Duration::from_micros(1);

/// How often flows are asked whose handshakes are not complete, for all that the engine knows.
const HANDSHAKES: Duration = Duration::from_millis(10);
/// The least time between two such looks, where limits are reached.
const HURRIED: Duration = Duration::from_millis(1);

/// Flows that are asked per turn.
const FLOWS_PER_TURN: u32 = 2_048;

impl Engine {
    /// Has settled flows moved by this table from now on.
    pub fn use_fast_path(&mut self, table: Box<dyn FastPath>) {
        self.take_table(table, 1);
        self.tell_judgement();
    }

    /// Begins with a table of whose flows nothing is known yet, under this judgement.
    fn take_table(&mut self, table: Box<dyn FastPath>, stamp: u32) {
        let places = vec![0; self.limits.flows as usize];
        let relays = self.room_for_relays();
        self.offloading =
            Offloading { table: Some(table), places, relays, stamp, ..Offloading::default() };
        self.tell_challenges();
    }

    /// Has the datapath move nothing until the next judgement.
    pub fn suspend_fast_path(&mut self) {
        if let Some(table) = &mut self.offloading.table {
            table.set_stamp(0);
        }
    }

    /// Nothing is moved any more that the engine has not looked at since; it begins to.
    pub(crate) fn outdate_judgements(&mut self) {
        self.offloading.stamp = self.offloading.stamp.checked_add(1).unwrap_or(1);
        self.sweep = Some(0);
        self.tell_judgement();
    }

    /// Has a flow that is moved go on being moved under the judgement in force. Connections that are silent while policies
    /// and networks change are to outlive the daemon too, and only their packets would renew them else.
    pub(crate) fn renew_judgement(&mut self, now: Time, slot: Slot) {
        if self.offloading.place(slot).is_none() || self.is_doubted(slot) {
            return;
        }
        for direction in Direction::BOTH {
            self.find_hop(slot, direction);
        }
        self.offer(now, slot);
    }

    /// Where packets of the direction would go; who is not there already is asked for by the next packet.
    fn find_hop(&mut self, slot: Slot, direction: Direction) -> Option<NeighbourId> {
        let next = self.way_out(slot, direction).ok()?;
        let hop = self.neighbours.find(next.out, next.address)?;
        self.flows[slot].set_hop(direction, hop);
        Some(hop)
    }

    /// Which judgement is in force, and which interfaces are in which zones under it.
    pub(crate) fn tell_judgement(&mut self) {
        let is_open = self.is_open();
        let stamp = self.offloading.stamp;
        let Some(table) = &mut self.offloading.table else { return };
        // No flow is moved by a new judgement in an old zone.
        table.set_stamp(0);
        for index in 0..self.network.interfaces.len() {
            let interface = InterfaceId(index as u16);
            table.set_zone(interface, self.topology.zone(interface));
        }
        table.set_stamp(if is_open { stamp } else { 0 });
    }

    /// Hands a settled flow over, or what has changed about it; takes back one that is not settled.
    pub(crate) fn offer(&mut self, now: Time, slot: Slot) {
        if self.offloading.table.is_none() {
            return;
        }
        let Some(flow) = self.fast_flow(now, slot) else { return self.withdraw(now, slot) };
        let place = self.offloading.place(slot);
        let Some(table) = &mut self.offloading.table else { return };
        if let Some(place) = place {
            table.renew(place, &flow);
        } else if let Some(place) = table.install(&flow) {
            self.offloading.places[slot.0 as usize] = place.0 + 1;
            self.offloading.installed += 1;
        }
    }

    /// The flow as the table takes it; `None` for one that the engine has to follow packet by packet.
    fn fast_flow(&mut self, now: Time, slot: Slot) -> Option<FastFlow> {
        // Who leaves hands flows over as they are.
        if self.is_draining() {
            return None;
        }
        let tracker = self.flows[slot].tracker();
        if matches!(tracker, Tracker::Tcp(tcp) if tcp.state() == TcpState::SynSent) {
            // By whom the answer comes is not known in a cluster.
            if self.cluster.is_some() {
                return None;
            }
            let hop = self.find_hop(slot, Direction::Reply)?;
            self.neighbours.known(hop)?;
        }
        let flow = &self.flows[slot];
        let tcp = match tracker {
            Tracker::Tcp(tcp) => Some(tcp.settled()?),
            Tracker::Udp { replied: true } => None,
            Tracker::Udp { replied: false }
            | Tracker::Icmp { .. }
            | Tracker::Association { .. }
            | Tracker::Other { .. } => return None,
        };
        let is_judged = flow.epoch() == self.epoch
            && self.generation().is_some_and(|generation| flow.is_of(generation));
        if !is_judged || flow.is_filtered() || self.homes.has(slot) {
            return None;
        }
        let zones = Direction::BOTH.map(|direction| flow.zone(direction));
        let hops = Direction::BOTH.map(|direction| flow.hop(direction));
        let past = FastPast {
            opened: flow.opened(),
            now,
            ingress: Direction::BOTH.map(|direction| flow.ingress(direction)),
            usage: Direction::BOTH.map(|direction| flow.usage(direction)),
        };
        let hops = hops.map(|hop| hop.and_then(|hop| self.tell_hop(hop)));
        let keys = Direction::BOTH.map(|direction| self.flows.key(slot, direction));
        let legs = self.fast_legs(slot, zones, keys)?;
        Some(FastFlow { stamp: self.offloading.stamp, keys, zones, hops, tcp, past, legs })
    }

    /// Says where packets to a neighbour go now: nowhere, if it is not known.
    pub(crate) fn tell_hop(&mut self, id: NeighbourId) -> Option<FastHop> {
        let table = self.offloading.table.as_mut()?;
        if !self.neighbours.is_current(id) {
            return None;
        }
        let hop = id.fast();
        let out = self.neighbours.interface(id);
        let interface = self.topology.interface(out).filter(|interface| interface.up);
        let way = interface.zip(self.neighbours.known(id)).map(|(interface, destination)| {
            FastWay { out, source: interface.mac, destination, mtu: interface.mtu }
        });
        table.set_hop(hop, way);
        Some(hop)
    }

    /// The same by a neighbour's address.
    pub(crate) fn tell_neighbour(&mut self, interface: InterfaceId, address: Address) {
        if self.offloading.table.is_some()
            && let Some(id) = self.neighbours.find(interface, address)
        {
            self.tell_hop(id);
        }
    }

    /// Takes a flow back that the table cannot follow as it is now.
    pub(crate) fn withdraw_changed(
        &mut self,
        now: Time,
        slot: Slot,
        tracker: &Tracker,
        effect: TcpEffect,
    ) {
        let Tracker::Tcp(tcp) = tracker else { return };
        // Its numbers are others then, or may be.
        let begins_anew = matches!(effect, TcpEffect::Moved { to: TcpState::SynReceived, .. })
            || tcp.state() == TcpState::SynSent;
        if begins_anew || tcp.settled().is_none() {
            self.withdraw(now, slot);
        }
    }

    /// Takes a flow back: its packets come to the engine again.
    pub(crate) fn withdraw(&mut self, now: Time, slot: Slot) {
        let Some(place) = self.offloading.place(slot) else { return };
        let Some(table) = &mut self.offloading.table else { return };
        let usage = table.remove(place);
        self.offloading.places[slot.0 as usize] = 0;
        self.offloading.installed -= 1;
        self.note_usage(now, slot, &usage);
    }

    /// Learns what the datapath has done for a flow; to be called before anything is decided about it. Returns whether
    /// its connection is in another state by that.
    pub(crate) fn take_usage(&mut self, now: Time, slot: Slot) -> bool {
        let Some(place) = self.offloading.place(slot) else { return false };
        let Some(table) = &mut self.offloading.table else { return false };
        let usage = table.take_usage(place);
        let Some(state) = self.note_usage(now, slot, &usage) else { return false };
        if state == TcpState::Closed {
            self.withdraw(now, slot);
        }
        true
    }

    /// Returns the state that a connection has moved to.
    fn note_usage(&mut self, now: Time, slot: Slot, usage: &FastUsage) -> Option<TcpState> {
        let has_moved = usage.moved.map(|moved| moved.packets > 0);
        if has_moved == [false; 2] {
            return None;
        }
        let mut seen = None;
        for direction in Direction::BOTH {
            let moved = usage.moved[direction.index()];
            if moved.packets == 0 {
                continue;
            }
            self.count_moved(slot, direction, moved);
            self.count_handed_over(slot, direction, moved);
            let flow = &mut self.flows[slot];
            // RFC 7857 section 7: strangers do not keep the way in open that the inside has left.
            if direction == Direction::Reply || !flow.is_stranger() {
                seen = seen.max(Some(usage.seen[direction.index()].min(now)));
            }
            // The originator has sent again after an answer.
            if direction == Direction::Original && flow.is_expendable() {
                flow.set_expendable(false);
                self.expendable.remove(slot.0);
            }
        }
        let mut tracker = self.flows[slot].tracker();
        let effect = match &mut tracker {
            Tracker::Tcp(tcp) => tcp.note_moved(usage, has_moved),
            Tracker::Udp { .. }
            | Tracker::Icmp { .. }
            | Tracker::Association { .. }
            | Tracker::Other { .. } => TcpEffect::Continue,
        };
        if matches!(tracker, Tracker::Tcp(_)) {
            self.flows[slot].set_tracker(&tracker);
            self.fall_behind(now, slot);
        }
        if let TcpEffect::Moved { to, .. } = effect {
            let latest = usage.seen.into_iter().max().unwrap_or(now).min(now);
            self.note_state(latest, slot, &tracker, to);
            return Some(to);
        }
        let seen = seen?;
        let before = self.flows[slot].expires();
        self.refresh(seen, slot, &tracker);
        // What a packet that came to the engine has refreshed was before: it took the usage first. What a peer has seen
        // may have been later.
        if self.cluster.is_some() {
            let flow = &mut self.flows[slot];
            flow.set_expires(before.max(flow.expires()));
        }
        None
    }

    /// Packets that the datapath has moved have opened a connection, or closed it.
    fn note_state(&mut self, seen: Time, slot: Slot, tracker: &Tracker, to: TcpState) {
        if self.flows[slot].is_half_open() && to != TcpState::SynReceived {
            // Whatever has become of it since, its handshake was completed.
            let source = self.flows.key(slot, Direction::Original).source.address.into();
            self.know_source(seen, source);
        }
        self.moved(seen, slot, tracker, to);
        self.tell_change(slot, tracker);
    }

    /// Rules are numbered anew with each policy: what was moved before it judges the flow counts for the rule that
    /// permits it now, and for none if none does.
    fn count_moved(&mut self, slot: Slot, direction: Direction, moved: Usage) {
        let is_judged =
            self.generation().is_some_and(|generation| self.flows[slot].is_of(generation));
        if !is_judged {
            let admission = self.flows.read(slot).and_then(|flow| self.judge_again(&flow).ok());
            let Some(admission) = admission else {
                return self.flows[slot].add_usage(direction, moved);
            };
            self.flows.set_admission(slot, &admission);
        }
        self.add_usage(slot, direction, moved);
    }

    /// Goes through all flows once a second, a bounded number at a time.
    pub(crate) fn gather_usage(&mut self, now: Time) {
        if self.offloading.installed == 0 || now < self.offloading.next_round {
            return;
        }
        let from = self.offloading.round;
        let places = self.flows.slots().max(self.relay_places());
        let end = from.saturating_add(FLOWS_PER_TURN).min(places);
        for place in from..end {
            self.update_moved(now, Slot(place));
            self.review_relay(now, place);
        }
        let is_done = end >= places;
        self.offloading.round = if is_done { 0 } else { end };
        if is_done {
            self.offloading.next_round = now + self.round();
        }
    }

    /// Takes a flow's usage outside of its turn, and tells the table what that has changed about it.
    pub(crate) fn update_moved(&mut self, now: Time, slot: Slot) {
        if !self.take_usage(now, slot) {
            return;
        }
        let place = self.offloading.place(slot);
        if let Some((place, flow)) = place.zip(self.fast_flow(now, slot))
            && let Some(table) = &mut self.offloading.table
        {
            table.renew(place, &flow);
        }
    }

    /// Looks whose handshakes the datapath has completed, a bounded number at a time: limits count the others.
    pub(crate) fn gather_handshakes(&mut self, now: Time) {
        if now >= self.offloading.handshakes_seen + HANDSHAKES {
            self.review_handshakes(now);
        }
    }

    /// The same because somebody is in the way, if it was not done just now; whether it was done.
    pub(crate) fn hurry_handshakes(&mut self, now: Time) -> bool {
        let is_due = now >= self.offloading.handshakes_seen + HURRIED;
        is_due && self.review_handshakes(now)
    }

    fn review_handshakes(&mut self, now: Time) -> bool {
        let places = self.half_open.places();
        if self.offloading.installed == 0 || self.half_open.len() == 0 {
            return false;
        }
        let from = self.offloading.handshake;
        let end = from.saturating_add(FLOWS_PER_TURN).min(places);
        for place in from..end {
            if let Some(slot) = self.half_open.flow_at(place) {
                self.update_moved(now, slot);
            }
        }
        self.offloading.handshake = if end >= places { 0 } else { end };
        self.offloading.handshakes_seen = now;
        true
    }

    fn round(&self) -> Duration {
        if self.keeps_copies_exact() {
            (PER_FLOW * self.offloading.installed).clamp(CLOSE_ROUND, ROUND)
        } else {
            ROUND
        }
    }

    /// After a pause of its own the node takes nothing that it owns for certain.
    pub(crate) fn follow_pauses(&mut self) {
        let Some(cluster) = &self.cluster else { return };
        if cluster.pauses != self.offloading.pauses {
            self.offloading.pauses = cluster.pauses;
            self.outdate_judgements();
        }
    }

    pub(crate) fn usage_timeout(&self) -> Option<Time> {
        let Offloading { installed, next_round, handshakes_seen, .. } = self.offloading;
        let handshakes = (self.half_open.len() > 0).then_some(handshakes_seen + HANDSHAKES);
        (installed > 0).then(|| handshakes.map_or(next_round, |due| due.min(next_round)))
    }
}
