//! What is pinned of a node: its keys; and the collateral that quotes of trust domains are verified with.
//!
//! Promises: collateral lies in the folder `collateral` of the store's directory, so that every command that
//! appraises uses the same; files that come and go are seen at once; one that cannot be used is named and
//! does not keep the others from being used. Not here: how collateral is fetched, and whether it holds (see
//! `cgpath-appraisal`).

use crate::files::{Stamp, read_bounded};
use crate::store::Node;
use cgpath_appraisal::{Collateral, KeyError, MAX_COLLATERAL_LEN, PinnedKey, TdContext};
use cgpath_evidence::merkle::Hash;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Folder of collateral in a store's directory.
pub const FOLDER: &str = "collateral";
/// More files are not read: each kind of platform has one at a time.
const MAX_FILES: usize = 256;

/// Hex digits of the hash of a trust domain's key, by which a node without a TPM is enrolled.
const NODE_KEY_DIGITS: usize = 64;

/// Whether the node is enrolled by the key of a trust domain, and has no TPM that counts.
pub fn is_domain(node: &Node) -> bool {
    node.ak_name.len() == NODE_KEY_DIGITS
}

/// A key that a node is enrolled with and that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// The attestation key.
    #[error("the key of {node}: {error}")]
    Attestation {
        /// The node.
        node: String,
        /// Why not.
        error: KeyError,
    },
    /// The key of its trust domain.
    #[error("the node's key of {node}: not {NODE_KEY_DIGITS} hex digits")]
    Domain {
        /// The node.
        node: String,
    },
}

/// The attestation key of a node.
///
/// # Errors
/// [`PinError::Attestation`].
pub fn key(node: &Node) -> Result<PinnedKey, PinError> {
    let key = match &node.ak_public {
        _ if is_domain(node) => Ok(PinnedKey::NoTpm),
        Some(public) => PinnedKey::from_public(public),
        None => PinnedKey::from_fingerprint(&node.ak_name),
    };
    key.map_err(|error| PinError::Attestation {
        node: node.name.clone(),
        error,
    })
}

/// What a trust domain's quote of this node is verified with.
///
/// # Errors
/// [`PinError::Domain`].
pub fn td(node: &Node, collateral: &[Collateral]) -> Result<TdContext, PinError> {
    let bad = || PinError::Domain {
        node: node.name.clone(),
    };
    let hash = |text: &String| -> Option<Hash> { hex::decode(text).ok()?.try_into().ok() };
    let node_key = node.node_key.as_ref().map(|text| hash(text).ok_or_else(bad));
    Ok(TdContext {
        node_key: node_key.transpose()?,
        collateral: collateral.to_vec(),
    })
}

/// The collateral in this store's directory, and what is wrong with files that are none.
pub fn collateral(store: &Path) -> (Vec<Collateral>, Vec<String>) {
    read(&files(store))
}

fn files(store: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(store.join(FOLDER)).into_iter().flatten().flatten();
    let is_file = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "json");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_file).collect();
    files.sort();
    files.truncate(MAX_FILES);
    files
}

fn read(files: &[PathBuf]) -> (Vec<Collateral>, Vec<String>) {
    let (mut all, mut wrong) = (Vec::new(), Vec::new());
    for path in files {
        let one = read_bounded(path, MAX_COLLATERAL_LEN as u64)
            .map_err(|e| e.to_string())
            .and_then(|bytes| Collateral::from_json(&bytes).map_err(|e| e.to_string()));
        match one {
            Ok(one) => all.push(one),
            Err(why) => wrong.push(format!("{}: {why}", path.display())),
        }
    }
    (all, wrong)
}

/// Collateral that is read again only when a file changed.
#[derive(Default)]
pub struct Kept(Mutex<(Vec<Stamp>, Arc<Vec<Collateral>>)>);

impl Kept {
    /// What is in this store's directory now.
    pub fn of(&self, store: &Path) -> Arc<Vec<Collateral>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let files = files(store);
        let stamps: Vec<Stamp> = files.iter().cloned().map(Stamp::of).collect();
        if stamps != kept.0 {
            let (all, wrong) = read(&files);
            for why in wrong {
                tracing::warn!("collateral is not used: {why}");
            }
            *kept = (stamps, Arc::new(all));
        }
        Arc::clone(&kept.1)
    }
}
