#![allow(clippy::unwrap_used)]

mod pieces;

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::packet::{Packet, Parsed};
use crate::{Frame, Time, build};

const NOW: Time = Time::ZERO;
const MTU: u32 = 1_420;

fn parse(frame: &Frame<'_>) -> Packet {
    let Ok(Parsed::Ip(packet)) = Packet::parse(frame) else { panic!("no packet") };
    packet
}

/// Two ends of which one sends and the other receives.
fn peers() -> (Tags, Tags) {
    let (mut one, mut other) = (Tags::default(), Tags::default());
    one.renew(NOW, 0, [1; 16], [2; 16]);
    other.renew(NOW, 0, [2; 16], [1; 16]);
    (one, other)
}

fn unstamped(wrapping: &Wrapping, builder: &build::FrameBuilder) -> (Vec<u8>, usize) {
    let (mut bytes, mut out) = (builder.frame(), Vec::new());
    let mut frame = Frame { bytes: &mut bytes, offload: builder.offload() };
    let packet = parse(&frame);
    let stride = wrap(&mut out, wrapping, &mut frame, &packet, MTU).unwrap();
    (out, stride)
}

fn datagram(sender: &mut Tags, wrapping: &Wrapping, builder: &build::FrameBuilder) -> Vec<u8> {
    let (mut out, stride) = unstamped(wrapping, builder);
    assert!(sender.stamp(&mut out, stride));
    out
}

fn query() -> build::FrameBuilder {
    build::udp().from("198.51.100.9:40000").to("10.1.0.10:53").payload(&[7; 200])
}

prop_compose! {
    fn any_wrapping()(flags in 0..8_u8, hops: u8, zone: u64, ask: u32, origin: u8) -> Wrapping {
        Wrapping { flags: Flags(flags), hops, zone: ZoneTag::new(zone), ask, origin: NodeId(origin) }
    }
}

fn any_packet() -> impl Strategy<Value = build::FrameBuilder> {
    (0..4_u8, 0..400_usize, any::<u32>()).prop_map(|(kind, length, seq)| {
        let payload = vec![seq as u8; length];
        let builder = match kind {
            0 => build::tcp().syn().mss(1_460).wscale(7).seq(seq),
            1 => build::udp(),
            2 => build::tcp().ack(seq).seq(seq).from("[2001:db8::9]:443").to("[2001:db8:1::1]:80"),
            _ => build::icmp_echo(),
        };
        builder.payload(&payload)
    })
}

proptest! {
    #[test]
    fn what_is_wrapped_is_opened(wrapping in any_wrapping(), builder in any_packet()) {
        let (mut sender, mut receiver) = peers();
        let mut datagram = datagram(&mut sender, &wrapping, &builder);
        let opened = receiver.check(NOW, &datagram).unwrap();
        prop_assert_eq!(opened.wrapping, wrapping);
        let frame = opened.to_frame(&mut datagram, [2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]);
        prop_assert_eq!(&*frame, &builder.frame()[..]);
        prop_assert_eq!(&datagram[WRAPPED_FRAME..], &builder.frame()[..]);
    }

    /// S7: what is not the peer's is refused, and takes nothing from what is.
    #[test]
    fn no_bit_that_is_covered_can_be_changed(
        wrapping in any_wrapping(), builder in any_packet(), at in any::<prop::sample::Index>(), bit in 0..8_u8,
    ) {
        let (mut sender, mut receiver) = peers();
        let whole = datagram(&mut sender, &wrapping, &builder);
        let mut changed = whole.clone();
        changed[at.index(whole.len().min(HEADER + 128))] ^= 1_u8 << bit;
        prop_assert!(receiver.check(NOW, &changed).is_err());
        prop_assert!(receiver.check(NOW, &whole).is_ok());
        prop_assert_eq!(receiver.check(NOW, &whole), Err(Refused::Replayed));
    }

    #[test]
    fn what_is_cut_off_or_added_to_is_refused(
        wrapping in any_wrapping(), builder in any_packet(), at in any::<prop::sample::Index>(),
    ) {
        let (mut sender, mut receiver) = peers();
        let mut whole = datagram(&mut sender, &wrapping, &builder);
        prop_assert!(receiver.check(NOW, &whole[..at.index(whole.len())]).is_err());
        whole.push(0);
        prop_assert_eq!(receiver.check(NOW, &whole), Err(Refused::Forged));
    }

    #[test]
    fn whatever_comes_is_no_peers(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let (_, mut receiver) = peers();
        prop_assert!(receiver.check(NOW, &bytes).is_err());
    }

    /// Another direction, another pair, another epoch: each has keys of its own.
    #[test]
    fn a_tag_under_another_key_is_refused(key: [u8; 16], epoch: u8) {
        let (mut sender, mut receiver) = peers();
        let whole = datagram(&mut sender, &Wrapping::default(), &query());
        prop_assert_eq!(sender.check(NOW, &whole), Err(Refused::Forged), "what it has sent itself");
        let mut stranger = Tags::default();
        stranger.renew(NOW, epoch, key, key);
        let forged = datagram(&mut stranger, &Wrapping::default(), &query());
        prop_assert_eq!(receiver.check(NOW, &forged), Err(Refused::Forged));
    }
}

