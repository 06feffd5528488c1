//! The way to the packet threads, for any thread or task: what is said is said to all, and answers are one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, TrySendError};
use gabion_datapath::Waker;
use gabion_engine::{Explanation, Generation, Probe, WorkerId};
use gabion_rules::RuleSet;
use tokio::sync::oneshot;

use super::company::Meeting;
use super::{COMMANDS_DEPTH, Command, Explained, FlowPage, LiveFlows, QUEUE_FULL_PAUSE, Snapshot};

/// Where flows of the next thread begin in the numbers of a list: no table has more.
const SLOTS: u32 = 1 << 24;

/// The packet threads have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the node is stopping")]
pub struct WorkerGone;

/// The way to the packet threads, for any thread or task.
#[derive(Debug, Clone)]
pub struct WorkerHandle {
    desks: Arc<[Desk]>,
    gate: Arc<AtomicBool>,
}

/// One thread's.
#[derive(Debug)]
struct Desk {
    commands: Sender<Command>,
    waker: Waker,
}

/// A thread's end of it.
#[derive(Debug)]
pub struct Inbox {
    pub(super) commands: Receiver<Command>,
    pub(super) gate: Arc<AtomicBool>,
}

impl WorkerHandle {
    /// The way to threads that these wake; the gate is closed.
    pub fn open(wakers: impl IntoIterator<Item = Waker>) -> (Self, Vec<Inbox>) {
        let gate = Arc::new(AtomicBool::new(false));
        let desk = |waker| {
            let (commands, receiver) = crossbeam_channel::bounded(COMMANDS_DEPTH);
            (Desk { commands, waker }, Inbox { commands: receiver, gate: Arc::clone(&gate) })
        };
        let (desks, inboxes): (Vec<_>, _) = wakers.into_iter().map(desk).unzip();
        (Self { desks: desks.into(), gate }, inboxes)
    }

    /// Lets packets pass, or none, from the next frame on.
    pub fn set_gate(&self, open: bool) {
        self.gate.store(open, Ordering::Release);
        self.desks.iter().for_each(|desk| desk.waker.wake());
    }

    /// Queues a command for each thread; waits while a queue is full.
    ///
    /// # Errors
    /// When a thread has ended.
    pub async fn send_all(&self, command: impl Fn() -> Command + Send) -> Result<(), WorkerGone> {
        for desk in &*self.desks {
            desk.send(command()).await?;
        }
        Ok(())
    }

    /// Puts a policy in force: no packet is decided by it while another thread decides one by the policy before.
    ///
    /// # Errors
    /// When a thread has ended.
    pub async fn set_rules(
        &self,
        generation: Generation,
        rules: Arc<RuleSet>,
        hash: u64,
    ) -> Result<LiveFlows, WorkerGone> {
        let meeting = Meeting::new(self.desks.len());
        let flows = self.ask_all(|done| Command::SetRules {
            generation,
            rules: Arc::clone(&rules),
            hash,
            meeting: meeting.clone(),
            done,
        });
        Ok(LiveFlows(flows.await?.into_iter().map(|LiveFlows(flows)| flows).sum()))
    }

    /// # Errors
    /// When a thread has ended.
    pub async fn explain(&self, probe: Probe) -> Result<(Generation, Explanation), WorkerGone> {
        let mut to = WorkerId(0);
        loop {
            let desk = self.desks.get(usize::from(to.0)).ok_or(WorkerGone)?;
            match desk.ask(|answer| Command::Explain { probe, to, answer }).await? {
                Explained::Here(generation, explanation) => return Ok((generation, explanation)),
                Explained::AskedOf(other) => to = other,
            }
        }
    }

    /// # Errors
    /// When a thread has ended.
    pub async fn snapshot(&self) -> Result<Snapshot, WorkerGone> {
        loop {
            let snapshots = self.ask_all(|answer| Command::Snapshot { answer }).await?;
            // A policy may have come between two of them; not for ever.
            if let Some(whole) = Snapshot::merge(snapshots) {
                return Ok(whole);
            }
        }
    }

    /// # Errors
    /// When a thread has ended.
    pub async fn flows(&self, from: u32, limit: u32) -> Result<FlowPage, WorkerGone> {
        let (worker, slot) = (from / SLOTS, from % SLOTS);
        let desk = self.desks.get(worker as usize).ok_or(WorkerGone)?;
        let page = desk.ask(|answer| Command::Flows { from: slot, limit, answer }).await?;
        let is_last = worker as usize + 1 == self.desks.len();
        let next = page.next.map(|slot| worker * SLOTS + slot);
        Ok(FlowPage { next: next.or((!is_last).then_some((worker + 1) * SLOTS)), ..page })
    }

    /// Has the node hand its flows over, or stop to.
    ///
    /// # Errors
    /// When a thread has ended.
    pub async fn set_draining(&self, draining: bool) -> Result<(), WorkerGone> {
        self.ask_all(|done| Command::SetDraining { draining, done }).await.map(|_| ())
    }

    /// Asks all at once, and waits for all.
    async fn ask_all<T>(
        &self,
        command: impl Fn(oneshot::Sender<T>) -> Command,
    ) -> Result<Vec<T>, WorkerGone> {
        let mut receivers = Vec::with_capacity(self.desks.len());
        for desk in &*self.desks {
            let (sender, receiver) = oneshot::channel();
            desk.send(command(sender)).await?;
            receivers.push(receiver);
        }
        let mut answers = Vec::with_capacity(receivers.len());
        for receiver in receivers {
            answers.push(receiver.await.map_err(|_| WorkerGone)?);
        }
        Ok(answers)
    }

    /// Ends the threads after their turns; does not wait.
    pub fn stop(&self) {
        for desk in &*self.desks {
            // A queue that is full is read every turn: try until there is room or nobody reads.
            while let Err(TrySendError::Full(_)) = desk.commands.try_send(Command::Stop) {
                std::thread::sleep(QUEUE_FULL_PAUSE);
            }
            desk.waker.wake();
        }
    }
}

impl Desk {
    async fn send(&self, mut command: Command) -> Result<(), WorkerGone> {
        loop {
            match self.commands.try_send(command) {
                Ok(()) => {
                    self.waker.wake();
                    return Ok(());
                }
                Err(TrySendError::Disconnected(_)) => return Err(WorkerGone),
                Err(TrySendError::Full(returned)) => {
                    command = returned;
                    tokio::time::sleep(QUEUE_FULL_PAUSE).await;
                }
            }
        }
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, WorkerGone> {
        let (sender, receiver) = oneshot::channel();
        self.send(command(sender)).await?;
        receiver.await.map_err(|_| WorkerGone)
    }
}
