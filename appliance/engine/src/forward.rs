//! The way out: hop limit, next hop, MTU, neighbour, rewrite.

use crate::event::Event;
use crate::flows::Slot;
use crate::judge::Refusal;
use crate::neighbours::{NeighbourId, Parked, Reachability};
use crate::network::NextHop;
use crate::packet::{Packet, Segment};
use crate::recheck::Standing;
use crate::reply::IcmpError;
use crate::rewrite::{self, Rewrite};
use crate::{
    Address, Checksum, Direction, DropReason, Engine, Family, Frame, InterfaceId, Offload, Time,
    Usage, Verdict, cut, mss,
};

/// RFC 8200 section 5 and RFC 791: no link's MTU is smaller.
const MTU_MIN_IPV6: u32 = 1280;
const MTU_MIN_IPV4: u32 = 68;

/// RFC 768.
const UDP_HEADER: usize = 8;

/// A packet that is to leave: checked, not yet changed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Exit {
    slot: Slot,
    direction: Direction,
    out: InterfaceId,
    neighbour: NeighbourId,
    mac: [u8; 6],
    reachability: Reachability,
    mtu: u32,
    pub(crate) rewrite: Rewrite,
}

impl Engine {
    /// The hop in the form that flows keep.
    pub(crate) fn hop(&mut self, next: NextHop) -> Result<NeighbourId, DropReason> {
        let id = self.neighbours.entry(next.out, next.address);
        let id = id.ok_or(DropReason::NeighbourQueueFull)?;
        // The place may have been another's.
        self.tell_hop(id);
        Ok(id)
    }

    /// Checks that a packet of the flow can leave, without changing it.
    pub(crate) fn exit(
        &mut self,
        now: Time,
        slot: Slot,
        direction: Direction,
        packet: &Packet,
        offload: &Offload,
    ) -> Result<Exit, Refusal> {
        if packet.hop_limit <= 1 {
            return Err(Refusal::answered(DropReason::TtlExpired, IcmpError::TimeExceeded));
        }
        let neighbour = self.side_hop(slot, direction)?;
        let out = self.neighbours.interface(neighbour);
        let interface = self.topology.interface(out).filter(|interface| interface.up);
        let Some(interface) = interface else {
            return Err(Refusal::answered(DropReason::NoRoute, IcmpError::NoRoute));
        };
        let (mac, mtu) = (interface.mac, interface.mtu.max(smallest_mtu(packet)));
        if wire_length(packet, offload) > mtu
            && (packet.dont_fragment || offload.segments.is_some())
        {
            return Err(Refusal::answered(DropReason::TooBig, IcmpError::TooBig { mtu }));
        }
        let source = self.flows.key(slot, direction).source.address.into();
        let journal = &mut self.journal;
        let reachability =
            self.neighbours.reachability(now, neighbour, source, &mut |interface, address| {
                journal.push(Event::NeighbourWanted { interface, address });
            });
        match reachability {
            Reachability::Known(_) | Reachability::Waiting => {}
            Reachability::NotAsked => return Err(DropReason::NeighbourQueueFull.into()),
            Reachability::Dead => {
                let error = IcmpError::HostUnreachable;
                return Err(Refusal::answered(DropReason::NeighbourUnresolved, error));
            }
        }
        let rewrite = self.flows.rewrite(slot, direction);
        Ok(Exit { slot, direction, out, neighbour, mac, reachability, mtu, rewrite })
    }

    /// The side's next hop, looked up anew where the topology has changed since.
    pub(crate) fn side_hop(
        &mut self,
        slot: Slot,
        direction: Direction,
    ) -> Result<NeighbourId, Refusal> {
        let flow = &self.flows[slot];
        let is_current = flow.epoch() == self.epoch;
        if let Some(hop) = flow.hop(direction)
            && is_current
            && self.neighbours.is_current(hop)
        {
            return Ok(hop);
        }
        let hop = self.hop(self.way_out(slot, direction)?)?;
        if is_current {
            self.flows[slot].set_hop(direction, hop);
        }
        Ok(hop)
    }

