//! The ASCII form: reading lines, and writing them where that is safe.
//!
//! The kernel escapes nothing: a file name with a newline or a blank breaks its line or forges another.
//! Reading can only find that out by the digest; writing refuses such names.

use super::decode::{ByteOrder, MAX_PCR};
use super::template::{Field, Format, IMA, Template, Templates, check_name};
use super::{FieldValue, IMA_DIGEST_LEN, ListEntry, Listed, Value};
use crate::{Error, Result, text::foreign};
use bytes::Bytes;
use std::borrow::Cow;

/// Reads one line without its newline. `terminated` says whether a newline followed: if not, the line may be
/// cut.
pub(super) fn parse_line(
    line: &[u8],
    index: u64,
    offset: u64,
    templates: &Templates,
    terminated: bool,
) -> Result<ListEntry> {
    let number = index + 1;
    let whole = |result: Result<ListEntry, Malformed>| -> Result<ListEntry> {
        match result {
            Ok(entry) if terminated || entry.listed() != Listed::Differs => Ok(entry),
            // The token in which the error lies may go on behind the end.
            Err(bad) if terminated || line.get(bad.at..).unwrap_or_default().contains(&b' ') => Err(
                Error::malformed(offset + bad.at as u64, format!("line {number}: {}", bad.why)),
            ),
            Ok(_) | Err(_) => Err(Error::Incomplete {
                offset,
                need: 1,
                what: "line",
            }),
        }
    };
    whole(parse(line, index, offset, templates))
}

struct Malformed {
    at: usize,
    why: String,
}

fn bad<T>(at: usize, why: impl Into<String>) -> Result<T, Malformed> {
    Err(Malformed { at, why: why.into() })
}

/// Cuts `line` at the next blank from `at`: the token and where the rest begins; `None` where no blank
/// follows.
fn token(line: &[u8], at: usize) -> (&[u8], Option<usize>) {
    let rest = line.get(at..).unwrap_or_default();
    match rest.iter().position(|b| *b == b' ') {
        Some(len) => (&rest[..len], Some(at + len + 1)),
        None => (rest, None),
    }
}

fn parse(line: &[u8], index: u64, offset: u64, templates: &Templates) -> Result<ListEntry, Malformed> {
    // "%2d "
    let at = line.iter().take_while(|b| **b == b' ').count();
    let (pcr_text, next) = token(line, at);
    let pcr = core::str::from_utf8(pcr_text)
        .ok()
        .filter(|t| !t.is_empty() && t.len() <= 2 && t.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|t| t.parse::<u32>().ok())
        .filter(|pcr| *pcr <= MAX_PCR);
    let Some(pcr) = pcr else {
        return bad(
            at,
            format!("`{}` is no PCR from 0 to {MAX_PCR}", foreign(pcr_text)),
        );
    };
    let Some(at) = next else {
        return bad(at, "ends after the PCR");
    };

    let (digest_text, next) = token(line, at);
    let Some(digest) = hex::decode(digest_text)
        .ok()
        .filter(|d| [20, 32, 48, 64].contains(&d.len()))
    else {
        return bad(
            at,
            format!(
                "`{}` is no digest of 20, 32, 48 or 64 bytes in hex",
                foreign(digest_text)
            ),
        );
    };
    let Some(at) = next else {
        return bad(at, "ends after the digest");
    };

    let (name, next) = token(line, at);
    if let Err(why) = check_name(name) {
        return bad(at, why);
    }
    let template = match templates.resolve(name, 0) {
        Ok(template) => template,
        Err(Error::Malformed { why, .. }) => return bad(at, why),
        Err(other) => return bad(at, other.to_string()),
    };
    let texts = split_fields(line, next, &template)?;

    let build = |order: ByteOrder, empty: &[u8]| -> Result<ListEntry, Malformed> {
        let mut record = Vec::with_capacity(line.len() + 64);
        record.extend(pcr.to_le_bytes());
        record.extend(&digest);
        record.extend((name.len() as u32).to_le_bytes());
        record.extend(name);
        let data = data(&template, name == IMA, &texts, order, empty)?;
        if name != IMA {
            record.extend((data.len() as u32).to_le_bytes());
        }
        record.extend(data);
        let record = Bytes::from(record);
        Ok(ListEntry {
            index,
            offset,
            digest_len: digest.len(),
            name_len: name.len(),
            order,
            record,
        })
    };
    let entry = build(ByteOrder::Little, &[])?;
    if name == IMA || entry.listed() != Listed::Differs {
        return Ok(entry);
    }
    // ASCII says neither on what machine the lengths were hashed nor whether an empty text has its NUL.
    for (order, empty) in [
        (ByteOrder::Big, &[][..]),
        (ByteOrder::Little, &[0]),
        (ByteOrder::Big, &[0]),
    ] {
        let other = build(order, empty)?;
        if other.listed() != Listed::Differs {
            return Ok(other);
        }
    }
    Ok(entry)
}

