//! What the engine tells a datapath that moves flows by itself, and what it takes back.

mod ends;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gabion_engine::{
    DropReason, FastFlow, FastHop, FastPath, FastPlace, FastRemains, FastUsage, FastWay,
    InterfaceId, Neighbour, Resumed, Time, Usage, build,
};
use gabion_rules::ZoneId;

use super::POLICY;
use super::dialogue::Dialogue;

/// A table that moves nothing and can be looked into.
#[derive(Debug, Clone, Default)]
struct Table(Arc<Mutex<Tables>>);

#[derive(Debug, Default)]
struct Tables {
    stamp: u32,
    last: u32,
    flows: BTreeMap<u32, (FastFlow, FastUsage)>,
    hops: BTreeMap<u32, (u16, FastWay)>,
}

impl FastPath for Table {
    fn install(&mut self, flow: &FastFlow) -> Option<FastPlace> {
        let mut tables = self.0.lock().unwrap();
        tables.last += 1;
        let place = tables.last;
        let usage = FastUsage { tcp: flow.tcp.unwrap_or_default(), ..FastUsage::default() };
        tables.flows.insert(place, (*flow, usage));
        Some(FastPlace(place))
    }

    fn renew(&mut self, place: FastPlace, flow: &FastFlow) {
        let mut tables = self.0.lock().unwrap();
        let (entry, usage) = tables.flows.get_mut(&place.0).unwrap();
        *entry = *flow;
        usage.tcp = flow.tcp.unwrap_or_default();
    }

    fn remove(&mut self, place: FastPlace) -> FastUsage {
        self.0.lock().unwrap().flows.remove(&place.0).unwrap().1
    }

    fn take_usage(&mut self, place: FastPlace) -> FastUsage {
        let mut tables = self.0.lock().unwrap();
        let usage = &mut tables.flows.get_mut(&place.0).unwrap().1;
        let left = FastUsage { moved: [Usage::default(); 2], ..*usage };
        std::mem::replace(usage, left)
    }

    fn set_hop(&mut self, hop: FastHop, way: Option<FastWay>) {
        let hops = &mut self.0.lock().unwrap().hops;
        match way {
            Some(way) => drop(hops.insert(hop.place, (hop.tenancy, way))),
            None => drop(hops.remove(&hop.place)),
        }
    }

    fn set_zone(&mut self, _: InterfaceId, _: Option<ZoneId>) {}

    fn set_stamp(&mut self, stamp: u32) {
        self.0.lock().unwrap().stamp = stamp;
    }

    fn stamp(&self) -> u32 {
        self.0.lock().unwrap().stamp
    }

    fn begin_resuming(&mut self) -> u32 {
        self.0.lock().unwrap().last + 1
    }

    fn remains(&mut self, place: FastPlace) -> Option<FastRemains> {
        let (flow, usage) = *self.0.lock().unwrap().flows.get(&place.0)?;
        let past = flow.past;
        Some(FastRemains {
            keys: flow.keys,
            ingress: Some(past.ingress),
            tcp: flow.tcp.map(|_| usage.tcp),
            usage: past.usage,
            opened: past.opened,
            seen: usage.seen.into_iter().fold(past.now, Time::max),
        })
    }
}

impl Table {
    fn flow(&self) -> Option<FastFlow> {
        self.0.lock().unwrap().flows.values().next().map(|(flow, _)| *flow)
    }

    /// Whether packets of each direction are moved now.
    fn moves(&self) -> [bool; 2] {
        let tables = self.0.lock().unwrap();
        let Some((flow, _)) = tables.flows.values().next() else { return [false; 2] };
        flow.hops.map(|hop| {
            let is_led = hop.is_some_and(|hop| {
                tables.hops.get(&hop.place).is_some_and(|(tenancy, _)| *tenancy == hop.tenancy)
            });
            is_led && tables.stamp != 0 && tables.stamp == flow.stamp
        })
    }

