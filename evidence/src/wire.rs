//! Deterministic CBOR (RFC 8949 section 4.2.1): one value has one encoding, anything else is refused.
//!
//! Structures are maps with small unsigned keys in rising order, absent options are left out, lengths are
//! definite and shortest. A decoder here accepts bytes only if encoding the result gives the same bytes
//! again, and begins only where what it will hold in memory is within a budget: input of many tiny items is
//! refused before anything is allocated for it.

use crate::{Error, Result, text::library_message};
use minicbor::{Decode, Encode};

/// The version of every format here that states one.
pub const VERSION: u32 = 1;

/// Refuses another version than [`VERSION`], which stands at `offset`; `named` says in words which version of
/// what was found.
pub(crate) fn check_version(
    found: impl Into<u64>,
    offset: usize,
    named: impl core::fmt::Display,
) -> Result<()> {
    if found.into() == u64::from(VERSION) {
        return Ok(());
    }
    Err(Error::malformed(offset as u64, format!("{named}, not {VERSION}")))
}

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
/// [`Error::Incomplete`], [`Error::Malformed`], [`Error::NotDeterministic`], [`Error::Limit`] if longer than
/// `limit`.
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
    weigh(bytes, what)?;
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
            Error::malformed(offset, format!("{what}: {}", library_message(&e)))
        }
    })?;
    if decoder.position() != bytes.len() {
        return Err(Error::malformed(
            decoder.position() as u64,
            format!("{what}: bytes follow its end"),
        ));
    }
    let mut same = Same(bytes);
    if minicbor::encode(&value, &mut same).is_err() || !same.0.is_empty() {
        return Err(Error::NotDeterministic { what });
    }
    Ok(value)
}

/// Takes what is written only as far as it is what is expected, so that a comparison holds no second copy.
struct Same<'a>(&'a [u8]);

impl minicbor::encode::Write for Same<'_> {
    type Error = Other;

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), Other> {
        self.0 = self.0.strip_prefix(bytes).ok_or(Other)?;
        Ok(())
    }
}

/// Something else was written than what is expected.
#[derive(Debug)]
struct Other;

impl core::fmt::Display for Other {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("something else is written")
    }
}

impl core::error::Error for Other {}

/// What is decoded may hold at most this many bytes of memory for each byte of input, by the weights of
/// [`weigh`].
pub const MAX_EXPANSION: usize = 8;
/// What it may hold beyond that, so that no small value is refused.
const FREE: usize = 64 * 1024;
/// Levels of arrays and maps within one another. Evidence has 9.
const MAX_DEPTH: usize = 16;
/// What an allocation costs beside its bytes.
const ALLOCATION: usize = 16;
/// A `Vec`, as an array holds them.
const HANDLE: usize = size_of::<Vec<u8>>();
/// A field of a structure.
const FIELD: usize = 16;
/// An integer in an array.
const INTEGER: usize = 8;

/// One header of CBOR (RFC 8949 section 3): major type, argument, and how many bytes both take.
///
/// # Errors
/// [`Error::Incomplete`]; [`Error::NotDeterministic`] for an indefinite length.
pub(crate) fn header(bytes: &[u8], at: usize, what: &'static str) -> Result<(u8, u64, usize)> {
    let incomplete = || Error::Incomplete {
        offset: at as u64,
        need: 1,
        what,
    };
    let first = *bytes.get(at).ok_or_else(incomplete)?;
    let (major, info) = (first >> 5, first & 0x1f);
    let len = match info {
        0..24 => return Ok((major, info.into(), 1)),
        24..28 => 1_usize << (info - 24),
        28..31 => {
            let why = format!("{what}: {info} is no additional information of an item");
            return Err(Error::malformed(at as u64, why));
        }
        _ => return Err(Error::NotDeterministic { what }),
    };
    let argument = bytes.get(at + 1..at + 1 + len).ok_or_else(incomplete)?;
    let argument = argument.iter().fold(0, |n, b| n << 8 | u64::from(*b));
    Ok((major, argument, 1 + len))
}

/// Decodes an array into a `Vec` of its length, where each item takes at least `min` bytes: no more is
/// allocated than is needed, and none for a count that the bytes cannot hold.
pub(crate) fn list<'b, C, T: Decode<'b, C>>(
    d: &mut minicbor::Decoder<'b>,
    ctx: &mut C,
    min: usize,
) -> Result<Vec<T>, minicbor::decode::Error> {
    let at = d.position();
    let count = d.array()?.and_then(|count| usize::try_from(count).ok());
    let count = count.ok_or_else(|| minicbor::decode::Error::message("no array of a length").at(at))?;
    let left = d.input().len().saturating_sub(d.position());
    let mut list = Vec::with_capacity(count.min(left / min));
    for _ in 0..count {
        list.push(d.decode_with(ctx)?);
    }
    Ok(list)
}

/// What is still to come of an array or a map.
#[derive(Clone, Copy, Default)]
struct Open {
    items: u64,
    is_array: bool,
}

