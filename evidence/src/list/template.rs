//! Templates: which fields an entry's template data has, in which order, and what each field's bytes must
//! look like.
//!
//! Source: security/integrity/ima/ima_template.c (`builtin_templates`, `supported_fields`) and
//! ima_template_lib.c.
//! Not here: where an entry begins and ends (see `decode`), whether a template is accepted (the verifier's
//! rule V3).

use super::algorithm::FileDigest;
use crate::{Error, Result, text::foreign};

/// A template name or field list is never longer than this many bytes; the kernel's longest is 71.
pub const MAX_TEMPLATE_NAME_LEN: usize = 255;

/// A template never has more fields than this. Source: ima_template_lib.h, IMA_TEMPLATE_NUM_FIELDS_MAX.
pub const MAX_FIELDS: usize = 15;

/// The name of the old template, whose entries have a format of their own.
pub(super) const IMA: &[u8] = b"ima";

/// One field of template data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    /// `d`: SHA-1 or MD5 of the file, without the algorithm's name.
    D,
    /// `n`: the event's name, at most 255 bytes.
    N,
    /// `d-ng`: the file's digest with the algorithm's name.
    DNg,
    /// `n-ng`: the event's name.
    NNg,
    /// `d-ngv2`: the file's digest with its type (`ima` or `verity`) and the algorithm's name.
    DNgV2,
    /// `sig`: the file's signature (security.ima), or the portable EVM signature.
    Sig,
    /// `buf`: the measured buffer.
    Buf,
    /// `d-modsig`: the digest that the appended signature covers.
    DModsig,
    /// `modsig`: the appended signature.
    Modsig,
    /// `iuid`: the inode's owner.
    Iuid,
    /// `igid`: the inode's group.
    Igid,
    /// `imode`: the inode's mode, 16 bits.
    Imode,
    /// `xattrnames`: names of protected extended attributes, joined by `|`.
    XattrNames,
    /// `xattrlengths`: their values' lengths, 32 bits each.
    XattrLengths,
    /// `xattrvalues`: their values, one after the other.
    XattrValues,
    /// `evmsig`: the portable EVM signature.
    EvmSig,
    /// `dep`: executables of the process and its ancestors, joined by `:`.
    Dep,
    /// `cg-path`: the control group's path.
    CgPath,
}

/// How a field's bytes are laid out and printed. Source: ima_template_lib.c, `enum data_formats`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// Digest alone.
    Digest,
    /// Algorithm, `:`, NUL, digest.
    DigestWithAlgorithm,
    /// Type, `:`, algorithm, `:`, NUL, digest.
    DigestWithType,
    /// Text with one NUL at its end.
    Text,
    /// Anything.
    Hex,
    /// An unsigned integer of this many bytes in the list's byte order, or nothing.
    Uint(usize),
}

impl Field {
    /// All fields.
    pub const ALL: [Field; 18] = [
        Field::D,
        Field::N,
        Field::DNg,
        Field::NNg,
        Field::DNgV2,
        Field::Sig,
        Field::Buf,
        Field::DModsig,
        Field::Modsig,
        Field::Iuid,
        Field::Igid,
        Field::Imode,
        Field::XattrNames,
        Field::XattrLengths,
        Field::XattrValues,
        Field::EvmSig,
        Field::Dep,
        Field::CgPath,
    ];

