//! ICMP errors about a flow's packets: matched by what they quote, doubted, and rewritten inside and
//! out (RFC 5508 section 4, RFC 5927). They never refresh, end or create anything.

use crate::flows::{Slot, Tracker};
use crate::forward::smallest_mtu;
use crate::judge::Refusal;
use crate::packet::Packet;
use crate::quote::{self, Quote};
use crate::recheck::Standing;
use crate::{
    Direction, DropReason, Endpoint, Engine, FlowKey, Frame, InterfaceId, Time, Verdict, rewrite,
};

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
        let (slot, direction) = found.ok_or(DropReason::IcmpErrorUnmatched)?;
        if self.still_permitted(slot) != Standing::Permitted {
            return Err(DropReason::IcmpErrorUnmatched.into());
        }
        let flow = &self.flows[slot];
        if self.topology.zone(from) != Some(flow.zone(direction)) {
            return Err(DropReason::WrongZone.into());
        }
        self.doubt(slot, direction, packet, &quote)?;
        let exit = self.exit(now, slot, direction, packet, &frame.offload)?;
        let flow = &self.flows[slot];
        // Where NAT hides this side's addresses, it hides those of the routers before it too.
        let sent = *flow.key(direction.reversed());
        let (shown, actual) = (sent.destination.address, flow.key(direction).source.address);
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
        let flow = &self.flows[slot];
        let quoted = direction.reversed();
        if let Tracker::Tcp(tcp) = &flow.tracker {
            let sequence = quote.sequence.ok_or(DropReason::IcmpErrorForged)?;
            if !tcp.in_flight(quoted, sequence) {
                return Err(DropReason::IcmpErrorForged);
            }
        }
        // RFC 5927 section 7: an MTU that the quoted packet fitted into, or that no link has.
        if let Some(mtu) = quote.mtu
            && (mtu != 0 && mtu < smallest_mtu(packet) || mtu >= quote.claimed_length)
        {
            return Err(DropReason::IcmpErrorForged);
        }
        Ok(())
    }
}
