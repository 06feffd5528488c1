//! Programs in a lab: those that stay (servers, the node) and those that are waited for (clients).

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::build::Lab;
use super::namespace::Lifetime;

/// How long a program that stays has to come up.
const START: Duration = Duration::from_secs(60);

/// How often a program's readiness is looked at.
const PAUSE: Duration = Duration::from_millis(10);

/// A program that stays. Dropping it ends it, unless the lab is detached.
#[derive(Debug)]
pub(crate) struct Running {
    name: String,
    child: Child,
    log: PathBuf,
    lifetime: Lifetime,
}

/// What a program that was waited for has left.
#[derive(Debug, Clone)]
pub(crate) struct Finished {
    /// As a shell shows it.
    pub(crate) line: String,
    /// `None` if it was killed, by the time limit for instance.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
}

impl Running {
    /// Starts `program` on `host`; what it prints goes to `NAME.log` in the lab's folder.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(crate) fn start(lab: &Lab, host: &str, name: &str, program: &[&str]) -> Result<Self> {
        let (program, arguments) = program.split_first().expect("a program has a name");
        let path = lab.directory().join(format!("{name}.log"));
        let log = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        let child = lab
            .namespace(host)
            .command(lab.lifetime(), program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        Ok(Self { name: name.to_owned(), child, log: path, lifetime: lab.lifetime() })
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Waits until `is_ready` says so.
    ///
    /// # Errors
    /// If the program ends before, or takes longer than [`START`]; with the end of what it printed.
    pub(crate) fn wait_until(&mut self, is_ready: impl FnMut() -> bool) -> Result<Duration> {
        self.wait_within(START, is_ready)
    }

    /// The same, with another time than [`START`].
    ///
    /// # Errors
    /// As there.
    pub(crate) fn wait_within(
        &mut self,
        limit: Duration,
        mut is_ready: impl FnMut() -> bool,
    ) -> Result<Duration> {
        let begin = Instant::now();
        loop {
            if is_ready() {
                return Ok(begin.elapsed());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended at once ({status}):\n{}", self.name, self.last_words());
            }
            if begin.elapsed() > limit {
                bail!("{} is not ready after {limit:?}:\n{}", self.name, self.last_words());
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Ends the program with `signal` and waits for it; SIGKILL if it takes more than two seconds.
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub(crate) fn end(mut self, signal: Signal) -> Result<Duration> {
        self.stop(signal)
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// The end of what the program has printed.
    pub(crate) fn last_words(&self) -> String {
        const LINES: usize = 12;
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }

    fn stop(&mut self, signal: Signal) -> Result<Duration> {
        const PATIENCE: Duration = Duration::from_secs(10);
        let begin = Instant::now();
        if self.child.try_wait()?.is_some() {
            return Ok(Duration::ZERO);
        }
        kill_process(self.pid(), signal).with_context(|| format!("cannot end {}", self.name))?;
        while self.child.try_wait()?.is_none() {
            if begin.elapsed() > PATIENCE {
                self.child.kill()?;
                self.child.wait()?;
                bail!("{} ignored {signal:?} for {PATIENCE:?}", self.name);
            }
            std::thread::sleep(PAUSE);
        }
        Ok(begin.elapsed())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.lifetime == Lifetime::Bound {
            // The lab's own end kills whatever resists.
            let _ = self.stop(Signal::TERM);
        }
    }
}

/// Runs `program` on `host` and waits for it, `limit` at most.
///
/// # Errors
/// If it cannot be started; a program that fails is no error.
pub(crate) fn run(lab: &Lab, host: &str, program: &[&str], limit: Duration) -> Result<Finished> {
    let begin = Instant::now();
    let output = lab
        .namespace(host)
        .command(Lifetime::Bound, "timeout")
        .args(["-k", "1", &format!("{:.3}", limit.as_secs_f64())])
        .args(program)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", program.join(" ")))?;
    /// What `timeout` exits with when the program has not ended in time.
    const TIMED_OUT: i32 = 124;
    Ok(Finished {
        line: program.join(" "),
        code: output.status.code().filter(|code| *code != TIMED_OUT),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        took: begin.elapsed(),
    })
}
