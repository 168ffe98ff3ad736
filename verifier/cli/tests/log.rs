//! `cgpath log` as people and scripts call it: output shapes, exit codes, errors.

use crate::published::{vector, vectors};
use cgpath_evidence::{Bank, Digest};
use serde_json::{Value, json};
use std::io::Write;
use std::process::{Command, Output, Stdio};

fn cgpath(args: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_cgpath"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // From a thread of its own: the output may fill its pipe before the input is read. A command that stops
    // early closes its input: that is no error here.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

/// Exit code, the JSON on standard output, the JSON error on standard error.
fn json_of(args: &[&str], input: &[u8]) -> (i32, Value, Value) {
    let output = cgpath(&[&["log"], args, &["-", "--json"]].concat(), input);
    let read = |bytes: &[u8]| match bytes {
        b"" => Value::Null,
        bytes => serde_json::from_slice(bytes)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(bytes))),
    };
    (
        output.status.code().unwrap(),
        read(&output.stdout),
        read(&output.stderr),
    )
}

fn field(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_le_bytes(), bytes].concat()
}

fn record(pcr: u32, digest: &Digest, template: &str, data: &[u8]) -> Vec<u8> {
    let pcr = pcr.to_le_bytes();
    [
        &pcr[..],
        digest.bytes(),
        &field(template.as_bytes()),
        &field(data),
    ]
    .concat()
}

fn ng(name: &[u8]) -> Vec<u8> {
    let digest = [b"sha256:\0", Bank::Sha256.hash(&[name]).bytes()].concat();
    [field(&digest), field(&[name, &[0]].concat())].concat()
}

fn ima_ng(name: &[u8]) -> Vec<u8> {
    record(10, &Bank::Sha1.hash(&[&ng(name)]), "ima-ng", &ng(name))
}

fn ima_cgpath(dep: &str, cgroup: &str, name: &str) -> Vec<u8> {
    let text = |t: &str| field(&[t.as_bytes(), &[0]].concat());
    let data = [text(dep), text(cgroup), ng(name.as_bytes())].concat();
    record(10, &Bank::Sha1.hash(&[&data]), "ima-cgpath", &data)
}

#[test]
fn replay_counts_and_recomputes_every_bank_and_a_violation_extends_ones() {
    let violation = record(10, &Digest::zero(Bank::Sha1), "ima-ng", &ng(b"/v"));
    let list = [ima_ng(b"/a"), violation, ima_ng(b"/b")].concat();
    let (code, out, error) = json_of(&["replay"], &list);
    let register = |bank: Bank| {
        let extend = |r: Digest, d: &Digest| r.extend(d);
        let digests = [
            bank.hash(&[&ng(b"/a")]),
            Digest::ones(bank),
            bank.hash(&[&ng(b"/b")]),
        ];
        hex::encode(digests.iter().fold(Digest::zero(bank), extend).bytes())
    };
    let banks: serde_json::Map<String, Value> = Bank::ALL
        .iter()
        .map(|b| (b.name().to_owned(), json!(register(*b))))
        .collect();
    let expected = json!({
        "entries": 3, "violations": 1, "templates": {"ima-ng": 3}, "pcrs": {"10": banks}, "mismatches": [],
    });
    assert_eq!((code, out, error), (0, expected, Value::Null));
}

#[test]
fn a_digest_that_is_not_the_entrys_is_named_by_index_and_exits_1() {
    let wrong = record(10, &Bank::Sha1.hash(&[b"other"]), "ima-ng", &ng(b"/b"));
    let list = [ima_ng(b"/a"), wrong.clone(), ima_ng(b"/c"), wrong].concat();
    let (code, out, error) = json_of(&["replay"], &list);
    assert_eq!(code, 1);
    assert_eq!(error, Value::Null);
    assert_eq!(
        out["mismatches"],
        json!([{"index": 1, "bank": "sha1"}, {"index": 3, "bank": "sha1"}])
    );
    // The registers are those of the bytes, not of what the list claims.
    let right = [ima_ng(b"/a"), ima_ng(b"/b"), ima_ng(b"/c"), ima_ng(b"/b")].concat();
    let (code, from_right, _) = json_of(&["replay"], &right);
    assert_eq!((code, &from_right["pcrs"]), (0, &out["pcrs"]));
    let people = cgpath(&["log", "replay", "-"], &list);
    assert_eq!(people.status.code(), Some(1));
    assert!(
        String::from_utf8(people.stdout)
            .unwrap()
            .contains("entry 1: not the sha1 of its bytes")
    );
}

