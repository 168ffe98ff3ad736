//! Where entries begin and end: detection of a list's form, and the incremental decoder.

use super::template::{IMA, MAX_TEMPLATE_NAME_LEN, Templates};
use super::{IMA_DIGEST_LEN, IMA_HASHED_NAME_LEN, ListEntry, ascii};
use crate::{Error, Result};
use bytes::{Bytes, BytesMut};

/// The highest PCR of an entry: the kernel keeps which PCRs it measured a file into in one 64-bit word.
/// Source: security/integrity/ima/ima_policy.c, INVALID_PCR.
pub const MAX_PCR: u32 = 63;

/// Digest lengths of the banks there are: SHA-1; SHA-256 and SM3; SHA-384; SHA-512.
const DIGEST_LENS: [usize; 4] = [20, 32, 48, 64];

/// The longest header with a name of the longest kind.
const MAX_HEADER_LEN: usize = 4 + 64 + 4 + MAX_TEMPLATE_NAME_LEN + 4;

const DATA_LEN: &str = "length of template data";
const NAME_LEN: &str = "length of a name";

/// The order of bytes in integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ByteOrder {
    /// Least significant byte first; with `ima_canonical_fmt` on every machine.
    Little,
    /// Most significant byte first.
    Big,
}

impl ByteOrder {
    /// The integer in up to four bytes; more than four give the value of the first four.
    pub(super) fn number(self, bytes: &[u8]) -> u32 {
        let mut word = [0; 4];
        for (slot, byte) in word.iter_mut().zip(bytes) {
            *slot = *byte;
        }
        match self {
            ByteOrder::Little => u32::from_le_bytes(word),
            ByteOrder::Big if bytes.len() == 2 => u32::from_be_bytes(word) >> 16,
            ByteOrder::Big => u32::from_be_bytes(word),
        }
    }

    pub(super) fn bytes(self, number: u32) -> [u8; 4] {
        match self {
            ByteOrder::Little => number.to_le_bytes(),
            ByteOrder::Big => number.to_be_bytes(),
        }
    }
}

/// How a binary list is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Layout {
    /// Byte order of its integers.
    pub order: ByteOrder,
    /// Length of its digests: 20, 32, 48 or 64 bytes.
    pub digest_len: usize,
}

impl Layout {
    /// The layout of `binary_runtime_measurements` on a little-endian machine.
    pub const DEFAULT: Layout = Layout {
        order: ByteOrder::Little,
        digest_len: 20,
    };
}

/// What to read an input as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// Whatever its first bytes show.
    Auto,
    /// Binary; the layout is found where none is given.
    Binary(Option<Layout>),
    /// ASCII.
    Ascii,
}

/// What an input turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// A binary list.
    Binary(Layout),
    /// An ASCII list.
    Ascii,
}

/// Bounds on what one entry may hold: a decoder never holds more than one entry of this size and what it was
/// fed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Template data, in bytes. An ASCII line may have twice as many and 4096.
    pub data: usize,
}

impl Default for Limits {
    /// 16 MiB of data: far more than a kernel command line, a signature or the extended attributes of a file
    /// have.
    fn default() -> Limits {
        Limits {
            data: 16 * 1024 * 1024,
        }
    }
}

impl Limits {
    fn line(&self) -> usize {
        self.data.saturating_mul(2).saturating_add(4096)
    }
}

/// Reads a measurement list as it arrives.
///
/// ```
/// # fn run(chunks: &[&[u8]]) -> cgpath_evidence::Result<()> {
/// let mut decoder = cgpath_evidence::list::Decoder::auto();
/// for chunk in chunks {
///     decoder.feed(chunk);
///     while let Some(entry) = decoder.next_entry()? {
///         println!("{} extends PCR {}", entry.index(), entry.pcr());
///     }
/// }
/// decoder.end();
/// while let Some(entry) = decoder.next_entry()? {
///     println!("{} extends PCR {}", entry.index(), entry.pcr());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Decoder {
    format: Format,
    form: Option<Form>,
    limits: Limits,
    templates: Templates,
    buf: BytesMut,
    /// Bytes at the start of `buf` that are known to hold no newline.
    scanned: usize,
    offset: u64,
    index: u64,
    ended: bool,
    need: usize,
    failed: Option<Error>,
}

impl Decoder {
    /// A decoder that finds the form by itself.
    pub fn auto() -> Decoder {
        Decoder::new(Format::Auto)
    }

    /// A decoder of `format` with the default limits and the built-in templates.
    pub fn new(format: Format) -> Decoder {
        let form = match format {
            Format::Auto | Format::Binary(None) => None,
            Format::Binary(Some(layout)) => Some(Form::Binary(layout)),
            Format::Ascii => Some(Form::Ascii),
        };
        Decoder {
            format,
            form,
            limits: Limits::default(),
            templates: Templates::default(),
            buf: BytesMut::new(),
            scanned: 0,
            offset: 0,
            index: 0,
            ended: false,
            need: 1,
            failed: None,
        }
    }

