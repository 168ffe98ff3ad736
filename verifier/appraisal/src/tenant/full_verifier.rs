//! The full verifier's signed result that a bundle carries.
//!
//! Promise: without one for the same checkpoint, this pod, this time and this reader nothing is trusted. Not
//! here: how such a result is made (see [`crate::ear`]).

use super::{Case, FullVerifier, fail};
use crate::ear::{self, AttestationResult, EarStatus};
use crate::results::finding::Findings;
use crate::results::verdict::State;
use crate::rules::Rule;
use crate::text::{quoted, utc};

impl Case<'_> {
    /// The result of a full verifier for this checkpoint; without one, why there is none. `own` is what the
    /// pod is by its own policy: that a full verifier says nothing of a pending one, either, is no failure.
    pub(super) fn full_verifier(
        &self,
        own: Option<State>,
        findings: &mut Findings,
        notes: &mut Vec<String>,
    ) -> Result<FullVerifier, String> {
        let Some(token) = &self.bundle.ear else {
            return Err("the bundle carries no attestation result of a full verifier".to_owned());
        };
        let result = AttestationResult::read(token, &self.context.verifiers).map_err(|e| e.to_string())?;
        let digest = self.bundle.checkpoint_digest();
        if result.checkpoint != Some(digest) {
            return Err("the full verifier's result is about another checkpoint".to_owned());
        }
        let Some(pod) = result.pods.get(&self.pod) else {
            return Err("the full verifier's result does not speak of this pod".to_owned());
        };
        match result.expires {
            Some(end) if self.context.now < end => {}
            Some(end) => {
                let end = utc(end);
                return Err(format!("the full verifier's result counted until {end} UTC"));
            }
            None => return Err("the full verifier's result has no end (`exp`)".to_owned()),
        }
        let owner = ear::owner_of(self.pod);
        match &result.audience {
            Some(audience) if *audience == owner || audience == ear::ANYONE => {}
            Some(other) => {
                let other = quoted(other);
                return Err(format!(
                    "the full verifier's result is for {other}, not for {owner}"
                ));
            }
            None => return Err("the full verifier's result says not whom it is for (`aud`)".to_owned()),
        }
        let is_pending = own == Some(State::Pending) && *pod == EarStatus::None;
        let of_pod = (!is_pending).then_some(("this pod", *pod));
        for (what, status) in [("the node", result.node)].into_iter().chain(of_pod) {
            if !status.is_good() {
                findings.push(
                    fail(Rule::Absent, format!("the full verifier does not trust {what}"))
                        .found(format!("{status:?}")),
                );
            }
        }
        if is_pending {
            notes.push("the full verifier says neither good nor bad of this pod".to_owned());
        }
        Ok(FullVerifier {
            time: result.time,
            dangerous: result.dangerous,
        })
    }
}
