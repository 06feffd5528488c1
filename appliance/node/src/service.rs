//! What the service manager is told: that the node has started, how it is, and that it turns.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;

use crate::readiness::Readiness;

/// Tells once that the start is done, then state and heartbeat, until cancelled.
///
/// The heartbeat is the packet thread's: when it stands still the service manager kills the process, and
/// the guard keeps the host's stack shut meanwhile.
pub async fn keep_told(readiness: Arc<Readiness>) {
    tell(&[NotifyState::Ready]);
    let feed_every = sd_notify::watchdog_enabled().map(|timeout| timeout / 3);
    let mut changes = readiness.changes();
    let mut last = String::new();
    loop {
        let status = status(&readiness);
        if status != last {
            tracing::info!("{status}");
            tell(&[NotifyState::Status(&status)]);
            last = status;
        }
        if feed_every.is_some() && readiness.worker_turns() {
            tell(&[NotifyState::Watchdog]);
        }
        let pause = feed_every.unwrap_or(Duration::from_secs(3600));
        let _ = tokio::time::timeout(pause, changes.next()).await;
    }
}

/// Tells that the stop has begun.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn status(readiness: &Readiness) -> String {
    let obstacles = readiness.obstacles();
    if obstacles.is_empty() {
        return "ready".to_owned();
    }
    let reasons: Vec<String> = obstacles
        .iter()
        .map(|obstacle| format!("{} ({})", obstacle.label(), obstacle.detail()))
        .collect();
    format!("not ready: {}", reasons.join(", "))
}

/// Without a service manager there is nobody to tell.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager was not told");
    }
}
