//! Where packets of a data interface wait for the engine: a TAP device of ours.
//!
//! The programs put a copy of what they do not move on its receiving side, and packet sockets take it from there, in
//! batches and superframes whole, as they would from the data interface. Nothing is read from or written to the device
//! itself. It goes when the process does: what nobody waits for then goes nowhere.

use std::fs::{File, OpenOptions};
use std::io;

use super::ioctl::{any_socket, control, request};

/// A device that is there, and up, as long as this lives.
#[derive(Debug)]
pub(super) struct Door {
    _device: File,
    name: String,
    index: u32,
}

impl Door {
    /// Makes a device with a name of the kernel's choice, which is down yet.
    pub(super) fn open() -> io::Result<Self> {
        let device = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
        let mut request = request("gabion%d");
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
        control(&device, libc::TUNSETIFF as libc::Ioctl, &mut request)?;
        let name: Vec<u8> =
            request.ifr_name.iter().map(|&c| c as u8).take_while(|&c| c != 0).collect();
        let name = String::from_utf8(name).map_err(io::Error::other)?;
        let index = rustix::net::netdevice::name_to_index(&any_socket()?, &name)?;
        Ok(Self { _device: device, name, index })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) const fn index(&self) -> u32 {
        self.index
    }

    /// Lets frames in, of any size: programs hand them over without a look at the MTU.
    pub(super) fn set_up(&self) -> io::Result<()> {
        let socket = any_socket()?;
        let mut flags = request(&self.name);
        // No ARP: the host has nothing to ask there.
        flags.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_NOARP) as libc::c_short;
        control(&socket, libc::SIOCSIFFLAGS as libc::Ioctl, &mut flags)
    }
}
