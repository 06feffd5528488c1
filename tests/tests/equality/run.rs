//! One sequence: conversations, what befalls them, and the time between.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use gabion_datapath::ebpf::Hook;
use gabion_engine::{
    Event, Frame, Generation, Interface, InterfaceId, Limits, Neighbour, Network, Offload, Packet,
    Parsed, Transmit, Verdict, build,
};
use gabion_rules::RuleSet;
use gabion_tests::network::{NODE_MAC, network, rules};
use gabion_tests::random::Random;
use gabion_tests::walk::{NetworkChange, POLICIES, Step, read_steps, told};
use gabion_tests::words::mac_of;

use super::differences::{Difference, packet_end};
use super::kernel::Kernel;
use super::pair::{Counts, Outcome, Pair};
use super::traffic::{Sending, Talk};

const LIMITS: Limits = Limits {
    flows: 64,
    mappings: 64,
    fragmented_datagrams: 4,
    fragments_per_datagram: 8,
    fragment_bytes: 65_536,
    parked_per_neighbour: 3,
    parked: 6,
    neighbours: 32,
    transmit_queue: 16,
    events: 256,
};

/// Steps of one sequence.
const STEPS: usize = 500;

/// Talks that go on at a time, and frames that may be complained about.
const TALKS: usize = 12;
const REMEMBERED: usize = 8;

/// How much of the way to a failure it tells.
const TOLD: usize = 6;

/// The interfaces of the sequences' network, each with a link address of its own: it tells by which one a frame leaves.
pub(super) fn interfaces() -> Vec<Interface> {
    own_links(network()).interfaces
}

pub(super) fn own_links(mut network: Network) -> Network {
    for (place, interface) in network.interfaces.iter_mut().enumerate() {
        interface.mac = [2, 0, 0, 0, 0xe0, place as u8];
    }
    network
}

/// Runs the sequence of a seed.
///
/// # Errors
/// Where the two differ, and what went before.
pub(super) fn run(kernel: &mut Kernel, seed: u64, tells_all: bool) -> Result<Counts> {
    let mut random = Random::new(seed);
    // Some tables are too small for all flows.
    let fast_flows = if random.is_one_in(4) { random.below(6) as usize } else { usize::MAX };
    let policy = if random.is_one_in(2) { rules() } else { any_policy(&mut random) };
    kernel.begin_at(if seed.is_multiple_of(2) { Hook::Tc } else { Hook::Xdp });
    let mut sequence = Sequence {
        pair: Pair::new(kernel, LIMITS, fast_flows),
        random,
        policy,
        generation: 0,
        talks: Vec::new(),
        left: VecDeque::new(),
        steps: VecDeque::new(),
        tells_all,
        answers: true,
    };
    let mut taken = 0;
    match sequence.run(&mut taken) {
        Ok(()) => {}
        Err(_) if sequence.pair.differ_in_ports_alone() => {
            *sequence.pair.counts.excuses.entry(Difference::Order).or_default() += 1;
        }
        Err(what) => {
            let steps: Vec<String> = sequence.steps.iter().map(Told::to_string).collect();
            return Err(format!("step {taken}: {what}\nafter:\n{}", steps.join("\n")));
        }
    }
    Ok(sequence.pair.counts)
}

fn any_policy(random: &mut Random) -> Arc<RuleSet> {
    POLICIES[random.below(POLICIES.len() as u64) as usize].clone()
}

struct Sequence<'k> {
    pair: Pair<'k>,
    random: Random,
    /// In force nearly always.
    policy: Arc<RuleSet>,
    generation: u64,
    talks: Vec<Talk>,
    left: VecDeque<Transmit>,
    steps: VecDeque<Told>,
    tells_all: bool,
    /// Whether neighbours answer at once.
    answers: bool,
}

type Result<T> = std::result::Result<T, String>;

