//! Interfaces that go, come back and change under the userspace datapath.

use std::net::UdpSocket;

use gabion_datapath::{
    Datapath, OpenDatapathError, Port, ProbeError, UserspaceDatapath, VnetHeader,
};

use crate::lab::{Bridge, CLIENT, LIMITS, Lab, NODE, PATIENCE, SERVER, SERVER_PORT};

/// Waits until the bridge tells that a port's link is so.
fn await_link(bridge: &Bridge, port: Port, up: bool) {
    while bridge.links.recv_timeout(PATIENCE).unwrap() != (port, up) {}
}

/// The server answers a ping.
fn assert_reachable(lab: &Lab) {
    lab.execute(CLIENT, "ping -c 1 -W 10 198.51.100.2");
}

/// The bridge of one datapath or of the other, in namespaces of its own.
const BRIDGES: [fn(&Lab) -> Bridge; 2] = [Lab::bridge, Lab::bridge_behind_programs];

#[test]
fn an_interface_that_is_removed_and_made_anew_goes_on() {
    BRIDGES.into_iter().for_each(goes_on_when_removed_and_made_anew);
}

fn goes_on_when_removed_and_made_anew(build: fn(&Lab) -> Bridge) {
    let Some(lab) = Lab::build() else { return };
    let bridge = build(&lab);
    assert_reachable(&lab);
    lab.ip(NODE, "link del int");
    await_link(&bridge, SERVER_PORT, false);
    // The client's frames find no way out meanwhile, and nothing breaks.
    lab.within(CLIENT, || {
        let socket = UdpSocket::bind("198.51.100.1:0").unwrap();
        socket.send_to(b"lost", "198.51.100.2:9").unwrap();
    });
    lab.connect(SERVER, "int");
    await_link(&bridge, SERVER_PORT, true);
    lab.ip(CLIENT, "neighbour flush all");
    assert_reachable(&lab);
    bridge.stop();
}

#[test]
fn an_interface_that_goes_down_and_up_goes_on() {
    let Some(lab) = Lab::build() else { return };
    let bridge = lab.bridge();
    lab.ip(NODE, "link set int down");
    await_link(&bridge, SERVER_PORT, false);
    lab.ip(NODE, "link set int up");
    await_link(&bridge, SERVER_PORT, true);
    assert_reachable(&lab);
    // The other end pulls the cable.
    lab.ip(SERVER, "link set eth0 down");
    await_link(&bridge, SERVER_PORT, false);
    lab.ip(SERVER, "link set eth0 up");
    await_link(&bridge, SERVER_PORT, true);
    assert_reachable(&lab);
    bridge.stop();
}

#[test]
fn a_port_follows_its_name() {
    BRIDGES.into_iter().for_each(follows_its_name);
}

fn follows_its_name(build: fn(&Lab) -> Bridge) {
    let Some(lab) = Lab::build() else { return };
    let bridge = build(&lab);
    lab.ip(NODE, "link set int name other");
    await_link(&bridge, SERVER_PORT, false);
    lab.ip(NODE, "link set other name int");
    await_link(&bridge, SERVER_PORT, true);
    assert_reachable(&lab);
    bridge.stop();
}

/// An interface keeps its number when it goes to another namespace and back.
#[test]
fn an_interface_that_comes_back_under_its_number_is_bound_again() {
    BRIDGES.into_iter().for_each(is_bound_again_under_its_number);
}

fn is_bound_again_under_its_number(build: fn(&Lab) -> Bridge) {
    let Some(lab) = Lab::build() else { return };
    let bridge = build(&lab);
    lab.ip(NODE, &format!("link set int netns {}", lab.namespace(CLIENT)));
    await_link(&bridge, SERVER_PORT, false);
    lab.ip(CLIENT, &format!("link set int netns {}", lab.namespace(NODE)));
    lab.ip(NODE, "link set int up");
    await_link(&bridge, SERVER_PORT, true);
    assert_reachable(&lab);
    bridge.stop();
}

#[test]
fn a_missing_interface_is_named() {
    let Some(lab) = Lab::build() else { return };
    lab.within(NODE, || {
        for missing in ["missing", "a-name-that-is-too-long", ""] {
            let error = UserspaceDatapath::open(&["ext", missing], LIMITS).unwrap_err();
            let OpenDatapathError::NoInterface(name) = error else { panic!("{error}") };
            assert_eq!(name, missing);
        }
    });
}

#[test]
fn the_probe_asks_the_kernel() {
    let Some(lab) = Lab::build() else { return };
    let ip = {
        let namespace = lab.namespace(NODE);
        move |words: &str| {
            let words = words.split(' ');
            let status =
                std::process::Command::new("ip").args(["-n", &namespace]).args(words).status();
            assert!(status.unwrap().success());
        }
    };
    lab.within(NODE, move || {
        let mut datapath = UserspaceDatapath::open(&["ext", "int"], LIMITS).unwrap();
        // A carrier counts from when the kernel has announced it.
        while datapath.probe().is_err() {
            datapath.wait(Some(PATIENCE)).unwrap();
            datapath.receive(8, &mut |_| ()).unwrap();
        }
        ip("link set int down");
        assert_eq!(datapath.probe(), Err(ProbeError::PortDown("int".to_owned())));
        assert!(datapath.transmit(SERVER_PORT, &[0; 60], VnetHeader::default()));
        datapath.flush().unwrap();
        assert_eq!(datapath.counters(SERVER_PORT).transmit_drops, 1);
        ip("link del int");
        assert_eq!(datapath.probe(), Err(ProbeError::PortGone("int".to_owned())));
        // The other interface may still have had a frame of the host's own making.
        datapath.receive(8, &mut |_| ()).unwrap();
    });
}

#[test]
fn a_wake_ends_the_wait() {
    let Some(lab) = Lab::build() else { return };
    lab.within(NODE, || {
        let mut datapath = UserspaceDatapath::open(&[], LIMITS).unwrap();
        let waker = datapath.waker();
        let thread = std::thread::spawn(move || waker.wake());
        datapath.wait(None).unwrap();
        thread.join().unwrap();
    });
}