    /// The kernel's name of the field.
    pub const fn id(self) -> &'static str {
        match self {
            Field::D => "d",
            Field::N => "n",
            Field::DNg => "d-ng",
            Field::NNg => "n-ng",
            Field::DNgV2 => "d-ngv2",
            Field::Sig => "sig",
            Field::Buf => "buf",
            Field::DModsig => "d-modsig",
            Field::Modsig => "modsig",
            Field::Iuid => "iuid",
            Field::Igid => "igid",
            Field::Imode => "imode",
            Field::XattrNames => "xattrnames",
            Field::XattrLengths => "xattrlengths",
            Field::XattrValues => "xattrvalues",
            Field::EvmSig => "evmsig",
            Field::Dep => "dep",
            Field::CgPath => "cg-path",
        }
    }

    /// The field with this name.
    pub fn from_id(id: &[u8]) -> Option<Field> {
        Field::ALL.into_iter().find(|f| f.id().as_bytes() == id)
    }

    pub(super) const fn format(self) -> Format {
        match self {
            Field::D => Format::Digest,
            Field::DNg | Field::DModsig => Format::DigestWithAlgorithm,
            Field::DNgV2 => Format::DigestWithType,
            Field::N | Field::NNg | Field::XattrNames | Field::Dep | Field::CgPath => Format::Text,
            Field::Sig
            | Field::Buf
            | Field::Modsig
            | Field::EvmSig
            | Field::XattrLengths
            | Field::XattrValues => Format::Hex,
            Field::Iuid | Field::Igid => Format::Uint(4),
            Field::Imode => Format::Uint(2),
        }
    }

    /// Whether the kernel may leave the field empty.
    const fn may_be_empty(self) -> bool {
        !matches!(self, Field::D | Field::DNg | Field::DNgV2 | Field::N | Field::NNg)
    }

    /// Checks that `bytes` is what the kernel writes for this field.
    ///
    /// # Errors
    /// A line that says what is wrong.
    pub(super) fn check(self, bytes: &[u8]) -> Result<(), String> {
        let bad = |why: String| Err(format!("field `{}`: {why}", self.id()));
        if bytes.is_empty() {
            return if self.may_be_empty() {
                Ok(())
            } else {
                bad("is empty".to_owned())
            };
        }
        match self.format() {
            Format::Digest | Format::DigestWithAlgorithm | Format::DigestWithType => {
                FileDigest::parse(self, bytes).map(|_| ()).or_else(bad)
            }
            // What nearly all are; searched by words.
            Format::Text if bytes.last() == Some(&0) && !bytes[..bytes.len() - 1].contains(&0) => Ok(()),
            Format::Text => match bytes.iter().position(|b| *b == 0) {
                Some(at) if at + 1 == bytes.len() => Ok(()),
                Some(at) => bad(format!("has a NUL at {at} of its {} bytes", bytes.len())),
                None => bad("has no NUL at its end".to_owned()),
            },
            Format::Hex if self == Field::XattrLengths && !bytes.len().is_multiple_of(4) => {
                bad(format!("has {} bytes, no multiple of 4", bytes.len()))
            }
            Format::Hex => Ok(()),
            Format::Uint(len) if bytes.len() == len => Ok(()),
            Format::Uint(len) => bad(format!("has {} bytes, not {len}", bytes.len())),
        }
    }
}

/// A template: its fields in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Template {
    fields: [Field; MAX_FIELDS],
    len: usize,
}

impl Template {
    /// Reads a field list as in the kernel's `ima_template_fmt=`: `d-ng|n-ng|sig`.
    ///
    /// # Errors
    /// A line that names the field that is not known, or the limit that is exceeded.
    pub fn from_field_list(list: &[u8]) -> Result<Template, String> {
        let mut template = Template {
            fields: [Field::D; MAX_FIELDS],
            len: 0,
        };
        for id in list.split(|b| *b == b'|') {
            let field = Field::from_id(id).ok_or_else(|| format!("field `{}` is not known", foreign(id)))?;
            let Some(slot) = template.fields.get_mut(template.len) else {
                return Err(format!("more than {MAX_FIELDS} fields"));
            };
            *slot = field;
            template.len += 1;
        }
        Ok(template)
    }

    /// The fields.
    pub fn fields(&self) -> &[Field] {
        self.fields.get(..self.len).unwrap_or_default()
    }

    /// The field list, as [`Template::from_field_list`] reads it.
    pub fn field_list(&self) -> String {
        self.fields().iter().map(|f| f.id()).collect::<Vec<_>>().join("|")
    }
}

