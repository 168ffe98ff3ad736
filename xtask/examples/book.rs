//! The book as pages for a browser: docs/README.md, and every document that it leads to, in its order. Run by
//! `cargo xtask book`.
//!
//! Promises: a link to a document leads to its page and its heading, or nothing is made and the link is
//! named; so is a document in docs/ that no other one leads to. A page loads nothing but the book's pictures.
//! Not here: how documents are worded, and the commands that they show (`tidy`,
//! `verifier/cli/tests/documents.rs`).

#[path = "../src/anchors.rs"]
mod anchors;

use anchors::{Anchors, beside};
use anyhow::{Context as _, Result, bail};
use pulldown_cmark::{CowStr, Event, HeadingLevel, Options, Parser, Tag, TagEnd, html};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Where the book begins.
const FIRST: &str = "docs/README.md";

const STYLE: &str = "body{margin:0;font:16px/1.5 system-ui,sans-serif;color:#222}nav{position:fixed;inset:0 \
    auto 0 0;width:17rem;overflow:auto;padding:1rem;box-sizing:border-box;background:#f4f4f4}nav \
    ol{margin:0;padding-left:1.4rem}nav a[aria-current]{font-weight:bold}main{margin-left:17rem;padding:1rem \
    2rem;max-width:60rem}img{max-width:100%}pre,code{font:14px/1.4 \
    monospace;background:#f4f4f4}pre{padding:.7rem;overflow:auto}table{border-collapse:collapse}th,td{border:1px \
    solid #ccc;padding:.2rem \
    .6rem;vertical-align:top}@media(max-width:50rem){nav{position:static;width:auto}main{margin:0}}";

fn main() -> Result<()> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [root, to] = arguments.as_slice() else {
        bail!("usage: book REPOSITORY FOLDER");
    };
    let pages = make(root, to)?;
    println!(
        "{} pages; begin with {}",
        pages.len(),
        to.join(page(FIRST)).display()
    );
    Ok(())
}

/// Writes the pages below `to`, each where its document lies below `root`; gives their documents in order.
///
/// # Errors
/// Every link that leads nowhere and every document in docs/ that is not reached; what cannot be read or
/// written.
pub fn make(root: &Path, to: &Path) -> Result<Vec<String>> {
    let read = |file: &str| {
        let path = root.join(file);
        std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    };
    let mut documents: BTreeMap<String, Document> = BTreeMap::new();
    let (mut order, mut next) = (Vec::new(), 0);
    order.push(FIRST.to_owned());
    while let Some(file) = order.get(next).cloned() {
        next += 1;
        let text = read(&file)?;
        for link in local_links(&text) {
            let target = beside(&file, link.split('#').next().unwrap_or_default());
            if target.ends_with(".md") && root.join(&target).is_file() && !order.contains(&target) {
                order.push(target);
            }
        }
        documents.insert(file, Document::new(text));
    }
    let mut faults = Vec::new();
    for entry in std::fs::read_dir(root.join("docs"))? {
        let name = format!("docs/{}", entry?.file_name().to_string_lossy());
        if name.ends_with(".md") && !documents.contains_key(&name) {
            faults.push(format!("{name}: no document of the book leads to it"));
        }
    }
    let mut pictures = BTreeSet::new();
    let mut made = Vec::new();
    for file in &order {
        made.push(written(
            root,
            file,
            &order,
            &documents,
            &mut pictures,
            &mut faults,
        ));
    }
    if !faults.is_empty() {
        bail!("{}", faults.join("\n"));
    }
    for (file, text) in order.iter().zip(made) {
        put(&to.join(page(file)), text.as_bytes())?;
    }
    for picture in pictures {
        put(&to.join(&picture), &std::fs::read(root.join(&picture))?)?;
    }
    Ok(order)
}

fn put(path: &Path, content: &[u8]) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    std::fs::write(path, content).with_context(|| format!("writing {}", path.display()))
}

struct Document {
    text: String,
    title: String,
    /// The names of its headings, in their order.
    headings: Vec<String>,
}

impl Document {
    fn new(text: String) -> Document {
        let (mut title, mut headings, mut anchors) = (String::new(), Vec::new(), Anchors::default());
        let mut heading: Option<String> = None;
        for event in events(&text) {
            match event {
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::Text(part) | Event::Code(part) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&part);
                    }
                }
                Event::End(TagEnd::Heading(level)) => {
                    let heading = heading.take().unwrap_or_default();
                    headings.push(anchors.next(&heading));
                    if level == HeadingLevel::H1 && title.is_empty() {
                        title = heading;
                    }
                }
                _ => {}
            }
        }
        Document {
            text,
            title,
            headings,
        }
    }
}

