//! `cgpath report`: one HTML page about a node from its evidence and verdicts.
//!
//! Three ways: evidence files are judged here; or verdicts that were made before come with them; or both come
//! from the verifier's store. Not here: what stands on the page (see `cgpath_report`).

use crate::identify;
use crate::input;
use crate::kept;
use crate::output::{Failure, Output, Status, escape};
use cgpath_appraisal::{Context, ExpectedNonce, NodeState, Verdict, appraise};
use cgpath_evidence::Evidence;
use cgpath_policy::Policy;
use cgpath_report::{AllIdentified, ReportOptions, Round};
use cgpath_service::files::read_bounded;
use cgpath_service::policy_files;
use cgpath_service::store::{Store, StoreError};
use clap::Args;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// Verdicts read from a store, the last ones.
const MAX_ROUNDS: u32 = 2_000;
/// A file of verdicts is never longer than this many bytes.
const MAX_VERDICTS: u64 = 256 * 1024 * 1024;

/// Makes one self-contained HTML page about a node: verdicts over time and what they rest on
#[derive(Args)]
#[command(after_help = "Examples:
  cgpath report rounds/ --policy node.yaml --ak ak.pub --dangerous-no-nonce -o report.html
  cgpath report rounds/ --verdicts history.json -o report.html
  cgpath report --store /var/lib/cgpath/store --node worker-1 -o report.html

A folder gives its *.cbor files in the order of their names; each file is one round, of the time when it was written.
Verdicts: what `cgpath verify --json` or the service's history answered, one after the other or in one array.")]
pub struct Report {
    /// Evidence: files, or folders of them
    #[arg(required_unless_present = "node", conflicts_with_all = ["store", "node"])]
    evidence: Vec<PathBuf>,
    /// The node's policy, to appraise the evidence by
    #[arg(long, value_name = "FILE", requires = "ak")]
    policy: Option<PathBuf>,
    /// The node's attestation key: a TPMT_PUBLIC, TPM2B_PUBLIC or PEM file, or the key's fingerprint
    #[arg(long, value_name = "FILE|FINGERPRINT", requires = "policy")]
    ak: Option<String>,
    /// The nonce of each round, in order
    #[arg(
        long = "nonce",
        value_name = "HEX",
        requires = "policy",
        conflicts_with = "dangerous_no_nonce"
    )]
    nonces: Vec<String>,
    /// Does not ask whether the evidence was made for a request
    #[arg(long, requires = "policy")]
    dangerous_no_nonce: bool,
    /// Verdicts that were made before, instead of an appraisal
    #[arg(long, value_name = "FILE", conflicts_with_all = ["policy", "store", "node"])]
    verdicts: Option<PathBuf>,
    #[command(flatten)]
    of: kept::OfStore,
    /// The folder of the index of images (`cgpath refs`): the page then says which image each container
    /// really runs, as `cgpath identify` does
    #[arg(long, value_name = "DIR")]
    refs: Option<PathBuf>,
    /// Where the page goes; `-` for standard output
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Records shown of each partition; those that a finding names are shown in any case
    #[arg(long, value_name = "N", default_value_t = 500)]
    records: usize,
    /// Rounds shown: those in which something changed, and the last ones
    #[arg(long, value_name = "N", default_value_t = 60)]
    rounds: usize,
}

/// One round, as it is collected: evidence only where no later one of the same boot has it.
struct Collected {
    evidence: Option<Evidence>,
    verdict: Verdict,
    time: u64,
}

/// Rounds in the order of time, with as little evidence in memory as the page needs.
#[derive(Default)]
struct Rounds(Vec<Collected>);

impl Rounds {
    fn push(&mut self, evidence: Option<Evidence>, verdict: Verdict, time: u64) {
        if evidence.is_some()
            && let Some(last) = self.0.last_mut()
            && last.verdict.node.boot_id == verdict.node.boot_id
        {
            last.evidence = None;
        }
        self.0.push(Collected {
            evidence,
            verdict,
            time,
        });
    }
}

