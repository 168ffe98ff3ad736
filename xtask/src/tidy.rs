//! `cargo xtask tidy`: the repository's own rules.
//!
//! Promises: each breach names a file, and the line where there is one; what is not tracked by git is not
//! looked at. The rules for crates are ARCHITECTURE.md's (direction of dependencies), those for texts are
//! CONTRIBUTING.md's.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};
use lexopt::prelude::*;
use serde_json::Value;

use crate::rust::{is_of_tests, lines_without_tests};
use crate::workspace::Workspace;
use crate::{build, circles, help, links, purity, reach, shell, unsafety, wording};

/// Which crates of the workspace a crate may use. Dependencies point downwards only.
const MAY_USE: &[(&str, &[&str])] = &[
    ("cgpath-evidence", &[]),
    ("cgpath-ebpf-common", &[]),
    ("cgpath-net", &[]),
    ("vm-protocol", &[]),
    ("xtask", &[]),
    ("cgpath-policy", &["cgpath-evidence"]),
    ("cgpath-refvals", &["cgpath-evidence", "cgpath-policy"]),
    ("cgpath-appraisal", &["cgpath-evidence", "cgpath-policy"]),
    ("cgpath-report", &["cgpath-evidence", "cgpath-appraisal"]),
    (
        "cgpath-testkit",
        &["cgpath-evidence", "cgpath-policy", "cgpath-appraisal"],
    ),
    (
        "cgpath-service",
        &[
            "cgpath-evidence",
            "cgpath-policy",
            "cgpath-appraisal",
            "cgpath-report",
            "cgpath-net",
            // See `BEHIND_A_FEATURE`.
            "cgpath-testkit",
        ],
    ),
    (
        "cgpath",
        &[
            "cgpath-evidence",
            "cgpath-policy",
            "cgpath-refvals",
            "cgpath-appraisal",
            "cgpath-report",
            "cgpath-service",
            "cgpath-net",
        ],
    ),
    (
        "cgpathd",
        &["cgpath-evidence", "cgpath-ebpf-common", "cgpath-net"],
    ),
    ("guest", &["vm-protocol"]),
    // The demo shows verdicts and writes policies; it never appraises.
    (
        "vm-tests",
        &[
            "vm-protocol",
            "cgpath-evidence",
            "cgpath-refvals",
            "cgpath-appraisal",
        ],
    ),
    (
        "fuzz",
        &[
            "cgpath-evidence",
            "cgpath-policy",
            "cgpath-refvals",
            "cgpath-appraisal",
            "cgpath-service",
            "cgpath-ebpf-common",
            "cgpathd",
        ],
    ),
];

/// Crates that a crate may use with a feature of its own alone: what is shipped is built without them.
const BEHIND_A_FEATURE: &[(&str, &str)] = &[("cgpath-service", "cgpath-testkit")];

/// Every package that was agreed on has a user.
const AGREED: &[&str] = &[
    "aya",
    "aya-log",
    "tokio",
    "tss-esapi",
    "procfs",
    "cgroups-rs",
    "sha2",
    "serde",
    "bytes",
    "tracing",
    "bindgen",
];

/// Lines of a source file, its tests left out.
const LARGEST: usize = 800;

/// Source files that are larger, each with the lines that it may have. The list only shrinks: a file that
/// came below [`LARGEST`] is taken off.
const LARGER: &[(&str, usize)] = &[];

/// Files with licence texts, and a phrase that each must contain.
const LICENCES: &[(&str, &str)] = &[
    ("LICENSE-APACHE", "Apache License"),
    ("LICENSE-MIT", "Permission is hereby granted, free of charge"),
    ("ebpf/programs/LICENSE", "GNU GENERAL PUBLIC LICENSE"),
    ("kernel-patches/LICENSE", "GNU GENERAL PUBLIC LICENSE"),
    ("vm-tests/tdx/LICENSE", "GNU GENERAL PUBLIC LICENSE"),
];

/// `cargo xtask tidy`.
///
/// # Errors
/// When the rules cannot be checked at all.
pub fn tidy_command(workspace: &Workspace, mut parser: lexopt::Parser) -> Result<ExitCode> {
    if let Some(argument) = parser.next()? {
        match argument {
            Short('h') | Long("help") => {
                print!("{}", help::TIDY);
                return Ok(ExitCode::SUCCESS);
            }
            other => return Err(other.unexpected().into()),
        }
    }
    let breaches = check(workspace)?;
    for breach in &breaches {
        println!("{breach}");
    }
    if breaches.is_empty() {
        println!("tidy");
        return Ok(ExitCode::SUCCESS);
    }
    println!("{} breaches", breaches.len());
    Ok(ExitCode::FAILURE)
}

