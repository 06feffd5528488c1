//! How much of anything is taken.

use std::time::Duration;

/// Longest first-boot data. Azure takes 64 KiB of custom data; a disk may have a larger policy.
pub const DATA_BYTES_MAX: u64 = 1 << 20;
/// Longest `ovf-env.xml`: the data in base64, and some keys.
pub const OVF_BYTES_MAX: u64 = 4 * DATA_BYTES_MAX;
/// Interfaces of a node: the largest virtual machines have eight.
pub const INTERFACES_MAX: usize = 16;
/// Routes that first-boot data may have.
pub const ROUTES_MAX: usize = 256;
/// Keys of the administrator.
pub const KEYS_MAX: usize = 32;
/// Characters of a reason: `node.hold` takes as many.
pub const REASON_CHARACTERS_MAX: usize = 1_000;
/// Characters of a report's description: what is longer the wire server cuts off.
pub const DESCRIPTION_CHARACTERS_MAX: usize = 512;
/// Longest answer of the wire server.
pub const ANSWER_BYTES_MAX: u64 = 1 << 20;
/// How long one request to the wire server may take.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long Azure's provisioning disk is waited for on an instance's first boot.
pub const AZURE_WAIT: Duration = Duration::from_secs(60);
/// How long a NoCloud disk is waited for on an instance's first boot: it is there from the start.
pub const NO_CLOUD_WAIT: Duration = Duration::from_secs(10);
/// How long devices are waited for that are told by MAC address: their drivers may come later.
pub const DEVICES_WAIT: Duration = Duration::from_secs(10);
/// How long that of an instance is waited for that has been provisioned: it may say that this is another one.
pub const NO_CLOUD_WAIT_AGAIN: Duration = Duration::from_secs(3);