/// Where each field's text begins, and the text.
fn split_fields<'a>(
    line: &'a [u8],
    mut next: Option<usize>,
    template: &Template,
) -> Result<Vec<(usize, &'a [u8])>, Malformed> {
    let fields = template.fields();
    let mut texts = Vec::with_capacity(fields.len());
    for (n, field) in fields.iter().enumerate() {
        let Some(at) = next else {
            let why = format!(
                "{n} of {} fields; an empty field keeps its blank: was the line's end trimmed?",
                fields.len()
            );
            return bad(line.len(), why);
        };
        let last = n + 1 == fields.len();
        let (text, rest) = match field.format() {
            // Blanks in a name are `_` on every kernel since 3.13; on older ones the name is all that is
            // left.
            Format::Text if last => (line.get(at..).unwrap_or_default(), None),
            _ => token(line, at),
        };
        if last && let Some(extra) = rest {
            return bad(
                extra,
                format!("more than the {} fields of the template", fields.len()),
            );
        }
        texts.push((at, text));
        next = rest;
    }
    Ok(texts)
}

/// The template data that the kernel had before it printed these texts.
fn data(
    template: &Template,
    is_ima: bool,
    texts: &[(usize, &[u8])],
    order: ByteOrder,
    empty: &[u8],
) -> Result<Vec<u8>, Malformed> {
    let mut data = Vec::new();
    for (field, (at, text)) in template.fields().iter().zip(texts) {
        let at = *at;
        if is_ima && *field == Field::N {
            if text.len() > super::IMA_HASHED_NAME_LEN - 1 || text.contains(&0) {
                return bad(at, "a name of more than 255 bytes, or with a NUL");
            }
            data.extend((text.len() as u32).to_le_bytes());
            data.extend(*text);
            continue;
        }
        let bytes = field_bytes(*field, text, order, empty).or_else(|why| bad(at, why))?;
        if is_ima {
            if bytes.len() != IMA_DIGEST_LEN {
                return bad(
                    at,
                    format!("a digest of {} bytes, not {IMA_DIGEST_LEN}", bytes.len()),
                );
            }
        } else {
            field.check(&bytes).or_else(|why| bad(at, why))?;
            data.extend(order.bytes(bytes.len() as u32));
        }
        data.extend(bytes);
    }
    Ok(data)
}