/// Every breach of the rules, as `file:line: what`.
///
/// # Errors
/// When git or cargo cannot be asked.
pub fn check(workspace: &Workspace) -> Result<Vec<String>> {
    let files = tracked(workspace)?;
    let texts = read(workspace, &files);
    let metadata = build_metadata(workspace)?;
    let mut breaches = Vec::new();
    directions(&metadata, &mut breaches)?;
    purity::check(workspace, &mut breaches)?;
    agreed(&metadata, &texts, &mut breaches)?;
    unsafety::check(&metadata, &texts, &mut breaches);
    circles::check(&texts, &mut breaches);
    reach::check(&texts, &mut breaches);
    wording::exemptions(&texts, &mut breaches);
    for (file, text) in &texts {
        words(file, text, &mut breaches);
        wording::check(file, text, &mut breaches);
        if file.ends_with(".rs") {
            allowances(file, text, &mut breaches);
        }
    }
    sizes(&texts, LARGER, &mut breaches);
    licences(&metadata, &texts, &mut breaches)?;
    documents(&files, &texts, &mut breaches);
    commands(&texts, &mut breaches);
    links::check(&files, &texts, &mut breaches);
    modules(&texts, &mut breaches);
    for file in CLAIMING {
        claims(file, &texts, &mut breaches);
    }
    tests_by_name(&texts, &mut breaches);
    Ok(breaches)
}

fn tracked(workspace: &Workspace) -> Result<Vec<String>> {
    let listed = shell::output(
        Command::new("git")
            .current_dir(&workspace.root)
            .args(["ls-files", "-z"]),
    )?;
    let files: Vec<String> = listed
        .split('\0')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    if files.is_empty() {
        bail!("git tracks no file here; tidy looks at tracked files only");
    }
    Ok(files)
}

/// The tracked files that are text. A file that was removed and not yet committed is no breach.
fn read(workspace: &Workspace, files: &[String]) -> BTreeMap<String, String> {
    let text = |file: &String| {
        let bytes = std::fs::read(workspace.root.join(file)).ok()?;
        Some((file.clone(), String::from_utf8(bytes).ok()?))
    };
    files.iter().filter_map(text).collect()
}

fn build_metadata(workspace: &Workspace) -> Result<Value> {
    let mut command = build::cargo(workspace);
    command.args(["metadata", "--format-version", "1", "--no-deps"]);
    serde_json::from_str(&shell::output(&mut command)?).context("reading `cargo metadata`")
}

fn packages(metadata: &Value) -> Result<Vec<&Value>> {
    let packages = metadata["packages"]
        .as_array()
        .context("`cargo metadata` names no packages")?;
    Ok(packages.iter().collect())
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn dependencies(package: &Value) -> impl Iterator<Item = &Value> {
    package["dependencies"].as_array().into_iter().flatten()
}

/// A package's manifest relative to the repository, for messages.
fn manifest(metadata: &Value, package: &Value) -> String {
    let path = text(package, "manifest_path");
    path.strip_prefix(text(metadata, "workspace_root"))
        .unwrap_or(path)
        .trim_start_matches('/')
        .to_owned()
}

fn directions(metadata: &Value, breaches: &mut Vec<String>) -> Result<()> {
    let packages = packages(metadata)?;
    let ours: BTreeSet<&str> = packages.iter().map(|package| text(package, "name")).collect();
    for package in &packages {
        let name = text(package, "name");
        let place = manifest(metadata, package);
        let Some((_, allowed)) = MAY_USE.iter().find(|(crate_name, _)| *crate_name == name) else {
            breaches.push(format!(
                "{place}: the crate `{name}` has no row in xtask/src/tidy.rs (MAY_USE)"
            ));
            continue;
        };
        for dependency in dependencies(package) {
            let used = text(dependency, "name");
            // Tests may compare with anything; a crate may use itself there with other features.
            let for_tests = dependency["kind"].as_str() == Some("dev");
            if ours.contains(used) && !allowed.contains(&used) && !for_tests {
                breaches.push(format!(
                    "{place}: `{name}` must not depend on `{used}` (ARCHITECTURE.md, direction of \
                     dependencies)"
                ));
            }
            let is_optional = dependency["optional"].as_bool() == Some(true);
            if BEHIND_A_FEATURE.contains(&(name, used)) && !is_optional && !for_tests {
                breaches.push(format!(
                    "{place}: `{name}` may depend on `{used}` with a feature alone: it must be optional"
                ));
            }
        }
    }
    Ok(())
}

/// An agreed package is named in a manifest and used in that crate's sources.
fn agreed(metadata: &Value, texts: &BTreeMap<String, String>, breaches: &mut Vec<String>) -> Result<()> {
    // The eBPF programs are a workspace of their own.
    let mut users: Vec<(String, String)> = Vec::new();
    for package in packages(metadata)? {
        let directory = manifest(metadata, package).replace("Cargo.toml", "");
        for dependency in dependencies(package) {
            users.push((text(dependency, "name").to_owned(), directory.clone()));
        }
    }
    for name in AGREED {
        let identifier = name.replace('-', "_");
        let used = users
            .iter()
            .filter(|(package, _)| package == name)
            .any(|(_, directory)| {
                texts.iter().any(|(file, text)| {
                    file.ends_with(".rs")
                        && file.starts_with(directory.as_str())
                        && text
                            .lines()
                            .any(|line| !line.trim_start().starts_with("//") && mentions(line, &identifier))
                })
            });
        if !used {
            breaches.push(format!(
                "docs/decisions/packages.md: the agreed package `{name}` has no user"
            ));
        }
    }
    Ok(())
}

/// Whether a line of Rust names a crate: `name::`, or `use name;`, as a word of its own.
fn mentions(line: &str, identifier: &str) -> bool {
    line.match_indices(identifier).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = &line[at + identifier.len()..];
        let word = |c: char| c.is_alphanumeric() || c == '_';
        !before.is_some_and(word)
            && (after.starts_with("::") || (line.contains("use ") && after.starts_with([';', ' ', ','])))
    })
}

