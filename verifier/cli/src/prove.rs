//! `cgpath prove`: makes a tenant's bundle of a node's evidence. Reads files or a store, asks the library,
//! writes a file.
//!
//! Not here: what a bundle holds (see `cgpath_evidence::bundle`), how it is judged (see `tenant`).

use crate::input::{self, replace};
use crate::kept::{self, Kept, OfStore};
use crate::output::{Failure, Output, Status, escape};
use cgpath_appraisal::{
    Verdict,
    ear::{self, AttestationResult, Scope},
};
use cgpath_evidence::{Evidence, PodUid, TenantBundle, proof::PartitionProof};
use cgpath_service::files::read_bounded;
use cgpath_service::{setup, store::Store};
use serde::Serialize;
use std::path::PathBuf;

/// An attestation result's file is never longer than this many bytes.
const MAX_EAR_FILE: u64 = 4 * 1024 * 1024;

/// Makes a tenant's bundle: one pod's records, proven complete under the node's quote, and nothing of other
/// pods.
#[derive(clap::Args)]
#[command(
    after_help = "With --store the bundle carries the store's own signed result for the same checkpoint, \
                  about the node and this pod alone; without a full verifier's result a tenant can conclude \
                  no more than `partition only`.\n\n\
                  Examples:\n  \
                  cgpath prove --pod 1f0a… --store /var/lib/cgpath/store --node worker-1 -o web.tenant\n  \
                  cgpath prove --pod 1f0a… --evidence evidence.cbor --ear web.jwt --from 80 -o \
                  web.tenant\n  \
                  cgpath verify --tenant web.tenant --policy web.yaml --ak 000b3f… --nonce 6f1d… --verifier \
                  verdict.pub.pem"
)]
pub struct Prove {
    /// The pod
    #[arg(long, value_name = "UID", value_parser = uid)]
    pod: PodUid,
    /// The node's whole evidence; `-` reads standard input
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "node",
        conflicts_with_all = ["store", "node"]
    )]
    evidence: Option<PathBuf>,
    #[command(flatten)]
    of: OfStore,
    /// A full verifier's signed result about the node and this pod:
    /// `cgpath verify --ear KEY --ear-pod UID -o FILE`
    #[arg(long, value_name = "FILE", conflicts_with_all = ["store", "node"])]
    ear: Option<PathBuf>,
    /// Entries of the list that the reader has followed already; the last `cgpath verify --tenant` printed
    /// the number
    #[arg(long, value_name = "N", default_value_t = 0)]
    from: u64,
    /// Where the bundle goes
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

/// A pod's UID as an argument.
///
/// # Errors
/// What is none.
pub fn uid(text: &str) -> Result<PodUid, String> {
    PodUid::parse(text.as_bytes())
        .ok_or_else(|| "not a pod UID: 32 hex digits, with dashes or without".to_owned())
}

/// What was made.
#[derive(Serialize)]
struct Made {
    pod: PodUid,
    present: bool,
    bytes: usize,
    records: usize,
    entries_shown: usize,
    list_from: u64,
    list_digests: usize,
    attestation_result: bool,
}

impl Prove {
    /// Runs the subcommand.
    ///
    /// # Errors
    /// Input that cannot be read, or of which no bundle can be made.
    pub fn run(self, out: &mut Output) -> Result<Status, Failure> {
        input::check_output(&self.output)?;
        let (evidence, ear) = match self.of.named() {
            Some((dir, node)) => self.of_store(&Store::open(&dir)?, node)?,
            None => self.of_files()?,
        };
        let mut bundle = TenantBundle::prove(&evidence, self.pod, self.from).map_err(|e| {
            Failure::new("unprovable", escape(e.to_string().as_bytes()))
                .hint("`cgpath verify` says what is wrong with the evidence; --from 0 begins anew")
        })?;
        bundle.ear = ear;
        let bytes = bundle.to_cbor();
        replace(&self.output, &bytes)?;
        let made = Made {
            pod: self.pod,
            present: matches!(bundle.proof, PartitionProof::Present(_)),
            bytes: bytes.len(),
            records: bundle.records.len(),
            entries_shown: bundle.entries.len(),
            list_from: bundle.from,
            list_digests: bundle.list.len(),
            attestation_result: bundle.ear.is_some(),
        };
        if out.json() {
            out.object(&made)?;
        } else {
            out.line(format_args!(
                "{}: {} bytes; {} {}, {} record(s), {} entries whole, {} digests of the list from entry {}; \
                 {}",
                escape(self.output.as_os_str().as_encoded_bytes()),
                made.bytes,
                made.pod,
                if made.present {
                    "is there"
                } else {
                    "is proven absent"
                },
                made.records,
                made.entries_shown,
                made.list_digests,
                made.list_from,
                if made.attestation_result {
                    "with a full verifier's result"
                } else {
                    "with no full verifier's result: it can show no more than `partition only`"
                },
            ))?;
        }
        Ok(Status::Clean)
    }

    fn of_files(&self) -> Result<(Evidence, Option<String>), Failure> {
        let path = self
            .evidence
            .as_deref()
            .ok_or_else(|| Failure::new("usage", "--evidence or --store is needed"))?;
        let evidence = input::evidence(path)?;
        let Some(path) = &self.ear else {
            return Ok((evidence, None));
        };
        let bytes = read_bounded(path, MAX_EAR_FILE).map_err(|e| Failure::file(path, &e))?;
        let name = escape(path.as_os_str().as_encoded_bytes());
        let token = String::from_utf8_lossy(&bytes).trim().to_owned();
        let named = AttestationResult::pods_named(&token)
            .map_err(|e| Failure::new("ear", format!("{name}: {}", escape(e.to_string().as_bytes()))))?;
        if let Some(other) = named.iter().find(|uid| **uid != self.pod) {
            return Err(
                Failure::new("ear", format!("{name}: the result also names pod {other}"))
                    .hint("give one about this pod alone: `cgpath verify … --ear KEY --ear-pod UID -o FILE`"),
            );
        }
        Ok((evidence, Some(token)))
    }

    fn of_store(&self, store: &Store, node: &str) -> Result<(Evidence, Option<String>), Failure> {
        let Kept {
            evidence,
            node,
            verdict: last,
        } = kept::of(store, node, None)?;
        let verdict: Verdict = serde_json::from_str(last.verdict.get())
            .map_err(|e| Failure::new("store", format!("verdict {}: {e}", last.id)))?;
        let key = setup::verdict_key(store.dir()).map_err(|e| Failure::new("key", e.to_string()))?;
        let mut terms = ear::Terms::new(Scope::Pod(self.pod), Some(&last.nonce));
        terms.standing = node.stopped.map(|_| ear::Standing::Stopped);
        let token =
            ear::issue(&verdict, &terms, &key).map_err(|e| Failure::new("encoding", e.to_string()))?;
        Ok((evidence, Some(token)))
    }
}
