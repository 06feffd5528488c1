//! UDP sockets: many datagrams in one call, and superframes of datagrams.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};

use super::{PEER_BATCH, ToPeer, joined_at_most};

/// Room for one control message with one number, aligned as `cmsghdr` wants it.
type Control = [u64; 4];
const NO_CONTROL: Control = [0; 4];

/// A socket on this address that never fragments and never waits.
pub(super) fn open(local: SocketAddr, buffer_bytes: usize) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let family = if local.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::DGRAM, flags, None)?;
    // Not by what ICMP says of the path either, which anybody may have sent: the sync MTU is configured.
    if local.is_ipv4() {
        sockopt::set_ip_mtu_discover(&socket, sockopt::Ipv4PathMtuDiscovery::PROBE)?;
    } else {
        sockopt::set_ipv6_mtu_discover(&socket, sockopt::Ipv6PathMtuDiscovery::PROBE)?;
    }
    // Above the system's limit only with CAP_NET_ADMIN; the kernel's default is enough to run.
    if sockopt::set_socket_recv_buffer_size_force(&socket, buffer_bytes).is_err() {
        sockopt::set_socket_recv_buffer_size(&socket, buffer_bytes)?;
    }
    if sockopt::set_socket_send_buffer_size_force(&socket, buffer_bytes).is_err() {
        sockopt::set_socket_send_buffer_size(&socket, buffer_bytes)?;
    }
    bind(&socket, &local)?;
    Ok(socket)
}

/// Has datagrams of one length that came together handed over together.
pub(super) fn join_segments(socket: &OwnedFd) -> io::Result<()> {
    switch_on(socket, libc::UDP_GRO)
}

/// Has datagrams over IPv6 that have no checksum handed over too.
pub(super) fn take_without_checksum(socket: &OwnedFd) -> io::Result<()> {
    switch_on(socket, UDP_NO_CHECK6_RX)
}

/// linux/udp.h.
const UDP_NO_CHECK6_RX: libc::c_int = 102;

fn switch_on(socket: &OwnedFd, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: pointer and length are those of `on`, which the kernel only reads. No safe way: rustix does not
    // have the option.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            option,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A peer's address as the kernel takes it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Address {
    ip: IpAddr,
    port: u16,
    raw: RawAddress,
}

#[derive(Debug, Clone, Copy)]
enum RawAddress {
    V4(libc::sockaddr_in),
    V6(libc::sockaddr_in6),
}

impl Address {
    pub(super) fn new(address: SocketAddr) -> Self {
        let port = address.port().to_be();
        let raw = match address {
            SocketAddr::V4(address) => RawAddress::V4(libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: port,
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
                sin_zero: [0; 8],
            }),
            SocketAddr::V6(address) => RawAddress::V6(libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: port,
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
                sin6_scope_id: address.scope_id(),
            }),
        };
        Self { ip: address.ip(), port: address.port(), raw }
    }

    pub(super) const fn port(&self) -> u16 {
        self.port
    }

    fn pointer(&self) -> (*const libc::c_void, libc::socklen_t) {
        match &self.raw {
            RawAddress::V4(raw) => ((&raw const *raw).cast(), size_of_val(raw) as libc::socklen_t),
            RawAddress::V6(raw) => ((&raw const *raw).cast(), size_of_val(raw) as libc::socklen_t),
        }
    }
}

/// Whose address this is. Peers that have one address are told apart by their ports; elsewhere the port does not matter:
/// what is sealed says who has sent it.
pub(super) fn find(peers: &[Address], from: Option<IpAddr>, port: u16) -> Option<usize> {
    let is_there = |peer: &Address| Some(peer.ip) == from;
    let place = peers.iter().position(is_there)?;
    let is_alone = !peers[place + 1..].iter().any(is_there);
    let at_port = || peers.iter().position(|peer| is_there(peer) && peer.port == port);
    is_alone.then_some(place).or_else(at_port)
}

/// What became of some datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// So many of them, at least one.
    Sent(usize),
    /// The first one is not taken.
    Refused(Errno),
    /// None, as the queue is full and nothing empties it while we try.
    Full,
}

