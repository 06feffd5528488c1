//! The network's files in the hands of systemd-networkd, between interfaces where DHCP answers as Azure's does. Root with
//! `GABION_NETNS=1`, systemd-networkd and dnsmasq.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Read as _;
use std::net::{Ipv4Addr, TcpStream};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use gabion_provision::document::FirstBoot;
use gabion_provision::network::{self, Platform};
use gabion_provision::plan::Devices;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tempfile::TempDir;

const NODE: &str = "gab-fb-node";
const CLOUD: &str = "gab-fb-cloud";
const NETWORKD: &str = "/lib/systemd/systemd-networkd";
const PROBE: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);
const PORT: u16 = 4480;

const DATA: &str = "\
apiVersion: gabion/first-boot/v1
interfaces: { mgmt: eth0, ext: eth1, int: eth2 }
routes:
  - { to: 0.0.0.0/0, out: ext }
  - { to: 10.8.0.0/16, out: int }
";

/// Both namespaces and who runs in them.
struct World {
    children: Vec<Child>,
    scratch: TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        for namespace in [NODE, CLOUD] {
            let _ = Command::new("ip").args(["netns", "del", namespace]).output();
        }
    }
}

fn ip(arguments: &str) -> String {
    let Output { status, stdout, stderr } =
        Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

fn inside(namespace: &str, shell: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace, "sh", "-c", shell]);
    command
}

impl World {
    fn build() -> Option<Self> {
        let is_there = |path: &str| Path::new(path).exists();
        if std::env::var_os("GABION_NETNS").is_none() || !is_there(NETWORKD) {
            eprintln!("skipped: GABION_NETNS is not set, or {NETWORKD} is not there");
            return None;
        }
        let mut world = Self { children: Vec::new(), scratch: tempfile::tempdir().unwrap() };
        for namespace in [NODE, CLOUD] {
            let _ = Command::new("ip").args(["netns", "del", namespace]).output();
            ip(&format!("netns add {namespace}"));
            ip(&format!("-n {namespace} link set lo up"));
        }
        ip(&format!("-n {CLOUD} addr add {PROBE}/32 dev lo"));
        let mut dnsmasq = String::from("exec dnsmasq -d -p 0 --leasefile-ro --bind-interfaces");
        for number in 0..3 {
            let (device, link) = (format!("eth{number}"), format!("cloud{number}"));
            ip(&format!("link add {device} netns {NODE} type veth peer name {link} netns {CLOUD}"));
            ip(&format!("-n {CLOUD} addr add 10.{number}.0.1/24 dev {link}"));
            ip(&format!("-n {CLOUD} link set {link} up"));
            // An answer that comes by another interface than the question left by is dropped.
            let strict = format!("echo 1 > /proc/sys/net/ipv4/conf/{link}/rp_filter");
            assert!(inside(CLOUD, &strict).status().unwrap().success());
            let gateway = format!("10.{number}.0.1");
            dnsmasq += &format!(
                " -i {link} --dhcp-range=set:n{number},10.{number}.0.4,10.{number}.0.4 --dhcp-option=tag:n{number},3,{gateway} \
                 --dhcp-option=tag:n{number},121,0.0.0.0/0,{gateway},{PROBE}/32,{gateway},169.254.169.254/32,{gateway}"
            );
        }
        world.children.push(inside(CLOUD, &dnsmasq).stderr(Stdio::null()).spawn().unwrap());
        world.start_networkd();
        Some(world)
    }

    /// In a mount namespace with a `/run` of its own, and a `/sys` that says that udev is not there.
    fn start_networkd(&mut self) {
        let first = FirstBoot::read(DATA.as_bytes()).unwrap();
        for file in network::files(&first, Platform::Azure) {
            let name = file.path.file_name().unwrap();
            let text = network::with_names(&file.text, &Devices::new());
            fs::write(self.scratch.path().join(name), text).unwrap();
        }
        let shell = format!(
            "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/network /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp \
             && cp {}/*.network /run/systemd/network/ && mount -o remount,ro,bind /sys && exec {NETWORKD}",
            self.scratch.path().display()
        );
        let mut command = Command::new("ip");
        command.args(["netns", "exec", NODE, "unshare", "-m", "sh", "-c", &shell]);
        command.env("SYSTEMD_LOG_LEVEL", "info").env_remove("NOTIFY_SOCKET");
        let log = fs::File::create(self.log()).unwrap();
        self.children.push(command.stderr(log).spawn().unwrap());
    }