/// `empty` is what an empty text other than the file's name stands for: nothing, or a NUL alone.
fn field_bytes(field: Field, text: &[u8], order: ByteOrder, empty: &[u8]) -> Result<Vec<u8>, String> {
    let unhex = |text: &[u8]| {
        hex::decode(text).map_err(|e| format!("field `{}`: `{}` is no hex ({e})", field.id(), foreign(text)))
    };
    if text.is_empty() && !matches!(field, Field::N | Field::NNg) {
        return Ok(if field.format() == Format::Text {
            empty.to_vec()
        } else {
            Vec::new()
        });
    }
    match field.format() {
        Format::Digest | Format::Hex => unhex(text),
        Format::DigestWithAlgorithm | Format::DigestWithType => {
            let colon = text.iter().rposition(|b| *b == b':');
            let (names, digest) = match colon {
                Some(at) => (&text[..at], &text[at + 1..]),
                None => (&[][..], text),
            };
            // Said before the digest's own faults: an unknown name explains them.
            let algorithm = names.rsplit(|b| *b == b':').next().unwrap_or_default();
            if !algorithm.is_empty() && super::Algorithm::from_name(algorithm).is_none() {
                return Err(format!(
                    "field `{}`: unknown hash algorithm `{}`",
                    field.id(),
                    foreign(algorithm)
                ));
            }
            let mut bytes = names.to_vec();
            bytes.extend(b":\0");
            bytes.extend(unhex(digest)?);
            Ok(bytes)
        }
        Format::Text => {
            let mut bytes = text.to_vec();
            bytes.push(0);
            Ok(bytes)
        }
        Format::Uint(len) => {
            let number = core::str::from_utf8(text)
                .ok()
                .and_then(|t| t.parse::<u32>().ok());
            let number = number.filter(|n| len == 4 || *n <= u32::from(u16::MAX));
            let number = number.ok_or_else(|| {
                format!(
                    "field `{}`: `{}` is no {len}-byte number",
                    field.id(),
                    foreign(text)
                )
            })?;
            let word = order.bytes(number);
            Ok(match (len, order) {
                (2, ByteOrder::Little) => word[..2].to_vec(),
                (2, ByteOrder::Big) => word[2..].to_vec(),
                _ => word.to_vec(),
            })
        }
    }
}

/// Why an entry cannot be written as an ASCII line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unsafe {
    /// The data is not its template's fields.
    #[error(transparent)]
    Entry(#[from] Error),
    /// A byte that would break the line or a column.
    #[error("entry {index}: field `{field}` has the byte {byte:#04x} at {at}; an ASCII list cannot hold it")]
    Byte {
        /// Index of the entry.
        index: u64,
        /// The field's name.
        field: &'static str,
        /// Where in the field, from 0.
        at: usize,
        /// The byte.
        byte: u8,
    },
}

impl<B: AsRef<[u8]>> ListEntry<B> {
    /// The entry as the kernel's ASCII list has it, without the newline.
    ///
    /// # Errors
    /// [`Unsafe::Byte`] for names that would break or forge a line: blanks, control characters, DEL. The
    /// kernel itself writes them as they are.
    pub fn to_ascii(&self, templates: &Templates) -> Result<Vec<u8>, Unsafe> {
        let mut line = self.ascii_start().into_bytes();
        for field in self.fields(templates)? {
            let text = field.ascii()?;
            if let Some(at) = text.iter().position(|b| *b <= b' ' || *b == 0x7f) {
                let (index, field, byte) = (self.index(), field.field.id(), text[at]);
                return Err(Unsafe::Byte {
                    index,
                    field,
                    at,
                    byte,
                });
            }
            line.push(b' ');
            line.extend_from_slice(&text);
        }
        Ok(line)
    }

    /// The PCR, the listed digest and the template's name as an ASCII list has them, up to the blank before
    /// the first field.
    pub fn ascii_start(&self) -> String {
        let name = self.template_name().escape_ascii();
        format!("{:2} {} {name}", self.pcr(), hex::encode(self.listed_digest()))
    }
}

impl<'a> FieldValue<'a> {
    /// The field's column in an ASCII list, raw: names can hold any byte but NUL.
    ///
    /// # Errors
    /// As [`FieldValue::value`].
    pub fn ascii(&self) -> Result<Cow<'a, [u8]>> {
        Ok(match self.value()? {
            Value::Empty => Cow::Borrowed(&[]),
            Value::Text(text) => Cow::Borrowed(text),
            Value::Raw(bytes) => Cow::Owned(hex::encode(bytes).into_bytes()),
            Value::Number(number) => Cow::Owned(number.to_string().into_bytes()),
            Value::Digest(digest) => {
                let kind = digest.kind.map(|k| format!("{}:", k.name())).unwrap_or_default();
                // Old kernels print no name for SHA-1 and MD5 where the field has none.
                let named = self.field != Field::D && self.bytes.first() != Some(&b':');
                let name = if named {
                    format!("{}:", digest.algorithm.name())
                } else {
                    String::new()
                };
                Cow::Owned(format!("{kind}{name}{}", hex::encode(digest.bytes)).into_bytes())
            }
        })
    }
}
