//! The workers of one machine: the directory of keys that they share, and the queues between them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use gabion_engine::{Address, FlowKey, Frame, InterfaceId, NotClaimed, Shards, WorkerId};

/// Frames that wait for the other workers of a machine.
const ROOM: usize = 256;

/// What the workers of a machine share.
#[derive(Debug, Clone, Default)]
pub(super) struct Board(Arc<Mutex<Written>>);

#[derive(Debug, Default)]
struct Written {
    keys: BTreeMap<FlowKey, WorkerId>,
    handed: VecDeque<(WorkerId, InterfaceId, Vec<u8>)>,
}

/// One worker's place at it.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) me: WorkerId,
    pub(super) workers: u16,
    pub(super) board: Board,
}

impl Board {
    /// What one worker has handed to another.
    pub(super) fn take_handed(&self) -> Option<(WorkerId, InterfaceId, Vec<u8>)> {
        self.written().handed.pop_front()
    }

    fn written(&self) -> std::sync::MutexGuard<'_, Written> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shards for Place {
    fn me(&self) -> WorkerId {
        self.me
    }

    fn workers(&self) -> u16 {
        self.workers
    }

    fn challenge_key(&self) -> [u8; 16] {
        [3; 16]
    }

    fn claim(&mut self, keys: [&FlowKey; 2]) -> Result<(), NotClaimed> {
        let mut written = self.board.written();
        if keys.iter().any(|key| written.keys.contains_key(key)) {
            return Err(NotClaimed::Taken);
        }
        written.keys.extend(keys.map(|key| (*key, self.me)));
        Ok(())
    }

    fn release(&mut self, keys: [&FlowKey; 2]) {
        let mut written = self.board.written();
        for key in keys {
            assert_eq!(written.keys.remove(key), Some(self.me), "{key:?}");
        }
    }

    fn find(&self, key: &FlowKey) -> Option<WorkerId> {
        self.board.written().keys.get(key).copied()
    }

    fn choose(&self, source: Address) -> WorkerId {
        let sum: u32 = source.octets().iter().map(|octet| u32::from(*octet)).sum();
        WorkerId((sum % u32::from(self.workers)) as u16)
    }

    fn hand_over(&mut self, to: WorkerId, from: InterfaceId, frame: &Frame<'_>) -> bool {
        assert_ne!(to, self.me, "nobody hands to himself");
        let mut written = self.board.written();
        let has_room = written.handed.len() < ROOM;
        if has_room {
            written.handed.push_back((to, from, frame.bytes.to_vec()));
        }
        has_room
    }
}
