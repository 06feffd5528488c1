//! Frames that came together. What becomes of each is what would if they came one by one; but their
//! flows are looked for together, so that the processor waits for memory once and not for each.

use crate::flows::Guess;
use crate::packet::{Packet, Parsed};
use crate::{DropReason, Engine, Frame, InterfaceId, Time, Verdict};

/// Frames that are looked up together: as many lines as a processor can wait for at once, and few
/// enough that they are still in its first cache when their turn comes.
pub const BATCH: usize = 32;

impl Engine {
    /// Decides frames in their order, as [`Engine::handle_frame`] does each, and appends a verdict for
    /// each.
    pub fn handle_frames(
        &mut self,
        now: Time,
        frames: &mut [(InterfaceId, Frame<'_>)],
        verdicts: &mut Vec<Verdict>,
    ) {
        for batch in frames.chunks_mut(BATCH) {
            // Nothing to wait for together.
            if let [(from, frame)] = batch {
                verdicts.push(self.handle_frame(now, *from, frame));
                continue;
            }
            let mut parsed = [Err(DropReason::NotReady); BATCH];
            for (parsed, (_, frame)) in parsed.iter_mut().zip(&*batch) {
                *parsed = Packet::parse(frame);
            }
            self.warm(&parsed[..batch.len()]);
            for (parsed, (from, frame)) in parsed.into_iter().zip(batch) {
                verdicts.push(self.handle_parsed(now, *from, frame, parsed));
            }
        }
    }

    /// Loads the flows of these packets into the cache.
    fn warm(&self, parsed: &[Result<Parsed, DropReason>]) {
        let mut hashes = [0; BATCH];
        let mut count = 0;
        for packet in parsed {
            if let Ok(Parsed::Ip(packet)) = packet
                && let Some(key) = packet.key()
            {
                hashes[count] = self.flows.hash(&key);
                count += 1;
            }
        }
        let mut guesses = [Guess::default(); BATCH];
        let guesses = &mut guesses[..count];
        self.flows.guess(&hashes[..count], guesses);
        self.flows.load(guesses);
    }
}
