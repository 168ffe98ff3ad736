//! Every target over its corpus, published vectors and mutations of both. A program of its own: it counts
//! what is allocated.
//!
//! Each target takes [`MUTATIONS`], the same ones each time; `FUZZ_SECONDS` mutates it for so long instead.
//! An input that fails is kept in `fuzz/artifacts/<target>/`; once fixed, move it into the corpus under a
//! name that says what it was.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../../evidence/tests/common/vectors.rs"]
mod published;

#[path = "common/counting.rs"]
mod counting;

use fuzz::mutate::{Random, mutate};
use fuzz::{Target, for_each_target};
use nix::time::{ClockId, clock_gettime};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What a decoder may hold at once: its tables, and a multiple of its input for values, copies and checks.
fn memory_bound(len: usize) -> isize {
    (2 * 1024 * 1024 + 256 * len) as isize
}

/// Processor time that one input may take.
const TIME_BOUND: Duration = Duration::from_secs(20);

/// How many mutations each target takes in a usual run; the soak and libFuzzer take as many as fit into their
/// time.
const MUTATIONS: u64 = 5000;

/// At how many places each input is cut.
const MAX_TRUNCATIONS: usize = 256;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut files: Vec<PathBuf> = entries
        .map(|e| e.unwrap().path())
        .filter(|p| p.is_file())
        .collect();
    files.sort();
    files
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Data that others made, for the targets that it fits.
fn vectors(target: &str) -> Option<Vec<Vec<u8>>> {
    let names: &[&str] = match target {
        "list_any" | "list_binary" | "list_ascii" => &[
            "cima/binary_ima-cgpath_sha384.bin",
            "cima/ascii_ima-cgpath_sha384",
            "keylime/ima-log-sha256",
            "keylime/ima-log-unknown",
            "tpm/log",
        ],
        "tpm_attest" => &["tpm/q.msg"],
        "tpm_signature" => &["tpm/q.sig"],
        "tpm_public" => &["tpm/ak.pub", "tpm/ek.pub"],
        "tpm_pcr_blob" => &["tpm/q.pcrs"],
        "boot_log" => &["eventlog/CCEL_data_ovmf"],
        _ => &[],
    };
    names.iter().map(|name| published::vector(name)).collect()
}

/// Processor time of this thread.
fn used() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

fn try_one(target: &Target, data: &[u8], what: &str) {
    let start = used();
    let (result, peak) = counting::peak(|| catch_unwind(AssertUnwindSafe(|| (target.run)(data))));
    let (took, bound) = (used() - start, memory_bound(data.len()));
    if result.is_ok() && peak <= bound && took <= TIME_BOUND {
        return;
    }
    let directory = root().join("artifacts").join(target.name);
    let path = directory.join(format!("{what}-{}", data.len()));
    fs::create_dir_all(&directory).unwrap();
    fs::write(&path, data).unwrap();
    panic!(
        "{}: {} bytes ({what}) {}: {peak} bytes of memory ({bound} allowed), {took:?}; kept as {}",
        target.name,
        data.len(),
        if result.is_ok() {
            "took too much"
        } else {
            "made it panic"
        },
        path.display()
    );
}

fn run(name: &str) {
    let target = fuzz::all()
        .into_iter()
        .find(|t| t.name == name)
        .expect("every test is of a target");
    let corpus = files(&root().join("corpus").join(name));
    assert!(
        !corpus.is_empty(),
        "{name} has no corpus: UPDATE_CORPUS=1 cargo test -p fuzz corpus"
    );
    // What a target makes once for all inputs is made here.
    (target.run)(b"");
    let mut inputs: Vec<Vec<u8>> = Vec::new();
    for path in &corpus {
        let data = read(path);
        try_one(&target, &data, "corpus");
        inputs.push(data);
    }
    // Every byte of short inputs; the decoders' own tests cut whole lists at every byte.
    for data in &inputs {
        truncate(&target, data);
    }
    let runs = mutations(&target, &inputs);
    println!("{name}: {} inputs, {runs} mutations", inputs.len());
}

