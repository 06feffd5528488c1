//! A virtual machine in a host's place: the appliance's image, booted by QEMU, which translates its instructions
//! (TCG) and so needs nothing of the processor.
//!
//! Each device of the host is joined to the machine's own by a bridge, and the machine's has its link address: to
//! links, load balancers and cuts it is a node as those in namespaces are. Addresses and routes it gets by DHCP, and
//! its custom data from a second disk, as in a cloud.

mod console;
mod seed;
mod wiring;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use gabion_api::v1::{StatusRequest, StatusResponse};

pub(crate) use console::Console;
pub(crate) use seed::{CustomData, Membership};
pub(crate) use wiring::Nic;

use super::build::Lab;
use super::namespace::Namespace;
use super::node::PKI;
use super::process::Running;
use super::stage::look_for_programs;
use crate::connect::{Connection, Node};

/// How long a machine has to boot and to answer, its instructions translated and others beside it.
pub(crate) const BOOT: Duration = Duration::from_secs(300);

/// The disk that is booted, and how.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    /// qcow2 or raw; it is never written to.
    pub(crate) disk: PathBuf,
    /// Its own kernel and first file system, without firmware and boot loader: boots in a third of the time.
    pub(crate) direct: Option<Direct>,
}

/// What a boot loader would load.
#[derive(Debug, Clone)]
pub(crate) struct Direct {
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: PathBuf,
    pub(crate) command_line: String,
}

/// A machine's place in a lab; the machine may come and go.
#[derive(Debug)]
pub(crate) struct Machine {
    host: &'static str,
    nics: Vec<Nic>,
    image: Image,
    directory: PathBuf,
    api: SocketAddr,
    /// From where the API is asked, and with what certificates.
    asked_from: Namespace,
    pki: PathBuf,
    _addresses: Running,
}

impl Machine {
    /// Joins the host's devices to those that the machine will have, and makes its disks.
    ///
    /// # Errors
    /// If a program is missing, or the kernel refuses something.
    pub(crate) fn prepare(
        lab: &Lab,
        host: &'static str,
        nics: Vec<Nic>,
        image: Image,
        (asked_from, api): (&'static str, SocketAddr),
    ) -> Result<Self> {
        look_for_programs(&["qemu-system-x86_64", "qemu-img", "mkfs.vfat", "mcopy", "dnsmasq"])?;
        let directory = lab.make_directory(host)?;
        let machine = Self {
            host,
            image,
            directory,
            api,
            asked_from: lab.namespace(asked_from),
            pki: lab.directory().join(PKI),
            _addresses: wiring::join(lab, host, &nics)?,
            nics,
        };
        machine.reset_disk()?;
        Ok(machine)
    }

    /// Gives the machine the disk as the image has it: what it wrote is gone.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(crate) fn reset_disk(&self) -> Result<()> {
        let disk = std::path::absolute(&self.image.disk)?;
        let format =
            if disk.extension().is_some_and(|name| name == "qcow2") { "qcow2" } else { "raw" };
        let mut command = Command::new("qemu-img");
        command
            .args(["create", "-q", "-f", "qcow2", "-F", format, "-b"])
            .arg(&disk)
            .arg(self.disk());
        succeed(&mut command)
    }

    /// Gives the machine custom data; `None`: a provider that hands none over.
    ///
    /// # Errors
    /// If the disk cannot be written.
    pub(crate) fn provide(&self, instance: &str, user_data: Option<&str>) -> Result<()> {
        seed::write(&self.seed(), (instance, self.host), user_data)
    }

