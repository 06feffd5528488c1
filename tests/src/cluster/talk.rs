//! What clients and servers send and get.

use std::net::SocketAddr;

use gabion_engine::{FlowKey, build};

use super::conversation::{Endpoints, Path, Transport};
use super::invariants::is_pool;
use super::programs;
use super::schedule::{MILLISECOND, SETTLED, Severity};
use super::world::{Event, STRANGERS, World, client_port};
use crate::walk::{Kind as Seen, read_packet};

impl World {
    pub(super) fn endpoints(&self, number: usize) -> Endpoints {
        self.schedule.plans[number].kind.endpoints(client_port(number))
    }

    /// The side of a conversation's client.
    pub(super) fn side_of(&self, number: usize) -> usize {
        usize::from(self.schedule.plans[number].kind.path == Path::Outbound)
    }

    pub(super) fn begin(&mut self, number: usize) -> Result<(), String> {
        let (side, endpoints) = (self.side_of(number), self.endpoints(number));
        self.tell(|| format!("conversation {number} begins: {endpoints:?}"));
        match self.schedule.plans[number].kind.transport {
            Transport::Tcp => {
                self.hosts[side].connect(number, endpoints.client.port(), endpoints.called);
                self.run_host(side)
            }
            Transport::Udp | Transport::Echo => {
                self.ask(number);
                Ok(())
            }
        }
    }

    pub(super) fn ask(&mut self, number: usize) {
        let plan = self.schedule.plans[number].clone();
        let (side, endpoints) = (self.side_of(number), self.endpoints(number));
        let course = &mut self.courses[number];
        let question = course.asked;
        course.asked += 1;
        let (from, to) = (endpoints.client, endpoints.called);
        let frame = programs::frame(plan.kind.transport, from, to, number, question, false);
        let is_last = course.asked as usize >= plan.bytes[0];
        self.send(side, frame);
        if !is_last {
            self.at(self.now + plan.gap, Event::Ask(number));
        }
    }

    /// From a host towards the nodes.
    pub(super) fn send(&mut self, side: usize, frame: Vec<u8>) {
        let delay = MILLISECOND / 5 + self.random.below(MILLISECOND);
        self.at(self.now + delay, Event::ToBalancer { side, frame });
    }

    pub(super) fn run_host(&mut self, side: usize) -> Result<(), String> {
        let host = &mut self.hosts[side];
        host.run(self.now, &self.schedule.plans, &mut self.courses)?;
        let sent: Vec<Vec<u8>> = self.hosts[side].link.sent.drain(..).collect();
        for frame in sent {
            self.send(side, frame);
        }
        if let Some(next) = self.hosts[side].next(self.now) {
            let next = next.max(self.now + 10_000);
            if next < self.hosts_wake[side] {
                self.hosts_wake[side] = next;
                self.at(next, Event::HostWakes(side));
            }
        }
        Ok(())
    }

    pub(super) fn arrive(&mut self, side: usize, frame: Vec<u8>) -> Result<(), String> {
        let Some(seen) = read_packet(&frame[14..]) else { return Ok(()) };
        match (seen.key.protocol, seen.kind) {
            (6, _) => {
                self.hosts[side].receive(frame);
                self.run_host(side)
            }
            (17, _) => self.hear(side, &frame, Transport::Udp, seen.key),
            (1 | 58, Seen::Query) => self.hear(side, &frame, Transport::Echo, seen.key),
            _ => Ok(()),
        }
    }

    pub(super) fn hear(
        &mut self,
        side: usize,
        frame: &[u8],
        transport: Transport,
        key: FlowKey,
    ) -> Result<(), String> {
        let is_v6 = frame[12..14] == [0x86, 0xdd];
        let payload = &frame[14 + if is_v6 { 40 } else { 20 } + 8..];
        let is_reply = match transport {
            Transport::Echo => matches!(frame[14 + if is_v6 { 40 } else { 20 }], 0 | 129),
            // A translated client's port may be any.
            Transport::Udp | Transport::Tcp => !matches!(key.destination.port, 53 | 5_353),
        };
        let read = programs::read(transport, payload, is_reply && transport != Transport::Echo);
        let (number, question) = match read {
            // Nobody has told the node in time whose answer it was, and its rules let it out: the client
            // does not know who that is.
            Err(_) if is_pool(key.source.address.to_ip()) && self.may_err() => return Ok(()),
            Err(what) => {
                let (from, to) = (key.source, key.destination);
                return Err(format!("S1: {what} comes from {from:?} to {to:?}"));
            }
            Ok(read) => read,
        };
        let Some(plan) = self.schedule.plans.get(number) else {
            return Err(format!("S1: a stranger's datagram arrives: {key:?}"));
        };
        let (kind, endpoints) = (plan.kind, self.endpoints(number));
        let from = SocketAddr::new(key.source.address.to_ip(), key.source.port);
        let to = SocketAddr::new(key.destination.address.to_ip(), key.destination.port);
        if is_reply {
            let (called, client) = programs::answer_of(&endpoints);
            if is_pool(from.ip()) && self.may_err() {
                return Ok(());
            }
            if to.ip() != client.ip() || from.ip() != called.ip() || side != self.side_of(number) {
                return Err(format!("conversation {number}: an answer from {from} to {to}"));
            }
            let course = &mut self.courses[number];
            course.answered += 1;
            course.last = self.now;
            return Ok(());
        }
        if kind.path != Path::Outbound && from != endpoints.client {
            return Err(format!("conversation {number}: a question from {from}"));
        }
        let answer = match transport {
            // The identifier stays as it came.
            Transport::Echo => {
                programs::frame(transport, endpoints.server, from, number, question, true)
            }
            Transport::Udp | Transport::Tcp => {
                programs::frame(transport, to, from, number, question, true)
            }
        };
        self.send(side, answer);
        Ok(())
    }

    /// Whether silence between nodes may have led one of them astray: who dies, or is cut off, takes what he has not
    /// said yet with him, and rules decide about answers that are questions to others.
    pub(super) fn may_err(&self) -> bool {
        self.schedule.severity != Severity::Calm && self.now < SETTLED
    }

    /// A packet of nobody: it may not reach anybody.
    pub(super) fn stray(&mut self) {
        let next = self.now + self.random.between(50, 500) * MILLISECOND;
        self.at(next, Event::Stray);
        let port = STRANGERS + self.random.below(1_000) as u16;
        let from = format!("198.51.100.{}:{port}", self.random.between(20, 99));
        let known = client_port(self.random.below(self.courses.len() as u64) as usize);
        let inside = format!("10.1.0.10:{}", self.random.pick(&[443, 53, 22, 8_443]));
        let pool = format!(
            "192.0.2.{}:{}",
            self.random.between(16, 18),
            self.random.between(1_024, 65_000)
        );
        let random = self.random.next() as u32;
        let frame = match self.random.below(6) {
            0 => build::tcp().from(&from).to(&inside).ack(random).seq(7).payload(b"stray").frame(),
            1 => build::tcp().from(&from).to("10.1.0.10:22").syn().seq(random).frame(),
            2 => build::tcp().from(&from).to(&pool).syn().ack(random).frame(),
            3 => build::udp().from(&from).to(&pool).payload(b"stray").frame(),
            4 => build::udp().from(&from).to("10.1.0.10:514").payload(b"stray").frame(),
            // Blindly, into a connection that may be there.
            _ => {
                let from = format!("198.51.100.9:{known}");
                build::tcp().from(&from).to("10.1.0.10:443").rst().seq(random).frame()
            }
        };
        self.send(0, frame);
    }
}
