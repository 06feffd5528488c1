#![allow(clippy::unwrap_used)]

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::UnixTime;
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use time::{Duration as Days, OffsetDateTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::*;
use crate::cluster::{Keys, seal};
use crate::config::{Cluster, ClusterPorts};

const PORT: u16 = 26_083;
/// Long enough for a busy machine: whoever waits so long waits for nothing.
const PATIENCE: Duration = Duration::from_secs(20);

/// A CA, in a directory with all that it has issued.
struct Authority {
    directory: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(directory.path().join("ca.pem"), certificate.pem()).unwrap();
        Self { directory, issuer: Issuer::new(params, key) }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    /// A node's certificate, which holds from yesterday for a year.
    fn issue(&self, name: &str) {
        let yesterday = OffsetDateTime::now_utc() - Days::DAY;
        self.issue_for(name, yesterday, yesterday + Days::days(365));
    }

    fn issue_for(&self, name: &str, from: OffsetDateTime, until: OffsetDateTime) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        (params.not_before, params.not_after) = (from, until);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.path(&format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    /// Both nodes' usual certificates.
    fn of_two() -> Self {
        let authority = Self::new();
        authority.issue("node-1.fw");
        authority.issue("node-2.fw");
        authority
    }
}

/// Addresses of the loopback that no other test has.
#[derive(Debug, Clone, Copy)]
struct Net([u8; 2]);

impl Net {
    fn new() -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        let process = (std::process::id() % 250 + 1) as u8;
        Self([process, NEXT.fetch_add(1, Ordering::Relaxed)])
    }

    fn address(self, node: u8) -> IpAddr {
        Ipv4Addr::new(127, self.0[0], self.0[1], node).into()
    }
}

/// What a node's sessions have told.
#[derive(Debug)]
enum Heard {
    Session(SessionChange),
    Event(String),
    Outgrown(u64),
}

struct Ear(mpsc::Sender<Heard>);

impl Told for Ear {
    async fn session(&self, change: SessionChange) {
        let _ = self.0.send(Heard::Session(change)).await;
    }

    fn event(&self, message: String) {
        let _ = self.0.try_send(Heard::Event(message));
    }

    fn outgrown(&self, seen: u64) {
        let _ = self.0.try_send(Heard::Outgrown(seen));
    }
}

#[derive(Debug)]
struct Shifted(Days);

impl TimeProvider for Shifted {
    fn current_time(&self) -> Option<UnixTime> {
        let now = OffsetDateTime::now_utc() + self.0;
        let seconds = u64::try_from(now.unix_timestamp()).unwrap();
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

/// A node to be, with the usual of everything.
struct Plan {
    net: Net,
    node: u8,
    cluster: &'static str,
    incarnation: u64,
    boot: u8,
    versions: (u8, u8),
    renew: Duration,
    policy: PolicyMark,
    clock: Arc<dyn TimeProvider>,
}

fn plan(net: Net, node: u8) -> Plan {
    Plan {
        net,
        node,
        cluster: "fw",
        incarnation: 1,
        boot: node,
        versions: (1, 1),
        renew: Duration::from_secs(3_600),
        policy: PolicyMark::default(),
        clock: Arc::new(DefaultTimeProvider),
    }
}

struct Node {
    task: JoinHandle<io::Result<()>>,
    heard: mpsc::Receiver<Heard>,
    known: Arc<Known>,
    policy: watch::Sender<PolicyMark>,
    identity: Arc<ArcSwap<Identity>>,
}

fn settings(plan: &Plan, directory: &Path) -> Cluster {
    let own = format!("node-{}.{}", plan.node, plan.cluster);
    Cluster {
        name: plan.cluster.to_owned(),
        node: NodeId(plan.node),
        members: (1..=2).map(|node| (NodeId(node), plan.net.address(node))).collect(),
        ca: directory.join("ca.pem"),
        certificate: directory.join(format!("{own}.pem")),
        key: directory.join(format!("{own}.key")),
        workers: Workers(1),
        ports: ClusterPorts { sync: 0, session: PORT, wrapped: 0, machine: 0 },
        sync_mtu: None,
        heartbeat: Duration::from_millis(100),
        heartbeats_missed: 4,
        reset_lost: true,
        renew: plan.renew,
    }
}

impl Plan {
    fn identity(&self, authority: &Authority) -> Identity {
        let settings = settings(self, authority.directory.path());
        Identity::read(&settings, Arc::clone(&self.clock)).unwrap()
    }

    fn start(self, authority: &Authority) -> Node {
        let identity = self.identity(authority);
        let settings = settings(&self, authority.directory.path());
        let (policy, receiver) = watch::channel(self.policy);
        let local = Local {
            cluster: settings.name,
            node: settings.node,
            incarnation: self.incarnation,
            boot: [self.boot; 16],
            versions: self.versions,
            members: settings.members,
            port: PORT,
            renew: self.renew,
            policy: receiver,
            reach: watch::channel(Reach { port: 6_084, addresses: vec![self.net.address(9)] }).1,
            unwraps: true,
            workers: Workers(1),
        };
        let known = Arc::new(Known::new(local.node, local.incarnation, &local.members));
        let listener = bind(self.net.address(self.node), PORT).unwrap();
        let (ear, heard) = mpsc::channel(1_024);
        let identity = Arc::new(ArcSwap::from_pointee(identity));
        let sessions = Sessions::new(local, Arc::clone(&identity), Arc::clone(&known), Ear(ear));
        Node { task: tokio::spawn(sessions.run(listener)), heard, known, policy, identity }
    }
}

impl Node {
    async fn next(&mut self) -> Heard {
        let next = timeout(PATIENCE, self.heard.recv()).await;
        next.expect("nothing is told").expect("the node has ended")
    }

    /// The keys of the next session that stands, and the epoch; nothing else may become of one before.
    async fn up(&mut self) -> (Keys, u8, u8, u64) {
        loop {
            match self.next().await {
                Heard::Session(SessionChange::Up { keys, epoch, version, incarnation, .. }) => {
                    return (*keys.of(0, 0).unwrap(), epoch, version, incarnation);
                }
                Heard::Session(change) => panic!("{change:?}"),
                Heard::Event(_) | Heard::Outgrown(_) => {}
            }
        }
    }

    async fn lost(&mut self) {
        while !matches!(self.next().await, Heard::Session(SessionChange::Lost { .. })) {}
    }

    /// The next event with these words; no session may stand before.
    async fn event(&mut self, words: &str) -> String {
        loop {
            match self.next().await {
                Heard::Event(text) if text.contains(words) => return text,
                Heard::Event(_) | Heard::Outgrown(_) => {}
                Heard::Session(change) => panic!("{change:?} before {words}"),
            }
        }
    }

    async fn outgrown(&mut self) -> u64 {
        loop {
            if let Heard::Outgrown(seen) = self.next().await {
                return seen;
            }
        }
    }

    /// As a process that is killed: its kernel closes what it had.
    async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    fn refused(&self, label: &str) -> u64 {
        use super::super::refusal::Refusal;
        let place = Refusal::LABELS.iter().position(|known| *known == label).unwrap();
        self.known.reports()[0].refused[place]
    }
}

/// Returns when the session stands at both.
async fn stands(one: &mut Node, two: &mut Node) {
    one.up().await;
    two.up().await;
}

#[tokio::test]
async fn two_nodes_have_the_same_keys_and_each_key_one_purpose() {
    let (authority, net) = (Authority::of_two(), Net::new());
    let mut one = plan(net, 1).start(&authority);
    let mut two = plan(net, 2).start(&authority);
    let ((ours, epoch, version, _), (theirs, of_two, ..)) = (one.up().await, two.up().await);
    assert_eq!((ours.sync_send, ours.sync_receive), (theirs.sync_receive, theirs.sync_send));
    assert_eq!(
        (ours.wrapped_send, ours.wrapped_receive),
        (theirs.wrapped_receive, theirs.wrapped_send)
    );
    let mut all =
        [ours.sync_send, ours.sync_receive, ours.wrapped_send, ours.wrapped_receive].to_vec();
    all.sort_unstable();
    all.dedup();
    assert_eq!((all.len(), epoch, of_two, version), (4, 0, 0, 1));
    let report = &two.known.reports()[0];
    assert_eq!((report.node, report.address), (NodeId(1), net.address(1)));
    assert!(report.session.is_some() && report.trouble.is_none(), "{report:?}");
}

#[tokio::test]
async fn a_certificate_of_another_ca_is_refused_by_both() {
    let net = Net::new();
    let mut one = plan(net, 1).start(&Authority::of_two());
    let mut two = plan(net, 2).start(&Authority::of_two());
    one.event("peer-certificate: its certificate is not taken: it is of another CA").await;
    two.event("it does not take this node's certificate").await;
    assert!(one.refused("peer-certificate") >= 1);
}

#[tokio::test]
async fn a_node_of_another_cluster_is_refused_although_its_ca_is_ours() {
    let (authority, net) = (Authority::of_two(), Net::new());
    authority.issue("node-2.other");
    let mut one = plan(net, 1).start(&authority);
    let _two = Plan { cluster: "other", ..plan(net, 2) }.start(&authority);
    one.event("peer-certificate: its certificate is not taken: it is for node-2.other").await;
    assert!(one.refused("peer-certificate") >= 1);
}

#[tokio::test]
async fn the_node_that_is_connected_to_looks_at_the_name_too() {
    let (authority, net) = (Authority::of_two(), Net::new());
    authority.issue("node-1.other");
    let mut two = plan(net, 2).start(&authority);
    // A node of this CA that does not look whom it speaks with.
    let other = Plan { cluster: "other", ..plan(net, 1) }.identity(&authority);
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(net.address(1), 0)).unwrap();
    let stream = socket.connect(SocketAddr::new(net.address(2), PORT)).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::clone(&other.client));
    let name = rustls::pki_types::ServerName::try_from("node-2.fw").unwrap();
    let _stream = connector.connect(name, stream).await.unwrap();
    two.event("it is for node-1.other, and for no node-NUMBER.fw").await;
}

#[tokio::test]
async fn neighbouring_versions_speak_and_others_are_named_on_both_sides() {
    let authority = Authority::of_two();
    for (ours, theirs, spoken) in [((1, 1), (1, 2), 1), ((1, 2), (1, 1), 1), ((1, 2), (2, 3), 2)] {
        let net = Net::new();
        let mut one = Plan { versions: ours, ..plan(net, 1) }.start(&authority);
        let mut two = Plan { versions: theirs, ..plan(net, 2) }.start(&authority);
        assert_eq!((one.up().await.2, two.up().await.2), (spoken, spoken));
    }
    let net = Net::new();
    let mut one = plan(net, 1).start(&authority);
    let mut two = Plan { versions: (2, 3), ..plan(net, 2) }.start(&authority);
    two.event("peer-incompatible: it speaks versions 1 to 1 of the protocol, this node 2 to 3")
        .await;
    one.event("it refuses this node: peer-incompatible").await;
    assert!(two.refused("peer-incompatible") >= 1);
}

#[tokio::test]
async fn two_machines_with_one_number_are_told_apart() {
    let (authority, net) = (Authority::of_two(), Net::new());
    let mut two = plan(net, 2).start(&authority);
    let mut one = Plan { incarnation: 5, ..plan(net, 1) }.start(&authority);
    stands(&mut one, &mut two).await;
    one.kill().await;
    two.lost().await;
    // A copy of the machine, its state directory included.
    let mut copy = Plan { incarnation: 5, boot: 77, ..plan(net, 1) }.start(&authority);
    two.event("peer-duplicate: node 1 is there already").await;
    copy.event("refuses this node: peer-duplicate").await;
    copy.kill().await;
    // One that has lost it.
    let mut poor = Plan { incarnation: 2, boot: 78, ..plan(net, 1) }.start(&authority);
    assert_eq!(poor.outgrown().await, 5);
    assert!(two.refused("peer-duplicate") >= 2);
    poor.kill().await;
    let mut back = Plan { incarnation: 6, boot: 79, ..plan(net, 1) }.start(&authority);
    assert_eq!(back.up().await.3, 1);
    assert_eq!(two.up().await.3, 6);
}

#[tokio::test]
async fn a_certificate_of_another_member_does_not_speak_for_this_one() {
    let (authority, net) = (Authority::of_two(), Net::new());
    let mut two = plan(net, 2).start(&authority);
    let identity = Plan { node: 2, ..plan(net, 2) }.identity(&authority);
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(net.address(1), 0)).unwrap();
    let stream = socket.connect(SocketAddr::new(net.address(2), PORT)).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::clone(&identity.client));
    let name = rustls::pki_types::ServerName::try_from("node-2.fw").unwrap();
    let mut stream = connector.connect(name, stream).await.unwrap();
    let hello = Hello {
        cluster: "fw".to_owned(),
        versions: (1, 1),
        node: NodeId(1),
        incarnation: 9,
        boot: [9; 16],
        epoch: 0,
        policy: PolicyMark::default(),
        reach: Reach::default(),
        unwraps: false,
        workers: 1,
    };
    Message::Hello(hello.encode()).write(&mut stream).await.unwrap();
    two.event("is node 1's address").await;
}

