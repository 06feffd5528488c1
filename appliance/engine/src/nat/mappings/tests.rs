#![allow(clippy::unwrap_used)]

use super::*;
use crate::Address;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn endpoint(host: u8, port: u16) -> Endpoint {
    Endpoint { address: Address::from([10, 0, 0, host]), port }
}

/// Hosts with odd numbers have IPv6 addresses.
fn either(host: u8, port: u16) -> Endpoint {
    let mut long = [0xfd; 16];
    long[15] = host;
    let address = if host % 2 == 1 { Address::from(long) } else { endpoint(host, 0).address };
    Endpoint { address, port }
}

fn mapped(internal: Endpoint, external: Endpoint, protocol: u8, rule: u16) -> Mapped {
    Mapped { internal, external, protocol, rule: NatId(rule), flows: 0, guests: 0 }
}

#[test]
fn a_mapping_goes_with_its_last_flow() {
    let mut table = Mappings::new(4, [1; 16]);
    let (internal, external) = (endpoint(1, 5_000), endpoint(200, 6_000));
    let id = table.insert(mapped(internal, external, 17, 0)).unwrap();
    table.retain(id);
    table.retain(id);
    assert_eq!(table.get(id).flows, 2);
    assert_eq!(table.release(id), None);
    assert_eq!(table.find_external(17, external), Some(id));
    assert_eq!(table.release(id), Some(mapped(internal, external, 17, 0)));
    assert_eq!(table.find_external(17, external), None);
    assert_eq!(table.find_internal(17, internal, NatId(0)), None);
    assert_eq!(table.len(), 0);
    assert_eq!(table.release(id), None, "once");
}

/// RFC 7857 section 5: mappings of UDP and TCP are apart; so are those of two NAT rules.
#[test]
fn protocols_and_rules_are_apart() {
    let mut table = Mappings::new(4, [1; 16]);
    let (internal, external) = (endpoint(1, 5_000), endpoint(200, 6_000));
    let udp = table.insert(mapped(internal, external, 17, 0)).unwrap();
    let tcp = table.insert(mapped(internal, external, 6, 0)).unwrap();
    let other = table.insert(mapped(internal, endpoint(201, 1), 6, 1)).unwrap();
    assert_eq!(table.find_internal(17, internal, NatId(0)), Some(udp));
    assert_eq!(table.find_internal(6, internal, NatId(0)), Some(tcp));
    assert_eq!(table.find_internal(6, internal, NatId(1)), Some(other));
    assert_eq!(table.find_external(17, external), Some(udp));
    assert_eq!(table.find_external(6, external), Some(tcp));
}

#[test]
fn a_full_table_refuses_and_keeps_what_it_has() {
    let mut table = Mappings::new(3, [1; 16]);
    let ids: Vec<_> = (0..3)
        .map(|n| table.insert(mapped(endpoint(1, n), endpoint(200, n), 6, 0)).unwrap())
        .collect();
    assert_eq!(table.insert(mapped(endpoint(1, 9), endpoint(200, 9), 6, 0)), None);
    assert_eq!(table.find_internal(6, endpoint(1, 9), NatId(0)), None);
    assert_eq!(table.len(), 3);
    table.release(ids[1]).unwrap();
    assert!(table.insert(mapped(endpoint(1, 9), endpoint(200, 9), 6, 0)).is_some());
}

/// All memory is taken at the start, however long a full table is churned.
#[test]
fn a_churned_table_does_not_grow() {
    const CAPACITY: u32 = 224;
    let mut table = Mappings::new(CAPACITY, [1; 16]);
    let size = |table: &Mappings| (table.entries.room(), table.wide.room());
    let before = size(&table);
    let mut live = std::collections::VecDeque::new();
    for n in 0..20_000_u32 {
        if live.len() == CAPACITY as usize {
            table.release(live.pop_front().unwrap()).unwrap();
        }
        let mut long = [0x26; 16];
        long[12..].copy_from_slice(&n.to_be_bytes());
        let short = Address::from(n.to_be_bytes());
        let address = if n % 3 == 0 { Address::from(long) } else { short };
        let host = Endpoint { address, port: 1 };
        live.push_back(table.insert(mapped(host, host, 6, 0)).unwrap());
    }
    assert_eq!(size(&table), before);
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Add { host: u8, port: u16, external: u8, protocol: u8, rule: u16 },
    Retain(usize),
    Release(usize),
}

fn steps() -> impl Strategy<Value = Step> {
    let add = (0_u8..4, 0_u16..4, 100_u8..103, 0_u8..2, 0_u16..2).prop_map(
        |(host, port, external, protocol, rule)| Step::Add { host, port, external, protocol, rule },
    );
    prop_oneof![
        3 => add,
        1 => any::<usize>().prop_map(Step::Retain),
        3 => any::<usize>().prop_map(Step::Release),
    ]
}

proptest! {
    #[test]
    fn table_is_two_maps(
        capacity in 1_u32..24,
        key: [u8; 16],
        steps in prop::collection::vec(steps(), 0..300),
    ) {
        let mut table = Mappings::new(capacity, key);
        let mut live: BTreeMap<MappingId, Mapped> = BTreeMap::new();
        let mut next_port = 0;
        for step in steps {
            match step {
                Step::Add { host, port, external, protocol, rule } => {
                    let internal = either(host, port);
                    if table.find_internal(protocol, internal, NatId(rule)).is_some() {
                        continue;
                    }
                    next_port += 1;
                    let mapping = mapped(internal, either(external, next_port), protocol, rule);
                    let id = table.insert(mapping);
                    prop_assert_eq!(id.is_none(), live.len() == capacity as usize);
                    if let Some(id) = id {
                        prop_assert!(live.insert(id, mapping).is_none());
                    }
                }
                Step::Retain(n) => {
                    if let Some(id) = live.keys().nth(n % live.len().max(1)).copied() {
                        table.retain(id);
                        live.get_mut(&id).unwrap().flows += 1;
                    }
                }
                Step::Release(n) => {
                    if let Some(id) = live.keys().nth(n % live.len().max(1)).copied() {
                        let known = live.get_mut(&id).unwrap();
                        known.flows = known.flows.saturating_sub(1);
                        let expected = (known.flows == 0).then_some(*known);
                        prop_assert_eq!(table.release(id), expected);
                        if expected.is_some() {
                            live.remove(&id);
                        }
                    }
                }
            }
            prop_assert_eq!(table.len() as usize, live.len());
            for (id, known) in &live {
                prop_assert_eq!(table.get(*id), *known);
                let Mapped { protocol, internal, external, rule, .. } = *known;
                prop_assert_eq!(table.find_internal(protocol, internal, rule), Some(*id));
                prop_assert_eq!(table.find_external(protocol, external), Some(*id));
            }
        }
    }
}
