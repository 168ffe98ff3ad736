//! Who may read what: tokens, and the pods that each may see.
//!
//! Promises: a token is kept as its SHA-256 alone; what a scope does not hold answers as what is not there; a
//! pod is in a namespace by its name in the verifier's policy, which under version 2 its runtime's names
//! choose.
//! Not here: requests (see `read`).

use cgpath_appraisal::PodVerdict;
use cgpath_appraisal::text::library_message;
use cgpath_evidence::PodUid;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// A readers' file is never longer.
const MAX_FILE: u64 = 1 << 20;

/// Why a readers' file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ReadersError {
    /// It cannot be read.
    #[error("readers {path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
    /// It is no list of readers.
    #[error("readers {path}: {}", library_message(.source))]
    Syntax {
        /// The file.
        path: String,
        /// Where and why.
        source: serde_norway::Error,
    },
    /// A reader makes no sense.
    #[error("readers {path}: reader {name:?}: {why}")]
    Reader {
        /// The file.
        path: String,
        /// The reader's name.
        name: String,
        /// Why.
        why: &'static str,
    },
}

/// The file, as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    readers: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Entry {
    name: String,
    token_sha256: String,
    #[serde(default)]
    everything: bool,
    #[serde(default)]
    namespaces: BTreeSet<String>,
    #[serde(default)]
    pods: BTreeSet<PodUid>,
}

/// What a reader may see.
#[derive(Debug, Clone)]
pub enum Reader {
    /// All nodes and pods.
    Everything,
    /// Some pods, and of their nodes whether they are trusted.
    Scoped(Arc<Scope>),
}

/// The pods of a reader.
#[derive(Debug)]
pub struct Scope {
    namespaces: BTreeSet<String>,
    pods: BTreeSet<PodUid>,
}

impl Scope {
    /// Whether the pod is one of them.
    pub fn holds(&self, pod: &PodVerdict) -> bool {
        self.names(pod.uid, pod.name.as_deref())
    }

    /// The same for a pod of this UID and this name in the policy.
    pub fn names(&self, uid: PodUid, name: Option<&str>) -> bool {
        let namespace = name.and_then(namespace);
        self.pods.contains(&uid) || namespace.is_some_and(|ns| self.namespaces.contains(ns))
    }
}

/// The namespace of a pod that the policy calls `namespace/name`.
pub(super) fn namespace(name: &str) -> Option<&str> {
    name.split_once('/').map(|(namespace, _)| namespace)
}

/// Which reader it is, for what each has a share of: the digest of its token, or nothing for this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReaderId([u8; 32]);

impl ReaderId {
    /// Every client that reads from this machine while nobody has a token.
    pub const LOCAL: ReaderId = ReaderId([0; 32]);
}

/// All who may read.
#[derive(Debug, Clone, Default)]
pub struct Readers {
    tokens: BTreeMap<[u8; 32], Reader>,
}

impl Readers {
    /// Reads `path`, where there is one, and lets clients that show `token` see everything.
    ///
    /// # Errors
    /// [`ReadersError`].
    pub fn new(token: Option<&str>, path: Option<&Path>) -> Result<Readers, ReadersError> {
        let mut readers = Readers::default();
        if let Some(token) = token {
            let digest = Sha256::digest(token).into();
            readers.tokens.insert(digest, Reader::Everything);
        }
        if let Some(path) = path {
            let shown = path.display().to_string();
            let io = |source| ReadersError::Io {
                path: shown.clone(),
                source,
            };
            if std::fs::metadata(path).map_err(io)?.len() > MAX_FILE {
                return Err(io(std::io::ErrorKind::FileTooLarge.into()));
            }
            readers.add(&shown, &std::fs::read_to_string(path).map_err(io)?)?;
        }
        Ok(readers)
    }

