use super::*;
use crate::packet::{Segment, TcpFlags};
use crate::{Offload, cut};

struct Sent {
    datagrams: Vec<Vec<u8>>,
    whole: Packet,
}

/// The packets inside of what a frame is wrapped into, each as a frame.
fn wrapped(builder: &build::FrameBuilder, mtu: u32) -> Result<Sent, TooBig> {
    let (mut bytes, mut out) = (builder.frame(), vec![1, 2, 3]);
    let mut frame = Frame { bytes: &mut bytes, offload: builder.offload() };
    let whole = parse(&frame);
    let stride = wrap(&mut out, &Wrapping::default(), &mut frame, &whole, mtu)?;
    let (mut sender, mut receiver) = peers();
    assert!(sender.stamp(&mut out, stride));
    let mut datagrams: Vec<_> = out.chunks(stride).map(<[u8]>::to_vec).collect();
    for datagram in &mut datagrams {
        assert!(datagram.len() <= HEADER + mtu as usize);
        let opened = receiver.check(NOW, datagram).unwrap();
        *datagram = opened.to_frame(datagram, [0; 6], [0; 6]).to_vec();
        if opened.wrapping.flags.has(Flags::UNSUMMED) {
            let undone = left_undone(datagram).unwrap();
            assert!(cut::complete(datagram, undone));
        }
    }
    Ok(Sent { datagrams, whole })
}

/// Parsed as they would come in: all checksums are verified.
fn packets(sent: &mut Sent) -> Vec<(Packet, &[u8])> {
    let parsed =
        |bytes: &mut Vec<u8>| parse(&Frame { bytes: &mut *bytes, offload: Offload::default() });
    let packets: Vec<_> = sent.datagrams.iter_mut().map(parsed).collect();
    packets.into_iter().zip(sent.datagrams.iter().map(Vec::as_slice)).collect()
}

fn any_bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 7 + at / 251) as u8).collect()
}

fn ends(builder: build::FrameBuilder, is_wide: bool) -> build::FrameBuilder {
    if is_wide { builder.from("[2001:db8::9]:443").to("[2001:db8:1::1]:80") } else { builder }
}

