//! From the document as written to what it means; all mistakes at once.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_saphyr::{Location, Spanned};

use super::{
    Addresses, Admin, Cluster, Device, Document, FirstBoot, Interface, Route, Trust, WrittenAdmin,
    WrittenInterface, WrittenRoute, place,
};
use crate::limits::{INTERFACES_MAX, KEYS_MAX, ROUTES_MAX};

/// The host's own interfaces: what it is managed by, and, if members speak over another one, that.
pub(crate) const HOST: [&str; 2] = ["mgmt", "sync"];
/// Whose default route is the node's where nothing else is said.
const EXTERNAL: &str = "ext";
/// Linux's IFNAMSIZ without the terminating zero.
const DEVICE_NAME_BYTES: usize = 15;
/// A token of fewer characters may be guessed: 128 bits in base64.
const TOKEN_CHARACTERS_MIN: usize = 22;

/// What other keys of the document make of gabiond's settings.
const OWN_SETTINGS: [(&str, &str); 12] = [
    ("node.name", "node.name"),
    ("node.hold", "nothing: gabion-provision writes it"),
    ("node.state_dir", "nothing: it is where the image keeps it"),
    ("node.first_policy", "policy"),
    ("api.certificate", "trust"),
    ("api.key", "trust"),
    ("api.client_ca", "trust"),
    ("cluster.name", "cluster.name"),
    ("cluster.node", "node.number"),
    ("cluster.members", "cluster.members"),
    ("interfaces", "interfaces"),
    ("management", "interfaces.mgmt"),
];

/// One mistake in first-boot data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line and column, from 1.
    pub place: Option<(u64, u64)>,
    pub message: String,
}

impl Problem {
    pub(super) fn at(location: &Location, message: String) -> Self {
        Self { place: place(location), message }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Some((line, column)) => {
                write!(f, "first-boot data:{line}:{column}: {}", self.message)
            }
            None => write!(f, "first-boot data {}", self.message),
        }
    }
}

pub(super) fn check(written: Document) -> Result<FirstBoot, Vec<Problem>> {
    let mut checker = Checker::default();
    let Document { node, interfaces, routes, cluster, admin, settings, trust, policy, .. } =
        written;
    let (host, data) = checker.interfaces(interfaces);
    let number = checker.number(node.number.as_ref(), cluster.as_ref().map(|c| &c.referenced));
    if let (Some(cluster), None) = (&cluster, &trust) {
        checker.problem(
            &cluster.referenced,
            "a cluster's member needs `trust`: its certificates, or a token",
        );
    }
    let first = FirstBoot {
        name: node.name.map(|name| checker.name(name)),
        routes: checker.routes(routes, &data),
        host,
        data,
        cluster: cluster.map(|cluster| Cluster {
            name: cluster.value.name,
            number,
            members: cluster.value.members,
        }),
        admin: admin.map(|admin| checker.admin(admin)),
        settings: settings.map(|settings| checker.settings(settings)).unwrap_or_default(),
        trust: trust.and_then(|trust| checker.trust(trust)),
        policy: policy.map(|policy| policy.value),
    };
    if checker.problems.is_empty() {
        return Ok(first);
    }
    checker.problems.sort_by_key(|problem| problem.place);
    Err(checker.problems)
}

#[derive(Debug, Default)]
struct Checker {
    problems: Vec<Problem>,
}

impl Checker {
    fn problem(&mut self, location: &Location, message: impl Into<String>) {
        self.problems.push(Problem::at(location, message.into()));
    }

    fn interfaces(
        &mut self,
        written: Spanned<std::collections::BTreeMap<String, Spanned<WrittenInterface>>>,
    ) -> (Vec<Interface>, Vec<Interface>) {
        let whole = written.referenced;
        if written.value.len() > INTERFACES_MAX {
            self.problem(&whole, format!("interfaces: {INTERFACES_MAX} at most"));
        }
        let (mut host, mut data) = (Vec::new(), Vec::new());
        for (name, interface) in written.value {
            let is_host = HOST.contains(&&*name);
            let interface = self.interface(name, interface);
            if is_host { host.push(interface) } else { data.push(interface) }
        }
        // `mgmt` comes before `sync` in the alphabet too.
        if host.first().is_none_or(|first| first.name != HOST[0]) {
            let message = "interfaces lacks mgmt: name the device by which the node is managed, such as `mgmt: eth0`";
            self.problem(&whole, message);
        }
        if data.is_empty() {
            let message =
                "interfaces has no data interface: name at least one, such as `ext: eth1`";
            self.problem(&whole, message);
        }
        let mut devices = BTreeSet::new();
        for interface in host.iter().chain(&data) {
            if !devices.insert(interface.device.to_string()) {
                let message = format!(
                    "interfaces.{}: another interface has device {} already",
                    interface.name, interface.device
                );
                self.problem(&whole, message);
            }
        }
        (host, data)
    }

