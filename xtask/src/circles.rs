//! Circles: files of two folders of a crate do not use each other, however indirectly.
//!
//! Promise: what is read are imports and paths that begin with `crate`, `super`, `self` or a child of the
//! module, through what modules export on; a circle names its files. Within a folder files may use each
//! other: they are read together. What decides in a crate uses nothing of what carries out (`CORES`).
//! Not here: circles of crates, which cargo refuses; methods, which a text does not show the file of.

use std::collections::{BTreeMap, BTreeSet};

/// The crates that are looked at: what is shipped, and what it is made of.
const CRATES: &[&str] = &[
    "collector",
    "evidence",
    "net",
    "policy",
    "policy/refvals",
    "verifier/appraisal",
    "verifier/cli",
    "verifier/report",
    "verifier/service",
];

/// Modules that decide, by crate, and the only modules of their crate that they use: what loads, reads and
/// sends takes its types from them, never the other way round.
const CORES: &[(&str, &str, &[&str])] = &[
    ("collector", "decode", &["decode"]),
    ("collector", "pipeline", &["decode", "pipeline"]),
];

/// A module's path in its crate; the crate's root is empty.
type Module = Vec<String>;

/// One file of a crate.
#[derive(Default)]
struct Source {
    file: String,
    /// The folder that it is read with: its own, if it has one.
    folder: String,
    /// Absolute paths that it uses.
    uses: BTreeSet<Module>,
    /// What it exports on, by name.
    exports: BTreeMap<String, Module>,
}

/// A breach for each circle through files of two folders, and for each path by which a core leaves itself.
pub fn check(texts: &BTreeMap<String, String>, breaches: &mut Vec<String>) {
    for name in CRATES {
        let sources = sources(texts, name);
        for circle in circles(&sources) {
            let folders: BTreeSet<&str> = circle.iter().map(|module| &*sources[module].folder).collect();
            if folders.len() > 1 {
                let files: Vec<&str> = circle.iter().map(|module| &*sources[module].file).collect();
                breaches.push(format!(
                    "{}: a circle of folders with {}",
                    files[0],
                    files[1..].join(", ")
                ));
            }
        }
        for (_, core, may_use) in CORES.iter().filter(|(of, ..)| of == name) {
            let files = sources.iter().filter(|(module, _)| is_below(module, core));
            for (_, source) in files {
                let others = source
                    .uses
                    .iter()
                    .filter(|path| !may_use.iter().any(|of| is_below(path, of)));
                breaches.extend(others.map(|path| {
                    format!(
                        "{}: uses `crate::{}`; `{core}` may use of its crate: {}",
                        source.file,
                        path.join("::"),
                        may_use.join(", ")
                    )
                }));
            }
        }
    }
}

/// Whether a path begins with this module of the crate.
fn is_below(path: &[String], module: &str) -> bool {
    path.first().is_some_and(|first| first == module)
}

fn sources(texts: &BTreeMap<String, String>, name: &str) -> BTreeMap<Module, Source> {
    let root = format!("{name}/src/");
    let files = texts
        .keys()
        .filter(|file| file.starts_with(&root) && file.ends_with(".rs"))
        .filter(|file| !file.contains("/tests/") && !file.ends_with("/tests.rs"));
    let mut sources: BTreeMap<Module, Source> = BTreeMap::new();
    for file in files {
        let stem = file[root.len()..].trim_end_matches(".rs");
        let mut module: Module = stem.split('/').map(str::to_owned).collect();
        if matches!(module.last().map(String::as_str), Some("mod" | "lib" | "main")) {
            module.pop();
        }
        let own = format!("{root}{}/", module.join("/"));
        let has_own = !module.is_empty() && texts.keys().any(|other| other.starts_with(&own));
        let parent = file.rsplit_once('/').map_or("", |(parent, _)| parent);
        let folder = if has_own {
            own.trim_end_matches('/')
        } else {
            parent
        };
        let source = Source {
            file: file.clone(),
            folder: folder.to_owned(),
            ..Source::default()
        };
        // Beside a library the program is another crate, which has its items by its name.
        sources.entry(module).or_insert(source);
    }
    let modules: BTreeSet<Module> = sources.keys().cloned().collect();
    for (module, source) in &mut sources {
        read(module, &code(&texts[&source.file]), &modules, source);
    }
    sources
}

/// The text without comments and without the tests at its end, line by line.
pub fn code(text: &str) -> String {
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    let lines = text[..end]
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<&str>>().join("\n")
}