#[test]
fn a_list_that_ends_inside_an_entry_exits_2_with_what_came_before() {
    let first = ima_ng(b"/a");
    let list = [first.clone(), ima_ng(b"/b")].concat();
    let (_, whole, _) = json_of(&["replay"], &first);
    for n in [first.len() + 1, first.len() + 30, list.len() - 1] {
        let (code, out, error) = json_of(&["replay"], &list[..n]);
        assert_eq!(
            (code, &out["entries"], &out["truncated"]),
            (2, &json!(1), &json!(true)),
            "cut at {n}"
        );
        assert_eq!(out["pcrs"], whole["pcrs"]);
        assert_eq!(error["kind"], "incomplete");
        let (code, out, _) = json_of(&["partition"], &list[..n]);
        assert_eq!(
            (code, &out["unattributed"], &out["truncated"]),
            (2, &json!(1), &json!(true))
        );
        let (code, out, error) = json_of(&["show"], &list[..n]);
        assert_eq!(
            (code, &out["index"], &error["kind"]),
            (2, &json!(0), &json!("incomplete"))
        );
    }
}

#[test]
fn what_is_no_list_exits_2_with_one_json_error_and_nothing_else() {
    let own = record(10, &Bank::Sha1.hash(&[&ng(b"/a")]), "ima-own", &ng(b"/a"));
    let mut absurd = ima_ng(b"/a");
    absurd[34..38].fill(0xff);
    let sig = record(10, &Bank::Sha1.hash(&[&ng(b"/a")]), "ima-sig", &ng(b"/a"));
    for (input, kind, says) in [
        (
            &b"hello, world\n"[..],
            "malformed",
            "neither a binary nor an ASCII",
        ),
        (&[0xff; 5000], "malformed", "neither a binary nor an ASCII"),
        (&own, "malformed", "entry 0: template `ima-own` is not known"),
        (&absurd, "limit", "limit exceeded at byte 34"),
        (&sig, "malformed", "entry 0: the data ends before field `sig`"),
    ] {
        for command in ["show", "replay", "partition"] {
            let (code, out, error) = json_of(&[command], input);
            assert_eq!((code, &out), (2, &Value::Null), "{command} {says}");
            assert_eq!(error["kind"], kind);
            let text = error["error"].as_str().unwrap();
            assert!(text.contains(says), "{text}");
            assert!(error["hint"].is_string());
        }
    }
    let (code, _, _) = json_of(&["replay", "--template", "ima-own=d-ng|n-ng"], &own);
    assert_eq!(code, 0);
    let missing = cgpath(&["log", "replay", "/nonexistent/list"], b"");
    assert_eq!(missing.status.code(), Some(2));
    let text = String::from_utf8(missing.stderr).unwrap();
    assert!(
        text.starts_with("error: /nonexistent/list: ") && text.contains("\nhint: "),
        "{text}"
    );
    let usage = cgpath(&["log", "replay", "--json", "--no-such-flag"], b"");
    assert_eq!(usage.status.code(), Some(2));
    assert_eq!(
        serde_json::from_slice::<Value>(&usage.stderr).unwrap()["kind"],
        "usage"
    );
}

#[test]
fn an_entry_relabelled_to_a_template_of_the_same_shape_replays() {
    let digest = Bank::Sha1.hash(&[&ng(b"/a")]);
    let relabelled = record(10, &digest, "d-ng|n-ng", &ng(b"/a"));
    let (code, out, _) = json_of(&["replay"], &relabelled);
    assert_eq!((code, &out["templates"]), (0, &json!({"d-ng|n-ng": 1})));
    let old = [
        &10u32.to_le_bytes()[..],
        digest.bytes(),
        &field(b"ima"),
        &ng(b"/a"),
    ]
    .concat();
    assert!(matches!(json_of(&["replay"], &old).0, 1 | 2));
}

#[test]
fn show_prints_one_safe_line_or_one_json_object_for_each_entry() {
    let names: [&[u8]; 4] = [b"/plain", b"/a b\nc", b"/\x1b[31mred\x07", b"/\xff\xfe"];
    let list: Vec<u8> = names.iter().flat_map(|n| ima_ng(n)).collect();
    let shown = cgpath(&["log", "show", "-"], &list);
    assert_eq!(shown.status.code(), Some(0));
    assert!(
        shown
            .stdout
            .iter()
            .all(|b| *b == b'\n' || (b' '..=b'~').contains(b))
    );
    let text = String::from_utf8(shown.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4);
    assert!(
        lines
            .iter()
            .all(|l| l.starts_with("10 ") && l.split(' ').count() == 5),
        "{text}"
    );
    assert!(
        lines[1].ends_with(r"/a\x20b\nc") && lines[2].ends_with(r"/\x1b[31mred\x07"),
        "{text}"
    );

    let output = cgpath(&["log", "show", "-", "--json"], &list);
    let text = String::from_utf8(output.stdout).unwrap();
    let objects: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(objects.len(), 4);
    assert_eq!(objects[1]["fields"]["n-ng"], "/a b\nc");
    assert_eq!(objects[3]["fields"]["n-ng"], json!({"hex": "2ffffe"}));
    assert_eq!(
        (&objects[0]["index"], &objects[0]["listed"]),
        (&json!(0), &json!("matches"))
    );
}

