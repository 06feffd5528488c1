#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use gabion_rules::{NatId, RuleSet};
use proptest::prelude::*;

use super::*;
use crate::limits::Limits;
use crate::measure::bare;
use crate::{ClusterConfig, flows::Slot};

const NOW: Time = Time::ZERO;
/// Some ten blocks of each of two addresses.
const PORTS: &str = "5000-5639";

fn rules() -> Arc<RuleSet> {
    let nat = |name: &str, service: &str, mapping: &str| {
        format!(
            "{{ name: {name}, kind: snat, from: a, out: b, service: {service}, address: 203.0.113.4/31, \
             ports: {PORTS}, mapping: {mapping} }}"
        )
    };
    let text = format!(
        "apiVersion: gabion/v1\nzones:\n  a: {{ interfaces: [int], networks: [10.0.0.0/8] }}\n  \
         b: {{ interfaces: [ext] }}\nnat: [{}, {}]\nrules: []\n",
        nat("mapped", "udp", "endpoint-independent"),
        nat("shared", "tcp", "symmetric"),
    );
    match gabion_rules::load("blocks.yaml", &text, None) {
        Ok(loaded) => loaded.rule_set,
        Err(diagnostics) => panic!("{diagnostics}"),
    }
}

/// A node of three: its translation, and its flows.
struct Node {
    id: NodeId,
    translator: Translator,
    flows: FlowTable,
}

impl Node {
    fn new(number: u8, members: u8, rules: &RuleSet) -> Self {
        let limits = Limits { flows: 2_048, mappings: 2_048, ..Limits::default() };
        let cluster = ClusterConfig {
            node: NodeId(number),
            members: (1..=members).map(NodeId).collect(),
            machines: Vec::new(),
            incarnation: 1,
            secret: [9; 16],
            sync_mtu: 1_500,
            heartbeat: Duration::from_millis(100),
            heartbeats_missed: 4,
            reset_lost: true,
        };
        let flows = FlowTable::new(limits.flows, [3; 16]);
        let mut translator = Translator::new(&limits, [number; 32], [4; 16], Some(&cluster));
        translator.set_rules(&limits, &flows, rules);
        translator.reserve(&[], &[], Some(rules));
        Self { id: cluster.node, translator, flows }
    }

    fn insert(&mut self, key: FlowKey, external: Endpoint, lease: Lease) -> Held {
        let reply = key.reply_to(external);
        let slot = self.flows.insert(&bare(key, reply)).unwrap();
        Held { key, external, lease, slot, at: self.id }
    }

    fn choose(&mut self, rules: &RuleSet, key: FlowKey) -> Result<Held, DropReason> {
        let nat = rules.source_nat_by_id(rule_for(&key)).unwrap();
        let sent_to = key.destination.address;
        let translated = self.translator.choose(NOW, &self.flows, nat, &key, sent_to, None)?;
        Ok(self.insert(key, translated.external, translated.lease))
    }

    fn inherit(&mut self, rules: &RuleSet, flow: &Held) -> Result<Held, DropReason> {
        let nat = rules.source_nat_by_id(rule_for(&flow.key)).unwrap();
        let Held { key, external, .. } = *flow;
        let inherited = Inherited { key, sent_to: key.destination.address, external };
        let translated = self.translator.inherit(NOW, &self.flows, nat, &inherited, None)?;
        Ok(self.insert(key, translated.external, translated.lease))
    }

    fn end(&mut self, flow: &Held) {
        self.flows.remove(flow.slot);
        self.translator.release(NOW, flow.lease, &flow.key, &flow.reply());
    }
}

fn rule_for(key: &FlowKey) -> NatId {
    NatId(u16::from(key.protocol == 6))
}

/// A flow and where it is.
#[derive(Debug, Clone, Copy)]
struct Held {
    key: FlowKey,
    external: Endpoint,
    lease: Lease,
    slot: Slot,
    at: NodeId,
}

impl Held {
    fn reply(&self) -> FlowKey {
        self.key.reply_to(self.external)
    }
}

fn key(host: u8, port: u16, remote: u8, is_tcp: bool) -> FlowKey {
    FlowKey {
        source: Endpoint { address: Address::from([10, 0, 0, host]), port: 2_000 + port },
        destination: Endpoint { address: Address::from([198, 51, 100, remote]), port: 443 },
        protocol: if is_tcp { 6 } else { 17 },
    }
}

/// Nodes that do as docs/cluster.md section 5 says: who owns a port's block holds it while another
/// node's flow uses it.
struct Cluster {
    rules: Arc<RuleSet>,
    nodes: Vec<Node>,
    live: BTreeMap<FlowKey, Held>,
}

