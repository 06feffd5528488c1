//! What befalls nodes, and how their shells find each other again.

use gabion_engine::Session;

use super::Company;
use super::company::Board;
use super::node::{Input, Node};
use super::schedule::{Fault, MILLISECOND, Mode, SECOND, Weather};
use super::world::{Event, World};
use crate::random::Random;

impl World {
    /// Nothing goes wrong any more.
    pub(super) fn end_faults(&mut self) {
        self.weather = Weather::FAIR;
        self.cut.iter_mut().for_each(|row| row.fill(false));
        for node in 0..self.schedule.nodes {
            for fault in
                [Fault::Start(node), Fault::Resume(node), Fault::Quick(node), Fault::Undrain(node)]
            {
                self.suffer(fault);
            }
        }
        self.suffer(Fault::Policy(0));
    }

    /// Two nodes try for a session, as their shells would over TCP.
    pub(super) fn meet(&mut self, one: usize, other: usize) {
        let again = self.now + 100 * MILLISECOND + self.random.below(20 * MILLISECOND);
        self.at(again, Event::Meet { one, other });
        let is_cut = self.is_cut(one, other) || self.is_cut(other, one);
        let is_beside = self.is_beside(one, other);
        if is_cut || !is_beside && self.random.happens(self.weather.loss) {
            return;
        }
        let (first, second) = (&self.nodes[one], &self.nodes[other]);
        if first.runs() && second.runs() {
            let number = |node: &Node, peer: usize| {
                node.sessions[peer].as_ref().map(|ends| (ends.number, ends.peer_incarnation))
            };
            let stands = match (number(first, other), number(second, one)) {
                (Some((a, seen)), Some((b, by))) => {
                    a == b && seen == second.incarnation && by == first.incarnation
                }
                (None, _) | (_, None) => false,
            };
            if !stands {
                self.agree(one, other);
            }
            return;
        }
        for (here, there) in [(one, other), (other, one)] {
            let refuses = self.nodes[there].is_on && self.nodes[there].engine.is_none();
            // Where balancers steer anew nobody asks: what would be reset is saved.
            let is_gone = !self.nodes[there].is_on && self.schedule.mode == Mode::Pin;
            if (refuses || is_gone) && self.nodes[here].runs() {
                let input = Input::Lost { peer: there, is_gone };
                self.at(self.now, Event::ToNode { node: here, input });
            }
        }
    }

    pub(super) fn agree(&mut self, one: usize, other: usize) {
        let incarnations = [self.nodes[one].incarnation, self.nodes[other].incarnation];
        let last = self.agreed.get(&(one, other)).copied();
        // What was agreed on a moment ago is still on its way.
        if let Some((at, who, _)) = last
            && who == incarnations
            && at + SECOND > self.now
        {
            return;
        }
        let epoch = last
            .filter(|(_, who, _)| *who == incarnations)
            .map_or(0, |(_, _, epoch)| epoch.wrapping_add(1));
        self.agreed.insert((one, other), (self.now, incarnations, epoch));
        self.sessions += 1;
        let (number, keys) = (self.sessions, [self.random.key(), self.random.key()]);
        for (here, there, send, receive) in
            [(one, other, keys[0], keys[1]), (other, one, keys[1], keys[0])]
        {
            let incarnation = self.nodes[there].incarnation;
            // No packet is handed over by the kernel to whoever has the same.
            let unwraps = self.nodes[there].fast.is_some() && !self.is_beside(one, other);
            let session = Session::Up { incarnation, epoch, send, receive, unwraps };
            let late = self.random.below(5 * MILLISECOND)
                + self.random.exponential(self.weather.delay + 1);
            let input = Input::Up { peer: there, number, session };
            self.at(self.now + late, Event::ToNode { node: here, input });
        }
    }

