//! Challenges of a node with several workers: whichever the answer comes to, whoever decides the SYN hears of it.

use gabion_engine::{
    DropReason, FastFlow, FastHop, FastPath, FastPlace, FastUsage, FastWay, Frame, InterfaceId,
    Offload, build,
};
use gabion_rules::ZoneId;
use gabion_tests::network::interface_id;

use super::crew::Crew;
use super::{KINDS, OPEN, ends, host};

const WORKERS: u16 = 3;
/// Each worker's part for sources that nobody knows is ten.
const FLOOD: &str =
    "  default: { action: allow }\n  flood: { half-open: 60, answers-per-second: 10000 }";

fn crew() -> Crew {
    let policy = OPEN.replace("HOW", KINDS[0]).replace("  default: { action: allow }", FLOOD);
    Crew::new(WORKERS, &policy)
}

fn syn(from: &str, to: &str) -> Vec<u8> {
    build::tcp().from(from).to(to).syn().seq(1_000).window(64_000).frame()
}

fn answer(from: &str, to: &str, number: u32) -> Vec<u8> {
    build::tcp().from(from).to(to).rst().seq(number).frame()
}

/// Handshakes that stay open, at every worker.
fn flood(crew: &mut Crew, to: &str) {
    for source in 1..60 {
        crew.send(0, "ext", &syn(&format!("198.51.101.{source}:4000"), to));
    }
}

/// What the only frame that left acknowledges.
fn number(left: &[(InterfaceId, Vec<u8>)]) -> u32 {
    let [(InterfaceId(0), frame)] = left else { panic!("{left:?}") };
    u32::from_be_bytes(frame[42..46].try_into().unwrap())
}

fn met(crew: &Crew) -> u64 {
    let of = |engine: &gabion_engine::Engine| engine.counters().dropped(DropReason::ChallengeMet);
    crew.engines.iter().map(of).sum()
}

/// An external endpoint's packets are decided where its port was given out, and not where their sources' are.
#[test]
fn who_meets_a_challenge_is_let_in_whichever_workers_its_packets_come_to() {
    for is_external in [false, true] {
        let mut crew = crew();
        crew.engines.iter_mut().for_each(|engine| engine.use_fast_path(Box::new(Asking)));
        let inside = syn("10.1.0.10:5000", "198.51.100.200:80");
        let [external, _] = ends(&crew.send(0, "int", &inside), "ext").unwrap();
        assert_eq!(host(&external), "203.0.113.4");
        let to = if is_external { external } else { "203.0.113.7:443".to_owned() };
        flood(&mut crew, &to);
        // Known sources have ten places of their own at each.
        for source in 1..7_usize {
            let from = format!("198.51.100.{source}:4000");
            let doors = [source, source / 2, source / 3].map(|door| door % usize::from(WORKERS));
            let challenge = crew.send_bytes(doors[0], "ext", &syn(&from, &to));
            let before = met(&crew);
            let met_by = answer(&from, &to, number(&challenge));
            assert_eq!(crew.send(doors[1], "ext", &met_by), Vec::<String>::new());
            assert_eq!(met(&crew), before + 1, "{from} > {to} by {doors:?}");
            let left = crew.send(doors[2], "ext", &syn(&from, &to));
            assert!(ends(&left, "int").is_some(), "{from} > {to} by {doors:?}: {left:?}");
        }
    }
}

/// A table whose programs have challenged somebody.
#[derive(Debug)]
struct Asking;

impl FastPath for Asking {
    fn install(&mut self, _: &FastFlow) -> Option<FastPlace> {
        None
    }

    fn renew(&mut self, _: FastPlace, _: &FastFlow) {}

    fn remove(&mut self, _: FastPlace) -> FastUsage {
        FastUsage::default()
    }

    fn take_usage(&mut self, _: FastPlace) -> FastUsage {
        FastUsage::default()
    }

    fn set_hop(&mut self, _: FastHop, _: Option<FastWay>) {}

    fn set_zone(&mut self, _: InterfaceId, _: Option<ZoneId>) {}

    fn set_stamp(&mut self, _: u32) {}

    fn may_have_challenged(&self) -> bool {
        true
    }
}

/// Programs challenge for all workers as soon as one of them does.
#[test]
fn the_answer_to_what_programs_have_sent_is_heard_by_who_has_challenged_nobody() {
    const TO: &str = "203.0.113.7:443";
    for has_asked in [false, true] {
        let mut crew = crew();
        let now = crew.now;
        // One worker alone is flooded, and makes the number that programs would.
        let asked = &mut crew.engines[0];
        for source in 1..40 {
            let mut bytes = syn(&format!("198.51.101.{source}:4000"), TO);
            let mut frame = Frame { bytes: &mut bytes, offload: Offload::default() };
            asked.handle_from_worker(now, interface_id("ext"), &mut frame);
        }
        let challenges: Vec<_> = std::iter::from_fn(|| asked.poll_transmit()).collect();
        let challenge = &challenges.last().unwrap().bytes;
        let number = u32::from_be_bytes(challenge[42..46].try_into().unwrap());
        let other = &mut crew.engines[1];
        if has_asked {
            other.use_fast_path(Box::new(Asking));
        }
        let mut bytes = answer("198.51.101.39:4000", TO, number);
        let mut frame = Frame { bytes: &mut bytes, offload: Offload::default() };
        other.handle_from_worker(now, interface_id("ext"), &mut frame);
        let heard = other.counters().dropped(DropReason::ChallengeMet);
        assert_eq!(heard, u64::from(has_asked));
    }
}
