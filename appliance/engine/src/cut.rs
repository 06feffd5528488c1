//! Cuts an IPv4 packet to a link's MTU (RFC 791 section 3.2), when its sender lets us.

use smoltcp::wire::{Ipv4Packet, checksum};

use crate::packet::Packet;
use crate::{Checksum, Frame};

/// Puts the whole transport checksum where the sender has left the pseudo-header's sum.
pub(crate) fn complete_checksum(frame: &mut Frame<'_>, packet: &Packet) {
    let Checksum::Partial { start, offset } = frame.offload.checksum else { return };
    let (start, field) = (usize::from(start), usize::from(start) + usize::from(offset));
    let Some(covered) = frame.bytes.get(start..packet.end) else { return };
    let sum = match !checksum::data(covered) {
        // RFC 768: zero would say that there is none.
        0 => u16::MAX,
        sum => sum,
    };
    if let Some(field) = frame.bytes.get_mut(field..field + 2) {
        field.copy_from_slice(&sum.to_be_bytes());
        frame.offload.checksum = Checksum::Verified;
    }
}

/// The fragments of the packet in `bytes`, in order, each a frame of its own.
pub(crate) fn fragments(bytes: &[u8], packet: &Packet, mtu: u32) -> Vec<Vec<u8>> {
    let Some(datagram) = bytes.get(packet.network..packet.end) else { return Vec::new() };
    let Ok(view) = Ipv4Packet::new_checked(datagram) else { return Vec::new() };
    let header = usize::from(view.header_len());
    // Offsets count in units of eight bytes.
    let most = (mtu as usize).saturating_sub(header) & !7;
    if most == 0 {
        return Vec::new();
    }
    let (offset, more) = (usize::from(view.frag_offset()), view.more_frags());
    let (link, payload) = (&bytes[..packet.network], &datagram[header..]);
    let parts = payload.len().div_ceil(most);
    payload
        .chunks(most)
        .enumerate()
        .map(|(part, chunk)| {
            let mut frame = [link, &datagram[..header], chunk].concat();
            let mut view = Ipv4Packet::new_unchecked(&mut frame[link.len()..]);
            view.set_total_len((header + chunk.len()) as u16);
            view.set_frag_offset((offset + part * most) as u16);
            view.set_more_frags(more || part + 1 < parts);
            view.fill_checksum();
            frame
        })
        .collect()
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
            let parts = fragments(&bytes, &packet, mtu);
            for (number, part) in parts.iter().enumerate() {
                let view = Ipv4Packet::new_checked(&part[14..]).unwrap();
                prop_assert!(u32::from(view.total_len()) <= mtu);
                prop_assert!(view.verify_checksum());
                prop_assert_eq!(usize::from(view.frag_offset()), put_together.len());
                prop_assert_eq!(view.more_frags(), number + 1 < parts.len());
                put_together.extend_from_slice(&part[34..]);
            }
            prop_assert_eq!(put_together, whole);
        }
    }
}
