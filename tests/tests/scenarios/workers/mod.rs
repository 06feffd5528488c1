//! Several workers of one node: whichever a packet comes to, it fares as if there were one.

mod challenges;
mod crew;

use std::collections::{BTreeMap, BTreeSet};

use gabion_engine::build::{self, FrameBuilder};
use gabion_engine::{DropReason, WorkerId};
use proptest::prelude::*;

use self::crew::Crew;
use super::POLICY;

/// Everything is permitted; what leaves is translated, and whoever knows an external endpoint may send to it.
const OPEN: &str = r"
apiVersion: gabion/v1
zones:
  internet: { interfaces: [ext] }
  spokes: { interfaces: [int], networks: [10.0.0.0/8, '2600:2::/32'] }
settings:
  default: { action: allow }
nat:
  - { name: publish, kind: dnat, from: internet, to: 203.0.113.7, service: tcp/443, target: 10.1.0.10 }
  - { name: out, kind: snat, from: spokes, out: internet, HOW }
rules: []
";

const KINDS: [&str; 5] = [
    "address: 203.0.113.4, ports: 2000-3999, filtering: endpoint-independent",
    "address: 203.0.113.4-203.0.113.5, ports: 2000-3999",
    "address: self, ports: 2000-3999",
    "address: 203.0.113.4, ports: 2000-3999, mapping: symmetric",
    "address: self, mapping: symmetric",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tcp,
    Udp,
    Ping,
    /// A protocol without ports.
    Other,
}

/// A conversation that the inside begins, whose packets come to any worker.
#[derive(Debug, Clone, Copy)]
struct Talk {
    kind: Kind,
    host: u8,
    remote: u8,
    doors: [usize; 4],
    /// Whether its packets come in two pieces.
    is_cut: bool,
}

fn talk(workers: usize) -> impl Strategy<Value = Talk> {
    let kind = prop_oneof![
        4 => Just(Kind::Tcp), 4 => Just(Kind::Udp), 2 => Just(Kind::Ping), 1 => Just(Kind::Other),
    ];
    let door = 0..workers;
    (kind, 0..8_u8, 0..6_u8, [door.clone(), door.clone(), door.clone(), door], any::<bool>())
        .prop_map(|(kind, host, remote, doors, is_cut)| {
            let is_cut = is_cut && kind == Kind::Udp;
            Talk { kind, host, remote, doors, is_cut }
        })
}

impl Talk {
    fn ends(&self) -> [String; 2] {
        let (host, remote) = (10 + self.host % 5, 7 + self.remote % 4);
        let (inside, outside) = (format!("10.1.0.{host}"), format!("198.51.100.{remote}"));
        match self.kind {
            Kind::Tcp | Kind::Udp => {
                let (port, service) = (5_000 + u16::from(self.host), 50 + u16::from(self.remote));
                [format!("{inside}:{port}"), format!("{outside}:{service}")]
            }
            Kind::Ping | Kind::Other => [inside, outside],
        }
    }

    fn build(&self, is_reply: bool) -> FrameBuilder {
        match self.kind {
            Kind::Tcp if is_reply => build::tcp().syn().seq(9).ack(2).window(64_000),
            Kind::Tcp => build::tcp().syn().seq(1).window(64_000),
            Kind::Udp => build::udp().payload(&[7; 1_000]),
            Kind::Ping if is_reply => build::icmp_echo_reply(),
            Kind::Ping => build::icmp_echo().id(u16::from(self.host)),
            Kind::Other => build::protocol(47).payload(b"tunnelled"),
        }
    }

    fn frames(&self, frame: &[u8]) -> Vec<Vec<u8>> {
        if self.is_cut { build::fragmented(frame, 600, 7) } else { vec![frame.to_vec()] }
    }
}

/// Source and destination of what left, which is one packet however it was cut.
fn ends(left: &[String], out: &str) -> Option<[String; 2]> {
    let words: Vec<&str> = left.first()?.split(' ').collect();
    let onward = words[0] == format!("{out}:") && words[3] == ">";
    onward.then(|| [words[2].to_owned(), words[4].to_owned()])
}

fn host(end: &str) -> &str {
    end.rsplit_once(':').map_or(end, |(host, _)| host)
}

