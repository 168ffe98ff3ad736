//! Byte strings as lower-case hex in JSON (`#[serde(with = "serde_bytes_hex")]`).

use serde::{Deserialize, Deserializer, Serializer};

/// Writes hex.
pub fn serialize<S: Serializer, T: AsRef<[u8]>>(bytes: &T, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&hex::encode(bytes))
}

/// Reads hex.
pub fn deserialize<'de, D: Deserializer<'de>, T: TryFrom<Vec<u8>>>(d: D) -> Result<T, D::Error> {
    let text = String::deserialize(d)?;
    let bytes = hex::decode(&text).map_err(serde::de::Error::custom)?;
    T::try_from(bytes).map_err(|_| serde::de::Error::custom("hex of a wrong length"))
}

/// The same for `Option`.
pub mod option {
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes hex or null.
    pub fn serialize<S: Serializer, T: AsRef<[u8]>>(bytes: &Option<T>, s: S) -> Result<S::Ok, S::Error> {
        match bytes {
            Some(b) => s.serialize_some(&hex::encode(b)),
            None => s.serialize_none(),
        }
    }

    /// Reads hex or null.
    pub fn deserialize<'de, D: Deserializer<'de>, T: TryFrom<Vec<u8>>>(d: D) -> Result<Option<T>, D::Error> {
        let Some(text) = Option::<String>::deserialize(d)? else {
            return Ok(None);
        };
        let bytes = hex::decode(&text).map_err(serde::de::Error::custom)?;
        T::try_from(bytes)
            .map(Some)
            .map_err(|_| serde::de::Error::custom("hex of a wrong length"))
    }
}

/// A list of byte strings.
pub mod list {
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes an array of hex strings.
    pub fn serialize<S: Serializer, T: AsRef<[u8]>>(list: &[T], s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(list.iter().map(hex::encode))
    }

    /// Reads an array of hex strings.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Vec<u8>>, D::Error> {
        let list = Vec::<String>::deserialize(d)?;
        list.iter()
            .map(|t| hex::decode(t).map_err(serde::de::Error::custom))
            .collect()
    }
}
