//! Policies go through a CoRIM and come back; others read what we write; what is not understood is refused by
//! its place.

mod refused;

use crate::python::python;
use cgpath_evidence::{Bank, Digest};
use cgpath_policy::corim::{Error, Manifest, Read, Trust, read, sign, write};
use cgpath_policy::{Policy, Reference, Source, SourceKind};
use p256::ecdsa::{SigningKey, VerifyingKey};
use serde_json::{Value, json};
use std::process::Command;

const NOW: u64 = 1_800_000_000;

fn key() -> SigningKey {
    SigningKey::from_slice(&[7; 32]).unwrap()
}

fn unsigned(bytes: &[u8]) -> Result<Read, Error> {
    read(bytes, Trust::DangerousNone, NOW)
}

fn sha256(content: &[u8]) -> Digest {
    Bank::Sha256.hash(&[content])
}

fn reference(kind: SourceKind, name: &str, files: &[(&[u8], Digest)]) -> Reference {
    let mut reference = Reference::new(Source {
        kind,
        name: name.into(),
        digest: Some(sha256(name.as_bytes())),
    });
    for (path, digest) in files {
        reference.insert(path.to_vec(), digest.clone()).unwrap();
    }
    reference
}

fn references() -> Vec<(&'static str, Reference)> {
    let mut host = reference(
        SourceKind::Rootfs,
        "rootfs",
        &[
            (b"/usr/sbin/cgpathd", sha256(b"collector")),
            (b"/usr/sbin/cgpathd", Bank::Sha512.hash(&[b"collector"])),
            (b"/usr/sbin/cgpathd", sha256(b"the version before")),
            (b"/init", sha256(b"init")),
            (b"boot_aggregate", sha256(b"aggregate")),
            (b"/usr/share/caf\xc3\xa9 au lait", sha256(b"x")),
        ],
    );
    host.source.digest = None;
    let mut image = reference(
        SourceKind::Image,
        "busybox:1",
        &[
            (b"/bin/busybox", sha256(b"busybox")),
            (b"/bin/sh", sha256(b"busybox")),
            (b"/etc/passwd", Bank::Sha384.hash(&[b"passwd"])),
        ],
    );
    image
        .origins
        .set(b"/bin/busybox".to_vec(), "sha256:layer one")
        .unwrap();
    image
        .origins
        .set(b"/etc/passwd".to_vec(), "sha256:layer two")
        .unwrap();
    let learned = reference(SourceKind::Log, "list", &[(b"/tmp/x", sha256(b"x"))]);
    let pause = reference(SourceKind::Image, "pause", &[(b"/pause", sha256(b"pause"))]);
    vec![
        ("host.json", host),
        ("image.json", image),
        ("learned.json", learned),
        ("pause.json", pause),
    ]
}

const PARTS: &str = r#"host: { references: [host.json] }
sandbox: { references: [pause.json] }
pods:
  - uid: 22222222-2222-4222-8222-222222222222
    name: demo/b
    references: [image.json, learned.json]
  - uid: 11111111-1111-4111-8111-111111111111
    name: demo/a
    references: [image.json]
boot:
  registers:
    0: ["sha256:0000000000000000000000000000000000000000000000000000000000000000", "sha256:0101010101010101010101010101010101010101010101010101010101010101"]
    7: ["sha256:0707070707070707070707070707070707070707070707070707070707070707"]
  command-lines: ["root=/dev/vda2 ro \"quiet\"", "root=/dev/vda2 single"]
  events:
    - {pcr: 4, type: EV_EFI_BOOT_SERVICES_APPLICATION, name: "\\EFI\\a.efi", digests: ["sha256:4444444444444444444444444444444444444444444444444444444444444444", "sha256:4545454545454545454545454545454545454545454545454545454545454545"]}
    - {pcr: 4, type: EV_EFI_BOOT_SERVICES_APPLICATION, name: "b", digests: ["sha256:4646464646464646464646464646464646464646464646464646464646464646"]}
"#;

const HEAD: &str = "version: 1
node: worker-1
accept:
  tiers: [bpf]
  templates: [ima-ng]
  banks: [sha256]
  ima-policies: ['sha256:0ee51d5f2246792ff6f8cd1bace21620883085a113153c75ed55ab3aafef35a8']
  collector: /usr/sbin/cgpathd
