//! QEMU's monitor (QMP): a line of JSON each way.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

/// How long an order may take to be answered.
const ANSWER: Duration = Duration::from_secs(10);

/// A connection that may give orders.
#[derive(Debug)]
pub struct Monitor {
    answers: BufReader<UnixStream>,
}

impl Monitor {
    /// Connects to a machine that runs.
    ///
    /// # Errors
    /// It does not.
    pub fn connect(socket: &Path) -> Result<Self> {
        Self::connect_while(socket, || false)
    }

    /// Connects as soon as QEMU listens.
    pub(super) fn connect_while(socket: &Path, mut is_alive: impl FnMut() -> bool) -> Result<Self> {
        // QEMU tells nobody that it listens; it is a matter of milliseconds.
        const PAUSE: Duration = Duration::from_millis(10);
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(_) if is_alive() => std::thread::sleep(PAUSE),
                Err(error) => return Err(error).context("QEMU has ended"),
            }
        };
        stream.set_read_timeout(Some(ANSWER))?;
        let mut monitor = Self { answers: BufReader::new(stream) };
        // The greeting.
        monitor.read()?;
        monitor.order("qmp_capabilities")?;
        Ok(monitor)
    }

    /// Gives an order without arguments, and waits until it is taken.
    ///
    /// # Errors
    /// QEMU refuses it, or is gone.
    pub fn order(&mut self, name: &str) -> Result<()> {
        writeln!(self.answers.get_mut(), "{}", json!({ "execute": name }))
            .context("QEMU is gone")?;
        loop {
            let answer = self.read()?;
            if let Some(error) = answer.get("error") {
                bail!("QEMU refuses {name}: {error}");
            }
            // Events come between.
            if answer.get("return").is_some() {
                return Ok(());
            }
        }
    }

    fn read(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.answers.read_line(&mut line).context("QEMU is gone")?;
        serde_json::from_str(&line).context("QEMU has ended, or says what is no JSON")
    }
}
