//! How many bytes each decoder holds at most for each byte of hostile input: what docs/spec/wire.md, Limits,
//! states.
//!
//! A program of its own: it counts what is allocated. Inputs are what costs most for its length: as many
//! items as fit, as small as they can be, refused or not.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "common/counting.rs"]
mod counting;

use cgpath_appraisal::Collateral;
use cgpath_appraisal::ear::AttestationResult;
use cgpath_evidence::list::{Decoder, Format, ListEntry, Templates};
use cgpath_evidence::proof::PartitionProof;
use cgpath_evidence::td::{QuoteBody, log};
use cgpath_evidence::tpm::{Attest, PcrBlob, PcrSelection, Public, Signature};
use cgpath_evidence::{
    Boot, Digest, Entry, EntryHash, Evidence, EvidenceDelta, Head, Identity, Named, PartitionKey,
    PartitionLog, PodInfo, PodName, PodUid, Record, SealedCheckpoint, TenantBundle, boot::EventLog, cgroup,
    ima_policy, json, wire,
};
use cgpath_policy::{NodePolicy, Reference, corim};

/// Bytes of each input, where the format has no lower limit of its own.
const LEN: usize = 1 << 20;
/// What is not counted by the byte of input: tables, messages, the first growth of vectors.
const FREE: isize = 128 * 1024;

fn seeds(target: &str) -> impl Iterator<Item = Vec<u8>> {
    let target = fuzz::all().into_iter().find(|t| t.name == target).unwrap();
    let seeds = (target.seeds)().into_iter();
    seeds
        .filter(|(name, _)| !name.starts_with("bad-"))
        .map(|(_, bytes)| bytes)
}

/// The first seed that decodes.
fn first<T>(target: &str, decode: impl Fn(&[u8]) -> cgpath_evidence::Result<T>) -> T {
    seeds(target).find_map(|bytes| decode(&bytes).ok()).unwrap()
}

fn evidence() -> Evidence {
    Evidence {
        list: vec![],
        checkpoints: vec![],
        partitions: vec![],
        pods: vec![],
        boot: None,
        ..first("evidence_cbor", Evidence::from_cbor)
    }
}

fn delta() -> EvidenceDelta {
    EvidenceDelta {
        list: vec![],
        checkpoints: vec![],
        partitions: vec![],
        pods: vec![],
        boot: None,
        ..first("evidence_part", EvidenceDelta::from_cbor)
    }
}

/// The smallest record there is.
fn record() -> Record {
    Record {
        seq: 0,
        boot_ns: 0,
        digests: vec![],
        hash: None,
        path: vec![],
        dev: 0,
        ino: 0,
        cgroup_id: 0,
        cgroup: None,
        pid: 0,
        uid: 0,
        mnt_ns: 0,
        pid_ns: 0,
        ancestry: vec![],
        guard: None,
        pod_loss: None,
        identity: None,
        name: None,
        writable: false,
        load: None,
        ..first("record_cbor", Record::from_cbor)
    }
}

/// As many of `item` as give about [`LEN`] bytes, `size` each.
fn many<T: Clone>(item: T, size: usize) -> Vec<T> {
    vec![item; LEN / size]
}

/// What a list of evidence may be full of, each with a name.
fn lists() -> Vec<(&'static str, Vec<Entry>)> {
    let opaque = |digests: Vec<Digest>| Entry::Opaque {
        pcr: 0,
        digests,
        hash: None,
    };
    let hashed = Entry::Opaque {
        pcr: 0,
        digests: vec![],
        hash: Some(Box::new(EntryHash([0; 32]))),
    };
    let digest = Digest::zero(cgpath_evidence::Bank::Sha1);
    vec![
        ("empty entries", many(Entry::Full(vec![]), 4)),
        ("entries of a byte", many(Entry::Full(vec![0]), 5)),
        ("redacted entries without a digest", many(opaque(vec![]), 5)),
        (
            "redacted entries with a digest",
            many(opaque(vec![digest.clone()]), 29),
        ),
        ("redacted entries with a hash", many(hashed, 39)),
        ("one entry of many digests", vec![opaque(many(digest, 23))]),
    ]
}

