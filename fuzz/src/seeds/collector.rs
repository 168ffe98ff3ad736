//! What the collector reads and writes.

use super::{Seeds, checkpoint_file, seeds};
use cgpath_evidence::{Bank, PodUid};

/// A spool with a frame of each kind, as the collector writes it.
pub fn collector_spool() -> Seeds {
    use cgpathd::{
        journal::Journal,
        pipeline::{Note, Stated},
    };
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let mut spool = Journal::open(dir.path(), &[7; 16]).expect("a new spool can be made");
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
    let names = super::records::names().map(|(_, named)| {
        let stated = Stated {
            uid: PodUid([0x11; 16]),
            boot_ns: 9_000_000,
            named,
        };
        Note::Named(Box::new(stated))
    });
    for event in events.iter().chain(&names) {
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
    let identity = |body: &mut Vec<u8>| {
        for n in [99u64, 0xef53, 0x0080_0002, 815] {
            body.extend(n.to_ne_bytes());
        }
        for n in [0xdead_beefu32, 1] {
            body.extend(n.to_ne_bytes());
        }
    };
    let entry = |kind: u16, name: &[u8]| {
        let mut body = Vec::new();
        task(&mut body);
        for n in [0u32, 10, 2, name.len() as u32] {
            body.extend(n.to_ne_bytes());
        }
        body.extend(0x0080_0001u64.to_ne_bytes());
        body.extend(4711u64.to_ne_bytes());
        identity(&mut body);
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
        identity(&mut body);
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
    let load = |what: u32, hash_alg: i32| {
        let mut body = Vec::new();
        task(&mut body);
        body.extend(what.to_ne_bytes());
        body.extend(hash_alg.to_ne_bytes());
        body.extend(4711u64.to_ne_bytes());
        body.extend(Bank::Sha256.hash(&[b"x"]).bytes());
        finish(kind::LOAD, &body)
    };
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
        ("layer-write", file(kind::LAYER_WRITE, b"/layer/lib.so")),
        (
            "guard",
            guard(cgpath_ebpf_common::action::PIN_REMOVED, b"link_executed"),
        ),
        ("pod-loss", finish(kind::POD_LOSS, &pod_loss)),
        ("load-module", load(1, 4)),
        ("load-kexec", load(2, i32::MIN)),
        ("cgroup-new", cgroup(kind::CGROUP_NEW, b"kubepods.slice")),
        ("cgroup-gone", cgroup(kind::CGROUP_GONE, b"")),
    ])
}
