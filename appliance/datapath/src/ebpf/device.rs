//! What the kernel says of a device: that little of rtnetlink, and of the family `netdev` (Linux 6.3), which programs
//! before the stack depend on.

use std::io;
use std::net::IpAddr;
use std::sync::OnceLock;

use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send,
    socket_with,
};

use crate::LinkAddress;

/// A device as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) address: LinkAddress,
    /// Of a bus of hardware: not made by software of this machine, nor by a hypervisor's that hands over superframes
    /// (virtio), which XDP has no use for.
    pub(super) is_hardware: bool,
    /// Whether its driver runs XDP programs, and sends what they redirect elsewhere.
    pub(super) runs_programs: bool,
    /// Whether its driver sends frames of XDP programs. With some that depends on how the device is set.
    pub(super) takes_frames: bool,
}

impl Device {
    /// Asks the kernel, in the calling thread's network namespace.
    ///
    /// # Errors
    /// When there is no such device.
    pub(super) fn look_at(interface: u32) -> io::Result<Self> {
        // `struct ifinfomsg` of linux/rtnetlink.h, with the index.
        let mut body = [0; 16];
        body[4..8].copy_from_slice(&interface.to_ne_bytes());
        let link = ask(ROUTE, RTM_GETLINK, &body, &[])?;
        let features = ask_netdev(interface)?;
        let address = link.attribute(IFLA_ADDRESS).and_then(|bytes| bytes.try_into().ok());
        let bus = link.attribute(IFLA_PARENT_DEV_BUS_NAME);
        Ok(Self {
            address: LinkAddress(address.unwrap_or_default()),
            is_hardware: bus.is_some_and(|bus| bus != b"virtio\0"),
            runs_programs: features & RUNS == RUNS,
            takes_frames: features & NDO_XMIT != 0,
        })
    }
}

/// Where a packet goes that this machine sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) interface: u32,
    /// `None` where the next hop is whom the packet is for.
    pub(super) gateway: Option<IpAddr>,
}

/// The way from one of this machine's addresses to another machine's; `None` where there is none, or it leads nowhere
/// else. Both are of one family.
///
/// # Errors
/// When the kernel does not say.
pub(super) fn route_to(from: IpAddr, to: IpAddr) -> io::Result<Option<Route>> {
    // `struct rtmsg` of linux/rtnetlink.h: family, and how many bits of either address count.
    let mut body = [0; 12];
    let (family, bits) = if to.is_ipv4() { (AF_INET, 32) } else { (AF_INET6, 128) };
    body[..3].copy_from_slice(&[family, bits, bits]);
    let octets = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let addresses = [(RTA_DST, &octets(to)[..]), (RTA_SRC, &octets(from)[..])];
    let answer = ask(ROUTE, RTM_GETROUTE, &body, &addresses)?;
    let kind = answer.message.get(NLMSG_HEADER + 7);
    let interface = answer.attribute(RTA_OIF).and_then(|bytes| bytes.try_into().ok());
    let via = answer.attribute(RTA_VIA).and_then(|via| via.get(2..));
    let gateway = answer.attribute(RTA_GATEWAY).or(via).and_then(|bytes| {
        let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from).ok();
        v4.or(<[u8; 16]>::try_from(bytes).map(IpAddr::from).ok())
    });
    let is_elsewhere = kind == Some(&RTN_UNICAST);
    let interface = interface.map(u32::from_ne_bytes).filter(|_| is_elsewhere);
    Ok(interface.map(|interface| Route { interface, gateway }))
}

/// Families of netlink: the first is what a socket has without a choice.
const ROUTE: Option<Protocol> = None;
const GENERIC: Option<Protocol> = Some(netlink::GENERIC);

/// linux/netlink.h and linux/rtnetlink.h.
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_HEADER: usize = 16;
const RTM_GETLINK: u16 = 18;
const RTM_GETROUTE: u16 = 26;
const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
/// A next hop of another family than the destination's: `struct rtvia`.
const RTA_VIA: u16 = 18;
const RTN_UNICAST: u8 = 1;

/// linux/socket.h.
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// linux/if_link.h.
const IFLA_ADDRESS: u16 = 1;
const IFLA_PARENT_DEV_BUS_NAME: u16 = 57;

/// linux/genetlink.h: who names families.
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;

