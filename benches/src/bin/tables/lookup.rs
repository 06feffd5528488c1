//! P5: finding the flow of a packet.

use std::hint::black_box;
use std::time::Instant;

use gabion_engine::measure::Flows;
use gabion_engine::{Address, BATCH, Endpoint, FlowKey};
use hashbrown::HashMap;

use crate::Line;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    Ipv4,
    Ipv6,
}

impl Family {
    const fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "udp4",
            Self::Ipv6 => "udp6",
        }
    }
}

/// Keys of a round: they stay in the second-level cache, and are made outside the timed part.
const ROUND: usize = 4_096;

/// Hits, misses and both.
pub(crate) fn measure(family: Family, flows: u32, rounds: usize) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut table = Flows::new(flows, [9; 16]);
    gabion_datapath::use_huge_pages();
    for number in 0..flows {
        let (original, reply) = keys(family, number);
        assert!(table.insert(original, reply), "flow {number} of {flows}");
    }
    lines.push(huge_pages(family, flows));
    let goals = if flows > 1_000_000 { (90.0, 50.0) } else { (60.0, 35.0) };
    let case = Case { flows, family, rounds };
    for misses in [0, 50, 100] {
        let line = case.time("batch", misses, |keys| {
            let (batches, _) = keys.as_chunks::<BATCH>();
            batches.iter().map(|batch| table.count_batch(batch)).sum()
        });
        lines.push(line.against(goals.0, goals.1));
    }
    lines.push(case.time("single", 0, |keys| table.count_singly(keys)));
    lines
}

/// The same for hashbrown with the standard library's hash, which is as hard to guess.
pub(crate) fn measure_hashbrown(family: Family, flows: u32, rounds: usize) -> Vec<Line> {
    let mut map =
        HashMap::with_capacity_and_hasher(2 * flows as usize, std::hash::RandomState::new());
    gabion_datapath::use_huge_pages();
    for number in 0..flows {
        let (original, reply) = keys(family, number);
        map.insert(original, number << 1);
        map.insert(reply, number << 1 | 1);
    }
    let case = Case { flows, family, rounds };
    let look = |keys: &[FlowKey]| keys.iter().filter(|key| map.contains_key(*key)).count();
    [0, 50, 100].map(|misses| case.time("hashbrown", misses, look)).into()
}

/// How much of this program's memory stands in huge pages.
fn huge_pages(family: Family, flows: u32) -> Line {
    let share = || {
        let (huge, all) = (crate::memory::measured("AnonHugePages:"), crate::memory::resident());
        anyhow::Ok(100.0 * huge? as f64 / all? as f64)
    };
    let name = format!("memory/in-huge-pages/{}/{flows}", family.name());
    Line::of(name, "%", vec![share().unwrap_or(f64::NAN)])
}

/// What the machine allows: lines of 256 MiB read at random, 32 at a time, and each where the one
/// before says.
pub(crate) fn measure_machine(rounds: usize) -> Vec<Line> {
    const LINES: u32 = 1 << 22;
    let mut memory = vec![[0_u64; 8]; LINES as usize];
    gabion_datapath::use_huge_pages();
    for line in &mut memory {
        line[0] = black_box(0);
    }
    let mut dice = Dice::new(6);
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        let places: Vec<u32> = (0..ROUND).map(|_| dice.below(LINES)).collect();
        let (batches, _) = places.as_chunks::<BATCH>();
        let begin = Instant::now();
        for batch in batches {
            let loaded = batch.iter().map(|place| memory[*place as usize][0]);
            black_box(loaded.fold(0, |all, one| all ^ one));
        }
        times[0].push(begin.elapsed().as_nanos() as f64 / ROUND as f64);
        let begin = Instant::now();
        let last =
            places.iter().fold(0, |found, place| memory[(*place as u64 ^ found) as usize][0]);
        black_box(last);
        times[1].push(begin.elapsed().as_nanos() as f64 / ROUND as f64);
    }
    let [batch, chain] = times;
    vec![
        Line::of("time/load-batch/machine/256-MiB".to_owned(), "ns", batch),
        Line::of("time/load-chain/machine/256-MiB".to_owned(), "ns", chain),
    ]
}

struct Case {
    flows: u32,
    family: Family,
    rounds: usize,
}

impl Case {
    /// Nanoseconds for each key; of a hundred keys so many are not there.
    fn time(&self, how: &str, misses: u32, mut look: impl FnMut(&[FlowKey]) -> usize) -> Line {
        let mut dice = Dice::new(5);
        let mut times = Vec::with_capacity(self.rounds);
        for _ in 0..self.rounds {
            let keys = self.round(&mut dice, misses);
            let begin = Instant::now();
            black_box(look(black_box(&keys)));
            times.push(begin.elapsed().as_nanos() as f64 / ROUND as f64);
        }
        let family = self.family.name();
        let name = format!("time/lookup-{how}/{family}-snat/{}-{misses}%-missed", self.flows);
        Line::of(name, "ns", times)
    }

    fn round(&self, dice: &mut Dice, misses: u32) -> Vec<FlowKey> {
        let key = |_| {
            let (original, reply) = keys(self.family, dice.below(self.flows));
            let mut key = if dice.below(2) == 0 { original } else { reply };
            if dice.below(100) < misses {
                key.protocol = 6;
            }
            key
        };
        (0..ROUND).map(key).collect()
    }
}

/// Flow `number`: a client out of many, its port, one of some servers.
fn keys(family: Family, number: u32) -> (FlowKey, FlowKey) {
    let end = |net: u8, host: u32, port: u32| Endpoint {
        address: address(family, net, host),
        port: port as u16,
    };
    let server = end(93, number % 4_099, 443);
    let original = FlowKey {
        source: end(10, number / 1_000, 1_024 + number % 50_000),
        destination: server,
        protocol: 17,
    };
    let external = end(203, number / 50_000, 1_024 + number % 60_000);
    (original, FlowKey { source: server, destination: external, protocol: 17 })
}

fn address(family: Family, net: u8, host: u32) -> Address {
    let [a, b, c, d] = host.to_be_bytes();
    match family {
        Family::Ipv4 => Address::from([net, b, c, d]),
        Family::Ipv6 => Address::from([0x26, net, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d]),
    }
}

/// SplitMix64 (G. Steele et al., 2014): the same numbers in every run.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) const fn below(&mut self, limit: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((word ^ (word >> 31)) % limit as u64) as u32
    }
}
