//! Properties of the policy file, the reference file and the look-up in them.

use crate::{sha256, values};
use cgpath_evidence::{Bank, PodUid, Tier};
use cgpath_policy::{
    Basis, ContentMatch, Error, Name, NodePolicy, Pattern, Policy, Reference, Source, SourceKind,
};

const UID: &str = "6b0c2e1a-0f3d-4f7e-9a51-2f6f3c9d0a11";

fn yaml() -> String {
    let ima = sha256("ima policy");
    format!(
        "version: 1
node: demo-node
accept:
  tiers: [bpf]
  templates: [ima-ng]
  banks: [sha256]
  ima-policies: ['{ima}']
  collector: /usr/sbin/cgpathd
host: {{ references: [rootfs.json] }}
runtime-files: [/usr/sbin/runc]
sandbox: {{ references: [pause.json] }}
pods:
  - uid: {UID}
    name: demo/pod-a
    references: [busybox.json, learned.json]
"
    )
}

fn resolve(name: &str) -> Result<Vec<u8>, String> {
    match name {
        "rootfs.json" => Ok(values(
            SourceKind::Rootfs,
            &[
                ("/usr/sbin/cgpathd", "collector"),
                ("/usr/sbin/runc", "runc"),
                ("/usr/bin/a b", "spaced"),
            ],
        )),
        "pause.json" => Ok(values(
            SourceKind::Image,
            &[("/pause", "pause"), ("/bin/busybox", "pause's busybox")],
        )),
        "busybox.json" => Ok(values(SourceKind::Image, &[("/bin/busybox", "busybox")])),
        "learned.json" => Ok(values(
            SourceKind::Log,
            &[("/bin/busybox", "busybox"), ("/bin/learned", "learned")],
        )),
        other => Err(format!("no file {other}")),
    }
}

fn load(yaml: &str) -> cgpath_policy::Result<Policy> {
    Policy::load("node.yaml", yaml.as_bytes(), resolve)
}

fn uid() -> PodUid {
    PodUid::parse(UID.as_bytes()).unwrap()
}

#[test]
fn defaults_are_the_strict_ones() {
    let policy = load(&yaml()).unwrap();
    assert_eq!(policy.file.accept.tiers, [Tier::Bpf]);
    assert_eq!(
        (policy.file.tolerance.unattributed, policy.file.tolerance.lost),
        (0, 0)
    );
    assert_eq!(policy.file.padded_banks, cgpath_policy::PaddedBanks::Deny);
    assert_eq!(policy.file.predating_pods, cgpath_policy::PredatingPods::Report);
    assert_eq!(policy.file.kexec, cgpath_policy::Kexec::Deny);
    assert!(policy.dangerous_keys().is_empty());
    assert!(policy.relaxations().is_empty());
    assert!(policy.file.file_systems.permit.is_empty());
    assert!(policy.is_runtime(b"/usr/bin/containerd-shim-runc-v2"));
    assert!(!policy.is_runtime(b"/usr/bin/containerd-shim-runc-v2-not"));
    // Ext4 and tmpfs; NFS, overlayfs whose layer is not known, and what nobody knows.
    for (magic, permitted) in [
        (0xef53, true),
        (0x0102_1994, true),
        (0x6969, false),
        (0x794c_7630, false),
        (0x1234, false),
    ] {
        assert_eq!(policy.permits_file_system(magic), permitted, "{magic:#x}");
    }
}

#[test]
fn every_laxer_value_is_listed() {
    let text = yaml()
        + "tolerance: { unattributed: 2, lost: 3 }
padded-banks: report
predating-pods: trust
kexec: allow
min-reboot: 9
violations: { permit: ['/var/log/**'] }
file-systems: { permit: [nfs, '0x1234'] }
dangerous-boot-not-judged: true
";
    let policy = load(&text).unwrap();
    assert!(
        [0x6969, 0x1234]
            .iter()
            .all(|magic| policy.permits_file_system(*magic))
    );
    assert!(!policy.permits_file_system(0x794c_7630));
    assert_eq!(policy.dangerous_keys(), ["dangerous-boot-not-judged"]);
    assert_eq!(
        policy.relaxations(),
        [
            "tolerance.unattributed: 2",
            "tolerance.lost: 3",
            "padded-banks: report",
            "predating-pods: trust",
            "kexec: allow",
            "min-reboot: 9",
            "violations.permit: /var/log/**",
            "file-systems.permit: nfs",
            "file-systems.permit: 0x1234",
        ]
    );
}

