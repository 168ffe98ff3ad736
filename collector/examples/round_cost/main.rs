//! What a round of attestation costs the collector itself, by the length of the list and by the number of
//! pods: `round_cost ENTRIES [ROUNDS] [PODS]`, one line of JSON. For `cargo xtask bench round`.
//!
//! The engine, the spool, the store, the list's reader and the TPM's client are the collector's own; list,
//! ring buffer and counters are those of a machine made of software (`tests/common/machine.rs`), and the TPM
//! is a swtpm. Before the rounds the list has ENTRIES entries, each with a record, of the host and the pods
//! (four) in turn.

#![allow(clippy::unwrap_used, reason = "a measurement that cannot go on has failed")]

#[path = "../../tests/common/machine.rs"]
mod machine;
#[path = "../../tests/common/swtpm.rs"]
mod swtpm;

use anyhow::{Context as _, Result, bail, ensure};
use cgpath_evidence::{Boot, Cursor, Evidence, EvidenceDelta, SealedCheckpoint, Tier};
use cgpathd::engine::core::{Core, Outcome};
use cgpathd::sources::system;
use cgpathd::store::{Assembly, EvidenceFile, Header};
use cgpathd::tpm::{KeyKind, Tpm};
use machine::{BOOT_ID, Software, content, take};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use nix::time::{ClockId, clock_gettime};
use sha2::{Digest as _, Sha256};
use std::io::Read as _;
use std::time::Instant;

/// New entries of a round, each with its record.
const NEW: u64 = 100;

/// Entries that are measured before the collector takes them while the list is made.
const GATHERED: u64 = 4096;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let usage = "usage: round_cost ENTRIES [ROUNDS] [PODS]";
    let entries = args.next().and_then(|n| n.parse().ok()).context(usage)?;
    let rounds = args.next().map_or(Ok(5), |n| n.parse()).context(usage)?;
    let pods = args.next().map_or(Ok(4), |n| n.parse()).context(usage)?;
    println!("{}", cost(entries, rounds, pods)?);
    Ok(())
}

/// Milliseconds: processor time of all threads of this process, of children that ended, and by the clock.
#[derive(Clone, Copy)]
struct Moment {
    cpu: f64,
    children: f64,
    wall: Instant,
}

impl Moment {
    fn now() -> Result<Moment> {
        let time = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?;
        let ended = getrusage(UsageWho::RUSAGE_CHILDREN)?;
        let children = ended.user_time().num_microseconds() + ended.system_time().num_microseconds();
        Ok(Moment {
            cpu: time.tv_sec() as f64 * 1e3 + time.tv_nsec() as f64 / 1e6,
            children: children as f64 / 1e3,
            wall: Instant::now(),
        })
    }

    fn cpu_to(&self, later: &Moment) -> f64 {
        later.cpu - self.cpu
    }

    fn wall_to(&self, later: &Moment) -> f64 {
        (later.wall - self.wall).as_secs_f64() * 1e3
    }
}

/// The host and the pods use files `from` to `to` for the first time, in turn.
fn use_files(core: &mut Core<Software>, pods: u64, from: u64, to: u64) {
    for n in from..to {
        let path = format!("/usr/lib/x86_64-linux-gnu/package-{}/lib{n}.so.6", n % 977);
        core.machine.measure(n % (pods + 1), &path, &content(n));
    }
    core.machine.publish();
}

/// A checkpoint with `nonce`, anchored.
fn sealed(core: &mut Core<Software>, nonce: &[u8]) -> Result<()> {
    core.request(1, nonce.to_vec())?;
    loop {
        take(core)?;
        core.tick()?;
        match core.take_outcomes().pop() {
            Some(Outcome::Ready { .. }) => return Ok(()),
            Some(Outcome::Failed { error, .. }) => return Err(error.into()),
            Some(other) => bail!("{other:?} before the quote"),
            None => {}
        }
    }
}

/// What stands behind the quote, put together.
fn assembled(core: &mut Core<Software>, after: Option<&Cursor>) -> Result<Assembly> {
    core.quoted(1, after.cloned())?;
    loop {
        take(core)?;
        core.tick()?;
        match core.take_outcomes().pop() {
            Some(Outcome::Assembled { assembly, .. }) => return Ok((*assembly)?),
            Some(other) => bail!("{other:?} behind the quote"),
            None => {}
        }
    }
}

fn header(tpm: &mut Tpm, nonce: &[u8]) -> Result<Header> {
    let (quote, registers) = tpm.quote(nonce)?;
    Ok(Header {
        tier: Tier::Bpf,
        node: "node".into(),
        boot_id: BOOT_ID,
        kernel: system::kernel_release(),
        pods: Vec::new(),
        quote: quote.into(),
        boot: Boot {
            registers: vec![registers],
            log: None,
            command_line: None,
        },
        td: None,
    })
}

