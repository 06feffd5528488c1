//! The kernel's nf_tables, over netlink: change our table, read it, hear of changes.

use std::collections::BTreeSet;
use std::io;

use zerocopy::IntoBytes as _;

use crate::encode::Request;
use crate::message::{Message, dump_request};
use crate::rules::TABLE;
use crate::snapshot::Snapshot;

/// A connection to nf_tables of the network namespace that it was opened in.
pub(crate) struct Netfilter {
    socket: mnl::Socket,
    buffer: Buffer,
    sequence: u32,
}

impl Netfilter {
    /// Opens a connection.
    ///
    /// # Errors
    /// [`NetfilterError::Open`].
    pub(crate) fn open() -> Result<Self, NetfilterError> {
        let socket = mnl::Socket::new(mnl::Bus::Netfilter).map_err(NetfilterError::open)?;
        Ok(Self { socket, buffer: Buffer::new(), sequence: 0 })
    }

    /// Who we are in the messages that tell of our changes.
    pub(crate) fn port(&self) -> u32 {
        self.socket.portid()
    }

    /// Has the kernel do what is requested, all or nothing.
    ///
    /// # Errors
    /// [`NetfilterError`]; nothing has changed then.
    pub(crate) fn apply(&mut self, request: &Request) -> Result<(), NetfilterError> {
        let mut awaited: BTreeSet<u32> = request.awaited.clone().collect();
        self.socket.send_all(request.pages()).map_err(NetfilterError::socket)?;
        while !awaited.is_empty() {
            let received = self.buffer.receive(&self.socket).map_err(NetfilterError::socket)?;
            for message in Message::all(received) {
                match message.errno() {
                    Some(0) => {
                        awaited.remove(&message.sequence);
                    }
                    Some(errno) => return Err(NetfilterError::refused(errno)),
                    None => {}
                }
            }
        }
        Ok(())
    }

    /// Reads our table as it is now.
    ///
    /// # Errors
    /// [`NetfilterError`].
    pub(crate) fn read(&mut self) -> Result<Snapshot, NetfilterError> {
        // Others change their tables all the time, and each change may cut a dump short.
        for _ in 0..DUMP_ATTEMPTS {
            let mut snapshot = Snapshot::default();
            let mut whole = true;
            for (kind, table) in [
                (libc::NFT_MSG_GETTABLE, None),
                (libc::NFT_MSG_GETCHAIN, None),
                (libc::NFT_MSG_GETRULE, Some(TABLE)),
            ] {
                whole &= self.dump(kind, table, &mut snapshot)?;
            }
            if whole {
                return Ok(snapshot);
            }
        }
        Err(NetfilterError::Restless)
    }

    /// Says whether the dump is of one moment.
    fn dump(
        &mut self,
        kind: i32,
        table: Option<&str>,
        into: &mut Snapshot,
    ) -> Result<bool, NetfilterError> {
        self.sequence = self.sequence.wrapping_add(1);
        let request = dump_request(kind, table, self.sequence);
        self.socket.send(&request).map_err(NetfilterError::socket)?;
        let mut whole = true;
        loop {
            let received = self.buffer.receive(&self.socket).map_err(NetfilterError::socket)?;
            for message in Message::all(received).filter(|m| m.sequence == self.sequence) {
                whole &= i32::from(message.flags) & libc::NLM_F_DUMP_INTR == 0;
                if i32::from(message.kind) == libc::NLMSG_DONE {
                    return Ok(whole);
                }
                match message.errno() {
                    Some(0) | None => into.add(&message),
                    // The table that was asked for is not there.
                    Some(libc::ENOENT) => return Ok(whole),
                    Some(errno) => return Err(NetfilterError::refused(errno)),
                }
            }
        }
    }
}

/// Hears of every change of nf_tables in the network namespace that it was opened in.
pub(crate) struct Changes {
    socket: mnl::Socket,
    buffer: Buffer,
}