/// Paths of somebody's machine, and notes to self.
fn words(file: &str, text: &str, breaches: &mut Vec<String>) {
    // Licence texts and lock files are not ours to word.
    if file.contains("LICENSE") || file.ends_with("Cargo.lock") {
        return;
    }
    // Written in two parts, so that this file keeps the rule.
    let paths = [
        concat!("/ho", "me/"),
        concat!("/ro", "ot/"),
        concat!("/wo", "rk/"),
    ];
    let notes = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
        concat!("to", "do!"),
    ];
    for (number, line) in text.lines().enumerate() {
        let number = number + 1;
        for path in paths {
            let alone = line.match_indices(path).any(|(at, _)| {
                // `roots/root/` in a relative path is no machine's path.
                !line[..at]
                    .chars()
                    .next_back()
                    .is_some_and(|c| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '}' | ')'))
            });
            if alone {
                breaches.push(format!("{file}:{number}: a path of one machine ({path})"));
            }
        }
        for note in notes {
            if stands_alone(line, note) {
                breaches.push(format!("{file}:{number}: `{note}`: do it, or open an issue"));
            }
        }
    }
}

/// Whether a line has these words, and not only as a part of longer ones.
pub fn stands_alone(line: &str, words: &str) -> bool {
    let letter = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(words).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + words.len()..].chars().next();
        !before.is_some_and(letter) && !after.is_some_and(letter)
    })
}

/// No source file is larger than [`LARGEST`] without its tests, but for those that are named with their own
/// limits.
fn sizes(texts: &BTreeMap<String, String>, larger: &[(&str, usize)], breaches: &mut Vec<String>) {
    for (file, text) in texts {
        if !file.ends_with(".rs") || is_of_tests(file) {
            continue;
        }
        let lines = lines_without_tests(text);
        match larger.iter().find(|(name, _)| name == file) {
            Some((_, most)) if lines > *most => breaches.push(format!(
                "{file}: {lines} lines without tests, {most} are allowed (xtask/src/tidy.rs, LARGER): cut it"
            )),
            Some(_) if lines <= LARGEST => breaches.push(format!(
                "{file}: {lines} lines without tests: take it off the list LARGER of xtask/src/tidy.rs"
            )),
            None if lines > LARGEST => breaches.push(format!(
                "{file}: {lines} lines without tests, {LARGEST} are allowed: cut it where its purposes part"
            )),
            Some(_) | None => {}
        }
    }
    for (name, _) in larger.iter().filter(|(name, _)| !texts.contains_key(*name)) {
        breaches.push(format!(
            "{name}: is not there: take it off the list LARGER of xtask/src/tidy.rs"
        ));
    }
}

