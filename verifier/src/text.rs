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

/// `seconds` since 1970-01-01T00:00:00Z as `2026-11-22 01:46:54`, in UTC.
pub fn utc(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days are counted from 0000-03-01, in eras of 400 years (146,097 days), so that leap days come last.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month) = (
        day - (153 * month + 2) / 5 + 1,
        if month < 10 { month + 3 } else { month - 9 },
    );
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
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
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_399, "2000-02-28 23:59:59"),
            (951_782_400, "2000-02-29 00:00:00"),
            (951_868_800, "2000-03-01 00:00:00"),
            (1_800_000_000, "2027-01-15 08:00:00"),
            (4_107_542_400, "2100-03-01 00:00:00"),
        ] {
            assert_eq!(utc(seconds), text);
        }
        // Far from all calendars, and no panic.
        assert!(utc(u64::MAX).ends_with("15"));
    }
}
