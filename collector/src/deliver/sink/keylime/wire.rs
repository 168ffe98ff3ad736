//! Bodies of Keylime's push protocol, API v3, and of its registrar, API v2, as JSON.
//!
//! Source: keylime/models/verifier/{auth_session,attestation,evidence}.py and
//! keylime/web/{verifier,registrar}/ of Keylime 7.14.3. Bytes are base64 with padding. What Keylime answers
//! beyond these members is not read; how long an answer may be is decided before it comes here (see
//! [`super::http`]).

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The media type of JSON:API.
pub const JSON_API: &str = "application/vnd.api+json";

/// The only way to open a session that Keylime knows: a certification of the attestation key by itself.
pub const POP: Method<'static> = Method {
    authentication_class: "pop",
    authentication_type: "tpm_pop",
};

/// A JSON:API document with one resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document<A> {
    /// The resource.
    pub data: Resource<A>,
}

/// A JSON:API resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resource<A> {
    /// `session` or `attestation`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Given by the verifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What it is about.
    pub attributes: A,
}

impl<A> Document<A> {
    /// A resource that has no name yet, or needs none.
    pub fn new(kind: &str, attributes: A) -> Document<A> {
        Document {
            data: Resource {
                kind: kind.to_owned(),
                id: None,
                attributes,
            },
        }
    }
}

/// How somebody can show who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Method<'a> {
    /// `pop`: proof of possession.
    pub authentication_class: &'a str,
    /// `tpm_pop`.
    pub authentication_type: &'a str,
}

/// `POST /v3.0/sessions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRequest<'a> {
    /// Who asks.
    pub agent_id: &'a str,
    /// What it can do.
    #[serde(borrow)]
    pub authentication_supported: Vec<Method<'a>>,
}

/// The answer to [`SessionRequest`]; the resource's `id` names the session.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SessionChallenge {
    /// What is asked for.
    pub authentication_requested: Vec<RequestedProof>,
}

/// One proof that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct RequestedProof {
    /// `tpm_pop`.
    pub authentication_type: String,
    /// With what.
    pub chosen_parameters: Challenge,
}

/// The nonce to be certified.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Challenge {
    /// Base64.
    pub challenge: String,
}

/// `PATCH /v3.0/sessions/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SessionProof<'a> {
    /// Who asks.
    pub agent_id: &'a str,
    /// The proof.
    pub authentication_provided: Vec<ProvidedProof>,
}

/// A proof of possession.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProvidedProof {
    /// How.
    #[serde(flatten)]
    pub method: Method<'static>,
    /// With what.
    pub data: Signed,
}

/// What a TPM signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Signed {
    /// TPMS_ATTEST, base64.
    pub message: String,
    /// TPMT_SIGNATURE, base64.
    pub signature: String,
}

/// The answer to [`SessionProof`].
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub struct SessionResult {
    /// `pass` or `fail`.
    pub evaluation: String,
    /// To be sent with each request; only with `pass`.
    pub token: Option<String>,
}

/// `POST /v3.0/agents/{id}/attestations`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capabilities {
    /// What can be asked for.
    pub evidence_supported: Vec<Supported>,
    /// Of the node.
    pub system_info: SystemInfo,
}

/// What the verifier keeps of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SystemInfo {
    /// `YYYY-MM-DDThh:mm:ssZ`; the same all through a boot, and rising: by it the verifier distinguishes
    /// boots.
    pub boot_time: String,
}

/// One kind of evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "evidence_class", rename_all = "lowercase", deny_unknown_fields)]
pub enum Supported {
    /// A quote.
    Certification {
        /// `tpm_quote`.
        evidence_type: String,
        /// What can be chosen.
        capabilities: QuoteCapabilities,
    },
    /// A log.
    Log {
        /// `uefi_log` or `ima_log`.
        evidence_type: String,
        /// What can be chosen.
        capabilities: LogCapabilities,
    },
}

/// What can be chosen of a quote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuoteCapabilities {
    /// `2.0`.
    pub component_version: String,
    /// Of the signature, and of the registers' bank.
    pub hash_algorithms: Vec<String>,
    /// `rsassa`, `ecdsa`.
    pub signature_schemes: Vec<String>,
    /// Registers by bank.
    pub available_subjects: BTreeMap<String, Vec<u8>>,
    /// The keys.
    pub certification_keys: Vec<CertificationKey>,
}

/// An attestation key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificationKey {
    /// `asymmetric`.
    pub key_class: String,
    /// `rsa` or `ecc`.
    pub key_algorithm: String,
    /// In bits.
    pub key_size: u32,
    /// What the verifier calls it: `ak`.
    pub server_identifier: String,
    /// What the node calls it.
    pub local_identifier: String,
    /// TPM2B_PUBLIC, base64.
    pub public: String,
}

/// What can be chosen of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogCapabilities {
    /// Of the format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence_version: Option<String>,
    /// Entries now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry_count: Option<u64>,
    /// Whether a part can be asked for.
    pub supports_partial_access: bool,
    /// Whether it grows.
    pub appendable: bool,
    /// Media types.
    pub formats: Vec<String>,
}

/// The answer to [`Capabilities`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct EvidenceRequested {
    /// To be answered in this order.
    pub evidence_requested: Vec<Requested>,
}

