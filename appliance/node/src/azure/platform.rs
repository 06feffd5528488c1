//! Whether this machine is one of Azure's.

use std::net::Ipv4Addr;
use std::path::Path;

/// Where its hosts answer each VM: DNS, DHCP and the wire server, and the metadata service.
pub const SERVICES: [Ipv4Addr; 2] =
    [Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(169, 254, 169, 254)];

/// What firmware says of the chassis of each VM of Azure's, and of no other.
const CHASSIS: &str = "7783-7084-3265-9085-8269-3286-77";
const CHASSIS_FILE: &str = "/sys/class/dmi/id/chassis_asset_tag";

/// Whether the firmware says that this is one of Azure's VMs.
pub fn is_azure() -> bool {
    says_azure(Path::new(CHASSIS_FILE))
}

fn says_azure(file: &Path) -> bool {
    std::fs::read_to_string(file).is_ok_and(|tag| tag.trim() == CHASSIS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_azures_chassis_is() {
        let directory = tempfile::tempdir().expect("there is room");
        let file = directory.path().join("tag");
        for (tag, is) in
            [("7783-7084-3265-9085-8269-3286-77\n", true), ("", false), ("Not Specified\n", false)]
        {
            std::fs::write(&file, tag).expect("there is room");
            assert_eq!(says_azure(&file), is, "{tag:?}");
        }
        assert!(!says_azure(&directory.path().join("absent")));
    }
}
