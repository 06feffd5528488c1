//! Finds places of a slab by the hash of what stands there: the one hash table of the packet path.
//!
//! Each key may stand in either of two buckets, which its hash names, and goes where there is more
//! room (Y. Azar et al., "Balanced Allocations", 1999). A bucket is a line of the cache, so that a key
//! is found or missed with two lines, whose addresses are known as soon as the hash is: a batch loads
//! them all at once. Nothing is ever moved, grown or marked as removed.
//!
//! With two thirds of all places taken, both buckets of a key are full about never. What finds no
//! place then goes to a short list that only keys of full buckets look at; when that is full too the
//! key is refused. Who does not know the hash's key can not bring this about.

use zerocopy::FromZeros;

/// Places of a bucket: a byte of tag and four bytes of entry each fill a line of the cache.
const WAYS: usize = 12;

/// Of these places so many are taken when the index is full.
const WAYS_TAKEN: usize = 8;

/// Keys that find no place in their buckets; in a full index of 33 million keys not one is expected.
const STRAYS_MAX: usize = 64;

/// Ids are below this: two for each of 16,777,216 flows.
pub(crate) const IDS_MAX: u32 = 1 << 25;

/// Ids by hash. Different ids may have one hash: whoever asks says which one is meant.
#[derive(Debug)]
pub(crate) struct Index {
    buckets: Vec<Bucket>,
    strays: Vec<(u64, u32)>,
}

/// Zero is an empty bucket, so that memory of zeros from the system is an empty table.
#[derive(Debug, Clone, Copy, FromZeros)]
#[repr(C, align(64))]
struct Bucket {
    /// A part of each key's hash; zero where the place is free.
    tags: [u8; WAYS],
    /// Keys whose first bucket this is and which stand among the strays.
    strays: u32,
    /// An id and, above it, more of the key's hash.
    entries: [u32; WAYS],
}

const _: () = assert!(size_of::<Bucket>() == 64);

/// What a hash says: two buckets, and what the key's entry looks like but for its id.
#[derive(Debug, Clone, Copy)]
struct Home {
    first: usize,
    second: usize,
    tag: u8,
    upper: u32,
}

impl Index {
    /// An empty index for so many keys; memory is allocated once.
    ///
    /// # Panics
    /// When there is no memory for it.
    pub(crate) fn new(keys: usize) -> Self {
        let buckets = keys.div_ceil(WAYS_TAKEN).max(2);
        Self {
            buckets: Bucket::new_vec_zeroed(buckets).expect("the node has memory for its tables"),
            strays: Vec::with_capacity(STRAYS_MAX),
        }
    }

    /// The id with this hash of which `is` says that it is the one.
    #[inline]
    pub(crate) fn find(&self, hash: u64, mut is: impl FnMut(u32) -> bool) -> Option<u32> {
        let home = self.home(hash);
        let first = &self.buckets[home.first];
        let found = first.find(&home, &mut is);
        let found = found.or_else(|| self.buckets[home.second].find(&home, &mut is));
        match found {
            Some((_, id)) => Some(id),
            None if first.strays > 0 => {
                let same = |stray: &&(u64, u32)| stray.0 == hash && is(stray.1);
                self.strays.iter().find(same).map(|stray| stray.1)
            }
            None => None,
        }
    }

    /// Adds an id, which is not there under this hash; `false` where there is no place for it.
    #[must_use]
    pub(crate) fn insert(&mut self, hash: u64, id: u32) -> bool {
        debug_assert!(id < IDS_MAX);
        let home = self.home(hash);
        let [first, second] = [home.first, home.second].map(|at| self.buckets[at].taken());
        let emptier = if second < first { home.second } else { home.first };
        if first.min(second) < WAYS as u32 {
            self.buckets[emptier].put(&home, id);
            return true;
        }
        if self.strays.len() == STRAYS_MAX {
            return false;
        }
        self.strays.push((hash, id));
        self.buckets[home.first].strays += 1;
        true
    }

