//! What to guard, as validated: the devices that the appliance owns and the TCP ports that stay the host's.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::fmt;
use std::num::NonZeroU16;

use serde::Deserialize;

/// The data devices, and the local TCP ports that answer on them all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Configuration {
    devices: BTreeSet<DeviceName>,
    ports: BTreeSet<NonZeroU16>,
    azure_services: bool,
}

impl Configuration {
    /// Checks a configuration.
    ///
    /// # Errors
    /// [`ConfigurationError`], which names the value.
    pub(crate) fn new<'a>(
        devices: impl IntoIterator<Item = &'a str>,
        ports: impl IntoIterator<Item = u16>,
    ) -> Result<Self, ConfigurationError> {
        let devices =
            devices.into_iter().map(DeviceName::new).collect::<Result<BTreeSet<_>, _>>()?;
        let ports = ports
            .into_iter()
            .map(|port| NonZeroU16::new(port).ok_or(ConfigurationError::PortZero))
            .collect::<Result<BTreeSet<_>, _>>()?;
        match devices.len() {
            0 => return Err(ConfigurationError::NoDevice),
            1..=DEVICES_MAX => {}
            n => return Err(ConfigurationError::Devices(n)),
        }
        if ports.len() > PORTS_MAX {
            return Err(ConfigurationError::Ports(ports.len()));
        }
        Ok(Self { devices, ports, azure_services: false })
    }

    /// The same, and the host may speak with Azure's services over data devices.
    pub(crate) const fn with_azure_services(mut self, azure_services: bool) -> Self {
        self.azure_services = azure_services;
        self
    }

    pub(crate) const fn azure_services(&self) -> bool {
        self.azure_services
    }

    pub(crate) fn devices(&self) -> impl Iterator<Item = &DeviceName> {
        self.devices.iter()
    }

    pub(crate) fn ports(&self) -> impl Iterator<Item = u16> {
        self.ports.iter().map(|port| port.get())
    }
}

/// A configuration as the daemon writes it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WrittenConfiguration {
    data_devices: Vec<String>,
    tcp_ports: Vec<u16>,
    /// A daemon of before did not say.
    #[serde(default)]
    azure_services: bool,
}

impl TryFrom<WrittenConfiguration> for Configuration {
    type Error = ConfigurationError;

    fn try_from(written: WrittenConfiguration) -> Result<Self, Self::Error> {
        let devices = written.data_devices.iter().map(String::as_str);
        let configuration = Self::new(devices, written.tcp_ports)?;
        Ok(configuration.with_azure_services(written.azure_services))
    }
}

/// A name that a network device can have; whether it has one now does not matter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DeviceName(CString);

impl DeviceName {
    fn new(name: &str) -> Result<Self, ConfigurationError> {
        // What the kernel takes (dev_valid_name in net/core/dev.c), and printable besides.
        let fits = (1..=DEVICE_NAME_BYTES_MAX).contains(&name.len());
        let allowed = |b: u8| b.is_ascii_graphic() && b != b'/' && b != b':';
        if !fits || !name.bytes().all(allowed) || name == "." || name == ".." {
            return Err(ConfigurationError::DeviceName(name.to_owned()));
        }
        CString::new(name).map(Self).map_err(|_| ConfigurationError::DeviceName(name.to_owned()))
    }

    pub(crate) fn as_c_str(&self) -> &CStr {
        &self.0
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.to_string_lossy().fmt(f)
    }
}

/// Why a configuration is refused; the rules that are in place stay.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConfigurationError {
    #[error("no data device is named, so there is nothing to guard: fill in [interfaces]")]
    NoDevice,
    #[error("\"{0}\" is no name of a network device: 1 to 15 printable characters, no '/' or ':'")]
    DeviceName(String),
    #[error("{0} data devices are more than the {DEVICES_MAX} that the guard takes")]
    Devices(usize),
    #[error("{0} TCP ports are more than the {PORTS_MAX} that the guard takes")]
    Ports(usize),
    #[error("TCP port 0 is no port: use 1 to 65535")]
    PortZero,
}

/// Data devices of one node; each costs four rules.
const DEVICES_MAX: usize = 64;
/// TCP ports that stay the host's; each costs two rules.
const PORTS_MAX: usize = 32;
/// IFNAMSIZ (linux/if.h) is 16 and counts the closing NUL.
const DEVICE_NAME_BYTES_MAX: usize = 15;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn device_names() {
        for name in ["eth1", "a", "enP1s2.100", "fifteen-letters", "vlan@x"] {
            assert!(Configuration::new([name], []).is_ok(), "{name}");
        }
        for name in ["", ".", "..", "a/b", "a b", "a:1", "sixteen-letters-", "naïve", "a\0"] {
            let refused = ConfigurationError::DeviceName(name.to_owned());
            assert_eq!(Configuration::new(["eth1", name], []), Err(refused));
        }
    }

    #[test]
    fn limits_carry_the_value() {
        let names: Vec<String> = (0..65).map(|n| format!("eth{n}")).collect();
        let names = || names.iter().map(String::as_str);
        assert_eq!(Configuration::new(names(), []), Err(ConfigurationError::Devices(65)));
        assert!(Configuration::new(names().take(64), 1..=32).is_ok());
        assert_eq!(Configuration::new(["a"], 1..=33), Err(ConfigurationError::Ports(33)));
        assert_eq!(Configuration::new(["a"], [0]), Err(ConfigurationError::PortZero));
        assert_eq!(Configuration::new([], [1]), Err(ConfigurationError::NoDevice));
    }

    #[test]
    fn what_is_named_twice_counts_once() {
        let twice = Configuration::new(["b", "a", "b"], [2, 1, 2]).unwrap();
        assert_eq!(twice, Configuration::new(["a", "b"], [1, 2]).unwrap());
    }
}
