//! JSON that says one thing only: a key that stands twice, one that is not known, and any other writing of
//! the same value (digits in capitals, a number as a float) is refused.
//!
//! Two readers of a JSON object with a key twice may each take another of the two values (RFC 8259 section
//! 4), so signed or hashed claims must not hold one. White space and the order of keys are free.

use crate::{
    Error, Result,
    text::{library_message, quoted},
};
use serde::{
    Deserialize, Serialize,
    de::{self, DeserializeOwned, Deserializer, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

/// A value in which no object has a key twice.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(d: D) -> core::result::Result<Strict, D::Error> {
        d.deserialize_any(AnyValue).map(Strict)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("any JSON value")
    }
    fn visit_unit<E>(self) -> core::result::Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, value: bool) -> core::result::Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_u64<E>(self, value: u64) -> core::result::Result<Value, E> {
        Ok(value.into())
    }
    fn visit_i64<E>(self, value: i64) -> core::result::Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E: de::Error>(self, value: f64) -> core::result::Result<Value, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("a number that is none"))?;
        Ok(Value::Number(number))
    }
    fn visit_str<E>(self, value: &str) -> core::result::Result<Value, E> {
        Ok(value.into())
    }
    fn visit_string<E>(self, value: String) -> core::result::Result<Value, E> {
        Ok(Value::String(value))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> core::result::Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Strict(value)) = seq.next_element()? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> core::result::Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if object.contains_key(&key) {
                return Err(de::Error::custom(format!(
                    "the key {} stands twice in one object",
                    quoted(&key)
                )));
            }
            let Strict(value) = map.next_value()?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

/// Reads any JSON value of at most `limit` bytes, refusing keys that stand twice.
///
/// # Errors
/// [`Error::Limit`], [`Error::Incomplete`], [`Error::Malformed`] with the offset.
pub fn value(bytes: &[u8], what: &'static str, limit: usize) -> Result<Value> {
    if bytes.len() > limit {
        return Err(Error::Limit {
            offset: 0,
            what,
            found: bytes.len() as u64,
            limit: limit as u64,
        });
    }
    match serde_json::from_slice::<Strict>(bytes) {
        Ok(Strict(value)) => Ok(value),
        Err(error) if error.is_eof() => Err(Error::Incomplete {
            offset: bytes.len() as u64,
            need: 1,
            what,
        }),
        Err(error) => Err(Error::malformed(
            offset(bytes, &error),
            format!("{what} as JSON: {}", library_message(&error)),
        )),
    }
}

/// Where in `bytes` an error stands, which counts lines and columns from 1.
fn offset(bytes: &[u8], error: &serde_json::Error) -> u64 {
    let before = bytes
        .split_inclusive(|b| *b == b'\n')
        .take(error.line().saturating_sub(1));
    (before.map(<[u8]>::len).sum::<usize>() + error.column().saturating_sub(1)) as u64
}

/// Writes a value.
///
/// # Errors
/// [`Error::Malformed`] for a value that JSON has no form for.
pub fn to_vec<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Error::malformed(0, e.to_string()))
}

/// Reads a value that writes the same JSON again, but for white space and the order of keys.
///
/// # Errors
/// As [`value`]; [`Error::NotDeterministic`] where something would be lost or written in another way.
pub fn from_slice<T: DeserializeOwned + Serialize>(
    bytes: &[u8],
    what: &'static str,
    limit: usize,
) -> Result<T> {
    let read = value(bytes, what, limit)?;
    let typed: T = serde_json::from_slice(bytes).map_err(|e| {
        Error::malformed(
            offset(bytes, &e),
            format!("{what} as JSON: {}", library_message(&e)),
        )
    })?;
    let again = serde_json::to_value(&typed)
        .map_err(|e| Error::malformed(0, format!("{what}: {}", library_message(&e))))?;
    if again != read {
        return Err(Error::NotDeterministic { what });
    }
    Ok(typed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Record, record::sample};

    fn read(text: &str) -> Result<Record> {
        from_slice(text.as_bytes(), "record", 1 << 20)
    }

    #[test]
    fn a_key_that_stands_twice_is_refused_wherever_it_stands() {
        let good = String::from_utf8(to_vec(&sample(3, "/kubepods/x", "/bin/true")).unwrap()).unwrap();
        assert!(read(&good).is_ok());
        assert!(read(&format!(" {}\n", good.replace(',', ", "))).is_ok());
        for (from, to) in [
            ("{\"seq\":3", "{\"seq\":4,\"seq\":3"),
            ("\"tgid\":10", "\"tgid\":10,\"tgid\":10"),
            ("{\"seq\":3", "{\"other\":1,\"other\":1,\"seq\":3"),
            ("{\"seq\":3", "{\"s\\u0065q\":3,\"seq\":3"),
        ] {
            let twice = good.replacen(from, to, 1);
            assert_ne!(twice, good);
            let error = read(&twice).unwrap_err().to_string();
            assert!(error.contains("stands twice"), "{error}");
        }
    }

    #[test]
    fn what_would_be_lost_or_written_in_another_way_is_refused() {
        let good = String::from_utf8(to_vec(&sample(3, "/kubepods/x", "/bin/true")).unwrap()).unwrap();
        let unknown = good.replacen("{\"seq\":3", "{\"other\":1,\"seq\":3", 1);
        assert_eq!(read(&unknown), Err(Error::NotDeterministic { what: "record" }));
        let hex = good.replacen("\"/bin/true\"", "{\"hex\":\"2f\"}", 1);
        assert_eq!(read(&hex), Err(Error::NotDeterministic { what: "record" }));
        assert!(read(&good.replacen("\"seq\":3", "\"seq\":3.0", 1)).is_err());
        assert!(read(&good.replacen("\"seq\":3", "\"seq\":18446744073709551616", 1)).is_err());
    }

    #[test]
    fn errors_name_the_place_and_a_cut_text_is_incomplete() {
        let Err(Error::Malformed { offset, .. }) = read("{\n \"seq\": x") else {
            panic!()
        };
        assert_eq!(offset, 10);
        assert!(matches!(read("{\"seq\":"), Err(Error::Incomplete { .. })));
        assert!(matches!(
            value(b"[1,2]", "list", 4),
            Err(Error::Limit {
                found: 5,
                limit: 4,
                ..
            })
        ));
        assert!(matches!(
            value(&[b'['; 10_000], "list", 10_000),
            Err(Error::Malformed { .. })
        ));
    }
}
