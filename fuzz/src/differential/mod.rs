//! Seeded conversations through the engine and through Linux with an equivalent nftables ruleset.
//!
//! Each packet of a conversation is sent to both, and what leaves is compared: by which side, and
//! what it says, ports that NAT chose apart. A conversation ends at the first difference, as the two
//! then remember different things. A difference that is in no class of [`classes`] fails.

pub mod classes;
mod datagrams;
mod linux;
mod ours;
mod rng;
mod script;
mod summary;
mod tcp;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};

pub use linux::Linux;
use ours::Ours;
use rng::Rng;
use script::{Conversation, Packet, Side, Step};
use summary::summary;

/// Conversations after which both sides begin anew: ports run out, tables fill.
const PER_ROUND: u64 = 2_000;

/// What came of all conversations.
#[derive(Debug, Default)]
pub struct Report {
    pub conversations: u64,
    pub packets: u64,
    /// By name of the class.
    pub explained: BTreeMap<&'static str, u64>,
    /// In words.
    pub unexplained: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} conversations, {} packets", self.conversations, self.packets)?;
        for (name, count) in &self.explained {
            writeln!(f, "{count:>8} {name}")?;
        }
        for difference in &self.unexplained {
            writeln!(f, "unexplained: {difference}")?;
        }
        Ok(())
    }
}

/// What became of one packet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What left on the other side, in words.
    pub passed: Vec<String>,
    /// What came back to the sender's side.
    pub answered: Vec<String>,
    /// The engine's verdict: `forward`, `held`, or the reason's label. Linux does not say.
    pub verdict: &'static str,
}

/// A packet that became of something else on either side.
#[derive(Debug)]
pub struct Difference<'a> {
    /// What is odd about the packet.
    pub what: &'static str,
    /// What was odd about those before it.
    pub before: &'a [&'static str],
    pub stage: Stage,
    pub ours: &'a Outcome,
    pub linux: &'a Outcome,
}

/// How far a TCP connection has come, by what the engine has let pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Stage {
    #[default]
    Handshake,
    Open,
    /// There was a FIN from either side, or one from the sender of this packet.
    Finished,
    /// There was a RST.
    Reset,
}

/// Follows the stage of a conversation.
#[derive(Debug, Default)]
struct Progress {
    finished: BTreeSet<Side>,
    answered: bool,
    stage: Stage,
}

impl Progress {
    fn stage_for(&self, from: Side) -> Stage {
        let finished = self.finished.len() == 2 || self.finished.contains(&from);
        if finished { self.stage.max(Stage::Finished) } else { self.stage }
    }

    fn note(&mut self, step: &Step, outcome: &Outcome) {
        let Some(flags) = outcome.passed.first().and_then(|text| summary::flags(text)) else {
            return;
        };
        let (fin, syn, rst, ack) = (flags & 1, flags >> 1 & 1, flags >> 2 & 1, flags >> 4 & 1);
        if fin == 1 {
            self.finished.insert(step.from);
        }
        if rst == 1 {
            self.stage = Stage::Reset;
        } else if syn == 1 && self.stage_for(step.from) >= Stage::Finished {
            *self = Self::default();
        } else if syn == 0 && ack == 1 && self.answered && self.stage == Stage::Handshake {
            self.stage = Stage::Open;
        }
        self.answered |= syn == 1 && ack == 1;
    }
}

/// Holds `count` conversations, from the seed on; `None` where namespaces are not asked for.
///
/// # Panics
/// When the namespace can not be made.
pub fn run(seed: u64, count: u64) -> Option<Report> {
    let mut report = Report::default();
    for start in (0..count).step_by(PER_ROUND as usize) {
        let mut linux = Linux::build()?;
        let mut ours = Ours::new();
        for number in start..count.min(start + PER_ROUND) {
            let mut rng = Rng::new(seed.wrapping_add(number));
            let conversation = conversation(&mut rng, number % PER_ROUND);
            report.conversations += 1;
            hold(&conversation, seed.wrapping_add(number), &mut linux, &mut ours, &mut report);
        }
    }
    Some(report)
}

/// What the packets of one side have shown.
#[derive(Debug, Default)]
struct Shown {
    /// The port, or ICMP identifier, that stands for the inside's.
    mapped: Option<u16>,
    /// The last packet that has passed, by the side it came from.
    passed: BTreeMap<Side, Vec<u8>>,
}

