//! P5: finding the flow of a packet.

use std::hash::BuildHasher;
use std::hint::black_box;
use std::time::Instant;

use gabion_engine::measure::Flows;
use gabion_engine::{Address, BATCH, Endpoint, FlowKey};
use hashbrown::HashMap;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    Ipv4,
    Ipv6,
}

/// Keys of a round: they stay in the second-level cache.
const ROUND: usize = 4_096;

fn address(family: Family, net: u8, host: u32) -> Address {
    let [a, b, c, d] = host.to_be_bytes();
    match family {
        Family::Ipv4 => Address::from([net, b, c, d]),
        Family::Ipv6 => Address::from([0x26, net, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d]),
    }
}

/// Flow `number`: a client out of many, its port, one of some servers.
fn keys(family: Family, number: u32) -> (FlowKey, FlowKey) {
    let client = Endpoint {
        address: address(family, 10, number / 1_000),
        port: 1_024 + (number % 50_000) as u16,
    };
    let server = Endpoint { address: address(family, 93, number % 4_099), port: 443 };
    let external = Endpoint {
        address: address(family, 203, number / 50_000),
        port: 1_024 + (number % 60_000) as u16,
    };
    let original = FlowKey { source: client, destination: server, protocol: 6 };
    let reply = FlowKey { source: server, destination: external, protocol: 6 };
    (original, reply)
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u32) -> u32 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % u64::from(limit)) as u32
    }
}

fn round(dice: &mut Dice, family: Family, flows: u32, misses: f64) -> Vec<FlowKey> {
    (0..ROUND)
        .map(|_| {
            let number = dice.below(flows);
            let (original, reply) = keys(family, number);
            let mut key = if dice.below(2) == 0 { original } else { reply };
            if f64::from(dice.below(1_000)) < misses * 1_000.0 {
                key.protocol = 17;
            }
            key
        })
        .collect()
}

fn time(
    name: &str,
    family: Family,
    flows: u32,
    misses: f64,
    rounds: usize,
    mut look: impl FnMut(&[FlowKey]) -> usize,
) {
    let mut dice = Dice(5);
    let mut times = Vec::new();
    for _ in 0..rounds {
        let keys = round(&mut dice, family, flows, misses);
        let begin = Instant::now();
        black_box(look(black_box(&keys)));
        times.push(begin.elapsed().as_nanos() as f64 / ROUND as f64);
    }
    times.sort_by(f64::total_cmp);
    println!(
        "{name:12} {family:?} {flows} misses {misses}: p10 {:.1} p50 {:.1} p90 {:.1} ns",
        times[rounds / 10],
        times[rounds / 2],
        times[rounds * 9 / 10]
    );
}

pub(crate) fn measure(flows: u32, family: Family) {
    let begin = Instant::now();
    let mut table = Flows::new(flows, [9; 16]);
    for number in 0..flows {
        let (original, reply) = keys(family, number);
        assert!(table.insert(original, reply), "{number}");
    }
    println!("filled in {:?}", begin.elapsed());
    for misses in [0.0, 0.5, 1.0] {
        time("batch", family, flows, misses, 300, |keys| {
            let (batches, _) = keys.as_chunks::<BATCH>();
            batches.iter().map(|batch| table.count_batch(batch)).sum()
        });
        time("single", family, flows, misses, 300, |keys| table.count_singly(keys));
    }
    drop(table);
    if std::env::args().nth(2).is_some() {
        let mut map: HashMap<FlowKey, u32, std::hash::RandomState> =
            HashMap::with_capacity_and_hasher(2 * flows as usize, std::hash::RandomState::new());
        for number in 0..flows {
            let (original, reply) = keys(family, number);
            map.insert(original, number * 2);
            map.insert(reply, number * 2 + 1);
        }
        let _ = map.hasher().hash_one(1);
        for misses in [0.0, 0.5, 1.0] {
            time("hashbrown", family, flows, misses, 300, |keys| {
                keys.iter().filter(|key| map.contains_key(*key)).count()
            });
        }
    }
}