/// Sends as many of the datagrams, not more than `PEER_BATCH`, as the kernel takes in one call.
pub(super) fn send(socket: &OwnedFd, datagrams: &[ToPeer<'_>], peers: &[Address]) -> Outcome {
    assert!(datagrams.len() <= PEER_BATCH, "{} datagrams", datagrams.len());
    let mut slices = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; PEER_BATCH];
    let mut controls = [NO_CONTROL; PEER_BATCH];
    let mut headers = [no_header(); PEER_BATCH];
    let parts = slices.iter_mut().zip(&mut controls).zip(&mut headers);
    for (datagram, ((slice, control), header)) in datagrams.iter().zip(parts) {
        slice.iov_base = datagram.bytes.as_ptr().cast_mut().cast();
        slice.iov_len = datagram.bytes.len();
        let (name, length) = peers[datagram.peer].pointer();
        header.msg_hdr.msg_name = name.cast_mut();
        header.msg_hdr.msg_namelen = length;
        header.msg_hdr.msg_iov = &raw mut *slice;
        header.msg_hdr.msg_iovlen = 1;
        if datagram.bytes.len() > datagram.stride {
            let length = put_segment_size(control, datagram.stride as u16);
            header.msg_hdr.msg_control = control.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = length;
        }
    }
    // SAFETY: as many headers as are named have pointers to addresses, slices and controls with their lengths, all
    // of which outlive the call; the kernel writes to the headers alone. No safe way: rustix cannot say how superframes are cut.
    let sent = unsafe {
        libc::sendmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            datagrams.len() as libc::c_uint,
            libc::MSG_DONTWAIT,
        )
    };
    match usize::try_from(sent) {
        Ok(count @ 1..) => Outcome::Sent(count),
        _ => match Errno::from_io_error(&io::Error::last_os_error()) {
            Some(Errno::AGAIN | Errno::NOBUFS) | None => Outcome::Full,
            Some(error) => Outcome::Refused(error),
        },
    }
}

/// Buffers for datagrams that come.
#[derive(Debug)]
pub(super) struct Arrivals {
    slot_bytes: usize,
    /// Of each buffer, what is left behind its slot's bytes.
    room: usize,
    slots: Vec<Slot>,
    /// One for each slot. Others may keep one and leave another, of whatever size, in its place.
    buffers: Vec<Vec<u8>>,
}

/// What the kernel says of one that came.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    from: Option<IpAddr>,
    port: u16,
    length: usize,
    is_truncated: bool,
    stride: Option<usize>,
}

/// One datagram, or several of `stride` bytes each and one of what is left: the first `length` bytes of a buffer.
#[derive(Debug)]
pub(super) struct Arrival<'a> {
    pub(super) from: Option<IpAddr>,
    pub(super) port: u16,
    pub(super) buffer: &'a mut Vec<u8>,
    pub(super) length: usize,
    pub(super) is_truncated: bool,
    pub(super) stride: Option<usize>,
}

impl Arrivals {
    /// Room for so many, not more than `PEER_BATCH`, of so many bytes, and for some more behind each.
    pub(super) fn new(count: usize, slot_bytes: usize, room: usize) -> Self {
        let slots = vec![Slot::default(); count.min(PEER_BATCH)];
        let buffers = vec![vec![0; slot_bytes + room]; slots.len()];
        Self { slot_bytes, room, slots, buffers }
    }

