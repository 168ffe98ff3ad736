//! Policies as they were enrolled: copies of the file and of all its reference files, so that the store alone
//! judges.
//!
//! ```text
//! DIR/policies/DIGEST/policy.yaml      DIGEST: the policy's digest in hex, which covers all of them
//! DIR/policies/DIGEST/kept.json        what the policy calls each reference file: {name: SHA-256 in hex}
//! DIR/policies/references/SHA-256.json
//! ```
//! Promises: a file is complete and synced before the policy's own is there; a policy is never changed in its
//! place; files that many policies name are kept once. Not here: what a policy means.

use super::files::{private_folder, put, sync_dir};
use super::{Store, StoreError};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The folder.
const POLICIES: &str = "policies";
/// The folder of reference files in it.
const REFERENCES: &str = "references";
/// The file that says what a policy calls its reference files.
pub const KEPT: &str = "kept.json";
/// What nothing names is left for this long: its enrolment may be under way.
const UNDER_WAY: Duration = Duration::from_secs(3600);

fn at(path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |error| StoreError::Io { path, error }
}

/// Where the reference files of the policy in `folder` are, by what it calls them; `None`: the folder is no
/// kept policy's.
///
/// # Errors
/// A list that cannot be read.
pub fn kept_references(folder: &Path) -> io::Result<Option<BTreeMap<String, PathBuf>>> {
    let text = match fs::read(folder.join(KEPT)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let names: BTreeMap<String, String> = serde_json::from_slice(&text)?;
    let references = folder.with_file_name(REFERENCES);
    let path = |(name, sha256)| (name, references.join(format!("{sha256}.json")));
    Ok(Some(names.into_iter().map(path).collect()))
}

impl Store {
    /// Keeps a policy with this digest; gives the path of its file.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn keep_policy(
        &self,
        digest: &cgpath_evidence::Digest,
        yaml: &[u8],
        references: &BTreeMap<String, Vec<u8>>,
    ) -> Result<PathBuf, StoreError> {
        let policies = self.dir().join(POLICIES);
        let (own, shared) = (
            policies.join(hex::encode(digest.bytes())),
            policies.join(REFERENCES),
        );
        for path in [&policies, &shared, &own] {
            private_folder(path).map_err(at(path))?;
        }
        let mut names = BTreeMap::new();
        for (name, bytes) in references {
            let sha256 = hex::encode(Sha256::digest(bytes));
            put(&shared.join(format!("{sha256}.json")), bytes)?;
            names.insert(name, sha256);
        }
        let names = serde_json::to_vec(&names).map_err(|e| at(&own)(e.into()))?;
        put(&own.join(KEPT), &names)?;
        sync_dir(&shared)?;
        let path = own.join("policy.yaml");
        put(&path, yaml)?;
        for path in [&own, &policies, self.dir()] {
            sync_dir(path)?;
        }
        Ok(path)
    }

    /// Removes what no node is enrolled with any more.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Io`].
    pub fn sweep_policies(&self, now: SystemTime) -> Result<(), StoreError> {
        let policies = self.dir().join(POLICIES);
        if !policies.is_dir() {
            return Ok(());
        }
        let used: BTreeSet<PathBuf> = self.nodes()?.into_iter().map(|node| node.policy).collect();
        let mut named = BTreeSet::new();
        for path in listed(&policies)? {
            if path.ends_with(REFERENCES) {
                continue;
            }
            if !used.contains(&path.join("policy.yaml")) && is_old(&path, now) {
                fs::remove_dir_all(&path).map_err(at(&path))?;
            } else {
                let references = kept_references(&path).map_err(at(&path))?;
                named.extend(references.unwrap_or_default().into_values());
            }
        }
        for path in listed(&policies.join(REFERENCES))? {
            if !named.contains(&path) && is_old(&path, now) {
                fs::remove_file(&path).map_err(at(&path))?;
            }
        }
        Ok(())
    }

    /// A path as it is written into the database: relative below the store, which may be moved.
    pub(super) fn relative<'a>(&self, path: &'a Path) -> &'a Path {
        path.strip_prefix(self.dir()).unwrap_or(path)
    }
}

fn listed(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(at(folder))?,
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    paths.collect::<io::Result<_>>().map_err(at(folder))
}

fn is_old(path: &Path, now: SystemTime) -> bool {
    let modified = fs::metadata(path).and_then(|m| m.modified());
    modified.is_ok_and(|at| now.duration_since(at).is_ok_and(|age| age > UNDER_WAY))
}

#[cfg(test)]
mod tests {
    use super::super::Node;
    use super::*;

    #[test]
    fn what_no_node_names_is_removed_once_it_is_old_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path()).unwrap();
        let keep = |yaml: &str, files: &[(&str, &str)]| {
            let files = files
                .iter()
                .map(|(n, b)| ((*n).to_owned(), b.as_bytes().to_vec()));
            let digest = cgpath_evidence::Bank::Sha256.hash(&[yaml.as_bytes()]);
            store
                .keep_policy(&digest, yaml.as_bytes(), &files.collect())
                .unwrap()
        };
        let used = keep("used", &[("a.json", "shared"), ("../b.json", "own")]);
        let unused = keep("unused", &[("x/c.json", "shared"), ("d.json", "nobody's")]);
        store
            .add_node(
                &Node {
                    policy: used.clone(),
                    ..Node::of_tests("n1")
                },
                false,
            )
            .unwrap();
        assert_eq!(store.node("n1").unwrap().policy, used);
        let files = || listed(&dir.path().join("policies/references")).unwrap().len();
        store.sweep_policies(SystemTime::now()).unwrap();
        assert!(unused.exists() && files() == 3);
        store.sweep_policies(SystemTime::now() + 2 * UNDER_WAY).unwrap();
        assert!(used.exists() && !unused.exists());
        assert_eq!(files(), 2);
        let kept = kept_references(used.parent().unwrap()).unwrap().unwrap();
        assert_eq!(fs::read(&kept["../b.json"]).unwrap(), b"own");
        assert_eq!(fs::read(&kept["a.json"]).unwrap(), b"shared");
    }
}
