//! `gabiond`: the daemon's command line.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use gabiond::config::{Config, reference};

/// Gabion's daemon: filters, translates and forwards packets, and takes its rules over gRPC.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// The node's settings; docs/configuration.md lists them.
    #[arg(long, value_name = "FILE", default_value = "/etc/gabion/gabiond.toml")]
    config: PathBuf,
    /// Checks the settings, changes nothing and exits: 0 when they are right, 1 when not.
    #[arg(long)]
    check_config: bool,
    /// Prints docs/configuration.md and exits.
    #[arg(long, exclusive = true)]
    print_config_reference: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if options.print_config_reference {
        print!("{}", reference());
        return ExitCode::SUCCESS;
    }
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            for line in format!("{error:#}").lines() {
                eprintln!("gabiond: {line}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> anyhow::Result<()> {
    let _config = Config::read(&options.config)?;
    if options.check_config {
        println!("{}: no mistakes found", options.config.display());
    }
    Ok(())
}
