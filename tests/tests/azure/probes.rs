//! Azure's balancers probe from one address, whichever interface they come to.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, SocketAddrV6, TcpStream};
use std::os::fd::AsFd as _;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType, bind, connect, socket};

use super::DENY_ALL;
use crate::restart::world::{CLIENT, NODE, OUTSIDE, World};

/// Azure's balancers, resolvers and wire server are all of this address.
const AZURE: &str = "168.63.129.16";
const AZURE_V6: &str = "fe80::1234:5678:9abc";
const HTTP: u16 = 4_480;
const TCP: u16 = 4_481;
const PATIENCE: Duration = Duration::from_secs(30);
/// Of each interface, while the other is probed too.
const PROBES: usize = 20;

/// The node's addresses, and who is behind them.
const SIDES: [(&str, &str, &str); 2] =
    [(OUTSIDE, "192.0.2.1", "2001:db8:1::1"), (CLIENT, "10.0.0.1", "2001:db8:2::1")];

/// Both neighbours have Azure's address, and answer for it as a gateway does: not when asked on the link. The node
/// has a table for each interface, as the image sets them up, and one default route.
fn build() -> Option<World> {
    let world = World::build()?;
    for (place, (host, interface, gateway)) in
        [(OUTSIDE, "ext", "192.0.2"), (CLIENT, "int", "10.0.0")].into_iter().enumerate()
    {
        let (net, table) = (place + 1, 101 + place);
        world.ip(host, &format!("address add {AZURE}/32 dev lo"));
        world.ip(host, &format!("address add {AZURE_V6}/64 dev eth0 nodad"));
        world.ip(host, &format!("route add 2001:db8:{net}::/64 dev eth0"));
        set(&world, host, "eth0/arp_ignore", "1");
        world.ip(NODE, &format!("address add 2001:db8:{net}::1/64 dev {interface} nodad"));
        world.ip(NODE, &format!("route add default via {gateway}.2 dev {interface} table {table}"));
        world.ip(NODE, &format!("rule add oif {interface} lookup {table}"));
    }
    world.ip(NODE, "route add default via 192.0.2.2 dev ext");
    Some(world)
}

fn set(world: &World, host: &str, setting: &str, value: &'static str) {
    let path = format!("/proc/sys/net/ipv4/conf/{setting}");
    world.spawn(host, move || std::fs::write(path, value).unwrap()).join().unwrap();
}

fn dial(from: SocketAddr, to: SocketAddr) -> TcpStream {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket(family, SocketType::STREAM, None).unwrap();
    bind(socket.as_fd(), &from).unwrap();
    let stream = TcpStream::from(socket);
    // Before it is connected, or a lost answer would hold the test up for minutes.
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    connect(stream.as_fd(), &to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// What a probe is answered.
fn ask(from: SocketAddr, to: SocketAddr) -> String {
    let mut stream = dial(from, to);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: probe\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Probes both interfaces at once, by HTTP and TCP.
fn probe_both(world: &World) {
    let threads = SIDES.map(|(host, v4, v6)| {
        world.spawn(host, move || {
            let scope = index_of("eth0").unwrap();
            let from_v6 = SocketAddrV6::new(AZURE_V6.parse().unwrap(), 0, 0, scope).into();
            let from = SocketAddr::new(AZURE.parse().unwrap(), 0);
            for _ in 0..PROBES {
                for (from, to) in [(from, v4), (from_v6, v6)] {
                    let to = |port| SocketAddr::new(to.parse().unwrap(), port);
                    let answer = ask(from, to(HTTP));
                    assert!(answer.starts_with("HTTP/1.1 200 "), "{to:?}: {answer}", to = to(HTTP));
                    // Opened and closed in order, never reset.
                    let mut stream = dial(from, to(TCP));
                    stream.shutdown(std::net::Shutdown::Write).unwrap();
                    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
                }
            }
        })
    });
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// The kernel's number of an interface of this thread's namespace; /sys shows that of the process.
fn index_of(name: &str) -> Option<u32> {
    let table = std::fs::read_to_string("/proc/thread-self/net/if_inet6").ok()?;
    let line = table.lines().find(|line| line.ends_with(&format!(" {name}")))?;
    u32::from_str_radix(line.split(' ').nth(1)?, 16).ok()
}

#[test]
fn probes_of_one_address_are_answered_by_the_interface_they_came_to() {
    let Some(world) = build() else { return };
    for datapath in ["userspace", "ebpf"] {
        let daemon = world.start(&format!("datapath = \"{datapath}\"\n[limits]\nflows = 4096"));
        world.push(DENY_ALL);
        world.await_ready();
        probe_both(&world);
        // Loose and strict checks of the way back: an answer by the same interface satisfies both.
        for check in ["1", "2", "0"] {
            set(&world, NODE, "ext/rp_filter", check);
            set(&world, NODE, "int/rp_filter", if check == "1" { "2" } else { check });
            probe_both(&world);
        }
        daemon.stop();
    }
}

/// Whether a connection that is open has timestamps, as the host that opened it sees it.
fn has_timestamps(world: &World) -> bool {
    let (host, v4, _) = SIDES[0];
    let opened = world.spawn(host, move || {
        dial(SocketAddr::new(AZURE.parse().unwrap(), 0), SocketAddr::new(v4.parse().unwrap(), HTTP))
    });
    let stream = opened.join().unwrap();
    let filter = format!("( dport = :{HTTP} )");
    let seen = world.spawn(host, move || {
        std::process::Command::new("ss").args(["-t", "-i", "-n", "-H", &filter]).output().unwrap()
    });
    let seen = String::from_utf8(seen.join().unwrap().stdout).unwrap();
    drop(stream);
    // They take twelve bytes of each segment (RFC 7323 section 3.2).
    match seen.split_whitespace().find_map(|word| word.strip_prefix("advmss:")) {
        Some("1448") => true,
        Some("1460") => false,
        _ => panic!("{seen}"),
    }
}

/// Azure warns of probes while TCP timestamps are on. A listener has no say of its own: it is the host's setting, which counts from the
/// next connection on.
#[test]
fn probes_are_answered_without_timestamps_once_the_host_says_so() {
    let Some(world) = build() else { return };
    let daemon = world.start("datapath = \"userspace\"\n[limits]\nflows = 4096");
    world.push(DENY_ALL);
    world.await_ready();
    set(&world, NODE, "../tcp_timestamps", "1");
    assert!(has_timestamps(&world));
    set(&world, NODE, "../tcp_timestamps", "0");
    assert!(!has_timestamps(&world));
    daemon.stop();
}
