//! Several engines of one node, with a directory and queues between them, and no threads: a frame comes to any of them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gabion_engine::{
    Address, Engine, EngineConfig, Event, FlowKey, FlowReport, Frame, Generation, InterfaceId,
    Limits, Neighbour, NotClaimed, Offload, Shards, Time, Verdict, WorkerId,
};
use gabion_tests::network::{interface_id, network};
use gabion_tests::words;

/// What threads share.
#[derive(Debug, Default)]
pub(super) struct Board {
    keys: BTreeMap<FlowKey, WorkerId>,
    queue: VecDeque<(WorkerId, InterfaceId, Vec<u8>)>,
    /// Frames that a queue takes.
    pub(super) room: usize,
    pub(super) places: usize,
}

#[derive(Debug)]
struct Place {
    me: WorkerId,
    workers: u16,
    board: Arc<Mutex<Board>>,
}

impl Shards for Place {
    fn me(&self) -> WorkerId {
        self.me
    }

    fn workers(&self) -> u16 {
        self.workers
    }

    fn challenge_key(&self) -> [u8; 16] {
        [3; 16]
    }

    fn claim(&mut self, keys: [&FlowKey; 2]) -> Result<(), NotClaimed> {
        let mut board = self.board.lock().unwrap();
        if keys.iter().any(|key| board.keys.contains_key(key)) {
            return Err(NotClaimed::Taken);
        }
        if board.keys.len() + 2 > board.places {
            return Err(NotClaimed::NoRoom);
        }
        board.keys.extend(keys.map(|key| (*key, self.me)));
        Ok(())
    }

    fn release(&mut self, keys: [&FlowKey; 2]) {
        let mut board = self.board.lock().unwrap();
        for key in keys {
            assert_eq!(board.keys.remove(key), Some(self.me), "{key:?}");
        }
    }

    fn find(&self, key: &FlowKey) -> Option<WorkerId> {
        self.board.lock().unwrap().keys.get(key).copied()
    }

    fn choose(&self, source: Address) -> WorkerId {
        let sum: u32 = source.octets().iter().map(|octet| u32::from(*octet)).sum();
        WorkerId((sum % u32::from(self.workers)) as u16)
    }

    fn hand_over(&mut self, to: WorkerId, from: InterfaceId, frame: &Frame<'_>) -> bool {
        assert_ne!(to, self.me, "nobody hands to himself");
        let mut board = self.board.lock().unwrap();
        let has_room = board.queue.len() < board.room;
        if has_room {
            board.queue.push_back((to, from, frame.bytes.to_vec()));
        }
        has_room
    }
}

pub(super) struct Crew {
    pub(super) engines: Vec<Engine>,
    pub(super) board: Arc<Mutex<Board>>,
    pub(super) now: Time,
    generation: u64,
}

impl Crew {
    /// A node of so many workers with this policy, between the interfaces of most scenarios.
    pub(super) fn new(workers: u16, policy: &str) -> Self {
        let now = Time::from_nanos(1_000_000_000);
        let board =
            Arc::new(Mutex::new(Board { room: 1_000, places: usize::MAX, ..Board::default() }));
        let limits = Limits { flows: 1_024, mappings: 1_024, ..Limits::default() };
        let engine = |me| {
            let config = EngineConfig { limits, seed: [7; 32], cluster: None };
            let mut engine = Engine::new(now, config);
            let board = Arc::clone(&board);
            engine.join_shards(Box::new(Place { me: WorkerId(me), workers, board }));
            engine.set_network(network());
            engine.open();
            engine
        };
        let mut crew =
            Self { engines: (0..workers).map(engine).collect(), board, now, generation: 0 };
        crew.commit(policy);
        crew
    }

    pub(super) fn commit(&mut self, policy: &str) {
        let rules = gabion_rules::load("workers.yaml", policy, None).unwrap().rule_set;
        self.generation += 1;
        for engine in &mut self.engines {
            engine.set_rules(Generation(self.generation), Arc::clone(&rules));
        }
    }

    /// What leaves, in words, when a frame has come to a worker.
    pub(super) fn send(&mut self, door: usize, from: &str, frame: &[u8]) -> Vec<String> {
        let out = self.send_bytes(door, from, frame);
        let words = |(out, bytes): &(InterfaceId, Vec<u8>)| {
            format!(
                "{}: {}",
                ["ext", "int", "spare"][usize::from(out.0)],
                words::describe(bytes, Offload::default())
            )
        };
        out.iter().map(words).collect()
    }

    pub(super) fn send_bytes(
        &mut self,
        door: usize,
        from: &str,
        frame: &[u8],
    ) -> Vec<(InterfaceId, Vec<u8>)> {
        let now = self.now;
        let mut out = Vec::new();
        let mut bytes = frame.to_vec();
        let mut frame = Frame { bytes: &mut bytes, offload: Offload::default() };
        let verdict = self.engines[door].handle_frame(now, interface_id(from), &mut frame);
        if let Verdict::Forward { out: by } = verdict {
            out.push((by, bytes));
        }
        self.drain(door, &mut out);
        while let Some((to, from, mut bytes)) = { self.board.lock().unwrap().queue.pop_front() } {
            let to = usize::from(to.0);
            let mut frame = Frame { bytes: &mut bytes, offload: Offload::default() };
            if let Verdict::Forward { out: by } =
                self.engines[to].handle_from_worker(now, from, &mut frame)
            {
                out.push((by, bytes));
            }
            self.drain(to, &mut out);
        }
        self.check();
        out
    }

    fn drain(&mut self, worker: usize, out: &mut Vec<(InterfaceId, Vec<u8>)>) {
        let engine = &mut self.engines[worker];
        loop {
            out.extend(
                std::iter::from_fn(|| engine.poll_transmit()).map(|sent| (sent.out, sent.bytes)),
            );
            let Some(event) = engine.poll_event() else { return };
            if let Event::NeighbourWanted { interface, address } = event {
                let known = Neighbour::Reachable { mac: words::mac_of(address.to_ip()) };
                engine.handle_neighbour(self.now, interface, address.to_ip(), known);
            }
        }
    }

    pub(super) fn wait(&mut self, seconds: u64) {
        self.now = self.now + Duration::from_secs(seconds);
        let now = self.now;
        self.engines.iter_mut().for_each(|engine| engine.handle_timeout(now));
        self.check();
    }

    /// All flows, with their workers.
    pub(super) fn flows(&self) -> Vec<(WorkerId, FlowReport)> {
        let of = |(worker, engine): (usize, &Engine)| {
            let worker = WorkerId(worker as u16);
            engine
                .flows(0, u32::MAX)
                .0
                .into_iter()
                .map(move |flow| (worker, flow))
                .collect::<Vec<_>>()
        };
        self.engines.iter().enumerate().flat_map(of).collect()
    }

    /// The directory says of each flow whose it is, and of nothing else; no two have one number; every frame is counted once where it
    /// was decided.
    fn check(&self) {
        let mut keys = BTreeMap::new();
        let mut numbers = BTreeMap::new();
        for (worker, flow) in self.flows() {
            for key in [flow.original, flow.reply] {
                assert_eq!(keys.insert(key, worker), None, "{key:?} is in two flows");
            }
            assert_eq!(numbers.insert(flow.id, worker), None);
        }
        assert_eq!(self.board.lock().unwrap().keys, keys);
        for engine in &self.engines {
            let counters = engine.counters();
            assert_eq!(counters.frames_in, counters.decided() + counters.held);
        }
    }
}
