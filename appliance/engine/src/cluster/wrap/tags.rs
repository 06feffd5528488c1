//! Whether a datagram is a peer's: its tag, and that it has not been here before.
//!
//! The tag is SipHash-2-4 (J.-P. Aumasson and D. J. Bernstein, 2012) under a key that two nodes share for
//! one direction. It covers all options, the front of the packet and its length: what moves state. What
//! lies behind is the hosts' own and as safe as between them.

use std::hash::Hasher;
use std::time::Duration;

use siphasher::sip::SipHasher24;
use zerocopy::FromBytes;

use super::flow;
use super::{
    Base, Flags, FlowHeader, HEADER, NodeId, Opened, Read, Refused, WrapOption, Wrapping, ZoneTag,
    header,
};
use crate::{FlowKey, Time};

/// So much of the packet is covered: the longest headers of IPv4 and TCP are 120 bytes, and an ICMPv6
/// error has quoted the ports by then.
const COVERED: usize = 128;

/// How long the keys of the session before are taken (docs/cluster.md section 6).
const OLD_KEYS: Duration = Duration::from_secs(10);

/// How long what its kernel has wrapped is taken of a peer whose process has gone: it goes on until the next one knows
/// what others do, which takes some seconds (docs/cluster.md section 7).
const LEFT_KEYS: Duration = Duration::from_secs(30);

/// How long after a session was renewed its key is not used yet: one node has it before the other.
const NEW_KEYS: Duration = Duration::from_secs(1);

/// The keys of one peer.
#[derive(Debug, Default)]
pub(crate) struct Tags {
    send: Option<Sender>,
    /// Of a session that has just been renewed, and from when on: the peer may not have its keys yet.
    next: Option<(Sender, Time)>,
    receive: Option<Receiver>,
    /// Of the session before, and until when.
    before: Option<(Receiver, Time)>,
    /// Of the peer's process before, and until when.
    left: Option<(Receiver, Time)>,
}

struct Sender {
    epoch: u8,
    key: SipHasher24,
    /// The next one. A session ends before it has come round (docs/cluster.md section 6).
    counter: Option<u32>,
}

struct Receiver {
    epoch: u8,
    key: SipHasher24,
    window: Window,
}

impl Tags {
    /// A session stands; its keys take the place of those before, which are taken for a while longer.
    pub(crate) fn renew(&mut self, now: Time, epoch: u8, send: [u8; 16], receive: [u8; 16]) {
        let key = |key| SipHasher24::new_with_key(&key);
        let sender = Sender { epoch, key: key(send), counter: Some(0) };
        if self.send.is_some() {
            self.next = Some((sender, now + NEW_KEYS));
        } else {
            self.send = Some(sender);
        }
        let fresh = Receiver { epoch, key: key(receive), window: Window::default() };
        self.before = self.receive.replace(fresh).map(|before| (before, now + OLD_KEYS));
    }

    /// Takes the new key into use when it is time; whether it was.
    pub(crate) fn handle_timeout(&mut self, now: Time) -> bool {
        let due = self.next.take_if(|(_, from)| *from <= now);
        let is_due = due.is_some();
        self.send = due.map(|(sender, _)| sender).or(self.send.take());
        is_due
    }

    /// The peer's process has gone, and with it its keys. Of what the machine's kernel has been told to wrap, it goes on to.
    pub(crate) fn forget(&mut self, now: Time) {
        let left = self.receive.take().map(|receiver| (receiver, now + LEFT_KEYS));
        *self = Self { left: left.or(self.left.take()), ..Self::default() };
    }

    /// Makes what `wrap` has written the peer's, also what was sent before and is sent again: each of the
    /// datagrams of `stride` bytes gets a counter and a tag. Whether there is a key.
    #[must_use]
    pub(crate) fn stamp(&mut self, bytes: &mut [u8], stride: usize) -> bool {
        let Some(sender) = &mut self.send else { return false };
        bytes.chunks_mut(stride.max(1)).all(|datagram| sender.stamp(datagram))
    }