    /// The same with other limits.
    pub fn with_limits(mut self, limits: Limits) -> Decoder {
        self.limits = limits;
        self
    }

    /// The same with templates of one's own. ASCII entries of others are malformed; binary ones are framed
    /// and [`ListEntry::fields`] tells.
    pub fn with_templates(mut self, templates: Templates) -> Decoder {
        self.templates = templates;
        self
    }

    /// Continues behind entries that were read before: `index` of the next entry and its `offset` in the
    /// input.
    pub fn resume(mut self, index: u64, offset: u64) -> Decoder {
        (self.index, self.offset) = (index, offset);
        self
    }

    /// Takes the next bytes of the input.
    pub fn feed(&mut self, chunk: &[u8]) {
        self.buf.extend_from_slice(chunk);
    }

    /// Takes the next bytes of the input, without a copy where nothing is pending and `chunk` is not shared.
    pub fn feed_bytes(&mut self, chunk: Bytes) {
        if self.buf.is_empty() {
            self.buf = BytesMut::from(chunk);
        } else {
            self.buf.extend_from_slice(&chunk);
        }
    }

    /// Says that the input ends here: what is pending must be whole.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// What the input turned out to be, once that is known.
    pub fn form(&self) -> Option<Form> {
        self.form
    }

    /// Bytes that were fed and are not part of an entry yet.
    pub fn pending(&self) -> usize {
        self.buf.len()
    }

    /// How many more bytes are needed at least, after [`Decoder::next_entry`] gave `None`.
    pub fn need(&self) -> usize {
        self.need
    }

    /// Offset of the next entry in the input, in bytes.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next entry; `None` if it is not whole yet, or after [`Decoder::end`] if there is none.
    ///
    /// # Errors
    /// [`Error::Incomplete`] only after [`Decoder::end`]; [`Error::Malformed`], [`Error::Limit`]. An error
    /// stays.
    pub fn next_entry(&mut self) -> Result<Option<ListEntry>> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        match self.step() {
            Ok(entry) => {
                if entry.is_some() {
                    self.index += 1;
                }
                Ok(entry)
            }
            Err(Error::Incomplete { need, .. }) if !self.ended => {
                self.need = usize::try_from(need).unwrap_or(usize::MAX).max(1);
                Ok(None)
            }
            Err(error) => {
                self.failed = Some(error.clone());
                Err(error)
            }
        }
    }

    fn step(&mut self) -> Result<Option<ListEntry>> {
        if self.buf.is_empty() {
            self.need = 1;
            return Ok(None);
        }
        match self.find_form()? {
            Form::Binary(layout) => self.binary(layout).map(Some),
            Form::Ascii => self.ascii().map(Some),
        }
    }

    fn find_form(&mut self) -> Result<Form> {
        if let Some(form) = self.form {
            return Ok(form);
        }
        let ascii = match self.format {
            Format::Auto => self.looks_ascii()?,
            Format::Ascii => true,
            Format::Binary(_) => false,
        };
        let form = if ascii {
            Form::Ascii
        } else {
            Form::Binary(self.find_layout()?)
        };
        self.form = Some(form);
        Ok(form)
    }

    /// An ASCII list begins with a PCR in one or two columns and a blank. A binary one has three zero bytes
    /// among its first four.
    fn looks_ascii(&self) -> Result<bool> {
        let is_column = |b: &u8| *b == b' ' || b.is_ascii_digit();
        match (self.buf.first(), self.buf.get(1)) {
            (Some(first), Some(second)) => Ok(is_column(first) && is_column(second)),
            _ => Err(Error::Incomplete {
                offset: self.offset,
                need: 1,
                what: "entry",
            }),
        }
    }

    /// Finds byte order and digest length: those with which the first entry's header makes sense. What it
    /// finds does not depend on how the input was cut: as long as a layout with precedence lacks bytes,
    /// nothing is decided.
    fn find_layout(&self) -> Result<Layout> {
        let enough = self.ended || self.buf.len() >= MAX_HEADER_LEN;
        let mut plausible = None;
        let mut lacking: Option<Error> = None;
        let mut absurd: Option<Error> = None;
        for order in [ByteOrder::Little, ByteOrder::Big] {
            for digest_len in DIGEST_LENS {
                let layout = Layout { order, digest_len };
                match header(&self.buf, self.offset, layout, &self.limits) {
                    Ok(found) if self.templates.knows(found.name) && (enough || lacking.is_none()) => {
                        return Ok(layout);
                    }
                    Ok(_) => plausible = plausible.or(Some(layout)),
                    Err(error @ Error::Incomplete { .. }) => lacking = lacking.or(Some(error)),
                    // Behind a template's name that makes sense.
                    Err(
                        error @ Error::Limit {
                            what: DATA_LEN | NAME_LEN,
                            ..
                        },
                    ) => {
                        absurd = absurd.or(Some(error));
                    }
                    Err(_) => {}
                }
            }
        }
        match (plausible, absurd, lacking) {
            (_, _, Some(error)) if !enough => Err(error),
            (Some(layout), _, _) => Ok(layout),
            (None, Some(error), _) | (None, None, Some(error)) => Err(error),
            (None, None, None) => Err(Error::malformed(
                self.offset,
                match self.format {
                    Format::Auto => "this begins like neither a binary nor an ASCII measurement list",
                    Format::Binary(_) | Format::Ascii => "this does not begin like a binary measurement list",
                },
            )),
        }
    }

    fn binary(&mut self, layout: Layout) -> Result<ListEntry> {
        let frame = frame(&self.buf, self.offset, layout, &self.limits).map_err(|e| self.named(e))?;
        let mut record = self.buf.split_to(frame.total);
        frame.make_canonical(&mut record, layout);
        let entry = frame.entry(self.index, self.offset, layout, record.freeze());
        self.offset += frame.total as u64;
        Ok(entry)
    }

    fn ascii(&mut self) -> Result<ListEntry> {
        let newline = self
            .buf
            .iter()
            .skip(self.scanned)
            .position(|b| *b == b'\n')
            .map(|at| at + self.scanned);
        let len = newline.unwrap_or(self.buf.len());
        let limit = self.limits.line();
        if len > limit {
            let (found, limit) = (len as u64, limit as u64);
            return Err(Error::Limit {
                offset: self.offset,
                what: "length of a line",
                found,
                limit,
            });
        }
        if newline.is_none() && !self.ended {
            self.scanned = self.buf.len();
            return Err(Error::Incomplete {
                offset: self.offset,
                need: 1,
                what: "line",
            });
        }
        let line = self.buf.get(..len).unwrap_or_default();
        let entry = ascii::parse_line(line, self.index, self.offset, &self.templates, newline.is_some())?;
        let taken = len + usize::from(newline.is_some());
        let _ = self.buf.split_to(taken);
        self.offset += taken as u64;
        self.scanned = 0;
        Ok(entry)
    }

    fn named(&self, error: Error) -> Error {
        match error {
            Error::Malformed { offset, why } => {
                Error::malformed(offset, format!("entry {}: {why}", self.index))
            }
            other => other,
        }
    }
}

