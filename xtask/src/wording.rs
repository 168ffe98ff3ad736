//! How texts are written: words and the width of lines.
//!
//! Promises: documents, comments and string literals of sources, scripts and the texts that are shipped
//! beside programs use the words of docs/glossary.md and not those of [`BANNED`], in any case and form, and
//! over the end of a line; what stands in a code fence is as it is. Not here: the helps of `cgpath`, which
//! `verifier/cli/tests/documents.rs` asks the program itself for, names in code, and the literals of tests.

use crate::rust::{Kind, is_of_tests, pieces, places_of_tests};
use crate::tidy::stands_alone;
use std::collections::{BTreeMap, BTreeSet};

/// Words that documents do not use, in each of their forms, and what to write in their place. Two words are
/// written apart, so that this list keeps the rule.
const BANNED: &[(&[&str], &str)] = &[
    (
        &["told", "retold", "untold"],
        "name who states, sends or configures it",
    ),
    (&["hearsay"], "unauthenticated metadata"),
    (&["whoever", "whomever", "whosoever"], "name who"),
    (
        &[
            concat!("judge", " again"),
            concat!("judges", " again"),
            concat!("judged", " again"),
            concat!("judging", " again"),
            "rejudge",
            "rejudges",
            "rejudging",
        ],
        "re-appraised",
    ),
    (&[concat!("can", " not")], "cannot"),
];

/// Names in JSON, which texts may show as code.
const KEYS: &[&str] = &["told"];

/// Columns of a line of Markdown that is not a single sentence.
const MARKDOWN_WIDTH: usize = 100;

/// Lines of the repository's front page.
const FRONT_PAGE: usize = 80;

/// Columns of a line of a source.
const SOURCE_WIDTH: usize = 110;

/// Columns above which a word of a literal may be longer than a line: nothing can break it.
const UNBREAKABLE: usize = 60;

/// Sources whose comments are in a generated schema, and are not wrapped yet. The list only shrinks.
const COMMENTS_EXEMPT: &[&str] = &[
    "policy/src/boot_policy.rs",
    "policy/src/node/mod.rs",
    "policy/src/node/opaque.rs",
    "policy/src/reference.rs",
];

/// Texts without code that a user gets or reads, beside documents.
const SHIPPED: &[&str] = &[".cddl", ".html", ".service", ".toml", ".yaml"];

/// Scripts and sources of others' languages; so is what begins with `#!`.
const SCRIPTS: &[&str] = &[".c", ".py", ".sh"];

/// Every breach of one text.
pub fn check(file: &str, text: &str, breaches: &mut Vec<String>) {
    if file.ends_with(".rs") {
        wording(file, comments(text), breaches);
        let pieces = pieces(text);
        let trailing = trailing_comments(text, &pieces);
        wording(
            file,
            trailing.iter().map(|(number, line)| (*number, &**line)),
            breaches,
        );
        if !is_of_tests(file) {
            let literals = literals(&pieces);
            wording(
                file,
                literals.iter().map(|(number, line)| (*number, &**line)),
                breaches,
            );
        }
        if !COMMENTS_EXEMPT.contains(&file) {
            long_comments(file, text, breaches);
        }
        long_code(file, text, &pieces, breaches);
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
    } else if !is_printed(file) {
        let mut ends = SHIPPED.iter().chain(SCRIPTS);
        if ends.any(|end| file.ends_with(*end)) || text.starts_with("#!") {
            wording(file, prose(text), breaches);
        }
    }
}

