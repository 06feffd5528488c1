//! One engine, a server behind it, and good clients before it, in virtual time.

use std::collections::BTreeMap;
use std::time::Duration;

use gabion_engine::{
    Engine, EngineConfig, Event, Frame, Generation, Limits, Neighbour, Offload, Time, Verdict,
    build,
};
use gabion_tests::network::{interface_id, network};
use gabion_tests::walk::seen::{self, Kind as Seen};
use gabion_tests::words;

use super::attack::{DNS, Kind, WEB};

/// From one end to the other: a round trip to the server takes four of them.
const LEG: Duration = Duration::from_millis(5);
/// A TCP of Linux sends its SYN again so long after a challenge.
const AGAIN: Duration = Duration::from_millis(8);
/// A TCP sends its SYN again after 1, 2 and 4 s (RFC 6298 section 2), a resolver its query.
const REPEATED: [u64; 3] = [1_000, 3_000, 7_000];

pub(super) const LIMITS: Limits = Limits { flows: 2_048, mappings: 2_048, ..SMALL };
const SMALL: Limits = Limits {
    flows: 0,
    mappings: 0,
    fragmented_datagrams: 64,
    fragments_per_datagram: 16,
    fragment_bytes: 256 << 10,
    parked_per_neighbour: 16,
    parked: 64,
    neighbours: 64,
    transmit_queue: 1_024,
    events: 1_024,
};

/// Somebody who wants one answer from the server.
#[derive(Debug)]
struct Client {
    address: String,
    begun: Time,
    wants: Wants,
    tries: usize,
    done: Option<Time>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wants {
    Page,
    Answer,
    /// An answer to a question in two fragments.
    LongAnswer,
}

/// How many asked, how many got what they wanted, and how long the slowest took.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Success {
    pub(super) asked: u32,
    pub(super) served: u32,
    pub(super) slowest: Duration,
}

impl Success {
    pub(super) fn per_cent(self) -> u32 {
        100 * self.served / self.asked.max(1)
    }
}

/// A connection that was open before.
#[derive(Debug)]
struct Live {
    address: String,
    sent: u32,
    echoed: u32,
}

pub(super) struct Rig {
    pub(super) engine: Engine,
    pub(super) now: Time,
    on_the_way: BTreeMap<(Time, u64), (&'static str, Vec<u8>)>,
    last: u64,
    /// Frames that floods have sent.
    flooded: u64,
    clients: BTreeMap<String, Client>,
    live: Vec<Live>,
    pub(super) said: Vec<Event>,
    pub(super) answers: u64,
}

impl Rig {
    pub(super) fn new(policy: &str, limits: Limits) -> Self {
        let now = Time::from_nanos(1_000_000_000);
        let mut engine = Engine::new(now, EngineConfig { limits, seed: [11; 32], cluster: None });
        let loaded = gabion_rules::load("flood.yaml", policy, None);
        let rules = loaded.unwrap_or_else(|problems| panic!("{problems}")).rule_set;
        engine.set_network(network());
        engine.set_rules(Generation(1), rules);
        engine.open();
        let mut rig = Self {
            engine,
            now,
            on_the_way: BTreeMap::new(),
            last: 0,
            flooded: 0,
            clients: BTreeMap::new(),
            live: Vec::new(),
            said: Vec::new(),
            answers: 0,
        };
        for number in 0..8 {
            let address = format!("203.0.114.7:{}", 3_000 + number);
            rig.begin(address.clone(), Wants::Page);
            rig.live.push(Live { address, sent: 1, echoed: 1 });
        }
        rig.run(Duration::from_secs(1), None);
        assert_eq!(rig.success("203.0.114.").served, 8);
        rig
    }

    /// Lets time pass, with a flood or without, while good clients ask and live connections talk.
    pub(super) fn run(&mut self, time: Duration, flood: Option<(Kind, u64)>) {
        let end = self.now + time;
        let begin = self.now;
        let before = self.flooded;
        while self.now < end {
            self.now = self.now + Duration::from_millis(1);
            let millis = (self.now - begin).as_millis() as u64;
            if let Some((kind, per_second)) = flood {
                while self.flooded - before < millis * per_second / 1_000 {
                    self.frame("ext", kind.frame(self.flooded, per_second));
                    self.flooded += 1;
                }
            }
            self.deliver();
            self.repeat();
            if millis.is_multiple_of(50) {
                self.talk();
            }
            self.engine.handle_timeout(self.now);
            self.drain();
            self.check();
        }
    }

