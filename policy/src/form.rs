//! Forms of values that policies and reference files share: how each is read, and what its JSON Schema says
//! where the type does not say it.
//!
//! Promises: lists end at [`MAX_ITEMS`]; an allow list is not empty. Not here: forms of a node's policy alone
//! (see `node::form`).

use serde::{Deserialize, Deserializer, de};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::marker::PhantomData;

/// A list in a policy file never has more items than this.
pub const MAX_ITEMS: usize = 4096;

pub(crate) fn version_one<'de, D: Deserializer<'de>>(d: D) -> core::result::Result<u32, D::Error> {
    match u32::deserialize(d)? {
        1 => Ok(1),
        other => Err(de::Error::custom(format!(
            "version {other} is not known here, 1 is"
        ))),
    }
}

pub(crate) fn version_one_or_two<'de, D: Deserializer<'de>>(d: D) -> core::result::Result<u32, D::Error> {
    match u32::deserialize(d)? {
        known @ (1 | 2) => Ok(known),
        other => Err(de::Error::custom(format!(
            "version {other} is not known here, 1 and 2 are"
        ))),
    }
}

pub(crate) fn name<'de, D: Deserializer<'de>>(d: D) -> core::result::Result<String, D::Error> {
    let text = String::deserialize(d)?;
    if text.is_empty() || text.len() > 253 {
        return Err(de::Error::custom("a name has 1 to 253 bytes"));
    }
    if text.chars().any(char::is_control) {
        return Err(de::Error::custom("a name has no control characters"));
    }
    Ok(text)
}

/// A list within its limit.
pub(crate) fn bounded<'de, D, T>(d: D) -> core::result::Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    d.deserialize_seq(List(PhantomData::<T>))
}

/// A list whose items are each read by a copy of this.
struct List<S>(S);

impl<'de, S: de::DeserializeSeed<'de> + Copy> de::Visitor<'de> for List<S> {
    type Value = Vec<S::Value>;
    fn expecting(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("a list")
    }
    fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> core::result::Result<Self::Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = seq.next_element_seed(self.0)? {
            if list.len() == MAX_ITEMS {
                return Err(de::Error::custom(format!("a list has at most {MAX_ITEMS} items")));
            }
            list.push(item);
        }
        Ok(list)
    }
}

/// A list within its limit, of whose items `check` says what is wrong with them.
pub(crate) fn each<'de, D, T>(
    d: D,
    check: impl Fn(&T) -> core::result::Result<(), String>,
) -> core::result::Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    d.deserialize_seq(List(Checked(&check, PhantomData)))
}

/// An item of such a list.
struct Checked<'a, T, C>(&'a C, PhantomData<T>);

impl<T, C> Clone for Checked<'_, T, C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T, C> Copy for Checked<'_, T, C> {}

impl<'de, T, C> de::DeserializeSeed<'de> for Checked<'_, T, C>
where
    T: Deserialize<'de>,
    C: Fn(&T) -> core::result::Result<(), String>,
{
    type Value = T;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> core::result::Result<T, D::Error> {
        let item = T::deserialize(d)?;
        (self.0)(&item).map_err(de::Error::custom)?;
        Ok(item)
    }
}

/// The same, not empty.
pub(crate) fn some_of<'de, D, T>(
    d: D,
    check: impl Fn(&T) -> core::result::Result<(), String>,
) -> core::result::Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let list = each(d, check)?;
    if list.is_empty() {
        return Err(de::Error::custom(
            "an empty allow list would accept nothing: name what is allowed",
        ));
    }
    Ok(list)
}

/// A list of mappings, within its limit: none has the `key` of another, nor a `fault` of its own. One that
/// has is refused where it stands, and `named` is what it is called where it stands twice.
pub(crate) fn distinct<'de, D, T, K>(
    d: D,
    key: fn(&T) -> K,
    named: fn(&T) -> String,
    fault: fn(&T) -> Option<String>,
) -> core::result::Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
    K: Ord,
{
    let seen = RefCell::new(BTreeSet::new());
    let seen = &seen;
    d.deserialize_seq(List(Distinct {
        seen,
        key,
        named,
        fault,
    }))
}

/// An item of such a list.
struct Distinct<'a, T, K> {
    seen: &'a RefCell<BTreeSet<K>>,
    key: fn(&T) -> K,
    named: fn(&T) -> String,
    fault: fn(&T) -> Option<String>,
}

impl<T, K> Clone for Distinct<'_, T, K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T, K> Copy for Distinct<'_, T, K> {}

