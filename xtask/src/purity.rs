//! Pure crates: what none of them may reach through the packages that it is built from and by.
//!
//! Promise: the whole tree of each is looked at, with all its features, as cargo resolves it; an exception
//! says why, and goes when nothing needs it. Not here: what their own sources reach for (see `reach`).

use crate::workspace::Workspace;
use crate::{build, shell};
use anyhow::{Context as _, Result};
use serde_json::Value;
use std::collections::BTreeSet;

/// Crates that are pure, each with the folder of its sources.
pub const PURE: &[(&str, &str)] = &[
    ("cgpath-evidence", "evidence/src/"),
    ("cgpath-policy", "policy/src/"),
    ("cgpath-refvals", "policy/refvals/src/"),
    ("cgpath-appraisal", "verifier/appraisal/src/"),
    ("cgpath-report", "verifier/report/src/"),
];

/// What none of them may reach, however indirectly.
const IMPURE: &[&str] = &[
    "async-io",
    "async-std",
    "aya",
    "hyper",
    "memmap2",
    "mio",
    "nix",
    "procfs",
    "reqwest",
    "rusqlite",
    "rustix",
    "smol",
    "socket2",
    "tempfile",
    "tokio",
    "tss-esapi",
    "ureq",
    // They read the clock; see also `CLOCKS`.
    "quanta",
    "time",
    // They draw random numbers; see also `EXCEPT`.
    "fastrand",
    "getrandom",
    "rand",
    // What compiles C, or finds what was compiled; see also `LINKS_NOTHING`.
    "autotools",
    "bindgen",
    "cc",
    "cmake",
    "nasm-rs",
    "pkg-config",
    "vcpkg",
];

/// Packages of [`IMPURE`] that pure crates reach all the same, and why that is fine.
const EXCEPT: &[(&str, &str)] = &[
    (
        "getrandom",
        "rand_core of the signature crates (rsa, p256) brings it for keys that are made; here signatures are \
         checked, and `reach` looks that no pure source names a generator",
    ),
    (
        "rand",
        "num-bigint-dig of rsa brings it for primes that are searched; see getrandom",
    ),
];

/// Packages that name a library to link (`links`) so as to be there once in a program, and link none.
const LINKS_NOTHING: &[&str] = &["rayon-core"];

/// Crates that read the clock by these features, and without them do not.
const CLOCKS: &[(&str, &[&str])] = &[("chrono", &["clock", "now"])];

/// Crates whose code decides about trust: archives are read elsewhere.
const WITHOUT_ARCHIVES: &[&str] = &["cgpath-evidence", "cgpath-policy", "cgpath-appraisal"];

/// Formats of archives and of compression, as a part of a package's name (`async-tar`, `lz4_flex`).
const FORMATS: &[&str] = &[
    "ar", "cab", "cpio", "deflate", "gzip", "inflate", "iso9660", "rar", "rpm", "snap", "squashfs", "tar",
    "unrar", "xz", "zip", "zlib", "zopfli",
];

/// The same, as what a part begins with (`zstd`, `bzip2-rs`, `lzma-rust2`, `sevenz-rust`).
const FORMATS_BEGIN: &[&str] = &[
    "brotli",
    "bz2",
    "bzip",
    "compress",
    "flate",
    "libarchive",
    "libbz2",
    "libdeflate",
    "libflate",
    "liblzma",
    "libz",
    "lz4",
    "lzma",
    "lzo",
    "lzw",
    "lzzz",
    "miniz",
    "ruzstd",
    "sevenz",
    "weezl",
    "xz2",
    "zip32",
    "zstd",
];

/// A breach for each package that a pure crate reaches and must not.
///
/// # Errors
/// When cargo cannot be asked.
pub fn check(workspace: &Workspace, breaches: &mut Vec<String>) -> Result<()> {
    let linking = linking(workspace)?;
    let mut trees = Vec::new();
    for (name, _) in PURE {
        let mut command = build::cargo(workspace);
        command.args(["tree", "-p", name, "--all-features", "--edges", "normal,build"]);
        command.args(["--prefix", "none", "--format", "{p} {f}"]);
        trees.push((*name, shell::output(&mut command)?));
    }
    impure(&trees, &linking, breaches);
    Ok(())
}

/// The packages of the workspace's tree that name a library to link.
fn linking(workspace: &Workspace) -> Result<BTreeSet<String>> {
    let mut command = build::cargo(workspace);
    command.args(["metadata", "--format-version", "1", "--all-features"]);
    command.args(["--filter-platform", "x86_64-unknown-linux-gnu"]);
    let metadata: Value =
        serde_json::from_str(&shell::output(&mut command)?).context("reading `cargo metadata`")?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let those = packages.filter(|package| package["links"].is_string());
    Ok(those
        .filter_map(|package| Some(package["name"].as_str()?.to_owned()))
        .collect())
}

