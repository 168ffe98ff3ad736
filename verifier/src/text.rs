//! Bytes that others chose, as text that is safe to print.
//!
//! Promise: what comes out has no character that a terminal acts upon or that hides another. Not here: what a page
//! needs beyond it (see `report::html`).

/// Bytes from a list, a path or a policy as text that is safe on a terminal and stays on one line.
///
/// Control characters, characters that change the direction of text or cannot be seen, bytes that are not UTF-8 and
/// the backslash itself are written as `\n`, `\t`, `\r`, `\\`, `\xHH` or `\u{HHHH}`: what is printed can be read back.
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
}
