//! The network watch against a real kernel.

use std::collections::BTreeSet;
use std::net::IpAddr;

use gabion_datapath::LinkAddress;
use gabion_datapath::netlink::{
    EVENT_CHANNEL_DEPTH, InterfaceAddress, Link, LinkIndex, NeighbourState, NetworkEvent,
    NetworkWatch, Route, RouteTarget,
};
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;

use crate::lab::{Lab, NODE, PATIENCE};

/// Runs a test in the node's namespace, where `ip` changes the network.
fn in_node<F, T>(test: T)
where
    F: Future<Output = ()>,
    T: FnOnce(Node) -> F + Send + 'static,
{
    let Some(lab) = Lab::build() else { return };
    let node = Node { namespace: lab.namespace(NODE) };
    lab.sysctl(NODE, "net.ipv4.neigh.ext.retrans_time_ms=20");
    lab.sysctl(NODE, "net.ipv6.neigh.ext.retrans_time_ms=20");
    lab.ip(NODE, "address add 198.51.100.3/24 dev ext");
    lab.ip(NODE, "address add 2001:db8::3/64 dev ext nodad");
    lab.sysctl(NODE, "net.ipv4.neigh.ext.delay_first_probe_time=0");
    lab.within(NODE, move || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(test(node));
    });
}

struct Node {
    namespace: String,
}

impl Node {
    fn ip(&self, words: &str) {
        let status = std::process::Command::new("ip")
            .args(["-n", &self.namespace])
            .args(words.split(' '))
            .status();
        assert!(status.unwrap().success(), "ip {words}");
    }
}

struct Witness {
    events: Receiver<NetworkEvent>,
}

impl Witness {
    async fn next(&mut self) -> NetworkEvent {
        timeout(PATIENCE, self.events.recv()).await.unwrap().expect("the watch goes on")
    }

    /// Awaits an event that satisfies `wanted`; others may come before.
    async fn until<T>(&mut self, wanted: impl Fn(&NetworkEvent) -> Option<T>) -> T {
        loop {
            if let Some(found) = wanted(&self.next().await) {
                return found;
            }
        }
    }

    async fn expect(&mut self, expected: NetworkEvent) {
        self.until(|event| (*event == expected).then_some(())).await;
    }

    async fn link(&mut self, name: &str) -> Link {
        self.until(|event| match event {
            NetworkEvent::LinkChanged(link) if link.name == name => Some(link.clone()),
            NetworkEvent::LinkChanged(_)
            | NetworkEvent::LinkGone(_)
            | NetworkEvent::AddressAdded(_)
            | NetworkEvent::AddressRemoved(_)
            | NetworkEvent::RouteAdded(_)
            | NetworkEvent::RouteRemoved(_)
            | NetworkEvent::Neighbour { .. }
            | NetworkEvent::Resynced => None,
        })
        .await
    }

    async fn neighbour(&mut self, ip: IpAddr, wanted: impl Fn(NeighbourState) -> bool) {
        self.until(|event| match event {
            NetworkEvent::Neighbour { ip: of, state, .. } => {
                (*of == ip && wanted(*state)).then_some(())
            }
            NetworkEvent::LinkChanged(_)
            | NetworkEvent::LinkGone(_)
            | NetworkEvent::AddressAdded(_)
            | NetworkEvent::AddressRemoved(_)
            | NetworkEvent::RouteAdded(_)
            | NetworkEvent::RouteRemoved(_)
            | NetworkEvent::Resynced => None,
        })
        .await;
    }
}

/// Starts a watch; returns it after the first dump with the link `ext`.
async fn start() -> (NetworkWatch, Witness, Link) {
    let (watch, events) = NetworkWatch::start().await.unwrap();
    let mut witness = Witness { events };
    let ext = witness.link("ext").await;
    witness.expect(NetworkEvent::Resynced).await;
    (watch, witness, ext)
}

fn route(destination: &str, prefix_length: u8, metric: u32, target: RouteTarget) -> Route {
    let destination = destination.parse().unwrap();
    Route { destination, prefix_length, metric, target, preferred_source: None }
}

fn via(index: LinkIndex, gateway: &str) -> RouteTarget {
    RouteTarget::Link { index, gateway: Some(gateway.parse().unwrap()) }
}

