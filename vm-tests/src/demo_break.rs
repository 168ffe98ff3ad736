//! Attacks on evidence: what a man in the middle, or a root who comes late, would do with the real evidence
//! of a run.
//!
//! Promises: each attack changes well-formed evidence into well-formed evidence, with what an attacker has
//! and nothing more; the evidence as it was is judged first, so that only what the attack itself set off
//! counts as caught.
//! Not here: how evidence is judged (the real `cgpath` does it, as a program).

use crate::demo::{self, DemoOptions};
use crate::oci::Image;
use crate::pods::{Pods, container};
use crate::scenario::{COLLECTOR_LOG, NODE, Node, Round, Site};
use anyhow::{Context as _, Result, bail, ensure};
use cgpath_appraisal::{Rule, State, Verdict};
use cgpath_evidence::tpm::{Attest, KeyKind, Public, Signature};
use cgpath_evidence::{
    Checkpoint, Digest, Evidence, FileHash, Losses, PartitionKey, Record, SealedCheckpoint,
};
use p256::ecdsa::SigningKey;
use p256::ecdsa::signature::Signer as _;
use std::collections::BTreeSet;
use vm_protocol::spec::Pod;

/// The attacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Break {
    /// The record of a tampered file states the hash of the good one.
    SwapHash,
    /// The records of a tampered file are left out.
    DropRecord,
    /// The quote is signed by another key, which is sent along.
    WrongKey,
    /// Losses are set to zero in the checkpoints, which another key signs.
    HideLoss,
    /// Earlier evidence answers a new nonce.
    OldNonce,
}

impl Break {
    /// All of them.
    pub const ALL: [Break; 5] = [
        Break::SwapHash,
        Break::DropRecord,
        Break::WrongKey,
        Break::HideLoss,
        Break::OldNonce,
    ];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Break::SwapHash => "swap-hash",
            Break::DropRecord => "drop-record",
            Break::WrongKey => "wrong-key",
            Break::HideLoss => "hide-loss",
            Break::OldNonce => "old-nonce",
        }
    }
}

impl std::str::FromStr for Break {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Break> {
        let found = Break::ALL.into_iter().find(|b| b.name() == text);
        found.with_context(|| {
            format!(
                "no attack `{text}`; there are {}",
                Break::ALL.map(Break::name).join(", ")
            )
        })
    }
}

/// What came of an attack.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Caught {
    /// The attack's name.
    pub attack: &'static str,
    /// What was done to the evidence.
    pub done: String,
    /// The rules that failed for the altered evidence and had not failed before; empty where nobody noticed.
    pub rules: Vec<String>,
    /// What the verifier said of it that it had not said before.
    pub said: Vec<String>,
}

/// What one call of `cgpath verify` gave.
struct Appraised {
    /// All findings that fail, with rule, subject and text.
    failures: BTreeSet<(Rule, String, String)>,
    /// The node's state.
    node: State,
}

/// Runs a node up to a tampered pod and attacks its evidence.
///
/// # Errors
/// When something does not come up, or the evidence is not what the attack needs. An attack that is not
/// caught is no error: see [`Caught::rules`].
pub fn run(options: &DemoOptions, attack: Break) -> Result<Caught> {
    demo::prepare_output(&options.out)?;
    let images = demo::Images::make()?;
    let mut plan = demo::plan(&images, options);
    if attack == Break::HideLoss {
        // So small that a burst does not fit while nobody reads.
        plan.settings.push("bpf.ring_bytes=65536".to_owned());
    }
    let node = Node::boot(plan, &options.out.join("site"))?;
    let done = tell(&node, &images, attack, options);
    demo::keep_logs(&node, &options.out);
    let caught = done?;
    if let Err(error) = node.vm.power_off() {
        eprintln!("  the guest did not power off in order: {error:#}");
    }
    Ok(caught)
}

