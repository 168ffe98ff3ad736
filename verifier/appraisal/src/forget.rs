//! What is known of a node is forgotten: somebody who may said that its TPM's counters begin anew (rule V7),
//! and why.
//!
//! A statement is a JWS (RFC 7515, compact form, ES256) by the service's verdict key. Promise: it names what
//! was forgotten by its hash, so that it can be distinguished from every other time. Not here: where states
//! and statements are kept (the caller's store).

use crate::accept::{AcceptError, check_reason};
use cgpath_evidence::Digest;
use p256::ecdsa::SigningKey;
use serde::{Deserialize, Serialize};

/// `typ` of a statement.
const TYPE: &str = "cgpath-forget+jwt";

/// What a statement says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// The node, by the verifier's name for it.
    pub node: String,
    /// SHA-256 of the state that was forgotten, as it was kept.
    pub state: Digest,
    /// Why.
    pub reason: String,
    /// When it was signed, in unix seconds.
    pub iat: u64,
}

/// Signs a statement; gives its bytes.
///
/// # Errors
/// [`AcceptError::Reason`].
pub fn sign(statement: &Statement, key: &SigningKey) -> Result<String, AcceptError> {
    check_reason(&statement.reason)?;
    crate::jws::sign(TYPE, statement, key).map_err(|_| AcceptError::Malformed("it cannot be written as JSON"))
}