    fn log(&self) -> std::path::PathBuf {
        self.scratch.path().join("log")
    }

    /// Waits until every interface has what the cloud offers.
    fn await_routes(&self) {
        let begun = Instant::now();
        let is_there = || {
            let main = ip(&format!("-n {NODE} -4 route show table main"));
            let tables = (1000..1003).map(|table| {
                let show = format!("-n {NODE} -4 route show table {table}");
                let shown = Command::new("ip").args(show.split_whitespace()).output().unwrap();
                String::from_utf8(shown.stdout).unwrap()
            });
            main.lines().count() >= 2 && tables.into_iter().all(|table| table.contains("default"))
        };
        while !is_there() {
            assert!(begun.elapsed() < Duration::from_secs(60), "{}", self.told());
            std::thread::yield_now();
        }
    }

    fn told(&self) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let show = |what: &str| {
            let shown = Command::new("ip").args(["-n", NODE, "-4"]).args(what.split(' ')).output();
            String::from_utf8_lossy(&shown.unwrap().stdout).into_owned()
        };
        format!("{log}\n{}\n{}", show("rule show"), show("route show table all"))
    }

    fn way(&self, arguments: &str) -> String {
        ip(&format!("-n {NODE} -4 route get {arguments}"))
    }
}

/// Runs something on a thread that is in a namespace.
fn in_namespace<T: Send + 'static>(name: &str, run: impl FnOnce() -> T + Send + 'static) -> T {
    let file = fs::File::open(format!("/var/run/netns/{name}")).unwrap();
    let thread = std::thread::spawn(move || {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        run()
    });
    thread.join().unwrap()
}

/// A listener as gabiond's probes have it, that hangs up on one client.
fn listen_on(device: &'static str) -> std::thread::JoinHandle<()> {
    let listener = in_namespace(NODE, move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind_device(Some(device.as_bytes())).unwrap();
            socket.bind((Ipv4Addr::UNSPECIFIED, PORT).into()).unwrap();
            let listener = socket.listen(4).unwrap().into_std().unwrap();
            listener.set_nonblocking(false).unwrap();
            listener
        })
    });
    std::thread::spawn(move || drop(listener.accept().unwrap()))
}

#[test]
fn what_the_host_says_leaves_by_its_own_tables_and_forwarding_has_main() {
    let Some(world) = World::build() else { return };
    world.await_routes();
    let main = ip(&format!("-n {NODE} -4 route show table main"));
    let mut routes: Vec<&str> =
        main.lines().map(|line| line.split(" proto").next().unwrap()).collect();
    routes.sort_unstable();
    let expected = ["10.8.0.0/16 via 10.2.0.1 dev eth2", "default via 10.1.0.1 dev eth1"];
    assert_eq!(routes, expected, "{}", world.told());

    // What the host says of its own accord, and what it answers by its management interface.
    for to in ["192.0.2.1", "168.63.129.16", "10.8.0.1", "192.0.2.1 from 10.0.0.4"] {
        assert!(world.way(to).contains("via 10.0.0.1 dev eth0"), "{to}: {}", world.told());
    }
    for number in 1..3 {
        let way = world.way(&format!("{PROBE} oif eth{number}"));
        assert!(way.contains(&format!("via 10.{number}.0.1 dev eth{number}")), "{way}");
        let way = world.way(&format!("10.{number}.0.9 oif eth{number}"));
        assert!(!way.contains("via"), "it is on the link: {way}");
    }

    // A probe of each interface, all from one address.
    for (number, device) in ["eth0", "eth1", "eth2"].into_iter().enumerate() {
        let listener = listen_on(device);
        let answer = in_namespace(CLOUD, move || {
            let to = (Ipv4Addr::new(10, u8::try_from(number).unwrap(), 0, 4), PORT).into();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let stream = runtime.unwrap().block_on(async {
                let socket = tokio::net::TcpSocket::new_v4().unwrap();
                socket.bind((PROBE, 0).into()).unwrap();
                let connecting = tokio::time::timeout(Duration::from_secs(10), socket.connect(to));
                connecting.await.unwrap().unwrap().into_std().unwrap()
            });
            stream.set_nonblocking(false).unwrap();
            let mut stream: TcpStream = stream;
            stream.read(&mut [0]).unwrap()
        });
        assert_eq!(answer, 0, "{device}");
        listener.join().unwrap();
    }
}
