//! What must hold, S1 to S10 of the simulator's contract; docs/cluster.md, section 10.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use gabion_engine::{FlowKey, FlowState, InterfaceId, Offload, TcpState};

use crate::walk::{Kind as Seen, read_packet};
use crate::words;

use super::conversation::{Course, Path, Plan, SLOW, Transport};
use super::node::Node;
use super::policy::{EXT, INT};
use super::schedule::{END, Mode, SECOND, SETTLED, Schedule, Severity};
use super::world::{STRANGERS, client_port};

/// A connection is replicated when it is older than this, and its backup has heard of it.
const REPLICATED: u64 = 5 * SECOND / 2;

/// Of a connection that is there and does not go on.
pub(super) const HANGS: &str = "S5: a connection hangs";

/// What has been seen so far.
#[derive(Debug)]
pub(super) struct Watch {
    /// When which node stopped to do its work, or went on to.
    failures: Vec<(u64, usize)>,
    /// When which process took with it what it knew.
    died: Vec<(u64, usize)>,
    /// When which machine went.
    powered_off: Vec<(u64, usize)>,
    pub(super) policies: Vec<(u64, usize)>,
    /// By conversation: the nodes to which its packets were steered, and when.
    steered: BTreeMap<usize, Vec<(u64, usize)>>,
    /// TCP conversations that no node knows any more.
    gone: Vec<bool>,
    nodes: usize,
}

impl Watch {
    pub(super) fn new(nodes: usize, conversations: usize) -> Self {
        Self {
            failures: Vec::new(),
            died: Vec::new(),
            powered_off: Vec::new(),
            policies: Vec::new(),
            steered: BTreeMap::new(),
            gone: vec![false; conversations],
            nodes,
        }
    }

    pub(super) fn fails(&mut self, now: u64, node: usize) {
        self.failures.push((now, node));
    }

    pub(super) fn dies(&mut self, now: u64, node: usize) {
        self.died.push((now, node));
        self.fails(now, node);
    }

    pub(super) fn goes(&mut self, now: u64, node: usize) {
        self.powered_off.push((now, node));
    }

    pub(super) fn steered(&mut self, now: u64, node: usize, key: &FlowKey) {
        let ports = [key.source.port, key.destination.port];
        let number = ports.iter().find_map(|port| {
            (client_port(0)..STRANGERS).contains(port).then(|| usize::from(port - client_port(0)))
        });
        if let Some(number) = number {
            let list = self.steered.entry(number).or_default();
            if list.last().is_none_or(|(_, last)| *last != node) {
                list.push((now, node));
            }
        }
    }

    /// After every step of a node.
    pub(super) fn step(&self, node: &Node) -> Result<(), String> {
        let Some(engine) = &node.engine else { return Ok(()) };
        let counters = engine.counters();
        let (seen, said) = (counters.frames_in, counters.decided() + counters.held);
        if seen != said {
            return Err(format!(
                "node {}: {seen} frames came, {said} were decided or are held",
                node.id()
            ));
        }
        Ok(())
    }

