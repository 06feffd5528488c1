//! Netlink messages and their attributes, as views of bytes (linux/netlink.h, linux/netfilter/nfnetlink.h).

/// One message of the nf_tables subsystem, or of netlink itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'a> {
    /// With the subsystem in the upper byte.
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    /// Who caused it: the port id of a netlink socket, or 0 for the kernel.
    pub(crate) port: u32,
    body: &'a [u8],
}

impl<'a> Message<'a> {
    /// Reads the message at the front of the bytes, and gives the rest.
    pub(crate) fn split(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let header = bytes.first_chunk::<HEADER_BYTES>()?;
        let length = usize::try_from(read_u32(header, 0)?).ok()?;
        let body = bytes.get(HEADER_BYTES..length)?;
        let message = Self {
            kind: read_u16(header, 4)?,
            flags: read_u16(header, 6)?,
            sequence: read_u32(header, 8)?,
            port: read_u32(header, 12)?,
            body,
        };
        Some((message, bytes.get(aligned(length)..).unwrap_or_default()))
    }

    /// Every message in the bytes, up to the first that is cut short.
    pub(crate) fn all(mut bytes: &'a [u8]) -> impl Iterator<Item = Self> {
        std::iter::from_fn(move || {
            let (message, rest) = Self::split(bytes)?;
            bytes = rest;
            Some(message)
        })
    }

    /// The error number of an acknowledgement, 0 if all went well.
    pub(crate) fn errno(&self) -> Option<i32> {
        let value = self.body.first_chunk::<4>()?;
        let number =
            (i32::from(self.kind) == libc::NLMSG_ERROR).then(|| i32::from_ne_bytes(*value));
        number?.checked_neg()
    }

    /// The attributes of an nf_tables message of the family `inet`.
    pub(crate) fn inet_attributes(&self) -> Option<impl Iterator<Item = Attribute<'a>> + use<'a>> {
        let ours = i32::from(self.kind >> 8) == libc::NFNL_SUBSYS_NFTABLES;
        let (family, rest) = self.body.split_first()?;
        let inet = i32::from(*family) == libc::NFPROTO_INET;
        // After the family: version and resource id, which carry nothing here.
        let attributes = rest.get(GENERIC_BYTES - 1..)?;
        (ours && inet).then(|| attributes_of(attributes))
    }
}

/// One attribute; what the value is depends on where it stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attribute<'a> {
    /// Without the flag that says that attributes are nested in the value: kernel and library differ in it.
    pub(crate) kind: u16,
    pub(crate) value: &'a [u8],
}

impl<'a> Attribute<'a> {
    pub(crate) fn nested(&self) -> impl Iterator<Item = Attribute<'a>> + use<'a> {
        attributes_of(self.value)
    }

    /// The text, without the NUL that ends it.
    pub(crate) fn text(&self) -> String {
        let text = self.value.split(|b| *b == 0).next().unwrap_or_default();
        String::from_utf8_lossy(text).into_owned()
    }

    /// The number, which nf_tables writes in network order.
    pub(crate) fn u32(&self) -> Option<u32> {
        self.value.try_into().ok().map(u32::from_be_bytes)
    }

    /// The number, which nf_tables writes in network order.
    pub(crate) fn u64(&self) -> Option<u64> {
        self.value.try_into().ok().map(u64::from_be_bytes)
    }
}

/// A request for all objects of one kind, of one table if the kind can be asked for so.
pub(crate) fn dump_request(kind: i32, table: Option<&str>, sequence: u32) -> Vec<u8> {
    let kind = (libc::NFNL_SUBSYS_NFTABLES << 8) | kind;
    let mut bytes = vec![0; HEADER_BYTES];
    // Family; version 0 and resource 0.
    bytes.extend([libc::NFPROTO_INET as u8, 0, 0, 0]);
    if let Some(table) = table {
        let length = ATTRIBUTE_HEADER_BYTES + table.len() + 1;
        // NFTA_RULE_TABLE is 1 (linux/netfilter/nf_tables.h).
        bytes.extend((length as u16).to_ne_bytes());
        bytes.extend(1u16.to_ne_bytes());
        bytes.extend(table.as_bytes());
        bytes.push(0);
        bytes.resize(aligned(bytes.len()), 0);
    }
    let flags = libc::NLM_F_REQUEST | libc::NLM_F_DUMP;
    let length = bytes.len() as u32;
    bytes[0..4].copy_from_slice(&length.to_ne_bytes());
    bytes[4..6].copy_from_slice(&(kind as u16).to_ne_bytes());
    bytes[6..8].copy_from_slice(&(flags as u16).to_ne_bytes());
    bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
    bytes
}

