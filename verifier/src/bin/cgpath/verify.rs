//! `cgpath verify`: judges evidence in a file by a policy.
//!
//! Reads files, asks the library, prints. Not here: any rule (see the `verifier` library).

use crate::input::{self, bounded, replace};
use crate::output::{Failure, Output, Status, escape};
use crate::policy;
use p256::{SecretKey, ecdsa::SigningKey, pkcs8::DecodePrivateKey};
use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};
use verifier::{Context, ExpectedNonce, NodeState, PinnedKey, Unusable, appraise};

/// A key or a state file is never longer than this many bytes.
const MAX_SMALL_FILE: u64 = 16 * 1024 * 1024;

/// Judges evidence in a file by a policy: one row for the node and one for each pod.
#[derive(clap::Args)]
#[command(
    after_help = "Exit codes: 0 the node and all pods are trusted, 1 something is not, 2 unusable input.\n\nExample:\n  \
                  cgpath verify evidence.cbor --policy node.yaml --ak 000b3f… --nonce 6f1d…"
)]
pub struct Verify {
    /// The evidence, as cgpathd writes it; `-` reads standard input
    evidence: PathBuf,
    /// The node's policy
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// The node's attestation key: a TPMT_PUBLIC or TPM2B_PUBLIC file, or the key's fingerprint
    #[arg(
        long,
        value_name = "FILE|FINGERPRINT",
        required_unless_present = "dangerous_tofu",
        conflicts_with = "dangerous_tofu"
    )]
    ak: Option<String>,
    /// Accepts whatever key signed, but one that --state remembers stays pinned
    #[arg(long)]
    dangerous_tofu: bool,
    /// The nonce that the evidence was asked for with
    #[arg(
        long,
        value_name = "HEX",
        required_unless_present = "dangerous_no_nonce",
        conflicts_with = "dangerous_no_nonce"
    )]
    nonce: Option<String>,
    /// Does not ask how old the evidence is
    #[arg(long)]
    dangerous_no_nonce: bool,
    /// Remembers the node from one run to the next, so that it cannot go back; made where it is not there
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Signs the verdict as an attestation result (EAR, a JWT) with this P-256 key in PEM
    #[arg(long, value_name = "KEY", requires = "output")]
    ear: Option<PathBuf>,
    /// Where the attestation result goes
    #[arg(short, long, value_name = "FILE", requires = "ear")]
    output: Option<PathBuf>,
}

impl Verify {
    /// Runs the subcommand.
    ///
    /// # Errors
    /// Input that cannot be read, or does not fit together.
    pub fn run(self, out: &mut Output) -> Result<Status, Failure> {
        let policy = policy::load(&self.policy)?;
        let evidence = input::evidence(&self.evidence)?;
        let nonce = self.nonce()?;
        let previous = self.state.as_deref().map(read_state).transpose()?.flatten();
        // What can fail is read before anything is written.
        let ear_key = self.ear.as_deref().map(signing_key).transpose()?;
        let context = Context {
            node: policy.file.node.clone(),
            key: self
                .ak
                .as_deref()
                .map_or(Ok(PinnedKey::DangerousTofu), input::attestation_key)?,
            nonce: nonce
                .clone()
                .map_or(ExpectedNonce::DangerousNone, ExpectedNonce::Value),
            now: input::now()?,
            previous,
        };
        let verdict = appraise(&evidence, &policy, &context).map_err(|e: Unusable| {
            Failure::new("unusable", escape(e.to_string().as_bytes())).hint(e.hint())
        })?;

        if let (Some(path), Some(state)) = (&self.state, &verdict.state) {
            write_state(path, state)?;
        }
        if let (Some(key), Some(path)) = (&ear_key, &self.output) {
            let token = verifier::ear::token(&verdict, nonce.as_deref(), key)
                .map_err(|e| Failure::new("encoding", e.to_string()))?;
            replace(path, token.as_bytes())?;
        }
        if out.json() {
            out.object(&verdict)?;
        } else {
            out.raw(verdict.to_string().as_bytes())?;
        }
        Ok(Status::clean_if(verdict.trusted))
    }

    fn nonce(&self) -> Result<Option<Vec<u8>>, Failure> {
        let Some(text) = &self.nonce else { return Ok(None) };
        let nonce = hex::decode(text).map_err(|e| {
            Failure::new("usage", format!("--nonce: {e}")).hint("give it in hex, an even number of digits")
        })?;
        Ok(Some(nonce))
    }
}

fn read_state(path: &Path) -> Result<Option<NodeState>, Failure> {
    let bytes = match File::open(path).and_then(|file| bounded(file, MAX_SMALL_FILE)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::file(path, &error)),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|e| {
        Failure::new(
            "state",
            format!("{}: {e}", escape(path.as_os_str().as_encoded_bytes())),
        )
        .hint("remove the file only if the node was enrolled anew: it is what keeps a node from going back")
    })
}

fn write_state(path: &Path, state: &NodeState) -> Result<(), Failure> {
    let mut bytes = serde_json::to_vec_pretty(state).map_err(|e| Failure::new("encoding", e.to_string()))?;
    bytes.push(b'\n');
    replace(path, &bytes)
}

fn signing_key(path: &Path) -> Result<SigningKey, Failure> {
    let bytes = File::open(path)
        .and_then(|file| bounded(file, MAX_SMALL_FILE))
        .map_err(|e| Failure::file(path, &e))?;
    let text = core::str::from_utf8(&bytes).unwrap_or_default();
    let key = SecretKey::from_pkcs8_pem(text)
        .ok()
        .or_else(|| SecretKey::from_sec1_pem(text).ok());
    key.map(SigningKey::from).ok_or_else(|| {
        Failure::new(
            "key",
            format!(
                "{}: not a P-256 private key in PEM",
                escape(path.as_os_str().as_encoded_bytes())
            ),
        )
        .hint("make one with `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`")
    })
}