/// About how many bytes of memory the value will hold that these bytes begin with. Nothing is allocated.
///
/// A count is believed only as far as each item has a byte left. Weights follow what our types hold: a field
/// of a structure, a `Vec` for a byte string within an array; `fuzz/tests/memory.rs` measures what decoders
/// really take.
///
/// # Errors
/// [`Error::Incomplete`], [`Error::NotDeterministic`]; [`Error::Malformed`] for deeper nesting than any
/// format here has; [`Error::Expansion`] beyond the budget.
fn weigh(bytes: &[u8], what: &'static str) -> Result<usize> {
    let budget = bytes.len().saturating_mul(MAX_EXPANSION).saturating_add(FREE);
    let (mut at, mut weight) = (0, 0_usize);
    let (mut open, mut depth) = ([Open::default(); MAX_DEPTH], 0);
    loop {
        let (major, argument, len) = header(bytes, at, what)?;
        let is_array = depth > 0 && open[depth - 1].is_array;
        let left = (bytes.len() - at - len) as u64;
        // What must follow at least: the bytes of a string, one for each item.
        let (follows, takes) = match major {
            2 | 3 => {
                let own = usize::try_from(argument).unwrap_or(usize::MAX);
                let own = if own == 0 {
                    0
                } else {
                    own.saturating_add(ALLOCATION)
                };
                (argument, own.saturating_add(if is_array { HANDLE } else { 0 }))
            }
            4 => (argument, HANDLE),
            5 => {
                let fields = usize::try_from(argument).unwrap_or(usize::MAX);
                (argument.saturating_mul(2), fields.saturating_mul(FIELD))
            }
            6 => (1, 0),
            _ => (0, if is_array { INTEGER } else { 0 }),
        };
        if follows > left {
            // A string lacks bytes of its own; of an array, the next item is not there.
            let is_string = matches!(major, 2 | 3);
            return Err(Error::Incomplete {
                offset: if is_string { at } else { bytes.len() } as u64,
                need: follows - left,
                what,
            });
        }
        weight = weight.saturating_add(takes);
        if weight > budget {
            return Err(Error::Expansion {
                offset: at as u64,
                what,
                limit: budget as u64,
            });
        }
        at += len;
        match major {
            // At most what is left: fits.
            2 | 3 => at += usize::try_from(argument).unwrap_or(usize::MAX),
            4 | 5 if follows > 0 => {
                if depth == MAX_DEPTH {
                    let why = format!("{what}: more than {MAX_DEPTH} levels");
                    return Err(Error::malformed(at as u64, why));
                }
                open[depth] = Open {
                    items: follows,
                    is_array: major == 4,
                };
                depth += 1;
                continue;
            }
            // A tag is part of the item behind it.
            6 => continue,
            _ => {}
        }
        loop {
            if depth == 0 {
                return Ok(weight);
            }
            let level = &mut open[depth - 1];
            level.items -= 1;
            if level.items > 0 {
                break;
            }
            depth -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Files = Vec<minicbor::bytes::ByteVec>;

    fn files(n: usize, len: usize) -> Vec<u8> {
        to_vec(&vec![minicbor::bytes::ByteVec::from(vec![7; len]); n])
    }

    #[test]
    fn many_tiny_items_are_refused_by_the_place_where_the_budget_ends() {
        // A byte each, and a `Vec` of 24 bytes each.
        let bytes = files(1_000_000, 0);
        let Err(Error::Expansion { offset, limit, .. }) = from_slice::<Files>(&bytes, "files", bytes.len())
        else {
            panic!("a million empty files are taken");
        };
        assert_eq!(limit, 8 * bytes.len() as u64 + 65_536);
        assert!((300_000..400_000).contains(&offset), "{offset}");
        // As many bytes in items of some length, and few items of no length.
        for good in [files(20_000, 50), files(2_000, 0)] {
            assert!(from_slice::<Files>(&good, "files", good.len()).is_ok());
        }
    }

    #[test]
    fn a_count_is_bounded_by_the_bytes_that_are_left() {
        for (bytes, offset, need) in [
            (&[0x9b, 0, 0, 0, 1, 0, 0, 0, 0, 1][..], 10, 0xffff_ffff),
            (&[0x82, 0x40], 2, 1),
            (
                &[0xbb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0],
                10,
                u64::MAX - 1,
            ),
            (&[0x5a, 0xff, 0, 0, 0, 1], 0, 0xff00_0000 - 1),
        ] {
            let found = from_slice::<Files>(bytes, "files", 100);
            let expected = Error::Incomplete {
                offset,
                need,
                what: "files",
            };
            assert_eq!(found.err(), Some(expected));
        }
    }

    #[test]
    fn what_is_nested_deeper_than_any_format_is_refused_and_no_stack_is_used_up() {
        let deep = [vec![0x81; 1_000_000], vec![0x80]].concat();
        let found = from_slice::<Files>(&deep, "files", deep.len());
        assert!(
            matches!(found, Err(Error::Malformed { offset: 17, .. })),
            "{found:?}"
        );
    }

    #[test]
    fn indefinite_lengths_and_longer_arguments_are_not_the_one_form() {
        for bytes in [&[0x9f, 0xff][..], &[0x98, 0], &[0x81, 0x58, 0]] {
            let found = from_slice::<Files>(bytes, "files", 100);
            assert_eq!(found.err(), Some(Error::NotDeterministic { what: "files" }));
        }
    }
}
