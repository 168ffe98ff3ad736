//! What a Rust source is made of: code, comments and texts (string literals), and which items are tests.
//!
//! Promise: each byte of a source is in one piece, and what is blanked keeps its place and its lines. Written
//! by hand, since xtask is what every first build begins with, and a parser drops comments. Not here: what
//! macros make of their tokens.

use std::ops::Range;

/// Whether a file has nothing but tests.
pub fn is_of_tests(file: &str) -> bool {
    file.contains("/tests/") || file.ends_with("/tests.rs")
}

/// What a stretch of a source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Everything else.
    Code,
    /// From `//` to the end of the line, or `/* … */`.
    Comment,
    /// A string or character literal of any kind, with its quotes.
    Text,
}

/// The pieces of a source, in order and without gaps.
pub fn pieces(source: &str) -> Vec<(Kind, &str)> {
    let mut found = Vec::new();
    let (mut begin, mut at) = (0, 0);
    while at < source.len() {
        let rest = &source[at..];
        let piece = comment(rest)
            .map(|len| (Kind::Comment, len))
            .or_else(|| literal(rest).map(|len| (Kind::Text, len)));
        let Some((kind, len)) = piece else {
            at += word(rest);
            continue;
        };
        if begin < at {
            found.push((Kind::Code, &source[begin..at]));
        }
        found.push((kind, &source[at..at + len]));
        at += len;
        begin = at;
    }
    if begin < at {
        found.push((Kind::Code, &source[begin..at]));
    }
    found
}

fn comment(rest: &str) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if !rest.starts_with("/*") {
        return None;
    }
    let (mut depth, mut at) = (0usize, 0);
    while at < rest.len() {
        let step = match &rest[at..] {
            tail if tail.starts_with("/*") => {
                depth += 1;
                2
            }
            tail if tail.starts_with("*/") => {
                depth -= 1;
                2
            }
            tail => tail.chars().next().map_or(1, char::len_utf8),
        };
        at += step;
        if depth == 0 {
            return Some(at);
        }
    }
    Some(rest.len())
}

/// The length of the literal that begins here.
fn literal(rest: &str) -> Option<usize> {
    let letters = rest.find(|c| !matches!(c, 'b' | 'c' | 'r'))?;
    let (prefix, body) = rest.split_at(letters);
    if !matches!(prefix, "" | "b" | "c" | "r" | "br" | "cr") {
        return None;
    }
    if body.starts_with('\'') && matches!(prefix, "" | "b") {
        return character(body).map(|len| letters + len);
    }
    let is_raw = prefix.ends_with('r');
    let hashes = if is_raw {
        body.len() - body.trim_start_matches('#').len()
    } else {
        0
    };
    let inner = body[hashes..].strip_prefix('"')?;
    let head = letters + hashes + 1;
    if is_raw {
        let end = format!("\"{}", "#".repeat(hashes));
        return Some(inner.find(&end).map_or(rest.len(), |at| head + at + end.len()));
    }
    let mut is_escaped = false;
    for (at, c) in inner.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => return Some(head + at + 1),
            _ => {}
        }
    }
    Some(rest.len())
}

/// The length of a character literal; none of a lifetime.
fn character(rest: &str) -> Option<usize> {
    let mut chars = rest.chars().skip(1);
    match (chars.next(), chars.next()) {
        (Some('\\'), Some(escaped)) => {
            let begin = 2 + escaped.len_utf8();
            rest[begin..].find('\'').map(|at| begin + at + 1)
        }
        (Some(c), Some('\'')) => Some(2 + c.len_utf8()),
        _ => None,
    }
}

/// The length of the word, or else of the one character that stands here.
fn word(rest: &str) -> usize {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    match rest.chars().next() {
        Some(first) if is_part(first) => rest.find(|c| !is_part(c)).unwrap_or(rest.len()),
        first => first.map_or(1, char::len_utf8),
    }
}

/// The same text, the same places, with spaces for all but line ends.
fn blank(text: &str) -> String {
    let keep = |c: char| match c {
        '\n' => "\n".to_owned(),
        other => " ".repeat(other.len_utf8()),
    };
    text.chars().map(keep).collect()
}

