//! A set of ports.

/// One bit per port.
pub(crate) struct Bitmap {
    words: Box<[u64; 1_024]>,
    count: u32,
}

impl Bitmap {
    pub(crate) const fn len(&self) -> u32 {
        self.count
    }

    /// The bits of ports `64 * word` to `64 * word + 63`.
    pub(crate) fn word(&self, word: usize) -> u64 {
        self.words[word]
    }

    pub(crate) fn contains(&self, port: u16) -> bool {
        self.words[usize::from(port) / 64] & 1 << (port % 64) != 0
    }

    /// Whether it was not there before.
    pub(crate) fn insert(&mut self, port: u16) -> bool {
        let fresh = !self.contains(port);
        self.words[usize::from(port) / 64] |= 1 << (port % 64);
        self.count += u32::from(fresh);
        fresh
    }

    /// Whether it was there before.
    pub(crate) fn remove(&mut self, port: u16) -> bool {
        let there = self.contains(port);
        self.words[usize::from(port) / 64] &= !(1 << (port % 64));
        self.count -= u32::from(there);
        there
    }
}

impl Default for Bitmap {
    fn default() -> Self {
        Self { words: Box::new([0; 1_024]), count: 0 }
    }
}

impl std::fmt::Debug for Bitmap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bitmap({} ports)", self.count)
    }
}
