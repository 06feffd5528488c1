//! ICMP errors about a flow's packets: matched by what they quote, doubted, and rewritten inside and
//! out (RFC 5508 section 4, RFC 5927). They never refresh, end or create anything.

use crate::flows::{Slot, Tracker};
use crate::judge::Refusal;
use crate::packet::Packet;
use crate::quote::{self, Quote};
use crate::recheck::Standing;
use crate::{
    Direction, DropReason, Endpoint, Engine, Family, FlowKey, Frame, InterfaceId, Time, Verdict,
    rewrite,
};

/// RFC 791: what every host takes in one piece. No link that is left has less, and who says so wants
/// packets small (RFC 5927 section 7). Zero, as routers from before RFC 1191 say, is less too: hosts
/// take the smallest MTU for it that they know.
const MTU_BELIEVED_IPV4: u32 = 576;
/// RFC 8200 section 5.
const MTU_BELIEVED_IPV6: u32 = 1_280;

impl Engine {
    /// Passes an ICMP error to the host whose packet it quotes.
    pub(crate) fn pass_icmp_error(
        &mut self,
        now: Time,
        from: InterfaceId,
        frame: &mut Frame<'_>,
        packet: &Packet,
    ) -> Result<Verdict, Refusal> {
        let quote = Quote::parse(frame, packet)?;
        // The quoted packet went out; what comes in against it has the reversed key.
        let found = self.flows.find(&quote.key.reversed());
        let Some((slot, direction)) = found else {
            if let Some(worker) = self.other_worker_about(&quote.key.reversed()) {
                return self.give(worker, from, frame);
            }
            let errand = self.consult_about(now, quote.key.reversed());
            let errand = errand.ok_or(DropReason::IcmpErrorUnmatched)?;
            return self.hand_over(now, from, frame, packet, errand);
        };
        self.take_usage(now, slot);
        if self.has_expired(now, slot)
            || self.flows[slot].is_filtered()
            || self.still_permitted(now, slot) != Standing::Permitted
        {
            return Err(DropReason::IcmpErrorUnmatched.into());
        }
        let flow = &self.flows[slot];
        if self.topology.zone(from) != Some(flow.zone(direction)) {
            return Err(DropReason::WrongZone.into());
        }
        self.doubt(slot, direction, packet, &quote)?;
        let exit = self.exit(now, slot, direction, packet, &frame.offload)?;
        // Where NAT hides this side's addresses, it hides those of the routers before it too.
        let sent = self.flows.key(slot, direction.reversed());
        let actual = self.flows.key(slot, direction).source.address;
        let shown = sent.destination.address;
        let reporter = if shown == actual { packet.source } else { shown };
        quote::restore(frame, packet, &sent, reporter);
        let told = FlowKey {
            source: Endpoint { address: reporter, port: 0 },
            destination: sent.source,
            protocol: packet.protocol,
        };
        if let Some(identification) = self.identify(&exit.rewrite, &told, packet) {
            rewrite::set_identification(frame.bytes, packet, identification);
        }
        Ok(self.send(frame, packet, &exit))
    }

    /// Whether the flow can have sent what the error quotes. `direction` is the error's own.
    fn doubt(
        &self,
        slot: Slot,
        direction: Direction,
        packet: &Packet,
        quote: &Quote,
    ) -> Result<(), DropReason> {
        let quoted = direction.reversed();
        let sent = match self.flows[slot].tracker() {
            Tracker::Tcp(tcp) => quote.sequence.is_some_and(|seq| tcp.in_flight(quoted, seq)),
            Tracker::Icmp { replied, both_ask } => {
                (both_ask || quote.request == Some(quoted == Direction::Original))
                    && (replied || quoted == Direction::Original)
            }
            Tracker::Udp { replied }
            | Tracker::Association { replied }
            | Tracker::Other { replied } => replied || quoted == Direction::Original,
        };
        // RFC 5927 section 7: an MTU that the quoted packet fitted into, or that no link has.
        let is_plausible = quote.mtu.is_none_or(|mtu| {
            let least = match packet.source.family() {
                Family::Ipv4 => MTU_BELIEVED_IPV4,
                Family::Ipv6 => MTU_BELIEVED_IPV6,
            };
            (least..quote.claimed_length).contains(&mtu)
        });
        if sent && is_plausible { Ok(()) } else { Err(DropReason::IcmpErrorForged) }
    }
}
