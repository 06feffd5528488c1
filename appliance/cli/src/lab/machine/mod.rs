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
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;
use gabion_api::v1::{StatusRequest, StatusResponse};
use gabion_image::program::run;
use gabion_image::qemu::{self, Boot, Direct, Disk, Monitor, Writes};

pub(crate) use console::Console;
pub(crate) use seed::{CustomData, Membership};
pub(crate) use wiring::Nic;

use super::build::Lab;
use super::namespace::Namespace;
use super::node::{ADMIN, PKI};
use super::process::Running;
use super::stage::look_for_programs;
use crate::connect::{Connection, Node};

/// How long a machine has to boot and to answer, its instructions translated and others beside it.
pub(crate) const BOOT: Duration = Duration::from_secs(600);

/// The disk that is booted, and how.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    /// qcow2 or raw; it is never written to.
    pub(crate) disk: PathBuf,
    /// Its own kernel and first file system, without firmware and boot loader: boots in a third of the time.
    pub(crate) direct: Option<Direct>,
}

/// How first-boot data names the machine's interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Named {
    /// As the kernel does, which counts them.
    ByDevice,
    /// By their link addresses. With each start the kernel finds them in another order.
    ByLinkAddress,
}

/// A machine's place in a lab; the machine may come and go.
#[derive(Debug)]
pub(crate) struct Machine {
    host: &'static str,
    nics: Vec<Nic>,
    named: Named,
    starts: AtomicUsize,
    image: Image,
    directory: PathBuf,
    api: SocketAddr,
    /// From where the API is asked, and with what certificates.
    asked_from: Namespace,
    pki: PathBuf,
    /// What QEMU says, which is what the machine's serial port does.
    log: PathBuf,
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
        (nics, named): (Vec<Nic>, Named),
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
            log: lab.directory().join(format!("{}.log", log_name(host))),
            _addresses: wiring::join(lab, host, &nics)?,
            nics,
            named,
            starts: AtomicUsize::new(0),
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
        run(&mut command)
    }

    /// Gives the machine custom data; `None`: a provider that hands none over.
    ///
    /// # Errors
    /// If the disk cannot be written.
    pub(crate) fn provide(&self, instance: &str, user_data: Option<&str>) -> Result<()> {
        seed::write(&self.seed(), (instance, self.host), user_data)
    }

    /// Switches it on. Later boots go on in the same console.
    ///
    /// # Errors
    /// If QEMU does not start.
    pub(crate) fn start(&self, lab: &Lab) -> Result<Running> {
        self.starts.fetch_add(1, Ordering::Relaxed);
        let program = ["qemu-system-x86_64".to_owned()];
        let words: Vec<_> = program.into_iter().chain(self.qemu().arguments()?).collect();
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        Running::start(lab, self.host, &log_name(self.host), &words)
    }

    fn qemu(&self) -> qemu::Machine {
        let mut nics: Vec<_> = self.nics.iter().map(Nic::of_machine).collect();
        if self.named == Named::ByLinkAddress {
            nics.rotate_left(self.starts.load(Ordering::Relaxed) % self.nics.len());
        }
        let mut disks = vec![Disk { path: self.disk(), format: "qcow2", writes: Writes::Kept }];
        if self.seed().exists() {
            disks.push(Disk { path: self.seed(), format: "raw", writes: Writes::Refused });
        }
        let boot = match &self.image.direct {
            Some(direct) => Boot::Direct(direct.clone()),
            None => Boot::Uefi { variables: self.directory.join("firmware.fd") },
        };
        qemu::Machine {
            name: self.host.to_owned(),
            memory_mib: 1_024,
            processors: 1,
            boot,
            disks,
            nics,
            // The lab starts it.
            namespace: None,
            folder: self.directory.clone(),
            is_shown: false,
        }
    }

    /// Connects to the node's API, over mutual TLS.
    ///
    /// # Errors
    /// If it does not answer.
    pub(crate) fn connect(&self) -> Result<Node> {
        let connection = self.connection(ADMIN);
        self.asked_from.enter(move || Ok(connection.open()?))
    }

    /// What the tool is told to reach the node, as one of the certificates' clients.
    pub(crate) fn connection(&self, client: &str) -> Connection {
        Connection {
            server: Some(self.api.to_string()),
            ca: Some(self.pki.join("ca.pem")),
            cert: Some(self.pki.join(format!("{client}.pem"))),
            key: Some(self.pki.join(format!("{client}.key"))),
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
        Console::new(self.log.clone())
    }

    /// Resets the machine.
    ///
    /// # Errors
    /// If it is not running.
    pub(crate) fn reset(&self) -> Result<()> {
        Monitor::connect(&self.qemu().monitor())?.order("system_reset")
    }

    /// The disk as the machine has written it.
    pub(crate) fn disk(&self) -> PathBuf {
        self.directory.join("disk.qcow2")
    }

    fn seed(&self) -> PathBuf {
        self.directory.join("seed.img")
    }
}

fn log_name(host: &str) -> String {
    format!("{host}-qemu")
}
