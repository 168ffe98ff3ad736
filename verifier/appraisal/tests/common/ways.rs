//! One round of a node, judged in every way that there is: whole, followed, encoded again, and as each
//! tenant's.
//!
//! Promises: the follower is called in one place, [`begin`] and [`follow`]; a way remembers of a round what a
//! verifier would. Not here: what has to come out.

use cgpath_appraisal::accept::Waiver;
use cgpath_appraisal::ear::{self, Scope};
use cgpath_appraisal::follow::{self, Follower};
use cgpath_appraisal::tenant::{self, Outcome, TenantContext, TenantVerdict};
use cgpath_appraisal::{Context, ExpectedNonce, NodeState, State, Unusable, Verdict, appraise_with_waivers};
use cgpath_evidence::bundle::ProveError;
use cgpath_evidence::{Evidence, EvidenceDelta, PodUid, TenantBundle};
use cgpath_policy::Policy;
use cgpath_testkit::{Node, delta_after};
use p256::ecdsa::SigningKey;

/// What follows a node from evidence on that gave the verdict `whole`.
fn begin(
    evidence: &Evidence,
    whole: &Verdict,
    policy: &Policy,
    context: &Context,
    accepted: &[Waiver],
) -> Option<Follower> {
    let (verdict, follower) = Follower::begin(evidence, policy, context, accepted, context.now).ok()?;
    assert_eq!(verdict, *whole);
    follower
}

/// The follower's verdict on a delta, if it has one.
fn follow(
    follower: &mut Follower,
    delta: &EvidenceDelta,
    policy: &Policy,
    context: &Context,
    accepted: &[Waiver],
) -> Option<Verdict> {
    follower.advance(delta, policy, context, accepted).cloned()
}

/// What a verifier keeps of a node from round to round.
#[derive(Default)]
pub struct Ways {
    /// What the last believed round left.
    pub state: Option<NodeState>,
    /// Evidence of the last believed round.
    pub kept: Option<Evidence>,
    follower: Option<Follower>,
    /// How many rounds the follower judged.
    pub followed: u64,
}

/// What was concluded of one round.
pub struct Appraised {
    pub whole: Verdict,
    /// Of the evidence as it was encoded and decoded.
    pub again: Verdict,
    /// Absent where the follower hands over to the appraisal, or nothing can be followed.
    pub followed: Option<Verdict>,
    /// Of what is kept and the delta after it, where that is another evidence than the one that was given.
    pub joined: Option<Verdict>,
}

impl Ways {
    /// A context for the next round, beside what is remembered.
    pub fn next(&self, context: Context) -> Context {
        Context {
            previous: self.state.clone(),
            ..context
        }
    }

    /// Judges a round, which `context` came from [`Ways::next`] for.
    pub fn appraise(
        &mut self,
        evidence: &Evidence,
        policy: &Policy,
        context: &Context,
        accepted: &[Waiver],
    ) -> Result<Appraised, Unusable> {
        let appraised =
            |evidence: &Evidence| appraise_with_waivers(evidence, policy, context, accepted, context.now);
        let whole = appraised(evidence);
        let cbor = Evidence::from_cbor(&evidence.to_cbor()).unwrap();
        let json = Evidence::from_json(&evidence.to_json().unwrap()).unwrap();
        assert!(
            cbor == *evidence && json == *evidence,
            "an encoding changes the evidence"
        );
        let delta = self.delta(evidence);
        let followed = delta.as_ref().and_then(|delta| {
            assert_eq!(EvidenceDelta::from_cbor(&delta.to_cbor()).as_ref(), Ok(delta));
            follow(self.follower.as_mut()?, delta, policy, context, accepted)
        });
        assert!(
            whole.is_ok() || followed.is_none(),
            "followed: {followed:?}\nwhole: {whole:?}"
        );
        let whole = whole?;
        let joined = delta.and_then(|delta| delta.join(self.kept.clone()?).ok());
        let joined = joined.filter(|joined| joined != evidence);
        let joined = joined.map(|joined| appraised(&joined)).transpose()?;
        self.followed += u64::from(followed.is_some());
        if followed.is_none() {
            self.follower = begin(evidence, &whole, policy, context, accepted);
        }
        if let Some(state) = &whole.state {
            self.state = Some(state.clone());
            self.kept = Some(evidence.clone());
        } else if self.state.is_none() {
            self.state.clone_from(&whole.first_sight);
        }
        Ok(Appraised {
            whole,
            again: appraised(&cbor)?,
            followed,
            joined,
        })
    }

