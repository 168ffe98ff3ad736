//! Where in a file an error is: its line, and the keys that lead there.
//!
//! Promise: an error that a field's reader makes once the parser has given it the value is said at that
//! value, and not at the mapping around it. Not here: what is wrong with a value (see `form` and those who
//! use it).

use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, IgnoredAny, MapAccess, SeqAccess, VariantAccess,
    Visitor,
};
use std::cell::{Cell, RefCell};

/// The first error of a file that is read through [`Track`].
#[derive(Debug)]
pub(crate) struct Lost {
    /// The value or key that was read when it came: its number, in the order in which they are read.
    nth: usize,
    /// Whether the parser said it, which knows the place; else the value's reader did, after it had the
    /// value.
    pub(crate) by_parser: bool,
    /// What is wrong.
    why: String,
}

/// Counts the values and keys that are read, so that an error can be said again at its own. (Why it is not
/// `serde_path_to_error` that finds them: docs/decisions/packages.md.)
#[derive(Default)]
pub(crate) struct Track {
    read: Cell<usize>,
    by_parser: Cell<bool>,
    first: RefCell<Option<Lost>>,
    again: Option<Lost>,
}

impl Track {
    /// Says this error again when the same file is read as the same type: the parser gives it the place.
    pub(crate) fn again(lost: Lost) -> Track {
        Track {
            again: Some(lost),
            ..Track::default()
        }
    }

    /// Reads through this.
    pub(crate) fn of<X>(&self, inner: X) -> Tracked<'_, X> {
        Tracked { inner, track: self }
    }

    /// The first error in a value of the file, where one was seen.
    pub(crate) fn first(self) -> Option<Lost> {
        self.first.into_inner()
    }

    fn saw(&self, nth: usize, error: &impl Error) {
        self.first.borrow_mut().get_or_insert_with(|| Lost {
            nth,
            by_parser: self.by_parser.get(),
            why: error.to_string(),
        });
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
            read.inspect_err(|_| track.by_parser.set(true))
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
        self.inner.visit_seq(self.track.of(seq))
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        self.inner.visit_map(self.track.of(map))
    }
    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<Self::Value, A::Error> {
        self.inner.visit_enum(self.track.of(data))
    }
}

impl<'de, X: SeqAccess<'de>> SeqAccess<'de> for Tracked<'_, X> {
    type Error = X::Error;
    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, X::Error> {
        self.inner.next_element_seed(self.track.of(seed))
    }
    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'de, X: MapAccess<'de>> MapAccess<'de> for Tracked<'_, X> {
    type Error = X::Error;
    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, X::Error> {
        self.inner.next_key_seed(self.track.of(seed))
    }
    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, X::Error> {
        self.inner.next_value_seed(self.track.of(seed))
    }
    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'de, X: DeserializeSeed<'de>> DeserializeSeed<'de> for Tracked<'_, X> {
    type Value = X::Value;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<X::Value, D::Error> {
        let Tracked { inner, track } = self;
        let nth = track.read.get();
        track.read.set(nth + 1);
        match &track.again {
            Some(lost) if lost.nth == nth => {
                // To a value at which the parser itself lost the place it does not get this time, either:
                // the error is said at what is around it.
                if !lost.by_parser {
                    let (path, why) = (&[][..], &lost.why[..]);
                    At { path, why }.deserialize(d)?;
                }
                Err(Error::custom(&lost.why))
            }
            _ => {
                let read = inner.deserialize(track.of(d));
                read.inspect_err(|error| track.saw(nth, error))
            }
        }
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

/// One step from a value to one in it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    /// The item of a list, by its number.
    Nth(usize),
    /// The value of this key, in a mapping whose keys are texts.
    Of(&'static str),
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
        if let [Step::Of(name), path @ ..] = self.path {
            while let Some(key) = map.next_key::<String>()? {
                if key == *name {
                    map.next_value_seed(At { path, ..self })?;
                } else {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Err(Error::custom(self.why))
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