impl Cluster {
    fn new(members: u8) -> Self {
        let rules = rules();
        let mut nodes: Vec<_> = (1..=members).map(|n| Node::new(n, members, &rules)).collect();
        for node in &mut nodes {
            node.translator.set_open(true);
        }
        Self { rules, nodes, live: BTreeMap::new() }
    }

    fn node(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[usize::from(id.0) - 1]
    }

    fn block_owner(&self, flow: &Held) -> NodeId {
        let owner = self.nodes[0].translator.owner_of(&flow.reply());
        owner.expect("the pool is shared")
    }

    fn open(&mut self, at: NodeId, key: FlowKey) -> Result<Option<Held>, DropReason> {
        if self.live.contains_key(&key) {
            return Ok(None);
        }
        let rules = self.rules.clone();
        let flow = self.node(at).choose(&rules, key)?;
        self.live.insert(key, flow);
        Ok(Some(flow))
    }

    fn close(&mut self, key: FlowKey) {
        let Some(flow) = self.live.remove(&key) else { return };
        let owner = self.block_owner(&flow);
        self.node(flow.at).end(&flow);
        if owner != flow.at {
            self.node(owner).translator.release_foreign(NOW, &flow.reply());
        }
    }

    fn hand_over(&mut self, key: FlowKey, to: NodeId) -> Result<(), DropReason> {
        let Some(flow) = self.live.get(&key).copied().filter(|flow| flow.at != to) else {
            return Ok(());
        };
        let (rules, owner) = (self.rules.clone(), self.block_owner(&flow));
        if owner == flow.at {
            assert!(self.node(owner).translator.hold_foreign(NOW, &flow.reply()));
        } else if owner == to {
            self.node(to).translator.release_foreign(NOW, &flow.reply());
        }
        self.node(flow.at).end(&flow);
        let inherited = self.node(to).inherit(&rules, &flow)?;
        assert_eq!(inherited.external, flow.external);
        self.live.insert(key, inherited);
        Ok(())
    }

