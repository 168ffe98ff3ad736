//! Measurement lists: the kernel's binary form, its ASCII form, and one entry with what it says.
//!
//! Promises: every input gives entries or an error with its offset, never a panic; memory is bounded by
//! [`Limits`]; an entry's data bytes are kept as the kernel hashed them, so that digests can be computed from
//! them.
//! Not here: registers (see `replay`), whose an entry is (see `cgroup`), whether it is allowed (see
//! `cgpath-appraisal`).
//!
//! # Forms
//! A binary list is a sequence of records: PCR (u32), template digest, length of the template's name (u32),
//! the name, length of the data (u32), the data; the data is a sequence of fields, each a length (u32) and
//! its bytes. Integers are in the host's byte order, or little-endian with `ima_canonical_fmt`. The digest
//! has the length of the list's bank: SHA-1 in `binary_runtime_measurements`, any other in
//! `binary_runtime_measurements_<alg>`.
//!
//! The old `ima` template has no data length and no length before its 20-byte digest, and its name has no
//! NUL.
//!
//! *Canonical* here is the record with a little-endian header, whatever the list's byte order was. The data
//! stays as it was read, because its lengths are part of what the kernel hashed.
//!
//! Source: security/integrity/ima/ima_fs.c, `ima_measurements_show` and `ima_ascii_measurements_show`.

mod algorithm;
mod ascii;
mod decode;
mod tag;
mod template;

pub use algorithm::{Algorithm, DigestKind, FileDigest};
pub use ascii::Unsafe;
pub use decode::{ByteOrder, Decoder, Form, Format, Layout, Limits, MAX_PCR};
pub use tag::unescaped;
pub use template::{BUILTIN, Field, MAX_FIELDS, MAX_TEMPLATE_NAME_LEN, Template, Templates};

use crate::{Bank, Digest, Entry, EntryHash, Error, Result};
use bytes::Bytes;

/// The old template's digest field has this many bytes.
const IMA_DIGEST_LEN: usize = 20;
/// The old template's name is hashed padded to this many bytes. Source: ima.h, IMA_EVENT_NAME_LEN_MAX + 1.
const IMA_HASHED_NAME_LEN: usize = 256;

/// A name as the kernel writes it into a template's string fields: `_` for each space, in the binary and the
/// ASCII list alike. Source: security/integrity/ima/ima_template_lib.c, `ima_write_template_field_data`.
pub fn as_listed(name: &[u8]) -> std::borrow::Cow<'_, [u8]> {
    if name.contains(&b' ') {
        name.iter()
            .map(|byte| if *byte == b' ' { b'_' } else { *byte })
            .collect()
    } else {
        name.into()
    }
}

/// One entry of a measurement list.
///
/// Holds its canonical record (see the module) in `B`: [`Bytes`] when it comes from a [`Decoder`], sharing
/// the decoder's buffer, or `&[u8]` where a record is only looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListEntry<B = Bytes> {
    index: u64,
    offset: u64,
    digest_len: usize,
    name_len: usize,
    order: ByteOrder,
    record: B,
}

/// The hash bank that a list's digests belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ListBank {
    /// One of the banks that are replayed.
    Bank(Bank),
    /// SM3: its lists are read and their digests checked, no register is computed.
    Sm3,
}

impl ListBank {
    /// `sha1`, …, `sm3_256`.
    pub const fn name(self) -> &'static str {
        match self {
            ListBank::Bank(bank) => bank.name(),
            ListBank::Sm3 => "sm3_256",
        }
    }
}

impl core::fmt::Display for ListBank {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

/// What checking an entry's listed digest against its own bytes gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Listed {
    /// All zero: a violation. Its bytes are bound by nothing but the register.
    Violation,
    /// It is the digest of the bytes in this bank.
    Matches(ListBank),
    /// It is the SHA-1 digest followed by zeros: the bank's hash was not available to the kernel.
    PaddedSha1(Bank),
    /// It is not the digest of the bytes.
    Differs,
}

/// A field and its bytes as the data holds them (text with its NUL).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FieldValue<'a> {
    /// Which field.
    pub field: Field,
    /// Its bytes.
    pub bytes: &'a [u8],
    order: ByteOrder,
    offset: u64,
    /// The old template's name, which stands in the list without its NUL.
    bare: bool,
}