    fn interface(&mut self, name: String, written: Spanned<WrittenInterface>) -> Interface {
        let at = written.referenced;
        let fits = (1..=32).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        if !fits {
            let name = name.escape_debug();
            self.problem(
                &at,
                format!("interfaces.{name}: a name has 1 to 32 letters, digits, - or _"),
            );
        }
        let (device, addresses) = match written.value {
            WrittenInterface::Device(device) => (device, None),
            WrittenInterface::Addressed(written) => {
                let addresses = Addresses {
                    own: self.each(&at, &written.addresses, "an address with its prefix"),
                    gateways: self.each(&at, &written.gateways, "an address"),
                };
                if addresses.own.is_empty() {
                    self.problem(&at, format!("interfaces.{name}: name at least one address"));
                }
                let of_v4 = addresses.gateways.iter().filter(|gateway| gateway.is_ipv4()).count();
                if of_v4 > 1 || addresses.gateways.len() - of_v4 > 1 {
                    self.problem(&at, format!("interfaces.{name}: one gateway of each family"));
                }
                (written.device, Some(addresses))
            }
        };
        let device = Device::parse(&device).unwrap_or_else(|| {
            let message = format!(
                "interfaces.{name}: \"{}\" is no device: write its name, such as eth1, or its MAC address, such as 00:0d:3a:01:02:03",
                device.escape_debug()
            );
            self.problem(&at, message);
            Device::Name(String::new())
        });
        Interface { name, device, addresses }
    }

    fn each<T: std::str::FromStr>(
        &mut self,
        at: &Location,
        texts: &[String],
        what: &str,
    ) -> Vec<T> {
        let mut read = Vec::new();
        for text in texts {
            match text.parse() {
                Ok(value) => read.push(value),
                Err(_) => self.problem(at, format!("\"{}\" is not {what}", text.escape_debug())),
            }
        }
        read
    }

    fn number(&mut self, number: Option<&Spanned<i64>>, cluster: Option<&Location>) -> u8 {
        match (number, cluster) {
            (Some(number), Some(_)) => match u8::try_from(number.value) {
                Ok(value) if (1..=16).contains(&value) => value,
                _ => {
                    let message = format!("node.number is {}: 1 to 16", number.value);
                    self.problem(&number.referenced, message);
                    0
                }
            },
            (Some(number), None) => {
                let message =
                    "node.number is for members of a cluster: add `cluster`, or take it out";
                self.problem(&number.referenced, message);
                0
            }
            (None, Some(cluster)) => {
                self.problem(cluster, "a cluster's member needs node.number, 1 to 16");
                0
            }
            (None, None) => 0,
        }
    }

    fn name(&mut self, name: Spanned<String>) -> String {
        if !is_host_name(&name.value) {
            let message = format!(
                "node.name \"{}\" is no host name: 1 to 63 letters, digits or -, a letter or digit at either end",
                name.value.escape_debug()
            );
            self.problem(&name.referenced, message);
        }
        name.value
    }

    fn routes(
        &mut self,
        written: Option<Vec<Spanned<WrittenRoute>>>,
        data: &[Interface],
    ) -> Vec<Route> {
        let is_data = |name: &str| data.iter().any(|interface| interface.name == name);
        let Some(written) = written else {
            let whole = [IpNet::from(ipnet::Ipv4Net::default()), ipnet::Ipv6Net::default().into()];
            let default = |to| Route { to, out: EXTERNAL.to_owned(), via: None };
            return whole.map(default).into_iter().filter(|route| is_data(&route.out)).collect();
        };
        if written.len() > ROUTES_MAX
            && let Some(first) = written.first()
        {
            self.problem(&first.referenced, format!("routes: {ROUTES_MAX} at most"));
        }
        let mut routes = Vec::new();
        for Spanned { value: WrittenRoute { to, out, via }, referenced: at, .. } in written {
            if !is_data(&out) {
                let out = out.escape_debug();
                self.problem(&at, format!("routes: \"{out}\" is no data interface of this node"));
            }
            let to: Vec<IpNet> = self.each(&at, &[to], "a prefix such as 10.0.0.0/8");
            let via: Vec<IpAddr> = self.each(&at, via.as_slice(), "a gateway's address");
            let Some(to) = to.first().map(IpNet::trunc) else { continue };
            let via = via.first().copied();
            if via.is_some_and(|via| via.is_ipv4() != to.addr().is_ipv4()) {
                self.problem(&at, format!("routes: {to} has a gateway of the other family"));
            }
            routes.push(Route { to, out, via });
        }
        routes
    }

