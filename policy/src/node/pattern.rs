//! Path patterns.
//!
//! Promise: a pattern begins with `/` or `*` and matches a path from its first to its last byte. Not here:
//! Keylime's excludes, which are regular expressions (see `exclude`).

use crate::reference::MAX_PATH_LEN;
use cgpath_evidence::text::quoted;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de};
use std::borrow::Cow;

/// A path pattern over bytes: `*` and `?` do not match `/`, `**` does.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: String,
    matcher: globset::GlobMatcher,
}

impl Pattern {
    /// Reads a pattern; it must begin with `/` or `*`.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn parse(text: &str) -> core::result::Result<Pattern, String> {
        if !text.starts_with(['/', '*']) {
            return Err(format!("pattern {} must begin with / or *", quoted(text)));
        }
        if text.len() > MAX_PATH_LEN {
            return Err(format!(
                "pattern is {} bytes long, the limit is {}",
                text.len(),
                MAX_PATH_LEN
            ));
        }
        let glob = globset::GlobBuilder::new(text)
            .literal_separator(true)
            .backslash_escape(true)
            .build()
            .map_err(|e| format!("pattern {}: {}", quoted(text), e.kind()))?;
        Ok(Pattern {
            text: text.to_owned(),
            matcher: glob.compile_matcher(),
        })
    }

    /// As it is written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether `path` matches, from its first to its last byte.
    pub fn matches(&self, path: &[u8]) -> bool {
        use std::os::unix::ffi::OsStrExt;
        self.matcher.is_match(std::ffi::OsStr::from_bytes(path))
    }
}

impl core::fmt::Display for Pattern {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.text == other.text
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(d: D) -> core::result::Result<Self, D::Error> {
        Pattern::parse(&String::deserialize(d)?).map_err(de::Error::custom)
    }
}

impl JsonSchema for Pattern {
    fn schema_name() -> Cow<'static, str> {
        "Pattern".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "A path pattern: * and ? do not match /, ** does.",
            "pattern": "^[/*]",
        })
    }
}
