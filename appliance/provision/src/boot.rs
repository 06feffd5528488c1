//! What happens at each boot, before the network and before gabiond.
//!
//! An instance that has been provisioned is left as it is, and the host gets its part anew. Any other loses what an
//! instance before it had: configuration, certificates, policy. gabiond's configuration is removed first and comes
//! back last but one, the instance's name last: whoever dies in between leaves a node that does not start, and is
//! provisioned at its next boot. What gabiond does not accept never becomes its configuration.

use std::convert::Infallible;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::document::{Admin, FirstBoot, Problem};
use crate::host::Places;
use crate::limits::{AZURE_WAIT, DEVICES_WAIT, NO_CLOUD_WAIT, NO_CLOUD_WAIT_AGAIN};
use crate::network::Platform;
use crate::plan::{
    self, ADMIN_KEYS, ADMIN_NAME, BY_MAC, CONFIG, CONFIG_ENROLLED, Devices, File, Given, HOST_NAME,
    NETWORK, POLICY,
};
use crate::report::{self, Outcome};
use crate::source::{self, FindError, Found};
use crate::{files, instance};

/// Which instance the directory was made for.
const INSTANCE: &str = "instance";
/// What an instance leaves behind: in the configuration's directory, and beside it.
const OF_INSTANCE: [&str; 9] =
    [CONFIG, CONFIG_ENROLLED, POLICY, "pki", "admin", HOST_NAME, BY_MAC, NETWORK, report::PENDING];
const POLICIES: [&str; 2] = ["current", "revisions"];
const HOST_KEYS: &str = "ssh";
/// /home is bound to this very directory, which must stay.
const HOMES: &str = "home";
const PAUSE: Duration = Duration::from_millis(200);

/// How long disks and devices are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    pub azure: Duration,
    pub no_cloud: Duration,
    /// Of an instance that has been provisioned.
    pub again: Duration,
    pub devices: Duration,
}

impl Patience {
    pub const USUAL: Self = Self {
        azure: AZURE_WAIT,
        no_cloud: NO_CLOUD_WAIT,
        again: NO_CLOUD_WAIT_AGAIN,
        devices: DEVICES_WAIT,
    };
}

/// What has become of the instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    Provisioned,
    /// It had been provisioned before.
    Known,
    /// Somebody has written a configuration, and no disk says otherwise.
    LeftAlone,
    /// With everything that is wrong.
    Held(Vec<String>),
}

/// Asks gabiond whether it accepts a file; what it says if not.
pub trait Judge {
    /// Of a configuration and the files that it names.
    ///
    /// # Errors
    /// What is wrong, one line each.
    fn judge(&self, config: &Path) -> Result<(), Vec<String>>;

    /// Of a configuration alone, whose certificates are yet to come.
    ///
    /// # Errors
    /// What is wrong, one line each.
    fn judge_text(&self, config: &Path) -> Result<(), Vec<String>>;
}

/// The program `gabiond`.
#[derive(Debug)]
pub struct Gabiond<'a>(pub &'a Path);

impl Judge for Gabiond<'_> {
    fn judge(&self, config: &Path) -> Result<(), Vec<String>> {
        self.check("--check-files", config)
    }

    fn judge_text(&self, config: &Path) -> Result<(), Vec<String>> {
        self.check("--check-config", config)
    }
}

impl Gabiond<'_> {
    fn check(&self, option: &str, config: &Path) -> Result<(), Vec<String>> {
        let output = Command::new(self.0).arg(option).arg("--config").arg(config).output();
        let output = output.map_err(|error| vec![format!("{}: {error}", self.0.display())])?;
        if output.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stderr);
        let lines = text.lines().map(|line| line.trim_start_matches("gabiond: ").to_owned());
        let lines: Vec<String> = lines.filter(|line| !line.is_empty()).collect();
        let silent = || vec![format!("gabiond refuses it ({})", output.status)];
        Err(if lines.is_empty() { silent() } else { lines })
    }
}

/// One boot of one machine.
#[derive(Debug)]
pub struct Boot<'a, J> {
    pub places: &'a Places,
    pub judge: &'a J,
    pub patience: Patience,
}