#[test]
fn partition_counts_pods_by_path_and_names_the_suspect() {
    let uid = "f52130f4-c5be-423e-8070-daaca055a5ad";
    let systemd = format!(
        "/kubepods.slice/kubepods-pod{}.slice/cri-containerd-x.scope",
        uid.replace('-', "_")
    );
    let shim = "/bin/sh:/usr/bin/containerd-shim-runc-v2:/usr/lib/systemd/systemd";
    let list = [
        ima_cgpath(shim, &systemd, "/1"),
        ima_cgpath(shim, &format!("/kubepods/burstable/pod{uid}/x"), "/2"),
        ima_cgpath(
            "/bin/bash:/usr/sbin/sshd:/usr/lib/systemd/systemd",
            &systemd,
            "/3",
        ),
        ima_cgpath(shim, "/kubepods.slice", "/4"),
        ima_cgpath(
            shim,
            &format!("/system.slice/kubepods-fake-pod{uid}.service"),
            "/5",
        ),
        ima_cgpath(shim, "-", "/6"),
        ima_ng(b"/7"),
    ]
    .concat();
    let (code, out, _) = json_of(&["partition"], &list);
    let expected = json!({"pods": {uid: 3}, "host": 2, "unattributed": 2, "suspect": {uid: 1}});
    assert_eq!((code, out), (0, expected));
    let (_, out, _) = json_of(&["partition", "--runtime", "sshd"], &list);
    assert_eq!(out["suspect"], json!({}));
    // A static pod: people see its UID as the path has it, programs with dashes.
    let (plain, dashed) = (
        "8f6a44fc62e8cb075753c843896568ca",
        "8f6a44fc-62e8-cb07-5753-c843896568ca",
    );
    let slice = "/kubepods.slice/kubepods-burstable.slice";
    let paths = [
        format!("/kubepods/burstable/pod{plain}/x"),
        format!("{slice}/kubepods-burstable-pod{plain}.slice/cri-containerd-x.scope"),
    ];
    let list: Vec<u8> = paths
        .iter()
        .flat_map(|path| ima_cgpath(shim, path, "/1"))
        .collect();
    let (_, out, _) = json_of(&["partition"], &list);
    assert_eq!(out["pods"], json!({dashed: 2}));
    let shown = String::from_utf8(cgpath(&["log", "partition", "-"], &list).stdout).unwrap();
    assert!(
        shown.contains(&format!("pod {plain} ")) && !shown.contains(dashed),
        "{shown}"
    );
}

#[test]
fn a_list_without_an_entry_is_no_list() {
    // What a pipe brings whose writer failed.
    for format in ["auto", "binary", "ascii"] {
        for command in ["show", "replay", "partition"] {
            let (code, out, error) = json_of(&[command, "--format", format], b"");
            assert_eq!((code, out), (2, Value::Null), "{command} {format}");
            assert_eq!(error["kind"], "empty", "{command} {format}");
        }
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error_message() {
    let list: Vec<u8> = (0..20_000u32)
        .flat_map(|n| ima_ng(&n.to_le_bytes().map(|b| b | 1)))
        .collect();
    let mut child = Command::new(env!("CARGO_BIN_EXE_cgpath"))
        .args(["log", "show", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let _ = child.stdin.take().unwrap().write_all(&list);
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(141), vec![]));
}

#[test]
fn the_public_lists_come_out_right() {
    if vectors().is_none() {
        return;
    }
    let read = |name: &str| vector(name).unwrap();
    let (binary, ascii) = (
        read("cima/binary_ima-cgpath_sha384.bin"),
        read("cima/ascii_ima-cgpath_sha384"),
    );
    let (code, out, _) = json_of(&["replay"], &binary);
    assert_eq!(
        (code, &out["entries"], &out["mismatches"]),
        (0, &json!(77), &json!([]))
    );
    assert_eq!(json_of(&["replay"], &ascii), (0, out, Value::Null));
    let pods = json!({"f52130f4-c5be-423e-8070-daaca055a5ad": 77});
    let expected = json!({"pods": pods, "host": 0, "unattributed": 0, "suspect": {}});
    assert_eq!(json_of(&["partition"], &binary), (0, expected, Value::Null));
    let shown = cgpath(&["log", "show", "-"], &binary).stdout;
    let trimmed: Vec<u8> = shown
        .split_inclusive(|b| *b == b'\n')
        .flat_map(|l| l.trim_ascii_start().to_vec())
        .collect();
    let expected: Vec<u8> = ascii
        .split_inclusive(|b| *b == b'\n')
        .flat_map(|l| l.trim_ascii_start().to_vec())
        .collect();
    assert_eq!(trimmed, expected, "what is shown is the kernel's ASCII list");
    for name in ["sha1", "sha256", "sha384", "sha512", "sm3_256"] {
        let (code, out, _) = json_of(&["replay"], &read(&format!("keylime/ima-log-{name}")));
        assert_eq!(
            (code, &out["entries"], &out["mismatches"]),
            (0, &json!(2), &json!([])),
            "{name}"
        );
    }
    let (code, out, error) = json_of(&["replay"], &read("keylime/ima-log-unknown"));
    assert_eq!((code, out), (2, Value::Null));
    assert!(
        error["error"]
            .as_str()
            .unwrap()
            .contains("unknown hash algorithm `unknown`"),
        "{error}"
    );
}
