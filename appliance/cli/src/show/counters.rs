//! `gabion show counters`.

use std::time::{Duration, SystemTime};

use anyhow::Result;
use gabion_api::v1::{
    CountersRequest, CountersResponse, InterfaceCounters, KernelCounter, RuleCounters, TableUse,
};

use crate::connect::Connection;
use crate::present::{CountersJson, Grid, Tone, age, bytes, count, print_json, right, say};

/// Shows what the node counted: rules, verdicts, drop reasons, tables, interfaces
///
/// JSON: {"verdicts":[{"name","value","help"}],"drops":[{..}],"rules":[{"name","action","line",
/// "hits","packets","bytes","last_hit"}],"tables":[{"name","used","limit"}],"interfaces":[{"name",
/// "device","received","sent","ring_drops","hooks":["xdp","tc"]}],"events_lost","flows_evicted","answers_sent","answers_limited",
/// "kernel":[{"name","value","moved","help"}]}
#[derive(Debug, clap::Args)]
pub(crate) struct Counters {
    /// Shows what is 0 as well
    #[arg(long, short)]
    all: bool,

    /// Prints JSON, which always has everything
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: Connection,
}

impl Counters {
    pub(crate) fn run(&self) -> Result<()> {
        let mut node = self.connection.open()?;
        let counters = node.call(async |api| api.counters(CountersRequest {}).await)?;
        if self.json {
            print_json(&CountersJson::from(counters))?;
            return Ok(());
        }
        self.rules(&counters).print_under("Rules")?;
        self.drops(&counters).print_under("Dropped or rejected")?;
        self.verdicts(&counters).print_under("Verdicts")?;
        tables(&counters).print_under("Tables")?;
        interfaces(&counters).print_under("Interfaces")?;
        self.kernel(&counters, true).print_under("Done by the kernel")?;
        self.kernel(&counters, false).print_under("Left to gabiond, and why")?;
        if counters.flows_evicted > 0 {
            say(format_args!(
                "{} flows that were over or had not shown that they live made room for others.",
                count(counters.flows_evicted)
            ))?;
        }
        if counters.answers_limited > 0 {
            say(format_args!(
                "{} answers were sent, {} were kept back by flood.answers-per-second.",
                count(counters.answers_sent),
                count(counters.answers_limited)
            ))?;
        }
        if counters.events_lost > 0 {
            say(format_args!(
                "{} events were lost: nobody read them in time.",
                count(counters.events_lost)
            ))?;
        }
        Ok(())
    }

    fn rules(&self, counters: &CountersResponse) -> Grid {
        let mut grid = Grid::new([
            "rule".into(),
            "action".into(),
            right("hits"),
            right("packets"),
            right("bytes"),
            right("last hit"),
            right("line"),
        ]);
        // Rules are always shown, so that an unused one is seen; defaults only if they were hit.
        let is_shown =
            |rule: &&RuleCounters| self.all || rule.hits > 0 || !rule.name.starts_with("default:");
        for rule in counters.rules.iter().filter(is_shown) {
            grid.toned_row([
                (Tone::Plain, rule.name.clone()),
                (Tone::from(rule.action.as_str()), rule.action.clone()),
                (Tone::Plain, count(rule.hits)),
                (Tone::Plain, count(rule.packets)),
                (Tone::Plain, bytes(rule.bytes)),
                (Tone::Plain, age(since(rule))),
                (Tone::Faint, rule.line.to_string()),
            ]);
        }
        grid
    }

    fn drops(&self, counters: &CountersResponse) -> Grid {
        let mut grid = Grid::new(["reason".into(), right("packets"), "meaning".into()]);
        for drop in counters.drops.iter().filter(|drop| self.all || drop.value > 0) {
            let help = (Tone::Faint, drop.help.clone());
            grid.toned_row([
                (Tone::Plain, drop.name.clone()),
                (Tone::Plain, count(drop.value)),
                help,
            ]);
        }
        grid
    }

    fn kernel(&self, counters: &CountersResponse, moved: bool) -> Grid {
        let first = if moved { "how" } else { "why" };
        let mut grid = Grid::new([first.into(), right("frames"), "meaning".into()]);
        let is_shown = |one: &&KernelCounter| one.moved == moved && (self.all || one.value > 0);
        for one in counters.kernel.iter().filter(is_shown) {
            grid.toned_row([
                (Tone::Plain, one.name.clone()),
                (Tone::Plain, count(one.value)),
                (Tone::Faint, one.help.clone()),
            ]);
        }
        grid
    }

    fn verdicts(&self, counters: &CountersResponse) -> Grid {
        let mut grid = Grid::new(["verdict".into(), right("packets")]);
        for verdict in counters.verdicts.iter().filter(|one| self.all || one.value > 0) {
            grid.row([verdict.name.clone(), count(verdict.value)]);
        }
        grid
    }
}

fn tables(counters: &CountersResponse) -> Grid {
    /// From here on an operator should do something about it.
    const FULL_PER_CENT: u64 = 80;
    let mut grid = Grid::new(["table".into(), right("used"), right("limit"), right("%")]);
    for table in &counters.tables {
        let TableUse { name, used, limit } = table;
        let share = used.saturating_mul(100).checked_div(*limit).unwrap_or(0);
        let tone = if share >= FULL_PER_CENT { Tone::Warning } else { Tone::Plain };
        grid.toned_row([
            (tone, name.clone()),
            (tone, count(*used)),
            (Tone::Plain, count(*limit)),
            (tone, share.to_string()),
        ]);
    }
    grid
}

fn interfaces(counters: &CountersResponse) -> Grid {
    let mut grid = Grid::new([
        "interface".into(),
        "device".into(),
        right("received"),
        right("sent"),
        right("ring drops"),
        "settled flows moved by".into(),
    ]);
    for interface in &counters.interfaces {
        let lost = if interface.ring_drops > 0 { Tone::Warning } else { Tone::Plain };
        grid.toned_row([
            (Tone::Plain, interface.name.clone()),
            (Tone::Plain, interface.device.clone()),
            (Tone::Plain, count(interface.received)),
            (Tone::Plain, count(interface.sent)),
            (lost, count(interface.ring_drops)),
            (Tone::Plain, mover(interface)),
        ]);
    }
    grid
}

fn mover(interface: &InterfaceCounters) -> String {
    match interface.hooks.join(", ") {
        none if none.is_empty() => "gabiond".to_owned(),
        hooks => format!("the kernel ({hooks})"),
    }
}

fn since(rule: &RuleCounters) -> Option<Duration> {
    let at = SystemTime::try_from(*rule.last_hit.as_ref()?).ok()?;
    SystemTime::now().duration_since(at).ok()
}
