//! CBOR that is checked whole before it is read: deterministic (RFC 8949 section 4.2.1), bounded in depth, no
//! key twice.
//!
//! Promise: after [`check`], what a [`CborReader`] passes over is well-formed, so nothing depends on who
//! reads it. Each error has the offset in the file and the place in the structure. Not here: what the
//! structure means.

use super::{Error, Result};
use cgpath_evidence::text::quoted;
use minicbor::data::Type;

/// Arrays, maps and tags are never nested deeper than this.
const MAX_DEPTH: usize = 100;

/// Checks that `bytes` are exactly one item in deterministic form. `base` is the offset of `bytes` in the
/// file.
///
/// Floating-point numbers and simple values but for false, true and null have no place in a manifest, and are
/// refused.
///
/// # Errors
/// [`Error::Incomplete`], [`Error::Malformed`], [`Error::Limit`] for the depth.
pub(super) fn check(bytes: &[u8], base: usize, place: &str) -> Result<()> {
    let mut check = Check {
        bytes,
        base,
        at: 0,
        place,
    };
    check.item(0)?;
    if check.at != bytes.len() {
        return Err(check.malformed("bytes follow its end"));
    }
    Ok(())
}

struct Check<'a> {
    bytes: &'a [u8],
    base: usize,
    at: usize,
    place: &'a str,
}

impl<'a> Check<'a> {
    fn malformed(&self, why: &str) -> Error {
        Error::Malformed {
            offset: self.base + self.at,
            place: self.place.to_owned(),
            why: why.to_owned(),
        }
    }

    fn take(&mut self, n: u64) -> Result<&'a [u8]> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let taken = usize::try_from(n).ok().and_then(|n| rest.get(..n));
        let taken = taken.ok_or_else(|| Error::Incomplete {
            offset: self.base + self.bytes.len(),
            place: self.place.to_owned(),
        })?;
        self.at += taken.len();
        Ok(taken)
    }

    /// Major type and argument, which must be in its shortest form.
    fn head(&mut self) -> Result<(u8, u64)> {
        let [first] = *self.take(1)? else {
            return Err(self.malformed("no byte"));
        };
        let (major, info) = (first >> 5, first & 0x1f);
        if major == 7 && !matches!(info, 20..=22) {
            self.at -= 1;
            return Err(self.malformed("a float, or a simple value other than false, true and null"));
        }
        let (len, least) = match info {
            0..24 => return Ok((major, u64::from(info))),
            24 => (1, 24),
            25 => (2, 1 << 8),
            26 => (4, 1 << 16),
            27 => (8, 1 << 32),
            _ => {
                self.at -= 1;
                return Err(self.malformed("not in deterministic form: an indefinite or reserved length"));
            }
        };
        let argument = self
            .take(len)?
            .iter()
            .fold(0, |n, byte| n << 8 | u64::from(*byte));
        if argument < least {
            return Err(self.malformed("not in deterministic form: a number longer than it has to be"));
        }
        Ok((major, argument))
    }

    fn text(&mut self, len: u64) -> Result<()> {
        match core::str::from_utf8(self.take(len)?) {
            Ok(_) => Ok(()),
            Err(_) => Err(self.malformed("text that is not UTF-8 ends here")),
        }
    }

    fn item(&mut self, depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(Error::Limit {
                offset: self.base + self.at,
                place: format!("{}: depth", self.place),
                found: depth as u64,
                limit: MAX_DEPTH as u64,
            });
        }
        let (major, argument) = self.head()?;
        match major {
            2 => drop(self.take(argument)?),
            3 => self.text(argument)?,
            // Each turn takes a byte at least, so a count beyond the input ends with it.
            4 => (0..argument).try_for_each(|_| self.item(depth + 1))?,
            5 => {
                let mut last: &[u8] = &[];
                for _ in 0..argument {
                    let begin = self.at;
                    self.item(depth + 1)?;
                    let key = self.bytes.get(begin..self.at).unwrap_or_default();
                    if key <= last {
                        self.at = begin;
                        let why = if key == last {
                            "a key twice"
                        } else {
                            "not in deterministic form: keys out of order"
                        };
                        return Err(self.malformed(why));
                    }
                    last = key;
                    self.item(depth + 1)?;
                }
            }
            6 => self.item(depth + 1)?,
            _ => {}
        }
        Ok(())
    }
}

/// A step from a structure to a part of it.
#[derive(Debug, Clone, Copy)]
enum Step {
    Field(&'static str),
    Item(u64),
}

/// The key of a map: a number or a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key<'b> {
    Number(i64),
    Text(&'b str),
}

impl core::fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Key::Number(n) => write!(f, "key {n}"),
            Key::Text(text) => write!(f, "key {}", quoted(text)),
        }
    }
}

/// Reads what [`check`] has checked, and knows where it is.
pub(super) struct CborReader<'b> {
    decoder: minicbor::Decoder<'b>,
    base: usize,
    place: Vec<Step>,
}

