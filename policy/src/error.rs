//! The one error type of the model: why a policy or a reference file cannot be used.

use cgpath_evidence::text::{library_message, quoted};

/// Why a policy or a reference file was refused. Lines and columns count from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Not YAML or JSON, a key that is not known, a value of a wrong form.
    #[error("{file}:{line}:{column}: {why}")]
    Syntax {
        /// The file, as the caller named it.
        file: String,
        /// Line, from 1; 0 where the parser does not say.
        line: usize,
        /// Column, from 1; 0 where the parser does not say.
        column: usize,
        /// What is wrong.
        why: String,
    },
    /// A stated limit was met.
    #[error("{file}: {what} is {found}, the limit is {limit}")]
    Limit {
        /// The file, as the caller named it.
        file: String,
        /// What is too large.
        what: &'static str,
        /// What was found.
        found: u64,
        /// What is allowed.
        limit: u64,
    },
    /// A reference file that the policy names cannot be had.
    #[error("{file}: reference file {}: {why} (names are relative to the policy's \
        folder)", quoted(.reference))]
    Unresolved {
        /// The policy file.
        file: String,
        /// The name that the policy gives.
        reference: String,
        /// What the resolver said.
        why: String,
    },
    /// Every part can be read, but they do not fit together.
    #[error("{file}: {key}: {why}; {hint}")]
    Meaning {
        /// The policy file.
        file: String,
        /// The key that is at fault.
        key: String,
        /// What is wrong.
        why: String,
        /// What to do.
        hint: String,
    },
}

/// Shorthand.
pub type Result<T, E = Error> = core::result::Result<T, E>;

/// What a parser says, without the place that it repeats at the end: an [`Error::Syntax`] begins with it.
pub(crate) fn without_place(error: &impl core::fmt::Display) -> String {
    let mut why = library_message(error);
    if let Some(at) = why.rfind(" at line ") {
        why.truncate(at);
    }
    why
}

/// That a file is not longer than this; `what` it is, for people.
pub(crate) fn within(file: &str, what: &'static str, bytes: &[u8], limit: usize) -> Result<()> {
    if bytes.len() > limit {
        return Err(Error::Limit {
            file: file.to_owned(),
            what,
            found: bytes.len() as u64,
            limit: limit as u64,
        });
    }
    Ok(())
}