    /// What this node writes before each packet of a flow that comes in by a zone here.
    pub(crate) fn flow_header(
        &self,
        from: NodeId,
        zone: ZoneTag,
        key: &FlowKey,
    ) -> Option<FlowHeader> {
        let Sender { epoch, key: secret, .. } = self.send.as_ref()?;
        Some(flow_header(*secret, *epoch, from, zone, key))
    }

    /// What the peer writes there.
    pub(crate) fn expected(
        &self,
        from: NodeId,
        zone: ZoneTag,
        key: &FlowKey,
    ) -> Option<FlowHeader> {
        let Receiver { epoch, key: secret, .. } = self.receive.as_ref()?;
        Some(flow_header(*secret, *epoch, from, zone, key))
    }

    /// Whether a datagram is the peer's and new.
    pub(crate) fn check(&mut self, now: Time, datagram: &[u8]) -> Result<Opened, Refused> {
        let read = Read::new(datagram)?;
        let flow = match read.wrapping.flags.has(Flags::FLOW) {
            true if read.is_of_flow() => Some(flow::key(&datagram[HEADER..])?),
            true => return Err(Refused::Malformed),
            false => None,
        };
        let is_good = |(_, until): &&mut (Receiver, Time)| now < *until;
        let before = self.before.as_mut().filter(is_good);
        let left = self.left.as_mut().filter(is_good).filter(|_| flow.is_some());
        let earlier = before.into_iter().chain(left).map(|(receiver, _)| receiver);
        let receiver = self
            .receive
            .as_mut()
            .into_iter()
            .chain(earlier)
            .filter(|receiver| receiver.epoch == read.epoch)
            // One comparison of whole words tells nothing by the time that it takes.
            .find(|receiver| match flow {
                Some(key) => flow_tag(receiver.key, datagram, &key) == read.tag,
                None => tag(receiver.key, datagram, read.tag_at, read.inner) == read.tag,
            })
            .ok_or(Refused::Forged)?;
        if flow.is_some() {
            return Ok(read.opened());
        }
        if receiver.window.take(read.counter) { Ok(read.opened()) } else { Err(Refused::Replayed) }
    }
}

impl Sender {
    fn stamp(&mut self, datagram: &mut [u8]) -> bool {
        let Some(counter) = self.counter else { return false };
        self.counter = counter.checked_add(1);
        let Some(bytes) = datagram.get_mut(size_of::<Base>()..HEADER) else { return false };
        let Ok(option) = WrapOption::mut_from_bytes(bytes) else { return false };
        option.epoch = self.epoch;
        option.counter = counter.into();
        let tag = tag(self.key, datagram, HEADER - size_of::<u64>(), HEADER);
        datagram[HEADER - size_of::<u64>()..HEADER].copy_from_slice(&tag.to_be_bytes());
        true
    }
}

fn flow_header(
    secret: SipHasher24,
    epoch: u8,
    origin: NodeId,
    zone: ZoneTag,
    key: &FlowKey,
) -> FlowHeader {
    let wrapping = Wrapping { flags: Flags::FLOW, zone, origin, ..Wrapping::default() };
    let mut bytes = header(&wrapping, key.source.address.family());
    if let Ok(option) = WrapOption::mut_from_bytes(&mut bytes[size_of::<Base>()..]) {
        option.epoch = epoch;
    }
    let tag = flow_tag(secret, &bytes, key);
    bytes[HEADER - size_of::<u64>()..].copy_from_slice(&tag.to_be_bytes());
    bytes
}

/// Of all packets of a flow: the header and the key. A superframe that is cut on its way has it in each of its segments.
fn flow_tag(mut hasher: SipHasher24, header: &[u8], key: &FlowKey) -> u64 {
    const FRONT: usize = HEADER - size_of::<u64>();
    let mut covered = [0; FRONT + 2 * (16 + 2) + 1];
    covered[..FRONT].copy_from_slice(&header[..FRONT]);
    for (place, endpoint) in [key.source, key.destination].into_iter().enumerate() {
        let at = FRONT + place * 18;
        covered[at..at + 16].copy_from_slice(&endpoint.address.octets());
        covered[at + 16..at + 18].copy_from_slice(&endpoint.port.to_be_bytes());
    }
    covered[FRONT + 36] = key.protocol;
    hasher.write(&covered);
    hasher.finish()
}