/// What a field says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// The field is empty: nothing of the kind was there.
    Empty,
    /// A file's digest.
    Digest(FileDigest<'a>),
    /// Text without its NUL; any bytes but NUL.
    Text(&'a [u8]),
    /// Anything.
    Raw(&'a [u8]),
    /// A number.
    Number(u32),
}

impl<'a> FieldValue<'a> {
    /// Interprets the bytes.
    ///
    /// # Errors
    /// [`Error::Malformed`] if they are not what the kernel writes for this field.
    pub fn value(&self) -> Result<Value<'a>> {
        if self.bare {
            return Ok(Value::Text(self.bytes));
        }
        let bad = |why: String| Error::malformed(self.offset, why);
        self.field.check(self.bytes).map_err(bad)?;
        if self.bytes.is_empty() {
            return Ok(Value::Empty);
        }
        Ok(match self.field.format() {
            template::Format::Digest
            | template::Format::DigestWithAlgorithm
            | template::Format::DigestWithType => {
                Value::Digest(FileDigest::parse(self.field, self.bytes).map_err(bad)?)
            }
            template::Format::Text => Value::Text(self.bytes.strip_suffix(&[0]).unwrap_or(self.bytes)),
            template::Format::Hex => Value::Raw(self.bytes),
            template::Format::Uint(_) => Value::Number(self.order.number(self.bytes)),
        })
    }
}

impl<B: AsRef<[u8]>> ListEntry<B> {
    /// Reads one canonical record, all of `record`, as [`Entry::Full`] holds it. The digest's length follows
    /// from the record: the first of 20, 32, 48 and 64 bytes with which it is one whole record of a known
    /// template.
    ///
    /// # Errors
    /// [`Error::Incomplete`], [`Error::Malformed`], [`Error::Limit`].
    pub fn from_canonical(index: u64, record: B) -> Result<ListEntry<B>> {
        decode::canonical(index, record)
    }

    /// Position in the list, from 0.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Where the record begins in the input, in bytes.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The canonical record.
    pub fn record(&self) -> &[u8] {
        self.record.as_ref()
    }

    /// The byte order of the lengths and numbers in the data.
    pub fn order(&self) -> ByteOrder {
        self.order
    }

    /// The PCR that the entry extends.
    pub fn pcr(&self) -> u32 {
        ByteOrder::Little.number(self.slice(0, 4))
    }

    /// The digest that the list claims: checked by [`ListEntry::listed`], never trusted.
    pub fn listed_digest(&self) -> &[u8] {
        self.slice(4, self.digest_len)
    }

    /// The template's name, or its field list where it has none.
    pub fn template_name(&self) -> &[u8] {
        self.slice(8 + self.digest_len, self.name_len)
    }

    /// The template data as the kernel hashed it; for the old `ima` template the digest, the name's length
    /// (little-endian) and the name.
    pub fn data(&self) -> &[u8] {
        let header = 8 + self.digest_len + self.name_len + if self.is_ima() { 0 } else { 4 };
        self.record().get(header..).unwrap_or_default()
    }

    fn slice(&self, at: usize, len: usize) -> &[u8] {
        self.record().get(at..at + len).unwrap_or_default()
    }

    fn is_ima(&self) -> bool {
        self.template_name() == template::IMA
    }

    fn data_offset(&self) -> u64 {
        self.offset + (self.record().len() - self.data().len()) as u64
    }

    /// Whether the listed digest is all zero. Zeroing any entry's digest makes it look like one: only the
    /// register tells.
    pub fn is_violation(&self) -> bool {
        self.listed_digest().iter().all(|b| *b == 0)
    }

    /// The digest of the data in `bank`, as a kernel extends it that has this hash: over the data bytes, or
    /// for the old `ima` template over the digest and the name padded with zeros to 256 bytes.
    ///
    /// What a violation extends is another thing: see [`crate::replay`].
    pub fn template_digest(&self, bank: Bank) -> Digest {
        Digest::new(bank, &self.hashed(bank)[..bank.len()]).expect("a digest has its bank's length")
    }

    /// The same: in the first bytes.
    pub(crate) fn hashed(&self, bank: Bank) -> [u8; Bank::MAX_LEN] {
        let mut digest = [0; Bank::MAX_LEN];
        self.with_hashed(|parts| bank.hash_into(parts, &mut digest));
        digest
    }

    /// What is hashed, where it is one piece; `None` for the old `ima` template.
    pub(crate) fn hashed_piece(&self) -> Option<&[u8]> {
        (!self.is_ima()).then(|| self.data())
    }

    fn with_hashed<T>(&self, hash: impl FnOnce(&[&[u8]]) -> T) -> T {
        let data = self.data();
        if !self.is_ima() {
            return hash(&[data]);
        }
        let (digest, rest) = data.split_at_checked(IMA_DIGEST_LEN).unwrap_or((data, &[]));
        let name = rest.get(4..).unwrap_or_default();
        let padding = [0; IMA_HASHED_NAME_LEN];
        hash(&[digest, name, padding.get(name.len()..).unwrap_or_default()])
    }

    /// Checks the listed digest against the data. Lists of 32-byte digests may be SHA-256's or SM3's.
    pub fn listed(&self) -> Listed {
        TemplateDigests::new(self).listed()
    }

    /// The fields, in the template's order, each checked for its shape.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a template that `templates` does not know, and for data that is not exactly
    /// its fields: so an entry that was relabelled to a template of another shape does not pass.
    pub fn fields(&self, templates: &Templates) -> Result<Vec<FieldValue<'_>>> {
        let mut fields = Vec::new();
        self.each_field(templates, |field| fields.push(field))?;
        Ok(fields)
    }

    /// The same check where the fields themselves are not wanted.
    ///
    /// # Errors
    /// As [`ListEntry::fields`].
    pub fn check(&self, templates: &Templates) -> Result<()> {
        self.each_field(templates, |_| ())
    }

    fn each_field<'a>(&'a self, templates: &Templates, each: impl FnMut(FieldValue<'a>)) -> Result<()> {
        let name_at = self.offset + 8 + self.digest_len as u64;
        templates
            .resolve(self.template_name(), name_at)
            .and_then(|template| self.split(&template, each))
            .map_err(|e| self.in_entry(e))
    }

    fn split<'a>(&'a self, template: &Template, mut each: impl FnMut(FieldValue<'a>)) -> Result<()> {
        let (data, start) = (self.data(), self.data_offset());
        let old = self.is_ima();
        let mut at = 0;
        for field in template.fields() {
            let len = if old && *field == Field::D {
                IMA_DIGEST_LEN
            } else {
                let Some(prefix) = data.get(at..at + 4) else {
                    return Err(Error::malformed(
                        start + at as u64,
                        format!("the data ends before field `{}`", field.id()),
                    ));
                };
                at += 4;
                self.order.number(prefix) as usize
            };
            let Some(bytes) = at.checked_add(len).and_then(|end| data.get(at..end)) else {
                return Err(Error::malformed(
                    start + at as u64,
                    format!(
                        "field `{}` has {len} bytes, only {} are left",
                        field.id(),
                        data.len() - at
                    ),
                ));
            };
            let offset = start + at as u64;
            let bare = old && *field == Field::N;
            if !bare {
                field.check(bytes).map_err(|why| Error::malformed(offset, why))?;
            } else if bytes.contains(&0) {
                return Err(Error::malformed(offset, "field `n`: has a NUL"));
            }
            at += len;
            each(FieldValue {
                field: *field,
                bytes,
                order: self.order,
                offset,
                bare,
            });
        }
        if at != data.len() {
            return Err(Error::malformed(
                start + at as u64,
                format!("{} byte(s) follow the last field", data.len() - at),
            ));
        }
        Ok(())
    }

    fn in_entry(&self, error: Error) -> Error {
        match error {
            Error::Malformed { offset, why } => {
                Error::malformed(offset, format!("entry {}: {why}", self.index))
            }
            other => other,
        }
    }

    /// The first of `wanted` that the entry has, with its bytes; `None` if its template has none of them, is
    /// not known, or if the data is not its fields.
    fn first(&self, wanted: &[Field]) -> Option<FieldValue<'_>> {
        let fields = self.fields(Templates::builtin()).ok()?;
        fields.into_iter().find(|f| wanted.contains(&f.field))
    }

    /// The file's digest (`d`, `d-ng` or `d-ngv2`). For other templates than the built-in ones use
    /// [`ListEntry::fields`].
    pub fn file_digest(&self) -> Option<FileDigest<'_>> {
        let field = self.first(&[Field::D, Field::DNg, Field::DNgV2])?;
        FileDigest::parse(field.field, field.bytes).ok()
    }

    /// The event's name (`n` or `n-ng`), without its NUL.
    pub fn file_name(&self) -> Option<&[u8]> {
        self.text(&[Field::N, Field::NNg])
    }

    /// The ancestry (`dep`): executables joined by `:`, escaped (see [`unescaped`]). Descriptive only: any
    /// user can forge it.
    pub fn dep(&self) -> Option<&[u8]> {
        self.text(&[Field::Dep])
    }

    /// The control group's path (`cg-path`), escaped (see [`unescaped`]).
    pub fn cgroup_path(&self) -> Option<&[u8]> {
        self.text(&[Field::CgPath])
    }

    fn text(&self, wanted: &[Field]) -> Option<&[u8]> {
        let field = self.first(wanted)?;
        Some(field.bytes.strip_suffix(&[0]).unwrap_or(field.bytes))
    }

    /// The form that evidence carries.
    pub fn to_entry(&self) -> Entry {
        Entry::Full(self.record().to_vec())
    }

    /// The redacted form: nothing but what is needed to replay in `banks`; zero digests for a violation.
    pub fn to_opaque(&self, banks: &[Bank]) -> Entry {
        let digest = |bank: &Bank| {
            if self.is_violation() {
                Digest::zero(*bank)
            } else {
                self.template_digest(*bank)
            }
        };
        Entry::Opaque {
            pcr: self.pcr(),
            digests: banks.iter().map(digest).collect(),
            hash: None,
        }
    }

    /// The redacted form where a trust domain's register binds the list: the hash of the record alone.
    pub fn to_hashed(&self) -> Entry {
        Entry::Opaque {
            pcr: self.pcr(),
            digests: Vec::new(),
            hash: Some(Box::new(EntryHash::of(self.record()))),
        }
    }

    /// A copy that shares no buffer.
    pub fn detached(&self) -> ListEntry {
        ListEntry {
            index: self.index,
            offset: self.offset,
            digest_len: self.digest_len,
            name_len: self.name_len,
            order: self.order,
            record: Bytes::copy_from_slice(self.record()),
        }
    }
}

