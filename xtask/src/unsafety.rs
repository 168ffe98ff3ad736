//! Unsafe code: each library and each program of the workspace denies it at its root, and each package, also
//! one outside of the workspace, by its lints, which hold its tests, too.
//!
//! Promise: a root or a package that does not is a breach, so that a module which needs unsafe code says so
//! itself, with its reason. Not here: what the packages do that [`EXCEPT`] names.

use serde_json::Value;
use std::collections::BTreeMap;

/// What a root may say: `forbid` where no module needs unsafe code, else `deny`.
const SAID: [&str; 2] = ["#![forbid(unsafe_code)]", "#![deny(unsafe_code)]"];

/// Manifests of packages that may have unsafe code anywhere, and why.
const EXCEPT: &[(&str, &str)] = &[
    (
        "ebpf/programs/Cargo.toml",
        "the eBPF programs read the kernel's memory",
    ),
    (
        "fuzz/libfuzzer/Cargo.toml",
        "the macro of libfuzzer-sys makes the C function that it calls",
    ),
];

/// A breach for each package whose lints do not deny unsafe code.
fn lints(texts: &BTreeMap<String, String>, breaches: &mut Vec<String>) {
    let is_manifest = |file: &str| file == "Cargo.toml" || file.ends_with("/Cargo.toml");
    for (file, text) in texts.iter().filter(|(file, _)| is_manifest(file)) {
        let has = |wanted: &str| text.contains(wanted);
        let denies = has("[lints]\nworkspace = true\n")
            || ["deny", "forbid"]
                .iter()
                .any(|level| has(&format!("\n[lints.rust]\nunsafe_code = \"{level}\"\n")));
        let is_except = EXCEPT.iter().any(|(except, _)| except == file);
        if has("[package]\n") && !denies && !is_except {
            breaches.push(format!(
                "{file}: `[lints]` of the workspace, or `unsafe_code = \"deny\"` in `[lints.rust]`"
            ));
        }
    }
}

/// A breach for each root of a library or a program that says neither.
pub fn check(metadata: &Value, texts: &BTreeMap<String, String>, breaches: &mut Vec<String>) {
    lints(texts, breaches);
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let above = metadata["workspace_root"].as_str().unwrap_or_default();
    for target in list(&metadata["packages"])
        .iter()
        .flat_map(|package| list(&package["targets"]))
    {
        let is_shipped = list(&target["kind"])
            .iter()
            .any(|kind| matches!(kind.as_str(), Some("lib" | "bin")));
        let path = target["src_path"].as_str().unwrap_or_default();
        let file = path.strip_prefix(above).unwrap_or(path).trim_start_matches('/');
        let says = |text: &String| {
            // What a root allows again, it does not deny.
            let mut others = text
                .lines()
                .filter(|line| line.starts_with("#![") && !SAID.contains(line));
            text.lines().any(|line| SAID.contains(&line)) && !others.any(|line| line.contains("unsafe_code"))
        };
        if is_shipped && !texts.get(file).is_some_and(says) {
            breaches.push(format!(
                "{file}: a crate's root says `{}` or `{}`",
                SAID[0], SAID[1]
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_whose_lints_do_not_deny_unsafe_code_is_found() {
        let of = |file: &str, text: &str| {
            let mut breaches = Vec::new();
            let texts = BTreeMap::from([(file.to_owned(), text.to_owned())]);
            lints(&texts, &mut breaches);
            breaches.len()
        };
        let package = "[package]\nname = \"a\"\n";
        assert_eq!(of("a/Cargo.toml", package), 1);
        assert_eq!(
            of(
                "a/Cargo.toml",
                &format!("{package}\n[lints.rust]\nunsafe_code = \"warn\"\n")
            ),
            1
        );
        assert_eq!(
            of(
                "a/Cargo.toml",
                &format!("{package}\n[lints.rust]\nunsafe_code = \"deny\"\n")
            ),
            0
        );
        assert_eq!(
            of("a/Cargo.toml", &format!("{package}\n[lints]\nworkspace = true\n")),
            0
        );
        assert_eq!(of("ebpf/programs/Cargo.toml", package), 0);
        assert_eq!(of("Cargo.toml", "[workspace]\n"), 0);
    }

    #[test]
    fn a_root_that_does_not_deny_unsafe_code_is_found() {
        let target = |kind: &str, path: &str| serde_json::json!({"kind": [kind], "src_path": path});
        let metadata = serde_json::json!({
            "workspace_root": "/here",
            "packages": [
                {"targets": [target("lib", "/here/a/src/lib.rs"), target("test", "/here/a/tests/main.rs")]},
                {"targets": [target("bin", "/here/b/src/main.rs"), target("lib", "/here/b/src/lib.rs")]},
                {"targets": [target("lib", "/here/c/src/lib.rs")]},
            ],
        });
        let texts = [
            ("a/src/lib.rs", "//! A library.\n#![forbid(unsafe_code)]\n"),
            ("a/tests/main.rs", ""),
            ("b/src/main.rs", "//! Not `#![deny(unsafe_code)]`.\n"),
            ("b/src/lib.rs", "#![deny(unsafe_code)]\n"),
            (
                "c/src/lib.rs",
                "#![deny(unsafe_code)]\n#![allow(unsafe_code, reason = \"all of it\")]\n",
            ),
        ];
        let texts = texts.map(|(file, text)| (file.to_owned(), text.to_owned()));
        let mut breaches = Vec::new();
        check(&metadata, &BTreeMap::from(texts), &mut breaches);
        assert_eq!(breaches.len(), 2, "{breaches:?}");
        assert!(breaches[0].starts_with("b/src/main.rs: "), "{breaches:?}");
        assert!(breaches[1].starts_with("c/src/lib.rs: "), "{breaches:?}");
    }
}