/// Looks at the trees of pure crates, as `cargo tree` prints them: a package, its version, and its features.
fn impure(trees: &[(&str, String)], linking: &BTreeSet<String>, breaches: &mut Vec<String>) {
    for (name, tree) in trees {
        let reached: BTreeSet<&str> = tree.lines().filter_map(package).collect();
        for package in &reached {
            let is_except = EXCEPT.iter().any(|(except, _)| except == package);
            let is_c =
                package.ends_with("-sys") || (linking.contains(*package) && !LINKS_NOTHING.contains(package));
            let is_archive = WITHOUT_ARCHIVES.contains(name) && is_archive(package);
            if (IMPURE.contains(package) && !is_except) || is_c || is_archive {
                breaches.push(format!(
                    "the crate `{name}` reaches `{package}`; see: cargo tree -p {name} -i {package}"
                ));
            }
        }
        for (clock, features) in CLOCKS {
            let on = |line: &str| {
                let features = line.split_whitespace().nth(2).map(str::to_owned);
                features.filter(|_| package(line) == Some(clock))
            };
            let reads = |on: String| on.split(',').any(|feature| features.contains(&feature));
            if tree.lines().filter_map(on).any(reads) {
                breaches.push(format!(
                    "the crate `{name}` reaches `{clock}` with what reads the clock; \
                     see: cargo tree -p {name} -i {clock} -e features"
                ));
            }
        }
    }
    let is_reached = |except: &str| {
        let mut lines = trees.iter().flat_map(|(_, tree)| tree.lines());
        lines.any(|line| package(line) == Some(except))
    };
    for (except, _) in EXCEPT.iter().filter(|(except, _)| !is_reached(except)) {
        breaches.push(format!(
            "xtask/src/purity.rs: no pure crate reaches `{except}`: take it off the list EXCEPT"
        ));
    }
}

fn package(line: &str) -> Option<&str> {
    line.split_whitespace().next()
}

/// Whether a package's name says that it reads archives or compressed data.
fn is_archive(name: &str) -> bool {
    name.split(['-', '_'])
        .any(|part| FORMATS.contains(&part) || FORMATS_BEGIN.iter().any(|begin| part.starts_with(begin)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, lines: &[&str]) -> Vec<String> {
        let mut tree = format!("{name} v0.1.0 (/r) \n");
        for line in ["getrandom v0.2.17 std", "rand v0.8.8 "].iter().chain(lines) {
            tree = tree + line + "\n";
        }
        let linking = ["ring", "rayon-core", "odd"].map(str::to_owned);
        let mut breaches = Vec::new();
        impure(&[(name, tree)], &BTreeSet::from(linking), &mut breaches);
        breaches
    }

    #[test]
    fn what_a_pure_crate_reaches_and_must_not_is_found() {
        let fine = [
            "rayon-core v1.13.0 ",
            "serde v1.0.229 std",
            "chrono v0.4.45 alloc,serde",
            "zerocopy v0.8.63 derive (*)",
        ];
        assert_eq!(found("cgpath-appraisal", &fine), [""; 0]);
        for (line, package) in [
            ("tokio v1.54.1 full", "tokio"),
            ("zstd-sys v2.0.0 ", "zstd-sys"),
            ("cc v1.2.0 ", "cc"),
            ("ring v0.17.14 ", "ring"),
            ("odd v1.0.0 (proc-macro) ", "odd"),
        ] {
            let wanted = format!(
                "the crate `cgpath-refvals` reaches `{package}`; see: cargo tree -p cgpath-refvals -i \
                 {package}"
            );
            assert_eq!(found("cgpath-refvals", &[line]), [wanted]);
        }
        let clock = found("cgpath-policy", &["chrono v0.4.45 alloc,clock,serde"]);
        assert!(
            clock.len() == 1 && clock[0].contains("reads the clock"),
            "{clock:?}"
        );
    }

    #[test]
    fn every_kind_of_archive_is_kept_from_what_decides_about_trust() {
        for name in [
            "ar",
            "tar",
            "async-tar",
            "tokio-tar",
            "flate2",
            "libflate",
            "miniz_oxide",
            "zlib-rs",
            "zip",
            "async_zip",
            "zstd",
            "zstd-safe",
            "ruzstd",
            "xz2",
            "lzma-rs",
            "lzma-rust2",
            "liblzma",
            "bzip2",
            "bzip2-rs",
            "libbz2-rs-sys",
            "lz4",
            "lz4_flex",
            "brotli",
            "brotli-decompressor",
            "snap",
            "cpio",
            "cab",
            "sevenz-rust2",
            "unrar",
            "async-compression",
            "weezl",
            "libdeflater",
        ] {
            let line = format!("{name} v1.0.0 std");
            assert_eq!(found("cgpath-appraisal", &[&line]).len(), 1, "{name}");
        }
        assert_eq!(
            found("cgpath-refvals", &["tar v0.4.46 ", "flate2 v1.1.0 "]),
            [""; 0]
        );
        for name in [
            "arrayvec",
            "target-lexicon",
            "zipf",
            "starship",
            "block-buffer",
            "snapbox",
        ] {
            assert!(!is_archive(name), "{name}");
        }
    }

    #[test]
    fn an_exception_that_nothing_needs_is_found() {
        let mut breaches = Vec::new();
        let tree = "cgpath-policy v0.1.0 (/r) \nrand v0.8.8 \n".to_owned();
        impure(&[("cgpath-policy", tree)], &BTreeSet::new(), &mut breaches);
        assert_eq!(
            breaches,
            ["xtask/src/purity.rs: no pure crate reaches `getrandom`: take it off the list EXCEPT"]
        );
    }
}
