//! What signs for a node: the anchors that a policy names, and what the quotes that they need say.
//!
//! Promise: a quote that no anchor needs is not looked at, and a missing one fails, so that no node falls
//! back to fewer anchors than its policy names. Not here: how each quote is checked (see `rules`).

use crate::inputs::context::{Context, NodeState, TdState};
use crate::inputs::decoded::View;
use crate::inputs::round::Round;
use crate::results::finding::{Finding, Findings, Subject};
use crate::rules::v01_quote::Quoted;
use crate::rules::v01_td::TdQuoted;
use crate::rules::v02_coverage::Coverage;
use crate::rules::v04_register::RegisterChain;
use crate::rules::v07_history::{Present, Relation};
use crate::rules::{Rule, v01_quote, v01_td, v02_bound, v02_coverage, v07_history};
use cgpath_evidence::{boot::BOOT_RTMRS, quoted::IMA_PCR, td::Register};
use cgpath_policy::{Anchor, Policy, TdxPolicy};

/// The anchors that the policy names.
#[derive(Clone, Copy)]
pub(crate) struct Anchors<'a> {
    pub has_pcr: bool,
    pub rtmr: Option<(u8, &'a TdxPolicy)>,
}

impl<'a> Anchors<'a> {
    pub(crate) fn of(policy: &'a Policy) -> Anchors<'a> {
        let anchors = &policy.file.accept.anchors;
        let rtmr = anchors.iter().find_map(|anchor| anchor.rtmr());
        Anchors {
            has_pcr: anchors.contains(&Anchor::Pcr10),
            rtmr: rtmr.zip(policy.file.tdx.as_ref()),
        }
    }
}

/// What the quotes say, of each kind that an anchor needs.
#[derive(Default)]
pub(crate) struct Said {
    pub tpm: Option<Quoted>,
    pub td: Option<TdQuoted>,
}

impl Said {
    /// V1.
    pub(crate) fn of(
        round: &Round<'_>,
        anchors: Anchors<'_>,
        context: &Context,
        findings: &mut Findings,
    ) -> Said {
        let note = |text: &str| Finding::note(Rule::Quote, Subject::Node, text);
        let tpm = match &round.quote.tpm {
            Some(quote) if anchors.has_pcr => v01_quote::check(quote, round.registers(), context, findings),
            Some(_) => {
                findings.push(note(
                    "a TPM's quote is there, which no anchor of the policy needs: it is not looked at",
                ));
                None
            }
            None => {
                if anchors.has_pcr {
                    findings.push(v01_quote::none());
                }
                None
            }
        };
        let td = match anchors.rtmr {
            Some((_, policy)) => v01_td::check(round.quote, round.boot_id, policy, context, findings),
            None => {
                if round.quote.td.is_some() {
                    findings.push(note(
                        "a trust domain's quote is there, which no anchor of the policy \
                        needs: it is not looked at",
                    ));
                }
                None
            }
        };
        Said { tpm, td }
    }

    /// Whether each quote that an anchor needs can be read.
    pub(crate) fn is_whole(&self, anchors: Anchors<'_>) -> bool {
        (self.tpm.is_some() || !anchors.has_pcr) && (self.td.is_some() || anchors.rtmr.is_none())
    }

    /// V2.
    pub(crate) fn covers(
        &self,
        (round, view): (&Round<'_>, &View<'_>),
        before: Option<&Coverage>,
        anchors: Anchors<'_>,
        policy: &Policy,
        findings: &mut Findings,
    ) -> Option<Coverage> {
        let chain = before.and_then(|before| before.bound);
        if !anchors.has_pcr {
            v02_coverage::readable(view, round.first, findings);
            self.td.as_ref()?;
            return v02_bound::step(round, chain, None, findings).map(Coverage::of_bound);
        }
        let quoted = self.tpm.as_ref()?;
        v02_coverage::banks(quoted, policy, findings);
        let covered = v02_coverage::step(view, before, quoted, policy, findings);
        if covered.is_none() && before.is_none() {
            findings.push(v02_coverage::why_none(round.list, view, quoted));
        }
        let mut covered = covered?;
        if anchors.rtmr.is_some() {
            covered.bound = Some(v02_bound::step(round, chain, Some(covered.entries), findings)?);
        }
        Some(covered)
    }

