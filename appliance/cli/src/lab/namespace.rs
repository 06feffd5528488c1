//! Running something inside a network namespace: a program, or a closure on a thread of its own.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::Command;
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, anyhow};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network namespace that `ip netns` knows by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Namespace {
    name: String,
}

/// Whether a program may live longer than the process that starts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lifetime {
    /// The kernel kills it when the starting thread ends, however that happens.
    Bound,
    /// It goes on; `gabion lab down` ends it.
    Detached,
}

impl Namespace {
    pub(crate) fn new(name: String) -> Self {
        Self { name }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// A command that runs `program` in the namespace.
    ///
    /// `ip netns exec` gives it a /sys that shows the namespace's devices. It and `setpriv` replace
    /// themselves, so the child's pid is the program's.
    pub(crate) fn command(&self, lifetime: Lifetime, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]);
        match lifetime {
            Lifetime::Bound => command.args(["setpriv", "--pdeathsig", "KILL"]),
            Lifetime::Detached => command.arg("setsid"),
        };
        command.arg(program);
        command
    }

    /// Runs `work` on a new thread inside the namespace; sockets that it opens stay there.
    pub(crate) fn spawn<T, F>(&self, work: F) -> JoinHandle<Result<T>>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T> + Send + 'static,
    {
        let path = self.path();
        std::thread::spawn(move || {
            let file = File::open(&path)
                .with_context(|| format!("cannot open the namespace {}", path.display()))?;
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .with_context(|| format!("cannot enter the namespace {}", path.display()))?;
            work()
        })
    }

    /// Runs `work` inside the namespace and waits for it.
    ///
    /// # Errors
    /// What `work` returns, or that the namespace cannot be entered.
    pub(crate) fn enter<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T> + Send + 'static,
    {
        self.spawn(work).join().map_err(|_| anyhow!("a check panicked inside {}", self.name))?
    }
}