fn read(evidence: &mut EvidenceFile) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    evidence.file.read_to_end(&mut bytes)?;
    ensure!(
        bytes.len() as u64 == evidence.len,
        "the evidence is not as long as it says"
    );
    Ok(bytes)
}

/// That the last checkpoint says what an honest node's says.
fn check(checkpoints: &[Vec<u8>], nonce: &[u8], list_len: u64) -> Result<()> {
    let last = SealedCheckpoint::from_file(checkpoints.last().context("no checkpoint")?)?.checkpoint;
    let nonce_hash: [u8; 32] = Sha256::digest(nonce).into();
    ensure!(last.nonce_hash == Some(nonce_hash), "another nonce");
    ensure!(
        last.list_len + 1 == list_len,
        "{list_len} entries, of which the checkpoint covers {}",
        last.list_len
    );
    ensure!(
        last.settled == last.list_len && last.losses.total() == 0 && !last.blind,
        "not everything has its record: {last:?}"
    );
    Ok(())
}

fn cost(entries: u64, rounds: usize, pods: u64) -> Result<serde_json::Value> {
    let swtpm = swtpm::Swtpm::start();
    let mut tpm = Tpm::open(&swtpm.options(KeyKind::EccP256))?;
    let dir = tempfile::tempdir()?;
    let mut core = Software::boot(dir.path(), pods)?;
    let mut used = 0;
    while used < entries {
        let to = entries.min(used + GATHERED);
        use_files(&mut core, pods, used, to);
        used = to;
        take(&mut core)?;
        core.poll_list()?;
    }
    let mut cursor: Option<Cursor> = None;
    let mut last = None;
    let names = [
        "cpu",
        "wall",
        "records",
        "seal",
        "quote",
        "quote-wall",
        "evidence",
        "canary",
    ];
    let mut found: serde_json::Map<String, serde_json::Value> = serde_json::Map::new();
    let mut add = |name: &str, value: f64| {
        let list = found.entry(name).or_insert_with(|| serde_json::json!([]));
        if let Some(list) = list.as_array_mut() {
            list.push(value.into());
        }
    };
    // The first follows nothing, the second warms up.
    for n in 0..rounds + 2 {
        let nonce = format!("the nonce of round {n}").into_bytes();
        use_files(&mut core, pods, used, used + NEW);
        used += NEW;
        let start = Moment::now()?;
        take(&mut core)?;
        let taken = Moment::now()?;
        sealed(&mut core, &nonce)?;
        let seal = Moment::now()?;
        let header = header(&mut tpm, &nonce)?;
        let quoted = Moment::now()?;
        let mut evidence = assembled(&mut core, cursor.as_ref())?.write(&header)?;
        let end = Moment::now()?;
        let values = [
            start.cpu_to(&end),
            start.wall_to(&end),
            start.cpu_to(&taken),
            taken.cpu_to(&seal),
            seal.cpu_to(&quoted),
            seal.wall_to(&quoted),
            quoted.cpu_to(&end),
            end.children - start.children,
        ];
        let list_len = core.pipeline().list_len();
        if let Some(cursor) = &cursor {
            ensure!(evidence.is_delta, "the round is not what came after a position");
            let delta = EvidenceDelta::from_cbor(&read(&mut evidence)?)?;
            ensure!(
                delta.list.len() as u64 == NEW + 1 && delta.from == *cursor,
                "{} entries in a round",
                delta.list.len()
            );
            check(&delta.checkpoints, &nonce, list_len)?;
        }
        if n > 1 {
            for (name, value) in names.iter().zip(values) {
                add(name, value);
            }
            add("bytes", evidence.len as f64);
            let start = Moment::now()?;
            let whole = core.assembly(None, Vec::new())?;
            let assembled = Moment::now()?;
            let whole = whole.write(&header)?;
            let end = Moment::now()?;
            add("whole-cpu", start.cpu_to(&end));
            add("whole-wall", start.wall_to(&end));
            add("whole-engine", start.cpu_to(&assembled));
            add("whole-bytes", whole.len as f64);
            last = Some((whole, nonce, list_len));
        }
        cursor = evidence.reached;
    }
    let (mut whole, nonce, list_len) = last.context("no round")?;
    let whole = Evidence::from_cbor(&read(&mut whole)?)?;
    ensure!(
        whole.list.len() as u64 == list_len,
        "the whole evidence lacks entries"
    );
    check(&whole.checkpoints, &nonce, list_len)?;
    Ok(found.into())
}
