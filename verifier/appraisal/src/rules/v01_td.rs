//! V1 for a trust domain: its quote is signed by a platform that Intel certified, as the collateral says of
//! it; its report data are over this request; the node's key is the one that is pinned; and the domain is one
//! that the policy accepts.
//!
//! Promise: a [`TdQuoted`] is what the quote says, whether or not to believe it: that is what the findings
//! tell. Every check is made, so that an outdated platform does not hide a false quoting enclave. No network,
//! no clock. Not here: how a quote is read (see `cgpath_evidence::td`), its registers (see `v04_register`,
//! `v10_boot`).

use crate::inputs::collateral::{Collateral, PlatformKind};
use crate::inputs::context::{Context, ExpectedNonce, NodeState, PinnedKey, TdState};
use crate::results::finding::{Finding, Findings, Subject};
use crate::rules::{Rule, v01_quote};
use crate::text::{foreign, utc};
use cgpath_evidence::td::{PROVIDER_TDX, QuoteBody, TdBody, digest, node_key_hash, verify_possession};
use cgpath_evidence::{Quotes, TdQuote, merkle::Hash};
use cgpath_policy::{NodeKeyPolicy, TdxPolicy};
use dcap_qvl::configs::RustCryptoConfig;
use dcap_qvl::verify::QuoteVerifier;
use dcap_qvl::{QuoteClaims, QuotePolicy};

const DAY: u64 = 24 * 3600;

/// What a trust domain's quote says.
#[derive(Debug, Clone)]
pub(crate) struct TdQuoted {
    pub body: TdBody,
    /// SHA-256 of the node's key.
    pub node_key: Hash,
    /// What the collateral says of the platform, where the quote verifies with it.
    pub platform: Option<Platform>,
}

/// What collateral says of the platform that made a quote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Platform {
    /// PPID.
    pub id: Vec<u8>,
    /// Intel's name of the TCB's status.
    pub status: String,
    pub advisories: Vec<String>,
    /// When the collateral ends, unix seconds.
    pub until: u64,
    /// tcbEvaluationDataNumber.
    pub number: u32,
}

fn fail(text: impl Into<String>) -> Finding {
    Finding::fail(Rule::Quote, Subject::Node, text)
}

/// What to say where there is no such quote.
pub(crate) fn none() -> Finding {
    fail("there is no trust domain's quote, and the policy names a register of one as an anchor")
}

/// What to say where the sender does not show that it has the pinned key.
pub(crate) fn stranger() -> Finding {
    fail("the trust domain's quote is not signed by the pinned key of this node over this nonce")
}

/// What is asked of a quote.
struct Asked<'a> {
    td: &'a TdQuote,
    policy: &'a TdxPolicy,
    context: &'a Context,
    boot_id: [u8; 16],
}

/// Checks the quote that is among these.
pub(crate) fn check(
    quotes: &Quotes,
    boot_id: [u8; 16],
    policy: &TdxPolicy,
    context: &Context,
    findings: &mut Findings,
) -> Option<TdQuoted> {
    let Some(td) = &quotes.td else {
        findings.push(none());
        return None;
    };
    let asked = Asked {
        td,
        policy,
        context,
        boot_id,
    };
    asked.check(&name_beside(quotes), findings)
}

/// The Name of the attestation key whose quote stands beside it: this binds the one to the other.
fn name_beside(quotes: &Quotes) -> Vec<u8> {
    let tpm = quotes.tpm.as_ref();
    tpm.map_or_else(Vec::new, |quote| v01_quote::name(&quote.ak))
}

/// Whether who has the pinned key of the node sent this for this request: cheaper than all of V1, and whether
/// or not the platform is one to believe.
pub(crate) fn is_of_pinned(quotes: &Quotes, context: &Context) -> bool {
    let Some(td) = &quotes.td else { return false };
    let is_fresh = match &context.nonce {
        ExpectedNonce::Value(nonce) => td.nonce == *nonce,
        ExpectedNonce::DangerousNone => true,
    };
    let report_data = td.report_data(&name_beside(quotes));
    is_fresh
        && context.td.node_key == Some(node_key_hash(&td.node_key))
        && verify_possession(&td.node_key, &report_data, &td.possession).is_ok()
}

