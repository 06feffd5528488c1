//! The engine's tables alone: what it takes to find a flow (P5), to keep a connection (P6) and to find
//! a free port (P13), against the gates. Needs 8 GiB and no rights; pins itself to no CPU.
//!
//! Each part is measured by a process of its own: memory that one part has used and freed would be
//! given to the next one, in small pages and without being seen.

mod lookup;
mod machine;
mod memory;
mod ports;

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::Context as _;
use clap::Parser;
use comfy_table::{CellAlignment, Table, TableStyle};
use serde::{Deserialize, Serialize};

/// Measures the engine's flow table and port allocator
#[derive(Debug, Parser)]
struct Options {
    /// Sizes of the flow table
    #[arg(long, value_delimiter = ',', default_values_t = [1_000_000, 10_000_000])]
    flows: Vec<u32>,
    /// Rounds of 4,096 lookups for each line
    #[arg(long, default_value_t = 300)]
    rounds: usize,
    /// Leaves hashbrown out
    #[arg(long)]
    alone: bool,
    /// Writes the results as one JSON object
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measures one part in this process
    #[arg(long, hide = true)]
    part: Option<String>,
}

/// What one process measures.
#[derive(Debug, Clone, Copy)]
enum Part {
    Memory(memory::Protocol),
    Ports,
    Machine,
    Start(u32),
    Lookup(lookup::Family, u32),
    Hashbrown(lookup::Family, u32),
}

/// One line of the report.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    /// metric/action/family/case
    name: String,
    unit: String,
    p10: f64,
    p50: f64,
    p99: f64,
    /// What the median must not be above, and what is aimed at.
    gate: Option<f64>,
    goal: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Report {
    machine: machine::Machine,
    load_after: f64,
    lines: Vec<Line>,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    if let Some(wanted) = &options.part {
        let part = options.parts().into_iter().find(|part| format!("{part:?}") == *wanted);
        let lines = part.context("no such part")?.measure(options.rounds)?;
        println!("{}", serde_json::to_string(&lines)?);
        return Ok(());
    }
    let machine = machine::Machine::look();
    let mut lines = Vec::new();
    for part in options.parts() {
        eprintln!("{part:?}");
        let mut child = Command::new(std::env::current_exe()?);
        let child = child.args(std::env::args_os().skip(1)).arg("--part").arg(format!("{part:?}"));
        let output = child.stderr(Stdio::inherit()).output()?;
        anyhow::ensure!(output.status.success(), "{part:?}: {}", output.status);
        lines.extend(serde_json::from_slice::<Vec<Line>>(&output.stdout)?);
    }
    let report = Report { machine, load_after: machine::load(), lines };
    report.print();
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

impl Options {
    fn parts(&self) -> Vec<Part> {
        let mut parts = vec![
            Part::Memory(memory::Protocol::Tcp),
            Part::Memory(memory::Protocol::Udp),
            Part::Ports,
            Part::Machine,
        ];
        for flows in &self.flows {
            parts.push(Part::Start(*flows));
            for family in [lookup::Family::Ipv4, lookup::Family::Ipv6] {
                parts.push(Part::Lookup(family, *flows));
                if !self.alone {
                    parts.push(Part::Hashbrown(family, *flows));
                }
            }
        }
        parts
    }
}

impl Part {
    fn measure(self, rounds: usize) -> anyhow::Result<Vec<Line>> {
        Ok(match self {
            Self::Memory(protocol) => memory::measure(protocol)?,
            Self::Ports => ports::measure(),
            Self::Machine => lookup::measure_machine(rounds),
            Self::Start(flows) => memory::measure_start(flows)?,
            Self::Lookup(family, flows) => lookup::measure(family, flows, rounds),
            Self::Hashbrown(family, flows) => lookup::measure_hashbrown(family, flows, rounds),
        })
    }
}

impl Report {
    fn print(&self) {
        let machine = &self.machine;
        println!(
            "{}, {} CPUs, kernel {}, commit {}, load {:.1} before and {:.1} after",
            machine.cpu,
            machine.cpus,
            machine.kernel,
            machine.commit,
            machine.load_before,
            self.load_after
        );
        let mut table = Table::new();
        table.load_style(TableStyle::new());
        table.set_header(["metric/action/family/case", "p10", "p50", "p99", "", "gate", "goal"]);
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        for column in [1, 2, 3, 5, 6] {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        for line in &self.lines {
            let number = |number: f64| format!("{number:.0}");
            let limit = |limit: Option<f64>| limit.map_or_else(String::new, number);
            table.add_row([
                line.name.clone(),
                number(line.p10),
                number(line.p50),
                number(line.p99),
                line.unit.clone(),
                limit(line.gate),
                limit(line.goal),
            ]);
        }
        println!("{table}");
    }
}

impl Line {
    /// Of times or sizes, of which there is one at least.
    fn of(name: String, unit: &str, mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |share: f64| values[((values.len() - 1) as f64 * share) as usize];
        let unit = unit.to_owned();
        Self { name, unit, p10: at(0.1), p50: at(0.5), p99: at(0.99), gate: None, goal: None }
    }

    fn against(self, gate: f64, goal: f64) -> Self {
        Self { gate: Some(gate), goal: Some(goal), ..self }
    }
}
