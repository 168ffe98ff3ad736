//! A page under construction: untrusted text gets in escaped, and in no other way.
//!
//! Promise: [`Html::raw`] takes only what stands in the program's own text, everything else is escaped for
//! terminals' tricks first ([`cgpath_appraisal::text::escape`]) and for HTML second. Not here: what stands on
//! a page.

use cgpath_appraisal::text::escape;
use core::fmt::Display;

/// The style of all our pages: light and dark, no external resource.
pub const STYLE: &str = include_str!("style.css");

/// A page or a part of it.
#[derive(Debug, Default)]
pub struct Html {
    out: String,
}

impl Html {
    /// An empty part.
    pub fn new() -> Html {
        Html::default()
    }

    /// A document's beginning up to the content of `<main>`. `refresh`: seconds until a browser loads it
    /// again.
    pub fn document(title: &str, refresh: Option<u32>) -> Html {
        let mut html = Html::new();
        html.raw("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n")
            .raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n")
            // Should an escape ever fail, there is still no script that a browser would run and nothing it
            // would load.
            .raw(
                "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src \
                'unsafe-inline'\">\n",
            )
            .raw("<meta name=\"referrer\" content=\"no-referrer\">\n");
        if let Some(seconds) = refresh {
            html.raw("<meta http-equiv=\"refresh\" content=\"")
                .text(seconds)
                .raw("\">\n");
        }
        html.raw("<title>")
            .text(title)
            .raw("</title>\n<style>\n")
            .raw(STYLE)
            .raw("</style>\n</head>\n<body>\n<main>\n");
        html
    }

    /// The document's end and the whole of it.
    pub fn finish_document(mut self) -> String {
        self.raw("</main>\n</body>\n</html>\n");
        self.out
    }

    /// What has been written.
    pub fn into_string(self) -> String {
        self.out
    }

    /// Markup of our own.
    pub fn raw(&mut self, markup: &'static str) -> &mut Html {
        self.out.push_str(markup);
        self
    }

    /// Another part.
    pub fn part(&mut self, part: Html) -> &mut Html {
        self.out.push_str(&part.out);
        self
    }

    /// Text, also as the value of an attribute in double quotes.
    pub fn text(&mut self, text: impl Display) -> &mut Html {
        let text = text.to_string();
        self.bytes(text.as_bytes())
    }

    /// Bytes from a list, a record or a policy as text, also as the value of an attribute in double quotes.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Html {
        for c in escape(bytes).chars() {
            match c {
                '&' => self.out.push_str("&amp;"),
                '<' => self.out.push_str("&lt;"),
                '>' => self.out.push_str("&gt;"),
                '"' => self.out.push_str("&quot;"),
                '\'' => self.out.push_str("&#39;"),
                c => self.out.push(c),
            }
        }
        self
    }

    /// A number with its thousands set apart.
    pub fn number(&mut self, n: u64) -> &mut Html {
        let digits = n.to_string();
        for (i, digit) in digits.chars().enumerate() {
            if i > 0 && (digits.len() - i).is_multiple_of(3) {
                // A narrow space that does not break the line.
                self.out.push('\u{202f}');
            }
            self.out.push(digit);
        }
        self
    }

    /// A number of our own as an attribute's value.
    pub fn value(&mut self, n: f64) -> &mut Html {
        self.out.push_str(&format!("{n:.1}"));
        self
    }

    /// A path, which may be broken anywhere.
    pub fn path(&mut self, path: &[u8]) -> &mut Html {
        self.raw("<code class=\"path\">");
        if path.is_empty() {
            self.raw("<i>no path</i>");
        } else {
            self.bytes(path);
        }
        self.raw("</code>")
    }

    /// A digest, shortened on the page and whole when pointed at.
    pub fn short_digest(&mut self, digest: &cgpath_evidence::Digest) -> &mut Html {
        let hex = hex::encode(digest.bytes());
        self.raw("<code title=\"")
            .text(digest)
            .raw("\">")
            .text(digest.bank())
            .raw(":")
            .text(&hex[..12])
            .raw("…</code>")
    }

    /// `singular` or `plural` after its number.
    pub fn counted(&mut self, n: u64, singular: &'static str, plural: &'static str) -> &mut Html {
        self.number(n)
            .raw(" ")
            .raw(if n == 1 { singular } else { plural })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_others_chose_becomes_markup() {
        let mut html = Html::new();
        html.text("<script>alert(1)</script>")
            .bytes(b"\"><img src=x onerror='x'>&amp;\xff\x1b\n");
        assert_eq!(
            html.into_string(),
            "&lt;script&gt;alert(1)&lt;/script&gt;&quot;&gt;&lt;img src=x \
             onerror=&#39;x&#39;&gt;&amp;amp;\\xff\\x1b\\n"
        );
        for b in 0..=255u8 {
            let mut html = Html::new();
            html.bytes(&[b]);
            let out = html.into_string();
            assert!(
                !out.contains(['<', '>', '"', '\'']) && out.is_ascii(),
                "byte {b:#x} gave {out:?}"
            );
        }
    }

    #[test]
    fn thousands_are_set_apart() {
        let number = |n| {
            let mut html = Html::new();
            html.number(n);
            html.into_string().replace('\u{202f}', " ")
        };
        assert_eq!(number(0), "0");
        assert_eq!(number(999), "999");
        assert_eq!(number(1000), "1 000");
        assert_eq!(number(12_345_678), "12 345 678");
    }
}
