//! Keys that stand twice in a mapping of a policy file, each with its place.
//!
//! Promise: mappings whose keys people choose (`boot.registers`) are looked at, too, where the type that
//! reads them would keep the last value and say nothing. Not here: which keys there are (see `node`).

use cgpath_evidence::text::quoted;
use serde::Deserializer;
use serde::de::{
    DeserializeSeed, EnumAccess, Error, IgnoredAny, MapAccess, SeqAccess, VariantAccess, Visitor,
};
use std::cell::Cell;
use std::collections::BTreeSet;

/// The first key that stands twice, as an error at its second place; `None` where none does. What is
/// malformed otherwise is for those to say who read the file's values.
pub(super) fn twice(yaml: &[u8]) -> Option<serde_norway::Error> {
    let found = Cell::new(false);
    let part = Part { found: &found };
    let error = part
        .deserialize(serde_norway::Deserializer::from_slice(yaml))
        .err()?;
    found.get().then_some(error)
}

/// Any value, with all that is in it.
#[derive(Clone, Copy)]
struct Part<'a> {
    found: &'a Cell<bool>,
}

impl<'de> DeserializeSeed<'de> for Part<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Part<'_> {
    type Value = ();
    fn expecting(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("any value")
    }
    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_i128<E: Error>(self, _: i128) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u128<E: Error>(self, _: u128) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_none<E: Error>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(self)?.is_some() {}
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = BTreeSet::new();
        loop {
            let key = Key {
                seen: &mut seen,
                found: self.found,
            };
            if map.next_key_seed(key)?.is_none() {
                return Ok(());
            }
            map.next_value_seed(self)?;
        }
    }
    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<(), A::Error> {
        // A value with a tag.
        let (_, value) = data.variant::<IgnoredAny>()?;
        value.newtype_variant_seed(self)
    }
}

/// A key, held against those before it in its mapping. The error is made while the key is read: the parser
/// then gives the key's place, and not its mapping's.
struct Key<'a> {
    /// Whether it is a text, and the text: `0x0` is the number `0`, and the text `"0"` is another key.
    seen: &'a mut BTreeSet<(bool, String)>,
    found: &'a Cell<bool>,
}

impl Key<'_> {
    fn is<E: Error>(self, is_text: bool, text: String) -> Result<(), E> {
        if self.seen.contains(&(is_text, text.clone())) {
            self.found.set(true);
            return Err(E::custom(format!("duplicate key {}", quoted(&text))));
        }
        self.seen.insert((is_text, text));
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Key<'_> {
    type Value = ();
    fn expecting(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("a key")
    }
    fn visit_bool<E: Error>(self, is: bool) -> Result<(), E> {
        self.is(false, is.to_string())
    }
    fn visit_i64<E: Error>(self, n: i64) -> Result<(), E> {
        self.is(false, n.to_string())
    }
    fn visit_u64<E: Error>(self, n: u64) -> Result<(), E> {
        self.is(false, n.to_string())
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.is(true, text.to_owned())
    }
}
