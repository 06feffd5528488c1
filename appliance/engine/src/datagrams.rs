//! Fragments: kept until their datagram is whole, then judged as one and sent on as they came.

use crate::cluster::{Errand, FindPassage, Passage};
use crate::flows::Slot;
use crate::fragments::{KeptFragment, Reassembly};
use crate::judge::Refusal;
use crate::packet::{Packet, Segment, has_right_checksum};
use crate::{Direction, DropReason, Engine, Frame, InterfaceId, Offload, Time, Verdict};

impl Engine {
    pub(crate) fn handle_fragment(
        &mut self,
        now: Time,
        from: InterfaceId,
        frame: &Frame<'_>,
        packet: &Packet,
        find: impl FindPassage,
    ) -> Verdict {
        match self.gather(now, from, frame, packet) {
            Ok(fragments) => self.decide_datagram(now, from, fragments, find),
            Err(verdict) => verdict,
        }
    }

    /// Keeps a fragment until its datagram is whole, and returns that, or what becomes of the fragment.
    pub(crate) fn gather(
        &mut self,
        now: Time,
        from: InterfaceId,
        frame: &Frame<'_>,
        packet: &Packet,
    ) -> Result<Vec<KeptFragment>, Verdict> {
        if frame.offload.checksum.is_partial() || frame.offload.segments.is_some() {
            // Nobody offloads what is already cut.
            return Err(Verdict::Drop(DropReason::FragmentInvalid));
        }
        // Nothing joins a datagram that is overdue and has not been given up yet.
        self.expire_fragments(now);
        let timeout = self.settings().timeouts.fragment;
        let taken = self.fragments.handle_fragment(now, from, frame.bytes, packet, timeout);
        let given_way = u64::from(self.fragments.take_given_way());
        self.counters.release(Verdict::Drop(DropReason::FragmentTableFull), given_way);
        if given_way > 0 {
            self.meet_limit(now, DropReason::FragmentTableFull);
        }
        match taken {
            Reassembly::Held => Err(Verdict::Held),
            Reassembly::Dropped { reason, with } => {
                self.counters.release(Verdict::Drop(reason), u64::from(with));
                self.log_invalid(now, from, packet, reason);
                Err(Verdict::Drop(reason))
            }
            Reassembly::Complete(fragments) => Ok(fragments),
        }
    }

    /// Judges a datagram by its first fragment, by a flow that `find` finds. The verdict is that of the
    /// fragment which completed it; the others have been counted as held and get theirs here.
    pub(crate) fn decide_datagram(
        &mut self,
        now: Time,
        from: InterfaceId,
        fragments: Vec<KeptFragment>,
        find: impl FindPassage,
    ) -> Verdict {
        let Some(first) = fragments.first() else {
            return Verdict::Drop(DropReason::FragmentInvalid);
        };
        let whole = as_one(&first.packet, &fragments);
        let others = fragments.len() as u64 - 1;
        let passage = match whole.segment {
            _ if !is_right(&whole, &fragments) => Err(DropReason::TransportChecksum.into()),
            // No sound host sends an ICMP error that needs cutting (RFC 1812 4.3.2.3, RFC 4443 2.4).
            Segment::IcmpError { .. } => Err(Refusal::silent(DropReason::IcmpErrorForged)),
            Segment::Tcp(_)
            | Segment::Udp { .. }
            | Segment::IcmpQuery { .. }
            | Segment::LinkLocal { .. }
            | Segment::Other { .. }
            | Segment::Later => find(self, now, from, &whole),
        };
        match passage {
            Ok(Passage::Here(slot, direction)) => {
                self.send_datagram(now, from, slot, direction, fragments)
            }
            Ok(Passage::Elsewhere(errand)) => self.hand_over_datagram(now, from, errand, fragments),
            Ok(Passage::Worker(to)) => self.give_datagram(to, from, fragments),
            Err(refusal) => {
                let verdict = self.refuse(now, from, &first.bytes, &first.packet, &refusal);
                self.counters.release(Verdict::Drop(refusal.reason), others);
                verdict
            }
        }
    }

