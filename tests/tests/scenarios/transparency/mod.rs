//! Two TCP stacks that are not ours, with the engine between them, over a network that loses, repeats
//! and reorders before and behind it: every byte arrives, every connection ends, and what the engine
//! drops would have told nobody anything (RFC 2979).
//!
//! `GABION_SCHEDULES` says how many schedules are tried; a failure names its number, and
//! `GABION_SCHEDULE` tries that one alone.

mod host;
mod schedule;
mod seen;

use std::collections::BTreeMap;

use gabion_engine::{DropReason, Time};
use gabion_tests::random::Random;

use super::POLICY;
use super::dialogue::Dialogue;
use host::Host;
use schedule::Schedule;
use seen::Seen;

/// In `make test`; nightly it is many thousand.
const SCHEDULES: u64 = 100;

/// Virtual milliseconds after which two hosts should have come to an end on the worst network.
const PATIENCE: u64 = 36_000_000;

/// A frame on its way: before the engine, or behind it.
#[derive(Debug, Clone)]
struct Flight {
    /// Index of the host that it comes from.
    from: usize,
    is_behind: bool,
    frame: Vec<u8>,
}

struct World {
    now: u64,
    schedule: Schedule,
    random: Random,
    dialogue: Dialogue,
    /// Client and server.
    hosts: [Host; 2],
    /// By arrival; the second number keeps the order of equal ones.
    flights: BTreeMap<(u64, u64), Flight>,
    last: u64,
    seen: Seen,
}

/// The interfaces of client and server.
const SIDES: [&str; 2] = ["ext", "int"];

impl World {
    fn new(number: u64) -> Self {
        let mut random = Random::new(number);
        let schedule = Schedule::draw(&mut random);
        let [client, server] = schedule.place.hosts();
        let mut hosts = [
            Host::new(client.0, random.next(), &schedule.programs[0]),
            Host::new(server.0, random.next(), &schedule.programs[1]),
        ];
        hosts[1].listen(server.1);
        hosts[0].connect(schedule.place.called(), client.1);
        let dialogue = Dialogue::new(POLICY);
        let (flights, seen) = (BTreeMap::new(), Seen::default());
        Self { now: 1_000, schedule, random, dialogue, hosts, flights, last: 0, seen }
    }

    /// Runs until both are done, and says how many frames the engine has dropped.
    fn run(&mut self) -> Result<u64, String> {
        let bytes = [self.schedule.programs[0].sends, self.schedule.programs[1].sends];
        while self.now < PATIENCE {
            for index in 0..2 {
                self.hosts[index].run(self.now);
                while let Some(frame) = self.hosts[index].link.sent.pop_front() {
                    self.launch(Flight { from: index, is_behind: false, frame });
                }
            }
            let [client, server] = &self.hosts;
            if client.is_done(bytes[1]) && server.may_be_done(bytes[0])
                || server.is_done(bytes[0]) && client.may_be_done(bytes[1])
            {
                return Ok(self.seen.dropped);
            }
            let flight = self.flights.keys().next().map(|(at, _)| *at);
            let host = self.hosts.iter_mut().filter_map(|host| host.next(self.now)).min();
            let Some(next) = flight.into_iter().chain(host).min() else { break };
            self.now = next.max(self.now + 1);
            while let Some(entry) = self.flights.first_entry() {
                if entry.key().0 > self.now {
                    break;
                }
                let flight = entry.remove();
                self.arrive(flight)?;
            }
        }
        let [client, server] = &self.hosts;
        Err(format!(
            "stuck at {} ms: client {}; server {}; flows {:?}",
            self.now,
            client.describe(),
            server.describe(),
            self.dialogue.flows()
        ))
    }

    /// Puts a frame on the network, which may lose or repeat it.
    fn launch(&mut self, flight: Flight) {
        let copies = match self.random.below(1_000) {
            n if n < self.schedule.loss => 0,
            n if n < self.schedule.loss + self.schedule.repeat => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let late = if self.random.below(1_000) < self.schedule.late { 2_000 } else { 0 };
            let delay = 1 + self.random.below(self.schedule.delay + late);
            self.last += 1;
            self.flights.insert((self.now + delay, self.last), flight.clone());
        }
    }

    fn arrive(&mut self, flight: Flight) -> Result<(), String> {
        let Flight { from, is_behind, frame } = flight;
        if is_behind {
            self.hosts[1 - from].receive(frame);
            return Ok(());
        }
        // The inside host may be the one that connects.
        let side = SIDES[usize::from(self.schedule.place.is_outbound()) ^ from];
        self.dialogue.now = Time::from_nanos((1_000 + self.now) * 1_000_000);
        self.dialogue.engine.handle_timeout(self.dialogue.now);
        let before = self.dialogue.engine.counters().dropped;
        self.dialogue.send(side, &frame);
        let after = self.dialogue.engine.counters().dropped;
        let reason = DropReason::ALL.iter().find(|r| after[r.index()] > before[r.index()]);
        if let Some(reason) = reason {
            return self.seen.dropped(from, &frame, *reason);
        }
        let sent = std::mem::take(&mut self.dialogue.sent);
        if sent.len() != 1 || sent[0].0 == side {
            return Err(format!("neither dropped nor passed: {:?}", self.dialogue.left()));
        }
        self.seen.passed(from, &frame);
        for (_, frame) in sent {
            self.launch(Flight { from, is_behind: true, frame });
        }
        Ok(())
    }
}

/// Covers: 2979-T, 5382-2, 6092-31, 9293
#[test]
fn two_stacks_get_every_byte_across_a_bad_network() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let chosen = match number("GABION_SCHEDULE") {
        Some(one) => one..one + 1,
        None => 0..number("GABION_SCHEDULES").unwrap_or(SCHEDULES),
    };
    let mut dropped = 0;
    for number in chosen {
        let mut world = World::new(number);
        match world.run() {
            Ok(count) => dropped += count,
            Err(what) => panic!("GABION_SCHEDULE={number}: {what}\n{:?}", world.schedule),
        }
    }
    println!("{dropped} useless frames dropped");
}
