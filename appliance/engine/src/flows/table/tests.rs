#![allow(clippy::unwrap_used)]

use std::collections::HashMap;

use gabion_rules::{NatId, RuleId, ZoneId};
use proptest::prelude::*;

use super::*;
use crate::event::FlowId;
use crate::flows::{DestinationChoice, Side, SourceChoice, Tracker};
use crate::measure::bare;
use crate::nat::MappingId;
use crate::packet::{TcpFlags, TcpSegment};
use crate::tcp::TcpTracker;
use crate::translate::Lease;
use crate::{InterfaceId, Time, Usage};

/// Keys that share parts with each other; every third is IPv6.
fn key(number: u8) -> FlowKey {
    let endpoint = |host: u8, port: u16| {
        let address = if number.is_multiple_of(3) {
            Address::from([0x26, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host])
        } else {
            Address::from([10, 0, 0, host])
        };
        Endpoint { address, port }
    };
    FlowKey {
        source: endpoint(number % 4, u16::from(number / 16)),
        destination: endpoint(100 + number / 4 % 4, 443),
        protocol: 17,
    }
}

fn flow(id: u64, original: FlowKey, reply: FlowKey) -> Flow {
    Flow { id: FlowId(id), ..bare(original, reply) }
}

proptest! {
    /// Against a map of keys and one of slots: what is found is what was put there last, up to the
    /// last place and after any removal.
    ///
    /// Covers: 3.9
    #[test]
    fn table_is_a_map_of_both_keys(
        steps in prop::collection::vec((0..3_u8, 0..64_u8, 64..128_u8, 0..16_usize), 0..400),
    ) {
        let mut table = FlowTable::new(12, [1; 16]);
        let mut keys: HashMap<FlowKey, (Slot, Direction)> = HashMap::new();
        let mut live: Vec<(Slot, FlowId)> = Vec::new();
        for (number, (what, original, reply, which)) in (1..).zip(steps) {
            // One family each.
            let reply = reply / 3 * 3 + original % 3;
            let (original, reply) = (key(original), key(reply).reversed());
            let is_free = !keys.contains_key(&original) && !keys.contains_key(&reply);
            if what > 0 && is_free && original != reply {
                let slot = table.insert(&flow(number, original, reply));
                prop_assert_eq!(slot.is_none(), live.len() == 12);
                if let Some(slot) = slot {
                    keys.insert(original, (slot, Direction::Original));
                    keys.insert(reply, (slot, Direction::Reply));
                    live.push((slot, FlowId(number)));
                }
            } else if what == 0 && which < live.len() {
                let (slot, id) = live.swap_remove(which);
                let gone = table.remove(slot).unwrap();
                prop_assert_eq!(gone.id, id);
                keys.remove(&gone.original);
                keys.remove(&gone.reply);
                prop_assert!(table.remove(slot).is_none());
            }
            for number in 0..132 {
                for key in [key(number), key(number).reversed()] {
                    prop_assert_eq!(table.find(&key), keys.get(&key).copied());
                }
            }
            for (slot, id) in &live {
                prop_assert_eq!(table[*slot].id(), *id);
            }
            prop_assert_eq!(table.len() as usize, live.len());
            prop_assert_eq!(table.is_full(), live.len() == 12);
        }
    }

    /// What is put away is what comes out.
    #[test]
    fn nothing_of_a_flow_is_lost(
        (original, reply) in (0..64_u8, 64..128_u8),
        numbers in any::<[u64; 3]>(), counts in any::<[(u32, u16, u64); 2]>(),
        ids in any::<[u16; 5]>(), choice in 0..9_u8, mapping in prop::option::of(0..1_u32 << 24),
        marks in any::<[bool; 5]>(), kind in 0..5_u8,
    ) {
        let reply = reply / 3 * 3 + original % 3;
        let usage = counts.map(|(low, high, bytes)| {
            Usage { packets: u64::from(high) << 32 | u64::from(low), bytes }
        });
        let side = |at: usize| Side { ingress: InterfaceId(ids[at]), hop: None, usage: usage[at] };
        let nat = NatId(ids[2] % 60_000);
        let [half_open, expendable, logged, is_from_own_address, replied] = marks;
        let syn = TcpSegment { sequence: numbers[1] as u32, ..SYN };
        let flow = Flow {
            sides: [side(0), side(1)],
            admission: Admission {
                generation: Generation(numbers[0]),
                from: ZoneId(ids[3]),
                to: ZoneId(ids[4]),
                rule: RuleId(counts[0].0),
                destination: [
                    DestinationChoice::AsSent,
                    DestinationChoice::Mapping,
                    DestinationChoice::Rule(nat),
                ][usize::from(choice % 3)],
                source: [SourceChoice::AsSent, SourceChoice::Hairpin, SourceChoice::Rule(nat)]
                    [usize::from(choice / 3)],
            },
            tracker: match kind {
                0 => Tracker::Tcp(TcpTracker::open(&syn)),
                1 => Tracker::Udp { replied },
                2 => Tracker::Icmp { replied, both_ask: logged },
                3 => Tracker::Association { replied },
                _ => Tracker::Other { replied },
            },
            half_open,
            expendable,
            logged,
            is_from_own_address,
            lease: match mapping {
                Some(id) => Lease::Mapping(MappingId(id)),
                None if replied => Lease::SharedPort(logged.then_some(nat)),
                None => Lease::Nothing,
            },
            guest_of: mapping.filter(|_| logged).map(MappingId),
            epoch: counts[1].0,
            opened: Time::from_nanos(numbers[1]),
            expires: Time::from_nanos(numbers[2]),
            ..flow(numbers[2], key(original), key(reply).reversed())
        };
        let mut table = FlowTable::new(4, [1; 16]);
        let slot = table.insert(&flow).unwrap();
        prop_assert_eq!(table.read(slot).unwrap(), flow);
        prop_assert_eq!(table.remove(slot).unwrap(), flow);
    }
}

