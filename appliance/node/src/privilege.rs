//! What the daemon gives up before it looks at the first packet.
//!
//! Called once, on the first thread, before any other is started, so that all inherit it: capabilities
//! and landlock belong to threads, not to the process. The sockets that need more are open by then.
//!
//! What is kept: `CAP_NET_RAW` opens packet sockets again when a device comes back, `CAP_NET_ADMIN`
//! asks the kernel for neighbours and is what the guard needs when it is started again, and
//! `CAP_NET_BIND_SERVICE` only where a probe port is below 1024 and must be bound to devices that come
//! later. They stay in the bounding and ambient sets, which is how the guard's process gets them although
//! `no_new_privs` is set. Nothing else can be had again by any way.
//!
//! Landlock then forbids writing anywhere but in the state directory, the log's and the socket's. It
//! is best effort: a kernel without it leaves the rest in place, and a line in the log says so.

use std::io;
use std::path::{Path, PathBuf};

use caps::{CapSet, Capability, CapsHashSet};
use landlock::{
    ABI, AccessFs, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetStatus,
    path_beneath_rules,
};

use crate::config::{Config, DatapathKind};

/// Ports below are privileged (`ip_unprivileged_port_start`'s default).
const FIRST_UNPRIVILEGED_PORT: u16 = 1_024;
/// Debian 12's kernel; newer rights are used as they come, older kernels do what they can.
const LANDLOCK_ABI: ABI = ABI::V2;

/// Why privileges could not be given up. The daemon does not run with more than it needs.
#[derive(Debug, thiserror::Error)]
pub enum DropPrivilegeError {
    #[error("node.user {0}: /etc/passwd has no such user")]
    UnknownUser(String),
    #[error("cannot read /etc/passwd: {0}")]
    Passwd(#[source] io::Error),
    #[error("cannot become user {user}: {source}; start gabiond as root or take node.user out")]
    Become { user: String, source: rustix::io::Errno },
    #[error("cannot give up capabilities: {0}")]
    Capabilities(#[from] caps::errors::CapsError),
    #[error("cannot forbid new privileges: {0}")]
    NoNewPrivileges(#[source] rustix::io::Errno),
    #[error("cannot confine file access: {0}")]
    Landlock(#[from] landlock::RulesetError),
}

/// Gives up everything that is not needed from here on. Returns what an operator should know.
///
/// # Errors
/// [`DropPrivilegeError`].
pub fn drop_privileges(config: &Config) -> Result<Option<&'static str>, DropPrivilegeError> {
    let may_change_bounds = caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)?;
    let permitted = caps::read(None, CapSet::Permitted)?;
    let keep: CapsHashSet = needed(config).intersection(&permitted).copied().collect();
    if may_change_bounds {
        for capability in caps::all().difference(&keep) {
            // Newer than this kernel: there is nothing to give up.
            if caps::has_cap(None, CapSet::Bounding, *capability).unwrap_or(false) {
                caps::drop(None, CapSet::Bounding, *capability)?;
            }
        }
    }
    if let Some(user) = &config.node.user {
        become_user(user)?;
    }
    caps::set(None, CapSet::Effective, &keep)?;
    caps::set(None, CapSet::Permitted, &keep)?;
    caps::set(None, CapSet::Inheritable, &keep)?;
    caps::set(None, CapSet::Ambient, &keep)?;
    rustix::thread::set_no_new_privs(true).map_err(DropPrivilegeError::NoNewPrivileges)?;
    confine(config)
}

fn needed(config: &Config) -> CapsHashSet {
    let mut needed = CapsHashSet::new();
    // Of a node that is held, the guard needs them.
    if config.node.datapath != DatapathKind::Null {
        needed.extend([Capability::CAP_NET_RAW, Capability::CAP_NET_ADMIN]);
    }
    if config.host_ports().iter().any(|port| *port < FIRST_UNPRIVILEGED_PORT) {
        needed.insert(Capability::CAP_NET_BIND_SERVICE);
    }
    needed
}

fn become_user(name: &str) -> Result<(), DropPrivilegeError> {
    let passwd = std::fs::read_to_string("/etc/passwd").map_err(DropPrivilegeError::Passwd)?;
    let (user, group) =
        find_user(&passwd, name).ok_or_else(|| DropPrivilegeError::UnknownUser(name.to_owned()))?;
    let (user, group) = (rustix::thread::Uid::from_raw(user), rustix::thread::Gid::from_raw(group));
    let become_it = || -> rustix::io::Result<()> {
        rustix::thread::set_keep_capabilities(true)?;
        rustix::thread::set_thread_groups(&[])?;
        rustix::thread::set_thread_res_gid(group, group, group)?;
        rustix::thread::set_thread_res_uid(user, user, user)
    };
    become_it().map_err(|source| DropPrivilegeError::Become { user: name.to_owned(), source })
}

/// User and group number of a user in passwd(5), by name or by number.
fn find_user(passwd: &str, wanted: &str) -> Option<(u32, u32)> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _, user, group) =
            (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        if name != wanted && user != wanted {
            return None;
        }
        Some((user.parse().ok()?, group.parse().ok()?))
    })
}

