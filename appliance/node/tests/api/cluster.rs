//! Two nodes of a cluster, over the loopback: they move no packets of clients, but all of each other's.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use gabion_api::v1::{
    ClusterMember, ClusterStatusRequest, ClusterStatusResponse, SetDrainingRequest, StatusRequest,
};
use gabiond::config::Config;
use gabiond::node::{Node, Prepared};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;

use crate::rig::{Client, Home, commit, policy};

/// Addresses of the loopback that no other test has.
fn addresses() -> [Ipv4Addr; 2] {
    static NEXT: AtomicU8 = AtomicU8::new(100);
    let process = (std::process::id() % 250 + 1) as u8;
    let test = NEXT.fetch_add(1, Ordering::Relaxed);
    [1, 2].map(|node| Ipv4Addr::new(127, process, test, node))
}

/// A CA and the certificates of both nodes.
pub(crate) fn certificates(directory: &Path) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let certificate = params.self_signed(&key).unwrap();
    std::fs::write(directory.join("ca.pem"), certificate.pem()).unwrap();
    let issuer = Issuer::new(params, key);
    for node in [1, 2] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([format!("node-{node}.fw")]).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &issuer).unwrap();
        std::fs::write(directory.join(format!("{node}.pem")), certificate.pem()).unwrap();
        std::fs::write(directory.join(format!("{node}.key")), key.serialize_pem()).unwrap();
    }
}

/// Both nodes' homes; the certificates are in the first.
struct Pair {
    homes: [Home; 2],
    addresses: [Ipv4Addr; 2],
}

impl Pair {
    fn new() -> Self {
        let pair = Self { homes: [Home::new(), Home::new()], addresses: addresses() };
        certificates(&pair.homes[0].path("."));
        pair
    }

    /// The section of a node in its settings.
    fn cluster(&self, node: usize) -> String {
        let file = |name: String| self.homes[0].path(&name).display().to_string();
        let [one, two] = self.addresses;
        format!(
            "[cluster]\nname = \"fw\"\nnode = {node}\nmembers = [\"1={one}\", \"2={two}\"]\n\
             ca = \"{}\"\ncertificate = \"{}\"\nkey = \"{}\"\nheartbeat_ms = 50\n",
            file("ca.pem".to_owned()),
            file(format!("{node}.pem")),
            file(format!("{node}.key")),
        )
    }

    async fn start(&self, node: usize) -> (Node, Client) {
        let home = &self.homes[node - 1];
        let settings = home.settings(&self.cluster(node));
        let metrics = format!("listen = \"{}\"", self.metrics(node));
        let settings = settings.replace("listen = \"\"", &metrics);
        let config = Config::parse(&settings, "gabiond.toml").unwrap();
        let running = Prepared::new(config).unwrap().start().await.unwrap();
        (running, home.client().await)
    }

    fn metrics(&self, node: usize) -> SocketAddr {
        (self.addresses[node - 1], 29_490).into()
    }

