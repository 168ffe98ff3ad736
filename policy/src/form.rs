//! Forms of values that policies and reference files share: how each is read, and what its JSON Schema says
//! where the type does not say it.
//!
//! Promises: lists end at [`MAX_ITEMS`]; an allow list is not empty. Not here: forms of a node's policy alone
//! (see `node::form`).

use serde::{Deserialize, Deserializer, de};

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
    struct List<T>(core::marker::PhantomData<T>);
    impl<'de, T: Deserialize<'de>> de::Visitor<'de> for List<T> {
        type Value = Vec<T>;
        fn expecting(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
            f.write_str("a list")
        }
        fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> core::result::Result<Vec<T>, A::Error> {
            let mut list = Vec::new();
            while let Some(item) = seq.next_element()? {
                if list.len() == MAX_ITEMS {
                    return Err(de::Error::custom(format!("a list has at most {MAX_ITEMS} items")));
                }
                list.push(item);
            }
            Ok(list)
        }
    }
    d.deserialize_seq(List(core::marker::PhantomData))
}

/// An allow list: within its limit, not empty.
pub(crate) fn some<'de, D, T>(d: D) -> core::result::Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let list = bounded(d)?;
    if list.is_empty() {
        return Err(de::Error::custom(
            "an empty allow list would accept nothing: name what is allowed",
        ));
    }
    Ok(list)
}

pub(crate) fn texts<'de, D: Deserializer<'de>>(d: D) -> core::result::Result<Vec<String>, D::Error> {
    let list: Vec<String> = some(d)?;
    if list.iter().any(String::is_empty) {
        return Err(de::Error::custom("an empty name in a list"));
    }
    Ok(list)
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
