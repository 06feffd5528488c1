//! What the host itself is given at every boot, as `/etc` and `/run` begin anew: its name, its administrator, its
//! network.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::document::Device;
use crate::files;
use crate::network;
use crate::plan::{ADMIN_KEYS, ADMIN_NAME, Devices, HOST_NAME, NETWORK};

/// Drivers whose devices stand behind another one of the same address.
const VIRTUAL_FUNCTIONS: [&str; 4] = ["mlx4_core", "mlx4_en", "mlx5_core", "mana"];

/// Where things are on this machine.
#[derive(Debug, Clone)]
pub struct Places {
    /// Of the configuration: `/var/lib/gabion/etc`.
    pub directory: PathBuf,
    /// `/`, but for tests.
    pub root: PathBuf,
}

impl Places {
    pub fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn is_this_machine(&self) -> bool {
        self.root == Path::new("/")
    }

    /// Ethernet devices by address. Of several with one address, as virtual functions have their synthetic device's,
    /// the one that carries packets' addresses.
    pub fn devices(&self) -> Devices {
        let mut found: BTreeMap<[u8; 6], (bool, String)> = BTreeMap::new();
        let Ok(entries) = fs::read_dir(self.at("sys/class/net")) else { return Devices::new() };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            let read = |name: &str| fs::read_to_string(path.join(name)).unwrap_or_default();
            // ARPHRD_ETHER; and 0 is an address that the hardware has.
            if read("type").trim() != "1" || read("addr_assign_type").trim() != "0" {
                continue;
            }
            let Some(Device::Mac(mac)) = Device::parse(read("address").trim()) else { continue };
            let driver = fs::read_link(path.join("device/driver")).unwrap_or_default();
            let driver = driver.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let is_behind = VIRTUAL_FUNCTIONS.contains(&driver);
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            let candidate = (is_behind, name.to_owned());
            let best = found.entry(mac).or_insert_with(|| candidate.clone());
            if candidate < *best {
                *best = candidate;
            }
        }
        found.into_iter().map(|(mac, (_, name))| (mac, name)).collect()
    }

    /// Gives the host what the instance's directory says.
    ///
    /// # Errors
    /// The first thing that is refused; the network comes first, as the rest is of no use without.
    pub fn apply(&self) -> anyhow::Result<()> {
        self.apply_network().context("cannot write the network's files")?;
        self.apply_host_name().context("cannot set the host's name")?;
        self.apply_admin().context("cannot give the administrator an account")
    }

    fn apply_network(&self) -> io::Result<()> {
        let to = self.at("run/systemd/network");
        let entries = match fs::read_dir(self.directory.join(NETWORK)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let devices = self.devices();
        for entry in entries {
            let entry = entry?;
            let text = fs::read_to_string(entry.path())?;
            let text = network::with_names(&text, &devices);
            files::write(&to.join(entry.file_name()), 0o644, &text)?;
        }
        Ok(())
    }

    fn apply_host_name(&self) -> io::Result<()> {
        let Some(name) = files::read(&self.directory.join(HOST_NAME))? else { return Ok(()) };
        let name = name.trim();
        files::write(&self.at("etc/hostname"), 0o644, &format!("{name}\n"))?;
        let hosts = format!(
            "127.0.0.1 localhost\n127.0.1.1 {name}\n::1 localhost ip6-localhost ip6-loopback\n"
        );
        files::write(&self.at("etc/hosts"), 0o644, &hosts)?;
        if self.is_this_machine() {
            rustix::system::sethostname(name.as_bytes())?;
        }
        Ok(())
    }

    /// An account without a password, whose home outlives `/etc`.
    fn apply_admin(&self) -> anyhow::Result<()> {
        let (Some(name), Some(keys)) = (
            files::read(&self.directory.join(ADMIN_NAME))?,
            files::read(&self.directory.join(ADMIN_KEYS))?,
        ) else {
            return Ok(());
        };
        let name = name.trim();
        let home = self.at("var/lib/gabion/home").join(name);
        let ssh = home.join(".ssh");
        files::write(&ssh.join("authorized_keys"), 0o600, &keys)?;
        if !self.is_this_machine() {
            return Ok(());
        }
        if !has_user(&fs::read_to_string("/etc/passwd")?, name) {
            let mut useradd = Command::new("useradd");
            useradd.args([
                "--no-create-home",
                "--user-group",
                "--shell",
                "/bin/bash",
                "--home-dir",
            ]);
            run(useradd.arg(login_home(name)).arg(name))?;
        }
        let sudoers = Path::new("/etc/sudoers.d");
        if sudoers.is_dir() {
            let line = format!("{name} ALL=(ALL) NOPASSWD:ALL\n");
            files::write(&sudoers.join("90-gabion-admin"), 0o440, &line)?;
        }
        for directory in [&home, &ssh] {
            fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
        }
        run(Command::new("chown").arg("-R").arg(format!("{name}:")).arg(&home))
    }
}