fn logs() -> Vec<(&'static str, Vec<PartitionLog>)> {
    let log = |records| PartitionLog {
        key: PartitionKey::Host,
        records,
    };
    let ancestor = cgpath_evidence::Ancestor {
        tgid: 0,
        start_ns: 0,
        exe: vec![],
        dev: 0,
        ino: 0,
        source: cgpath_evidence::record::ExeSource::Recorded,
    };
    let of = |change: &dyn Fn(&mut Record)| {
        let mut changed = record();
        change(&mut changed);
        changed
    };
    vec![
        ("empty partitions", many(log(vec![]), 10)),
        ("empty records", vec![log(many(record(), 40))]),
        (
            "records with paths of a byte",
            vec![log(many(
                of(&|r| {
                    r.path = vec![0];
                    r.cgroup = Some(vec![0]);
                }),
                44,
            ))],
        ),
        (
            "records of files",
            vec![log(many(
                of(&|r| {
                    r.identity = Some(Box::new(Identity {
                        generation: 0,
                        magic: 0,
                        layer: None,
                        written: false,
                    }));
                }),
                48,
            ))],
        ),
        (
            "one record of many ancestors",
            vec![log(vec![of(&|r| r.ancestry = many(ancestor.clone(), 13))])],
        ),
        (
            "ancestors with a name of a byte",
            vec![log(vec![of(&|r| {
                let mut named = ancestor.clone();
                named.exe = vec![b'x'];
                r.ancestry = many(named, 14);
            })])],
        ),
        (
            "a pod of many empty labels",
            vec![log(vec![of(&|r| {
                let labels = many((String::new(), String::new()), 3);
                let (namespace, name) = (String::new(), String::new());
                r.name = Some(Box::new(Named::Pod(PodName {
                    namespace,
                    name,
                    labels,
                    labels_left_out: false,
                })));
            })])],
        ),
    ]
}

/// All fields of evidence that can be many.
fn evidences() -> Vec<(&'static str, Evidence)> {
    let of = |change: &dyn Fn(&mut Evidence)| {
        let mut changed = evidence();
        change(&mut changed);
        changed
    };
    let mut all = vec![
        ("empty checkpoints", of(&|e| e.checkpoints = many(vec![], 1))),
        ("checkpoints of a byte", of(&|e| e.checkpoints = many(vec![0], 2))),
        (
            "checkpoints of 8 bytes",
            of(&|e| e.checkpoints = many(vec![0; 8], 9)),
        ),
        (
            "empty pods",
            of(&|e| {
                let pod = PodInfo {
                    uid: PodUid([0; 16]),
                    namespace: String::new(),
                    name: String::new(),
                };
                e.pods = many(pod, 23);
            }),
        ),
        (
            "a boot log",
            of(&|e| {
                e.boot = Some(Boot {
                    registers: vec![],
                    log: Some(vec![0; LEN]),
                    command_line: None,
                });
            }),
        ),
    ];
    all.extend(
        lists()
            .into_iter()
            .map(|(name, list)| (name, of(&|e| e.list = list.clone()))),
    );
    all.extend(
        logs()
            .into_iter()
            .map(|(name, logs)| (name, of(&|e| e.partitions = logs.clone()))),
    );
    all
}

fn key() -> p256::ecdsa::SigningKey {
    p256::ecdsa::SigningKey::from_slice(&[0x42; 32]).unwrap()
}

/// Measures `decode` over `inputs` and holds it to `bound` bytes for each byte of input.
fn hold(decoder: &str, bound: isize, inputs: &[(&str, Vec<u8>)], decode: impl Fn(&[u8])) {
    let mut worst = (0.0, "nothing");
    for (name, input) in inputs {
        // What is made once for all inputs is not this one's.
        decode(&input[..input.len().min(64)]);
        let ((), peak) = counting::peak(|| decode(input));
        let len = input.len() as isize;
        let factor = peak as f64 / len as f64;
        if factor > worst.0 {
            worst = (factor, name);
        }
        assert!(
            peak <= bound * len + FREE,
            "{decoder}: {name}: {peak} bytes for {len} of input, {factor:.1} each; {bound} are stated"
        );
    }
    println!(
        "{decoder}: {:.1} bytes for each byte of {}; bound {bound}",
        worst.0, worst.1
    );
}

