//! What verification costs beside the bare hash chains, what a round costs a verifier that follows, how long
//! a tenant's bundle is, and what a trust domain's quote adds:
//! `follow_cost verify|round|tenant|domain ENTRIES [ROUNDS]`, one line of JSON. For `cargo xtask bench`.
//!
//! The node is made of software and honest (see `cgpath_testkit`): its list has ENTRIES different files of
//! the host, which its policy names, each with a record, and four pods have 100 records each. PCR 10 is
//! quoted in all four banks.

use cgpath_appraisal::follow::{Follower, cursor};
use cgpath_appraisal::{Context, NodeState, Verdict, appraise};
use cgpath_evidence::list::ListEntry;
use cgpath_evidence::replay::{Fill, replay_batches};
use cgpath_evidence::{Bank, Entry, EventKind, Evidence, EvidenceDelta, FileHash, TenantBundle};
use cgpath_testkit::td::{Platform, TrustDomain};
use cgpath_testkit::{Actor, KeyKind, Measurement, NOW, Node, delta_after, pod, sha256};
use dcap_qvl::configs::RustCryptoConfig;
use dcap_qvl::verify::QuoteVerifier;
use dcap_qvl::{QuoteCollateralV3, QuotePolicy};
use std::time::Instant;

/// Records of each pod.
const OF_POD: usize = 100;
/// New entries of a round.
const NEW: u64 = 100;

type Error = Box<dyn std::error::Error>;

fn main() -> Result<(), Error> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| args.get(at).map(|n| n.parse::<u64>()).transpose();
    let usage = "usage: follow_cost verify|round|tenant|domain ENTRIES [ROUNDS]";
    let entries = number(1)?.ok_or(usage)?;
    let rounds = number(2)?.unwrap_or(5);
    let found = match args.first().map(String::as_str) {
        Some("verify") => verify(entries, rounds)?,
        Some("round") => round(entries, rounds)?,
        Some("tenant") => tenant(entries)?,
        Some("domain") => domain(entries, rounds)?,
        _ => return Err(usage.into()),
    };
    println!("{found}");
    Ok(())
}

/// Seconds of processor time that all threads had.
fn cpu() -> Result<f64, Error> {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID)?;
    Ok(time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9)
}

fn timed<T>(work: impl FnOnce() -> T) -> Result<(T, f64), Error> {
    let before = cpu()?;
    let done = work();
    Ok((done, cpu()? - before))
}

fn content(n: u64) -> cgpath_evidence::Digest {
    sha256(&n.to_le_bytes())
}

fn path(n: u64) -> String {
    format!("/usr/lib/x86_64-linux-gnu/package-{}/lib{n}.so.6", n % 977)
}

/// The host uses files `from` to `to` for the first time.
fn host(node: &mut Node, from: u64, to: u64) {
    let actor = Actor::host("/usr/lib/systemd/systemd");
    for n in from..to {
        let entry = Measurement::ima_ng(path(n).as_bytes(), &content(n));
        node.list.push(entry.clone());
        node.record_entry(&actor, path(n), &entry, 0);
    }
}

fn node(entries: u64, rounds: u64) -> Node {
    grown(Node::boot(KeyKind::EcdsaP256), entries, rounds)
}

/// The same out of a node that has just booted.
fn grown(mut node: Node, entries: u64, rounds: u64) -> Node {
    node.banks = Bank::ALL.to_vec();
    node.accept_banks = "[sha1, sha256, sha384, sha512]".into();
    for n in 0..entries + NEW * rounds {
        node.host_files.insert(path(n).into_bytes(), [content(n)].into());
    }
    for n in 1..=4 {
        let actor = Actor::pod(pod(n), "/bin/app");
        node.execute_good(&actor, "/bin/app");
        let digest = node.pod_files[&pod(n)][&b"/bin/app"[..]].first().cloned();
        for _ in 2..OF_POD {
            let hash = digest.clone().map_or(FileHash::Unhashed(0), FileHash::Measured);
            node.record_execution(&actor, EventKind::Execution, "/bin/app", hash);
        }
    }
    host(&mut node, 0, entries);
    node.seal(None);
    node
}

fn nonce(n: u64) -> Vec<u8> {
    format!("the nonce of round {n}").into_bytes()
}

