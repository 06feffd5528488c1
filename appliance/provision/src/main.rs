//! `gabion-provision`: its command line, and what it says on the console.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand};
use gabion_provision::boot::{Boot, Done, Gabiond, Patience};
use gabion_provision::enrol;
use gabion_provision::host::Places;
use gabion_provision::limits::DATA_BYTES_MAX;
use gabion_provision::media::read_limited;
use gabion_provision::plan;
use gabion_provision::report::{self, Outcome};
use gabion_provision::wireserver::{self, WireServer};

/// How long a report is tried: Azure gives an instance longer than this.
const REPORT_PATIENCE: Duration = Duration::from_secs(1_800);

/// Makes an instance's configuration from first-boot data: docs/first-boot.md.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// Where configuration, certificates and first policy are kept.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/gabion/etc", global = true)]
    directory: PathBuf,
    /// The program that says whether a configuration is right.
    #[arg(long, value_name = "FILE", default_value = "/usr/sbin/gabiond", global = true)]
    gabiond: PathBuf,
    /// Where the host's own files are; other than `/`, nothing is done to this machine.
    #[arg(long, value_name = "DIR", default_value = "/", global = true, hide = true)]
    root: PathBuf,
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// At each boot: provisions an instance that has not been, and gives the host its part.
    Boot,
    /// Provisions this instance from a file, whatever it was before; restart networkd and gabiond then.
    From {
        /// First-boot data.
        file: PathBuf,
    },
    /// Says whether a file is right, and changes nothing on this machine.
    Check {
        /// First-boot data.
        file: PathBuf,
    },
    /// Waits for certificates, if the node is to get them by a token, and starts gabiond again with them.
    Enrol,
    /// Tells Azure how provisioning has ended, if it has not been told.
    Report {
        #[arg(long, value_name = "ADDRESS:PORT", default_value_t = SocketAddr::from(wireserver::ADDRESS), hide = true)]
        server: SocketAddr,
    },
}

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(code) => code,
        Err(error) => {
            say(&options, &[format!("{error:#}")]);
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let places = Places { directory: options.directory.clone(), root: options.root.clone() };
    let gabiond = Gabiond(&options.gabiond);
    let boot = Boot { places: &places, judge: &gabiond, patience: Patience::USUAL };
    match &options.task {
        Task::Boot => {
            let done = boot.run()?;
            Ok(tell(options, &done))
        }
        Task::From { file } => {
            let done = boot.provision_from(read_limited(file, DATA_BYTES_MAX)?)?;
            Ok(match tell(options, &done) {
                _ if matches!(done, Done::Held(_)) => ExitCode::FAILURE,
                code => code,
            })
        }
        Task::Check { file } => check(options, file),
        Task::Enrol => {
            enrol_node(&places, &gabiond)?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Report { server } => {
            match report::tell(&options.directory, &WireServer::new(*server), REPORT_PATIENCE)? {
                None => eprintln!("gabion-provision: there is nothing to report"),
                Some(Outcome::Ready) => eprintln!("gabion-provision: reported as ready"),
                Some(Outcome::Failed(why)) => {
                    eprintln!("gabion-provision: reported as failed: {why}")
                }
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn enrol_node(places: &Places, gabiond: &Gabiond<'_>) -> anyhow::Result<()> {
    let place = enrol::place(places)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = enrol::listen(&place).with_context(|| format!("{place:?}"))?;
        eprintln!("gabion-provision: waits for certificates at {}", place.address);
        enrol::serve(places, gabiond, listener, enrol::ATTEMPT_MAX).await
    })?;
    eprintln!("gabion-provision: this node has its certificates");
    // Not waited for: gabiond takes a while, and this has done its part.
    let restart =
        Command::new("systemctl").args(["--no-block", "restart", "gabiond.service"]).status();
    match restart {
        Ok(status) if status.success() => Ok(()),
        failed => bail!("restart gabiond: {failed:?}"),
    }
}

/// In a directory of its own, so that it needs no privilege.
fn check(options: &Options, file: &Path) -> anyhow::Result<ExitCode> {
    let data = read_limited(file, DATA_BYTES_MAX)?;
    let scratch = std::env::temp_dir().join(format!("gabion-provision-{}", std::process::id()));
    std::fs::create_dir(&scratch)?;
    let places = Places { directory: scratch.join("etc"), root: scratch.clone() };
    let gabiond = Gabiond(&options.gabiond);
    let boot = Boot { places: &places, judge: &gabiond, patience: Patience::USUAL };
    let done = boot.provision_from(data);
    std::fs::remove_dir_all(&scratch)?;
    match done? {
        Done::Held(why) => {
            why.iter().for_each(|line| eprintln!("{line}"));
            Ok(ExitCode::FAILURE)
        }
        Done::Provisioned | Done::Known | Done::LeftAlone => {
            println!("{}: no mistakes found", file.display());
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// A node that is held has booted as it should.
fn tell(options: &Options, done: &Done) -> ExitCode {
    match done {
        Done::Provisioned => say(options, &["this instance has been provisioned".to_owned()]),
        Done::Known => say(options, &["this instance had been provisioned before".to_owned()]),
        Done::LeftAlone => {
            say(options, &["no disk with first-boot data: the configuration stays".to_owned()]);
        }
        Done::Held(why) => {
            let mut lines = vec![
                "HELD: this node passes nothing, as its first-boot data cannot be used:".to_owned(),
            ];
            lines.extend(why.iter().map(|why| format!("  {why}")));
            let advice = "mend it and boot a new instance, or: gabion-provision from FILE && systemctl restart systemd-networkd gabiond";
            lines.push(advice.to_owned());
            say(options, &lines);
        }
    }
    ExitCode::SUCCESS
}

/// On standard error, for the journal; and on the console, for who has nothing else.
fn say(options: &Options, lines: &[String]) {
    let line = |line: &String| format!("gabion-provision: {}\n", plan::printable(line));
    let text: String = lines.iter().map(line).collect();
    eprint!("{text}");
    if options.root == Path::new("/")
        && matches!(options.task, Task::Boot)
        && let Ok(mut console) = OpenOptions::new().write(true).open("/dev/console")
    {
        // Without a console there is nobody to read.
        let _ = console.write_all(text.replace('\n', "\r\n").as_bytes());
    }
}