";

fn load(yaml: &str, references: &[(&str, Reference)]) -> Policy {
    Policy::load("node.yaml", yaml.as_bytes(), |name| {
        let found = references.iter().find(|(known, _)| *known == name);
        let mut json = Vec::new();
        found.ok_or("no such file")?.1.write_json(&mut json).unwrap();
        Ok(json)
    })
    .unwrap()
}

fn policy() -> Policy {
    load(&format!("{HEAD}{PARTS}"), &references())
}

fn manifest() -> Manifest {
    Manifest::of_policy("urn:example:worker-1".into(), &policy()).0
}

fn written() -> Vec<u8> {
    let (bytes, left_out) = write(&manifest()).unwrap();
    assert_eq!(left_out, [""; 0]);
    bytes
}

#[test]
fn a_policys_reference_values_come_back_the_same_and_appraise_the_same() {
    let read = unsigned(&written()).unwrap();
    assert_eq!(read.manifest, manifest());
    assert_eq!(read.signer, None);
    assert!(read.notes[0].contains("not signed"), "{:?}", read.notes);
    let names: Vec<String> = (0..read.manifest.references.len())
        .map(|n| format!("{n}.json"))
        .collect();
    let part = read.manifest.policy_part(&names);
    let again: Vec<(&str, Reference)> = names
        .iter()
        .map(String::as_str)
        .zip(read.manifest.references.iter().cloned())
        .collect();
    let (before, after) = (policy(), load(&format!("{HEAD}{part}"), &again));
    assert_eq!(before.file.boot, after.file.boot);
    let pods = |policy: &Policy| -> Vec<_> {
        policy
            .file
            .pods
            .iter()
            .map(|pod| (pod.uid, pod.name.clone()))
            .collect()
    };
    assert_eq!(pods(&before), pods(&after));
    let values = |policy: &Policy| -> Vec<Vec<Reference>> {
        let pods = policy.pods.values().map(|pod| &pod.allowed);
        let all = [&policy.host, &policy.sandbox].into_iter().chain(pods);
        all.map(|allowed| allowed.references().cloned().collect())
            .collect()
    };
    assert_eq!(values(&before), values(&after));
}

#[test]
fn the_same_values_have_the_same_bytes_and_other_values_others() {
    assert_eq!(written(), written());
    let mut other = manifest();
    other.references[0]
        .insert(b"/init".to_vec(), sha256(b"evil"))
        .unwrap();
    assert_ne!(write(&other).unwrap().0, written());
}

#[test]
fn what_has_no_form_is_named_and_the_rest_is_written() {
    let mut references = references();
    references[0]
        .1
        .insert(b"/caf\xe9".to_vec(), sha256(b"latin-1"))
        .unwrap();
    references[0].1.insert(b"/".to_vec(), sha256(b"runc")).unwrap();
    references[0]
        .1
        .insert(b"/init".to_vec(), Bank::Sha1.hash(&[b"init"]))
        .unwrap();
    references[1].1.excludes = cgpath_policy::Excludes::new(vec!["^/tmp/.*".into()]).unwrap();
    let zeros = "00".repeat(20);
    let yaml = format!("{HEAD}{PARTS}")
        .replace(
            "references: [pause.json]",
            "references: [pause.json], excludes: ['^/proc/.*']",
        )
        .replace("    7: [", &format!("    7: [\"sha1:{zeros}\", "))
        + "runtime-files: [/usr/sbin/cgpathd]\nguard: { at-least: deny }\nkexec: allow\n";
    let (manifest, left_out) = Manifest::of_policy("id".into(), &load(&yaml, &references));
    let heads: Vec<&str> = left_out
        .iter()
        .map(|line| line.split(": ").next().unwrap())
        .collect();
    assert_eq!(
        heads,
        ["accept", "sandbox.excludes", "kexec", "guard", "runtime-files"]
    );
    assert!(left_out[1].contains("^/proc/.*"));
    let (bytes, left_out) = write(&manifest).unwrap();
    assert_eq!(left_out.len(), 4, "{left_out:?}");
    assert!(
        left_out[0].starts_with("rootfs: 2 paths, such as \"/\""),
        "{left_out:?}"
    );
    assert!(left_out[1].starts_with("rootfs: 1 SHA-1"), "{left_out:?}");
    assert!(
        left_out[2].starts_with("busybox:1: exclude ^/tmp/.*"),
        "{left_out:?}"
    );
    assert!(left_out[3].starts_with("boot: 1 SHA-1"), "{left_out:?}");
    // What came through is what there was without them.
    let mut read = unsigned(&bytes).unwrap().manifest;
    read.id = self::manifest().id;
    assert_eq!(read, self::manifest());

    let dangerous = format!(
        "{HEAD}{}dangerous-boot-not-judged: true\n",
        PARTS.split("boot:\n").next().unwrap()
    );
    let (_, left_out) = Manifest::of_policy("id".into(), &load(&dangerous, &self::references()));
    assert!(
        left_out
            .iter()
            .any(|line| line.starts_with("dangerous-boot-not-judged: "))
    );
}

