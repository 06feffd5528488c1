//! The fixed VHD, the one disk format that Azure takes: the raw disk and a footer of 512 bytes.
//!
//! The footer is ours and not `qemu-img`'s, which puts the time and a random identifier into it: the same
//! inputs shall make the same bytes. Offsets are those of Microsoft's "Virtual Hard Disk Image Format
//! Specification", 1.0, "Hard Disk Footer Format"; numbers are big-endian.

use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::sparse;

pub const FOOTER_BYTES: usize = 512;
/// Azure refuses a virtual size that is not a multiple.
pub const ALIGNMENT_BYTES: u64 = 1 << 20;
const SECTOR_BYTES: u64 = 512;
/// The format counts seconds from 2000-01-01T00:00:00Z.
const EPOCH_UNIX_S: u64 = 946_684_800;

/// What a footer says of its disk.
#[derive(Debug, Clone, Copy)]
pub struct Disk {
    pub bytes: u64,
    /// Seconds since 1970.
    pub created_s: u64,
    pub id: [u8; 16],
}

/// Cylinders, heads and sectors per track: readers of another century want them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Geometry {
    cylinders: u16,
    heads: u8,
    sectors: u8,
}

impl Disk {
    /// The footer, which stands after the disk's last byte.
    pub fn footer(&self) -> [u8; FOOTER_BYTES] {
        let mut footer = [0; FOOTER_BYTES];
        let mut put = |at: usize, bytes: &[u8]| footer[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"conectix");
        // The one bit that is always set.
        put(8, &2_u32.to_be_bytes());
        put(12, &0x0001_0000_u32.to_be_bytes());
        // A fixed disk has no header elsewhere.
        put(16, &u64::MAX.to_be_bytes());
        let created = self.created_s.saturating_sub(EPOCH_UNIX_S);
        put(24, &u32::try_from(created).unwrap_or(u32::MAX).to_be_bytes());
        // The creator and its host, Windows. Readers take the size below for what it is only from creators
        // that they know, and from others the geometry, which cannot express every size.
        put(28, b"win ");
        put(32, &0x000a_0000_u32.to_be_bytes());
        put(36, b"Wi2k");
        put(40, &self.bytes.to_be_bytes());
        put(48, &self.bytes.to_be_bytes());
        let geometry = Geometry::of(self.bytes / SECTOR_BYTES);
        put(56, &geometry.cylinders.to_be_bytes());
        put(58, &[geometry.heads, geometry.sectors]);
        // A fixed disk.
        put(60, &2_u32.to_be_bytes());
        put(68, &self.id);
        let checksum = checksum(&footer);
        footer[64..68].copy_from_slice(&checksum.to_be_bytes());
        footer
    }

    /// Writes `vhd`: the raw disk, and its footer.
    ///
    /// # Errors
    /// The size is none that Azure takes, or a file cannot be read or written.
    pub fn write(&self, raw: &Path, vhd: &Path) -> Result<()> {
        ensure!(
            self.bytes.is_multiple_of(ALIGNMENT_BYTES),
            "the disk has {} bytes, not a whole number of MiB",
            self.bytes
        );
        let mut file =
            File::create(vhd).with_context(|| format!("cannot create {}", vhd.display()))?;
        sparse::copy(raw, &file, 0)?;
        file.seek(SeekFrom::Start(self.bytes))?;
        file.write_all(&self.footer()).with_context(|| format!("cannot write {}", vhd.display()))
    }
}

impl Geometry {
    /// The specification's appendix "CHS Calculation".
    fn of(sectors: u64) -> Self {
        const LARGEST: u64 = 65_535 * 16 * 255;
        let total = sectors.min(LARGEST);
        let (sectors, heads, tracks) = if total >= 65_535 * 16 * 63 {
            (255, 16, total / 255)
        } else {
            let tracks = total / 17;
            let heads = tracks.div_ceil(1_024).max(4);
            if tracks < heads * 1_024 && heads <= 16 {
                (17, heads, tracks)
            } else if total / 31 < 16 * 1_024 {
                (31, 16, total / 31)
            } else {
                (63, 16, total / 63)
            }
        };
        let small = |number: u64| u8::try_from(number).expect("255 is the largest above");
        let cylinders = u16::try_from(tracks / heads).expect("limited by LARGEST");
        Self { cylinders, heads: small(heads), sectors: small(sectors) }
    }
}