fn events(text: &str) -> Parser<'_> {
    Parser::new_ext(text, Options::ENABLE_TABLES)
}

/// The links of a text that do not lead to another host.
fn local_links(text: &str) -> Vec<String> {
    let links = events(text).filter_map(|event| match event {
        Event::Start(Tag::Link { dest_url, .. }) if !dest_url.contains(':') => Some(dest_url.into_string()),
        _ => None,
    });
    links.collect()
}

/// The page of a document.
fn page(file: &str) -> String {
    format!("{}.html", file.trim_end_matches(".md"))
}

/// The way from one file's folder to another file.
fn way(from: &str, to: &str) -> String {
    format!("{}{to}", "../".repeat(from.matches('/').count()))
}

/// A text as HTML shows it.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    html::push_html(&mut out, [Event::Text(text.into())].into_iter());
    out
}

/// A document as a page.
fn written(
    root: &Path,
    file: &str,
    order: &[String],
    documents: &BTreeMap<String, Document>,
    pictures: &mut BTreeSet<String>,
    faults: &mut Vec<String>,
) -> String {
    let document = &documents[file];
    let mut headings = document.headings.iter();
    // Whether the links that are open lead to a page: others show their text alone.
    let mut open = Vec::new();
    let shown: Vec<Event<'_>> = events(&document.text)
        .filter_map(|event| match event {
            Event::Start(Tag::Heading {
                level,
                classes,
                attrs,
                ..
            }) => {
                let id = headings.next().map(|name| CowStr::from(name.as_str()));
                Some(Event::Start(Tag::Heading {
                    level,
                    id,
                    classes,
                    attrs,
                }))
            }
            Event::Start(Tag::Link {
                link_type,
                dest_url,
                title,
                id,
            }) => {
                let target = if dest_url.contains(':') {
                    Some(dest_url.to_string())
                } else {
                    match led(root, file, &dest_url, documents) {
                        Ok(target) => target,
                        Err(why) => {
                            faults.push(format!("{file}: {dest_url}: {why}"));
                            None
                        }
                    }
                };
                open.push(target.is_some());
                let dest_url = CowStr::from(target?);
                Some(Event::Start(Tag::Link {
                    link_type,
                    dest_url,
                    title,
                    id,
                }))
            }
            Event::End(TagEnd::Link) => open.pop().unwrap_or(true).then_some(Event::End(TagEnd::Link)),
            Event::Start(Tag::Image {
                link_type,
                dest_url,
                title,
                id,
            }) => {
                let picture = beside(file, &dest_url);
                if !root.join(&picture).is_file() {
                    faults.push(format!("{file}: {dest_url}: there is no {picture}"));
                }
                let dest_url = CowStr::from(way(file, &picture));
                pictures.insert(picture);
                Some(Event::Start(Tag::Image {
                    link_type,
                    dest_url,
                    title,
                    id,
                }))
            }
            other => Some(other),
        })
        .collect();
    let mut body = String::new();
    html::push_html(&mut body, shown.into_iter());
    let mut contents = String::new();
    for other in order {
        let current = if other == file {
            " aria-current=\"page\""
        } else {
            ""
        };
        let title = escaped(&documents[other].title);
        let to = way(file, &page(other));
        contents.push_str(&format!("<li><a href=\"{to}\"{current}>{title}</a></li>\n"));
    }
    let title = escaped(&document.title);
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\n\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head>\n\
         <body><nav><ol>\n{contents}</ol></nav>\n<main>\n{body}</main></body></html>\n"
    )
}

/// Where a link of a document leads within the book; `None` for what is in the repository and no page.
fn led(
    root: &Path,
    file: &str,
    link: &str,
    documents: &BTreeMap<String, Document>,
) -> Result<Option<String>, String> {
    let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = if path.is_empty() {
        file.to_owned()
    } else {
        beside(file, path)
    };
    let Some(document) = documents.get(&target) else {
        let is_there = root.join(&target).exists();
        return if is_there {
            Ok(None)
        } else {
            Err(format!("there is no {target}"))
        };
    };
    if anchor.is_empty() {
        return Ok(Some(way(file, &page(&target))));
    }
    if !document.headings.iter().any(|name| name == anchor) {
        return Err("there is no such heading".to_owned());
    }
    Ok(Some(format!("{}#{anchor}", way(file, &page(&target)))))
}