    /// S2: behind one external endpoint towards one remote one there is one inside endpoint.
    fn check(&self) {
        let mut behind = BTreeMap::new();
        for flow in self.live.values() {
            let before = behind.insert(flow.reply(), flow.key.source);
            assert_eq!(before, None, "{flow:?}");
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Open { at: u8, host: u8, port: u16, remote: u8, is_tcp: bool },
    Close { which: prop::sample::Index },
    HandOver { which: prop::sample::Index, to: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (1..4_u8, 0..4_u8, 0..3_u16, 0..3_u8, any::<bool>())
            .prop_map(|(at, host, port, remote, is_tcp)| Step::Open { at, host, port, remote, is_tcp }),
        2 => any::<prop::sample::Index>().prop_map(|which| Step::Close { which }),
        4 => (any::<prop::sample::Index>(), 1..4_u8)
            .prop_map(|(which, to)| Step::HandOver { which, to }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// S2: whoever opens, ends and takes over what, no external endpoint stands for two inside ones
    /// towards the same remote one, a port is first given out by its block's owner, every flow can be
    /// taken over, and in the end all ports are free.
    #[test]
    fn no_port_is_given_out_twice_in_a_cluster(steps in prop::collection::vec(step(), 0..160)) {
        let mut cluster = Cluster::new(3);
        for step in steps {
            let live: Vec<FlowKey> = cluster.live.keys().copied().collect();
            match step {
                Step::Open { at, host, port, remote, is_tcp } => {
                    let opened = cluster.open(NodeId(at), key(host, port, remote, is_tcp)).unwrap();
                    if let Some(flow) = opened {
                        prop_assert_eq!(cluster.block_owner(&flow), NodeId(at));
                    }
                }
                Step::Close { which } if !live.is_empty() => cluster.close(*which.get(&live)),
                Step::HandOver { which, to } if !live.is_empty() => {
                    prop_assert_eq!(cluster.hand_over(*which.get(&live), NodeId(to)), Ok(()));
                }
                Step::Close { .. } | Step::HandOver { .. } => {}
            }
            cluster.check();
        }
        for key in cluster.live.keys().copied().collect::<Vec<_>>() {
            cluster.close(key);
        }
        // Whatever was handed about, each node can give out all that is its own and no more.
        let mut given = BTreeSet::new();
        for number in 1..=3 {
            for inside in 0.. {
                let host = key((inside >> 8) as u8, inside & 255, 9 + number, false);
                match cluster.open(NodeId(number), host) {
                    Ok(flow) => prop_assert!(given.insert(flow.unwrap().external)),
                    Err(reason) => {
                        prop_assert_eq!(reason, DropReason::NatPortsExhausted);
                        break;
                    }
                }
            }
        }
        prop_assert_eq!(given.len(), 2 * 640);
    }
}

/// Symmetric ports are the node's own too, and all of them are found.
#[test]
fn shared_ports_are_of_own_blocks() {
    let mut cluster = Cluster::new(2);
    let mut given = BTreeSet::new();
    for number in 1..=2 {
        let opened = std::iter::successors(Some(0_u16), |inside| Some(inside + 1))
            .map_while(|inside| cluster.open(NodeId(number), key(number, inside, 9, true)).ok())
            .flatten();
        let flows: Vec<Held> = opened.collect();
        for flow in flows {
            assert_eq!(cluster.block_owner(&flow), NodeId(number));
            assert!(given.insert(flow.external));
        }
    }
    assert_eq!(given.len(), 2 * 640);
}

/// Section 5: a node that has just started knows none of its ports that adopters use.
#[test]
fn nothing_shared_is_given_out_before_the_join_is_complete() {
    let rules = rules();
    let mut node = Node::new(1, 2, &rules);
    for is_tcp in [false, true] {
        assert_eq!(node.choose(&rules, key(1, 1, 1, is_tcp)).err(), Some(DropReason::NotReady));
    }
    node.translator.set_open(true);
    assert!(node.choose(&rules, key(1, 1, 1, true)).is_ok());
}

/// What another node's flow uses is not given out until the last of these has gone.
#[test]
fn a_port_that_an_adopter_uses_is_kept() {
    let rules = rules();
    for is_tcp in [false, true] {
        let (mut one, mut other) = (Node::new(1, 1, &rules), Node::new(1, 1, &rules));
        one.translator.set_open(true);
        other.translator.set_open(true);
        let first = one.choose(&rules, key(1, 1, 1, is_tcp)).unwrap();
        // Both are the same node, before and after a restart.
        for _ in 0..2 {
            assert!(other.translator.hold_foreign(NOW, &first.reply()));
        }
        let mut taken = BTreeSet::new();
        for inside in 0.. {
            let host = key((inside >> 8) as u8, inside & 255, 1, is_tcp);
            let Ok(flow) = other.choose(&rules, host) else { break };
            taken.insert(flow.external);
        }
        assert_eq!(taken.len(), 2 * 640 - 1);
        assert!(!taken.contains(&first.external));
        let late = key(200, 1, 1, is_tcp);
        other.translator.release_foreign(NOW, &first.reply());
        assert!(other.choose(&rules, late).is_err());
        other.translator.release_foreign(NOW, &first.reply());
        assert_eq!(other.choose(&rules, late).unwrap().external, first.external);
    }
}

/// The rule that chose it would not choose it now, or somebody has it: the flow can not go on.
#[test]
fn what_does_not_fit_is_not_inherited() {
    let rules = rules();
    let mut node = Node::new(1, 2, &rules);
    node.translator.set_open(true);
    let flow = node.choose(&rules, key(1, 1, 1, true)).unwrap();
    let outside = |address: [u8; 4], port| Held {
        external: Endpoint { address: Address::from(address), port },
        ..flow
    };
    let refused = |node: &mut Node, flow: Held| node.inherit(&rules, &flow).err();
    let no_address = Some(DropReason::NatNoAddress);
    assert_eq!(refused(&mut node, outside([203, 0, 113, 6], 5_001)), no_address);
    assert_eq!(refused(&mut node, outside([203, 0, 113, 4], 4_999)), no_address);
    assert_eq!(refused(&mut node, flow), Some(DropReason::NatConflict));
    let other = Held { key: key(2, 2, 1, true), ..flow };
    assert_eq!(refused(&mut node, other), Some(DropReason::NatConflict));
}

/// A forwarder asks nobody about a reply to a shared address; it asks about all else.
#[test]
fn the_port_names_who_gave_it_out() {
    let rules = rules();
    let mut node = Node::new(1, 3, &rules);
    node.translator.set_open(true);
    let flow = node.choose(&rules, key(1, 1, 1, false)).unwrap();
    assert_eq!(node.translator.owner_of(&flow.reply()), Some(NodeId(1)));
    assert_eq!(node.translator.owner_of(&flow.key), None, "the remote address");
    let association = FlowKey { protocol: 132, ..flow.reply() };
    assert_eq!(node.translator.owner_of(&association), None, "its ports are its own");
    let alone = Translator::new(&Limits::default(), [1; 32], [1; 16], None);
    assert_eq!(alone.owner_of(&flow.reply()), None);
}
