//! Circles: files of two folders of a crate do not use each other, however indirectly.
//!
//! Promise: what is read are imports and paths that begin with `crate`, `super`, `self`, a child of the
//! module or a name that was imported, through what modules export on and what `*` brings; a circle names its
//! files. Within a folder files may use each other: they are read together. What decides in a crate uses
//! nothing of what carries out (`CORES`). What this would not see is refused: `#[path]`, `include!`, and a
//! module of tests that is built into the crate.
//! Not here: circles of crates, which cargo refuses; methods, which a text does not show the file of.

use crate::rust::{code, is_of_tests};
use crate::tidy::stands_alone;
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

/// Files that include another text, and what it is.
const INCLUDING: &[(&str, &str)] = &[("collector/src/engine/mod.rs", "the eBPF object's bytes, or none")];

/// Exports of exports are followed no further.
const STEPS: usize = 8;

/// A module's path in its crate; the crate's root is empty.
type Module = Vec<String>;

/// One file of a crate.
#[derive(Default)]
struct Source {
    file: String,
    /// The folder that it is read with: its own, if it has one.
    folder: String,
    /// Its code without tests.
    code: String,
    /// Absolute paths that it uses.
    uses: BTreeSet<Module>,
    /// What it imports, by the name that it has then.
    imports: BTreeMap<String, Module>,
    /// What it exports on, by name.
    exports: BTreeMap<String, Module>,
    /// Modules of which it imports everything.
    all_of: BTreeSet<Module>,
    /// Modules of which it exports everything on.
    exports_all_of: BTreeSet<Module>,
    /// Names of the items that it declares.
    declares: BTreeSet<String>,
}