impl Sequence<'_> {
    fn run(&mut self, taken: &mut usize) -> Result<()> {
        self.network(NetworkChange::AsBuilt)?;
        self.commit(&self.policy.clone())?;
        self.gate(true)?;
        for step in 0..STEPS {
            *taken = step;
            self.step()?;
            if step % 50 == 49 {
                self.note("reports");
                self.pair.compare_reports()?;
            }
        }
        self.note("the end");
        self.pair.compare_reports()?;
        self.wait(Duration::from_secs(4 * 86_400))?;
        self.pair.compare_reports()
    }

    fn step(&mut self) -> Result<()> {
        match self.random.below(1_000) {
            0..915 => self.talk(),
            915..930 => self.wait_some(),
            930..945 => self.complain(),
            945..947 => {
                let policy = any_policy(&mut self.random);
                self.commit(&policy)?;
                for _ in 0..self.random.below(6) {
                    self.talk()?;
                }
                self.commit(&self.policy.clone())
            }
            947..949 => self.commit(&self.policy.clone()),
            949..952 => {
                let change = self.random.pick(&[
                    NetworkChange::WithoutRoutes,
                    NetworkChange::OtherAddress,
                    NetworkChange::LinkDown,
                    NetworkChange::SmallMtu,
                ]);
                self.network(change)?;
                for _ in 0..self.random.below(12) {
                    self.talk()?;
                }
                self.network(NetworkChange::AsBuilt)
            }
            952..954 => {
                self.gate(false)?;
                self.talk()?;
                self.gate(true)
            }
            954..958 => {
                self.answers = !self.answers;
                Ok(())
            }
            _ => self.walk(),
        }
    }

    /// Somebody says something.
    fn talk(&mut self) -> Result<()> {
        let count = self.talks.len();
        if count == 0 || count < TALKS && self.random.is_one_in(12) {
            self.talks.push(Talk::begin(&mut self.random));
        }
        let place = self.random.below(self.talks.len() as u64) as usize;
        if let Some(sending) = self.talks[place].next(&mut self.random)
            && let Some(left) = self.send(&sending)?
        {
            self.talks[place].heard(&sending, &left);
        }
        if self.talks[place].is_stuck() || self.random.is_one_in(200) {
            self.talks.swap_remove(place);
        }
        Ok(())
    }

    /// Sends it as it is, or as one frame in some comes; returns what has been sent on.
    fn send(&mut self, sending: &Sending) -> Result<Option<Transmit>> {
        let builder = &sending.builder;
        let (mut frame, mut offload) = (builder.frame(), builder.offload());
        let (mut from, random) = (sending.from, &mut self.random);
        match random.below(80) {
            0 | 1 => frame.extend(vec![0xa5; 1 + random.below(30) as usize]),
            2 => frame.truncate(1 + random.below(frame.len() as u64) as usize),
            3 => from = InterfaceId(random.below(3) as u16),
            4 => frame[random.below(6) as usize] ^= 1 << random.below(8),
            5 => {
                let at = random.below(frame.len().min(90) as u64) as usize;
                frame[at] ^= 1 << random.below(8);
            }
            6 if frame.len() > 120 && packet_end(&frame) == Some(frame.len()) => {
                let mut pieces = build::fragmented(&frame, 100, random.next() as u32);
                if random.is_one_in(2) {
                    pieces.reverse();
                }
                for piece in pieces {
                    self.frame(from, piece, Offload::default())?;
                }
                return Ok(None);
            }
            7 | 8 if frame.len() > 120 => {
                let size = 1 + random.below(1_500) as u16;
                // Of whole sums, as the kernel has them for a test.
                let segments = builder.clone().segment_size(size).offload().segments;
                offload = Offload { segments, ..Offload::default() };
            }
            _ => {}
        }
        let outcome = self.frame(from, frame, offload)?;
        let is_sent_on =
            matches!(outcome.verdict, Some(Verdict::Forward { .. } | Verdict::Queued { .. }));
        Ok(outcome.left.into_iter().next().filter(|_| is_sent_on))
    }

    fn frame(
        &mut self,
        from: InterfaceId,
        mut frame: Vec<u8>,
        offload: Offload,
    ) -> Result<Outcome> {
        // The builder sends to one link address.
        if frame.get(..6) == Some(&NODE_MAC) {
            frame[4..6].copy_from_slice(&[0xe0, from.0 as u8]);
        }
        self.tell(Told::Frame(from, frame.clone(), offload));
        let outcome = self.pair.frame(from, &frame, offload)?;
        self.note(&format!("    {:?}, by programs {}", outcome.verdict, self.pair.counts.moved));
        self.told(&outcome)?;
        Ok(outcome)
    }

    /// Hears what the engines have sent and asked for.
    fn told(&mut self, outcome: &Outcome) -> Result<()> {
        for left in &outcome.left {
            self.left.push_front(left.clone());
        }
        self.left.truncate(REMEMBERED);
        for event in &outcome.events {
            if let Event::NeighbourWanted { interface, address } = event
                && self.answers
            {
                let known = Neighbour::Reachable { mac: mac_of(address.to_ip()) };
                let outcome = self.pair.neighbour(*interface, address.to_ip(), known)?;
                self.told(&outcome)?;
            }
        }
        Ok(())
    }

    /// A router complains of what has left.
    fn complain(&mut self) -> Result<()> {
        let count = self.left.len() as u64;
        if count == 0 {
            return Ok(());
        }
        let about = self.left[self.random.below(count) as usize].clone();
        let is_ip = matches!(about.bytes.get(12..14), Some([8, 0] | [0x86, 0xdd]));
        if !is_ip {
            return Ok(());
        }
        let (kind, code) = self.random.pick(&[(3, 1), (3, 4), (11, 0), (1, 1), (2, 0)]);
        let [high, low] = (self.random.below(1_600) as u16).to_be_bytes();
        let error = build::icmp_error_about(&about.bytes, kind, code, [0, 0, high, low]).frame();
        self.frame(about.out, error, Offload::default()).map(drop)
    }

    fn wait_some(&mut self) -> Result<()> {
        let millis = match self.random.below(20) {
            0..=13 => self.random.below(1_500),
            14..=17 => self.random.below(60_000),
            _ => self.random.below(1_000_000),
        };
        self.wait(Duration::from_millis(millis))
    }

    fn wait(&mut self, time: Duration) -> Result<()> {
        self.note(&format!("{time:?} pass"));
        self.pair.wait(time)
    }

    fn commit(&mut self, rules: &Arc<RuleSet>) -> Result<()> {
        self.note("commit");
        self.generation += 1;
        let outcome = self.pair.set_rules(Generation(self.generation), rules)?;
        self.told(&outcome)
    }

    fn network(&mut self, change: NetworkChange) -> Result<()> {
        self.note(&format!("{change:?}"));
        let outcome = self.pair.set_network(&own_links(change.network()))?;
        self.told(&outcome)
    }

    fn gate(&mut self, is_open: bool) -> Result<()> {
        self.note(&format!("open: {is_open}"));
        let act = |engine: &mut gabion_engine::Engine, _| {
            if is_open { engine.open() } else { engine.close() }
        };
        self.pair.act(act).map(drop)
    }

    /// A step of the random walks, most of which lead nowhere.
    fn walk(&mut self) -> Result<()> {
        let bytes: Vec<u8> = (0..40).map(|_| self.random.next() as u8).collect();
        let Some(step) = read_steps(&bytes).into_iter().next() else { return Ok(()) };
        match step {
            Step::Packet { from, packet } => {
                let offload = packet.builder().offload();
                for frame in packet.frames() {
                    self.frame(InterfaceId(from), frame, offload)?;
                }
                Ok(())
            }
            Step::Neighbour { known, out, which } => {
                let (address, neighbour) = told(known, which);
                self.note(&format!("{address}: {neighbour:?}"));
                let outcome = self.pair.neighbour(InterfaceId(out), address, neighbour)?;
                self.told(&outcome)
            }
            Step::Commit(_)
            | Step::Network(_)
            | Step::Gate { .. }
            | Step::Wait(_)
            | Step::Garbage { .. }
            | Step::Answer { .. }
            | Step::Error { .. } => Ok(()),
        }
    }

    fn note(&mut self, what: &str) {
        self.tell(Told::Words(what.to_owned()));
    }

    fn tell(&mut self, step: Told) {
        if self.steps.len() >= TOLD && !self.tells_all {
            self.steps.pop_front();
        }
        self.steps.push_back(step);
    }
}

/// A step on the way.
enum Told {
    Words(String),
    Frame(InterfaceId, Vec<u8>, Offload),
}

impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Words(words) => write!(f, "{words}"),
            Self::Frame(InterfaceId(from), frame, offload) => {
                let mut bytes = frame.clone();
                let parsed = Packet::parse(&Frame { bytes: &mut bytes, offload: *offload });
                write!(f, "{} bytes by {from}, {:?}: ", frame.len(), offload.segments)?;
                match parsed {
                    Ok(Parsed::Ip(packet)) => write!(f, "{:?} {:?}", packet.key(), packet.segment),
                    other @ (Ok(Parsed::Arp(_)) | Err(_)) => write!(f, "{other:?} {frame:02x?}"),
                }
            }
        }
    }
}
