//! What is pinned of a node: its keys; and the collateral that quotes of trust domains are verified with.
//!
//! Promises: collateral lies in the folder `collateral` of the store's directory, so that every command that
//! appraises uses the same; files that come and go are seen at once; one that cannot be used is named and does
//! not keep the others from being used. Not here: how collateral is fetched, and whether it holds (see
//! `cgpath-appraisal`).

use crate::ingest::policies::Stamp;
use crate::store::Node;
use cgpath_appraisal::{Collateral, MAX_COLLATERAL_LEN, PinnedKey, TdContext};
use cgpath_evidence::merkle::Hash;
use std::fs::{self, File};
use std::io::Read;
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

/// The attestation key of a node.
///
/// # Errors
/// A key that cannot be used.
pub fn key(node: &Node) -> Result<PinnedKey, String> {
    let key = match &node.ak_public {
        _ if is_domain(node) => Ok(PinnedKey::NoTpm),
        Some(public) => PinnedKey::from_public(public),
        None => PinnedKey::from_fingerprint(&node.ak_name),
    };
    key.map_err(|e| format!("the key of {}: {e}", node.name))
}

/// What a trust domain's quote of this node is verified with.
///
/// # Errors
/// A key that cannot be used.
pub fn td(node: &Node, collateral: &[Collateral]) -> Result<TdContext, String> {
    let Some(text) = &node.node_key else {
        return Ok(TdContext {
            node_key: None,
            collateral: collateral.to_vec(),
        });
    };
    let bytes = hex::decode(text).ok();
    let hash: Option<Hash> = bytes.and_then(|bytes| bytes.try_into().ok());
    let hash = hash.ok_or_else(|| format!("the node's key of {}: not 64 hex digits", node.name))?;
    Ok(TdContext {
        node_key: Some(hash),
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
        let mut bytes = Vec::new();
        let one = File::open(path)
            .and_then(|file| file.take(MAX_COLLATERAL_LEN as u64 + 1).read_to_end(&mut bytes))
            .map_err(|e| e.to_string())
            .and_then(|_| Collateral::from_json(&bytes).map_err(|e| e.to_string()));
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
