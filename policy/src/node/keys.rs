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
    let error = Part::value(&found)
        .deserialize(serde_norway::Deserializer::from_slice(yaml))
        .err()?;
    found.get().then_some(error)
}

/// Any value with all that is in it, or a key. A key is held against those before it in its mapping while it
/// is read: the parser then gives the error the key's place, and not its mapping's.
struct Part<'a> {
    found: &'a Cell<bool>,
    /// For a key, those before it: whether it is a text, and the text. `0x0` is the number `0`, and the text
    /// `"0"` is another key.
    before: Option<&'a mut BTreeSet<(bool, String)>>,
}

impl<'a> Part<'a> {
    fn value(found: &'a Cell<bool>) -> Part<'a> {
        Part { found, before: None }
    }

    fn scalar<E: Error>(self, is_text: bool, text: impl ToString) -> Result<(), E> {
        let Some(before) = self.before else {
            return Ok(());
        };
        let text = text.to_string();
        if before.contains(&(is_text, text.clone())) {
            self.found.set(true);
            return Err(E::custom(format!("duplicate key {}", quoted(&text))));
        }
        before.insert((is_text, text));
        Ok(())
    }

    /// What no key of a policy is.
    fn no_key<E: Error>(&self) -> Result<(), E> {
        match self.before {
            None => Ok(()),
            Some(_) => Err(E::custom("not a key")),
        }
    }
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
    fn visit_bool<E: Error>(self, is: bool) -> Result<(), E> {
        self.scalar(false, is)
    }
    fn visit_i64<E: Error>(self, n: i64) -> Result<(), E> {
        self.scalar(false, n)
    }
    fn visit_u64<E: Error>(self, n: u64) -> Result<(), E> {
        self.scalar(false, n)
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.scalar(true, text)
    }
    fn visit_i128<E: Error>(self, _: i128) -> Result<(), E> {
        self.no_key()
    }
    fn visit_u128<E: Error>(self, _: u128) -> Result<(), E> {
        self.no_key()
    }
    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.no_key()
    }
    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.no_key()
    }
    fn visit_none<E: Error>(self) -> Result<(), E> {
        self.no_key()
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        self.no_key()?;
        while seq.next_element_seed(Part::value(self.found))?.is_some() {}
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        self.no_key()?;
        let mut seen = BTreeSet::new();
        loop {
            let key = Part {
                found: self.found,
                before: Some(&mut seen),
            };
            if map.next_key_seed(key)?.is_none() {
                return Ok(());
            }
            map.next_value_seed(Part::value(self.found))?;
        }
    }
    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<(), A::Error> {
        self.no_key()?;
        // A value with a tag.
        let (_, value) = data.variant::<IgnoredAny>()?;
        value.newtype_variant_seed(self)
    }
}
