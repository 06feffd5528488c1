//! Pages of 2 MiB for tables that are read at random: with small ones each look costs another look, at
//! the tables of pages.

use std::fs;

/// Shortest stretch of memory that is worth asking for: the size of a huge page.
const HUGE_PAGE: usize = 2 << 20;

/// Asks the kernel for huge pages under all large stretches of this process's anonymous memory, and
/// returns for how many bytes. To be called when tables have been made and before they are used: pages
/// that are in use already are exchanged by the kernel later, if at all.
///
/// Where the kernel gives none, everything works as before.
#[expect(unsafe_code, reason = "rustix has no safe madvise, as other advice destroys memory")]
pub fn use_huge_pages() -> usize {
    let mut asked = 0;
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for (start, length) in maps.lines().filter_map(anonymous).filter(|(_, n)| *n >= HUGE_PAGE) {
        let start = std::ptr::without_provenance_mut(start);
        // SAFETY: this advice changes neither contents nor access, whatever is there; should the
        // stretch have gone meanwhile the call fails. No safe way: the kernel takes it as advice only.
        let told = unsafe { rustix::mm::madvise(start, length, rustix::mm::Advice::LinuxHugepage) };
        if told.is_ok() {
            asked += length;
        }
    }
    asked
}

/// Start and length of the mapping in a line of /proc/self/maps, if it is private, anonymous and
/// writable.
fn anonymous(line: &str) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let (rights, inode) = (words.next()?, words.nth(2)?);
    let name = words.next().unwrap_or("[heap]");
    if rights != "rw-p" || inode != "0" || name != "[heap]" {
        return None;
    }
    let [start, end] = [start, end].map(|number| usize::from_str_radix(number, 16).ok());
    Some((start?, end?.checked_sub(start?)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anonymous_memory_is_found_among_the_mappings() {
        for (line, expected) in [
            (
                "7f0000000000-7f0000400000 rw-p 00000000 00:00 0 ",
                Some((0x7f00_0000_0000, 0x40_0000)),
            ),
            (
                "5500000000-5500021000 rw-p 00000000 00:00 0   [heap]",
                Some((0x55_0000_0000, 0x2_1000)),
            ),
            ("7ffc0000-7ffc1000 rw-p 00000000 00:00 0       [stack]", None),
            ("7f0000000000-7f0000400000 r--p 00000000 00:00 0 ", None),
            ("7f0000000000-7f0000400000 rw-p 00000000 08:01 77 /lib/x.so", None),
            ("7f0000000000-7f0000400000 rw-s 00000000 00:0a 4 socket:[4]", None),
            ("", None),
        ] {
            assert_eq!(anonymous(line), expected, "{line}");
        }
    }

    #[test]
    fn memory_keeps_what_is_in_it() {
        let mut table = vec![0_u8; 8 << 20];
        table[5] = 7;
        use_huge_pages();
        assert_eq!((table[5], table[table.len() - 1]), (7, 0));
    }
}
