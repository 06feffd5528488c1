//! A client, a server and a management station, with the host between them; all are namespaces.
//!
//! ```text
//! client 10.1.0.2 --- eth1 10.1.0.1 [host] eth2 10.2.0.1 --- 10.2.0.2 server
//!                              eth0 10.0.0.1 --- 10.0.0.2 management
//! ```

use std::collections::BTreeSet;
use std::fs::File;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::num::NonZero;
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// How long to wait for what must come before the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) const HEALTH_PORT: u16 = 4480;
const CLOSED_PORT: u16 = 9;

pub(crate) struct Network {
    names: Namespaces,
    /// Listens on the host's health port; nobody needs to accept for a connection to be made.
    _health: TcpListener,
}

impl Network {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("gab-guard-{}-{count}", std::process::id());
        // Removed if what follows fails.
        let names = Namespaces(prefix);
        for role in ROLES {
            command(&["ip", "netns", "add", &names.of(role)]);
            names.ip(role, "link set lo up");
        }
        names.connect();
        let health = inside(&names.of(HOST), || {
            for path in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                std::fs::write(format!("/proc/sys/net/{path}"), "1").unwrap();
            }
            TcpListener::bind((Ipv6Addr::UNSPECIFIED, HEALTH_PORT)).unwrap()
        });
        Self { names, _health: health }
    }

    pub(crate) fn host(&self) -> &'static str {
        HOST
    }

    /// A command that runs in the namespace of a role.
    pub(crate) fn command(&self, role: &str, words: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.names.of(role)]).args(words);
        command
    }

    /// Runs a command in the namespace of a role, and gives what it prints.
    pub(crate) fn run(&self, role: &str, words: &[&str]) -> String {
        let output = self.command(role, words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Removes the host's data devices and makes them again, by the same names.
    pub(crate) fn make_data_devices_anew(&self) {
        for device in ["eth1", "eth2"] {
            self.names.ip(HOST, &format!("link del {device}"));
        }
        self.names.connect_data();
    }

    /// What the kernel does unless it is kept from it; shows that the probes are good for something.
    pub(crate) fn kernel_forwards_and_answers(&self) {
        let mut client = Sniffer::new(&self.names.of(CLIENT));
        let _sockets = self.probe();
        client.wait_for(&[
            "10.2.0.2 icmp 0",
            "10.2.0.2 icmp 3",
            "10.2.0.2 tcp 9 rst",
            "10.1.0.1 icmp 0",
            "10.1.0.1 icmp 3",
            "10.1.0.1 tcp 9 rst",
            "fd00:2::2 icmp6 129",
            "fd00:2::2 icmp6 1",
            "fd00:2::2 tcp 9 rst",
            "fd00:1::1 icmp6 129",
            "fd00:1::1 icmp6 1",
            "fd00:1::1 tcp 9 rst",
        ]);
    }

    /// Nothing crosses the host, and nothing comes from it but health, ARP and ND.
    pub(crate) fn kernel_is_silent(&self) {
        // Then neighbours must be found anew.
        for (role, device) in [(CLIENT, "c0"), (HOST, "eth1"), (HOST, "eth2"), (SERVER, "s0")] {
            self.names.ip(role, &format!("neigh flush dev {device}"));
        }
        // With neighbours known, or else the probes would not leave the client.
        self.health_answers();
        let mut client = Sniffer::new(&self.names.of(CLIENT));
        let mut server = Sniffer::new(&self.names.of(SERVER));
        let _sockets = self.probe();
        self.health_answers();
        for sniffer in [&mut client, &mut server] {
            let health = format!("{} tcp {HEALTH_PORT}", sniffer.neighbour);
            let seen = sniffer.drain();
            let strange: Vec<_> = seen.iter().filter(|what| !is_the_hosts_own(what)).collect();
            assert!(strange.is_empty(), "{strange:?} of {seen:?}");
            assert!(seen.contains(&health), "{seen:?}");
        }
    }

    /// The management station reaches the host, but no data network.
    pub(crate) fn management_is_untouched(&self) {
        let mut management = Sniffer::new(&self.names.of(MANAGEMENT));
        let mut client = Sniffer::new(&self.names.of(CLIENT));
        inside(&self.names.of(MANAGEMENT), || {
            ping("10.1.0.2");
            ping("10.0.0.1");
        });
        management.wait_for(&["10.0.0.1 icmp 0"]);
        self.health_answers();
        assert!(!client.drain().contains("10.0.0.2 icmp 8"), "{:?}", client.seen);
    }

    /// Sends from the client what the host could forward or answer. The sockets stay open, since one
    /// that is closed no longer hears.
    fn probe(&self) -> Vec<OwnedFd> {
        inside(&self.names.of(CLIENT), || {
            let mut sockets = Vec::new();
            for address in ["10.1.0.1", "10.2.0.2", "fd00:1::1", "fd00:2::2"] {
                let target: IpAddr = address.parse().unwrap();
                ping(address);
                sockets.push(begin_connect(SocketAddr::new(target, CLOSED_PORT)));
                let any: IpAddr = match target {
                    IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                    IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
                };
                let udp = UdpSocket::bind((any, 0)).unwrap();
                udp.send_to(b"anybody?", (target, CLOSED_PORT)).unwrap();
                sockets.push(udp.into());
            }
            sockets
        })
    }

    /// Health is asked from both sides over both families; the answers come after all that was before.
    fn health_answers(&self) {
        for (role, addresses) in
            [(CLIENT, ["10.1.0.1", "fd00:1::1"]), (SERVER, ["10.2.0.1", "fd00:2::1"])]
        {
            inside(&self.names.of(role), || {
                for address in addresses {
                    let address = SocketAddr::new(address.parse().unwrap(), HEALTH_PORT);
                    TcpStream::connect_timeout(&address, PATIENCE).unwrap();
                }
            });
        }
    }
}

const HOST: &str = "h";
const CLIENT: &str = "c";
const SERVER: &str = "s";
const MANAGEMENT: &str = "m";
const ROLES: [&str; 4] = [HOST, CLIENT, SERVER, MANAGEMENT];

/// The address of the host's end of every link, by which its frames are known.
const HOST_MAC: &str = "02:00:00:00:00:01";

/// Namespaces whose names begin alike; they go when this does.
struct Namespaces(String);

impl Namespaces {
    fn of(&self, role: &str) -> String {
        format!("{}-{role}", self.0)
    }

    fn ip(&self, role: &str, words: &str) {
        let namespace = self.of(role);
        let words: Vec<&str> = words.split(' ').collect();
        command(&[&["ip", "-n", &namespace], words.as_slice()].concat());
    }

    fn connect(&self) {
        self.link("eth0", 0, MANAGEMENT, "m0");
        self.connect_data();
    }

    fn connect_data(&self) {
        self.link("eth1", 1, CLIENT, "c0");
        self.link("eth2", 2, SERVER, "s0");
    }

    fn link(&self, device: &str, network: u8, role: &str, peer: &str) {
        let namespace = self.of(role);
        self.ip(
            HOST,
            &format!(
                "link add {device} address {HOST_MAC} type veth peer name {peer} netns {namespace}"
            ),
        );
        for (role, device, host) in [(HOST, device, 1), (role, peer, 2)] {
            self.ip(role, &format!("addr add 10.{network}.0.{host}/24 dev {device}"));
            self.ip(role, &format!("addr add fd00:{network}::{host}/64 dev {device} nodad"));
            self.ip(role, &format!("link set {device} up"));
        }
        self.ip(role, &format!("route add default via 10.{network}.0.1"));
        self.ip(role, &format!("route add default via fd00:{network}::1"));
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for role in ROLES {
            let _ = Command::new("ip").args(["netns", "del", &self.of(role)]).output();
        }
    }
}

fn command(words: &[&str]) {
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Does something in a namespace; sockets that are made there stay there.
fn inside<T: Send>(namespace: &str, act: impl FnOnce() -> T + Send) -> T {
    let file = File::open(format!("/run/netns/{namespace}")).unwrap();
    thread::scope(|scope| {
        let enter = || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            act()
        };
        scope.spawn(enter).join().unwrap()
    })
}

fn begin_connect(to: SocketAddr) -> OwnedFd {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = net::socket_with(family, SocketType::STREAM, flags, None).unwrap();
    assert_eq!(net::connect(&socket, &to), Err(rustix::io::Errno::INPROGRESS));
    socket
}

/// Sends an echo request, and waits for nothing.
fn ping(to: &str) {
    let to: IpAddr = to.parse().unwrap();
    // Type, code, checksum, identifier and sequence number 1; the kernel fills ICMPv6's checksum in.
    let (family, protocol, packet) = match to {
        IpAddr::V4(_) => (AddressFamily::INET, net::ipproto::ICMP, [8, 0, 0xf7, 0xfd, 0, 1, 0, 1]),
        IpAddr::V6(_) => (AddressFamily::INET6, net::ipproto::ICMPV6, [128, 0, 0, 0, 0, 1, 0, 1]),
    };
    let socket =
        net::socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, Some(protocol)).unwrap();
    net::sendto(&socket, &packet, SendFlags::empty(), &SocketAddr::new(to, 0)).unwrap();
}

