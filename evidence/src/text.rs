//! Untrusted bytes in a text for people: errors, log lines, findings, pages.
//!
//! Promises: what comes out has no character that a terminal acts upon or that hides another; [`foreign`]
//! repeats at most [`MAX_FOREIGN`] bytes, and names what was cut by its length and hash. Not here: fields for
//! programs (a finding's `path`, `fnf`), which keep the whole.

use sha2::{Digest as _, Sha256};

/// A text for people repeats at most this many bytes of untrusted input.
pub const MAX_FOREIGN: usize = 200;
/// Of these, how many come from its end: that of a path says most.
const FOREIGN_TAIL: usize = 60;
/// Bytes of SHA-256 that name what was cut.
const NAME_LEN: usize = 8;

/// Bytes from a list, a path or a policy as text that is safe on a terminal and stays on one line.
///
/// Control characters, characters that change the direction of text or cannot be seen, bytes that are not
/// UTF-8 and the backslash itself are written as `\n`, `\t`, `\r`, `\\`, `\xHH` or `\u{HHHH}`: what is
/// printed can be read back.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                ' '..='~' => text.push(c),
                c if c.is_ascii() => text.push_str(&format!("\\x{:02x}", c as u32)),
                c if c.is_control() || c.is_whitespace() || is_invisible(c) => {
                    text.push_str(&format!("\\u{{{:x}}}", c as u32));
                }
                c => text.push(c),
            }
        }
        for b in chunk.invalid() {
            text.push_str(&format!("\\x{b:02x}"));
        }
    }
    text
}

/// The same for a text that only quotes these bytes: of more than [`MAX_FOREIGN`], the beginning and the end
/// are shown, then the whole's length and the first 8 bytes of its SHA-256 in hex.
pub fn foreign(bytes: impl AsRef<[u8]>) -> String {
    let bytes = bytes.as_ref();
    if bytes.len() <= MAX_FOREIGN {
        return escape(bytes);
    }
    let (head, tail) = (MAX_FOREIGN - FOREIGN_TAIL, bytes.len() - FOREIGN_TAIL);
    let hash = Sha256::digest(bytes);
    format!(
        "{}…{} ({} bytes, sha256 {})",
        escape(bytes.get(..boundary(bytes, head, false)).unwrap_or_default()),
        escape(bytes.get(boundary(bytes, tail, true)..).unwrap_or_default()),
        bytes.len(),
        hex::encode(hash.get(..NAME_LEN).unwrap_or_default()),
    )
}

/// The same between quotation marks.
pub fn quoted(bytes: impl AsRef<[u8]>) -> String {
    format!("\"{}\"", foreign(bytes))
}

/// What a library says of input that it refuses, which may repeat all of it. What it expected is ours, and
/// stays.
///
/// Texts of `serde` end with `, expected ` and names that the program chose.
pub fn library_message(error: &impl core::fmt::Display) -> String {
    let text = error.to_string();
    let own = text.rfind(", expected ").unwrap_or(text.len());
    let (said, own) = text.split_at(own);
    // Short texts as they are: they have line breaks and quotation marks of the library's own.
    if text.len() <= MAX_FOREIGN {
        return text;
    }
    if said.len() <= MAX_FOREIGN {
        return format!("{said}{own}");
    }
    foreign(said) + own
}

/// The next place at or before (after, if `up`) `at` where no character of UTF-8 is cut.
fn boundary(bytes: &[u8], at: usize, up: bool) -> usize {
    let within = |at: usize| bytes.get(at).is_some_and(|b| b & 0xc0 == 0x80);
    (0..4)
        .map(|n| if up { at + n } else { at - n })
        .find(|at| !within(*at))
        .unwrap_or(at)
}

/// Format characters (direction, joiners, tags) and private or unassigned-by-design ranges.
fn is_invisible(c: char) -> bool {
    matches!(c as u32,
        0xad | 0x61c | 0x180e | 0x200b..=0x200f | 0x202a..=0x202e | 0x2060..=0x206f | 0xfe00..=0xfe0f | 0xfeff
        | 0xfff0..=0xffff | 0xe000..=0xf8ff | 0xe0000..=0x10ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_acts_upon_gets_through_escape() {
        assert_eq!(
            escape(b"/bin/\x1b[31mls\n\r\t\\\x7f\x00"),
            r"/bin/\x1b[31mls\n\r\t\\\x7f\x00"
        );
        assert_eq!(escape("/ä/\u{202e}x\u{9b}".as_bytes()), "/ä/\\u{202e}x\\u{9b}");
        assert_eq!(escape(b"\xff\xfe/x"), r"\xff\xfe/x");
        for b in 0..=255u8 {
            assert!(
                escape(&[b]).bytes().all(|c| (b' '..=b'~').contains(&c)),
                "byte {b:#x}"
            );
        }
    }

    #[test]
    fn of_a_long_text_both_ends_are_shown_and_its_length_and_hash() {
        let short = [b'a'; MAX_FOREIGN];
        assert_eq!(foreign(short), "a".repeat(MAX_FOREIGN));
        let long = [&b"/begin/"[..], &vec![b'a'; 70_000], b"/end"].concat();
        let text = foreign(&long);
        let hash = hex::encode(&Sha256::digest(&long)[..8]);
        assert!(
            text.starts_with("/begin/aaa") && text.contains("aaa/end ("),
            "{text}"
        );
        assert!(
            text.ends_with(&format!(" (70011 bytes, sha256 {hash})")),
            "{text}"
        );
        assert!(text.matches('a').count() <= MAX_FOREIGN, "{text}");
        // Another text of the same length and with the same ends has another name.
        let mut other = long.clone();
        other[35_000] = b'b';
        assert_ne!(foreign(&other), text);
    }

    #[test]
    fn no_character_is_cut_and_bytes_that_are_none_do_no_harm() {
        for shift in 0..4 {
            let text = [&vec![b'x'; shift][..], "ä…🦀".repeat(100).as_bytes()].concat();
            let shown = foreign(&text);
            assert!(!shown.contains("\\x"), "{shown}");
        }
        for n in [201, 202, 203, 204, 1000] {
            let shown = foreign(vec![0x80; n]);
            assert!(shown.matches("\\x80").count() <= MAX_FOREIGN, "{shown}");
        }
    }

    #[test]
    fn of_what_a_library_says_its_own_words_stay() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        #[allow(dead_code, reason = "only its names are of interest")]
        struct Known {
            first: u8,
            second: u8,
        }
        let error = serde_json::from_str::<Known>(&format!("{{\"{}\": 1}}", "A".repeat(5000))).unwrap_err();
        let text = library_message(&error);
        assert!(text.matches('A').count() <= MAX_FOREIGN, "{text}");
        assert!(text.contains("expected `first` or `second` at line 1"), "{text}");
        // The parser's own words within untrusted input change nothing.
        let hostile = format!("{{\"x, expected {}\": 1}}", "A".repeat(5000));
        let text = library_message(&serde_json::from_str::<Known>(&hostile).unwrap_err());
        assert!(text.matches('A').count() <= MAX_FOREIGN, "{text}");
        assert!(text.contains("expected `first` or `second`"), "{text}");
        let short = serde_json::from_str::<Known>("{\"other\": 1}").unwrap_err();
        assert_eq!(library_message(&short), short.to_string());
    }
}
