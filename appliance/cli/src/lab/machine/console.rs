//! A machine's serial port, and its reset switch.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// What the serial port has said, all boots of this machine together.
#[derive(Debug, Clone)]
pub(crate) struct Console {
    path: PathBuf,
}

impl Console {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.path.clone()
    }

    /// Without what terminals make of it.
    pub(crate) fn text(&self) -> String {
        let bytes = fs::read(&self.path).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\r', "")
    }

    /// The first line that has all these words.
    pub(crate) fn find(&self, words: &[&str]) -> Option<String> {
        let has_all = |line: &&str| words.iter().all(|word| line.contains(word));
        self.text().lines().find(has_all).map(|line| line.trim().to_owned())
    }

    /// The end of it.
    pub(crate) fn last_words(&self) -> String {
        const LINES: usize = 15;
        let text = self.text();
        let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }
}

/// Resets a machine by QEMU's monitor (QMP), as if it had lost its power for a moment.
///
/// # Errors
/// If the machine is not running.
pub(super) fn reset(monitor: &Path) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(10);
    let mut stream = UnixStream::connect(monitor).context("cannot reach the machine's monitor")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut answers = BufReader::new(stream.try_clone()?).lines();
    for execute in ["qmp_capabilities", "system_reset"] {
        writeln!(stream, "{{\"execute\":\"{execute}\"}}")?;
        loop {
            let line = answers.next().context("the machine's monitor has closed")??;
            if line.contains("\"return\"") {
                break;
            }
            if line.contains("\"error\"") {
                bail!("the machine's monitor refuses {execute}: {line}");
            }
        }
    }
    Ok(())
}