/// Sets the flags of every table that the messages make, where they tell flags.
pub(crate) fn set_table_flags(mut bytes: &mut [u8], flags: u32) {
    // NFTA_TABLE_FLAGS (linux/netfilter/nf_tables.h).
    const TABLE_FLAGS: u16 = 2;
    let makes_table = ((libc::NFNL_SUBSYS_NFTABLES << 8) | libc::NFT_MSG_NEWTABLE) as u16;
    while let (Some(length), Some(kind)) = (read_u32(bytes, 0), read_u16(bytes, 4)) {
        let length = aligned(length as usize);
        let Some((message, rest)) = bytes.split_at_mut_checked(length.max(HEADER_BYTES)) else {
            return;
        };
        bytes = rest;
        if kind != makes_table {
            continue;
        }
        let mut at = HEADER_BYTES + GENERIC_BYTES;
        while let (Some(length), Some(kind)) = (read_u16(message, at), read_u16(message, at + 2)) {
            let value = at + ATTRIBUTE_HEADER_BYTES;
            if kind == TABLE_FLAGS
                && let Some(value) = message.get_mut(value..value + 4)
            {
                value.copy_from_slice(&flags.to_be_bytes());
            }
            at += aligned(usize::from(length)).max(ATTRIBUTE_HEADER_BYTES);
        }
    }
}

/// struct nlmsghdr.
const HEADER_BYTES: usize = 16;
/// struct nfgenmsg.
const GENERIC_BYTES: usize = 4;
/// struct nlattr.
const ATTRIBUTE_HEADER_BYTES: usize = 4;

fn attributes_of(mut bytes: &[u8]) -> impl Iterator<Item = Attribute<'_>> {
    std::iter::from_fn(move || {
        let length = usize::from(read_u16(bytes, 0)?);
        let kind = read_u16(bytes, 2)? & libc::NLA_TYPE_MASK as u16;
        let value = bytes.get(ATTRIBUTE_HEADER_BYTES..length)?;
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some(Attribute { kind, value })
    })
}

/// Messages and attributes begin at multiples of four bytes (NLMSG_ALIGN, NLA_ALIGN).
const fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_ne_bytes)
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_request_reads_back() {
        for table in [None, Some("a"), Some("abc"), Some("gabion_guard")] {
            let bytes = dump_request(libc::NFT_MSG_GETRULE, table, 7);
            let (message, rest) = Message::split(&bytes).unwrap();
            assert!(rest.is_empty());
            assert_eq!((message.kind, message.sequence, message.port), (0x0a07, 7, 0));
            let attributes: Vec<_> = message.inet_attributes().unwrap().collect();
            assert_eq!(attributes.iter().map(Attribute::text).next().as_deref(), table);
            assert_eq!(message.errno(), None);
        }
    }

    /// The smallest number has no negative: to ask for it was a panic where overflows are checked.
    #[test]
    fn an_error_number_that_can_not_be_negated_is_none() {
        let error = |number: i32| {
            let mut bytes = vec![20, 0, 0, 0, libc::NLMSG_ERROR as u8, 0];
            bytes.resize(HEADER_BYTES, 0);
            bytes.extend(number.to_ne_bytes());
            Message::split(&bytes).unwrap().0.errno()
        };
        assert_eq!(error(-libc::EPERM), Some(libc::EPERM));
        assert_eq!(error(i32::MIN), None);
    }

    /// The kernel is trusted, but a length that is wrong must not end in a panic or a loop.
    #[test]
    fn any_cut_or_flipped_byte_is_survived() {
        let whole = dump_request(libc::NFT_MSG_GETRULE, Some("gabion_guard"), 7);
        let walk = |bytes: &[u8]| {
            for message in Message::all(bytes) {
                for attribute in message.inet_attributes().into_iter().flatten() {
                    attribute.nested().for_each(|_| {});
                    let _ = (attribute.text(), attribute.u32(), attribute.u64(), message.errno());
                }
            }
        };
        for at in 0..whole.len() {
            walk(&whole[..at]);
            for value in 0..=255 {
                let mut flipped = whole.clone();
                flipped[at] = value;
                walk(&flipped);
            }
        }
    }
}
