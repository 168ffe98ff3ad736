//! Where in a file an error is: its line, and the keys that lead there.
//!
//! Promise: an error that a field's reader makes once the parser has given it the value is said at that
//! value, and not at the mapping around it. Not here: what is wrong with a value (see `form` and those who
//! use it).

use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, IgnoredAny, MapAccess, SeqAccess, VariantAccess,
    Visitor,
};
use std::cell::RefCell;

/// One step from a value to one in it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Step {
    /// The item of a list, or the value of a mapping, by its number.
    Nth(usize),
    /// The key of a mapping, by its number.
    KeyNth(usize),
    /// The value of this key.
    Of(&'static str),
}

/// The first error of a file that is read through [`Tracked`].
#[derive(Debug)]
pub(crate) struct Lost {
    /// The value that was read when it came.
    pub(crate) path: Vec<Step>,
    /// Whether the parser said it, which knows the place; else the value's reader did, after it had the
    /// value.
    pub(crate) by_parser: bool,
    /// What is wrong.
    pub(crate) why: String,
}

/// What is being read, and the first error.
#[derive(Default)]
pub(crate) struct Track {
    path: RefCell<Vec<Step>>,
    first: RefCell<Option<Lost>>,
}

impl Track {
    /// Reads through this.
    pub(crate) fn of<X>(&self, inner: X) -> Tracked<'_, X> {
        Tracked { inner, track: self }
    }

    /// The first error, where one was seen.
    pub(crate) fn first(self) -> Option<Lost> {
        self.first.into_inner()
    }

    fn saw(&self, error: &impl Error, by_parser: bool) {
        let mut first = self.first.borrow_mut();
        if first.is_none() {
            *first = Some(Lost {
                path: self.path.borrow().clone(),
                by_parser,
                why: error.to_string(),
            });
        }
    }

    /// Reads what is one step below.
    fn below<T, E: Error>(&self, step: Step, read: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        self.path.borrow_mut().push(step);
        let read = read().inspect_err(|error| self.saw(error, false));
        self.path.borrow_mut().pop();
        read
    }
}

/// A part of a parser, or of what reads a value, that says to a [`Track`] what is read.
pub(crate) struct Tracked<'t, X> {
    inner: X,
    track: &'t Track,
}

macro_rules! deserialize {
    ($($method:ident($($arg:ident: $type:ty),*))*) => {
        $(fn $method<V: Visitor<'de>>(self, $($arg: $type,)* visitor: V) -> Result<V::Value, X::Error> {
            let Tracked { inner, track } = self;
            let read = inner.$method($($arg,)* track.of(visitor));
            read.inspect_err(|error| track.saw(error, true))
        })*
    };
}

impl<'de, X: Deserializer<'de>> Deserializer<'de> for Tracked<'_, X> {
    type Error = X::Error;
    deserialize! {
        deserialize_any() deserialize_bool() deserialize_i8() deserialize_i16() deserialize_i32()
        deserialize_i64() deserialize_i128() deserialize_u8() deserialize_u16() deserialize_u32()
        deserialize_u64() deserialize_u128() deserialize_f32() deserialize_f64() deserialize_char()
        deserialize_str() deserialize_string() deserialize_bytes() deserialize_byte_buf()
        deserialize_unit() deserialize_unit_struct(name: &'static str) deserialize_seq()
        deserialize_tuple(len: usize) deserialize_tuple_struct(name: &'static str, len: usize)
        deserialize_map() deserialize_struct(name: &'static str, fields: &'static [&'static str])
        deserialize_enum(name: &'static str, variants: &'static [&'static str])
        deserialize_identifier() deserialize_ignored_any()
    }
    // These two hand on the value itself, and give no place to an error that comes back.
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, X::Error> {
        self.inner.deserialize_option(self.track.of(visitor))
    }
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, X::Error> {
        self.inner
            .deserialize_newtype_struct(name, self.track.of(visitor))
    }
    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

macro_rules! visit {
    ($($method:ident: $type:ty),* $(,)?) => {
        $(fn $method<E: Error>(self, value: $type) -> Result<Self::Value, E> {
            self.inner.$method(value)
        })*
    };
}

impl<'de, X: Visitor<'de>> Visitor<'de> for Tracked<'_, X> {
    type Value = X::Value;
    fn expecting(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.inner.expecting(f)
    }
    visit! {
        visit_bool: bool, visit_i8: i8, visit_i16: i16, visit_i32: i32, visit_i64: i64, visit_i128: i128,
        visit_u8: u8, visit_u16: u16, visit_u32: u32, visit_u64: u64, visit_u128: u128, visit_f32: f32,
        visit_f64: f64, visit_char: char, visit_str: &str, visit_borrowed_str: &'de str, visit_string: String,
        visit_bytes: &[u8], visit_borrowed_bytes: &'de [u8], visit_byte_buf: Vec<u8>,
    }
    fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
        self.inner.visit_none()
    }
    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        self.inner.visit_unit()
    }
    fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
        self.inner.visit_some(self.track.of(d))
    }
    fn visit_newtype_struct<D: Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
        self.inner.visit_newtype_struct(self.track.of(d))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
        let Tracked { inner, track } = self;
        inner.visit_seq(Items {
            access: seq,
            number: 0,
            track,
        })
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        let Tracked { inner, track } = self;
        inner.visit_map(Items {
            access: map,
            number: 0,
            track,
        })
    }
    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<Self::Value, A::Error> {
        self.inner.visit_enum(self.track.of(data))
    }
}

/// The items of a list or a mapping; `number` is the one that comes next, of a mapping whose key was read
/// that entry.
struct Items<'t, A> {
    access: A,
    number: usize,
    track: &'t Track,
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Items<'_, A> {
    type Error = A::Error;
    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, A::Error> {
        let seed = Below {
            inner: seed,
            step: Step::Nth(self.number),
            track: self.track,
        };
        self.number += 1;
        self.access.next_element_seed(seed)
    }
    fn size_hint(&self) -> Option<usize> {
        self.access.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Items<'_, A> {
    type Error = A::Error;
    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        self.access.next_key_seed(Below {
            inner: seed,
            step: Step::KeyNth(self.number),
            track: self.track,
        })
    }
    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        let seed = Below {
            inner: seed,
            step: Step::Nth(self.number),
            track: self.track,
        };
        self.number += 1;
        self.access.next_value_seed(seed)
    }
    fn size_hint(&self) -> Option<usize> {
        self.access.size_hint()
    }
}

/// What reads the value one step below.
struct Below<'t, S> {
    inner: S,
    step: Step,
    track: &'t Track,
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Below<'_, S> {
    type Value = S::Value;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<S::Value, D::Error> {
        let Below { inner, step, track } = self;
        track.below(step, || inner.deserialize(track.of(d)))
    }
}

