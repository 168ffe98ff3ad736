//! Every policy and reference file that is shipped can be used as it is.

use cgpath_evidence::Bank;
use cgpath_policy::{Policy, Reference, Source, SourceKind};
use std::path::{Path, PathBuf};

fn files(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, extension, found);
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
}

fn shipped(folder: &str, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    files(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join(folder),
        extension,
        &mut found,
    );
    assert!(!found.is_empty(), "nothing shipped in {folder}");
    found
}

fn load(path: &Path, resolve: impl FnMut(&str) -> Result<Vec<u8>, String>) -> Policy {
    Policy::load(
        &path.display().to_string(),
        &std::fs::read(path).unwrap(),
        resolve,
    )
    .unwrap()
}

#[test]
fn each_example_loads_with_the_reference_files_beside_it() {
    for path in shipped("examples", "yaml") {
        // What a policy names is read with it.
        if path.ends_with("workloads.yaml") {
            continue;
        }
        let folder = path.parent().unwrap();
        let policy = load(&path, |name| {
            std::fs::read(folder.join(name)).map_err(|e| e.to_string())
        });
        let workloads = policy.all_workloads().count();
        assert!(policy.pods.len() + workloads > 0);
        only_shipped_ima_policies(&policy);
    }
}

#[test]
fn each_node_policy_loads_with_reference_files_of_its_own() {
    for path in shipped("node", "yaml") {
        let policy = load(&path, |name| {
            let source = Source {
                kind: SourceKind::Rootfs,
                name: name.into(),
                digest: None,
            };
            let mut reference = Reference::new(source);
            let library = |name| format!("/usr/lib/x86_64-linux-gnu/{name}");
            for path in [
                "/usr/sbin/cgpathd".into(),
                "/usr/sbin/runc".into(),
                "/pause".into(),
                library("ld-linux-x86-64.so.2"),
                library("libc.so.6"),
                library("libseccomp.so.2.5.4"),
            ] {
                reference.insert(path.as_bytes().to_vec(), Bank::Sha256.hash(&[path.as_bytes()]))?;
            }
            let mut json = Vec::new();
            reference.write_json(&mut json).map_err(|e| e.to_string())?;
            Ok(json)
        });
        assert_eq!(policy.relaxations(), Vec::<String>::new());
        only_shipped_ima_policies(&policy);
    }
}

/// An edit of a shipped rule file must be followed by an edit of the digests that stand in policies.
fn only_shipped_ima_policies(policy: &Policy) {
    let shipped = [cgpath_policy::ima::MINIMAL, cgpath_policy::ima::RECOMMENDED]
        .map(|t| Bank::Sha256.hash(&[t.as_bytes()]));
    for digest in &policy.file.accept.ima_policies {
        assert!(
            shipped.contains(digest),
            "{}: {digest} is not a shipped IMA policy",
            policy.file.node
        );
    }
}

/// All keys of a schema, however deep.
fn keys(schema: &serde_json::Value) -> Vec<String> {
    let mut keys: Vec<String> = Vec::new();
    let mut stack = vec![schema];
    while let Some(value) = stack.pop() {
        if let Some(properties) = value.get("properties").and_then(|p| p.as_object()) {
            keys.extend(properties.keys().cloned());
        }
        stack.extend(value.as_object().into_iter().flat_map(|o| o.values()));
    }
    keys
}

#[test]
fn the_examples_with_everything_have_every_key_of_their_schema() {
    for (example, schema, least) in [
        ("everything.yaml", cgpath_policy::schema::node_policy(), 20),
        (
            "everything-2/workloads.yaml",
            cgpath_policy::schema::workloads(),
            10,
        ),
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("examples")
            .join(example);
        let text = std::fs::read_to_string(path).unwrap();
        let keys = keys(&schema);
        assert!(keys.len() > least, "{keys:?}");
        for key in keys {
            assert!(
                text.contains(&format!("{key}:")),
                "{key} is not shown in {example}"
            );
        }
    }
}

#[test]
fn the_example_with_everything_repeats_what_weakens_a_rule() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/everything.yaml");
    let folder = path.parent().unwrap().to_owned();
    let policy = load(&path, |name| {
        std::fs::read(folder.join(name)).map_err(|e| e.to_string())
    });
    // The one key that switches a rule off does not go with `boot`, which is shown.
    assert!(policy.file.boot.is_some() && policy.dangerous_keys().is_empty());
    assert_eq!(policy.relaxations().len(), 27);
}
