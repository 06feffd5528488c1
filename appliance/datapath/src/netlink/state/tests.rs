#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::LinkAddress;
use crate::netlink::RouteTarget;

fn link(index: u32, up: bool) -> Link {
    let name = format!("eth{index}");
    Link {
        index: LinkIndex(index),
        name,
        mac: Some(LinkAddress([2; 6])),
        mtu: 1500,
        up,
        above: None,
    }
}

fn route(last: u8, metric: u32, link: u32) -> Route {
    Route {
        destination: [198, 51, 100, last].into(),
        prefix_length: 32,
        metric,
        target: RouteTarget::Link { index: LinkIndex(link), gateway: None },
        preferred_source: None,
    }
}

fn address(last: u8) -> InterfaceAddress {
    InterfaceAddress { index: LinkIndex(1), ip: [192, 0, 2, last].into(), prefix_length: 24 }
}

fn neighbour_state() -> impl Strategy<Value = NeighbourState> {
    prop_oneof![
        any::<u8>().prop_map(|last| NeighbourState::Reachable(LinkAddress([2, 0, 0, 0, 0, last]))),
        Just(NeighbourState::Stale(LinkAddress([2; 6]))),
        Just(NeighbourState::Resolving),
        Just(NeighbourState::Failed),
        Just(NeighbourState::Gone),
    ]
}

fn any_change() -> impl Strategy<Value = Change> {
    let small = 0..3_u8;
    prop_oneof![
        (0..3_u32, any::<bool>()).prop_map(|(index, up)| Change::Link(link(index, up))),
        (0..3_u32).prop_map(|index| Change::LinkGone(LinkIndex(index))),
        small.clone().prop_map(|last| Change::Address(address(last))),
        small.clone().prop_map(|last| Change::AddressGone(address(last))),
        (small.clone(), 0..2_u32, 0..2_u32).prop_map(|(l, m, i)| Change::Route(route(l, m, i))),
        (small.clone(), 0..2_u32, 0..2_u32)
            .prop_map(|(l, m, i)| Change::RouteReplaced(route(l, m, i))),
        (small.clone(), 0..2_u32, 0..2_u32).prop_map(|(l, m, i)| Change::RouteGone(route(l, m, i))),
        (0..2_u32, small, neighbour_state()).prop_map(|(i, l, s)| Change::Neighbour(
            LinkIndex(i),
            [192, 0, 2, l].into(),
            s
        )),
    ]
}

/// What a receiver believes that applies every event and knows nothing else.
fn believed(events: &[NetworkEvent]) -> NetworkState {
    let mut state = NetworkState::default();
    for event in events.iter().cloned() {
        match event {
            NetworkEvent::LinkChanged(link) => {
                state.links.insert(link.index, link);
            }
            NetworkEvent::LinkGone(index) => assert!(state.links.remove(&index).is_some()),
            NetworkEvent::AddressAdded(address) => assert!(state.addresses.insert(address)),
            NetworkEvent::AddressRemoved(address) => assert!(state.addresses.remove(&address)),
            NetworkEvent::RouteAdded(route) => assert!(state.routes.insert(route)),
            NetworkEvent::RouteRemoved(route) => assert!(state.routes.remove(&route)),
            NetworkEvent::Neighbour { index, ip, state: NeighbourState::Gone } => {
                assert!(state.neighbours.remove(&(index, ip)).is_some());
            }
            NetworkEvent::Neighbour { index, ip, state: neighbour } => {
                assert_ne!(state.neighbours.insert((index, ip), neighbour), Some(neighbour));
            }
            NetworkEvent::Resynced => {}
        }
    }
    state
}

proptest! {
    /// The receiver is told of each change once, and believes what the watch has in its picture.
    #[test]
    fn events_lead_to_the_picture(changes in proptest::collection::vec(any_change(), 0..40)) {
        let mut state = NetworkState::default();
        let mut told = Vec::new();
        for change in changes {
            state.apply(change, &mut told);
        }
        prop_assert_eq!(believed(&told), state);
    }

    /// So too when a dump comes between.
    #[test]
    fn a_dump_leads_to_its_picture(
        before in proptest::collection::vec(any_change(), 0..40),
        kernel in proptest::collection::vec(any_change(), 0..40),
    ) {
        let picture = |changes: Vec<Change>, told: &mut Vec<NetworkEvent>| {
            let mut state = NetworkState::default();
            changes.into_iter().for_each(|change| state.apply(change, told));
            state
        };
        let mut told = Vec::new();
        let mut state = picture(before, &mut told);
        let fresh = picture(kernel, &mut Vec::new());
        state.become_fresh(fresh.clone(), &mut told);
        prop_assert_eq!(&believed(&told), &fresh);
        prop_assert_eq!(&state, &fresh);

        let mut again = Vec::new();
        state.become_fresh(fresh, &mut again);
        prop_assert_eq!(again, []);
    }
}

#[test]
fn a_replaced_route_takes_its_predecessors_away() {
    let mut state = NetworkState::default();
    let mut told = Vec::new();
    state.apply(Change::Route(route(1, 5, 1)), &mut told);
    state.apply(Change::Route(route(1, 6, 1)), &mut told);
    told.clear();
    state.apply(Change::RouteReplaced(route(1, 5, 2)), &mut told);
    let expected =
        [NetworkEvent::RouteRemoved(route(1, 5, 1)), NetworkEvent::RouteAdded(route(1, 5, 2))];
    assert_eq!(told, expected);
}

#[test]
fn silent_changes_are_suspected_where_the_kernel_makes_them() {
    let mut state = NetworkState::default();
    state.apply(Change::Link(link(1, true)), &mut Vec::new());
    assert!(state.hides_more(&Change::Link(link(1, false))));
    assert!(!state.hides_more(&Change::Link(link(1, true))));
    assert!(!state.hides_more(&Change::Link(link(2, false))));
    assert!(state.hides_more(&Change::AddressGone(address(1))));
    assert!(!state.hides_more(&Change::Route(route(1, 1, 1))));
}