    /// Where packets of the side go by the routes in force.
    pub(crate) fn way_out(&self, slot: Slot, direction: Direction) -> Result<NextHop, Refusal> {
        let destination = self.flows.key(slot, direction.reversed()).source.address;
        let zone = self.flows[slot].zone(direction.reversed());
        let Some(next) = self.topology.next_hop(destination) else {
            return Err(Refusal::answered(DropReason::NoRoute, IcmpError::NoRoute));
        };
        if self.topology.zone(next.out) != Some(zone) {
            // The rules were asked about another zone.
            return Err(DropReason::WrongZone.into());
        }
        Ok(next)
    }

    /// Rewrites the packet and sends it on its way.
    pub(crate) fn leave(
        &mut self,
        slot: Slot,
        direction: Direction,
        frame: &mut Frame<'_>,
        packet: &Packet,
        exit: &Exit,
    ) -> Verdict {
        let sent = self.flows.key(slot, direction.reversed()).reversed();
        let identification = self.identify(&exit.rewrite, &sent, packet);
        self.leave_as(slot, direction, frame, packet, exit, identification)
    }

    /// The same with the identification that all fragments of a translated datagram get.
    pub(crate) fn leave_as(
        &mut self,
        slot: Slot,
        direction: Direction,
        frame: &mut Frame<'_>,
        packet: &Packet,
        exit: &Exit,
        identification: Option<u32>,
    ) -> Verdict {
        self.account(slot, direction, packet, &frame.offload);
        exit.rewrite.apply(frame, packet);
        if let Some(identification) = identification {
            rewrite::set_identification(frame.bytes, packet, identification);
        }
        if let Some(mtu) = self.wrapped_mtu() {
            mss::clamp(frame, packet, mtu);
        }
        self.send(frame, packet, exit)
    }

    /// The last step, the same for flows' packets and for ICMP errors about them.
    pub(crate) fn send(&mut self, frame: &mut Frame<'_>, packet: &Packet, exit: &Exit) -> Verdict {
        rewrite::decrement_hop_limit(frame.bytes, packet);
        // What fills a short frame is not the packet's: it stays on the link it came by (CVE-2003-0001).
        frame.bytes[packet.end..].fill(0);
        let known = match exit.reachability {
            Reachability::Known(mac) => Some(mac),
            Reachability::Waiting | Reachability::Dead | Reachability::NotAsked => None,
        };
        rewrite::set_link_addresses(frame.bytes, exit.mac, known.unwrap_or_default());
        if wire_length(packet, &frame.offload) > exit.mtu {
            return self.send_cut(frame, packet, exit);
        }
        if known.is_some() {
            return Verdict::Forward { out: exit.out };
        }
        let parked = self.parked(exit, frame.bytes.to_vec(), frame.offload, 1);
        match self.neighbours.park(exit.neighbour, parked) {
            Ok(()) => Verdict::Held,
            Err(reason) => Verdict::Drop(reason),
        }
    }

    /// RFC 4787 REQ-13a: DF is clear, so the packet is cut, and its parts leave in order.
    fn send_cut(&mut self, frame: &mut Frame<'_>, packet: &Packet, exit: &Exit) -> Verdict {
        cut::complete_checksum(frame, packet);
        let known = matches!(exit.reachability, Reachability::Known(_));
        // What can not be cut, which the checks before should not let come here, is not sent.
        let mut verdict = Verdict::Drop(DropReason::TooBig);
        let (link, bytes) = frame.bytes[..packet.end].split_at(packet.network);
        let fragments = cut::fragments(bytes, exit.mtu).into_iter().flatten();
        for (place, fragment) in fragments.enumerate() {
            let (mut bytes, offload) = (link.to_vec(), Offload::default());
            fragment.append_to(&mut bytes);
            let sent = if known {
                let room = self.enqueue(exit.out, bytes, offload);
                room.then_some(()).ok_or(DropReason::TransmitQueueFull)
            } else {
                let parked = self.parked(exit, bytes, offload, u32::from(place == 0));
                self.neighbours.park(exit.neighbour, parked)
            };
            // Of a packet that waits, the first part stands for the whole.
            match sent {
                Ok(()) if known => verdict = Verdict::Queued { out: exit.out },
                Ok(()) => verdict = Verdict::Held,
                Err(reason) if known || place == 0 => return Verdict::Drop(reason),
                Err(_) => {}
            }
        }
        verdict
    }

