//! Excludes: paths that are not judged, given as Keylime's runtime policies give them.
//!
//! Promise: a list matches the paths that Keylime's verifier would pass over: the patterns are joined as
//! `(a)|(b)`, read in Python's syntax (3.11, `re` for text), and must match from the path's first character
//! on, not up to its last (`re.match`). A list writes `_` for each space, a record does not: a pattern
//! matches both names of one file. What cannot be given the same meaning is an error, never a guess. A match
//! has a step limit; a path that needs more is judged. Not here: what is done about an excluded file (see
//! `cgpath-appraisal`).
//! Source: Keylime 7.14, keylime/common/validators.py `valid_exclude_list`, keylime/ima/ima.py
//! `_validate_ima_ng`.

mod translate;

use crate::Name;
use cgpath_evidence::list::as_listed;
use cgpath_evidence::text::{foreign, library_message};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::borrow::Cow;
use translate::Of;

/// The patterns of one list together are never longer than this many bytes.
pub const MAX_EXCLUDES_LEN: usize = 64 * 1024;
/// One path costs never more steps back than this; see `fancy_regex::RegexBuilder::backtrack_limit`.
pub const STEP_LIMIT: usize = 100_000;
/// Bytes that the compiled form may take, so that a short pattern cannot fill the memory.
const COMPILED_LIMIT: usize = 10 * 1024 * 1024;

/// What is wrong with a list of excludes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("exclude {} (\"{pattern}\"), character {offset}: {why}", .item + 1)]
pub struct ExcludeError {
    /// Which pattern of the list, from 0.
    pub item: usize,
    /// The pattern, for people: safe to print and not longer than [`cgpath_evidence::text::foreign`] makes
    /// it.
    pub pattern: String,
    /// Where in it, in characters from 0.
    pub offset: usize,
    /// What is wrong.
    pub why: String,
}

/// Whether a path is excluded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hidden {
    /// It is judged.
    No,
    /// It is not judged.
    Yes,
    /// The step limit was met: it is judged, and the verdict says so.
    GaveUp,
}

/// A list of excludes; empty by default, which excludes nothing.
#[derive(Debug, Clone, Default)]
pub struct Excludes {
    items: Vec<String>,
    regex: Option<fancy_regex::Regex>,
    /// For names in a list, where the patterns have a space.
    listed: Option<fancy_regex::Regex>,
}

impl Excludes {
    /// Reads a list of patterns.
    ///
    /// # Errors
    /// [`ExcludeError`] where Python's `re.compile` refuses the joined list, where a pattern uses what has no
    /// equal here (back-references, conditions, ignoring case, verbose patterns, `\N{…}`), or where a limit
    /// is met.
    pub fn new(items: Vec<String>) -> Result<Excludes, ExcludeError> {
        if items.is_empty() {
            return Ok(Excludes::default());
        }
        let length: usize = items.iter().map(|item| item.len() + 3).sum();
        if length > MAX_EXCLUDES_LEN {
            return Err(error(
                &items,
                0,
                0,
                format!("the list is {length} bytes long, the limit is {MAX_EXCLUDES_LEN}"),
            ));
        }
        let compile = |translated: &str| {
            fancy_regex::RegexBuilder::new(translated)
                .backtrack_limit(STEP_LIMIT)
                .delegate_size_limit(COMPILED_LIMIT)
                .build()
                .map_err(|e| {
                    error(
                        &items,
                        0,
                        0,
                        format!("it cannot be compiled: {}", library_message(&e)),
                    )
                })
        };
        let translated = translate::joined(&items, Of::Itself)?;
        let regex = Some(compile(&translated)?);
        let of_list = translate::joined(&items, Of::Listed)?;
        let listed = (of_list != translated).then(|| compile(&of_list)).transpose()?;
        Ok(Excludes { items, regex, listed })
    }

    /// Whether the patterns match this text: all that Python would be asked. A path that is not UTF-8 is
    /// never excluded: Python sees another text there, which depends on how the list was carried.
    pub fn matches(&self, path: &[u8]) -> Hidden {
        Excludes::ask(self.regex.as_ref(), path)
    }

    /// Whether it excludes a path.
    ///
    /// The patterns are made for what a list has, or for what a file is called. So a true path is excluded by
    /// what the list has for it, too, and a path in a list by a pattern that has a space where it has `_`.
    pub fn hides(&self, name: Name<'_>) -> Hidden {
        let first = self.matches(name.bytes());
        if first == Hidden::Yes {
            return first;
        }
        let other = match name {
            Name::True(path) if path.contains(&b' ') => self.matches(&as_listed(path)),
            Name::True(_) => Hidden::No,
            Name::Listed(path) => Excludes::ask(self.listed.as_ref(), path),
        };
        if other == Hidden::No { first } else { other }
    }

    fn ask(regex: Option<&fancy_regex::Regex>, path: &[u8]) -> Hidden {
        let (Some(regex), Ok(path)) = (regex, core::str::from_utf8(path)) else {
            return Hidden::No;
        };
        match regex.is_match(path) {
            Ok(true) => Hidden::Yes,
            Ok(false) => Hidden::No,
            Err(_) => Hidden::GaveUp,
        }
    }

    /// The patterns, in order.
    pub fn items(&self) -> &[String] {
        &self.items
    }

    /// Whether nothing is excluded.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

impl PartialEq for Excludes {
    fn eq(&self, other: &Excludes) -> bool {
        self.items == other.items
    }
}

impl Eq for Excludes {}

fn error(items: &[String], item: usize, offset: usize, why: String) -> ExcludeError {
    let pattern = items.get(item).map_or("", String::as_str);
    ExcludeError {
        item,
        pattern: foreign(pattern),
        offset,
        why,
    }
}

impl Serialize for Excludes {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.items.serialize(s)
    }
}

impl<'de> Deserialize<'de> for Excludes {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let items: Vec<String> = crate::form::bounded(d)?;
        Excludes::new(items).map_err(de::Error::custom)
    }
}

impl JsonSchema for Excludes {
    fn schema_name() -> Cow<'static, str> {
        "Excludes".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "array",
            "maxItems": crate::form::MAX_ITEMS,
            "description": "Paths that are not appraised: regular expressions in Python's syntax, each \
                            matched from the path's beginning (re.match), as in Keylime's runtime policies. \
                            Every verdict says how much they hide.",
            "items": { "type": "string" },
        })
    }
}