impl Changes {
    /// Begins to listen: nothing that happens from now on is missed without being told so.
    ///
    /// # Errors
    /// [`NetfilterError::Open`].
    pub(crate) fn open() -> Result<Self, NetfilterError> {
        let socket = mnl::Socket::open(mnl::Bus::Netfilter).map_err(NetfilterError::open)?;
        let group = 1 << (libc::NFNLGRP_NFTABLES - 1);
        socket.bind(group, ANY_PORT).map_err(NetfilterError::open)?;
        Ok(Self { socket, buffer: Buffer::new() })
    }

    /// Waits until our table has been touched by some port; none if changes have been missed.
    ///
    /// # Errors
    /// [`NetfilterError::Socket`].
    pub(crate) fn next(&mut self) -> Result<Option<u32>, NetfilterError> {
        loop {
            let received = match self.buffer.receive(&self.socket) {
                Ok(received) => received,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(None),
                Err(error) => return Err(NetfilterError::socket(error)),
            };
            // One datagram holds messages of one transaction only, and so of one port.
            if let Some(message) = Message::all(received).find(concerns_us) {
                return Ok(Some(message.port));
            }
        }
    }
}

/// Why nf_tables did not do what was asked, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetfilterError {
    #[error("cannot open a netlink socket to netfilter{}", hint(.0))]
    Open(#[source] io::Error),
    #[error("cannot talk to netfilter over netlink")]
    Socket(#[source] io::Error),
    #[error("the kernel refuses the request to nf_tables{}", hint(.0))]
    Refused(#[source] io::Error),
    #[error(
        "nf_tables changes faster than it can be read ({DUMP_ATTEMPTS} attempts): find who changes it \
         with `nft monitor`"
    )]
    Restless,
}

impl NetfilterError {
    fn open(error: io::Error) -> Self {
        Self::Open(error)
    }

    fn socket(error: io::Error) -> Self {
        Self::Socket(error)
    }

    fn refused(errno: i32) -> Self {
        Self::Refused(io::Error::from_raw_os_error(errno))
    }
}

/// The next step for the errors that a wrong set-up leads to.
fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            ": another gabion-guard holds the rules (one gabiond at a time in a network namespace), or \
             CAP_NET_ADMIN is missing. Start it as root or with AmbientCapabilities=CAP_NET_ADMIN, \
             in a container with --cap-add NET_ADMIN"
        }
        Some(libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT | libc::EOPNOTSUPP | libc::EINVAL) => {
            ": the kernel seems to lack nf_tables with the inet family. Load it with \
             `modprobe nf_tables`, or use a kernel with CONFIG_NF_TABLES_INET"
        }
        Some(libc::ENOENT) => {
            ": the kernel lacks an expression that the rules need (meta, payload, cmp, counter, \
             immediate)"
        }
        _ => "",
    }
}

/// How often a dump that was cut short is begun anew.
const DUMP_ATTEMPTS: u32 = 100;

/// The kernel chooses the port id.
const ANY_PORT: libc::pid_t = 0;

fn concerns_us(message: &Message<'_>) -> bool {
    let Some(mut attributes) = message.inet_attributes() else { return false };
    attributes.any(|a| a.kind == ATTRIBUTE_TABLE && a.text() == TABLE)
}

/// The table's name has the same place in messages about tables, chains, rules, sets and objects
/// (linux/netfilter/nf_tables.h).
const ATTRIBUTE_TABLE: u16 = 1;

/// Room for what the kernel sends at once, aligned as netlink has it.
struct Buffer(Vec<u64>);

impl Buffer {
    fn new() -> Self {
        // The longest message there is; the kernel fills at most 32 KiB of a dump at once.
        Self(vec![0; nftnl::nft_nlmsg_maxsize() as usize / 8])
    }

    fn receive(&mut self, socket: &mnl::Socket) -> io::Result<&[u8]> {
        let bytes = self.0.as_mut_bytes();
        loop {
            match socket.recv_raw(bytes) {
                Ok(n) => return Ok(bytes.get(..n).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}