    /// Packets that the datapath moves, the last of each direction at `seen`.
    fn moved(&self, original: u64, reply: u64, seen: Time) {
        let usage = |packets| Usage { packets, bytes: 100 * packets };
        let mut tables = self.0.lock().unwrap();
        for (_, done) in tables.flows.values_mut() {
            done.moved = [usage(original), usage(reply)];
            done.seen = [seen; 2];
        }
    }
}

const CLIENT: &str = "198.51.100.9:40000";
const SERVER: &str = "10.1.0.10:443";

fn client() -> build::FrameBuilder {
    build::tcp().from(CLIENT).to(SERVER).window(64_000)
}

fn server() -> build::FrameBuilder {
    build::tcp().from(SERVER).to(CLIENT).window(64_000)
}

fn connected() -> (Dialogue, Table) {
    let table = Table::default();
    let mut dialogue = Dialogue::offloading(POLICY, Box::new(table.clone()));
    dialogue.send("ext", &client().syn().seq(1_000).frame());
    dialogue.send("int", &server().syn().seq(5_000).ack(1_001).frame());
    dialogue.send("ext", &client().seq(1_001).ack(5_001).frame());
    (dialogue, table)
}

/// A question, and its answer through the source NAT of `POLICY`.
fn asked() -> (Dialogue, Table) {
    let table = Table::default();
    let mut dialogue = Dialogue::offloading(POLICY, Box::new(table.clone()));
    dialogue.send("int", &build::udp().from("10.1.0.10:5000").to("198.51.100.9:53").frame());
    assert_eq!(table.flow(), None, "nobody has answered");
    let external = dialogue.engine.flows(0, 1).0[0].reply.destination.to_string();
    dialogue.send("ext", &build::udp().from("198.51.100.9:53").to(&external).frame());
    (dialogue, table)
}

#[test]
fn an_established_connection_is_handed_over_with_its_windows() {
    let (_dialogue, table) = connected();
    assert_eq!(table.moves(), [true; 2]);
    let [initiator, responder] = table.flow().unwrap().tcp.unwrap();
    assert_eq!((initiator.end, initiator.ack, initiator.edge), (1_001, 5_001, 5_001 + 64_000));
    assert_eq!((responder.end, responder.ack, responder.edge), (5_001, 1_001, 1_001 + 64_000));
}

#[test]
fn what_the_datapath_has_moved_counts_for_the_windows() {
    let (mut dialogue, table) = connected();
    for (_, usage) in table.0.lock().unwrap().flows.values_mut() {
        usage.tcp[0].end = 3_001;
        usage.tcp[1].ack = 3_001;
        usage.tcp[1].edge = 3_001 + 64_000;
    }
    table.moved(2, 1, dialogue.now);
    // Acknowledges what only the datapath has seen.
    let leaves = "ext: tcp 10.1.0.10:443 > 198.51.100.9:40000 F. ttl 63";
    dialogue.step("int", &server().seq(5_001).ack(3_001).fin().frame(), &[leaves], &["forwarded"]);
    let report = dialogue.engine.flows(0, 1).0[0];
    assert_eq!((report.original_usage.packets, report.reply_usage.packets), (4, 3));
}

#[test]
fn a_syn_on_a_live_connection_takes_it_back_until_it_is_settled() {
    let (mut dialogue, table) = connected();
    dialogue.send("ext", &client().syn().seq(90_000).frame());
    assert_eq!(table.flow(), None);
    dialogue.send("ext", &client().seq(1_001).ack(5_001).frame());
    assert_eq!(table.moves(), [true; 2]);
}

#[test]
fn a_new_policy_has_every_flow_judged_before_it_is_moved_again() {
    let (mut dialogue, table) = connected();
    dialogue.commit(&POLICY.replace("name: web-in", "name: web-renamed"));
    assert_eq!(table.moves(), [false; 2]);
    dialogue.send("ext", &client().seq(1_001).ack(5_001).frame());
    assert_eq!(table.moves(), [true, false], "the way back is not known again yet");
    dialogue.send("int", &server().seq(5_001).ack(1_001).frame());
    assert_eq!(table.moves(), [true; 2]);
    dialogue.commit(&POLICY.replace("service: [https, tcp/22]", "service: tcp/22"));
    dialogue.wait(Duration::ZERO, &[], &[]);
    assert_eq!(table.flow(), None);
}