    /// Asks until the metrics have this line.
    async fn until_metric(&self, node: usize, line: &str) {
        loop {
            let mut stream = TcpStream::connect(self.metrics(node)).await.unwrap();
            stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            if text.lines().any(|this| this == line) {
                return;
            }
            // The numbers are half a second old at most; more connections would take other tests' ports.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

async fn status(client: &mut Client) -> ClusterStatusResponse {
    client.cluster_status(ClusterStatusRequest {}).await.unwrap().into_inner()
}

/// Asks until it is so.
pub(crate) async fn until(
    client: &mut Client,
    is_so: impl Fn(&ClusterStatusResponse, &ClusterMember) -> bool,
) -> ClusterStatusResponse {
    loop {
        let status = status(client).await;
        if is_so(&status, &status.members[0]) {
            return status;
        }
        tokio::task::yield_now().await;
    }
}

/// Asks until this stands in the way of readiness, or no longer does.
async fn until_obstacle(client: &mut Client, label: &str, stands: bool) {
    loop {
        let status = client.status(StatusRequest {}).await.unwrap().into_inner();
        if status.reasons.iter().any(|reason| reason == label) == stands {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_see_each_other_live_and_die() {
    let pair = Pair::new();
    let (one, mut client) = pair.start(1).await;
    let alone = status(&mut client).await;
    assert_eq!((alone.node, alone.view, alone.incarnation), (1, vec![1], 1));
    assert_eq!(alone.members[0].presence, "unknown");
    let (two, mut other) = pair.start(2).await;
    let met = until(&mut client, |_, peer| peer.presence == "alive").await;
    assert_eq!((met.cluster, met.view), ("fw".to_owned(), vec![1, 2]));
    let peer = &met.members[0];
    assert_eq!((peer.node, peer.incarnation), (2, 1));
    assert_eq!(peer.session.as_ref().map(|session| session.version), Some(1));
    assert!(peer.datagrams_in > 0 && peer.refused == 0, "{peer:?}");
    until(&mut other, |_, peer| peer.presence == "alive").await;
    // Policies are compared by what they say, not by their numbers.
    commit(&mut client, &policy(1), 0).await.unwrap();
    commit(&mut client, &policy(2), 1).await.unwrap();
    until(&mut client, |_, peer| peer.same_policy == Some(false)).await;
    // Heartbeats carry it too, as it is at each change.
    pair.until_metric(1, "gabion_cluster_same_policy{node=\"2\"} 0").await;
    commit(&mut other, &policy(2), 0).await.unwrap();
    until(&mut client, |_, peer| peer.same_policy == Some(true) && peer.revision == 1).await;
    for (node, peer) in [(1, 2), (2, 1)] {
        let line = format!("gabion_cluster_same_policy{{node=\"{peer}\"}} 1");
        pair.until_metric(node, &line).await;
    }
    // Nothing moves by these nodes' data interfaces, which have no addresses.
    let seen = until(&mut client, |_, peer| peer.machine == "alive").await;
    assert!(seen.members[0].machine_trouble.contains("it tells no address"), "{seen:?}");
    let line = "gabion_cluster_machine{node=\"2\",state=\"alive\"} 1";
    pair.until_metric(1, line).await;
    two.stop().await;
    let left = until(&mut client, |_, peer| peer.presence == "dead").await;
    assert_eq!((left.view, left.members[0].session.is_none()), (vec![1], true));
    let (two, _) = pair.start(2).await;
    until(&mut client, |_, peer| peer.presence == "alive" && peer.incarnation == 2).await;
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_drains_says_so_until_it_takes_flows_again() {
    let pair = Pair::new();
    let ((one, mut client), (two, mut other)) = (pair.start(1).await, pair.start(2).await);
    until(&mut client, |status, _| status.state == "ready").await;
    until(&mut other, |_, peer| peer.state == "ready").await;
    until_obstacle(&mut client, "syncing", false).await;
    let draining =
        client.set_draining(SetDrainingRequest { draining: true }).await.unwrap().into_inner();
    assert_eq!((draining.state.as_str(), draining.owned), ("draining", 0));
    let status = client.status(StatusRequest {}).await.unwrap().into_inner();
    assert!(status.reasons.contains(&"draining".to_owned()), "{status:?}");
    until(&mut other, |_, peer| peer.state == "draining").await;
    client.set_draining(SetDrainingRequest { draining: false }).await.unwrap();
    until(&mut client, |status, _| status.state == "ready").await;
    until_obstacle(&mut client, "draining", false).await;
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn a_node_that_stands_alone_has_no_cluster() {
    let home = Home::new();
    let node = home.start().await;
    let mut client = home.client().await;
    let status = client.cluster_status(ClusterStatusRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("has no [cluster]"), "{status}");
    let drain = client.set_draining(SetDrainingRequest { draining: true }).await.unwrap_err();
    assert_eq!(drain.code(), Code::FailedPrecondition);
    node.stop().await;
}
