//! Running the programs that do the work.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, ensure};

/// A command whose output does not depend on where it runs: UTC, no locale, the time of the version.
pub(crate) fn command(program: &str, epoch_s: u64) -> Command {
    let mut command = Command::new(program);
    command
        .env("LC_ALL", "C.UTF-8")
        .env("TZ", "UTC")
        .env("SOURCE_DATE_EPOCH", epoch_s.to_string())
        // The name that mke2fs knows.
        .env("E2FSPROGS_FAKE_TIME", epoch_s.to_string());
    command
}

/// Runs to the end; what it prints is shown only if it fails.
///
/// # Errors
/// It cannot be started, or fails.
pub fn run(command: &mut Command) -> Result<()> {
    read(command).map(drop)
}

/// Runs to the end and returns what it has printed.
///
/// # Errors
/// It cannot be started, or fails.
pub(crate) fn read(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| cannot_run(&name))?;
    printed(&name, &output)
}

/// Runs to the end with `input` to read, less than a pipe holds; what it prints is shown only if it fails.
///
/// # Errors
/// It cannot be started, or fails.
pub(crate) fn feed(command: &mut Command, input: &[u8]) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| cannot_run(&name))?;
    child.stdin.take().context("it was piped")?.write_all(input)?;
    printed(&name, &child.wait_with_output()?).map(drop)
}

fn cannot_run(name: &str) -> String {
    format!("cannot run {name}: is it there? `setup/install image` brings what is needed")
}

/// What a program has printed, if it has not failed.
fn printed(name: &str, Output { status, stdout, stderr }: &Output) -> Result<String> {
    let text = String::from_utf8_lossy;
    ensure!(status.success(), "{name} failed ({status}):\n{}{}", text(stdout), text(stderr));
    Ok(text(stdout).into_owned())
}

/// A path as an argument inside another one.
pub(crate) fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}