impl Report {
    /// Runs the subcommand.
    ///
    /// # Errors
    /// Input that cannot be read or does not fit together.
    pub fn run(mut self, out: &mut Output) -> Result<Status, Failure> {
        let refs = self.refs.take();
        let rounds = match (self.of.named(), &self.verdicts, &self.policy) {
            (Some((dir, node)), ..) => from_store(&Store::open(&dir)?, node)?,
            (None, Some(verdicts), _) => self.with_verdicts(verdicts)?,
            (None, None, Some(policy)) => self.appraised(policy)?,
            (None, None, None) => {
                return Err(
                    Failure::new("usage", "nothing says what to conclude from the evidence").hint(
                        "--policy FILE --ak FILE|FINGERPRINT appraises it; --verdicts FILE takes what was \
                        concluded before",
                    ),
                );
            }
        };
        let options = ReportOptions {
            records: self.records,
            rounds: self.rounds.max(1),
            ..ReportOptions::new(input::now()?)
        };
        let shown: Vec<Round<'_>> = rounds
            .0
            .iter()
            .map(|r| Round {
                evidence: r.evidence.as_ref(),
                verdict: &r.verdict,
                time: r.time,
            })
            .collect();
        let identified = match refs {
            Some(refs) => {
                let policy = self.policy_of_pods()?;
                let evidence = rounds.0.iter().filter_map(|round| round.evidence.as_ref());
                identify::all_pods(evidence, policy.as_ref(), refs)?
            }
            None => AllIdentified::new(),
        };
        let page = cgpath_report::render_identified(&shown, &identified, &options);
        if self.output == Path::new("-") {
            out.raw(page.as_bytes())?;
            return Ok(Status::Clean);
        }
        input::replace(&self.output, page.as_bytes())?;
        if out.json() {
            #[derive(Serialize)]
            struct Written<'a> {
                report: &'a Path,
                rounds: usize,
                bytes: usize,
            }
            out.object(&Written {
                report: &self.output,
                rounds: shown.len(),
                bytes: page.len(),
            })?;
        } else {
            let path = escape(self.output.as_os_str().as_encoded_bytes());
            let s = if shown.len() == 1 { "" } else { "s" };
            out.line(format_args!(
                "wrote {path}: {} round{s}, {} KiB",
                shown.len(),
                page.len().div_ceil(1024)
            ))?;
        }
        Ok(Status::Clean)
    }

    /// What says what is the container runtime's own: the policy that is given, or the one that is enrolled.
    fn policy_of_pods(&self) -> Result<Option<Policy>, Failure> {
        let path = match self.of.named() {
            Some((dir, node)) => Some(Store::open(&dir)?.node(node)?.policy),
            None => self.policy.clone(),
        };
        Ok(path.as_deref().map(policy_files::load).transpose()?)
    }

    /// The evidence files, folders opened.
    fn files(&self) -> Result<Vec<PathBuf>, Failure> {
        let mut files = Vec::new();
        for path in &self.evidence {
            let is_dir = fs::metadata(path).map_err(|e| Failure::file(path, &e))?.is_dir();
            if !is_dir {
                files.push(path.clone());
                continue;
            }
            let mut inside = Vec::new();
            for entry in fs::read_dir(path).map_err(|e| Failure::file(path, &e))? {
                let file = entry.map_err(|e| Failure::file(path, &e))?.path();
                if file.extension().is_some_and(|e| e == "cbor") {
                    inside.push(file);
                }
            }
            if inside.is_empty() {
                let shown = escape(path.as_os_str().as_encoded_bytes());
                return Err(Failure::new("io", format!("{shown}: no evidence in this folder"))
                    .hint("evidence files end in .cbor there"));
            }
            inside.sort();
            files.append(&mut inside);
        }
        Ok(files)
    }

    fn appraised(&self, policy: &Path) -> Result<Rounds, Failure> {
        let files = self.files()?;
        let nonces = self.nonces(files.len())?;
        let policy = policy_files::load(policy)?;
        let key = match &self.ak {
            Some(given) => input::attestation_key(given)?,
            None => return Err(Failure::new("usage", "--policy needs --ak FILE|FINGERPRINT")),
        };
        let mut rounds = Rounds::default();
        let mut previous: Option<NodeState> = None;
        for (path, nonce) in files.iter().zip(nonces) {
            let evidence = input::evidence(path)?;
            let time = written(path)?;
            let context = Context {
                node: policy.file.node.clone(),
                key: key.clone(),
                td: cgpath_appraisal::TdContext::default(),
                nonce,
                now: time,
                previous: previous.clone(),
            };
            let verdict = appraise(&evidence, &policy, &context)
                .map_err(|e| Failure::new("unusable", escape(e.to_string().as_bytes())).hint(e.hint()))?;
            // What was not believed leaves what is known as it was.
            if verdict.state.is_some() {
                previous.clone_from(&verdict.state);
            }
            rounds.push(Some(evidence), verdict, time);
        }
        Ok(rounds)
    }

    fn nonces(&self, files: usize) -> Result<Vec<ExpectedNonce>, Failure> {
        if self.dangerous_no_nonce {
            return Ok(vec![ExpectedNonce::DangerousNone; files]);
        }
        if self.nonces.len() != files {
            return Err(Failure::new(
                "usage",
                format!("{files} round(s) of evidence and {} nonce(s)", self.nonces.len()),
            )
            .hint(
                "--nonce HEX for each, in order; --dangerous-no-nonce does not ask how old the evidence is",
            ));
        }
        self.nonces
            .iter()
            .map(|text| {
                hex::decode(text).map(ExpectedNonce::Value).map_err(|e| {
                    Failure::new("usage", format!("--nonce: {e}"))
                        .hint("give it in hex, an even number of digits")
                })
            })
            .collect()
    }

    fn with_verdicts(&self, path: &Path) -> Result<Rounds, Failure> {
        let files = self.files()?;
        let bytes = read_bounded(path, MAX_VERDICTS).map_err(|e| Failure::file(path, &e))?;
        if bytes.len() as u64 > MAX_VERDICTS {
            return Err(Failure::new(
                "limit",
                format!("{}: longer than {MAX_VERDICTS} bytes", show(path)),
            ));
        }
        let verdicts = read_verdicts(&bytes).map_err(|e| {
            Failure::new("malformed", format!("{}: {e}", show(path)))
                .hint("verdicts as `cgpath verify --json` and the service's history write them")
        })?;
        let named = verdicts.iter().filter(|v| v.evidence.is_some()).count();
        let mut rounds = Rounds::default();
        if named == verdicts.len() && named > 0 {
            // The verdicts say which evidence they rest on.
            let mut by_hash: HashMap<String, Evidence> = HashMap::new();
            for file in &files {
                let bytes = fs::read(file).map_err(|e| Failure::file(file, &e))?;
                let hash = hex::encode(Sha256::digest(&bytes));
                let evidence = Evidence::from_cbor(&bytes).map_err(|e| Failure::decode(&show(file), &e))?;
                if !verdicts.iter().any(|v| v.evidence.as_ref() == Some(&hash)) {
                    return Err(Failure::new(
                        "usage",
                        format!("{}: no verdict rests on this evidence", show(file)),
                    )
                    .hint("leave it out, or appraise it with --policy and --ak"));
                }
                by_hash.insert(hash, evidence);
            }
            for given in verdicts {
                let evidence = given.evidence.and_then(|hash| by_hash.remove(&hash));
                let time = given.verdict.time;
                rounds.push(evidence, given.verdict, time);
            }
        } else if named == 0 && verdicts.len() == files.len() {
            for (file, given) in files.iter().zip(verdicts) {
                let evidence = input::evidence(file)?;
                if evidence.boot_id != given.verdict.node.boot_id {
                    return Err(Failure::new(
                        "usage",
                        format!("{}: its verdict is about another boot", show(file)),
                    )
                    .hint("evidence and verdicts must be in the same order"));
                }
                let time = given.verdict.time;
                rounds.push(Some(evidence), given.verdict, time);
            }
        } else {
            return Err(Failure::new(
                "usage",
                format!(
                    "{} round(s) of evidence and {} verdict(s)",
                    files.len(),
                    verdicts.len()
                ),
            )
            .hint(
                "one verdict for each round in the same order, or the service's history, which names its \
                 evidence",
            ));
        }
        Ok(rounds)
    }
}