impl<'b> CborReader<'b> {
    /// Reads `bytes`, which begin at `base` of the file, after [`check`].
    ///
    /// # Errors
    /// Those of [`check`].
    pub(super) fn new(bytes: &'b [u8], base: usize, name: &'static str) -> Result<CborReader<'b>> {
        check(bytes, base, name)?;
        Ok(CborReader {
            decoder: minicbor::Decoder::new(bytes),
            base,
            place: vec![Step::Field(name)],
        })
    }

    /// Where it is, in the file.
    pub(super) fn offset(&self) -> usize {
        self.base + self.decoder.position()
    }

    /// Where it is, in the structure.
    pub(super) fn place(&self) -> String {
        let mut out = String::new();
        for step in &self.place {
            match step {
                Step::Field(name) if out.is_empty() => out.push_str(name),
                Step::Field(name) => {
                    out.push('.');
                    out.push_str(name);
                }
                Step::Item(n) => out.push_str(&format!("[{n}]")),
            }
        }
        out
    }

    pub(super) fn malformed(&self, why: impl Into<String>) -> Error {
        Error::Malformed {
            offset: self.offset(),
            place: self.place(),
            why: why.into(),
        }
    }

    pub(super) fn unsupported(&self, what: impl core::fmt::Display, hint: &'static str) -> Error {
        Error::Unsupported {
            offset: self.offset(),
            place: self.place(),
            what: what.to_string(),
            hint,
        }
    }

    pub(super) fn limit(&self, what: &str, found: u64, limit: usize) -> Error {
        Error::Limit {
            offset: self.offset(),
            place: format!("{}: {what}", self.place()),
            found,
            limit: limit as u64,
        }
    }

    /// Reads a part. Where it fails the place stays, for the error.
    pub(super) fn field<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        self.step(Step::Field(name), read)
    }

    fn step<T>(&mut self, step: Step, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.place.push(step);
        let value = read(self)?;
        self.place.pop();
        Ok(value)
    }

    fn wanted(&self, what: &str) -> Error {
        let found = self
            .decoder
            .datatype()
            .map_or("nothing".to_owned(), |t| t.to_string());
        self.malformed(format!("{found} where {what} must be"))
    }

    pub(super) fn kind(&self) -> Option<Type> {
        self.decoder.datatype().ok()
    }

    fn count(&self, count: Option<u64>, what: &str) -> Result<u64> {
        count.ok_or_else(|| self.wanted(what))
    }

    /// A map; `each` reads the value of each key.
    pub(super) fn map(&mut self, mut each: impl FnMut(&mut Self, Key<'b>) -> Result<()>) -> Result<()> {
        let count = self.decoder.map().map_err(|_| self.wanted("a map"))?;
        for _ in 0..self.count(count, "a map")? {
            let key = match self.kind() {
                Some(Type::String) => Key::Text(self.text()?),
                _ => Key::Number(self.integer()?),
            };
            each(self, key)?;
        }
        Ok(())
    }

    /// An array with one item at least; `each` reads each.
    pub(super) fn array(
        &mut self,
        limit: usize,
        mut each: impl FnMut(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let count = self.decoder.array().map_err(|_| self.wanted("an array"))?;
        let count = self.count(count, "an array")?;
        if count == 0 {
            return Err(self.malformed("an empty array"));
        }
        if count > limit as u64 {
            return Err(self.limit("items", count, limit));
        }
        (0..count).try_for_each(|n| self.step(Step::Item(n), &mut each))
    }

    /// One item, or an array of two at least (RFC 9393 `one-or-more`).
    pub(super) fn one_or_more(
        &mut self,
        limit: usize,
        mut each: impl FnMut(&mut Self) -> Result<()>,
    ) -> Result<()> {
        match self.kind() {
            Some(Type::Array) => self.array(limit, each),
            _ => each(self),
        }
    }

    /// An array of exactly `count` items, of which the head alone is read.
    pub(super) fn tuple(&mut self, count: u64) -> Result<()> {
        match self.decoder.array() {
            Ok(Some(found)) if found == count => Ok(()),
            Ok(Some(found)) => Err(self.malformed(format!("an array of {found} where {count} must be"))),
            _ => Err(self.wanted("an array")),
        }
    }

    pub(super) fn text(&mut self) -> Result<&'b str> {
        self.decoder.str().map_err(|_| self.wanted("text"))
    }

    pub(super) fn bytes(&mut self) -> Result<&'b [u8]> {
        self.decoder.bytes().map_err(|_| self.wanted("a byte string"))
    }

    pub(super) fn integer(&mut self) -> Result<i64> {
        self.decoder
            .i64()
            .map_err(|_| self.wanted("an integer below 2^63"))
    }

    pub(super) fn boolean(&mut self) -> Result<bool> {
        self.decoder.bool().map_err(|_| self.wanted("true or false"))
    }

    pub(super) fn tag(&mut self) -> Result<u64> {
        let tag = self.decoder.tag().map_err(|_| self.wanted("a tag"))?;
        Ok(tag.as_u64())
    }

    /// The tag `wanted`, and nothing else.
    pub(super) fn tagged(&mut self, wanted: u64) -> Result<()> {
        match self.tag()? {
            tag if tag == wanted => Ok(()),
            tag => Err(self.malformed(format!("tag {tag} where tag {wanted} must be"))),
        }
    }

    /// Passes over one item that says nothing of what is accepted.
    pub(super) fn skip(&mut self) -> Result<()> {
        self.decoder.skip().map_err(|_| self.wanted("an item"))
    }

    /// CBOR within a byte string, checked as the outer one was.
    pub(super) fn embedded(&mut self, name: &'static str) -> Result<CborReader<'b>> {
        let bytes = self.bytes()?;
        let mut inner = CborReader {
            decoder: minicbor::Decoder::new(bytes),
            base: self.offset() - bytes.len(),
            place: self.place.clone(),
        };
        inner.place.push(Step::Field(name));
        check(bytes, inner.base, &inner.place())?;
        Ok(inner)
    }
}