/// The source of these pieces with its comments and texts blanked.
fn bare(pieces: &[(Kind, &str)]) -> String {
    let part = |(kind, text): &(Kind, &str)| match kind {
        Kind::Code => (*text).to_owned(),
        Kind::Comment | Kind::Text => blank(text),
    };
    pieces.iter().map(part).collect()
}

/// A source's code that is no test's: comments, texts and tests are blanked.
pub fn code(source: &str) -> String {
    let mut code = bare(&pieces(source));
    for test in tests_of(&code) {
        let blanked = blank(&code[test.clone()]);
        code.replace_range(test, &blanked);
    }
    code
}

/// Where items for tests stand in the source of these pieces, in bytes.
pub fn places_of_tests(pieces: &[(Kind, &str)]) -> Vec<Range<usize>> {
    tests_of(&bare(pieces))
}

/// Lines of a source that are not those of its tests.
pub fn lines_without_tests(source: &str) -> usize {
    let tests = places_of_tests(&pieces(source));
    let mut at = 0;
    let is_other = |line: &&str| {
        let begin = at;
        at += line.len();
        !tests.iter().any(|test| test.contains(&begin))
    };
    source.split_inclusive('\n').filter(is_other).count()
}

/// How attributes begin that leave an item out of every build but a test's.
const FOR_TESTS: [&str; 3] = ["#[cfg(test)]", "#[cfg(all(test,", "#[test]"];

/// Where items for tests begin and end, from the beginning of their line on.
fn tests_of(bare: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(begin) = FOR_TESTS.iter().filter_map(|mark| bare[at..].find(mark)).min() {
        let begin = at + begin;
        let line = bare[..begin].rfind('\n').map_or(0, |newline| newline + 1);
        let is_alone = bare[line..begin].trim().is_empty();
        let end = item_end(bare, begin);
        let from = if is_alone { line } else { begin };
        found.push(from..end);
        at = end.max(begin + 1);
    }
    found
}

/// Words that an item begins with which no comma ends.
const ITEMS: &[&str] = &[
    "async",
    "const",
    "enum",
    "extern",
    "fn",
    "impl",
    "let",
    "macro_rules",
    "mod",
    "static",
    "struct",
    "trait",
    "type",
    "union",
    "unsafe",
    "use",
];

/// The end of the item whose attributes begin here: a brace that closes, a semicolon, and for a field, a
/// variant or an arm a comma.
fn item_end(bare: &str, begin: usize) -> usize {
    let mut at = begin;
    // Attributes.
    loop {
        at += bare[at..].len() - bare[at..].trim_start().len();
        if !bare[at..].starts_with("#[") {
            break;
        }
        at = closed(bare, at + 1);
    }
    let mut rest = &bare[at..];
    if let Some(behind) = rest.strip_prefix("pub") {
        let behind = behind.trim_start();
        rest = if behind.starts_with('(') {
            &behind[closed(behind, 0)..]
        } else {
            behind
        };
        rest = rest.trim_start();
    }
    let words: Vec<&str> = rest
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
        .take(2)
        .collect();
    let first = words.first().copied().unwrap_or_default();
    let is_function = matches!(words.get(1), Some(&("fn" | "unsafe" | "async" | "extern")));
    // A brace is within these, not their end.
    let is_statement =
        matches!(first, "use" | "static" | "type" | "let") || (first == "const" && !is_function);
    let is_item = ITEMS.contains(&first);
    let mut depth = 0usize;
    for (offset, c) in bare[at..].char_indices() {
        let end = at + offset + c.len_utf8();
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' if depth == 0 => return at + offset,
            ')' | ']' | '}' => {
                depth -= 1;
                if c == '}' && depth == 0 && !is_statement {
                    return end;
                }
            }
            ';' if depth == 0 => return end,
            ',' if depth == 0 && !is_item => return end,
            _ => {}
        }
    }
    bare.len()
}