/// Names of the templates that every kernel knows, and of the kernel tier's own, with their field lists.
pub const BUILTIN: [(&str, &str); 9] = [
    ("ima", "d|n"),
    ("ima-ng", "d-ng|n-ng"),
    ("ima-sig", "d-ng|n-ng|sig"),
    ("ima-ngv2", "d-ngv2|n-ng"),
    ("ima-sigv2", "d-ngv2|n-ng|sig"),
    ("ima-buf", "d-ng|n-ng|buf"),
    ("ima-modsig", "d-ng|n-ng|sig|d-modsig|modsig"),
    (
        "evm-sig",
        "d-ng|n-ng|evmsig|xattrnames|xattrlengths|xattrvalues|iuid|igid|imode",
    ),
    ("ima-cgpath", "dep|cg-path|d-ng|n-ng"),
];

/// The templates that names in a list are looked up in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Templates(Vec<(Vec<u8>, Template)>);

impl Default for Templates {
    /// [`BUILTIN`].
    fn default() -> Templates {
        let named = BUILTIN.into_iter().map(|(name, list)| {
            let template = Template::from_field_list(list.as_bytes()).expect("a list of known fields");
            (name.as_bytes().to_vec(), template)
        });
        Templates(named.collect())
    }
}

impl Templates {
    /// Adds a template under a name of one's own; a name that is there already keeps its fields.
    ///
    /// # Errors
    /// A line that says what is wrong with the name or the field list.
    pub fn define(&mut self, name: &str, field_list: &str) -> Result<(), String> {
        check_name(name.as_bytes())?;
        let template = Template::from_field_list(field_list.as_bytes())?;
        if self.named(name.as_bytes()).is_some() {
            return Err(format!("template `{name}` is known already"));
        }
        self.0.push((name.as_bytes().to_vec(), template));
        Ok(())
    }

    /// There are few, and the lengths of their names tell most of them apart.
    fn named(&self, name: &[u8]) -> Option<&Template> {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, template)| template)
    }

    /// The template of an entry: a known name, or a field list in the name's place, as the kernel writes it
    /// for a template that was given by its fields alone.
    ///
    /// # Errors
    /// [`Error::Malformed`] at `offset`.
    pub fn resolve(&self, name: &[u8], offset: u64) -> Result<Template> {
        if let Some(template) = self.named(name) {
            return Ok(*template);
        }
        Template::from_field_list(name).map_err(|why| {
            Error::malformed(
                offset,
                // A name is no longer than 255 bytes, and the reason may name all of it.
                match name.len() {
                    0..=100 => format!("template `{}` is not known ({why})", foreign(name)),
                    _ => format!("template `{}` is not known", foreign(name)),
                },
            )
        })
    }

    /// Whether `name` would resolve.
    pub(super) fn knows(&self, name: &[u8]) -> bool {
        self.named(name).is_some() || Template::from_field_list(name).is_ok()
    }

    /// The process-wide default, for callers that define nothing.
    pub fn builtin() -> &'static Templates {
        static BUILTIN: std::sync::LazyLock<Templates> = std::sync::LazyLock::new(Templates::default);
        &BUILTIN
    }
}

/// Template names are visible ASCII without blanks: they stand between blanks in ASCII lists.
pub(super) fn check_name(name: &[u8]) -> Result<(), String> {
    if name.is_empty() {
        return Err("a template's name is empty".to_owned());
    }
    if name.len() > MAX_TEMPLATE_NAME_LEN {
        return Err(format!(
            "a template's name has {} bytes, more than {MAX_TEMPLATE_NAME_LEN}",
            name.len()
        ));
    }
    if !name.iter().all(u8::is_ascii_graphic) {
        return Err(format!(
            "a template's name has other than visible ASCII: `{}`",
            name.escape_ascii()
        ));
    }
    Ok(())
}