#[tokio::test]
async fn clocks_that_are_years_off_are_said_and_the_session_stands() {
    let authority = Authority::of_two();
    for shift in [Days::days(-20_000), Days::days(9_000)] {
        for off in [1, 2] {
            let net = Net::new();
            let clock: Arc<dyn TimeProvider> = Arc::new(Shifted(shift));
            let wrong = Plan { clock, ..plan(net, off) };
            let identity = wrong.identity(&authority);
            assert!(identity.warning().is_some());
            // The metric: it has ended, or holds for longer than it was issued for.
            let seconds = identity.certificate_ends_in().unwrap();
            assert!(!(0..=366 * 86_400).contains(&seconds), "{seconds}");
            let mut wrong = wrong.start(&authority);
            let mut right = plan(net, 3 - off).start(&authority);
            stands(&mut wrong, &mut right).await;
        }
    }
    assert_eq!(plan(Net::new(), 1).identity(&authority).warning(), None);
}

#[tokio::test]
async fn a_certificate_that_has_ended_is_refused_by_a_clock_that_is_right() {
    let (authority, net) = (Authority::of_two(), Net::new());
    let now = OffsetDateTime::now_utc();
    authority.issue_for("node-2.fw", now - Days::days(400), now - Days::days(30));
    let mut one = plan(net, 1).start(&authority);
    let two = plan(net, 2);
    let warning = two.identity(&authority).warning().unwrap();
    assert!(warning.starts_with("cluster.certificate has ended"), "{warning}");
    let _two = two.start(&authority);
    one.event("peer-certificate: its certificate is not taken: it has ended").await;
}