/// Behind the bracket that closes the one here.
fn closed(bare: &str, begin: usize) -> usize {
    let mut depth = 0usize;
    for (offset, c) in bare[begin..].char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return begin + offset + 1;
                }
            }
            _ => {}
        }
    }
    bare.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_cut_into_code_comments_and_texts_without_gaps() {
        let source = "let a = \"x // \\\" y\"; // a \"trailing\" one\n\
                      let b: &'static str = r#\"\"raw\" // \\\"#;\n\
                      let c = ['\"', '\\'', b'\"', '\u{e4}'];\n\
                      /* one /* in */ another */ let d = br\"b\";\n\
                      let r#type = bar(c\"c\");\n";
        let pieces = pieces(source);
        let of = |wanted: Kind| -> Vec<&str> {
            let those = pieces.iter().filter(|(kind, _)| *kind == wanted);
            those.map(|(_, text)| *text).collect()
        };
        assert_eq!(
            of(Kind::Text),
            [
                "\"x // \\\" y\"",
                "r#\"\"raw\" // \\\"#",
                "'\"'",
                "'\\''",
                "b'\"'",
                "'\u{e4}'",
                "br\"b\"",
                "c\"c\""
            ]
        );
        assert_eq!(
            of(Kind::Comment),
            ["// a \"trailing\" one", "/* one /* in */ another */"]
        );
        let whole: String = pieces.iter().map(|(_, text)| *text).collect();
        assert_eq!(whole, source);
        for open in ["\"open", "r#\"open\"", "/* open", "'\\", "b"] {
            let whole: String = super::pieces(open).iter().map(|(_, text)| *text).collect();
            assert_eq!(whole, open);
        }
    }

    #[test]
    fn tests_are_left_out_wherever_they_stand_and_nothing_else() {
        let kept = |source: &str| -> Vec<String> {
            let code = code(source);
            assert_eq!(code.len(), source.len());
            assert_eq!(code.matches('\n').count(), source.matches('\n').count());
            let words = code.split(|c: char| !c.is_alphanumeric() && c != '_');
            words
                .filter(|word| word.starts_with("keep"))
                .map(str::to_owned)
                .collect()
        };
        let middle = "fn keep_1() {}\n\
            #[cfg(test)]\n\
            mod tests {\n    \
            fn keep_no() { '}'; \"}\"; }\n\
            }\n\
            fn keep_2() {}\n";
        assert_eq!(kept(middle), ["keep_1", "keep_2"]);
        for item in [
            "#[cfg(test)]\nmod keep_no;",
            "#[cfg(test)]\npub(crate) use a::{keep_no, b};",
            "#[cfg(test)]\nconst keep_no: [u8; 2] = [1, { 2 }];",
            "#[cfg(test)]\nconst fn keep_no<A, B>() -> u8 { 1 }",
            "#[cfg(all(test, feature = \"a\"))]\n#[path = \"b.rs\"]\nmod keep_no;",
            "#[test]\n#[allow(dead_code)]\npub fn keep_no<A, B>(a: (A, B)) { }",
        ] {
            assert_eq!(kept(&format!("{item}\nfn keep_1() {{}}\n")), ["keep_1"], "{item}");
        }
        assert_eq!(
            kept("struct A {\n    #[cfg(test)]\n    keep_no: u8,\n    keep_1: u8,\n}\n"),
            ["keep_1"]
        );
        assert_eq!(
            kept("enum A {\n    #[cfg(test)]\n    keep_no\n}\nfn keep_1() {}\n"),
            ["keep_1"]
        );
        for both in ["#[cfg(not(test))]", "#[cfg(any(test, unix))]", "// #[cfg(test)]"] {
            assert_eq!(kept(&format!("{both}\nfn keep_1() {{}}\n")), ["keep_1"], "{both}");
        }
    }

    #[test]
    fn lines_of_tests_are_not_counted_and_those_behind_them_are() {
        let source = "a();\n    #[cfg(test)]\n    mod tests {\n        b();\n    }\nc();\nd();\n";
        assert_eq!(lines_without_tests(source), 3);
        assert_eq!(
            code(source).split_whitespace().collect::<String>(),
            "a();c();d();"
        );
    }
}
