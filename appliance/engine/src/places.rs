//! Numbered places for things that come and go: the number of one that has gone is given out again.

use std::ops::{Index, IndexMut};

/// Memory is allocated once, and used as things come. How many there may be is the owner's to know.
#[derive(Debug)]
pub(crate) struct Places<T> {
    things: Vec<T>,
    /// Places that were used and are free again.
    free: Vec<u32>,
}

impl<T> Places<T> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { things: Vec::with_capacity(capacity), free: Vec::with_capacity(capacity) }
    }

    /// Where it stands: in a place that was used and is free again, or in a new one.
    pub(crate) fn put(&mut self, thing: T) -> u32 {
        match self.free.pop() {
            Some(place) => {
                self.things[place as usize] = thing;
                place
            }
            None => {
                self.things.push(thing);
                self.things.len() as u32 - 1
            }
        }
    }

    /// Gives a place back; what stands there stays until somebody else gets it.
    pub(crate) fn give_back(&mut self, place: u32) {
        self.free.push(place);
    }

    /// How many places there are, taken or free.
    pub(crate) const fn used(&self) -> u32 {
        self.things.len() as u32
    }

    /// What stands, or has stood, at a place.
    pub(crate) fn at(&self, place: u32) -> Option<&T> {
        self.things.get(place as usize)
    }

    pub(crate) fn clear(&mut self) {
        self.things.clear();
        self.free.clear();
    }

    pub(crate) const fn len(&self) -> usize {
        self.things.len() - self.free.len()
    }

    /// For how many there is memory, taken and free.
    #[cfg(test)]
    pub(crate) fn room(&self) -> (usize, usize) {
        (self.things.capacity(), self.free.capacity())
    }
}

impl<T> Index<u32> for Places<T> {
    type Output = T;

    fn index(&self, place: u32) -> &T {
        &self.things[place as usize]
    }
}

impl<T> IndexMut<u32> for Places<T> {
    fn index_mut(&mut self, place: u32) -> &mut T {
        &mut self.things[place as usize]
    }
}
