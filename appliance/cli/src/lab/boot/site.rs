//! The lab around the machine, and what is asked from outside.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::Wanted;
use super::network::{self, CLIENT, DEVICES, NODE, NODE_MGMT, OPERATOR, SERVER};
use crate::lab::build::{Lab, Offloads};
use crate::lab::machine::{BOOT, CustomData, Machine, Named, Nic};
use crate::lab::namespace::Lifetime;
use crate::lab::node::{self, HEALTH_HTTP_PORT, PKI, make_certificates};
use crate::lab::process::{Finished, Running, run};
use crate::lab::servers::{WebServer, make_certificate};

/// The policy that is pushed from outside.
pub(crate) const POLICY: &str = include_str!("policy.yaml");

const API_PORT: u16 = 4450;

/// Between two looks at what is waited for.
const PAUSE: Duration = Duration::from_millis(200);

/// The lab at work. Dropping it switches the machine off first and removes the lab last.
#[derive(Debug)]
pub(crate) struct Site {
    running: Option<Running>,
    pub(crate) machine: Machine,
    _web: Running,
    /// How often custom data has been handed over: each time to a new instance.
    instances: u32,
    tool: PathBuf,
    pub(crate) lab: Lab,
}

/// What the health endpoint answers.
#[derive(Debug, Clone)]
pub(crate) struct Health {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Health {
    /// The first of the reasons that follow its summary.
    pub(crate) fn reason(&self) -> &str {
        self.body.lines().nth(1).unwrap_or(&self.body)
    }
}

impl Site {
    /// Builds everything but switches nothing on.
    ///
    /// # Errors
    /// If something is missing on this machine.
    pub(crate) fn build(wanted: &Wanted<'_>) -> Result<Self> {
        let lab = Lab::build(
            &wanted.name,
            wanted.scenario.name(),
            network::topology(),
            Offloads::On,
            Lifetime::Bound,
        )?;
        make_certificates(&lab.directory().join(PKI), &[format!("{NODE}={NODE_MGMT}")])?;
        make_certificate(&lab)?;
        let web = WebServer { host: SERVER, large: 1 << 20 }.start(&lab)?;
        let nics = DEVICES
            .iter()
            .map(|device| Nic::in_place_of(&lab, NODE, device))
            .collect::<Result<_>>()?;
        let api = SocketAddr::new(NODE_MGMT.parse()?, API_PORT);
        let nics = (nics, Named::ByDevice);
        let machine = Machine::prepare(&lab, NODE, nics, wanted.image.clone(), (OPERATOR, api))?;
        let tool = match &wanted.bin_dir {
            Some(directory) => directory.join("gabion"),
            None => std::env::current_exe()?,
        };
        Ok(Self { running: None, machine, _web: web, instances: 0, tool, lab })
    }

    /// Custom data of a node that gets its policy from outside.
    ///
    /// # Errors
    /// If a certificate cannot be read.
    pub(crate) fn custom_data(&self) -> Result<String> {
        let pki = self.lab.directory().join(PKI);
        let data = CustomData {
            name: NODE,
            membership: None,
            machine: &self.machine,
            pki: &pki,
            policy: None,
            settings: json!({}),
        };
        data.text()
    }

    /// Makes the machine a new instance, with the disk as the image has it and this custom data.
    ///
    /// # Errors
    /// If a disk cannot be written.
    pub(crate) fn provide(&mut self, custom_data: Option<&str>) -> Result<()> {
        self.instances += 1;
        self.machine.reset_disk()?;
        self.machine.provide(&format!("lab-{}", self.instances), custom_data)
    }

    /// Switches the machine on.
    ///
    /// # Errors
    /// If QEMU does not start.
    pub(crate) fn switch_on(&mut self) -> Result<()> {
        ensure!(self.running.is_none(), "the machine is on already");
        self.running = Some(self.machine.start(&self.lab)?);
        Ok(())
    }