/// Of a datagram whose tag and whose packet stand there.
fn tag(mut hasher: SipHasher24, datagram: &[u8], tag_at: usize, inner: usize) -> u64 {
    let (header, packet) = datagram.split_at(inner);
    let behind = &header[tag_at + size_of::<u64>()..];
    let front = packet.get(..COVERED).unwrap_or(packet);
    let length = (packet.len() as u32).to_be_bytes();
    // In one piece, which is hashed in half the time that four take: options of newer members are rare.
    const FIXED: usize = HEADER - size_of::<u64>();
    let mut covered = [0; FIXED + COVERED + size_of::<u32>()];
    if let (Ok(header), [], COVERED) =
        (<&[u8; FIXED]>::try_from(&header[..tag_at]), behind, front.len())
    {
        let (fixed, rest) = covered.split_at_mut(FIXED);
        fixed.copy_from_slice(header);
        let (packet, end) = rest.split_at_mut(COVERED);
        packet.copy_from_slice(front);
        end.copy_from_slice(&length);
        hasher.write(&covered);
    } else {
        for part in [&header[..tag_at], behind, front, &length] {
            hasher.write(part);
        }
    }
    hasher.finish()
}

/// Which counters have been here, of the last so many (RFC 6479): a ring of words, of which one may be
/// partly ahead.
#[derive(Debug, Default)]
struct Window {
    highest: u32,
    seen: [u64; WORDS as usize],
}

const WORDS: u32 = 16;
/// As far back a counter is known.
const KNOWN: u32 = (WORDS - 1) * u64::BITS;

impl Window {
    /// Whether the counter has not been here.
    fn take(&mut self, counter: u32) -> bool {
        let (word, last) = (counter / u64::BITS, self.highest / u64::BITS);
        if counter > self.highest {
            for passed in (last + 1..=word).rev().take(WORDS as usize) {
                self.seen[(passed % WORDS) as usize] = 0;
            }
            self.highest = counter;
        } else if self.highest - counter >= KNOWN {
            return false;
        }
        let (seen, bit) = (&mut self.seen[(word % WORDS) as usize], 1 << (counter % u64::BITS));
        let is_new = *seen & bit == 0;
        *seen |= bit;
        is_new
    }
}

/// The keys stay secrets.
impl std::fmt::Debug for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sender(epoch {}, {:?})", self.epoch, self.counter)
    }
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Receiver(epoch {}, {})", self.epoch, self.window.highest)
    }
}

#[cfg(test)]
pub(super) fn tag_of(key: [u8; 16], datagram: &[u8], tag_at: usize, inner: usize) -> u64 {
    tag(SipHasher24::new_with_key(&key), datagram, tag_at, inner)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// In any order, with gaps: each counter is taken once, and one that is not far back is taken.
        #[test]
        fn a_counter_is_taken_once(
            steps in prop::collection::vec(prop_oneof![
                4 => -70_i64..70, 2 => -1_100_i64..1_100, 1 => 0_i64..100_000,
            ], 1..400),
        ) {
            let (mut window, mut taken) = (Window::default(), BTreeSet::new());
            let mut highest = 0_i64;
            for step in steps {
                let counter = (highest + step).max(0);
                let is_known = highest - counter < i64::from(KNOWN);
                let expected = is_known && taken.insert(counter);
                prop_assert_eq!(window.take(counter as u32), expected, "{}", counter);
                highest = highest.max(counter);
            }
        }
    }

    #[test]
    fn the_last_counters_are_taken() {
        let mut window = Window::default();
        assert!(window.take(0) && window.take(u32::MAX) && window.take(u32::MAX - 1));
        assert!(!window.take(u32::MAX) && !window.take(0));
    }
}
