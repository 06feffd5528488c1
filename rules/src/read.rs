//! From YAML nodes to the document's structs by serde, with the place of everything and every problem
//! reported, not only the first.

use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::U64Deserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess,
    Visitor,
};
use serde::{Deserialize, forward_to_deserialize_any};

use crate::diagnostic::{Problems, Span, suggestion};
use crate::term;
use crate::yaml::{Entry, Kind, Node};

/// A value and its place in the text.
#[derive(Debug, Clone)]
pub(crate) struct At<T> {
    pub value: T,
    pub span: Span,
}

/// One entry, or a list of them: `a` is short for `[a]`.
#[derive(Debug, Clone)]
pub(crate) struct OneOrMany {
    pub items: Vec<At<String>>,
    pub span: Span,
}

/// Reads a node. Each problem is reported; then its key is taken out and the node is read again, so
/// that one wrong key hides no other. `None` where something is missing in the end.
pub(crate) fn read<T: DeserializeOwned>(mut node: Node<'_>, problems: &mut Problems) -> Option<T> {
    let mut removed: Vec<String> = Vec::new();
    for _ in 0..ATTEMPTS {
        let error = match T::deserialize(NodeReader(&node)) {
            Ok(value) => return Some(value),
            Err(error) => error,
        };
        // What was taken out above is not missing in the text.
        let is_known = error.missing.is_some_and(|key| removed.iter().any(|r| r == key));
        if !error.silent && !is_known {
            problems.error_with(error.span.unwrap_or(node.span), error.message, error.help);
        }
        removed.push(error.key.and_then(|offset| node.remove_entry(offset))?);
    }
    None
}

/// How many problems of one item are found before it is left alone.
const ATTEMPTS: usize = 32;

/// Why a node does not fit its struct.
#[derive(Debug, Default)]
struct ReadError {
    message: String,
    help: String,
    span: Option<Span>,
    /// Where the innermost key around the problem begins.
    key: Option<u32>,
    missing: Option<&'static str>,
    /// The problem has been reported already.
    silent: bool,
}

impl ReadError {
    fn at(span: Span, message: String) -> Self {
        Self { message, span: Some(span), ..Self::default() }
    }

    /// Adds the place, unless a place further inside is known.
    fn within(mut self, span: Span, key: Option<u32>) -> Self {
        self.span = self.span.or(Some(span));
        self.key = self.key.or(key);
        self
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ReadError {}

impl de::Error for ReadError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { message: message.to_string(), ..Self::default() }
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let near = suggestion(field, expected.iter().copied());
        let help =
            if near.is_empty() { format!("known here: {}", expected.join(", ")) } else { near };
        Self { message: format!("unknown key `{field}`"), help, ..Self::default() }
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let message = format!("`{variant}` is not one of {}", expected.join(", "));
        let help = suggestion(variant, expected.iter().copied());
        Self { message, help, ..Self::default() }
    }

    fn missing_field(field: &'static str) -> Self {
        let message = format!("the key `{field}` is missing");
        Self { message, missing: Some(field), ..Self::default() }
    }
}

/// Names by which [`At`] and [`OneOrMany`] ask for the place and for the list.
const AT: &str = "$at";
const ONE_OR_MANY: &str = "$one-or-many";

#[derive(Clone, Copy)]
struct NodeReader<'n, 't>(&'n Node<'t>);

impl<'n> NodeReader<'n, '_> {
    fn expected(self, what: &str) -> ReadError {
        let found = match &self.0.kind {
            Kind::Scalar(text) => format!("`{text}`"),
            Kind::Null => "nothing".to_owned(),
            Kind::Sequence(_) => "a list".to_owned(),
            Kind::Mapping(_) => "a mapping".to_owned(),
            Kind::Broken => return ReadError { silent: true, ..ReadError::default() },
        };
        ReadError::at(self.0.span, format!("expected {what}, found {found}"))
    }

    fn text(self) -> Result<&'n str, ReadError> {
        match &self.0.kind {
            Kind::Scalar(text) => Ok(text),
            Kind::Null | Kind::Sequence(_) | Kind::Mapping(_) | Kind::Broken => {
                Err(self.expected("a value"))
            }
        }
    }

    fn number<T: std::str::FromStr>(self, most: u32) -> Result<T, ReadError> {
        let number = term::number(self.text()?);
        number.ok_or_else(|| self.expected(&format!("a whole number from 0 to {most}")))
    }
}