/// Else a connection that was silent while an address was added (its own, of IPv6, comes seconds after the start) ends
/// with the daemon.
#[test]
fn silent_connections_are_moved_under_the_policy_and_network_of_now() {
    let (mut dialogue, table) = connected();
    dialogue.commit(&POLICY.replace("name: web-in", "name: web-renamed"));
    assert_eq!(table.moves(), [false; 2]);
    dialogue.wait(Duration::ZERO, &[], &[]);
    assert_eq!(table.moves(), [true; 2]);
    dialogue.change_network(|network| {
        network.interfaces[0].addresses.push("fe80::1/64".parse().unwrap());
    });
    assert_eq!(table.moves(), [false; 2]);
    dialogue.wait(Duration::ZERO, &[], &[]);
    assert_eq!(table.moves(), [true; 2]);
    dialogue.change_network(|network| network.routes.clear());
    dialogue.change_network(|network| network.interfaces[0].up = false);
    dialogue.wait(Duration::ZERO, &[], &[]);
    assert!(table.moves().contains(&false));
}

#[test]
fn a_closed_engine_has_nothing_moved() {
    let (mut dialogue, table) = connected();
    dialogue.engine.close();
    assert_eq!(table.moves(), [false; 2]);
    dialogue.engine.open();
    assert_eq!(table.moves(), [true; 2]);
}

#[test]
fn packets_for_a_neighbour_that_is_gone_come_to_the_engine() {
    let (mut dialogue, table) = connected();
    let (interface, address) = (InterfaceId(1), "10.1.0.10".parse().unwrap());
    dialogue.engine.handle_neighbour(dialogue.now, interface, address, Neighbour::Gone);
    assert_eq!(table.moves(), [false, true]);
    let neighbour = Neighbour::Reachable { mac: [2, 0, 0, 0, 0, 77] };
    dialogue.engine.handle_neighbour(dialogue.now, interface, address, neighbour);
    assert_eq!(table.moves(), [true; 2]);
    let has_new = table.0.lock().unwrap().hops.values().any(|(_, way)| way.destination[5] == 77);
    assert!(has_new);
}

#[test]
fn a_flow_lives_as_long_as_the_datapath_sees_packets_of_it() {
    let (mut dialogue, table) = asked();
    assert_eq!(table.moves(), [true; 2]);
    // Longer than a flow of UDP without packets lives, in steps that are shorter.
    for _ in 0..10 {
        dialogue.wait(Duration::from_secs(60), &[], &[]);
        table.moved(1, 1, dialogue.now);
    }
    assert_eq!(dialogue.flows().len(), 1);
    dialogue.wait(Duration::from_secs(1_000), &[], &[]);
    assert_eq!(dialogue.flows(), [""; 0]);
    assert_eq!(table.flow(), None);
    let packets = dialogue.engine.rule_counters().iter().map(|counters| counters.usage.packets);
    assert_eq!(packets.sum::<u64>(), 22);
}

#[test]
fn usage_from_the_datapath_counts_for_the_rule_in_force() {
    let (mut dialogue, table) = asked();
    table.moved(7, 0, dialogue.now);
    let first = "  - { name: first, from: internet, to: spokes, service: tcp/9, action: drop }\n";
    let changed = POLICY.replacen("rules:\n", &format!("rules:\n{first}"), 1);
    dialogue.commit(&changed);
    dialogue.wait(Duration::from_secs(2), &[], &[]);
    let loaded = gabion_rules::load("scenario.yaml", &changed, None).unwrap();
    let counters = dialogue.engine.rule_counters();
    let with_packets = loaded.rule_set.rules().iter().zip(counters);
    let with_packets = with_packets.filter(|(_, counters)| counters.usage.packets > 0);
    let with_packets: Vec<_> =
        with_packets.map(|(rule, counters)| (rule.name.as_str(), counters.usage.packets)).collect();
    assert_eq!(with_packets, [("out", 9)]);
}