/// Hears the frames that the host sends into a namespace.
struct Sniffer {
    socket: OwnedFd,
    /// The host's address on this link.
    neighbour: IpAddr,
    seen: BTreeSet<String>,
}

impl Sniffer {
    fn new(namespace: &str) -> Self {
        // ETH_P_ALL, in network order.
        let all = net::Protocol::from_raw(NonZero::new(u32::from(3u16.to_be())).unwrap());
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let open = || net::socket_with(AddressFamily::PACKET, SocketType::RAW, flags, Some(all));
        let network = match namespace.rsplit('-').next().unwrap() {
            CLIENT => 1,
            SERVER => 2,
            _ => 0,
        };
        Self {
            socket: inside(namespace, open).unwrap(),
            neighbour: Ipv4Addr::new(10, network, 0, 1).into(),
            seen: BTreeSet::new(),
        }
    }

    /// All that has come up to now.
    fn drain(&mut self) -> &BTreeSet<String> {
        let mut frame = [0; 2048];
        loop {
            match net::recv(&self.socket, &mut frame, RecvFlags::empty()) {
                Ok((n, _)) => self.seen.extend(describe(&frame[..n])),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    return &self.seen;
                }
            }
        }
    }

    fn wait_for(&mut self, expected: &[&str]) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = self.drain();
            let missing: Vec<_> = expected.iter().filter(|e| !seen.contains(**e)).collect();
            if missing.is_empty() {
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{missing:?} never came; seen: {seen:?}");
            let left = left.try_into().unwrap();
            poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&left)).unwrap();
        }
    }
}

