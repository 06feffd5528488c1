//! `gabion`: the operator's tool. Exit status 0 when it did what it was asked, 1 when that was
//! refused, invalid or failed, 2 for a command line that makes no sense.

mod check;
mod diagnose;
mod enrol;

mod connect;
mod explain;
mod push;
mod rollback;
mod show;
mod watch;
mod cluster;

mod certificates;
mod pki;

mod lab;

mod failure;
mod manual;
mod present;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::failure::Failure;
use crate::present::{Paint, Tone};

/// Operates Gabion, a stateful firewall appliance for the cloud
///
/// Exit status: 0 done, 1 refused, invalid or failed, 2 the command line makes no sense.
#[derive(Debug, Parser)]
#[command(name = "gabion", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Check(check::Check),
    Push(push::Push),
    /// Shows what a node has and does
    #[command(subcommand)]
    Show(show::Show),
    Explain(explain::Explain),
    Rollback(rollback::Rollback),
    Watch(watch::Watch),
    /// Shows the cluster that a node is a member of
    #[command(subcommand)]
    Cluster(cluster::Cluster),
    Drain(cluster::Drain),
    Undrain(cluster::Undrain),
    /// Makes the cluster's certificates
    #[command(subcommand)]
    Pki(certificates::Pki),
    /// Builds networks with real programs around real nodes, in namespaces of this machine (root)
    #[command(subcommand)]
    Lab(lab::Command),
    Completion(manual::Completion),
    #[command(name = "man")]
    Manual(manual::Manual),
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Check(check) => check.run(),
        Command::Push(push) => push.run(),
        Command::Show(show) => show.run(),
        Command::Explain(explain) => explain.run(),
        Command::Rollback(rollback) => rollback.run(),
        Command::Watch(watch) => watch.run(),
        Command::Cluster(cluster) => cluster.run(),
        Command::Drain(drain) => drain.run(),
        Command::Undrain(undrain) => undrain.run(),
        Command::Pki(pki) => pki.run(),
        Command::Lab(command) => lab::run(command),
        Command::Completion(completion) => {
            completion.run::<Arguments>();
            Ok(())
        }
        Command::Manual(manual) => manual.run::<Arguments>(),
    }
}

fn report(error: &anyhow::Error) {
    let label = Paint::stderr().apply(Tone::Bad, "error:");
    match error.downcast_ref::<Failure>() {
        Some(failure) if failure.silent => {}
        None if is_closed_pipe(error) => {}
        Some(failure) => eprintln!("{label} {failure}"),
        None => eprintln!("{label} {error:#}"),
    }
}

/// Whoever read our output has seen enough, as `head` does.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::Arguments;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
