//! The book that `cargo xtask book` makes: all of it can be made, and its links lead to its pages.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[allow(dead_code, reason = "the example's `main` is for the command")]
#[path = "../examples/book.rs"]
mod book;

use std::fs;
use std::path::{Path, PathBuf};

/// An empty folder of a test.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

#[test]
fn every_document_is_a_page_and_every_link_between_them_leads_to_one() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let to = folder("book");
    let documents = book::make(root, &to).unwrap();
    for expected in [
        "docs/README.md",
        "docs/overview.md",
        "docs/spec/wire.md",
        "ARCHITECTURE.md",
    ] {
        assert!(documents.iter().any(|file| file == expected), "{expected}");
    }
    // The order is the one of the contents.
    let place = |file: &str| documents.iter().position(|document| document == file);
    assert!(place("docs/install.md") < place("docs/operate.md"));
    let mut links = 0;
    for file in &documents {
        let page = to.join(file.replace(".md", ".html"));
        let text = fs::read_to_string(&page).unwrap();
        for link in text.split("href=\"").skip(1) {
            let link = link.split('"').next().unwrap();
            if link.contains(':') {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = fs::read_to_string(page.parent().unwrap().join(path)).unwrap_or_default();
            assert!(!target.is_empty(), "{file}: {link}");
            let id = format!("id=\"{anchor}\"");
            assert!(anchor.is_empty() || target.contains(&id), "{file}: {link}");
            links += 1;
        }
    }
    assert!(links > documents.len() * documents.len(), "{links} links");
    assert!(to.join("docs/serve.png").is_file());
}

#[test]
fn a_link_that_leads_nowhere_and_a_document_that_nothing_leads_to_are_named() {
    let root = folder("broken");
    fs::create_dir_all(root.join("docs")).unwrap();
    let write = |name: &str, text: &str| fs::write(root.join("docs").join(name), text).unwrap();
    write("README.md", "# Contents\n\n[a](a.md#two) [code](../docs)\n");
    write("a.md", "# A\n\n## Two\n\n[back](README.md)\n");
    let to = root.join("to");
    assert_eq!(book::make(&root, &to).unwrap(), ["docs/README.md", "docs/a.md"]);
    let page = fs::read_to_string(to.join("docs/README.html")).unwrap();
    assert!(
        page.contains("<a href=\"../docs/a.html#two\">a</a> code"),
        "{page}"
    );
    write("b.md", "# B\n");
    write("a.md", "# A\n\n[x](gone.md) [y](README.md#none)\n");
    let error = book::make(&root, &to).unwrap_err().to_string();
    for fault in [
        "docs/b.md: no document of the book leads to it",
        "docs/README.md: a.md#two: there is no such heading",
        "docs/a.md: gone.md: there is no docs/gone.md",
        "docs/a.md: README.md#none: there is no such heading",
    ] {
        assert!(error.contains(fault), "{error}");
    }
}
