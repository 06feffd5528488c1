//! Debian packages: which are wanted, and which are there.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

/// What image/packages.txt asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub install: Vec<String>,
    pub fetch: Vec<String>,
    pub remove: Vec<String>,
}

/// A package that is in the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    pub name: String,
    pub version: String,
    pub architecture: String,
    /// Where its source is, if that has another name or version.
    pub source: String,
}

impl Wanted {
    /// # Errors
    /// A line is none of "install|fetch|remove PACKAGE reason".
    pub fn parse(text: &str) -> Result<Self> {
        let mut wanted = Self::default();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let mut words = line.split_whitespace();
            let (Some(what), Some(name)) = (words.next(), words.next()) else {
                bail!("packages.txt: {line:?} names no package");
            };
            match what {
                "install" => &mut wanted.install,
                "fetch" => &mut wanted.fetch,
                "remove" => &mut wanted.remove,
                _ => bail!("packages.txt: {what:?} is none of install, fetch and remove"),
            }
            .push(name.to_owned());
        }
        Ok(wanted)
    }
}

impl Package {
    /// Of one paragraph of dpkg's status or of a package's control file.
    pub fn parse(paragraph: &str) -> Option<Self> {
        let fields: BTreeMap<_, _> = paragraph
            .lines()
            .filter(|line| !line.starts_with(' '))
            .filter_map(|line| line.split_once(": "))
            .collect();
        let field = |name: &str| fields.get(name).map(|value| value.trim().to_owned());
        let name = field("Package")?;
        let source = field("Source").unwrap_or_else(|| name.clone());
        Some(Self {
            version: field("Version")?,
            architecture: field("Architecture")?,
            source,
            name,
        })
    }

    /// All of dpkg's status, in the order of names.
    pub fn of_status(status: &str) -> Vec<Self> {
        let mut packages: Vec<_> = status
            .split("\n\n")
            .filter(|paragraph| paragraph.contains("\nStatus: install ok installed"))
            .filter_map(Self::parse)
            .collect();
        packages.sort_by(|a, b| a.name.cmp(&b.name));
        packages
    }
}

/// Takes a package's files out of `root`, and its paragraph out of dpkg's status.
///
/// dpkg itself would run the package's scripts, and not take itself out.
///
/// # Errors
/// Files cannot be read or removed.
pub fn remove(root: &Path, name: &str) -> Result<()> {
    let info = root.join("var/lib/dpkg/info");
    let plain = info.join(format!("{name}.list"));
    let list = if plain.exists() { plain } else { info.join(format!("{name}:amd64.list")) };
    let Ok(files) = fs::read_to_string(&list) else { return Ok(()) };
    for file in files.lines() {
        let path = root.join(file.trim_start_matches('/'));
        let is_licence = file.starts_with("/usr/share/doc/");
        // A link to a folder is /lib, which packages of old name as a folder.
        if !is_licence && !path.is_dir() && path.symlink_metadata().is_ok() {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    let path = root.join("var/lib/dpkg/status");
    let status = fs::read_to_string(&path)?;
    let kept: Vec<_> = status
        .split_inclusive("\n\n")
        .filter(|paragraph| !paragraph.starts_with(&format!("Package: {name}\n")))
        .collect();
    fs::write(&path, kept.concat())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Package: b\nStatus: install ok installed\nArchitecture: amd64\n\
        Source: bee (1.0)\nVersion: 1.0-1\nDescription: x\n Version: 7\n\n\
        Package: c\nStatus: deinstall ok config-files\nArchitecture: all\nVersion: 2\n\n\
        Package: a\nStatus: install ok installed\nArchitecture: all\nVersion: 3:2\n";

    #[test]
    fn installed_packages_are_read_from_the_status() {
        let packages = Package::of_status(STATUS);
        let names: Vec<_> = packages.iter().map(|p| (&*p.name, &*p.version, &*p.source)).collect();
        assert_eq!(names, [("a", "3:2", "a"), ("b", "1.0-1", "bee (1.0)")]);
    }

    #[test]
    fn a_package_goes_with_its_files_and_its_paragraph() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for path in ["var/lib/dpkg/info", "usr/bin", "usr/share/doc/b"] {
            fs::create_dir_all(root.join(path)).unwrap();
        }
        for file in ["usr/bin/b", "usr/bin/a", "usr/share/doc/b/copyright"] {
            fs::write(root.join(file), "x").unwrap();
        }
        fs::write(root.join("var/lib/dpkg/status"), STATUS).unwrap();
        std::os::unix::fs::symlink("usr/bin", root.join("bin")).unwrap();
        let list =
            "/.\n/bin\n/usr\n/usr/bin\n/usr/bin/b\n/usr/share/doc/b/copyright\n/usr/bin/gone\n";
        fs::write(root.join("var/lib/dpkg/info/b:amd64.list"), list).unwrap();
        remove(root, "b").unwrap();
        assert!(!root.join("usr/bin/b").exists() && root.join("usr/bin/a").exists());
        assert!(root.join("bin").exists(), "a folder that is a link stays");
        assert!(root.join("usr/share/doc/b/copyright").exists(), "licences stay");
        let status = fs::read_to_string(root.join("var/lib/dpkg/status")).unwrap();
        assert_eq!(Package::of_status(&status).len(), 1);
    }

    #[test]
    fn the_list_of_packages_is_right() {
        let wanted = Wanted::parse(include_str!("../packages.txt")).unwrap();
        assert!(wanted.install.iter().all(|name| !wanted.remove.contains(name)));
        assert!(Wanted::parse("take a").is_err());
    }
}
