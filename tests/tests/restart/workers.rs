//! Several workers: real packets of many hosts, a restart, and a restart with another number of them.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{EBPF, LENGTH, PATIENCE, POLICY, World, ask, transfer};

/// Enough for each of two workers to have some.
const HOSTS: std::ops::Range<u8> = 10..26;

/// Numbers of flows go round the workers.
fn worker(flow: &Value) -> u64 {
    flow["id"].as_u64().unwrap() % 2
}

fn port(flow: &Value) -> u64 {
    flow["translated"]["source"]["port"].as_u64().unwrap()
}

/// Source and what stands for it.
fn translations(flows: &[Value]) -> BTreeSet<(String, u64)> {
    let of = |flow: &Value| (flow["source"].to_string(), port(flow));
    flows.iter().filter(|flow| flow["protocol"] == "udp").map(of).collect()
}

#[test]
fn workers_share_flows_and_take_over_their_own() {
    let Some(world) = World::build() else { return };
    world.add_hosts(HOSTS);
    let two = format!("workers = 2\n{EBPF}");
    let daemon = world.start(&two);
    world.push(POLICY);
    world.await_ready();
    let sockets: Vec<_> = HOSTS.map(|host| world.udp_from(host)).collect();
    for socket in &sockets {
        assert!(ask(socket, b"one", PATIENCE) && ask(socket, b"two", PATIENCE), "{}", world.log());
    }
    let mut stream = world.connected();
    transfer(&mut stream, 1, LENGTH);
    let flows = world.flows();
    assert_eq!(flows.len(), sockets.len() + 1, "{flows:?}");
    assert_eq!(flows.iter().map(worker).collect::<BTreeSet<_>>().len(), 2, "{flows:?}");
    // Each gives out ports of its own: blocks of 64 go round.
    assert!(flows.iter().all(|flow| port(flow) / 64 % 2 == worker(flow)), "{flows:?}");
    let before = translations(&flows);
    assert_eq!(before.len(), sockets.len());
    // A policy that changes nothing: all are judged again.
    world.push(&POLICY.replace("name: games", "name: matches"));
    for socket in &sockets {
        assert!(ask(socket, b"three", PATIENCE), "{}", world.log());
    }
    transfer(&mut stream, 2, LENGTH);

    daemon.kill();
    for socket in &sockets {
        assert!(ask(socket, b"four", PATIENCE));
    }
    transfer(&mut stream, 3, LENGTH);
    let daemon = world.start(&two);
    world.await_ready();
    for socket in &sockets {
        assert!(ask(socket, b"five", PATIENCE), "{}", world.log());
    }
    transfer(&mut stream, 4, LENGTH);
    assert!(world.log().contains("are taken over"), "{}", world.log());
    assert_eq!(translations(&world.flows()), before);
    drop(stream);
    transfer(&mut world.connected(), 5, LENGTH);
    daemon.stop();

    // Each would have other flows: none is taken over.
    let three = format!("workers = 3\n{EBPF}");
    let _daemon = world.start(&three);
    world.await_ready();
    assert!(world.log().contains("another number of workers"), "{}", world.log());
    for socket in &sockets {
        assert!(ask(socket, b"six", PATIENCE), "{}", world.log());
    }
    transfer(&mut world.connected(), 6, LENGTH);
}
