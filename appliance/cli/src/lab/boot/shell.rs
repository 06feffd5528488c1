//! The administrator's way into the machine: SSH, by a key that stands in its custom data.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use gabion_image::program;
use serde_json::{Value, json};

use super::network::{NODE_MGMT, OPERATOR};
use super::site::Site;
use crate::lab::process::{Finished, run};
use crate::lab::stage::look_for_programs;

const ADMIN: &str = "ops";
/// How long a command has, the machine's instructions translated: an upgrade checks and writes many megabytes.
const COMMAND: Duration = Duration::from_secs(300);

/// A key, and the host keys that were seen.
#[derive(Debug)]
pub(super) struct Shell {
    key: PathBuf,
    seen: PathBuf,
}

impl Shell {
    /// # Errors
    /// If there is no SSH here.
    pub(super) fn new(site: &Site) -> Result<Self> {
        look_for_programs(&["ssh", "scp", "ssh-keygen"])?;
        let folder = site.lab.make_directory(OPERATOR)?;
        let shell = Self { key: folder.join("key"), seen: folder.join("known_hosts") };
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", ADMIN, "-f"]).arg(&shell.key);
        program::run(&mut keygen)?;
        Ok(shell)
    }

    /// Custom data with this administrator in it.
    ///
    /// # Errors
    /// If it is no JSON.
    pub(super) fn admit(&self, custom_data: &str) -> Result<String> {
        let mut document: Value = serde_json::from_str(custom_data)?;
        let key = fs::read_to_string(self.key.with_extension("pub"))?;
        document["admin"] = json!({ "name": ADMIN, "keys": [key.trim()] });
        Ok(document.to_string())
    }

    /// Runs a command on the machine. A host key that is not the one of the first time is refused.
    ///
    /// # Errors
    /// If ssh cannot be run; a command that fails is no error.
    pub(super) fn run(&self, site: &Site, command: &str) -> Result<Finished> {
        let to = format!("{ADMIN}@{NODE_MGMT}");
        self.call(site, &["ssh"], &[&to, command])
    }

    /// The same for a command that must not fail. Returns what it has said.
    ///
    /// # Errors
    /// If it fails.
    pub(super) fn ask(&self, site: &Site, command: &str) -> Result<String> {
        let done = self.run(site, command)?;
        ensure!(done.code == Some(0), "{command}: {}{}", done.stdout, done.stderr);
        Ok(done.stdout.trim().to_owned())
    }

    /// Copies a file into the administrator's home folder.
    ///
    /// # Errors
    /// If it does not get there.
    pub(super) fn copy(&self, site: &Site, file: &str, name: &str) -> Result<Finished> {
        let to = format!("{ADMIN}@{NODE_MGMT}:{name}");
        let done = self.call(site, &["scp", "-q"], &[file, &to])?;
        ensure!(done.code == Some(0), "scp: {}", done.stderr);
        Ok(done)
    }

    fn call(&self, site: &Site, program: &[&str], words: &[&str]) -> Result<Finished> {
        let key = self.key.to_str().context("the lab's folder is UTF-8")?;
        let seen = format!("UserKnownHostsFile={}", self.seen.display());
        let mut all = program.to_vec();
        all.extend(["-F", "none", "-i", key, "-o", &seen]);
        all.extend(["-o", "StrictHostKeyChecking=accept-new", "-o", "BatchMode=yes"]);
        all.extend(["-o", "ConnectTimeout=20", "-o", "ServerAliveInterval=20"]);
        all.extend(words);
        run(&site.lab, OPERATOR, &all, COMMAND)
    }
}
