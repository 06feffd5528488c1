//! Which interface has an address.

use std::ffi::CStr;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// An interface of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalInterface {
    pub name: String,
    /// Bytes of the largest IP packet.
    pub mtu: u32,
}

/// The interface that has this address; `None` if none has.
///
/// # Errors
/// When the kernel does not say.
pub fn interface_of(address: IpAddr) -> io::Result<Option<LocalInterface>> {
    let Some(name) = name_of(address)? else { return Ok(None) };
    let mtu = mtu(&name)?;
    Ok(Some(LocalInterface { name, mtu }))
}

fn name_of(address: IpAddr) -> io::Result<Option<String>> {
    let mut list = std::ptr::null_mut();
    // SAFETY: the pointer leads to one that the call sets. No safe way: std and rustix list no addresses.
    if unsafe { libc::getifaddrs(&raw mut list) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut found = None;
    let mut next = list;
    while !next.is_null() && found.is_none() {
        // SAFETY: it is not null, and of the list that is freed below. No safe way: the list is linked by pointers.
        let entry = unsafe { &*next };
        // Of the loopback's addresses (RFC 1122 section 3.2.1.3) only one is listed, and all are its.
        let has_it = |own: IpAddr| own == address || (own.is_loopback() && address.is_loopback());
        if address_of(entry).is_some_and(has_it) {
            // SAFETY: each entry has a name that ends with a zero. No safe way: as above.
            let name = unsafe { CStr::from_ptr(entry.ifa_name) };
            // A second address of an interface has a label behind its name.
            let name = name.to_string_lossy();
            found = name.split(':').next().map(str::to_owned);
        }
        next = entry.ifa_next;
    }
    // SAFETY: the list is whole, and nothing that is kept leads into it. No safe way: only this frees it.
    unsafe { libc::freeifaddrs(list) };
    Ok(found)
}

fn address_of(entry: &libc::ifaddrs) -> Option<IpAddr> {
    if entry.ifa_addr.is_null() {
        return None;
    }
    // SAFETY: it is not null, and leads to an address of the kind that its first field names. No safe way: the kind
    // is known only then.
    unsafe {
        match libc::c_int::from((*entry.ifa_addr).sa_family) {
            libc::AF_INET => {
                let address = &*entry.ifa_addr.cast::<libc::sockaddr_in>();
                Some(IpAddr::from(address.sin_addr.s_addr.to_ne_bytes()))
            }
            libc::AF_INET6 => {
                let address = &*entry.ifa_addr.cast::<libc::sockaddr_in6>();
                Some(IpAddr::from(address.sin6_addr.s6_addr))
            }
            _ => None,
        }
    }
}

fn mtu(name: &str) -> io::Result<u32> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_mtu: 0 },
    };
    // One byte stays zero: the kernel wants a terminated name.
    for (to, from) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: SIOCGIFMTU reads the name and writes the MTU of the `ifreq` that the pointer leads to. No safe way:
    // rustix does not have this ioctl.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFMTU, &raw mut request) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has written the MTU, and any bytes are valid for it. No safe way: its answer is a union.
    Ok(u32::try_from(unsafe { request.ifr_ifru.ifru_mtu }).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_loopback_is_found_by_its_address() {
        let found = interface_of(IpAddr::from([127, 0, 0, 1])).unwrap().unwrap();
        assert_eq!(found.name, "lo");
        assert!(found.mtu >= 1_280, "{found:?}");
        assert_eq!(interface_of(IpAddr::from([127, 3, 2, 1])).unwrap(), Some(found));
        assert_eq!(interface_of(IpAddr::from([192, 0, 2, 77])).unwrap(), None);
    }
}