#[tokio::test]
async fn a_certificate_that_is_issued_anew_is_taken_without_a_restart() {
    let (authority, net) = (Authority::of_two(), Net::new());
    let now = OffsetDateTime::now_utc();
    authority.issue_for("node-2.fw", now - Days::days(400), now - Days::days(30));
    let mut one = plan(net, 1).start(&authority);
    let mut two = plan(net, 2).start(&authority);
    one.event("peer-certificate: its certificate is not taken: it has ended").await;
    assert!(one.refused("peer-certificate") >= 1);
    authority.issue("node-2.fw");
    let files = settings(&plan(net, 2), authority.directory.path());
    let again = two.identity.load().read_again(&files).unwrap();
    two.identity.store(Arc::new(again));
    stands(&mut one, &mut two).await;
}

#[test]
fn a_ca_is_not_replaced_while_members_run() {
    let (authority, other) = (Authority::of_two(), Authority::of_two());
    let before = plan(Net::new(), 1).identity(&authority);
    let files = settings(&plan(Net::new(), 1), other.directory.path());
    let error = before.read_again(&files).unwrap_err().to_string();
    assert!(error.contains("another than at the start: restart all members"), "{error}");
}

#[tokio::test]
async fn a_peer_that_dies_is_lost_at_once_and_comes_back_larger() {
    let (authority, net) = (Authority::of_two(), Net::new());
    let mut one = plan(net, 1).start(&authority);
    let mut two = plan(net, 2).start(&authority);
    stands(&mut one, &mut two).await;
    // The one that opens dies.
    one.kill().await;
    two.lost().await;
    let mut one = Plan { incarnation: 2, boot: 11, ..plan(net, 1) }.start(&authority);
    assert_eq!((one.up().await.3, two.up().await.3), (1, 2));
    // And the one that is connected to.
    two.kill().await;
    one.lost().await;
    let mut two = Plan { incarnation: 8, boot: 12, ..plan(net, 2) }.start(&authority);
    let ((_, epoch, _, incarnation), (_, of_two, ..)) = (one.up().await, two.up().await);
    assert_eq!((epoch, of_two, incarnation), (1, 1, 8));
}

