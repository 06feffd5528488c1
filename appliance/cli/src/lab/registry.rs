//! Which labs there are on this machine: one folder each, written before anything else is made and
//! removed after everything else is gone, so that a crashed run can be cleaned up by name.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde::{Deserialize, Serialize};

/// Namespaces of all labs begin with this.
pub(crate) const PREFIX: &str = "gab-";

const ROOT: &str = "/run/gabion-lab";

/// How long a program has between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_millis(500);

/// What is known about a lab from outside the process that made it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) name: String,
    pub(crate) scenario: String,
    /// The process that runs it; none for a lab that was left up.
    pub(crate) owner: Option<i32>,
    /// Names of the hosts, each in the namespace `gab-NAME-HOST`.
    pub(crate) hosts: Vec<String>,
}

impl Record {
    /// The lab's folder: configurations, logs, the node's state and socket.
    pub(crate) fn directory(&self) -> PathBuf {
        Path::new(ROOT).join(&self.name)
    }

    /// Where nodes keep what outlives their process in the kernel.
    pub(crate) fn bpf(&self) -> PathBuf {
        self.directory().join("bpf")
    }

    pub(crate) fn namespace(&self, host: &str) -> String {
        format!("{PREFIX}{}-{host}", self.name)
    }

    /// Whether the process that made the lab is still at work.
    pub(crate) fn is_running(&self) -> bool {
        self.owner.and_then(Pid::from_raw).is_some_and(|pid| test_kill_process(pid).is_ok())
    }

    /// Writes the record.
    ///
    /// # Errors
    /// If a lab of this name is there already, or the folder cannot be made.
    pub(crate) fn create(&self) -> Result<()> {
        fs::create_dir_all(ROOT).with_context(|| {
            format!("cannot make {ROOT}: a lab needs root. Try: sudo gabion lab")
        })?;
        let directory = self.directory();
        if let Err(error) = fs::create_dir(&directory) {
            if error.kind() == std::io::ErrorKind::AlreadyExists {
                bail!(
                    "there is a lab called `{0}` already. Remove it: gabion lab down {0}",
                    self.name
                );
            }
            return Err(error).with_context(|| format!("cannot make {}", directory.display()));
        }
        self.save()
    }

    /// Writes the record again, after a change.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn save(&self) -> Result<()> {
        let path = self.directory().join("lab.json");
        fs::write(&path, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Ends every program of the lab and removes its namespaces and its folder. Doing it twice
    /// does no harm.
    ///
    /// # Errors
    /// If a namespace is still there afterwards.
    pub(crate) fn tear_down(&self) -> Result<()> {
        let namespaces: Vec<_> = self.hosts.iter().map(|host| self.namespace(host)).collect();
        end_programs(&namespaces);
        for namespace in &namespaces {
            if Path::new("/run/netns").join(namespace).exists() {
                let output = Command::new("ip").args(["netns", "delete", namespace]).output()?;
                if !output.status.success() {
                    let reason = String::from_utf8_lossy(&output.stderr);
                    bail!("cannot remove the namespace {namespace}: {}", reason.trim());
                }
            }
        }
        unmount(&self.bpf())?;
        match fs::remove_dir_all(self.directory()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => {
                Err(error).with_context(|| format!("cannot remove {}", self.directory().display()))
            }
        }
    }
}

/// Takes a file system away, if one is there.
fn unmount(at: &Path) -> Result<()> {
    let device = |path: &Path| fs::metadata(path).map(|data| data.dev()).ok();
    let is_mounted = at.parent().is_some_and(|above| device(at) != device(above)) && at.exists();
    if is_mounted {
        let output = Command::new("umount").arg(at).output()?;
        let reason = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "cannot unmount {}: {}", at.display(), reason.trim());
    }
    Ok(())
}

/// Every lab on this machine, sorted by name.
///
/// # Errors
/// If a record cannot be read.
pub(crate) fn labs() -> Result<Vec<Record>> {
    let entries = match fs::read_dir(ROOT) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {ROOT}")),
    };
    let mut labs = Vec::new();
    for entry in entries {
        let path = entry?.path().join("lab.json");
        let text = fs::read(&path)
            .with_context(|| format!("cannot read the record {}", path.display()))?;
        labs.push(
            serde_json::from_slice::<Record>(&text)
                .with_context(|| format!("{} is not a lab's record", path.display()))?,
        );
    }
    labs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(labs)
}

/// SIGTERM to all, SIGKILL to what is left after [`GRACE`].
fn end_programs(namespaces: &[String]) {
    for pid in pids(namespaces) {
        // Gone already is as good as ended.
        let _ = kill_process(pid, Signal::TERM);
    }
    let deadline = Instant::now() + GRACE;
    while Instant::now() < deadline {
        if pids(namespaces).is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    for pid in pids(namespaces) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// The processes that live in these namespaces.
fn pids(namespaces: &[String]) -> Vec<Pid> {
    let mut pids = Vec::new();
    for namespace in namespaces {
        // A namespace that is not there has no processes.
        let Ok(output) = Command::new("ip").args(["netns", "pids", namespace]).output() else {
            continue;
        };
        let text = String::from_utf8_lossy(&output.stdout);
        pids.extend(
            text.split_whitespace().filter_map(|pid| pid.parse().ok()).filter_map(Pid::from_raw),
        );
    }
    pids
}
