//! A client behind a node, a server before it, and the node's own programs.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;

use crate::binaries;

/// Longer than anything here takes, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const SERVER: &str = "192.0.2.2:7000";

pub(crate) const CLIENT: &str = "client";
pub(crate) const NODE: &str = "node";
pub(crate) const OUTSIDE: &str = "server";

/// Namespaces, a folder and a bpf file system, which all go with this.
pub(crate) struct World {
    prefix: String,
    directory: PathBuf,
    /// The server's threads end with it.
    ended: Arc<AtomicBool>,
}

impl World {
    /// Builds all of it; `None` where namespace tests are not asked for.
    pub(crate) fn build() -> Option<Self> {
        static WORLDS: AtomicU32 = AtomicU32::new(0);
        if std::env::var_os("GABION_NETNS").is_none() {
            println!("skipped: set GABION_NETNS=1 and be root");
            return None;
        }
        let number = WORLDS.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("gab-restart-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(&prefix);
        std::fs::create_dir_all(directory.join("bpf")).unwrap();
        let world = Self { prefix, directory, ended: Arc::default() };
        let bpf = world.path("bpf").display().to_string();
        run("mount", &["-t", "bpf", "bpf", &bpf]);
        for name in [CLIENT, NODE, OUTSIDE] {
            run("ip", &["netns", "add", &world.namespace(name)]);
            world.ip(name, "link set lo up");
        }
        world.connect(CLIENT, "int", "10.0.0");
        world.connect(OUTSIDE, "ext", "192.0.2");
        world.serve();
        Some(world)
    }

    fn connect(&self, host: &str, interface: &str, network: &str) {
        let (node, namespace) = (self.namespace(NODE), self.namespace(host));
        let cable =
            format!("link add {interface} netns {node} type veth peer name eth0 netns {namespace}");
        run("ip", &cable.split(' ').collect::<Vec<_>>());
        self.ip(host, &format!("address add {network}.2/24 dev eth0"));
        self.ip(NODE, &format!("address add {network}.1/24 dev {interface}"));
        self.ip(host, "link set eth0 up");
        self.ip(NODE, &format!("link set {interface} up"));
        if host == CLIENT {
            self.ip(host, &format!("route add default via {network}.1"));
        }
    }

    /// Has hosts send frames as a wire would carry them, and take those of programs.
    pub(crate) fn carry_whole_frames(&self) {
        for name in [CLIENT, OUTSIDE] {
            let namespace = self.namespace(name);
            let settings = ["eth0", "tx", "off", "tso", "off", "gso", "off", "gro", "on"];
            run("ip", &[&["netns", "exec", &namespace, "ethtool", "-K"], &settings[..]].concat());
        }
    }

    /// Whether an XDP program is at an interface of the node's.
    pub(crate) fn has_xdp(&self, interface: &str) -> bool {
        self.ip(NODE, &format!("link show {interface}")).contains("xdp")
    }

    /// Has `ip` do something in a namespace.
    pub(crate) fn ip(&self, name: &str, words: &str) -> String {
        let namespace = self.namespace(name);
        run("ip", &[&["-n", &namespace], &*words.split(' ').collect::<Vec<_>>()].concat())
    }

    fn namespace(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
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
            move_into_link_name_space(namespace.as_fd(), kind).unwrap();
            work()
        })
    }

    /// What the server gets it sends back, over TCP and UDP.
    fn serve(&self) {
        let [tcp_ended, udp_ended] = [0, 1].map(|_| Arc::clone(&self.ended));
        self.spawn(OUTSIDE, move || {
            let listener = TcpListener::bind(SERVER).unwrap();
            listener.set_nonblocking(true).unwrap();
            while !tcp_ended.load(Ordering::Acquire) {
                match listener.accept() {
                    Ok((stream, _)) => drop(std::thread::spawn(move || echo(stream))),
                    Err(_) => std::thread::sleep(Duration::from_millis(5)),
                }
            }
        });
        self.spawn(OUTSIDE, move || {
            let socket = UdpSocket::bind(SERVER).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            let mut bytes = [0; 2048];
            while !udp_ended.load(Ordering::Acquire) {
                if let Ok((length, from)) = socket.recv_from(&mut bytes) {
                    let _ = socket.send_to(&bytes[..length], from);
                }
            }
        });
    }

    /// A new connection of the client's, or that there was none in the time.
    pub(crate) fn dial(&self, patience: Duration) -> Option<TcpStream> {
        let server: SocketAddr = SERVER.parse().unwrap();
        let dialled = self.spawn(CLIENT, move || TcpStream::connect_timeout(&server, patience));
        let stream = dialled.join().unwrap().ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Some(stream)
    }

    pub(crate) fn connected(&self) -> TcpStream {
        self.dial(PATIENCE).unwrap()
    }

    pub(crate) fn udp(&self) -> UdpSocket {
        self.udp_from(2)
    }

    /// Gives the client addresses besides its first.
    pub(crate) fn add_hosts(&self, hosts: std::ops::Range<u8>) {
        for host in hosts {
            self.ip(CLIENT, &format!("address add 10.0.0.{host}/24 dev eth0"));
        }
    }

    /// The same from one of the client's addresses.
    pub(crate) fn udp_from(&self, host: u8) -> UdpSocket {
        let bind = move || UdpSocket::bind(format!("10.0.0.{host}:0")).unwrap();
        let socket = self.spawn(CLIENT, bind).join().unwrap();
        socket.connect(SERVER).unwrap();
        socket
    }

    /// Starts the node, and waits until it answers.
    pub(crate) fn start(&self, settings: &str) -> Daemon {
        let log =
            std::fs::File::options().create(true).append(true).open(self.path("log")).unwrap();
        let mut child = self.gabiond(settings).stderr(log).spawn().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while self.health().is_none() {
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "{ended:?}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        Daemon(child)
    }

    /// The daemon with these settings besides those that it needs here.
    pub(crate) fn gabiond(&self, settings: &str) -> Command {
        let directory = self.directory.display();
        let guard = binaries().join("gabion-guard");
        let text = format!(
            "[node]\nname = \"t\"\nstate_dir = \"{directory}/state\"\npin_dir = \"{directory}/bpf/node\"\n{settings}\n\
             [interfaces]\next = \"ext\"\nint = \"int\"\n[metrics]\nlisten = \"\"\n\
             [log]\njson = \"{directory}/events.jsonl\"\n[api]\nunix_socket = \"{directory}/socket\"\n\
             [guard]\nprogram = \"{}\"\n",
            guard.display()
        );
        std::fs::write(self.path("gabiond.toml"), text).unwrap();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(NODE), "setpriv", "--pdeathsig", "KILL"]);
        command.arg(binaries().join("gabiond")).arg("--config").arg(self.path("gabiond.toml"));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    pub(crate) fn push(&self, policy: &str) {
        let file = self.path("policy.yaml");
        std::fs::write(&file, policy).unwrap();
        let output = self.gabion(&["push", file.to_str().unwrap()]);
        assert!(output.status.success(), "{output:?}\n{}", self.log());
    }

    pub(crate) fn await_ready(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.health().is_none_or(|health| health["ready"] != true) {
            assert!(Instant::now() < deadline, "{:?}\n{}", self.health(), self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn health(&self) -> Option<Value> {
        serde_json::from_slice(&self.gabion(&["show", "health", "--json"]).stdout).ok()
    }

    /// Where programs stand, of each interface, as the operator is told.
    pub(crate) fn hooks(&self) -> Value {
        let output = self.gabion(&["show", "counters", "--json"]);
        let counters: Value = serde_json::from_slice(&output.stdout).unwrap();
        let interfaces = counters["interfaces"].as_array().unwrap();
        interfaces.iter().map(|interface| interface["hooks"].clone()).collect()
    }

    /// Frames with which programs have done this, as the operator is told.
    pub(crate) fn done_by_kernel(&self, name: &str) -> u64 {
        let output = self.gabion(&["show", "counters", "--json"]);
        let counters: Value = serde_json::from_slice(&output.stdout).unwrap();
        let kernel = counters["kernel"].as_array().unwrap();
        let one = kernel.iter().find(|one| one["name"] == name).unwrap();
        assert!(one["help"].as_str().is_some_and(|help| help.ends_with('.')), "{one}");
        one["value"].as_u64().unwrap()
    }

    pub(crate) fn flows(&self) -> Vec<Value> {
        let output = self.gabion(&["show", "flows", "--json"]);
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The only flow of this protocol.
    pub(crate) fn flow(&self, protocol: &str) -> Value {
        let flows = self.flows();
        let mut found = flows.iter().filter(|flow| flow["protocol"] == protocol);
        let flow = found.next().cloned().unwrap_or_else(|| panic!("{flows:?}"));
        assert!(found.next().is_none(), "{flows:?}");
        flow
    }

    /// The same, once so many bytes have gone each way.
    pub(crate) fn flow_of_bytes(&self, protocol: &str, bytes: u64) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let flow = self.flow(protocol);
            let has_all = |side: &str| flow[side]["bytes"].as_u64().unwrap() >= bytes;
            if has_all("original") && has_all("reply") {
                return flow;
            }
            assert!(Instant::now() < deadline, "{flow}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn gabion(&self, words: &[&str]) -> std::process::Output {
        let mut command = Command::new(binaries().join("gabion"));
        command.args(words).arg("--socket").arg(self.path("socket"));
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// What the daemons have said, and what is in the event log.
    pub(crate) fn log(&self) -> String {
        let read = |name| std::fs::read_to_string(self.path(name)).unwrap_or_default();
        read("log") + &read("events.jsonl")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        for name in [CLIENT, NODE, OUTSIDE] {
            let namespace = self.namespace(name);
            let _ = Command::new("ip").args(["netns", "del", &namespace]).status();
        }
        let _ = Command::new("umount").arg(self.path("bpf")).status();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A process of this test's own, which does not outlive it.
pub(crate) struct Daemon(Child);

impl Daemon {
    pub(crate) fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// As a service manager does.
    pub(crate) fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn echo(mut stream: TcpStream) {
    let mut bytes = [0; 65_536];
    while let Ok(length @ 1..) = stream.read(&mut bytes) {
        if stream.write_all(&bytes[..length]).is_err() {
            return;
        }
    }
}

/// Sends so many bytes and gets the same back.
pub(crate) fn transfer(stream: &mut TcpStream, seed: u8, length: usize) {
    let sent: Vec<u8> = (0..length).map(|at| (at * 31 + at / 251) as u8 ^ seed).collect();
    let mut writer = stream.try_clone().unwrap();
    let bytes = sent.clone();
    let writing = std::thread::spawn(move || writer.write_all(&bytes));
    let mut back = vec![0; length];
    stream.read_exact(&mut back).unwrap();
    writing.join().unwrap().unwrap();
    assert!(back == sent, "not what was sent");
}

/// Whether an exchange succeeds in the time. A datagram may be lost, so it is sent again.
pub(crate) fn ask(socket: &UdpSocket, word: &[u8], times: u32) -> bool {
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut bytes = [0; 64];
    (0..times).any(|_| {
        socket.send(word).unwrap();
        // What comes late belongs to an earlier one.
        while let Ok(length) = socket.recv(&mut bytes) {
            if bytes[..length] == *word {
                return true;
            }
        }
        false
    })
}

fn run(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).stdin(Stdio::null()).output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {complaint}", words.join(" "));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
