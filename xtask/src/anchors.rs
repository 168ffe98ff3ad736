//! Where links of documents lead: a path from a file's folder on, and the names of headings.
//!
//! Both the check of links (`links.rs`) and the book (`examples/book.rs`, by this file's path) take it. Not
//! here: how a link is found.

use std::collections::BTreeMap;

/// A path relative to a file's folder, without `.` and `..`.
pub fn beside(file: &str, path: &str) -> String {
    let folder = file.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// The names of one document's headings, in their order.
#[derive(Default)]
pub struct Anchors {
    seen: BTreeMap<String, usize>,
}

impl Anchors {
    /// The name by which the next heading is linked to: small letters, digits, `-` and `_`, blanks as `-`; a
    /// second one of the same name ends in `-1`.
    pub fn next(&mut self, heading: &str) -> String {
        let is_kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
        let name: String = heading.to_lowercase().chars().filter(is_kept).collect();
        let name = name.replace(' ', "-");
        let count = self.seen.entry(name.clone()).or_default();
        let numbered = match *count {
            0 => name,
            n => format!("{name}-{n}"),
        };
        *count += 1;
        numbered
    }
}
