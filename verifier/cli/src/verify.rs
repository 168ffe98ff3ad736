//! `cgpath verify`: judges evidence in a file by a policy.
//!
//! Reads files, asks the library, prints. Not here: any rule (see `cgpath-appraisal`).

use crate::input::{self, replace};
use crate::kept::Source;
use crate::output::{Failure, Output, Status, escape};
use crate::tenant::Tenant;
use cgpath_appraisal::{
    Context, ExpectedNonce, NodeState, PinnedKey, TdContext, Unusable, appraise, ear::LIFETIME, ear::Scope,
    ear::Terms,
};
use cgpath_evidence::PodUid;
use cgpath_service::files::read_bounded;
use cgpath_service::pinned::{self, PinError};
use cgpath_service::policy_files;
use std::io;
use std::path::{Path, PathBuf};

/// A key or a state file is never longer than this many bytes.
const MAX_SMALL_FILE: u64 = 16 * 1024 * 1024;

/// Appraises evidence in a file by a policy: one row for the node and one for each pod.
#[derive(clap::Args)]
#[command(
    after_help = "Exit codes: 0 the node and all pods are trusted, 1 something is not, 2 unusable input, 3 \
                  (--tenant) partition only: nobody vouches for what was sealed.\n\n\
                  Examples:\n  \
                  cgpath verify evidence.cbor --policy node.yaml --ak 000b3f… --nonce 6f1d…\n  \
                  cgpath verify evidence.cbor --policy td.yaml --no-tpm --node-key 9c1e… --collateral \
                  b0c06f000000.json --nonce 6f1d…\n  \
                  cgpath verify --store /var/lib/cgpath/store --node worker-1 --policy new.yaml\n  \
                  cgpath verify --tenant web.tenant --policy web.yaml --ak 000b3f… --nonce 6f1d… --verifier \
                  verdict.pub.pem\n  \
                  cgpath verify --tenant web.tenant --policy web.yaml --no-tpm --node-key 9c1e… --collateral \
                  b0c06f000000.json --nonce 6f1d… --verifier verdict.pub.pem"
)]
pub struct Verify {
    #[command(flatten)]
    source: Source,
    /// Judges a tenant's bundle instead, as `cgpath prove` writes it, by the tenant's own policy
    #[arg(long, value_name = "BUNDLE", conflicts_with_all = ["ear", "evidence", "store", "node"])]
    tenant: Option<PathBuf>,
    /// A full verifier whose signed result is believed: its P-256 public key in PEM; may be given again
    #[arg(long = "verifier", value_name = "FILE", requires = "tenant")]
    verifiers: Vec<PathBuf>,
    /// The node's policy, or with --tenant the pod's; with --node the one that is enrolled, unless another
    /// is named
    #[arg(long, value_name = "FILE", required_unless_present = "node")]
    policy: Option<PathBuf>,
    /// The node's attestation key: a TPMT_PUBLIC, TPM2B_PUBLIC or PEM file, or the key's fingerprint; with
    /// --node the one that is enrolled
    #[arg(
        long,
        value_name = "FILE|FINGERPRINT",
        required_unless_present_any = ["dangerous_tofu", "no_tpm", "node"],
        conflicts_with = "dangerous_tofu"
    )]
    ak: Option<String>,
    /// The node has no TPM: a register of its trust domain is the anchor
    #[arg(long, conflicts_with_all = ["ak", "dangerous_tofu", "store", "node"])]
    no_tpm: bool,
    /// The key of a node in a trust domain: SHA-256 of its SEC1 compressed point
    #[arg(long, value_name = "HEX", conflicts_with = "dangerous_tofu")]
    node_key: Option<String>,
    /// Collateral for quotes of trust domains: JSON as PCCS clients write it; may be given again
    #[arg(long, value_name = "FILE")]
    collateral: Vec<PathBuf>,
    /// Accepts whatever key signed, but one that --state remembers stays pinned
    #[arg(long)]
    dangerous_tofu: bool,
    /// The nonce that the evidence was asked for with; with --node the one that the service gave
    #[arg(
        long,
        value_name = "HEX",
        required_unless_present_any = ["dangerous_no_nonce", "node"],
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
    /// The attestation result speaks of the node and this pod alone, so that it can go into the pod's bundle
    #[arg(long, value_name = "UID", requires = "ear", value_parser = crate::prove::uid)]
    ear_pod: Option<PodUid>,
    /// Whom the attestation result is for (`aud`): a name by which that party knows itself [default:
    /// urn:ima-cgpath:anyone, or with --ear-pod urn:ima-cgpath:pod:UID]
    #[arg(long, value_name = "TEXT", requires = "ear")]
    ear_audience: Option<String>,
    /// How long the attestation result counts
    #[arg(long, value_name = "SECONDS", requires = "ear", default_value_t = LIFETIME,
        value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    ear_lifetime: u64,
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
        if self.tenant.is_none() {
            self.source.check()?;
        }
        self.output.as_deref().map_or(Ok(()), input::check_output)?;
        let kept = self.source.kept()?;
        let nonce = match &kept {
            Some(kept) if self.nonce.is_none() && !self.dangerous_no_nonce => {
                Some(kept.verdict.nonce.clone())
            }
            _ => self.nonce()?,
        };
        let expected = nonce
            .clone()
            .map_or(ExpectedNonce::DangerousNone, ExpectedNonce::Value);
        let bad = |e: PinError| Failure::new("key", e.to_string());
        let key = match (&self.ak, &kept) {
            _ if self.no_tpm => PinnedKey::NoTpm,
            _ if self.dangerous_tofu => PinnedKey::DangerousTofu,
            (Some(key), _) => input::attestation_key(key)?,
            (None, Some(kept)) => pinned::key(&kept.node).map_err(bad)?,
            (None, None) => PinnedKey::DangerousTofu,
        };
        let mut td = match &kept {
            Some(kept) => pinned::td(&kept.node, &self.source.collateral()).map_err(bad)?,
            None => TdContext::default(),
        };
        td.collateral.extend(input::collateral(&self.collateral)?);
        if let Some(key) = &self.node_key {
            td.node_key = Some(input::node_key(key)?);
        }
        let enrolled = kept.as_ref().map(|kept| kept.node.policy.as_path());
        let policy = self.policy.as_deref().or(enrolled);
        let policy =
            policy.ok_or_else(|| Failure::new("usage", "no policy is named").hint("--policy FILE"))?;
        if let Some(bundle) = &self.tenant {
            let tenant = Tenant {
                bundle,
                policy,
                key,
                td,
                nonce: expected,
                verifiers: &self.verifiers,
                state: self.state.as_deref(),
            };
            return tenant.run(out);
        }
        let policy = policy_files::load(policy)?;
        let evidence = kept.map_or_else(|| self.source.evidence(), |kept| Ok(kept.evidence))?;
        let previous = self.state.as_deref().map(read_state).transpose()?.flatten();
        // What can fail is read before anything is written.
        let ear_key = self.ear.as_deref().map(input::signing_key).transpose()?;
        let context = Context {
            node: policy.file.node.clone(),
            key,
            td,
            nonce: expected,
            now: input::now()?,
            previous,
        };
        let verdict = appraise(&evidence, &policy, &context).map_err(|e: Unusable| {
            Failure::new("unusable", escape(e.to_string().as_bytes())).hint(e.hint())
        })?;

        if let (Some(path), Some(state)) = (&self.state, verdict.to_store()) {
            write_state(path, state)?;
        }
        if let (Some(key), Some(path)) = (&ear_key, &self.output) {
            let scope = self.ear_pod.map_or(Scope::All, Scope::Pod);
            let mut terms = Terms::new(scope, nonce.as_deref());
            terms.lifetime = self.ear_lifetime;
            if let Some(audience) = &self.ear_audience {
                terms.audience.clone_from(audience);
            }
            let token = cgpath_appraisal::ear::issue(&verdict, &terms, key)
                .map_err(|e| Failure::new("encoding", e.to_string()))?;
            replace(path, token.as_bytes())?;
        }
        if out.json() {
            out.object(&verdict)?;
        } else {
            out.verdict(&verdict.to_string())?;
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
    let bytes = match read_bounded(path, MAX_SMALL_FILE) {
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
