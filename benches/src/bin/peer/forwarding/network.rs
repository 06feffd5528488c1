//! Client, server and what stands between them. Nodes, where there are two, are on the same way in both cases:
//!
//! ```text
//!   plain     client ── one ── two ── server                     each node alone, all packets through both
//!   wrapped   client ── one ══ two ── server    and back:        a cluster; `two` owns the connection, as its SYN goes
//!             server ── one ══ two ── client                     there, and all else comes to `one` from either side
//! ```
//!
//! Once more with a link between the nodes that carries what they put before a packet: the hosts' packets are then as
//! long as in `plain`.

use std::fs;

use anyhow::Context as _;
use tempfile::TempDir;

use crate::Interrupt;
use crate::arms::{Appliance, Gabiond, find};
use crate::lab::{CLIENT_ADDRESS, Lab, PREFIX, Place, SERVER_ADDRESS, add, settle, sysctl};
use crate::load::{self, IPERF_PORT};
use crate::process::{Running, run, run_line};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Hop,
    TwoHops,
    Single,
    Plain,
    Wrapped,
    WrappedWide,
    Control,
}

impl Way {
    pub(super) const ALL: [Self; 7] = [
        Self::Hop,
        Self::TwoHops,
        Self::Single,
        Self::Plain,
        Self::Wrapped,
        Self::WrappedWide,
        Self::Control,
    ];

    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Hop => "hop",
            Self::TwoHops => "two-hops",
            Self::Single => "single",
            Self::Plain => "plain",
            Self::Wrapped => "wrapped",
            Self::WrappedWide => "wide",
            Self::Control => "control",
        }
    }

    pub(super) const fn is_what(self) -> &'static str {
        match self {
            Self::Hop => "the kernel forwards",
            Self::TwoHops => "the kernel forwards twice",
            Self::Single => "one node",
            Self::Plain => "two nodes in a row, each alone",
            Self::Wrapped => "two nodes in a row, the first hands all to the second",
            Self::WrappedWide => "the same by a link that carries longer packets",
            Self::Control => "plain again",
        }
    }

    pub(super) const fn is_kernel(self) -> bool {
        matches!(self, Self::Hop | Self::TwoHops)
    }

    /// Whether one node hands all to the other.
    pub(super) const fn is_wrapped(self) -> bool {
        matches!(self, Self::Wrapped | Self::WrappedWide)
    }

    const fn has_two(self) -> bool {
        !matches!(self, Self::Hop | Self::Single)
    }
}

/// One way from client to server, ready to carry load.
#[derive(Debug)]
pub(super) struct Arm {
    pub(super) way: Way,
    pub(super) place: Place,
    /// Before the certificates that they use.
    _nodes: Vec<Gabiond>,
    _pki: Option<TempDir>,
    _iperf: Running,
    one: String,
}