/// linux/netdev.h.
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
/// `NETDEV_XDP_ACT_BASIC` and `NETDEV_XDP_ACT_REDIRECT`.
const RUNS: u64 = 1 | 1 << 1;
const NDO_XMIT: u64 = 1 << 2;

/// Attributes, and headers that are aligned too, begin at multiples of this.
const ALIGNMENT: usize = 4;

fn ask_netdev(interface: u32) -> io::Result<u64> {
    let index = interface.to_ne_bytes();
    let index = [(NETDEV_A_DEV_IFINDEX, &index[..])];
    let device = ask(GENERIC, netdev_family()?, &header(NETDEV_CMD_DEV_GET), &index)?;
    let features = device.attribute(NETDEV_A_DEV_XDP_FEATURES);
    Ok(features.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_ne_bytes))
}

/// `struct genlmsghdr` with command and version.
const fn header(command: u8) -> [u8; 4] {
    [command, 1, 0, 0]
}

/// The family's number, which a kernel gives once.
fn netdev_family() -> io::Result<u16> {
    static FAMILY: OnceLock<u16> = OnceLock::new();
    if let Some(known) = FAMILY.get() {
        return Ok(*known);
    }
    let name = (CTRL_ATTR_FAMILY_NAME, &b"netdev\0"[..]);
    let family = ask(GENERIC, GENL_ID_CTRL, &header(CTRL_CMD_GETFAMILY), &[name])?;
    let id = family.attribute(CTRL_ATTR_FAMILY_ID).and_then(|bytes| bytes.try_into().ok());
    let id = id.map(u16::from_ne_bytes).ok_or(io::ErrorKind::InvalidData)?;
    Ok(*FAMILY.get_or_init(|| id))
}

/// The attributes of an answer.
struct Answer {
    message: Vec<u8>,
    attributes: usize,
}

impl Answer {
    fn attribute(&self, kind: u16) -> Option<&[u8]> {
        const HEADER: usize = 4;
        let mut rest = self.message.get(self.attributes..)?;
        loop {
            let (header, _) = rest.split_first_chunk::<HEADER>()?;
            let [a, b, c, d] = *header;
            let length = usize::from(u16::from_ne_bytes([a, b]));
            let value = rest.get(HEADER..length)?;
            if u16::from_ne_bytes([c, d]) == kind {
                return Some(value);
            }
            rest = rest.get(length.next_multiple_of(ALIGNMENT)..)?;
        }
    }
}

/// Sends a request and returns its only answer.
fn ask(
    protocol: Option<Protocol>,
    kind: u16,
    body: &[u8],
    attributes: &[(u16, &[u8])],
) -> io::Result<Answer> {
    /// More than any device is described with.
    const LARGEST: usize = 64 << 10;
    let socket =
        socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
    let mut request = vec![0; NLMSG_HEADER];
    request.extend(body);
    for (name, value) in attributes {
        request.extend((4 + value.len() as u16).to_ne_bytes());
        request.extend(name.to_ne_bytes());
        request.extend(*value);
        request.resize(request.len().next_multiple_of(ALIGNMENT), 0);
    }
    let length = request.len() as u32;
    request[..4].copy_from_slice(&length.to_ne_bytes());
    request[4..6].copy_from_slice(&kind.to_ne_bytes());
    request[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    send(&socket, &request, SendFlags::empty())?;
    let mut message = vec![0; LARGEST];
    let (length, _) = recv(&socket, &mut message[..], RecvFlags::empty())?;
    message.truncate(length);
    let &[_, _, _, _, a, b, _, _, _, _, _, _, _, _, _, _, c, d, e, f, ..] = &message[..] else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    if u16::from_ne_bytes([a, b]) == NLMSG_ERROR {
        return Err(io::Error::from_raw_os_error(-i32::from_ne_bytes([c, d, e, f])));
    }
    Ok(Answer { message, attributes: NLMSG_HEADER + body.len() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_loopback_device_is_no_hardware_and_has_no_place_for_programs() {
        let loopback = Device {
            address: LinkAddress([0; 6]),
            is_hardware: false,
            runs_programs: false,
            takes_frames: false,
        };
        assert_eq!(Device::look_at(1).unwrap(), loopback);
    }

    #[test]
    fn a_device_that_is_not_there_is_an_error() {
        let error = Device::look_at(i32::MAX as u32).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
    }
}