/// One's complement of the sum of all bytes, of a footer whose checksum is zero.
fn checksum(footer: &[u8; FOOTER_BYTES]) -> u32 {
    !footer.iter().map(|byte| u32::from(*byte)).sum::<u32>()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: Disk = Disk { bytes: 1 << 30, created_s: 1_764_000_000, id: [0xab; 16] };

    fn number(footer: &[u8], at: usize, bytes: usize) -> u64 {
        footer[at..at + bytes].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    }

    #[test]
    fn a_footer_is_as_the_specification_has_it() {
        let footer = DISK.footer();
        assert_eq!(&footer[..8], b"conectix", "cookie");
        for (what, at, bytes, expected) in [
            ("features: reserved bit", 8, 4, 2),
            ("format version 1.0", 12, 4, 0x0001_0000),
            ("no data offset", 16, 8, u64::MAX),
            ("seconds since 2000", 24, 4, 1_764_000_000 - 946_684_800),
            ("original size", 40, 8, 1 << 30),
            ("current size", 48, 8, 1 << 30),
            ("cylinders", 56, 2, 2_080),
            ("heads", 58, 1, 16),
            ("sectors per track", 59, 1, 63),
            ("fixed", 60, 4, 2),
            ("no saved state", 84, 1, 0),
        ] {
            assert_eq!(number(&footer, at, bytes), expected, "{what}");
        }
        assert_eq!(footer[68..84], [0xab; 16], "unique id");
        assert!(footer[85..].iter().all(|byte| *byte == 0), "reserved");
    }

    #[test]
    fn a_footer_and_its_checksum_come_to_all_ones() {
        let footer = DISK.footer();
        let sum: u64 = footer.iter().map(|byte| u64::from(*byte)).sum();
        let own: u64 = footer[64..68].iter().map(|byte| u64::from(*byte)).sum();
        assert_eq!(number(&footer, 64, 4), u64::from(!u32::try_from(sum - own).unwrap()));
    }

    #[test]
    fn geometry_is_that_of_the_appendix() {
        for (sectors, cylinders, heads, per_track) in [
            // 4 heads of 17 sectors are the least.
            (2_048, 30, 4, 17),
            (20_480, 301, 4, 17),
            (300_000, 604, 16, 31),
            (2_097_152, 2_080, 16, 63),
            (65_535 * 16 * 63, 16_191, 16, 255),
            (u64::MAX, 65_535, 16, 255),
        ] {
            let expected = Geometry { cylinders, heads, sectors: per_track };
            assert_eq!(Geometry::of(sectors), expected, "{sectors}");
        }
    }

    #[test]
    fn a_disk_is_followed_by_its_footer_and_must_be_whole_mebibytes() {
        let folder = tempfile::tempdir().unwrap();
        let (raw, vhd) = (folder.path().join("raw"), folder.path().join("vhd"));
        let mut bytes = vec![0; 3 << 20];
        bytes[(2 << 20) + 5] = 7;
        std::fs::write(&raw, &bytes).unwrap();
        let disk = Disk { bytes: 3 << 20, ..DISK };
        disk.write(&raw, &vhd).unwrap();
        let written = std::fs::read(&vhd).unwrap();
        assert_eq!(written.len(), (3 << 20) + FOOTER_BYTES);
        assert_eq!(written[..3 << 20], bytes);
        assert_eq!(written[3 << 20..], disk.footer());
        assert!(Disk { bytes: (3 << 20) + 512, ..DISK }.write(&raw, &vhd).is_err());
    }
}
