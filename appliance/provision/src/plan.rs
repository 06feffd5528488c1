//! From first-boot data to the files of an instance. Pure: which devices there are is an argument.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use crate::document::{Admin, Device, FirstBoot, HOST, Problem, Trust};
use crate::limits::REASON_CHARACTERS_MAX;
use crate::network::{self, Platform};

/// Where the API is served; the guard keeps it off data interfaces.
const API_LISTEN: &str = "[::]:4450";
/// Less than the service manager gives gabiond's start.
const DEVICE_WAIT_MS: i64 = 20_000;
/// What a node says that waits for its certificates.
const WAITS: &str = "waits for its certificates: gabion pki enrol ADDRESS --node NAME=ADDRESS --token-file FILE --dir DIRECTORY";

/// Names of files, from the directory of the configuration.
pub const CONFIG: &str = "gabiond.toml";
/// What becomes [`CONFIG`] once there are certificates.
pub const CONFIG_ENROLLED: &str = "gabiond.enrolled.toml";
pub const POLICY: &str = "policy.yaml";
pub const CA: &str = "pki/ca.pem";
pub const CERTIFICATE: &str = "pki/node.pem";
pub const KEY: &str = "pki/node.key";
pub const TOKEN: &str = "pki/token";
pub const HOST_NAME: &str = "hostname";
pub const ADMIN_NAME: &str = "admin/name";
pub const ADMIN_KEYS: &str = "admin/authorized_keys";
/// Interfaces that are found by MAC address: name and address, one a line.
pub const BY_MAC: &str = "devices";
pub const NETWORK: &str = "network";

/// How a configuration begins that this program has written.
pub const HEADER: &str = "# By gabion-provision";

/// The devices that have MAC addresses; pairs of a cloud's (virtual function and synthetic) once.
pub type Devices = BTreeMap<[u8; 6], String>;

/// One file, below the directory of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    pub path: PathBuf,
    pub mode: u32,
    pub text: String,
}

impl File {
    fn new(path: impl Into<PathBuf>, mode: u32, text: impl Into<String>) -> Self {
        Self { path: path.into(), mode, text: text.into() }
    }
}

/// What the cloud says besides first-boot data.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Given {
    pub host_name: Option<String>,
    pub admin: Option<Admin>,
}

/// Makes an instance's files.
///
/// # Errors
/// What cannot be had on this machine.
pub fn plan(
    first: &FirstBoot,
    given: &Given,
    directory: &Path,
    devices: &Devices,
    platform: Platform,
) -> Result<Vec<File>, Vec<Problem>> {
    let names = resolve(first, devices)?;
    let mut files = network::files(first, platform);
    let line = |(name, mac)| format!("{name} {}\n", Device::Mac(mac));
    let by_mac: String = first.by_mac().into_iter().map(line).collect();
    if !by_mac.is_empty() {
        files.push(File::new(BY_MAC, 0o644, by_mac));
    }
    if let Some(policy) = &first.policy {
        files.push(File::new(POLICY, 0o640, policy));
    }
    let name = first.name.clone().or_else(|| given.host_name.clone());
    let given =
        Given { host_name: name, admin: first.admin.clone().or_else(|| given.admin.clone()) };
    files.extend(given.files());
    let config = config(first, given.host_name.as_deref(), directory, &names);
    match &first.trust {
        None => files.push(File::new(CONFIG, 0o640, text(&config))),
        Some(Trust::Certificates { ca, certificate, key }) => {
            files.push(File::new(CA, 0o644, ca));
            files.push(File::new(CERTIFICATE, 0o644, certificate));
            files.push(File::new(KEY, 0o600, key));
            files.push(File::new(CONFIG, 0o640, text(&config)));
        }
        Some(Trust::Token(token)) => {
            files.push(File::new(TOKEN, 0o600, token));
            files.push(File::new(CONFIG_ENROLLED, 0o640, text(&config)));
            files.push(File::new(CONFIG, 0o640, text(&without_trust(config))));
        }
    }
    Ok(files)
}

/// What a node is given whose first-boot data is wrong: it is held, and asks for addresses on every interface, so that
/// its reason can be read.
pub fn held(reason: &str, given: &Given, directory: &Path, platform: Platform) -> Vec<File> {
    let mut config = Table::new();
    let node = section(&mut config, "node");
    node.insert("hold".into(), one_line(reason).into());
    node.insert("state_dir".into(), state_directory(directory).into());
    let mut files = network::any(platform);
    files.extend(given.files());
    files.push(File::new(CONFIG, 0o640, text(&config)));
    files
}

/// A line that does nothing to the terminal that shows it: what is wrong is told in words of whoever wrote the data.
pub fn printable(text: &str) -> String {
    let shown =
        |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(shown).collect()
}

/// A reason as `node.hold` takes it.
pub fn one_line(text: &str) -> String {
    let words = text.split(|c: char| c.is_control() || c.is_whitespace());
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    let line: String = words.join(" ").chars().take(REASON_CHARACTERS_MAX).collect();
    if line.is_empty() { "without a reason".to_owned() } else { line }
}

/// What [`BY_MAC`] says: the interfaces' names and addresses.
pub fn by_mac(text: &str) -> Vec<(&str, [u8; 6])> {
    let read = |line| {
        let (name, mac) = str::split_once(line, ' ')?;
        let Device::Mac(mac) = Device::parse(mac)? else { return None };
        Some((name, mac))
    };
    text.lines().filter_map(read).collect()
}

