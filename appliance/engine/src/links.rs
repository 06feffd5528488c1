//! Lists in order of arrival over the indices of a slab: each index is in one list at most, and every
//! step takes constant time.

/// "None": no slab is that long.
const NIL: u32 = u32::MAX;

/// One list over a slab of its own.
#[derive(Debug)]
pub(crate) struct Queue {
    links: Links,
    list: List,
}

impl Queue {
    /// For indices below `capacity`.
    pub(crate) fn new(capacity: u32) -> Self {
        Self { links: Links::new(capacity), list: List::default() }
    }

    /// Appends an index that is not in it.
    pub(crate) fn append(&mut self, index: u32) {
        self.links.append(&mut self.list, index);
    }

    /// Takes out an index that is in it.
    pub(crate) fn remove(&mut self, index: u32) {
        self.links.remove(&mut self.list, index);
    }

    /// The index that has been in it for the longest time.
    pub(crate) fn first(&self) -> Option<u32> {
        self.list.first()
    }
}

/// The links of all indices, for any number of lists.
#[derive(Debug)]
pub(crate) struct Links {
    nodes: Vec<Node>,
}

#[derive(Debug, Clone, Copy)]
struct Node {
    previous: u32,
    next: u32,
}

/// The ends of one list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct List {
    first: u32,
    last: u32,
}

impl Default for List {
    fn default() -> Self {
        Self { first: NIL, last: NIL }
    }
}

impl List {
    /// The index that has been in the list for the longest time.
    pub(crate) fn first(&self) -> Option<u32> {
        (self.first != NIL).then_some(self.first)
    }
}

impl Links {
    /// Room for indices below `capacity`; the memory is taken as it is used.
    pub(crate) fn new(capacity: u32) -> Self {
        Self { nodes: Vec::with_capacity(capacity as usize) }
    }

    /// Appends an index that is in no list.
    pub(crate) fn append(&mut self, list: &mut List, index: u32) {
        let needed = index as usize + 1;
        if self.nodes.len() < needed {
            self.nodes.resize(needed, Node { previous: NIL, next: NIL });
        }
        self.nodes[index as usize] = Node { previous: list.last, next: NIL };
        match list.last {
            NIL => list.first = index,
            last => self.nodes[last as usize].next = index,
        }
        list.last = index;
    }

    /// Takes an index out of the list that it is in.
    pub(crate) fn remove(&mut self, list: &mut List, index: u32) {
        let Node { previous, next } = self.nodes[index as usize];
        match previous {
            NIL => list.first = next,
            previous => self.nodes[previous as usize].next = next,
        }
        match next {
            NIL => list.last = previous,
            next => self.nodes[next as usize].previous = previous,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn lists_are_queues_that_lose_members_anywhere(
            steps in prop::collection::vec((0..3_usize, 0..24_u32), 0..400),
        ) {
            let mut links = Links::new(24);
            let mut lists = [List::default(); 3];
            let mut model: [VecDeque<u32>; 3] = Default::default();
            for (list, index) in steps {
                match model.iter().position(|members| members.contains(&index)) {
                    Some(list) => {
                        links.remove(&mut lists[list], index);
                        model[list].retain(|member| *member != index);
                    }
                    None => {
                        links.append(&mut lists[list], index);
                        model[list].push_back(index);
                    }
                }
                for (list, members) in lists.iter().zip(&model) {
                    prop_assert_eq!(list.first(), members.front().copied());
                }
            }
            for (list, members) in lists.iter_mut().zip(model) {
                for member in members {
                    prop_assert_eq!(list.first(), Some(member));
                    links.remove(list, member);
                }
                prop_assert_eq!(list.first(), None);
            }
        }
    }
}
