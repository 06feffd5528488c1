//! First-boot data: one YAML document, read strictly. [`Document`] is it as written, [`FirstBoot`] what it means.
//!
//! Messages never repeat what stands under `trust`: they end in places that anybody may read. What stands under
//! `settings` and `policy` is for gabiond to judge.

mod check;

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;
use serde_saphyr::{Location, Spanned};

use crate::limits::DATA_BYTES_MAX;

pub use check::Problem;
pub(crate) use check::{HOST, is_host_name, is_ssh_key, is_user_name};

/// What the first key says.
pub const API_VERSION: &str = "gabion/first-boot/v1";

/// The document, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct FirstBoot {
    pub name: Option<String>,
    /// The host's own: the first is `mgmt`.
    pub host: Vec<Interface>,
    /// By name, as gabiond numbers them.
    pub data: Vec<Interface>,
    pub routes: Vec<Route>,
    pub cluster: Option<Cluster>,
    pub admin: Option<Admin>,
    pub settings: toml::Table,
    pub trust: Option<Trust>,
    pub policy: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub device: Device,
    /// `None`: by DHCP and router advertisements.
    pub addresses: Option<Addresses>,
}

/// How a device is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    Name(String),
    Mac([u8; 6]),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    pub own: Vec<IpNet>,
    /// One of each family at most.
    pub gateways: Vec<IpAddr>,
}

/// Where packets are forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub to: IpNet,
    /// The name of a data interface.
    pub out: String,
    /// `None`: the gateway of that interface.
    pub via: Option<IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    pub name: String,
    pub number: u8,
    pub members: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    pub name: String,
    pub keys: Vec<String>,
}

/// What proves the node and those who call it.
#[derive(Clone, PartialEq, Eq)]
pub enum Trust {
    Certificates {
        ca: String,
        certificate: String,
        key: String,
    },
    /// With which certificates are fetched later.
    Token(String),
}

/// Keys and tokens stay out of messages.
impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Certificates { .. } => "Certificates",
            Self::Token(_) => "Token",
        })
    }
}

impl FirstBoot {
    /// Reads first-boot data.
    ///
    /// # Errors
    /// Everything that is wrong with it, or the first thing where the rest cannot be read.
    pub fn read(bytes: &[u8]) -> Result<Self, Vec<Problem>> {
        let whole = |message: String| vec![Problem { place: None, message }];
        if bytes.len() as u64 > DATA_BYTES_MAX {
            let length = bytes.len();
            return Err(whole(format!(
                "has {length} bytes, and {DATA_BYTES_MAX} at most are read"
            )));
        }
        let text = std::str::from_utf8(bytes).map_err(|error| {
            whole(format!("is no UTF-8 text at byte {}: write YAML", error.valid_up_to()))
        })?;
        if text.trim_matches(|c: char| c.is_whitespace() || c == '\0').is_empty() {
            return Err(whole(format!("is empty: begin with `apiVersion: {API_VERSION}`")));
        }
        // Another version has other keys: only this one is looked at first.
        let version: Version = parse(text)?;
        match version.api_version {
            Some(version) if version.value == API_VERSION => {}
            Some(version) => {
                let message = format!(
                    "apiVersion is \"{}\", and this version of Gabion reads {API_VERSION}",
                    version.value.escape_debug()
                );
                return Err(vec![Problem::at(&version.referenced, message)]);
            }
            None => return Err(whole(format!("lacks `apiVersion: {API_VERSION}`"))),
        }
        check::check(parse(text)?)
    }

    pub fn interfaces(&self) -> impl Iterator<Item = &Interface> {
        self.host.iter().chain(&self.data)
    }

    /// The interfaces that are found by MAC address, with it.
    pub fn by_mac(&self) -> Vec<(&str, [u8; 6])> {
        let by_mac = self.interfaces().filter_map(|interface| match interface.device {
            Device::Mac(mac) => Some((interface.name.as_str(), mac)),
            Device::Name(_) => None,
        });
        by_mac.collect()
    }
}

fn parse<'t, T: Deserialize<'t>>(text: &'t str) -> Result<T, Vec<Problem>> {
    serde_saphyr::from_str(text).map_err(|error| {
        let error = error.without_snippet();
        let message = in_our_words(&error.to_string());
        vec![match error.location() {
            Some(place) => Problem::at(&place, message),
            None => Problem { place: None, message },
        }]
    })
}

/// The place stands before the message already.
fn in_our_words(message: &str) -> String {
    let message = message.rsplit_once(" at line ").map_or(message, |(message, _)| message);
    if message.contains("WrittenInterface") {
        return "an interface is a device's name, its MAC address, or { device, addresses, gateways }"
            .to_owned();
    }
    message.to_owned()
}

fn place(location: &Location) -> Option<(u64, u64)> {
    (location.line() > 0).then(|| (location.line(), location.column()))
}

#[derive(Debug, Deserialize)]
struct Version {
    #[serde(rename = "apiVersion")]
    api_version: Option<Spanned<String>>,
}

/// The document as written. What is a secret, or gabiond's to judge, is taken as it is.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(default)]
    node: WrittenNode,
    interfaces: Spanned<std::collections::BTreeMap<String, Spanned<WrittenInterface>>>,
    routes: Option<Vec<Spanned<WrittenRoute>>>,
    cluster: Option<Spanned<WrittenCluster>>,
    admin: Option<Spanned<WrittenAdmin>>,
    settings: Option<Spanned<toml::Table>>,
    trust: Option<Spanned<toml::Value>>,
    policy: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenNode {
    name: Option<Spanned<String>>,
    number: Option<Spanned<i64>>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum WrittenInterface {
    Device(String),
    Addressed(WrittenAddressed),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenAddressed {
    device: String,
    addresses: Vec<String>,
    #[serde(default)]
    gateways: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRoute {
    to: String,
    out: String,
    via: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenCluster {
    name: String,
    members: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenAdmin {
    name: String,
    keys: Vec<String>,
}

#[cfg(test)]
mod tests;
