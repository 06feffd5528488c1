//! `boot` and `upgrade`: the appliance's image in a virtual machine, from its first boot to what is wrong with it, and
//! from one version to another.

mod bad_input;
mod enrolment;
mod network;
mod shell;
mod site;
mod trial;
mod upgrade;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use serde_json::Map;

#[cfg(test)]
pub(crate) use network::{PROBER, topology};

use super::machine::Image;
use super::report::{self, Findings, Page};
use site::Site;

/// What is tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scenario {
    Boot,
    /// The first boot alone.
    QuickBoot,
    /// To the version of this bundle and back.
    Upgrade {
        bundle: PathBuf,
    },
}

/// The scenarios' names.
pub(crate) const NAMES: [&str; 2] = [BOOT, UPGRADE];
pub(crate) const BOOT: &str = "boot";
pub(crate) const UPGRADE: &str = "upgrade";

impl Scenario {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Boot | Self::QuickBoot => BOOT,
            Self::Upgrade { .. } => UPGRADE,
        }
    }

    fn title(&self) -> &'static str {
        match self {
            Self::Boot | Self::QuickBoot => "The appliance's image, booted",
            Self::Upgrade { .. } => "The appliance's image, upgraded",
        }
    }
}

/// What the scenario is told.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) name: String,
    pub(crate) image: Image,
    pub(crate) scenario: Scenario,
    pub(crate) json: Option<&'a Path>,
    pub(crate) bin_dir: Option<PathBuf>,
}

/// Boots the image, tries it, and reports.
///
/// # Errors
/// If the lab cannot be built, or a check failed.
pub(crate) fn run(wanted: &Wanted<'_>) -> Result<()> {
    let page = Page::beside(wanted.json);
    page.title(wanted.scenario.title());
    page.line(network::DRAWING);
    let begin = Instant::now();
    let seconds = || format!("{:.1} s", begin.elapsed().as_secs_f64());
    let step = |what: &str| page.line(&format!("{:>10}  {what}", seconds()));
    let mut findings = Findings::default();
    let played = play(wanted, &mut findings, step);
    page.line("");
    if let Err(error) = &played {
        findings.check("lab", "the lab works", false, format!("{error:#}"));
    }
    if let Some(path) = wanted.json {
        report::write(path, &findings.json(wanted.scenario.name(), Map::new()))?;
    }
    let closed = page.close(&findings, &seconds());
    played.and(closed)
}

/// Tells each step before it begins: some take minutes.
fn play(wanted: &Wanted<'_>, findings: &mut Findings, step: impl Fn(&str)) -> Result<()> {
    step("first boot");
    let mut site = Site::build(wanted)?;
    if let Scenario::Upgrade { bundle } = &wanted.scenario {
        return upgrade::play(&mut site, findings, bundle, step);
    }
    let custom_data = site.custom_data()?;
    trial::first_boot(&mut site, findings, &custom_data)?;
    step("first policy");
    trial::first_policy(&site, findings)?;
    trial::traffic(&site, findings, "passes")?;
    if wanted.scenario == Scenario::QuickBoot {
        return Ok(());
    }
    step("reset");
    trial::reboot(&mut site, findings)?;
    step("power cut, and a damaged policy");
    trial::damaged_policy(&mut site, findings)?;
    step("enrolment by token");
    enrolment::by_token(&mut site, findings)?;
    for bad in bad_input::ALL {
        step(bad.name);
        trial::bad_custom_data(&mut site, findings, bad)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::site::POLICY;

    #[test]
    fn the_policy_is_valid_and_passes_its_own_tests() {
        gabion_rules::load("boot", POLICY, None).unwrap_or_else(|problems| panic!("{problems}"));
    }
}
