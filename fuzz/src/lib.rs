//! Fuzz targets: each takes any bytes and panics when something is wrong.
//!
//! `make fuzz TARGET=walk SECONDS=60` lets libFuzzer look for such bytes; what it has found worth
//! keeping is in `corpus/`, and `cargo test -p gabion-fuzz` replays it. See docs/fuzzing.md.
#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)]

pub mod differential;
mod files;
mod fragments;
mod frames;
mod mend;
mod messages;
mod peers;
mod quotes;
mod texts;

/// One parser or one machine, and what to ask of it.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    pub name: &'static str,
    /// What its bytes are.
    pub input: &'static str,
    pub run: fn(&[u8]),
}

const fn target(name: &'static str, input: &'static str, run: fn(&[u8])) -> Target {
    Target { name, input, run }
}

/// Every target; its corpus is in the folder of its name.
pub const TARGETS: [Target; 16] = [
    target("frame", "a virtio header and a frame", frames::frame),
    target("fragments", "datagrams, cut and mixed", fragments::fragments),
    target("quote", "an ICMP error about a live flow", quotes::quote),
    target("walk", "packets, time, policies, links, neighbours", walk),
    target("peers", "what another member says", peers::peers),
    target("netlink", "messages of the kernel", messages::netlink),
    target("api", "a request's protobuf", messages::api),
    target("policy", "a policy", texts::policy),
    target("packet", "a packet as `gabion explain` takes it", texts::packet),
    target("config", "a node's configuration", texts::config),
    target("first-boot", "what an instance is told at first boot", texts::first_boot),
    target("guard", "a line of the guard's", texts::guard),
    target("http", "a request's head", texts::http),
    target("pcap", "a capture", files::pcap),
    target("store", "a state directory after an accident", files::store),
    target("vnet", "a virtio header", frames::vnet),
];

/// The target of that name.
pub fn named(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

fn walk(bytes: &[u8]) {
    let mut world = gabion_tests::walk::World::begin();
    for step in &gabion_tests::walk::read_steps(bytes) {
        world.take(step);
    }
    world.run_out();
}