/// Parts of an entry that live as long as the record's bytes, not only as this view of them.
impl<'a> ListEntry<&'a [u8]> {
    /// See [`ListEntry::template_name`].
    pub fn name_of_template(&self) -> &'a [u8] {
        let from = 8 + self.digest_len;
        self.record.get(from..from + self.name_len).unwrap_or_default()
    }

    /// See [`ListEntry::fields`]; where there is an error, some may have been given before.
    ///
    /// # Errors
    /// As there.
    pub fn fields_of_record(
        &self,
        templates: &Templates,
        mut each: impl FnMut(FieldValue<'a>),
    ) -> Result<()> {
        self.each_field(templates, |field| {
            let from = usize::try_from(field.offset - self.offset).unwrap_or(usize::MAX);
            let bytes = self
                .record
                .get(from..)
                .and_then(|rest| rest.get(..field.bytes.len()));
            each(FieldValue {
                field: field.field,
                bytes: bytes.unwrap_or_default(),
                order: field.order,
                offset: field.offset,
                bare: field.bare,
            });
        })
    }
}

/// The digests of one entry's data, each computed once.
pub(crate) struct TemplateDigests<'a, B> {
    entry: &'a ListEntry<B>,
    computed: [Option<[u8; Bank::MAX_LEN]>; Bank::ALL.len()],
}

