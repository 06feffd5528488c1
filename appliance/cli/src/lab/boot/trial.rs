//! What is tried with the machine, in the order in which it is tried.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use gabion_api::v1::GetRequest;

use super::bad_input::Bad;
use super::network::{CLIENT, NODE_EXT, NODE_INT, PUBLISHED, SERVER, SERVER_ADDRESS};
use super::site::{POLICY, Site};
use crate::lab::node::lacks_only_policy;
use crate::lab::process::Finished;
use crate::lab::report::Findings;

/// Switches the machine on with this custom data, and holds what its health endpoint says against what it has.
///
/// # Errors
/// If it does not come up.
pub(super) fn first_boot(
    site: &mut Site,
    findings: &mut Findings,
    custom_data: &str,
) -> Result<()> {
    site.provide(Some(custom_data))?;
    let begin = Instant::now();
    site.switch_on()?;
    let mut too_early = None;
    site.wait("the node says that it lacks a policy alone", |site| {
        if let Ok(health) = site.health(CLIENT, NODE_EXT)
            && health.status == 200
        {
            too_early = Some(health.body);
        }
        site.machine.status().is_ok_and(|status| lacks_only_policy(&status))
    })?;
    findings.time("boot_to_policy_ms", Some(begin.elapsed()));
    let seen = too_early.map_or("never before".to_owned(), |body| format!("200 {body}"));
    findings.check(
        "not-early",
        "health is not 200 before there is a policy",
        seen == "never before",
        seen,
    );
    let health = site.health(CLIENT, NODE_EXT)?;
    let says_why = health.status == 503 && health.body.contains("no-policy");
    findings.check(
        "says-why",
        "it says what is missing",
        says_why,
        format!("{}: {}", health.status, health.reason()),
    );
    nothing_passes(site, findings, ("closed-before", "nothing passes without a policy"))?;
    // What its unit keeps it from, or the kernel does not have, it says, and works all the same.
    let console = site.machine.console();
    let warned = ["WARN", "ERROR"].iter().find_map(|level| console.find(&["gabiond[", level]));
    let seen = warned.clone().unwrap_or_else(|| "of nothing".to_owned());
    findings.check("no-warnings", "gabiond warns of nothing", warned.is_none(), seen);
    Ok(())
}

/// Pushes the policy from outside and waits until the node is ready.
///
/// # Errors
/// If it is refused.
pub(super) fn first_policy(site: &Site, findings: &mut Findings) -> Result<()> {
    push(site, POLICY)?;
    let begin = Instant::now();
    while !is_ready(site) && begin.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(100));
    }
    findings.time("push_to_ready_ms", Some(begin.elapsed()));
    let codes = probes(site);
    let expected = "168.63.129.16 gets 200 by either NIC";
    findings.check("probes", expected, codes == [200; 2], format!("{codes:?}"));
    Ok(())
}

/// Real HTTP passes, and the rest does not.
///
/// # Errors
/// If curl cannot be run.
pub(super) fn traffic(site: &Site, findings: &mut Findings, name: &'static str) -> Result<()> {
    let page = site.fetch(&format!("http://{PUBLISHED}/"))?;
    let passed = page.code == Some(0) && page.stdout.starts_with("server sees 203.0.113.254");
    findings.check(name, "HTTP to the published address passes", passed, told(&page));
    let mut through = Vec::new();
    for url in [
        format!("http://{PUBLISHED}:8080/"),
        format!("http://{SERVER_ADDRESS}:8080/"),
        format!("http://{NODE_EXT}:22/"),
        format!("https://{NODE_EXT}:4450/"),
        format!("http://{NODE_EXT}:4490/metrics"),
    ] {
        let fetched = site.fetch(&url)?;
        if is_connected(&fetched) {
            through.push(format!("{url}: {}", told(&fetched)));
        }
    }
    let seen = if through.is_empty() { "nothing did".to_owned() } else { through.join(", ") };
    findings.check(
        "closed",
        "the rest does not, nor the node's own ports",
        through.is_empty(),
        seen,
    );
    Ok(())
}

/// Resets the machine: it comes back with its policy.
///
/// # Errors
/// If it does not come up.
pub(super) fn reboot(site: &mut Site, findings: &mut Findings) -> Result<()> {
    let before = revision(site)?;
    site.machine.reset()?;
    // The old system may still answer while the firmware begins.
    site.wait("the machine is gone", |site| site.health(CLIENT, NODE_EXT).is_err())?;
    let took = site.wait("the node is ready again", is_ready)?;
    findings.time("reboot_to_ready_ms", Some(took));
    let after = revision(site)?;
    findings.check(
        "reboot",
        "a reboot keeps the policy",
        before == after,
        format!("revision {before}, then {after}"),
    );
    traffic(site, findings, "passes-again")
}