    /// Takes an id out; `false` where it is not there under this hash.
    pub(crate) fn remove(&mut self, hash: u64, id: u32) -> bool {
        let home = self.home(hash);
        for at in [home.first, home.second] {
            if let Some((way, _)) = self.buckets[at].find(&home, &mut |there| there == id) {
                self.buckets[at].tags[way] = 0;
                return true;
            }
        }
        let Some(at) = self.strays.iter().position(|stray| *stray == (hash, id)) else {
            return false;
        };
        self.strays.swap_remove(at);
        self.buckets[home.first].strays -= 1;
        true
    }

    /// Loads the buckets of a hash into the cache. The value means nothing; a processor that is
    /// asked for the sum of many goes for all of them at once.
    #[inline]
    pub(crate) fn touch(&self, hash: u64) -> u32 {
        let home = self.home(hash);
        self.buckets[home.first].strays.wrapping_add(self.buckets[home.second].strays)
    }

    /// The first id that may be the one that is meant, and hardly ever is another: what to load next.
    #[inline]
    pub(crate) fn guess(&self, hash: u64) -> Option<u32> {
        let home = self.home(hash);
        let any = &mut |_| true;
        let [first, second] = [home.first, home.second].map(|at| self.buckets[at].find(&home, any));
        first.or(second).map(|(_, id)| id)
    }

    #[inline]
    fn home(&self, hash: u64) -> Home {
        // The upper bits of each half pick a bucket (D. Lemire, "Fast Random Integer Generation in
        // an Interval", 2019), the lower ones, which that hardly looks at, make the tags.
        let count = self.buckets.len() as u64;
        let (low, high) = (hash & 0xffff_ffff, hash >> 32);
        let first = ((low * count) >> 32) as usize;
        let second = ((high * count) >> 32) as usize;
        Home {
            first,
            second: if second == first { (first + 1) % self.buckets.len() } else { second },
            tag: (low as u8).max(1),
            upper: (high as u32) << IDS_MAX.trailing_zeros(),
        }
    }
}

impl Bucket {
    /// The first entry with the key's tags that `is` the one.
    #[inline]
    fn find(&self, home: &Home, is: &mut impl FnMut(u32) -> bool) -> Option<(usize, u32)> {
        let mut same = self.ways_with(home.tag);
        while same != 0 {
            let way = same.trailing_zeros() as usize / 8;
            let entry = self.entries[way % WAYS];
            let id = entry & (IDS_MAX - 1);
            if entry & !(IDS_MAX - 1) == home.upper && is(id) {
                return Some((way, id));
            }
            same &= same - 1;
        }
        None
    }

    /// The highest bit of the byte of each place with this tag.
    #[inline]
    fn ways_with(&self, tag: u8) -> u128 {
        const LOW: u128 = u128::from_le_bytes([0x7f; 16]);
        const ONES: u128 = u128::from_le_bytes([1; 16]);
        const PLACES: u128 = (1 << (8 * WAYS)) - 1;
        let [a, b, c] = self.tags.as_chunks::<4>().0 else { return 0 };
        let [a, b, c] = [a, b, c].map(|tags| u128::from(u32::from_le_bytes(*tags)));
        // Zero where the tag is: adding to seven bits never carries into the next byte.
        let other = (a | (b << 32) | (c << 64)) ^ (ONES * u128::from(tag));
        !(((other & LOW) + LOW) | other | LOW) & PLACES
    }

    fn taken(&self) -> u32 {
        WAYS as u32 - self.ways_with(0).count_ones()
    }

    fn put(&mut self, home: &Home, id: u32) {
        let way = self.ways_with(0).trailing_zeros() as usize / 8;
        self.tags[way] = home.tag;
        self.entries[way] = home.upper | id;
    }
}

#[cfg(test)]
mod tests;