#[test]
fn a_manifest_with_nothing_to_say_is_an_error() {
    let error = write(&Manifest::default()).unwrap_err();
    assert!(matches!(error, Error::Empty(_)), "{error}");
    let mut only = Manifest::default();
    only.references.push(reference(
        SourceKind::Rootfs,
        "old",
        &[(b"/a", Bank::Sha1.hash(&[b"a"]))],
    ));
    assert!(write(&only).unwrap_err().to_string().contains("old: no file"));
}

#[test]
fn a_signed_manifest_is_read_with_its_key_and_with_no_other() {
    let signed = sign(&written(), "Example Ltd.", &key()).unwrap();
    let read_by = |bytes: &[u8], key: &VerifyingKey| read(bytes, Trust::Key(key), NOW);
    let good = read_by(&signed, key().verifying_key()).unwrap();
    assert_eq!(
        (good.manifest, good.signer.as_deref()),
        (manifest(), Some("Example Ltd."))
    );
    assert!(good.notes.is_empty());

    let other = SigningKey::from_slice(&[8; 32]).unwrap();
    let error = read_by(&signed, other.verifying_key()).unwrap_err();
    assert!(error.to_string().contains("not by this key"), "{error}");
    let error = read_by(&written(), key().verifying_key()).unwrap_err();
    assert!(error.to_string().contains("not signed"), "{error}");
    // Without a key the signer's name is not believed.
    let unchecked = unsigned(&signed).unwrap();
    assert_eq!(unchecked.signer, None);
    assert!(unchecked.notes[0].contains("not checked"));
    // One changed byte anywhere: a digest, a path, the header.
    for at in (0..signed.len()).step_by(7) {
        let mut changed = signed.clone();
        changed[at] ^= 1;
        assert!(read_by(&changed, key().verifying_key()).is_err(), "byte {at}");
    }
}

#[test]
fn microsofts_implementation_of_the_draft_reads_what_we_write() {
    let (map, comids) = corim::validate::decode_and_validate(&written()).unwrap();
    assert_eq!(map.id.to_string(), "urn:example:worker-1");
    assert_eq!(map.tags.len(), 5);
    assert_eq!(comids.len(), 1);
    let triples = &comids[0].triples;
    assert_eq!(triples.coswid_triples.as_ref().unwrap().len(), 4);
    assert_eq!(triples.reference_triples.as_ref().unwrap().len(), 3 + 2 + 3);
    let signed = sign(&written(), "Example Ltd.", &key()).unwrap();
    let signed = corim::types::signed::decode_signed_corim(&signed).unwrap();
    assert_eq!(signed.payload.as_deref(), Some(&written()[..]));
    let meta = signed.protected().corim_meta.as_ref().unwrap();
    assert_eq!(meta.signer.signer_name, "Example Ltd.");
}

/// Python with the decoders of others: `cargo xtask test` makes it in the cache, and names it.
fn foreign(input: &Value) -> Value {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corim/foreign.py");
    let printed = crate::answer(Command::new(python()).arg(script), input);
    serde_json::from_str(&printed).unwrap()
}