    /// S1: what leaves a node is what its rules permit, by a conversation that is.
    pub(super) fn leaves(
        &self,
        node: &Node,
        out: InterfaceId,
        frame: &[u8],
        plans: &[Plan],
    ) -> Result<(), String> {
        words::describe(frame, Offload::default());
        let Some(seen) = read_packet(&frame[14..]) else { return Ok(()) };
        if matches!(seen.kind, Seen::Error { .. }) {
            return Ok(());
        }
        let (from, to) = (endpoint(seen.key.source), endpoint(seen.key.destination));
        let told = || {
            format!(
                "S1: node {} lets through: {}",
                node.id(),
                words::describe(frame, Offload::default())
            )
        };
        let is_reset = matches!(seen.kind, Seen::Tcp { .. })
            && frame
                .get(14 + if from.is_ipv6() { 40 } else { 20 } + 13)
                .is_some_and(|flags| flags & 4 != 0);
        let of = |port: u16| {
            (client_port(0)..STRANGERS).contains(&port).then(|| usize::from(port - client_port(0)))
        };
        // Outbound packets have another port outside; they are known by where they go.
        let (number, outward) = match out {
            INT => (of(from.port()).or(of(to.port())), false),
            _ => (of(to.port()), true),
        };
        if outward && is_pool(from.ip()) {
            return if matches!(to.ip().to_string().as_str(), "198.51.100.9" | "2600:9::9") {
                Ok(())
            } else {
                Err(told())
            };
        }
        let Some(plan) = number.and_then(|number| plans.get(number)) else { return Err(told()) };
        let ends = plan.kind.endpoints(client_port(number.unwrap_or_default()));
        let same = |a: SocketAddr, b: SocketAddr| {
            a.ip() == b.ip() && (plan.kind.transport == Transport::Echo || a.port() == b.port())
        };
        let fits = match (out, plan.kind.path) {
            (EXT, Path::Outbound) => false,
            (EXT, _) => same(from, ends.called) && same(to, ends.client),
            (_, Path::Outbound) => same(from, ends.server) && same(to, ends.client),
            (_, _) => same(from, ends.client) && same(to, ends.server),
        };
        if !fits {
            return Err(told());
        }
        if plan.kind.path == Path::Barred && node.policy == 1 && !is_reset {
            return Err(format!("{}, which its rules forbid", told()));
        }
        Ok(())
    }

    /// S2 and S3, and the bounds, of all tables.
    pub(super) fn look(
        &mut self,
        now: u64,
        nodes: &[Node],
        plans: &[Plan],
        courses: &[Course],
    ) -> Result<(), String> {
        let mut ports: BTreeMap<(u8, IpAddr, u16), (SocketAddr, usize)> = BTreeMap::new();
        let mut known = vec![false; plans.len()];
        for node in nodes {
            let Some(engine) = &node.engine else { continue };
            for table in engine.table_use() {
                if table.used > table.limit {
                    return Err(format!("S6: node {}: {table:?}", node.id()));
                }
            }
            for flow in engine.flows(0, u32::MAX).0 {
                let (inside, outside) =
                    (endpoint(flow.original.source), endpoint(flow.reply.destination));
                if let Some(number) = inside.port().checked_sub(client_port(0)).map(usize::from)
                    && number < plans.len()
                    && flow.original.protocol == 6
                    // A first packet may be late, and makes a flow that nothing follows.
                    && flow.state == FlowState::Tcp(TcpState::Established)
                {
                    known[number] = true;
                }
                if inside.ip() == outside.ip() {
                    continue;
                }
                let key = (flow.original.protocol, outside.ip(), outside.port());
                let (other, at) = *ports.entry(key).or_insert((inside, node.index));
                if other != inside {
                    return Err(format!(
                        "S2: {outside} is {other}'s at node {} and {inside}'s at node {}",
                        at + 1,
                        node.id()
                    ));
                }
            }
        }
        for (number, known) in known.into_iter().enumerate() {
            let is_tcp = plans[number].kind.transport == Transport::Tcp;
            if is_tcp && self.gone[number] && known {
                return Err(format!("S3: conversation {number} had ended and is back"));
            }
            let [client, server] = courses[number].closed;
            let ended =
                client.zip(server).is_some_and(|(one, other)| one.max(other) + SECOND < now);
            self.gone[number] |= is_tcp && ended && !known;
        }
        Ok(())
    }