/// A source that is exempt from the width of comments has one that is too long.
pub fn exemptions(texts: &BTreeMap<String, String>, breaches: &mut Vec<String>) {
    for file in COMMENTS_EXEMPT {
        let mut long = Vec::new();
        if let Some(text) = texts.get(*file) {
            long_comments(file, text, &mut long);
        }
        if long.is_empty() {
            breaches.push(format!(
                "{file}: has no long comment: take it off the list COMMENTS_EXEMPT of xtask/src/wording.rs"
            ));
        }
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

/// The comments behind code, with their numbers.
fn trailing_comments(text: &str, pieces: &[(Kind, &str)]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut at = 0;
    for &(kind, piece) in pieces {
        let before = &text[..at];
        let line = before.rfind('\n').map_or(0, |newline| newline + 1);
        if kind == Kind::Comment && !text[line..at].trim().is_empty() {
            found.push((before.matches('\n').count() + 1, piece.to_owned()));
        }
        at += piece.len();
    }
    found
}

/// The words of string literals outside of tests, line by line, with their numbers: without escapes, what
/// `{…}` puts in, and names (a literal that is one word).
fn literals(pieces: &[(Kind, &str)]) -> Vec<(usize, String)> {
    let tests = places_of_tests(pieces);
    let mut found = Vec::new();
    let (mut at, mut line) = (0, 1);
    for &(kind, piece) in pieces {
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '"' | '_' | '-' | '.' | ':' | '/');
        let is_text = kind == Kind::Text && !piece.chars().all(is_name);
        if is_text && !tests.iter().any(|test| test.contains(&at)) {
            // An empty line: what stands in two literals is not one text.
            found.push((line, String::new()));
            for (index, words) in piece.split('\n').enumerate() {
                found.push((line + index, printed(words)));
            }
        }
        line += piece.matches('\n').count();
        at += piece.len();
    }
    found
}

/// What a line of a literal prints, roughly.
fn printed(line: &str) -> String {
    let mut out = String::new();
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                chars.next();
                out.push(' ');
            }
            '{' if chars.peek() != Some(&'{') => {
                chars.by_ref().find(|c| *c == '}');
                out.push('0');
            }
            '"' => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// Each form of each word, with what to write in its place.
fn banned() -> impl Iterator<Item = (&'static str, &'static str)> {
    let forms = |(forms, instead): &'static (&'static [&'static str], &'static str)| {
        forms.iter().map(move |form| (*form, *instead))
    };
    BANNED.iter().flat_map(forms)
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
        let line = KEYS
            .iter()
            .fold(line, |line, key| line.replace(&format!("`{key}`"), "``"));
        let over_the_end = format!("{last} {line}");
        for (words, instead) in banned() {
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
                "{file}:{number}: {columns} columns: wrap it at {MARKDOWN_WIDTH}, or give each sentence a \
                 line"
            ));
        }
    }
}

/// A comment that has a line of its own is wrapped; what it shows in a fence is as it is.
fn long_comments(file: &str, text: &str, breaches: &mut Vec<String>) {
    for (number, line) in comments(text) {
        let columns = line.chars().count();
        if columns > SOURCE_WIDTH {
            breaches.push(format!(
                "{file}:{number}: a comment of {columns} columns: wrap it at {SOURCE_WIDTH}"
            ));
        }
    }
}

