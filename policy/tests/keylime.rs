//! Runtime policies go through our reference values and come out as policies that Keylime's own code takes.

use crate::python::python;
use cgpath_policy::keylime::{Field, read, write};
use cgpath_policy::{Excludes, Hidden, Reference, Source, SourceKind};
use serde_json::{Value, json};
use std::process::Command;

/// Runs `script` on Keylime's modules with `input` on standard input; gives what it printed as JSON. `gpg` is
/// imported by Keylime for signed policies and not used here.
fn keylime(script: &str, input: &Value) -> Value {
    let python = python();
    let script = format!(
        "import json, sys, types
sys.modules['gpg'] = types.ModuleType('gpg')
from keylime.ima import ima
{script}"
    );
    let mut command = Command::new(&python);
    command.args(["-c", &script]).env("KEYLIME_TEST", "on");
    command.env("KEYLIME_DIR", python.parent().unwrap());
    // Keylime logs to standard output, too: the last line is ours.
    let text = crate::answer(&mut command, input);
    serde_json::from_str(text.trim_end().lines().last().unwrap()).unwrap()
}

fn sample() -> Value {
    json!({
        "meta": {"version": 1, "generator": 3, "timestamp": "2024-09-12 13:44:44.797331"},
        "release": 0,
        "digests": {"boot_aggregate": ["a7".repeat(32)], "/usr/bin/ls": ["00".repeat(20), "11".repeat(32)],
        "/a_b": ["22".repeat(64)]},
        "excludes": ["^(?!/usr/bin/).*$", "/tmp/.*"],
        "keyrings": {".ima": ["33".repeat(32)], "_evm": ["44".repeat(20)]},
        "ima": {"ignored_keyrings": [], "log_hash_alg": "sha1", "dm_policy": null},
        "ima-buf": {"kexec-cmdline": ["55".repeat(32)]},
        "verification-keys": ""
    })
}

fn through(policy: &Value) -> Value {
    let bytes = serde_json::to_vec(policy).unwrap();
    let reference = read("p.json", &bytes, &[]).unwrap();
    // As a file in between, too.
    let mut file = Vec::new();
    reference.write_json(&mut file).unwrap();
    let again = Reference::from_json("ref.json", &file).unwrap();
    assert_eq!(again, reference);
    let written = write(&[again], &Excludes::default(), "2026-01-01 00:00:00").unwrap();
    serde_json::from_slice(&written).unwrap()
}

#[test]
fn a_policy_comes_back_with_everything_that_it_says_and_keylime_takes_it() {
    let policy = sample();
    let back = through(&policy);
    // Any smaller, and the push verifier takes the policy for none.
    assert_eq!(back["meta"]["generator"], 3);
    for part in [
        "release",
        "digests",
        "excludes",
        "keyrings",
        "ima",
        "ima-buf",
        "verification-keys",
    ] {
        assert_eq!(back[part], policy[part], "{part}");
    }
    let taken = keylime(
        "policy = json.load(sys.stdin)
ima.verify_runtime_policy(json.dumps(policy).encode(), verify_sig=False)
ima.validate_runtime_policy(policy)
print(json.dumps('taken'))",
        &back,
    );
    assert_eq!(taken, "taken");
}

