//! Where first-boot data comes from: Azure's provisioning disk, or a NoCloud disk.

use std::io;
use std::path::Path;

use serde::Deserialize;

use crate::document::is_host_name;
use crate::instance;
use crate::limits::{DATA_BYTES_MAX, OVF_BYTES_MAX};
use crate::media::{self, Mounted, read_of_disk};
use crate::ovf::{self, ReadEnvironmentError};
use crate::plan::Given;

/// What NoCloud disks are called.
pub const NO_CLOUD_LABEL: &str = "cidata";
/// A meta-data file is a few lines.
const META_BYTES_MAX: u64 = 64 << 10;

/// What a disk says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    pub given: Given,
    pub data: Option<Vec<u8>>,
}

/// Why a disk is of no use.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    #[error("cannot read {file} of the disk with first-boot data: {source}")]
    Read { file: &'static str, source: io::Error },
    #[error(transparent)]
    Environment(#[from] ReadEnvironmentError),
    #[error("meta-data of the NoCloud disk is not understood: {0}")]
    Meta(String),
}

/// Azure's disk, if one of the optical drives has it. `at` is where it is mounted meanwhile.
///
/// # Errors
/// [`FindError`], of a disk that is Azure's.
pub fn azure(devices: &Path, at: &Path) -> Result<Option<Found>, FindError> {
    for device in media::optical(devices) {
        let Ok(disk) = Mounted::new(&device, &media::OPTICAL, at) else { continue };
        if let Some(found) = azure_directory(disk.directory())? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// What a directory says that is Azure's disk; `None` where it is not.
///
/// # Errors
/// [`FindError`].
pub fn azure_directory(directory: &Path) -> Result<Option<Found>, FindError> {
    let file = "ovf-env.xml";
    match read_of_disk(&directory.join(file), OVF_BYTES_MAX) {
        Ok(bytes) => {
            let found = ovf::read(&bytes)?;
            Ok(Some(Found { given: found.given, data: found.custom_data }))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(FindError::Read { file, source }),
    }
}

/// A NoCloud disk with the instance's name, if there is one.
///
/// # Errors
/// [`FindError`].
pub fn no_cloud(by_label: &Path, at: &Path) -> Result<Option<(String, Found)>, FindError> {
    let Some(device) = media::labelled(by_label, NO_CLOUD_LABEL) else { return Ok(None) };
    let disk = Mounted::new(&device, &media::NO_CLOUD, at)
        .map_err(|source| FindError::Read { file: "anything", source })?;
    no_cloud_directory(disk.directory()).map(Some)
}

/// What a directory says that is a NoCloud disk.
///
/// # Errors
/// [`FindError`].
pub fn no_cloud_directory(directory: &Path) -> Result<(String, Found), FindError> {
    let file = "meta-data";
    let bytes = read_of_disk(&directory.join(file), META_BYTES_MAX)
        .map_err(|source| FindError::Read { file, source })?;
    let meta: Meta = serde_saphyr::from_slice(&bytes)
        .map_err(|error| FindError::Meta(error.without_snippet().to_string()))?;
    let file = "user-data";
    let data = match read_of_disk(&directory.join(file), DATA_BYTES_MAX) {
        Ok(bytes) => Some(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(source) => return Err(FindError::Read { file, source }),
    };
    let host_name = meta.local_hostname.filter(|name| is_host_name(name));
    let given = Given { host_name, admin: None };
    Ok((instance::no_cloud(&meta.instance_id), Found { given, data }))
}

/// What is used of `meta-data`; the rest is other programs'.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Meta {
    instance_id: String,
    local_hostname: Option<String>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use super::*;

    #[test]
    fn what_is_no_file_on_a_disk_is_not_read() {
        let elsewhere = tempfile::NamedTempFile::new().unwrap();
        fs::write(elsewhere.path(), "instance-id: i-1\n").unwrap();
        for make in [
            |at: &Path, elsewhere: &Path| std::os::unix::fs::symlink(elsewhere, at).unwrap(),
            |at: &Path, _: &Path| fs::create_dir(at).unwrap(),
            |at: &Path, _: &Path| {
                let mode = rustix::fs::Mode::from_raw_mode(0o600);
                rustix::fs::mknodat(rustix::fs::CWD, at, rustix::fs::FileType::Fifo, mode, 0)
                    .unwrap();
            },
        ] {
            let disk = tempfile::tempdir().unwrap();
            make(&disk.path().join("meta-data"), elsewhere.path());
            let error = no_cloud_directory(disk.path()).unwrap_err().to_string();
            assert!(error.ends_with("it is no plain file"), "{error}");
            make(&disk.path().join("ovf-env.xml"), elsewhere.path());
            let error = azure_directory(disk.path()).unwrap_err().to_string();
            assert!(error.ends_with("it is no plain file"), "{error}");
        }
    }

    #[test]
    fn a_nocloud_disk_names_the_instance() {
        let disk = tempfile::tempdir().unwrap();
        assert!(matches!(no_cloud_directory(disk.path()), Err(FindError::Read { .. })));
        let meta = "instance-id: i-1\nlocal-hostname: fw-1\ndsmode: local\n";
        fs::write(disk.path().join("meta-data"), meta).unwrap();
        let (name, found) = no_cloud_directory(disk.path()).unwrap();
        assert_eq!((name.as_str(), found.data), ("nocloud:i-1", None));
        assert_eq!(found.given.host_name.as_deref(), Some("fw-1"));
        fs::write(disk.path().join("user-data"), "a").unwrap();
        assert_eq!(no_cloud_directory(disk.path()).unwrap().1.data.as_deref(), Some(&b"a"[..]));
        fs::write(disk.path().join("meta-data"), "{}").unwrap();
        assert!(matches!(no_cloud_directory(disk.path()), Err(FindError::Meta(_))));
    }

    #[test]
    fn a_directory_without_the_environment_is_not_azures() {
        let disk = tempfile::tempdir().unwrap();
        assert_eq!(azure_directory(disk.path()).unwrap(), None);
        let text = include_str!("../tests/ovf-env.xml");
        fs::write(disk.path().join("ovf-env.xml"), text).unwrap();
        assert!(azure_directory(disk.path()).unwrap().unwrap().data.is_some());
    }
}
