//! What nodes of a cluster say to each other of flows, and what it costs: P10 and P11 of the performance goals.
//!
//! Two engines in one thread, with what the node puts between them: datagrams are sealed and opened. Sockets are left
//! out. A third engine that stands alone takes the same packets: what the owner needs more is what the cluster costs it.

mod adopt;
mod flow;
mod tell;

use clap::Parser;

/// Measures what a cluster's nodes tell each other of flows, and how they take flows over
#[derive(Debug, Parser)]
struct Options {
    /// Connections that are opened, established, reset and forgotten
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1_000..=2_000_000))]
    flows: u32,
    /// How often
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Instead: connections whose owner dies, as many as each of these
    #[arg(long, value_delimiter = ',', value_name = "FLOWS", value_parser = clap::value_parser!(u32).range(100..=2_000_000))]
    adopt: Vec<u32>,
}

fn main() -> std::process::ExitCode {
    let options = Options::parse();
    let mut is_whole = true;
    if options.adopt.is_empty() {
        for _ in 0..options.rounds {
            is_whole &= tell::measure(options.flows);
        }
    }
    for flows in options.adopt {
        is_whole &= adopt::measure(flows);
    }
    if is_whole { std::process::ExitCode::SUCCESS } else { std::process::ExitCode::FAILURE }
}
