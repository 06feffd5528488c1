//! Programs: run to their end, or kept running until dropped. Each is ended by its own process id.

use std::os::fd::AsFd as _;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::Interrupt;

/// The CPU that everything measured runs on, the kernel's share included.
pub(crate) const CPU: usize = 0;
/// Before other programs of the machine, but not before the kernel's threads.
const NICE: i32 = -10;
/// How often a running program is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long a program may take to end when it is asked to.
const FAREWELL: Duration = Duration::from_secs(3);

/// Lets everything that this thread starts from now on go before other programs of the machine.
pub(crate) fn go_first() -> anyhow::Result<()> {
    rustix::process::setpriority_process(None, NICE).context("cannot set the priority; be root")
}

/// The words before a program that is measured: pinned, in a namespace, and gone when we are.
fn prefix(namespace: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "taskset", "-c", &CPU.to_string()]);
    command.args(["ip", "netns", "exec", namespace]);
    command.stdin(Stdio::null());
    command
}

/// Runs a program outside the measurement and returns what it printed.
pub(crate) fn run(program: &str, words: &[&str]) -> anyhow::Result<String> {
    finish(Command::new(program).args(words).stdin(Stdio::null()), program)
}

/// The same, with words that are split at spaces.
pub(crate) fn run_line(line: &str) -> anyhow::Result<String> {
    let words: Vec<&str> = line.split(' ').collect();
    run(words[0], &words[1..])
}

fn finish(command: &mut Command, program: &str) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("{program} does not start"))?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("{program} failed ({}): {}", output.status, complaint.trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("{program} printed no text"))
}

/// Runs a measured program in a namespace to its end, for at most `limit`.
pub(crate) fn run_measured(
    namespace: &str,
    words: &[&str],
    limit: Duration,
    interrupt: &Interrupt,
) -> anyhow::Result<String> {
    let mut command = prefix(namespace);
    command.args(words).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("{} does not start", words[0]))?;
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let deadline = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > deadline || interrupt.is_set() {
            // It has not been waited for, so the process id is still its own.
            child.kill()?;
            child.wait()?;
            interrupt.check()?;
            bail!("{} took longer than {} s", words[0], limit.as_secs());
        }
        std::thread::sleep(LOOK_EVERY);
    };
    interrupt.check()?;
    let (stdout, stderr) = (collect(stdout), collect(stderr));
    ensure!(status.success(), "{} failed ({status}): {stdout}{stderr}", words[0]);
    Ok(stdout)
}

fn drain<R: std::io::Read + Send + 'static>(pipe: Option<R>) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = Vec::new();
        if let Some(mut pipe) = pipe {
            // What is there is enough: it is only for a message.
            let _ = pipe.read_to_end(&mut text);
        }
        String::from_utf8_lossy(&text).into_owned()
    })
}

fn collect(reader: JoinHandle<String>) -> String {
    reader.join().unwrap_or_default()
}

/// A measured program in a namespace, ended when dropped.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
}

impl Running {
    pub(crate) fn start(namespace: &str, words: &[&str], log: Stdio) -> anyhow::Result<Self> {
        let mut command = prefix(namespace);
        command.args(words).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().with_context(|| format!("{} does not start", words[0]))?;
        Ok(Self { child })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn has_ended(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Ok(None) = self.child.try_wait() else { return };
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let deadline = Instant::now() + FAREWELL;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Does `work` in a thread of its own, pinned and in a namespace.
pub(crate) fn spawn_in<T: Send + 'static>(
    namespace: &str,
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> JoinHandle<anyhow::Result<T>> {
    let path = format!("/run/netns/{namespace}");
    std::thread::spawn(move || {
        let file = std::fs::File::open(&path).with_context(|| format!("cannot open {path}"))?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
        pin()?;
        work()
    })
}

/// Waits for such a thread.
pub(crate) fn join<T>(thread: JoinHandle<anyhow::Result<T>>) -> anyhow::Result<T> {
    thread.join().unwrap_or_else(|_| bail!("a load generator panicked"))
}

fn pin() -> anyhow::Result<()> {
    let mut cpus = rustix::thread::CpuSet::new();
    cpus.set(CPU);
    rustix::thread::sched_setaffinity(None, &cpus).context("cannot pin a thread")
}