fn read(module: &Module, code: &str, modules: &BTreeSet<Module>, source: &mut Source) {
    let mut rest = code;
    while let Some(at) = rest.find("use ") {
        let line = rest[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let before = rest[line..at].trim();
        let (is_import, is_export) = (
            before.is_empty() || before.starts_with("pub"),
            before.starts_with("pub"),
        );
        rest = &rest[at + "use ".len()..];
        let Some((tree, _)) = rest.split_once(';').filter(|_| is_import) else {
            continue;
        };
        for (path, name) in leaves(tree) {
            if let Some(path) = absolute(module, &path, modules) {
                if is_export {
                    source.exports.insert(name, path.clone());
                }
                source.uses.insert(path);
            }
        }
    }
    // A module names its children without a beginning, too.
    let children = modules
        .iter()
        .filter(|other| other.len() == module.len() + 1 && other.starts_with(module))
        .map(|child| format!("{}::", child[module.len()]));
    let begins = ["crate::", "super::", "self::"].map(str::to_owned);
    for begin in begins.into_iter().chain(children) {
        for (at, _) in code.match_indices(begin.as_str()) {
            let is_part = code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
            let path: String = code[at..]
                .chars()
                .take_while(|c| c.is_alphanumeric() || matches!(c, '_' | ':'))
                .collect();
            // `pub(in crate::a)` says who may use it, and uses nothing.
            if !is_part && !code[..at].ends_with("(in ") {
                let path: Vec<String> = parts(path.trim_end_matches(':'));
                source.uses.extend(absolute(module, &path, modules));
            }
        }
    }
}

fn parts(path: &str) -> Vec<String> {
    path.split("::").map(|part| part.trim().to_owned()).collect()
}

/// The paths of an import, with the names under which they are known then.
fn leaves(tree: &str) -> Vec<(Vec<String>, String)> {
    let mut found = Vec::new();
    let mut open = vec![(String::new(), tree.trim())];
    while let Some((prefix, tree)) = open.pop() {
        let (mut depth, mut begin) = (0, 0);
        let ends = tree.char_indices().chain([(tree.len(), ',')]);
        for (at, c) in ends {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    let part = tree[begin..at].trim();
                    begin = (at + 1).min(tree.len());
                    match part.split_once('{') {
                        Some((head, inner)) => {
                            let inner = inner.strip_suffix('}').unwrap_or(inner);
                            open.push((format!("{prefix}{head}"), inner));
                        }
                        None if !part.is_empty() => {
                            let (path, name) = part.split_once(" as ").unwrap_or((part, ""));
                            let mut path = parts(&format!("{prefix}{path}"));
                            if path.last().is_some_and(|last| last == "self") {
                                path.pop();
                            }
                            let last = path.last().cloned().unwrap_or_default();
                            let name = if name.is_empty() {
                                last
                            } else {
                                name.trim().to_owned()
                            };
                            found.push((path, name));
                        }
                        None => {}
                    }
                }
                _ => {}
            }
        }
    }
    found
}

/// A path from the crate's root; `None` for another crate's.
fn absolute(module: &Module, path: &[String], modules: &BTreeSet<Module>) -> Option<Module> {
    let first = path.first()?.as_str();
    if first == "crate" {
        return Some(path[1..].to_vec());
    }
    let mut base = module.clone();
    if matches!(first, "super" | "self") {
        let ups = path
            .iter()
            .take_while(|part| matches!(part.as_str(), "super" | "self"))
            .count();
        for part in &path[..ups] {
            if part == "super" {
                base.pop();
            }
        }
        base.extend_from_slice(&path[ups..]);
        return Some(base);
    }
    base.push(first.to_owned());
    let is_child = modules.contains(&base);
    base.extend_from_slice(&path[1..]);
    is_child.then_some(base)
}

/// The module in which a path's item is.
fn home(path: &[String], sources: &BTreeMap<Module, Source>, steps: usize) -> Option<Module> {
    let len = (0..=path.len())
        .rev()
        .find(|len| sources.contains_key(&path[..*len]))?;
    let exports = &sources[&path[..len]].exports;
    let exported = path.get(len).and_then(|name| {
        let through_all = || {
            let mut target = exports.get("*")?.clone();
            target.pop();
            target.push(name.clone());
            Some(target)
        };
        exports.get(name).cloned().or_else(through_all)
    });
    match exported.filter(|_| steps > 0) {
        Some(target) => home(
            &[target.as_slice(), &path[len + 1..]].concat(),
            sources,
            steps - 1,
        ),
        None => Some(path[..len].to_vec()),
    }
}

