//! What is inside, as an SPDX 2.3 document: Debian's packages, the crates in our programs, and both as parts of the image.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::version::Version;

/// Where a part is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    Debian,
    Cargo,
}

/// One part of the image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Part {
    pub origin: Origin,
    pub name: String,
    pub version: String,
    /// As whoever has made it says. An SPDX expression of a crate, names of Debian's own of a package.
    pub licence: Option<String>,
    /// Debian: the source package. Absent: the same.
    pub source: Option<String>,
}

/// The document, its parts in order.
pub fn document(version: &Version, mut parts: Vec<Part>) -> Value {
    parts.sort();
    parts.dedup();
    let image = json!({
        "SPDXID": "SPDXRef-image",
        "name": "gabion",
        "versionInfo": version.name,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "primaryPackagePurpose": "OPERATING-SYSTEM",
        "sourceInfo": format!("commit {}", version.commit),
    });
    let mut packages = vec![image];
    let mut relationships = vec![relationship("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-image")];
    for (at, part) in parts.iter().enumerate() {
        let id = format!("SPDXRef-part-{at}");
        relationships.push(relationship("SPDXRef-image", "CONTAINS", &id));
        packages.push(package(&id, part));
    }
    json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": format!("gabion-{}", version.name),
        "documentNamespace": format!("urn:gabion:sbom:{}:{}", version.name, version.commit),
        "creationInfo": { "created": version.time(), "creators": ["Tool: gabion-image"] },
        "packages": packages,
        "relationships": relationships,
    })
}

fn relationship(from: &str, kind: &str, to: &str) -> Value {
    json!({ "spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to })
}

fn package(id: &str, part: &Part) -> Value {
    let (declared, comment) = match (part.origin, &part.licence) {
        (Origin::Cargo, Some(licence)) => (licence.as_str(), None),
        (Origin::Debian, Some(licence)) => {
            ("NOASSERTION", Some(format!("debian/copyright names: {licence}")))
        }
        (_, None) => ("NOASSERTION", None),
    };
    let mut package = json!({
        "SPDXID": id,
        "name": part.name,
        "versionInfo": part.version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": declared,
        "copyrightText": "NOASSERTION",
        "externalRefs": [{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": locator(part),
        }],
    });
    if let Some(comment) = comment {
        package["licenseComments"] = comment.into();
    }
    if let Some(source) = &part.source {
        package["sourceInfo"] = format!("built from the source package {source}").into();
    }
    package
}

fn locator(part: &Part) -> String {
    let escaped = |text: &str| text.replace('%', "%25").replace('+', "%2B").replace(':', "%3A");
    let (name, version) = (escaped(&part.name), escaped(&part.version));
    match part.origin {
        Origin::Debian => format!("pkg:deb/debian/{name}@{version}?arch=amd64&distro=bookworm"),
        Origin::Cargo => format!("pkg:cargo/{name}@{version}"),
    }
}

/// The licences that a machine-readable `debian/copyright` names, each once.
pub fn licences(copyright: &str) -> Option<String> {
    copyright.lines().next().filter(|line| line.starts_with("Format:"))?;
    let mut names: Vec<_> = copyright
        .lines()
        .filter_map(|line| line.strip_prefix("License:"))
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .collect();
    names.sort_unstable();
    names.dedup();
    (!names.is_empty()).then(|| names.join(", "))
}

/// The crates of `cargo tree --prefix none --format "{p}|{l}"`, ours left out.
///
/// # Errors
/// A line is something else.
pub fn crates(tree: &str) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    for line in tree.lines().filter(|line| !line.is_empty()) {
        let (package, licence) = line.split_once('|').context("cargo tree has no licence")?;
        let mut words = package.split(' ');
        let name = words.next().context("cargo tree has no name")?;
        let version = words.next().context("cargo tree has no version")?;
        let version = version.trim_start_matches('v').to_owned();
        // Ours have a path behind them.
        if words.any(|word| word.starts_with("(/")) {
            continue;
        }
        let licence = licence.trim().trim_end_matches(" (*)");
        // The notation of old.
        let licence = (!licence.is_empty()).then(|| licence.replace('/', " OR "));
        parts.push(Part {
            origin: Origin::Cargo,
            name: name.to_owned(),
            version,
            licence,
            source: None,
        });
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version() -> Version {
        Version { name: "0.1.0-2026".into(), commit: "abc".into(), epoch_s: 0 }
    }

    fn part(origin: Origin, name: &str, licence: &str) -> Part {
        let (name, licence) = (name.to_owned(), Some(licence.to_owned()));
        Part { origin, name, version: "1:2+b1".into(), licence, source: None }
    }

    #[test]
    fn each_part_stands_once_with_a_locator_and_is_contained() {
        let chrony = part(Origin::Debian, "chrony", "GPL-2");
        let tokio = part(Origin::Cargo, "tokio", "MIT");
        let document = document(&version(), vec![tokio, chrony.clone(), chrony]);
        let packages = document["packages"].as_array().unwrap();
        assert_eq!(packages.len(), 3);
        assert_eq!(document["relationships"].as_array().unwrap().len(), 3);
        assert_eq!(packages[1]["name"], "chrony");
        let locator = &packages[1]["externalRefs"][0]["referenceLocator"];
        assert_eq!(locator, "pkg:deb/debian/chrony@1%3A2%2Bb1?arch=amd64&distro=bookworm");
        assert_eq!(packages[1]["licenseDeclared"], "NOASSERTION");
        assert_eq!(packages[2]["licenseDeclared"], "MIT");
        assert_eq!(document["creationInfo"]["created"], "1970-01-01T00:00:00Z");
    }

    #[test]
    fn licences_are_those_of_machine_readable_files() {
        let text = "Format: x\nFiles: *\nLicense: GPL-2+\n text\nLicense: BSD\n\nLicense: BSD\n";
        assert_eq!(licences(text).unwrap(), "BSD, GPL-2+");
        assert_eq!(licences("This is GPL\nLicense: x\n"), None);
    }

    #[test]
    fn crates_are_read_from_cargos_tree_without_ours() {
        let tree = "gabiond v0.1.0 (/src/appliance/node)|Apache-2.0\nlibc v0.2.1|MIT/Apache-2.0\n\
            serde_derive v1.0.2 (proc-macro)|MIT OR Apache-2.0 (*)\n";
        let crates = crates(tree).unwrap();
        let seen: Vec<_> = crates.iter().map(|c| (&*c.name, c.licence.as_deref())).collect();
        let both = Some("MIT OR Apache-2.0");
        assert_eq!(seen, [("libc", both), ("serde_derive", both)]);
    }
}