    fn add(&mut self, path: &str, text: &str) -> Result<(), ReadersError> {
        let file: File = serde_norway::from_str(text).map_err(|source| ReadersError::Syntax {
            path: path.to_owned(),
            source,
        })?;
        for entry in file.readers {
            let wrong = |why| ReadersError::Reader {
                path: path.to_owned(),
                name: entry.name.clone(),
                why,
            };
            let mut digest = [0; 32];
            hex::decode_to_slice(&entry.token_sha256, &mut digest)
                .map_err(|_| wrong("token-sha256 is not 64 hexadecimal digits"))?;
            let scoped = !entry.namespaces.is_empty() || !entry.pods.is_empty();
            let reader = match (entry.everything, scoped) {
                (true, true) => return Err(wrong("sees everything or a scope, not both")),
                (true, false) => Reader::Everything,
                (false, true) => Reader::Scoped(Arc::new(Scope {
                    namespaces: entry.namespaces.clone(),
                    pods: entry.pods.clone(),
                })),
                (false, false) => {
                    return Err(wrong(
                        "sees nothing: give it namespaces, pods or everything: true",
                    ));
                }
            };
            if self.tokens.insert(digest, reader).is_some() {
                return Err(wrong("has the token of another reader"));
            }
        }
        Ok(())
    }

    /// Whether nobody has a token: then this machine alone may read.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// How many have a token.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whose token it is. Digests are compared, so the time that takes tells nothing about a token.
    pub fn by_token(&self, token: &[u8]) -> Option<(ReaderId, Reader)> {
        let digest = Sha256::digest(token).into();
        Some((ReaderId(digest), self.tokens.get(&digest)?.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(text: &str) -> Result<Readers, String> {
        let mut readers = Readers::new(Some("the operator's own token"), None).unwrap();
        readers.add("f", text).map_err(|e| e.to_string())?;
        Ok(readers)
    }

    #[test]
    fn a_token_gives_its_reader_and_no_other() {
        let digest = hex::encode(Sha256::digest("shop token"));
        let readers = add(&format!(
            "readers:\n- name: shop\n  token-sha256: {digest}\n  namespaces: [shop]\n"
        ))
        .unwrap();
        assert!(matches!(
            readers.by_token(b"shop token"),
            Some((_, Reader::Scoped(_)))
        ));
        assert!(matches!(
            readers.by_token(b"the operator's own token"),
            Some((_, Reader::Everything))
        ));
        assert!(readers.by_token(b"shop").is_none() && readers.by_token(b"").is_none());
    }

    #[test]
    fn a_namespace_is_what_the_policy_says_and_not_what_the_node_tells() {
        let scope = Scope {
            namespaces: ["shop".to_owned()].into(),
            pods: BTreeSet::new(),
        };
        let pod = |name: Option<&str>, stated: Option<&str>| -> PodVerdict {
            serde_json::from_value(serde_json::json!({
                "uid": "11111111-0000-4000-8000-000000000001", "name": name, "told": stated,
                "state": "trusted",
                "entries": 0, "executions": 0, "suspect": 0, "provenance": "observed", "learned": false,
                "files": [],
                "findings": [],
            }))
            .unwrap()
        };
        assert!(scope.holds(&pod(Some("shop/web"), None)));
        for (name, stated) in [
            (None, Some("shop/web")),
            (Some("bank/web"), Some("shop/web")),
            (Some("shopping/web"), None),
            (Some("shop"), None),
            (None, None),
        ] {
            assert!(!scope.holds(&pod(name, stated)), "{name:?} {stated:?}");
        }
    }

    #[test]
    fn a_file_that_leaves_doubt_is_refused_with_the_readers_name() {
        let digest = hex::encode(Sha256::digest("t"));
        let operator = hex::encode(Sha256::digest("the operator's own token"));
        for (text, says) in [
            (
                format!("readers:\n- name: a\n  token-sha256: {digest}\n"),
                "sees nothing",
            ),
            (
                format!(
                    "readers:\n- name: a\n  token-sha256: {digest}\n  everything: true\n  namespaces: [x]\n"
                ),
                "not both",
            ),
            (
                "readers:\n- name: a\n  token-sha256: abc\n  everything: true\n".to_owned(),
                "64 hexadecimal",
            ),
            (
                format!("readers:\n- name: a\n  token-sha256: {operator}\n  namespaces: [x]\n"),
                "another reader",
            ),
            (
                format!("readers:\n- name: a\n  token-sha256: {digest}\n  namespace: [x]\n"),
                "unknown field",
            ),
            (
                format!("readers:\n- name: a\n  token-sha256: {digest}\n  pods: [x]\n"),
                "readers f",
            ),
        ] {
            let error = add(&text).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