/// Every `#[allow(…)]` and `#![allow(…)]` says why.
fn allowances(file: &str, text: &str, breaches: &mut Vec<String>) {
    let starts = ["#[allow(", "#![allow(", "#[expect(", "#![expect("];
    for start in starts {
        for (at, _) in text.match_indices(start) {
            let line_start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
            // In a comment or a string, as above, it allows nothing.
            if !text[line_start..at].trim().is_empty() {
                continue;
            }
            let attribute = &text[at..];
            let end = attribute.find(")]").unwrap_or(attribute.len());
            if !attribute[..end].contains("reason = ") {
                let number = text[..at].matches('\n').count() + 1;
                breaches.push(format!("{file}:{number}: `{start}…)]` without a reason"));
            }
        }
    }
}

fn licences(metadata: &Value, texts: &BTreeMap<String, String>, breaches: &mut Vec<String>) -> Result<()> {
    for (file, phrase) in LICENCES {
        match texts.get(*file) {
            Some(text) if text.contains(phrase) => {}
            Some(_) => breaches.push(format!(
                "{file}: not the licence that it should be (no `{phrase}`)"
            )),
            None => breaches.push(format!("{file}: missing")),
        }
    }
    for package in packages(metadata)? {
        if package["license"].as_str() != Some("Apache-2.0 OR MIT") {
            breaches.push(format!(
                "{}: `license` must be Apache-2.0 OR MIT",
                manifest(metadata, package)
            ));
        }
    }
    let programs = "ebpf/programs/Cargo.toml";
    if !texts
        .get(programs)
        .is_some_and(|text| text.contains("license = \"GPL-2.0-only\""))
    {
        breaches.push(format!(
            "{programs}: `license` must be GPL-2.0-only: the kernel's helpers ask for it"
        ));
    }
    Ok(())
}

fn documents(files: &[String], texts: &BTreeMap<String, String>, breaches: &mut Vec<String>) {
    let says = |file: &str, what: &str| texts.get(file).is_some_and(|text| text.contains(what));
    if !says("README.md", "cargo xtask demo") {
        breaches.push("README.md: does not name `cargo xtask demo`".to_owned());
    }
    let folders: BTreeSet<&str> = files
        .iter()
        .filter_map(|file| Some(file.split_once('/')?.0))
        .filter(|folder| !folder.starts_with('.'))
        .collect();
    for folder in folders {
        if !says("ARCHITECTURE.md", &format!("`{folder}/")) {
            breaches.push(format!("ARCHITECTURE.md: does not say what `{folder}/` is"));
        }
    }
    for file in files
        .iter()
        .filter(|file| Path::new(file).components().count() == 1)
    {
        if file.ends_with(".orig") || file.ends_with(".rej") {
            breaches.push(format!("{file}: left over from a merge"));
        }
    }
}

/// The programs whose commands documents show, as a line of a block begins with them.
const SHOWN: &[&str] = &["cargo xtask", "cgpath", "cgpathd"];

/// Each command that a block of a document shows has a subcommand that exists. Its options are held by
/// `verifier/cli/tests/documents.rs`, which can ask the program itself.
fn commands(texts: &BTreeMap<String, String>, breaches: &mut Vec<String>) {
    for program in SHOWN {
        let known = subcommands(program, texts);
        if known.is_empty() {
            breaches.push(format!(
                "xtask/src/tidy.rs: finds no list of the subcommands of `{program}`"
            ));
            continue;
        }
        for (file, text) in texts {
            if file.ends_with(".md") {
                shown(program, &known, file, text, breaches);
            }
        }
    }
}

/// The commands of `program` in one document: in its fenced blocks `console`, `sh` and `bash` and those
/// without a language; those of `cargo xtask` in code spans, too.
fn shown(program: &str, known: &BTreeSet<String>, file: &str, text: &str, breaches: &mut Vec<String>) {
    // Inside of a block: whether it is one of commands.
    let mut block: Option<bool> = None;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if let Some(info) = line.strip_prefix("```") {
            let language = info.split_whitespace().next();
            block = match block {
                Some(_) => None,
                None => Some(matches!(language, None | Some("console" | "sh" | "bash"))),
            };
            continue;
        }
        // Of a span only this program is sure: `cgpath finding` is none of its commands.
        let spans = line.split('`').skip(1).step_by(2);
        let spans = spans.filter(|_| block.is_none() && program == "cargo xtask");
        let whole = block
            .filter(|shows| *shows)
            .map(|_| line.strip_prefix("$ ").unwrap_or(line));
        for command in spans.chain(whole) {
            let arguments = command
                .strip_prefix(program)
                .and_then(|rest| rest.strip_prefix(' '));
            let word = arguments.and_then(|rest| rest.split_whitespace().next());
            let word = word.unwrap_or_default().trim_end_matches([';', ')']);
            if !word.is_empty() && !word.starts_with('-') && !known.contains(word) {
                breaches.push(format!(
                    "{file}:{}: there is no command `{program} {word}`",
                    number + 1
                ));
            }
        }
    }
}

