//! Linux as a router in a namespace of its own, and another namespace with both its neighbours.
//!
//! ```text
//! outside ext0 --- ext [router: nftables, conntrack] int --- int0 inside
//! ```
//! What a packet became is known when a marker that was sent behind it has come out: one processor
//! does all of it, in order.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gabion_datapath::{
    Datapath as _, FrameMut, Port, UserspaceDatapath, UserspaceLimits, VnetHeader,
};
use gabion_engine::build;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::Router;
use super::script::{HOSTS, Side};

/// Longer than a marker takes, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(20);
const LIMITS: UserspaceLimits = UserspaceLimits { ring_mebibytes: 2, queue_bytes: 128 << 10 };
const MARKER_PORT: u16 = 9;

/// The policy of `ours.rs` in Linux's words. Markers pass untracked.
const RULES: &str = r"
table inet filter {
  chain early {
    type filter hook prerouting priority raw; policy accept;
    udp dport 9 notrack accept
    iifname ext ip saddr { 10.1.0.0/24, 198.51.100.1 } drop
    iifname ext ip6 saddr { 2600:2::/64, 2600:9::1 } drop
    iifname int ip saddr != 10.1.0.0/24 drop
    iifname int ip6 saddr != 2600:2::/64 drop
    iifname int ip saddr 10.1.0.1 drop
    fib daddr type { multicast, broadcast, anycast } drop
  }
  chain forward {
    type filter hook forward priority filter; policy drop;
    udp dport 9 accept
    ct state invalid drop
    ct state established,related accept
    iifname int oifname ext accept
    iifname ext oifname int tcp dport { 443, 22 } accept
    iifname ext oifname int udp dport 53 accept
    iifname ext oifname int icmp type echo-request accept
    iifname ext oifname int icmpv6 type echo-request accept
  }
  chain input {
    type filter hook input priority filter; policy drop;
  }
}
table ip nat {
  chain prerouting {
    type nat hook prerouting priority dstnat;
    iifname ext ip daddr 203.0.113.7 tcp dport 443 dnat to 10.1.0.10
    iifname ext ip daddr 203.0.113.7 udp dport 53 dnat to 10.1.0.10
  }
  chain postrouting {
    type nat hook postrouting priority srcnat;
    oifname ext ip saddr 10.1.0.0/24 masquerade
  }
}
";

/// Strict, as the engine is; nothing is logged and no answer is held back.
const SETTINGS: [&str; 14] = [
    "net.ipv4.ip_forward=1",
    "net.ipv6.conf.all.forwarding=1",
    "net.ipv4.conf.all.rp_filter=1",
    "net.ipv4.conf.default.rp_filter=1",
    "net.ipv4.conf.all.send_redirects=0",
    "net.ipv4.conf.default.send_redirects=0",
    "net.ipv4.icmp_ratelimit=0",
    "net.ipv6.icmp.ratelimit=0",
    "net.netfilter.nf_conntrack_tcp_loose=0",
    "net.netfilter.nf_conntrack_tcp_be_liberal=0",
    "net.netfilter.nf_conntrack_checksum=1",
    "net.ipv6.conf.default.accept_dad=0",
    "net.ipv6.conf.all.accept_ra=0",
    "net.ipv6.conf.all.addr_gen_mode=1",
];

/// The router and the thread that speaks for its neighbours.
#[derive(Debug)]
pub struct Linux {
    ask: Option<SyncSender<(Side, Vec<u8>)>>,
    told: Receiver<Vec<(Side, Vec<u8>)>>,
    thread: Option<JoinHandle<()>>,
    // Behind the thread: its sockets go first.
    _namespaces: Namespaces,
}

#[derive(Debug)]
struct Namespaces {
    router: String,
    around: String,
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in [&self.router, &self.around] {
            let _ = Command::new("ip").args(["netns", "del", name]).stderr(Stdio::null()).status();
        }
    }
}

