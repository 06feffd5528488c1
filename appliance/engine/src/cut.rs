//! Cuts an IPv4 packet to a link's MTU (RFC 791 section 3.2), when its sender lets us.

use smoltcp::wire::Ipv4Packet;

use crate::checksum::sum;
use crate::packet::Packet;
use crate::{Checksum, Frame};

/// Puts the whole transport checksum where the sender has left the pseudo-header's sum.
pub(crate) fn complete_checksum(frame: &mut Frame<'_>, packet: &Packet) {
    let packet = frame.bytes.get_mut(..packet.end);
    if packet.is_some_and(|packet| complete(packet, frame.offload.checksum)) {
        frame.offload.checksum = Checksum::Verified;
    }
}

/// The same for a frame without padding. Returns whether there was anything to do.
pub(crate) fn complete(frame: &mut [u8], checksum: Checksum) -> bool {
    let Checksum::Partial { start, offset } = checksum else { return false };
    let (start, field) = (usize::from(start), usize::from(start) + usize::from(offset));
    let Some(covered) = frame.get(start..) else { return false };
    let whole = match !sum(covered) {
        // RFC 768: zero would say that there is none.
        0 => u16::MAX,
        whole => whole,
    };
    let field = frame.get_mut(field..field + 2);
    field.map(|field| field.copy_from_slice(&whole.to_be_bytes())).is_some()
}

/// A part of an IPv4 packet that is cut.
#[derive(Debug)]
pub(crate) struct Fragment<'p> {
    header: &'p [u8],
    payload: &'p [u8],
    offset: usize,
    more: bool,
}

/// The fragments of a packet, in order, all but the last of one length; `None` where it can not be cut.
pub(crate) fn fragments(bytes: &[u8], mtu: u32) -> Option<impl Iterator<Item = Fragment<'_>>> {
    let view = Ipv4Packet::new_checked(bytes).ok()?;
    let header = usize::from(view.header_len());
    // Offsets count in units of eight bytes.
    let most = (mtu as usize).saturating_sub(header) & !7;
    let (first, more) = (usize::from(view.frag_offset()), view.more_frags());
    let (header, payload) = bytes.split_at(header);
    let parts = payload.len().div_ceil(most.max(1));
    let fragment = move |(part, payload)| {
        let offset = first + part * most;
        Fragment { header, payload, offset, more: more || part + 1 < parts }
    };
    (most > 0).then(|| payload.chunks(most).enumerate().map(fragment))
}

impl Fragment<'_> {
    /// Puts the fragment behind what is there: a link header, or one of another kind.
    pub(crate) fn append_to(&self, bytes: &mut Vec<u8>) {
        let at = bytes.len();
        bytes.extend_from_slice(self.header);
        bytes.extend_from_slice(self.payload);
        let mut view = Ipv4Packet::new_unchecked(&mut bytes[at..]);
        view.set_total_len((self.header.len() + self.payload.len()) as u16);
        view.set_frag_offset(self.offset as u16);
        view.set_more_frags(self.more);
        view.fill_checksum();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;
    use crate::packet::Parsed;
    use crate::{Offload, build};

    proptest! {
        #[test]
        fn parts_make_up_the_packet_and_fit(length in 0..4_000_usize, mtu in 68..1_500_u32) {
            let payload: Vec<u8> = (0..length).map(|i| i as u8).collect();
            let mut bytes = build::udp()
                .from("198.51.100.9:40000")
                .to("10.1.0.10:53")
                .payload(&payload)
                .frame();
            let frame = Frame { bytes: &mut bytes, offload: Offload::default() };
            let Ok(Parsed::Ip(packet)) = Packet::parse(&frame) else { unreachable!() };
            let whole = bytes[packet.transport..packet.end].to_vec();
            let mut put_together = Vec::new();
            let parts: Vec<_> = fragments(&bytes[14..packet.end], mtu).unwrap().collect();
            for (number, fragment) in parts.iter().enumerate() {
                let mut part = Vec::new();
                fragment.append_to(&mut part);
                let view = Ipv4Packet::new_checked(&part[..]).unwrap();
                prop_assert!(u32::from(view.total_len()) <= mtu);
                prop_assert!(view.verify_checksum());
                prop_assert_eq!(usize::from(view.frag_offset()), put_together.len());
                prop_assert_eq!(view.more_frags(), number + 1 < parts.len());
                put_together.extend_from_slice(&part[20..]);
            }
            prop_assert_eq!(put_together, whole);
        }
    }
}
