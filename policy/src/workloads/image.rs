//! An image as a workload part lists it.
//!
//! Promise: its digest is a SHA-256, and stands in the text. Not here: which images a digest names (see
//! `refs`), what a runtime says of a container's image (see `lookup`).

use crate::refs::{MAX_IMAGE_NAME, is_name};
use cgpath_evidence::text::quoted;
use cgpath_evidence::{Bank, Digest};

/// An image that a container may run: `NAME@sha256:HEX`. The digest decides; the name is for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedImage {
    text: String,
    digest: Digest,
}

impl ListedImage {
    /// Reads such a text.
    ///
    /// # Errors
    /// Why it is none; for people.
    pub fn parse(text: &str) -> Result<ListedImage, String> {
        // Long errors are cut in their middle: what is wrong comes first.
        let refused = |why: &str| Err(format!("{why}: {}", quoted(text)));
        if !is_name(text) {
            return refused(&format!(
                "an image has 1 to {MAX_IMAGE_NAME} bytes without control characters"
            ));
        }
        let Some((name, digest)) = text.rsplit_once('@') else {
            return refused(match Digest::parse(text) {
                Some(_) => "write the image as NAME@sha256:…",
                // It can mean another image tomorrow.
                None => "a tag needs `signed-by`, not checked yet: write NAME@sha256:…",
            });
        };
        if name.is_empty() || name.contains(['*', '?', ' ', '@']) {
            return refused("a name without a pattern stands before the digest");
        }
        match Digest::parse(digest).filter(|digest| digest.bank() == Bank::Sha256) {
            Some(digest) => Ok(ListedImage {
                text: text.to_owned(),
                digest,
            }),
            None => refused("the digest is not sha256: and 64 hex digits"),
        }
    }

    /// The digest of its index, its manifest or its configuration.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }
}

impl core::fmt::Display for ListedImage {
    /// As the policy writes it.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&self.text)
    }
}

impl schemars::JsonSchema for ListedImage {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ListedImage".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "NAME@sha256:HEX",
            "maxLength": MAX_IMAGE_NAME,
            "pattern": "^[^*? @]+@sha256:[0-9a-fA-F]{64}$",
        })
    }
}
