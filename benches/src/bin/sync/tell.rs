//! An owner tells the holder of its flows: that they are there (REGISTER), how they are (RECORD), that they have ended
//! (GONE).

use std::time::Duration;

use gabion_benches::{Pair, Subject, policy};
use gabion_engine::{Engine, NodeId, Time};
use gabiond::cluster::seal::{Opener, Sealer};

use crate::flow::{Packet, pass};

/// Connections whose packets come together: so many that datagrams are full.
const BLOCK: u32 = 64;
/// The time that a block takes, as the engines see it.
const BLOCK_TIME: Duration = Duration::from_micros(200);
/// Longer than a closed flow is remembered.
const AFTERWARDS: Duration = Duration::from_secs(150);
/// P10.
const GATE: f64 = 200_000.0;
/// Of IPv4 and UDP.
const OUTER: usize = 28;

/// Types of records, and of these that are events (docs/cluster.md section 6).
const REGISTER: u8 = 128;
const GONE: u8 = 130;
const RECORD: u8 = 131;

/// What either side has spent and said.
#[derive(Debug, Default)]
struct Spent {
    alone: Duration,
    owner_packets: Duration,
    owner_sync: Duration,
    holder: Duration,
    datagrams: u64,
    bytes: u64,
    registers: u64,
    records: u64,
    gone: u64,
}

/// One direction of a session.
struct Way {
    sealer: Sealer,
    opener: Opener,
    records: Vec<Vec<u8>>,
    sealed: Vec<Vec<u8>>,
    count: usize,
}

impl Way {
    fn new(key: u8) -> Self {
        let (sealer, opener) = (Sealer::new(1, 0, &[key; 16]), Opener::new(1, 0, &[key; 16]));
        Self { sealer, opener, records: Vec::new(), sealed: Vec::new(), count: 0 }
    }

    /// Seals all that an engine has to say; returns how long that takes.
    fn seal(&mut self, now: Time, engine: &mut Engine, spent: &mut Spent) -> Duration {
        let start = busy();
        self.count = 0;
        loop {
            if self.count == self.sealed.len() {
                self.records.push(Vec::new());
                self.sealed.push(Vec::new());
            }
            let (records, sealed) = (&mut self.records[self.count], &mut self.sealed[self.count]);
            if engine.poll_peer(now, records).is_none() || !self.sealer.seal(records, sealed) {
                break;
            }
            self.count += 1;
        }
        let time = busy() - start;
        for (records, sealed) in self.records.iter().zip(&self.sealed).take(self.count) {
            spent.datagrams += 1;
            spent.bytes += (sealed.len() + OUTER) as u64;
            spent.count(records);
        }
        time
    }

    fn open(&mut self, now: Time, from: NodeId, engine: &mut Engine) -> Duration {
        let start = busy();
        for sealed in &mut self.sealed[..self.count] {
            let records = self.opener.open(sealed).expect("it was sealed for this");
            engine.handle_peer(now, from, records);
        }
        busy() - start
    }
}

/// What this thread has had of a CPU: others' work on the machine does not count.
pub(crate) fn busy() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

impl Spent {
    fn count(&mut self, mut records: &[u8]) {
        while let [kind, high, low, rest @ ..] = records {
            match *kind {
                REGISTER => self.registers += 1,
                RECORD => self.records += 1,
                GONE => self.gone += 1,
                _ => {}
            }
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            records = rest.get(length..).unwrap_or_default();
        }
    }

    const fn events(&self) -> u64 {
        self.registers + self.records + self.gone
    }
}

/// Both ways, and what is spent on them.
struct Talk {
    ways: [Way; 2],
    spent: Spent,
}

impl Talk {
    /// Until neither has anything to say.
    fn exchange(&mut self, pair: &mut Pair) {
        let Self { ways: [there, back], spent } = self;
        let Pair { now, engines: [owner, holder], .. } = pair;
        loop {
            let sealing = there.seal(*now, owner, spent);
            spent.owner_sync += sealing;
            spent.holder += there.open(*now, NodeId(1), holder);
            let answering = back.seal(*now, holder, spent);
            spent.holder += answering;
            spent.owner_sync += back.open(*now, NodeId(2), owner);
            if there.count + back.count == 0 {
                return;
            }
        }
    }
}

