//! `cgpath policy diff` names each key in which two policies differ; `check` and `lint` say what is missing.

/// What a command exits with, and says.
fn cgpath(args: &[&str]) -> (Option<i32>, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_cgpath"))
        .args(args)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

/// `policy diff` of the example that has every key and of the same with one thing changed.
fn diff_of(from: &str, to: &str) -> (Option<i32>, String) {
    let examples = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policy/examples");
    let old = examples.join("everything.yaml");
    let text = std::fs::read_to_string(&old).unwrap();
    assert!(text.contains(from), "{from}");
    // Beside the original's reference files, which it names by relative paths.
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(
        examples.canonicalize().unwrap().join("two-pods"),
        dir.path().join("two-pods"),
    )
    .unwrap();
    let new = dir.path().join("new.yaml");
    std::fs::write(&new, text.replacen(from, to, 1)).unwrap();
    let [old, new] = [&old, &new].map(|path| path.to_str().unwrap());
    cgpath(&["policy", "diff", old, new])
}

#[test]
fn two_policies_that_differ_in_any_key_are_told_apart_by_its_name() {
    assert_eq!(
        diff_of("version: 1", "version: 1"),
        (Some(0), "no difference\n".to_owned())
    );
    let (eights, nines) = ("8".repeat(64), "9".repeat(64));
    let fours = "4".repeat(64);
    let register = format!("7: [sha256:{}]", "7".repeat(64));
    let other = format!("7: [sha256:{eights}]");
    let object = format!("    - sha256:{}\n  ima", "0".repeat(64));
    let other_object = format!("    - sha256:{nines}\n  ima");
    for (key, from, to) in [
        ("node", "node: everything", "node: other"),
        ("accept.tiers", "tiers: [kernel, bpf]", "tiers: [bpf]"),
        ("accept.templates", "ima-ng, ", ""),
        ("accept.banks", "sha256, sha384", "sha256"),
        ("accept.bpf-objects", &object, &other_object),
        (
            "accept.ima-policies",
            "    - sha256:0ee51d5f2246792ff6f8cd1bace21620883085a113153c75ed55ab3aafef35a8\n",
            "",
        ),
        (
            "accept.collector",
            "collector: /usr/sbin/cgpathd",
            "collector: /usr/sbin/runc",
        ),
        ("tolerance.unattributed", "unattributed: 1", "unattributed: 2"),
        ("tolerance.lost", "lost: 1", "lost: 0"),
        ("padded-banks", "padded-banks: report\n", ""),
        ("predating-pods", "predating-pods: trust\n", ""),
        ("kexec", "kexec: allow\n", ""),
        ("min-reboot", "min-reboot: 0", "min-reboot: 3600"),
        ("runtimes", "containerd-shim-runc-v2, ", ""),
        ("host", "'^/var/tmp/.*', ", ""),
        ("runtime-files", "[/usr/sbin/runc]", "[/usr/sbin/cgpathd]"),
        ("sandbox", "sandbox: { references: [two-pods/pause.json] }\n", ""),
        ("guard.at-least", "at-least: off", "at-least: deny"),
        ("guard.tpm-opened", "tpm-opened: untrust", "tpm-opened: report"),
        ("guard.tolerate", "[map-read, program-opened]", "[map-read]"),
        ("violations.permit", "/var/log/**, ", ""),
        ("file-systems.permit", "[nfs, ", "[ceph, "),
        ("boot.registers", &register, &other),
        (
            "boot.command-lines",
            "root=/dev/vda2 ro quiet",
            "root=/dev/vda2 ro",
        ),
        ("boot.events", &fours, &eights),
        ("boot.events", "      optional: true\n", ""),
        ("boot.firmware-deviations", "name: no separator", "name: none"),
        ("pods", "name: demo/pod-a", "name: demo/pod-b"),
        ("pod", "[two-pods/busybox.json]", "[two-pods/pause.json]"),
        ("opaque", "    opaque: trust\n", ""),
        ("shared-memory-code", "    shared-memory-code: trust\n", ""),
    ] {
        let (code, said) = diff_of(from, to);
        assert_eq!(code, Some(1), "{key}: {said}");
        assert!(said.contains(key), "{key}: {said}");
    }
}

#[test]
fn lint_names_each_pod_that_is_trusted_with_code_in_shared_memory() {
    let examples = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policy/examples");
    for (policy, whose) in [
        ("everything.yaml", "pod demo/pod-a"),
        ("everything-2/node.yaml", "workload shop/web, container web"),
    ] {
        let policy = examples.join(policy);
        let (code, said) = cgpath(&["policy", "lint", policy.to_str().unwrap()]);
        assert_eq!(code, Some(1), "{said}");
        let line = format!("{whose}.shared-memory-code: trust: laxer than the default\n");
        assert!(said.contains(&line), "{said}");
    }
}

#[test]
fn a_policy_that_says_nothing_of_the_boot_is_named_before_it_fails_every_verdict() {
    let examples = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policy/examples");
    let given = examples.join("two-pods/node.yaml");
    let run = |command: &str, policy: &std::path::Path| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_cgpath"))
            .args(["policy", command])
            .arg(policy)
            .output()
            .unwrap();
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(examples.join("two-pods")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    let without = dir.path().join("without.yaml");
    let text = std::fs::read_to_string(&given).unwrap();
    let text: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with("dangerous-boot-not-judged"))
        .collect();
    std::fs::write(&without, text.join("\n")).unwrap();
    for command in ["check", "lint"] {
        assert!(!run(command, &given).contains("fails V10"), "{command}");
        let said = run(command, &without);
        assert!(said.contains("every verdict fails V10"), "{command}: {said}");
    }
}

#[test]
fn a_file_in_place_of_a_store_and_an_input_of_another_format_are_named_as_such() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let run = |args: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_cgpath"))
            .args(args)
            .current_dir(&root)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let policy = "policy/examples/two-pods/node.yaml";
    let reference = "policy/examples/two-pods/pause.json";
    let said = run(&["policy", "test", policy, "--against", "README.md"]);
    assert!(said.contains("holds no store"), "{said}");
    let said = run(&["policy", "from-keylime", reference, "-o", "-"]);
    assert!(said.contains("runtime policy of Keylime"), "{said}");
    let said = run(&["policy", "check", "nothing.yaml"]);
    assert!(!said.contains("standard input"), "{said}");
    let said = run(&["log", "show", "nothing"]);
    assert!(said.contains("standard input"), "{said}");
}

