//! Links of Markdown documents: the file is there, and so is the heading; and so is a file of the repository
//! that a document names.
//!
//! Promise: relative links of every tracked document are looked at, and code spans that begin with one of the
//! repository's folders or end in `.rs` or `.md`, but for those in code fences.
//! Not here: links to other hosts, and links whose target stands elsewhere (`[a][b]`).

use crate::anchors::{Anchors, beside};
use crate::wording::prose;
use std::collections::{BTreeMap, BTreeSet};

/// A breach for each link that leads nowhere.
pub fn check(files: &[String], texts: &BTreeMap<String, String>, breaches: &mut Vec<String>) {
    let documents = || texts.iter().filter(|(file, _)| file.ends_with(".md"));
    let named: BTreeMap<&str, BTreeSet<String>> = documents()
        .map(|(file, text)| (file.as_str(), headings(text)))
        .collect();
    let folders: BTreeSet<&str> = files
        .iter()
        .filter_map(|file| Some(file.split_once('/')?.0))
        .collect();
    for (file, text) in documents() {
        for (number, line) in prose(text) {
            // A decision names what there was on its day.
            for path in paths(line, &folders).filter(|_| !file.starts_with("docs/decisions/")) {
                let path = path.trim_end_matches('/');
                let folder = format!("{path}/");
                if !files.iter().any(|name| name == path || name.starts_with(&folder)) {
                    breaches.push(format!("{file}:{number}: there is no {path}"));
                }
            }
            for name in names(line, &folders).filter(|_| !file.starts_with("docs/decisions/")) {
                let end = format!("/{name}");
                if !files.iter().any(|path| path == name || path.ends_with(&end)) {
                    breaches.push(format!("{file}:{number}: no file is called {name}"));
                }
            }
            for link in targets(line).filter(|link| !link.contains(':')) {
                let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
                let target = if path.is_empty() {
                    file.clone()
                } else {
                    beside(file, path)
                };
                let is_folder = || files.iter().any(|name| name.starts_with(&format!("{target}/")));
                if !files.contains(&target) && !is_folder() {
                    breaches.push(format!("{file}:{number}: {link}: there is no {target}"));
                } else if !anchor.is_empty()
                    && named
                        .get(target.as_str())
                        .is_some_and(|all| !all.contains(anchor))
                {
                    breaches.push(format!("{file}:{number}: {link}: there is no such heading"));
                }
            }
        }
    }
}

/// Code spans that are paths from one of these folders on. `NAME` and `NN` in one stand for something else.
fn paths<'a>(line: &'a str, folders: &BTreeSet<&str>) -> impl Iterator<Item = &'a str> {
    spans(line).filter(move |span| begins_with(span, folders))
}

/// Code spans that are the ends of sources' or documents' paths.
fn names<'a>(line: &'a str, folders: &BTreeSet<&str>) -> impl Iterator<Item = &'a str> {
    spans(line).filter(move |span| {
        let is_file = span.ends_with(".rs") || span.ends_with(".md");
        is_file && !begins_with(span, folders)
    })
}

fn begins_with(span: &str, folders: &BTreeSet<&str>) -> bool {
    span.split_once('/')
        .is_some_and(|(first, _)| folders.contains(first))
}

/// Code spans that may be paths.
fn spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2).filter(|span| {
        let is_path = span
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b));
        is_path && !span.contains("NAME") && !span.contains("NN")
    })
}

/// What stands in `](…)`, outside of code spans.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    let after = line.split("](").skip(1);
    after.filter_map(|rest| Some(rest.split_once(')')?.0).filter(|link| !link.contains(' ')))
}

/// The names of a document's headings.
fn headings(text: &str) -> BTreeSet<String> {
    let mut anchors = Anchors::default();
    let mut all = BTreeSet::new();
    for (_, line) in prose(text) {
        let heading = line.trim_start_matches('#');
        if heading.len() == line.len() || !heading.starts_with(' ') {
            continue;
        }
        let mut shown = String::new();
        let mut rest = heading.trim();
        // Of a link the text counts.
        while let Some((before, link)) = rest.split_once("](") {
            shown.push_str(before);
            rest = link.split_once(')').map_or("", |(_, rest)| rest);
        }
        shown.push_str(rest);
        all.insert(anchors.next(&shown));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_leads_nowhere_is_a_breach() {
        let page = "# A page\n\
                    ## `code`, and more\n\
                    ## Twice\n\
                    ## Twice\n\
                    [a](#twice-1) [b](other.md#its-own) [c](../x/)\n\
                    [d](https://elsewhere/none) [e](#code-and-more)\n\
                    ```\n\
                    [no](link.md)\n\
                    ```\n";
        let texts = BTreeMap::from([
            ("docs/page.md".to_owned(), page.to_owned()),
            ("docs/other.md".to_owned(), "## Its [own](page.md)\n".to_owned()),
            ("x/code.rs".to_owned(), "[no](link.md)".to_owned()),
        ]);
        let files: Vec<String> = texts.keys().cloned().collect();
        let mut breaches = Vec::new();
        check(&files, &texts, &mut breaches);
        assert_eq!(breaches, Vec::<String>::new());
        for bad in ["[a](absent.md)", "[a](other.md#none)", "[a](#none)", "[a](../y/)"] {
            let mut texts = texts.clone();
            texts.insert("docs/page.md".to_owned(), format!("{page}{bad}\n"));
            let mut breaches = Vec::new();
            check(&files, &texts, &mut breaches);
            assert_eq!(breaches.len(), 1, "{bad}: {breaches:?}");
            assert!(breaches[0].starts_with("docs/page.md:10: "), "{breaches:?}");
        }
    }

    #[test]
    fn a_file_that_a_document_names_and_that_is_not_there_is_a_breach() {
        let of = |page: &str| {
            let texts = BTreeMap::from([("docs/page.md".to_owned(), page.to_owned())]);
            let files = ["docs/page.md", "x/src/code.rs"].map(str::to_owned);
            let mut breaches = Vec::new();
            check(&files, &texts, &mut breaches);
            breaches
        };
        let good = "`x/src/code.rs` `x/src/` `x/src` `src/code.rs` `y/gone` `x/NAME.rs` `x/*.rs` `cargo \
            x/gone` x/gone\n\
            ```\n\
            `x/gone`\n\
            ```\n";
        assert_eq!(of(good), Vec::<String>::new());
        assert_eq!(
            of("`x/src/gone.rs`"),
            ["docs/page.md:1: there is no x/src/gone.rs"]
        );
        assert_eq!(
            of("`src/gone.rs`"),
            ["docs/page.md:1: no file is called src/gone.rs"]
        );
    }
}
