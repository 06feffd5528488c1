//! Which instance this is: what tells a reboot from a copy of the disk in another virtual machine.

use std::fs;
use std::path::Path;

/// The chassis asset tag of every virtual machine on Azure.
const AZURE_TAG: &str = "7783-7084-3265-9085-8269-3286-77";
const AZURE: &str = "azure:";
const NO_CLOUD: &str = "nocloud:";

/// Whether firmware says that this is Azure. `dmi` is `/sys/class/dmi/id`.
pub fn is_on_azure(dmi: &Path) -> bool {
    fs::read_to_string(dmi.join("chassis_asset_tag")).is_ok_and(|tag| tag.trim() == AZURE_TAG)
}

/// The instance's name on Azure: the virtual machine's UUID, by its firmware.
///
/// # Errors
/// When it cannot be read, which takes root.
pub fn azure(dmi: &Path) -> std::io::Result<String> {
    let uuid = fs::read_to_string(dmi.join("product_uuid"))?;
    Ok(format!("{AZURE}{}", uuid.trim().to_ascii_lowercase()))
}

/// The instance's name that a NoCloud disk gives it.
pub fn no_cloud(id: &str) -> String {
    format!("{NO_CLOUD}{}", id.trim().escape_debug())
}

/// Whether both names are of one instance.
pub fn is_same(one: &str, other: &str) -> bool {
    let (one, other) = (one.trim(), other.trim());
    // Kernels and firmware differ in the order of the first three fields' bytes.
    one == other || swapped(one).is_some_and(|swapped| swapped == other)
}

fn swapped(name: &str) -> Option<String> {
    let uuid = name.strip_prefix(AZURE)?;
    let fields: Vec<&str> = uuid.split('-').collect();
    let [a, b, c, d, e] = fields[..] else { return None };
    let swap = |field: &str| -> Option<String> {
        let pairs = field.as_bytes().chunks(2).rev();
        pairs.map(|pair| std::str::from_utf8(pair).ok()).collect()
    };
    Some(format!("{AZURE}{}-{}-{}-{d}-{e}", swap(a)?, swap(b)?, swap(c)?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_uuid_is_the_same_in_either_order_of_bytes() {
        let one = "azure:544cdfd0-cb4e-4b4a-9954-5bdf3ed5c3b8";
        let other = "azure:d0df4c54-4ecb-4a4b-9954-5bdf3ed5c3b8\n";
        assert!(is_same(one, one) && is_same(one, other) && is_same(other, one));
        assert!(!is_same(one, "azure:544cdfd0-cb4e-4b4a-9954-5bdf3ed5c3b9"));
        assert!(!is_same("nocloud:1", "nocloud:2") && is_same("nocloud:1", "nocloud:1\n"));
        assert!(!is_same(one, "azure:\u{e9}\u{e9}-a-b-c-d"));
    }

    #[test]
    fn firmware_tells_azure() {
        let dmi = tempfile::tempdir().unwrap();
        assert!(!is_on_azure(dmi.path()));
        fs::write(dmi.path().join("chassis_asset_tag"), format!("{AZURE_TAG}\n")).unwrap();
        fs::write(dmi.path().join("product_uuid"), "544CDFD0-CB4E\n").unwrap();
        assert!(is_on_azure(dmi.path()));
        assert_eq!(azure(dmi.path()).unwrap(), "azure:544cdfd0-cb4e");
    }
}