/// Where the administrator comes in: not below the data's folder, which is closed to everybody but gabiond. The image
/// has the homes there bound to /home.
fn login_home(name: &str) -> PathBuf {
    Path::new("/home").join(name)
}

fn has_user(passwd: &str, name: &str) -> bool {
    passwd.lines().any(|line| line.split(':').next() == Some(name))
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    pub(crate) fn device(root: &Path, name: &str, mac: &str, driver: &str) {
        let path = root.join("sys/class/net").join(name);
        fs::create_dir_all(path.join("device")).unwrap();
        for (file, text) in [("type", "1"), ("addr_assign_type", "0"), ("address", mac)] {
            fs::write(path.join(file), format!("{text}\n")).unwrap();
        }
        std::os::unix::fs::symlink(format!("/bus/{driver}"), path.join("device/driver")).unwrap();
    }

    fn places(root: &Path) -> Places {
        Places { directory: root.join("var/lib/gabion/etc"), root: root.to_owned() }
    }

    #[test]
    fn a_virtual_function_is_not_taken_for_its_synthetic_device() {
        let root = tempfile::tempdir().unwrap();
        device(root.path(), "eth0", "00:0d:3a:00:00:01", "mlx5_core");
        device(root.path(), "eth1", "00:0d:3a:00:00:01", "hv_netvsc");
        device(root.path(), "eth2", "00:0d:3a:00:00:02", "hv_netvsc");
        device(root.path(), "eth3", "00:0d:3a:00:00:02", "mana");
        let devices = places(root.path()).devices();
        assert_eq!(devices.into_values().collect::<Vec<_>>(), ["eth1", "eth2"]);
    }

    #[test]
    fn what_persists_is_applied_to_the_host() {
        let root = tempfile::tempdir().unwrap();
        let places = places(root.path());
        places.apply().unwrap();
        let write =
            |path: &str, text: &str| files::write(&places.directory.join(path), 0o644, text);
        write(HOST_NAME, "fw-1\n").unwrap();
        write(ADMIN_NAME, "ops\n").unwrap();
        write(ADMIN_KEYS, "ssh-ed25519 AAAA ops\n").unwrap();
        device(root.path(), "eth7", "00:0d:3a:00:00:01", "hv_netvsc");
        let text = "[RoutingPolicyRule]\nOutgoingInterface=00:0d:3a:00:00:01\nTable=1001\n";
        write("network/10-gabion-ext.network", text).unwrap();
        places.apply().unwrap();
        let read = |path: &str| fs::read_to_string(root.path().join(path)).unwrap();
        assert_eq!(read("etc/hostname"), "fw-1\n");
        assert_eq!(read("var/lib/gabion/home/ops/.ssh/authorized_keys"), "ssh-ed25519 AAAA ops\n");
        let network = read("run/systemd/network/10-gabion-ext.network");
        assert!(network.contains("\nOutgoingInterface=eth7\n"), "{network}");
    }

    #[test]
    fn an_administrators_keys_are_found_though_the_datas_folder_is_closed() {
        // gabiond closes its state directory to everybody else, and sshd looks for keys as the one who comes.
        let home = login_home("ops");
        assert!(!home.starts_with("/var/lib/gabion"), "{}", home.display());
        let fstab = include_str!("../../../image/files/etc/fstab");
        assert!(
            fstab.contains("/var/lib/gabion/home /home none bind"),
            "what is written there is found here"
        );
    }
}