/// Found by the differential test: the table's windows stayed behind what the engine had seen.
#[test]
fn what_is_too_big_for_the_way_out_moves_the_tables_windows_too() {
    let (mut dialogue, table) = connected();
    dialogue.send("ext", &client().seq(1_001).ack(5_001).payload(&[7; 1_470]).frame());
    assert_eq!(dialogue.engine.counters().rejected(DropReason::TooBig), 1);
    assert_eq!(table.flow().unwrap().tcp.unwrap()[0].end, 1_001 + 1_470);
}

/// The same of a segment that comes in fragments.
#[test]
fn fragments_move_the_tables_windows_too() {
    let (mut dialogue, table) = connected();
    let segment = client().seq(1_001).ack(5_001).payload(&[7; 400]).dont_fragment(false).frame();
    for piece in build::fragmented(&segment, 200, 7) {
        dialogue.send("ext", &piece);
    }
    assert_eq!(table.flow().unwrap().tcp.unwrap()[0].end, 1_001 + 400);
}

/// Found by the differential test: rules are numbered anew with each policy, and the packet that shows a flow to the
/// new one had the usage from before counted by the old number.
#[test]
fn usage_from_before_a_policy_is_counted_for_no_rule_that_has_its_number_now() {
    let (mut dialogue, table) = asked();
    let external = dialogue.engine.flows(0, 1).0[0].reply.destination.to_string();
    table.moved(7, 0, dialogue.now);
    let first = "  - { name: first, from: internet, to: spokes, service: tcp/9, action: drop }\n";
    let changed = POLICY.replacen("rules:\n", &format!("rules:\n{first}"), 1);
    dialogue.commit(&changed);
    dialogue.send("ext", &build::udp().from("198.51.100.9:53").to(&external).frame());
    let rules = gabion_rules::load("scenario.yaml", &changed, None).unwrap().rule_set;
    let counters = dialogue.engine.rule_counters();
    let used = rules.rules().iter().zip(counters).filter(|(_, rule)| rule.usage.packets > 0);
    let used: Vec<_> = used.map(|(rule, of)| (rule.name.as_str(), of.usage.packets)).collect();
    assert_eq!(used, [("out", 10)]);
}

/// Found by the differential test: flows kept the longer time of the policy before.
#[test]
fn a_shorter_timeout_holds_for_what_the_datapath_moves() {
    let (mut dialogue, table) = connected();
    let default = "  default: { action: drop, log: sampled }\n";
    let shorter = format!("{default}  timeouts: {{ tcp-established: 20s }}\n");
    dialogue.commit(&POLICY.replace(default, &shorter));
    table.moved(1, 0, dialogue.now);
    let seen = dialogue.now;
    dialogue.wait(Duration::from_secs(2), &[], &[]);
    assert_eq!(dialogue.engine.flows(0, 1).0[0].expires, seen + Duration::from_secs(20));
}

/// What only strangers have sent does not keep the flow, but it moves its windows: the engine took what the other side
/// acknowledged of it for too much.
#[test]
fn what_only_a_stranger_has_sent_counts_for_the_windows() {
    let policy = POLICY
        .replace("ports: 1024-65000 }", "ports: 2000-2000, filtering: endpoint-independent }")
        .replace("service: [https, tcp/22]", "service: tcp");
    let table = Table::default();
    let mut dialogue = Dialogue::offloading(&policy, Box::new(table.clone()));
    let inside = |to: &str| build::tcp().from("10.1.0.10:5000").to(to).window(64_000);
    dialogue.send("int", &inside("198.51.100.9:80").syn().seq(1).frame());
    let stranger = || build::tcp().from("198.51.100.77:7").to("203.0.113.4:2000").window(64_000);
    dialogue.send("ext", &stranger().syn().seq(1_000).frame());
    dialogue.send("int", &inside("198.51.100.77:7").syn().seq(5_000).ack(1_001).frame());
    dialogue.send("ext", &stranger().seq(1_001).ack(5_001).frame());
    assert_eq!(table.moves(), [true; 2]);
    for (_, usage) in table.0.lock().unwrap().flows.values_mut() {
        usage.tcp[0].end = 3_001;
    }
    table.moved(2, 0, dialogue.now);
    let fin = inside("198.51.100.77:7").seq(5_001).ack(3_001).fin().frame();
    let leaves = "ext: tcp 203.0.113.4:2000 > 198.51.100.77:7 F. ttl 63";
    dialogue.step("int", &fin, &[leaves], &["forwarded"]);
}

