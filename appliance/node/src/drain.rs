//! Who has the node drain: an operator, a planned event, or both.
//!
//! A member of a cluster hands its flows over; a node that stands alone can only have probes sent elsewhere what is new. An operator
//! who ends a drain ends it whatever has asked for it; an event that ends ends its own only.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Mutex;

use crate::policy::Surroundings;
use crate::readiness::Readiness;
use crate::worker::{WorkerGone, WorkerHandle};

/// The way to drain the node.
#[derive(Debug)]
pub struct Drain {
    worker: WorkerHandle,
    readiness: Arc<Readiness>,
    is_member: bool,
    wanted: Mutex<Wanted>,
    drains: AtomicBool,
}

#[derive(Debug, Default)]
struct Wanted {
    by_operator: bool,
    by_event: bool,
}

impl Drain {
    /// Of a member of a cluster, or of a node that stands alone.
    pub fn new(around: &Surroundings, is_member: bool) -> Self {
        let (worker, readiness) = (around.worker.clone(), Arc::clone(&around.readiness));
        let (wanted, drains) = (Mutex::default(), AtomicBool::new(false));
        Self { worker, readiness, is_member, wanted, drains }
    }

    /// Whether anybody has it drain.
    pub fn drains(&self) -> bool {
        self.drains.load(Ordering::Acquire)
    }

    /// # Errors
    /// When the packet thread has ended.
    pub async fn for_operator(&self, draining: bool) -> Result<(), WorkerGone> {
        let mut wanted = self.wanted.lock().await;
        wanted.by_operator = draining;
        wanted.by_event &= draining;
        self.apply(&wanted).await
    }

    /// # Errors
    /// When the packet thread has ended.
    pub async fn for_event(&self, draining: bool) -> Result<(), WorkerGone> {
        let mut wanted = self.wanted.lock().await;
        wanted.by_event = draining;
        self.apply(&wanted).await
    }

    async fn apply(&self, wanted: &Wanted) -> Result<(), WorkerGone> {
        let drains = wanted.by_operator || wanted.by_event;
        if self.is_member {
            self.worker.set_draining(drains).await?;
        } else {
            self.readiness.withdraw(drains);
        }
        self.drains.store(drains, Ordering::Release);
        Ok(())
    }
}