fn show(path: &Path) -> String {
    escape(path.as_os_str().as_encoded_bytes())
}

/// When a file was written, in unix seconds.
fn written(path: &Path) -> Result<u64, Failure> {
    if path == Path::new("-") {
        return input::now();
    }
    let modified = fs::metadata(path)
        .and_then(|m| m.modified())
        .map_err(|e| Failure::file(path, &e))?;
    Ok(modified.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()))
}

/// A verdict from a file and, where the service wrote it, the SHA-256 of its evidence.
struct Given {
    verdict: Verdict,
    evidence: Option<String>,
}

/// The forms in which verdicts come.
#[derive(Deserialize)]
#[serde(untagged)]
enum Form {
    /// `GET …/history`: the newest first.
    History { verdicts: Vec<Kept> },
    /// `GET …/verdict`.
    Kept(Box<Kept>),
    /// `cgpath verify --json`, the answer to evidence.
    Plain(Box<Verdict>),
    /// Several of them.
    Many(Vec<Form>),
}

/// What of `serve::store::StoredVerdict` is needed here.
#[derive(Deserialize)]
struct Kept {
    evidence: String,
    verdict: Verdict,
}

/// Verdicts in the order of time.
fn read_verdicts(bytes: &[u8]) -> Result<Vec<Given>, String> {
    fn flatten(form: Form, into: &mut Vec<Given>) {
        let kept = |k: Kept| Given {
            verdict: k.verdict,
            evidence: Some(k.evidence),
        };
        match form {
            Form::History { verdicts } => into.extend(verdicts.into_iter().rev().map(kept)),
            Form::Kept(one) => into.push(kept(*one)),
            Form::Plain(verdict) => into.push(Given {
                verdict: *verdict,
                evidence: None,
            }),
            Form::Many(forms) => forms.into_iter().for_each(|form| flatten(form, into)),
        }
    }
    let mut found = Vec::new();
    for form in serde_json::Deserializer::from_slice(bytes).into_iter::<Form>() {
        flatten(form.map_err(|e| e.to_string())?, &mut found);
    }
    if found.is_empty() {
        return Err("no verdicts in it".to_owned());
    }
    Ok(found)
}

