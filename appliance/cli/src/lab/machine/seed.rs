//! What a machine is told at its first boot: a small disk as the data source NoCloud knows it.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use gabion_image::program::run;
use serde_json::{Map, Value, json};

use super::{Machine, Named};
use crate::lab::topology::written;

/// The custom data of a node (docs/first-boot.md).
#[derive(Debug, Clone)]
pub(crate) struct CustomData<'a> {
    pub(crate) name: &'a str,
    pub(crate) membership: Option<Membership<'a>>,
    /// Its interfaces are called `mgmt`, `ext` and `int`, in this order.
    pub(crate) machine: &'a Machine,
    /// Certificates as `gabion pki` makes them.
    pub(crate) pki: &'a Path,
    pub(crate) policy: Option<&'a str>,
    /// More of gabiond.toml.
    pub(crate) settings: Value,
}

/// A node's place in a cluster.
#[derive(Debug, Clone)]
pub(crate) struct Membership<'a> {
    pub(crate) cluster: &'a str,
    pub(crate) number: u8,
    pub(crate) members: Vec<(u8, IpAddr)>,
}

impl CustomData<'_> {
    /// As JSON, which is YAML too.
    ///
    /// # Errors
    /// If a certificate cannot be read.
    pub(crate) fn text(&self) -> Result<String> {
        let read = |name: String| {
            let path = self.pki.join(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let mut node = Map::from_iter([("name".to_owned(), json!(self.name))]);
        let mut document = json!({
            "apiVersion": "gabion/first-boot/v1",
            "interfaces": self.interfaces(),
            "routes": self.routes(),
            "trust": {
                "ca": read("ca.pem".to_owned())?,
                "certificate": read(format!("{}.pem", self.name))?,
                "key": read(format!("{}.key", self.name))?,
            },
            "settings": self.settings,
        });
        if let Some(Membership { cluster, number, members }) = &self.membership {
            node.insert("number".to_owned(), json!(number));
            let members: Vec<_> =
                members.iter().map(|(number, at)| format!("{number}={at}")).collect();
            document["cluster"] = json!({ "name": cluster, "members": members });
        }
        document["node"] = node.into();
        if let Some(policy) = self.policy {
            document["policy"] = json!(policy);
        }
        Ok(serde_json::to_string_pretty(&document)?)
    }
}

impl CustomData<'_> {
    fn interfaces(&self) -> Map<String, Value> {
        let Machine { nics, named, .. } = self.machine;
        let named = nics.iter().enumerate().map(|(at, nic)| match named {
            Named::ByDevice => json!(format!("eth{at}")),
            Named::ByLinkAddress => json!(written(nic.link)),
        });
        NAMES.map(str::to_owned).into_iter().zip(named).collect()
    }

    /// What is forwarded goes by these; those of the machine's own it learns by DHCP.
    fn routes(&self) -> Vec<Value> {
        let data = self.machine.nics.iter().zip(NAMES).skip(1);
        let routes = data.flat_map(|(nic, name)| {
            nic.routes.iter().map(move |(to, via)| json!({ "to": to, "out": name, "via": via }))
        });
        routes.collect()
    }
}

/// Of a machine's interfaces in first-boot data.
const NAMES: [&str; 3] = ["mgmt", "ext", "int"];

/// Writes the disk: a FAT file system labelled CIDATA with `meta-data` and, unless there is none, `user-data`.
///
/// # Errors
/// If mtools or the disk refuse.
pub(super) fn write(
    disk: &Path,
    (instance, host): (&str, &str),
    user_data: Option<&str>,
) -> Result<()> {
    /// Of the least that holds what a provider hands over, 64 KiB, several times.
    const KIBIBYTES: &str = "2048";
    let _ = fs::remove_file(disk);
    run(Command::new("mkfs.vfat").args(["-n", "CIDATA", "-C"]).arg(disk).arg(KIBIBYTES))?;
    let put = |name: &str, text: &str| {
        let file = disk.with_file_name(name);
        fs::write(&file, text)?;
        run(Command::new("mcopy").args(["-o", "-i"]).arg(disk).arg(&file).arg("::"))
    };
    put("meta-data", &format!("instance-id: {instance}\nlocal-hostname: {host}\n"))?;
    user_data.map_or(Ok(()), |text| put("user-data", text))
}