/// Modules that reach each other, in groups of at least two.
fn circles(sources: &BTreeMap<Module, Source>) -> Vec<Vec<Module>> {
    /// Exports of exports are followed no further.
    const STEPS: usize = 8;
    let next: BTreeMap<&Module, BTreeSet<Module>> = sources
        .iter()
        .map(|(module, source)| {
            let homes = source.uses.iter().filter_map(|path| home(path, sources, STEPS));
            // What only the root has is nobody's folder.
            (
                module,
                homes.filter(|home| home != module && !home.is_empty()).collect(),
            )
        })
        .collect();
    let reached = |from: &Module| {
        let mut seen: BTreeSet<Module> = BTreeSet::new();
        let mut open: Vec<Module> = next[from].iter().cloned().collect();
        while let Some(module) = open.pop() {
            if seen.insert(module.clone()) {
                open.extend(next[&module].iter().cloned());
            }
        }
        seen
    };
    let reaches: BTreeMap<&Module, BTreeSet<Module>> = sources.keys().map(|m| (m, reached(m))).collect();
    let mut done: BTreeSet<&Module> = BTreeSet::new();
    let mut found = Vec::new();
    for module in sources.keys() {
        let both = |other: &&Module| reaches[module].contains(*other) && reaches[*other].contains(module);
        let circle: Vec<Module> = sources.keys().filter(both).cloned().collect();
        if circle.len() > 1 && !done.contains(module) {
            done.extend(sources.keys().filter(both));
            found.push(circle);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        found_in("net", files)
    }

    fn found_in(name: &str, files: &[(&str, &str)]) -> Vec<String> {
        let texts = files
            .iter()
            .map(|(file, text)| (format!("{name}/src/{file}"), (*text).to_owned()));
        let mut breaches = Vec::new();
        check(&texts.collect(), &mut breaches);
        breaches
    }

    #[test]
    fn a_circle_of_folders_is_found_through_imports_paths_and_exports() {
        let root = ("lib.rs", "mod a;\nmod b;\npub use a::one::One;\n");
        let a = ("a/mod.rs", "pub mod one;\n");
        let one = |uses: &'static str| ("a/one.rs", uses);
        let b = |uses: &'static str| ("b.rs", uses);
        let circle = ["net/src/a/one.rs: a circle of folders with net/src/b.rs"];
        for (of_one, of_b) in [
            (
                "use crate::b::{self, Two};\n",
                "use crate::a::{\n    one::One,\n};\n",
            ),
            (
                "use crate::{b::{Two, Three}, other::{self}};\n",
                "use super::{a::{one::{One}}};\n",
            ),
            ("fn f() { crate::b::two(); }\n", "pub use crate::One as Other;\n"),
            (
                "use super::super::b::Two;\n",
                "fn f() -> crate::a::one::One { g() }\n",
            ),
        ] {
            assert_eq!(found(&[root, a, one(of_one), b(of_b)]), circle, "{of_one} {of_b}");
        }
        for (of_one, of_b) in [
            (
                "use crate::b::Two;\n",
                "// use crate::a::one::One;\nuse std::path::Path;\n",
            ),
            (
                "use crate::b::Two;\n",
                "#[cfg(test)]\nmod tests {\n    use crate::a::one::One;\n}\n",
            ),
            ("pub(in crate::b) fn f() {}\n", "use crate::a::one::f;\n"),
        ] {
            assert_eq!(
                found(&[root, a, one(of_one), b(of_b)]),
                [""; 0],
                "{of_one} {of_b}"
            );
        }
    }

    #[test]
    fn a_childs_path_and_all_that_a_library_exports_are_followed() {
        let of = |lib: &str, of_a: &str, of_b: &str| {
            found(&[
                ("lib.rs", lib),
                ("main.rs", "use net::b;\n"),
                ("a/mod.rs", of_a),
                ("a/one.rs", "use crate::b::B;\n"),
                ("b.rs", of_b),
            ])
        };
        assert_eq!(
            of(
                "mod a;\nmod b;\n",
                "mod one;\nfn f() { one::g(); }\n",
                "use crate::a::f;\n"
            ),
            ["net/src/a/mod.rs: a circle of folders with net/src/a/one.rs, net/src/b.rs"]
        );
        assert_eq!(
            of(
                "mod a;\nmod b;\npub use a::one::*;\n",
                "pub mod one;\n",
                "fn f() -> crate::One { g() }\n"
            ),
            ["net/src/a/one.rs: a circle of folders with net/src/b.rs"]
        );
    }

    #[test]
    fn a_core_that_uses_the_loader_is_found() {
        let of = |text: &str| {
            found_in(
                "collector",
                &[
                    ("lib.rs", "mod bpf;\nmod decode;\nmod pipeline;\n"),
                    ("bpf/mod.rs", "use crate::pipeline::Mark;\n"),
                    ("decode.rs", "pub struct Event;\n"),
                    (
                        "pipeline/mod.rs",
                        "mod phase;\nuse crate::decode::Event;\nuse phase::Phase;\n",
                    ),
                    ("pipeline/phase.rs", text),
                ],
            )
        };
        let breach = "collector/src/pipeline/phase.rs: uses `crate::bpf::load`; \
                      `pipeline` may use of its crate: decode, pipeline";
        for text in [
            "use crate::bpf::load;\n",
            "use super::super::bpf::load;\n",
            "fn f() { crate::bpf::load() }\n",
        ] {
            assert!(of(text).contains(&breach.to_owned()), "{text} {:?}", of(text));
        }
        assert_eq!(
            of("// crate::bpf\nuse super::Pipeline;\nuse crate::decode;\n"),
            [""; 0]
        );
    }

    #[test]
    fn files_of_one_folder_may_use_each_other() {
        let files = [
            ("lib.rs", "mod a;\nmod b;\nmod c;\n"),
            ("a.rs", "use crate::b::B;\n"),
            ("b.rs", "use crate::a::A;\n"),
            ("c.rs", "mod child;\nuse child::Child;\n"),
            ("c/child.rs", "use super::C;\n"),
        ];
        assert_eq!(found(&files), [""; 0]);
    }
}
