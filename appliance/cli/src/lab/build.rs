//! Makes a [`Topology`] real with network namespaces and veth pairs, and removes it again.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use super::interrupt;
use super::namespace::{Lifetime, Namespace};
use super::registry::Record;
use super::topology::{Host, Role, Topology, link_addresses, written};

/// A lab that is up. Dropping it removes everything, unless it has been told to [`keep`](Lab::keep).
#[derive(Debug)]
pub(crate) struct Lab {
    record: Record,
    topology: Topology,
    lifetime: Lifetime,
    kept: bool,
}

/// How the links treat checksums and segmentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Offloads {
    /// As in a cloud VM: superframes and partial checksums.
    On,
    /// Every frame as it would be on a wire.
    Off,
}

impl Lab {
    /// Builds the lab.
    ///
    /// # Errors
    /// If a lab of that name exists or the kernel refuses something; what had been made is removed.
    pub(crate) fn build(
        name: &str,
        scenario: &str,
        topology: Topology,
        offloads: Offloads,
        lifetime: Lifetime,
    ) -> Result<Self> {
        let record = Record {
            name: name.to_owned(),
            scenario: scenario.to_owned(),
            owner: Some(rustix::process::getpid().as_raw_nonzero().get()),
            hosts: topology.hosts.iter().map(|host| host.name.to_owned()).collect(),
        };
        let _hold = interrupt::hold();
        record.create()?;
        let lab = Self { record, topology, lifetime, kept: false };
        interrupt::on_signal(&lab.record)?;
        lab.make_namespaces()?;
        lab.make_links()?;
        if offloads == Offloads::Off {
            lab.switch_offloads_off()?;
        }
        for host in &lab.topology.hosts {
            lab.configure(host)?;
        }
        Ok(lab)
    }

    pub(crate) fn directory(&self) -> PathBuf {
        self.record.directory()
    }

    /// Makes a folder below the lab's own, for a server or the node.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(crate) fn make_directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.directory().join(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }

    /// A folder for what a node's programs in the kernel leave when its process ends; below it all goes with the lab.
    /// Mounted outside of the node's own view of the system, which goes with the process.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(crate) fn bpf(&self) -> Result<PathBuf> {
        let path = self.record.bpf();
        if !path.exists() {
            self.make_directory("bpf")?;
            let output = Command::new("mount").args(["-t", "bpf", "bpf"]).arg(&path).output()?;
            let reason = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "cannot mount {}: {}", path.display(), reason.trim());
        }
        Ok(path)
    }

    pub(crate) fn lifetime(&self) -> Lifetime {
        self.lifetime
    }

    pub(crate) fn namespace(&self, host: &str) -> Namespace {
        debug_assert!(self.topology.find(host).is_some(), "no host is called {host}");
        Namespace::new(self.record.namespace(host))
    }

    /// Leaves the lab up when this process ends.
    ///
    /// # Errors
    /// If the record cannot be written.
    pub(crate) fn keep(mut self) -> Result<()> {
        self.record.owner = None;
        self.record.save()?;
        self.kept = true;
        Ok(())
    }

    fn make_namespaces(&self) -> Result<()> {
        for host in &self.topology.hosts {
            let namespace = self.namespace(host.name);
            ip(&["netns", "add", namespace.name()])?;
            let role = host.role;
            namespace.enter(move || prepare(role))?;
        }
        Ok(())
    }

    fn make_links(&self) -> Result<()> {
        let mut batch = String::new();
        for (number, link) in self.topology.links.iter().enumerate() {
            let mtu = link.mtu;
            let [a, b] = &link.ends;
            let [of_a, of_b] = link_addresses(number).map(written);
            batch += &format!(
                "link add name {} address {of_a} mtu {mtu} netns {} type veth peer name {} address {of_b} mtu {mtu} netns {}\n",
                a.device,
                self.record.namespace(a.host),
                b.device,
                self.record.namespace(b.host),
            );
        }
        ip_batch(None, &batch)
    }

    pub(crate) fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Takes a host's links down, as if it had lost its power.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) fn cut_off(&self, host: &str) -> Result<()> {
        let ends = self.topology.links.iter().flat_map(|link| &link.ends);
        let batch: String = ends
            .filter(|end| end.host == host)
            .map(|end| format!("link set {} down\n", end.device))
            .collect();
        ip_batch(Some(&self.namespace(host)), &batch)
    }

    /// Gives a host back what it has lost with its power.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) fn plug_in(&self, host: &str) -> Result<()> {
        self.configure(self.topology.find(host).context("no such host")?)
    }

    /// Addresses, link states and routes of one host; what is there already stays.
    fn configure(&self, host: &Host) -> Result<()> {
        let mut batch = String::from("link set lo up\n");
        if host.role == Role::Switch {
            batch += "link add br0 type bridge mcast_snooping 0\nlink set br0 up\n";
        }
        if host.role == Role::Balancer {
            // Without a route, Linux sends ICMPv6 errors about packets that it would not forward.
            batch += "route replace blackhole ::/0\n";
        }
        let ends = self.topology.links.iter().flat_map(|link| &link.ends);
        for end in ends.filter(|end| end.host == host.name) {
            for address in &end.addresses {
                let nodad = if address.addr().is_ipv6() { " nodad" } else { "" };
                batch += &format!("addr replace {address} dev {}{nodad}\n", end.device);
            }
            if host.role == Role::Switch {
                batch += &format!("link set {} master br0\n", end.device);
            }
            batch += &format!("link set {} up\n", end.device);
        }
        for route in &host.routes {
            batch += &format!("route replace {} via {}\n", route.to, route.via);
        }
        ip_batch(Some(&self.namespace(host.name)), &batch)
    }

    fn switch_offloads_off(&self) -> Result<()> {
        for end in self.topology.links.iter().flat_map(|link| &link.ends) {
            let all = ["tx", "rx", "tso", "gso", "gro"];
            self.switch_off(end.host, end.device, &all)?;
        }
        Ok(())
    }

    /// Has the kernel cut wrapped superframes before they leave by this device, as it does for a NIC that knows
    /// nothing of tunnels. Who reads frames there is told of a superframe's segments, and not of what wraps them
    /// (`virtio_net_hdr`): it can hand none on.
    ///
    /// # Errors
    /// If ethtool refuses.
    pub(crate) fn cut_wrapped_superframes(&self, host: &str, device: &str) -> Result<()> {
        let tunnels = ["tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation"];
        self.switch_off(host, device, &tunnels)
    }

    fn switch_off(&self, host: &str, device: &str, offloads: &[&str]) -> Result<()> {
        let output = self
            .namespace(host)
            .command(Lifetime::Bound, "ethtool")
            .args(["-K", device])
            .args(offloads.iter().flat_map(|offload| [*offload, "off"]))
            .output()
            .context("cannot run ethtool. Install it: setup/install lab")?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            bail!("ethtool refuses {device} of {host}: {}", why.trim());
        }
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if let Err(error) = self.record.tear_down() {
            eprintln!("{error:#}. Try again: gabion lab down {}", self.record.name);
        }
        interrupt::forget(&self.record);
    }
}

