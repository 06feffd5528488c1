//! What is told to Azure, kept until it has been told: reporting takes the network, which comes after provisioning.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::files;
use crate::limits::DESCRIPTION_CHARACTERS_MAX;
use crate::wireserver::{ReportError, WireServer};

/// The file with what is still to be told.
pub const PENDING: &str = "report";
const READY: &str = "ready";
const FAILED: &str = "failed ";
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// How provisioning has ended.
///
/// Wrong first-boot data is a failure to Azure too: the deployment then fails at once, with the reason, where its author
/// looks first, and the virtual machine goes on to run, held. Said to be ready it would look like a success until somebody asks
/// why no probe is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Ready,
    Failed(String),
}

/// Notes what is to be told.
///
/// # Errors
/// As writing a file.
pub fn write(directory: &Path, outcome: &Outcome) -> io::Result<()> {
    let text = match outcome {
        Outcome::Ready => format!("{READY}\n"),
        Outcome::Failed(reason) => format!("{FAILED}{reason}\n"),
    };
    files::write(&directory.join(PENDING), 0o644, &text)
}

/// What is still to be told.
///
/// # Errors
/// As reading a file.
pub fn pending(directory: &Path) -> io::Result<Option<Outcome>> {
    let text = files::read(&directory.join(PENDING))?;
    Ok(text.map(|text| match text.trim_end().strip_prefix(FAILED) {
        Some(reason) => Outcome::Failed(reason.chars().take(DESCRIPTION_CHARACTERS_MAX).collect()),
        None => Outcome::Ready,
    }))
}

/// Tells what is to be told until it is taken, or for so long; `None`: there was nothing.
///
/// # Errors
/// The last one.
pub fn tell(
    directory: &Path,
    server: &WireServer,
    patience: Duration,
) -> anyhow::Result<Option<Outcome>> {
    let Some(outcome) = pending(directory)? else { return Ok(None) };
    let begun = Instant::now();
    let mut pause = PAUSE_MIN;
    loop {
        match server.report(&outcome) {
            Ok(()) => break,
            Err(error @ ReportError::Refused(_)) => return Err(error.into()),
            Err(error) if begun.elapsed() + pause > patience => return Err(error.into()),
            Err(error) => eprintln!("gabion-provision: {error}; again in {pause:?}"),
        }
        std::thread::sleep(pause);
        pause = PAUSE_MAX.min(pause * 2);
    }
    files::remove(&directory.join(PENDING))?;
    Ok(Some(outcome))
}
