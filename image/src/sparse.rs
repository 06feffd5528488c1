//! Copying disks without what is empty in them.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};

const BLOCK_BYTES: usize = 1 << 16;

/// Copies `from` into `to` from `offset` on. Blocks of zeros are left out: `to` must have none of its own there.
///
/// # Errors
/// Either file cannot be read or written.
pub fn copy(from: &Path, to: &File, offset: u64) -> Result<u64> {
    let mut source = File::open(from).with_context(|| format!("cannot open {}", from.display()))?;
    let bytes = source.metadata()?.len();
    if to.metadata()?.len() < offset + bytes {
        to.set_len(offset + bytes)?;
    }
    let mut block = vec![0; BLOCK_BYTES];
    let mut at = 0;
    while at < bytes {
        let wanted = usize::try_from(bytes - at).unwrap_or(BLOCK_BYTES).min(BLOCK_BYTES);
        let block = &mut block[..wanted];
        source.read_exact(block).with_context(|| format!("cannot read {}", from.display()))?;
        if block.iter().any(|byte| *byte != 0) {
            to.write_all_at(block, offset + at).context("cannot write the disk")?;
        }
        at += wanted as u64;
    }
    Ok(bytes)
}
