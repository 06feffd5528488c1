#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;

const PORT: u16 = 26_084;
const SESSIONS: u16 = 26_085;
/// Nobody may listen here, not even this test at another address.
const OWN_PORT: u16 = 26_086;
/// Long enough for a busy machine: whoever waits so long waits for nothing.
const LONG: Duration = Duration::from_secs(20);
const PEER: NodeId = NodeId(2);

/// Addresses of the loopback that no other test has; the kernel refuses what nobody listens for.
fn net() -> [u8; 2] {
    static NEXT: AtomicU8 = AtomicU8::new(0);
    let process = (std::process::id() % 250 + 1) as u8;
    [process, 200 + NEXT.fetch_add(1, Ordering::Relaxed)]
}

/// A node that asks: of itself and two others.
struct Node {
    net: [u8; 2],
    known: Arc<Known>,
    told: mpsc::Receiver<Result<String, NodeId>>,
    own: watch::Sender<Reach>,
}

#[derive(Debug)]
struct Ear(mpsc::Sender<Result<String, NodeId>>);

impl Told for Ear {
    async fn session(&self, change: SessionChange) {
        let SessionChange::Gone { peer } = change else { panic!("{change:?}") };
        let _ = self.0.send(Err(peer)).await;
    }

    fn event(&self, message: String) {
        let _ = self.0.try_send(Ok(message));
    }

    fn outgrown(&self, _: u64) {}
}

impl Node {
    fn start() -> Self {
        let net = net();
        let address = |node: u8| IpAddr::from([127, net[0], net[1], node]);
        let members: BTreeMap<_, _> = (1..=3).map(|node| (NodeId(node), address(node))).collect();
        let known = Arc::new(Known::new(NodeId(1), 1, &members));
        let (own, ours) = watch::channel(Reach { port: OWN_PORT, addresses: vec![address(11)] });
        let (ear, told) = mpsc::channel(64);
        let machines = Machines {
            own: ours,
            session_port: SESSIONS,
            known: Arc::clone(&known),
            told: Ear(ear),
        };
        tokio::spawn(machines.run());
        Self { net, known, told, own }
    }

    fn address(&self, host: u8) -> IpAddr {
        IpAddr::from([127, self.net[0], self.net[1], host])
    }

    /// The peer is heard and says that its machine has these addresses; `answering` of them answer.
    async fn hears_of(&self, hosts: &[u8], answering: usize) {
        let addresses = hosts.iter().map(|host| self.address(*host)).collect();
        self.known.reaches(PEER, Reach { port: PORT, addresses });
        self.known.hear(PEER, Hearing::Well);
        while self.known.reports()[0].answering != answering
            || self.known.reports()[0].machine != Machine::Alive
        {
            tokio::task::yield_now().await;
        }
    }

    fn loses(&self) {
        self.known.hear(PEER, Hearing::Silent);
        self.known.hear(PEER, Hearing::Lost);
    }

    async fn next(&mut self) -> Result<String, NodeId> {
        timeout(LONG, self.told.recv()).await.unwrap().unwrap()
    }

    async fn event(&mut self) -> String {
        self.next().await.unwrap()
    }

    fn machine(&self) -> Machine {
        self.known.reports()[0].machine
    }
}

/// A port at which nothing answers: connections wait to be accepted, and one more is ignored.
async fn silent(address: IpAddr, port: u16) -> (TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(address, port)).unwrap();
    let listener = socket.listen(1).unwrap();
    let mut waiting = Vec::new();
    while let Ok(Ok(stream)) =
        timeout(Duration::from_millis(50), TcpStream::connect((address, port))).await
    {
        waiting.push(stream);
    }
    (listener, waiting)
}

#[tokio::test]
async fn a_machine_that_answers_nowhere_has_gone() {
    let mut node = Node::start();
    node.hears_of(&[12, 22], 2).await;
    let _links = [
        silent(node.address(2), SESSIONS).await,
        silent(node.address(12), PORT).await,
        silent(node.address(22), PORT).await,
    ];
    node.loses();
    assert_eq!(node.next().await, Err(PEER));
    assert!(node.event().await.contains("node 2 is lost: its machine answers on no link"));
    assert_eq!(node.machine(), Machine::Gone);
}

#[tokio::test]
async fn a_machine_that_may_be_frozen_has_gone_only_when_that_is_over() {
    let mut node = Node::start();
    node.hears_of(&[12], 1).await;
    let _links = [silent(node.address(2), SESSIONS).await, silent(node.address(12), PORT).await];
    node.known.hold_resets(true);
    node.loses();
    assert!(node.event().await.contains("may be frozen"));
    assert_eq!(node.machine(), Machine::Frozen);
    node.known.hold_resets(false);
    assert_eq!(node.next().await, Err(PEER));
}

#[tokio::test]
async fn a_machine_that_is_cut_off_and_dies_later_has_gone_then_and_only_then() {
    let mut node = Node::start();
    node.hears_of(&[12, 22], 2).await;
    let _sync = silent(node.address(2), SESSIONS).await;
    let _one = silent(node.address(12), PORT).await;
    node.loses();
    assert!(node.event().await.contains("it is cut off"));
    assert_eq!(node.machine(), Machine::CutOff);
    let _other = silent(node.address(22), PORT).await;
    assert_eq!(node.next().await, Err(PEER));
    node.event().await;
    // It is back.
    node.known.hear(PEER, Hearing::Well);
    while node.machine() != Machine::Alive {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_daemon_that_has_ended_leaves_its_machine_behind() {
    let mut node = Node::start();
    node.hears_of(&[12], 1).await;
    let _data = silent(node.address(12), PORT).await;
    node.loses();
    assert!(node.event().await.ends_with("its machine answers"));
    assert_eq!(node.machine(), Machine::Alive);
}

#[tokio::test]
async fn what_never_answered_says_nothing_when_it_is_silent() {
    let mut node = Node::start();
    let _links = [silent(node.address(2), SESSIONS).await, silent(node.address(12), PORT).await];
    node.hears_of(&[12], 0).await;
    node.loses();
    assert!(node.event().await.contains("its machine cannot be asked"));
    assert_eq!(node.machine(), Machine::Unknown);
}

#[tokio::test]
async fn an_address_that_another_machine_has_too_is_not_asked() {
    let mut node = Node::start();
    let of_three = Reach { port: PORT, addresses: vec![node.address(33)] };
    node.known.reaches(NodeId(3), of_three);
    node.own.send_modify(|own| own.addresses.push(node.address(44)));
    node.hears_of(&[12, 33, 44], 1).await;
    let _links = [silent(node.address(2), SESSIONS).await, silent(node.address(12), PORT).await];
    node.loses();
    assert_eq!(node.next().await, Err(PEER));
}