#[test]
fn an_argument_of_any_length_is_cut_in_an_error_and_named_by_its_length_and_hash() {
    let (long, option) = ("x".repeat(100_000), format!("--format={}", "x".repeat(100_000)));
    let (long, option) = (long.as_str(), option.as_str());
    for args in [
        &["policy", "check", long][..],
        &["policy", "schema", long],
        &["log", "show", "list", option],
        &[
            "verify",
            "evidence.cbor",
            "--policy",
            "p.yaml",
            "--dangerous-no-nonce",
            "--ak",
            long,
        ],
        &[long],
    ] {
        for json in [&[][..], &["--json"]] {
            let output = std::process::Command::new(env!("CARGO_BIN_EXE_cgpath"))
                .args(args)
                .args(json)
                .output()
                .unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            let start: String = said.chars().take(500).collect();
            assert_eq!(output.status.code(), Some(2), "{start}");
            assert!(said.len() < 2000, "{} bytes: {start}", said.len());
            assert!(said.contains("(100000 bytes, sha256 "), "{start}");
        }
    }
}

#[test]
fn a_tenants_policy_is_checked_and_has_a_schema() {
    let examples = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policy/examples/two-pods");
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(examples.join("busybox.json"), dir.path().join("busybox.json")).unwrap();
    let uid = "11111111-1111-4111-8111-111111111111";
    let text = format!(
        "version: 1\n\
         pod: {uid}\n\
         name: demo/a\n\
         templates: [ima-ng]\n\
         banks: [sha256]\n\
         references: [busybox.json]\n\
         lost: 3\n"
    );
    let run = |text: &str, args: &[&str]| {
        std::fs::write(dir.path().join("web.yaml"), text).unwrap();
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_cgpath"))
            .args(["policy", "check", "web.yaml"])
            .args(args)
            .current_dir(&dir)
            .output()
            .unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code(), said)
    };
    let (code, said) = run(&text, &["--tenant"]);
    assert_eq!(code, Some(0), "{said}");
    for words in [
        uid,
        "demo/a",
        "pod: 1 path\n",
        "laxer than the default: tolerance.lost: 3",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let (_, json) = run(&text, &["--tenant", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["pod"], uid);
    assert_eq!(json["paths"], 1);
    // As a node's it is none, and the hint says what it may be.
    let (code, said) = run(&text, &[]);
    assert!(code == Some(2) && said.contains("--tenant"), "{code:?} {said}");
    // What is wrong in it has its place, and a reference file must be there.
    let (code, said) = run(&text.replace("lost: 3", "lose: 3"), &["--tenant"]);
    assert!(
        code == Some(2) && said.contains("web.yaml:7:1: "),
        "{code:?} {said}"
    );
    let (code, said) = run(&text.replace("busybox.json", "other.json"), &["--tenant"]);
    assert!(code == Some(2) && said.contains("other.json"), "{code:?} {said}");

    let output = std::process::Command::new(env!("CARGO_BIN_EXE_cgpath"))
        .args(["policy", "schema", "tenant"])
        .output()
        .unwrap();
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(schema, cgpath_policy::schema::tenant_policy());
    assert_eq!(schema["required"][1], "pod");
}

#[test]
fn one_is_not_counted_as_several() {
    let examples = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policy/examples");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_cgpath"))
        .args(["policy", "check"])
        .arg(examples.join("two-pods/node.yaml"))
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("sandbox: 1 path\n"), "{said}");
    assert!(said.lines().any(|line| line.ends_with(" paths")), "{said}");
}

