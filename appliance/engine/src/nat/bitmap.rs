//! A set of ports.

/// One bit per port: 8 KiB.
pub(crate) struct Bitmap {
    words: [u64; 1_024],
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

    /// All of them in their order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u16> {
        let ports = |(word, bits): (usize, &u64)| {
            let rest = |bits: &u64| Some(bits & (bits - 1)).filter(|bits| *bits != 0);
            let first = Some(*bits).filter(|bits| *bits != 0);
            std::iter::successors(first, rest)
                .map(move |bits| (word * 64) as u16 + bits.trailing_zeros() as u16)
        };
        self.words.iter().enumerate().flat_map(ports)
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
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
        Self { words: [0; 1_024], count: 0 }
    }
}

impl std::fmt::Debug for Bitmap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bitmap({} ports)", self.count)
    }
}
