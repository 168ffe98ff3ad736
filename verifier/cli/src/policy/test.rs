//! `cgpath policy test`: what a policy would have said of everything that a store keeps of its node.

use crate::input;
use crate::output::{Failure, Output, Status, escape};
use cgpath_appraisal::text::utc;
use cgpath_appraisal::{State, Verdict};
use cgpath_service::pinned;
use cgpath_service::policy_files::load;
use cgpath_service::reappraisal::{self, KeptRounds};
use cgpath_service::store::Store;
use clap::Args;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

#[derive(Args)]
pub struct Test {
    /// The policy to try
    policy: PathBuf,
    /// The verifier's directory
    #[arg(long, value_name = "STORE")]
    against: PathBuf,
}

/// One subject of one round whose verdicts differ.
#[derive(Serialize)]
struct Difference {
    /// `node`, or a pod's UID.
    subject: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    old: Option<State>,
    #[serde(skip_serializing_if = "Option::is_none")]
    new: Option<State>,
    /// Why it fails under the new policy.
    why: Vec<String>,
}

#[derive(Serialize)]
struct Round {
    /// The verdict's id in the store.
    verdict: i64,
    time: u64,
    old_trusted: bool,
    new_trusted: bool,
    differences: Vec<Difference>,
}

#[derive(Serialize)]
struct Tested<'a> {
    node: &'a str,
    policy: String,
    rounds: Vec<Round>,
    /// Verdicts whose evidence is not kept any more.
    without_evidence: usize,
}

impl Test {
    pub(super) fn run(self, out: &mut Output) -> Result<Status, Failure> {
        let policy = load(&self.policy)?;
        let store = Store::open(&self.against)?;
        let node = store.node(&policy.file.node)?;
        let now = input::now()?;
        let waivers = reappraisal::waivers(&store, &node.name, now)?;
        let (collateral, _) = pinned::collateral(store.dir());
        let mut kept = KeptRounds::new(&node, &policy, &collateral, &waivers, now);
        let mut without_evidence = 0;
        let mut rounds = Vec::new();
        for past in store.past(&node.name)? {
            if !past.evidence_kept {
                without_evidence += 1;
                continue;
            }
            let old: Verdict = serde_json::from_str(&past.verdict)
                .map_err(|e| Failure::new("store", format!("verdict {}: {e}", past.id)))?;
            let new = kept.appraise(&past, &store.evidence(&past.evidence)?)?;
            rounds.push(Round {
                verdict: past.id,
                time: past.time,
                old_trusted: old.trusted,
                new_trusted: new.trusted,
                differences: differences(&old, &new),
            });
        }
        if rounds.is_empty() {
            return Err(
                Failure::new("no-evidence", format!("no evidence of {} is kept", node.name))
                    .hint("a policy is tested against what a node has sent"),
            );
        }
        let all_trusted = rounds.iter().all(|r| r.new_trusted);
        let tested = Tested {
            node: &node.name,
            policy: policy.digest().to_string(),
            rounds,
            without_evidence,
        };
        if out.json() {
            out.object(&tested)?;
        } else {
            tested.print(out)?;
        }
        Ok(Status::clean_if(all_trusted))
    }
}

/// The state of the node and of each pod, with the pod's name.
pub fn states(verdict: &Verdict) -> BTreeMap<String, (Option<String>, State)> {
    let node = ("node".to_owned(), (None, verdict.node.state));
    let pods = verdict
        .pods
        .iter()
        .map(|pod| (pod.uid.to_string(), (pod.name.clone(), pod.state)));
    core::iter::once(node).chain(pods).collect()
}

fn differences(old: &Verdict, new: &Verdict) -> Vec<Difference> {
    let (before, after) = (states(old), states(new));
    let subjects: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    subjects
        .into_iter()
        .filter_map(|subject| {
            let (old, now) = (before.get(subject), after.get(subject));
            if old.map(|o| o.1) == now.map(|n| n.1) {
                return None;
            }
            let pod = new.pods.iter().find(|pod| pod.uid.to_string() == *subject);
            let findings = pod.map_or(&new.node.findings, |pod| &pod.findings);
            let why = findings
                .iter()
                .filter(|f| f.severity == cgpath_appraisal::Severity::Fail)
                .take(5);
            Some(Difference {
                subject: subject.clone(),
                name: now.or(old).and_then(|s| s.0.clone()),
                old: old.map(|o| o.1),
                new: now.map(|n| n.1),
                why: why
                    .map(|f| {
                        let path = f
                            .path
                            .as_deref()
                            .map(|p| format!(" {}", escape(p)))
                            .unwrap_or_default();
                        format!("{}: {}{path}", f.rule, escape(f.text.as_bytes()))
                    })
                    .collect(),
            })
        })
        .collect()
}

impl Tested<'_> {
    fn print(&self, out: &mut Output) -> Result<(), Failure> {
        out.line(format_args!("node {}, policy {}", self.node, self.policy))?;
        for round in &self.rounds {
            let word = |trusted: bool| out.state(if trusted { "trusted" } else { "UNTRUSTED" });
            let (old, new) = (word(round.old_trusted), word(round.new_trusted));
            out.line(format_args!(
                "verdict {} of {} UTC: was {old}, would be {new}",
                round.verdict,
                utc(round.time)
            ))?;
            for difference in &round.differences {
                let state = |s: Option<State>| {
                    s.map_or_else(|| "not there".to_owned(), |s| out.state(&s.to_string()))
                };
                let (old, new) = (state(difference.old), state(difference.new));
                let name = difference
                    .name
                    .as_deref()
                    .map(|n| format!(" {}", escape(n.as_bytes())))
                    .unwrap_or_default();
                out.line(format_args!(
                    "  {}{name}: was {old}, would be {new}",
                    difference.subject
                ))?;
                for why in &difference.why {
                    out.line(format_args!("    {why}"))?;
                }
            }
        }
        if self.without_evidence > 0 {
            out.line(format_args!(
                "{} verdicts have no evidence any more",
                self.without_evidence
            ))?;
        }
        Ok(())
    }
}
