//! Challenges: how an unknown source shows that it is there, while nobody remembers that it was asked.
//!
//! A client that waits for the answer to its SYN and gets an acknowledgement of something that it has not sent says so
//! with a RST of that very number, and goes on waiting (RFC 9293 section 3.10.7.3). So a SYN of an unknown source is
//! answered with a number that only who gets the answer can know: a keyed hash of the addresses, the ports and the time.
//! The RST that has it makes the source known, and the next SYN begins the connection, with all of its options. Linux
//! sends that at once (since 5.9), others when they would have repeated the first one.
//!
//! SYN cookies ask the same in a SYN-ACK. Whoever sends that is one end of a handshake: options are lost, and sequence
//! numbers are to be translated for as long as the connection lasts.
//!
//! A host whose address somebody else uses answers too, as it answers any segment of no connection. So it does to the
//! server's SYN-ACK, and leaves no handshake open.

use std::time::Duration;

use crate::address::SourceNetwork;
use crate::hash::KeyedHash;
use crate::packet::{Packet, Segment, TcpSegment};
use crate::{DropReason, Engine, FlowKey, InterfaceId, Time, WorkerId};

/// A number is good until the end of the epoch that follows its own: 8.6 s at least, and 17 s at most.
const EPOCH_SHIFT: u32 = 33;
const GOOD_FOR: Duration = Duration::from_nanos(2 << EPOCH_SHIFT);

/// What the numbers of challenges are made of.
#[derive(Debug)]
pub(crate) struct Challenges {
    hash: KeyedHash,
    /// The last was sent then.
    sent: Option<Time>,
}

impl Challenges {
    pub(crate) fn new(key: [u8; 16]) -> Self {
        Self { hash: KeyedHash::new(key), sent: None }
    }

    /// What to acknowledge to the sender of a SYN: nothing that it can have sent, whatever else was in its SYN.
    pub(crate) fn make(&mut self, now: Time, key: &FlowKey, syn: &TcpSegment) -> u32 {
        self.sent = Some(now);
        let number = self.number(epoch(now), key);
        let is_behind = syn.sequence.wrapping_sub(number).cast_signed() >= 0;
        if is_behind { number } else { number ^ HIGHEST }
    }

    /// Whether any has been sent that is good.
    fn has_sent(&self, now: Time) -> bool {
        self.sent.is_some_and(|sent| now.since(sent) <= GOOD_FOR)
    }

    /// Whether a RST has the number of a challenge.
    fn is_met(&self, now: Time, key: &FlowKey, sequence: u32) -> bool {
        let epoch = epoch(now);
        [epoch, epoch.wrapping_sub(1)]
            .into_iter()
            .any(|epoch| self.number(epoch, key) == sequence & !HIGHEST)
    }

    /// Without its highest bit, which says on which side of the SYN it lies.
    fn number(&self, epoch: u16, key: &FlowKey) -> u32 {
        self.hash.flow_in(epoch, key) as u32 & !HIGHEST
    }
}

const HIGHEST: u32 = 1 << 31;

fn epoch(now: Time) -> u16 {
    (now.as_nanos() >> EPOCH_SHIFT) as u16
}

impl Engine {
    /// What to acknowledge to the sender of a SYN. The datapath may ask the others that come to the same destination.
    pub(crate) fn ask_source(
        &mut self,
        now: Time,
        from: InterfaceId,
        key: &FlowKey,
        syn: &TcpSegment,
    ) -> u32 {
        if let (Some(table), Some(zone)) = (&mut self.offloading.table, self.topology.zone(from)) {
            table.challenge(key.destination, zone);
        }
        self.half_open.challenges.make(now, key, syn)
    }

    /// Learns from the answer to a challenge that a source is there. It is no segment of a flow, though there may be one:
    /// datapaths challenge SYNs that are repeated, too. Whoever decides the SYN is to know; that worker, if it is another.
    ///
    /// # Errors
    /// `ChallengeMet`: it was for the node.
    pub(crate) fn hear_source(
        &mut self,
        now: Time,
        key: &FlowKey,
        packet: &Packet,
    ) -> Result<Option<WorkerId>, DropReason> {
        let Segment::Tcp(segment) = &packet.segment else { return Ok(None) };
        if !segment.flags.rst || !self.is_answered(now, key, segment.sequence) {
            return Ok(None);
        }
        if let Some(worker) = self.other_worker_of_first(key) {
            return Ok(Some(worker));
        }
        self.know_source(now, key.source.address.into());
        Err(DropReason::ChallengeMet)
    }

