//! How texts are written: words and the width of lines.
//!
//! Promises: documents, comments of sources and the texts that are shipped beside programs use the words of
//! docs/glossary.md and not those of [`BANNED`], in any case, and over the end of a line; what stands in a
//! code fence is as it is. Not here: the helps of `cgpath`, which `verifier/cli/tests/documents.rs` asks the
//! program itself for, and names in code.

use crate::tidy::stands_alone;

/// Words that documents do not use, and what to write in their place.
const BANNED: &[(&str, &str)] = &[
    ("told", "name who states, sends or configures it"),
    ("hearsay", "unauthenticated metadata"),
    ("whoever", "name who"),
    ("judged again", "re-appraised"),
    ("can not", "cannot"),
];

/// Columns of a line of Markdown that is not a single sentence.
const MARKDOWN_WIDTH: usize = 100;

/// Lines of the repository's front page.
const FRONT_PAGE: usize = 80;

/// Columns of a comment's line.
const COMMENT_WIDTH: usize = 110;

/// Sources whose comments are in a generated schema, and are not wrapped yet. The list only shrinks.
const COMMENTS_EXEMPT: &[&str] = &[
    "policy/src/boot_policy.rs",
    "policy/src/node/mod.rs",
    "policy/src/node/opaque.rs",
    "policy/src/reference.rs",
];

/// Texts without code that a user gets or reads, beside documents.
const SHIPPED: &[&str] = &[".cddl", ".html", ".service", ".toml", ".yaml"];

/// Every breach of one text.
pub fn check(file: &str, text: &str, breaches: &mut Vec<String>) {
    if file.ends_with(".rs") {
        wording(file, comments(text), breaches);
        if !COMMENTS_EXEMPT.contains(&file) {
            long_comments(file, text, breaches);
        }
    } else if file.ends_with(".md") && !is_printed(file) {
        wording(file, prose(text), breaches);
        // Its lines are wrapped as the mails of a series are.
        if !file.starts_with("kernel-patches/") {
            long_lines(file, text, breaches);
        }
        let lines = text.lines().count();
        if file == "README.md" && lines > FRONT_PAGE {
            breaches.push(format!(
                "{file}: {lines} lines: the front page has {FRONT_PAGE}; the rest is for docs/"
            ));
        }
    } else if SHIPPED.iter().any(|end| file.ends_with(*end)) && !is_printed(file) {
        wording(file, prose(text), breaches);
    }
}

/// What programs printed is not worded here.
fn is_printed(file: &str) -> bool {
    file.split('/').any(|part| part == "results")
}

/// The lines of a Markdown text outside of code fences, with their numbers.
pub fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fence = Fence::default();
    text.lines()
        .enumerate()
        .filter_map(move |(index, line)| (!fence.takes(line)).then_some((index + 1, line)))
}

/// Whether the next line stands in a code fence.
#[derive(Default)]
struct Fence {
    is_open: bool,
}

impl Fence {
    /// Whether this line, the one behind the last one, begins, ends or stands in a fence.
    fn takes(&mut self, line: &str) -> bool {
        let is_mark = line.trim_start().starts_with("```");
        self.is_open ^= is_mark;
        is_mark || self.is_open
    }
}

/// The comments that have a line of their own, outside of code fences, with their numbers.
fn comments(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fence = Fence::default();
    text.lines().enumerate().filter_map(move |(index, line)| {
        let Some(comment) = line.trim_start().strip_prefix("//") else {
            fence = Fence::default();
            return None;
        };
        (!fence.takes(comment.trim_start_matches(['/', '!']))).then_some((index + 1, line))
    })
}

/// Texts use the field's words.
fn wording<'a>(file: &str, lines: impl Iterator<Item = (usize, &'a str)>, breaches: &mut Vec<String>) {
    // The word that ends the line before.
    let mut last = String::new();
    for (number, line) in lines {
        let line = line
            .trim_start_matches([' ', '/', '!', '#', '>'])
            .to_ascii_lowercase();
        let line = line.split_whitespace().collect::<Vec<&str>>().join(" ");
        let over_the_end = format!("{last} {line}");
        for (words, instead) in BANNED {
            let looked_at = if words.contains(' ') { &over_the_end } else { &line };
            if stands_alone(looked_at, words) {
                breaches.push(format!("{file}:{number}: `{words}`: write instead: {instead}"));
            }
        }
        last = line.rsplit(' ').next().unwrap_or_default().to_owned();
    }
}