fn truncate(target: &Target, data: &[u8]) {
    for n in (0..data.len()).step_by(data.len().div_ceil(MAX_TRUNCATIONS).max(1)) {
        try_one(target, &data[..n], "truncation");
    }
}

/// Mutates `inputs`, always in the same order; gives how often.
fn mutations(target: &Target, inputs: &[Vec<u8>]) -> u64 {
    let seconds = std::env::var("FUZZ_SECONDS").ok();
    let deadline = seconds.map(|text| {
        let seconds = text.parse().expect("FUZZ_SECONDS is a number of seconds");
        Instant::now() + Duration::from_secs(seconds)
    });
    let more = |runs: u64| deadline.map_or(runs < MUTATIONS, |deadline| Instant::now() < deadline);
    let seed = target.name.bytes().fold(0xcbf2_9ce4_8422_2325, |h: u64, b| {
        (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)
    });
    let mut random = Random::new(seed);
    let mut runs = 0u64;
    while more(runs) {
        let mut data = inputs[random.below(inputs.len())].clone();
        mutate(&mut data, &inputs[random.below(inputs.len())], &mut random);
        try_one(target, &data, "mutation");
        runs += 1;
    }
    runs
}

#[test]
fn published_vectors_are_taken_by_the_targets_that_they_fit() {
    for target in fuzz::all() {
        (target.run)(b"");
        let Some(vectors) = vectors(target.name) else {
            return;
        };
        for data in &vectors {
            try_one(&target, data, "vector");
        }
        // Short pieces are quicker to run through and as good to begin with.
        let pieces: Vec<Vec<u8>> = vectors
            .iter()
            .map(|data| data[..data.len().min(4096)].to_vec())
            .collect();
        for data in &pieces {
            truncate(&target, data);
        }
        if !pieces.is_empty() {
            mutations(&target, &pieces);
        }
    }
}

macro_rules! tests {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            run(stringify!($name));
        })*
    };
}

for_each_target!(tests);
#[cfg(feature = "collector")]
fuzz::for_each_collector_target!(tests);
#[cfg(feature = "service")]
fuzz::for_each_service_target!(tests);

#[test]
fn corpus_is_what_the_seeds_make() {
    for target in fuzz::all() {
        let directory = root().join("corpus").join(target.name);
        for (name, bytes) in (target.seeds)() {
            let path = directory.join(name);
            if std::env::var_os("UPDATE_CORPUS").is_some() {
                fs::create_dir_all(&directory).unwrap();
                fs::write(&path, &bytes).unwrap();
            }
            let committed = fs::read(&path).unwrap_or_default();
            assert!(
                committed == bytes,
                "{}: the format changed, or the file is missing: UPDATE_CORPUS=1 cargo test -p fuzz corpus",
                path.display()
            );
        }
    }
}