#[test]
fn the_dump_tells_all_that_is_there() {
    in_node(|node| async move {
        node.ip("route add default via 198.51.100.1");
        node.ip("route add blackhole 192.0.2.0/24");
        let (_watch, events) = NetworkWatch::start().await.unwrap();
        let mut witness = Witness { events };
        let mut told = Vec::new();
        while told.last() != Some(&NetworkEvent::Resynced) {
            told.push(witness.next().await);
        }
        let ext = told.iter().find_map(|event| match event {
            NetworkEvent::LinkChanged(link) => (link.name == "ext").then_some(link),
            NetworkEvent::LinkGone(_)
            | NetworkEvent::AddressAdded(_)
            | NetworkEvent::AddressRemoved(_)
            | NetworkEvent::RouteAdded(_)
            | NetworkEvent::RouteRemoved(_)
            | NetworkEvent::Neighbour { .. }
            | NetworkEvent::Resynced => None,
        });
        let ext = ext.expect("the link is told of");
        assert!(ext.up && ext.mtu == 1500 && ext.mac.is_some(), "{ext:?}");
        let ip = "198.51.100.3".parse().unwrap();
        let connected = RouteTarget::Link { index: ext.index, gateway: None };
        for expected in [
            NetworkEvent::AddressAdded(InterfaceAddress {
                index: ext.index,
                ip,
                prefix_length: 24,
            }),
            NetworkEvent::RouteAdded(Route {
                preferred_source: Some(ip),
                ..route("198.51.100.0", 24, 0, connected)
            }),
            NetworkEvent::RouteAdded(route("0.0.0.0", 0, 0, via(ext.index, "198.51.100.1"))),
            NetworkEvent::RouteAdded(route("192.0.2.0", 24, 0, RouteTarget::Blackhole)),
            NetworkEvent::RouteAdded(route("2001:db8::", 64, 256, connected)),
        ] {
            assert!(told.contains(&expected), "{expected:?} not in {told:#?}");
        }
    });
}

#[test]
fn routes_come_change_and_go() {
    in_node(|node| async move {
        let (_watch, mut witness, ext) = start().await;
        let first = route("203.0.113.0", 24, 0, via(ext.index, "198.51.100.1"));
        let second = route("203.0.113.0", 24, 0, via(ext.index, "198.51.100.2"));
        node.ip("route add 203.0.113.0/24 via 198.51.100.1");
        witness.expect(NetworkEvent::RouteAdded(first)).await;
        node.ip("route replace 203.0.113.0/24 via 198.51.100.2");
        witness.expect(NetworkEvent::RouteRemoved(first)).await;
        witness.expect(NetworkEvent::RouteAdded(second)).await;
        node.ip("route del 203.0.113.0/24");
        witness.expect(NetworkEvent::RouteRemoved(second)).await;

        let far = route("2001:db8:9::", 48, 1024, via(ext.index, "2001:db8::1"));
        node.ip("route add 2001:db8:9::/48 via 2001:db8::1");
        witness.expect(NetworkEvent::RouteAdded(far)).await;
        let closer = Route { target: via(ext.index, "2001:db8::2"), ..far };
        node.ip("route replace 2001:db8:9::/48 via 2001:db8::2");
        witness.expect(NetworkEvent::RouteRemoved(far)).await;
        witness.expect(NetworkEvent::RouteAdded(closer)).await;
        node.ip("route add unreachable 2001:db8:a::/48");
        let nowhere = route("2001:db8:a::", 48, 1024, RouteTarget::Unreachable);
        witness.expect(NetworkEvent::RouteAdded(nowhere)).await;
    });
}

/// The kernel sends no message about IPv4 routes that go with their link.
#[test]
fn routes_that_go_silently_with_their_link_are_told() {
    in_node(|node| async move {
        let (_watch, mut witness, ext) = start().await;
        let lost = route("203.0.113.0", 24, 0, via(ext.index, "198.51.100.1"));
        node.ip("route add 203.0.113.0/24 via 198.51.100.1");
        witness.expect(NetworkEvent::RouteAdded(lost)).await;
        node.ip("link set ext down");
        assert!(!witness.link("ext").await.up);
        witness.expect(NetworkEvent::RouteRemoved(lost)).await;
        witness.expect(NetworkEvent::Resynced).await;
    });
}