/// What answers an echo request.
fn echoed(request: &[u8]) -> Vec<u8> {
    let mut reply = [&request[6..12], &request[..6], &request[12..]].concat();
    reply[26..30].copy_from_slice(&request[30..34]);
    reply[30..34].copy_from_slice(&request[26..30]);
    reply[34] = 0;
    // RFC 1624: the type was 8.
    let sum = u32::from(u16::from_be_bytes([reply[36], reply[37]])) + 0x0800;
    let sum = (sum & 0xffff) + (sum >> 16);
    reply[36..38].copy_from_slice(&(sum as u16).to_be_bytes());
    reply
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Covers: 4787-1
    #[test]
    fn whichever_worker_a_packet_comes_to_its_flow_is_found(
        (workers, talks) in (2..=5_usize).prop_flat_map(|workers| {
            (Just(workers), prop::collection::vec((talk(workers), 0..40_u64), 1..40))
        }),
        how in 0..KINDS.len(),
    ) {
        let policy = OPEN.replace("HOW", KINDS[how]);
        let mut crew = Crew::new(workers as u16, &policy);
        // What stands for each inside socket, and for whom each external endpoint stands.
        let mut externals: BTreeMap<(u8, String), String> = BTreeMap::new();
        let mut owners: BTreeMap<(u8, String), BTreeSet<String>> = BTreeMap::new();
        let mut connected = BTreeSet::new();
        for (talk, seconds) in talks {
            if talk.kind == Kind::Tcp && !connected.insert(talk.ends()) {
                // A SYN in a connection is another story.
                continue;
            }
            let [inside, outside] = talk.ends();
            let frame = talk.build(false).from(&inside).to(&outside).frame();
            let mut left = Vec::new();
            for piece in talk.frames(&frame) {
                left.extend(crew.send(talk.doors[0], "int", &piece));
            }
            let Some([external, to]) = ends(&left, "ext") else {
                // One external address, and somebody else of no port talks to the same remote already.
                prop_assert!(talk.kind == Kind::Other, "{left:?}");
                continue;
            };
            prop_assert_eq!(host(&to), host(&outside));
            if talk.kind == Kind::Ping {
                let sent = crew.send_bytes(talk.doors[2], "int", &frame);
                let left = crew.send(talk.doors[1], "ext", &echoed(&sent[0].1));
                prop_assert_eq!(ends(&left, "int").map(|[_, to]| to), Some(inside), "{:?}", left);
                continue;
            }
            let number = talk.kind as u8;
            if how < 3 && talk.kind != Kind::Other {
                let socket = (number, inside.clone());
                let known = externals.entry(socket).or_insert_with(|| external.clone());
                prop_assert_eq!(&*known, &external, "one endpoint for each socket");
                owners.entry((number, external.clone())).or_default().insert(inside.clone());
            }
            // An error about what left, from a router on the way.
            let [source, destination] = if talk.kind == Kind::Other { [host(&external).to_owned(), outside.clone()] } else { [external.clone(), outside.clone()] };
            if !talk.is_cut {
                let sent = talk.build(false).from(&source).to(&destination).frame();
                let error = build::icmp_error_about(&sent, 3, 1, [0; 4]).from("192.0.2.99").to(host(&external)).frame();
                let left = crew.send(talk.doors[2], "ext", &error);
                prop_assert_eq!(ends(&left, "int").map(|[_, to]| to), Some(host(&inside).to_owned()), "{:?}", left);
            }
            let reply = talk.build(true).from(&destination).to(&source).frame();
            let mut left = Vec::new();
            for piece in talk.frames(&reply) {
                left.extend(crew.send(talk.doors[1], "ext", &piece));
            }
            prop_assert_eq!(ends(&left, "int").map(|[_, to]| to), Some(inside.clone()), "{:?}", left);
            if how == 0 && talk.kind == Kind::Udp {
                // A stranger.
                let guest = talk.build(false).from("198.51.100.99:9").to(&external).frame();
                let left = crew.send(talk.doors[3], "ext", &guest);
                prop_assert_eq!(ends(&left, "int").map(|[_, to]| to), Some(inside), "{:?}", left);
            }
            if seconds == 0 {
                crew.commit(&policy);
            }
            crew.wait(seconds / 20);
        }
        prop_assert!(owners.values().all(|sockets| sockets.len() == 1), "{owners:?}");
        // All ends, and nothing of it is left.
        crew.wait(100_000);
        crew.wait(100_000);
        prop_assert_eq!(crew.flows(), []);
    }
}