impl<'de, 'n: 'de> Deserializer<'de> for NodeReader<'n, '_> {
    type Error = ReadError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        let result = visitor.visit_str(self.text()?);
        result.map_err(|error: ReadError| error.within(self.0.span, None))
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_u16(self.number(u16::MAX.into())?)
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_u32(self.number(u32::MAX)?)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match self.text()? {
            "true" => visitor.visit_bool(true),
            "false" => visitor.visit_bool(false),
            _ => Err(self.expected("`true` or `false`")),
        }
    }

    /// A key that stands there has a value.
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_some(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        let result = visitor.visit_enum(self.text()?.into_deserializer());
        result.map_err(|error: ReadError| error.within(self.0.span, None))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        let nodes = match &self.0.kind {
            _ if name == AT => std::slice::from_ref(self.0),
            Kind::Sequence(nodes) if name == ONE_OR_MANY => nodes,
            Kind::Scalar(_) if name == ONE_OR_MANY => std::slice::from_ref(self.0),
            Kind::Scalar(_) | Kind::Null | Kind::Sequence(_) | Kind::Mapping(_) | Kind::Broken => {
                return Err(self.expected("a value or a list of values"));
            }
        };
        visitor.visit_seq(Place { span: Some(self.0.span), nodes })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        let Kind::Mapping(entries) = &self.0.kind else {
            return Err(self.expected("a mapping (`{ key: value }`)"));
        };
        let result = visitor.visit_map(Entries { entries, value: None });
        result.map_err(|error| error.within(self.0.span, None))
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 u8 u64 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}

/// The place of a node, then the nodes.
struct Place<'n, 't> {
    span: Option<Span>,
    nodes: &'n [Node<'t>],
}

impl<'de, 'n: 'de> SeqAccess<'de> for Place<'n, '_> {
    type Error = ReadError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, ReadError> {
        if let Some(span) = self.span.take() {
            let packed = u64::from(span.start) << 32 | u64::from(span.length);
            return seed.deserialize(U64Deserializer::new(packed)).map(Some);
        }
        let Some((first, rest)) = self.nodes.split_first() else { return Ok(None) };
        self.nodes = rest;
        seed.deserialize(NodeReader(first)).map(Some)
    }
}

struct Entries<'n, 't> {
    entries: &'n [Entry<'t>],
    value: Option<&'n Entry<'t>>,
}

impl<'de, 'n: 'de> MapAccess<'de> for Entries<'n, '_> {
    type Error = ReadError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, ReadError> {
        let Some((first, rest)) = self.entries.split_first() else { return Ok(None) };
        self.entries = rest;
        self.value = Some(first);
        let key: de::value::StrDeserializer<'_, ReadError> = (*first.key).into_deserializer();
        let key = seed.deserialize(key);
        key.map(Some).map_err(|e| e.within(first.key_span, Some(first.key_span.start)))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, ReadError> {
        let entry = self.value.take().expect("serde asks for a value after its key");
        let value = seed.deserialize(NodeReader(&entry.value));
        value.map_err(|e| e.within(entry.value.span, Some(entry.key_span.start)))
    }
}

fn unpack(packed: Option<u64>) -> Span {
    let packed = packed.unwrap_or_default();
    let half = |n: u64| u32::try_from(n & u64::from(u32::MAX)).unwrap_or(u32::MAX);
    Span { start: half(packed >> 32), length: half(packed) }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for At<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AtVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for AtVisitor<T> {
            type Value = At<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value with its place")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<At<T>, A::Error> {
                let span = unpack(parts.next_element()?);
                let value = parts.next_element()?;
                let value = value.ok_or_else(|| de::Error::custom("expected a value"))?;
                Ok(At { value, span })
            }
        }
        deserializer.deserialize_newtype_struct(AT, AtVisitor(PhantomData))
    }
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListVisitor;
        impl<'de> Visitor<'de> for ListVisitor {
            type Value = OneOrMany;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value or a list of values")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<OneOrMany, A::Error> {
                let span = unpack(parts.next_element()?);
                let mut items = Vec::new();
                while let Some(item) = parts.next_element()? {
                    items.push(item);
                }
                Ok(OneOrMany { items, span })
            }
        }
        deserializer.deserialize_newtype_struct(ONE_OR_MANY, ListVisitor)
    }
}

impl<T: JsonSchema> JsonSchema for At<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

impl JsonSchema for OneOrMany {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "OneOrMany".into()
    }

    fn json_schema(_generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                { "type": "string" },
                { "type": "array", "items": { "type": "string" }, "minItems": 1 },
            ]
        })
    }
}
