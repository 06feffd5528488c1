//! `image`: builds the appliance's disk image, and boots it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use gabion_image::assemble::{self, Order, Products, Scope};
use gabion_image::qemu::{Boot, Disk, Machine, Nic, Writes};
use gabion_image::system::Inputs;
use gabion_image::version::Label;

/// Builds the appliance's disk image, and boots it in QEMU.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    #[command(subcommand)]
    action: Action,
    /// Where the image is.
    #[arg(long, global = true, value_name = "FOLDER", default_value = "target/image")]
    out: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Builds disks, bundle, SBOM and checksums (root).
    Build {
        /// The folder of gabiond, gabion and gabion-guard.
        #[arg(long, value_name = "FOLDER")]
        binaries: PathBuf,
        /// The checkout that they are from.
        #[arg(long, value_name = "FOLDER", default_value = ".")]
        checkout: PathBuf,
        /// One place that has bookworm and bookworm-backports, such as a snapshot; else where apt has them from.
        #[arg(long, value_name = "URL")]
        mirror: Option<String>,
        /// Installs Debian's packages anew, also if those of the last day are there.
        #[arg(long)]
        fresh: bool,
        /// Goes behind the version's name: tells test versions of one commit apart.
        #[arg(long, value_name = "WORD")]
        label: Option<Label>,
        /// Builds the bundle for upgrades alone.
        #[arg(long)]
        only_bundle: bool,
    },
    /// Boots the last build in QEMU, and shows the serial console until gabiond is up.
    Boot {
        /// Without firmware and boot loader.
        #[arg(long)]
        direct: bool,
        /// Goes on until the machine ends.
        #[arg(long)]
        stay: bool,
        /// A disk with custom data (NoCloud).
        #[arg(long, value_name = "FILE")]
        seed: Option<PathBuf>,
        /// Writes go into the image.
        #[arg(long)]
        keep: bool,
        /// Seconds until gabiond must be up.
        #[arg(long, value_name = "SECONDS", default_value_t = 300)]
        within: u64,
    },
}

fn main() -> Result<()> {
    let options = Options::parse();
    let out = std::path::absolute(options.out)?;
    match options.action {
        Action::Build { binaries, checkout, mirror, fresh, label, only_bundle } => {
            let checkout = std::path::absolute(checkout)?;
            let inputs = Inputs { checkout, binaries: std::path::absolute(binaries)? };
            let scope = if only_bundle { Scope::Bundle } else { Scope::All };
            assemble::build(&Order { inputs, out, mirror, is_fresh: fresh, label, scope }).map(drop)
        }
        Action::Boot { direct, stay, seed, keep, within } => {
            let products = Products::last(&out)?;
            let boot = if direct {
                Boot::Direct(products.direct()?)
            } else {
                Boot::Uefi { variables: out.join("boot.variables") }
            };
            let writes = if keep { Writes::Kept } else { Writes::Dropped };
            let mut disks = vec![Disk { path: products.raw, format: "raw", writes }];
            disks.extend(seed.map(|path| Disk { path, format: "raw", writes: Writes::Refused }));
            let nics = (0..3).map(|last| Nic { tap: None, mac: [2, 0, 0, 0, 1, last] }).collect();
            let (memory_mib, processors) = (1_024, 2);
            let (name, folder) = ("boot".to_owned(), out);
            let machine = Machine {
                name,
                memory_mib,
                processors,
                boot,
                disks,
                nics,
                namespace: None,
                folder,
                is_shown: true,
            };
            watch(&machine, stay, Duration::from_secs(within))
        }
    }
}

/// Starts the machine and says when its gabiond is up.
fn watch(machine: &Machine, stay: bool, within: Duration) -> Result<()> {
    let running = machine.start()?;
    let line = running.console().wait_for("Started gabiond.service", 0, within)?;
    println!("gabiond is up after {:.1} s", line.at.as_secs_f64());
    if stay {
        return running.wait();
    }
    running.shut_down(within)
}
