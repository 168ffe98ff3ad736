//! Unsafe code: each library and each program of the workspace denies it at its root.
//!
//! Promise: a root that does not is a breach, so that a module which needs unsafe code says so itself, with
//! its reason. Not here: the eBPF programs, which are a workspace of their own and read the kernel's memory.

use serde_json::Value;
use std::collections::BTreeMap;

/// What a root may say: `forbid` where no module needs unsafe code, else `deny`.
const SAID: [&str; 2] = ["#![forbid(unsafe_code)]", "#![deny(unsafe_code)]"];

/// A breach for each root of a library or a program that says neither.
pub fn check(metadata: &Value, texts: &BTreeMap<String, String>, breaches: &mut Vec<String>) {
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
