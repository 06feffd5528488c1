//! Named addresses and services, and lists that name them.

use crate::diagnostic::Place;

/// An address or service object: index into the policy's list of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ObjectId(pub usize);

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Object<T> {
    pub name: String,
    pub place: Place,
    /// Objects form no cycle.
    pub terms: Vec<Term<T>>,
}

/// An entry of a list.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Term<T> {
    Value(T),
    Object(ObjectId),
}
