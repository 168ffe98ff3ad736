//! A pod's proofs as they come, judged by the tenant's own policy; each begins where the one before ended.
//!
//! Promise: collateral is what its files hold when a proof comes, since it gets too old while this runs.

use crate::input;
use crate::output::{Failure, escape};
use crate::tenant::{self, public_key};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use cgpath_appraisal::tenant::{TenantContext, TenantState, TenantVerdict};
use cgpath_appraisal::{ExpectedNonce, PinnedKey, TdContext};
use cgpath_evidence::{PodUid, TenantBundle, challenge::Opening};
use p256::ecdsa::VerifyingKey;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// What was found about an event's proof.
#[derive(Serialize)]
pub struct Proof {
    /// Whether it was checked at all.
    checked: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    /// What the check said.
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<Box<TenantVerdict>>,
    /// Whether it is over a nonce that was drawn here; absent where none was.
    #[serde(skip_serializing_if = "Option::is_none")]
    own_nonce: Option<bool>,
}

impl Proof {
    /// Nobody looked at it.
    pub fn unchecked(why: &str) -> Proof {
        Proof {
            checked: false,
            why: Some(why.to_owned()),
            verdict: None,
            own_nonce: None,
        }
    }

    fn wrong(why: &str) -> Proof {
        Proof::failed(escape(why.as_bytes()))
    }

    /// `why` is escaped already.
    fn failed(why: String) -> Proof {
        Proof {
            checked: true,
            why: Some(why),
            verdict: None,
            own_nonce: None,
        }
    }

    /// Whether nothing speaks against it; what nobody looked at does not.
    pub fn holds(&self) -> bool {
        !self.checked || self.verdict.as_ref().is_some_and(|verdict| verdict.trusted)
    }

    /// Whether it was checked against a nonce that was drawn here.
    pub fn is_over_own_nonce(&self) -> bool {
        self.own_nonce == Some(true)
    }
}

impl core::fmt::Display for Proof {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match (&self.verdict, &self.why, self.checked) {
            (Some(verdict), ..) => {
                write!(
                    f,
                    "{}, {} records, list from entry {} to {}",
                    verdict.outcome, verdict.records, verdict.from, verdict.covered
                )?;
                for finding in &verdict.findings {
                    write!(f, " [{} {}]", finding.rule, escape(finding.text.as_bytes()))?;
                }
                match self.own_nonce {
                    Some(true) => f.write_str(", over this reader's own nonce"),
                    Some(false) => f.write_str(", over the service's nonce"),
                    None => Ok(()),
                }
            }
            (None, Some(why), true) => write!(f, "WRONG ({why})"),
            (None, why, _) => write!(f, "not checked ({})", why.as_deref().unwrap_or_default()),
        }
    }
}

/// The tenant's own means, and how far it has followed.
pub struct Checker {
    pod: PodUid,
    policy: cgpath_policy::Policy,
    key: PinnedKey,
    /// Without collateral.
    td: TdContext,
    /// The files that have it.
    collateral: Vec<PathBuf>,
    verifiers: Vec<VerifyingKey>,
    state: Option<TenantState>,
    followed: u64,
}

impl Checker {
    /// Reads policy and verifiers' keys; the files of `collateral` are read for each proof.
    ///
    /// # Errors
    /// Those that cannot be used.
    pub fn new(
        path: &Path,
        (key, td): (PinnedKey, TdContext),
        pod: PodUid,
        verifiers: &[PathBuf],
        collateral: &[PathBuf],
    ) -> Result<Checker, Failure> {
        let (of, policy) = tenant::load(path)?;
        if of != pod {
            return Err(Failure::new(
                "policy",
                format!("the policy is for pod {of}, not for {pod}"),
            ));
        }
        Ok(Checker {
            pod,
            policy,
            key,
            td,
            collateral: collateral.to_vec(),
            verifiers: verifiers
                .iter()
                .map(|path| public_key(path))
                .collect::<Result<_, _>>()?,
            state: None,
            followed: 0,
        })
    }

    /// Entries of the node's list that were followed.
    pub fn followed(&self) -> u64 {
        self.followed
    }

