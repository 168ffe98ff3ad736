//! `cgpath verify`: judges evidence in a file by a policy.
//!
//! Reads files, asks the library, prints. Not here: any rule (see the `verifier` library).

use crate::output::{Failure, Output, Status};
use crate::policy;
use evidence::{Evidence, bundle::MAX_EVIDENCE_LEN};
use p256::{SecretKey, ecdsa::SigningKey, pkcs8::DecodePrivateKey};
use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};
use verifier::{Context, ExpectedNonce, NodeState, PinnedKey, Unusable, appraise, text::escape};

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
        let evidence = self.evidence()?;
        let nonce = self.nonce()?;
        let previous = self.state.as_deref().map(read_state).transpose()?.flatten();
        // What can fail is read before anything is written.
        let ear_key = self.ear.as_deref().map(signing_key).transpose()?;
        let context = Context {
            node: policy.file.node.clone(),
            key: self.key()?,
            nonce: nonce
                .clone()
                .map_or(ExpectedNonce::DangerousNone, ExpectedNonce::Value),
            now: now()?,
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

    fn evidence(&self) -> Result<Evidence, Failure> {
        let source = escape(self.evidence.as_os_str().as_encoded_bytes());
        let bytes = if self.evidence == Path::new("-") {
            bounded(io::stdin().lock(), MAX_EVIDENCE_LEN as u64)
        } else {
            File::open(&self.evidence).and_then(|file| bounded(file, MAX_EVIDENCE_LEN as u64))
        };
        let bytes = bytes.map_err(|e| Failure::file(&self.evidence, &e))?;
        Evidence::from_cbor(&bytes).map_err(|e| {
            Failure::decode(&source, &e)
                .hint("give the file as `cgpathd once -o FILE` or `cgpath serve` wrote it")
        })
    }

    fn nonce(&self) -> Result<Option<Vec<u8>>, Failure> {
        let Some(text) = &self.nonce else { return Ok(None) };
        let nonce = hex::decode(text).map_err(|e| {
            Failure::new("usage", format!("--nonce: {e}")).hint("give it in hex, an even number of digits")
        })?;
        Ok(Some(nonce))
    }

    fn key(&self) -> Result<PinnedKey, Failure> {
        let Some(given) = &self.ak else {
            return Ok(PinnedKey::DangerousTofu);
        };
        if given.len() == 68 && given.bytes().all(|b| b.is_ascii_hexdigit()) {
            return PinnedKey::from_fingerprint(given).map_err(|e| Failure::new("key", format!("--ak: {e}")));
        }
        let path = Path::new(given);
        let bytes = File::open(path)
            .and_then(|file| bounded(file, MAX_SMALL_FILE))
            .map_err(|e| {
                Failure::file(path, &e).hint(
                    "--ak takes a public key's file, or its fingerprint: 68 hex digits that begin with 000b",
                )
            })?;
        PinnedKey::from_public(&bytes).map_err(|e| {
            Failure::new("key", format!("{}: {e}", escape(given.as_bytes())))
                .hint("`cgpathd once` writes the key beside the evidence; `tpm2_readpublic -o` writes it too")
        })
    }
}

/// At most one byte more than `limit`, so that the reader of the bytes refuses them.
fn bounded(input: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    input.take(limit + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn now() -> Result<u64, Failure> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since
        .map(|d| d.as_secs())
        .map_err(|_| Failure::new("clock", "this machine's clock is before 1970").hint("set the clock"))
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

/// Writes a whole file or nothing: a torn state would lock the node out, a torn result would look like a forgery.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let written = File::create(&beside)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&beside, path));
    written.map_err(|e| Failure::file(path, &e))
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