/// Returns whether all was told and the gate is met.
pub(crate) fn measure(flows: u32) -> bool {
    let room = flows + flows / 4;
    let mut pair = Pair::new(&policy(10), room);
    let mut alone = Subject::new(&policy(10), room);
    let mut talk = Talk { ways: [Way::new(1), Way::new(2)], spent: Spent::default() };
    // Once through, so that memory has been taken and neighbours are known.
    let number = u32::MAX;
    for packet in [Packet::Syn, Packet::SynAck, Packet::Ack, Packet::Reset] {
        let (from, bytes) = packet.of(number % 1_000_000_000);
        alone.pass(from, &bytes);
        pass(&mut pair.engines[0], pair.now, &mut [(from, bytes)]);
    }
    talk.exchange(&mut pair);
    talk.spent = Spent::default();

    for first in (0..flows).step_by(BLOCK as usize) {
        for packet in [Packet::Syn, Packet::SynAck, Packet::Ack] {
            step(&mut pair, &mut alone.engine, &mut talk, first, packet);
        }
        pair.now = pair.now + BLOCK_TIME;
        turn(&mut pair, &mut talk);
    }
    let status =
        pair.engines.each_ref().map(|engine| engine.cluster_status(pair.now).unwrap_or_default());
    let told = (status[1].replicas, status[0].coverage.covered);
    let is_told = told.0 >= u64::from(flows) && told.1 >= u64::from(flows);
    for first in (0..flows).step_by(BLOCK as usize) {
        step(&mut pair, &mut alone.engine, &mut talk, first, Packet::Reset);
        pair.now = pair.now + BLOCK_TIME;
        turn(&mut pair, &mut talk);
    }
    let end = pair.now + AFTERWARDS;
    while pair.now < end {
        pair.now = pair.now + Duration::from_millis(20);
        turn(&mut pair, &mut talk);
    }
    let status =
        pair.engines.each_ref().map(|engine| engine.cluster_status(pair.now).unwrap_or_default());
    let left = (status[0].owned, status[1].replicas);
    report(flows, &talk.spent, told, left) && is_told && left == (0, 0)
}

/// The same packet of each connection of a block.
fn step(pair: &mut Pair, alone: &mut Engine, talk: &mut Talk, first: u32, packet: Packet) {
    let mut arriving: Vec<_> = (first..first + BLOCK).map(|number| packet.of(number)).collect();
    let mut again = arriving.clone();
    let start = busy();
    let by_one = pass(alone, pair.now, &mut again);
    let middle = busy();
    let by_other = pass(&mut pair.engines[0], pair.now, &mut arriving);
    talk.spent.alone += middle - start;
    talk.spent.owner_packets += busy() - middle;
    assert_eq!((by_one, by_other), (arriving.len(), arriving.len()), "{packet:?} {first}");
    talk.exchange(pair);
}

/// What is due in all three.
fn turn(pair: &mut Pair, talk: &mut Talk) {
    let now = pair.now;
    let [owner, holder] = &mut pair.engines;
    for (engine, spent) in [(owner, &mut talk.spent.owner_sync), (holder, &mut talk.spent.holder)] {
        let start = busy();
        if engine.poll_timeout().is_some_and(|due| due <= now) {
            engine.handle_timeout(now);
        }
        *spent += busy() - start;
        while engine.poll_event().is_some() {}
    }
    talk.exchange(pair);
}

fn report(flows: u32, spent: &Spent, told: (u64, u64), left: (u64, u64)) -> bool {
    let events = spent.events() as f64;
    let each = |time: Duration| time.as_nanos() as f64 / events;
    let packets = spent.owner_packets.saturating_sub(spent.alone);
    let owner = each(packets) + each(spent.owner_sync);
    let holder = each(spent.holder);
    let rate = 1e9 / (owner + holder);
    println!(
        "rate/tell/tcp4/{flows}: {rate:.0} events/s on one core that is owner and holder; owner {:.0}/s, holder {:.0}/s (gate {GATE:.0})",
        1e9 / owner,
        1e9 / holder
    );
    println!(
        "  {} events: {} REGISTER, {} RECORD, {} GONE, in {} datagrams, answers included; {:.1} bytes an event",
        spent.events(),
        spent.registers,
        spent.records,
        spent.gone,
        spent.datagrams,
        spent.bytes as f64 / events
    );
    println!(
        "  ns an event: owner's packets {:.0} more than alone, saying and timers {:.0}; holder {holder:.0}; a packet alone {:.0} ns",
        each(packets),
        each(spent.owner_sync),
        spent.alone.as_nanos() as f64 / (4.0 * f64::from(flows))
    );
    println!(
        "  copies {} and acknowledged {} of {flows}; left at the end: {} flows, {} copies",
        told.0, told.1, left.0, left.1
    );
    rate >= GATE
}
