//! Policies, reference values, CoRIMs.

use super::{Seeds, seeds};
use cgpath_evidence::{Bank, PodUid};
use p256::ecdsa::SigningKey;

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
    let bomb = "a: &a [x, x, x, x, x, x, x, x]\n\
        b: &b [*a, *a, *a, *a, *a, *a, *a, *a]\n\
        c: &c [*b, *b, *b, *b, *b, *b, *b, *b]\n\
        d: &d [*c, *c, *c, *c, *c, *c, *c, *c]\n\
        e: &e [*d, *d, *d, *d, *d, *d, *d, *d]\n\
        f: [*e, *e, *e, *e, *e, *e, *e, *e]\n";
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
        ..BootPolicy::default()
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