    fn account(&mut self, slot: Slot, direction: Direction, packet: &Packet, offload: &Offload) {
        self.add_usage(slot, direction, wire_count(packet, offload));
    }

    pub(crate) fn add_usage(&mut self, slot: Slot, direction: Direction, moved: Usage) {
        let flow = &mut self.flows[slot];
        flow.add_usage(direction, moved);
        let rule = flow.rule();
        if let Some(counters) = self.rule_counters.get_mut(rule.0 as usize) {
            counters.usage += moved;
        }
    }

    fn parked(&self, exit: &Exit, bytes: Vec<u8>, offload: Offload, frames: u32) -> Parked {
        let Exit { slot, direction, .. } = *exit;
        let source = self.flows.key(slot, direction).source.address.into();
        Parked { bytes, offload, frames, source, slot, flow: self.flows[slot].id(), direction }
    }

    /// The neighbour is known: packets that waited for it leave, if their flow still may.
    pub(crate) fn release_parked(
        &mut self,
        now: Time,
        out: InterfaceId,
        address: Address,
        mac: [u8; 6],
    ) {
        for mut parked in self.neighbours.resolve(out, address, mac) {
            if let Some(destination) = parked.bytes.first_chunk_mut::<6>() {
                *destination = mac;
            }
            let verdict = if !self.may_leave(now, out, &parked) {
                Verdict::Drop(DropReason::FlowEnded)
            } else if self.enqueue(out, parked.bytes, parked.offload) {
                Verdict::Forward { out }
            } else {
                Verdict::Drop(DropReason::TransmitQueueFull)
            };
            self.counters.release(verdict, u64::from(parked.frames));
        }
    }

    /// The policy and the routes may have changed while the packet waited.
    fn may_leave(&mut self, now: Time, out: InterfaceId, parked: &Parked) -> bool {
        let slot = parked.slot;
        self.flows.get(slot).is_some_and(|flow| flow.id() == parked.flow)
            && self.still_permitted(now, slot) == Standing::Permitted
            && self.topology.zone(out) == Some(self.flows[slot].zone(parked.direction.reversed()))
    }
}

/// Length of the IP packet on the wire; of a superframe, that of its largest segment.
fn wire_length(packet: &Packet, offload: &Offload) -> u32 {
    let length = match offload.segments {
        Some(segments) => header_length(packet) + usize::from(segments.size),
        None => packet.end - packet.network,
    };
    length as u32
}

/// Packets and bytes as the wire would count them: a superframe is as many as it has segments.
fn wire_count(packet: &Packet, offload: &Offload) -> Usage {
    let length = (packet.end - packet.network) as u64;
    let Some(segments) = offload.segments.filter(|segments| segments.size > 0) else {
        return Usage { packets: 1, bytes: length };
    };
    let header = header_length(packet) as u64;
    let packets = length.saturating_sub(header).div_ceil(u64::from(segments.size)).max(1);
    Usage { packets, bytes: length + (packets - 1) * header }
}

/// The headers that each segment repeats, from the IP header on. What the offload says of them is a
/// hint for the kernel and not to be relied on.
pub(crate) fn header_length(packet: &Packet) -> usize {
    let length = packet.end - packet.network;
    match packet.segment {
        Segment::Tcp(tcp) => length.saturating_sub(tcp.payload as usize),
        Segment::Udp { .. } => packet.transport - packet.network + UDP_HEADER,
        Segment::IcmpQuery { .. }
        | Segment::IcmpError { .. }
        | Segment::LinkLocal { .. }
        | Segment::Other { .. }
        | Segment::Later => packet.transport - packet.network,
    }
}

pub(crate) fn smallest_mtu(packet: &Packet) -> u32 {
    match packet.source.family() {
        Family::Ipv4 => MTU_MIN_IPV4,
        Family::Ipv6 => MTU_MIN_IPV6,
    }
}

impl Checksum {
    /// Whether the field holds the pseudo-header's sum only.
    pub(crate) const fn is_partial(self) -> bool {
        matches!(self, Self::Partial { .. })
    }
}