fn confine(config: &Config) -> Result<Option<&'static str>, DropPrivilegeError> {
    let parent = |path: &Path| path.parent().map(Path::to_owned);
    let writable: Vec<PathBuf> = [
        Some(config.node.state_dir.clone()),
        // There are programs at interfaces that come later, too.
        Some(config.node.pin_dir.clone()),
        config.log.json.as_deref().and_then(parent),
        parent(&config.api.unix_socket),
        Some(PathBuf::from("/dev/null")),
    ]
    .into_iter()
    .flatten()
    .collect();
    let access = AccessFs::from_write(LANDLOCK_ABI);
    let status = Ruleset::default()
        .handle_access(access)?
        .create()?
        .add_rules(path_beneath_rules(&writable, access))?
        .restrict_self()?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => None,
        RulesetStatus::NotEnforced => Some("this kernel has no landlock: files are not confined"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_and_by_number() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\ngabion:x:991:990::/:/usr/sbin/nologin\n";
        assert_eq!(find_user(passwd, "gabion"), Some((991, 990)));
        assert_eq!(find_user(passwd, "991"), Some((991, 990)));
        assert_eq!(find_user(passwd, "nobody"), None);
        assert_eq!(find_user("broken", "broken"), None);
    }

    #[test]
    fn the_unit_leaves_what_confinement_and_pinned_maps_take() {
        let unit = include_str!("../../../packaging/gabiond.service");
        let line = |key: &str| unit.lines().find(|line| line.starts_with(key)).unwrap_or_default();
        // systemd 252 has no @sandbox; refused with EPERM they look like a kernel without landlock.
        for call in ["create_ruleset", "add_rule", "restrict_self"] {
            assert!(line("SystemCallFilter=").contains(&format!("landlock_{call}")), "{call}");
        }
        // Above it ProtectKernelTunables= has its say.
        let pins = Config::parse("[interfaces]\na = \"b\"\n", "t").expect("the text is right");
        let pins = pins.node.pin_dir.display().to_string();
        assert_eq!(line("ReadWritePaths="), format!("ReadWritePaths=-{pins}"));
        assert!(line("ExecStartPre=-+/bin/mkdir").ends_with(&pins));
    }

    #[test]
    fn the_null_datapath_needs_nothing() {
        let parse = |text: &str| Config::parse(text, "t").expect("the text is right");
        let null = "[node]\ndatapath = \"null\"\n[interfaces]\na = \"b\"\n";
        assert!(needed(&parse(null)).is_empty());
        let userspace = "[interfaces]\na = \"b\"\n[health]\nport = 80\n";
        assert_eq!(needed(&parse(userspace)).len(), 3);
    }
}
