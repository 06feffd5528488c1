//! The program before the stack (XDP): where it may stand, and how it gets there.
//!
//! It stands in the driver or nowhere: the substitute that the kernel has for drivers without a place runs when the
//! stack has made a buffer of the frame already, and copies superframes. It is never alone: where it cannot be, or
//! does not move a packet, the program at tc does what there is to do.

use aya::programs::ProgramError;
use aya::programs::xdp::{XdpLink, XdpMode};

use super::device::Device;
use super::hook::{Hook, HookChoice};
use super::ioctl::{merges_packets, takes_tags_off};
use super::pins::Pins;
use super::program::Programs;
use super::refusal::{OpenFastPathError, last_cause, system_error};

/// Why an interface has no program before the stack.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoXdp {
    #[error("nobody wants it")]
    NotWanted,
    #[error("it is not hardware, and tc is faster with superframes")]
    NotHardware,
    #[error("its driver has no place for programs that send frames on")]
    NoPlace,
    #[error("it merges packets that it receives (LRO); ethtool -K {0} lro off")]
    Merges(String),
    #[error(
        "it takes VLAN tags out of frames, which XDP does not see then; ethtool -K {0} rxvlan off, or node.hook = \"xdp\" where nobody sends any"
    )]
    Tags(String),
    #[error("another XDP program is there; ip link set dev {0} xdp off takes it away")]
    Foreign(String),
    #[error("the kernel refuses it: {0}")]
    Refused(String),
}

impl NoXdp {
    /// Whether that is as it should be.
    pub(super) const fn is_expected(&self, choice: HookChoice) -> bool {
        match self {
            Self::NotWanted | Self::NotHardware => true,
            Self::NoPlace => matches!(choice, HookChoice::Auto),
            Self::Merges(_) | Self::Tags(_) | Self::Foreign(_) | Self::Refused(_) => false,
        }
    }
}

/// Has the program run before the interface's stack, in the place of one that an earlier process has left, or anew.
///
/// # Errors
/// When it does not stand there; none of an earlier process does either.
pub(super) fn attach(
    programs: &mut Programs,
    pins: Option<&Pins>,
    choice: HookChoice,
    (name, interface): (&str, u32),
) -> Result<XdpLink, NoXdp> {
    let attached = check(choice, name, interface).and_then(|()| {
        let left = pins.and_then(|pins| pins.existing_link(Hook::Xdp, interface));
        if let Some(link) = left.and_then(|link| programs.update_early(link)) {
            return Ok(link);
        }
        let link = programs.attach_early(interface).map_err(|error| refusal(&error, name))?;
        let Some(pins) = pins else { return Ok(link) };
        pins.keep_link(Hook::Xdp, link, interface)
            .map_err(|error| NoXdp::Refused(error.to_string()))
    });
    if let (Err(_), Some(pins)) = (&attached, pins) {
        pins.forget_link(Hook::Xdp, interface);
    }
    attached
}

fn check(choice: HookChoice, name: &str, interface: u32) -> Result<(), NoXdp> {
    if choice == HookChoice::Tc {
        return Err(NoXdp::NotWanted);
    }
    let device = Device::look_at(interface).map_err(|error| NoXdp::Refused(error.to_string()))?;
    if choice == HookChoice::Auto && !device.is_hardware {
        return Err(NoXdp::NotHardware);
    }
    if !device.runs_programs {
        return Err(NoXdp::NoPlace);
    }
    if merges_packets(name).unwrap_or(false) {
        return Err(NoXdp::Merges(name.to_owned()));
    }
    if choice == HookChoice::Auto && takes_tags_off(name).unwrap_or(false) {
        return Err(NoXdp::Tags(name.to_owned()));
    }
    Ok(())
}

fn refusal(error: &OpenFastPathError, name: &str) -> NoXdp {
    match system_error(error) {
        Some(libc::EBUSY) => NoXdp::Foreign(name.to_owned()),
        Some(libc::EOPNOTSUPP) => NoXdp::NoPlace,
        _ => NoXdp::Refused(last_cause(error)),
    }
}

impl Programs {
    /// Runs the program on all that the driver receives, as long as the link is there.
    fn attach_early(&mut self, interface: u32) -> Result<XdpLink, OpenFastPathError> {
        let refused = |source: ProgramError| OpenFastPathError::Attach {
            interface: interface.to_string(),
            source: Box::new(source),
        };
        let program = self.early()?;
        program
            .attach_to_if_index(interface, XdpMode::Driver)
            .and_then(|link| program.take_link(link))
            .map_err(refused)
    }

    /// Has the program run at this link; `None` if the link's interface has gone.
    pub(super) fn update_early(&mut self, link: XdpLink) -> Option<XdpLink> {
        let program = self.early().ok()?;
        program.attach_to_link(link).and_then(|link| program.take_link(link)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(errno: i32) -> String {
        let io_error = std::io::Error::from_raw_os_error(errno);
        let source = ProgramError::SyscallError(aya::sys::SyscallError {
            call: "bpf_link_create",
            io_error,
        });
        let attach =
            OpenFastPathError::Attach { interface: "7".to_owned(), source: Box::new(source) };
        refusal(&attach, "eth1").to_string()
    }

    #[test]
    fn a_refusal_says_what_stands_in_the_way() {
        assert!(refused(libc::EBUSY).contains("ip link set dev eth1 xdp off"));
        assert!(refused(libc::EOPNOTSUPP).contains("driver"));
        assert!(refused(libc::EIO).ends_with("(os error 5)"));
    }
}
