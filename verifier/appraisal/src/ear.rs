//! A verdict as a signed EAT attestation result: a JWT that relying parties of other makes understand.
//!
//! Pure. Claims: draft-ietf-rats-ear-04; values of the trustworthiness vector: draft-ietf-rats-ar4si; JWT:
//! RFC 7519 with ES256 (RFC 7518 section 3.4). Promises: nothing is affirmed that a bypass or a learned value
//! made possible, nor of a node whose verdict is not a current one; each result has an end and names whom it
//! is for.
//! Not here: where the key comes from, how a token is read (see `read`).

mod read;

pub use read::{AttestationResult, EarError, EarStatus};

use crate::accept::{self, WaiverNote};
use crate::results::finding::Severity;
use crate::results::verdict::{PodVerdict, State, Verdict};
use crate::rules::Rule;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use cgpath_evidence::{PodUid, serde_bytes_hex};
use p256::ecdsa::SigningKey;
use serde::Serialize;
use std::collections::BTreeMap;

/// `eat_profile`: the revision of the draft that the claims follow.
pub const PROFILE: &str = "tag:ietf.org,2026:rats/ear#04";

/// The submodule that speaks of the node; a pod's is called by its UID.
pub const NODE: &str = "node";

#[derive(Serialize)]
struct Claims<'a> {
    eat_profile: &'static str,
    iat: u64,
    exp: u64,
    aud: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    eat_nonce: Option<String>,
    ear_verifier_id: VerifierId,
    submods: BTreeMap<String, Appraisal<'a>>,
}

#[derive(Serialize)]
struct VerifierId {
    developer: &'static str,
    build: &'static str,
}

#[derive(Serialize)]
struct Appraisal<'a> {
    ear_status: Tier,
    ear_trustworthiness_vector: Vector,
    ear_appraisal_policy_ids: [String; 1],
    ear_verifier_claims: OwnClaims<'a>,
}

/// AR4SI's tiers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Tier {
    None,
    Affirming,
    Warning,
    Contraindicated,
}

/// AR4SI's claims, each in its tier: 0 none, 2 to 31 affirming, 32 to 95 warning, 96 and more
/// contraindicated.
#[derive(Default, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Vector {
    instance_identity: i8,
    configuration: i8,
    executables: i8,
}

/// Whom a result speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The node and all its pods.
    All,
    /// The pods that the verdict has, for somebody who may see them and not the node: of that, only whether
    /// it is trusted.
    Pods,
    /// The same with this pod alone: no other is named.
    Pod(PodUid),
}

/// What became of a node since its verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// It is older than verdicts are to be.
    Stale,
    /// Nobody attests it any more.
    Stopped,
}

/// For whom a result is, and for how long.
#[derive(Debug, Clone)]
pub struct Terms<'a> {
    /// Whom it speaks of.
    pub scope: Scope,
    /// The nonce that the node answered, where there was one.
    pub nonce: Option<&'a [u8]>,
    /// Whom it is for (`aud`): a text that this party knows as its own name.
    pub audience: String,
    /// How long it counts from the verdict on, in seconds (`exp`).
    pub lifetime: u64,
    /// `None` while the verdict is the current one. Else nothing is affirmed.
    pub standing: Option<Standing>,
}

/// How long a result counts unless something else is said: as long as a verdict is not called stale.
pub const LIFETIME: u64 = 300;

/// The audience of a result that every recipient may rely on.
pub const ANYONE: &str = "urn:ima-cgpath:anyone";

/// The audience of a result for the owner of one pod.
pub fn owner_of(pod: PodUid) -> String {
    format!("urn:ima-cgpath:pod:{pod}")
}

impl<'a> Terms<'a> {
    /// Those of a current verdict: for [`ANYONE`], or for the owner of the one pod.
    pub fn new(scope: Scope, nonce: Option<&'a [u8]>) -> Terms<'a> {
        Terms {
            scope,
            nonce,
            audience: match scope {
                Scope::All | Scope::Pods => ANYONE.to_owned(),
                Scope::Pod(uid) => owner_of(uid),
            },
            lifetime: LIFETIME,
            standing: None,
        }
    }
}

/// The checkpoint that the evidence ended with: what ties a result to a tenant's bundle.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct CheckpointClaim {
    number: u64,
    #[serde(with = "serde_bytes_hex")]
    sha256: [u8; 32],
    #[serde(with = "serde_bytes_hex")]
    boot_id: [u8; 16],
}

/// What EAR has no claim for.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct OwnClaims<'a> {
    state: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    /// Absent where the verdict is the current one.
    #[serde(skip_serializing_if = "Option::is_none")]
    standing: Option<Standing>,
    learned: bool,
    dangerous: &'a [String],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    accepted: Vec<WaiverNote>,
    /// The node's are for those who may see all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    failed_rules: Option<Vec<Rule>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    checkpoint: Option<CheckpointClaim>,
}

/// The verdict as a JWT, signed by `key`, on these terms.
///
/// # Errors
/// Those of the JSON encoder.
pub fn issue(verdict: &Verdict, terms: &Terms<'_>, key: &SigningKey) -> Result<String, serde_json::Error> {
    crate::jws::sign("JWT", &claims(verdict, terms), key)
}

