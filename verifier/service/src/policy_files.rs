//! Policies as files: a policy and the reference files beside it, read within bounds.
//!
//! Promise: the reference files of a policy that a store keeps are the store's. Not here: what a policy says
//! (`cgpath-policy`).

use crate::files::read_bounded;
use crate::store::{Store, StoreError, kept_references};
use cgpath_appraisal::text::escape;
use cgpath_evidence::PodUid;
use cgpath_policy::Policy;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Why a policy cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PolicyFileError {
    /// A file cannot be read.
    #[error("{}: {error}", escape(path.as_os_str().as_encoded_bytes()))]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It is not a policy, or a reference file is none.
    #[error("{}", escape(.0.to_string().as_bytes()))]
    Policy(#[from] cgpath_policy::Error),
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> PolicyFileError + '_ {
    move |error| PolicyFileError::Io {
        path: path.to_owned(),
        error,
    }
}

/// Reads a policy and the reference files beside it.
///
/// # Errors
/// What cannot be read, or is not a policy; with file, line and column where there are any.
pub fn load(path: &Path) -> Result<Policy, PolicyFileError> {
    load_watched(path, &mut ())
}

/// Is shown each file that a policy is read from.
pub trait Watch {
    /// It is about to be read.
    fn begins(&mut self, _path: &Path) {}
    /// A reference file was read, by what the policy calls it.
    fn has_read(&mut self, _name: &str, _bytes: &[u8]) {}
}

impl Watch for () {}

impl Watch for BTreeMap<String, Vec<u8>> {
    fn has_read(&mut self, name: &str, bytes: &[u8]) {
        self.insert(name.to_owned(), bytes.to_vec());
    }
}

/// As [`load`].
///
/// # Errors
/// As [`load`].
pub fn load_watched(path: &Path, watch: &mut dyn Watch) -> Result<Policy, PolicyFileError> {
    let (_, policy) = load_as(path, watch, |name, yaml, resolve| {
        Policy::load(name, yaml, resolve)
    })?;
    Ok(policy)
}

/// A policy with all that it was read from.
pub struct Whole {
    /// The policy.
    pub policy: Policy,
    /// Absolute path of its file.
    pub source: PathBuf,
    yaml: Vec<u8>,
    references: BTreeMap<String, Vec<u8>>,
}

impl Whole {
    /// As [`load`].
    ///
    /// # Errors
    /// As [`load`].
    pub fn load(path: &Path) -> Result<Whole, PolicyFileError> {
        let mut references = BTreeMap::new();
        let (yaml, policy) = load_as(path, &mut references, |name, yaml, resolve| {
            Policy::load(name, yaml, resolve)
        })?;
        Ok(Whole {
            policy,
            source: fs::canonicalize(path).map_err(io_error(path))?,
            yaml,
            references,
        })
    }

    /// Copies all of it into the store; gives the path of the policy there.
    ///
    /// # Errors
    /// A store that cannot be written.
    pub fn keep(&self, store: &Store) -> Result<PathBuf, StoreError> {
        store.keep_policy(self.policy.digest(), &self.yaml, &self.references)
    }
}

/// A tenant's policy and the pod that it is about.
///
/// # Errors
/// What cannot be read or is no policy.
pub fn load_tenant(path: &Path) -> Result<(PodUid, Policy), PolicyFileError> {
    let (_, tenant) = load_as(path, &mut (), |name, yaml, resolve| {
        Policy::load_tenant(name, yaml, resolve)
    })?;
    Ok(tenant)
}

type Resolve<'a> = &'a mut dyn FnMut(&str) -> Result<Vec<u8>, String>;

/// Gives the policy file's bytes, too.
fn load_as<T>(
    path: &Path,
    watch: &mut dyn Watch,
    read: impl FnOnce(&str, &[u8], Resolve<'_>) -> cgpath_policy::Result<T>,
) -> Result<(Vec<u8>, T), PolicyFileError> {
    let name = path.display().to_string();
    watch.begins(path);
    let yaml = read_bounded(path, cgpath_policy::MAX_POLICY_LEN as u64).map_err(io_error(path))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let kept = kept_references(folder).map_err(io_error(folder))?;
    let read = read(&name, &yaml, &mut |name| {
        let path = match &kept {
            None => folder.join(name),
            Some(kept) => kept.get(name).cloned().ok_or("it is not in the store")?,
        };
        watch.begins(&path);
        let bytes = read_bounded(&path, cgpath_policy::reference::MAX_REFERENCE_LEN as u64)
            .map_err(|e| format!("{}: {e}", path.display()))?;
        watch.has_read(name, &bytes);
        Ok(bytes)
    })?;
    Ok((yaml, read))
}
