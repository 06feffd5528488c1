//! The cables of a machine: bridges between the host's devices and the machine's, and a DHCP server on them.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use gabion_image::qemu;
use ipnet::IpNet;

use crate::lab::build::{Lab, ip_batch};
use crate::lab::process::Running;
use crate::lab::topology::{LinkAddress, written};

/// A network interface of the machine's.
#[derive(Debug, Clone)]
pub(crate) struct Nic {
    /// The host's device of which it takes the place.
    device: &'static str,
    pub(super) link: LinkAddress,
    address: IpNet,
    /// Where the DHCP server sits: an address of the network that nobody has.
    server: IpAddr,
    pub(super) routes: Vec<(IpNet, IpAddr)>,
}

impl Nic {
    /// That takes the place of a device of the lab's, with its IPv4 address and the host's routes by it.
    ///
    /// # Errors
    /// If the device is on no link, or has no IPv4 address.
    pub(crate) fn in_place_of(lab: &Lab, host: &str, device: &'static str) -> Result<Self> {
        let topology = lab.topology();
        let [link, _] =
            topology.link_addresses(host, device).context("the device is on no link")?;
        let ends = topology.links.iter().flat_map(|link| &link.ends);
        let mut addresses = ends
            .filter(|end| end.host == host && end.device == device)
            .flat_map(|end| &end.addresses);
        let address = *addresses.find(|net| net.addr().is_ipv4()).context("no IPv4 address")?;
        let routes = topology.find(host).map(|host| host.routes.as_slice()).unwrap_or_default();
        let routes = routes.iter().filter(|route| address.contains(&route.via));
        let routes = routes.map(|route| (route.to, route.via)).collect();
        // At the network's end, as machines are at its beginning; the last is often its gateway. Another for each of some machines on one link.
        let IpNet::V4(net) = address else { unreachable!("it was looked for") };
        let last = u32::from(net.broadcast());
        let server = IpAddr::V4((last - 1 - (u32::from(net.addr()) & 7).max(1)).into());
        Ok(Self { device, link, address, server, routes })
    }

    pub(super) fn of_machine(&self) -> qemu::Nic {
        qemu::Nic { tap: Some(self.tap()), mac: self.link }
    }

    fn bridge(&self) -> String {
        format!("br-{}", self.device)
    }

    fn tap(&self) -> String {
        format!("tap-{}", self.device)
    }

    /// The device gives its addresses away, first its link address: a bridge keeps frames for itself that are
    /// for one of its ports.
    fn batch(&self) -> String {
        let Self { device, server, .. } = self;
        let (bridge, tap, bits) = (self.bridge(), self.tap(), self.address.prefix_len());
        let [.., last] = self.link;
        format!(
            "addr flush dev {device}\n\
             link set {device} address 06:00:00:00:{last:02x}:{:02x}\n\
             link add {bridge} type bridge mcast_snooping 0\n\
             tuntap add {tap} mode tap vnet_hdr\n\
             link set {device} master {bridge}\n\
             link set {tap} master {bridge}\n\
             link set {tap} up\nlink set {device} up\nlink set {bridge} up\n\
             addr add {server}/{bits} dev {bridge}\n",
            self.link[4],
        )
    }

    /// What dnsmasq is told: this address and no other, and the routes, of which RFC 3442 has the default be one.
    fn leases(&self) -> Vec<String> {
        let Self { device, address, .. } = self;
        let (own, mask) = (address.addr(), address.netmask());
        let mut words = vec![
            format!("--interface={}", self.bridge()),
            format!("--dhcp-range=set:{device},{own},static,{mask},infinite"),
            format!("--dhcp-host={},{own}", written(self.link)),
            // Without this dnsmasq names itself.
            format!("--dhcp-option=tag:{device},option:router"),
            format!("--dhcp-option=tag:{device},option:mtu,1500"),
        ];
        let routes: Vec<_> = self.routes.iter().map(|(to, via)| format!("{to},{via}")).collect();
        if !routes.is_empty() {
            words.push(format!(
                "--dhcp-option=tag:{device},option:classless-static-route,{}",
                routes.join(",")
            ));
        }
        words
    }
}

/// Joins them and starts the DHCP server.
///
/// # Errors
/// If the kernel refuses, or dnsmasq does not start.
pub(super) fn join(lab: &Lab, host: &'static str, nics: &[Nic]) -> Result<Running> {
    let batch: String = nics.iter().map(Nic::batch).collect();
    ip_batch(Some(&lab.namespace(host)), &batch)?;
    let directory = lab.make_directory(host)?;
    let mut words: Vec<String> = [
        "dnsmasq",
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--user=root",
        "--port=0",
        "--dhcp-ignore=tag:!known",
        "--no-ping",
        "--log-dhcp",
        "--log-facility=-",
    ]
    .map(str::to_owned)
    .to_vec();
    words.push(format!("--pid-file={}", directory.join("dnsmasq.pid").display()));
    words.push(format!("--dhcp-leasefile={}", directory.join("leases").display()));
    words.extend(nics.iter().flat_map(Nic::leases));
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    Running::start(lab, host, &format!("{host}-dhcp"), &words)
}
