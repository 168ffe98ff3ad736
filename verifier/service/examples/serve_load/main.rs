//! Many nodes attesting to one `cgpath serve` on this machine:
//! `serve_load CGPATH DIR NODES PERIOD ROUNDS ENTRIES NEW`, one line of JSON. For `cargo xtask bench`.
//!
//! NODES nodes made of software (see `cgpath_testkit`), each with its own key, its own policy, four pods and
//! ENTRIES entries, send whole evidence once and then ROUNDS rounds with NEW new entries, one every PERIOD
//! seconds, spread evenly over the period. A round is what a collector does: a TLS connection, a nonce, what
//! is new since the cursor. Nonces are asked for before, so that every round is signed when the clock starts:
//! while it runs, this program only sends.

mod client;
mod node;
mod service;

use bytes::Bytes;
use cgpath_appraisal::follow::Follower;
use cgpath_appraisal::{Context, ExpectedNonce, PinnedKey, quote_findings};
use cgpath_evidence::replay::Replay;
use cgpath_evidence::{Bank, Digest, EvidenceDelta, SealedCheckpoint};
use cgpath_policy::Policy;
use cgpath_testkit::NODE;
use client::Client;
use node::Simulated;
use service::{Service, Usage};
use sha2::{Digest as _, Sha256};
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Of each so many nodes the rounds are judged once more here, without a service.
const SAMPLE: u32 = 10;

/// What one node will send.
struct Plan {
    name: String,
    rounds: Vec<Ahead>,
    bare: Option<Bare>,
}

/// A round that is signed.
struct Ahead {
    nonce: Vec<u8>,
    base: [u8; 32],
    evidence: Bytes,
}

/// What is needed to judge a node's rounds without a service.
struct Bare {
    follower: Follower,
    policy: Policy,
    key: Vec<u8>,
    checkpoints: Vec<u8>,
    pcrs: Vec<Digest>,
    state: cgpath_appraisal::NodeState,
}

/// What became of one round, in seconds after it was due.
struct Done {
    started: f64,
    ended: f64,
}

#[derive(Clone, Copy)]
struct Load {
    nodes: u32,
    period: f64,
    rounds: u64,
    entries: u64,
    new: u64,
}

fn main() -> Result<(), Error> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [program, dir, nodes, period, rounds, entries, new] = &args[..] else {
        return Err("usage: serve_load CGPATH DIR NODES PERIOD ROUNDS ENTRIES NEW".into());
    };
    let load = Load {
        nodes: nodes.parse()?,
        period: period.parse()?,
        rounds: rounds.parse()?,
        entries: entries.parse()?,
        new: new.parse()?,
    };
    if load.nodes == 0 || load.rounds == 0 || load.period <= 0.0 {
        return Err("at least one node, one round, and a period above 0".into());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let found = runtime.block_on(run(Path::new(program), Path::new(dir), load))?;
    println!("{found}");
    Ok(())
}

