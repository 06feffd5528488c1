//! Files for systemd-networkd, so that what the host itself says leaves by the right interface and what is
//! forwarded goes where first-boot data says.
//!
//! gabiond forwards by the main table, so nothing is in it but routes for forwarding. Every interface has a table of
//! its own, into which DHCP and router advertisements put what they offer. What the host says of its own accord, or
//! answers by its management interface, is looked up in that interface's table (`iif lo`); what a socket says that is
//! bound to a data interface, as those are that answer probes, in that one's (`oif`). So an answer to 168.63.129.16, whom
//! every interface of a virtual machine hears, leaves by the interface that the question came in on. The host's own addresses are in none
//! of these rules: they are not known before DHCP has given them, and may change.

use std::fmt::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::document::{Addresses, Device, FirstBoot, Interface, Route};
use crate::plan::{Devices, File, NETWORK};

/// Where the instance runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Platform {
    Azure,
    Other,
}

/// The table of the first interface; each next one has the next number.
const FIRST_TABLE: usize = 1_000;
/// Rules of data interfaces, then of the host; all before the main table's (32766).
const DATA_PRIORITY: usize = 1_000;
const HOST_PRIORITY: usize = 1_100;
const MAIN_TABLE: usize = 254;
const OUTGOING: &str = "OutgoingInterface=";

/// Drivers of virtual functions that an `hv_netvsc` device of the same address stands for.
const VIRTUAL_FUNCTIONS: &str = "\
# Packets of a virtual function come by the synthetic device of the same address, which carries the addresses.
[Match]
Driver=mlx4_core mlx4_en mlx5_core mana

[Link]
Unmanaged=yes
";

/// What an instance has whose interfaces are not known: addresses, to be asked why.
const ANY: &str = "\
[Match]
Type=ether

[Link]
RequiredForOnline=no

[Network]
DHCP=yes
IPv6AcceptRA=yes
LinkLocalAddressing=ipv6
";

/// For an instance whose first-boot data is wrong.
pub fn any(platform: Platform) -> Vec<File> {
    let mut files = before(platform);
    files.push(file("90-gabion-any.network", ANY.to_owned()));
    files
}

/// One file for each interface.
pub fn files(first: &FirstBoot, platform: Platform) -> Vec<File> {
    let mut files = before(platform);
    for (number, interface) in first.interfaces().enumerate() {
        let is_data = number >= first.host.len();
        let role = match (is_data, number) {
            (false, 0) => Role::Management,
            (false, _) => Role::Members,
            (true, _) => Role::Data,
        };
        let text = Writer { interface, role, number }.text(&first.routes);
        files.push(file(&format!("10-gabion-{}.network", interface.name), text));
    }
    files
}

/// What comes before all interfaces.
fn before(platform: Platform) -> Vec<File> {
    match platform {
        Platform::Azure => {
            vec![file("05-gabion-virtual-function.network", VIRTUAL_FUNCTIONS.to_owned())]
        }
        Platform::Other => Vec::new(),
    }
}