#[test]
fn links_and_addresses_come_change_and_go() {
    in_node(|node| async move {
        let (_watch, mut witness, ext) = start().await;
        node.ip("link set ext mtu 1400");
        assert_eq!(witness.link("ext").await, Link { mtu: 1400, ..ext.clone() });
        let address = InterfaceAddress {
            index: ext.index,
            ip: "2001:db8::33".parse().unwrap(),
            prefix_length: 64,
        };
        node.ip("address add 2001:db8::33/64 dev ext");
        witness.expect(NetworkEvent::AddressAdded(address)).await;
        node.ip("address del 2001:db8::33/64 dev ext");
        witness.expect(NetworkEvent::AddressRemoved(address)).await;

        node.ip("link add other type veth peer name another");
        let other = witness.link("other").await;
        assert!(!other.up);
        node.ip("link set other name renamed");
        assert_eq!(witness.link("renamed").await.index, other.index);
        node.ip("link del renamed");
        witness.expect(NetworkEvent::LinkGone(other.index)).await;
    });
}

#[test]
fn the_kernel_resolves_neighbours_on_request() {
    in_node(|node| async move {
        let (watch, mut witness, ext) = start().await;
        for client in ["198.51.100.1", "2001:db8::1"] {
            let client = client.parse().unwrap();
            watch.request_neighbour(ext.index, client).await.unwrap();
            witness.neighbour(client, |state| matches!(state, NeighbourState::Reachable(_))).await;
            // Again: harmless.
            watch.request_neighbour(ext.index, client).await.unwrap();
        }
        for nobody in ["198.51.100.99", "2001:db8::99"] {
            let nobody = nobody.parse().unwrap();
            watch.request_neighbour(ext.index, nobody).await.unwrap();
            witness.neighbour(nobody, |state| state == NeighbourState::Failed).await;
        }
        let missing = LinkIndex(9999);
        let error = watch.request_neighbour(missing, "192.0.2.1".parse().unwrap()).await;
        assert!(error.unwrap_err().to_string().contains("9999"));
        drop(node);
    });
}

#[test]
fn a_stale_neighbour_is_confirmed_on_request() {
    in_node(|node| async move {
        let (watch, mut witness, ext) = start().await;
        let client = "198.51.100.1".parse().unwrap();
        // Wrong, but confirmed by nobody: the kernel asks the address, and the client answers.
        let wrong = LinkAddress([2, 0, 0, 0, 0, 9]);
        node.ip("neighbour add 198.51.100.1 lladdr 02:00:00:00:00:09 dev ext nud stale");
        witness.neighbour(client, |state| state == NeighbourState::Stale(wrong)).await;
        watch.request_neighbour(ext.index, client).await.unwrap();
        witness
            .neighbour(client, |state| {
                matches!(state, NeighbourState::Reachable(mac) if mac != wrong)
                    || state == NeighbourState::Failed
            })
            .await;
        node.ip("neighbour del 198.51.100.1 dev ext");
        witness.neighbour(client, |state| state == NeighbourState::Gone).await;
    });
}

/// A receiver that sleeps makes the kernel drop messages; awake, it learns all the same.
#[test]
fn nothing_is_lost_on_a_receiver_that_sleeps() {
    in_node(|node| async move {
        let (_watch, mut witness, ext) = start().await;
        let destinations: BTreeSet<IpAddr> =
            (0..24_000_u32).map(|n| IpAddr::from((0x0a00_0000 + n).to_be_bytes())).collect();
        let batch: String = destinations
            .iter()
            .map(|ip| format!("route add {ip}/32 via 198.51.100.1 dev ext\n"))
            .collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), batch).unwrap();
        node.ip(&format!("-batch {}", file.path().display()));

        let mut told = BTreeSet::new();
        let mut resynced = false;
        while told.len() < destinations.len() || !resynced {
            match witness.next().await {
                NetworkEvent::RouteAdded(route) => {
                    assert_eq!(route.target, via(ext.index, "198.51.100.1"));
                    assert!(told.insert(route.destination), "told twice: {route:?}");
                }
                NetworkEvent::RouteRemoved(route) => panic!("{route:?}"),
                NetworkEvent::Resynced => resynced = true,
                NetworkEvent::LinkChanged(_)
                | NetworkEvent::LinkGone(_)
                | NetworkEvent::AddressAdded(_)
                | NetworkEvent::AddressRemoved(_)
                | NetworkEvent::Neighbour { .. } => {}
            }
            assert!(witness.events.len() <= EVENT_CHANNEL_DEPTH);
        }
        assert_eq!(told, destinations);
    });
}
