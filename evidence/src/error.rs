//! The one error type of this crate.

/// Why bytes could not be read as what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The input ends before the item does. More bytes could make it valid.
    #[error("incomplete at byte {offset}: {need} more byte(s) needed for {what}")]
    Incomplete {
        /// Where the item that lacks bytes begins, in bytes from the start of the input.
        offset: u64,
        /// How many more bytes are needed at least.
        need: u64,
        /// What was being read.
        what: &'static str,
    },
    /// The input can never become valid, whatever follows.
    #[error("malformed at byte {offset}: {why}")]
    Malformed {
        /// Where, in bytes from the start of the input.
        offset: u64,
        /// Why.
        why: String,
    },
    /// A stated limit was met before anything was allocated for the item.
    #[error("limit exceeded at byte {offset}: {what} is {found}, the limit is {limit}")]
    Limit {
        /// Where, in bytes from the start of the input.
        offset: u64,
        /// What is too large.
        what: &'static str,
        /// What the input says.
        found: u64,
        /// What is allowed.
        limit: u64,
    },
    /// What is decoded would hold more memory than input of this length may: its items are too many and too
    /// small.
    #[error(
        "{what} is refused at byte {offset}: it would take more than {limit} bytes of memory, in too many \
         too small items"
    )]
    Expansion {
        /// Where the budget ends, in bytes from the start of the input.
        offset: u64,
        /// What was being read.
        what: &'static str,
        /// What it may take.
        limit: u64,
    },
    /// CBOR that is valid but not the one deterministic form (RFC 8949 section 4.2).
    #[error("not in deterministic form: {what}")]
    NotDeterministic {
        /// What was being read.
        what: &'static str,
    },
    /// A signature of a checkpoint does not verify.
    #[error("signature of {what} does not verify")]
    BadSignature {
        /// What was signed.
        what: &'static str,
    },
}

/// Shorthand.
pub type Result<T, E = Error> = core::result::Result<T, E>;

impl Error {
    /// A [`Error::Malformed`] at `offset`.
    pub fn malformed(offset: u64, why: impl Into<String>) -> Self {
        Self::Malformed {
            offset,
            why: why.into(),
        }
    }
}
