//! A client and a server with a node between them, each in a namespace, and a bridge in the node.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use gabion_datapath::ebpf::{Afterlife, EbpfDatapath, FastPathLimits, HookChoice};
use gabion_datapath::{
    Datapath, Port, PortCounters, UserspaceDatapath, UserspaceLimits, VnetHeader, Waker,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Longer than anything here takes, on a busy machine too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const CLIENT: &str = "client";
pub(crate) const NODE: &str = "node";
pub(crate) const SERVER: &str = "server";

pub(crate) const CLIENT_PORT: Port = Port(0);
pub(crate) const SERVER_PORT: Port = Port(1);

pub(crate) const LIMITS: UserspaceLimits =
    UserspaceLimits { ring_mebibytes: 8, queue_bytes: 128 << 10 };

const INTERFACES: &[&str] = &["ext", "int"];

/// Namespaces that go when this goes.
pub(crate) struct Lab {
    prefix: String,
}

impl Lab {
    /// Builds the lab; `None` where namespace tests are not asked for.
    pub(crate) fn build() -> Option<Self> {
        static LABS: AtomicU32 = AtomicU32::new(0);
        if std::env::var_os("GABION_NETNS").is_none() {
            println!("skipped: set GABION_NETNS=1 and run as root");
            return None;
        }
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let lab = Self { prefix: format!("gab-dp-{}-{number}", std::process::id()) };
        for name in [CLIENT, NODE, SERVER] {
            run("ip", &["netns", "add", &lab.namespace(name)]);
            lab.sysctl(name, "net.ipv6.conf.default.accept_dad=0");
            lab.ip(name, "link set lo up");
        }
        lab.connect(CLIENT, "ext");
        lab.connect(SERVER, "int");
        Some(lab)
    }

    /// Joins a host to the node by a cable.
    pub(crate) fn connect(&self, host: &str, node_interface: &str) {
        let (node, namespace) = (self.namespace(NODE), self.namespace(host));
        let cable = format!(
            "link add {node_interface} netns {node} type veth peer name eth0 netns {namespace}"
        );
        run("ip", &cable.split(' ').collect::<Vec<_>>());
        let last = if host == CLIENT { 1 } else { 2 };
        self.ip(host, &format!("address add 198.51.100.{last}/24 dev eth0"));
        self.ip(host, &format!("address add 2001:db8::{last}/64 dev eth0 nodad"));
        self.ip(host, "link set eth0 up");
        self.ip(NODE, &format!("link set {node_interface} up"));
    }

    pub(crate) fn namespace(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    /// Runs `ip` with these words in a namespace.
    pub(crate) fn ip(&self, name: &str, words: &str) {
        let namespace = self.namespace(name);
        run("ip", &[&["-n", &namespace], &*words.split(' ').collect::<Vec<_>>()].concat());
    }

    /// Runs a program in a namespace.
    pub(crate) fn execute(&self, name: &str, words: &str) {
        let namespace = self.namespace(name);
        let words: Vec<&str> = words.split(' ').collect();
        run("ip", &[&["netns", "exec", &namespace], words.as_slice()].concat());
    }

    pub(crate) fn sysctl(&self, name: &str, setting: &str) {
        self.execute(name, &format!("sysctl -qw {setting}"));
    }

    /// Runs `work` in a thread of its own, in a namespace.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let path = format!("/run/netns/{}", self.namespace(name));
        std::thread::spawn(move || {
            let namespace = std::fs::File::open(path).unwrap();
            let kind = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), kind).unwrap();
            work()
        })
    }

    pub(crate) fn within<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        self.spawn(name, work).join().unwrap()
    }

    /// Joins the node's interfaces by the userspace datapath.
    pub(crate) fn bridge(&self) -> Bridge {
        self.bridge_by(|| UserspaceDatapath::open(INTERFACES, LIMITS).unwrap())
    }

    /// The same behind programs that know no flow, so that every packet is the bridge's.
    pub(crate) fn bridge_behind_programs(&self) -> Bridge {
        let tables = FastPathLimits { flows: 16, relays: 0, hops: 16, workers: 1 };
        let ends = Afterlife::default;
        self.bridge_by(move || {
            EbpfDatapath::open(INTERFACES, LIMITS, tables, [1, 2], ends(), HookChoice::Tc, None)
                .unwrap()
                .0
        })
    }

    fn bridge_by<D: Datapath>(&self, open: impl FnOnce() -> D + Send + 'static) -> Bridge {
        let (opened, waker) = sync_channel(1);
        let (tell, links) = sync_channel(64);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = self.spawn(NODE, move || {
            let mut datapath = open();
            opened.send(datapath.waker()).unwrap();
            run_bridge(&mut datapath, &stopped, &tell)
        });
        Bridge { waker: waker.recv_timeout(PATIENCE).unwrap(), stop, links, thread }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in [CLIENT, NODE, SERVER] {
            let namespace = self.namespace(name);
            let _ = Command::new("ip").args(["netns", "del", &namespace]).status();
        }
    }
}

/// A running bridge.
pub(crate) struct Bridge {
    waker: Waker,
    stop: Arc<AtomicBool>,
    /// Whether a port is up, whenever that changes.
    pub(crate) links: Receiver<(Port, bool)>,
    thread: JoinHandle<Seen>,
}

/// What the bridge has seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) counters: [PortCounters; 2],
    pub(crate) largest_frame: usize,
    pub(crate) superframes: u64,
    pub(crate) partial_checksums: u64,
}

impl Bridge {
    pub(crate) fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Release);
        self.waker.wake();
        self.thread.join().unwrap()
    }
}

fn run_bridge(
    datapath: &mut impl Datapath,
    stop: &AtomicBool,
    tell: &SyncSender<(Port, bool)>,
) -> Seen {
    let mut seen = Seen::default();
    let mut up = [CLIENT_PORT, SERVER_PORT].map(|port| datapath.port_up(port));
    while !stop.load(Ordering::Acquire) {
        datapath.wait(None).unwrap();
        datapath
            .receive(64, &mut |frames| {
                for frame in frames {
                    seen.largest_frame = seen.largest_frame.max(frame.bytes.len());
                    seen.superframes += u64::from(frame.vnet.gso_type != VnetHeader::GSO_NONE);
                    seen.partial_checksums +=
                        u64::from(frame.vnet.flags & VnetHeader::NEEDS_CHECKSUM != 0);
                    frame.out = Some(Port(1 - frame.from.0));
                }
            })
            .unwrap();
        datapath.flush().unwrap();
        for (port, before) in [CLIENT_PORT, SERVER_PORT].into_iter().zip(&mut up) {
            let now = datapath.port_up(port);
            if std::mem::replace(before, now) != now {
                // Few tests listen.
                let _ = tell.try_send((port, now));
            }
        }
    }
    seen.counters = [CLIENT_PORT, SERVER_PORT].map(|port| datapath.counters(port));
    seen
}

fn run(program: &str, words: &[&str]) {
    let output = Command::new(program).args(words).stdin(Stdio::null()).output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {complaint}", words.join(" "));
}
