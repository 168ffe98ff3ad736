//! Reads an attestation result of a verifier whose key is known.
//!
//! Promise: nothing is taken from a token whose signature does not verify, and no claim stands in it twice.
//! Not here: what follows from it (see `tenant`).

use super::{NODE, PROFILE};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use cgpath_evidence::{PodUid, json, merkle::Hash};
use p256::ecdsa::{Signature, VerifyingKey, signature::Verifier};
use serde_json::Value;
use std::collections::BTreeMap;

/// A token is never longer than this many bytes.
pub const MAX_TOKEN_LEN: usize = 4 * 1024 * 1024;

/// Why a token says nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EarError {
    /// Not three parts in base64url, or another header than ours.
    #[error("the attestation result is not a JWT signed with ES256: {0}")]
    NotAToken(String),
    /// No given key signed it.
    #[error("the attestation result is not signed by a key that is trusted here")]
    Signature,
    /// Its claims are not those of an EAR.
    #[error("the attestation result's claims: {0}")]
    Claims(String),
}

/// AR4SI's tiers as a token states them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EarStatus {
    /// Nothing is said.
    None,
    /// Good.
    Affirming,
    /// Good but for something that was not looked at.
    Warning,
    /// Bad.
    Contraindicated,
}

impl EarStatus {
    /// Whether it is one of the two good ones.
    pub fn is_good(self) -> bool {
        matches!(self, EarStatus::Affirming | EarStatus::Warning)
    }
}

/// What a full verifier said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttestationResult {
    /// When, in seconds since 1970.
    pub time: u64,
    /// Until when it counts, in seconds since 1970; absent in those that were made without an end.
    pub expires: Option<u64>,
    /// Whom it is for; absent in those that were made for nobody in particular.
    pub audience: Option<String>,
    /// SHA-256 of the last checkpoint's file.
    pub checkpoint: Option<Hash>,
    /// The node's status.
    pub node: EarStatus,
    /// The pods' statuses.
    pub pods: BTreeMap<PodUid, EarStatus>,
    /// Bypasses that were in force.
    pub dangerous: Vec<String>,
}

impl AttestationResult {
    /// Reads a token that one of `keys` signed.
    ///
    /// # Errors
    /// [`EarError`].
    pub fn read(token: &str, keys: &[VerifyingKey]) -> Result<AttestationResult, EarError> {
        let (message, signature) = split(token)?;
        let verifies = |key: &VerifyingKey| key.verify(message.as_bytes(), &signature).is_ok();
        if !keys.iter().any(verifies) {
            return Err(EarError::Signature);
        }
        AttestationResult::of_claims(&claims(message)?)
    }

    /// The pods that a token names, no matter who signed it: who passes one on must know what it would show.
    ///
    /// # Errors
    /// [`EarError`].
    pub fn pods_named(token: &str) -> Result<Vec<PodUid>, EarError> {
        let (message, _) = split(token)?;
        Ok(AttestationResult::of_claims(&claims(message)?)?
            .pods
            .into_keys()
            .collect())
    }

    fn of_claims(claims: &Value) -> Result<AttestationResult, EarError> {
        let bad = |what: &str| EarError::Claims(what.to_owned());
        if claims["eat_profile"] != PROFILE {
            return Err(bad("another profile than the one that is known here"));
        }
        let submods = claims["submods"].as_object().ok_or_else(|| bad("no submods"))?;
        let node = submods.get(NODE).ok_or_else(|| bad("no submodule `node`"))?;
        let own = &node["ear_verifier_claims"];
        let checkpoint = match own["checkpoint"]["sha256"].as_str() {
            None => None,
            Some(text) => {
                let mut hash = [0; 32];
                hex::decode_to_slice(text, &mut hash).map_err(|_| bad("the checkpoint's sha256"))?;
                Some(hash)
            }
        };
        let mut pods = BTreeMap::new();
        for (name, appraisal) in submods.iter().filter(|(name, _)| *name != NODE) {
            let uid = PodUid::parse(name.as_bytes()).filter(|uid| uid.to_string() == *name);
            pods.insert(
                uid.ok_or_else(|| bad("a submodule that is no pod"))?,
                status(appraisal)?,
            );
        }
        let dangerous = own["dangerous"].as_array().ok_or_else(|| bad("no `dangerous`"))?;
        let text = |value: &Value, what| value.as_str().map(str::to_owned).ok_or_else(|| bad(what));
        Ok(AttestationResult {
            time: claims["iat"].as_u64().ok_or_else(|| bad("no `iat`"))?,
            expires: match &claims["exp"] {
                Value::Null => None,
                end => Some(end.as_u64().ok_or_else(|| bad("`exp`"))?),
            },
            audience: match &claims["aud"] {
                Value::Null => None,
                name => Some(text(name, "`aud`")?),
            },
            checkpoint,
            node: status(node)?,
            pods,
            dangerous: dangerous
                .iter()
                .map(|key| text(key, "`dangerous`"))
                .collect::<Result<_, _>>()?,
        })
    }
}

fn status(appraisal: &Value) -> Result<EarStatus, EarError> {
    match appraisal["ear_status"].as_str() {
        Some("none") => Ok(EarStatus::None),
        Some("affirming") => Ok(EarStatus::Affirming),
        Some("warning") => Ok(EarStatus::Warning),
        Some("contraindicated") => Ok(EarStatus::Contraindicated),
        _ => Err(EarError::Claims("an ear_status that is none".into())),
    }
}

/// The signed part of a token, whose header is checked, and its signature.
fn split(token: &str) -> Result<(&str, Signature), EarError> {
    let bad = |why: &str| EarError::NotAToken(why.to_owned());
    if token.len() > MAX_TOKEN_LEN {
        return Err(bad("longer than any"));
    }
    let (message, signature) = token.trim_end().rsplit_once('.').ok_or_else(|| bad("no dot"))?;
    let (header, _) = message.split_once('.').ok_or_else(|| bad("only one dot"))?;
    let header = part(header)?;
    if header["alg"] != "ES256" || header.get("crit").is_some() {
        return Err(bad("the header asks for something else"));
    }
    let signature = URL_SAFE_NO_PAD
        .decode(signature)
        .ok()
        .and_then(|bytes| Signature::from_slice(&bytes).ok())
        .ok_or_else(|| bad("the third part is no signature"))?;
    Ok((message, signature))
}

fn part(text: &str) -> Result<Value, EarError> {
    let bytes = URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|e| EarError::NotAToken(e.to_string()))?;
    json::value(&bytes, "part of a JWT", MAX_TOKEN_LEN).map_err(|e| EarError::NotAToken(e.to_string()))
}

fn claims(message: &str) -> Result<Value, EarError> {
    part(message.split_once('.').map_or("", |(_, claims)| claims))
}
