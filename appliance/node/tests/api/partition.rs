//! Two daemons in namespaces of their own, joined by a cable that can be cut.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::cluster::{certificates, until};
use crate::rig::{Client, Home, connect};

/// Namespaces and daemons that go when this goes.
struct Lab {
    prefix: String,
    homes: [Home; 2],
    daemons: Vec<Child>,
}

impl Drop for Lab {
    fn drop(&mut self) {
        for daemon in &mut self.daemons {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        for node in [1, 2] {
            let namespace = self.namespace(node);
            let mut delete = Command::new("ip");
            let _ = delete.args(["netns", "del", &namespace]).stderr(Stdio::null()).status();
        }
    }
}

impl Lab {
    /// `None` where namespace tests are not asked for, or the guard has not been built.
    fn build() -> Option<Self> {
        if std::env::var_os("GABION_NETNS").is_none() {
            println!("skipped: set GABION_NETNS=1 and be root");
            return None;
        }
        static LABS: AtomicU32 = AtomicU32::new(0);
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("gab-wire-{}-{number}", std::process::id());
        let lab = Self { prefix, homes: [Home::new(), Home::new()], daemons: Vec::new() };
        certificates(&lab.homes[0].path("."));
        for node in [1, 2] {
            ip(&format!("netns add {}", lab.namespace(node)));
            lab.ip(node, "link set lo up");
            lab.ip(node, "link add name data type veth peer name nobody");
            lab.ip(node, "link set data up");
            lab.ip(node, "link set nobody up");
        }
        let [one, two] = [1, 2].map(|node| lab.namespace(node));
        ip(&format!("link add sync netns {one} type veth peer name sync netns {two}"));
        for node in [1, 2] {
            lab.ip(node, &format!("address add 10.9.0.{node}/24 dev sync"));
            lab.ip(node, "link set sync up");
        }
        Some(lab)
    }

    fn namespace(&self, node: usize) -> String {
        format!("{}-{node}", self.prefix)
    }

    fn ip(&self, node: usize, words: &str) {
        ip(&format!("-n {} {words}", self.namespace(node)));
    }

    /// The daemon's command, with this device as its data interface.
    fn command(&self, node: usize, device: &str) -> Command {
        let home = &self.homes[node - 1];
        let file = |name: String| self.homes[0].path(&name).display().to_string();
        let settings = home.settings(&format!(
            "[guard]\nprogram = \"{}\"\n[cluster]\nname = \"fw\"\nnode = {node}\n\
             members = [\"1=10.9.0.1\", \"2=10.9.0.2\"]\nca = \"{}\"\ncertificate = \"{}\"\nkey = \"{}\"\n",
            guard().display(),
            file("ca.pem".to_owned()),
            file(format!("{node}.pem")),
            file(format!("{node}.key")),
        ));
        let settings = settings
            .replace("datapath = \"null\"", "datapath = \"userspace\"")
            .replace("ext = \"eth1\"\nint = \"eth2\"", &format!("ext = \"{device}\""));
        let path = home.path("gabiond.toml");
        std::fs::write(&path, settings).unwrap();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(node)]);
        command.arg(env!("CARGO_BIN_EXE_gabiond")).arg("--config").arg(path);
        command
    }

    async fn start(&mut self, node: usize) -> Client {
        let daemon = self.command(node, "data").stderr(Stdio::null()).spawn().unwrap();
        self.daemons.push(daemon);
        let socket = self.homes[node - 1].socket();
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            let daemon = self.daemons.last_mut().unwrap();
            assert!(daemon.try_wait().unwrap().is_none(), "it has ended");
            tokio::task::yield_now().await;
        }
        connect(&socket).await
    }
}

fn ip(words: &str) {
    let status = Command::new("ip").args(words.split(' ')).status().unwrap();
    assert!(status.success(), "ip {words}");
}

/// Beside the daemon, as `make test` builds it.
fn guard() -> PathBuf {
    let guard = PathBuf::from(env!("CARGO_BIN_EXE_gabiond")).with_file_name("gabion-guard");
    assert!(guard.exists(), "{} is not there: `make test` builds it", guard.display());
    guard
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cable_that_is_cut_is_silence_and_ends_no_session() {
    let Some(mut lab) = Lab::build() else { return };
    let (mut one, mut two) = (lab.start(1).await, lab.start(2).await);
    let met = until(&mut one, |_, peer| peer.presence == "alive").await;
    assert_eq!(met.sync_mtu, 1_500);
    until(&mut two, |_, peer| peer.presence == "alive").await;
    lab.ip(1, "link set sync down");
    let cut = until(&mut one, |_, peer| peer.presence == "dead").await;
    assert!(cut.members[0].session.is_some(), "nobody says that its process has gone: {cut:?}");
    until(&mut two, |_, peer| peer.presence == "dead").await;
    lab.ip(1, "link set sync up");
    let healed = until(&mut one, |_, peer| peer.presence == "alive").await;
    assert_eq!((healed.view.as_slice(), healed.members[0].incarnation), (&[1, 2][..], 1));
    assert_eq!(healed.members[0].refused, 0, "{healed:?}");
    until(&mut two, |_, peer| peer.presence == "alive").await;
}

#[test]
fn members_do_not_speak_over_a_data_interface() {
    let Some(lab) = Lab::build() else { return };
    let output = lab.command(1, "sync").output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    let expected = "this node's address 10.9.0.1 is on sync, the data interface ext";
    assert!(!output.status.success() && text.contains(expected), "{text}");
}
