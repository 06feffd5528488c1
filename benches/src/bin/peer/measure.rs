//! Takes samples: the arms of a comparison in turn, there and back.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::time::Instant;

use anyhow::Context as _;

use crate::arms::Arm;
use crate::cases::Case;
use crate::load::{Quantity, Ready};
use crate::machine::{PacketThread, PacketThreadShare, Ticks};
use crate::report::{Group, Measured};
use crate::{Interrupt, Options, profile};

type Shares = BTreeMap<String, Vec<PacketThreadShare>>;

/// All samples of one comparison.
///
/// # Errors
/// When one fails or the run is interrupted.
pub(crate) fn measure(
    case: &Case,
    arms: &[Arm],
    options: &Options,
    interrupt: &Interrupt,
) -> anyhow::Result<Vec<Measured>> {
    let quantities = case.metric.quantities();
    eprintln!("{}/{}: {}", quantities[0].what, case.name, case.metric.offered());
    let mut ready = Vec::new();
    let mut memory = BTreeMap::new();
    for &kind in &case.arms {
        let arm = arms.iter().find(|arm| arm.kind == kind).context("an arm is missing")?;
        let what = || format!("{} is not ready for {}", kind.label(), case.id);
        let before = arm.memory();
        ready.push((arm, case.metric.ready(&arm.place, interrupt).with_context(what)?));
        if let (Some(before), Some(after), Some(flows)) = (before, arm.memory(), case.many_flows())
        {
            memory.insert(kind.label(), (after - before) / flows);
        }
    }
    let mut progress = Progress::new(quantities[0], options.pairs);
    let mut shares = Shares::new();
    // The first is cold: sockets, slabs, neighbours. It is not kept.
    measure_group(case, ready.iter_mut(), 1, interrupt, &mut Shares::new())?;
    let mut groups = Vec::new();
    for pair in 0..options.pairs {
        let seconds = options.seconds;
        let group = if pair % 2 == 0 {
            measure_group(case, ready.iter_mut(), seconds, interrupt, &mut shares)?
        } else {
            measure_group(case, ready.iter_mut().rev(), seconds, interrupt, &mut shares)?
        };
        progress.show(pair, &group);
        groups.push(group);
    }
    progress.end();
    let mut programs = BTreeMap::new();
    for (arm, ready) in &mut ready {
        let shares = profile::of_arm(arm, ready, interrupt)?;
        programs.insert(arm.kind.label(), shares);
    }
    let measured = quantities.iter().enumerate().map(|(at, &quantity)| {
        let mut measured = Measured::new(case, at, quantity, &groups, &shares);
        measured.memory.clone_from(&memory);
        measured.programs.clone_from(&programs);
        measured
    });
    Ok(measured.collect())
}

fn measure_group<'a, 'b: 'a>(
    case: &Case,
    arms: impl Iterator<Item = &'a mut (&'b Arm, Ready)>,
    seconds: u32,
    interrupt: &Interrupt,
    shares: &mut Shares,
) -> anyhow::Result<Group> {
    let mut group = Group::default();
    for (arm, ready) in arms {
        let thread =
            || arm.gabiond.as_ref().and_then(|gabiond| PacketThread::of(gabiond.process_id()));
        let label = arm.kind.label();
        let (before, ticks, start) = (thread(), Ticks::now(), Instant::now());
        let values = ready
            .sample(seconds, interrupt)
            .with_context(|| format!("{} in arm {label}", case.id))?;
        group.stolen = group.stolen.max(Ticks::now().stolen_since(ticks));
        if let (Some(before), Some(after)) = (before, thread()) {
            let share = after.share_since(before, start.elapsed().as_secs_f64());
            shares.entry(label.clone()).or_default().push(share);
        }
        group.values.insert(label, values);
    }
    Ok(group)
}

/// One line that is written again while it is a terminal, else a line for each group.
struct Progress {
    quantity: Quantity,
    pairs: u32,
    terminal: bool,
}

impl Progress {
    fn new(quantity: Quantity, pairs: u32) -> Self {
        Self { quantity, pairs, terminal: std::io::stderr().is_terminal() }
    }

    fn show(&mut self, pair: u32, group: &Group) {
        let decimals = self.quantity.decimals;
        let values: Vec<String> = group
            .values
            .iter()
            .filter_map(|(arm, values)| Some(format!("{arm} {:.decimals$}", values.first()?)))
            .collect();
        let line = format!(
            "  pair {:>3} of {}   {}  {}",
            pair + 1,
            self.pairs,
            values.join("   "),
            self.quantity.unit
        );
        if self.terminal {
            eprint!("\r\x1b[K{line}");
            let _ = std::io::stderr().flush();
        } else {
            eprintln!("{line}");
        }
    }

    fn end(&self) {
        if self.terminal {
            eprint!("\r\x1b[K");
        }
    }
}