const SYN: TcpSegment = TcpSegment {
    source_port: 1,
    destination_port: 2,
    sequence: 0,
    acknowledgement: 0,
    flags: TcpFlags { syn: true, ack: false, fin: false, rst: false, psh: false, urg: false },
    window: 7,
    payload: 3,
    window_scale: Some(9),
};

#[test]
fn generations_are_told_apart_beyond_four_thousand_million() {
    let mut table = FlowTable::new(4, [1; 16]);
    let generations = [1, u64::from(u32::MAX), u64::from(u32::MAX) + 1, 1 << 32 | 5];
    let slots: Vec<Slot> = (0..)
        .zip(generations)
        .map(|(number, generation)| {
            let mut flow = flow(1, key(number * 3 + 1), key(100 + number * 3).reversed());
            flow.admission.generation = Generation(generation);
            table.insert(&flow).unwrap()
        })
        .collect();
    for (slot, generation) in slots.into_iter().zip(generations).skip(1) {
        assert_eq!(table.read(slot).unwrap().admission.generation, Generation(generation));
    }
}

/// Each key of a full table is found, in turn and in a batch, and none that is not there.
///
/// Covers: 4787-11, 3.9
#[test]
fn lookups_do_not_depend_on_how_full_the_table_is() {
    const CAPACITY: u32 = 60_000;
    let keys = |number: u32| {
        let [_, b, c, d] = number.to_be_bytes();
        let client = Endpoint { address: Address::from([10, b, c, d]), port: 5_000 };
        let outside = Endpoint { address: Address::from([203, 0, 113, 1]), port: number as u16 };
        let server = Endpoint { address: Address::from([198, 51, 100, 7]), port: 53 };
        let original = FlowKey { source: client, destination: server, protocol: 17 };
        (original, FlowKey { source: server, destination: outside, protocol: 17 })
    };
    let mut table = FlowTable::new(CAPACITY, [1; 16]);
    for (number, percent) in (0..CAPACITY).map(|number| (number, number * 100 / CAPACITY)) {
        let (original, reply) = keys(number);
        assert!(table.insert(&flow(number.into(), original, reply)).is_some(), "{percent} %");
    }
    assert!(table.is_full());
    let (original, reply) = keys(CAPACITY);
    assert!(table.insert(&flow(0, original, reply)).is_none());
    for number in 0..CAPACITY {
        let (original, reply) = keys(number);
        let [(slot, Direction::Original), (same, Direction::Reply)] =
            [original, reply].map(|key| table.find(&key).unwrap())
        else {
            panic!("{number} is found the wrong way round");
        };
        assert_eq!((slot, table[slot].id()), (same, FlowId(number.into())));
        assert_eq!(table.find(&FlowKey { protocol: 6, ..original }), None);
        assert_eq!(table.find(&reply.reversed()), None);
    }
}

#[test]
fn memory_is_taken_in_pieces_before_the_first_flow_and_not_after() {
    let mut table = FlowTable::new(200_000, [1; 16]);
    let room = table.entries.capacity();
    assert_eq!(table.find(&key(1)), None);
    let mut turns = 0;
    table.take_memory(|| turns += 1);
    assert!(turns > 3, "{turns}");
    assert_eq!((table.len(), table.slots(), table.entries.capacity()), (0, 0, room));
    let (original, reply) = (key(1), key(70).reversed());
    let slot = table.insert(&flow(7, original, reply)).unwrap();
    table.take_memory(|| panic!("there is a flow"));
    assert_eq!(table.find(&reply), Some((slot, Direction::Reply)));
}
