//! `cgpath explain`: what a finding of a node's last verdict rests on, step by step.
//!
//! Not here: what the steps are (see `cgpath_appraisal::explain`).

use crate::input;
use crate::kept;
use crate::node::{StoreArgs, back, standing::Standing, standing_lines};
use crate::output::{Colour, Failure, Output, Status, escape};
use cgpath_appraisal::accept;
use cgpath_appraisal::explain::{Step, explain};
use cgpath_appraisal::{Context, ExpectedNonce, Finding, Severity, Verdict};
use cgpath_service::pinned::{self, PinError};
use cgpath_service::policy_files;
use cgpath_service::store::Store;
use clap::Args;
use serde::Serialize;

/// Says what a finding rests on: verdict, record, list entry, checkpoint, register, quote, key, reference
/// value
#[derive(Args)]
#[command(after_help = "Examples:
  cgpath explain --node worker-1             lists the findings of its last verdict
  cgpath explain --node worker-1 3f2a91      walks from one of them to the key, and to the file's image layer or package

Exit codes: as of `cgpath node list`: 0 the node is trusted and its verdict young enough, 1 it is not, or \
has sent nothing yet; 2 unusable input, such as a finding that is not there")]
pub struct Explain {
    /// The finding: its first digits, as many as are clear; without it all are listed
    finding: Option<String>,
    /// The node
    #[arg(long, value_name = "NAME")]
    node: String,
    #[command(flatten)]
    store: StoreArgs,
}

#[derive(Serialize)]
struct Listed<'a> {
    id: String,
    /// Whether `cgpath node accept` takes it.
    acceptable: bool,
    #[serde(flatten)]
    finding: &'a Finding,
}

impl Explain {
    /// Runs the subcommand.
    ///
    /// # Errors
    /// A store, node or finding that is not there; evidence or a policy that is not kept any more.
    pub fn run(self, out: &mut Output) -> Result<Status, Failure> {
        let store = Store::open(&self.store.dir)?;
        let node = store.node(&self.node)?;
        let last = store.last_verdict(&self.node)?;
        let standing = Standing::of(&store, &node, last.as_ref())?;
        let status = Status::clean_if(standing.standing.is_good());
        let Some(last) = last else {
            let silent = kept::silent(&self.node);
            return match self.finding {
                // There is none of that name.
                Some(_) => Err(silent),
                None if out.json() => {
                    let none: [Listed<'_>; 0] = [];
                    out.object(&none)?;
                    Ok(status)
                }
                None => {
                    standing_lines(&node, &standing, out)?;
                    out.line(silent)?;
                    Ok(status)
                }
            };
        };
        let verdict: Verdict = serde_json::from_str(last.verdict.get())
            .map_err(|e| Failure::new("store", format!("verdict {}: {e}", last.id)))?;
        let Some(digits) = &self.finding else {
            if !out.json() {
                standing_lines(&node, &standing, out)?;
            }
            list(&verdict, out)?;
            return Ok(status);
        };
        let finding = back::find(&verdict, digits)?;
        let evidence = kept::evidence(&store, &last)?;
        let policy = policy_files::load(&node.policy)?;
        let bad = |e: PinError| Failure::new("key", e.to_string());
        let (collateral, _) = pinned::collateral(store.dir());
        let context = Context {
            node: node.name.clone(),
            key: pinned::key(&node).map_err(bad)?,
            td: pinned::td(&node, &collateral).map_err(bad)?,
            nonce: ExpectedNonce::Value(last.nonce),
            now: input::now()?,
            previous: None,
        };
        let mut steps = explain(finding, &verdict, &evidence, &policy, &context);
        if policy.digest() != &verdict.policy {
            let note = "the policy changed since: the values below are not those that the verdict rests on";
            if let Some(reference) = steps.iter_mut().find(|step| step.what == "reference") {
                reference.lines.insert(0, note.into());
            }
        }
        if out.json() {
            out.object(&steps)?;
        } else {
            for Step { what, lines } in &steps {
                for (i, line) in lines.iter().enumerate() {
                    let label = if i == 0 { *what } else { "" };
                    let label = out.paint(Colour::Cyan, &format!("{label:<11}"));
                    out.line(format_args!("{label}{line}"))?;
                }
            }
        }
        Ok(status)
    }
}

fn list(verdict: &Verdict, out: &mut Output) -> Result<(), Failure> {
    let listed: Vec<Listed<'_>> = back::findings(verdict)
        .map(|finding| Listed {
            id: accept::id(finding),
            acceptable: finding.severity == Severity::Fail && accept::is_waivable(finding.rule),
            finding,
        })
        .collect();
    if out.json() {
        return out.object(&listed);
    }
    if listed.is_empty() {
        out.line("no findings")?;
    }
    for item in listed {
        let path = item
            .finding
            .path
            .as_deref()
            .map(|p| format!(" {}", escape(p)))
            .unwrap_or_default();
        let text = item.finding.to_string();
        let first = out.finding(text.lines().next().unwrap_or_default());
        out.line(format_args!(
            "{}  {}  {first}{path}",
            &item.id[..12],
            item.finding.subject
        ))?;
    }
    Ok(())
}