fn appraised(
    evidence: &Evidence,
    policy: &cgpath_policy::Policy,
    context: &Context,
) -> Result<(Verdict, NodeState), Error> {
    let verdict = appraise(evidence, policy, context)?;
    let state = trusted(&verdict)?;
    Ok((verdict, state))
}

fn trusted(verdict: &Verdict) -> Result<NodeState, Error> {
    if !verdict.trusted {
        return Err(format!("the honest node is not trusted: {verdict}").into());
    }
    Ok(verdict.state.clone().ok_or("nothing to follow")?)
}

/// Extensions of every bank and nothing else.
fn chains(count: u64) -> u8 {
    let mut all = 0;
    for bank in Bank::ALL {
        let mut register = [0; Bank::MAX_LEN];
        let mut digest = [0x5a; Bank::MAX_LEN];
        for n in 0..count {
            digest[..8].copy_from_slice(&n.to_le_bytes());
            bank.extend_register(&mut register, &digest);
        }
        all ^= register[0];
    }
    all
}

/// What a replay of the list computes: digests of its entries in every bank, and their chains, on all
/// processors.
fn replay(list: &[Entry]) -> Result<(), Error> {
    let threads = std::thread::available_parallelism()?;
    let lanes = Bank::ALL.map(|bank| (bank, Fill::Hashed));
    let mut batches = list.chunks(512);
    let source = || -> Result<_, cgpath_evidence::Error> {
        let Some(batch) = batches.next() else {
            return Ok(None);
        };
        let full = batch.iter().filter_map(|entry| match entry {
            Entry::Full(record) => Some(ListEntry::from_canonical(0, record.as_slice())),
            Entry::Opaque { .. } => None,
        });
        full.collect::<Result<Vec<_>, _>>().map(Some)
    };
    let replayed = replay_batches(lanes, threads, source, |_, _| ())?;
    if replayed.entries() != list.len() as u64 {
        return Err("the list was not replayed whole".into());
    }
    Ok(())
}

fn verify(entries: u64, rounds: u64) -> Result<serde_json::Value, Error> {
    let mut node = node(entries, 0);
    let evidence = node.attest(&nonce(0));
    let policy = node.policy();
    let context = node.context(&nonce(0), None);
    drop(node);
    let bytes = evidence.to_cbor();
    let (mut ours, mut walls, mut decoded, mut bare) = (vec![], vec![], vec![], vec![]);
    let (mut replays, mut replay_walls) = (vec![], vec![]);
    for round in 0..=rounds {
        let (_, chain) = timed(|| std::hint::black_box(chains(entries)))?;
        let started = Instant::now();
        let (replayed, replaying) = timed(|| replay(&evidence.list))?;
        let replay_wall = started.elapsed().as_secs_f64();
        replayed?;
        let (read, decode) = timed(|| Evidence::from_cbor(&bytes))?;
        let read = read?;
        let started = Instant::now();
        let (verdict, took) = timed(|| appraised(&read, &policy, &context).map(|(verdict, _)| verdict))?;
        let wall = started.elapsed().as_secs_f64();
        verdict?;
        if round > 0 {
            ours.push(took);
            walls.push(wall);
            decoded.push(decode);
            bare.push(chain);
            replays.push(replaying);
            replay_walls.push(replay_wall);
        }
    }
    Ok(serde_json::json!({
        "appraisal": ours, "wall": walls, "decoding": decoded, "chains": bare, "replay": replays,
        "replay-wall": replay_walls, "bytes": bytes.len(), "covered": evidence.list.len(),
    }))
}