trait Router {
    /// Sends a frame in from a side and gives what leaves, by the side it leaves to.
    fn send(&mut self, from: Side, frame: &[u8]) -> (Vec<(Side, Vec<u8>)>, &'static str);
}

fn hold(
    conversation: &Conversation,
    seed: u64,
    linux: &mut Linux,
    ours: &mut Ours,
    report: &mut Report,
) {
    let (mut shown_ours, mut shown_linux) = (Shown::default(), Shown::default());
    let mut log = String::new();
    let (mut before, mut progress) = (Vec::new(), Progress::default());
    for step in &conversation.steps {
        let (Some(ours), Some(linux)) =
            (take(ours, step, &mut shown_ours), take(linux, step, &mut shown_linux))
        else {
            continue;
        };
        report.packets += 1;
        let _ = writeln!(log, "  {:?} {}: {}", step.from, step.what, ours.verdict);
        if ours.passed == linux.passed && ours.answered == linux.answered {
            progress.note(step, &ours);
            before.push(step.what);
            continue;
        }
        let stage = progress.stage_for(step.from);
        let difference =
            Difference { what: step.what, before: &before, stage, ours: &ours, linux: &linux };
        if let Some(class) = classes::CLASSES.iter().find(|class| (class.holds)(&difference)) {
            *report.explained.entry(class.name).or_default() += 1;
        } else {
            report.unexplained.push(format!(
                "seed {seed}, {}\n{log}  ours:  {ours:?}\n  linux: {linux:?}",
                conversation.name
            ));
        }
        return;
    }
}

/// Sends a step's packet; `None` where it can not be made, as what it refers to has not passed.
fn take(router: &mut dyn Router, step: &Step, shown: &mut Shown) -> Option<Outcome> {
    let frame = frame(step, shown)?;
    let (left, verdict) = router.send(step.from, &frame);
    let mut outcome = Outcome { verdict, ..Outcome::default() };
    let mut pieces = Vec::new();
    for (side, bytes) in &left {
        if *side == step.from {
            outcome.answered.push(summary::answer(bytes));
            continue;
        }
        if step.learns && (shown.mapped.is_none() || summary::is_syn(bytes)) {
            shown.mapped = summary::source_port(bytes);
        }
        shown.passed.insert(step.from, bytes.clone());
        if summary::is_fragment(bytes) {
            pieces.push(bytes.as_slice());
        } else {
            outcome.passed.push(summary(bytes));
        }
    }
    if !pieces.is_empty() {
        outcome.passed.push(summary::joined(&pieces));
    }
    Some(outcome)
}

fn frame(step: &Step, shown: &Shown) -> Option<Vec<u8>> {
    match &step.packet {
        Packet::Plain(builder) => Some(builder.frame()),
        Packet::ToMapped { builder, address, is_query } => {
            let port = shown.mapped?;
            let builder = builder.clone();
            let builder = if *is_query {
                builder.id(port).to(address)
            } else {
                builder.to(&format!("{address}:{port}"))
            };
            Some(builder.frame())
        }
        Packet::Error { kind, code, rest, cut, lies, from } => {
            let mut quoted = shown.passed.get(&step.from.other())?.clone();
            quoted.truncate((*cut).max(14 + 20));
            for (at, flip) in lies {
                *quoted.get_mut(14 + at)? ^= flip;
            }
            let builder = gabion_engine::build::icmp_error_about(&quoted, *kind, *code, *rest);
            let builder = match from {
                Some(from) => builder.from(from),
                None => builder,
            };
            Some(builder.frame())
        }
        Packet::Piece { builder, range, more, identification } => {
            let whole = builder.frame();
            Some(gabion_engine::build::piece(&whole, range.clone(), *more, *identification))
        }
    }
}

/// The conversation of a seed. `number` keeps conversations of one round apart.
fn conversation(rng: &mut Rng, number: u64) -> Conversation {
    let port = 10_000 + number as u16 * 8;
    match rng.below(10) {
        0..=5 => tcp::conversation(rng, port),
        6..=7 => datagrams::udp(rng, port),
        8 => datagrams::echo(rng, port),
        _ => datagrams::fragments(rng, port),
    }
}