impl<'a, B: AsRef<[u8]>> TemplateDigests<'a, B> {
    pub(crate) fn new(entry: &'a ListEntry<B>) -> Self {
        TemplateDigests {
            entry,
            computed: Default::default(),
        }
    }

    pub(crate) fn get(&mut self, bank: Bank) -> &[u8] {
        let entry = self.entry;
        let digest = self.computed[bank as usize].get_or_insert_with(|| entry.hashed(bank));
        &digest[..bank.len()]
    }

    pub(crate) fn listed(&mut self) -> Listed {
        let listed = self.entry.listed_digest();
        if self.entry.is_violation() {
            return Listed::Violation;
        }
        let Some(bank) = Bank::from_len(listed.len()) else {
            return Listed::Differs;
        };
        if self.get(bank) == listed {
            return Listed::Matches(ListBank::Bank(bank));
        }
        if bank == Bank::Sha256 && self.entry.with_hashed(sm3) == listed {
            return Listed::Matches(ListBank::Sm3);
        }
        let (sha1, rest) = listed.split_at(Bank::Sha1.len());
        if bank != Bank::Sha1 && self.get(Bank::Sha1) == sha1 && rest.iter().all(|b| *b == 0) {
            return Listed::PaddedSha1(bank);
        }
        Listed::Differs
    }
}

fn sm3(parts: &[&[u8]]) -> Vec<u8> {
    use sm3::Digest as _;
    let mut hash = sm3::Sm3::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().to_vec()
}

#[cfg(test)]
pub(crate) mod tests;