/// Sets what has to be set before a namespace has devices. Runs inside the namespace: /proc/sys/net
/// shows the namespace of the thread that opens it.
fn prepare(role: Role) -> Result<()> {
    let set = |key: &str, value: &str| {
        let path = format!("/proc/sys/net/{key}");
        fs::write(&path, value).with_context(|| format!("cannot set {path} to {value}"))
    };
    // Addresses are usable at once: nobody else is on these links.
    set("ipv6/conf/default/accept_dad", "0")?;
    set("ipv6/conf/default/router_solicitations", "0")?;
    let forwarding = match role {
        Role::Router | Role::Node => "1",
        Role::End | Role::Switch | Role::Balancer | Role::Machine => "0",
    };
    set("ipv4/ip_forward", forwarding)?;
    set("ipv6/conf/all/forwarding", forwarding)?;
    set("ipv6/conf/default/forwarding", forwarding)?;
    // Replies may leave by another way than questions came; the node judges sources.
    set("ipv4/conf/all/rp_filter", "0")?;
    set("ipv4/conf/default/rp_filter", "0")?;
    // Anybody who is in the lab may ping.
    set("ipv4/ping_group_range", "0 0")?;
    // A router answers each probe of a traceroute: the kernel's own limit is one a second.
    set("ipv4/icmp_ratelimit", "0")?;
    set("ipv6/icmp/ratelimit", "0")?;
    Ok(())
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .context("cannot run `ip`. Install it: setup/install lab")?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        bail!("`ip {}` failed: {}", arguments.join(" "), reason.trim());
    }
    Ok(())
}

/// Runs many `ip` commands in one process, which stops at the first that fails.
pub(crate) fn ip_batch(namespace: Option<&Namespace>, batch: &str) -> Result<()> {
    let mut command = Command::new("ip");
    if let Some(namespace) = namespace {
        command.args(["-n", namespace.name()]);
    }
    let mut child = command
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run `ip`. Install it: setup/install lab")?;
    child.stdin.take().expect("stdin is piped").write_all(batch.as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        let place = namespace.map_or("the host", Namespace::name);
        bail!("`ip` refused a line in {place}: {}\n{batch}", reason.trim());
    }
    Ok(())
}
