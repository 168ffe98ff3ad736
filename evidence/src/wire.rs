//! Deterministic CBOR (RFC 8949 section 4.2.1): one value has one encoding, anything else is refused.
//!
//! Structures are maps with small unsigned keys in rising order, absent options are left out, lengths are definite
//! and shortest. A decoder here accepts bytes only if encoding the result gives the same bytes again.

use crate::{Error, Result};
use minicbor::{Decode, Encode};

/// Encodes a value.
pub fn to_vec<T: Encode<()>>(value: &T) -> Vec<u8> {
    let mut out = Vec::new();
    append(value, &mut out);
    out
}

/// Encodes a value behind what is there.
pub fn append<T: Encode<()>>(value: &T, out: &mut Vec<u8>) {
    // The writer is a Vec, which cannot fail, and no `Encode` of this crate refuses its own value.
    minicbor::encode(value, Inline(out)).expect("encoding into memory cannot fail");
}

/// Most writes are a header of one byte: worth no call.
struct Inline<'a>(&'a mut Vec<u8>);

impl minicbor::encode::Write for Inline<'_> {
    type Error = core::convert::Infallible;

    #[inline(always)]
    fn write_all(&mut self, bytes: &[u8]) -> Result<(), Self::Error> {
        match bytes {
            [byte] => self.0.push(*byte),
            _ => self.0.extend_from_slice(bytes),
        }
        Ok(())
    }
}

/// Decodes `bytes`, all of them, and refuses any but the deterministic form.
///
/// # Errors
/// [`Error::Incomplete`], [`Error::Malformed`], [`Error::NotDeterministic`], [`Error::Limit`] if longer than `limit`.
pub fn from_slice<'b, T: Decode<'b, ()> + Encode<()>>(
    bytes: &'b [u8],
    what: &'static str,
    limit: usize,
) -> Result<T> {
    if bytes.len() > limit {
        return Err(Error::Limit {
            offset: 0,
            what,
            found: bytes.len() as u64,
            limit: limit as u64,
        });
    }
    let mut decoder = minicbor::Decoder::new(bytes);
    let value: T = decoder.decode().map_err(|e| {
        let offset = e.position().unwrap_or_else(|| decoder.position()) as u64;
        if e.is_end_of_input() {
            Error::Incomplete {
                offset,
                need: 1,
                what,
            }
        } else {
            Error::malformed(offset, format!("{what}: {e}"))
        }
    })?;
    if decoder.position() != bytes.len() {
        return Err(Error::malformed(
            decoder.position() as u64,
            format!("{what}: bytes follow its end"),
        ));
    }
    if to_vec(&value) != bytes {
        return Err(Error::NotDeterministic { what });
    }
    Ok(value)
}