#[test]
fn connections_from_outside_are_their_sources_workers() {
    let mut crew = Crew::new(4, POLICY);
    let mut workers = BTreeSet::new();
    for client in 1..40 {
        let client = format!("198.51.100.{client}:4000");
        let syn = build::tcp().from(&client).to("203.0.113.7:443").syn().seq(1).window(9).frame();
        let left = crew.send(client.len() % 4, "ext", &syn);
        assert_eq!(ends(&left, "int"), Some([client.clone(), "10.1.0.10:443".to_owned()]));
        let answer = build::tcp().from("10.1.0.10:443").to(&client).syn().seq(7).ack(2).window(9);
        let left = crew.send(0, "int", &answer.frame());
        assert_eq!(ends(&left, "ext"), Some(["203.0.113.7:443".to_owned(), client]));
    }
    workers.extend(crew.flows().into_iter().map(|(worker, _)| worker));
    assert_eq!(workers, (0..4).map(WorkerId).collect());
}

#[test]
fn what_can_begin_nothing_is_refused_where_it_comes() {
    let mut crew = Crew::new(2, POLICY);
    for door in 0..2 {
        let stray = build::tcp().from("198.51.100.9:4000").to("203.0.113.7:443").seq(1).ack(1);
        assert_eq!(crew.send(door, "ext", &stray.frame()), Vec::<String>::new());
        let counters = crew.engines[door].counters();
        assert_eq!(counters.dropped(DropReason::TcpNotSyn), 1);
        assert_eq!(counters.to_workers, 0);
    }
}

#[test]
fn a_full_queue_is_a_drop_with_a_name() {
    let mut crew = Crew::new(2, POLICY);
    crew.board.lock().unwrap().room = 0;
    let mut sent = 0;
    for host in 10..20 {
        let from = format!("10.1.0.{host}:4000");
        let query = build::udp().from(&from).to("198.51.100.7:53").payload(b"?").frame();
        sent += crew.send(0, "int", &query).len() as u64;
    }
    let counters = crew.engines[0].counters();
    assert_eq!(counters.dropped(DropReason::WorkerQueueFull), 10 - sent);
    assert!((1..10).contains(&sent), "{sent}");
}

/// It was `nat-conflict`, as if another worker had had the key.
#[test]
fn a_full_directory_was_a_conflict() {
    let mut crew = Crew::new(2, POLICY);
    crew.board.lock().unwrap().places = 2;
    for client in [8, 9] {
        let from = format!("198.51.100.{client}:4000");
        let syn = build::tcp().from(&from).to("203.0.113.7:443").syn().seq(1).window(9).frame();
        assert_eq!(crew.send(0, "ext", &syn).len(), 9 - client);
    }
    let full =
        crew.engines.iter().map(|engine| engine.counters().dropped(DropReason::FlowTableFull));
    assert_eq!(full.sum::<u64>(), 1);
}

#[test]
fn each_worker_has_its_share_of_limits_that_are_the_nodes() {
    let default = "  default: { action: drop, log: sampled }";
    let flood =
        |flood: &str| POLICY.replace(default, &format!("{default}\n  flood: {{ {flood} }}"));
    let syn = |client: &str| {
        build::tcp().from(client).to("203.0.113.7:443").syn().seq(1).window(9).frame()
    };
    let mut crew = Crew::new(2, &flood("half-open: 16"));
    for client in 1..60 {
        crew.send(0, "ext", &syn(&format!("198.51.100.{client}:4000")));
    }
    // Half of it is for sources that have shown nothing yet.
    assert_eq!(crew.flows().len(), 8);
    let mut crew = Crew::new(2, &flood("half-open-per-source: 3"));
    for port in 1..20 {
        crew.send(usize::from(port % 2 == 0), "ext", &syn(&format!("198.51.100.1:{port}")));
    }
    assert_eq!(crew.flows().len(), 3, "what one source may have, one worker counts");
}
