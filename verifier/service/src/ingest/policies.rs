//! Policies as they were enrolled, read again only when a file changed.
//!
//! Promise: what is given out has the digest that was enrolled; a policy that changed since is refused until
//! somebody enrols it, so that nobody changes a verdict by changing a file. Not here: how a policy is read
//! (see `policy_files`).

use crate::files::Stamp;
use crate::policy_files::{self, PolicyFileError, Watch};
use crate::store::Node;
use cgpath_policy::Policy;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Why a node's policy cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It cannot be read.
    #[error(transparent)]
    Unreadable(#[from] PolicyFileError),
    /// It is not what was enrolled.
    #[error(
        "{path} or one of its reference files changed: its digest is {found}, {enrolled} was enrolled; \
         if that is meant: cgpath node policy {node} FILE"
    )]
    Changed {
        /// The node.
        node: String,
        /// The policy file.
        path: String,
        /// Digest at enrolment.
        enrolled: String,
        /// Digest now.
        found: String,
    },
}

struct Cached {
    policy: Arc<Policy>,
    stamps: Vec<Stamp>,
}

/// See the module.
#[derive(Default)]
pub struct Policies(Mutex<HashMap<PathBuf, Cached>>);

impl Policies {
    /// The policy of `node`, as it was enrolled.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn of(&self, node: &Node) -> Result<Arc<Policy>, LoadError> {
        let mut cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let cached = cache
            .get(&node.policy)
            .filter(|c| c.stamps.iter().all(Stamp::is_as_before));
        let policy = match cached {
            Some(cached) => Arc::clone(&cached.policy),
            None => {
                cache.remove(&node.policy);
                let (policy, stamps) = read(&node.policy)?;
                let policy = Arc::new(policy);
                cache.insert(
                    node.policy.clone(),
                    Cached {
                        policy: Arc::clone(&policy),
                        stamps,
                    },
                );
                policy
            }
        };
        let found = policy.digest().to_string();
        if found != node.policy_digest {
            return Err(LoadError::Changed {
                node: node.name.clone(),
                path: node.policy.display().to_string(),
                enrolled: node.policy_digest.clone(),
                found,
            });
        }
        Ok(policy)
    }
}

/// Stamps of the files, each from before it was read.
#[derive(Default)]
struct Stamps(Vec<Stamp>);

impl Watch for Stamps {
    fn begins(&mut self, path: &Path) {
        self.0.push(Stamp::of(path.to_owned()));
    }
}

/// The policy, and stamps of its files that are older than what was read.
fn read(path: &Path) -> Result<(Policy, Vec<Stamp>), LoadError> {
    let mut stamps = Stamps::default();
    let policy = policy_files::load_watched(path, &mut stamps)?;
    Ok((policy, stamps.0))
}