    /// Hands the fragments over one by one: their owner keeps them again until they are whole. What is lost
    /// of them is lost, as on any link: no copies are kept but of those that wait.
    fn hand_over_datagram(
        &mut self,
        now: Time,
        from: InterfaceId,
        errand: Errand,
        fragments: Vec<KeptFragment>,
    ) -> Verdict {
        let others = fragments.len() as u64 - 1;
        let errand = errand.without_copy();
        let mut verdict = Verdict::Held;
        for (place, KeptFragment { mut bytes, packet }) in fragments.into_iter().enumerate() {
            let mut frame = Frame { bytes: &mut bytes, offload: Offload::default() };
            verdict = self
                .hand_over(now, from, &mut frame, &packet, errand)
                .unwrap_or_else(|refusal| Verdict::Drop(refusal.reason));
            if place as u64 != others && verdict != Verdict::Held {
                self.counters.release(verdict, 1);
            }
        }
        verdict
    }

    fn send_datagram(
        &mut self,
        now: Time,
        from: InterfaceId,
        slot: Slot,
        direction: Direction,
        fragments: Vec<KeptFragment>,
    ) -> Verdict {
        // All or none: what one of them meets on its way out, none passes.
        let Some(hardest) = hardest_to_send(&fragments) else {
            return Verdict::Drop(DropReason::FragmentInvalid);
        };
        let others = fragments.len() as u64 - 1;
        let exit = self.exit(now, slot, direction, &hardest, &Offload::default());
        self.offer(now, slot);
        let exit = match exit {
            Ok(exit) => exit,
            Err(refusal) => {
                let first = &fragments[0];
                let verdict = self.refuse(now, from, &first.bytes, &first.packet, &refusal);
                self.counters.release(Verdict::Drop(refusal.reason), others);
                return verdict;
            }
        };
        let sent = self.flows.key(slot, direction.reversed()).reversed();
        let identification = self.identify(&exit.rewrite, &sent, &fragments[0].packet);
        let mut verdict = Verdict::Held;
        for (place, KeptFragment { mut bytes, packet }) in fragments.into_iter().enumerate() {
            let mut frame = Frame { bytes: &mut bytes, offload: Offload::default() };
            verdict = self.leave_as(slot, direction, &mut frame, &packet, &exit, identification);
            if let Verdict::Forward { out } = verdict {
                verdict = if self.enqueue(out, bytes, Offload::default()) {
                    Verdict::Queued { out }
                } else {
                    Verdict::Drop(DropReason::TransmitQueueFull)
                };
            }
            // All but one were counted as held when they came; one that is held again stays so.
            if place as u64 != others && verdict != Verdict::Held {
                self.counters.release(verdict, 1);
            }
        }
        verdict
    }

    /// Gives up the datagrams that are overdue.
    pub(crate) fn expire_fragments(&mut self, now: Time) {
        while let Some(lost) = self.fragments.poll_expired(now) {
            self.counters.release(Verdict::Drop(DropReason::FragmentTimeout), u64::from(lost));
        }
    }
}

/// The first fragment with whatever can keep one of them from leaving: the lowest hop limit, the
/// greatest length, and DF where one has it.
fn hardest_to_send(fragments: &[KeptFragment]) -> Option<Packet> {
    let packets = || fragments.iter().map(|kept| kept.packet);
    let length = packets().map(|packet| packet.end - packet.network).max()?;
    let first = fragments.first()?.packet;
    Some(Packet {
        hop_limit: packets().map(|packet| packet.hop_limit).min()?,
        dont_fragment: packets().any(|packet| packet.dont_fragment),
        end: first.network + length,
        ..first
    })
}

/// The first fragment's facts, with the TCP payload of the whole datagram and the lowest hop limit.
pub(crate) fn as_one(first: &Packet, fragments: &[KeptFragment]) -> Packet {
    let mut whole = *first;
    whole.hop_limit =
        fragments.iter().map(|kept| kept.packet.hop_limit).min().unwrap_or(first.hop_limit);
    if let Segment::Tcp(tcp) = &mut whole.segment {
        let rest: usize =
            fragments.iter().skip(1).map(|kept| kept.packet.end - kept.packet.transport).sum();
        tcp.payload += rest as u32;
    }
    whole
}

/// Whether the transport checksum is right, which no fragment alone could show.
fn is_right(whole: &Packet, fragments: &[KeptFragment]) -> bool {
    let pieces: Vec<&[u8]> =
        fragments.iter().map(|kept| &kept.bytes[kept.packet.transport..kept.packet.end]).collect();
    let (source, destination) = whole.summed_addresses();
    has_right_checksum(source, destination, whole.protocol, &pieces)
}
