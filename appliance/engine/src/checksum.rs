//! Internet checksums mended in place (RFC 1624), never computed anew on the path of a packet.

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

/// Adds the carries back in. At most 65,537 words may have been summed.
fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use smoltcp::wire::checksum::data as sum;

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
            let before = !sum(&bytes);
            let delta = Delta::between(&bytes[2..8], &new);
            let inverse = Delta::between(&new, &bytes[2..8]);
            bytes[2..8].copy_from_slice(&new);
            prop_assert_eq!(delta.mend(before), !sum(&bytes));
            prop_assert_eq!(inverse.mend(delta.mend(before)), before);
            prop_assert_eq!(delta.shift(!before), sum(&bytes));
        }

        #[test]
        fn parts_add_up(old in any::<[u8; 8]>(), new in any::<[u8; 8]>(), checksum in 0..0xffff_u16) {
            let parts = Delta::between(&old[..4], &new[..4]).and(Delta::between(&old[4..], &new[4..]));
            prop_assert_eq!(parts.mend(checksum), Delta::between(&old, &new).mend(checksum));
        }
    }

    /// The example of RFC 1624 section 4, on which RFC 1141 yields 0xffff.
    #[test]
    fn the_minus_zero_of_rfc_1624() {
        let delta = Delta::between(&[0x55, 0x55], &[0x32, 0x85]);
        assert_eq!(delta.mend(0xdd2f), 0x0000);
    }
}
