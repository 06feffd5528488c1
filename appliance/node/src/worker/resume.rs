//! When the datapath begins to move flows by itself, and what becomes of those that it has moved all along.

use std::sync::atomic::Ordering;
use std::time::Duration;

use gabion_datapath::Datapath;
use gabion_engine::{Generation, Resumed};

use super::{Turns, follow_gate};

/// How long after the start flows of before it are moved without having been judged.
const UNJUDGED: Duration = Duration::from_secs(30);

impl<D: Datapath> Turns<D> {
    /// Has the datapath move flows from the moment on at which they can be judged: rules and network are known, and the
    /// guard is in place. The first packet is decided after that. Flows that an earlier process has left go on
    /// meanwhile, but not for long. In a cluster they go on until others have said what they have: from then on each
    /// packet finds its flow's copy. What comes to the engine before that is decided as if no program was there.
    pub(super) fn resume_fast_path(&mut self) {
        let now = self.clock.now();
        let Some(table) = &mut self.fast_path else { return };
        let is_judge = self.generation != Generation(0) && self.network_known;
        if !is_judge || !self.gate.load(Ordering::Acquire) || !self.engine.has_joined() {
            if now.since(self.start) > UNJUDGED && table.stamp() != 0 {
                self.recorder.node("flows of before the start are not moved any more: nothing has come to judge them by");
                table.set_stamp(0);
            }
            return;
        }
        let Some(table) = self.fast_path.take() else { return };
        follow_gate(&self.gate, &mut self.open, &mut self.engine);
        let resumed = self.engine.resume_fast_path(now, table, || self.readiness.beat_of(self.me));
        // Nobody decides a packet before all have said which flows are theirs. In a cluster packets are decided by then, and
        // who waits is dead to others.
        if let Some(company) = self.company.as_ref().filter(|_| self.links.is_none()) {
            company.wait_for_all();
        }
        if resumed != Resumed::default() {
            self.recorder.node(format!(
                "{} flows that the kernel went on moving are taken over; {} are not permitted, or over, and end",
                resumed.kept, resumed.ended
            ));
        }
    }

    /// Whether nothing is to be decided before it is known what goes on from before.
    pub(super) fn waits_for_remains(&self) -> bool {
        self.fast_path.is_some() && self.links.is_none()
    }
}
