//! What a verifier keeps in memory of a node that it follows, so that a round costs what is new and not what
//! there is.
//!
//! Promise: [`Follower::advance`] gives the verdict that an appraisal of the whole evidence would give, or
//! none: both take the same steps. None is given where the round is not to be believed, or goes on from
//! something else: then the whole is appraised, which says what is wrong and makes a new follower. Not here:
//! the rules (see `rules`).

use crate::accept::Waiver;
use crate::appraise;
use crate::appraise::Unusable;
use crate::inputs::context::Context;
use crate::inputs::round::Rebuild;
use crate::inputs::round::Round;
use crate::results::verdict::Verdict;
use crate::steps::Progress;
use cgpath_evidence::{Evidence, EvidenceDelta, Tier, boot::Registers};
use cgpath_policy::Policy;

/// See the module.
#[derive(Debug)]
pub struct Follower {
    progress: Progress,
    verdict: Verdict,
    tier: Tier,
    /// PCR 0 to 9: as long as they are these, what was said of the boot holds.
    registers: Vec<Registers>,
}

impl Follower {
    /// Appraises whole evidence as [`crate::appraise_with_waivers`] does, and gives what follows it. There is
    /// no follower of evidence that is not to be believed, nor of entries that are redacted.
    ///
    /// # Errors
    /// Those of [`crate::appraise`].
    pub fn begin(
        evidence: &Evidence,
        policy: &Policy,
        context: &Context,
        waivers: &[Waiver],
        now: u64,
    ) -> Result<(Verdict, Option<Follower>), Unusable> {
        let (verdict, progress) = appraise::begin(evidence, policy, context, waivers, now, true)?;
        let follower = progress.can_go_on().then(|| Follower {
            progress,
            verdict: verdict.clone(),
            tier: evidence.tier,
            registers: evidence.registers().to_vec(),
        });
        Ok((verdict, follower))
    }

    /// The last verdict.
    pub fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    /// About how many bytes of memory this takes.
    pub fn weight(&self) -> usize {
        self.progress.weight()
    }

    /// Judges what is new. `None`: the whole evidence must be appraised, and this follower is of no more use.
    pub fn advance(
        &mut self,
        delta: &EvidenceDelta,
        policy: &Policy,
        context: &Context,
        waivers: &[Waiver],
    ) -> Option<&Verdict> {
        let round = Round::of_delta(delta, self.progress.covered());
        if !self.is_next(delta, policy, context) || appraise::usable(&round, policy, context).is_err() {
            return None;
        }
        match self.progress.go_on(&round, policy, context, waivers) {
            Ok(verdict) => {
                self.verdict = verdict;
                Some(&self.verdict)
            }
            Err(Rebuild) => None,
        }
    }

    /// Whether the delta goes on from the last verdict, under the same policy and after the same boot.
    fn is_next(&self, delta: &EvidenceDelta, policy: &Policy, context: &Context) -> bool {
        let Some(before) = &self.verdict.state else {
            return false;
        };
        let Some(at) = &before.checkpoint else {
            return false;
        };
        context.previous.as_ref() == Some(before)
            && self.verdict.policy == *policy.digest()
            && delta.tier == self.tier
            && delta.boot_id == before.boot_id
            && delta.from.boot_id == before.boot_id
            && delta.from.entries == before.covered
            && delta.from.checkpoint == at.number
            && delta.from.digest == at.digest
            && delta.registers() == self.registers
            && delta
                .boot
                .as_ref()
                .is_none_or(|boot| boot.log.is_none() && boot.command_line.is_none())
    }
}
