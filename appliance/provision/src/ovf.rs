//! `ovf-env.xml` of Azure's provisioning disk: the host's name, the administrator's keys, custom data.

use data_encoding::BASE64;
use roxmltree::{Document, Node, ParsingOptions};

use crate::document::{Admin, is_host_name, is_ssh_key, is_user_name};
use crate::limits::KEYS_MAX;
use crate::plan::Given;

/// Elements of more nodes are none that Azure makes.
const NODES_MAX: u32 = 10_000;
const CONFIGURATION: &str = "LinuxProvisioningConfigurationSet";

/// What the file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    pub given: Given,
    /// `None`: the virtual machine was made without any.
    pub custom_data: Option<Vec<u8>>,
}

/// Why nothing is read from the file.
#[derive(Debug, thiserror::Error)]
pub enum ReadEnvironmentError {
    #[error("ovf-env.xml is no UTF-8 text")]
    Encoding,
    #[error("ovf-env.xml is not understood: {0}")]
    Xml(#[from] roxmltree::Error),
    #[error("ovf-env.xml has no {CONFIGURATION}: is it of a Linux virtual machine?")]
    NoConfiguration,
    #[error("custom data in ovf-env.xml is no base64: {0}")]
    CustomData(#[from] data_encoding::DecodeError),
}

/// Reads the file.
///
/// # Errors
/// [`ReadEnvironmentError`]. What is wrong with a name or a key is left out instead.
pub fn read(bytes: &[u8]) -> Result<Environment, ReadEnvironmentError> {
    let text = std::str::from_utf8(bytes).map_err(|_| ReadEnvironmentError::Encoding)?;
    let options = ParsingOptions { nodes_limit: NODES_MAX, ..ParsingOptions::default() };
    let document = Document::parse_with_options(text.trim_start_matches('\u{feff}'), options)?;
    // Namespaces have changed between versions; names have not.
    let configuration = document
        .descendants()
        .find(|node| node.tag_name().name() == CONFIGURATION)
        .ok_or(ReadEnvironmentError::NoConfiguration)?;
    let host_name = text_of(configuration, "HostName").filter(|name| is_host_name(name));
    let custom_data = match text_of(configuration, "CustomData") {
        Some(text) => {
            let packed: String = text.split_whitespace().collect();
            Some(BASE64.decode(packed.as_bytes())?)
        }
        None => None,
    };
    let given = Given { host_name, admin: admin(configuration) };
    Ok(Environment { given, custom_data })
}

fn admin(configuration: Node<'_, '_>) -> Option<Admin> {
    let name = text_of(configuration, "UserName").filter(|name| is_user_name(name))?;
    let keys = configuration
        .descendants()
        .filter(|node| node.tag_name().name() == "PublicKey")
        .filter_map(|key| text_of(key, "Value"))
        .filter(|key| is_ssh_key(key))
        .take(KEYS_MAX);
    Some(Admin { name, keys: keys.collect() })
}

/// The text of the first element of that name; `None` where it is empty.
fn text_of(node: Node<'_, '_>, name: &str) -> Option<String> {
    let child = node.children().find(|child| child.tag_name().name() == name)?;
    let text = child.text()?.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    const WHOLE: &str = include_str!("../tests/ovf-env.xml");

    #[test]
    fn what_azure_writes_is_read() {
        let found = read(WHOLE.as_bytes()).unwrap();
        assert_eq!(found.given.host_name.as_deref(), Some("fw-1"));
        let admin = found.given.admin.unwrap();
        assert_eq!((admin.name.as_str(), admin.keys.len()), ("azureuser", 1));
        assert_eq!(admin.keys[0], "ssh-rsa AAAAB3NzaC1yc2E azureuser");
        assert_eq!(found.custom_data.unwrap(), b"apiVersion: gabion/first-boot/v1\n");
    }

    #[test]
    fn without_custom_data_there_is_none() {
        let text = WHOLE.replace("YXBpVmVyc2lvbjogZ2FiaW9uL2ZpcnN0LWJvb3QvdjEK", "");
        assert_eq!(read(text.as_bytes()).unwrap().custom_data, None);
    }

    #[test]
    fn names_that_are_the_systems_and_keys_with_options_are_left_out() {
        let text = WHOLE.replace("azureuser</ns1:UserName>", "root</ns1:UserName>");
        assert_eq!(read(text.as_bytes()).unwrap().given.admin, None);
        let text = WHOLE.replace("ssh-rsa AAAA", "command=\"sh\" ssh-rsa AAAA");
        assert!(read(text.as_bytes()).unwrap().given.admin.unwrap().keys.is_empty());
        let text = WHOLE.replace("HostName>fw-1", "HostName>../fw");
        assert_eq!(read(text.as_bytes()).unwrap().given.host_name, None);
    }

    #[test]
    fn entities_do_not_grow() {
        let bomb = "<!DOCTYPE a [<!ENTITY b \"xxxx\">]><a>&b;</a>";
        assert!(matches!(read(bomb.as_bytes()), Err(ReadEnvironmentError::Xml(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            let _ = read(&bytes);
        }

        #[test]
        fn no_change_of_the_file_panics(at in 0..WHOLE.len(), with in any::<u8>()) {
            let mut bytes = WHOLE.as_bytes().to_vec();
            bytes[at] = with;
            let _ = read(&bytes);
        }
    }
}