fn tell(node: &Node, images: &demo::Images, attack: Break, options: &DemoOptions) -> Result<Caught> {
    let say = |text: &str| {
        if !options.quiet {
            println!("{text}");
        }
    };
    let (collector, _) = node.start_collector()?;
    let (pods, image) = (
        Pods::start(&node.vm, node.plan.runtime, &images.list())?,
        images.payroll(),
    );
    let mut spec = Pod::burstable("d", &demo::uid("D"));
    spec.containers.push(container("pay", image, &["/app/idle"]));
    let d = pods.run(&spec)?;
    pods.must(&d, "pay", &[demo::PAYROLL])?;
    let early = node.fresh()?;
    ensure!(
        early.verdict.trusted,
        "the node is not trusted before anything happened:\n{}",
        early.verdict
    );
    say(&format!(
        "pod D runs its own files: round {}, all trusted",
        early.id
    ));

    let (evil, good) = (demo::tamper(&pods, &d)?, good_hash(image)?);
    if attack == Break::HideLoss {
        lose(node, &collector)?;
    }
    let late = node.fresh()?;
    say(&format!(
        "a file of D was replaced and run: round {}, as the node sent it:",
        late.id
    ));
    say(&demo::indented(&late.verdict.to_string()));

    let site = &node.site;
    let nonce = nonce_of(&late.evidence()?)?;
    let before = verify(site, &late.file, &nonce)?;
    ensure!(
        !before.failures.is_empty() && before.node == late.verdict.node.state,
        "`cgpath verify` judges the round's evidence otherwise than `cgpath serve` did: {:?}",
        before.failures
    );
    let altered = site.dir().join(format!("{}.cbor", attack.name()));
    let mut asked = nonce;
    let mut evidence = late.evidence()?;
    let done = match attack {
        Break::SwapHash => swap_hash(&mut evidence, &evil, &good)?,
        Break::DropRecord => drop_records(&mut evidence, &evil)?,
        Break::WrongKey => wrong_key(&mut evidence)?,
        Break::HideLoss => hide_loss(&mut evidence, &late.verdict)?,
        Break::OldNonce => {
            evidence = early.evidence()?;
            asked = new_nonce(site)?;
            refused_by_service(site, &early)?;
            format!(
                "round {}'s evidence answers a nonce that was given out after round {}",
                early.id, late.id
            )
        }
    };
    std::fs::write(&altered, evidence.to_cbor()).with_context(|| format!("writing {}", altered.display()))?;
    say(&format!("{}: {done}", attack.name()));
    let after = verify(site, &altered, &asked)?;
    let known: BTreeSet<_> = before
        .failures
        .iter()
        .map(|(rule, subject, _)| (rule, subject))
        .collect();
    let new: Vec<_> = after
        .failures
        .iter()
        .filter(|(rule, subject, _)| !known.contains(&(rule, subject)))
        .collect();
    let rules: BTreeSet<Rule> = new.iter().map(|(rule, ..)| *rule).collect();
    Ok(Caught {
        attack: attack.name(),
        done,
        rules: rules.iter().map(Rule::to_string).collect(),
        said: new.into_iter().map(|(_, _, text)| text.clone()).collect(),
    })
}

fn good_hash(image: &Image) -> Result<Digest> {
    let content = image.content(demo::PAYROLL).context("the image has no payroll")?;
    Ok(cgpath_evidence::Bank::Sha256.hash(&[content]))
}

/// Stops the collector, executes more than its ring holds (files that the host may execute), lets it go on.
fn lose(node: &Node, collector: &crate::Process<'_>) -> Result<()> {
    const SIGSTOP: i32 = 19;
    const SIGCONT: i32 = 18;
    collector.signal(SIGSTOP)?;
    let done = node
        .vm
        .sh("i=0; while [ $i -lt 100 ]; do /usr/bin/true; i=$((i+1)); done");
    collector.signal(SIGCONT)?;
    done.map(drop)
}

fn nonce_of(evidence: &Evidence) -> Result<Vec<u8>> {
    Ok(Attest::parse(&evidence.quote.tpm()?.attest)
        .context("the quote")?
        .extra_data)
}

fn new_nonce(site: &Site) -> Result<Vec<u8>> {
    #[derive(serde::Deserialize)]
    struct Answer {
        nonce: String,
    }
    let answer: Answer = site
        .client()
        .post(&format!("/v1/nodes/{NODE}/nonce"), &[])?
        .json()?;
    hex::decode(answer.nonce).context("the verifier's nonce")
}

/// The service must refuse evidence that it has seen, too.
fn refused_by_service(site: &Site, round: &Round) -> Result<()> {
    let bytes = std::fs::read(&round.file).with_context(|| format!("reading {}", round.file.display()))?;
    let answer = site
        .client()
        .post(&format!("/v1/nodes/{NODE}/evidence"), &bytes)?;
    if answer.status == 403 {
        return Ok(());
    }
    bail!(
        "cgpath serve took the evidence of round {} a second time: {} {}",
        round.id,
        answer.status,
        String::from_utf8_lossy(&answer.body)
    )
}