fn named<T>(all: Vec<(&'static str, T)>, bytes: impl Fn(&T) -> Vec<u8>) -> Vec<(&'static str, Vec<u8>)> {
    all.into_iter()
        .map(|(name, value)| (name, bytes(&value)))
        .collect()
}

/// The same bytes again and again.
fn repeated(bytes: &[u8], len: usize) -> Vec<u8> {
    bytes.iter().copied().cycle().take(len).collect()
}

#[test]
fn evidence_and_parts_hold_no_more_than_the_budget_of_their_length() {
    let mut inputs = named(evidences(), Evidence::to_cbor);
    // A count that nothing stands behind.
    let mut cut = inputs[0].1.clone();
    cut.truncate(cut.len() / 2);
    inputs.push(("half of it", cut));
    hold("evidence", 8, &inputs, |bytes| {
        let _ = Evidence::from_cbor(bytes);
    });
    let deltas: Vec<_> = evidences()
        .into_iter()
        .map(|(name, e)| {
            let delta = EvidenceDelta {
                list: e.list,
                checkpoints: e.checkpoints,
                partitions: e.partitions,
                pods: e.pods,
                boot: e.boot,
                ..delta()
            };
            (name, delta.to_cbor())
        })
        .collect();
    hold("part of evidence", 8, &deltas, |bytes| {
        let _ = EvidenceDelta::from_cbor(bytes);
    });
    // A sender without the key gets no further than this.
    hold("head of evidence", 0, &[inputs, deltas].concat(), |bytes| {
        let _ = Head::read(bytes);
    });
}

#[test]
fn a_tenants_bundle_a_record_a_proof_and_a_checkpoint_hold_no_more() {
    let whole = first("tenant_cbor", TenantBundle::from_cbor);
    let of = |change: &dyn Fn(&mut TenantBundle)| {
        let mut changed = whole.clone();
        change(&mut changed);
        changed.to_cbor()
    };
    let mut bundles = vec![
        ("empty entries of records", of(&|b| b.entries = many(vec![], 1))),
        ("an attestation result", of(&|b| b.ear = Some("x".repeat(LEN)))),
    ];
    bundles.extend(
        lists()
            .into_iter()
            .map(|(name, list)| (name, of(&|b| b.list = list.clone()))),
    );
    bundles.extend(
        logs()
            .into_iter()
            .map(|(name, logs)| (name, of(&|b| b.records = logs[0].records.clone()))),
    );
    hold("tenant's bundle", 8, &bundles, |bytes| {
        let _ = TenantBundle::from_cbor(bytes);
    });

    let records: Vec<_> = logs()
        .into_iter()
        .filter(|(name, _)| name.contains("ancestors"))
        .map(|(name, logs)| (name, logs[0].records[0].to_cbor()))
        .collect();
    hold("record", 8, &records, |bytes| {
        let _ = Record::from_cbor(bytes);
        // Without its own limit, as within evidence.
        let _ = wire::from_slice::<Record>(bytes, "record", bytes.len());
    });

    let proof = |hashes: usize| {
        // [1, [{0: "host", 1: 1, 2: root}, 0, [hash…]]], see docs/spec/cgpath.cddl, `proof`.
        let mut bytes = vec![0x82, 1, 0x81, 0xa3, 0, 0xa3, 0, 0x64];
        bytes.extend(b"host\x01\x01\x02\x58\x20");
        bytes.extend([0; 32]);
        bytes.extend(b"\x01\x00\x02\x9a");
        bytes.extend(u32::try_from(hashes).unwrap().to_be_bytes());
        bytes.extend(repeated(&[&[0x58, 0x20][..], &[0; 32]].concat(), hashes * 34));
        bytes
    };
    hold("proof", 8, &[("many hashes", proof(LEN / 34))], |bytes| {
        let _ = wire::from_slice::<PartitionProof>(bytes, "proof", bytes.len());
    });

    // A COSE_Sign1 of at most 64 KiB: small, and read by `coset`, which holds any CBOR as values.
    let mut file = vec![0x84, 0x40, 0xb9, 0x40, 0x00];
    for n in 0..0x4000_u16 {
        file.extend([0x19, (n >> 8) as u8, n as u8, 0]);
    }
    file.truncate(60_000);
    file.extend([0x40, 0x40]);
    let predating = {
        let mut checkpoint = first("checkpoint_file", SealedCheckpoint::from_file).checkpoint;
        checkpoint.predating = vec![PodUid([0; 16]); 3_000];
        SealedCheckpoint::seal(checkpoint, &key()).file
    };
    let nested = [vec![0x84, 0x40, 0xa1, 0x19, 0x40, 0x00], vec![0x81; 60_000]].concat();
    let inputs = [
        ("an unprotected header", file),
        ("predating pods", predating),
        ("nested arrays", nested),
    ];
    hold("checkpoint file", 24, &inputs, |bytes| {
        let _ = SealedCheckpoint::from_file(bytes);
    });
}

#[test]
fn json_holds_its_values_and_no_more() {
    let inputs = [
        ("numbers", format!("[{}0]", "0,".repeat(LEN / 2)).into_bytes()),
        (
            "empty texts",
            format!("[{}\"\"]", "\"\",".repeat(LEN / 3)).into_bytes(),
        ),
        (
            "empty objects",
            format!("[{}{{}}]", "{},".repeat(LEN / 3)).into_bytes(),
        ),
        (
            "objects with a key",
            format!("[{}{{}}]", "{\"\":0},".repeat(LEN / 7)).into_bytes(),
        ),
    ];
    hold("JSON", 100, &inputs, |bytes| {
        let _ = json::value(bytes, "JSON", bytes.len());
    });
    let inputs: Vec<_> = evidences()
        .into_iter()
        .map(|(name, e)| (name, e.to_json().unwrap()))
        .collect();
    hold("evidence as JSON", 120, &inputs, |bytes| {
        let _ = Evidence::from_json(bytes);
    });
}

#[test]
fn a_measurement_list_holds_an_entry_at_a_time() {
    let decode = |format| {
        move |bytes: &[u8]| {
            let mut decoder = Decoder::new(format);
            for chunk in bytes.chunks(64 * 1024) {
                decoder.feed(chunk);
                while let Ok(Some(_)) = decoder.next_entry() {}
            }
            decoder.end();
            while let Ok(Some(_)) = decoder.next_entry() {}
        }
    };
    let binary = seed_of("list_binary");
    let ascii = seed_of("list_ascii");
    let absurd = [
        &10u32.to_le_bytes()[..],
        &[0; 20],
        &6u32.to_le_bytes(),
        b"ima-ng",
        &[0xff; 4],
    ]
    .concat();
    let inputs = [
        ("entries", repeated(&binary, LEN)),
        ("a length that is absurd", [absurd, vec![0; LEN]].concat()),
        ("zeros", vec![0; LEN]),
    ];
    hold("binary list", 3, &inputs, decode(Format::Binary(None)));
    let inputs = [
        ("entries", repeated(&ascii, LEN)),
        ("one line", vec![b'a'; LEN]),
        ("empty lines", vec![b'\n'; LEN]),
    ];
    hold("ASCII list", 3, &inputs, decode(Format::Ascii));
}

fn seed_of(target: &str) -> Vec<u8> {
    seeds(target).next().unwrap()
}

#[test]
fn logs_quotes_and_collateral_of_a_trust_domain_hold_no_more() {
    let ccel = seed_of("td_ccel");
    // As many events as there may be, each the last one of the seed.
    let event = &ccel[ccel.len() - 80..];
    let inputs = [
        ("events", [&ccel[..], &repeated(event, LEN)].concat()),
        ("zeros", [&ccel[..], &vec![0; LEN]].concat()),
    ];
    hold("firmware's log of a trust domain", 4, &inputs, |bytes| {
        let _ = EventLog::parse_ccel(bytes);
    });
    let inputs = [("extensions", repeated(&seed_of("td_register_log"), LEN))];
    hold("log of a register", 1, &inputs, |bytes| {
        let _ = log::replay(bytes, 3, &[0; 48]);
    });
    let inputs = [("zeros behind", [seed_of("td_quote"), vec![0; LEN]].concat())];
    hold("trust domain's quote", 1, &inputs, |bytes| {
        let _ = QuoteBody::parse(bytes);
    });
    // A member that says nothing, and a text as long as may be.
    let good = String::from_utf8(seed_of("td_collateral")).unwrap();
    let long = "x".repeat(LEN - good.len() - 10);
    let inputs = [
        (
            "a long chain",
            good.replacen("\"chain\"", &format!("\"{long}\""), 1).into_bytes(),
        ),
        (
            "a long hash",
            good.replacen("\"00\"", &format!("\"{}\"", "0".repeat(long.len() & !1)), 1)
                .into_bytes(),
        ),
        (
            "numbers within",
            good.replacen(
                "{\\\"issueDate",
                &format!(
                    "{{\\\"x\\\":[{}0],\\\"issueDate",
                    "0,".repeat(long.len() / 2 - 16)
                ),
                1,
            )
            .into_bytes(),
        ),
    ];
    hold("collateral", 8, &inputs, |bytes| {
        let _ = Collateral::from_json(bytes);
    });
}

#[test]
fn boot_logs_and_structures_of_a_tpm_hold_no_more() {
    let log = seed_of("boot_log");
    // As many events as there may be, each the last one of the seed.
    let inputs = [
        ("the seed again and again", repeated(&log, LEN)),
        (
            "its end again and again",
            [&log[..], &repeated(&log[log.len() - 64..], LEN)].concat(),
        ),
        ("zeros behind its head", [&log[..64], &vec![0; LEN]].concat()),
    ];
    hold("boot log", 4, &inputs, |bytes| {
        let _ = EventLog::parse(bytes);
    });
    let all = [
        "tpm_attest",
        "tpm_signature",
        "tpm_public",
        "tpm_pcr_selection",
        "tpm_pcr_blob",
    ];
    let inputs: Vec<_> = all
        .into_iter()
        .map(|name| (name, [seed_of(name), vec![0xff; LEN]].concat()))
        .collect();
    hold("TPM structure", 1, &inputs, |bytes| {
        let _ = Attest::parse(bytes);
        let _ = Signature::parse(bytes);
        let _ = Public::parse_file(bytes);
        let _ = PcrSelection::parse(bytes);
        let _ = PcrBlob::parse(bytes);
    });
}

#[test]
fn an_attestation_result_holds_its_claims() {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    let token = |claims: &str| {
        let header = URL_SAFE_NO_PAD.encode("{\"alg\":\"ES256\",\"typ\":\"JWT\"}");
        let (claims, signature) = (URL_SAFE_NO_PAD.encode(claims), URL_SAFE_NO_PAD.encode([1; 64]));
        format!("{header}.{claims}.{signature}").into_bytes()
    };
    let inputs = [
        ("numbers", token(&format!("[{}0]", "0,".repeat(LEN / 2)))),
        (
            "empty objects",
            token(&format!("[{}{{}}]", "{},".repeat(LEN / 3))),
        ),
        ("no token", vec![b'.'; LEN]),
    ];
    // By a stranger: nothing but the signature is looked at. For `cgpath prove`, whose file it is: the
    // claims, too.
    hold("attestation result of a stranger", 1, &inputs, |bytes| {
        let key = *key().verifying_key();
        let _ = AttestationResult::read(core::str::from_utf8(bytes).unwrap(), &[key]);
    });
    hold("attestation result", 32, &inputs, |bytes| {
        let _ = AttestationResult::pods_named(core::str::from_utf8(bytes).unwrap());
    });
}

fn json_of(reference: &Reference) -> Vec<u8> {
    let mut json = Vec::new();
    reference.write_json(&mut json).unwrap();
    json
}

#[test]
fn what_an_operator_writes_holds_no_more() {
    let yaml = seed_of("policy_node");
    let inputs = [
        (
            "a list of numbers",
            [&yaml[..], b"\nx: [", &repeated(b"0,", LEN / 8), b"0]\n"].concat(),
        ),
        ("nested lists", [&b"version: "[..], &vec![b'['; 100_000]].concat()),
        ("aliases", {
            let mut text = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
            for n in 1..6 {
                let item = format!("*a{},", n - 1).repeat(10);
                text.push_str(&format!("a{n}: &a{n} [{item}]\n"));
            }
            text.into_bytes()
        }),
    ];
    hold("node policy", 400, &inputs, |bytes| {
        let _ = NodePolicy::from_yaml("hostile", bytes);
    });
    let json = String::from_utf8(seed_of("policy_reference")).unwrap();
    let mut reference = Reference::from_json("seed", json.as_bytes()).unwrap();
    for n in 0..LEN / 80 {
        let digest = cgpath_evidence::Bank::Sha256.hash(&[&n.to_be_bytes()]);
        reference.insert(format!("/{n}").into_bytes(), digest).unwrap();
    }
    let inputs = [
        (
            "an unknown list",
            json.replacen('{', &format!("{{\"x\":[{}0],", "0,".repeat(LEN / 2)), 1)
                .into_bytes(),
        ),
        ("short paths with a digest", json_of(&reference)),
    ];
    hold("reference file", 32, &inputs, |bytes| {
        let _ = Reference::from_json("hostile", bytes);
    });
    let manifest = seed_of("policy_corim");
    let full = corim::Manifest {
        id: "full".to_owned(),
        references: vec![reference],
        ..corim::Manifest::default()
    };
    let inputs = [
        ("short paths with a digest", corim::write(&full).unwrap().0),
        ("its seed and zeros", [&manifest[..], &vec![0; LEN]].concat()),
        (
            "tags",
            [
                &[0xd9, 0x01, 0xf5, 0xa1, 0x01, 0x9a, 0x00, 0x0f, 0xff, 0xff][..],
                &vec![0x40; LEN],
            ]
            .concat(),
        ),
        ("nested arrays", vec![0x81; LEN]),
    ];
    hold("CoRIM", 24, &inputs, |bytes| {
        let _ = corim::read(bytes, corim::Trust::DangerousNone, 0);
    });
    let inputs = [
        ("rules", repeated(b"measure\n", LEN)),
        ("options", repeated(b"measure func=BPRM_CHECK fsname=x\n", LEN)),
    ];
    hold("IMA policy", 16, &inputs, |bytes| {
        let _ = ima_policy::parse(core::str::from_utf8(bytes).unwrap());
    });
}

#[test]
fn an_entry_of_evidence_is_held_once_and_names_of_cgroups_and_partitions_not_at_all() {
    let inputs = [
        (
            "its seed and zeros",
            [seed_of("list_entry"), vec![0; LEN]].concat(),
        ),
        ("ones", vec![0xff; LEN]),
        ("zeros", vec![0; LEN]),
    ];
    hold("entry of evidence", 3, &inputs, |bytes| {
        if let Ok(entry) = ListEntry::from_canonical(0, bytes) {
            let _ = entry.fields(Templates::builtin());
        }
    });
    let group = b"/kubepods/burstable/pod11111111-2222-3333-4444-555555555555";
    let inputs = [
        ("groups", repeated(group, LEN)),
        ("slashes", vec![b'/'; LEN]),
        ("digits", vec![b'1'; LEN]),
    ];
    hold("cgroup path, partition", 0, &inputs, |bytes| {
        let _ = cgroup::attribute(bytes);
        let _ = PodUid::parse(bytes);
        let _ = PartitionKey::parse(core::str::from_utf8(bytes).unwrap());
    });
}

/// What stands in a journal: length, checksum, kind, payload.
#[cfg(feature = "collector")]
fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let sealed = [&[kind][..], payload].concat();
    let length = u32::try_from(payload.len()).unwrap().to_le_bytes();
    [&length[..], &crc32fast::hash(&sealed).to_le_bytes(), &sealed].concat()
}

