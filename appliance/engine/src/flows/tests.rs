#![allow(clippy::unwrap_used)]

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::{Endpoint, Time};

fn key(number: u8) -> FlowKey {
    let endpoint =
        |host: u8, port: u16| Endpoint { address: Address::from([10, 0, 0, host]), port };
    FlowKey {
        source: endpoint(number % 4, u16::from(number / 16)),
        destination: endpoint(100 + number / 4 % 4, 443),
        protocol: 17,
    }
}

fn flow(id: u64, original: FlowKey, reply: FlowKey) -> Flow {
    let side = Side {
        ingress: InterfaceId(0),
        rewrite: Rewrite::default(),
        hop: Hop::UNKNOWN,
        usage: Usage::default(),
    };
    Flow {
        id: FlowId(id),
        original,
        reply,
        sides: [side, side],
        admission: Admission {
            generation: Generation(1),
            from: ZoneId(0),
            to: ZoneId(1),
            rule: RuleId(0),
            destination: DestinationChoice::AsSent,
            source: SourceChoice::AsSent,
        },
        tracker: Tracker::Udp { replied: false },
        half_open: false,
        logged: false,
        lease: Lease::Nothing,
        guest_of: None,
        is_from_own_address: false,
        epoch: 1,
        opened: Time::ZERO,
        expires: Time::ZERO,
    }
}

proptest! {
    /// Against a map of keys and one of slots: what is found is what was put there last.
    #[test]
    fn table_is_a_map_of_both_keys(
        steps in prop::collection::vec((any::<bool>(), 0..64_u8, 64..128_u8, 0..16_usize), 0..400),
    ) {
        let mut table = FlowTable::new(12, [1; 16]);
        let mut keys: HashMap<FlowKey, (Slot, Direction)> = HashMap::new();
        let mut live: Vec<(Slot, FlowId)> = Vec::new();
        for (number, (insert, original, reply, which)) in (1..).zip(steps) {
            let (original, reply) = (key(original), key(reply).reversed());
            if insert && !keys.contains_key(&original) && !keys.contains_key(&reply) {
                let slot = table.insert(flow(number, original, reply));
                prop_assert_eq!(slot.is_none(), live.len() == 12);
                if let Some(slot) = slot {
                    keys.insert(original, (slot, Direction::Original));
                    keys.insert(reply, (slot, Direction::Reply));
                    live.push((slot, FlowId(number)));
                }
            } else if !insert && which < live.len() {
                let (slot, id) = live.swap_remove(which);
                let gone = table.remove(slot).unwrap();
                prop_assert_eq!(gone.id, id);
                keys.remove(&gone.original);
                keys.remove(&gone.reply);
                prop_assert!(table.remove(slot).is_none());
            }
            for number in 0..128 {
                for key in [key(number), key(number).reversed()] {
                    prop_assert_eq!(table.find(&key), keys.get(&key).copied());
                }
            }
            for (slot, id) in &live {
                prop_assert_eq!(table[*slot].id, *id);
            }
            prop_assert_eq!(table.len() as usize, live.len());
            prop_assert_eq!(table.is_full(), live.len() == 12);
        }
    }
}