impl<'de, X: DeserializeSeed<'de>> DeserializeSeed<'de> for Tracked<'_, X> {
    type Value = X::Value;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<X::Value, D::Error> {
        self.inner.deserialize(self.track.of(d))
    }
}

impl<'de, 't, X: EnumAccess<'de>> EnumAccess<'de> for Tracked<'t, X> {
    type Error = X::Error;
    type Variant = Tracked<'t, X::Variant>;
    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Tracked<'t, X::Variant>), X::Error> {
        let Tracked { inner, track } = self;
        let (value, variant) = inner.variant_seed(track.of(seed))?;
        Ok((value, track.of(variant)))
    }
}

impl<'de, X: VariantAccess<'de>> VariantAccess<'de> for Tracked<'_, X> {
    type Error = X::Error;
    fn unit_variant(self) -> Result<(), X::Error> {
        self.inner.unit_variant()
    }
    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, X::Error> {
        self.inner.newtype_variant_seed(self.track.of(seed))
    }
    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, X::Error> {
        self.inner.tuple_variant(len, self.track.of(visitor))
    }
    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, X::Error> {
        self.inner.struct_variant(fields, self.track.of(visitor))
    }
}

/// Says an error at the value to which a path leads, or at the last value on the way that is there: the
/// parser gives it the place. It always fails.
#[derive(Clone, Copy)]
pub(crate) struct At<'a> {
    pub(crate) path: &'a [Step],
    pub(crate) why: &'a str,
}

impl<'de> DeserializeSeed<'de> for At<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_any(self)
    }
}

macro_rules! end {
    ($($visit:ident: $type:ty),*) => {
        $(fn $visit<E: Error>(self, _: $type) -> Result<(), E> {
            Err(E::custom(self.why))
        })*
    };
}

impl<'de> Visitor<'de> for At<'_> {
    type Value = ();
    fn expecting(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("any value")
    }
    end! {
        visit_bool: bool, visit_i64: i64, visit_i128: i128, visit_u64: u64, visit_u128: u128, visit_f64: f64,
        visit_str: &str
    }
    fn visit_none<E: Error>(self) -> Result<(), E> {
        Err(E::custom(self.why))
    }
    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Err(E::custom(self.why))
    }
    fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        Err(Error::custom(self.why))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        if let [Step::Nth(n), path @ ..] = self.path {
            for _ in 0..*n {
                seq.next_element::<IgnoredAny>()?;
            }
            seq.next_element_seed(At { path, ..self })?;
        }
        Err(Error::custom(self.why))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let [step, path @ ..] = self.path else {
            return Err(Error::custom(self.why));
        };
        let rest = At { path, ..self };
        let mut number = 0;
        loop {
            if *step == Step::KeyNth(number) {
                map.next_key_seed(rest)?;
                break;
            }
            let is_it = match step {
                Step::Of(name) => match map.next_key::<Name>()? {
                    Some(Name(key)) => key.as_deref() == Some(*name),
                    None => break,
                },
                _ if map.next_key::<IgnoredAny>()?.is_none() => break,
                _ => *step == Step::Nth(number),
            };
            if is_it {
                map.next_value_seed(rest)?;
                break;
            }
            map.next_value::<IgnoredAny>()?;
            number += 1;
        }
        Err(Error::custom(self.why))
    }
}

/// A key, where it is a text.
struct Name(Option<String>);

impl<'de> serde::Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Name, D::Error> {
        d.deserialize_any(NameVisitor)
    }
}

struct NameVisitor;

macro_rules! no_name {
    ($($visit:ident: $type:ty),*) => {
        $(fn $visit<E: Error>(self, _: $type) -> Result<Name, E> {
            Ok(Name(None))
        })*
    };
}

impl Visitor<'_> for NameVisitor {
    type Value = Name;
    fn expecting(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("a key")
    }
    no_name!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64);
    fn visit_str<E: Error>(self, text: &str) -> Result<Name, E> {
        Ok(Name(Some(text.to_owned())))
    }
}

/// Line and column, from 1, of a byte of a text.
pub(crate) fn of_byte(text: &[u8], at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
    let start = before
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |at| at + 1);
    let column = 1 + String::from_utf8_lossy(&before[start..]).chars().count();
    (line, column)
}
