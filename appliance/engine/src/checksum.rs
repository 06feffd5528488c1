//! Internet checksums: mended in place (RFC 1624), and summed to see whether one is right (RFC 1071).

use crate::address::Address;

/// By how much words change, as a one's-complement sum: of `~old + new` for each (RFC 1624 equation 3).
///
/// Equation 3 and not its shorter forms, as those can turn a checksum into the other of the two zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Delta(u16);

impl Delta {
    /// Between two equally long strings of whole words.
    pub(crate) fn between(old: &[u8], new: &[u8]) -> Self {
        debug_assert!(old.len() == new.len() && old.len().is_multiple_of(2));
        let words = |bytes: &[u8]| -> u32 {
            bytes.as_chunks().0.iter().map(|&word| u32::from(u16::from_be_bytes(word))).sum()
        };
        let complemented = u32::from(u16::MAX) * (old.len() / 2) as u32 - words(old);
        Self(fold(complemented + words(new)))
    }

    pub(crate) fn and(self, other: Self) -> Self {
        Self(fold(u32::from(self.0) + u32::from(other.0)))
    }

    /// The checksum of what a checksum was of, after the change.
    pub(crate) fn mend(self, checksum: u16) -> u16 {
        !self.shift(!checksum)
    }

    /// The plain sum, not complemented, after the change.
    pub(crate) fn shift(self, sum: u16) -> u16 {
        fold(u32::from(sum) + u32::from(self.0))
    }
}

/// The one's-complement sum of bytes; an odd one counts as the upper half of a word.
///
/// Of four bytes at a time in the machine's own order: neither changes the sum (RFC 1071 section 2),
/// and the compiler makes vector instructions of it.
pub(crate) fn sum(bytes: &[u8]) -> u16 {
    let (words, rest) = bytes.as_chunks();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    let words = words.iter().chain(std::iter::once(&last));
    let mut total: u64 = words.map(|&word| u64::from(u32::from_ne_bytes(word))).sum();
    while total > u64::from(u16::MAX) {
        total = (total & 0xffff) + (total >> 16);
    }
    u16::from_be(total as u16)
}

/// The sum of several pieces' sums; each piece but the last has an even number of bytes.
pub(crate) fn total(sums: impl IntoIterator<Item = u16>) -> u16 {
    sums.into_iter().fold(0, |total, sum| fold(u32::from(total) + u32::from(sum)))
}

/// The sum of the pseudo-header of a segment of `length` bytes (RFC 9293 section 3.1, RFC 8200 section
/// 8.1: of either family's form the words are the same).
pub(crate) fn pseudo_header(
    source: Address,
    destination: Address,
    protocol: u8,
    length: usize,
) -> u16 {
    let length = fold(length as u32);
    total([sum(source.wire_bytes()), sum(destination.wire_bytes()), u16::from(protocol), length])
}

/// Adds the carries back in. At most 65,537 words may have been summed.
fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use smoltcp::wire::checksum::data;

    use super::*;

    proptest! {
        /// RFC 1624 against the sum over all bytes. A header is never all zero, as its version is not.
        #[test]
        fn mending_equals_computing_anew(
            mut bytes in proptest::collection::vec(any::<u8>(), 8..64),
            new in any::<[u8; 6]>(),
        ) {
            bytes.truncate(bytes.len() & !1);
            bytes[0] |= 0x40;
            let before = !data(&bytes);
            let delta = Delta::between(&bytes[2..8], &new);
            let inverse = Delta::between(&new, &bytes[2..8]);
            bytes[2..8].copy_from_slice(&new);
            prop_assert_eq!(delta.mend(before), !data(&bytes));
            prop_assert_eq!(inverse.mend(delta.mend(before)), before);
            prop_assert_eq!(delta.shift(!before), data(&bytes));
        }

        /// Zero has two forms, of which a sum of bytes that are not all zero has one.
        #[test]
        fn sums_are_those_of_another_implementation(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            cut in 0..100_usize,
        ) {
            prop_assert_eq!(sum(&bytes), data(&bytes));
            let (front, back) = bytes.split_at((2 * cut).min(bytes.len() & !1));
            prop_assert_eq!(total([sum(front), sum(back)]), sum(&bytes));
        }

        #[test]
        fn parts_add_up(old in any::<[u8; 8]>(), new in any::<[u8; 8]>(), checksum in 0..0xffff_u16) {
            let parts = Delta::between(&old[..4], &new[..4]).and(Delta::between(&old[4..], &new[4..]));
            prop_assert_eq!(parts.mend(checksum), Delta::between(&old, &new).mend(checksum));
        }
    }

    #[test]
    fn the_longest_packet_does_not_overflow() {
        let bytes = vec![0xff; 262_144];
        assert_eq!(sum(&bytes), u16::MAX);
    }

    /// The example of RFC 1624 section 4, on which RFC 1141 yields 0xffff.
    #[test]
    fn the_minus_zero_of_rfc_1624() {
        let delta = Delta::between(&[0x55, 0x55], &[0x32, 0x85]);
        assert_eq!(delta.mend(0xdd2f), 0x0000);
    }
}