#[tokio::test]
async fn keys_are_renewed_without_losing_the_session() {
    let (authority, net) = (Authority::of_two(), Net::new());
    let mut one = Plan { renew: Duration::from_millis(20), ..plan(net, 1) }.start(&authority);
    let mut two = plan(net, 2).start(&authority);
    let mut seen: Vec<seal::Key> = Vec::new();
    for expected in 0..4 {
        let ((ours, epoch, ..), (theirs, of_two, ..)) = (one.up().await, two.up().await);
        assert_eq!((epoch, of_two), (expected, expected));
        assert_eq!(ours.sync_send, theirs.sync_receive);
        assert!(!seen.contains(&ours.sync_send));
        seen.push(ours.sync_send);
    }
    assert_eq!(two.known.reports()[0].session.map(|(_, version, _)| version), Some(1));
}

#[tokio::test]
async fn keys_are_renewed_when_the_packet_thread_asks() {
    let (authority, net) = (Authority::of_two(), Net::new());
    let mut one = plan(net, 1).start(&authority);
    let mut two = plan(net, 2).start(&authority);
    stands(&mut one, &mut two).await;
    one.known.renew(NodeId(2));
    assert_eq!((one.up().await.1, two.up().await.1), (1, 1));
}

#[tokio::test]
async fn strangers_and_nonsense_get_no_answer_and_keep_nobody_out() {
    let (authority, net) = (Authority::of_two(), Net::new());
    let mut two = plan(net, 2).start(&authority);
    for from in [9, 1] {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(net.address(from), 0)).unwrap();
        let mut stream = socket.connect(SocketAddr::new(net.address(2), PORT)).await.unwrap();
        let _ = stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        // To a member's address TLS says that this is none.
        assert!(answer.len() < 10, "{answer:?}");
    }
    two.event("node 1: no session").await;
    let mut one = plan(net, 1).start(&authority);
    stands(&mut one, &mut two).await;
}

