//! Ctrl-C and SIGTERM: the labs of this process are removed before it ends.

use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use anyhow::{Context as _, Result};
use tokio::signal::unix::{SignalKind, signal};

use super::registry::Record;

/// Exit status of a program that a signal ended, as shells count it: 128 + SIGINT.
const INTERRUPTED: i32 = 130;

static LABS: Mutex<Vec<Record>> = Mutex::new(Vec::new());
static BUILDING: Mutex<()> = Mutex::new(());
static WATCHER: Once = Once::new();

/// Makes a signal wait while a lab is half built, so that nothing is made behind the cleaner's back.
pub(crate) fn hold() -> MutexGuard<'static, ()> {
    BUILDING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has `record` torn down when a signal comes.
///
/// # Errors
/// If signals cannot be watched.
pub(crate) fn on_signal(record: &Record) -> Result<()> {
    LABS.lock().unwrap_or_else(PoisonError::into_inner).push(record.clone());
    let mut started = Ok(());
    WATCHER.call_once(|| started = watch());
    started
}

/// The lab is gone.
pub(crate) fn forget(record: &Record) {
    let mut labs = LABS.lock().unwrap_or_else(PoisonError::into_inner);
    labs.retain(|lab| lab.name != record.name);
}

fn watch() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the signal watcher")?;
    let (mut interrupt, mut terminate) = {
        let _guard = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        eprintln!("\nInterrupted: removing the lab.");
        // Both locks are held until the process ends: no lab may be made meanwhile.
        let _building = hold();
        let labs = LABS.lock().unwrap_or_else(PoisonError::into_inner);
        for lab in labs.iter() {
            if let Err(error) = lab.tear_down() {
                eprintln!("{error:#}. Try again: gabion lab down {}", lab.name);
            }
        }
        std::process::exit(INTERRUPTED);
    });
    Ok(())
}