/// With options before and behind the peer's, and a tag over all of it.
fn with_options(before: &[u8], behind: &[u8], change: impl Fn(&mut [u8])) -> Vec<u8> {
    let (plain, _) = unstamped(&Wrapping { hops: 1, ..Wrapping::default() }, &query());
    let (base, rest) = plain.split_at(size_of::<Base>());
    let (option, packet) = rest.split_at(size_of::<WrapOption>());
    let mut datagram = [base, before, option, behind, packet].concat();
    datagram[0] += ((before.len() + behind.len()) / WORD) as u8;
    change(&mut datagram);
    let tag_at = size_of::<Base>() + before.len() + size_of::<WrapOption>() - 8;
    let tag = tags::tag_of([1; 16], &datagram, tag_at, datagram.len() - packet.len());
    datagram[tag_at..tag_at + 8].copy_from_slice(&tag.to_be_bytes());
    datagram
}

/// An option of a class and kind that nobody knows, with so many words.
fn unknown(kind: u8, words: u8) -> Vec<u8> {
    [&[0x01, 0x02, kind, words][..], &vec![9; usize::from(words) * WORD]].concat()
}

#[test]
fn options_that_need_not_be_known_are_passed_over() {
    for (before, behind) in [(0, 0), (1, 0), (0, 1), (3, 31)] {
        let (_, mut receiver) = peers();
        let options = |words: u8| if words == 0 { Vec::new() } else { unknown(0x01, words) };
        let mut datagram = with_options(&options(before), &options(behind), |_| {});
        let opened = receiver.check(NOW, &datagram).unwrap();
        assert_eq!(opened.wrapping.hops, 1);
        let frame = opened.to_frame(&mut datagram, [2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]);
        let expected = query().frame();
        let (packet, padding) = frame.split_at(expected.len());
        assert_eq!(packet, expected);
        assert!(padding.iter().all(|byte| *byte == 0));
    }
}

/// RFC 8926 sections 3.4 and 3.5: what must not be ignored, although the tag is right.
#[test]
fn what_must_be_known_and_is_not_is_refused() {
    let refused = |datagram: Vec<u8>| {
        let (_, mut receiver) = peers();
        assert_eq!(receiver.check(NOW, &datagram), Err(Refused::Malformed), "{datagram:x?}");
    };
    refused(with_options(&unknown(0x81, 1), &[], |_| {}));
    refused(with_options(&[], &unknown(0x80, 0), |_| {}));
    let twice = with_options(&[], &[], |_| {})[8..HEADER].to_vec();
    refused(with_options(&[], &twice, |_| {}));
    refused(with_options(&[], &[], |bytes| bytes[0] |= 0x40));
    refused(with_options(&[], &[], |bytes| bytes[1] |= CONTROL));
    refused(with_options(&[], &[], |bytes| bytes[1] &= !HAS_CRITICAL));
    refused(with_options(&[], &[], |bytes| bytes[2..4].copy_from_slice(&[0x65, 0x58])));
    // Options that end behind the header's, or before their time.
    refused(with_options(&[], &unknown(0x01, 1), |bytes| bytes[HEADER + 3] = 2));
    refused(with_options(&[], &[], |bytes| bytes[11] = 4));
    refused(with_options(&[], &[], |bytes| bytes[0] = 0));
    refused(with_options(&[], &[], |bytes| bytes[0] = 0x3f));
    let no_packet = with_options(&[], &[], |_| {})[..HEADER].to_vec();
    refused(no_packet);
}

