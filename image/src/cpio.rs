//! The archive that the kernel unpacks as its first root (`Documentation/driver-api/early-userspace/buffer-format`).
//!
//! Written here because archivers put inode numbers, owners and times of the build's machine into it.

use std::fmt::Write as _;

const MAGIC: &str = "070701";
const TRAILER: &str = "TRAILER!!!";
const REGULAR: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;
const DEVICE: u32 = 0o020_000;

/// An archive in the format "newc". Folders come before what is in them.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    pub fn folder(&mut self, path: &str) {
        self.entry(path, DIRECTORY | 0o755, (0, 0), &[]);
    }

    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entry(path, REGULAR | mode, (0, 0), content);
    }

    pub fn device(&mut self, path: &str, major: u32, minor: u32) {
        self.entry(path, DEVICE | 0o600, (major, minor), &[]);
    }

    /// The whole archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry(TRAILER, 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.entries += 1;
        let inode = if path == TRAILER { 0 } else { self.entries };
        let size = u32::try_from(content.len()).expect("files of the initramfs are small");
        let name_size = u32::try_from(path.len() + 1).expect("and so are their names");
        let (owner, group, links, time) = (0, 0, 1, 0);
        let (on_major, on_minor, sum) = (0, 0, 0);
        let mut header = String::from(MAGIC);
        for field in [
            inode, mode, owner, group, links, time, size, on_major, on_minor, device.0, device.1,
            name_size, sum,
        ] {
            let _ = write!(header, "{field:08x}");
        }
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    /// Names and contents end on four bytes.
    fn pad(&mut self) {
        let end = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(end, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_headers_names_and_contents_on_four_bytes() {
        let mut archive = Archive::default();
        archive.folder("dev");
        archive.device("dev/console", 5, 1);
        archive.file("init", 0o755, b"hello");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        let headers: Vec<_> = text.match_indices(MAGIC).map(|(at, _)| at).collect();
        assert_eq!(headers.len(), 4);
        // Inode, mode, and so on to the size of the name.
        assert_eq!(
            &text[headers[2]..headers[2] + 110],
            "07070100000003000081ed000000000000000000000001000000000000000500000000000000000000000000000000\
             0000000500000000"
        );
        assert_eq!(&text[headers[2] + 110..headers[2] + 114], "init");
        assert_eq!(&text[headers[2] + 116..headers[2] + 121], "hello");
        let device = &text[headers[1] + 78..headers[1] + 94];
        assert_eq!(device, "0000000500000001");
        assert!(text[headers[3]..].contains(TRAILER));
    }
}
