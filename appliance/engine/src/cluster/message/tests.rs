#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::super::record::Translation;
use super::super::wrap::ZoneTag;
use super::*;
use crate::flows::Tracker;
use crate::tcp::{StoredTcp, TcpTracker};
use crate::{Address, Endpoint, FlowKey};

/// No message is longer: a datagram has room for one where it has room for so many bytes.
const LONGEST: usize = 256;

fn endpoint(wide: bool) -> impl Strategy<Value = Endpoint> {
    (any::<[u8; 16]>(), any::<u16>()).prop_map(move |(octets, port)| {
        let address = match octets.first_chunk::<4>() {
            Some(short) if !wide => Address::from(*short),
            // No IPv4 address in the form of an IPv6 one gets so far.
            _ => Address::from([&[0x26], &octets[1..]].concat().try_into().unwrap_or(octets)),
        };
        Endpoint { address, port }
    })
}

fn key(protocol: u8) -> impl Strategy<Value = FlowKey> {
    any::<bool>()
        .prop_flat_map(|wide| (endpoint(wide), endpoint(wide)))
        .prop_map(move |(source, destination)| FlowKey { source, destination, protocol })
}

fn pair() -> impl Strategy<Value = Pair> {
    any::<u8>().prop_flat_map(key).prop_map(Pair::from)
}

fn node() -> impl Strategy<Value = NodeId> {
    (1..=NodeId::MAX).prop_map(NodeId)
}

fn claim() -> impl Strategy<Value = Claim> {
    let rank = prop::sample::select(vec![
        Rank::Copy,
        Rank::Closed,
        Rank::Opening,
        Rank::Answered,
        Rank::Open,
    ]);
    (rank, any::<u64>(), node(), prop::option::of(any::<u64>())).prop_map(
        |(rank, term, owner, birth)| {
            let term = Term(term);
            Claim { rank, term, owner, birth: birth.map_or(Birth::of(term, owner), Birth) }
        },
    )
}

fn end() -> impl Strategy<Value = End> {
    any::<(u64, u64, bool)>().prop_map(|(birth, term, is_over)| End {
        birth: Birth(birth),
        term: Term(term),
        is_over,
    })
}

fn tracker() -> impl Strategy<Value = (u8, Tracker)> {
    let words = any::<[u32; StoredTcp::WORDS]>();
    prop_oneof![
        words.prop_map(|words| (
            6,
            // Twice: not all bits mean something.
            Tracker::Tcp(TcpTracker::from(&StoredTcp::from(&TcpTracker::from(
                &StoredTcp::from_words(words)
            ))))
        )),
        any::<bool>().prop_map(|replied| (17, Tracker::Udp { replied })),
        any::<[bool; 2]>().prop_map(|[replied, both_ask]| (1, Tracker::Icmp { replied, both_ask })),
        any::<bool>().prop_map(|replied| (132, Tracker::Association { replied })),
        any::<bool>().prop_map(|replied| (47, Tracker::Other { replied })),
    ]
}

fn record() -> impl Strategy<Value = Record> {
    let translation = prop::sample::select(vec![
        Translation::None,
        Translation::Mapping,
        Translation::SharedPort,
    ]);
    let numbers = (any::<[u64; 2]>(), any::<[u32; 2]>());
    (tracker(), any::<[[u8; 3]; 2]>(), [node(), node()], numbers, translation).prop_flat_map(
        |((protocol, tracker), zones, legs, ([birth, term], [version, remaining]), translation)| {
            key(protocol).prop_map(move |original| Record {
                original,
                reply: original.reversed(),
                birth: Birth(birth),
                term: Term(term),
                version,
                zones: zones.map(ZoneTag::from_bytes),
                legs,
                tracker,
                translation,
                remaining,
            })
        },
    )
}

