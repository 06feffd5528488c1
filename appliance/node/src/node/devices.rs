//! The data devices at the start: that they are there, and whole.

use std::path::Path;
use std::time::Duration;

use super::StartError;
use crate::config::Config;
use crate::network::half;

pub(super) fn wait_for_devices(config: &Config) -> Result<(), StartError> {
    let mut left = config.node.device_wait;
    let pause = Duration::from_millis(50);
    for interface in &config.interfaces {
        while !Path::new("/sys/class/net").join(&interface.device).exists() {
            if left.is_zero() {
                let (name, device) = (interface.name.clone(), interface.device.clone());
                return Err(StartError::NoDevice { name, device });
            }
            std::thread::sleep(pause.min(left));
            left = left.saturating_sub(pause);
        }
        if let Some(whole) = half_of(&interface.device) {
            return Err(StartError::HalfADevice(half(&interface.name, &interface.device, &whole)));
        }
    }
    Ok(())
}

/// The device that this one is only the half of: both have one address (see `network::Picture`).
fn half_of(device: &str) -> Option<String> {
    let folder = Path::new("/sys/class/net");
    let whole = std::fs::read_link(folder.join(device).join("master")).ok()?;
    let whole = whole.file_name()?.to_str()?.to_owned();
    let address = |device: &str| std::fs::read_to_string(folder.join(device).join("address")).ok();
    (address(device) == address(&whole)).then_some(whole)
}
