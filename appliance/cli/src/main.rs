//! `gabion`: the operator's tool. Exit status 0 when it did what it was asked, 1 when that was
//! refused, invalid or failed, 2 for a command line that makes no sense.

mod connect;
mod failure;
mod lab;
#[allow(dead_code)]
mod pki;
mod present;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::failure::Failure;
use crate::present::{Paint, Tone};

/// Operates Gabion, a stateful firewall appliance for the cloud
#[derive(Debug, Parser)]
#[command(name = "gabion", version, arg_required_else_help = true, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Builds networks with real programs around real nodes, in namespaces of this machine (root)
    #[command(subcommand)]
    Lab(lab::Command),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.command {
        Command::Lab(command) => lab::run(command),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

fn report(error: &anyhow::Error) {
    let label = Paint::stderr().apply(Tone::Bad, "error:");
    match error.downcast_ref::<Failure>() {
        Some(failure) if failure.silent => {}
        Some(failure) => eprintln!("{label} {failure}"),
        None => eprintln!("{label} {error:#}"),
    }
}