pub(in crate::cluster) fn message() -> impl Strategy<Value = Message> {
    let heartbeat =
        (any::<[u64; 3]>(), any::<[u32; 2]>(), any::<u16>(), any::<u8>(), any::<bool>()).prop_map(
            |([incarnation, policy, clock], [number, losses], heard, state, told)| {
                let (heard, clock) = (View::from_bits(heard), Term(clock));
                Message::Heartbeat(Heartbeat {
                    number,
                    state,
                    told,
                    incarnation,
                    losses,
                    heard,
                    policy,
                    clock,
                })
            },
        );
    let registration = (pair(), prop::option::of(pair()), claim(), any::<u32>()).prop_map(
        |(key, first, claim, round)| Message::Register(Registration { key, first, claim, round }),
    );
    let term = || any::<u64>().prop_map(Term);
    prop_oneof![
        heartbeat,
        any::<u32>().prop_map(Message::Number),
        (any::<u32>(), any::<u64>())
            .prop_map(|(highest, before)| Message::Acknowledgement { highest, before }),
        registration,
        (pair(), claim()).prop_map(|(key, claim)| Message::Owned { key, claim }),
        (pair(), end()).prop_map(|(key, end)| Message::Ended { key, end }),
        (pair(), end()).prop_map(|(key, end)| Message::Gone { key, end }),
        (pair(), term()).prop_map(|(key, term)| Message::Elsewhere { key, term }),
        record().prop_map(Message::Record),
        record().prop_map(Message::Handover),
        (pair(), any::<bool>(), term()).prop_map(|(key, accepted, term)| Message::Taken {
            key,
            accepted,
            term
        }),
        (any::<u32>(), pair(), node(), term()).prop_map(|(ask, key, owner, term)| Message::Hint {
            ask,
            key,
            owner,
            term
        }),
        any::<u32>().prop_map(|ask| Message::Granted { ask }),
        (any::<u32>(), pair()).prop_map(|(ask, key)| Message::NotMine { ask, key }),
        (any::<u64>(), any::<u32>()).prop_map(|(buckets, round)| Message::Told { buckets, round }),
    ]
}

fn datagram(said: &[Message]) -> Vec<u8> {
    let mut bytes = Vec::new();
    said.iter().for_each(|message| message.write(&mut bytes));
    bytes
}

proptest! {
    #[test]
    fn what_is_said_is_heard(said in prop::collection::vec(message(), 0..8)) {
        let heard: Result<Vec<Message>, Malformed> = messages(&datagram(&said)).collect();
        prop_assert_eq!(heard, Ok(said));
    }

    #[test]
    fn no_message_is_longer_than_its_room(said in message()) {
        prop_assert!(datagram(&[said]).len() <= LONGEST);
    }

    /// S9: what a later version adds that one need not know is passed over.
    #[test]
    fn types_that_need_not_be_known_are_skipped(
        said in prop::collection::vec(message(), 0..4),
        kind in 20..FIRST_REQUIRED, value in prop::collection::vec(any::<u8>(), 0..40), at in 0..4_usize,
    ) {
        let (before, after) = said.split_at(at.min(said.len()));
        let mut bytes = datagram(before);
        bytes.push(kind);
        bytes.extend_from_slice(&(value.len() as u16).to_be_bytes());
        bytes.extend_from_slice(&value);
        bytes.extend_from_slice(&datagram(after));
        let heard: Result<Vec<Message>, Malformed> = messages(&bytes).collect();
        prop_assert_eq!(heard, Ok(said));
    }

    #[test]
    fn types_that_must_be_known_refuse_the_datagram(
        kind in ELSEWHERE + 20..=u8::MAX, value in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut bytes = vec![kind];
        bytes.extend_from_slice(&(value.len() as u16).to_be_bytes());
        bytes.extend_from_slice(&value);
        prop_assert_eq!(messages(&bytes).next(), Some(Err(Malformed)));
    }

    /// S9: values may grow.
    #[test]
    fn what_a_later_version_adds_to_a_value_is_not_looked_at(
        said in message(), more in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let mut bytes = datagram(&[said]);
        bytes.extend_from_slice(&more);
        let length = (bytes.len() - 3) as u16;
        bytes[1..3].copy_from_slice(&length.to_be_bytes());
        prop_assert_eq!(messages(&bytes).collect::<Vec<_>>(), [Ok(said)]);
    }

    #[test]
    fn a_datagram_that_was_cut_is_malformed_or_ends_sooner(
        said in prop::collection::vec(message(), 1..4), cut in any::<prop::sample::Index>(),
    ) {
        let bytes = datagram(&said);
        let cut = &bytes[..cut.index(bytes.len())];
        let heard: Vec<_> = messages(cut).collect();
        let sound = heard.iter().take_while(|heard| heard.is_ok()).count();
        prop_assert!(sound < said.len());
        for (heard, said) in heard[..sound].iter().zip(&said) {
            prop_assert_eq!(heard, &Ok(*said));
        }
    }

    #[test]
    fn any_bytes_can_be_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let heard: Vec<_> = messages(&bytes).collect();
        prop_assert!(heard.len() <= bytes.len());
        prop_assert!(heard.iter().rev().skip(1).all(|heard| heard.is_ok()));
    }
}