#[cfg(feature = "collector")]
#[test]
fn what_a_collector_reads_holds_no_more() {
    use cgpathd::config::Config;
    use cgpathd::deliver::push;
    use cgpathd::journal::{Frames, START};
    use std::path::Path;

    let record = seed_of("collector_record");
    let inputs = [
        ("a record and zeros", [record.clone(), vec![0; LEN]].concat()),
        ("ones", vec![0xff; LEN]),
    ];
    // Of the input there is one copy, as the ring gives it.
    hold("raw record", 2, &inputs, |bytes| {
        let _ = cgpathd::decode::decode(&bytes::Bytes::copy_from_slice(bytes));
    });
    let head = vec![0; START as usize];
    let mut inputs = vec![("its seed", repeated(&seed_of("collector_spool"), LEN))];
    let array = [&[0x9a, 0, 0x0f, 0xff, 0xff][..], &vec![0x80; LEN - 64]].concat();
    for kind in 0..4 {
        inputs.push((
            "many frames",
            [&head[..], &repeated(&frame(kind, &record), LEN)].concat(),
        ));
        inputs.push(("zeros", [&head[..], &frame(kind, &vec![0; LEN - 64])].concat()));
        inputs.push((
            "nested arrays",
            [&head[..], &frame(kind, &vec![0x81; LEN - 64])].concat(),
        ));
        inputs.push(("empty arrays", [&head[..], &frame(kind, &array)].concat()));
    }
    hold("journal", 3, &inputs, |bytes| {
        let rest = &bytes[bytes.len().min(START as usize)..];
        let mut frames = Frames::new(rest, Path::new("hostile"), bytes.len() as u64);
        while let Ok(Some(frame)) = frames.next_frame() {
            let _ = frame.into_fact();
        }
    });
    let inputs = [
        ("numbers", format!("x = [{}0]", "0,".repeat(LEN / 2)).into_bytes()),
        (
            "empty tables",
            format!("x = [{}{{}}]", "{},".repeat(LEN / 3)).into_bytes(),
        ),
        (
            "keys",
            (0..LEN / 10)
                .flat_map(|n| format!("a{n:06}=0\n").into_bytes())
                .collect(),
        ),
    ];
    hold("collector's configuration", 400, &inputs, |bytes| {
        let text = core::str::from_utf8(bytes).unwrap();
        let _ = Config::from_parts(Path::new("hostile"), text, [], &[]);
    });
    let inputs = [
        (
            "a long nonce",
            format!("{{\"nonce\":\"{}\"}}", "00".repeat(LEN / 2)).into_bytes(),
        ),
        (
            "numbers",
            format!("{{\"pods\":[{}0]}}", "0,".repeat(LEN / 2)).into_bytes(),
        ),
        ("no JSON", vec![b'['; LEN]),
    ];
    hold("verifier's answer with a nonce", 4, &inputs, |bytes| {
        let _ = push::parse_nonce(bytes);
    });
    hold("verifier's answer with a verdict", 100, &inputs, |bytes| {
        if let Ok(answer) = serde_json::from_slice::<serde_json::Value>(bytes) {
            let _ = push::parse_verdict(&answer);
        }
    });
}