    /// New clients: one of a source that has never been seen and two of known ones, one question of
    /// each kind.
    pub(super) fn ask(&mut self, round: u16) {
        let [high, low] = round.to_be_bytes();
        let new = format!("44.0.{high}.{low}");
        self.begin(format!("{new}:4000"), Wants::Page);
        self.begin(format!("203.0.114.7:{}", 10_000 + round), Wants::Page);
        self.begin(format!("{new}:5000"), Wants::Answer);
        self.begin(format!("45.0.{high}.{low}:6000"), Wants::LongAnswer);
    }

    /// How those fared whose address begins like this.
    pub(super) fn success(&self, of: &str) -> Success {
        let mut success = Success::default();
        for client in self.clients.values().filter(|client| client.address.starts_with(of)) {
            success.asked += 1;
            if let Some(done) = client.done {
                success.served += 1;
                success.slowest = success.slowest.max(done - client.begun);
            }
        }
        success
    }

    pub(super) fn forget_clients(&mut self) {
        self.clients.clear();
    }

    /// What live connections have sent and what came back.
    pub(super) fn live_traffic(&self) -> (u32, u32) {
        let sum = |count: fn(&Live) -> u32| self.live.iter().map(count).sum();
        (sum(|live| live.sent), sum(|live| live.echoed))
    }

    fn begin(&mut self, address: String, wants: Wants) {
        let client = Client { address, begun: self.now, wants, tries: 0, done: None };
        self.try_again(&client);
        self.clients.insert(client.address.clone(), client);
    }

    fn try_again(&mut self, client: &Client) {
        let from = &client.address;
        match client.wants {
            Wants::Page => {
                let syn = build::tcp().from(from).to(WEB).syn().seq(ISN).window(64_000);
                self.send("ext", syn.frame());
            }
            Wants::Answer => self.send("ext", build::udp().from(from).to(DNS).frame()),
            Wants::LongAnswer => {
                let question = build::udp().from(from).to(DNS).payload(&[1; 1_600]);
                let identification = (client.tries + 7) as u32;
                for piece in build::fragmented(&question.frame(), 1_500, identification) {
                    self.send("ext", piece);
                }
            }
        }
    }

    fn repeat(&mut self) {
        let now = self.now;
        let due = |client: &Client| {
            let again = REPEATED.get(client.tries).map(|millis| Duration::from_millis(*millis));
            client.done.is_none() && again.is_some_and(|again| now - client.begun >= again)
        };
        let names: Vec<_> = self
            .clients
            .values()
            .filter(|client| due(client))
            .map(|client| client.address.clone())
            .collect();
        for name in names {
            let mut client = self.clients.remove(&name).unwrap();
            client.tries += 1;
            self.try_again(&client);
            self.clients.insert(name, client);
        }
    }

    fn talk(&mut self) {
        for number in 0..self.live.len() {
            let Live { address, sent, .. } = &mut self.live[number];
            let segment = build::tcp().from(address).to(WEB).window(64_000).payload(&[5]);
            let frame = segment.seq(ISN + 1 + *sent).ack(SERVER_ISN + 1 + *sent).frame();
            *sent += 1;
            self.send("ext", frame);
        }
    }

    fn send(&mut self, from: &'static str, frame: Vec<u8>) {
        self.send_later(Duration::ZERO, from, frame);
    }

    fn send_later(&mut self, pause: Duration, from: &'static str, frame: Vec<u8>) {
        self.last += 1;
        self.on_the_way.insert((self.now + pause + LEG, self.last), (from, frame));
    }

    fn deliver(&mut self) {
        while let Some(entry) = self.on_the_way.first_entry()
            && entry.key().0 <= self.now
        {
            let (from, frame) = entry.remove();
            self.frame(from, frame);
        }
    }