#[test]
fn keys_of_the_session_before_are_taken_for_ten_seconds() {
    let (mut sender, mut receiver) = peers();
    let [first, second, third] =
        [(); 3].map(|()| datagram(&mut sender, &Wrapping::default(), &query()));
    let later = NOW + Duration::from_secs(3_600);
    receiver.renew(later, 1, [4; 16], [3; 16]);
    assert!(receiver.check(later, &first).is_ok());
    assert_eq!(receiver.check(later, &first), Err(Refused::Replayed));
    let at = |seconds| later + Duration::from_secs(seconds);
    assert!(receiver.check(at(9), &second).is_ok());
    assert_eq!(receiver.check(at(10), &third), Err(Refused::Forged));
    sender.renew(later, 1, [3; 16], [4; 16]);
    // The other may not have the keys yet.
    sender.handle_timeout(later);
    let early = datagram(&mut sender, &Wrapping::default(), &query());
    assert!(receiver.check(at(9), &early).is_ok());
    sender.handle_timeout(at(1));
    let fourth = datagram(&mut sender, &Wrapping::default(), &query());
    assert!(receiver.check(at(10), &fourth).is_ok());
    receiver.forget(at(10));
    assert_eq!(receiver.check(at(10), &fourth), Err(Refused::Forged));
}

/// And nothing else: what its engine has wrapped had counters, which a copy of it has too.
#[test]
fn what_the_kernel_of_a_process_that_has_gone_wraps_is_taken_for_thirty_seconds() {
    let (sender, mut receiver) = peers();
    let packet = build::udp().from("198.51.100.7:4000").to("10.1.0.10:5000").frame();
    let key = flow::key(&packet[ETHERNET..]).unwrap();
    let header = sender.flow_header(NodeId(1), ZoneTag::default(), &key).unwrap();
    let datagram = [&header[..], &packet[ETHERNET..]].concat();
    assert!(receiver.check(NOW, &datagram).is_ok());
    receiver.forget(NOW);
    let at = |seconds| NOW + Duration::from_secs(seconds);
    assert!(receiver.check(at(5), &datagram).is_ok());
    // Said again by each refused attempt to reach it; and the next process has come.
    receiver.forget(at(10));
    receiver.renew(at(15), 0, [4; 16], [3; 16]);
    assert!(receiver.check(at(29), &datagram).is_ok());
    assert_eq!(receiver.check(at(30), &datagram), Err(Refused::Forged));
    let mut later = datagram;
    later[HEADER - 1] ^= 1;
    assert_eq!(receiver.check(at(29), &later), Err(Refused::Forged));
}

/// What is sent again is new: a copy of it that somebody took is not.
#[test]
fn a_packet_is_sent_again_under_another_counter() {
    let (mut sender, mut receiver) = peers();
    let mut bytes = datagram(&mut sender, &Wrapping::default(), &query());
    let first = bytes.clone();
    let stride = bytes.len();
    assert!(sender.stamp(&mut bytes, stride));
    assert_ne!(first, bytes);
    assert!(receiver.check(NOW, &bytes).is_ok() && receiver.check(NOW, &first).is_ok());
    assert!(!Tags::default().stamp(&mut bytes, stride), "without a session");
}