/// The targets of `fuzz` that are measured here, by what of a name is theirs alone. A request to the service
/// is read by many threads, whose bytes no test of this kind counts: see docs/spec/api.md, Limits.
#[test]
fn every_decoder_that_is_fuzzed_is_measured() {
    const SOURCE: &str = include_str!("memory.rs");
    const BY_TYPE: &[(&str, &str)] = &[
        ("list_any", "decode(Format::Ascii)"),
        ("evidence_json", "Evidence::from_json"),
        ("tenant_cbor", "TenantBundle::from_cbor"),
        ("partition_proof", "PartitionProof"),
        ("partition_key", "PartitionKey::parse"),
        ("cgroup_path", "cgroup::attribute"),
        ("ear_token", "AttestationResult::read"),
        ("ima_policy", "ima_policy::parse"),
        ("collector_config", "Config::from_parts"),
        ("answer_nonce", "push::parse_nonce"),
        ("answer_verdict", "push::parse_verdict"),
        ("serve_request", "read by many threads"),
    ];
    let (measured, _) = SOURCE
        .split_once("fn every_decoder_that_is_fuzzed_is_measured")
        .unwrap();
    for target in fuzz::all() {
        let by_type = BY_TYPE.iter().find(|(name, _)| *name == target.name);
        let sign = by_type.map_or_else(|| format!("\"{}\"", target.name), |(_, sign)| (*sign).to_owned());
        assert!(measured.contains(&sign), "{} is not measured", target.name);
    }
}