impl Arm {
    pub(super) fn set_up(
        _lab: &Lab,
        way: Way,
        policy: &str,
        appliance: &Appliance,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Self> {
        let name = |role: &str| format!("{PREFIX}{}-{role}", way.label());
        let [client, one, two, server] = ["client", "one", "two", "server"].map(name);
        let place = Place { client, node: two, server, takes_early: false };
        build(way, &place, &one)?;
        let mut nodes = Vec::new();
        let mut pki = None;
        match way {
            Way::Hop | Way::TwoHops => {
                for node in [&one, &place.node] {
                    sysctl(node, "net.ipv4.ip_forward=1")?;
                }
            }
            Way::Single | Way::Plain | Way::Control => {
                let wanted = [Some(&place.node), Some(&one).filter(|_| way.has_two())];
                for node in wanted.into_iter().flatten() {
                    nodes.push(Gabiond::start(node, "", policy, appliance, interrupt)?);
                }
            }
            Way::Wrapped | Way::WrappedWide => {
                let made = certificates(appliance)?;
                for (number, node) in [(1, &one), (2, &place.node)] {
                    let more = membership(number, &made);
                    nodes.push(Gabiond::start(node, &more, policy, appliance, interrupt)?);
                }
                pki = Some(made);
            }
        }
        let port = IPERF_PORT.to_string();
        let words = ["iperf3", "-s", "-p", &port];
        let iperf = Running::start(&place.server, &words, std::process::Stdio::null())?;
        load::wait_until_reachable(&place, interrupt)
            .with_context(|| format!("arm {}: the server can not be reached", way.label()))?;
        Ok(Self { way, place, _nodes: nodes, _pki: pki, _iperf: iperf, one })
    }

    /// How many packets the nodes have handed to each other, superframes once: frames of the link between them.
    pub(super) fn wrapped(&self) -> anyhow::Result<u64> {
        if !self.way.is_wrapped() {
            return Ok(0);
        }
        let path = "/sys/class/net/peers/statistics/tx_packets";
        let text = run("ip", &["netns", "exec", &self.one, "cat", path])?;
        text.trim().parse().context("the kernel does not say how much was handed over")
    }
}

fn build(way: Way, place: &Place, one: &str) -> anyhow::Result<()> {
    let Place { client, node: two, server, .. } = place;
    for namespace in [client, one, two, server] {
        add(namespace)?;
    }
    for host in [client, server] {
        for scope in ["all", "default"] {
            sysctl(host, &format!("net.ipv4.conf.{scope}.rp_filter=0"))?;
        }
    }
    cable(server, "eth0", SERVER_ADDRESS, two, "ext", "203.0.113.1")?;
    if !way.has_two() {
        cable(client, "eth0", CLIENT_ADDRESS, two, "int", "10.1.0.1")?;
    } else {
        cable(client, "eth0", CLIENT_ADDRESS, one, "int", "10.1.0.1")?;
    }
    let route = |namespace: &str, words: &str| {
        run_line(&format!("ip -n {namespace} route add {words}")).map(drop)
    };
    route(client, "default via 10.1.0.1")?;
    if way.is_wrapped() {
        cable(client, "eth1", "10.3.0.2", two, "int", "10.3.0.1")?;
        cable(server, "eth1", "198.51.100.2", one, "ext", "198.51.100.1")?;
        cable(one, "peers", "10.9.0.1", two, "peers", "10.9.0.2")?;
        if way == Way::WrappedWide {
            for node in [one, two] {
                run_line(&format!("ip -n {node} link set peers mtu {WIDE}"))?;
            }
        }
        route(server, "default via 198.51.100.1")?;
        route(one, "203.0.113.0/24 via 198.51.100.2")?;
        route(two, "10.1.0.0/24 via 10.3.0.2")?;
        route(client, "default via 10.3.0.1 table 100")?;
        run_line(&format!("ip -n {client} rule add fwmark 1 lookup 100"))?;
    } else {
        route(server, "default via 203.0.113.1")?;
        if way.has_two() {
            cable(one, "ext", "10.2.0.1", two, "int", "10.2.0.2")?;
            route(one, "default via 10.2.0.2")?;
            route(two, "10.1.0.0/24 via 10.2.0.1")?;
        }
    }
    // In every arm, as it costs something: SYNs go by the route of table 100, where there is one.
    let rules = tempfile::NamedTempFile::new()?;
    fs::write(rules.path(), MARK_SYNS)?;
    let path = rules.path().to_string_lossy();
    run("ip", &["netns", "exec", client, "nft", "-f", &path])?;
    settle(place)
}

/// Bytes that a link must carry for hosts' packets of 1,500 to fit with all that is put before them (docs/cluster.md
/// section 7), and a few more.
const WIDE: u32 = 1_600;

const MARK_SYNS: &str = "table ip bench {
  chain steer {
    type route hook output priority mangle;
    tcp flags & (syn | ack) == syn meta mark set 1
  }
}
";

fn cable(
    here: &str,
    device: &str,
    address: &str,
    there: &str,
    far: &str,
    far_address: &str,
) -> anyhow::Result<()> {
    run_line(&format!(
        "ip link add {device} netns {here} type veth peer name {far} netns {there}"
    ))?;
    for (namespace, device, address) in [(here, device, address), (there, far, far_address)] {
        run_line(&format!("ip -n {namespace} address add {address}/24 dev {device}"))?;
        run_line(&format!("ip -n {namespace} link set {device} up"))?;
    }
    Ok(())
}

fn certificates(appliance: &Appliance) -> anyhow::Result<TempDir> {
    let directory = tempfile::Builder::new().prefix("gab-bench-pki-").tempdir()?;
    let gabion = find(&appliance.programs, "gabion")?;
    let (gabion, path) = (gabion.to_string_lossy(), directory.path().to_string_lossy());
    let words = ["pki", "init", "--dir", &path, "--cluster", "bench", "--overwrite"];
    let nodes = ["--node", "node-1=10.9.0.1", "--node", "node-2=10.9.0.2"];
    run(&gabion, &[&words[..], &nodes[..]].concat())?;
    Ok(directory)
}

fn membership(number: u8, pki: &TempDir) -> String {
    let pki = pki.path().display();
    format!(
        r#"
[management]
interfaces = ["peers"]
[cluster]
name = "bench"
node = {number}
members = ["1=10.9.0.1", "2=10.9.0.2"]
ca = "{pki}/ca.pem"
certificate = "{pki}/node-{number}.pem"
key = "{pki}/node-{number}.key"
"#
    )
}