    fn is_answered(&self, now: Time, key: &FlowKey, sequence: u32) -> bool {
        let challenges = &self.half_open.challenges;
        let has_datapath_asked =
            || self.offloading.table.as_ref().is_some_and(|table| table.may_have_challenged());
        (challenges.has_sent(now) || has_datapath_asked()) && challenges.is_met(now, key, sequence)
    }

    /// A source has shown that it is there.
    pub(crate) fn know_source(&mut self, now: Time, source: SourceNetwork) {
        self.half_open.know(now, source);
        if let Some(table) = &mut self.offloading.table {
            table.know(source.address());
        }
    }

    pub(crate) fn tell_challenges(&mut self) {
        if let Some(table) = &mut self.offloading.table {
            table.set_challenge_state(self.half_open.challenges.hash.state());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packet::TcpFlags;
    use crate::{Address, Endpoint};

    fn key() -> impl Strategy<Value = FlowKey> {
        let address = prop_oneof![
            any::<[u8; 4]>().prop_map(Address::from),
            any::<[u8; 16]>().prop_map(Address::from),
        ];
        let endpoint = (address, any::<u16>());
        let endpoint = endpoint.prop_map(|(address, port)| Endpoint { address, port });
        [endpoint.clone(), endpoint.clone()].prop_map(|[source, destination]| FlowKey {
            source,
            destination,
            protocol: 6,
        })
    }

    fn syn(sequence: u32) -> TcpSegment {
        TcpSegment {
            source_port: 1,
            destination_port: 2,
            sequence,
            acknowledgement: 0,
            flags: TcpFlags { syn: true, ..TcpFlags::default() },
            window: 0,
            window_scale: None,
            payload: 0,
        }
    }

    proptest! {
        /// RFC 9293 section 3.10.7.3: SEG.ACK =< ISS or SEG.ACK > SND.NXT is answered with a RST, whatever was sent with
        /// the SYN.
        #[test]
        fn a_challenge_acknowledges_nothing_that_was_sent(
            key in key(),
            isn: u32,
            sent in 0..1_u32 << 30,
            at in 0..1_u64 << 40,
        ) {
            let mut challenges = Challenges::new([7; 16]);
            let number = challenges.make(Time::from_nanos(at), &key, &syn(isn));
            prop_assert!(isn.wrapping_sub(number).cast_signed() >= 0);
            let next = isn.wrapping_add(1).wrapping_add(sent);
            prop_assert!(!(1..=next.wrapping_sub(isn)).contains(&number.wrapping_sub(isn)));
        }

        /// It is met while it is good, by who was asked and with the number that it has.
        #[test]
        fn a_challenge_is_met_in_time_by_who_was_asked(
            key in key(),
            other in key(),
            isn: u32,
            at in 0..1_u64 << 40,
            later in 0..1_u64 << 36,
            wrong in 1..HIGHEST,
        ) {
            let mut challenges = Challenges::new([7; 16]);
            let asked = Time::from_nanos(at);
            let number = challenges.make(asked, &key, &syn(isn));
            let now = asked + Duration::from_nanos(later);
            let epochs = epoch(now) - epoch(asked);
            prop_assert_eq!(challenges.is_met(now, &key, number), epochs < 2);
            prop_assert!(!challenges.is_met(asked, &key, number ^ wrong));
            prop_assert!(key == other || !challenges.is_met(asked, &other, number));
            // Of another node, or of the same one under another key.
            prop_assert!(!Challenges::new([8; 16]).is_met(asked, &key, number));
        }
    }

    #[test]
    fn nobody_has_met_a_challenge_that_was_not_made() {
        let key = FlowKey {
            source: Endpoint { address: Address::from([198, 51, 100, 9]), port: 1 },
            destination: Endpoint { address: Address::from([10, 1, 0, 10]), port: 443 },
            protocol: 6,
        };
        let mut challenges = Challenges::new([7; 16]);
        assert!(!challenges.has_sent(Time::ZERO));
        challenges.make(Time::ZERO, &key, &syn(1));
        assert!(challenges.has_sent(Time::ZERO + GOOD_FOR));
        assert!(!challenges.has_sent(Time::ZERO + GOOD_FOR + Duration::from_nanos(1)));
    }
}
