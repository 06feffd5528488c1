//! A new version, the way back, and a version that cannot run: what the node is stays what it was.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use super::network::{CLIENT, NODE_EXT};
use super::shell::Shell;
use super::site::{POLICY, Site};
use super::trial::{self, is_ready, push};
use crate::lab::report::Findings;

/// What stays, whatever version runs. Everything first boot and gabiond have written, but for what each boot writes.
const KEPT: &str = "hostname; sudo sh -c 'cd /var/lib/gabion && find etc ssh revisions -type f | sort | xargs sha256sum'";
/// Where the administrator puts the bundle.
const BUNDLE: &str = "next.bundle.tar";
const REBOOT: &str = "sudo systemctl reboot";

/// Boots the image once, and other versions from there.
///
/// # Errors
/// If the machine does not come up.
pub(super) fn play(
    site: &mut Site,
    findings: &mut Findings,
    bundle: &Path,
    step: impl Fn(&str),
) -> Result<()> {
    let shell = Shell::new(site)?;
    let custom_data = shell.admit(&site.custom_data()?)?;
    trial::first_boot(site, findings, &custom_data)?;
    trial::first_policy(site, findings)?;
    push(site, &format!("# the second revision\n{POLICY}"))?;
    log_in(site, &shell)?;
    let node = Node::look(site, &shell)?;
    let bundle = bundle.to_str().context("the bundle's path is not UTF-8")?;
    step("upgrade");
    findings.time("copy_ms", Some(shell.copy(site, bundle, BUNDLE)?.took));

    let next = install(site, findings, &shell, &node)?;
    step("roll-back");
    roll_back(site, findings, &shell, &node)?;
    step("a version whose root is damaged");
    damaged_root(site, findings, &shell, &node, &next)
}

/// What the node is: its version, and what no version may change.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Node {
    version: String,
    boot: String,
    files: String,
    revisions: String,
}

impl Node {
    fn look(site: &Site, shell: &Shell) -> Result<Self> {
        let revisions = site.operate(&["show", "revisions", "--json"])?;
        ensure!(revisions.code == Some(0), "gabion show revisions: {}", revisions.stderr);
        Ok(Self {
            version: shell.ask(site, "cat /usr/lib/gabion/version")?,
            boot: shell.ask(site, "cat /proc/sys/kernel/random/boot_id")?,
            files: shell.ask(site, KEPT)?,
            revisions: revisions.stdout,
        })
    }

    /// What is not as it was.
    fn differs(&self, before: &Self) -> String {
        let (was, is) = ([&before.files, &before.revisions], [&self.files, &self.revisions]);
        let lines = |texts: [&String; 2]| -> Vec<String> {
            texts.iter().flat_map(|text| text.lines()).map(str::to_owned).collect()
        };
        let (was, is) = (lines(was), lines(is));
        let gone = was.iter().filter(|line| !is.contains(line)).map(|line| format!("-{line}"));
        let new = is.iter().filter(|line| !was.contains(line)).map(|line| format!("+{line}"));
        gone.chain(new).collect::<Vec<_>>().join(" ")
    }
}

/// Installs the bundle and starts the machine from it.
fn install(site: &mut Site, findings: &mut Findings, shell: &Shell, before: &Node) -> Result<Node> {
    let said = shell.run(site, &format!("sudo gabion-upgrade install {BUNDLE} --reboot"))?;
    ensure!(said.stdout.contains("is booted next"), "{}{}", said.stdout, said.stderr);
    findings.time("install_ms", Some(said.took));
    let node = boot_again(site, findings, shell, before, "upgrade_to_ready_ms")?;
    let status = becomes_good(site, shell, &node.version)?;
    let is_next = node.version != before.version
        && status.starts_with(&format!("runs: {} from gabion-root-b", node.version));
    findings.check("upgrade", "the new version runs, and becomes good", is_next, told(&status));
    keeps(findings, ("upgrade-keeps", "it has all that was"), &node, before);
    trial::traffic(site, findings, "passes-upgraded")?;
    Ok(node)
}