    /// Takes what has come, as far as there is room, and returns how many.
    pub(super) fn receive(&mut self, socket: &OwnedFd) -> io::Result<usize> {
        let Self { slot_bytes, room, slots, buffers } = self;
        let mut slices = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; PEER_BATCH];
        let mut controls = [NO_CONTROL; PEER_BATCH];
        let mut names = [const { MaybeUninit::<libc::sockaddr_storage>::zeroed() }; PEER_BATCH];
        let mut headers = [no_header(); PEER_BATCH];
        let parts = slices.iter_mut().zip(&mut controls).zip(&mut names).zip(&mut headers);
        for (bytes, (((slice, control), name), header)) in buffers.iter_mut().zip(parts) {
            bytes.resize(*slot_bytes + *room, 0);
            slice.iov_base = bytes.as_mut_ptr().cast();
            slice.iov_len = *slot_bytes;
            header.msg_hdr.msg_name = name.as_mut_ptr().cast();
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_hdr.msg_iov = &raw mut *slice;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = control.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = size_of::<Control>();
        }
        // SAFETY: as many headers as there are slots have pointers to buffers with their lengths, which outlive the
        // call, and the kernel writes within these lengths. No safe way: rustix has no recvmmsg.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                slots.len() as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        let Ok(count) = usize::try_from(count) else {
            let error = io::Error::last_os_error();
            return match Errno::from_io_error(&error) {
                // Errors of datagrams that were sent earlier: whoever they were for is silent, and that is noticed.
                Some(
                    Errno::AGAIN
                    | Errno::INTR
                    | Errno::CONNREFUSED
                    | Errno::HOSTUNREACH
                    | Errno::NETUNREACH,
                ) => Ok(0),
                _ => Err(error),
            };
        };
        for (((slot, header), name), control) in
            slots.iter_mut().zip(&headers).zip(&names).zip(&controls).take(count)
        {
            *slot = Slot {
                from: sender(name).map(|sender| sender.ip()),
                port: sender(name).map_or(0, |sender| sender.port()),
                length: header.msg_len as usize,
                is_truncated: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
                stride: segment_size(control, header.msg_hdr.msg_controllen),
            };
        }
        Ok(count)
    }

    /// Puts what one superframe had no room for behind it, of the first `count` that were received last: its sender
    /// has cut a longer run of datagrams there, and whoever joins their payloads again wants them together.
    pub(super) fn continue_superframes(&mut self, count: usize) {
        for at in 1..count {
            let (before, rest) = self.buffers.split_at_mut(at);
            let ([.., first], [next, ..]) = (before, rest) else { continue };
            let [slot, following] = [self.slots[at - 1], self.slots[at]];
            let end = slot.length + following.length;
            if following.continues(&slot) && end <= first.len() {
                first[slot.length..end].copy_from_slice(&next[..following.length]);
                self.slots[at - 1].length = end;
                self.slots[at].length = 0;
            }
        }
    }

    /// Whether more may have come than was taken.
    pub(super) fn is_full(&self, count: usize) -> bool {
        count == self.slots.len()
    }

    /// The first `count` of what was received last.
    pub(super) fn iter(&mut self, count: usize) -> impl Iterator<Item = Arrival<'_>> {
        self.slots.iter().zip(&mut self.buffers).take(count).map(|(slot, buffer)| Arrival {
            from: slot.from,
            port: slot.port,
            length: slot.length.min(buffer.len()),
            buffer,
            is_truncated: slot.is_truncated,
            stride: slot.stride,
        })
    }
}

impl Slot {
    /// Whether it holds datagrams that followed those of `before`, a superframe as full as can be.
    fn continues(&self, before: &Self) -> bool {
        let Some(stride) = before.stride.filter(|stride| *stride > 0) else { return false };
        let fits = self.stride.map_or(self.length <= stride, |own| own == stride);
        fits && self.length > 0
            && self.from == before.from
            && !self.is_truncated
            && !before.is_truncated
            && before.length == joined_at_most(stride) * stride
    }
}

