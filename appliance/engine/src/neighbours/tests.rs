#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const OUT: InterfaceId = InterfaceId(0);
const LIMITS: fn() -> Limits =
    || Limits { neighbours: 4, parked: 5, parked_per_neighbour: 2, ..Limits::default() };

fn address(host: u8) -> Address {
    Address::from([10, 0, 0, host])
}

fn packet(number: u8) -> Parked {
    Parked {
        bytes: vec![number],
        offload: Offload::default(),
        frames: 1,
        source: address(number).into(),
        slot: Slot(0),
        flow: FlowId(0),
        direction: Direction::Original,
    }
}

#[test]
fn a_table_full_of_known_neighbours_takes_one_that_is_wanted() {
    let mut neighbours = Neighbours::new(&LIMITS());
    for host in 0..8 {
        neighbours.resolve(OUT, address(host), [0; 6]);
    }
    assert_eq!(neighbours.len(), 4);
    let id = neighbours.entry(OUT, address(9)).unwrap();
    let asked = neighbours.reachability(Time::ZERO, id, address(1).into(), &mut |_, _| {});
    assert_eq!(asked, Reachability::Waiting);
    assert_eq!(neighbours.len(), 4);
}

#[derive(Debug, Clone)]
enum Step {
    Send(u8),
    Resolve(u8),
    Fail(u8),
    Forget(u8),
    Wait(u64),
    DropParked,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..8_u8).prop_map(Step::Send),
        3 => (0..8_u8).prop_map(Step::Resolve),
        1 => (0..8_u8).prop_map(Step::Fail),
        1 => (0..8_u8).prop_map(Step::Forget),
        3 => (0..2_000_u64).prop_map(Step::Wait),
        1 => Just(Step::DropParked),
    ]
}

proptest! {
    /// Every packet that is parked comes out once: to its own neighbour, or lost; never later than
    /// it may wait. A known link address is the one told last.
    #[test]
    fn every_packet_comes_out_once_and_to_its_own(steps in prop::collection::vec(step(), 0..200)) {
        let mut neighbours = Neighbours::new(&LIMITS());
        let mut now = Time::from_nanos(1_000_000_000);
        let mut waiting: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
        let mut told: BTreeMap<u8, [u8; 6]> = BTreeMap::new();
        let mut old_ids: BTreeSet<(u8, u32, NonZeroU32)> = BTreeSet::new();
        for (number, step) in (0_u8..).zip(steps) {
            match step {
                Step::Send(host) => {
                    let Some(id) = neighbours.entry(OUT, address(host)) else { continue };
                    old_ids.insert((host, id.place, id.tenancy));
                    prop_assert!(neighbours.is_current(id));
                    match neighbours.reachability(now, id, address(number).into(), &mut |_, _| {}) {
                        Reachability::Known(mac) => prop_assert_eq!(Some(&mac), told.get(&host)),
                        Reachability::Waiting => {
                            let before = neighbours.parked();
                            let is_parked = neighbours.park(id, packet(number)).is_ok();
                            if is_parked {
                                waiting.entry(host).or_default().push(number);
                            }
                            // Who was asked for first has made room where there was none.
                            let lost = neighbours.take_given_way();
                            prop_assert_eq!(
                                neighbours.parked() + lost,
                                before + u32::from(is_parked)
                            );
                            prop_assert!(lost == 0 || before == 5);
                            waiting.retain(|host, _| {
                                let id = neighbours.index[&(OUT, address(*host))];
                                !neighbours.entries[id.place as usize].parked.is_empty()
                            });
                        }
                        Reachability::Dead | Reachability::NotAsked => {}
                    }
                }
                Step::Resolve(host) => {
                    let mac = [number; 6];
                    told.insert(host, mac);
                    let released = neighbours.resolve(OUT, address(host), mac);
                    let released: Vec<u8> = released.iter().map(|parked| parked.bytes[0]).collect();
                    prop_assert_eq!(released, waiting.remove(&host).unwrap_or_default());
                }
                Step::Fail(host) => {
                    let lost = neighbours.fail(now, OUT, address(host)) as usize;
                    prop_assert_eq!(lost, waiting.remove(&host).unwrap_or_default().len());
                }
                Step::Forget(host) => neighbours.forget(OUT, address(host)),
                Step::Wait(millis) => {
                    now = now + Duration::from_millis(millis);
                    let before = neighbours.parked();
                    let lost = neighbours.expire(now);
                    prop_assert_eq!(neighbours.parked(), before - lost);
                    prop_assert!(neighbours.poll_timeout().is_none_or(|due| due > now));
                    waiting.retain(|host, _| {
                        let id = neighbours.index[&(OUT, address(*host))];
                        !neighbours.entries[id.place as usize].parked.is_empty()
                    });
                }
                Step::DropParked => {
                    let lost = neighbours.drop_parked() as usize;
                    prop_assert_eq!(lost, waiting.values().map(Vec::len).sum::<usize>());
                    waiting.clear();
                }
            }
            let parked: usize = waiting.values().map(Vec::len).sum();
            prop_assert_eq!(neighbours.parked() as usize, parked);
            prop_assert_eq!(neighbours.shares.values().sum::<u32>() as usize, parked);
            prop_assert!(neighbours.shares.values().all(|&taken| taken == 1));
            prop_assert!(parked <= 5 && neighbours.len() <= 4);
            prop_assert_eq!(neighbours.index.len() as u32, neighbours.len());
            for (host, place, tenancy) in &old_ids {
                let id = NeighbourId { place: *place, tenancy: *tenancy };
                if neighbours.is_current(id) {
                    // A place that was given away is never taken for the one who had it.
                    prop_assert_eq!(neighbours.entries[id.place as usize].address, address(*host));
                }
            }
        }
        now = now + Duration::from_secs(10);
        neighbours.expire(now);
        prop_assert_eq!(neighbours.parked(), 0);
    }
}