    pub(super) fn suffer(&mut self, fault: Fault) {
        self.tell(|| format!("{fault:?}"));
        match fault {
            Fault::Kill(node) => {
                self.watch.dies(self.now, node);
                self.workers_of(node).for_each(|worker| self.kill(worker));
            }
            Fault::PowerOff(node) => {
                self.watch.dies(self.now, node);
                self.watch.goes(self.now, node);
                self.workers_of(node).for_each(|worker| self.nodes[worker].stop(false));
            }
            Fault::Start(node) => self.start(node),
            Fault::Pause(node) => {
                self.watch.fails(self.now, node);
                self.workers_of(node).for_each(|worker| self.nodes[worker].is_paused = true);
            }
            Fault::Hang { node, worker } => {
                self.watch.fails(self.now, node);
                let worker = self.workers_of(node).start + worker;
                self.nodes[worker].is_paused = true;
            }
            Fault::Resume(node) => {
                self.workers_of(node).for_each(|worker| self.resume(node, worker))
            }
            Fault::Cut { from, to } => self.cut[from][to] = true,
            Fault::Mend { from, to } => self.cut[from][to] = false,
            Fault::Flap { from, to, until } => self.at(self.now, Event::Flap { from, to, until }),
            Fault::Slow(node) => self.slow(node, true),
            Fault::Quick(node) => self.slow(node, false),
            Fault::Weather(which) => self.weather = self.schedule.weathers[which],
            Fault::Policy(number) => {
                for node in 0..self.schedule.nodes {
                    let at = self.now + self.random.below(300 * MILLISECOND);
                    for node in self.workers_of(node) {
                        self.at(at, Event::ToNode { node, input: Input::Policy(number) });
                    }
                }
                self.watch.policies.push((self.now, number));
            }
            Fault::Drain(node) => {
                for node in self.workers_of(node) {
                    self.nodes[node].is_draining |= self.nodes[node].engine.is_some();
                    self.at(self.now, Event::ToNode { node, input: Input::Draining(true) });
                }
            }
            Fault::Undrain(node) => {
                for node in self.workers_of(node) {
                    if self.nodes[node].is_draining {
                        // Behind what has waited for a node that stood still.
                        let at = self.now + 5 * MILLISECOND;
                        self.at(at, Event::ToNode { node, input: Input::Draining(false) });
                    }
                }
            }
            Fault::Rekey => self.rekey(),
        }
    }

    fn kill(&mut self, node: usize) {
        if self.nodes[node].engine.is_none() {
            return;
        }
        self.nodes[node].stop(true);
        for peer in 0..self.nodes.len() {
            if !self.is_beside(peer, node) && !self.is_cut(node, peer) {
                let at = self.now + self.random.below(5 * MILLISECOND);
                let input = Input::Lost { peer: node, is_gone: false };
                self.at(at, Event::ToNode { node: peer, input });
            }
        }
    }

    fn start(&mut self, machine: usize) {
        let workers = self.workers_of(machine);
        if self.nodes[workers.start].engine.is_some() {
            return;
        }
        self.boards[machine] = Board::default();
        for node in workers {
            let mut random = Random::new(self.random.next());
            self.nodes[node].start(self.now, Company::Peers, &self.boards[machine], &mut random);
            self.nodes[node].wakes_at = self.now;
            self.at(self.now, Event::NodeWakes(node));
        }
    }

    fn slow(&mut self, machine: usize, is_slow: bool) {
        self.workers_of(machine).for_each(|worker| self.nodes[worker].is_slow = is_slow);
    }

    fn rekey(&mut self) {
        for one in 0..self.nodes.len() {
            for other in one + 1..self.nodes.len() {
                if self.nodes[one].runs()
                    && self.nodes[other].runs()
                    && !self.is_cut(one, other)
                    && !self.is_cut(other, one)
                {
                    self.agree(one, other);
                }
            }
        }
    }

    /// What has waited comes at once, and the clock has gone on.
    pub(super) fn resume(&mut self, machine: usize, node: usize) {
        if !self.nodes[node].is_paused {
            return;
        }
        self.watch.fails(self.now, machine);
        self.nodes[node].is_paused = false;
        let waiting = std::mem::take(&mut self.nodes[node].waiting);
        let timer_first = self.random.is_one_in(2);
        if timer_first {
            self.at(self.now, Event::ToNode { node, input: Input::Timer });
        }
        for (place, input) in waiting.into_iter().enumerate() {
            self.at(self.now + place as u64 * 2_000, Event::ToNode { node, input });
        }
        if !timer_first {
            self.at(self.now + MILLISECOND, Event::ToNode { node, input: Input::Timer });
        }
    }
}