    fn admin(&mut self, written: Spanned<WrittenAdmin>) -> Admin {
        let Spanned { value: WrittenAdmin { name, keys }, referenced: at, .. } = written;
        if !is_user_name(&name) {
            let message = format!(
                "admin.name \"{}\" is no user's name: 1 to 32 of a-z, 0-9, - or _, a letter first, and not one of the system's",
                name.escape_debug()
            );
            self.problem(&at, message);
        }
        if keys.len() > KEYS_MAX || !keys.iter().all(|key| is_ssh_key(key)) {
            let message = format!(
                "admin.keys: {KEYS_MAX} at most, each one line such as `ssh-ed25519 AAAA... name`"
            );
            self.problem(&at, message);
        }
        Admin { name, keys }
    }

    fn settings(&mut self, written: Spanned<toml::Table>) -> toml::Table {
        for (setting, instead) in OWN_SETTINGS {
            let mut parts = setting.split('.');
            let section = parts.next().and_then(|section| written.value.get(section));
            let is_there = match (section, parts.next()) {
                (None, _) => false,
                (Some(_), None) => true,
                (Some(section), Some(name)) => section.get(name).is_some(),
            };
            if is_there {
                let message = format!("settings.{setting} is not written here, but as {instead}");
                self.problem(&written.referenced, message);
            }
        }
        written.value
    }

    /// Without a word of what stands there.
    fn trust(&mut self, written: Spanned<toml::Value>) -> Option<Trust> {
        const FORM: &str = "trust: write { ca, certificate, key } with PEM texts, or { token }";
        let text = |key: &str| Some(written.value.get(key)?.as_str()?.to_owned());
        let keys = written.value.as_table().map_or(0, toml::Table::len);
        let trust = match (text("ca"), text("certificate"), text("key"), text("token")) {
            (Some(ca), Some(certificate), Some(key), None) if keys == 3 => {
                Trust::Certificates { ca, certificate, key }
            }
            (None, None, None, Some(token)) if keys == 1 => Trust::Token(token.trim().to_owned()),
            _ => {
                self.problem(&written.referenced, FORM);
                return None;
            }
        };
        let is_fit = match &trust {
            Trust::Certificates { ca, certificate, key } => {
                let certificates = [ca, certificate].into_iter();
                certificates.into_iter().all(|pem| pem.contains("-----BEGIN CERTIFICATE-----"))
                    && key.contains("PRIVATE KEY-----")
            }
            Trust::Token(token) => {
                let is_printed = |byte: u8| byte.is_ascii_graphic();
                if token.len() < TOKEN_CHARACTERS_MIN || !token.bytes().all(is_printed) {
                    let message = format!(
                        "trust.token: {TOKEN_CHARACTERS_MIN} characters at least; `gabion pki token` makes one"
                    );
                    self.problem(&written.referenced, message);
                }
                true
            }
        };
        if !is_fit {
            self.problem(&written.referenced, FORM);
        }
        Some(trust)
    }
}

impl Device {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split([':', '-']).collect();
        if parts.len() == 6 && parts.iter().all(|part| part.len() == 2) {
            let mut mac = [0; 6];
            for (byte, part) in mac.iter_mut().zip(&parts) {
                *byte = u8::from_str_radix(part, 16).ok()?;
            }
            return Some(Self::Mac(mac));
        }
        // It becomes a line of a file whose patterns and comments are not wanted here.
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@".contains(&byte);
        let fits = (1..=DEVICE_NAME_BYTES).contains(&text.len())
            && text.bytes().all(is_plain)
            && text.bytes().any(|byte| byte.is_ascii_alphabetic())
            && text != "lo";
        fits.then(|| Self::Name(text.to_owned()))
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Mac([a, b, c, d, e, g]) => {
                write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
            }
        }
    }
}

/// RFC 1123 section 2.1, one label.
pub(crate) fn is_host_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// As useradd(8) takes it; the system's own are not given to anybody.
pub(crate) fn is_user_name(name: &str) -> bool {
    const SYSTEM: [&str; 5] = ["root", "daemon", "sshd", "nobody", "gabion"];
    (1..=32).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte))
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && !SYSTEM.contains(&name)
        && !name.starts_with("systemd-")
}

/// One line of authorized_keys(5) without options.
pub(crate) fn is_ssh_key(key: &str) -> bool {
    let is_kind = ["ssh-", "ecdsa-", "sk-"].iter().any(|kind| key.starts_with(kind));
    is_kind && key.len() <= 16_384 && !key.contains(char::is_control) && key.contains(' ')
}
