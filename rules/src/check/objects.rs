//! Objects: names for lists, which may name other objects but never themselves.

use std::collections::BTreeMap;

use crate::address::IpRange;
use crate::diagnostic::Span;
use crate::document::{Named, Objects};
use crate::limits::{COMPILED_RANGES, OBJECT_NESTING, OBJECTS_PER_KIND};
use crate::object::{Object, ObjectId, Term};
use crate::read::OneOrMany;
use crate::resolve::{Resolved, TooLarge};
use crate::service::{Service, is_protocol};

use super::Checker;

impl Checker<'_, '_> {
    pub(super) fn check_objects(
        &mut self,
        objects: Objects,
    ) -> (Vec<Object<IpRange>>, Vec<Object<Service>>) {
        self.address_names = self.register(&objects.addresses, &["any", "self"]);
        self.service_names = self.register(&objects.services, &["any"]);
        for object in &objects.services {
            if is_protocol(&object.name.value) {
                let message = format!("`{}` is a protocol and cannot be a name", object.name.value);
                self.problems.error_with(object.name.span, message, "choose another name");
            }
        }
        let addresses = self.check_kind(&objects.addresses, Self::check_addresses);
        let services = self.check_kind(&objects.services, Self::check_services);
        if !self.problems.any_errors() {
            match Resolved::new(&addresses, &services) {
                Ok(resolved) => self.resolved = resolved,
                Err(TooLarge(ObjectId(index))) => {
                    let object = objects.addresses.get(index);
                    let span = object.map(|object| object.name.span).unwrap_or_default();
                    let message =
                        format!("the objects hold over {COMPILED_RANGES} ranges in all, the limit");
                    self.problems.error(span, message);
                }
            }
        }
        (addresses, services)
    }

    fn register(
        &mut self,
        objects: &[Named<OneOrMany>],
        reserved: &[&str],
    ) -> BTreeMap<String, ObjectId> {
        let beyond = objects.get(OBJECTS_PER_KIND).map(|object| object.name.span);
        self.check_count(beyond, "objects of a kind", objects.len(), OBJECTS_PER_KIND);
        for object in objects {
            self.check_name(&object.name, reserved);
        }
        let named = |(index, object): (usize, &Named<OneOrMany>)| {
            (object.name.value.clone(), ObjectId(index))
        };
        objects.iter().enumerate().map(named).collect()
    }

    fn check_kind<T>(
        &mut self,
        objects: &[Named<OneOrMany>],
        mut check: impl FnMut(&mut Self, &OneOrMany) -> Option<Vec<Term<T>>>,
    ) -> Vec<Object<T>> {
        let read = |object: &Named<OneOrMany>| {
            let list = object.value.as_ref();
            let terms = list.and_then(|list| check(self, list)).unwrap_or_default();
            Object { name: object.name.value.clone(), place: self.place(object.name.span), terms }
        };
        let checked: Vec<Object<T>> = objects.iter().map(read).collect();
        self.check_nesting(objects, &checked);
        checked
    }

    /// Reports objects that hold themselves and objects that nest too deep.
    fn check_nesting<T>(&mut self, written: &[Named<OneOrMany>], objects: &[Object<T>]) {
        let mut depths: Vec<Option<usize>> = vec![None; objects.len()];
        for index in 0..objects.len() {
            let mut path = Vec::new();
            if let Err((at, message)) = depth(objects, index, &mut depths, &mut path) {
                let span = written.get(at).map_or_else(Span::default, |object| object.name.span);
                self.problems.error(span, message);
                return;
            }
        }
    }
}

/// How deep an object nests, itself included; never goes deeper than the limit.
fn depth<T>(
    objects: &[Object<T>],
    index: usize,
    known: &mut Vec<Option<usize>>,
    path: &mut Vec<usize>,
) -> Result<usize, (usize, String)> {
    if let Some(depth) = known[index] {
        return Ok(depth);
    }
    if let Some(start) = path.iter().position(|&outer| outer == index) {
        let names = path[start..].iter().chain([&index]).map(|&i| objects[i].name.as_str());
        let round = names.collect::<Vec<_>>().join(" -> ");
        return Err((index, format!("the object `{}` holds itself: {round}", objects[index].name)));
    }
    let too_deep = |index: usize| {
        let name = &objects[index].name;
        Err((index, format!("objects nest deeper than {OBJECT_NESTING}, the limit, at `{name}`")))
    };
    if path.len() >= OBJECT_NESTING {
        return too_deep(index);
    }
    path.push(index);
    let mut deepest = 0;
    for term in &objects[index].terms {
        if let Term::Object(id) = term {
            deepest = deepest.max(depth(objects, id.0, known, path)?);
        }
    }
    path.pop();
    if deepest >= OBJECT_NESTING {
        return too_deep(index);
    }
    known[index] = Some(deepest + 1);
    Ok(deepest + 1)
}