/// Gives interfaces that are found by MAC address the devices that have them now. `None`: nothing is new.
///
/// # Errors
/// When the configuration is not TOML.
pub fn rename_devices(
    config: &str,
    by_mac: &[(&str, [u8; 6])],
    devices: &Devices,
) -> Result<Option<String>, toml::de::Error> {
    let mut table: Table = config.parse()?;
    let before = table.clone();
    for (name, mac) in by_mac {
        let Some(device) = devices.get(mac) else { continue };
        // The host's own stand there in this order, without names.
        let written = match HOST.iter().position(|host| host == name) {
            Some(at) => {
                table.get_mut("management").and_then(|of| of.get_mut("interfaces")?.get_mut(at))
            }
            None => table.get_mut("interfaces").and_then(|of| of.get_mut(*name)),
        };
        if let Some(written) = written {
            *written = device.clone().into();
        }
    }
    Ok((table != before).then(|| text(&table)))
}

impl Given {
    fn files(&self) -> Vec<File> {
        let mut files = Vec::new();
        if let Some(name) = &self.host_name {
            files.push(File::new(HOST_NAME, 0o644, format!("{name}\n")));
        }
        if let Some(admin) = &self.admin {
            files.push(File::new(ADMIN_NAME, 0o644, format!("{}\n", admin.name)));
            let keys = admin.keys.iter().map(|key| format!("{key}\n")).collect::<String>();
            files.push(File::new(ADMIN_KEYS, 0o644, keys));
        }
        files
    }
}

/// The device of each interface, by its name.
fn resolve<'a>(
    first: &'a FirstBoot,
    devices: &Devices,
) -> Result<BTreeMap<&'a str, String>, Vec<Problem>> {
    let mut names = BTreeMap::new();
    let mut problems = Vec::new();
    for interface in first.interfaces() {
        let device = match &interface.device {
            Device::Name(device) => device.clone(),
            Device::Mac(mac) => match devices.get(mac) {
                Some(device) => device.clone(),
                None => {
                    let message = format!(
                        "interfaces.{}: no device has MAC address {}",
                        interface.name, interface.device
                    );
                    problems.push(Problem { place: None, message });
                    continue;
                }
            },
        };
        names.insert(interface.name.as_str(), device);
    }
    if problems.is_empty() { Ok(names) } else { Err(problems) }
}

fn config(
    first: &FirstBoot,
    host_name: Option<&str>,
    directory: &Path,
    names: &BTreeMap<&str, String>,
) -> Table {
    let mut config = Table::new();
    let path = |file: &str| Value::from(directory.join(file).display().to_string());
    let node = section(&mut config, "node");
    if let Some(name) = first.name.as_deref().or(host_name) {
        node.insert("name".into(), name.into());
    }
    node.insert("state_dir".into(), state_directory(directory).into());
    // A member cannot start before DHCP has given it the address that it has among them.
    node.insert("device_wait_ms".into(), DEVICE_WAIT_MS.into());
    if first.policy.is_some() {
        node.insert("first_policy".into(), path(POLICY));
    }
    let device = |name: &str| Value::from(names.get(name).cloned().unwrap_or_default());
    for interface in &first.data {
        section(&mut config, "interfaces").insert(interface.name.clone(), device(&interface.name));
    }
    let host = first.host.iter().map(|interface| device(&interface.name)).collect();
    section(&mut config, "management").insert("interfaces".into(), Value::Array(host));
    if first.trust.is_some() {
        let api = section(&mut config, "api");
        api.insert("listen".into(), Value::Array(vec![API_LISTEN.into()]));
        api.insert("certificate".into(), path(CERTIFICATE));
        api.insert("key".into(), path(KEY));
        api.insert("client_ca".into(), path(CA));
    }
    if let Some(cluster) = &first.cluster {
        let written = section(&mut config, "cluster");
        written.insert("name".into(), cluster.name.clone().into());
        written.insert("node".into(), i64::from(cluster.number).into());
        let members = cluster.members.iter().map(|member| member.clone().into()).collect();
        written.insert("members".into(), Value::Array(members));
        written.insert("ca".into(), path(CA));
        written.insert("certificate".into(), path(CERTIFICATE));
        written.insert("key".into(), path(KEY));
    }
    merge(&mut config, &first.settings);
    config
}

/// A node without certificates serves no API over the network, and is no member.
fn without_trust(mut config: Table) -> Table {
    config.remove("cluster");
    let api = section(&mut config, "api");
    for setting in ["listen", "certificate", "key", "client_ca"] {
        api.remove(setting);
    }
    section(&mut config, "node").insert("hold".into(), WAITS.into());
    config
}

/// What is not a table is replaced; gabiond says what does not belong there.
fn merge(below: &mut Table, above: &Table) {
    for (key, value) in above {
        match (below.get_mut(key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => merge(below, above),
            _ => drop(below.insert(key.clone(), value.clone())),
        }
    }
}

fn section<'a>(config: &'a mut Table, name: &str) -> &'a mut Table {
    let section = config.entry(name).or_insert_with(|| Value::Table(Table::new()));
    if !section.is_table() {
        *section = Value::Table(Table::new());
    }
    section.as_table_mut().expect("made one above")
}

fn state_directory(directory: &Path) -> String {
    directory.parent().unwrap_or(directory).display().to_string()
}

fn text(config: &Table) -> String {
    format!("{HEADER}, once, from first-boot data (docs/first-boot.md). Yours to change.\n{config}")
}

#[cfg(test)]
mod tests;
