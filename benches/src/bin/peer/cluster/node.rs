//! A node of a cluster made of the kernel's own parts: nftables with conntrackd, or nftables that hides clients
//! behind the node's own addresses. `gabion lab run --instead` starts it inside the node's namespace.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::ValueEnum;

use crate::process::{run, run_line};

/// How the nodes keep what asymmetric connections need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Both nodes tell each other their connections, straight into the kernel's tables
    Conntrackd,
    /// Answers come back by themselves, as clients are hidden behind the node that they came through
    Snat,
}

/// Where the lab's load balancers look for the node, and where conntrackd talks.
const PROBE_PORT: u16 = 4480;
const SYNC_PORT: u16 = 3780;
/// The lab's plan of the network (`gabion lab run asymmetric`): ports of the shared address that the first node uses.
const FIRST_SHARE: &str = "1024-32767";
const SECOND_SHARE: &str = "32768-65535";

/// Makes a firewall of this namespace and stays until it is ended.
///
/// # Errors
/// If a part of it does not start.
pub(crate) fn run_node(kind: Kind, words: &[String]) -> anyhow::Result<()> {
    let [number, nodes, directory] = words else { bail!("NUMBER NODES DIRECTORY are missing") };
    let number: u8 = number.parse().context("the node's number")?;
    let directory = PathBuf::from(directory);
    ensure!(nodes == "2" || kind == Kind::Snat, "conntrackd's unicast sync knows two nodes");
    // Each node sees one direction alone: windows cannot be followed.
    run_line("sysctl -q -w net.netfilter.nf_conntrack_tcp_be_liberal=1")?;
    run_line("sysctl -q -w net.netfilter.nf_conntrack_max=262144")?;
    let rules = directory.join("rules.nft");
    fs::write(&rules, ruleset(kind, number))?;
    run("nft", &["-f", &rules.to_string_lossy()])?;
    let daemon = match kind {
        Kind::Conntrackd => Some(start_conntrackd(number, &directory)?),
        Kind::Snat => None,
    };
    answer_probes(daemon)
}

/// The rules of the lab's policy, in the kernel's best form.
fn ruleset(kind: Kind, number: u8) -> String {
    let (shared, hidden) = match kind {
        Kind::Conntrackd => {
            let share = if number == 1 { FIRST_SHARE } else { SECOND_SHARE };
            let shared = format!(
                "    oif eth1 ip saddr 10.1.0.0/24 meta l4proto {{ tcp, udp, icmp }} snat ip to 203.0.113.8:{share}
    oif eth1 ip6 saddr 2600:2:0:1::/64 meta l4proto {{ tcp, udp, icmpv6 }} snat ip6 to [2600:1:0:113::8]:{share}\n"
            );
            (shared, "")
        }
        Kind::Snat => {
            let out = "    oif eth1 ip saddr 10.1.0.0/24 masquerade
    oif eth1 ip6 saddr 2600:2:0:1::/64 masquerade\n";
            (out.to_owned(), "    oif eth2 masquerade\n")
        }
    };
    format!(
        "table inet gabion_peer {{
  chain untracked_in {{
    type filter hook prerouting priority raw;
    iif eth3 udp dport {SYNC_PORT} notrack
  }}
  chain untracked_out {{
    type filter hook output priority raw;
    oif eth3 udp dport {SYNC_PORT} notrack
  }}
  chain forward {{
    type filter hook forward priority filter; policy drop;
    ct state vmap {{ established : accept, related : accept, invalid : drop }}
    iif . meta l4proto . th dport vmap {{ eth1 . tcp . 7000 : accept, eth1 . udp . 7000 : accept, eth2 . tcp . 7000 : accept, eth2 . udp . 7000 : accept }}
    icmp type echo-request accept
    icmpv6 type echo-request accept
  }}
  chain publish {{
    type nat hook prerouting priority dstnat;
    iif eth1 ip daddr 203.0.113.7 meta l4proto {{ tcp, udp }} th dport 7000 dnat ip to 10.1.0.10
    iif eth1 ip6 daddr 2600:1:0:113::7 meta l4proto {{ tcp, udp }} th dport 7000 dnat ip6 to 2600:2:0:1::10
  }}
  chain hide {{
    type nat hook postrouting priority srcnat;
{shared}{hidden}  }}
}}
"
    )
}

/// As conntrackd's manual has it for active/active: states go straight into the kernel's table.
fn configuration(number: u8, directory: &Path) -> String {
    let (own, other) = if number == 1 { (1, 2) } else { (2, 1) };
    let directory = directory.display();
    format!(
        "Sync {{
  Mode FTFW {{
    DisableExternalCache On
  }}
  UDP {{
    IPv4_address 10.9.0.{own}
    IPv4_Destination_Address 10.9.0.{other}
    Port {SYNC_PORT}
    Interface eth3
    SndSocketBuffer 1249280
    RcvSocketBuffer 1249280
    Checksum on
  }}
}}
General {{
  HashSize 32768
  HashLimit 524288
  LogFile {directory}/conntrackd.log
  LockFile {directory}/conntrackd.lock
  UNIX {{
    Path {directory}/conntrackd.ctl
  }}
  NetlinkBufferSize 8388608
  NetlinkBufferSizeMaxGrowth 16777216
  NetlinkOverrunResync On
  Filter From Kernelspace {{
    Protocol Accept {{
      TCP
      UDP
      ICMP
      IPv6-ICMP
    }}
    Address Ignore {{
      IPv4_address 127.0.0.1
      IPv4_address 10.9.0.1
      IPv4_address 10.9.0.2
    }}
  }}
}}
"
    )
}

fn start_conntrackd(number: u8, directory: &Path) -> anyhow::Result<std::process::Child> {
    let path = directory.join("conntrackd.conf");
    fs::write(&path, configuration(number, directory))?;
    // Of one that was killed.
    let _ = fs::remove_file(directory.join("conntrackd.lock"));
    // It dies with the node's program: `kill` of the lab is that of its daemons.
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "conntrackd", "-C"])
        .arg(path)
        .stdin(Stdio::null())
        .spawn()
        .context("conntrackd does not start. Install it: setup/install bench")
}

/// 200 to every probe, for as long as the daemon runs.
fn answer_probes(mut daemon: Option<std::process::Child>) -> anyhow::Result<()> {
    const READ_WITHIN: Duration = Duration::from_secs(1);
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PROBE_PORT))?;
    for stream in listener.incoming() {
        if let Some(status) = daemon.as_mut().and_then(|daemon| daemon.try_wait().transpose()) {
            bail!("conntrackd has ended: {}", status?);
        }
        let Ok(mut stream) = stream else { continue };
        // A probe that goes away is the prober's business.
        let _ = stream.set_read_timeout(Some(READ_WITHIN));
        let _ = stream.read(&mut [0; 1_024]);
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        let _ = stream.write_all(answer);
    }
    Ok(())
}
