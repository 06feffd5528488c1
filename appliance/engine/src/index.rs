//! Finds places of a slab by the hash of what stands there: the one hash table of the packet path.
//!
//! A bucket is a line of the cache, and a key stands in the bucket that its hash names, or where that
//! is full in the next one that is not. Each bucket counts the keys that have passed it by, so that a
//! search ends at the first that none has, and a key that had to is moved back when a place becomes
//! free. So with three quarters of all places taken most keys are found or missed with one line, whose
//! address is known as soon as the hash is: a batch loads them all at once. Nothing grows, and nothing
//! is marked as removed.
//!
//! A key that finds no place in [`BUCKETS_TRIED`] is refused. Who does not know the hash's key can not
//! bring that about.

/// Places of a bucket: a byte of tag and four bytes of entry each fill a line of the cache.
const WAYS: usize = 12;

/// Of these places so many are taken when the index is full: one key of thirty passes a bucket by.
const WAYS_TAKEN: usize = 9;

/// In a full index of 33 million keys not one is expected to pass by half as many.
const BUCKETS_TRIED: usize = 64;

/// Bytes of a table that are taken at a time: a few milliseconds.
pub(crate) const MEMORY_STEP: usize = 16 << 20;

/// Ids are below this: two for each of 16,777,216 flows.
pub(crate) const IDS_MAX: u32 = 1 << 25;

/// Ids by hash. Different ids may have one hash: whoever asks says which one is meant.
#[derive(Debug)]
pub(crate) struct Index {
    /// All of them or none: see `take_memory`.
    buckets: Vec<Bucket>,
    count: usize,
}

#[derive(Debug, Clone, Copy, Default)]
#[repr(C, align(64))]
struct Bucket {
    /// A part of each key's hash; zero where the place is free.
    tags: [u8; WAYS],
    /// Keys that would stand here or before, and stand behind.
    passed_by: u32,
    /// An id, above it how many buckets the key has passed by, and above that more of its hash.
    entries: [u32; WAYS],
}

const _: () = assert!(size_of::<Bucket>() == 64);

/// One bucket passed by. What has passed seven or more is not moved back.
const STEP: u32 = IDS_MAX;
const STEPS: u32 = 7 * STEP;
const UPPER: u32 = !(STEPS | (IDS_MAX - 1));

/// What a hash says: a bucket, and what the key's entry looks like but for its id.
#[derive(Debug, Clone, Copy)]
struct Home {
    bucket: usize,
    tag: u8,
    upper: u32,
}

impl Index {
    /// An empty index for so many keys; memory is allocated once.
    pub(crate) fn new(keys: usize) -> Self {
        let count = keys.div_ceil(WAYS_TAKEN).max(1);
        Self { buckets: Vec::with_capacity(count), count }
    }

    /// Has the system give all memory now, and not with the first key; calls `turn` now and then. Not
    /// done by `new`, as huge pages can be asked for only after that.
    pub(crate) fn take_memory(&mut self, mut turn: impl FnMut()) {
        while self.buckets.len() < self.count {
            let more = self.buckets.len() + MEMORY_STEP / size_of::<Bucket>();
            self.buckets.resize(more.min(self.count), Bucket::default());
            turn();
        }
    }

    /// The id with this hash of which `is` says that it is the one.
    #[inline]
    pub(crate) fn find(&self, hash: u64, mut is: impl FnMut(u32) -> bool) -> Option<u32> {
        let home = self.home(hash);
        let mut at = home.bucket;
        for _ in 0..BUCKETS_TRIED {
            let bucket = self.buckets.get(at)?;
            if let Some((_, id)) = bucket.find(&home, &mut is) {
                return Some(id);
            }
            if bucket.passed_by == 0 {
                break;
            }
            at = self.after(at);
        }
        None
    }