/// A long line is one sentence, a row of a table or a heading.
fn long_lines(file: &str, text: &str, breaches: &mut Vec<String>) {
    for (number, line) in prose(text) {
        let columns = line.chars().count();
        let may_be_long = line.trim_start().starts_with('|') || line.starts_with('#');
        if columns > MARKDOWN_WIDTH && !may_be_long && has_two_sentences(line) {
            breaches.push(format!(
                "{file}:{number}: {columns} columns: wrap it at {MARKDOWN_WIDTH}, or give each sentence a line"
            ));
        }
    }
}

/// A comment that has a line of its own is wrapped; what it shows in a fence is as it is.
fn long_comments(file: &str, text: &str, breaches: &mut Vec<String>) {
    for (number, line) in comments(text) {
        let columns = line.chars().count();
        if columns > COMMENT_WIDTH {
            breaches.push(format!(
                "{file}:{number}: a comment of {columns} columns: wrap it at {COMMENT_WIDTH}"
            ));
        }
    }
}

fn has_two_sentences(line: &str) -> bool {
    line.match_indices(". ")
        .any(|(at, stop)| line[at + stop.len()..].starts_with(char::is_uppercase))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaches(check: impl FnOnce(&mut Vec<String>)) -> Vec<String> {
        let mut breaches = Vec::new();
        check(&mut breaches);
        breaches
    }

    #[test]
    fn a_long_comment_is_found_outside_of_fences() {
        let long = "word ".repeat(30);
        let found = |text: &str| breaches(|breaches| long_comments("a.rs", text, breaches));
        assert_eq!(
            found(&format!("//! short\n    /// {long}\n")),
            ["a.rs:2: a comment of 158 columns: wrap it at 110"]
        );
        assert!(found(&format!("/// ```\n/// {long}\n/// ```\nlet text = \"{long}\";\n")).is_empty());
    }

    #[test]
    fn banned_words_are_found_outside_of_fences_and_not_within_longer_ones() {
        let text =
            "Whoever asks is told.\n```\nit can not be told\n```\nUntold, `judged_again`.\nIt can not.\n";
        let found = breaches(|breaches| check("a.md", text, breaches));
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[0].starts_with("a.md:1: `told`") && found[1].starts_with("a.md:1: `whoever`"));
        assert_eq!(found[2], "a.md:6: `can not`: write instead: cannot");
        assert_eq!(
            breaches(|breaches| check("a/results/b.md", text, breaches)).len(),
            0
        );
        assert_eq!(
            breaches(|breaches| check("deploy/a.toml", "# TOLD\n", breaches)).len(),
            1
        );
    }

    #[test]
    fn a_long_line_is_one_sentence_a_row_or_a_heading() {
        let long = "word ".repeat(25);
        let found = |text: &str| breaches(|breaches| long_lines("a.md", text, breaches)).len();
        assert_eq!(found(&format!("fine\n{long}. And {long}.\n")), 1);
        assert_eq!(found(&format!("{long}, e.g. this, {long}.\n")), 0);
        assert_eq!(found(&format!("| {long}. And |\n# {long}. And\n")), 0);
        assert_eq!(found(&format!("```\n{long}. And\n```\n")), 0);
        assert_eq!(found("One. Two. Three.\n"), 0);
    }

    #[test]
    fn a_front_page_that_has_grown_is_a_breach() {
        let of = |file: &str, lines| breaches(|breaches| check(file, &"A line.\n".repeat(lines), breaches));
        assert_eq!(of("README.md", 80), [""; 0]);
        assert_eq!(
            of("README.md", 81),
            ["README.md: 81 lines: the front page has 80; the rest is for docs/"]
        );
        assert_eq!(of("docs/README.md", 81), [""; 0]);
    }

    #[test]
    fn words_are_found_over_the_end_of_a_line_and_in_comments() {
        let found = |file: &str, text: &str| breaches(|breaches| check(file, text, breaches));
        assert_eq!(
            found("a.md", "It can\nnot be.\n"),
            ["a.md:2: `can not`: write instead: cannot"]
        );
        assert_eq!(found("a.md", "It can\n\nNot so.\n"), [""; 0]);
        let source = "/// It is judged\n/// again.\nlet told = 1;\n// ```\n// told\n// ```\n";
        assert_eq!(
            found("a.rs", source),
            ["a.rs:2: `judged again`: write instead: re-appraised"]
        );
    }
}
