//! Inputs to begin with, made by the project's own writers: the committed corpus is exactly this, so that a format
//! that changes by accident shows as a changed file. Names that begin with `bad-` are inputs that must be refused.

use cgpath_evidence::boot::{Boot, Registers};
use cgpath_evidence::list::ListEntry;
use cgpath_evidence::proof::{PartitionProof, PartitionTree, SealedPartition};
use cgpath_evidence::tpm::{
    self, Attest, Attributes, ClockInfo, KeyKind, PcrBlob, PcrSelection, Public, Scheme, Signature,
};
use cgpath_evidence::{
    Ancestor, Bank, Checkpoint, Digest, Entry, EventKind, Evidence, FileHash, Guard, GuardAction, GuardMode,
    InFlight, Losses, Part, PartitionKey, PartitionLog, PodInfo, PodLoss, PodUid, Position, Protection,
    Quote, Record, SealedCheckpoint, TenantBundle, Tier,
};
use p256::ecdsa::SigningKey;

type Seeds = Vec<(String, Vec<u8>)>;

fn seeds<N: Into<String>>(seeds: impl IntoIterator<Item = (N, Vec<u8>)>) -> Seeds {
    seeds
        .into_iter()
        .map(|(name, bytes)| (name.into(), bytes))
        .collect()
}

const POD: &str = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod11111111_2222_3333_4444_555555555555.slice/cri-containerd-0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.scope";

/// Writes integers in either byte order.
fn word(big: bool, n: usize) -> [u8; 4] {
    let n = n as u32;
    if big { n.to_be_bytes() } else { n.to_le_bytes() }
}

/// A list record whose fields are given, with its right digest or that of a violation.
fn record(big: bool, bank: Bank, template: &str, fields: &[Vec<u8>], violation: bool) -> Vec<u8> {
    let (data, hashed) = if template == "ima" {
        let data = [&fields[0][..], &word(big, fields[1].len()), &fields[1]].concat();
        let mut hashed = [&fields[0][..], &fields[1]].concat();
        hashed.resize(20 + 256, 0);
        (data, hashed)
    } else {
        let data: Vec<u8> = fields
            .iter()
            .flat_map(|f| [&word(big, f.len()), &f[..]].concat())
            .collect();
        (data.clone(), data)
    };
    let digest = if violation {
        Digest::zero(bank)
    } else {
        bank.hash(&[&hashed])
    };
    let mut record = [
        &word(big, 10)[..],
        digest.bytes(),
        &word(big, template.len()),
        template.as_bytes(),
    ]
    .concat();
    if template != "ima" {
        record.extend(word(big, data.len()));
    }
    record.extend(data);
    record
}

fn digest_field(prefix: &str, bank: Bank) -> Vec<u8> {
    [
        format!("{prefix}{bank}:\0").as_bytes(),
        bank.hash(&[b"content"]).bytes(),
    ]
    .concat()
}