/// A file as the network daemon takes it: rules know devices by name alone.
pub fn with_names(text: &str, devices: &Devices) -> String {
    let line = |line: &str| match line.strip_prefix(OUTGOING).and_then(Device::parse) {
        Some(Device::Mac(mac)) => {
            devices.get(&mac).map_or(String::new(), |name| format!("{OUTGOING}{name}\n"))
        }
        Some(Device::Name(_)) | None => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

fn file(name: &str, text: String) -> File {
    File { path: [NETWORK, name].iter().collect(), mode: 0o644, text }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Management,
    /// What members of a cluster speak over: its link alone.
    Members,
    Data,
}

struct Writer<'a> {
    interface: &'a Interface,
    role: Role,
    number: usize,
}

impl Writer<'_> {
    fn text(&self, routes: &[Route]) -> String {
        let mut text = match &self.interface.device {
            Device::Name(name) => format!("[Match]\nName={name}\n"),
            device @ Device::Mac(_) => format!("[Match]\nMACAddress={device}\n"),
        };
        let online = if self.role == Role::Management { "yes" } else { "no" };
        let _ = write!(text, "\n[Link]\nRequiredForOnline={online}\n");
        match &self.interface.addresses {
            None => self.dynamic(&mut text),
            Some(addresses) => self.fixed(&mut text, addresses),
        }
        self.rules(&mut text);
        if self.role == Role::Data {
            for route in routes.iter().filter(|route| route.out == self.interface.name) {
                self.forward(&mut text, route);
            }
        }
        text
    }

    fn table(&self) -> usize {
        FIRST_TABLE + self.number
    }

    fn dynamic(&self, text: &mut String) {
        let table = self.table();
        let yes = |is: bool| if is { "yes" } else { "no" };
        let services = yes(self.role == Role::Management);
        let gateway = yes(self.role != Role::Members);
        let _ = write!(
            text,
            "\n[Network]\nDHCP=yes\nIPv6AcceptRA=yes\nLinkLocalAddressing=ipv6\n\
             \n[DHCPv4]\nRouteTable={table}\nUseGateway={gateway}\nUseRoutes={services}\nUseDNS={services}\nUseNTP={services}\nUseHostname=no\nUseDomains=no\n\
             \n[DHCPv6]\nUseDNS={services}\nUseNTP={services}\nUseHostname=no\n\
             \n[IPv6AcceptRA]\nRouteTable={table}\nUseGateway={gateway}\nUseDNS={services}\nUseDomains=no\n"
        );
    }

    fn fixed(&self, text: &mut String, addresses: &Addresses) {
        let table = self.table();
        text.push_str("\n[Network]\nIPv6AcceptRA=no\nLinkLocalAddressing=ipv6\n");
        for address in &addresses.own {
            let link = address.trunc();
            let _ = write!(
                text,
                "\n[Address]\nAddress={address}\nAddPrefixRoute=no\n\
                 \n[Route]\nDestination={link}\nScope=link\nTable={table}\n"
            );
        }
        let gateways = addresses.gateways.iter().filter(|_| self.role != Role::Members);
        for gateway in gateways {
            let _ =
                write!(text, "\n[Route]\nGateway={gateway}\nGatewayOnLink=yes\nTable={table}\n");
        }
    }

    fn rules(&self, text: &mut String) {
        let table = self.table();
        let (selector, priority) = match self.role {
            Role::Data => {
                let device = &self.interface.device;
                (format!("{OUTGOING}{device}"), DATA_PRIORITY + self.number)
            }
            // Members before management, which has a route for everything.
            Role::Members => ("IncomingInterface=lo".to_owned(), HOST_PRIORITY),
            Role::Management => ("IncomingInterface=lo".to_owned(), HOST_PRIORITY + 1),
        };
        let _ = write!(
            text,
            "\n[RoutingPolicyRule]\n{selector}\nTable={table}\nPriority={priority}\nFamily=both\n"
        );
    }

    fn forward(&self, text: &mut String, route: &Route) {
        let to = route.to;
        let gateway = match (route.via, &self.interface.addresses) {
            (Some(via), _) => via.to_string(),
            (None, None) if to.addr().is_ipv4() => "_dhcp4".to_owned(),
            (None, None) => "_ipv6ra".to_owned(),
            (None, Some(addresses)) => match gateway_of(addresses, &to) {
                Some(gateway) => gateway.to_string(),
                None => return,
            },
        };
        let _ = write!(
            text,
            "\n[Route]\nDestination={to}\nGateway={gateway}\nGatewayOnLink=yes\nTable={MAIN_TABLE}\n"
        );
    }
}

fn gateway_of(addresses: &Addresses, to: &IpNet) -> Option<IpAddr> {
    let is_v4 = to.addr().is_ipv4();
    addresses.gateways.iter().find(|gateway| gateway.is_ipv4() == is_v4).copied()
}

#[cfg(test)]
mod tests;