#[test]
fn a_pod_is_trusted_with_code_in_shared_memory_where_its_own_entry_says_so() {
    let with = |value: &str| {
        let own = format!("uid: {}\n", uid());
        assert!(yaml().contains(&own), "{}", yaml());
        yaml().replacen(&own, &format!("{own}    shared-memory-code: {value}\n"), 1)
    };
    let policy = load(&with("trust")).unwrap();
    assert!(policy.trusts_shared_memory_code(&uid()));
    assert!(!policy.trusts_shared_memory_code(&PodUid([9; 16])));
    let relaxations = policy.relaxations();
    assert!(
        matches!(&relaxations[..], [one] if one.ends_with(".shared-memory-code: trust")),
        "{relaxations:?}"
    );
    for strict in [yaml(), with("untrust")] {
        let policy = load(&strict).unwrap();
        assert!(!policy.trusts_shared_memory_code(&uid()) && policy.relaxations().is_empty());
    }
    // No name of a memory and nothing else is a value: a pod names its memory as it likes.
    for value in ["permit", "true", "[doublemapper]", "''"] {
        assert!(matches!(load(&with(value)), Err(Error::Syntax { .. })), "{value}");
    }
}

#[test]
fn a_file_system_that_nobody_knows_by_this_name_is_an_error_with_its_place() {
    let error = load(&(yaml() + "file-systems: { permit: [nfs, NFSv4] }\n")).unwrap_err();
    let Error::Syntax { line, why, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(*line, yaml().lines().count() + 1);
    assert!(why.contains("\"NFSv4\"") && why.contains("9p"), "{why}");
}

#[test]
fn a_content_is_appraised_by_own_values_then_sandbox_then_runtime_files() {
    let policy = load(&yaml()).unwrap();
    let look_up = |path: &str, content: &str| {
        policy
            .look_up_pod(&uid(), Name::True(path.as_bytes()), &sha256(content))
            .unwrap()
    };
    let accepted = |basis, learned| ContentMatch::Accepted { basis, learned };
    assert_eq!(look_up("/bin/busybox", "busybox"), accepted(Basis::Own, false));
    assert_eq!(look_up("/bin/learned", "learned"), accepted(Basis::Own, true));
    assert_eq!(look_up("/pause", "pause"), accepted(Basis::Sandbox, false));
    assert_eq!(
        look_up("/memfd:runc_cloned:/proc/self/exe", "runc"),
        accepted(Basis::RuntimeFile, false)
    );
    assert_eq!(look_up("/bin/evil", "evil"), ContentMatch::UnknownPath);
    assert_eq!(
        look_up("/usr/sbin/cgpathd", "collector"),
        ContentMatch::UnknownPath
    );
    let mut both = vec![sha256("busybox"), sha256("pause's busybox")];
    both.sort();
    assert_eq!(
        look_up("/bin/busybox", "evil"),
        ContentMatch::WrongHash { expected: both }
    );
}

#[test]
fn a_copy_of_a_runtime_file_is_accepted_on_the_host_where_no_value_knows_the_path() {
    let policy = load(&yaml()).unwrap();
    let accepted = ContentMatch::Accepted {
        basis: Basis::RuntimeFile,
        learned: false,
    };
    // A detached mount's root, as runc 1.1 executes itself from.
    assert_eq!(policy.look_up_host(Name::True(b"/"), &sha256("runc")), accepted);
    assert_eq!(
        policy.look_up_host(Name::True(b"/"), &sha256("collector")),
        ContentMatch::UnknownPath
    );
    // In place of another program it is still a replacement.
    let replaced = policy.look_up_host(Name::True(b"/usr/sbin/cgpathd"), &sha256("runc"));
    assert!(matches!(replaced, ContentMatch::WrongHash { .. }));
}

#[test]
fn a_pod_that_the_policy_does_not_know_has_no_appraisal() {
    let policy = load(&yaml()).unwrap();
    assert_eq!(
        policy.look_up_pod(&PodUid([7; 16]), Name::True(b"/bin/busybox"), &sha256("busybox")),
        None
    );
}

#[test]
fn a_digest_of_another_bank_is_not_accepted() {
    let policy = load(&yaml()).unwrap();
    let other = Bank::Sha1.hash(&[b"runc"]);
    assert_eq!(
        policy.look_up_host(Name::True(b"/usr/sbin/runc"), &other),
        ContentMatch::WrongHash {
            expected: vec![sha256("runc")]
        }
    );
}

/// A policy whose host has one more reference file, of this kind, with these paths.
fn with_reference(kind: SourceKind, paths: &[&str]) -> Policy {
    let files: Vec<_> = paths.iter().map(|path| (*path, "more")).collect();
    let json = values(kind, &files);
    let text = yaml().replacen("host: { references: [", "host: { references: [more.json, ", 1);
    assert!(text.contains("more.json"), "{text}");
    Policy::load("node.yaml", text.as_bytes(), |name| match name {
        "more.json" => Ok(json.clone()),
        name => resolve(name),
    })
    .unwrap()
}

#[test]
fn a_name_that_a_list_wrote_is_each_that_the_kernel_writes_so_and_a_true_one_is_itself() {
    let cases: [(SourceKind, &str, &[Name<'_>], &[Name<'_>]); 6] = [
        (
            SourceKind::Rootfs,
            "/opt/my app",
            &[Name::True(b"/opt/my app"), Name::Listed(b"/opt/my_app")],
            // Another file, which only a list would call the same.
            &[
                Name::True(b"/opt/my_app"),
                Name::Listed(b"/opt/my app"),
                Name::Listed(b"/opt/my-app"),
                Name::True(b"/opt"),
            ],
        ),
        (
            SourceKind::Rootfs,
            "/opt/my_app",
            &[Name::True(b"/opt/my_app"), Name::Listed(b"/opt/my_app")],
            &[Name::True(b"/opt/my app")],
        ),
        (
            SourceKind::Log,
            "/opt/my_app",
            &[
                Name::True(b"/opt/my_app"),
                Name::True(b"/opt/my app"),
                Name::Listed(b"/opt/my_app"),
            ],
            &[
                Name::True(b"/opt/my-app"),
                Name::True(b"/opt/my  app"),
                Name::True(b"/opt/my ap"),
            ],
        ),
        (
            SourceKind::Keylime,
            "/a_b_c",
            &[
                Name::True(b"/a b_c"),
                Name::True(b"/a_b c"),
                Name::True(b"/a b c"),
                Name::Listed(b"/a_b_c"),
            ],
            &[Name::True(b"/a b"), Name::True(b"/a\tb_c")],
        ),
        (
            // No list wrote this one.
            SourceKind::Keylime,
            "/a b_c",
            &[Name::True(b"/a b_c"), Name::Listed(b"/a_b_c")],
            &[Name::True(b"/a b c"), Name::True(b"/a_b_c")],
        ),
        (
            SourceKind::Deb,
            "/a b_c",
            &[Name::True(b"/a b_c")],
            &[Name::True(b"/a b c")],
        ),
    ];
    // Whether the content stands at one path or at more than are looked at one by one.
    let many: Vec<String> = (0..40).map(|n| format!("/many/{n}")).collect();
    for (kind, path, fit, others) in cases {
        for more in [&[][..], &many] {
            let paths: Vec<&str> = more.iter().map(String::as_str).chain([path]).collect();
            let policy = with_reference(kind, &paths);
            for name in fit {
                assert!(
                    policy.look_up_host(*name, &sha256("more")).is_accepted(),
                    "{path}: {name:?}"
                );
                let other = policy.look_up_host(*name, &sha256("other"));
                assert!(
                    matches!(other, ContentMatch::WrongHash { .. }),
                    "{path}: {name:?}"
                );
            }
            for name in others {
                let found = policy.look_up_host(*name, &sha256("more"));
                assert_eq!(found, ContentMatch::UnknownPath, "{path}: {name:?}");
            }
        }
    }
}

#[test]
fn excludes_hide_both_names_of_a_file_and_no_other() {
    let excludes = |item: &str| cgpath_policy::Excludes::new(vec![item.to_owned()]).unwrap();
    // As a list has it, as the file is called, and with classes of characters.
    for (item, hidden, looked_up) in [
        (
            "^/opt/my_app/",
            &[
                Name::Listed(b"/opt/my_app/x"),
                Name::True(b"/opt/my app/x"),
                Name::True(b"/opt/my_app/x"),
            ][..],
            &[Name::True(b"/opt/my-app/x"), Name::True(b"/opt/your app/x")][..],
        ),
        (
            "^/opt/my app/",
            &[Name::Listed(b"/opt/my_app/x"), Name::True(b"/opt/my app/x")],
            &[Name::True(b"/opt/my_app/x"), Name::Listed(b"/opt/my-app/x")],
        ),
        (
            r"/a[ \t]b\sc\x20d$",
            &[
                Name::True(b"/a b c d"),
                Name::Listed(b"/a_b_c_d"),
                Name::True(b"/a\tb\nc d"),
            ],
            &[Name::True(b"/a_b c d"), Name::Listed(b"/a_b_c-d")],
        ),
        (r"/[^ ]+$", &[Name::Listed(b"/a_b"), Name::True(b"/a b")], &[]),
    ] {
        let list = excludes(item);
        for name in hidden {
            assert_eq!(list.hides(*name), cgpath_policy::Hidden::Yes, "{item}: {name:?}");
        }
        for name in looked_up {
            assert_eq!(list.hides(*name), cgpath_policy::Hidden::No, "{item}: {name:?}");
        }
    }
}

#[test]
fn contents_are_found_by_hash() {
    let policy = load(&yaml()).unwrap();
    assert_eq!(policy.host.paths_of(&sha256("runc")), [b"/usr/sbin/runc"]);
    assert!(policy.host.paths_of(&sha256("nothing")).is_empty());
    assert_eq!(policy.pods[&uid()].allowed.learned_sources(), ["test"]);
}

#[test]
fn probes_of_the_node_check_are_accepted_on_the_host_alone_and_with_their_content_alone() {
    let policy = load(&yaml()).unwrap();
    let (path, probe) = (
        cgpath_evidence::probe::RUN_PATH.as_bytes(),
        cgpath_evidence::probe::content(3),
    );
    let digest = Bank::Sha256.hash(&[&probe]);
    let accepted = ContentMatch::Accepted {
        basis: Basis::Probe,
        learned: false,
    };
    assert_eq!(policy.look_up_host(Name::True(path), &digest), accepted);
    assert_eq!(
        policy.look_up_host(Name::True(path), &sha256("other")),
        ContentMatch::UnknownPath
    );
    assert_eq!(
        policy.look_up_host(Name::True(b"/tmp/run"), &digest),
        ContentMatch::UnknownPath
    );
    assert_eq!(
        policy.look_up_pod(&uid(), Name::True(path), &digest),
        Some(ContentMatch::UnknownPath)
    );
}

#[test]
fn the_policy_digest_covers_the_reference_files() {
    let a = load(&yaml()).unwrap();
    let b = Policy::load("node.yaml", yaml().as_bytes(), |name| match name {
        "pause.json" => Ok(values(SourceKind::Image, &[("/pause", "another")])),
        other => resolve(other),
    })
    .unwrap();
    assert_eq!(a.digest(), load(&yaml()).unwrap().digest());
    assert_ne!(a.digest(), b.digest());
}

fn refused(text: &str) -> (usize, usize, String) {
    match NodePolicy::from_yaml("node.yaml", text.as_bytes()) {
        Err(Error::Syntax {
            file,
            line,
            column,
            why,
        }) => {
            assert_eq!(file, "node.yaml");
            (line, column, why)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_unknown_key_is_refused_with_its_line_and_column() {
    let (line, column, why) = refused(&yaml().replace("  banks:", "  bankz:"));
    assert_eq!((line, column), (6, 3), "{why}");
    assert!(why.contains("bankz") && why.contains("banks"), "{why}");
    let (line, _, why) = refused(&(yaml() + "dangerous-everything: true\n"));
    assert_eq!(line, yaml().lines().count() + 1, "{why}");
}

#[test]
fn an_empty_allow_list_is_refused_wherever_it_stands() {
    for (from, to) in [
        ("tiers: [bpf]", "tiers: []"),
        ("templates: [ima-ng]", "templates: []"),
        ("banks: [sha256]", "banks: []"),
        ("[rootfs.json]", "[]"),
        ("[pause.json]", "[]"),
        ("[busybox.json, learned.json]", "[]"),
        ("host:", "runtimes: []\nhost:"),
        ("  collector", "  bpf-objects: []\n  collector"),
    ] {
        assert!(yaml().contains(from), "{from}");
        let (line, _, why) = refused(&yaml().replace(from, to));
        assert!(why.contains("empty allow list") && line > 0, "{to}: {line} {why}");
    }
}

#[test]
fn what_is_required_cannot_be_left_out() {
    for key in [
        "version:",
        "node:",
        "  tiers:",
        "  templates:",
        "  ima-policies:",
        "  collector:",
        "host:",
    ] {
        let left: String = yaml()
            .lines()
            .filter(|l| !l.starts_with(key))
            .map(|l| format!("{l}\n"))
            .collect();
        assert!(refused(&left).2.contains("missing field"), "{key}");
    }
}

#[test]
fn malformed_values_are_refused() {
    for (from, to, why) in [
        ("version: 1", "version: 3", "version 3"),
        ("tiers: [bpf]", "tiers: [ebpf]", "unknown variant"),
        ("banks: [sha256]", "banks: [md5]", "unknown variant"),
        ("collector: /usr", "collector: usr", "absolute path"),
        ("runtime-files: [/usr", "runtime-files: [usr", "absolute path"),
        (UID, "6B0C2E1A-0F3D-4F7E-9A51-2F6F3C9D0A11", "not a pod UID"),
        (UID, "6b0c2e1a_0f3d_4f7e_9a51_2f6f3c9d0a11", "not a pod UID"),
        (
            "ima-policies: ['sha256:",
            "ima-policies: ['sha256:00",
            "ALGORITHM:HEX",
        ),
        ("name: demo/pod-a", "name: \"a\\nb\"", "control"),
        ("node: demo-node", "node: ''", "1 to 253"),
        (
            "host:",
            "violations: { permit: ['no/slash'] }\nhost:",
            "must begin with",
        ),
        ("host:", "violations: { permit: ['/a[']}\nhost:", "pattern"),
        ("host:", "node: again\nhost:", "duplicate"),
    ] {
        assert!(yaml().contains(from), "{from}");
        let (line, _, found) = refused(&yaml().replacen(from, to, 1));
        assert!(found.contains(why) && line > 0, "{to}: {line}: {found}");
    }
    let other = "11111111-1111-4111-8111-111111111111";
    let pod = |uid: &str| format!("  - {{ uid: {uid}, name: b, references: [pause.json] }}\n");
    let twice = yaml() + &pod(other) + &pod(UID) + "min-reboot: 9\n";
    let (line, column, why) = refused(&twice);
    assert!(why.contains(&format!("pod {UID} stands twice")), "{why}");
    assert_eq!((line, column), (yaml().lines().count() + 2, 5), "{why}");
}

#[test]
fn a_value_of_the_wrong_form_is_named_in_the_words_of_yaml() {
    let digest = format!("[sha256:{}]", "7".repeat(64));
    for (key, words) in [
        ("predating-pods: [trust]", "expected one word"),
        ("kexec: { allow: true }", "expected one word"),
        ("tolerance: 3", "integer `3`, expected a mapping of keys"),
        ("tolerance: { lost: some }", "expected a number from 0 on"),
        ("min-reboot: abc", "string \"abc\", expected a number from 0"),
        ("min-reboot: -1", "integer `-1`, expected a number from 0"),
        ("violations: ['/tmp/*']", "expected a mapping of keys"),
        ("file-systems: { permit: nfs }", "expected a list"),
        ("guard: deny", "string \"deny\", expected a mapping of keys"),
        ("boot: { registers: [7] }", "expected a mapping of keys"),
        (
            &format!("boot: {{ registers: {{ x: {digest} }} }}"),
            "string \"x\", expected a number from 0 to 255",
        ),
        // What somebody wrote is left as it is.
        (
            "predating-pods: \"x, expected u32\"",
            "`x, expected u32`, expected one of",
        ),
    ] {
        let text = yaml().replacen("host:", &format!("{key}\nhost:"), 1);
        let (line, _, why) = refused(&text);
        let at = text.lines().position(|line| line == key).unwrap() + 1;
        assert_eq!(line, at, "{key}: {why}");
        assert!(why.contains(words), "{key}: {why}");
        for ours in ["struct ", "u32", "u64", "YAML tag"] {
            assert!(key.contains(ours) || !why.contains(ours), "{key}: {why}");
        }
    }
    let (_, _, why) = refused(&(yaml() + "  - just-a-name\n"));
    assert!(
        why.contains("\"just-a-name\", expected a mapping of keys"),
        "{why}"
    );
}

#[test]
fn a_key_that_stands_twice_is_named_where_it_stands_the_second_time() {
    let line_of = |text: &str, key: &str| 1 + text.lines().position(|line| line == key).unwrap();
    let top = yaml().replacen("host:", "node: again\nhost:", 1);
    let (line, column, why) = refused(&top);
    assert_eq!((line, column), (line_of(&top, "node: again"), 1), "{why}");
    assert!(why.contains("duplicate key \"node\""), "{why}");
    // In a part of the file, and where numbers are keys: `0x7` is 7.
    let digest = format!("[sha256:{}]", "7".repeat(64));
    let registers = |second: &str| format!("boot:\n  registers:\n    7: {digest}\n    {second}: {digest}\n");
    let yaml = yaml();
    for second in ["7", "0x7"] {
        let inner = yaml.clone() + &registers(second);
        let (line, column, why) = refused(&inner);
        assert_eq!((line, column), (inner.lines().count(), 5), "{second}: {why}");
        assert!(why.contains("duplicate key \"7\""), "{why}");
    }
    NodePolicy::from_yaml("x", (yaml + &registers("4")).as_bytes()).unwrap();
}

#[test]
fn lists_and_files_have_limits() {
    let long = "a".repeat(cgpath_policy::MAX_POLICY_LEN + 1);
    assert!(matches!(
        NodePolicy::from_yaml("x", long.as_bytes()),
        Err(Error::Limit { .. })
    ));
    let many = vec!["x"; 4097].join(",");
    assert!(
        refused(&yaml().replace("templates: [ima-ng]", &format!("templates: [{many}]")))
            .2
            .contains("at most 4096")
    );
    // A document that grows when its aliases are expanded is refused by the parser.
    let mut bomb = String::from("a: &a [x,x,x,x,x,x,x,x,x,x]\n");
    for (n, p) in "bcdefghij".chars().zip("abcdefghi".chars()) {
        bomb += &format!("{n}: &{n} [*{p},*{p},*{p},*{p},*{p},*{p},*{p},*{p},*{p},*{p}]\n");
    }
    refused(&(bomb + &yaml()));
}

#[test]
fn a_collector_or_runtime_file_without_a_reference_value_is_refused() {
    let text = yaml().replace("/usr/sbin/cgpathd", "/usr/sbin/other");
    assert!(matches!(load(&text), Err(Error::Meaning { key, .. }) if key == "accept.collector"));
    let text = yaml().replace("[/usr/sbin/runc]", "[/sbin/runc]");
    assert!(matches!(load(&text), Err(Error::Meaning { key, .. }) if key == "runtime-files"));
}

#[test]
fn a_reference_file_that_is_not_there_is_named() {
    let error = load(&yaml().replace("pause.json", "gone.json")).unwrap_err();
    assert!(error.to_string().contains("gone.json"), "{error}");
}

#[test]
fn a_reference_file_survives_being_written_and_read() {
    let mut reference = Reference::new(Source {
        kind: SourceKind::Image,
        name: "x:1 \"q\"".into(),
        digest: Some(sha256("m")),
    });
    reference.insert(vec![b'/', 0xff, b'\n'], sha256("raw")).unwrap();
    reference.insert(b"/a \"b\"\n".to_vec(), sha256("1")).unwrap();
    reference
        .insert(b"/a \"b\"\n".to_vec(), Bank::Sha1.hash(&[b"1"]))
        .unwrap();
    let mut out = Vec::new();
    reference.write_json(&mut out).unwrap();
    assert_eq!(Reference::from_json("r", &out).unwrap(), reference);
}

#[test]
fn a_reference_file_that_is_not_in_its_one_form_is_refused() {
    let d = sha256("x");
    let file = |files: &str| {
        format!(
            "{{\"version\":1,\"source\":{{\"kind\":\"image\",\"name\":\"x\"}},\"learned\":false,\n\"files\":[{files}]}}"
        )
    };
    let line = |path: &str| format!("\n{{\"path\":\"{path}\",\"digests\":[\"{d}\"]}}");
    assert!(Reference::from_json("r", file(&[line("/a"), line("/b")].join(",")).as_bytes()).is_ok());
    for (files, why) in [
        ([line("/b"), line("/a")].join(","), "byte order"),
        ([line("/a"), line("/a")].join(","), "twice"),
        (line(""), "0 bytes"),
        (line(&"a".repeat(4097)), "1 to 4096"),
        (line("/a\\u0000"), "NUL"),
        ("{\"path\":\"/a\",\"digests\":[]}".into(), "0 digests"),
        (
            "{\"path\":\"/a\",\"digests\":[\"md5:00\"]}".into(),
            "ALGORITHM:HEX",
        ),
        (
            format!("{{\"path\":\"/a\",\"digests\":[\"{d}\"],\"mode\":1}}"),
            "unknown field",
        ),
        (String::new(), "no files"),
    ] {
        match Reference::from_json("r.json", file(&files).as_bytes()) {
            Err(Error::Syntax {
                file,
                line,
                why: found,
                ..
            }) => {
                assert_eq!(file, "r.json");
                assert!(line >= 2 && found.contains(why), "{why}: {line}: {found}");
            }
            other => panic!("{why}: {other:?}"),
        }
    }
    let log = file(&line("/a")).replace("image", "log");
    assert!(
        Reference::from_json("r", log.as_bytes())
            .unwrap_err()
            .to_string()
            .contains("learned")
    );
}

#[test]
fn every_truncation_of_a_reference_file_is_refused() {
    let whole = resolve("rootfs.json").unwrap();
    let end = whole.iter().rposition(|b| *b == b'}').unwrap();
    for n in 0..=end {
        assert!(Reference::from_json("r", &whole[..n]).is_err(), "at {n}");
    }
}

#[test]
fn patterns_match_whole_paths_and_a_star_stops_at_a_slash() {
    let p = |t: &str| Pattern::parse(t).unwrap();
    assert!(p("/var/log/*").matches(b"/var/log/x"));
    assert!(!p("/var/log/*").matches(b"/var/log/x/y"));
    assert!(!p("/var/log/*").matches(b"/a/var/log/x"));
    assert!(p("/var/**").matches(b"/var/log/x/y"));
    assert!(p("/var/**/x").matches(b"/var/x"));
    assert!(p("/a?").matches(b"/ab") && !p("/a?").matches(b"/a/"));
    assert!(p("/raw/*").matches(b"/raw/\xff\n"));
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_the_readers_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
        let _ = NodePolicy::from_yaml("x", &bytes);
        let _ = Reference::from_json("x", &bytes);
    }

    #[test]
    fn no_cut_or_changed_byte_of_a_policy_makes_the_reader_panic(at in 0usize..500, byte: u8) {
        let mut bytes = yaml().into_bytes();
        let at = at % bytes.len();
        let _ = NodePolicy::from_yaml("x", &bytes[..at]);
        bytes[at] = byte;
        let _ = NodePolicy::from_yaml("x", &bytes);
    }
}