/// The same for anyone. `nonce` is the request's, where there was one.
///
/// # Errors
/// Those of the JSON encoder.
pub fn token(verdict: &Verdict, nonce: Option<&[u8]>, key: &SigningKey) -> Result<String, serde_json::Error> {
    token_for(verdict, Scope::All, nonce, key)
}

/// The same about those that `scope` names, on the terms of [`Terms::new`].
///
/// # Errors
/// Those of the JSON encoder.
pub fn token_for(
    verdict: &Verdict,
    scope: Scope,
    nonce: Option<&[u8]>,
    key: &SigningKey,
) -> Result<String, serde_json::Error> {
    issue(verdict, &Terms::new(scope, nonce), key)
}

fn claims<'a>(verdict: &'a Verdict, terms: &Terms<'_>) -> Claims<'a> {
    let scope = terms.scope;
    let failed = |findings: &[crate::Finding]| {
        let mut rules: Vec<Rule> = findings
            .iter()
            .filter(|f| f.severity == Severity::Fail)
            .map(|f| f.rule)
            .collect();
        rules.sort_unstable();
        rules.dedup();
        rules
    };
    let node_rules = failed(&verdict.node.findings);
    let in_scope = |uid| !matches!(scope, Scope::Pod(only) if only != uid);
    let mut accepted = verdict.accepted.clone();
    if scope != Scope::All {
        let own: Vec<PodVerdict> = verdict
            .pods
            .iter()
            .filter(|pod| in_scope(pod.uid))
            .cloned()
            .collect();
        accept::redact(&mut accepted, &own);
    }
    // 2: recognised; 99: its signature, or what it signed, does not verify. Which rule failed is stated only
    // to readers who may see all.
    let instance_identity = match scope {
        Scope::All if node_rules.contains(&Rule::Quote) => 99,
        _ => 2,
    };
    // 2: as approved; 36: elements of it were not looked at.
    let configuration =
        if verdict.dangerous.is_empty() && verdict.relaxations.is_empty() && verdict.accepted.is_empty() {
            2
        } else {
            36
        };
    let appraisal = |state, learned, name, failed_rules: Option<Vec<Rule>>, checkpoint| {
        let executables = match state {
            // 2: approved; 33: some were not recognised by anybody but the log that they were learned from.
            State::Trusted => {
                if learned {
                    33
                } else {
                    2
                }
            }
            State::Untrusted | State::Unknown => 96,
            State::PredatesCollector | State::Pending => 0,
        };
        let worst = [instance_identity, configuration, executables]
            .into_iter()
            .max()
            .unwrap_or(99);
        let ear_status = match (state, worst) {
            (State::Untrusted | State::Unknown, _) | (_, 96..) => Tier::Contraindicated,
            (State::PredatesCollector | State::Pending, _) => Tier::None,
            (State::Trusted, 32..) => Tier::Warning,
            (State::Trusted, _) => Tier::Affirming,
        };
        // What is not current says what was, and claims nothing.
        let (ear_status, vector) = match terms.standing {
            None => (
                ear_status,
                Vector {
                    instance_identity,
                    configuration,
                    executables,
                },
            ),
            Some(_) => (Tier::None, Vector::default()),
        };
        Appraisal {
            ear_status,
            ear_trustworthiness_vector: vector,
            ear_appraisal_policy_ids: [verdict.policy.to_string()],
            ear_verifier_claims: OwnClaims {
                state,
                name,
                standing: terms.standing,
                learned,
                dangerous: &verdict.dangerous,
                accepted: accepted.clone(),
                failed_rules,
                checkpoint,
            },
        }
    };
    let mut submods = BTreeMap::new();
    let node = &verdict.node;
    let checkpoint = node.checkpoint.zip(node.checkpoint_sha256);
    let checkpoint = checkpoint.map(|(number, sha256)| CheckpointClaim {
        number,
        sha256,
        boot_id: node.boot_id,
    });
    submods.insert(
        NODE.to_owned(),
        appraisal(
            node.state,
            verdict.learned,
            Some(node.name.as_str()),
            (scope == Scope::All).then_some(node_rules),
            checkpoint,
        ),
    );
    for pod in verdict.pods.iter().filter(|pod| in_scope(pod.uid)) {
        let rules = failed(&pod.findings);
        submods.insert(
            pod.uid.to_string(),
            appraisal(pod.state, pod.learned, pod.name.as_deref(), Some(rules), None),
        );
    }
    Claims {
        eat_profile: PROFILE,
        iat: verdict.time,
        exp: verdict.time.saturating_add(terms.lifetime),
        aud: terms.audience.clone(),
        eat_nonce: terms.nonce.map(|nonce| URL_SAFE_NO_PAD.encode(nonce)),
        ear_verifier_id: VerifierId {
            developer: "ima-cgpath",
            build: concat!("cgpath ", env!("CARGO_PKG_VERSION")),
        },
        submods,
    }
}