/// A line of code is as wide as rustfmt makes it, its literals and macros among it. Not measured are the
/// lines of a literal that keeps them, and lines with a word that nothing can break.
fn long_code(file: &str, text: &str, pieces: &[(Kind, &str)], breaches: &mut Vec<String>) {
    let mut exempt = BTreeSet::new();
    let mut line = 1;
    for &(kind, piece) in pieces {
        if kind == Kind::Text {
            let is_raw = piece.trim_start_matches(['b', 'c']).starts_with('r');
            // What follows a backslash at a line's end can be broken anywhere.
            let is_kept = |words: &str| words.ends_with('\n') && (is_raw || !words.ends_with("\\\n"));
            let keeps_lines = piece.split_inclusive('\n').any(is_kept);
            for (index, words) in piece.lines().enumerate() {
                let mut words = words.split(' ');
                if keeps_lines || words.any(|word| word.chars().count() > UNBREAKABLE) {
                    exempt.insert(line + index);
                }
            }
        }
        line += piece.matches('\n').count();
    }
    for (index, words) in text.lines().enumerate() {
        let number = index + 1;
        let columns = words.chars().count();
        let is_comment = words.trim_start().starts_with("//");
        if columns > SOURCE_WIDTH && !is_comment && !exempt.contains(&number) {
            breaches.push(format!(
                "{file}:{number}: code of {columns} columns: break it at {SOURCE_WIDTH}, a text with a \
                 backslash"
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
            "Whoever asks is told.\n```\nit can not be told\n```\nToldo, `judged_again`.\nIt can not.\n";
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
    fn every_form_of_a_banned_word_is_found_and_names_in_json_may_be_shown() {
        let found = |line: &str| breaches(|breaches| check("a.md", line, breaches)).len();
        for line in [
            "Untold, retold.",
            "Ask whomever.",
            "Whosoever comes.",
            "It judges again.",
            "Judging again.",
            "They rejudge it.",
        ] {
            assert!(found(line) > 0, "{line}");
        }
        for line in [
            "The keys `told` and `rejudged`.",
            "They judge. Again.",
            "A candidate cannot.",
        ] {
            assert_eq!(found(line), 0, "{line}");
        }
    }

    #[test]
    fn literals_comments_behind_code_and_scripts_are_looked_at() {
        let found = |file: &str, text: &str| breaches(|breaches| check(file, text, breaches));
        for text in [
            "f(\"it was told\");\n",
            "f(\"so\\ntold {x}\");\n",
            "f(\"it can \\\n   not\");\n",
            "f(r#\"a \"told\" one\"#);\n",
            "f(); // it was told\n",
            "f(); /* told */ g();\n",
        ] {
            assert_eq!(found("a/src/a.rs", text).len(), 1, "{text}");
        }
        for text in [
            "f(\"told\");\n",
            "f(\"{told} {x:?} so\");\n",
            "g(\"it can\", \"not be\");\n",
            "#[cfg(test)]\nmod tests {\n    const A: &str = \"was told\";\n}\n",
            "let told = 1;\n",
        ] {
            assert_eq!(found("a/src/a.rs", text), [""; 0], "{text}");
        }
        assert_eq!(found("a/tests/a.rs", "f(\"it was told\");\n"), [""; 0]);
        assert_eq!(found("deploy/x.postinst", "#!/bin/sh\n# told\n").len(), 1);
        assert_eq!(found("a/b.py", "x = 1  # told\n").len(), 1);
        assert_eq!(found("a/b.bin", "told\n"), [""; 0]);
    }

    #[test]
    fn long_code_is_found_but_what_keeps_its_lines_or_cannot_be_broken() {
        let found = |text: &str| breaches(|breaches| long_code("a.rs", text, &pieces(text), breaches));
        let (long, words) = ("x".repeat(110), "word ".repeat(22));
        assert_eq!(
            found(&format!("a();\nf(\"{words}\");\n")),
            ["a.rs:2: code of 116 columns: break it at 110, a text with a backslash"]
        );
        for text in [
            format!("f({long});\n"),
            format!("m! {{\n    {words} + 1\n}}\n"),
            format!("f(\"a \\\n  {words}\");\n"),
            format!("f(\"a\"); // {words}\n"),
        ] {
            assert_eq!(found(&text).len(), 1, "{text}");
        }
        for text in [
            format!("f(\"{long}\");\n"),
            format!("f(\"a\n{words}\\\n\");\n"),
            format!("f(r\"\n{words}\n{words}\");\n"),
            format!("    // {words}\n"),
            format!("f({});\n", "x".repeat(106)),
        ] {
            assert_eq!(found(&text), [""; 0], "{text}");
        }
    }

    #[test]
    fn an_exemption_of_comments_that_nothing_needs_is_found() {
        let of = |text: &str| {
            let texts = COMMENTS_EXEMPT
                .iter()
                .map(|file| ((*file).to_owned(), text.to_owned()));
            let texts: BTreeMap<String, String> = texts.skip(1).collect();
            breaches(|breaches| exemptions(&texts, breaches))
        };
        let found = of(&format!("/// {}\n", "word ".repeat(30)));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with(COMMENTS_EXEMPT[0]) && found[0].contains("take it off"));
        assert_eq!(of("/// short\n").len(), COMMENTS_EXEMPT.len());
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