#[tokio::test]
async fn policies_that_differ_are_told_when_they_begin_to() {
    let (authority, net) = (Authority::of_two(), Net::new());
    let policy = |digest| PolicyMark { revision: 4, digest: [digest; 32] };
    let mut one = Plan { policy: policy(1), ..plan(net, 1) }.start(&authority);
    let mut two = Plan { policy: policy(2), ..plan(net, 2) }.start(&authority);
    stands(&mut one, &mut two).await;
    one.event("peer-policy-differs: its revision 4").await;
    two.event("peer-policy-differs").await;
    two.policy.send_replace(policy(1));
    while one.known.reports()[0].policy != Some(policy(1)) {
        tokio::task::yield_now().await;
    }
    one.policy.send_replace(policy(3));
    one.event("peer-policy-differs").await;
    two.event("peer-policy-differs").await;
}

#[test]
fn a_node_that_cannot_show_who_it_is_says_which_file() {
    let (authority, other) = (Authority::of_two(), Authority::of_two());
    authority.issue("node-1.other");
    let usual = || settings(&plan(Net::new(), 1), authority.directory.path());
    let error = |settings: &Cluster| {
        Identity::read(settings, Arc::new(DefaultTimeProvider)).unwrap_err().to_string()
    };
    Identity::read(&usual(), Arc::new(DefaultTimeProvider)).unwrap();
    let path = |file: &str| authority.path(file);
    let empty = authority.path("empty.pem");
    std::fs::write(&empty, "").unwrap();
    for (settings, expected) in [
        (Cluster { ca: path("none.pem"), ..usual() }, "cluster.ca"),
        (Cluster { ca: empty.clone(), ..usual() }, "it holds no certificate"),
        (Cluster { ca: other.path("ca.pem"), ..usual() }, "it is not of the CA in cluster.ca"),
        (Cluster { certificate: path("none.pem"), ..usual() }, "cluster.certificate"),
        (
            Cluster { certificate: path("node-2.fw.pem"), ..usual() },
            "it is for node-2.fw, and this node is node-1.fw",
        ),
        (
            Cluster { certificate: path("node-1.other.pem"), ..usual() },
            "it is for node-1.other, and for no node-NUMBER.fw",
        ),
        (Cluster { key: empty, ..usual() }, "cluster.key"),
        (Cluster { key: path("node-2.fw.key"), ..usual() }, "cluster.key"),
    ] {
        let error = error(&settings);
        assert!(error.contains(expected), "{expected}: {error}");
        assert!(error.contains("gabion pki init --cluster"), "{error}");
    }
}

#[test]
fn members_have_one_secret_and_other_clusters_another() {
    let (authority, other) = (Authority::of_two(), Authority::of_two());
    authority.issue("node-1.other");
    let net = Net::new();
    let ours = plan(net, 1).identity(&authority).secret();
    assert_eq!(plan(net, 2).identity(&authority).secret(), ours);
    assert_ne!(plan(net, 1).identity(&other).secret(), ours);
    assert_ne!(Plan { cluster: "other", ..plan(net, 1) }.identity(&authority).secret(), ours);
}
