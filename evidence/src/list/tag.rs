//! The text of `dep` and `cg-path`, as the patched kernel writes it and as it was meant.

use std::borrow::Cow;

/// Length of an escaped byte: a backslash and three octal digits.
const ESCAPED_LEN: usize = 4;

/// Takes back the escapes of a `dep` or `cg-path` field: `\ooo` becomes the byte of that octal number.
///
/// Whatever is no such escape stays as it is: the lists that were published before the escapes have bare
/// backslashes, and the kernel's mark of a field that was cut is `\...`. A `dep` is to be split at its colons
/// first.
///
/// Source: kernel-patches, `ima_task_field_escape` in security/integrity/ima/ima_template_lib.c.
pub fn unescaped(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.contains(&b'\\') {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        match escaped_byte(rest) {
            Some(byte) => {
                out.push(byte);
                rest = rest.get(ESCAPED_LEN..).unwrap_or_default();
            }
            None => {
                out.push(first);
                rest = tail;
            }
        }
    }
    Cow::Owned(out)
}

fn escaped_byte(text: &[u8]) -> Option<u8> {
    let [b'\\', digits @ ..] = text.get(..ESCAPED_LEN)? else {
        return None;
    };
    let mut value = 0_u32;
    for digit in digits {
        value = value * 8 + char::from(*digit).to_digit(8)?;
    }
    u8::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_escapes_comes_back() {
        let name: Vec<u8> = (1..=255).collect();
        let mut text = Vec::new();
        for &byte in &name {
            if byte.is_ascii_graphic() && byte != b':' && byte != b'\\' {
                text.push(byte);
            } else {
                text.extend(format!("\\{byte:03o}").into_bytes());
            }
        }
        assert_eq!(unescaped(&text), name);
    }

    #[test]
    fn what_is_no_escape_stays() {
        for text in [
            "/plain",
            "/cut\\...",
            "/a\\x2db",
            "/end\\",
            "/end\\04",
            "/big\\777",
            "/not\\089",
        ] {
            assert_eq!(unescaped(text.as_bytes()), text.as_bytes(), "{text}");
        }
    }
}