    /// Switches it on.
    ///
    /// # Errors
    /// If QEMU does not start.
    pub(crate) fn start(&self, lab: &Lab) -> Result<Running> {
        // Without cx16, whose translation in QEMU 7.2 spoils registers: the guest would crash at times.
        let mut words: Vec<String> = [
            "qemu-system-x86_64",
            "-machine",
            "q35",
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max,cx16=off",
            "-smp",
            "1",
            "-m",
            "1024",
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
        ]
        .map(str::to_owned)
        .to_vec();
        let path = |path: &Path| path.display().to_string();
        // Later boots go on in the same file.
        let console = format!("file,id=console,append=on,path={}", path(&self.console().path()));
        words.extend(["-chardev".to_owned(), console]);
        words.extend(["-serial", "chardev:console"].map(str::to_owned));
        words.extend(["-qmp".to_owned(), format!("unix:{},server=on,wait=off", path(&self.qmp()))]);
        words.extend(self.boot_words()?);
        words.extend([
            "-drive".to_owned(),
            format!("file={},format=qcow2,if=virtio", path(&self.disk())),
        ]);
        if self.seed().exists() {
            words.extend([
                "-drive".to_owned(),
                format!("file={},format=raw,if=virtio,readonly=on", path(&self.seed())),
            ]);
        }
        for (number, nic) in self.nics.iter().enumerate() {
            words.extend(nic.words(number));
        }
        // The same seed of entropy for all would give the same keys to all: the host's own.
        words.extend(["-device".to_owned(), "virtio-rng-pci".to_owned()]);
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        Running::start(lab, self.host, &format!("{}-qemu", self.host), &words)
    }

    fn boot_words(&self) -> Result<Vec<String>> {
        /// Debian's firmware without Secure Boot: the image is not signed.
        const FIRMWARE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
        const VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";
        let path = |path: &Path| path.display().to_string();
        if let Some(Direct { kernel, initrd, command_line }) = &self.image.direct {
            let words =
                ["-kernel", &path(kernel), "-initrd", &path(initrd), "-append", command_line];
            return Ok(words.map(str::to_owned).to_vec());
        }
        let variables = self.directory.join("firmware.fd");
        if !variables.exists() {
            std::fs::copy(VARIABLES, &variables).with_context(|| {
                format!("{VARIABLES} is not there. Install it: setup/install image")
            })?;
        }
        let flash = |file: &str, mode| {
            ["-drive".to_owned(), format!("if=pflash,format=raw,file={file}{mode}")]
        };
        Ok([flash(FIRMWARE, ",readonly=on"), flash(&path(&variables), "")].concat())
    }

    pub(crate) fn nics(&self) -> &[Nic] {
        &self.nics
    }

    /// Connects to the node's API, over mutual TLS.
    ///
    /// # Errors
    /// If it does not answer.
    pub(crate) fn connect(&self) -> Result<Node> {
        let connection = self.connection();
        self.asked_from.enter(move || Ok(connection.open()?))
    }

    /// What the operator's tool is told to reach the node.
    pub(crate) fn connection(&self) -> Connection {
        Connection {
            server: Some(self.api.to_string()),
            ca: Some(self.pki.join("ca.pem")),
            cert: Some(self.pki.join("lab.pem")),
            key: Some(self.pki.join("lab.key")),
            ..Connection::local(PathBuf::new())
        }
    }

    /// Asks the node how it is.
    ///
    /// # Errors
    /// If it does not answer.
    pub(crate) fn status(&self) -> Result<StatusResponse> {
        Ok(self.connect()?.call(async |api| api.status(StatusRequest {}).await)?)
    }

    /// What the machine's serial port has said.
    pub(crate) fn console(&self) -> Console {
        Console::new(self.directory.join("console.log"))
    }

    /// Resets the machine.
    ///
    /// # Errors
    /// If it is not running.
    pub(crate) fn reset(&self) -> Result<()> {
        console::reset(&self.qmp())
    }

    fn qmp(&self) -> PathBuf {
        self.directory.join("qmp.sock")
    }

    /// The disk as the machine has written it.
    pub(crate) fn disk(&self) -> PathBuf {
        self.directory.join("disk.qcow2")
    }

    fn seed(&self) -> PathBuf {
        self.directory.join("seed.img")
    }
}

/// Runs a program that must succeed.
///
/// # Errors
/// With what it said.
pub(super) fn succeed(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .with_context(|| format!("cannot run {program}. Install it: setup/install image"))?;
    let reason = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} failed: {}", reason.trim());
    Ok(())
}