/// Cuts the machine's power, damages the policy in force on its disk, and boots it.
///
/// # Errors
/// If it does not come up.
pub(super) fn damaged_policy(site: &mut Site, findings: &mut Findings) -> Result<()> {
    /// Stands in the policy that is damaged and nowhere else.
    const MARK: &str = "the-policy-that-a-disk-will-damage";
    let good = revision(site)?;
    push(site, &format!("# {MARK}\n{POLICY}"))?;
    let damaged = revision(site)?;
    // What is in force is on the disk, whatever happens to the machine.
    site.cut_power()?;
    let disk = site.machine.disk();
    let mut bytes = fs::read(&disk)?;
    let places = damage(&mut bytes, MARK.as_bytes());
    ensure!(places > 0, "the policy is not on the disk as it was pushed");
    fs::write(&disk, bytes)?;
    site.switch_on()?;
    site.wait("the node is ready with its last good policy", is_ready)?;
    let used = revision(site)?;
    let console = site.machine.console();
    let said = console.find(&["is damaged"]);
    let seen = format!(
        "revision {used} instead of {damaged}; {}",
        said.as_deref().unwrap_or("it says nothing")
    );
    let fell_back = said.is_some() && used == good;
    findings.check("damaged", "damaged policy: the last good one; it says so", fell_back, seen);
    traffic(site, findings, "passes-after-damage")
}

/// A new instance with custom data that no node can be made of: it boots, passes nothing, and says why.
///
/// # Errors
/// If it does not boot.
pub(super) fn bad_custom_data(site: &mut Site, findings: &mut Findings, bad: Bad) -> Result<()> {
    site.cut_power()?;
    let custom_data = (bad.make)(&site.custom_data()?);
    site.provide(custom_data.as_deref())?;
    let console = site.machine.console();
    let _ = fs::remove_file(console.path());
    site.switch_on()?;
    let says = |health: &super::site::Health| {
        health.status == 503 && health.body.contains("held: ") && health.body.contains(bad.reason)
    };
    site.wait(bad.name, |site| {
        let health = site.health(CLIENT, NODE_EXT);
        health.is_ok_and(|health| says(&health))
            && console.find(&["gabion-provision: ", bad.reason]).is_some()
    })?;
    nothing_passes(site, findings, (bad.name, bad.expected))
}

pub(super) fn nothing_passes(
    site: &Site,
    findings: &mut Findings,
    (name, expected): (&'static str, &'static str),
) -> Result<()> {
    let fetched = [PUBLISHED, SERVER_ADDRESS].map(|to| site.fetch(&format!("http://{to}/")));
    let [first, second] = fetched;
    let through = [first?, second?];
    let closed = through.iter().all(|fetched| !is_connected(fetched));
    let health = site.health(CLIENT, NODE_EXT)?;
    let closed = closed && health.status == 503;
    findings.check(name, expected, closed, format!("{}: {}", health.status, health.reason()));
    Ok(())
}

/// curl's exits for what nobody answered: resolving aside, `7` (refused, unreachable) and `28` (no answer in time).
fn is_connected(fetched: &Finished) -> bool {
    !matches!(fetched.code, Some(7 | 28))
}

pub(super) fn told(finished: &Finished) -> String {
    let text = if finished.stdout.trim().is_empty() { &finished.stderr } else { &finished.stdout };
    text.trim().lines().last().unwrap_or("nothing").to_owned()
}

/// What probes of the external and the internal interface get; 0: no answer.
fn probes(site: &Site) -> [u16; 2] {
    let probed = [(CLIENT, NODE_EXT), (SERVER, NODE_INT)];
    probed.map(|(host, node)| site.probe(host, node).map_or(0, |health| health.status))
}

pub(super) fn is_ready(site: &Site) -> bool {
    probes(site) == [200; 2]
}

pub(super) fn push(site: &Site, policy: &str) -> Result<()> {
    let file = site.file("policy.yaml", policy)?;
    let pushed = site.operate(&["push", &file])?;
    ensure!(pushed.code == Some(0), "gabion push failed: {}{}", pushed.stdout, pushed.stderr);
    Ok(())
}

fn revision(site: &Site) -> Result<u64> {
    let mut node = site.machine.connect()?;
    let policy = node.call(async |api| api.get(GetRequest { revision: None }).await)?;
    Ok(policy.revision.context("the node names no revision")?.number)
}

/// Changes one byte wherever these bytes stand. Returns in how many places they did.
fn damage(bytes: &mut [u8], mark: &[u8]) -> usize {
    let places: Vec<_> = bytes
        .windows(mark.len())
        .enumerate()
        .filter(|(_, at)| *at == mark)
        .map(|(place, _)| place)
        .collect();
    for place in &places {
        bytes[*place] ^= 1;
    }
    places.len()
}

#[cfg(test)]
mod tests {
    use super::damage;

    #[test]
    fn damage_changes_every_place_and_nothing_else() {
        let mut bytes = *b"..mark..mark.";
        assert_eq!(damage(&mut bytes, b"mark"), 2);
        assert_eq!(&bytes, b"..lark..lark.");
        assert_eq!(damage(&mut bytes, b"mark"), 0);
    }
}
