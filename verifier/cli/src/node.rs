//! `cgpath node`: which nodes the verifier knows, by which key and which policy.
//!
//! Works on the store itself, whether `cgpath serve` runs or not; the service sees each change with the next
//! request.
//! Not here: the store (see `cgpath_service::store`).

pub mod back;
pub mod standing;

use crate::input::{self, attestation_key};
use crate::output::{Colour, Failure, Output, Status, escape};
use cgpath_appraisal::text::utc;
use cgpath_appraisal::{PinnedKey, State, Verdict};
use cgpath_policy::{Anchor, Policy};
use cgpath_service::pinned;
use cgpath_service::policy_files;
use cgpath_service::reappraisal::Reappraisal;
use cgpath_service::store::{Node, Store, StoreError, StoredVerdict, valid_name};
use clap::{Args, Subcommand};
use serde::Serialize;
use standing::Standing;
use std::path::{Path, PathBuf};

/// Enrols nodes: their names, keys and policies
#[derive(Subcommand)]
pub enum NodeCommand {
    /// Enrols a node by hand: its key and its policy
    #[command(after_help = "Examples:
  cgpath node add worker-1 --ak ak.pub --policy worker-1.yaml --store /var/lib/cgpath/store
  cgpath node add worker-1 --ak 000b3f… --policy worker-1.yaml --replace

The policy and all its reference files are copied into the store: a later change of the files counts once `cgpath node \
policy` or --replace is given them again.")]
    Add(Add),
    /// Gives a node another policy and re-appraises all kept evidence since its boot, without asking the node
    #[command(after_help = "Example:
  cgpath policy test new.yaml --against /var/lib/cgpath/store && cgpath node policy worker-1 new.yaml

What verdicts said before is kept: cgpath node history worker-1.")]
    Policy(back::SetPolicy),
    /// Accepts one finding for a time: signed, with a reason, and shown in every verdict while it holds
    #[command(after_help = "Examples:
  cgpath explain --node worker-1
  cgpath node accept worker-1 3f2a91 --reason 'hotfix of 12 March, change 4711' --until 7d
  cgpath node accept worker-1 3f2a91 --revoke

It holds for this finding in this boot of the node, until it ends or is taken back. Under a policy by which there is \
no such finding it is shown as not in use. Findings of V1 to V7 and V13, on which all others rest, cannot be accepted.")]
    Accept(back::Accept),
    /// Forgets what a node's evidence is compared with (rule V7): signed, with a reason; its verdicts stay
    #[command(after_help = "Example:
  cgpath node forget worker-1 --reason 'mainboard replaced, TPM cleared, ticket 4711'

For a node whose TPM's counters or clock went back for a reason that is known. After a power cut where the TPM says that \
its clock may be wrong nothing has to be done. An attacker who puts a TPM back to an earlier state looks the same: ask \
on the node first.")]
    Forget(back::Forget),
    /// Shows what was re-appraised or forgotten, why, and what came of it
    #[command(after_help = "Example:
  cgpath node history worker-1

At most 1000 lines, the newest first; verdicts that one re-appraisal left as they were are one line. With --json at \
most 1000 notes, one for each verdict.")]
    History {
        /// The node
        name: String,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Takes no evidence of a node any more; what was appraised stays
    #[command(after_help = "Example:\n  cgpath node stop worker-1")]
    Stop(back::Named),
    /// Takes a stopped node's evidence again
    #[command(after_help = "Example:\n  cgpath node reactivate worker-1")]
    Reactivate(back::Named),
    /// Asks a node for everything with its next round, instead of what is new
    #[command(after_help = "Example:\n  cgpath node resync worker-1")]
    Resync(back::Named),
    /// Lists the nodes: how each stands now
    #[command(after_help = "Examples:
  cgpath node list
  cgpath node list --json | jq -r '.[] | select(.standing != \"trusted\") | .name'

Exit codes: 0 all are trusted (or stopped), 1 something is not: untrusted, stale, refused, without evidence, or its policy \
cannot be used; 2 unusable input")]
    List {
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Shows one node, how it stands now, and its last verdict
    #[command(after_help = "Example:\n  cgpath node show worker-1\n\nExit codes: as of `cgpath node list`")]
    Show {
        /// The node
        name: String,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Removes a node with its state, its verdicts and their evidence
    #[command(after_help = "Example:\n  cgpath node rm worker-1")]
    Rm {
        /// The node
        name: String,
        #[command(flatten)]
        store: StoreArgs,
    },
}

/// Which store.
#[derive(Args)]
pub struct StoreArgs {
    /// The verifier's directory, as `cgpath serve --init` made it
    #[arg(long = "store", value_name = "DIR", env = "CGPATH_STORE", default_value = crate::kept::STORE)]
    pub dir: PathBuf,
}

#[derive(Args)]
pub struct Add {
    /// What the node calls itself: `node` in its cgpathd.toml
    name: String,
    /// Its attestation key: a TPMT_PUBLIC, TPM2B_PUBLIC or PEM file, or the key's fingerprint
    #[arg(long, value_name = "FILE|FINGERPRINT", required_unless_present_any = ["replace", "node_key"])]
    ak: Option<String>,
    /// The key of a node in a trust domain: SHA-256 of its SEC1 compressed point. Without --ak the node has
    /// no TPM
    #[arg(long, value_name = "HEX")]
    node_key: Option<String>,
    /// Its policy
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// Gives a node that is enrolled already a new policy, or with --ak a new key; its verdicts stay
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    store: StoreArgs,
}

#[derive(Serialize)]
struct Shown<'a> {
    name: &'a str,
    ak: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_key: Option<&'a str>,
    policy: &'a Path,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy_source: Option<&'a Path>,
    policy_digest: &'a str,
    added: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    stopped: Option<u64>,
    #[serde(flatten)]
    standing: Option<&'a Standing>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<&'a StoredVerdict>,
    /// Other nodes with the same key, where one is enrolled.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    same_key: &'a [String],
}

impl<'a> Shown<'a> {
    fn of(node: &'a Node, standing: Option<&'a Standing>, last: Option<&'a StoredVerdict>) -> Shown<'a> {
        Shown {
            name: &node.name,
            ak: &node.ak_name,
            node_key: node.node_key.as_deref(),
            policy: &node.policy,
            policy_source: node.policy_source.as_deref(),
            policy_digest: &node.policy_digest,
            added: node.added,
            stopped: node.stopped,
            standing,
            last,
            same_key: &[],
        }
    }
}

impl NodeCommand {
    /// Runs the subcommand.
    ///
    /// # Errors
    /// A store, key or policy that cannot be used; a node that is there or is not.
    pub fn run(self, out: &mut Output) -> Result<Status, Failure> {
        match self {
            NodeCommand::Add(add) => add.run(out),
            NodeCommand::Policy(command) => command.run(out),
            NodeCommand::Accept(command) => command.run(out),
            NodeCommand::Forget(command) => command.run(out),
            NodeCommand::History { name, store } => history(&Store::open(&store.dir)?, &name, out),
            NodeCommand::Stop(command) => command.stop(out),
            NodeCommand::Reactivate(command) => command.reactivate(out),
            NodeCommand::Resync(command) => command.resync(out),
            NodeCommand::List { store } => list(&Store::open(&store.dir)?, out),
            NodeCommand::Show { name, store } => show(&Store::open(&store.dir)?, &name, out),
            NodeCommand::Rm { name, store } => {
                Store::open(&store.dir)?.remove_node(&name)?;
                if out.json() {
                    #[derive(Serialize)]
                    struct Removed<'a> {
                        removed: &'a str,
                    }
                    out.object(&Removed { removed: &name })?;
                } else {
                    out.line(format_args!("removed {}", escape(name.as_bytes())))?;
                }
                Ok(Status::Clean)
            }
        }
    }
}

impl Add {
    fn run(self, out: &mut Output) -> Result<Status, Failure> {
        if !valid_name(&self.name) {
            return Err(Failure::new(
                "usage",
                format!("{:?} cannot be a node's name", escape(self.name.as_bytes())),
            )
            .hint("1 to 253 letters, digits, `.`, `_` and `-`, the first one a letter or a digit"));
        }
        let store = Store::open(&self.store.dir)?;
        let old = match store.node(&self.name) {
            Ok(node) => Some(node),
            Err(StoreError::UnknownNode(_)) => None,
            Err(error) => return Err(error.into()),
        };
        let given = self.node_key.as_deref().map(input::node_key).transpose()?;
        let given = given.map(hex::encode);
        let has_tpm = old.as_ref().is_some_and(|old| !pinned::is_domain(old));
        let kept_key = old.as_ref().and_then(|old| old.node_key.clone());
        let (ak_name, ak_public) = match (&self.ak, old.clone(), &given) {
            (Some(given), ..) => attestation_name(given)?,
            (None, Some(old), _) if has_tpm => (old.ak_name, old.ak_public),
            (None, _, Some(node_key)) => (node_key.clone(), None),
            (None, Some(old), None) => (old.ak_name, old.ak_public),
            (None, None, None) => {
                return Err(Failure::new(
                    "usage",
                    format!("{} is not enrolled yet: --ak or --node-key is needed", self.name),
                )
                .hint("`cgpathd check` on the node shows its key's fingerprint"));
            }
        };
        let whole = policy_files::Whole::load(&self.policy)?;
        let policy = &whole.policy;
        if policy.file.node != self.name {
            return Err(Failure::new(
                "policy",
                format!(
                    "the policy is for node {:?}, not for {:?}",
                    policy.file.node, self.name
                ),
            )
            .hint("`node:` in the policy must be the name that is enrolled"));
        }
        let node = Node {
            name: self.name,
            ak_name,
            ak_public,
            node_key: given.or(kept_key),
            policy: whole.keep(&store)?,
            policy_source: Some(whole.source.clone()),
            policy_digest: policy.digest().to_string(),
            added: crate::input::now()?,
            stopped: None,
        };
        keys_fit(&node, policy)?;
        let again = match &old {
            // What is known of the node is judged by what it is enrolled with now.
            Some(_) if self.replace => back::enrol(&store, &node, policy, "enrolment")?,
            _ => {
                store.add_node(&node, false)?;
                Reappraisal::default()
            }
        };
        let same_key = same_key(&store, &node)?;
        if out.json() {
            out.object(&Shown {
                same_key: &same_key,
                ..Shown::of(&node, None, None)
            })?;
        } else {
            out.line(format_args!("enrolled {}", node.name))?;
            out.line(format_args!("  key     {}", node.ak_name))?;
            if !same_key.is_empty() {
                let text = format!(
                    "SAME KEY as {}: one machine can answer for each of them",
                    same_key.join(", ")
                );
                out.line(format_args!("  {}", out.paint(Colour::Yellow, &text)))?;
            }
            if let Some(key) = node.node_key.as_ref().filter(|key| **key != node.ak_name) {
                out.line(format_args!("          {key} (node's key in its trust domain)"))?;
            }
            out.line(format_args!(
                "  policy  {}, as it is now",
                escape(self.policy.as_os_str().as_encoded_bytes())
            ))?;
            out.line(format_args!("          {}", node.policy_digest))?;
            for key in policy.dangerous_keys() {
                out.line(format_args!(
                    "  {}",
                    out.paint(Colour::Red, &format!("DANGEROUS: {key}"))
                ))?;
            }
            for relaxation in policy.relaxations() {
                out.line(format_args!("  RELAXED: {}", escape(relaxation.as_bytes())))?;
            }
            if !again.reappraised.is_empty() {
                return back::report(&node.name, &again, None, out);
            }
        }
        Ok(Status::Clean)
    }
}

/// Other nodes whose evidence this node's key signs, too.
fn same_key(store: &Store, node: &Node) -> Result<Vec<String>, Failure> {
    fn keys(node: &Node) -> impl Iterator<Item = &String> {
        core::iter::once(&node.ak_name).chain(&node.node_key)
    }
    let is_same = |other: &Node| keys(other).any(|key| keys(node).any(|own| own == key));
    let others = store.nodes()?.into_iter().filter(|other| other.name != node.name);
    Ok(others.filter(is_same).map(|other| other.name).collect())
}

/// Each anchor of the policy has a key of the node.
fn keys_fit(node: &Node, policy: &Policy) -> Result<(), Failure> {
    let anchors = &policy.file.accept.anchors;
    let tdx = policy.file.tdx.as_ref();
    let missing = if anchors.contains(&Anchor::Pcr10) && pinned::is_domain(node) {
        "pcr-10 in `accept.anchors`: --ak is needed"
    } else if tdx.is_some() && node.node_key.is_none() && !policy.has_key_per_boot() {
        "a register of a trust domain in `accept.anchors`: --node-key is needed"
    } else {
        return Ok(());
    };
    Err(Failure::new("key", format!("the policy has {missing}"))
        .hint("`cgpathd check` on the node shows its keys"))
}

/// Name in hex and, where a file was given, the public area of a key.
fn attestation_name(given: &str) -> Result<(String, Option<Vec<u8>>), Failure> {
    let key = attestation_key(given)?;
    let name = key
        .name()
        .map(hex::encode)
        .ok_or_else(|| Failure::new("key", "the key has no name"))?;
    let public = match key {
        PinnedKey::Public(public) => Some(public),
        _ => None,
    };
    Ok((name, public))
}

fn list(store: &Store, out: &mut Output) -> Result<Status, Failure> {
    let mut nodes = Vec::new();
    for node in store.nodes()? {
        let last = store.last_verdict(&node.name)?;
        let standing = Standing::of(store, &node, last.as_ref())?;
        nodes.push((node, standing, last));
    }
    let status = Status::clean_if(nodes.iter().all(|(_, standing, _)| standing.standing.is_good()));
    if out.json() {
        let shown: Vec<Shown<'_>> = nodes
            .iter()
            .map(|(node, standing, last)| Shown::of(node, Some(standing), last.as_ref()))
            .collect();
        out.object(&shown)?;
        return Ok(status);
    }
    if nodes.is_empty() {
        out.line("no node is enrolled: cgpath node add NAME --ak FILE --policy FILE")?;
        return Ok(status);
    }
    let width = nodes.iter().map(|(n, ..)| n.name.len()).max().unwrap_or(0).max(4);
    out.line(format_args!(
        "{:<width$}  {:<19}{:<24}KEY",
        "NODE", "STANDING", "LAST VERDICT (UTC)"
    ))?;
    for (node, standing, last) in &nodes {
        let (text, colour) = standing.standing.shown();
        let at = last.as_ref().map_or_else(|| "-".to_owned(), |v| utc(v.time));
        let text = out.paint(colour, &format!("{text:<19}"));
        out.line(format_args!(
            "{:<width$}  {text}{at:<24}{}",
            node.name, node.ak_name
        ))?;
    }
    Ok(status)
}

fn show(store: &Store, name: &str, out: &mut Output) -> Result<Status, Failure> {
    let node = store.node(name)?;
    let last = store.last_verdict(name)?;
    let standing = Standing::of(store, &node, last.as_ref())?;
    let status = Status::clean_if(standing.standing.is_good());
    if out.json() {
        out.object(&Shown::of(&node, Some(&standing), last.as_ref()))?;
        return Ok(status);
    }
    let (text, colour) = standing.standing.shown();
    let text = out.paint(colour, text);
    out.line(format_args!("{}  {text}", node.name))?;
    out.line(format_args!("  key       {}", node.ak_name))?;
    if let Some(key) = node.node_key.as_ref().filter(|key| **key != node.ak_name) {
        out.line(format_args!("            {key} (node's key in its trust domain)"))?;
    }
    out.line(format_args!(
        "  policy    {}",
        escape(node.policy.as_os_str().as_encoded_bytes())
    ))?;
    if let Some(source) = &node.policy_source {
        let source = escape(source.as_os_str().as_encoded_bytes());
        out.line(format_args!("            a copy of {source}"))?;
    }
    out.line(format_args!("            {}", node.policy_digest))?;
    out.line(format_args!("  enrolled  {} UTC", utc(node.added)))?;
    if let Some(since) = node.stopped {
        let text = format!("STOPPED since {} UTC: its evidence is not taken", utc(since));
        out.line(format_args!("  {}", out.paint(Colour::Yellow, &text)))?;
    }
    standing_lines(&node, &standing, out)?;
    if let Some(last) = last {
        let age = standing.age.unwrap_or(0);
        out.line(format_args!(
            "  verdict   {} of {} UTC, {age} s ago",
            last.id,
            utc(last.time)
        ))?;
        if last.evidence_kept {
            out.line(format_args!("  evidence  sha256:{}", last.evidence))?;
            out.line(format_args!(
                "            cgpath export --store {} --node {} --format cbor -o FILE writes it, whole",
                escape(store.dir().as_os_str().as_encoded_bytes()),
                node.name
            ))?;
        }
        out.line("")?;
        let verdict: Verdict = serde_json::from_str(last.verdict.get())
            .map_err(|e| Failure::new("store", format!("verdict {}: {e}", last.id)))?;
        out.verdict(&verdict.to_string())?;
    }
    Ok(status)
}

/// What of the standing needs a line of its own.
pub fn standing_lines(node: &Node, standing: &Standing, out: &mut Output) -> Result<(), Failure> {
    if let Some(error) = &standing.policy_error {
        let text = format!(
            "POLICY NOT USABLE: {}; hint: cgpath node policy {} FILE",
            escape(error.as_bytes()),
            node.name
        );
        out.line(format_args!("  {}", out.paint(Colour::Red, &text)))?;
    }
    if let Some(age) = standing.age
        && matches!(standing.standing, standing::Word::Stale | standing::Word::Refused)
    {
        let text = format!("STALE: nothing was taken of it for {age} s");
        out.line(format_args!("  {}", out.paint(Colour::Yellow, &text)))?;
    }
    if let Some(refused) = &standing.refused {
        let text = format!(
            "REFUSED at {} UTC, in its name: {}",
            utc(refused.time),
            escape(refused.error.as_bytes())
        );
        out.line(format_args!("  {}", out.paint(Colour::Yellow, &text)))?;
    }
    Ok(())
}

/// Lines of a node's history that are shown; in JSON, notes.
const LINES: u32 = 1000;

fn history(store: &Store, name: &str, out: &mut Output) -> Result<Status, Failure> {
    store.node(name)?;
    let forgotten = store.forgotten(name)?;
    if out.json() {
        #[derive(Serialize)]
        #[serde(untagged)]
        enum Either<'a, A, B> {
            Reappraised(&'a A),
            Forgotten { forgotten: &'a B },
        }
        let notes = store.reappraisals(name, LINES)?;
        let all = forgotten.iter().map(|forgotten| Either::Forgotten { forgotten });
        let all: Vec<_> = all.chain(notes.iter().map(Either::Reappraised)).collect();
        out.object(&all)?;
        return Ok(Status::Clean);
    }
    let (lines, has_more) = store.reappraisal_lines(name, LINES as usize)?;
    if lines.is_empty() {
        out.line("nothing was re-appraised")?;
    }
    for forgotten in &forgotten {
        out.line(format_args!(
            "{} UTC  what was known before was forgotten: {}",
            utc(forgotten.time),
            escape(forgotten.reason.as_bytes())
        ))?;
        out.line(format_args!("    statement {}", forgotten.digest))?;
    }
    for line in &lines {
        let (time, reason) = (utc(line.step.time), escape(line.step.reason.as_bytes()));
        if line.verdicts > 1 {
            out.line(format_args!(
                "{time} UTC  {} verdicts, {} to {}: each is trusted or UNTRUSTED as before{}; {reason}",
                line.verdicts,
                line.oldest,
                line.newest,
                if line.pods.is_empty() {
                    ""
                } else {
                    ", these pods are not"
                }
            ))?;
        } else {
            let word = |trusted| out.state(if trusted { "trusted" } else { "UNTRUSTED" });
            let (old, new) = (word(line.step.old_trusted), word(line.step.new_trusted));
            out.line(format_args!(
                "{time} UTC  verdict {}: was {old}, is {new}; {reason}",
                line.newest
            ))?;
        }
        for pod in &line.pods {
            let word = |state: Option<State>| match state {
                Some(state) => out.state(&state.to_string()),
                None => "not in the verdict".to_owned(),
            };
            let (old, new) = (word(pod.old), word(pod.new));
            out.line(format_args!(
                "    pod {}: was {old}, is {new}",
                escape(pod.pod.as_bytes())
            ))?;
        }
        if line.step.old_policy != line.step.new_policy {
            out.line(format_args!(
                "    policy {} instead of {}",
                line.step.new_policy, line.step.old_policy
            ))?;
        }
    }
    if has_more {
        out.line("what was re-appraised before that is kept and not shown")?;
    }
    Ok(Status::Clean)
}