impl<'de, T: Deserialize<'de>, K: Ord> de::DeserializeSeed<'de> for Distinct<'_, T, K> {
    type Value = T;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> core::result::Result<T, D::Error> {
        whole(d, |item: &T| {
            if !self.seen.borrow_mut().insert((self.key)(item)) {
                return Err(format!("{} stands twice in the list", (self.named)(item)));
            }
            (self.fault)(item).map_or(Ok(()), Err)
        })
    }
}

/// Reads a mapping and says at its place what is wrong with it as a whole.
struct Whole<T, C>(C, PhantomData<T>);

impl<'de, T, C> de::Visitor<'de> for Whole<T, C>
where
    T: Deserialize<'de>,
    C: FnOnce(&T) -> core::result::Result<(), String>,
{
    type Value = T;
    fn expecting(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(MAPPING)
    }
    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> core::result::Result<T, A::Error> {
        let value = T::deserialize(de::value::MapAccessDeserializer::new(map))?;
        (self.0)(&value).map_err(de::Error::custom)?;
        Ok(value)
    }
}

/// What YAML calls a value with keys, in an error.
const MAPPING: &str = "a mapping of keys";

/// A mapping, which `check` looks at as a whole: what it says is an error at the mapping's place.
pub(crate) fn whole<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    d: D,
    check: impl FnOnce(&T) -> core::result::Result<(), String>,
) -> core::result::Result<T, D::Error> {
    d.deserialize_any(Whole(check, PhantomData))
}

/// What the parser says of a value of the wrong form, in the words of YAML and not in those of our types.
pub(crate) fn in_words_of_yaml(why: String) -> String {
    let Some((found, expected)) = why.rsplit_once(", expected ") else {
        return why;
    };
    let words = match expected {
        // The parser takes whatever is no text for an enumeration's tag.
        "a YAML tag starting with '!'" => "one word",
        "u8" => "a number from 0 to 255",
        "u32" => "a number from 0 to 4294967295",
        "u64" => "a number from 0 on",
        "a map" => MAPPING,
        form if is_struct(form) => MAPPING,
        _ => return why,
    };
    format!("{found}, expected {words}")
}

/// Whether the text is what the parser calls a type of ours, and nothing else: other texts end with what
/// somebody wrote.
fn is_struct(form: &str) -> bool {
    let name = form.strip_prefix("struct ").unwrap_or_default();
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// An allow list: within its limit, not empty.
pub(crate) fn some<'de, D, T>(d: D) -> core::result::Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    some_of(d, |_| Ok(()))
}

pub(crate) fn texts<'de, D: Deserializer<'de>>(d: D) -> core::result::Result<Vec<String>, D::Error> {
    some_of(d, |text: &String| match text.is_empty() {
        true => Err("an empty name in a list".to_owned()),
        false => Ok(()),
    })
}

/// Refuses any value, where it stands.
struct Refused(&'static str);

macro_rules! refuse {
    ($($visit:ident: $type:ty),*) => {
        $(fn $visit<E: de::Error>(self, _: $type) -> core::result::Result<(), E> {
            Err(E::custom(self.0))
        })*
    };
}

impl<'de> de::Visitor<'de> for Refused {
    type Value = ();
    fn expecting(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("nothing")
    }
    refuse!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_str: &str);
    fn visit_unit<E: de::Error>(self) -> core::result::Result<(), E> {
        Err(E::custom(self.0))
    }
    fn visit_seq<A: de::SeqAccess<'de>>(self, _: A) -> core::result::Result<(), A::Error> {
        Err(de::Error::custom(self.0))
    }
    fn visit_map<A: de::MapAccess<'de>>(self, _: A) -> core::result::Result<(), A::Error> {
        Err(de::Error::custom(self.0))
    }
}

/// Refuses a value, with why.
pub(crate) fn refused<'de, D: Deserializer<'de>>(
    d: D,
    why: &'static str,
) -> core::result::Result<(), D::Error> {
    d.deserialize_any(Refused(why))
}

pub(crate) fn digests_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "array",
        "minItems": 1,
        "items": {
            "type": "string",
            "description": "ALGORITHM:HEX, for example sha256: and 64 hex digits.",
            "pattern": "^(sha1:[0-9a-fA-F]{40}|sha256:[0-9a-fA-F]{64}|sha384:[0-9a-fA-F]{96}|sha512:[0-9a-fA-F]{128})$",
        },
    })
}
