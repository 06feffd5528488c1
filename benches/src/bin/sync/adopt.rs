//! The owner of many connections dies, and a packet of each comes to the node that has their copies.

use std::time::Duration;

use gabion_benches::{Pair, policy};
use gabion_engine::{NodeId, Session};

use crate::flow::{Packet, pass};
use crate::tell::busy;

/// Packets that come together.
const BLOCK: u32 = 32;

/// Returns whether all were taken over.
pub(crate) fn measure(flows: u32) -> bool {
    let mut pair = Pair::new(&policy(10), flows + flows / 4);
    for first in (0..flows).step_by(BLOCK as usize) {
        for packet in [Packet::Syn, Packet::SynAck, Packet::Ack] {
            let mut arriving: Vec<_> = (first..first + BLOCK).map(|n| packet.of(n)).collect();
            pass(&mut pair.engines[0], pair.now, &mut arriving);
            pair.talk();
        }
        if first % 4_096 == 0 {
            pair.pass_time(Duration::from_millis(20));
        }
    }
    pair.pass_time(Duration::from_secs(1));
    let [_, heir] = &mut pair.engines;
    let start = busy();
    heir.handle_session(pair.now, NodeId(1), Session::Lost);
    let noticed = busy() - start;
    let (mut times, mut adopted, mut turns) = (Vec::new(), 0, Vec::new());
    for first in (0..flows).step_by(BLOCK as usize) {
        let mut arriving: Vec<_> = (first..first + BLOCK).map(|n| Packet::Data.of(n)).collect();
        let start = busy();
        adopted += pass(heir, pair.now, &mut arriving);
        times.push((busy() - start).as_nanos() as u64 / u64::from(BLOCK));
        if first % 1_024 == 0 {
            pair.now = pair.now + Duration::from_millis(1);
            let start = busy();
            heir.handle_timeout(pair.now);
            turns.push(busy() - start);
        }
    }
    let mean = times.iter().sum::<u64>() / times.len() as u64;
    times.sort_unstable();
    let share = |part: usize| times[(times.len() - 1) * part / 100];
    let longest = turns.iter().max().copied().unwrap_or_default();
    println!(
        "time/adopt/tcp4/{flows}: {adopted} of {} taken over; {mean} ns each in the mean, p50 {}, p99 {} (blocks of {BLOCK}); the loss itself {noticed:.0?}, the longest turn {longest:.0?}",
        flows.next_multiple_of(BLOCK),
        share(50),
        share(99),
    );
    adopted == flows.next_multiple_of(BLOCK) as usize
}
