//! Makes sums right, without the engine's help: what is wrong with a frame is then what the fuzzer
//! has put there, and not that nobody looks at it.

use gabion_tests::network::NODE_MAC;

/// The sum of RFC 1071, not complemented.
fn sum(bytes: &[u8], start: u32) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])));
    let mut total = words.fold(start, |total, word| total + word);
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// Addresses the frame to the node; fills in the sums of the IPv4 header and of the transport, where
/// there is one behind the first header and all of it is there.
pub(crate) fn mend(frame: &mut [u8]) {
    if let Some(destination) = frame.first_chunk_mut::<6>() {
        *destination = NODE_MAC;
    }
    let (Some([high, low]), true) = (frame.get(12..14), frame.len() > 34) else { return };
    match u16::from_be_bytes([*high, *low]) {
        0x0800 => mend_ipv4(&mut frame[14..]),
        0x86dd => mend_ipv6(&mut frame[14..]),
        _ => {}
    }
}

/// The same for an IP packet.
pub(crate) fn mend_ipv4(packet: &mut [u8]) {
    let header = usize::from(packet[0] & 15) * 4;
    let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    if header < 20 || packet.len() < total || total < header {
        return;
    }
    packet[10..12].fill(0);
    let filled = !sum(&packet[..header], 0);
    packet[10..12].copy_from_slice(&filled.to_be_bytes());
    let fragmented = u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff != 0;
    if !fragmented {
        let protocol = packet[9];
        let addresses = u32::from(sum(&packet[12..20], 0));
        mend_transport(protocol, &mut packet[header..total], addresses);
    }
}

fn mend_ipv6(packet: &mut [u8]) {
    let Some(header) = packet.first_chunk::<40>().copied() else { return };
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let mut protocol = header[6];
    let Some(mut rest) = packet[40..].get_mut(..length) else { return };
    // Destination options and hop-by-hop options, as many as there are.
    while matches!(protocol, 0 | 60) {
        let Some([next, words]) = rest.first_chunk::<2>().copied() else { return };
        protocol = next;
        let length = 8 + usize::from(words) * 8;
        let Some((_, behind)) = rest.split_at_mut_checked(length) else { return };
        rest = behind;
    }
    mend_transport(protocol, rest, u32::from(sum(&header[8..40], 0)));
}

fn mend_transport(protocol: u8, segment: &mut [u8], addresses: u32) {
    let (at, pseudo) = match protocol {
        6 => (16, true),
        17 => (6, true),
        1 => (2, false),
        58 => (2, true),
        _ => return,
    };
    let zero_is_none = protocol == 17;
    if segment.len() < at + 2 || (zero_is_none && segment[6..8] == [0, 0]) {
        return;
    }
    segment[at..at + 2].fill(0);
    let start = if pseudo { addresses + u32::from(protocol) + segment.len() as u32 } else { 0 };
    let filled = match !sum(segment, start) {
        0 if zero_is_none => 0xffff,
        filled => filled,
    };
    segment[at..at + 2].copy_from_slice(&filled.to_be_bytes());
}
