//! Requests to the kernel about devices that nothing but ioctl(2) carries.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::net::{AddressFamily, SocketType, socket};

/// linux/ethtool.h.
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETH_FLAG_LRO: u32 = 1 << 15;
const ETH_FLAG_RXVLAN: u32 = 1 << 8;

/// `struct ethtool_value` of linux/ethtool.h.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// Whether the device merges packets as it receives them, in a way that cannot be undone (LRO).
pub(super) fn merges_packets(name: &str) -> io::Result<bool> {
    Ok(flags(name)? & ETH_FLAG_LRO != 0)
}

/// Whether the device takes VLAN tags out of frames that it receives, and notes them elsewhere.
pub(super) fn takes_tags_off(name: &str) -> io::Result<bool> {
    Ok(flags(name)? & ETH_FLAG_RXVLAN != 0)
}

fn flags(name: &str) -> io::Result<u32> {
    let mut value = EthtoolValue { command: ETHTOOL_GFLAGS, data: 0 };
    let mut request = request(name);
    request.ifr_ifru.ifru_data = std::ptr::from_mut(&mut value).cast();
    control(&any_socket()?, libc::SIOCETHTOOL as libc::Ioctl, &mut request)?;
    Ok(value.data)
}

pub(super) fn any_socket() -> io::Result<impl AsFd + AsRawFd> {
    Ok(socket(AddressFamily::INET, SocketType::DGRAM, None)?)
}

pub(super) fn request(name: &str) -> libc::ifreq {
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: 0 },
    };
    // One byte stays zero: the kernel wants a terminated name.
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()).take(libc::IFNAMSIZ - 1) {
        *to = from as libc::c_char;
    }
    request
}

pub(super) fn control(
    file: &impl AsRawFd,
    what: libc::Ioctl,
    request: &mut libc::ifreq,
) -> io::Result<()> {
    // SAFETY: these requests read and write the `ifreq` that the pointer leads to, and nothing else,
    // or what its `ifru_data` leads to, which lives as long as the caller's frame. No safe way: rustix has none of them.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), what, std::ptr::from_mut(request)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