/// The subcommands of a program as its source lists them: the arms of xtask's `match`, else clap's
/// `enum Command` in the file that names the program.
fn subcommands(program: &str, texts: &BTreeMap<String, String>) -> BTreeSet<String> {
    if program == "cargo xtask" {
        let text = texts.get("xtask/src/main.rs").map_or("", String::as_str);
        return text
            .lines()
            .filter_map(|line| Some(line.trim_start().strip_prefix('"')?.split_once("\" =>")?.0))
            .map(str::to_owned)
            .collect();
    }
    let head = format!("name = \"{program}\",");
    let mut found: BTreeSet<String> = texts
        .iter()
        .filter(|(file, text)| file.ends_with(".rs") && text.lines().any(|line| line.trim() == head))
        .flat_map(|(_, text)| variants(text))
        .collect();
    if !found.is_empty() {
        // clap's own.
        found.insert("help".to_owned());
    }
    found
}

/// The variants of `enum Command`, written as clap does on the command line.
fn variants(text: &str) -> Vec<String> {
    text.lines()
        .skip_while(|line| !matches!(line.trim(), "enum Command {" | "pub enum Command {"))
        .skip(1)
        .take_while(|line| *line != "}")
        .filter_map(|line| {
            let line = line.strip_prefix("    ")?;
            if !line.starts_with(|c: char| c.is_ascii_uppercase()) {
                return None;
            }
            let mut word = String::new();
            for c in line.chars().take_while(char::is_ascii_alphanumeric) {
                if c.is_ascii_uppercase() && !word.is_empty() {
                    word.push('-');
                }
                word.push(c.to_ascii_lowercase());
            }
            Some(word)
        })
        .collect()
}

/// Where a crate's tests are one program, each file of them is a module of it: one that is not would never
/// run, and nobody would see it.
fn modules(texts: &BTreeMap<String, String>, breaches: &mut Vec<String>) {
    let declares = |folder: &str, name: &str| {
        let lines = [format!("mod {name};"), format!("pub mod {name};")];
        let by_path = format!("/{name}.rs\"]");
        texts
            .iter()
            .filter(|(file, _)| file.ends_with(".rs"))
            .any(|(file, text)| {
                let is_beside = file.rsplit_once('/').is_some_and(|(parent, _)| parent == folder);
                text.lines().map(str::trim).any(|line| {
                    let line = line.strip_prefix("pub(crate) ").unwrap_or(line);
                    (is_beside && lines.iter().any(|wanted| line == wanted))
                        || (line.starts_with("#[path = ") && line.ends_with(&by_path))
                })
            })
    };
    for (manifest, text) in texts {
        let Some(home) = manifest.strip_suffix("/Cargo.toml") else {
            continue;
        };
        if !text.lines().any(|line| line == "autotests = false") {
            continue;
        }
        let tests = format!("{home}/tests/");
        for file in texts.keys().filter(|file| file.starts_with(&tests)) {
            let Some((folder, name)) = file.strip_suffix(".rs").and_then(|path| path.rsplit_once('/')) else {
                continue;
            };
            let is_program = text.contains(&format!("path = \"{}\"", &file[home.len() + 1..]));
            let (folder, name) = match (name, folder.rsplit_once('/')) {
                ("mod", Some((parent, name))) => (parent, name),
                _ => (folder, name),
            };
            if !is_program && !declares(folder, name) {
                breaches.push(format!("{file}: no test program has it as a module"));
            }
        }
    }
}

/// Documents that name the tests of what they say.
const CLAIMING: &[&str] = &[
    "ARCHITECTURE.md",
    "docs/tdx.md",
    "docs/threat-model.md",
    "docs/thesis.md",
];