async fn run(program: &Path, dir: &Path, load: Load) -> Result<serde_json::Value, Error> {
    let site = node::site(load.entries + load.rounds * load.new);
    let service = Service::start(program, dir, &site, load.nodes)?;
    let client = Client::new(&service.ca, service.address)?;
    eprintln!("   {} nodes are enrolled", load.nodes);
    let mut plans = Vec::new();
    for n in 0..load.nodes {
        plans.push(prepare(n, &site, load, &client).await?);
    }
    let bytes: usize = plans
        .iter()
        .flat_map(|p| &p.rounds)
        .map(|r| r.evidence.len())
        .sum();
    eprintln!(
        "   {} rounds are signed; {} s of them",
        plans.len() as u64 * load.rounds,
        load.rounds as f64 * load.period
    );

    let before = (service.usage()?, Usage::of(std::process::id())?);
    let start = Instant::now();
    let mut tasks = Vec::new();
    let mut bare = Vec::new();
    for (n, mut plan) in plans.into_iter().enumerate() {
        if let Some(b) = plan.bare.take() {
            let rounds = plan.rounds.iter().map(|r| (r.nonce.clone(), r.evidence.clone()));
            bare.push((plan.name.clone(), b, rounds.collect::<Vec<_>>()));
        }
        let first = start + Duration::from_secs_f64(load.period * n as f64 / f64::from(load.nodes));
        tasks.push(tokio::spawn(attest(plan, client.clone(), first, load.period)));
    }
    let (mut done, mut failures) = (Vec::new(), Vec::new());
    for task in tasks {
        for round in task.await? {
            match round {
                Ok(round) => done.push(round),
                Err(error) => failures.push(error.to_string()),
            }
        }
    }
    let wall = start.elapsed().as_secs_f64();
    let after = (service.usage()?, Usage::of(std::process::id())?);
    drop(service);
    failures.sort();
    failures
        .iter()
        .take(3)
        .for_each(|failure| eprintln!("   failed: {failure}"));

    let late = done.iter().filter(|round| round.ended > load.period).count();
    let mut latencies: Vec<f64> = done.iter().map(|round| round.ended * 1e3).collect();
    latencies.sort_by(f64::total_cmp);
    let part = |part: f64| {
        latencies.get(((latencies.len() as f64 * part) as usize).min(latencies.len().saturating_sub(1)))
    };
    let behind = done.iter().map(|round| round.started).fold(0.0, f64::max);
    let (appraisal, bound) = appraise_sample(bare, load)?;
    let cpu = |usage: Usage| usage.user + usage.system;
    Ok(serde_json::json!({
        "rounds": done.len(), "late": late, "failed": failures.len(), "wall": wall,
        "bytes": bytes as f64 / (plans_of(load)),
        "latency_median": part(0.5), "latency_p99": part(0.99), "latency_max": latencies.last(),
        "generator_behind": behind * 1e3,
        "service": cpu(after.0) - cpu(before.0), "service_user": after.0.user - before.0.user,
        "service_system": after.0.system - before.0.system,
        "generator": cpu(after.1) - cpu(before.1), "memory": after.0.memory,
        "written": after.0.written - before.0.written,
        "appraisal": appraisal, "bound": bound,
    }))
}

/// All rounds.
fn plans_of(load: Load) -> f64 {
    f64::from(load.nodes) * load.rounds as f64
}

/// The first round of node `n`, which sends everything, and all others as they will be sent.
async fn prepare(n: u32, site: &cgpath_testkit::Node, load: Load, client: &Client) -> Result<Plan, Error> {
    let name = node::name(n);
    let mut connection = client.connect().await?;
    let first = hex::decode(client::nonce(&mut connection, &name).await?.nonce)?;
    let (mut simulated, evidence) = Simulated::boot(n, site, load.entries, &first);
    let bytes = evidence.to_cbor();
    let mut base: [u8; 32] = Sha256::digest(&bytes).into();
    client::submit(&mut connection, &name, bytes.into()).await?;
    let bare = match n % SAMPLE {
        0 => Some(bare(n, site, &evidence, first)?),
        _ => None,
    };
    drop(evidence);
    let mut rounds = Vec::new();
    for round in 0..load.rounds {
        let answer = client::nonce(&mut connection, &name).await?;
        if round == 0 && answer.position != Some(simulated.cursor(base)) {
            return Err(format!("{name}: the service is at {:?}", answer.position).into());
        }
        let nonce = hex::decode(answer.nonce)?;
        let delta = simulated.round(n, load.new, &nonce, base).to_cbor();
        let after = std::mem::replace(&mut base, Sha256::digest(&delta).into());
        rounds.push(Ahead {
            nonce,
            base: after,
            evidence: delta.into(),
        });
    }
    Ok(Plan { name, rounds, bare })
}

/// Sends a node's rounds, each when it is due, or at once where the one before took longer.
async fn attest(plan: Plan, client: Client, first: Instant, period: f64) -> Vec<Result<Done, Error>> {
    let mut all = Vec::new();
    for (n, round) in plan.rounds.into_iter().enumerate() {
        let due = first + Duration::from_secs_f64(period * n as f64);
        tokio::time::sleep_until(due).await;
        let started = due.elapsed().as_secs_f64();
        let send = async {
            let mut connection = client.connect().await?;
            let kept = client::nonce(&mut connection, &plan.name).await?.position;
            let kept = kept.ok_or("the service follows the node no more")?;
            let evidence = match kept.base == round.base {
                true => round.evidence,
                false => rebased(&round.evidence, kept.base)?,
            };
            client::submit(&mut connection, &plan.name, evidence).await
        };
        let sent = send.await;
        let ended = due.elapsed().as_secs_f64();
        all.push(sent.map(|()| Done { started, ended }));
    }
    all
}

