#![allow(clippy::unwrap_used)]

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;

fn route() -> impl Strategy<Value = Route> {
    let prefix = (0..8_u32, 24..=32_u8).prop_map(|(low, length)| {
        let address = Ipv4Addr::from(0x0a00_0000 | low << 5);
        IpNet::from(Ipv4Net::new(address, length).unwrap().trunc())
    });
    let gateway =
        prop::option::of(1..4_u8).prop_map(|last| last.map(|last| IpAddr::from([192, 0, 2, last])));
    let out = prop::option::weighted(0.8, (0..2_u16).prop_map(InterfaceId));
    (prefix, gateway, out, 0..3_u32).prop_map(|(prefix, gateway, out, metric)| Route {
        prefix,
        gateway,
        out,
        metric,
    })
}

proptest! {
    #[test]
    fn the_longest_prefix_wins_and_of_equals_the_least_metric(
        routes in prop::collection::vec(route(), 0..24), low in 0..256_u32,
    ) {
        let destination = IpAddr::from(Ipv4Addr::from(0x0a00_0000 | low));
        // By looking at all; of routes equal in both, the first.
        let mut best: Option<&Route> = None;
        for route in routes.iter().filter(|route| route.prefix.contains(&destination)) {
            let rank = |route: &Route| (route.prefix.prefix_len(), u32::MAX - route.metric);
            if best.is_none_or(|best| rank(route) > rank(best)) {
                best = Some(route);
            }
        }
        let expected = best.and_then(|route| {
            let address = Address::from(route.gateway.unwrap_or(destination));
            Some(NextHop { out: route.out?, address })
        });
        let network = Network { routes: routes.clone(), ..Network::default() };
        let topology = Topology::new(&network, None);
        prop_assert_eq!(topology.next_hop(Address::from(destination)), expected);
    }
}