impl Asked<'_> {
    fn check(&self, ak_name: &[u8], findings: &mut Findings) -> Option<TdQuoted> {
        let Asked { td, context, .. } = self;
        if td.provider != PROVIDER_TDX {
            findings.push(
                fail("quotes of this provider are not verified here")
                    .found(foreign(&td.provider))
                    .expected(PROVIDER_TDX),
            );
        }
        let body = match QuoteBody::parse(&td.outblob) {
            Ok(quote) => quote.body,
            Err(why) => {
                findings.push(fail(format!("the trust domain's quote cannot be read: {why}")));
                return None;
            }
        };
        if let ExpectedNonce::Value(nonce) = &context.nonce
            && td.nonce != *nonce
        {
            findings.push(
                fail("the trust domain's quote was not made for this request: its nonce is another one")
                    .found(hex::encode(&td.nonce))
                    .expected(hex::encode(nonce)),
            );
        }
        let report_data = td.report_data(ak_name);
        if body.report_data != report_data {
            findings.push(
                fail(
                    "the quote's report data are not over this nonce, checkpoint, node key and attestation \
                    key",
                )
                .found(hex::encode(body.report_data))
                .expected(hex::encode(report_data)),
            );
        }
        if verify_possession(&td.node_key, &report_data, &td.possession).is_err() {
            findings.push(fail(
                "the node's key did not sign the report data: the sender does not show that it has this key",
            ));
        }
        let node_key = node_key_hash(&td.node_key);
        self.key(node_key, findings);
        self.domain(&body, findings);
        let platform = self.platform(findings);
        Some(TdQuoted {
            body,
            node_key,
            platform,
        })
    }

    /// What the last believed evidence of this node said.
    fn before(&self) -> Option<&NodeState> {
        let before = self.context.previous.as_ref();
        before.filter(|before| before.believed)
    }

    /// The key is the pinned one, or a new one that the policy accepts with a new boot. Within a boot it
    /// stays.
    fn key(&self, found: Hash, findings: &mut Findings) {
        let used = |before: &NodeState| Some(before.td.as_ref()?.node_key);
        let before = self.before().and_then(used);
        let same_boot = self.before().filter(|before| before.boot_id == self.boot_id);
        let is_per_boot = self.policy.key == NodeKeyPolicy::PerBoot;
        let is_tofu = self.context.key == PinnedKey::DangerousTofu;
        // Trust on first use, and on no other.
        let pinned = self.context.td.node_key.or(before.filter(|_| is_tofu));
        let must_be = [pinned.filter(|_| !is_per_boot), same_boot.and_then(used)];
        let other = must_be.into_iter().flatten().find(|must_be| *must_be != found);
        if let Some(other) = other {
            findings.push(
                fail(
                    "the trust domain's quote names another key than the one of this node: a new key needs \
                    a new enrolment, or `key: per-boot` in the policy's `tdx`",
                )
                .found(hex::encode(found))
                .expected(hex::encode(other)),
            );
        } else if pinned.is_none() && !is_per_boot && !is_tofu {
            findings.push(fail("no key of this node is pinned").found(hex::encode(found)));
        } else if is_per_boot && pinned != Some(found) {
            let text = "the node's key is of this boot alone; the policy accepts it with these MRTD, RTMR 0 \
                to 2 and platform (tdx.key: per-boot)";
            findings.push(Finding::tolerated(Rule::Quote, Subject::Node, text).found(hex::encode(found)));
        }
    }

    /// The domain is one that the policy accepts.
    fn domain(&self, body: &TdBody, findings: &mut Findings) {
        let policy = self.policy;
        if body.is_debug() {
            findings.push(
                fail("the trust domain is under debug: its host reads and writes its memory")
                    .found(hex::encode(body.attributes)),
            );
        }
        if body.rtmrs.iter().all(|rtmr| rtmr.iter().all(|b| *b == 0)) {
            findings.push(fail(
                "all registers of the trust domain are zero: a paravisor runs it, and no RTMR can be its \
                 anchor. The way is the paravisor's vTPM (pcr-10)",
            ));
        }
        let eight = [
            ("TD attributes are not ones", body.attributes, &policy.attributes),
            ("XFAM is not one", body.xfam, &policy.xfam),
        ];
        for (what, found, accepted) in eight {
            if !accepted.contains(&found) {
                let finding = fail(format!("{what} that the policy accepts")).found(hex::encode(found));
                findings.push(accepted.iter().map(hex::encode).fold(finding, Finding::expected));
            }
        }
        let registers = [
            ("MRTD", &body.mrtd, Some(&policy.mrtd)),
            ("MRSEAM", &body.mrseam, policy.mrseam.as_ref()),
        ];
        for (what, found, accepted) in registers {
            let found = digest(found);
            let Some(accepted) = accepted.filter(|accepted| !accepted.contains(&found)) else {
                continue;
            };
            let finding = fail(format!("{what} is not one that the policy accepts")).found(found);
            findings.push(accepted.iter().fold(finding, Finding::expected));
        }
    }

    /// The quote is signed by a platform that Intel certified, and the collateral's word of it is accepted.
    fn platform(&self, findings: &mut Findings) -> Option<Platform> {
        let (collateral, now) = (self.collateral(findings)?, self.context.now);
        self.dates(collateral, findings);
        // Where the collateral's own time is over, what else is wrong is still worth saying.
        let (from, until) = collateral.window();
        let at = if from <= until {
            now.clamp(from, until)
        } else {
            now
        };
        let claims = match self.verify(collateral, at) {
            Ok(claims) => claims,
            Err(why) => {
                findings.push(fail(format!(
                    "the trust domain's quote does not verify: {}",
                    foreign(why)
                )));
                return None;
            }
        };
        if now > claims.earliest_expiration_date {
            findings.push(
                fail("a certificate or a revocation list of the quote or its collateral has ended")
                    .found(format!("{} UTC", utc(claims.earliest_expiration_date)))
                    .expected(format!("later than {} UTC", utc(now))),
            );
        }
        let platform = Platform {
            id: claims.platform.pck.ppid.clone(),
            status: claims.tcb.status.to_string(),
            advisories: claims.tcb.advisory_ids.clone(),
            until: claims.earliest_expiration_date.min(until),
            number: claims.tcb.eval_data_number,
        };
        self.accepts(&platform, findings);
        Some(platform)
    }

    fn verify(&self, collateral: &Collateral, at: u64) -> Result<QuoteClaims, String> {
        let verifier = match &self.policy.dangerous_root {
            Some(root) => QuoteVerifier::new(root.clone()),
            None => QuoteVerifier::new_prod(),
        };
        // A domain under debug has a finding of its own.
        let verifier = verifier.with_config::<RustCryptoConfig>().allow_debug(true);
        verifier
            .verify_with_policy(
                &self.td.outblob,
                &collateral.inner,
                at,
                &QuotePolicy::claims_only(at),
            )
            .map_err(|e| format!("{e:#}"))
    }

    /// The newest collateral for the kind of platform that made the quote.
    fn collateral(&self, findings: &mut Findings) -> Option<&Collateral> {
        let kind = match PlatformKind::of_quote(&self.td.outblob) {
            Ok(kind) => kind.fmspc,
            Err(why) => {
                findings.push(fail(foreign(why.to_string())));
                return None;
            }
        };
        let given = &self.context.td.collateral;
        let fitting = given.iter().filter(|collateral| collateral.fmspc() == kind);
        let newest =
            fitting.max_by_key(|collateral| (collateral.issued() <= self.context.now, collateral.issued()));
        if newest.is_none() {
            let finding = fail(
                "there is no collateral for the platform that made the quote: fetch it, and \
                hand it over as a file",
            )
            .expected(format!("FMSPC {}", hex::encode(kind)));
            let given = given
                .iter()
                .map(|other| format!("FMSPC {}", hex::encode(other.fmspc())));
            findings.push(given.fold(finding, Finding::found));
        }
        newest
    }

    /// What the collateral says of its own time, how old it may be, and that none that is newer was seen.
    fn dates(&self, collateral: &Collateral, findings: &mut Findings) {
        let now = self.context.now;
        let (from, until) = collateral.window();
        if now < from {
            findings.push(
                fail("the collateral was issued later than this appraisal is made")
                    .found(format!("{} UTC", utc(from)))
                    .expected(format!("at most {} UTC", utc(now))),
            );
        }
        if now > until {
            let days = (now - until).div_ceil(DAY);
            findings.push(
                fail(format!(
                    "the collateral ended {days} day(s) before this appraisal is made: fetch it anew"
                ))
                .found(format!("{} UTC", utc(until)))
                .expected(format!("later than {} UTC", utc(now))),
            );
        }
        let age = now.saturating_sub(collateral.issued());
        let most = self.policy.max_collateral_age;
        if age > u64::from(most) * DAY {
            findings.push(
                fail("the collateral is older than the policy accepts (tdx.max-collateral-age)")
                    .found(format!("{} day(s)", age.div_ceil(DAY)))
                    .expected(format!("at most {most} day(s)")),
            );
        }
        let seen = |before: &NodeState| before.td.as_ref().map(|td: &TdState| td.evaluation);
        let seen = self.before().and_then(seen).unwrap_or_default();
        if collateral.number() < seen {
            findings.push(
                fail("the collateral is older than what was seen of it before (tcbEvaluationDataNumber)")
                    .found(collateral.number())
                    .expected(format!("at least {seen}")),
            );
        }
    }

    fn accepts(&self, platform: &Platform, findings: &mut Findings) {
        let policy = self.policy;
        if !policy
            .tcb_status
            .iter()
            .any(|status| status.name() == platform.status)
        {
            let text = format!(
                "the platform's TCB status is not one that the policy accepts; advisories: {}",
                if platform.advisories.is_empty() {
                    "none".to_owned()
                } else {
                    foreign(platform.advisories.join(", "))
                }
            );
            let finding = fail(text).found(foreign(&platform.status));
            findings.push(policy.tcb_status.iter().fold(finding, Finding::expected));
        }
        let other = |id: &&String| !policy.advisories.contains(id);
        for id in platform.advisories.iter().filter(other) {
            findings.push(
                fail("the collateral names an advisory that the policy does not accept (tdx.advisories)")
                    .found(foreign(id)),
            );
        }
        if let Some(accepted) = &policy.platforms
            && !accepted.iter().any(|id| id[..] == platform.id)
        {
            let finding =
                fail("the trust domain runs on a platform that the policy does not name (tdx.platforms)")
                    .found(hex::encode(&platform.id));
            findings.push(accepted.iter().map(hex::encode).fold(finding, Finding::expected));
        }
    }
}
