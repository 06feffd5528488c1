//! Accelerated networking: a synthetic device and a virtual function with one address, of which only the first is to be used.
//! A bridge and its port stand in for them: the kernel hands the port's packets to the bridge as it hands the function's
//! to the synthetic device, before programs, packet sockets and the guard see them.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::restart::POLICY;
use crate::restart::world::{NODE, World, ask, transfer};

const PATIENCE: u32 = 100;

fn settings(datapath: &str) -> String {
    format!("datapath = \"{datapath}\"\n[limits]\nflows = 4096")
}

fn address_of(world: &World, device: &str) -> String {
    let shown = world.ip(NODE, &format!("-o link show {device}"));
    let mut words = shown.split_whitespace().skip_while(|word| *word != "link/ether");
    words.nth(1).unwrap().to_owned()
}

/// Makes `ext` a device of which the one that was `ext` is the half.
fn halve(world: &World) {
    // A bridge may ask the guard of packets that are not the host's yet, as a synthetic device never does.
    let asked = |family| format!("/proc/sys/net/bridge/bridge-nf-call-{family}tables");
    let none = world.spawn(NODE, move || {
        // Not there where the kernel has no such bridges.
        ["ip", "ip6"].map(|family| std::fs::write(asked(family), "0"))
    });
    drop(none.join().unwrap());
    let address = address_of(world, "ext");
    for words in [
        "link set ext down",
        "link set ext name half",
        &format!("link add ext address {address} type bridge"),
        "address flush dev half",
        "link set half master ext",
        "link set half up",
        "link set ext up",
        "address add 192.0.2.1/24 dev ext",
    ] {
        world.ip(NODE, words);
    }
}

#[test]
fn a_half_is_refused_at_the_start_and_the_whole_is_named() {
    let Some(world) = World::build() else { return };
    halve(&world);
    for words in [
        "link set ext down",
        "link set ext name hv1",
        "link set half down",
        "link set half name ext",
        "link set ext up",
        "link set hv1 up",
    ] {
        world.ip(NODE, words);
    }
    let refused = world.gabiond(&settings("userspace")).stderr(Stdio::piped()).output().unwrap();
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success());
    assert!(text.contains("interface ext: device ext is a half of hv1"), "{text}");
    assert!(text.contains("write ext = \"hv1\" under [interfaces]"), "{text}");
}

#[test]
fn a_device_that_becomes_a_half_makes_the_node_unready() {
    let Some(world) = World::build() else { return };
    let daemon = world.start(&settings("userspace"));
    world.push(POLICY);
    world.await_ready();
    let address = address_of(&world, "ext");
    world.ip(NODE, &format!("link add hv1 address {address} type bridge"));
    world.ip(NODE, "link set ext master hv1");
    let deadline = Instant::now() + Duration::from_secs(30);
    while world.health().is_none_or(|health| health["ready"] == true) {
        assert!(Instant::now() < deadline, "{}", world.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    world.ip(NODE, "link set ext nomaster");
    world.await_ready();
    daemon.stop();
}

#[test]
fn a_half_that_comes_and_goes_disturbs_nothing() {
    let Some(world) = World::build() else { return };
    halve(&world);
    for datapath in ["userspace", "ebpf"] {
        let daemon = world.start(&settings(datapath));
        world.push(POLICY);
        world.await_ready();
        let (socket, mut stream) = (world.udp(), world.connected());
        let unready = world.log().matches("not ready:").count();
        let address = address_of(&world, "ext");
        for round in 0..5 {
            world
                .ip(NODE, &format!("link add function address {address} type veth peer name wire"));
            world.ip(NODE, "link set function master ext");
            world.ip(NODE, "link set function up");
            assert!(ask(&socket, b"with", PATIENCE), "{}", world.log());
            transfer(&mut stream, round, 100_000);
            world.ip(NODE, "link del function");
            assert!(ask(&socket, b"without", PATIENCE), "{}", world.log());
            transfer(&mut stream, round, 100_000);
            assert_eq!(world.health().unwrap()["ready"], true, "{}", world.log());
        }
        assert_eq!(world.log().matches("not ready:").count(), unready, "{}", world.log());
        daemon.stop();
    }
}