    /// Adds an id, which is not there under this hash; `false` where there is no place for it.
    #[must_use]
    pub(crate) fn insert(&mut self, hash: u64, id: u32) -> bool {
        debug_assert!(id < IDS_MAX);
        self.take_memory(|| ());
        let home = self.home(hash);
        let mut at = home.bucket;
        for passed in 0..BUCKETS_TRIED.min(self.count) as u32 {
            if self.buckets[at].put(home.tag, home.upper | (passed.min(7) * STEP) | id) {
                self.pass_by(home.bucket, at, 1);
                return true;
            }
            at = self.after(at);
        }
        false
    }

    /// Takes an id out; `false` where it is not there under this hash.
    pub(crate) fn remove(&mut self, hash: u64, id: u32) -> bool {
        let home = self.home(hash);
        let mut at = home.bucket;
        for _ in 0..BUCKETS_TRIED {
            let Some(bucket) = self.buckets.get_mut(at) else { return false };
            if let Some((way, _)) = bucket.find(&home, &mut |there| there == id) {
                bucket.tags[way] = 0;
                self.pass_by(home.bucket, at, -1);
                self.refill(at);
                return true;
            }
            if bucket.passed_by == 0 {
                break;
            }
            at = self.after(at);
        }
        false
    }

    /// Loads the bucket of a hash into the cache. The value means nothing; a processor that is asked
    /// for the sum of many goes for all of them at once.
    #[inline]
    pub(crate) fn touch(&self, hash: u64) -> u32 {
        self.buckets.get(self.home(hash).bucket).map_or(0, |bucket| bucket.passed_by)
    }

    /// The first id that may be the one that is meant, and hardly ever is another: what to load next.
    #[inline]
    pub(crate) fn guess(&self, hash: u64) -> Option<u32> {
        self.find(hash, |_| true)
    }

    /// Gives a place that has become free to a key that has passed it by, the place of that to another
    /// one, and so on.
    fn refill(&mut self, mut free: usize) {
        let (mut at, mut passed) = (free, 0);
        while passed < 6 && self.buckets[at].passed_by > 0 {
            (at, passed) = (self.after(at), passed + 1);
            if let Some((tag, entry)) = self.buckets[at].take_displaced(passed) {
                self.buckets[free].put(tag, entry - passed * STEP);
                self.pass_by(free, at, -1);
                (free, passed) = (at, 0);
            }
        }
    }

    /// Counts a key that stands in one bucket, and not in those from another one up to it.
    fn pass_by(&mut self, from: usize, to: usize, by: i32) {
        let mut at = from;
        while at != to {
            let passed_by = &mut self.buckets[at].passed_by;
            *passed_by = passed_by.wrapping_add_signed(by);
            at = self.after(at);
        }
    }

    const fn after(&self, at: usize) -> usize {
        if at + 1 == self.count { 0 } else { at + 1 }
    }

    #[inline]
    fn home(&self, hash: u64) -> Home {
        // The lower half picks a bucket (D. Lemire, "Fast Random Integer Generation in an Interval",
        // 2019), the upper one makes the tags.
        let (low, high) = (hash & 0xffff_ffff, hash >> 32);
        Home {
            bucket: ((low * self.count as u64) >> 32) as usize,
            tag: ((high >> 24) as u8).max(1),
            upper: (high as u32) << UPPER.trailing_zeros(),
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
            if entry & UPPER == home.upper && is(id) {
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

    /// Whether there was a place for it.
    fn put(&mut self, tag: u8, entry: u32) -> bool {
        let way = self.ways_with(0).trailing_zeros() as usize / 8;
        if way >= WAYS {
            return false;
        }
        self.tags[way] = tag;
        self.entries[way] = entry;
        true
    }

    /// Takes out a key that has passed by so many buckets or more, if it is known how many.
    fn take_displaced(&mut self, passed: u32) -> Option<(u8, u32)> {
        let way = (0..WAYS).find(|way| {
            let steps = (self.entries[*way] & STEPS) / STEP;
            self.tags[*way] != 0 && steps < 7 && steps >= passed
        })?;
        Some((std::mem::take(&mut self.tags[way]), self.entries[way]))
    }
}

#[cfg(test)]
mod tests;
