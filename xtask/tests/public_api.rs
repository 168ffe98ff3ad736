//! What a user of each library can name, as one text file a crate: a change of the public API shows in `git
//! diff`.
//!
//! Promises: the sources are read, so that no compiler's format is needed; a module that is not found or not
//! parsed fails; a difference names the file, the lines and the command that refreshes it. Not here: what
//! macros and derives of other crates make, but for the trait's name, and what a type that is written the
//! same comes to mean.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "public_api/names.rs"]
mod names;
#[path = "public_api/syntax.rs"]
mod syntax;

use names::api;
use std::collections::BTreeSet;
use std::path::Path;

/// Each library and its folder.
const CRATES: &[(&str, &str)] = &[
    ("cgpath-evidence", "evidence"),
    ("cgpath-policy", "policy"),
    ("cgpath-refvals", "policy/refvals"),
    ("cgpath-appraisal", "verifier/appraisal"),
    ("cgpath-report", "verifier/report"),
    ("cgpath-net", "net"),
    ("cgpath-service", "verifier/service"),
];

/// Libraries without a written API, and why.
const WITHOUT: &[(&str, &str)] = &[
    (
        "collector",
        "the daemon's own: its tests and the fuzz targets share it",
    ),
    ("ebpf/common", "a layout: tests of `decode` hold each field"),
    ("fuzz", "for tests"),
    ("testkit", "for tests"),
    ("vm-tests", "for tests"),
    ("vm-tests/protocol", "for tests"),
];

const REFRESH: &str = "UPDATE_API=1 cargo test -p xtask --test public_api";

#[test]
fn the_public_api_is_the_one_that_is_written_down() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut failures = String::new();
    for (name, folder) in CRATES {
        let source = |file: &str| std::fs::read_to_string(root.join(folder).join("src").join(file)).ok();
        let lines = api(&name.replace('-', "_"), &source).unwrap_or_else(|why| panic!("{folder}/src: {why}"));
        let text = format!(
            "# The public API of {name}. Refreshed by: {REFRESH}\n{}\n",
            lines.join("\n")
        );
        let shown = format!("docs/api/{name}.txt");
        let file = root.join(&shown);
        if std::env::var_os("UPDATE_API").is_some() {
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, text).unwrap();
        } else {
            let old = std::fs::read_to_string(&file).unwrap_or_default();
            failures.push_str(&difference(&shown, &old, &text));
        }
    }
    assert!(
        failures.is_empty(),
        "the public API is another one:\n{failures}If that is meant: {REFRESH}"
    );
}

#[test]
fn each_library_is_written_down_or_says_why_not_and_begins_with_an_example() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut command = std::process::Command::new(env!("CARGO"));
    command.args(["metadata", "--format-version", "1", "--no-deps", "--offline"]);
    let output = command.current_dir(root).output().unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap().iter();
    let targets = packages.flat_map(|package| package["targets"].as_array().unwrap());
    let roots = targets
        .filter(|target| target["kind"][0] == "lib")
        .map(|target| Path::new(target["src_path"].as_str().unwrap()));
    let pages: Vec<(&str, String)> = roots
        .map(|lib| {
            let folder = lib.parent().unwrap().parent().unwrap();
            let folder = folder.strip_prefix(root).unwrap().to_str().unwrap();
            (folder, std::fs::read_to_string(lib).unwrap())
        })
        .collect();
    let libraries: BTreeSet<&str> = pages.iter().map(|(folder, _)| *folder).collect();
    let known = CRATES.iter().map(|(_, folder)| *folder);
    let known: BTreeSet<&str> = known.chain(WITHOUT.iter().map(|(folder, _)| *folder)).collect();
    assert_eq!(libraries, known);
    assert_eq!(libraries.len(), CRATES.len() + WITHOUT.len());
    for (folder, page) in pages {
        let head: Vec<&str> = page.lines().take_while(|line| line.starts_with("//!")).collect();
        let example = head.iter().position(|line| line.starts_with("//! ```"));
        assert!(example.is_some(), "{folder}/src/lib.rs: its head has no example");
    }
}

/// The lines that are gone and those that are new; empty when there are none.
fn difference(file: &str, old: &str, new: &str) -> String {
    let [before, after]: [BTreeSet<&str>; 2] = [old, new].map(|text| text.lines().collect());
    let gone = old
        .lines()
        .filter(|line| !after.contains(line))
        .map(|line| format!("-{line}\n"));
    let added = new
        .lines()
        .filter(|line| !before.contains(line))
        .map(|line| format!("+{line}\n"));
    let mut lines: String = gone.chain(added).collect();
    if old == new {
        return String::new();
    } else if lines.is_empty() {
        lines.push_str("(the same lines, otherwise ordered or ended)\n");
    }
    format!("--- {file}\n+++ {file}, as the sources are\n{lines}")
}

