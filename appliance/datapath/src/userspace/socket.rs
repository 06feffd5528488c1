//! Packet sockets: what rustix does not know of them, behind a safe surface.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with, sockopt,
};

/// Bytes that may lie in queues behind the socket: forty superframes, or a card's ring of small ones.
const SEND_BUFFER_BYTES: usize = 4 << 20;

/// A packet socket that speaks virtio headers and receives nothing yet.
///
/// Frames of our own sending are not received. The queueing discipline is not bypassed: a bypass
/// drops superframes that the device can not segment, and drops what a full device would queue.
pub(super) fn open() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)?;
    set_option(
        &socket,
        libc::PACKET_VERSION,
        &(libc::tpacket_versions::TPACKET_V2 as libc::c_int),
    )?;
    set_option(&socket, libc::PACKET_VNET_HDR, &1)?;
    set_option(&socket, libc::PACKET_IGNORE_OUTGOING, &1)?;
    // Above the system's limit only with CAP_NET_ADMIN; the kernel's default is enough to run.
    if sockopt::set_socket_send_buffer_size_force(&socket, SEND_BUFFER_BYTES).is_err() {
        sockopt::set_socket_send_buffer_size(&socket, SEND_BUFFER_BYTES)?;
    }
    Ok(socket)
}

/// Gives the socket a receive ring of `blocks` blocks that hold as many slots as fit.
pub(super) fn set_receive_ring(
    socket: &OwnedFd,
    blocks: u16,
    block_bytes: u32,
    slot_bytes: u32,
) -> io::Result<()> {
    let request = libc::tpacket_req {
        tp_block_size: block_bytes,
        tp_block_nr: blocks.into(),
        tp_frame_size: slot_bytes,
        tp_frame_nr: block_bytes / slot_bytes * u32::from(blocks),
    };
    set_option(socket, libc::PACKET_RX_RING, &request)
}

/// Which frames a socket receives, by their bytes, link header included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lengths {
    UpTo(u32),
    MoreThan(u32),
}

/// Keeps frames of other lengths from the socket.
pub(super) fn receive_only(socket: &OwnedFd, lengths: Lengths) -> io::Result<()> {
    // linux/filter.h: the frame's length; is it greater; take all of it, or nothing.
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let (limit, if_more, if_not) = match lengths {
        Lengths::UpTo(limit) => (limit, 0, u32::MAX),
        Lengths::MoreThan(limit) => (limit, u32::MAX, 0),
    };
    let mut program = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_LEN, 0),
        libc::sock_filter {
            jf: 1,
            ..statement(libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K, limit)
        },
        statement(libc::BPF_RET | libc::BPF_K, if_more),
        statement(libc::BPF_RET | libc::BPF_K, if_not),
    ];
    let filter =
        libc::sock_fprog { len: program.len() as libc::c_ushort, filter: program.as_mut_ptr() };
    set_option_at(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &filter)
}

/// Receives from this interface, and no other, from now on. Needs no privilege.
pub(super) fn bind_interface(socket: &OwnedFd, index: u32) -> io::Result<()> {
    bind_protocol(socket, index, libc::ETH_P_ALL as u16)
}

/// Sends by this interface from now on, and receives nothing.
pub(super) fn bind_for_sending(socket: &OwnedFd, index: u32) -> io::Result<()> {
    bind_protocol(socket, index, 0)
}

fn bind_protocol(socket: &OwnedFd, index: u32, protocol: u16) -> io::Result<()> {
    let index = libc::c_int::try_from(index).map_err(io::Error::other)?;
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as libc::c_ushort,
        sll_protocol: protocol.to_be(),
        sll_ifindex: index,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: pointer and length are those of a whole `sockaddr_ll` that outlives the call.
    // No safe way: rustix has no packet addresses.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    check(result)
}

/// Frames that the kernel has dropped since the last call because the ring was full.
pub(super) fn take_ring_drops(socket: &OwnedFd) -> io::Result<u32> {
    let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
    // SAFETY: pointer and length are those of a whole `tpacket_stats`, which any bytes are valid
    // for. No safe way: rustix does not have the option.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut statistics).cast(),
            &raw mut length,
        )
    };
    check(result).map(|()| statistics.tp_drops)
}

/// Whether the interface is up and has a carrier; `None` if there is none of this name.
pub(super) fn interface_running(socket: &OwnedFd, name: &str) -> Option<bool> {
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: 0 },
    };
    // One byte stays zero: the kernel wants a terminated name.
    if name.len() >= libc::IFNAMSIZ {
        return None;
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: SIOCGIFFLAGS reads the name and writes the flags of the `ifreq` that the pointer
    // leads to. No safe way: rustix does not have this ioctl.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) };
    check(result).ok()?;
    // SAFETY: the kernel has written the flags, and any bytes are valid for them. No safe way: the
    // kernel's answer is a union.
    let flags = libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags });
    Some(flags & libc::IFF_UP != 0 && flags & libc::IFF_RUNNING != 0)
}

/// A netlink socket that becomes readable when any link changes.
pub(super) fn open_link_signal() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    bind(&socket, &SocketAddrNetlink::new(0, libc::RTMGRP_LINK as u32))?;
    Ok(socket)
}

/// Empties the link signal. Returns whether anything was there; what it was does not matter.
pub(super) fn drain_link_signal(socket: &OwnedFd) -> bool {
    let mut any = false;
    // A length of zero cuts the message, which takes all of it. ENOBUFS: messages are lost, and
    // that is a signal too.
    loop {
        match recv(socket, &mut [0_u8; 1], RecvFlags::TRUNC) {
            Ok(_) | Err(rustix::io::Errno::NOBUFS) => any = true,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return any,
        }
    }
}

/// Takes the error that the kernel keeps for the socket, such as "network is down".
pub(super) fn take_error(socket: &OwnedFd) {
    // What it was does not matter: the interface is asked instead.
    let _ = sockopt::socket_error(socket.as_fd());
}

fn set_option<T>(socket: &OwnedFd, option: libc::c_int, value: &T) -> io::Result<()> {
    set_option_at(socket, libc::SOL_PACKET, option, value)
}

fn set_option_at<T>(
    socket: &OwnedFd,
    level: libc::c_int,
    option: libc::c_int,
    value: &T,
) -> io::Result<()> {
    // SAFETY: pointer and length are those of `value`, which the kernel only reads; the one value
    // that holds a pointer, a filter, leads to an array that its caller keeps. No safe way: rustix
    // has neither options of packet sockets nor filters.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    check(result)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