#[test]
fn every_seed_decodes_far_enough_to_be_worth_mutating() {
    // A target that refuses all of its seeds at the first byte would test nothing.
    use cgpath_evidence::{Evidence, Record, SealedCheckpoint, boot::EventLog, list::ListEntry, tpm};
    let of = |name: &str| {
        fuzz::all()
            .into_iter()
            .find(|t| t.name == name)
            .map(|t| (t.seeds)())
            .unwrap_or_default()
    };
    let check = |name: &str, ok: fn(&[u8]) -> bool| {
        let seeds = of(name);
        assert!(!seeds.is_empty(), "{name}");
        for (seed, bytes) in seeds.iter().filter(|(seed, _)| !seed.starts_with("bad-")) {
            assert!(ok(bytes), "{name}/{seed}");
        }
    };
    check("list_entry", |b| ListEntry::from_canonical(0, b).is_ok());
    check("evidence_cbor", |b| Evidence::from_cbor(b).is_ok());
    check("evidence_part", |b| {
        cgpath_evidence::EvidenceDelta::from_cbor(b).is_ok()
    });
    check("evidence_json", |b| Evidence::from_json(b).is_ok());
    check("tenant_cbor", |b| {
        cgpath_evidence::TenantBundle::from_cbor(b).is_ok()
    });
    check("partition_proof", |b| {
        cgpath_evidence::wire::from_slice::<cgpath_evidence::proof::PartitionProof>(b, "proof", 1 << 20)
            .is_ok()
    });
    check("ear_token", |b| {
        let token = core::str::from_utf8(b).unwrap();
        cgpath_appraisal::ear::AttestationResult::pods_named(token).is_ok()
    });
    check("record_cbor", |b| Record::from_cbor(b).is_ok());
    check("checkpoint_file", |b| SealedCheckpoint::from_file(b).is_ok());
    check("tpm_attest", |b| tpm::Attest::parse(b).is_ok());
    check("tpm_signature", |b| tpm::Signature::parse(b).is_ok());
    check("tpm_public", |b| tpm::Public::parse_file(b).is_ok());
    check("tpm_pcr_selection", |b| tpm::PcrSelection::parse(b).is_ok());
    check("tpm_pcr_blob", |b| tpm::PcrBlob::parse(b).is_ok());
    check("boot_log", |b| EventLog::parse(b).is_ok());
    check("policy_node", |b| {
        cgpath_policy::NodePolicy::from_yaml("seed", b).is_ok()
    });
    check("policy_reference", |b| {
        cgpath_policy::Reference::from_json("seed", b).is_ok()
    });
    check("policy_corim", |b| {
        cgpath_policy::corim::read(b, cgpath_policy::corim::Trust::DangerousNone, 0).is_ok()
    });
    #[cfg(feature = "service")]
    check("serve_request", |b| {
        let answer = String::from_utf8_lossy(&fuzz::targets::answered(b)).into_owned();
        answer.starts_with("HTTP/1.1 2") && !answer.contains("HTTP/1.1 4")
    });
    check("ima_policy", |b| {
        core::str::from_utf8(b).is_ok_and(|text| cgpath_evidence::ima_policy::parse(text).is_ok())
    });
    #[cfg(feature = "collector")]
    {
        use cgpathd::{config::Config, deliver::push, journal};
        check("collector_record", |b| {
            cgpathd::decode::decode(&bytes::Bytes::copy_from_slice(b)).is_ok()
        });
        check("collector_spool", |b| {
            let rest = &b[journal::START as usize..];
            let mut frames = journal::Frames::new(rest, Path::new("seed"), b.len() as u64);
            let mut count = 0;
            while frames.next_frame().unwrap().is_some() {
                count += 1;
            }
            count > 10
        });
        check("collector_config", |b| {
            let text = core::str::from_utf8(b).unwrap();
            Config::from_parts(Path::new("seed"), text, [], &[]).is_ok()
        });
        check("answer_nonce", |b| push::parse_nonce(b).is_ok());
        check("answer_verdict", |b| {
            let answer = serde_json::from_slice(b).unwrap();
            push::parse_verdict(&answer).is_some_and(|v| v.believed && v.charged.len() == 1)
        });
    }
}

#[cfg(all(feature = "collector", feature = "service"))]
#[test]
fn every_target_has_its_libfuzzer_binary_and_no_binary_is_without_a_target() {
    use std::collections::BTreeSet;
    let names: BTreeSet<String> = fuzz::all().iter().map(|t| t.name.to_owned()).collect();
    let stem = |p: PathBuf| p.file_stem().unwrap().to_str().unwrap().to_owned();
    let binaries: BTreeSet<String> = files(&root().join("fuzz_targets"))
        .into_iter()
        .map(stem)
        .collect();
    assert_eq!(names, binaries);
    let manifest = String::from_utf8(read(&root().join("libfuzzer/Cargo.toml"))).unwrap();
    for name in names {
        let path = format!("path = \"../fuzz_targets/{name}.rs\"");
        assert!(manifest.contains(&path), "libfuzzer/Cargo.toml has no `{path}`");
    }
}
