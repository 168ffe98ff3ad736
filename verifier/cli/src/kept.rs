//! Evidence that a subcommand works on: a file, or what a store keeps of a node, the last of it by default.
//!
//! Promise: of a store it is whole, though the service keeps most rounds as parts. Not here: how it is kept
//! (see `cgpath_service::store`).

use crate::input;
use crate::output::Failure;
use cgpath_appraisal::Collateral;
use cgpath_evidence::Evidence;
use cgpath_service::pinned;
use cgpath_service::store::{Node, Store, StoredVerdict};
use clap::Args;
use std::path::PathBuf;

/// Where the store is by default: as `deploy/cgpath.service` has it.
pub const STORE: &str = "/var/lib/cgpath/store";

/// A node of a verifier's store, in place of files. The variable says where the store is, and never by itself
/// that one is meant: clap would hold it against a file that the command line names.
#[derive(Args, Debug)]
pub struct OfStore {
    /// The directory of `cgpath serve` that --node is in [env: CGPATH_STORE] [default: /var/lib/cgpath/store]
    #[arg(long, value_name = "DIR", requires = "node")]
    store: Option<PathBuf>,
    /// In place of files: the last evidence, whole, that a verifier's store has of this node
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
}

impl OfStore {
    /// The store and the node, where a node is named.
    pub fn named(&self) -> Option<(PathBuf, &str)> {
        let node = self.node.as_deref()?;
        let variable = || std::env::var_os("CGPATH_STORE").filter(|dir| !dir.is_empty());
        let given = self.store.clone().or_else(|| variable().map(PathBuf::from));
        Some((given.unwrap_or_else(|| PathBuf::from(STORE)), node))
    }
}

/// Where evidence comes from.
#[derive(Args, Debug)]
pub struct Source {
    /// The evidence, as CBOR or as our JSON; `-` reads standard input
    #[arg(conflicts_with_all = ["store", "node", "verdict"])]
    evidence: Option<PathBuf>,
    #[command(flatten)]
    of: OfStore,
    /// The evidence of this verdict of the node, in place of its last; the node's history has the numbers
    #[arg(long, value_name = "N", requires = "node", value_parser = clap::value_parser!(i64).range(1..))]
    verdict: Option<i64>,
}

/// Evidence of a node, with what the store knows of it.
pub struct Kept {
    /// The evidence.
    pub evidence: Evidence,
    /// The node as it is enrolled.
    pub node: Node,
    /// The verdict about the evidence.
    pub verdict: StoredVerdict,
}

/// The evidence of one verdict of a node, of the last one where no number is given.
///
/// # Errors
/// A node that is unknown or has sent nothing yet; a number that is no verdict of this node; evidence that is
/// not kept any more.
pub fn of(store: &Store, node: &str, number: Option<i64>) -> Result<Kept, Failure> {
    let node = store.node(node)?;
    let verdict = match number {
        None => store
            .last_verdict(&node.name)?
            .ok_or_else(|| silent(&node.name))?,
        Some(number) => store
            .next_verdict(number.saturating_sub(1), Some(&node.name))?
            .filter(|verdict| verdict.id == number)
            .ok_or_else(|| {
                Failure::new("no-verdict", format!("{} has no verdict {number}", node.name))
                    .hint("`cgpath node show` names its last, `/v1/nodes/NODE/history` all that are kept")
            })?,
    };
    Ok(Kept {
        evidence: evidence(store, &verdict)?,
        node,
        verdict,
    })
}

/// The evidence of a verdict.
///
/// # Errors
/// Evidence that is not kept any more, or that cannot be read.
pub fn evidence(store: &Store, verdict: &StoredVerdict) -> Result<Evidence, Failure> {
    if !verdict.evidence_kept {
        let text = format!("the evidence of verdict {} is not kept any more", verdict.id);
        return Err(Failure::new("no-evidence", text));
    }
    let bytes = store.evidence(&verdict.evidence)?;
    Evidence::from_cbor(&bytes).map_err(|e| Failure::decode(&verdict.evidence, &e))
}

/// A node of which nothing came yet.
pub fn silent(node: &str) -> Failure {
    Failure::new("no-verdict", format!("{node} has sent no evidence yet"))
        .hint("on the node: `cgpathd status`, `journalctl -u cgpathd`; here: `cgpath node show`")
}

fn nothing() -> Failure {
    Failure::new("usage", "no evidence is named")
        .hint("name its file, or a store and a node of it: --store DIR --node NAME")
}

impl Source {
    /// Refuses that nothing is named.
    ///
    /// # Errors
    /// Neither a file nor a store.
    pub fn check(&self) -> Result<(), Failure> {
        match (&self.evidence, self.of.named()) {
            (None, None) => Err(nothing()),
            _ => Ok(()),
        }
    }

    /// The collateral of the store, where one is named.
    pub fn collateral(&self) -> Vec<Collateral> {
        let named = self.of.named();
        named.map_or_else(Vec::new, |(dir, _)| pinned::collateral(&dir).0)
    }

    /// What the store has, where one is named.
    ///
    /// # Errors
    /// As [`of`].
    pub fn kept(&self) -> Result<Option<Kept>, Failure> {
        match self.of.named() {
            Some((dir, node)) => of(&Store::open(&dir)?, node, self.verdict).map(Some),
            None => Ok(None),
        }
    }

    /// The evidence, from wherever it is.
    ///
    /// # Errors
    /// What cannot be read, or is not evidence.
    pub fn evidence(&self) -> Result<Evidence, Failure> {
        match (self.kept()?, &self.evidence) {
            (Some(kept), _) => Ok(kept.evidence),
            (None, Some(path)) => input::evidence(path),
            (None, None) => Err(nothing()),
        }
    }
}