struct Header<'a> {
    name: &'a [u8],
    /// Length of all up to the data (for `ima`: up to its digest).
    len: usize,
    /// Length of the data (for `ima`: of its digest, its name's length and its name).
    data_len: usize,
}

struct Frame {
    name_len: usize,
    total: usize,
    is_ima: bool,
}

impl Frame {
    /// Turns the header's integers into little-endian ones, and the length of the old template's name, which
    /// is not hashed.
    fn make_canonical(&self, record: &mut [u8], layout: Layout) {
        if layout.order == ByteOrder::Little {
            return;
        }
        let name = 8 + layout.digest_len;
        let after = name + self.name_len + if self.is_ima { IMA_DIGEST_LEN } else { 0 };
        for at in [0, 4 + layout.digest_len, after] {
            if let Some(word) = record.get_mut(at..at + 4) {
                word.reverse();
            }
        }
    }

    fn entry<B: AsRef<[u8]>>(&self, index: u64, offset: u64, layout: Layout, record: B) -> ListEntry<B> {
        let order = if self.is_ima {
            ByteOrder::Little
        } else {
            layout.order
        };
        ListEntry {
            index,
            offset,
            digest_len: layout.digest_len,
            name_len: self.name_len,
            order,
            record,
        }
    }
}

fn word(buf: &[u8], at: usize, offset: u64, order: ByteOrder, what: &'static str) -> Result<u32> {
    match buf.get(at..at + 4) {
        Some(word) => Ok(order.number(word)),
        None => Err(incomplete(buf, at + 4, offset, what)),
    }
}

fn incomplete(buf: &[u8], end: usize, offset: u64, what: &'static str) -> Error {
    Error::Incomplete {
        offset,
        need: end.saturating_sub(buf.len()) as u64,
        what,
    }
}