/// One piece of evidence that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Requested {
    /// `tpm_quote`, `uefi_log` or `ima_log`.
    pub evidence_type: String,
    /// In which form.
    #[serde(default)]
    pub chosen_parameters: Chosen,
}

/// What the verifier chose; of a quote the first four, of a log the others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Chosen {
    /// The nonce, base64.
    pub challenge: Option<String>,
    /// Of those that were offered.
    pub signature_scheme: Option<String>,
    /// Of those that were offered.
    pub hash_algorithm: Option<String>,
    /// Registers by bank; null for a bank that is not wanted.
    pub selected_subjects: BTreeMap<String, Option<Vec<u64>>>,
    /// The first entry that is wanted.
    pub starting_offset: Option<u64>,
    /// Entries at most.
    pub entry_count: Option<u64>,
    /// Of those that were offered.
    pub format: Option<String>,
}

/// `PATCH /v3.0/agents/{id}/attestations/latest`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Collected {
    /// In the order of [`EvidenceRequested`].
    pub evidence_collected: Vec<Evidence>,
}

/// One piece of evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "evidence_class", rename_all = "lowercase", deny_unknown_fields)]
pub enum Evidence {
    /// A quote.
    Certification {
        /// `tpm_quote`.
        evidence_type: String,
        /// The quote.
        data: QuoteData,
    },
    /// A log.
    Log {
        /// `uefi_log` or `ima_log`.
        evidence_type: String,
        /// The entries.
        data: LogData,
    },
}

/// A quote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuoteData {
    /// The registers as tpm2-tools' `tpm2_quote -o` writes them (see [`cgpath_evidence::tpm::PcrBlob`]),
    /// base64.
    pub subject_data: String,
    /// TPMS_ATTEST, base64.
    pub message: String,
    /// TPMT_SIGNATURE, base64.
    pub signature: String,
}

/// Entries of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogData {
    /// The text itself, or base64 of bytes.
    pub entries: String,
    /// How many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry_count: Option<u64>,
}

/// The answer to [`Collected`], which repeats the evidence.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Acknowledged {
    /// Beside the resource.
    #[serde(default)]
    pub meta: Meta,
}

/// See [`Acknowledged`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Meta {
    /// Seconds before which the verifier takes no other attestation.
    pub seconds_to_next_attestation: Option<u64>,
}

/// `POST /v2.1/agents/{id}` of the registrar.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Registration {
    /// The endorsement key, TPM2B_PUBLIC, base64.
    pub ek_tpm: String,
    /// Its certificate, DER, base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ekcert: Option<String>,
    /// The attestation key, TPM2B_PUBLIC, base64.
    pub aik_tpm: String,
}

/// What the registrar answers.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Registered {
    /// What is asked for.
    pub results: Blob,
}

/// See [`Registered`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Blob {
    /// The credential as tpm2-tools' `tpm2_makecredential` writes it, base64.
    pub blob: String,
}

/// `PUT /v2.1/agents/{id}/activate` of the registrar.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Activation {
    /// HMAC-SHA384 of the agent's id, keyed with the base64 of what the credential held; hex.
    pub auth_tag: String,
}

#[cfg(test)]
#[path = "../../../../../evidence/tests/common/vectors.rs"]
mod published;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn same(text: &str, ours: &impl Serialize) {
        assert_eq!(
            serde_json::to_value(ours).unwrap(),
            serde_json::from_str::<Value>(text).unwrap()
        );
    }

    #[test]
    fn published_bodies_are_read_and_written_with_nothing_lost_or_added() {
        if published::vectors().is_none() {
            return;
        }
        let body = |name: &str| {
            let bytes = published::vector(&format!("keylime/push_{name}_request.json")).unwrap();
            String::from_utf8(bytes).unwrap()
        };
        let text = body("evidence_supported_attestation");
        let ours: Document<Capabilities> = serde_json::from_str(&text).unwrap();
        assert_eq!(ours.data.attributes.evidence_supported.len(), 3);
        same(&text, &ours);
        let text = body("evidence_handling");
        let ours: Document<Collected> = serde_json::from_str(&text).unwrap();
        assert_eq!(ours.data.attributes.evidence_collected.len(), 3);
        same(&text, &ours);
        let text = body("session");
        let ours: Document<SessionRequest> = serde_json::from_str(&text).unwrap();
        assert_eq!(ours.data.attributes.authentication_supported, [POP]);
        same(&text, &ours);
        let made = SessionRequest {
            agent_id: "example-agent",
            authentication_supported: vec![POP],
        };
        assert_eq!(ours, Document::new("session", made));
    }

    #[test]
    fn a_bank_that_is_not_wanted_and_a_number_that_is_no_register_are_read_as_they_are() {
        let text = r#"{"challenge":"AAAA","selected_subjects":{"sha256":[10,4096],"sha1":null},"more":1}"#;
        let chosen: Chosen = serde_json::from_str(text).unwrap();
        assert_eq!(chosen.selected_subjects["sha256"], Some(vec![10, 4096]));
        assert_eq!(chosen.selected_subjects["sha1"], None);
        assert!(serde_json::from_str::<Chosen>(r#"{"starting_offset":-1}"#).is_err());
    }
}