impl Drop for Linux {
    fn drop(&mut self) {
        self.ask = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Linux {
    /// Builds the namespaces; `None` where namespace tests are not asked for.
    ///
    /// # Panics
    /// When they can not be made.
    pub fn build() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if std::env::var_os("GABION_NETNS").is_none() {
            println!("skipped: set GABION_NETNS=1 and run as root");
            return None;
        }
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = |role: &str| format!("gab-fuzz-{}-{count}-{role}", std::process::id());
        let namespaces = Namespaces { router: name("r"), around: name("n") };
        namespaces.build();
        let (ask, asked) = sync_channel::<(Side, Vec<u8>)>(1);
        let (tell, told) = sync_channel(1);
        let path = format!("/run/netns/{}", namespaces.around);
        let thread = std::thread::spawn(move || {
            let namespace = File::open(path).unwrap();
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            stay_on_one_processor();
            let mut neighbours = Neighbours::new();
            for (from, frame) in asked {
                if tell.send(neighbours.exchange(from, &frame)).is_err() {
                    return;
                }
            }
        });
        Some(Self { ask: Some(ask), told, thread: Some(thread), _namespaces: namespaces })
    }
}

impl Router for Linux {
    fn send(&mut self, from: Side, frame: &[u8]) -> (Vec<(Side, Vec<u8>)>, &'static str) {
        let ask = self.ask.as_ref().expect("taken only when dropped");
        ask.send((from, frame.to_vec())).expect("the thread lives");
        (self.told.recv().expect("the thread lives"), "linux")
    }
}

impl Namespaces {
    fn build(&self) {
        for name in [&self.around, &self.router] {
            run("ip", &["netns", "add", name], "");
        }
        let exec = |name: &str, words: &[&str]| {
            run("ip", &[&["netns", "exec", name], words].concat(), "");
        };
        // Neighbours say nothing of their own.
        exec(&self.around, &["sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1"]);
        run("ip", &["netns", "exec", &self.router, "nft", "-f", "-"], RULES);
        for setting in SETTINGS {
            exec(&self.router, &["sysctl", "-qw", setting]);
        }
        for (name, v4, v6) in
            [("ext", "198.51.100.1/24", "2600:9::1/64"), ("int", "10.1.0.1/24", "2600:2::1/64")]
        {
            let peer = format!("{name}0");
            self.ip(&format!(
                "link add {name} address 02:00:00:00:00:02 type veth peer name {peer} netns {}",
                self.around
            ));
            run("ip", &["-n", &self.around, "link", "set", &peer, "up"], "");
            self.ip(&format!("link set {name} up"));
            self.ip(&format!("address add {v4} dev {name}"));
            self.ip(&format!("address add {v6} dev {name} nodad"));
        }
        for (address, mac, side) in HOSTS {
            let device = if side == Side::Outside { "ext" } else { "int" };
            self.ip(&format!("neigh replace {address} lladdr {mac} dev {device} nud permanent"));
        }
        self.ip("route add blackhole 203.0.113.0/24");
    }

    fn ip(&self, words: &str) {
        let words: Vec<&str> = words.split(' ').collect();
        run("ip", &[&["-n", &self.router], words.as_slice()].concat(), "");
    }
}

/// A packet and its marker must not overtake one another.
fn stay_on_one_processor() {
    let mut set = rustix::thread::CpuSet::new();
    let here = rustix::thread::sched_getcpu();
    set.set(here);
    rustix::thread::sched_setaffinity(None, &set).unwrap();
}

struct Neighbours {
    datapath: UserspaceDatapath,
    markers: u32,
}

impl Neighbours {
    fn new() -> Self {
        let datapath = UserspaceDatapath::open(&["ext0", "int0"], LIMITS).unwrap();
        Self { datapath, markers: 0 }
    }

    /// Sends a frame and a marker from a side; all that has left the router until the marker does.
    fn exchange(&mut self, from: Side, frame: &[u8]) -> Vec<(Side, Vec<u8>)> {
        self.markers += 1;
        let number = self.markers.to_be_bytes();
        let (source, destination) = match from {
            Side::Outside => ("198.51.100.200", "10.1.0.200"),
            Side::Inside => ("10.1.0.200", "198.51.100.200"),
        };
        let port = |address: &str| format!("{address}:{MARKER_PORT}");
        let marker = build::udp().from(&port(source)).to(&port(destination)).payload(&number);
        let out = Port(from as u16);
        assert!(self.datapath.transmit(out, frame, VnetHeader::default()));
        assert!(self.datapath.transmit(out, &marker.frame(), VnetHeader::default()));
        self.datapath.flush().unwrap();
        let deadline = Instant::now() + PATIENCE;
        let mut left = Vec::new();
        let mut arrived = false;
        while !arrived {
            let patience = deadline.saturating_duration_since(Instant::now());
            assert!(!patience.is_zero(), "a marker was lost");
            self.datapath.wait(Some(patience)).unwrap();
            self.receive(number, &mut left, &mut arrived);
        }
        // What was answered before the marker passed lies in the other port's ring.
        self.receive(number, &mut left, &mut arrived);
        left
    }

    fn receive(&mut self, number: [u8; 4], left: &mut Vec<(Side, Vec<u8>)>, arrived: &mut bool) {
        let mut look = |FrameMut { from, bytes, .. }: &mut FrameMut<'_>| {
            let side = if from.0 == 0 { Side::Outside } else { Side::Inside };
            if bytes.len() >= 46 && bytes[36..38] == MARKER_PORT.to_be_bytes() && bytes[23] == 17 {
                *arrived |= bytes[42..46] == number;
            } else if bytes[0] & 1 == 0 && matches!(bytes[12..14], [8, 0] | [0x86, 0xdd]) {
                left.push((side, bytes.to_vec()));
            }
        };
        let handle = &mut |frames: &mut [FrameMut<'_>]| frames.iter_mut().for_each(&mut look);
        while self.datapath.receive(64, handle).unwrap() > 0 {}
    }
}

fn run(program: &str, words: &[&str], input: &str) {
    use std::io::Write as _;
    let mut child = Command::new(program)
        .args(words)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {complaint}", words.join(" "));
}
