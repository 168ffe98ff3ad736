//! Inputs to begin with, made by the project's own writers: the committed corpus is exactly this, so that a
//! format that changes by accident shows as a changed file. Names that begin with `bad-` are inputs that must
//! be refused.

#[cfg(feature = "collector")]
mod collector;
mod policy;
mod records;
mod td;
mod tpm;

#[cfg(feature = "collector")]
pub use collector::{answer_nonce, answer_verdict, collector_config, collector_record, collector_spool};
pub use policy::{policy_corim, policy_node, policy_reference};
pub use records::record_cbor;
pub use td::{td_ccel, td_collateral, td_quote, td_register_log};
pub use tpm::{tpm_attest, tpm_pcr_blob, tpm_pcr_selection, tpm_public, tpm_signature};

use cgpath_evidence::boot::{Boot, Registers};
use cgpath_evidence::list::ListEntry;
use cgpath_evidence::proof::{PartitionProof, PartitionTree, SealedPartition};
use cgpath_evidence::{
    Bank, Checkpoint, Collectors, Cursor, Digest, Entry, Evidence, EvidenceDelta, GuardMode, InFlight,
    Losses, PartitionKey, PartitionLog, PodInfo, PodUid, Protection, Quote, SealedCheckpoint, TdEvidence,
    TenantBundle, Tier,
};
use p256::ecdsa::SigningKey;
use records::records;
use tpm::{attest, ecc, ecdsa};

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
        collectors: (number == 1).then(|| Collectors {
            program: Bank::Sha256.hash(&[b"one"]),
            successor: Some(Bank::Sha512.hash(&[b"the next"])),
        }),
        binding: None,
        bpf_placed: (number == 1).then_some([6; 32]),
    };
    SealedCheckpoint::seal(checkpoint, &key())
}

/// Checkpoint files.
pub fn checkpoint_file() -> Seeds {
    let first = sealed(0, [0; 32]);
    let second = sealed(1, first.digest());
    let bound = |sealed: SealedCheckpoint, is_first| {
        let checkpoint = Checkpoint {
            binding: Some(td::binding(is_first)),
            ..sealed.checkpoint
        };
        SealedCheckpoint::seal(checkpoint, &key()).file
    };
    let (origin, binding) = (bound(first.clone(), true), bound(second.clone(), false));
    seeds([
        ("first", first.file),
        ("second", second.file),
        ("origin", origin),
        ("binding", binding),
    ])
}

fn evidence() -> Evidence {
    let full = entries(false, Bank::Sha1)
        .into_iter()
        .map(|(_, record)| Entry::Full(record));
    let opaque = Entry::Opaque {
        pcr: 10,
        digests: vec![Digest::zero(Bank::Sha1), Digest::zero(Bank::Sha256)],
        hash: None,
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
        }
        .into(),
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
            log: Some(include_bytes!("../../../evidence/tests/boot/ovmf-uki-6.12.log").to_vec()),
            command_line: Some(b"quiet".to_vec()),
        }),
        unsealed: Vec::new(),
        in_flight: Vec::new(),
        td: None,
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
    seeds([
        ("small", evidence().to_cbor()),
        ("pending", pending().to_cbor()),
        ("domain", td::evidence(evidence()).to_cbor()),
        ("domain-and-tpm", td::beside(evidence()).to_cbor()),
    ])
}

/// What [`evidence_part`]'s good delta follows.
pub(crate) fn kept() -> Evidence {
    Evidence {
        checkpoints: vec![sealed(0, [0; 32]).file],
        ..evidence()
    }
}

/// Deltas of evidence.
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
    let from = Cursor {
        base: [5; 32],
        boot_id,
        entries: 2,
        checkpoint: 0,
        digest: sealed(0, [0; 32]).digest(),
    };
    let delta = EvidenceDelta {
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
        td: None,
    };
    let changed = |change: &dyn Fn(&mut EvidenceDelta)| {
        let mut delta = delta.clone();
        change(&mut delta);
        delta.to_cbor()
    };
    seeds([
        ("follows", delta.to_cbor()),
        (
            "pending",
            changed(&|delta| (delta.unsealed, delta.in_flight) = (pending().unsealed, pending().in_flight)),
        ),
        (
            "marks-alone",
            changed(&|delta| delta.in_flight = pending().in_flight),
        ),
        (
            "domain",
            changed(&|delta| {
                let whole = td::evidence(evidence());
                (delta.quote, delta.td) = (whole.quote, whole.td.map(|td| TdEvidence { ccel: None, ..td }));
            }),
        ),
        ("bad-entries", changed(&|delta| delta.from.entries = u64::MAX)),
        ("bad-checkpoint", changed(&|delta| delta.from.checkpoint = 7)),
        ("bad-boot", changed(&|delta| delta.from.boot_id = [1; 16])),
    ])
}

/// Evidence as JSON.
pub fn evidence_json() -> Seeds {
    let json = serde_json::to_vec_pretty(&evidence()).expect("evidence has a JSON form");
    let text = String::from_utf8_lossy(&json);
    let twice = text.replacen("\"version\": 1", "\"version\": 1, \"version\": 1", 1);
    let pending = serde_json::to_vec_pretty(&pending()).expect("evidence has a JSON form");
    let domain = serde_json::to_vec_pretty(&td::beside(evidence())).expect("evidence has a JSON form");
    seeds([
        ("small.json", json),
        ("pending.json", pending),
        ("domain.json", domain),
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

/// Tenants' bundles: whole, for a follower, of a pod that is absent, with a nonce's opening, and of a node
/// without a TPM.
pub fn tenant_cbor() -> Seeds {
    let evidence = evidence();
    let domains = td::evidence(evidence.clone());
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
        opening: None,
        register_log: None,
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
    let answering = TenantBundle {
        opening: Some([7; 96].to_vec()),
        ..follower.clone()
    };
    let hashed = |entry: &Entry| match entry {
        Entry::Full(record) => ListEntry::from_canonical(0, record.as_slice())
            .expect("an entry of this list")
            .to_hashed(),
        Entry::Opaque { .. } => entry.clone(),
    };
    let domain = TenantBundle {
        quote: domains.quote,
        list: whole.list.iter().map(hashed).collect(),
        registers: None,
        register_log: domains.td.map(|td| td.register_log),
        ..whole.clone()
    };
    let bundles = [
        ("domain", domain),
        ("whole", whole),
        ("follower", follower),
        ("absent", absent),
        ("answering", answering),
    ];
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

/// The log of a real boot, the same in memory that was larger, and one without a Spec ID.
pub fn boot_log() -> Seeds {
    let real = include_bytes!("../../../evidence/tests/boot/ovmf-uki-6.12.log").to_vec();
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
        (
            "bad-pod",
            get(&format!(
                "/v1/nodes/{node}/pods/{pod}/stream?from=18446744073709551616"
            )),
        ),
        ("bad-token", with("Basic eDp5", &format!("/v1/nodes/{node}/ear"))),
        (
            "bad-evidence",
            post(&format!("/v1/nodes/{node}/evidence"), &[0xa1, 0x00, 0x01]),
        ),
        (
            "bad-chunked",
            format!(
                "POST /v1/nodes/{node}/evidence HTTP/1.1\r\n\
                Host: v\r\n\
                Transfer-Encoding: chunked\r\n\
                \r\n\
                3\r\n\
                abc\r\n\
                ffffffffff\r\n"
            )
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
