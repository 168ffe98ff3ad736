//! Records of each kind.

use super::{POD, Seeds, seeds};
use cgpath_evidence::record::ExeSource;
use cgpath_evidence::{
    Ancestor, Bank, ContainerName, EventKind, FileHash, Guard, GuardAction, Identity, LayerFile, Load,
    Loaded, Named, PodLoss, PodName, Record,
};

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
            EventKind::Entry
            | EventKind::Violation
            | EventKind::Guard
            | EventKind::PodLoss
            | EventKind::LayerWrite
            | EventKind::Name => None,
            EventKind::Script => Some(FileHash::PreCheck(Bank::Sha256.hash(&[b"s"]))),
            EventKind::LateMapping => Some(FileHash::Unhashed(-22)),
            EventKind::Execution | EventKind::Mapping | EventKind::Load => {
                Some(FileHash::Measured(Bank::Sha256.hash(&[b"x"])))
            }
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
            ancestor(1234, b"/bin/sh", ExeSource::Recorded),
            ancestor(1000, b"/usr/bin/containerd-shim-runc-v2", ExeSource::Seeded),
            ancestor(1, b"", ExeSource::Unknown),
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
        identity: identity(kind),
        name: None,
        writable: kind == EventKind::LateMapping,
        load: (kind == EventKind::Load).then(|| {
            let what = Loaded::Module;
            Box::new(Load { what, size: 4711 })
        }),
    }
}

/// What file it is: known whole, in part, and not at all.
fn identity(kind: EventKind) -> Option<Box<Identity>> {
    let layer = LayerFile {
        dev: 8 << 20 | 2,
        ino: 815,
        generation: 0xdead_beef,
    };
    let (layer, magic) = match kind {
        EventKind::Execution => (Some(layer), 0xef53),
        EventKind::Mapping => (None, 0x794c_7630),
        EventKind::LayerWrite => (None, 0xef53),
        _ => return None,
    };
    Some(Box::new(Identity {
        generation: 99,
        magic,
        layer,
        written: layer.is_some(),
    }))
}

/// Names of a pod, of one without its labels, of a sandbox and of a container.
pub(super) fn names() -> [(&'static str, Named); 4] {
    let container = |id: &str, name: &str, image: &str| ContainerName {
        id: id.repeat(32),
        name: name.into(),
        sandbox: name.is_empty(),
        image: image.into(),
        references: vec![format!("registry.example/shop/web@sha256:{}", "0a".repeat(32))],
    };
    let pod = PodName {
        namespace: "shop".into(),
        name: "web-7d9f8-x2x4b".into(),
        labels: vec![
            ("app".into(), "web".into()),
            ("pod-template-hash".into(), "7d9f8".into()),
        ],
        labels_left_out: false,
    };
    let left_out = PodName {
        labels: Vec::new(),
        labels_left_out: true,
        ..pod.clone()
    };
    [
        ("name-pod", Named::Pod(pod)),
        ("name-pod-without-labels", Named::Pod(left_out)),
        ("name-sandbox", Named::Container(container("ab", "", ""))),
        (
            "name-container",
            Named::Container(container("01", "web", "registry.example/shop/web:7")),
        ),
    ]
}

fn name_record(named: Named) -> Record {
    let pod = POD.rsplit_once('/').map_or(POD, |(pod, _)| pod);
    named.into_record(9_000_000, 98, pod.as_bytes().to_vec())
}

fn ancestor(tgid: u32, exe: &[u8], source: ExeSource) -> Ancestor {
    Ancestor {
        tgid,
        start_ns: u64::from(tgid) * 7,
        exe: exe.to_vec(),
        dev: 1,
        ino: 2,
        source,
    }
}

pub(super) fn records() -> Vec<(&'static str, Record)> {
    let mut all = vec![
        ("entry", sample_record(1, EventKind::Entry)),
        ("violation", sample_record(2, EventKind::Violation)),
        ("execution", sample_record(3, EventKind::Execution)),
        ("script", sample_record(4, EventKind::Script)),
        ("mapping", sample_record(5, EventKind::Mapping)),
        ("late-mapping", sample_record(6, EventKind::LateMapping)),
        ("guard", sample_record(7, EventKind::Guard)),
        ("pod-loss", sample_record(8, EventKind::PodLoss)),
        ("layer-write", sample_record(9, EventKind::LayerWrite)),
        ("load", sample_record(11, EventKind::Load)),
    ];
    all.extend(names().map(|(name, named)| (name, name_record(named))));
    all
}

/// Records of each kind.
pub fn record_cbor() -> Seeds {
    let records = records().into_iter();
    seeds(records.map(|(name, record)| (name, record.to_cbor())))
}