/// Another process on the same machine, with this policy, takes over what the table has.
fn resumed(policy: &str, table: &Table, now: Time) -> (Dialogue, Resumed) {
    let mut dialogue = Dialogue::new(policy);
    dialogue.now = now;
    let resumed = dialogue.engine.resume_fast_path(now, Box::new(table.clone()), || ());
    (dialogue, resumed)
}

const KEPT: Resumed = Resumed { kept: 1, ended: 0 };
const ENDED: Resumed = Resumed { kept: 0, ended: 1 };

#[test]
fn a_connection_that_a_later_process_takes_over_goes_on_in_its_windows() {
    let (dialogue, table) = connected();
    for (_, usage) in table.0.lock().unwrap().flows.values_mut() {
        usage.tcp[0].end = 9_001;
        usage.tcp[1].ack = 9_001;
        usage.tcp[1].edge = 9_001 + 64_000;
    }
    let before = dialogue.engine.flows(0, 1).0[0];
    let (mut later, resumed) = resumed(POLICY, &table, dialogue.now);
    assert_eq!(resumed, KEPT);
    let after = later.engine.flows(0, 1).0[0];
    let told = |flow: gabion_engine::FlowReport| {
        (flow.original, flow.reply, flow.rule, flow.state, flow.opened, flow.reply_usage)
    };
    assert_eq!(told(after), told(before));
    // The packet that was in hand when the table was told is not in what it was told.
    assert_eq!(after.original_usage.packets + 1, before.original_usage.packets);
    // No packet has come, and the judgement that was in force is.
    assert_eq!(table.flow().unwrap().stamp, table.stamp());
    let beyond = client().seq(9_001 + 64_001).ack(5_001).payload(b"far").frame();
    later.step("ext", &beyond, &[], &["drop:tcp-window"]);
    later.send("ext", &client().seq(9_001).ack(5_001).payload(b"next").frame());
    assert!(table.moves()[0]);
}

#[test]
fn a_translation_is_taken_over_and_given_to_nobody_else() {
    let (dialogue, table) = asked();
    let external = dialogue.engine.flows(0, 1).0[0].reply.destination;
    let (mut later, resumed) = resumed(POLICY, &table, dialogue.now);
    assert_eq!(resumed, KEPT);
    later.send("int", &build::udp().from("10.1.0.10:5000").to("198.51.100.9:53").frame());
    for source in 6_000..6_300 {
        let source = format!("10.1.0.10:{source}");
        later.send("int", &build::udp().from(&source).to("198.51.100.9:53").frame());
    }
    let (flows, _) = later.engine.flows(0, 1_000);
    assert_eq!(flows.len(), 301);
    let holders = flows.iter().filter(|flow| flow.reply.destination == external);
    assert_eq!(holders.count(), 1);
}

#[test]
fn what_is_not_permitted_or_over_is_not_taken_over() {
    let (dialogue, table) = connected();
    let denied = POLICY.replace("[https, tcp/22]", "tcp/22");
    assert_ne!(denied, POLICY);
    assert_eq!(resumed(&denied, &table, dialogue.now).1, ENDED);
    assert_eq!(table.flow(), None);

    let (dialogue, table) = asked();
    let idle = dialogue.now + Duration::from_secs(3_600);
    assert_eq!(resumed(POLICY, &table, idle).1, ENDED);
    let (dialogue, table) = asked();
    table.moved(1, 1, idle);
    assert_eq!(resumed(POLICY, &table, idle).1, KEPT, "it was used since {:?}", dialogue.now);
}
