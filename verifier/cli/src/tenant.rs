//! `cgpath verify --tenant`: judges a tenant's bundle by the tenant's own policy. Reads files, asks the
//! library, prints.
//!
//! Not here: any rule (see `cgpath_appraisal::tenant`).

use crate::input::{self, file_or_stdin, replace};
use crate::output::{Failure, Output, Status, escape};
use cgpath_appraisal::{
    ExpectedNonce, PinnedKey, TdContext, Unusable,
    tenant::{Outcome, TenantContext, TenantState},
};
use cgpath_evidence::{PodUid, TenantBundle, bundle::MAX_BUNDLE_LEN};
use cgpath_policy::Policy;
use cgpath_service::files::read_bounded;
use cgpath_service::policy_files::{self, PolicyFileError};
use p256::{ecdsa::VerifyingKey, pkcs8::DecodePublicKey};
use std::io;
use std::path::{Path, PathBuf};

/// A key or a state file is never longer than this many bytes.
const MAX_SMALL_FILE: u64 = 16 * 1024 * 1024;

/// What `cgpath verify --tenant` was given.
pub struct Tenant<'a> {
    /// The bundle.
    pub bundle: &'a Path,
    /// The tenant's policy.
    pub policy: &'a Path,
    /// The node's key.
    pub key: PinnedKey,
    /// What a trust domain's quote is verified with.
    pub td: TdContext,
    /// The nonce of the request.
    pub nonce: ExpectedNonce,
    /// Keys of full verifiers.
    pub verifiers: &'a [PathBuf],
    /// What is remembered.
    pub state: Option<&'a Path>,
}

impl Tenant<'_> {
    /// Runs it.
    ///
    /// # Errors
    /// Input that cannot be read, or does not fit together.
    pub fn run(self, out: &mut Output) -> Result<Status, Failure> {
        let (pod, policy) = load(self.policy)?;
        let bundle = read(self.bundle)?;
        let keys = self.verifiers.iter().map(|path| public_key(path));
        let context = TenantContext {
            key: self.key,
            td: self.td,
            nonce: self.nonce,
            now: input::now()?,
            verifiers: keys.collect::<Result<_, _>>()?,
            previous: self.state.map(read_state).transpose()?.flatten(),
        };
        let verdict =
            cgpath_appraisal::tenant::verify(&bundle, pod, &policy, &context).map_err(|e: Unusable| {
                Failure::new("unusable", escape(e.to_string().as_bytes())).hint(e.hint())
            })?;
        if let (Some(path), Some(state)) = (self.state, &verdict.state) {
            let mut bytes =
                serde_json::to_vec_pretty(state).map_err(|e| Failure::new("encoding", e.to_string()))?;
            bytes.push(b'\n');
            replace(path, &bytes)?;
        }
        if out.json() {
            out.object(&verdict)?;
        } else {
            out.verdict(&verdict.to_string())?;
        }
        Ok(match verdict.outcome {
            Outcome::Trusted => Status::Clean,
            Outcome::PartitionOnly => Status::PartitionOnly,
            Outcome::Untrusted | Outcome::Absent => Status::Dirty,
        })
    }
}

/// A tenant's own policy, with its reference files.
///
/// # Errors
/// What cannot be read, or is none.
pub fn load(path: &Path) -> Result<(PodUid, Policy), Failure> {
    policy_files::load_tenant(path).map_err(|error| match error {
        PolicyFileError::Policy(cgpath_policy::Error::Syntax { .. }) => Failure::from(error).hint(
            "a tenant's policy is another one than a node's: `cgpath policy schema tenant`, and \
                docs/tenants.md shows one",
        ),
        error => error.into(),
    })
}

fn name(path: &Path) -> String {
    escape(path.as_os_str().as_encoded_bytes())
}

fn read(path: &Path) -> Result<TenantBundle, Failure> {
    let bytes = file_or_stdin(path, MAX_BUNDLE_LEN as u64).map_err(|e| Failure::input(path, &e))?;
    TenantBundle::from_cbor(&bytes)
        .map_err(|e| Failure::decode(&name(path), &e).hint("give the file as `cgpath prove` wrote it"))
}

/// A P-256 public key in PEM.
///
/// # Errors
/// A file that holds none.
pub fn public_key(path: &Path) -> Result<VerifyingKey, Failure> {
    let bytes = read_bounded(path, MAX_SMALL_FILE).map_err(|e| Failure::file(path, &e))?;
    let text = core::str::from_utf8(&bytes).unwrap_or_default();
    VerifyingKey::from_public_key_pem(text).map_err(|e| {
        Failure::new(
            "key",
            format!("{}: not a P-256 public key in PEM: {e}", name(path)),
        )
        .hint(
            "`cgpath serve --init` wrote it as verdict.pub.pem; `openssl pkey -pubout` makes it of a \
                private key",
        )
    })
}

fn read_state(path: &Path) -> Result<Option<TenantState>, Failure> {
    let bytes = match read_bounded(path, MAX_SMALL_FILE) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::file(path, &error)),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|e| {
        Failure::new("state", format!("{}: {e}", name(path)))
            .hint("remove the file to begin anew, with a bundle made with --from 0")
    })
}