    /// Cuts the machine's power.
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub(crate) fn cut_power(&mut self) -> Result<()> {
        let Some(running) = self.running.take() else { return Ok(()) };
        running.end(rustix::process::Signal::KILL).map(|_| ())
    }

    /// Looks again and again until something is so. Returns how long it took.
    ///
    /// # Errors
    /// If the machine ends, or it takes longer than a boot may; with what the console said last.
    pub(crate) fn wait(
        &mut self,
        what: &str,
        mut is_so: impl FnMut(&Self) -> bool,
    ) -> Result<Duration> {
        let begin = Instant::now();
        while !is_so(self) {
            let console = self.machine.console();
            if let Some(running) = &mut self.running {
                ensure!(
                    !running.has_ended(),
                    "the machine has ended: {}\n{}",
                    running.last_words(),
                    console.last_words()
                );
            }
            ensure!(
                begin.elapsed() < BOOT,
                "{what}: not within {BOOT:?}; its console:\n{}",
                console.last_words()
            );
            std::thread::sleep(PAUSE);
        }
        Ok(begin.elapsed())
    }

    /// Asks the node's health endpoint from a host.
    ///
    /// # Errors
    /// If nobody answers.
    pub(crate) fn health(&self, host: &str, node: &str) -> Result<Health> {
        self.ask(host, node, &[])
    }

    /// The same from the address that Azure probes from.
    ///
    /// # Errors
    /// If nobody answers.
    pub(crate) fn probe(&self, host: &str, node: &str) -> Result<Health> {
        self.ask(host, node, &["--interface", &network::PROBER.to_string()])
    }

    fn ask(&self, host: &str, node: &str, more: &[&str]) -> Result<Health> {
        let url = format!("http://{node}:{HEALTH_HTTP_PORT}/");
        let mut program = vec!["curl", "-sS", "-m", "5", "-w", "\n%{http_code}", &url];
        program.extend(more);
        let asked = run(&self.lab, host, &program, Duration::from_secs(10))?;
        ensure!(asked.code == Some(0), "{}", asked.stderr.trim());
        let (body, status) = asked.stdout.rsplit_once('\n').context("curl tells no status")?;
        Ok(Health { status: status.parse()?, body: body.trim().to_owned() })
    }

    /// Fetches a page from the client.
    ///
    /// # Errors
    /// If curl cannot be run.
    pub(crate) fn fetch(&self, url: &str) -> Result<Finished> {
        /// What is dropped is waited for so long.
        const PATIENCE: &str = "4";
        let program = ["curl", "-sS", "-m", PATIENCE, url];
        run(&self.lab, CLIENT, &program, Duration::from_secs(10))
    }

    /// Runs the operator's tool from outside, over mutual TLS.
    ///
    /// # Errors
    /// If it cannot be run.
    pub(crate) fn operate(&self, words: &[&str]) -> Result<Finished> {
        let connection = self.machine.connection(node::OPERATOR);
        let path = |path: Option<PathBuf>| path.unwrap_or_default().display().to_string();
        let server = connection.server.unwrap_or_default();
        let [ca, cert, key] = [connection.ca, connection.cert, connection.key].map(path);
        let mut words = words.to_vec();
        words.extend(["--server", &server, "--ca", &ca, "--cert", &cert, "--key", &key]);
        self.tool(&words)
    }

    /// Runs the operator's tool with these words alone.
    ///
    /// # Errors
    /// If it cannot be run.
    pub(crate) fn tool(&self, words: &[&str]) -> Result<Finished> {
        let tool = self.tool.display().to_string();
        let program: Vec<_> = [tool.as_str()].into_iter().chain(words.iter().copied()).collect();
        run(&self.lab, OPERATOR, &program, Duration::from_secs(60))
    }

    /// Writes a file for the operator's tool.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn file(&self, name: &str, text: &str) -> Result<String> {
        let path = self.lab.directory().join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path.display().to_string())
    }
}