fn no_header() -> libc::mmsghdr {
    // SAFETY: a header of zeros is one without address, data and control. No safe way: on some systems it has private padding.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

fn sender(name: &MaybeUninit<libc::sockaddr_storage>) -> Option<SocketAddr> {
    // SAFETY: it was zeroed, and the kernel has written an address or nothing over that. No safe way: which kind of
    // address it is stands in its first field.
    unsafe {
        match libc::c_int::from((*name.as_ptr()).ss_family) {
            libc::AF_INET => {
                let name = &*name.as_ptr().cast::<libc::sockaddr_in>();
                let port = u16::from_be(name.sin_port);
                Some(SocketAddr::new(name.sin_addr.s_addr.to_ne_bytes().into(), port))
            }
            libc::AF_INET6 => {
                let name = &*name.as_ptr().cast::<libc::sockaddr_in6>();
                let port = u16::from_be(name.sin6_port);
                Some(SocketAddr::new(name.sin6_addr.s6_addr.into(), port))
            }
            _ => None,
        }
    }
}

const HEADER_BYTES: usize = size_of::<libc::cmsghdr>();

/// Writes the control message that has a superframe cut, and returns its length.
fn put_segment_size(control: &mut Control, bytes: u16) -> usize {
    let length = HEADER_BYTES + size_of::<u16>();
    // cmsghdr on 64-bit Linux: length (8), level (4), type (4); then the value, as the machine orders bytes.
    let [first, second, third, _] = control;
    *first = length as u64;
    *second = words(libc::SOL_UDP as u32, libc::UDP_SEGMENT as u32);
    *third = u64::from_ne_bytes(std::array::from_fn(|at| {
        bytes.to_ne_bytes().get(at).copied().unwrap_or(0)
    }));
    HEADER_BYTES + size_of::<u64>()
}

/// The length of the datagrams in a superframe, if the kernel has joined any.
fn segment_size(control: &Control, length: usize) -> Option<usize> {
    let [first, second, third, _] = control;
    let is_it = length >= HEADER_BYTES + size_of::<libc::c_int>()
        && *first as usize >= HEADER_BYTES + size_of::<libc::c_int>()
        && *second == words(libc::SOL_UDP as u32, libc::UDP_GRO as u32);
    let [a, b, c, d, ..] = third.to_ne_bytes();
    is_it.then(|| u32::from_ne_bytes([a, b, c, d]) as usize)
}

/// Two numbers as they lie side by side in memory.
fn words(first: u32, second: u32) -> u64 {
    let ([a, b, c, d], [e, f, g, h]) = (first.to_ne_bytes(), second.to_ne_bytes());
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRIDE: usize = 1_452;
    const FULL: usize = 45 * STRIDE;

    fn slot(length: usize, stride: Option<usize>) -> Slot {
        let from = Some(IpAddr::from([192, 0, 2, 1]));
        Slot { from, port: 6_081, length, is_truncated: false, stride }
    }

    /// What came in these slots, each filled with its number.
    fn arrived(slots: &[Slot]) -> Vec<Vec<u8>> {
        let mut arrivals = Arrivals::new(slots.len(), 65_536, 8_192);
        arrivals.slots.copy_from_slice(slots);
        for (number, buffer) in arrivals.buffers.iter_mut().enumerate() {
            buffer.fill(number as u8);
        }
        arrivals.continue_superframes(slots.len());
        arrivals
            .iter(slots.len())
            .map(|arrival| arrival.buffer[..arrival.length].to_vec())
            .collect()
    }

    #[test]
    fn what_a_superframe_had_no_room_for_is_put_behind_it() {
        let (short, single) = (2 * STRIDE - 100, STRIDE - 1);
        let full = slot(FULL, Some(STRIDE));
        let came = arrived(&[full, slot(short, Some(STRIDE)), full, slot(single, None)]);
        let [first, nothing, second, nothing_more] = &came[..] else { unreachable!() };
        assert_eq!(*first, [vec![0; FULL], vec![1; short]].concat());
        assert_eq!(*second, [vec![2; FULL], vec![3; single]].concat());
        assert!(nothing.is_empty() && nothing_more.is_empty());
    }

    #[test]
    fn other_datagrams_stay_by_themselves() {
        let full = slot(FULL, Some(STRIDE));
        let rest = slot(2 * STRIDE, Some(STRIDE));
        let stranger = Slot { from: Some(IpAddr::from([192, 0, 2, 2])), ..rest };
        for (before, behind) in [
            (slot(44 * STRIDE, Some(STRIDE)), rest),
            (slot(FULL - 1, Some(STRIDE)), rest),
            (slot(STRIDE, None), slot(STRIDE, None)),
            (full, stranger),
            (full, slot(2 * STRIDE, Some(STRIDE - 1))),
            (full, slot(STRIDE + 1, None)),
            (full, full),
            (full, Slot { is_truncated: true, ..rest }),
            (Slot { is_truncated: true, ..full }, rest),
            (full, slot(0, None)),
        ] {
            let lengths: Vec<_> = arrived(&[before, behind]).iter().map(Vec::len).collect();
            assert_eq!(lengths, [before.length, behind.length], "{before:?} {behind:?}");
        }
    }
}