    /// S5, and S4 of what came after the faults: what became of a conversation, and whether it may have.
    pub(super) fn fate(
        &self,
        number: usize,
        plan: &Plan,
        course: &Course,
        schedule: &Schedule,
    ) -> Result<(), &'static str> {
        let must_live = plan.is_final() || self.must_live(number, plan, course, schedule);
        if !must_live {
            return Ok(());
        }
        if plan.kind.transport != Transport::Tcp {
            let is_whole = plan.is_final() || schedule.severity == Severity::Calm;
            let lossless = schedule.weathers[0].is_fair();
            if (plan.is_final() || is_whole && lossless) && course.answered < course.asked {
                return Err("S4: questions remain without an answer");
            }
            if course.answered == 0 {
                return Err("S5: no question was answered");
            }
            return Ok(());
        }
        if course.failed.is_some() {
            return Err(if plan.is_final() {
                "S4: a connection fails although all is well"
            } else {
                "S5: a connection is lost"
            });
        }
        let is_calm = plan.is_final() || schedule.severity == Severity::Calm;
        match course.connected {
            None => return Err("S5: a connection is not made"),
            Some(at) if is_calm && at > plan.starts + SLOW => {
                return Err("S5: a connection is slow to be made");
            }
            Some(_) => {}
        }
        // One that stood still for a while may be late.
        let goes_on = course.last + SECOND >= END;
        if course.done.iter().any(Option::is_none) && !goes_on {
            return Err(HANGS);
        }
        Ok(())
    }

    /// Whether nothing has befallen the nodes that would excuse the loss of a conversation.
    fn must_live(&self, number: usize, plan: &Plan, course: &Course, schedule: &Schedule) -> bool {
        let [client, server] = course.done;
        let ended = client.zip(server).map_or(SETTLED, |(one, other)| one.max(other));
        let is_during = |(at, _): &&(u64, usize)| *at + SECOND >= plan.starts && *at <= ended;
        if schedule.severity == Severity::Harsh {
            // Whoever dies behind a cut, or before his word has come, was the only one to know.
            let is_forgotten = self.died.iter().any(|death| is_during(&death));
            let may_be_forbidden = plan.kind.path == Path::Barred;
            return plan.kind.transport == Transport::Tcp && !is_forgotten && !may_be_forbidden;
        }
        let is_young = |at: u64| at < plan.starts + REPLICATED;
        let hit = self.failures.iter().filter(is_during).any(|(at, _)| is_young(*at));
        let steered = |failed: &usize| {
            // Outside it has another port, and is not followed there.
            plan.kind.path == Path::Outbound
                || self
                    .steered
                    .get(&number)
                    .is_some_and(|nodes| nodes.iter().any(|(_, node)| node == failed))
        };
        let pinned = schedule.mode == Mode::Pin
            && plan.kind.transport == Transport::Tcp
            && self.powered_off.iter().filter(is_during).any(|(_, failed)| steered(failed));
        !hit && !pinned
    }

    /// S4: all nodes are back, everything has been said, and each flow has one owner.
    pub(super) fn converged(&self, now: u64, nodes: &[Node]) -> Result<(), String> {
        let mut owners: BTreeMap<String, usize> = BTreeMap::new();
        for node in nodes {
            let Some(engine) = &node.engine else {
                return Err(format!("S4: node {} is down", node.id()));
            };
            let Some(status) = engine.cluster_status(node.time(now)) else { continue };
            if status.state != gabion_engine::NodeState::Ready {
                return Err(format!("S4: node {} is {:?}", node.id(), status.state));
            }
            if let Some(absent) = status
                .members
                .iter()
                .find(|member| member.presence != gabion_engine::Presence::Alive)
            {
                return Err(format!("S4: node {} takes {absent:?} for dead", node.id()));
            }
            if self.nodes > 1 && status.coverage.covered < status.coverage.established {
                return Err(format!("S4: node {}: {:?}", node.id(), status.coverage));
            }
            for flow in engine.flows(0, u32::MAX).0 {
                if flow.state == FlowState::Tcp(TcpState::Established) {
                    let key = format!("{:?}", flow.original);
                    if let Some(other) = owners.insert(key.clone(), node.index) {
                        return Err(format!(
                            "S4: nodes {} and {} both own {key}",
                            other + 1,
                            node.id()
                        ));
                    }
                }
            }
        }
        Ok(())
    }
}

/// Whether an address is one of those that all nodes give ports of.
pub(super) fn is_pool(address: IpAddr) -> bool {
    ["192.0.2.16", "192.0.2.17", "2600:7::10", "2600:7::11"]
        .iter()
        .any(|pool| address == pool.parse::<IpAddr>().unwrap())
}

fn endpoint(of: gabion_engine::Endpoint) -> SocketAddr {
    SocketAddr::new(of.address.to_ip(), of.port)
}