#[test]
fn a_policy_of_version_1_is_migrated_checked_and_linted() {
    let examples = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policy/examples/two-pods");
    let dir = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(&examples).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), dir.path().join(file.file_name())).unwrap();
    }
    let [old, new, part] = ["node.yaml", "new.yaml", "workloads.yaml"].map(|name| dir.path().join(name));
    let [old, new] = [&old, &new].map(|path| path.to_str().unwrap());
    let (code, said) = cgpath(&["policy", "migrate", old, "-o", new]);
    assert_eq!(code, Some(0), "{said}");
    // Nothing is written over.
    let (code, said) = cgpath(&["policy", "migrate", old, "-o", new]);
    assert!(
        code == Some(2) && said.contains("workloads.yaml"),
        "{code:?} {said}"
    );
    let (code, said) = cgpath(&["policy", "check", new]);
    assert_eq!(code, Some(0), "{said}");
    for words in [
        "workload demo/pod-a {uid: 11111111-1111-4111-8111-111111111111}",
        "  container *: ",
        "workloads (sha256:",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let (_, json) = cgpath(&["policy", "check", new, "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["workloads"][2]["containers"][0]["name"], "*");
    let (code, said) = cgpath(&["policy", "migrate", new, "-o", "x.yaml"]);
    assert!(
        code == Some(2) && said.contains("it is 2 already"),
        "{code:?} {said}"
    );
    // What `only` leaves of the values.
    let text = std::fs::read_to_string(&part).unwrap();
    let more = "  - {name: o, match: {namespace: o}, containers: {
      a: {references: [busybox.json], only: [/app/*]},
      b: {references: [busybox.json], only: ['/**', /bin/ls]}}}
";
    let limited = dir.path().join("limited.yaml");
    std::fs::write(dir.path().join("only.yaml"), text + more).unwrap();
    let node = std::fs::read_to_string(new).unwrap();
    std::fs::write(&limited, node.replace("workloads.yaml", "only.yaml")).unwrap();
    let (code, said) = cgpath(&["policy", "lint", limited.to_str().unwrap()]);
    assert_eq!(code, Some(1), "{said}");
    for words in [
        "workload o, container a: only /app/*: no path with a reference value",
        "workload o, container b: only /bin/ls: no path with a reference value",
        "workload o, container b: only leaves out nothing",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(!said.contains("container a: only leaves out nothing"), "{said}");
    // An entry that takes all pods of a later one, and one that shares some.
    let text = std::fs::read_to_string(&part).unwrap();
    let more = "  - {name: a, match: {namespace: shop}, containers: {'*': {references: [busybox.json]}}}
  - {name: b, match: {namespace: shop, labels: {app: web}}, containers: {'*': {references: [busybox.json]}}}
  - {name: c, match: {labels: {app: web}}, containers: {'*': {references: [busybox.json]}}}
";
    std::fs::write(&part, text + more).unwrap();
    let (code, said) = cgpath(&["policy", "lint", new]);
    assert_eq!(code, Some(1), "{said}");
    for words in [
        "workload b: it can never match: a,",
        "workload a: demo/pod-a, which comes before it, may take some",
        "workload c: it has labels alone",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let (code, said) = cgpath(&["policy", "diff", old, new]);
    assert_eq!(code, Some(1), "{said}");
    let line = "+ workloads: b {namespace: shop, labels: {app: web}}";
    assert!(said.lines().any(|said| said == line), "{said}");
    assert!(!said.contains("in this order"), "{said}");
    assert!(
        said.contains("- pods: 11111111-1111-4111-8111-111111111111 demo/pod-a"),
        "{said}"
    );
    // Another order, and a time that is shorter than the default.
    let node = std::fs::read_to_string(new).unwrap();
    let text = std::fs::read_to_string(&part).unwrap();
    let of_c =
        "  - {name: c, match: {labels: {app: web}}, containers: {'*': {references: [busybox.json]}}}\n";
    assert!(text.contains(of_c) && node.contains("workloads.yaml"));
    let other = text
        .replace(of_c, "")
        .replace("\nworkloads:\n", &format!("\nsettle: 60s\nworkloads:\n{of_c}"));
    std::fs::write(dir.path().join("other.yaml"), other).unwrap();
    let reordered = dir.path().join("reordered.yaml");
    std::fs::write(&reordered, node.replace("workloads.yaml", "other.yaml")).unwrap();
    let (code, said) = cgpath(&["policy", "diff", new, reordered.to_str().unwrap()]);
    assert_eq!(code, Some(1), "{said}");
    for words in [
        "- settle: 120s",
        "+ settle: 60s",
        "- workloads, in this order: demo/pod-a, ",
        "+ workloads, in this order: c, demo/pod-a, ",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(!said.contains("workloads: c"), "{said}");
    // One more before all others, which keep their order.
    let of_d = "  - {name: d, match: {namespace: d}, containers: {'*': {references: [busybox.json]}}}\n";
    let inserted = text.replace("\nworkloads:\n", &format!("\nworkloads:\n{of_d}"));
    std::fs::write(dir.path().join("inserted.yaml"), inserted).unwrap();
    let more = dir.path().join("more.yaml");
    std::fs::write(&more, node.replace("workloads.yaml", "inserted.yaml")).unwrap();
    let (code, said) = cgpath(&["policy", "diff", new, more.to_str().unwrap()]);
    assert_eq!(code, Some(1), "{said}");
    let changed: Vec<&str> = said.lines().filter(|line| line.contains("workloads")).collect();
    assert_eq!(
        changed,
        ["+ workloads: d {namespace: d}", "+ workloads: d: *"],
        "{said}"
    );
    let (code, said) = cgpath(&["policy", "diff", new, new]);
    assert_eq!(code, Some(0), "{said}");
}