    fn frame(&mut self, from: &str, mut bytes: Vec<u8>) {
        let mut frame = Frame { bytes: &mut bytes, offload: Offload::default() };
        if let Verdict::Forward { out } =
            self.engine.handle_frame(self.now, interface_id(from), &mut frame)
        {
            self.arrive(out == interface_id("int"), &bytes);
        }
        self.drain();
    }

    fn drain(&mut self) {
        loop {
            while let Some(sent) = self.engine.poll_transmit() {
                self.arrive(sent.out == interface_id("int"), &sent.bytes);
            }
            let Some(event) = self.engine.poll_event() else { return };
            if let Event::NeighbourWanted { interface, address } = &event {
                let mac = words::mac_of(address.to_ip());
                let known = Neighbour::Reachable { mac };
                self.engine.handle_neighbour(self.now, *interface, address.to_ip(), known);
            }
            if matches!(event, Event::LimitReached { .. } | Event::LimitOver { .. }) {
                self.said.push(event);
            }
        }
    }

    /// A frame has come to the server, or to the internet.
    fn arrive(&mut self, at_server: bool, frame: &[u8]) {
        let Some(seen) = seen::packet(&frame[14..]) else { return };
        let (source, destination) = (seen.key.source.to_string(), seen.key.destination.to_string());
        if at_server {
            self.serve(&seen, &source, &destination);
        } else if let Some(client) = self.clients.get_mut(&destination) {
            let is_first = client.done.is_none();
            match seen.kind {
                Seen::Tcp { syn: true, sequence, .. } => {
                    let segment = build::tcp().from(&destination).to(&source).window(64_000);
                    let ack = segment.seq(ISN + 1).ack(sequence + 1).payload(&[1]);
                    self.send("ext", ack.frame());
                }
                // Nothing that it has sent: it says so, and sends its SYN again two ticks of Linux later.
                Seen::Tcp { acknowledgement, length: 0, .. } if acknowledgement != ISN + 1 => {
                    let segment = build::tcp().from(&destination).to(&source);
                    let again = segment.clone().syn().seq(ISN).window(64_000);
                    self.send("ext", segment.rst().seq(acknowledgement).frame());
                    self.send_later(AGAIN, "ext", again.frame());
                }
                Seen::Tcp { .. } | Seen::Plain if is_first => client.done = Some(self.now),
                _ => {
                    let live = self.live.iter_mut().find(|live| live.address == destination);
                    if let (Some(live), Seen::Tcp { length: 1, .. }) = (live, seen.kind) {
                        live.echoed += 1;
                    }
                }
            }
        } else if matches!(seen.kind, Seen::Error { .. }) {
            self.answers += 1;
        }
    }

    /// The server answers everybody, whoever it is.
    fn serve(&mut self, seen: &seen::Seen, client: &str, server: &str) {
        match seen.kind {
            Seen::Tcp { sequence, syn: true, .. } => {
                let segment = build::tcp().from(server).to(client).syn().window(64_000);
                let answer = segment.seq(SERVER_ISN).ack(sequence.wrapping_add(1));
                self.send("int", answer.frame());
            }
            Seen::Tcp { sequence, acknowledgement, length, .. } if length > 0 => {
                let segment = build::tcp().from(server).to(client).window(64_000);
                let echo = segment.seq(acknowledgement).ack(sequence.wrapping_add(length));
                self.send("int", echo.payload(&[9]).frame());
            }
            Seen::Plain if !seen.later => {
                self.send("int", build::udp().from(server).to(client).frame());
            }
            Seen::Query => {
                let [client, server] = [client, server].map(|end| end.rsplit_once(':').unwrap().0);
                let reply = build::icmp_echo_reply().id(seen.key.source.port);
                self.send("int", reply.from(server).to(client).frame());
            }
            _ => {}
        }
    }

    /// No table is ever larger than its limit.
    fn check(&self) {
        for table in self.engine.table_use() {
            assert!(table.used <= table.limit, "{table:?}");
        }
        let counters = self.engine.counters();
        assert_eq!(counters.frames_in, counters.decided() + counters.held);
    }
}

const ISN: u32 = 1_000;
const SERVER_ISN: u32 = 500_000;