/// The lines of a crate `c` that is made of these files.
fn made(files: &[(&str, &str)]) -> Result<Vec<String>, String> {
    let find = |name: &str| Some(files.iter().find(|(file, _)| *file == name)?.1.to_owned());
    api("c", &find)
}

#[test]
fn a_private_item_is_printed_where_it_is_re_exported() {
    let root = "mod a; mod b { pub use crate::a::inner::*; pub(crate) use super::a::Hidden; }
        pub use a::{One, read::read, Two as Deux}; pub use b::Deep; pub use other::Thing; pub mod open { pub struct Own; }
        pub use open::Own;";
    let a = "pub mod inner; pub mod read { pub fn read() {} fn private() {} } pub struct One(pub u8, u8); pub enum Two { V }
        pub(crate) struct Hidden; pub fn not_exported() {}";
    let lines = made(&[
        ("lib.rs", root),
        ("a.rs", a),
        ("a/inner/mod.rs", "pub const Deep: &'static str = \"\";"),
    ]);
    let expected = [
        "const c::Deep: &'static str",
        "enum c::Deux",
        "variant c::Deux::V",
        "struct c::One (with private fields)",
        "field c::One::0: u8",
        "use c::Own = c::open::Own",
        "use c::Thing = other::Thing",
        "mod c::open",
        "struct c::open::Own",
        "fn c::read()",
    ];
    assert_eq!(lines.unwrap(), expected);
}

#[test]
fn methods_and_traits_are_found_in_whichever_module_they_stand() {
    let root = "mod a { use super::*; use crate::T as Renamed; struct Raw;
            impl Renamed<'_> { pub fn get(mut self, n: u8) -> u8 { n } pub(super) fn not(&self) {} fn private() {} }
            impl From<Raw> for T<'_> {} impl From<u8> for T<'_> {} impl Clone for Raw {} impl Tr for u8 { type A = T<'static>; } }
        #[derive(Debug, other::Serialize)] #[non_exhaustive] pub struct T<'a> { pub part: &'a str }
        pub trait Tr { type A; fn must(&self); fn may(&self) {} }";
    let expected = [
        "impl Tr for u8 { type A = T<'static>; }",
        "#[non_exhaustive] struct c::T<'a>",
        "impl Debug for c::T",
        "impl From<u8> for c::T<'_>",
        "impl Serialize for c::T",
        "fn c::T::get(self, n: u8) -> u8 [impl c::T<'_>]",
        "field c::T::part: &'a str",
        "trait c::Tr",
        "type c::Tr::A",
        "fn c::Tr::may(&self) (provided)",
        "fn c::Tr::must(&self)",
    ];
    assert_eq!(made(&[("lib.rs", root)]).unwrap(), expected);
}

#[test]
fn conditions_are_printed_and_what_is_for_tests_or_hidden_is_not() {
    let root = "#[cfg(feature = \"x\")] pub mod m { pub fn f() {} } #[cfg(any(test, feature = \"y\"))] pub fn g() {}
        #[cfg(not(test))] pub fn h() {} #[cfg(test)] mod tests; #[doc(hidden)] pub fn i() {} makes! { struct J; }";
    let expected = [
        "macro call makes! in c: what it makes is not seen",
        "#[cfg(feature = \"y\")] fn c::g()",
        "fn c::h()",
        "#[cfg(feature = \"x\")] mod c::m",
        "#[cfg(feature = \"x\")] fn c::m::f()",
    ];
    assert_eq!(made(&[("lib.rs", root)]).unwrap(), expected);
}

#[test]
fn a_changed_signature_is_one_line_gone_and_one_new() {
    let [old, new] = ["n: u8", "n: u16"].map(|argument| {
        let lines = made(&[("lib.rs", &format!("pub fn f({argument}) {{}} pub fn g() {{}}"))]);
        lines.unwrap().join("\n")
    });
    assert_eq!(difference("x.txt", &old, &old), "");
    let shown = difference("x.txt", &old, &new);
    assert_eq!(
        shown,
        "--- x.txt\n+++ x.txt, as the sources are\n-fn c::f(n: u8)\n+fn c::f(n: u16)\n"
    );
}

#[test]
fn what_is_not_found_or_not_parsed_fails() {
    let absent = made(&[("lib.rs", "mod a;")]).unwrap_err();
    assert_eq!(absent, "lib.rs: mod a: there is neither a.rs nor a/mod.rs");
    assert!(
        made(&[("lib.rs", "mod a;"), ("a.rs", "fn {")])
            .unwrap_err()
            .starts_with("a.rs: ")
    );
    let nowhere = made(&[("lib.rs", "mod a {} pub use a::Absent;")]).unwrap_err();
    assert_eq!(nowhere, "c: pub use a::Absent: leads nowhere");
}