    /// Judges the proof of an event whose nonce is `nonce`, in hex; by `own`, a nonce that was drawn here,
    /// where the bundle is opened for it. `None`: it begins where we are not, and one that begins elsewhere
    /// is to be asked for.
    ///
    /// # Errors
    /// A clock that cannot be read.
    pub fn check(
        &mut self,
        bundle: Option<&str>,
        unproven: Option<&str>,
        nonce: &str,
        own: Option<&[u8]>,
    ) -> Result<Option<Proof>, Failure> {
        let Some(bundle) = bundle else {
            let why = unproven.unwrap_or("the event has none");
            return Ok(Some(Proof::wrong(why)));
        };
        let decoded = STANDARD.decode(bundle).map_err(|e| e.to_string());
        let decoded = decoded.and_then(|bytes| TenantBundle::from_cbor(&bytes).map_err(|e| e.to_string()));
        let bundle = match decoded {
            Ok(bundle) => bundle,
            Err(why) => return Ok(Some(Proof::wrong(&why))),
        };
        let Ok(nonce) = hex::decode(nonce) else {
            return Ok(Some(Proof::wrong("the event's id is no nonce")));
        };
        if bundle.from != 0 && bundle.from != self.followed {
            return Ok(None);
        }
        let collateral = match input::collateral(&self.collateral) {
            Ok(collateral) => collateral,
            Err(failure) => return Ok(Some(Proof::failed(failure.to_string()))),
        };
        let opening = bundle.opening.as_deref().map(Opening::from_bytes);
        // That the quoted nonce commits to the opening is for the check to see.
        let opened = own.filter(|own| matches!(&opening, Some(Ok(opening)) if opening.holds(own)));
        let nonce = opened.map_or(nonce, <[u8]>::to_vec);
        let context = TenantContext {
            key: self.key.clone(),
            td: TdContext {
                collateral,
                ..self.td.clone()
            },
            nonce: ExpectedNonce::Value(nonce),
            now: input::now()?,
            verifiers: self.verifiers.clone(),
            previous: self.state.clone(),
        };
        let verdict = match cgpath_appraisal::tenant::verify(&bundle, self.pod, &self.policy, &context) {
            Ok(verdict) => verdict,
            Err(error) => return Ok(Some(Proof::wrong(&error.to_string()))),
        };
        // Where something fails we stay where we were, and the next one must begin there.
        if let Some(state) = &verdict.state {
            self.state = Some(state.clone());
            self.followed = verdict.covered;
        }
        Ok(Some(Proof {
            checked: true,
            why: None,
            verdict: Some(Box::new(verdict)),
            own_nonce: own.map(|_| opened.is_some()),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cgpath_appraisal::tenant::Outcome;
    use cgpath_evidence::td::{node_key_hash, public_node_key};
    use cgpath_testkit::td::{Platform, TrustDomain};
    use cgpath_testkit::{Actor, KeyKind, Node, pod};

    const NONCE: &[u8] = b"the nonce of this request";
    const DAY: u64 = 24 * 3600;

    #[test]
    fn collateral_is_read_for_each_proof_so_that_a_fresh_file_counts_at_once() {
        let domain = TrustDomain::new(Platform::new("a test's root", "a machine"));
        let mut node = Node::boot(KeyKind::EcdsaP256).in_domain(domain, false);
        node.execute_good(&Actor::pod(pod(1), "/bin/app"), "/bin/app");
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let reference = format!("{}.json", pod(1));
        std::fs::write(at(&reference), node.reference(&reference).unwrap()).unwrap();
        let domain = node.td.clone().unwrap();
        let policy = format!(
            "version: 1\n\
             pod: {}\n\
             name: shop/web\n\
             templates: [ima-ng]\n\
             anchor: rtmr-{}\n\
             references: [{reference}]\n\
             tdx:\n{}",
            pod(1),
            domain.rtmr,
            domain.policy.split("  boot:\n").next().unwrap()
        );
        std::fs::write(at("web.yaml"), policy).unwrap();
        let td = TdContext {
            node_key: Some(node_key_hash(&public_node_key(&domain.key))),
            collateral: Vec::new(),
        };
        let file = at("collateral.json");
        let key = (PinnedKey::NoTpm, td);
        let checker = Checker::new(&at("web.yaml"), key, pod(1), &[], std::slice::from_ref(&file));
        let mut checker = checker.unwrap_or_else(|failure| panic!("{failure}"));
        let now = input::now().unwrap_or_else(|failure| panic!("{failure}"));
        let mut proof = |age: Option<u64>| {
            match age {
                Some(age) => {
                    let issued = domain.platform.collateral_json(now - age, |_, _| ());
                    std::fs::write(&file, issued).unwrap();
                }
                None => std::fs::remove_file(&file).unwrap(),
            }
            let bundle = TenantBundle::prove(&node.attest(NONCE), pod(1), checker.followed()).unwrap();
            let bundle = STANDARD.encode(bundle.to_cbor());
            let proof = checker.check(Some(&bundle), None, &hex::encode(NONCE), None);
            let proof = proof.unwrap_or_else(|failure| panic!("{failure}"));
            let proof = proof.expect("it begins where the last one ended");
            assert!(!proof.holds(), "no full verifier vouches for it: {proof}");
            (proof.verdict.map(|verdict| verdict.outcome), proof.why)
        };
        let good = (Some(Outcome::PartitionOnly), None);
        assert_eq!(proof(Some(DAY)), good);
        assert_eq!(proof(Some(31 * DAY)), (Some(Outcome::Untrusted), None));
        let (outcome, why) = proof(None);
        assert!(outcome.is_none() && why.unwrap().contains("collateral.json"));
        assert_eq!(proof(Some(DAY)), good);
    }
}