    /// What of the evidence is new, if it goes on from what is kept.
    fn delta(&self, evidence: &Evidence) -> Option<EvidenceDelta> {
        let (state, kept) = (self.state.as_ref()?, self.kept.as_ref()?);
        let from = follow::cursor(state, [7; 32])?;
        (evidence.boot_id == kept.boot_id).then(|| delta_after(evidence, kept, from))
    }
}

impl Appraised {
    /// All verdicts on the evidence itself, by the way in which they came.
    pub fn verdicts(&self) -> impl Iterator<Item = (&'static str, &Verdict)> {
        let followed = self.followed.iter().map(|verdict| ("followed", verdict));
        [("whole", &self.whole), ("again", &self.again)]
            .into_iter()
            .chain(followed)
    }

    /// A way that comes to another verdict than the whole, and both.
    pub fn disagreement(&self) -> Option<(&'static str, &Verdict, &Verdict)> {
        if self.again != self.whole {
            return Some(("again", &self.again, &self.whole));
        }
        let same = self.joined.as_ref().unwrap_or(&self.whole);
        let followed = self.followed.as_ref().filter(|followed| *followed != same)?;
        Some(("followed", followed, same))
    }
}

/// The key that full verifiers sign results with.
pub fn verdict_key() -> SigningKey {
    SigningKey::from_slice(&[5; 32]).unwrap()
}

/// The tenant's policy of this pod of the node.
pub fn load_tenant(node: &Node, uid: PodUid, yaml: &str) -> Policy {
    let resolve = |name: &str| node.reference(name).ok_or_else(|| "no such file".to_owned());
    let (about, policy) = Policy::load_tenant("pod.yaml", yaml.as_bytes(), resolve).unwrap();
    assert_eq!(about, uid);
    policy
}

/// The tenant's question, where the full verifier's is `context`: of a tenant that remembers nothing.
pub fn tenant_context(context: Context) -> TenantContext {
    let Context {
        key, td, nonce, now, ..
    } = context;
    TenantContext {
        key,
        td,
        nonce,
        now,
        verifiers: vec![*verdict_key().verifying_key()],
        previous: None,
    }
}

/// Why no bundle of this pod can be made of the evidence as it is changed.
pub fn not_proven(evidence: &Evidence, uid: PodUid, from: u64, change: &dyn Fn(&mut Evidence)) -> ProveError {
    let mut evidence = evidence.clone();
    change(&mut evidence);
    TenantBundle::prove(&evidence, uid, from).unwrap_err()
}

/// A tenant's own verdict on its pod, with the result of the full verifier. `None` where no bundle can be
/// made.
pub fn tenant(
    evidence: &Evidence,
    whole: &Verdict,
    uid: PodUid,
    policy: &Policy,
    context: &Context,
) -> Option<TenantVerdict> {
    let mut bundle = TenantBundle::prove(evidence, uid, 0).ok()?;
    let nonce = match &context.nonce {
        ExpectedNonce::Value(nonce) => Some(nonce.as_slice()),
        ExpectedNonce::DangerousNone => None,
    };
    let own = tenant_context(context.clone());
    let alone = tenant::verify(&bundle, uid, policy, &own).unwrap();
    assert_ne!(alone.outcome, Outcome::Trusted, "nobody vouched for it:\n{alone}");
    bundle.ear = ear::token_for(whole, Scope::Pod(uid), nonce, &verdict_key()).ok();
    let bundle = TenantBundle::from_cbor(&bundle.to_cbor()).unwrap();
    let verdict = tenant::verify(&bundle, uid, policy, &own).unwrap();
    let believed =
        whole.node.state == State::Trusted && whole.pod(uid).is_some_and(|pod| pod.state == State::Trusted);
    assert!(
        believed || !verdict.trusted,
        "trusted as a tenant's alone:\n{verdict}\n{whole}"
    );
    Some(verdict)
}