fn round(entries: u64, rounds: u64) -> Result<serde_json::Value, Error> {
    let mut node = node(entries, rounds);
    let policy = node.policy();
    let mut kept = node.attest(&nonce(0));
    let context = node.context(&nonce(0), None);
    // Beside the appraisal: keeping the entries.
    let (begun, making) = timed(|| Follower::begin(&kept, &policy, &context, &[], context.now).ok())?;
    let (verdict, follower) = begun.ok_or("nothing can be concluded")?;
    let mut state = trusted(&verdict)?;
    let mut follower = follower.ok_or("the node cannot be followed")?;
    let (mut follow, mut decode, mut json, mut bytes, mut list) = (vec![], vec![], vec![], vec![], vec![]);
    for n in 0..rounds {
        host(&mut node, entries + n * NEW, entries + (n + 1) * NEW);
        let evidence = node.attest(&nonce(n + 1));
        let from = cursor(&state, [0; 32]).ok_or("no checkpoint")?;
        let sent = delta_after(&evidence, &kept, from).to_cbor();
        let context = node.context(&nonce(n + 1), Some(state));
        // What was freed since the last round, millions of pieces, is tidied up by the next allocation: that
        // is not to be within what is timed.
        drop(EvidenceDelta::from_cbor(&sent)?);
        let (delta, decoding) = timed(|| EvidenceDelta::from_cbor(&sent))?;
        let delta = delta?;
        let (next, took) = timed(|| {
            let verdict = follower.advance(&delta, &policy, &context, &[])?;
            verdict.state.clone().filter(|_| verdict.trusted)
        })?;
        state = next.ok_or("the round was not followed")?;
        let (text, writing) = timed(|| serde_json::to_vec(follower.verdict()))?;
        text?;
        follow.push(took * 1e3);
        decode.push(decoding * 1e3);
        json.push(writing * 1e3);
        bytes.push(sent.len());
        list.push(delta.list.len());
        kept = evidence;
    }
    Ok(serde_json::json!({
        "follow": follow, "decoding": decode, "json": json, "bytes": bytes, "new": list,
        "making": making * 1e3, "memory": follower.weight(), "whole": kept.to_cbor().len(),
    }))
}

fn tenant(entries: u64) -> Result<serde_json::Value, Error> {
    let mut node = node(entries, 1);
    let first = node.attest(&nonce(0));
    let (_, state) = appraised(&first, &node.policy(), &node.context(&nonce(0), None))?;
    drop(first);
    host(&mut node, entries, entries + NEW);
    let evidence = node.attest(&nonce(1));
    let records = evidence.records(cgpath_evidence::PartitionKey::Pod(pod(3))).len();
    let whole = TenantBundle::prove(&evidence, pod(3), 0)?.to_cbor().len();
    let followed = TenantBundle::prove(&evidence, pod(3), state.covered)?
        .to_cbor()
        .len();
    Ok(serde_json::json!({
        "whole": whole, "followed": followed, "records": records, "entries": evidence.list.len(),
        "new": evidence.list.len() as u64 - state.covered,
    }))
}

/// By what anchors the list: bytes of evidence and of its parts, and an appraisal. Beside them what the
/// domain's quote costs with its chain, its collateral and their revocation lists.
fn domain(entries: u64, rounds: u64) -> Result<serde_json::Value, Error> {
    let mut found = serde_json::Map::new();
    let platform = Platform::new("a test's root", "a machine");
    for (anchor, is_domain, has_tpm) in [
        ("pcr-10", false, true),
        ("rtmr-3", true, false),
        ("both", true, true),
    ] {
        let booted = Node::boot(KeyKind::EcdsaP256);
        let booted = if is_domain {
            booted.in_domain(TrustDomain::new(platform.clone()), has_tpm)
        } else {
            booted
        };
        let mut node = grown(booted, entries, 0);
        let evidence = node.attest(&nonce(0));
        let (policy, context) = (node.policy(), node.context(&nonce(0), None));
        drop(node);
        let mut times = Vec::new();
        for round in 0..=rounds {
            let (verdict, took) = timed(|| appraised(&evidence, &policy, &context).map(drop))?;
            verdict?;
            if round > 0 {
                times.push(took * 1e3);
            }
        }
        found.insert(format!("{anchor}-appraisal"), times.into());
        found.insert(format!("{anchor}-bytes"), evidence.to_cbor().len().into());
        let (Some(quote), Some(td)) = (&evidence.quote.td, &evidence.td) else {
            continue;
        };
        found.insert("outblob-bytes".into(), quote.outblob.len().into());
        found.insert("log-bytes".into(), td.register_log.len().into());
        let file = platform.collateral_json(NOW - 10 * 24 * 3600, |_, _| ());
        let collateral: QuoteCollateralV3 = serde_json::from_slice(&file)?;
        let mut times = Vec::new();
        for round in 0..=rounds {
            let root = platform.root().to_vec();
            let (claims, took) = timed(|| {
                QuoteVerifier::new(root)
                    .with_config::<RustCryptoConfig>()
                    .verify_with_policy(&quote.outblob, &collateral, NOW, &QuotePolicy::claims_only(NOW))
            })?;
            claims?;
            if round > 0 {
                times.push(took * 1e3);
            }
        }
        found.insert("quote".into(), times.into());
        found.insert("collateral-bytes".into(), file.len().into());
    }
    Ok(found.into())
}
