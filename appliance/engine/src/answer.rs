//! What the node says itself: answers to ARP and ND for translated addresses, and to refused packets
//! an ICMP error or a RST, within a rate.

use crate::event::{Denial, Event};
use crate::judge::{Answer, Refusal};
use crate::neighbours::Reachability;
use crate::packet::{Arp, Packet, Parsed, Segment};
use crate::{Address, DropReason, Engine, Frame, InterfaceId, Offload, Time, Transmit, Verdict};
use crate::{reply, rewrite};

impl Engine {
    /// Logs a refusal, answers it where it is to be answered, and gives the verdict.
    pub(crate) fn refuse(
        &mut self,
        now: Time,
        from: InterfaceId,
        bytes: &[u8],
        packet: &Packet,
        refusal: &Refusal,
    ) -> Verdict {
        let reason = refusal.reason;
        match &refusal.decided {
            Some((decided, mode)) => {
                let denial = denial(now, from, packet, reason, Some(*decided));
                self.journal.denied(now, denial, decided, *mode);
            }
            // As it is meant to be.
            None if reason == DropReason::ChallengeMet => {}
            None => self.log_invalid(now, from, packet, reason),
        }
        let Some(answer) = refusal.answer else { return Verdict::Drop(reason) };
        if answer == Answer::Unsolicited {
            self.await_partner(now, from, bytes, packet);
            return Verdict::Drop(reason);
        }
        let asked = bytes;
        let Some(bytes) = self.build_answer(from, asked, packet, answer) else {
            return Verdict::Drop(reason);
        };
        // No larger than what it answers, and one for each: no rate is needed.
        let is_challenge = matches!(answer, Answer::Challenge(_));
        if !is_challenge && !self.may_answer(now, packet.source) {
            return Verdict::Drop(reason);
        }
        // What another node has handed over came by no link of this one.
        let sent = if came_wrapped(asked) {
            self.send_routed(now, bytes)
        } else {
            self.enqueue(from, bytes, Offload::default())
        };
        if !sent {
            return Verdict::Drop(reason);
        }
        self.counters.answers_sent += 1;
        Verdict::Reject(reason)
    }

    /// Sends a frame of the node's own making to where its packet is routed; whether it could.
    pub(crate) fn send_routed(&mut self, now: Time, mut bytes: Vec<u8>) -> bool {
        let frame = Frame { bytes: &mut bytes, offload: Offload::default() };
        let Ok(Parsed::Ip(packet)) = Packet::parse(&frame) else { return false };
        let Some(next) = self.topology.next_hop(packet.destination) else { return false };
        let Ok(neighbour) = self.hop(next) else { return false };
        let Some(interface) = self.topology.interface(next.out) else { return false };
        let (own, source) = (interface.mac, packet.source.into());
        let journal = &mut self.journal;
        let reachability =
            self.neighbours.reachability(now, neighbour, source, &mut |interface, address| {
                journal.push(Event::NeighbourWanted { interface, address });
            });
        let Reachability::Known(mac) = reachability else { return false };
        rewrite::set_link_addresses(&mut bytes, own, mac);
        self.enqueue(next.out, bytes, Offload::default())
    }

    /// Whether one more answer keeps within the rate.
    pub(crate) fn may_answer(&mut self, now: Time, to: Address) -> bool {
        let per_second = self.flood().answers_per_second;
        let granted = self.answers.take(now, to.into(), per_second);
        self.counters.answers_limited += u64::from(!granted);
        granted
    }

    pub(crate) fn build_answer(
        &self,
        from: InterfaceId,
        bytes: &[u8],
        packet: &Packet,
        answer: Answer,
    ) -> Option<Vec<u8>> {
        let error = match answer {
            Answer::Refuse if matches!(packet.segment, Segment::Tcp(_)) => {
                return reply::tcp_reset(bytes, packet);
            }
            Answer::Challenge(number) => return reply::tcp_challenge(bytes, packet, number),
            Answer::Refuse => reply::IcmpError::Prohibited,
            Answer::Unsolicited => reply::IcmpError::PortUnreachable,
            Answer::Icmp(error) => error,
        };
        let source = self.topology.own_address(from, packet.source.family())?;
        reply::icmp_error(bytes, packet, error, source)
    }

    pub(crate) fn log_invalid(
        &mut self,
        now: Time,
        from: InterfaceId,
        packet: &Packet,
        reason: DropReason,
    ) {
        self.journal.invalid(now, denial(now, from, packet, reason, None));
    }

    /// ARP belongs to the host's own stack, but for the addresses that only NAT knows.
    pub(crate) fn handle_arp(&mut self, from: InterfaceId, arp: &Arp) -> Verdict {
        if !arp.request || !self.topology.answers_for(from, arp.target) {
            return Verdict::Local;
        }
        let Some(interface) = self.topology.interface(from) else { return Verdict::Local };
        let bytes = reply::arp_reply(arp, interface.mac);
        self.answered(from, bytes)
    }

    /// The same for neighbour discovery.
    pub(crate) fn handle_link_local(
        &mut self,
        from: InterfaceId,
        bytes: &[u8],
        packet: &Packet,
    ) -> Verdict {
        let target = reply::solicited_target(bytes, packet);
        let target = target.filter(|target| self.topology.answers_for(from, *target));
        let (Some(target), Some(interface)) = (target, self.topology.interface(from)) else {
            return Verdict::Local;
        };
        let bytes = reply::neighbour_advertisement(bytes, packet, target, interface.mac);
        self.answered(from, bytes)
    }

    fn answered(&mut self, out: InterfaceId, bytes: Vec<u8>) -> Verdict {
        if self.enqueue(out, bytes, Offload::default()) {
            Verdict::Answered
        } else {
            Verdict::Drop(DropReason::TransmitQueueFull)
        }
    }

    /// Queues a frame to be drained by `poll_transmit`; false when the queue is full.
    pub(crate) fn enqueue(&mut self, out: InterfaceId, bytes: Vec<u8>, offload: Offload) -> bool {
        let room = self.outbox.len() < self.limits.transmit_queue as usize;
        if room {
            self.outbox.push_back(Transmit { out, bytes, offload });
        }
        room
    }
}

/// Frames that peers hand over have no link addresses.
fn came_wrapped(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0; 12])
}

fn denial(
    at: Time,
    interface: InterfaceId,
    packet: &Packet,
    reason: DropReason,
    decided: Option<crate::Decided>,
) -> Denial {
    Denial {
        at,
        reason,
        interface,
        source: packet.source,
        destination: packet.destination,
        decided,
    }
}
