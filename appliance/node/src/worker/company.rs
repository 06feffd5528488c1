//! Several packet threads: whose flows are, the queues between them, and where they wait for each other.

use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use gabion_datapath::ebpf::{ClaimKeysError, ShardTable};
use gabion_datapath::{Datapath, Port, Waker};
use gabion_engine::{
    Address, FlowKey, Frame, InterfaceId, NotClaimed, Offload, Shards, Time, Verdict, WorkerId,
};

use super::Turns;
use crate::fast_path::wire_key;
use crate::offload;

/// Frames that wait for a thread; one that finds the queue full is dropped as `worker-queue-full`. Each is copied, so this
/// many superframes are 64 MiB.
const HANDED_DEPTH: usize = 1_024;
const HANDED_PER_TURN: usize = 256;

/// How long a thread waits for the others at most: one that stands still is reported otherwise.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where all threads wait until all are there.
#[derive(Debug, Clone)]
pub struct Meeting(Arc<Places>);

#[derive(Debug)]
struct Places {
    awaited: Mutex<usize>,
    all_there: Condvar,
}

impl Meeting {
    pub fn new(threads: usize) -> Self {
        Self(Arc::new(Places { awaited: Mutex::new(threads), all_there: Condvar::new() }))
    }

    /// Returns when all threads have come, or the last is long in coming.
    pub(super) fn wait(&self) {
        let mut awaited = self.0.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        *awaited = awaited.saturating_sub(1);
        if *awaited == 0 {
            self.0.all_there.notify_all();
            return;
        }
        let is_awaited = |awaited: &mut usize| *awaited > 0;
        let waited = self.0.all_there.wait_timeout_while(awaited, PATIENCE, is_awaited);
        if waited.is_ok_and(|(_, timeout)| timeout.timed_out()) {
            tracing::warn!("a packet thread has not come to a change that concerns all");
        }
    }
}

/// A frame as it came in at another thread's door.
#[derive(Debug)]
struct Handed {
    from: InterfaceId,
    bytes: Vec<u8>,
    offload: Offload,
}

/// One thread's place among those of its node.
#[derive(Debug)]
pub struct Company {
    me: WorkerId,
    shards: ShardTable,
    ways: Arc<[Way]>,
    handed: Receiver<Handed>,
    /// Where all wait before the first packet is decided: each may have flows of an earlier process.
    start: Meeting,
    challenge_key: [u8; 16],
}

/// To one thread.
#[derive(Debug)]
struct Way {
    queue: Sender<Handed>,
    waker: Waker,
    /// Whether it has been woken since it last looked.
    is_told: AtomicBool,
}

impl Company {
    /// For so many threads as there are wakers, in their order. Nobody else knows what challenges are made of.
    pub fn of(
        shards: &ShardTable,
        wakers: impl IntoIterator<Item = Waker>,
        challenge_key: [u8; 16],
    ) -> Vec<Self> {
        let way = |waker| {
            let (queue, handed) = crossbeam_channel::bounded(HANDED_DEPTH);
            (Way { queue, waker, is_told: AtomicBool::new(false) }, handed)
        };
        let (ways, handed): (Vec<_>, Vec<_>) = wakers.into_iter().map(way).unzip();
        let (ways, start): (Arc<[Way]>, _) = (ways.into(), Meeting::new(handed.len()));
        let place = |(me, handed)| Self {
            me: WorkerId(me),
            shards: shards.clone(),
            ways: Arc::clone(&ways),
            handed,
            start: start.clone(),
            challenge_key,
        };
        (0..).zip(handed).map(place).collect()
    }

    /// The thread's number.
    pub const fn me(&self) -> WorkerId {
        self.me
    }

    /// What the thread's engine asks.
    pub(super) fn shards(&self) -> Box<dyn Shards> {
        Box::new(SharedShards {
            me: self.me,
            table: self.shards.clone(),
            ways: Arc::clone(&self.ways),
            challenge_key: self.challenge_key,
        })
    }

    pub(super) fn wait_for_all(&self) {
        self.start.wait();
    }
}

#[derive(Debug)]
struct SharedShards {
    me: WorkerId,
    table: ShardTable,
    ways: Arc<[Way]>,
    challenge_key: [u8; 16],
}

impl Shards for SharedShards {
    fn me(&self) -> WorkerId {
        self.me
    }

    fn workers(&self) -> u16 {
        self.table.workers()
    }

    fn challenge_key(&self) -> [u8; 16] {
        self.challenge_key
    }

    fn claim(&mut self, keys: [&FlowKey; 2]) -> Result<(), NotClaimed> {
        let [first, second] = keys.map(|key| wire_key(*key));
        self.table.claim([&first, &second], self.me.0).map_err(|refused| match refused {
            ClaimKeysError::Taken => NotClaimed::Taken,
            ClaimKeysError::NoRoom => NotClaimed::NoRoom,
        })
    }

    fn release(&mut self, keys: [&FlowKey; 2]) {
        let [first, second] = keys.map(|key| wire_key(*key));
        self.table.release([&first, &second], self.me.0);
    }

    fn find(&self, key: &FlowKey) -> Option<WorkerId> {
        self.table.find(&wire_key(*key)).map(WorkerId)
    }

    fn choose(&self, source: Address) -> WorkerId {
        WorkerId(self.table.choose(source.to_ip()))
    }

    fn hand_over(&mut self, to: WorkerId, from: InterfaceId, frame: &Frame<'_>) -> bool {
        let Some(way) = self.ways.get(usize::from(to.0)) else { return false };
        if way.queue.is_full() {
            return false;
        }
        let handed = Handed { from, bytes: frame.bytes.to_vec(), offload: frame.offload };
        let is_queued = way.queue.try_send(handed).is_ok();
        // Either the flag is seen to be down here, or the frame there.
        fence(Ordering::SeqCst);
        if is_queued && !way.is_told.swap(true, Ordering::SeqCst) {
            way.waker.wake();
        }
        is_queued
    }
}

impl<D: Datapath> Turns<D> {
    /// Decides what other threads have handed over.
    pub(super) fn take_handed(&mut self, now: Time) {
        let Self { company: Some(company), engine, datapath, .. } = self else { return };
        // Before it looks: who comes later wakes it again.
        company.ways[usize::from(company.me.0)].is_told.store(false, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        for Handed { from, mut bytes, offload } in company.handed.try_iter().take(HANDED_PER_TURN) {
            let mut frame = Frame { bytes: &mut bytes, offload };
            if let Verdict::Forward { out } = engine.handle_from_worker(now, from, &mut frame) {
                datapath.transmit(Port(out.0), &bytes, offload::to_vnet(offload));
            }
        }
        self.busy |= !company.handed.is_empty();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_to_a_meeting_waits_for_the_last() {
        let (meeting, is_last_there) = (Meeting::new(3), AtomicBool::new(false));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    meeting.wait();
                    assert!(is_last_there.load(Ordering::SeqCst));
                });
            }
            is_last_there.store(true, Ordering::SeqCst);
            meeting.wait();
        });
    }

    #[test]
    fn a_meeting_of_one_is_no_meeting() {
        Meeting::new(1).wait();
    }
}