/// The same after another file of the same evidence: now and then the service keeps the whole of what it has,
/// under a name that was not known when this was signed. The cursor is not signed.
fn rebased(evidence: &[u8], base: [u8; 32]) -> Result<Bytes, Error> {
    let mut delta = EvidenceDelta::from_cbor(evidence)?;
    delta.from.base = base;
    Ok(delta.to_cbor().into())
}

fn context(n: u32, nonce: Vec<u8>, previous: Option<cgpath_appraisal::NodeState>) -> Context {
    Context {
        node: node::name(n),
        key: PinnedKey::Public(node::key(n).public()),
        td: cgpath_appraisal::TdContext::default(),
        nonce: ExpectedNonce::Value(nonce),
        now: cgpath_testkit::NOW,
        previous,
    }
}

fn bare(
    n: u32,
    site: &cgpath_testkit::Node,
    evidence: &cgpath_evidence::Evidence,
    nonce: Vec<u8>,
) -> Result<Bare, Error> {
    let yaml = site
        .policy_yaml()
        .replace(&format!("node: {NODE}\n"), &format!("node: {}\n", node::name(n)));
    let policy = Policy::load("policy.yaml", yaml.as_bytes(), |name| {
        site.reference(name).ok_or_else(|| "no such file".to_owned())
    })?;
    let context = context(n, nonce, None);
    let (verdict, follower) = Follower::begin(evidence, &policy, &context, &[], context.now)?;
    let state = verdict.state.ok_or("nothing to follow")?;
    let follower = follower.ok_or("the node cannot be followed")?;
    let first = SealedCheckpoint::from_file(evidence.checkpoints.first().ok_or("no checkpoint")?)?;
    Ok(Bare {
        follower,
        policy,
        key: node::key(n).public(),
        checkpoints: first.checkpoint.key.ok_or("no key")?,
        pcrs: state.pcrs.clone(),
        state,
    })
}

/// Seconds that this thread had a processor.
fn cpu() -> Result<f64, Error> {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    Ok(time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9)
}

type Sampled = (String, Bare, Vec<(Vec<u8>, Bytes)>);

/// Processor seconds of all rounds, as of the sample's: decoded and judged with no store and no network; and
/// no more than the two signatures and the hash chains of each.
fn appraise_sample(sample: Vec<Sampled>, load: Load) -> Result<(f64, f64), Error> {
    let (mut appraisal, mut bound, mut count) = (0.0, 0.0, 0u64);
    for (n, (name, mut node, rounds)) in (0..load.nodes).step_by(SAMPLE as usize).zip(sample) {
        for (nonce, bytes) in rounds {
            let context = context(n, nonce, Some(node.state));
            let started = cpu()?;
            let delta = EvidenceDelta::from_cbor(&bytes)?;
            let verdict = node.follower.advance(&delta, &node.policy, &context, &[]);
            let next = verdict.and_then(|verdict| verdict.state.clone().filter(|_| verdict.trusted));
            appraisal += cpu()? - started;
            node.state = next.ok_or_else(|| format!("a round of {name} was not followed"))?;
            let started = cpu()?;
            let mut replay = Replay::resume(10, &node.pcrs);
            for entry in &delta.list {
                replay.push_entry(entry)?;
            }
            let quoted = replay
                .value(10, Bank::Sha256, cgpath_evidence::replay::Fill::Hashed)
                .ok_or("no register")?;
            node.pcrs = vec![quoted];
            for file in &delta.checkpoints {
                SealedCheckpoint::from_file(file)?.verify(&node.checkpoints)?;
            }
            let context = Context {
                key: PinnedKey::Public(node.key.clone()),
                ..context
            };
            let findings = quote_findings(delta.quote.tpm()?, &[], &context);
            bound += cpu()? - started;
            if let Some(finding) = findings.first() {
                return Err(format!("a quote of {name}: {}", finding.text).into());
            }
            count += 1;
        }
    }
    let scale = plans_of(load) / count as f64;
    Ok((appraisal * scale, bound * scale))
}
