//! `gabiond`: the daemon's command line, its start and its end.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use gabiond::config::{Config, reference};
use gabiond::node::{Node, Prepared};
use gabiond::{messages, privilege, service};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Threads for everything that is not packets.
const CONTROL_THREADS: usize = 2;

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
    /// As --check-config, and reads the certificates and the first policy that they name.
    #[arg(long)]
    check_files: bool,
    /// Ends what the kernel still moves after the daemon has stopped, and exits.
    #[arg(long, conflicts_with_all = ["check_config", "check_files"])]
    detach: bool,
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
    match start(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            messages::fail(&with_causes(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes, but for those that it tells itself.
fn with_causes(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn start(options: &Options) -> anyhow::Result<()> {
    let config = Config::read(&options.config)?;
    if options.check_files {
        gabiond::node::check_files(&config)?;
    }
    if options.check_config || options.check_files {
        println!("{}: no mistakes found", options.config.display());
        return Ok(());
    }
    if options.detach {
        let what = match gabion_datapath::ebpf::detach(&config.node.pin_dir)? {
            true => "no program moves flows any more",
            false => "there was nothing",
        };
        println!("{}: {what}", config.node.pin_dir.display());
        return Ok(());
    }
    messages::start(&config.log)?;
    let prepared = Prepared::new(config.clone())?;
    // Before the first thread: each inherits what this one has left.
    if let Some(note) = privilege::drop_privileges(&config)? {
        tracing::warn!("{note}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .enable_all()
        .build()
        .context("cannot start the control threads")?;
    runtime.block_on(async {
        let signals = Signals::take()?;
        let node = prepared.start().await?;
        run(node, signals).await
    })
}

/// Signals that would else end the process where it stands.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    /// Taken, so that a limit on the size of files refuses a commit as a full disk does, and ends nothing.
    _file_size: Signal,
}

impl Signals {
    /// To be taken before anything is served: one that comes meanwhile is heard after the start.
    fn take() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            _file_size: signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?,
        })
    }
}

async fn run(mut node: Node, mut signals: Signals) -> anyhow::Result<()> {
    let told = tokio::spawn(service::keep_told(node.readiness()));
    let failed = loop {
        tokio::select! {
            _ = signals.terminate.recv() => break None,
            _ = signals.interrupt.recv() => break None,
            _ = signals.hang_up.recv() => node.reload(),
            why = node.failed() => break Some(why),
        }
    };
    service::stopping();
    told.abort();
    node.stop().await;
    match failed {
        None => Ok(()),
        Some(why) => anyhow::bail!("stopped: {why}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let missing = Config::read(std::path::Path::new("/nonexistent/gabiond.toml")).unwrap_err();
        let told = with_causes(&missing.into());
        assert_eq!(told.matches("No such file").count(), 1, "{told}");
        let told = with_causes(&anyhow::anyhow!("no memory").context("cannot start"));
        assert_eq!(told, "cannot start: no memory");
    }
}