fn roll_back(site: &mut Site, findings: &mut Findings, shell: &Shell, before: &Node) -> Result<()> {
    let said = shell.run(site, "sudo gabion-upgrade rollback --reboot")?;
    ensure!(said.stdout.contains("is booted next"), "{}{}", said.stdout, said.stderr);
    let node = boot_again(site, findings, shell, before, "rollback_to_ready_ms")?;
    let status = becomes_good(site, shell, &node.version)?;
    let is_first = status.starts_with(&format!("runs: {} from gabion-root-a", before.version));
    findings.check("rollback", "roll-back: the first version runs again", is_first, told(&status));
    keeps(findings, ("rollback-keeps", "it has all that was, too"), &node, before);
    Ok(())
}

/// The new version again, but its root is damaged before its first start: three tries, and the machine is back by itself.
fn damaged_root(
    site: &mut Site,
    findings: &mut Findings,
    shell: &Shell,
    before: &Node,
    next: &Node,
) -> Result<()> {
    /// What the initramfs says of such a root.
    const NO_ROOT: &str = "(gabion-root-b) is no root";
    shell.ask(site, &format!("sudo gabion-upgrade install {BUNDLE}"))?;
    let root = "/dev/disk/by-partlabel/gabion-root-b";
    let damage = format!("sudo dd if=/dev/zero of={root} bs=64K count=1 conv=fsync status=none");
    shell.ask(site, &damage)?;
    let begin = Instant::now();
    shell.run(site, REBOOT)?;
    for tries in 1..=3 {
        site.wait("the damaged version is tried", |site| {
            site.machine.console().count(NO_ROOT) >= tries
        })?;
    }
    let node = comes_back(site, shell)?;
    findings.time("fall_back_to_ready_ms", Some(begin.elapsed()));
    let status = shell.ask(site, "sudo gabion-upgrade status")?;
    let says = format!("version {} has not become good in 3 tries", next.version);
    site.wait("the console tells of it", |site| site.machine.console().find(&[&says]).is_some())?;
    let tries = site.machine.console().count(NO_ROOT);
    let fell_back = node.version == before.version
        && tries == 3
        && status.contains(&format!("there: {}, has used up its tries", next.version))
        && status.contains(&format!("there: {}, good", before.version));
    findings.check(
        "falls-back",
        "one that cannot run: three tries, and back",
        fell_back,
        format!("{tries} tries; {}", told(&status)),
    );
    keeps(findings, ("fall-back-keeps", "and has all that was"), &node, before);
    trial::traffic(site, findings, "passes-after-all")
}

/// Waits until the machine has gone and come back.
fn boot_again(
    site: &mut Site,
    findings: &mut Findings,
    shell: &Shell,
    before: &Node,
    figure: &'static str,
) -> Result<Node> {
    let begin = Instant::now();
    site.wait("the machine is gone", |site| site.health(CLIENT, NODE_EXT).is_err())?;
    site.wait("the node is ready", is_ready)?;
    findings.time(figure, Some(begin.elapsed()));
    let node = comes_back(site, shell)?;
    ensure!(node.boot != before.boot, "the machine was not started again");
    Ok(node)
}

fn comes_back(site: &mut Site, shell: &Shell) -> Result<Node> {
    site.wait("the node is ready", is_ready)?;
    log_in(site, shell)?;
    Node::look(site, shell)
}

fn log_in(site: &mut Site, shell: &Shell) -> Result<()> {
    let answers = |site: &Site| shell.run(site, "true").is_ok_and(|done| done.code == Some(0));
    site.wait("SSH answers", answers).map(|_| ())
}

/// The counter goes once gabiond is up, which can be a moment after it is ready.
fn becomes_good(site: &mut Site, shell: &Shell, version: &str) -> Result<String> {
    let good = format!("there: {version}, good");
    let mut status = String::new();
    let waited = site.wait("the version becomes good", |site| {
        status = shell.ask(site, "sudo gabion-upgrade status").unwrap_or_default();
        status.contains(&good)
    });
    waited.with_context(|| status.clone())?;
    Ok(status)
}

fn keeps(
    findings: &mut Findings,
    (name, expected): (&'static str, &'static str),
    node: &Node,
    before: &Node,
) {
    let differs = node.differs(before);
    let seen = format!(
        "{} files, {} lines of revisions",
        before.files.lines().count(),
        before.revisions.lines().count()
    );
    findings.check(
        name,
        expected,
        differs.is_empty(),
        if differs.is_empty() { seen } else { differs },
    );
}

fn told(status: &str) -> String {
    status.lines().collect::<Vec<_>>().join("; ")
}