/// Every test that such a document names, as `file::test`, is there, and each row of a table of tests names
/// one, or the command that runs them.
fn claims(file: &str, texts: &BTreeMap<String, String>, breaches: &mut Vec<String>) {
    let Some(text) = texts.get(file) else {
        breaches.push(format!("{file}: is not there"));
        return;
    };
    let (mut named, mut in_table) = (0, false);
    for (number, line) in text.lines().enumerate() {
        let is_head = line.ends_with("| test |") || line.ends_with("| tests |");
        if in_table && line.starts_with('|') && !line.starts_with("| ---") {
            let tests = line.rsplit('|').nth(1).unwrap_or_default();
            if !["::", "`cargo xtask ", "`fuzz`"]
                .iter()
                .any(|name| tests.contains(name))
            {
                breaches.push(format!("{file}:{}: this row names no test", number + 1));
            }
        }
        in_table = is_head || (in_table && line.starts_with('|'));
        for name in line.split('`').skip(1).step_by(2) {
            let Some(test) = name.rsplit("::").next().filter(|_| name.contains("::")) else {
                continue;
            };
            if test.ends_with(['*', '\u{2026}']) {
                continue;
            }
            named += 1;
            if !is_declared(test, texts) {
                breaches.push(format!("{file}:{}: there is no test `{name}`", number + 1));
            }
        }
    }
    if named == 0 {
        breaches.push(format!("{file}: names no test"));
    }
}

/// Whether a source has this test, or one for each kernel.
fn is_declared(test: &str, texts: &BTreeMap<String, String>) -> bool {
    let declared = [format!("fn {test}("), format!("fn {test}_on_")];
    texts
        .iter()
        .filter(|(file, _)| file.ends_with(".rs"))
        .any(|(_, text)| declared.iter().any(|declared| text.contains(declared)))
}