const CWR: u8 = 1 << 7;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The segments are what the host itself would have sent: the same bytes under the same numbers,
    /// what is said once said once.
    #[test]
    fn a_tcp_superframe_is_sent_in_segments(
        length in 1..20_000_usize, size in 1..1_600_u16, mtu in 1_280..1_500_u32, seq: u32,
        is_wide: bool, ends_it: bool, has_stamps: bool, is_reduced: bool, identification: u16,
    ) {
        let builder = ends(build::tcp(), is_wide).seq(seq).ack(9).psh().identification(identification);
        let builder = if ends_it { builder.fin() } else { builder };
        let builder = if has_stamps { builder.timestamp(5, 6) } else { builder };
        let size = size.max(length as u16 / 64);
        let payload = any_bytes(length);
        let mut builder = builder.payload(&payload).segment_size(size);
        if is_reduced {
            let flags = builder.frame()[if is_wide { 14 + 40 + 13 } else { 14 + 20 + 13 }];
            builder = builder.lie_transport(13, &[flags | CWR]);
        }
        let mut sent = wrapped(&builder, mtu).unwrap();
        let last = sent.datagrams.len() - 1;
        let first_length = sent.datagrams[0].len();
        let mut together = Vec::new();
        for (number, (packet, bytes)) in packets(&mut sent).into_iter().enumerate() {
            let Segment::Tcp(tcp) = packet.segment else { unreachable!() };
            prop_assert!(bytes.len() == first_length || number == last && bytes.len() < first_length);
            prop_assert!(tcp.payload <= u32::from(size));
            prop_assert_eq!(tcp.sequence, seq.wrapping_add(together.len() as u32));
            let is_last = number == last;
            let flags = TcpFlags { ack: true, psh: is_last, fin: ends_it && is_last, ..TcpFlags::default() };
            prop_assert_eq!(tcp.flags, flags);
            prop_assert_eq!(bytes[packet.transport + 13] & CWR != 0, is_reduced && number == 0);
            if !is_wide {
                let own = u16::from_be_bytes([bytes[18], bytes[19]]);
                prop_assert_eq!(own, identification.wrapping_add(number as u16));
            }
            etherparse::PacketHeaders::from_ethernet_slice(bytes).unwrap();
            together.extend_from_slice(&bytes[packet.end - tcp.payload as usize..packet.end]);
        }
        prop_assert_eq!(together, payload);
    }

    /// Datagrams are nobody's to join or to divide.
    #[test]
    fn a_udp_superframe_is_sent_in_its_datagrams(
        length in 1..20_000_usize, size in 1..1_600_u16, mtu in 1_280..1_500_u32, is_wide: bool,
        is_summed: bool,
    ) {
        let payload = any_bytes(length);
        let size = size.max(length as u16 / 64);
        let builder = ends(build::udp(), is_wide).payload(&payload).segment_size(size);
        let is_summed = is_summed || is_wide;
        let builder = if is_summed { builder } else { builder.without_checksum() };
        let headers = if is_wide { 48 } else { 28 };
        let sent = wrapped(&builder, mtu);
        if u32::from(size) + headers > mtu {
            prop_assert_eq!(sent.err(), Some(TooBig { mtu }));
            return Ok(());
        }
        let mut sent = sent.unwrap();
        let expected: Vec<_> = payload.chunks(size.into()).collect();
        let packets = packets(&mut sent);
        prop_assert_eq!(packets.len(), expected.len());
        for ((packet, bytes), expected) in packets.into_iter().zip(expected) {
            prop_assert_eq!(&bytes[packet.transport + 8..packet.end], expected);
            let length = usize::from(u16::from_be_bytes([bytes[packet.transport + 4], bytes[packet.transport + 5]]));
            prop_assert_eq!(length, expected.len() + 8);
        }
    }

    /// A packet goes whole where it fits; else it is cut, or its sender is told.
    #[test]
    fn a_packet_is_cut_only_where_its_sender_lets_us(
        length in 0..3_000_usize, mtu in 1_280..1_500_u32, is_wide: bool, dont_fragment: bool,
        is_partial: bool,
    ) {
        let payload = any_bytes(length);
        let builder = ends(build::udp(), is_wide).payload(&payload).dont_fragment(dont_fragment);
        let whole = builder.frame();
        let builder = if is_partial { builder.partial_checksum() } else { builder };
        let fits = whole.len() - 14 <= mtu as usize;
        let mut sent = match wrapped(&builder, mtu) {
            Ok(sent) => sent,
            Err(error) => {
                prop_assert_eq!(error, TooBig { mtu });
                prop_assert!(!fits && (dont_fragment || is_wide));
                return Ok(());
            }
        };
        if fits {
            prop_assert_eq!(sent.datagrams.len(), 1);
            prop_assert_eq!(&sent.datagrams[0][14..], &whole[14..]);
            return Ok(());
        }
        prop_assert!(!dont_fragment && !is_wide);
        let transport = sent.whole.transport;
        let mut together = Vec::new();
        for (packet, bytes) in packets(&mut sent) {
            prop_assert_eq!(packet.fragment.unwrap().offset as usize, together.len());
            together.extend_from_slice(&bytes[34..packet.end]);
        }
        prop_assert_eq!(&together, &whole[transport..]);
    }
}

/// As the card would segment them, in the order of the list, where they fit.
#[test]
fn segments_are_as_large_as_the_host_wants_them() {
    let builder = build::tcp().ack(1).payload(&[1; 10_000]).segment_size(1_340);
    let sent = wrapped(&builder, MTU).unwrap();
    assert_eq!(sent.datagrams.len(), 8);
    assert_eq!(sent.datagrams[0].len(), 14 + 40 + 1_340);
    assert_eq!(sent.datagrams[7].len(), 14 + 40 + 10_000 - 7 * 1_340);
}

/// A superframe without payload is no more than its headers.
#[test]
fn nothing_is_lost_of_a_superframe_that_carries_nothing() {
    let builder = build::tcp().ack(1).segment_size(1_340);
    assert_eq!(wrapped(&builder, MTU).unwrap().datagrams.len(), 1);
}

#[test]
fn memory_is_taken_once() {
    let builder = build::tcp().ack(1).payload(&vec![1; 60_000]).segment_size(1_340);
    let (mut bytes, mut out) = (builder.frame(), Vec::new());
    let mut frame = Frame { bytes: &mut bytes, offload: builder.offload() };
    let packet = parse(&frame);
    wrap(&mut out, &Wrapping::default(), &mut frame, &packet, MTU).unwrap();
    let (place, room) = (out.as_ptr(), out.capacity());
    wrap(&mut out, &Wrapping::default(), &mut frame, &packet, MTU).unwrap();
    assert_eq!((out.as_ptr(), out.capacity()), (place, room));
}

/// docs/cluster.md section 7: an outer IPv6 header fits too.
#[test]
fn links_of_1500_bytes_carry_packets_of_1420() {
    assert_eq!(inner_mtu(1_500), MTU);
}