fn is_the_hosts_own(what: &str) -> bool {
    let (_, what) = what.split_once(' ').unwrap();
    what == format!("tcp {HEALTH_PORT}") || (133..=137).any(|kind| what == format!("icmp6 {kind}"))
}

/// Who sent an IP packet and what it is, if the host put it on the link.
fn describe(frame: &[u8]) -> Option<String> {
    let mac: Vec<_> = frame.get(6..12)?.iter().map(|byte| format!("{byte:02x}")).collect();
    if mac.join(":") != HOST_MAC {
        return None;
    }
    let packet = &frame[14..];
    let (source, protocol, body): (IpAddr, _, _) = match frame[12..14] {
        [0x08, 0x00] => {
            let source: [u8; 4] = packet[12..16].try_into().unwrap();
            (source.into(), packet[9], &packet[usize::from(packet[0] & 15) * 4..])
        }
        [0x86, 0xdd] => {
            let source: [u8; 16] = packet[8..24].try_into().unwrap();
            (source.into(), packet[6], &packet[40..])
        }
        _ => return None,
    };
    Some(match protocol {
        1 => format!("{source} icmp {}", body[0]),
        58 => format!("{source} icmp6 {}", body[0]),
        6 => {
            let reset = if body[13] & 4 == 0 { "" } else { " rst" };
            format!("{source} tcp {}{reset}", u16::from_be_bytes([body[0], body[1]]))
        }
        other => format!("{source} protocol {other}"),
    })
}