/// In every other document a path whose last part has at least four `_` is a test, which is there.
fn tests_by_name(texts: &BTreeMap<String, String>, breaches: &mut Vec<String>) {
    let is_other = |file: &str| file.ends_with(".md") && !CLAIMING.contains(&file);
    for (file, text) in texts.iter().filter(|(file, _)| is_other(file)) {
        for (number, line) in text.lines().enumerate() {
            for name in line.split('`').skip(1).step_by(2) {
                let Some((_, test)) = name.rsplit_once("::") else {
                    continue;
                };
                let is_name = |b: u8| b == b'_' || b.is_ascii_lowercase() || b.is_ascii_digit();
                let is_test = test.matches('_').count() >= 4 && test.bytes().all(is_name);
                if is_test && !is_declared(test, texts) {
                    breaches.push(format!("{file}:{}: there is no test `{name}`", number + 1));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_with_a_test_that_is_not_there_is_found() {
        let texts = |claim: &str| {
            BTreeMap::from([
                ("claims.md".to_owned(), format!("first\n| claim | `{claim}` |\n")),
                ("tests/rules.rs".to_owned(), "#[test]\nfn there() {}\n".to_owned()),
            ])
        };
        let found = |claim: &str| breaches(|breaches| claims("claims.md", &texts(claim), breaches));
        assert!(found("rules::there").is_empty());
        assert!(found("rules::gone")[0].starts_with("claims.md:2: "));
        assert_eq!(found("no test"), ["claims.md: names no test"]);
        let table =
            "there`\n\n| claim | tests |\n| --- | --- |\n| a | `rules::there` |\n| b | those above |\n\n| `c";
        assert_eq!(
            found(&format!("rules::{table}")),
            ["claims.md:7: this row names no test"]
        );
    }

    #[test]
    fn a_test_that_another_document_names_and_that_is_not_there_is_found() {
        let of = |page: &str| {
            let texts = BTreeMap::from([
                ("docs/page.md".to_owned(), page.to_owned()),
                ("a.rs".to_owned(), "fn this_is_a_test_here() {}\n".to_owned()),
            ]);
            breaches(|breaches| tests_by_name(&texts, breaches))
        };
        assert_eq!(
            of("`a::this_is_a_test_here` `a::not_one` `no_path_of_a_test_here`\n"),
            [""; 0]
        );
        assert_eq!(
            of("\n`a::this_is_no_test_here`\n"),
            ["docs/page.md:2: there is no test `a::this_is_no_test_here`"]
        );
    }

    #[test]
    fn a_command_that_a_document_shows_and_that_does_not_exist_is_found() {
        let sources = [
            (
                "xtask/src/main.rs",
                "    match command.as_str() {\n        \
                 \"demo\" => demo(),\n        \
                 other => bail!(\"no\"),\n    \
                 }\n",
            ),
            (
                "verifier/main.rs",
                "#[command(\n    \
                 name = \"cgpath\",\n\
                 )]\n\
                 enum Command {\n    \
                 /// Shows\n    \
                 Log(Log),\n    \
                 FromBoot {\n        \
                 /// Not one\n        \
                 shell: Shell,\n    \
                 },\n\
                 }\n\n\
                 enum Other {\n    \
                 Verify,\n\
                 }\n",
            ),
            (
                "collector/cli.rs",
                "#[command(\n    name = \"cgpathd\",\n)]\npub enum Command {\n    Run,\n}\n",
            ),
        ];
        let of = |page: &str, sources: &[(&str, &str)]| {
            let mut texts: BTreeMap<String, String> = sources
                .iter()
                .map(|(file, text)| ((*file).to_owned(), (*text).to_owned()))
                .collect();
            texts.insert("docs/page.md".to_owned(), page.to_owned());
            breaches(|breaches| commands(&texts, breaches))
        };
        let good = "```console\n\
                    $ cargo xtask demo\n\
                    $ cgpath log show\n\
                    $ cgpath from-boot x\n\
                    $ cgpath --help\n\
                    ```\n\n   \
                    ```sh node\n   \
                    cgpathd run\n   \
                    ```\n\
                    ```text\n\
                    cgpath nothing\n\
                    ```\n\
                    cgpath nothing\n";
        assert_eq!(of(good, &sources), Vec::<String>::new());
        for (line, named) in [
            ("$ cargo xtask dmeo", "cargo xtask dmeo"),
            ("cgpath verify x", "cgpath verify"),
            ("$ cgpathd log; true", "cgpathd log"),
        ] {
            let page = format!("text\n```sh\n{line}\n```\n");
            assert_eq!(
                of(&page, &sources),
                [format!("docs/page.md:3: there is no command `{named}`")]
            );
        }
        for page in [
            "```\ncargo xtask demos\n```\n",
            "\nRun `cargo xtask demos x`, not `cgpath no`.\n",
        ] {
            assert_eq!(
                of(page, &sources),
                ["docs/page.md:2: there is no command `cargo xtask demos`"]
            );
        }
        let found = of(good, &sources[..2]);
        assert!(found.len() == 1 && found[0].contains("`cgpathd`"), "{found:?}");
    }

    #[test]
    fn a_file_of_tests_that_no_program_has_is_found() {
        let of = |files: &[(&str, &str)]| {
            let texts = files
                .iter()
                .map(|(file, text)| ((*file).to_owned(), (*text).to_owned()));
            let texts: BTreeMap<String, String> = texts.collect();
            breaches(|breaches| modules(&texts, breaches))
        };
        let manifest = (
            "a/Cargo.toml",
            "autotests = false\n[[test]]\npath = \"tests/main.rs\"\n",
        );
        let main = (
            "a/tests/main.rs",
            "pub(crate) mod one;\n#[path = \"common/three.rs\"]\nmod other;\nmod two;\n",
        );
        let others = [
            ("a/tests/one.rs", ""),
            ("a/tests/two/mod.rs", "mod four;\n"),
            ("a/tests/two/four.rs", ""),
            ("a/tests/common/three.rs", ""),
        ];
        let mut files = vec![manifest, main];
        files.extend(others);
        assert_eq!(of(&files), Vec::<String>::new());
        files.push(("a/tests/four.rs", "#[test]\nfn never_runs() {}\n"));
        assert_eq!(
            of(&files),
            ["a/tests/four.rs: no test program has it as a module"]
        );
        files[0].1 = "";
        assert!(of(&files).is_empty(), "cargo finds them by itself");
    }

    fn breaches(check: impl FnOnce(&mut Vec<String>)) -> Vec<String> {
        let mut breaches = Vec::new();
        check(&mut breaches);
        breaches
    }

    #[test]
    fn paths_of_a_machine_and_notes_are_found_with_their_line() {
        let text = format!(
            "fine\nsee {}alice/x\n// {}: later\n",
            concat!("/ho", "me/"),
            concat!("TO", "DO")
        );
        let found = breaches(|breaches| words("a.md", &text, breaches));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("a.md:2:") && found[1].starts_with("a.md:3:"));
        let fine = format!(
            "{}S mktemp {} cache/roots{}x",
            concat!("TO", "DO"),
            concat!("XX", "XXXX"),
            concat!("/ro", "ot/")
        );
        assert_eq!(
            breaches(|breaches| words("a.md", &fine, breaches)),
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_source_file_is_small_or_named_and_comes_off_the_list_once_it_is() {
        let of = |lines: usize| {
            let text =
                "// a line\n".repeat(lines) + "#[cfg(test)]\nmod tests {\n" + &"\n".repeat(LARGEST) + "}\n";
            let texts = BTreeMap::from([
                ("a/src/one.rs".to_owned(), text),
                ("a/tests/two.rs".to_owned(), "\n".repeat(2 * LARGEST)),
            ]);
            move |larger: &[(&str, usize)]| breaches(|breaches| sizes(&texts, larger, breaches))
        };
        let named = [("a/src/one.rs", LARGEST + 10)];
        assert_eq!(of(LARGEST)(&[]), Vec::<String>::new());
        assert!(of(LARGEST + 1)(&[])[0].starts_with("a/src/one.rs: 801 lines"));
        assert_eq!(of(LARGEST + 10)(&named), Vec::<String>::new());
        assert!(of(LARGEST + 11)(&named)[0].contains("810 are allowed"));
        assert!(of(LARGEST)(&named)[0].contains("take it off"));
        assert!(of(1)(&[("a/src/gone.rs", 900)])[0].starts_with("a/src/gone.rs: is not there"));
    }

    #[test]
    fn allowances_need_a_reason_wherever_it_stands() {
        let bad = "fn a() {}\n#[allow(dead_code)]\nfn b() {}\n";
        let found = breaches(|breaches| allowances("a.rs", bad, breaches));
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("a.rs:2:"));
        let good =
            "#[expect(\n    dead_code,\n    reason = \"kept\"\n)]\nfn b() {}\n// #[allow(x)] in a comment\n";
        assert_eq!(
            breaches(|breaches| allowances("a.rs", good, breaches)),
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_crate_is_used_only_where_its_name_stands_alone() {
        assert!(mentions("use bytes::Bytes;", "bytes"));
        assert!(mentions("    let x = bytes::Bytes::new();", "bytes"));
        assert!(!mentions("use crate::serde_bytes::x;", "bytes"));
        assert!(!mentions("let bytes = 1;", "bytes"));
    }

    #[test]
    fn upward_dependencies_are_breaches() {
        let package = |name: &str, used: &[&str]| {
            let dependencies: Vec<Value> = used
                .iter()
                .map(|name| serde_json::json!({"name": name, "kind": null}))
                .collect();
            serde_json::json!({"name": name, "manifest_path": format!("/r/{name}/Cargo.toml"),
                "dependencies": dependencies})
        };
        let metadata = serde_json::json!({
            "workspace_root": "/r",
            "packages": [
                package("cgpath-evidence", &["cgpath-policy"]),
                package("cgpath-policy", &["cgpath-evidence"]),
                package("stranger", &[]),
            ],
        });
        let found = breaches(|breaches| directions(&metadata, breaches).unwrap());
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("cgpath-evidence/Cargo.toml:") && found[1].contains("stranger"));
    }

    #[test]
    fn optional_dependencies_are_looked_at_and_what_must_be_optional_is() {
        let of = |name: &str, used: &str, optional: bool, kind: Option<&str>| {
            let package = |name: &str, dependencies: Value| {
                let path = format!("/r/{name}/Cargo.toml");
                serde_json::json!({"name": name, "manifest_path": path, "dependencies": dependencies})
            };
            let dependency = serde_json::json!([{"name": used, "kind": kind, "optional": optional}]);
            let metadata = serde_json::json!({
                "workspace_root": "/r",
                "packages": [package(name, dependency), package(used, serde_json::json!([]))],
            });
            breaches(|breaches| directions(&metadata, breaches).unwrap())
        };
        let upward = "cgpath-evidence/Cargo.toml: `cgpath-evidence` must not depend on `cgpath-policy` \
                      (ARCHITECTURE.md, direction of dependencies)";
        assert_eq!(of("cgpath-evidence", "cgpath-policy", true, None), [upward]);
        assert_eq!(
            of("cgpath-evidence", "cgpath-policy", true, Some("build")),
            [upward]
        );
        assert_eq!(of("cgpath-service", "cgpath-testkit", true, None), [""; 0]);
        assert_eq!(
            of("cgpath-service", "cgpath-testkit", false, Some("dev")),
            [""; 0]
        );
        let found = of("cgpath-service", "cgpath-testkit", false, None);
        assert!(
            found.len() == 1 && found[0].contains("must be optional"),
            "{found:?}"
        );
    }

    #[test]
    fn tests_in_the_middle_of_a_file_hide_no_lines_behind_them() {
        let text = "#[cfg(test)]\nmod tests {\n}\n".to_owned() + &"// a line\n".repeat(LARGEST + 1);
        let texts = BTreeMap::from([("a/src/one.rs".to_owned(), text)]);
        let found = breaches(|breaches| sizes(&texts, &[], breaches));
        assert!(
            found.len() == 1 && found[0].starts_with("a/src/one.rs: 801 lines"),
            "{found:?}"
        );
    }
}