fn verify(site: &Site, file: &std::path::Path, nonce: &[u8]) -> Result<Appraised> {
    let mut command = site.cgpath(&["--json", "verify"]);
    command
        .arg(file)
        .arg("--policy")
        .arg(site.policy_file())
        .arg("--ak")
        .arg(site.key_file())
        .args(["--nonce", &hex::encode(nonce)]);
    let output = command.output().context("starting cgpath verify")?;
    // Unusable input would be a failure of this attack, not of the evidence.
    ensure!(
        matches!(output.status.code(), Some(0 | 1)),
        "cgpath verify: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    let verdict: Verdict = serde_json::from_slice(&output.stdout).context("what cgpath verify printed")?;
    ensure!(
        verdict.trusted == output.status.success(),
        "the exit code and the verdict contradict each other"
    );
    let failures = verdict
        .failures()
        .map(|f| (f.rule, f.subject.to_string(), f.to_string()))
        .collect();
    Ok(Appraised {
        failures,
        node: verdict.node.state,
    })
}

fn records_of_d(evidence: &mut Evidence) -> Result<&mut Vec<Record>> {
    let d = cgpath_evidence::PodUid::parse(demo::uid("D").as_bytes()).map(PartitionKey::Pod);
    let log = evidence.partitions.iter_mut().find(|log| Some(log.key) == d);
    log.map(|log| &mut log.records)
        .context("pod D has no records in the evidence")
}

fn is_evil(record: &Record, evil: &str) -> bool {
    record
        .hash
        .as_ref()
        .and_then(FileHash::digest)
        .is_some_and(|digest| hex::encode(digest.bytes()) == evil)
}

fn swap_hash(evidence: &mut Evidence, evil: &str, good: &Digest) -> Result<String> {
    let mut swapped = 0;
    for record in records_of_d(evidence)? {
        if is_evil(record, evil) {
            record.hash = Some(FileHash::Measured(good.clone()));
            swapped += 1;
        }
    }
    ensure!(swapped > 0, "no record of D has the tampered file's hash");
    Ok(format!(
        "{swapped} records of {} in D now have the accepted hash",
        demo::PAYROLL
    ))
}

fn drop_records(evidence: &mut Evidence, evil: &str) -> Result<String> {
    let records = records_of_d(evidence)?;
    let before = records.len();
    records.retain(|record| !is_evil(record, evil));
    let dropped = before - records.len();
    ensure!(dropped > 0, "no record of D has the tampered file's hash");
    Ok(format!(
        "{dropped} records of {} in D are left out",
        demo::PAYROLL
    ))
}

fn fresh_key() -> SigningKey {
    SigningKey::random(&mut rand_core::OsRng)
}

fn wrong_key(evidence: &mut Evidence) -> Result<String> {
    let key = fresh_key();
    let quote = evidence.quote.tpm.as_mut().context("a TPM's quote")?;
    let mut public = Public::parse(&quote.ak).context("the quote's key")?;
    let point = key.verifying_key().to_encoded_point(false);
    match (&mut public.key, point.x(), point.y()) {
        (KeyKind::Ecc { x, y, .. }, Some(new_x), Some(new_y)) => {
            *x = new_x.to_vec();
            *y = new_y.to_vec();
        }
        _ => bail!("the quote's key is not on an elliptic curve"),
    }
    let signed: p256::ecdsa::Signature = key.sign(&quote.attest);
    let (r, s) = signed.split_bytes();
    let hash = cgpath_evidence::Bank::Sha256.tpm_alg();
    quote.signature = Signature::Ecdsa {
        hash,
        r: r.to_vec(),
        s: s.to_vec(),
    }
    .to_bytes();
    quote.ak = public.to_bytes();
    Ok("the quote is signed by another key, which is sent along".to_owned())
}

fn hide_loss(evidence: &mut Evidence, verdict: &Verdict) -> Result<String> {
    ensure!(
        verdict.node.lost > 0,
        "nothing was lost in the guest, so there is nothing to hide; cgpathd's log is in {COLLECTOR_LOG}"
    );
    let key = fresh_key();
    let mut hidden = 0;
    for file in &mut evidence.checkpoints {
        let sealed = SealedCheckpoint::from_file(file).context("a checkpoint")?;
        if sealed.checkpoint.losses.total() > 0 {
            let quiet = Checkpoint {
                losses: Losses::default(),
                ..sealed.checkpoint
            };
            *file = SealedCheckpoint::seal(quiet, &key).file;
            hidden += 1;
        }
    }
    ensure!(
        hidden > 0,
        "no checkpoint states the losses that the verdict names"
    );
    Ok(format!(
        "{} lost records are stated as 0 in {hidden} checkpoints, which another key signs",
        verdict.node.lost
    ))
}
