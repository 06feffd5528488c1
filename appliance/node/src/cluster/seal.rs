//! Sync datagrams as they are on the wire: docs/cluster.md section 6. Bytes in, bytes out.
//!
//! ```text
//! version (1) | epoch (1) | zero (2) | counter (8) | AES-128-GCM(records) | tag (16)
//! ```
//! The header is authenticated with the records. A datagram that is refused changes nothing.

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

pub type Key = [u8; 16];

const HEADER: usize = 12;
const TAG: usize = 16;
/// Bytes that sealing adds to the records.
pub const OVERHEAD: usize = HEADER + TAG;
/// After so many datagrams of either side the session's keys are renewed.
pub const RENEW_AFTER: u64 = 1 << 32;
/// And so many are never sealed with one key: renewal has failed for long by then.
const COUNTER_MAX: u64 = 1 << 34;
/// Counters behind the highest that are still taken, once each.
const WINDOW: u64 = 1_024;

/// Why a datagram is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error("too short, or not of this version")]
    Malformed,
    #[error("of keys that are not ours")]
    Epoch,
    #[error("not authentic")]
    Forged,
    #[error("taken before, or too old to tell")]
    Replayed,
}

/// Seals the datagrams of one direction under one key.
#[derive(Debug)]
pub struct Sealer {
    key: LessSafeKey,
    version: u8,
    epoch: u8,
    counter: u64,
}

impl Sealer {
    pub fn new(version: u8, epoch: u8, key: &Key) -> Self {
        Self { key: less_safe(key), version, epoch, counter: 0 }
    }

    /// Puts a datagram with these records in place of what `datagram` holds. Returns whether it could: a key that
    /// has sealed too many is spent.
    #[must_use]
    pub fn seal(&mut self, records: &[u8], datagram: &mut Vec<u8>) -> bool {
        datagram.clear();
        if self.counter >= COUNTER_MAX {
            return false;
        }
        let header = header(self.version, self.epoch, self.counter);
        datagram.extend_from_slice(&header);
        datagram.extend_from_slice(records);
        let (nonce, aad) = (nonce(self.counter), Aad::from(header));
        match self.key.seal_in_place_separate_tag(nonce, aad, &mut datagram[HEADER..]) {
            Ok(tag) => datagram.extend_from_slice(tag.as_ref()),
            Err(_) => {
                datagram.clear();
                return false;
            }
        }
        self.counter += 1;
        true
    }

    /// Datagrams that were sealed.
    pub const fn count(&self) -> u64 {
        self.counter
    }
}

/// Opens the datagrams of one direction under one key, each once.
#[derive(Debug)]
pub struct Opener {
    key: LessSafeKey,
    version: u8,
    epoch: u8,
    window: Window,
}

impl Opener {
    pub fn new(version: u8, epoch: u8, key: &Key) -> Self {
        Self { key: less_safe(key), version, epoch, window: Window::default() }
    }

    pub const fn epoch(&self) -> u8 {
        self.epoch
    }

    /// The records in a datagram, opened in place.
    ///
    /// # Errors
    /// [`OpenError`]; the bytes may have changed then, this has not.
    pub fn open<'d>(&mut self, datagram: &'d mut [u8]) -> Result<&'d [u8], OpenError> {
        let (read, records) =
            datagram.split_first_chunk_mut::<HEADER>().ok_or(OpenError::Malformed)?;
        let [version, epoch, 0, 0, counter @ ..] = *read else { return Err(OpenError::Malformed) };
        if version != self.version || records.len() < TAG {
            return Err(OpenError::Malformed);
        }
        if epoch != self.epoch {
            return Err(OpenError::Epoch);
        }
        let counter = u64::from_be_bytes(counter);
        if !self.window.is_new(counter) {
            return Err(OpenError::Replayed);
        }
        let records = self
            .key
            .open_in_place(nonce(counter), Aad::from(*read), records)
            .map_err(|_| OpenError::Forged)?;
        self.window.take(counter);
        Ok(records)
    }

    /// One more than the highest counter that was taken.
    pub const fn count(&self) -> u64 {
        self.window.next
    }
}

/// The epoch that a datagram names.
pub fn epoch_of(datagram: &[u8]) -> Option<u8> {
    datagram.get(1).copied()
}

fn header(version: u8, epoch: u8, counter: u64) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[0] = version;
    header[1] = epoch;
    header[4..].copy_from_slice(&counter.to_be_bytes());
    header
}

fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[NONCE_LEN - 8..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

fn less_safe(key: &Key) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_128_GCM, key).expect("a key of 16 bytes is AES-128's"))
}

const WORDS: usize = WINDOW as usize / 64;

/// Which of the last counters have been taken: RFC 6479's ring of words, a bit for each counter.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Window {
    /// One more than the highest counter taken.
    next: u64,
    taken: [u64; WORDS],
}

impl Default for Window {
    fn default() -> Self {
        Self { next: 0, taken: [0; WORDS] }
    }
}

impl Window {
    fn is_new(&self, counter: u64) -> bool {
        if counter >= self.next {
            return counter < COUNTER_MAX;
        }
        let (word, bit) = place(counter);
        self.next - counter <= WINDOW && self.taken[word] & bit == 0
    }

    /// Marks a counter that is new and authentic.
    fn take(&mut self, counter: u64) {
        if counter >= self.next {
            // Places of counters that were skipped hold what is a window older.
            let skipped = (counter - self.next).min(WINDOW);
            for between in counter - skipped..counter {
                let (word, bit) = place(between);
                self.taken[word] &= !bit;
            }
            self.next = counter + 1;
        }
        let (word, bit) = place(counter);
        self.taken[word] |= bit;
    }
}

const fn place(counter: u64) -> (usize, u64) {
    let place = counter % WINDOW;
    ((place / 64) as usize, 1 << (place % 64))
}

#[cfg(test)]
mod tests;
