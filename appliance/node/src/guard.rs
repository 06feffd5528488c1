//! Keeps the guard of the host's stack running, and tells at once when it is not.
//!
//! `gabion-guard` is a child process; both sides write one JSON object a line. It is told which devices
//! carry data and which TCP ports of the host stay open there, and answers `installed`, `lost` or
//! `error`. Without its word nothing passes: [`Guard::supervise`] reports `InPlace` only after
//! `installed`, and `Missing` on `lost`, `error`, or the child's end, before anything else is done.
//!
//! One task owns the child. Cancelling it closes the child's standard input, upon which the guard
//! leaves its rules in place and ends: the host's stack stays shut after the daemon is gone.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::Instant;

/// The first pause before the guard is started again; doubled each time.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A guard that stayed in place for so long has earned a short pause again.
const STEADY: Duration = Duration::from_secs(30);
/// Longest line that is taken from the guard.
const LINE_BYTES_MAX: u64 = 64 << 10;

/// What the engine's gate must follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuardState {
    InPlace,
    /// With the reason.
    Missing(String),
}

/// Why the guard cannot even be tried.
#[derive(Debug, thiserror::Error)]
#[error("guard.program {}: {why}; install gabion-guard or set guard.program to where it is", path.display())]
pub struct GuardProgramError {
    path: PathBuf,
    why: String,
}

/// The guard's program and what it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    program: PathBuf,
    configuration: Configuration,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Configuration {
    data_devices: Vec<String>,
    tcp_ports: Vec<u16>,
    /// Whether the host may speak with Azure's services over data devices.
    azure_services: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Request<'a> {
    Configure(&'a Configuration),
}

#[derive(Debug, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum Answer {
    Installed,
    Lost,
    Error { message: String },
}

impl Guard {
    pub fn new(
        program: &Path,
        data_devices: Vec<String>,
        tcp_ports: &[u16],
        azure_services: bool,
    ) -> Self {
        let tcp_ports = tcp_ports.to_vec();
        let configuration = Configuration { data_devices, tcp_ports, azure_services };
        Self { program: program.to_owned(), configuration }
    }

    /// Looks whether the program is there.
    ///
    /// # Errors
    /// When it is missing or cannot be executed.
    pub fn check_program(&self) -> Result<(), GuardProgramError> {
        let error = |why: String| GuardProgramError { path: self.program.clone(), why };
        let metadata = std::fs::metadata(&self.program).map_err(|why| error(why.to_string()))?;
        if !metadata.is_file() {
            return Err(error("not a file".to_owned()));
        }
        rustix::fs::access(&self.program, rustix::fs::Access::EXEC_OK)
            .map_err(|why| error(why.to_string()))
    }

    /// Starts the guard, and again whenever it ends, until cancelled.
    pub async fn supervise(self, mut report: impl FnMut(GuardState) + Send) {
        let mut pause = PAUSE_MIN;
        loop {
            let started = Instant::now();
            let why = match self.run_once(&mut report).await {
                Ok(why) => why,
                Err(error) => format!("{}: {error}", self.program.display()),
            };
            tracing::error!("the guard is gone: {why}; trying again in {pause:?}");
            report(GuardState::Missing(why));
            tokio::time::sleep(pause).await;
            pause = if started.elapsed() > STEADY { PAUSE_MIN } else { PAUSE_MAX.min(pause * 2) };
        }
    }

    /// Runs one child to its end and says why it ended.
    async fn run_once(&self, report: &mut (impl FnMut(GuardState) + Send)) -> io::Result<String> {
        let mut child =
            Command::new(&self.program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (mut input, output) = pipes(&mut child);
        self.configure(&mut input).await?;
        let mut lines = BufReader::new(output);
        loop {
            let mut line = String::new();
            let read = limited(&mut lines).read_line(&mut line).await?;
            if read == 0 {
                let status = child.wait().await?;
                return Ok(format!("it ended ({status})"));
            }
            match read_answer(&line) {
                Ok(state) => report(state),
                Err(error) => {
                    report(GuardState::Missing("it is not understood".to_owned()));
                    end(child, input).await;
                    return Ok(format!("not understood: {error}"));
                }
            }
        }
    }

    async fn configure(&self, input: &mut ChildStdin) -> io::Result<()> {
        let mut line = serde_json::to_vec(&Request::Configure(&self.configuration))
            .expect("a configuration has text keys only");
        line.push(b'\n');
        input.write_all(&line).await
    }
}

/// Reads one line of the guard's.
///
/// # Errors
/// When it is none that a guard says.
pub fn read_answer(line: &str) -> Result<GuardState, serde_json::Error> {
    Ok(match serde_json::from_str(line)? {
        Answer::Installed => GuardState::InPlace,
        Answer::Lost => GuardState::Missing("its rules were changed by somebody".to_owned()),
        Answer::Error { message } => {
            tracing::error!("the guard: {message}");
            GuardState::Missing(message)
        }
    })
}

fn pipes(child: &mut Child) -> (ChildStdin, ChildStdout) {
    let input = child.stdin.take().expect("standard input is piped above");
    let output = child.stdout.take().expect("standard output is piped above");
    (input, output)
}

fn limited(lines: &mut BufReader<ChildStdout>) -> impl tokio::io::AsyncBufRead + Unpin + '_ {
    use tokio::io::AsyncReadExt as _;
    lines.take(LINE_BYTES_MAX)
}

async fn end(mut child: Child, input: ChildStdin) {
    drop(input);
    // It ends by itself at the end of its input; one that does not is no guard.
    if tokio::time::timeout(Duration::from_millis(200), child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

#[cfg(test)]
mod tests;
