//! Lowers the maximum segment size that hosts tell each other, so that full segments fit where packets are
//! longer than on the hosts' links: between the nodes of a cluster (docs/cluster.md section 7).

use smoltcp::wire::{IPV4_HEADER_LEN, IPV6_HEADER_LEN, TCP_HEADER_LEN};

use crate::checksum::Delta;
use crate::packet::{Packet, Segment};
use crate::rewrite::{Fields, Sum};
use crate::{Family, Frame};

/// RFC 9293 section 3.2: end of the list, a filler, and the maximum segment size with its length.
const END: u8 = 0;
const FILLER: u8 = 1;
const SIZE: u8 = 2;
const SIZE_LENGTH: u8 = 4;

/// Lowers the maximum segment size in a SYN to what fits into packets of `mtu` bytes. It is never raised,
/// and none is put in: what stands for one that is missing (RFC 9293 section 3.7.1) is smaller.
pub(crate) fn clamp(frame: &mut Frame<'_>, packet: &Packet, mtu: u32) {
    let Segment::Tcp(tcp) = packet.segment else { return };
    if !tcp.flags.syn {
        return;
    }
    // RFC 6691 section 2: without options of either header.
    let headers = TCP_HEADER_LEN
        + match packet.source.family() {
            Family::Ipv4 => IPV4_HEADER_LEN,
            Family::Ipv6 => IPV6_HEADER_LEN,
        };
    let most = mtu.saturating_sub(headers as u32).min(u16::MAX.into()) as u16;
    let Some((_, sum)) = Fields::of(packet, &frame.offload).checksum else { return };
    let header_end = packet.end - tcp.payload as usize;
    let Some(segment) = frame.bytes.get_mut(packet.transport..header_end) else { return };
    let mut at = TCP_HEADER_LEN;
    while let Some(option) = option_at(segment, at) {
        if option.kind == SIZE && option.length == usize::from(SIZE_LENGTH) {
            lower(segment, at + 2, most, sum);
        }
        at += option.length;
    }
}

struct TcpOption {
    kind: u8,
    length: usize,
}

/// `None` at the end, and where the rest makes no sense.
fn option_at(segment: &[u8], at: usize) -> Option<TcpOption> {
    let rest = segment.get(at..)?;
    let (&kind, rest) = rest.split_first()?;
    let length = match kind {
        END => return None,
        FILLER => 1,
        _ => usize::from(*rest.first()?),
    };
    (length > 0 && length <= rest.len() + 1).then_some(TcpOption { kind, length })
}

/// Writes a smaller value, and what it makes of the checksum.
fn lower(segment: &mut [u8], at: usize, most: u16, sum: Sum) {
    let Some(&size) = segment[at..].first_chunk::<2>() else { return };
    if u16::from_be_bytes(size) <= most {
        return;
    }
    // Checksums are of whole words, and options stand anywhere.
    let [a, b] = size;
    let [c, d] = most.to_be_bytes();
    let delta = if at.is_multiple_of(2) {
        Delta::between(&[a, b], &[c, d])
    } else {
        Delta::between(&[0, a, b, 0], &[0, c, d, 0])
    };
    segment[at..at + 2].copy_from_slice(&[c, d]);
    let Some(field) = segment[CHECKSUM..].first_chunk_mut::<2>() else { return };
    let old = u16::from_be_bytes(*field);
    let new = match sum {
        // What is left to hardware covers no options.
        Sum::PseudoHeader => old,
        Sum::Segment | Sum::Message | Sum::Datagram => delta.mend(old),
    };
    *field = new.to_be_bytes();
}

/// RFC 9293 section 3.1.
const CHECKSUM: usize = 16;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::build;
    use crate::packet::Parsed;

    fn clamped(builder: &build::FrameBuilder, mtu: u32) -> Vec<u8> {
        let mut bytes = builder.frame();
        let mut frame = Frame { bytes: &mut bytes, offload: builder.offload() };
        let Ok(Parsed::Ip(packet)) = Packet::parse(&frame) else { panic!("a packet") };
        clamp(&mut frame, &packet, mtu);
        bytes
    }

    fn syn(is_wide: bool, answers: bool, is_partial: bool) -> build::FrameBuilder {
        let tcp = build::tcp().syn().seq(7).window(60_000);
        let tcp = if is_wide { tcp.from("[2600::1]:1").to("[2600::2]:2") } else { tcp };
        let tcp = if answers { tcp.ack(9) } else { tcp };
        if is_partial { tcp.partial_checksum() } else { tcp }
    }

    /// One option, and so many fillers before it: it may stand at any place.
    fn with_size(tcp: build::FrameBuilder, fillers: usize, size: u16) -> build::FrameBuilder {
        let [a, b] = size.to_be_bytes();
        let options = [&vec![FILLER; fillers][..], &[SIZE, SIZE_LENGTH, a, b], &[3, 3, 7]].concat();
        tcp.tcp_options(&options)
    }

    proptest! {
        /// It is the frame that the host would have sent, had it known: to the last byte of the checksum.
        #[test]
        fn a_size_is_lowered_and_never_raised(
            size: u16, mtu in 68..9_000_u32, fillers in 0..20_usize, is_wide: bool, answers: bool,
            is_partial: bool,
        ) {
            let most = mtu.saturating_sub(if is_wide { 60 } else { 40 }) as u16;
            let sent = with_size(syn(is_wide, answers, is_partial), fillers, size);
            let expected = with_size(syn(is_wide, answers, is_partial), fillers, size.min(most));
            prop_assert_eq!(clamped(&sent, mtu), expected.frame());
        }

        /// Whatever else is there stays, even where it is a lie.
        #[test]
        fn other_options_are_left_alone(
            options in prop::collection::vec((0..20_u8, prop::collection::vec(any::<u8>(), 0..6)), 0..5),
            mtu in 68..1_500_u32,
        ) {
            let one = |(kind, body): &(u8, Vec<u8>)| match *kind {
                END | FILLER => vec![*kind],
                kind => [&[kind, body.len() as u8 + 2], &body[..]].concat(),
            };
            let is_size = |(kind, body): &(u8, Vec<u8>)| *kind == SIZE && body.len() == 2;
            let bytes: Vec<u8> = options.iter().flat_map(one).collect();
            let sent = syn(false, false, false).tcp_options(&bytes);
            let before = sent.frame();
            if Packet::parse(&Frame { bytes: &mut before.clone(), offload: sent.offload() }).is_err() {
                return Ok(());
            }
            let mut after = clamped(&sent, mtu);
            let is_changed = before != after;
            prop_assert!(!is_changed || options.iter().any(is_size));
            let frame = Frame { bytes: &mut after, offload: sent.offload() };
            prop_assert!(Packet::parse(&frame).is_ok());
        }
    }

    #[test]
    fn only_a_syn_says_how_large_segments_may_be() {
        let data = with_size(build::tcp().ack(1), 1, 1_460);
        assert_eq!(clamped(&data, 1_000), data.frame());
        let none = syn(false, false, false);
        assert_eq!(clamped(&none, 1_000), none.frame());
    }
}