fn python_reads(corim: &[u8], key: Option<&VerifyingKey>) -> Value {
    let point = key.map(|key| key.to_encoded_point(false));
    let hex = |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("{byte:02x}")).collect() };
    let key = point.map(|point| json!({"x": hex(point.x().unwrap()), "y": hex(point.y().unwrap())}));
    foreign(&json!({"do": "read", "corim": hex(corim), "key": key}))
}

#[test]
fn python_decoders_read_what_we_write_signed_and_unsigned() {
    let signed = sign(&written(), "Example Ltd.", &key()).unwrap();
    let read = python_reads(&signed, Some(key().verifying_key()));
    assert_eq!(read["signer"], "Example Ltd.");
    assert_eq!(read["files"], python_reads(&written(), None)["files"]);
    assert_eq!(read["profile"], cgpath_policy::corim::PROFILE);
    // Every file of ours, by its path, and no other.
    let mut found: Vec<(String, String)> = Vec::new();
    for files in read["files"].as_object().unwrap().values() {
        for file in files.as_array().unwrap() {
            let digest = format!("{}:{}", file[1].as_str().unwrap(), file[2].as_str().unwrap());
            found.push((file[0].as_str().unwrap().into(), digest));
        }
    }
    let mut expected: Vec<(String, String)> = Vec::new();
    for (_, reference) in references() {
        for (path, digests) in &reference.files {
            let path = String::from_utf8(path.clone()).unwrap();
            expected.extend(digests.iter().map(|digest| (path.clone(), digest.to_string())));
        }
    }
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    let triples = read["triples"].as_array().unwrap();
    let owners: Vec<&Value> = triples.iter().filter(|t| t[0] != "boot").collect();
    assert_eq!(owners[0][0], "host");
    assert_eq!(owners[0][1], json!([560, "worker-1"]));
    assert_eq!(
        (&owners[2][0], &owners[2][1]),
        (&json!("pod"), &json!("22222222-2222-4222-8222-222222222222"))
    );
    assert_eq!(owners[2][2].as_array().unwrap().len(), 2);
    assert_eq!(
        triples
            .iter()
            .filter(|t| t[0] == "boot" && t[2] == json!([14]))
            .count(),
        3
    );
}

#[test]
fn manifests_that_others_wrote_give_their_files() {
    let others = foreign(&json!({"do": "write"}));
    for (name, hex) in others.as_object().unwrap() {
        let bytes = unhex(hex.as_str().unwrap());
        let read = unsigned(&bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
        let manifest = read.manifest;
        assert_eq!(
            (manifest.id.as_str(), manifest.node.clone()),
            ("https://example.com/rim", None)
        );
        let [reference] = &manifest.references[..] else {
            panic!("{manifest:?}")
        };
        assert_eq!(reference.source.kind, SourceKind::Corim);
        assert_eq!(reference.source.name, "nested");
        assert_eq!(reference.source.digest, Some(sha256(&bytes)));
        let files: Vec<(&str, String)> = reference
            .files
            .iter()
            .map(|(path, digests)| {
                (
                    core::str::from_utf8(path).unwrap(),
                    digests.first().unwrap().to_string(),
                )
            })
            .collect();
        let content = sha256(b"content").to_string();
        assert_eq!(
            files,
            [
                ("/etc/d", Bank::Sha512.hash(&[b""]).to_string()),
                ("/usr/bin/a", content.clone()),
                ("/usr/bin/b", content),
                ("/usr/share/doc/c", Bank::Sha384.hash(&[b""]).to_string()),
            ]
        );
        // It names nobody, so there is no part of a policy.
        assert_eq!(manifest.policy_part(&["x.json".into()]), "");
        let error = read_at(&bytes, 4_000_000_001).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("rim-validity.not-after: valid until 4000000000"),
            "{error}"
        );
        let error = read_at(&bytes, 999).unwrap_err();
        assert!(
            error.to_string().contains("not-before: valid from 1000"),
            "{error}"
        );
    }
}

fn read_at(bytes: &[u8], now: u64) -> Result<Read, Error> {
    read(bytes, Trust::DangerousNone, now)
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2)
        .map(|n| u8::from_str_radix(&text[2 * n..][..2], 16).unwrap())
        .collect()
}