impl<J: Judge> Boot<'_, J> {
    /// Provisions the instance if it has not been, and gives the host its part.
    ///
    /// # Errors
    /// When files cannot be written. There is then no configuration that gabiond would start with.
    pub fn run(&self) -> anyhow::Result<Done> {
        let known = files::read(&self.path(INSTANCE))?;
        let is_known = |name: &str| known.as_deref().is_some_and(|k| instance::is_same(k, name));
        let (dmi, at) =
            (self.places.at("sys/class/dmi/id"), self.places.at("run/gabion/first-boot"));
        if instance::is_on_azure(&dmi) {
            let name = instance::azure(&dmi).context("cannot tell which instance this is")?;
            if is_known(&name) {
                return self.again();
            }
            let devices = self.places.at("dev");
            let found = wait(self.patience.azure, || source::azure(&devices, &at));
            return self.provision(Platform::Azure, Some(&name), found);
        }
        let by_label = self.places.at("dev/disk/by-label");
        let patience = if known.is_some() { self.patience.again } else { self.patience.no_cloud };
        match wait(patience, || source::no_cloud(&by_label, &at)) {
            Ok(Some((name, _))) if is_known(&name) => self.again(),
            Ok(Some((name, found))) => {
                self.provision(Platform::Other, Some(&name), Ok(Some(found)))
            }
            // Without its disk an instance is the one that it was, and with one that cannot be read.
            Err(error) if known.is_some() => {
                eprintln!("gabion-provision: {}", plan::printable(&error.to_string()));
                self.again()
            }
            Ok(None) if known.is_some() => self.again(),
            Ok(None) if self.is_of_another_hand()? => {
                self.places.apply()?;
                Ok(Done::LeftAlone)
            }
            Ok(None) => self.provision(Platform::Other, None, Ok(None)),
            Err(error) => self.provision(Platform::Other, None, Err(error)),
        }
    }

    /// Provisions the instance from data that somebody hands over, whatever it was before.
    ///
    /// # Errors
    /// As [`Boot::run`].
    pub fn provision_from(&self, data: Vec<u8>) -> anyhow::Result<Done> {
        let dmi = self.places.at("sys/class/dmi/id");
        let read = |name: &str| files::read(&self.path(name));
        // Whoever does this by hand is not to lose the account by which he does it.
        let admin = read(ADMIN_NAME)?.zip(read(ADMIN_KEYS)?).map(|(name, keys)| Admin {
            name: name.trim().to_owned(),
            keys: keys.lines().map(str::to_owned).collect(),
        });
        let host_name = read(HOST_NAME)?.map(|name| name.trim().to_owned());
        let found = Found { given: Given { host_name, admin }, data: Some(data) };
        self.forget_state(&POLICIES)?;
        if instance::is_on_azure(&dmi) {
            let name = instance::azure(&dmi).context("cannot tell which instance this is")?;
            return self.make(Platform::Azure, Some(&name), Ok(Some(found)));
        }
        // Else the disk would make another instance of it at the next boot.
        let (by_label, at) =
            (self.places.at("dev/disk/by-label"), self.places.at("run/gabion/first-boot"));
        let of_disk = source::no_cloud(&by_label, &at).ok().flatten().map(|(name, _)| name);
        let name = of_disk.unwrap_or_else(|| "by-hand".to_owned());
        self.make(Platform::Other, Some(&name), Ok(Some(found)))
    }

    fn again(&self) -> anyhow::Result<Done> {
        if let Some(by_mac) = files::read(&self.path(BY_MAC))? {
            let by_mac = plan::by_mac(&by_mac);
            let devices = self.devices(&by_mac);
            for file in [CONFIG, CONFIG_ENROLLED] {
                let Some(config) = files::read(&self.path(file))? else { continue };
                if let Some(renamed) = plan::rename_devices(&config, &by_mac, &devices)? {
                    files::write(&self.path(file), 0o640, &renamed)?;
                }
            }
        }
        self.places.apply()?;
        Ok(Done::Known)
    }

    /// Writes an instance's files, or those of a node that is held.
    ///
    /// # Errors
    /// When files cannot be written.
    pub fn provision(
        &self,
        platform: Platform,
        name: Option<&str>,
        found: Result<Option<Found>, FindError>,
    ) -> anyhow::Result<Done> {
        self.forget_state(&[&POLICIES[..], &[HOST_KEYS]].concat())?;
        files::empty(&self.state().join(HOMES))?;
        self.make(platform, name, found)
    }

    fn make(
        &self,
        platform: Platform,
        name: Option<&str>,
        found: Result<Option<Found>, FindError>,
    ) -> anyhow::Result<Done> {
        self.forget()?;
        let (given, data) = match found {
            Ok(Some(Found { given, data })) => (given, data.ok_or("there is no first-boot data")),
            Ok(None) => (Given::default(), Err("no disk with first-boot data was found")),
            Err(error) => {
                return self.hold(&Given::default(), vec![error.to_string()], platform);
            }
        };
        let planned = match data {
            Ok(data) => self.plan(&data, &given, platform),
            Err(why) => Err(vec![format!("{why}: see docs/first-boot.md")]),
        };
        let accepted = match planned {
            Ok(files) => self.try_files(&files)?,
            Err(why) => Err(why),
        };
        if let Err(why) = accepted {
            return self.hold(&given, why, platform);
        }
        self.places.apply()?;
        if platform == Platform::Azure {
            report::write(&self.places.directory, &Outcome::Ready)?;
        }
        if let Some(name) = name {
            files::write(&self.path(INSTANCE), 0o644, &format!("{name}\n"))?;
        }
        Ok(Done::Provisioned)
    }

    fn plan(
        &self,
        data: &[u8],
        given: &Given,
        platform: Platform,
    ) -> Result<Vec<File>, Vec<String>> {
        let planned = FirstBoot::read(data).and_then(|first| {
            let devices = self.devices(&first.by_mac());
            plan::plan(&first, given, &self.places.directory, &devices, platform)
        });
        planned.map_err(|problems| problems.iter().map(Problem::to_string).collect())
    }

    /// The devices that there are, once all are there that are told by address, or patience has ended.
    fn devices(&self, by_mac: &[(&str, [u8; 6])]) -> Devices {
        let look = || {
            let devices = self.places.devices();
            let is_whole = by_mac.iter().all(|(_, mac)| devices.contains_key(mac));
            Ok::<_, Infallible>(is_whole.then_some(devices))
        };
        let Ok(found) = wait(self.patience.devices, look);
        found.unwrap_or_else(|| self.places.devices())
    }

    /// Writes everything, the configuration only once gabiond accepts it.
    fn try_files(&self, planned: &[File]) -> anyhow::Result<Result<(), Vec<String>>> {
        let staged = self.path(CONFIG).with_added_extension("tried");
        for file in planned {
            let to = if file.path == Path::new(CONFIG) {
                staged.clone()
            } else {
                self.places.directory.join(&file.path)
            };
            files::write(&to, file.mode, &file.text)?;
        }
        let later = self.path(CONFIG_ENROLLED);
        let of_later = if later.exists() { self.judge.judge_text(&later) } else { Ok(()) };
        let accepted = of_later.and_then(|()| self.judge.judge(&staged));
        if accepted.is_ok() {
            std::fs::rename(&staged, self.path(CONFIG))?;
        }
        files::remove(&staged)?;
        // Its author knows no such file; what it says stands under `settings`, or follows from other keys.
        let staged = staged.display().to_string();
        let in_our_words = |line: String| line.replace(&staged, CONFIG);
        Ok(accepted.map_err(|why| why.into_iter().map(in_our_words).collect()))
    }

    fn hold(&self, given: &Given, why: Vec<String>, platform: Platform) -> anyhow::Result<Done> {
        self.forget()?;
        let why: Vec<String> = why.iter().map(|line| plan::printable(line)).collect();
        let first = why.first().map_or("unknown", String::as_str);
        let reason = match why.len() {
            0 | 1 => first.to_owned(),
            more => format!("{first}; and {} more, on the serial console", more - 1),
        };
        let reason = plan::one_line(&reason);
        if platform == Platform::Azure {
            report::write(&self.places.directory, &Outcome::Failed(reason.clone()))?;
        }
        for file in plan::held(&reason, given, &self.places.directory, platform) {
            files::write(&self.places.directory.join(&file.path), file.mode, &file.text)?;
        }
        self.places.apply()?;
        Ok(Done::Held(why))
    }

    /// Takes away the configuration that there is, with all that belongs to it.
    fn forget(&self) -> anyhow::Result<()> {
        files::remove(&self.path(CONFIG))?;
        files::remove(&self.path(INSTANCE))?;
        for name in OF_INSTANCE {
            files::remove(&self.path(name))?;
        }
        Ok(())
    }

    /// Takes away what lies beside the configuration: gabiond does not start without one meanwhile.
    fn forget_state(&self, names: &[&str]) -> anyhow::Result<()> {
        self.forget()?;
        for name in names {
            files::remove(&self.state().join(name))?;
        }
        Ok(())
    }

    /// What lies beside the configuration is there.
    fn state(&self) -> &Path {
        self.places.directory.parent().unwrap_or(&self.places.directory)
    }

    /// Whether a configuration is there that is not by this program.
    fn is_of_another_hand(&self) -> anyhow::Result<bool> {
        let config = files::read(&self.path(CONFIG))?;
        Ok(config.is_some_and(|text| !text.starts_with(plan::HEADER)))
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.places.directory.join(name)
    }
}

/// Looks again and again for something that the kernel is still finding.
fn wait<T, E>(
    patience: Duration,
    mut look: impl FnMut() -> Result<Option<T>, E>,
) -> Result<Option<T>, E> {
    let begun = Instant::now();
    loop {
        match look() {
            Ok(None) if begun.elapsed() < patience => std::thread::sleep(PAUSE),
            found => return found,
        }
    }
}

#[cfg(test)]
mod tests;
