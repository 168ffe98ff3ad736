//! What the sources of pure crates reach for by themselves: no files, no network, no processes, no clock.
//!
//! Promise: what is read is code without comments and without tests; a path such as `std::fs::read` is found,
//! and so is the group `use std::{fs, io}`. Not here: what other crates do for a pure one (`IMPURE` in
//! `purity.rs`), and methods such as `Path::exists`.

use crate::purity::PURE;
use crate::rust::{code, is_of_tests};
use crate::tidy::stands_alone;
use std::collections::BTreeMap;

/// Modules of `std` that no pure crate names.
const MODULES: &[&str] = &["fs", "net", "process"];

/// Names that no pure crate has, whatever they were imported by.
const NAMES: &[&str] = &[
    "SystemTime",
    "Instant",
    "UNIX_EPOCH",
    "env::var",
    "env::vars",
    "env::args",
    "stdin",
    "stdout",
    "stderr",
    "println",
    "eprintln",
    "OsRng",
    "getrandom",
    "thread_rng",
];

/// A breach for each line of a pure crate that reaches beyond it.
pub fn check(texts: &BTreeMap<String, String>, breaches: &mut Vec<String>) {
    let is_pure = |file: &str| {
        let is_source = file.ends_with(".rs") && !is_of_tests(file);
        is_source && PURE.iter().any(|(_, folder)| file.starts_with(folder))
    };
    for (file, text) in texts.iter().filter(|(file, _)| is_pure(file)) {
        let code = code(text);
        for (number, name) in found(&code) {
            breaches.push(format!(
                "{file}:{number}: `{name}` in a pure crate: let the caller read, and take the time as an \
                 argument"
            ));
        }
    }
}

/// The lines that name one of these, with what they name.
fn found(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (index, line) in code.lines().enumerate() {
        let modules = MODULES.iter().map(|module| format!("std::{module}"));
        let names = NAMES.iter().map(|name| (*name).to_owned());
        for name in modules.chain(names).filter(|name| stands_alone(line, name)) {
            found.push((index + 1, name));
        }
    }
    for (at, _) in code.match_indices("std::{") {
        let group = code[at..].split(';').next().unwrap_or_default();
        for module in MODULES.iter().filter(|module| stands_alone(group, module)) {
            found.push((code[..at].matches('\n').count() + 1, format!("std::{module}")));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pure_crate_that_reads_files_or_the_clock_is_found() {
        let of = |file: &str, text: &str| {
            let mut breaches = Vec::new();
            check(
                &BTreeMap::from([(file.to_owned(), text.to_owned())]),
                &mut breaches,
            );
            breaches
        };
        for text in [
            "fn f() { std::fs::read(\"a\"); }\n",
            "use std::{\n    fmt,\n    fs::File,\n};\n",
            "use std::net::TcpStream;\n",
            "fn now() -> u64 { SystemTime::now() }\n",
            "fn f() { env::var(\"HOME\"); }\n",
            "fn f() { OsRng.next_u32(); }\n",
        ] {
            let found = of("policy/src/lib.rs", text);
            assert_eq!(found.len(), 1, "{text} {found:?}");
            assert!(found[0].starts_with("policy/src/lib.rs:1: `"), "{found:?}");
            assert_eq!(of("verifier/cli/src/main.rs", text), [""; 0]);
            assert_eq!(of("policy/tests/main.rs", text), [""; 0]);
        }
        let fine = "// std::fs\nuse std::{fmt, io::Read};\nlet fs = std::env::consts::ARCH;\n\
                    #[cfg(test)]\nmod tests {\n    use std::fs;\n}\n";
        assert_eq!(of("policy/src/lib.rs", fine), [""; 0]);
    }
}