fn text(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

/// One entry of each template, by name.
fn entries(big: bool, bank: Bank) -> Vec<(&'static str, Vec<u8>)> {
    let (ng, name) = (digest_field("", Bank::Sha256), text("/usr/bin/true"));
    let v2 = digest_field("verity:", Bank::Sha512);
    let number = |n: u32| word(big, n as usize).to_vec();
    let mode = if big { vec![0x81, 0xed] } else { vec![0xed, 0x81] };
    let make = |template, fields: &[Vec<u8>]| (template, record(big, bank, template, fields, false));
    vec![
        make("ima", &[vec![7; 20], b"/usr/bin/old".to_vec()]),
        make("ima-ng", &[ng.clone(), name.clone()]),
        make("ima-sig", &[ng.clone(), name.clone(), vec![3, 2, 4, 1]]),
        make("ima-ngv2", &[digest_field("ima:", Bank::Sha1), name.clone()]),
        make("ima-sigv2", &[v2, name.clone(), vec![]]),
        make(
            "ima-buf",
            &[ng.clone(), text("kexec-cmdline"), b"root=/dev/vda quiet".to_vec()],
        ),
        make(
            "ima-modsig",
            &[ng.clone(), name.clone(), vec![], ng.clone(), vec![0x30, 0x82]],
        ),
        make(
            "evm-sig",
            &[
                ng.clone(),
                name.clone(),
                vec![5, 2],
                text("security.selinux|security.ima"),
                [number(3), number(2)].concat(),
                b"ctxhs".to_vec(),
                number(0),
                number(1000),
                mode,
            ],
        ),
        make(
            "ima-cgpath",
            &[
                text("/bin/sh:/usr/bin/containerd-shim-runc-v2:swapper/0"),
                text(POD),
                ng.clone(),
                name,
            ],
        ),
        make("n-ng|d-ng", &[text("/a name\nwith\u{1b}[31m"), ng]),
    ]
}

/// A list of one entry of each template and a violation.
fn list(big: bool, bank: Bank) -> Vec<u8> {
    let mut list: Vec<u8> = entries(big, bank)
        .into_iter()
        .flat_map(|(_, record)| record)
        .collect();
    list.extend(record(
        big,
        bank,
        "ima-ng",
        &[digest_field("", Bank::Sha1), text("/var/log/wtmp")],
        true,
    ));
    list
}

/// Lists of every form.
pub fn list_any() -> Seeds {
    let mut all = list_binary();
    all.extend(list_ascii());
    all
}

/// Binary lists of each bank, in both byte orders.
pub fn list_binary() -> Seeds {
    let mut all = seeds(Bank::ALL.map(|bank| (format!("little-{bank}"), list(false, bank))));
    all.push(("big-sha1".to_owned(), list(true, Bank::Sha1)));
    all.push(("big-sha384".to_owned(), list(true, Bank::Sha384)));
    let mut absurd = list(false, Bank::Sha1);
    absurd[31..35].fill(0xff);
    all.push(("bad-absurd-length".to_owned(), absurd));
    all
}

/// ASCII lists.
pub fn list_ascii() -> Seeds {
    let templates = cgpath_evidence::list::Templates::builtin();
    let ascii = |bank: Bank| {
        let entries = entries(false, bank);
        let lines = entries.iter().filter_map(|(_, record)| {
            let entry = ListEntry::from_canonical(0, record.as_slice()).ok()?;
            entry.to_ascii(templates).ok()
        });
        lines.flat_map(|line| [line, b"\n".to_vec()].concat()).collect()
    };
    let mut all = seeds([("sha1", ascii(Bank::Sha1)), ("sha512", ascii(Bank::Sha512))]);
    let digest = "00".repeat(20);
    let unknown = format!("10 {digest} ima-ng sha257:0011 /x\n10 {digest} ima-own sha1:{digest} /x\n");
    all.push(("bad-unknown".to_owned(), unknown.into_bytes()));
    all
}

/// Canonical records of each template.
pub fn list_entry() -> Seeds {
    seeds(
        entries(false, Bank::Sha1)
            .into_iter()
            .map(|(name, record)| (name.replace('|', "+"), record)),
    )
}

fn sample_record(seq: u64, kind: EventKind) -> Record {
    let is_entry = matches!(kind, EventKind::Entry | EventKind::Violation);
    Record {
        seq,
        boot_ns: 1_000_000 * seq,
        kind,
        ret: if seq.is_multiple_of(2) { -17 } else { 0 },
        pcr: if is_entry { 10 } else { 0 },
        digests: if is_entry {
            vec![Bank::Sha1.hash(&[b"a"]), Bank::Sha256.hash(&[b"a"])]
        } else {
            vec![]
        },
        hash: match kind {
            EventKind::Entry | EventKind::Violation | EventKind::Guard | EventKind::PodLoss => None,
            EventKind::Script => Some(FileHash::PreCheck(Bank::Sha256.hash(&[b"s"]))),
            EventKind::LateMapping => Some(FileHash::Unhashed(-22)),
            EventKind::Execution | EventKind::Mapping => Some(FileHash::Measured(Bank::Sha256.hash(&[b"x"]))),
        },
        path: b"/usr/bin/\xff\xfetrue".to_vec(),
        dev: 8 << 20 | 1,
        ino: 4711,
        cgroup_id: 99,
        cgroup: (seq != 3).then(|| POD.as_bytes().to_vec()),
        pid: 1234,
        uid: 1000,
        mnt_ns: 4026531840,
        pid_ns: 4026531836,
        ancestry: vec![
            ancestor(1234, b"/bin/sh", cgpath_evidence::record::ExeSource::Recorded),
            ancestor(
                1000,
                b"/usr/bin/containerd-shim-runc-v2",
                cgpath_evidence::record::ExeSource::Seeded,
            ),
            ancestor(1, b"", cgpath_evidence::record::ExeSource::Unknown),
        ],
        ancestry_cut: false,
        path_cut: seq == 4,
        guard: (kind == EventKind::Guard).then_some(Guard {
            action: GuardAction::PinRemoved,
            object: 7,
        }),
        pod_loss: (kind == EventKind::PodLoss).then_some(PodLoss {
            executions: 1,
            mappings: 300_000,
            denials: 0,
            repeats: 2,
            first_ns: 5_000_000,
            last_ns: 7_000_000,
        }),
    }
}

fn ancestor(tgid: u32, exe: &[u8], source: cgpath_evidence::record::ExeSource) -> Ancestor {
    Ancestor {
        tgid,
        start_ns: u64::from(tgid) * 7,
        exe: exe.to_vec(),
        dev: 1,
        ino: 2,
        source,
    }
}

fn records() -> Vec<(&'static str, Record)> {
    vec![
        ("entry", sample_record(1, EventKind::Entry)),
        ("violation", sample_record(2, EventKind::Violation)),
        ("execution", sample_record(3, EventKind::Execution)),
        ("script", sample_record(4, EventKind::Script)),
        ("mapping", sample_record(5, EventKind::Mapping)),
        ("late-mapping", sample_record(6, EventKind::LateMapping)),
        ("guard", sample_record(7, EventKind::Guard)),
        ("pod-loss", sample_record(8, EventKind::PodLoss)),
    ]
}

/// Records of each kind.
pub fn record_cbor() -> Seeds {
    seeds(
        records()
            .into_iter()
            .map(|(name, record)| (name, record.to_cbor())),
    )
}

pub(crate) fn key() -> SigningKey {
    SigningKey::from_slice(&[0x42; 32]).expect("a scalar of the curve")
}

fn sealed(number: u64, previous: [u8; 32]) -> SealedCheckpoint {
    let checkpoint = Checkpoint {
        version: 1,
        boot_id: [9; 16],
        number,
        previous,
        list_len: 11,
        settled: 10,
        boot_len: 2,
        records: 6,
        executions: 4,
        last_seq: 6,
        losses: Losses {
            reserve: 0,
            recursion: 1,
            read: 0,
            spool: 0,
        },
        blind: false,
        partitions: 1,
        partitions_root: [1; 32],
        bpf_object: [2; 32],
        ima_policy: (number == 0).then_some([3; 32]),
        nonce_hash: (number == 1).then_some([4; 32]),
        key: (number == 0).then(|| key().verifying_key().to_encoded_point(true).as_bytes().to_vec()),
        starts: 1,
        predating: vec![PodUid([5; 16])],
        hierarchy: "v2".to_owned(),
        protection: (number == 1).then_some(Protection {
            guard: GuardMode::Deny,
            tpm: GuardMode::Record,
            enforce: true,
            fail_closed: false,
        }),
    };
    SealedCheckpoint::seal(checkpoint, &key())
}

/// Checkpoint files.
pub fn checkpoint_file() -> Seeds {
    let first = sealed(0, [0; 32]);
    let second = sealed(1, first.digest());
    seeds([("first", first.file), ("second", second.file)])
}

fn evidence() -> Evidence {
    let full = entries(false, Bank::Sha1)
        .into_iter()
        .map(|(_, record)| Entry::Full(record));
    let opaque = Entry::Opaque {
        pcr: 10,
        digests: vec![Digest::zero(Bank::Sha1), Digest::zero(Bank::Sha256)],
    };
    let first = sealed(0, [0; 32]);
    let second = sealed(1, first.digest());
    let uid = PodUid::parse(b"11111111-2222-3333-4444-555555555555").expect("a UID");
    Evidence {
        version: 1,
        tier: Tier::Bpf,
        node: "node-1".to_owned(),
        boot_id: [9; 16],
        quote: Quote {
            attest: attest().to_bytes(),
            signature: ecdsa().to_bytes(),
            ak: ecc().to_bytes(),
        },
        list: full.chain([opaque]).collect(),
        checkpoints: vec![first.file, second.file],
        partitions: vec![PartitionLog {
            key: PartitionKey::Pod(uid),
            records: records().into_iter().map(|(_, record)| record).collect(),
        }],
        pods: vec![PodInfo {
            uid,
            namespace: "default".to_owned(),
            name: "pod-a".to_owned(),
        }],
        kernel: "6.12.0".to_owned(),
        boot: Some(Boot {
            registers: registers(),
            log: Some(include_bytes!("../../evidence/tests/boot/ovmf-uki-6.12.log").to_vec()),
            command_line: Some(b"quiet".to_vec()),
        }),
        unsealed: Vec::new(),
        in_flight: Vec::new(),
    }
}

fn registers() -> Vec<Registers> {
    let values = (0..10u8).map(|n| Bank::Sha256.hash(&[&[n]])).collect();
    vec![Registers::new(values).expect("ten digests of one bank")]
}

/// The same with something behind its seal.
fn pending() -> Evidence {
    let mark = |cgroup| InFlight {
        tid: 4711,
        since_ns: 1_000_000_007,
        cgroup,
    };
    let evidence = evidence();
    Evidence {
        unsealed: evidence.partitions.clone(),
        in_flight: vec![mark(None), mark(Some(b"/user.slice".to_vec()))],
        ..evidence
    }
}

/// Evidence as CBOR.
pub fn evidence_cbor() -> Seeds {
    seeds([("small", evidence().to_cbor()), ("pending", pending().to_cbor())])
}

/// What [`evidence_part`]'s good part follows.
pub(crate) fn kept() -> Evidence {
    Evidence {
        checkpoints: vec![sealed(0, [0; 32]).file],
        ..evidence()
    }
}

/// Parts of evidence.
pub fn evidence_part() -> Seeds {
    let Evidence {
        tier,
        node,
        boot_id,
        quote,
        list,
        checkpoints,
        partitions,
        pods,
        kernel,
        boot,
        unsealed,
        in_flight,
        ..
    } = evidence();
    let from = Position {
        base: [5; 32],
        boot_id,
        entries: 2,
        checkpoint: 0,
        digest: sealed(0, [0; 32]).digest(),
    };
    let part = Part {
        version: 1,
        tier,
        node,
        boot_id,
        quote,
        list: list.into_iter().skip(2).collect(),
        checkpoints: checkpoints.into_iter().skip(1).collect(),
        partitions,
        pods,
        kernel,
        boot: boot.map(|boot| Boot {
            log: None,
            command_line: None,
            ..boot
        }),
        from,
        unsealed,
        in_flight,
    };
    let changed = |change: &dyn Fn(&mut Part)| {
        let mut part = part.clone();
        change(&mut part);
        part.to_cbor()
    };
    seeds([
        ("follows", part.to_cbor()),
        (
            "pending",
            changed(&|part| (part.unsealed, part.in_flight) = (pending().unsealed, pending().in_flight)),
        ),
        (
            "marks-alone",
            changed(&|part| part.in_flight = pending().in_flight),
        ),
        ("bad-entries", changed(&|part| part.from.entries = u64::MAX)),
        ("bad-checkpoint", changed(&|part| part.from.checkpoint = 7)),
        ("bad-boot", changed(&|part| part.from.boot_id = [1; 16])),
    ])
}

/// Evidence as JSON.
pub fn evidence_json() -> Seeds {
    let json = serde_json::to_vec_pretty(&evidence()).expect("evidence has a JSON form");
    let text = String::from_utf8_lossy(&json);
    let twice = text.replacen("\"version\": 1", "\"version\": 1, \"version\": 1", 1);
    let pending = serde_json::to_vec_pretty(&pending()).expect("evidence has a JSON form");
    seeds([
        ("small.json", json),
        ("pending.json", pending),
        ("bad-twice.json", twice.into_bytes()),
    ])
}

fn proofs() -> [(&'static str, PartitionProof); 3] {
    let pod = |n| PartitionKey::Pod(PodUid([n; 16]));
    let tree = PartitionTree::new([1, 3, 5].map(|n| SealedPartition {
        key: pod(n),
        size: u64::from(n),
        root: [n; 32],
    }));
    [
        ("present", tree.prove(pod(3))),
        ("absent", tree.prove(pod(4))),
        ("absent-first", tree.prove(pod(0))),
    ]
}

/// Proofs that a partition is there and that it is not.
pub fn partition_proof() -> Seeds {
    seeds(proofs().map(|(name, proof)| (name, cgpath_evidence::wire::to_vec(&proof))))
}

/// Tenants' bundles: whole, for a follower, and of a pod that is absent.
pub fn tenant_cbor() -> Seeds {
    let evidence = evidence();
    let [(_, present), (_, absent), _] = proofs();
    let whole = TenantBundle {
        version: 1,
        pod: PodUid([3; 16]),
        node: evidence.node,
        boot_id: evidence.boot_id,
        quote: evidence.quote,
        from: 0,
        list: evidence.list[8..].to_vec(),
        first: evidence.checkpoints.first().cloned(),
        last: evidence.checkpoints[1].clone(),
        proof: present,
        records: records().into_iter().map(|(_, record)| record).collect(),
        entries: vec![entries(false, Bank::Sha1).remove(1).1],
        ear: Some("e30.e30.e30".to_owned()),
        registers: Some(registers()),
    };
    let follower = TenantBundle {
        from: 9,
        first: None,
        ..whole.clone()
    };
    let absent = TenantBundle {
        proof: absent,
        records: vec![],
        entries: vec![],
        ear: None,
        registers: None,
        ..whole.clone()
    };
    let bundles = [("whole", whole), ("follower", follower), ("absent", absent)];
    seeds(bundles.map(|(name, bundle)| (name, bundle.to_cbor())))
}

/// Attestation results: one that is signed by the key of these seeds, and one with a claim twice.
pub fn ear_token() -> Seeds {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    use p256::ecdsa::{Signature, signature::Signer};
    let token = |claims: &str| {
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let message = format!("{}.{}", part(r#"{"alg":"ES256","typ":"JWT"}"#), part(claims));
        let signature: Signature = key().sign(message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature.to_bytes())).into_bytes()
    };
    let node = r#""node":{"ear_status":"affirming","ear_verifier_claims":{"dangerous":[]}}"#;
    let claims = |more: &str| {
        format!(
            r#"{{"eat_profile":"tag:ietf.org,2026:rats/ear#04","iat":1800000000{more},"submods":{{{node}}}}}"#
        )
    };
    seeds([
        ("good", token(&claims(""))),
        ("bad-twice", token(&claims(r#","iat":1"#))),
        ("bad-dots", b"...".to_vec()),
    ])
}

/// Names of partitions and of checkpoint files.
pub fn partition_key() -> Seeds {
    seeds([
        ("host", b"host".to_vec()),
        ("pod", b"11111111-2222-3333-4444-555555555555".to_vec()),
        ("systemd", b"11111111_2222_3333_4444_555555555555".to_vec()),
        ("static", b"0123456789abcdef0123456789abcdef".to_vec()),
        ("checkpoint", b"/run/ima-cgpath/checkpoint/17".to_vec()),
        ("bad-mixed", b"11111111-2222_3333-4444-555555555555".to_vec()),
    ])
}

fn attest() -> Attest {
    Attest {
        qualified_signer: [&[0, 0x0b][..], &[7; 32]].concat(),
        extra_data: b"0123456789abcdef".to_vec(),
        clock: ClockInfo {
            clock: 123_456,
            reset_count: 3,
            restart_count: 1,
            safe: true,
        },
        firmware_version: 0x2023_0119_0016_3636,
        pcr_select: PcrSelection::of(Bank::Sha256, &[10]),
        pcr_digest: vec![8; 32],
    }
}

/// Quotes.
pub fn tpm_attest() -> Seeds {
    let mut two = attest();
    two.pcr_select
        .banks
        .extend(PcrSelection::of(Bank::Sha1, &[0, 1, 2, 3, 10]).banks);
    let mut certify = attest().to_bytes();
    certify[5] = 0x17;
    seeds([
        ("sha256", attest().to_bytes()),
        ("two-banks", two.to_bytes()),
        ("bad-certify", certify),
    ])
}

fn ecdsa() -> Signature {
    Signature::Ecdsa {
        hash: Bank::Sha256.tpm_alg(),
        r: vec![0x11; 32],
        s: vec![0x22; 31],
    }
}

/// Signatures of each scheme.
pub fn tpm_signature() -> Seeds {
    let hash = Bank::Sha256.tpm_alg();
    seeds([
        ("ecdsa", ecdsa().to_bytes()),
        (
            "rsassa",
            Signature::Rsassa {
                hash,
                signature: vec![0x33; 256],
            }
            .to_bytes(),
        ),
        (
            "rsapss",
            Signature::Rsapss {
                hash,
                signature: vec![0x33; 256],
            }
            .to_bytes(),
        ),
        ("bad-hmac", vec![0, 5, 0, 0x0b, 0, 0]),
    ])
}

fn ecc() -> Public {
    let point = key().verifying_key().to_encoded_point(false);
    let hash = Bank::Sha256.tpm_alg();
    Public {
        name_alg: hash,
        attributes: Attributes(0x0005_0472),
        auth_policy: vec![],
        symmetric: None,
        key: KeyKind::Ecc {
            scheme: Scheme::new(tpm::alg::ECDSA, hash),
            curve: tpm::ECC_NIST_P256,
            kdf: Scheme::NULL,
            x: point.x().map(|x| x.to_vec()).unwrap_or_default(),
            y: point.y().map(|y| y.to_vec()).unwrap_or_default(),
        },
    }
}

/// Public areas, bare and sized.
pub fn tpm_public() -> Seeds {
    let rsa = Public {
        name_alg: Bank::Sha384.tpm_alg(),
        attributes: Attributes(0x0003_00b2),
        auth_policy: vec![6; 48],
        symmetric: Some(tpm::Symmetric {
            alg: 6,
            key_bits: 128,
            mode: 0x43,
        }),
        key: KeyKind::Rsa {
            scheme: Scheme::NULL,
            bits: 2048,
            exponent: 0,
            modulus: vec![0xc3; 256],
        },
    };
    seeds([
        ("ecc", ecc().to_bytes()),
        ("ecc-sized", ecc().to_tpm2b()),
        ("rsa", rsa.to_bytes()),
    ])
}

/// Selections.
pub fn tpm_pcr_selection() -> Seeds {
    let mut two = PcrSelection::of(Bank::Sha256, &[10]);
    two.banks.extend(PcrSelection::of(Bank::Sha1, &[0, 23]).banks);
    seeds([
        ("one", PcrSelection::of(Bank::Sha384, &[0, 7, 10]).to_bytes()),
        ("two", two.to_bytes()),
    ])
}

/// Register values as tpm2-tools writes them.
pub fn tpm_pcr_blob() -> Seeds {
    let pcrs: Vec<u32> = (0..=10).collect();
    let select = PcrSelection::of(Bank::Sha256, &pcrs);
    let values = pcrs
        .iter()
        .map(|n| Bank::Sha256.hash(&[&n.to_be_bytes()]).bytes().to_vec())
        .collect();
    seeds([("eleven", PcrBlob { select, values }.to_bytes())])
}

/// The log of a real boot, the same in memory that was larger, and one without a Spec ID.
pub fn boot_log() -> Seeds {
    let real = include_bytes!("../../evidence/tests/boot/ovmf-uki-6.12.log").to_vec();
    let unused = [&real[..], &[0xff; 64]].concat();
    let mut old = real.clone();
    old[32] ^= 1;
    seeds([("ovmf-uki", real), ("unused", unused), ("bad-no-spec-id", old)])
}

/// Paths of every driver and of none.
pub fn cgroup_path() -> Seeds {
    let id = "0123456789abcdef".repeat(4);
    let uid = "11111111-2222-3333-4444-555555555555";
    seeds([
        ("systemd", POD.as_bytes().to_vec()),
        (
            "cgroupfs",
            format!("/kubepods/besteffort/pod{uid}/{id}").into_bytes(),
        ),
        (
            "crio",
            format!("/kubepods/pod{uid}/crio-conmon-{id}.scope").into_bytes(),
        ),
        (
            "kind",
            POD.replace("kubepods", "kubelet-kubepods")
                .replacen("/kubelet-", "/kubelet.slice/kubelet-", 1)
                .into_bytes(),
        ),
        (
            "nested",
            format!("/kubepods/pod{uid}/{id}/kubelet/kubepods/pod{uid}").into_bytes(),
        ),
        (
            "look-alike",
            format!("/system.slice/kubepods-fake-pod{uid}.service").into_bytes(),
        ),
        (
            "dep",
            b"/bin/sh:/usr/bin/containerd-shim-runc-v2:/usr/lib/systemd/systemd".to_vec(),
        ),
    ])
}

/// Node policies.
pub fn policy_node() -> Seeds {
    const POLICY: &str = "\
version: 1
node: seed
accept:
  tiers: [kernel, bpf]
  templates: [ima-cgpath, ima-ng]
  banks: [sha256]
  bpf-objects: ['sha256:0000000000000000000000000000000000000000000000000000000000000000']
  ima-policies: ['sha256:0ee51d5f2246792ff6f8cd1bace21620883085a113153c75ed55ab3aafef35a8']
  collector: /usr/sbin/cgpathd
host: { references: [host.json] }
violations: { permit: [/var/log/**, '/tmp/*.so'] }
pods:
  - uid: 11111111-2222-3333-4444-555555555555
    name: default/pod-a
    references: [pod-a.json]
";
    let bomb = "a: &a [x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a]\nc: &c [*b, *b, *b, *b, *b, *b, *b, *b]\nd: &d [*c, *c, *c, *c, *c, *c, *c, *c]\ne: &e [*d, *d, *d, *d, *d, *d, *d, *d]\nf: [*e, *e, *e, *e, *e, *e, *e, *e]\n";
    let deep = "[".repeat(2000);
    seeds([
        ("small.yaml", POLICY.as_bytes().to_vec()),
        ("bad-alias-bomb.yaml", bomb.as_bytes().to_vec()),
        ("bad-deep.yaml", deep.into_bytes()),
    ])
}

/// Reference values.
pub fn policy_reference() -> Seeds {
    let source = cgpath_policy::Source {
        kind: cgpath_policy::SourceKind::Image,
        name: "docker.io/x:1".to_owned(),
        digest: None,
    };
    let mut reference = cgpath_policy::Reference::new(source);
    for path in [&b"/bin/sh"[..], b"/bin/true", b"/bin/\xff"] {
        reference
            .insert(path.to_vec(), Bank::Sha256.hash(&[path]))
            .expect("a path that may stand there");
    }
    let mut json = Vec::new();
    reference.write_json(&mut json).expect("memory can be written");
    seeds([
        ("three.json", json),
        ("bad-deep.json", "[".repeat(2000).into_bytes()),
    ])
}

/// Manifests: a node's with everything, values alone, a signed one.
pub fn policy_corim() -> Seeds {
    use cgpath_policy::corim::{Manifest, ManifestPod, sign, write};
    use cgpath_policy::{BootEvent, BootPolicy, Reference, Source, SourceKind};
    let values = |kind, name: &str, paths: &[&str]| {
        let mut reference = Reference::new(Source {
            kind,
            name: name.to_owned(),
            digest: Some(Bank::Sha256.hash(&[name.as_bytes()])),
        });
        for path in paths {
            let path = path.as_bytes();
            reference
                .insert(path.to_vec(), Bank::Sha256.hash(&[path]))
                .expect("a path that may stand there");
        }
        reference
    };
    let mut image = values(SourceKind::Image, "x:1", &["/bin/sh", "/init"]);
    image
        .origins
        .set(b"/init".to_vec(), "sha256:layer")
        .expect("a name that may stand there");
    let digest = |n| Bank::Sha256.hash(&[&[n]]);
    let boot = BootPolicy {
        registers: [(0, vec![digest(0), digest(1)]), (7, vec![digest(7)])].into(),
        command_lines: vec!["root=/dev/vda ro".to_owned()],
        events: vec![BootEvent {
            pcr: 4,
            kind: cgpath_evidence::boot::EventType::APPLICATION,
            name: "a.efi".to_owned(),
            digests: vec![digest(4)],
            optional: false,
        }],
        firmware_deviations: Vec::new(),
    };
    let whole = Manifest {
        id: "urn:x".to_owned(),
        node: Some("n".to_owned()),
        references: vec![
            values(SourceKind::Rootfs, "root", &["/sbin/a", "boot_aggregate"]),
            image,
        ],
        host: vec![0],
        sandbox: vec![1],
        pods: vec![ManifestPod {
            uid: PodUid([0x11; 16]),
            name: "a/b".to_owned(),
            references: vec![1, 0],
        }],
        boot: Some(boot),
    };
    let alone = Manifest {
        references: vec![values(SourceKind::Log, "list", &["/a/b/c"])],
        id: "urn:y".to_owned(),
        ..Manifest::default()
    };
    let bytes = |manifest| write(manifest).expect("it has a form").0;
    let key = SigningKey::from_slice(&[5; 32]).expect("a scalar");
    let mut bad = bytes(&alone);
    bad.push(0);
    seeds([
        ("whole", bytes(&whole)),
        ("alone", bytes(&alone)),
        (
            "signed",
            sign(&bytes(&alone), "who", &key).expect("it can be signed"),
        ),
        ("bad-longer", bad),
        ("bad-deep", vec![0x81; 2000]),
    ])
}

/// Requests: each route, with and without a token, alone and one after the other.
#[cfg(feature = "service")]
pub fn serve_request() -> Seeds {
    let (token, node, _) = cgpath_service::fuzzing::Service::GIVEN;
    let with = |authorization: &str, target: &str| {
        format!("GET {target} HTTP/1.1\r\nHost: v\r\nAuthorization: {authorization}\r\n\r\n").into_bytes()
    };
    let get = |target: &str| with(&format!("Bearer {token}"), target);
    let post = |target: &str, body: &[u8]| {
        let head = format!(
            "POST {target} HTTP/1.1\r\nHost: v\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        [head.as_bytes(), body].concat()
    };
    let pod = "01010101-0101-0101-0101-010101010101";
    let history = get(&format!("/v1/nodes/{node}/history?limit=2&before=9"));
    seeds([
        ("nodes", get("/v1/nodes")),
        ("verdict", get(&format!("/v1/nodes/{node}/verdict"))),
        ("history", history.clone()),
        ("page", get("/")),
        ("metrics", get("/metrics")),
        ("revocations", get("/v1/revocations?limit=5")),
        ("stream", get(&format!("/v1/nodes/{node}/stream"))),
        ("nonce", post(&format!("/v1/nodes/{node}/nonce"), b"")),
        ("two", [get("/healthz"), history].concat()),
        ("bad-pod", get(&format!("/v1/nodes/{node}/pods/{pod}/stream?from=18446744073709551616"))),
        ("bad-token", with("Basic eDp5", &format!("/v1/nodes/{node}/ear"))),
        ("bad-evidence", post(&format!("/v1/nodes/{node}/evidence"), &[0xa1, 0x00, 0x01])),
        (
            "bad-chunked",
            format!("POST /v1/nodes/{node}/evidence HTTP/1.1\r\nHost: v\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nffffffffff\r\n")
                .into_bytes(),
        ),
        ("bad-method", b"DELETE /v1/nodes HTTP/1.0\r\n\r\n".to_vec()),
    ])
}

/// Rule files.
pub fn ima_policy() -> Seeds {
    const WHOLE: &str = "\
# procfs
dont_measure fsmagic=0x9fa0
measure func=BPRM_CHECK
measure func=MMAP_CHECK mask=MAY_EXEC
measure func=MODULE_CHECK
measure func=FIRMWARE_CHECK
measure func=KEXEC_KERNEL_CHECK
measure func=KEXEC_INITRAMFS_CHECK
measure func=KEXEC_CMDLINE
measure func=POLICY_CHECK
measure func=FILE_CHECK mask=^MAY_READ fsuuid=1ca09a17-0000-4000-8000-c9a7c9a7c9a7
";
    const TMPFS: &str = "\
dont_measure fsmagic=0x1021994
measure func=BPRM_CHECK template=ima-sig pcr=11
measure func=FILE_CHECK mask=MAY_READ uid>1000 fowner=0
appraise func=MODULE_CHECK appraise_type=imasig permit_directio
";
    let bad = "measure func=BPRM_CHECK\nmeasure func=MMAP_CHECK mask=MAY_EXEC # no comment here\n";
    seeds(
        [("whole", WHOLE), ("tmpfs-excluded", TMPFS), ("bad-comment", bad)]
            .map(|(name, text)| (name, text.as_bytes().to_vec())),
    )
}

/// A spool with a frame of each kind, as the collector writes it.
#[cfg(feature = "collector")]
pub fn collector_spool() -> Seeds {
    use cgpathd::{pipeline::Note, spool::Spool};
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let mut spool = Spool::open(dir.path(), &[7; 16]).expect("a new spool can be made");
    let events = [
        Note::Started,
        Note::Base { list_len: 3 },
        Note::SeedCgroup {
            id: 2,
            parent: 1,
            name: b"kubepods.slice".to_vec(),
        },
        Note::SeedProcess {
            tgid: 20,
            start_ns: 1000,
            tick_ns: 10_000_000,
            exe: b"/usr/bin/containerd-shim-runc-v2".to_vec(),
            dev: 0x0080_0001,
            ino: 4711,
        },
        Note::Loaded { list_len: 5 },
        Note::GaveUp { through: 9 },
    ];
    for event in &events {
        spool.append_note(event).expect("there is room");
    }
    for (_, raw) in collector_record() {
        spool.append_raw(&raw).expect("there is room");
    }
    for (_, file) in checkpoint_file() {
        let sealed = Box::new(cgpath_evidence::SealedCheckpoint::from_file(&file).expect("it is one"));
        spool.append_note(&Note::Sealed(sealed)).expect("there is room");
    }
    let whole = std::fs::read(dir.path().join("spool")).expect("it was just written");
    let torn = whole[..whole.len() - 5].to_vec();
    seeds([("whole", whole), ("torn", torn)])
}

/// Configurations, and a setting of the command line.
#[cfg(feature = "collector")]
pub fn collector_config() -> Seeds {
    const SMALL: &str = "\
node = \"seed\"
keep_boots = 3
[verifier]
url = \"https://verifier.example:8443\"
ca = \"/etc/ima-cgpath/verifier-ca.pem\"
interval = 10
[tpm]
bank = \"sha256\"
endorsement_auth = \"hex:00ff\"
[bpf]
ring_bytes = 65536
[cgroup]
hierarchy = \"v1:pids\"
[guard]
mode = \"deny\"
[enforce]
exempt = [\"/kubepods/burstable\"]
";
    seeds([
        ("small.toml", SMALL.as_bytes().to_vec()),
        ("bad-setting", b"verifier.interval=10".to_vec()),
        ("bad-deep", [b"a=".as_slice(), &[b'['; 2000]].concat()),
    ])
}

/// Answers with a nonce.
#[cfg(feature = "collector")]
pub fn answer_nonce() -> Seeds {
    let nonce = "5a".repeat(32);
    seeds([
        (
            "nonce.json",
            format!("{{\"nonce\":\"{nonce}\",\"expires\":1790000000}}").into_bytes(),
        ),
        ("bad-short.json", b"{\"nonce\":\"5a\"}".to_vec()),
    ])
}

/// Answers with a verdict.
#[cfg(feature = "collector")]
pub fn answer_verdict() -> Seeds {
    let pod = |n: u8, state: &str| {
        let charged = state == "untrusted";
        format!(
            "{{\"uid\":\"{n:08}-0000-4000-8000-000000000000\",\"state\":\"{state}\",\"charged\":{charged},\"findings\":[{{\"text\":\"a \\u00e4\"}}]}}"
        )
    };
    let pods = [pod(1, "trusted"), pod(2, "untrusted")].join(",");
    let verdict = format!(
        "{{\"trusted\":false,\"node\":{{\"state\":\"trusted\",\"believed\":true}},\"pods\":[{pods}]}}"
    );
    let deep = [b"{\"pods\":".as_slice(), &[b'['; 2000]].concat();
    seeds([("verdict.json", verdict.into_bytes()), ("bad-deep.json", deep)])
}

/// Raw records of each kind, as the kernel side writes them.
#[cfg(feature = "collector")]
pub fn collector_record() -> Seeds {
    use cgpath_ebpf_common::{LAYOUT_VERSION, MAX_ANCESTORS, MAX_DIGESTS, MAX_NAME, kind};
    let task = |raw: &mut Vec<u8>| {
        raw.extend(99u64.to_ne_bytes());
        for n in [1234u32, 1000, 4026531840, 4026531836, 2, 0] {
            raw.extend(n.to_ne_bytes());
        }
        for n in 0..MAX_ANCESTORS as u64 {
            let (start, tgid) = if n < 2 { (1000 - n, 20 - n as u32) } else { (0, 0) };
            raw.extend(start.to_ne_bytes());
            raw.extend(tgid.to_ne_bytes());
            raw.extend(0u32.to_ne_bytes());
        }
    };
    let finish = |kind: u16, body: &[u8]| {
        let mut raw = Vec::new();
        raw.extend(7u64.to_ne_bytes());
        raw.extend(123_456_789u64.to_ne_bytes());
        raw.extend(kind.to_ne_bytes());
        raw.extend(LAYOUT_VERSION.to_ne_bytes());
        raw.extend((24 + body.len() as u32).to_ne_bytes());
        raw.extend(body);
        raw
    };
    let entry = |kind: u16, name: &[u8]| {
        let mut body = Vec::new();
        task(&mut body);
        for n in [0u32, 10, 2, name.len() as u32] {
            body.extend(n.to_ne_bytes());
        }
        body.extend(0x0080_0001u64.to_ne_bytes());
        body.extend(4711u64.to_ne_bytes());
        for slot in 0..MAX_DIGESTS {
            let bank = [Bank::Sha1, Bank::Sha256]
                .get(slot)
                .filter(|_| kind == kind::ENTRY);
            body.extend(bank.map_or(0, |b| b.tpm_alg()).to_ne_bytes());
            body.extend([0; 6]);
            let mut bytes = bank.map(|b| b.hash(&[b"x"]).bytes().to_vec()).unwrap_or_default();
            bytes.resize(64, 0);
            body.extend(bytes);
        }
        body.extend(name);
        finish(kind, &body)
    };
    let file = |kind: u16, path: &[u8]| {
        let mut body = Vec::new();
        task(&mut body);
        body.extend(0x0080_0001u64.to_ne_bytes());
        body.extend(4711u64.to_ne_bytes());
        body.extend(4i32.to_ne_bytes());
        body.extend((path.len() as u32).to_ne_bytes());
        let mut hash = Bank::Sha256.hash(&[b"x"]).bytes().to_vec();
        hash.resize(64, 0);
        body.extend(hash);
        body.extend(path);
        finish(kind, &body)
    };
    let guard = |action: u32, name: &[u8]| {
        let mut body = Vec::new();
        task(&mut body);
        body.extend(action.to_ne_bytes());
        body.extend((-1i32).to_ne_bytes());
        for n in [17u64, 0x0080_0001, 4711] {
            body.extend(n.to_ne_bytes());
        }
        body.extend((name.len() as u32).to_ne_bytes());
        body.extend(0u32.to_ne_bytes());
        body.extend(name);
        finish(kind::GUARD, &body)
    };
    let pod_loss: Vec<u8> = [99u64, 1, 300_000, 0, 2, 5_000_000, 7_000_000]
        .into_iter()
        .flat_map(u64::to_ne_bytes)
        .collect();
    let cgroup = |kind: u16, name: &[u8]| {
        let mut body = Vec::new();
        body.extend(99u64.to_ne_bytes());
        body.extend(98u64.to_ne_bytes());
        body.extend(0u32.to_ne_bytes());
        body.extend((name.len() as u32).to_ne_bytes());
        body.extend(name);
        body.resize(24 + MAX_NAME, 0);
        finish(kind, &body)
    };
    seeds([
        ("entry", entry(kind::ENTRY, b"/usr/bin/true")),
        ("violation", entry(kind::VIOLATION, b"/var/log/wtmp")),
        ("execution", file(kind::EXECUTION, b"/usr/bin/true")),
        ("script", file(kind::SCRIPT, b"/usr/bin/script")),
        ("mapping", file(kind::MAPPING, b"/usr/lib/libc.so.6")),
        ("late-mapping", file(kind::LATE_MAPPING, b"/tmp/\xff")),
        (
            "guard",
            guard(cgpath_ebpf_common::action::PIN_REMOVED, b"link_executed"),
        ),
        ("pod-loss", finish(kind::POD_LOSS, &pod_loss)),
        ("cgroup-new", cgroup(kind::CGROUP_NEW, b"kubepods.slice")),
        ("cgroup-gone", cgroup(kind::CGROUP_GONE, b"")),
    ])
}
