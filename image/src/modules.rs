//! Which kernel modules go along: those that are named, and what they need.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};

/// The modules of a kernel, as depmod and the kernel's build have listed them.
#[derive(Debug)]
pub struct Modules {
    /// By name: the file, from the folder of modules, and the files that it needs.
    loadable: BTreeMap<String, (String, Vec<String>)>,
    built_in: BTreeSet<String>,
}

/// What is wanted, of image/modules.txt.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// For the initramfs: what finds the root.
    pub early: Vec<String>,
    /// For the system; those above are there as well.
    pub all: Vec<String>,
}

impl Wanted {
    /// Reads lines of "early|system NAME reason"; `*` at a name's end stands for any rest.
    ///
    /// # Errors
    /// A line is something else.
    pub fn parse(text: &str) -> Result<Self> {
        let mut wanted = Self::default();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let mut words = line.split_whitespace();
            let (Some(stage), Some(name)) = (words.next(), words.next()) else {
                bail!("modules.txt: {line:?} names no module");
            };
            match stage {
                "early" => wanted.early.push(name.to_owned()),
                "system" => {}
                _ => bail!("modules.txt: {stage:?} is neither early nor system"),
            }
            wanted.all.push(name.to_owned());
        }
        Ok(wanted)
    }
}

impl Modules {
    /// Of the texts of `modules.dep` and `modules.builtin`.
    pub fn parse(dependencies: &str, built_in: &str) -> Self {
        let mut loadable = BTreeMap::new();
        for (file, needs) in dependencies.lines().filter_map(|line| line.split_once(':')) {
            let needs = needs.split_whitespace().map(str::to_owned).collect();
            loadable.insert(name_of(file), (file.to_owned(), needs));
        }
        Self { loadable, built_in: built_in.lines().map(name_of).collect() }
    }

    /// The files of what is wanted, each after those that it needs.
    ///
    /// # Errors
    /// A name is that of no module, loadable or built in.
    pub fn closure(&self, wanted: &[String]) -> Result<Vec<String>> {
        let mut order = Vec::new();
        for name in wanted {
            for found in self.matching(name)? {
                self.add(&found, &mut order);
            }
        }
        Ok(order)
    }

    fn matching(&self, name: &str) -> Result<Vec<String>> {
        let plain = name.replace('-', "_");
        let Some(begin) = plain.strip_suffix('*') else {
            return match (self.loadable.contains_key(&plain), self.built_in.contains(&plain)) {
                (true, _) => Ok(vec![plain]),
                (false, true) => Ok(Vec::new()),
                (false, false) => bail!("the kernel has no module {name}: see image/modules.txt"),
            };
        };
        let found: Vec<_> =
            self.loadable.keys().filter(|name| name.starts_with(begin)).cloned().collect();
        if found.is_empty() && !self.built_in.iter().any(|name| name.starts_with(begin)) {
            bail!("the kernel has no module {name}: see image/modules.txt");
        }
        Ok(found)
    }

    fn add(&self, name: &str, order: &mut Vec<String>) {
        let Some((file, needs)) = self.loadable.get(name) else { return };
        if order.contains(file) {
            return;
        }
        for need in needs {
            self.add(&name_of(need), order);
        }
        order.push(file.clone());
    }
}

/// `kernel/net/tun.ko.xz` is the module `tun`; the kernel takes `-` and `_` for the same.
fn name_of(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    name.split('.').next().unwrap_or(name).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEPENDENCIES: &str = "kernel/a/hv_vmbus.ko.xz:\n\
        kernel/a/hv-storvsc.ko.xz: kernel/b/scsi.ko.xz kernel/a/hv_vmbus.ko.xz\n\
        kernel/b/scsi.ko.xz: kernel/b/base.ko.xz\n\
        kernel/b/base.ko.xz:\n";

    fn modules() -> Modules {
        Modules::parse(DEPENDENCIES, "kernel/fs/ext4/ext4.ko\n")
    }

    #[test]
    fn modules_come_once_and_after_what_they_need() {
        let wanted = ["hv_storvsc", "hv_*", "ext4"].map(str::to_owned);
        let expected = ["b/base", "b/scsi", "a/hv_vmbus", "a/hv-storvsc"];
        let expected = expected.map(|name| format!("kernel/{name}.ko.xz"));
        assert_eq!(modules().closure(&wanted).unwrap(), expected);
    }

    #[test]
    fn a_module_that_is_not_there_is_named() {
        for name in ["mana", "mlx*"] {
            let error = modules().closure(&[name.to_owned()]).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn what_is_wanted_early_is_wanted_in_the_system() {
        let wanted = Wanted::parse("# x\n\nearly a  finds disks\nsystem b*\n").unwrap();
        assert_eq!(wanted.early, ["a"]);
        assert_eq!(wanted.all, ["a", "b*"]);
        assert!(Wanted::parse("late a").is_err());
        assert!(Wanted::parse("early").is_err());
    }

    #[test]
    fn the_list_of_modules_is_right() {
        assert!(!Wanted::parse(include_str!("../modules.txt")).unwrap().early.is_empty());
    }
}