    /// RTMR 0 to 2 as the firmware and the kernel left them: the anchor's own as it was before checkpoint 0.
    pub(crate) fn boot_rtmrs(&self, anchor: u8, register: &RegisterChain) -> Option<[Register; BOOT_RTMRS]> {
        let mut rtmrs = *self.td.as_ref()?.body.rtmrs.first_chunk::<BOOT_RTMRS>()?;
        if let Some(own) = rtmrs.get_mut(usize::from(anchor)) {
            *own = register.origin()?.value;
        }
        Some(rtmrs)
    }

    /// V7.
    pub(crate) fn compare(
        &self,
        round: &Round<'_>,
        anchors: Anchors<'_>,
        policy: &Policy,
        context: &Context,
        findings: &mut Findings,
        notes: &mut Vec<String>,
    ) -> Relation {
        let asked = v07_history::Asked {
            now: context.now,
            min_reboot: policy.file.min_reboot,
            kexec_allowed: policy.file.kexec.is_allowed(),
        };
        if !anchors.has_pcr {
            let before = context.previous.as_ref();
            return v07_history::without_counters(round.boot_id, before, asked, findings, notes);
        }
        let Some(quoted) = &self.tpm else {
            findings.push(Finding::fail(
                Rule::History,
                Subject::Node,
                "there are no counters to compare: the quote cannot be read",
            ));
            return Relation::First;
        };
        let present = Present {
            ak_name: &quoted.ak_name,
            boot_id: round.boot_id,
            reset_count: quoted.reset_count,
            restart_count: quoted.restart_count,
            clock_ms: quoted.clock_ms,
            safe: quoted.safe,
        };
        v07_history::check(present, context.previous.as_ref(), asked, findings, notes)
    }

    /// What evidence leaves that is not believed: that this TPM signed with these counters.
    pub(crate) fn seen(&self, boot_id: [u8; 16], now: u64) -> NodeState {
        let quoted = self.tpm.as_ref();
        NodeState {
            ak_name: quoted.map(|quoted| quoted.ak_name.clone()).unwrap_or_default(),
            believed: false,
            boot_id,
            checkpoint: None,
            covered: 0,
            pcrs: Vec::new(),
            reset_count: quoted.map_or(0, |quoted| quoted.reset_count),
            restart_count: quoted.map_or(0, |quoted| quoted.restart_count),
            clock_ms: quoted.map_or(0, |quoted| quoted.clock_ms),
            time: now,
            unsealed: Vec::new(),
            held: Vec::new(),
            kexecs: Vec::new(),
            impostors: Vec::new(),
            td: None,
            waiting: Vec::new(),
        }
    }

    /// What believed evidence leaves of quotes and list; the caller adds what the checkpoints say.
    pub(crate) fn remember(&self, boot_id: [u8; 16], now: u64, coverage: &Coverage) -> NodeState {
        NodeState {
            believed: true,
            covered: coverage.entries as u64,
            pcrs: coverage.pcrs.clone(),
            td: self.td.as_ref().zip(coverage.bound).map(|(td, bound)| TdState {
                node_key: td.node_key,
                list: bound.value(),
                evaluation: td.platform.as_ref().map_or(0, |platform| platform.number),
            }),
            ..self.seen(boot_id, now)
        }
    }

    /// Name of the attestation key; without one the hash of the node's key.
    pub(crate) fn key(&self) -> Vec<u8> {
        let ak = self.tpm.as_ref().map(|quoted| quoted.ak_name.clone());
        ak.or_else(|| Some(self.td.as_ref()?.node_key.to_vec()))
            .unwrap_or_default()
    }

    /// What vouches for the list, for people.
    pub(crate) fn anchor(&self, anchors: Anchors<'_>, coverage: Option<&Coverage>) -> String {
        let pcr = anchors.has_pcr.then(|| shown(self.tpm.as_ref(), coverage));
        let rtmr = anchors.rtmr.map(|(rtmr, _)| match self.td {
            Some(_) => format!("RTMR {rtmr}"),
            None => "none".to_owned(),
        });
        let all: Vec<String> = pcr.into_iter().chain(rtmr).collect();
        all.join(" and ")
    }
}

fn shown(quoted: Option<&Quoted>, coverage: Option<&Coverage>) -> String {
    let Some(quoted) = quoted else {
        return "none".into();
    };
    let padded = coverage.map_or(&[][..], |c| &c.padded);
    let bank = |bank: &cgpath_evidence::Bank| {
        let how = if padded.contains(bank) {
            ", padded sha1"
        } else {
            ""
        };
        format!("{bank}{how}")
    };
    let banks: Vec<String> = quoted.banks.iter().map(bank).collect();
    format!("PCR {} ({})", IMA_PCR, banks.join(" and "))
}