/// A breach for each circle through files of two folders, and for each path by which a core leaves itself.
pub fn check(texts: &BTreeMap<String, String>, breaches: &mut Vec<String>) {
    for name in CRATES {
        let sources = sources(texts, name);
        for source in sources.values() {
            unseen(source, breaches);
        }
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

/// What a source has that is not followed.
fn unseen(source: &Source, breaches: &mut Vec<String>) {
    let file = &source.file;
    let may_include = INCLUDING.iter().any(|(including, _)| including == file);
    let includes = source.code.contains("include!(");
    if source.code.contains("#[path") {
        breaches.push(format!(
            "{file}: `#[path]` is not followed: put the module where its name says"
        ));
    }
    if includes && !may_include {
        breaches.push(format!(
            "{file}: `include!` is not followed (xtask/src/circles.rs, INCLUDING)"
        ));
    }
    if may_include && !includes {
        breaches.push(format!(
            "{file}: includes nothing: take it off the list INCLUDING"
        ));
    }
    if source
        .code
        .lines()
        .any(|line| line.trim().ends_with("mod tests;"))
    {
        breaches.push(format!(
            "{file}: its module `tests` is built into the crate: say `#[cfg(test)]`"
        ));
    }
}

/// Whether a path begins with this module of the crate.
fn is_below(path: &[String], module: &str) -> bool {
    path.first().is_some_and(|first| first == module)
}

/// Whether the first module is declared by the second.
fn is_child(module: &[String], of: &[String]) -> bool {
    module.len() == of.len() + 1 && module.starts_with(of)
}

fn sources(texts: &BTreeMap<String, String>, name: &str) -> BTreeMap<Module, Source> {
    let root = format!("{name}/src/");
    let files = texts
        .keys()
        .filter(|file| file.starts_with(&root) && file.ends_with(".rs"))
        .filter(|file| !is_of_tests(file));
    let mut sources: BTreeMap<Module, Source> = BTreeMap::new();
    for file in files {
        let stem = file[root.len()..].trim_end_matches(".rs");
        let mut module: Module = stem.split('/').map(str::to_owned).collect();
        if matches!(module.last().map(String::as_str), Some("mod" | "lib" | "main")) {
            module.pop();
        }
        let own = format!("{root}{}/", module.join("/"));
        let mut below = texts.keys().filter(|other| other.starts_with(&own));
        // A folder that holds tests alone is no folder of its own.
        let has_own = !module.is_empty() && below.any(|other| !is_of_tests(other));
        let parent = file.rsplit_once('/').map_or("", |(parent, _)| parent);
        let folder = if has_own {
            own.trim_end_matches('/')
        } else {
            parent
        };
        let source = Source {
            file: file.clone(),
            folder: folder.to_owned(),
            code: code(&texts[file]),
            ..Source::default()
        };
        // Beside a library the program is another crate, which has its items by its name.
        sources.entry(module).or_insert(source);
    }
    let modules: BTreeSet<Module> = sources.keys().cloned().collect();
    for (module, source) in &mut sources {
        imports(module, &modules, source);
        paths(module, &modules, source);
        source.declares = declared(&source.code);
    }
    let by_globs: Vec<(Module, BTreeSet<Module>)> = sources
        .iter()
        .map(|(module, source)| (module.clone(), through_globs(source, &sources)))
        .collect();
    for (module, uses) in by_globs {
        if let Some(source) = sources.get_mut(&module) {
            source.uses.extend(uses);
        }
    }
    sources
}

/// Reads what a source imports and exports on.
fn imports(module: &Module, modules: &BTreeSet<Module>, source: &mut Source) {
    // Paths that are not placed yet, with the names that they get, and whether others may use these.
    let mut open: Vec<(Vec<String>, String, bool)> = Vec::new();
    let mut rest = source.code.as_str();
    while let Some(at) = rest.find("use ") {
        let line = rest[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let before = rest[line..at].trim();
        let is_export = before.starts_with("pub");
        let is_import = before.is_empty() || is_export || before.ends_with(['{', ';', '}']);
        rest = &rest[at + "use ".len()..];
        if let Some((tree, _)) = rest.split_once(';').filter(|_| is_import) {
            open.extend(
                leaves(tree)
                    .into_iter()
                    .map(|(path, name)| (path, name, is_export)),
            );
        }
    }
    let this = "extern crate self as ";
    for (at, _) in source.code.match_indices(this) {
        let name = source.code[at + this.len()..]
            .split(';')
            .next()
            .unwrap_or_default();
        open.push((vec!["crate".to_owned()], name.trim().to_owned(), false));
    }
    // One may rest on the name that another one gives.
    loop {
        let before = open.len();
        let mut left = Vec::new();
        for (path, name, is_export) in open {
            let Some(target) = absolute(module, &path, modules, &source.imports) else {
                left.push((path, name, is_export));
                continue;
            };
            if name == "*" {
                let of = target[..target.len().saturating_sub(1)].to_vec();
                if is_export {
                    source.exports_all_of.insert(of.clone());
                }
                source.all_of.insert(of);
            } else if name != "_" {
                if is_export {
                    source.exports.insert(name.clone(), target.clone());
                }
                source.imports.insert(name, target.clone());
            }
            source.uses.insert(target);
        }
        if left.len() == before {
            break;
        }
        open = left;
    }
}

/// Reads the paths in a source's code.
fn paths(module: &Module, modules: &BTreeSet<Module>, source: &mut Source) {
    let code = source.code.as_str();
    // A module names its children without a beginning, and what it imported.
    let children = modules
        .iter()
        .filter(|other| is_child(other, module))
        .map(|child| format!("{}::", child[module.len()]));
    let imported = source.imports.keys().map(|name| format!("{name}::"));
    let begins = ["crate::", "super::", "self::"].map(str::to_owned);
    let begins: BTreeSet<String> = begins.into_iter().chain(children).chain(imported).collect();
    let mut uses = BTreeSet::new();
    for begin in begins {
        for (at, _) in code.match_indices(begin.as_str()) {
            let is_part = code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
            let path: String = code[at..]
                .chars()
                .take_while(|c| c.is_alphanumeric() || matches!(c, '_' | ':'))
                .collect();
            // `pub(in crate::a)` says who may use it, and uses nothing.
            if !is_part && !code[..at].ends_with("(in ") {
                let path: Vec<String> = parts(path.trim_end_matches(':'));
                uses.extend(absolute(module, &path, modules, &source.imports));
            }
        }
    }
    source.uses.extend(uses);
}

/// Words behind which the name of an item stands.
const DECLARING: &[&str] = &[
    "const",
    "enum",
    "fn",
    "macro_rules!",
    "mod",
    "static",
    "struct",
    "trait",
    "type",
    "union",
];

fn declared(code: &str) -> BTreeSet<String> {
    let words: Vec<&str> = code.split_whitespace().collect();
    let name = |pair: &[&str]| {
        let is_name = |c: char| c.is_alphanumeric() || c == '_';
        let end = pair[1].find(|c| !is_name(c)).unwrap_or(pair[1].len());
        DECLARING.contains(&pair[0]).then(|| pair[1][..end].to_owned())
    };
    words.windows(2).filter_map(name).collect()
}

/// What a source uses of the names that `*` brings it, where they are another module's.
fn through_globs(source: &Source, sources: &BTreeMap<Module, Source>) -> BTreeSet<Module> {
    let mut found = BTreeSet::new();
    let mut seen: BTreeSet<&Module> = BTreeSet::new();
    let mut open: Vec<&Module> = source.all_of.iter().collect();
    while let Some(of) = open.pop() {
        let Some(target) = sources.get(of).filter(|_| seen.insert(of)) else {
            continue;
        };
        open.extend(&target.all_of);
        let children = sources
            .keys()
            .filter(|other| is_child(other, of))
            .map(|child| (&child[of.len()], child));
        for (name, path) in children.chain(&target.imports) {
            if !source.imports.contains_key(name) && uses_name(&source.code, name) {
                found.insert(path.clone());
            }
        }
    }
    found
}

/// Whether a code uses a name: a type as a word of its own, any other as a path's beginning or a call.
fn uses_name(code: &str, name: &str) -> bool {
    if name.starts_with(char::is_uppercase) {
        return stands_alone(code, name);
    }
    code.match_indices(name).any(|(at, _)| {
        let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | ':');
        let (before, behind) = (&code[..at], &code[at + name.len()..]);
        let is_used = ["::", "(", "!("].iter().any(|end| behind.starts_with(end));
        is_used && !before.ends_with(is_part) && !before.ends_with("fn ")
    })
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
fn absolute(
    module: &Module,
    path: &[String],
    modules: &BTreeSet<Module>,
    imports: &BTreeMap<String, Module>,
) -> Option<Module> {
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
    if let Some(imported) = imports.get(first) {
        return Some([imported.as_slice(), &path[1..]].concat());
    }
    base.push(first.to_owned());
    let is_child = modules.contains(&base);
    base.extend_from_slice(&path[1..]);
    is_child.then_some(base)
}

fn below(module: &[String], name: &str) -> Module {
    [module, &[name.to_owned()]].concat()
}

/// The module in which a path's item is.
fn home(path: &[String], sources: &BTreeMap<Module, Source>, steps: usize) -> Option<Module> {
    let len = (0..=path.len())
        .rev()
        .find(|len| sources.contains_key(&path[..*len]))?;
    let source = &sources[&path[..len]];
    let exported = path.get(len).and_then(|name| {
        let has = |of: &&Module| {
            sources
                .get(*of)
                .is_some_and(|target| target.declares.contains(name) || target.exports.contains_key(name))
        };
        let through_all = || {
            let all = &source.exports_all_of;
            let of = all.iter().find(has).or_else(|| all.first())?;
            Some(below(of, name))
        };
        // What a module declares itself is not what `*` brings.
        let own = source.exports.get(name).cloned();
        own.or_else(|| through_all().filter(|_| !source.declares.contains(name)))
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
    fn names_that_were_given_or_came_by_a_glob_are_followed() {
        let of = |of_one: &str| {
            found(&[
                ("lib.rs", "mod a;\nmod b;\nuse b::Two;\n"),
                (
                    "a/mod.rs",
                    "pub mod one;\nuse crate::b::Three;\npub fn four() {}\n",
                ),
                ("a/one.rs", of_one),
                ("b.rs", "use crate::a::one::One;\npub struct Two;\n"),
            ])
        };
        for of_one in [
            "use crate as r;\nfn f() -> r::b::Two { g() }\n",
            "use crate as r;\nuse r::b::Two;\n",
            "use r::b::Two;\nuse crate as r;\n",
            "use super::super as up;\nfn f() { up::b::two(); }\n",
            "extern crate self as net;\nfn f() { net::b::two(); }\n",
            "use crate::*;\nfn f() { b::two(); }\n",
            "use crate::*;\nfn f() -> Two { g() }\n",
            "use crate::b::*;\n",
            "fn f() { use crate::b::Two; }\n",
            "#[cfg(test)]\nmod tests {\n}\n\nuse crate::b::Two;\n",
        ] {
            assert_eq!(
                of(of_one),
                ["net/src/a/one.rs: a circle of folders with net/src/b.rs"],
                "{of_one}"
            );
        }
        assert_eq!(
            of("use super::*;\nfn f() -> Three { four() }\n"),
            ["net/src/a/mod.rs: a circle of folders with net/src/a/one.rs, net/src/b.rs"]
        );
        for of_one in [
            "use crate::*;\nfn two() { let b = 1; x.b(); }\n",
            "use std as r;\nfn f() { r::b::two(); }\n",
            "fn f() { \"crate::b::Two\"; }\n",
        ] {
            assert_eq!(of(of_one), [""; 0], "{of_one}");
        }
    }

    #[test]
    fn of_two_globs_the_one_that_has_the_name_is_followed() {
        let of = |of_b: &str| {
            found(&[
                (
                    "lib.rs",
                    "mod a;\nmod b;\nmod c;\npub use c::*;\npub use a::one::*;\n",
                ),
                ("a/mod.rs", "pub mod one;\n"),
                ("a/one.rs", "use crate::b::Two;\npub struct One;\n"),
                ("b.rs", of_b),
                ("c.rs", "pub struct Three;\n"),
            ])
        };
        assert_eq!(of("fn f(_: crate::Three) {}\n"), [""; 0]);
        assert_eq!(
            of("fn f(_: crate::One) {}\n"),
            ["net/src/a/one.rs: a circle of folders with net/src/b.rs"]
        );
    }

    #[test]
    fn what_would_not_be_seen_is_refused() {
        let of = |lib: &str| found(&[("lib.rs", lib)]);
        assert!(of("#[path = \"x/y.rs\"]\nmod y;\n")[0].contains("`#[path]` is not followed"));
        assert!(of("include!(\"x.rs\");\n")[0].contains("`include!` is not followed"));
        assert!(of("mod tests;\n")[0].contains("`tests` is built into the crate"));
        let fine = "#[cfg(test)]\nmod tests;\n#[cfg(test)]\n#[path = \"x.rs\"]\nmod x;\n// include!(\n\
                    const A: &str = include_str!(\"a.txt\");\n";
        assert_eq!(of(fine), [""; 0]);
        let engine = |text| found_in("collector", &[("engine/mod.rs", text)]);
        assert_eq!(
            engine("const A: u8 = include!(concat!(\"a\", \"b\"));\n"),
            [""; 0]
        );
        assert!(engine("mod a;\n")[0].contains("take it off the list INCLUDING"));
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