/// Reads a record's header. `offset` is the record's in the input.
fn header<'a>(buf: &'a [u8], offset: u64, layout: Layout, limits: &Limits) -> Result<Header<'a>> {
    let Layout { order, digest_len } = layout;
    let pcr = word(buf, 0, offset, order, "entry")?;
    if pcr > MAX_PCR {
        return Err(Error::malformed(
            offset,
            format!("PCR {pcr}; the highest is {MAX_PCR}"),
        ));
    }
    let name_len_at = 4 + digest_len;
    let name_len = word(buf, name_len_at, offset, order, "entry")? as usize;
    let at = offset + name_len_at as u64;
    if name_len > MAX_TEMPLATE_NAME_LEN {
        return Err(Error::Limit {
            offset: at,
            what: "length of a template's name",
            found: name_len as u64,
            limit: MAX_TEMPLATE_NAME_LEN as u64,
        });
    }
    let name_at = name_len_at + 4;
    // A name that is visibly wrong is reported before more bytes are asked for.
    let there = buf.get(name_at..).unwrap_or_default();
    let there = there.get(..name_len).unwrap_or(there);
    if name_len == 0 {
        return Err(Error::malformed(at, "a template's name is empty"));
    }
    if let Some(bad) = there.iter().position(|b| !b.is_ascii_graphic()) {
        let why = format!(
            "a template's name has the byte {:#04x}, not visible ASCII",
            there[bad]
        );
        return Err(Error::malformed(at + 4 + bad as u64, why));
    }
    let after_name = name_at + name_len;
    let name = buf
        .get(name_at..after_name)
        .ok_or_else(|| incomplete(buf, after_name, offset, "entry"))?;
    let (len, data_len, what, found, limit) = if name == IMA {
        let len_at = after_name + IMA_DIGEST_LEN;
        let file_name_len = word(buf, len_at, offset, order, "entry")? as usize;
        let limit = IMA_HASHED_NAME_LEN - 1;
        (
            after_name,
            IMA_DIGEST_LEN + 4 + file_name_len.min(limit),
            NAME_LEN,
            file_name_len,
            limit,
        )
    } else {
        let data_len = word(buf, after_name, offset, order, "entry")? as usize;
        (after_name + 4, data_len, DATA_LEN, data_len, limits.data)
    };
    if found > limit {
        let at = if name == IMA {
            after_name + IMA_DIGEST_LEN
        } else {
            after_name
        };
        let (found, limit) = (found as u64, limit as u64);
        return Err(Error::Limit {
            offset: offset + at as u64,
            what,
            found,
            limit,
        });
    }
    Ok(Header { name, len, data_len })
}

fn frame(buf: &[u8], offset: u64, layout: Layout, limits: &Limits) -> Result<Frame> {
    let header = header(buf, offset, layout, limits)?;
    let total = header.len + header.data_len;
    if buf.len() < total {
        return Err(incomplete(buf, total, offset, "entry"));
    }
    Ok(Frame {
        name_len: header.name.len(),
        total,
        is_ima: header.name == IMA,
    })
}

/// See [`ListEntry::from_canonical`].
pub(super) fn canonical<B: AsRef<[u8]>>(index: u64, record: B) -> Result<ListEntry<B>> {
    let templates = Templates::builtin();
    let bytes = record.as_ref();
    let mut plausible = None;
    let mut failure: Option<Error> = None;
    for digest_len in DIGEST_LENS {
        let layout = Layout {
            order: ByteOrder::Little,
            digest_len,
        };
        match frame(bytes, 0, layout, &Limits::default()) {
            Ok(frame) if frame.total == bytes.len() => {
                let name = bytes
                    .get(8 + digest_len..8 + digest_len + frame.name_len)
                    .unwrap_or_default();
                let known = templates.knows(name);
                if known || plausible.is_none() {
                    plausible = Some((frame, layout));
                }
                if known {
                    break;
                }
            }
            Ok(frame) => {
                let follow = bytes.len() - frame.total;
                let error =
                    Error::malformed(frame.total as u64, format!("{follow} byte(s) follow the entry"));
                failure.get_or_insert(error);
            }
            // Missing bytes say more than a layout that never fitted.
            Err(error @ Error::Incomplete { .. }) => {
                failure = match failure {
                    Some(Error::Incomplete { .. }) => failure,
                    _ => Some(error),
                }
            }
            Err(error) => {
                failure.get_or_insert(error);
            }
        }
    }
    let Some((frame, layout)) = plausible else {
        return Err(failure.unwrap_or_else(|| Error::malformed(0, "no entry of a measurement list")));
    };
    let mut entry = frame.entry(index, 0, layout, record);
    // The header is little-endian whatever the machine was; the data is as the kernel hashed it.
    let fits = |order| lengths_fit(entry.data(), order);
    if !frame.is_ima && !fits(ByteOrder::Little) && fits(ByteOrder::Big) {
        entry.order = ByteOrder::Big;
    }
    Ok(entry)
}

/// Whether `data` is a sequence of lengths and as many bytes.
fn lengths_fit(mut data: &[u8], order: ByteOrder) -> bool {
    while !data.is_empty() {
        let Some((len, rest)) = data.split_at_checked(4) else {
            return false;
        };
        let Some(rest) = rest.get(order.number(len) as usize..) else {
            return false;
        };
        data = rest;
    }
    true
}