#[test]
fn keylime_appraises_its_own_lists_by_our_policies_as_by_its_own() {
    // Measurement lists of Keylime's tests with the policies that accept them, and what it makes of a policy
    // that does not.
    let list = "10 6309e2c83b7814367bb3912a55e5473454623535 ima-ng sha256:f4845392eca429a4c941a6a07fc32faf843a88c5c3dfa3b9329ab8f4171d9ce3 boot_aggregate
10 80255d9c7dad91ef5f21b18560a47642d6f4d653 ima-ng sha256:96d7fae8adb7286a419a88f78c13d35fb782d63df654b7db56f154765698b754 /data
";
    let policy = |boot: &str, data: &str, excludes: &[&str]| {
        let mut policy = sample();
        policy["digests"] = json!({"boot_aggregate": [boot], "/data": [data]});
        policy["excludes"] = json!(excludes);
        policy
    };
    let boot = "f4845392eca429a4c941a6a07fc32faf843a88c5c3dfa3b9329ab8f4171d9ce3";
    let data = "96d7fae8adb7286a419a88f78c13d35fb782d63df654b7db56f154765698b754";
    let other = "00".repeat(32);
    let policies = [
        (policy(boot, data, &[]), true),
        (policy(boot, &other, &[]), false),
        (policy(boot, &other, &["^/data$"]), true),
        (policy(boot, &other, &["data"]), false),
        (policy(&other, &other, &["^(?!/usr/).*$"]), true),
    ];
    for (policy, accepted) in policies {
        let verdict = keylime(
            "case = json.load(sys.stdin)
value, failure = ima.process_measurement_list(None, case['list'].split('\\n'), runtime_policy=case['policy'])
print(json.dumps(not failure))",
            &json!({"list": list, "policy": through(&policy)}),
        );
        assert_eq!(verdict, accepted, "{policy}");
        // Ours says the same of each file.
        let reference = read("p.json", &serde_json::to_vec(&policy).unwrap(), &[]).unwrap();
        let ours = [("boot_aggregate", boot), ("/data", data)]
            .iter()
            .all(|(path, found)| {
                let digest = cgpath_evidence::Digest::parse(&format!("sha256:{found}")).unwrap();
                reference.excludes.matches(path.as_bytes()) == Hidden::Yes
                    || reference
                        .files
                        .get(path.as_bytes())
                        .is_some_and(|d| d.contains(&digest))
            });
        assert_eq!(ours, accepted, "{policy}");
    }
}

#[test]
fn what_is_written_from_images_is_taken_by_keylime_and_names_paths_as_the_list_has_them() {
    let mut reference = Reference::new(Source {
        kind: SourceKind::Image,
        name: "app".into(),
        digest: None,
    });
    reference
        .insert(b"/opt/a b".to_vec(), cgpath_evidence::Bank::Sha256.hash(&[b"x"]))
        .unwrap();
    let excludes = Excludes::new(vec![cgpath_policy::keylime::CHECKPOINTS.to_owned()]).unwrap();
    let written = write(&[reference.clone()], &excludes, "2026-01-01 00:00:00").unwrap();
    let written: Value = serde_json::from_slice(&written).unwrap();
    assert!(written["digests"]["/opt/a_b"].is_array());
    keylime(
        "ima.validate_runtime_policy(json.load(sys.stdin))\nprint('true')",
        &written,
    );
    reference
        .insert(b"/\xff".to_vec(), cgpath_evidence::Bank::Sha256.hash(&[b"x"]))
        .unwrap();
    let error = write(&[reference], &excludes, "").unwrap_err().to_string();
    assert!(error.contains("not UTF-8"), "{error}");
}

fn refusal(change: impl FnOnce(&mut Value)) -> String {
    let mut policy = sample();
    change(&mut policy);
    read("p.json", &serde_json::to_vec(&policy).unwrap(), &[])
        .unwrap_err()
        .to_string()
}

#[test]
fn what_cannot_be_appraised_here_is_refused_by_its_name_and_left_out_on_demand() {
    assert!(refusal(|p| p["verification-keys"] = json!("{}")).contains("verification-keys"));
    assert!(refusal(|p| p["ima"]["ignored_keyrings"] = json!(["*"])).contains("ima.ignored_keyrings"));
    assert!(refusal(|p| p["ima"]["dm_policy"] = json!({})).contains("ima.dm_policy"));
    assert!(refusal(|p| p["extra"] = json!(1)).contains("extra"));
    assert!(refusal(|p| *p = json!({"payload": "e30=", "signatures": []})).contains("DSSE"));
    assert!(refusal(|p| p["meta"]["version"] = json!(2)).contains("version 2"));
    assert!(refusal(|p| p["digests"] = json!({})).contains("digests"));
    assert!(refusal(|p| p["digests"]["/x"] = json!([])).contains("no digests"));
    assert!(refusal(|p| p["digests"]["/x"] = json!(["00".repeat(30)])).contains("not a digest"));
    assert!(refusal(|p| p["keyrings"]["/usr/bin/ls"] = json!(["00".repeat(20)])).contains("stands in two"));
    assert!(refusal(|p| p["excludes"] = json!(["("])).contains("exclude 1"));
    let text = sample().to_string().replace("\"/a_b\"", "\"/usr/bin/ls\"");
    assert!(
        read("p.json", text.as_bytes(), &[])
            .unwrap_err()
            .to_string()
            .contains("stands twice")
    );
    let mut policy = sample();
    policy["verification-keys"] = json!("{}");
    let bytes = serde_json::to_vec(&policy).unwrap();
    assert!(read("p.json", &bytes, &[Field::VerificationKeys]).is_ok());
}