fn from_store(store: &Store, node: &str) -> Result<Rounds, Failure> {
    store.node(node)?;
    let mut kept = store.history(node, MAX_ROUNDS, None)?;
    kept.reverse();
    if kept.is_empty() {
        return Err(kept::silent(node));
    }
    let parse = |text: &str, id: i64| {
        serde_json::from_str::<Verdict>(text).map_err(|e| Failure::new("store", format!("verdict {id}: {e}")))
    };
    // The last evidence of each boot has all records of that boot: no other needs to be read.
    let mut needed: HashMap<[u8; 16], i64> = HashMap::new();
    let mut verdicts = Vec::with_capacity(kept.len());
    for stored in kept {
        let verdict = parse(stored.verdict.get(), stored.id)?;
        if stored.evidence_kept {
            needed.insert(verdict.node.boot_id, stored.id);
        }
        verdicts.push((stored.id, stored.evidence, stored.time, verdict));
    }
    let mut rounds = Rounds::default();
    for (id, hash, time, verdict) in verdicts {
        let evidence = if needed.get(&verdict.node.boot_id) == Some(&id) {
            match store.evidence(&hash) {
                Ok(bytes) => Some(
                    Evidence::from_cbor(&bytes)
                        .map_err(|e| Failure::decode(&show(&store.evidence_path(&hash)), &e))?,
                ),
                // The service may have forgotten it since the list was read.
                Err(StoreError::Io { error, .. }) if error.kind() == std::io::ErrorKind::NotFound => None,
                Err(error) => return Err(error.into()),
            }
        } else {
            None
        };
        rounds.push(evidence, verdict, time);
    }
    Ok(rounds)
}
