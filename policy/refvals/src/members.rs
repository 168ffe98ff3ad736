//! Reads the members of a Debian package, which is an ar archive (deb(5); dpkg's lib/dpkg/ar.c).
//!
//! An own loop: the `ar` crate also knows the long names of GNU and BSD, which no package has, takes their
//! lengths from the input and panics on some. Promise: nothing is held that a header sizes. Not here: what
//! the members are (see `deb`).

use crate::{Error, Result};
use std::io::{self, Read};

const MAGIC: &[u8; 8] = b"!<arch>\n";
const HEADER_LEN: usize = 60;

/// One member's header. Its content is read from the [`Members`] right after.
pub(super) struct Member {
    /// Without the blanks and the slash that fill it up.
    pub(super) name: String,
    /// Bytes of content.
    pub(super) size: u64,
}

/// Members of an archive, one after the other; as a reader, the content of the current one.
pub(super) struct Members<R> {
    what: String,
    inner: R,
    position: u64,
    /// Bytes of the current member not read yet, and the one that makes its length even.
    left: u64,
    padding: u64,
}

impl<R: Read> Members<R> {
    /// Reads how the archive begins. `what` is what errors call it.
    ///
    /// # Errors
    /// What does not begin as an ar archive, and those of the reader.
    pub(super) fn new(what: &str, inner: R) -> Result<Members<R>> {
        let mut members = Members {
            what: what.to_owned(),
            inner,
            position: 0,
            left: 0,
            padding: 0,
        };
        let mut magic = [0; MAGIC.len()];
        members.fill(&mut magic)?;
        if magic != *MAGIC {
            return Err(members.malformed(0, "not a Debian package: it does not begin with `!<arch>`"));
        }
        Ok(members)
    }

    fn malformed(&self, offset: u64, why: impl Into<String>) -> Error {
        Error::Malformed {
            what: self.what.clone(),
            offset,
            why: why.into(),
        }
    }

    fn io(&self, source: io::Error) -> Error {
        Error::Io {
            what: self.what.clone(),
            offset: self.position,
            source,
        }
    }

    fn incomplete(&self, item: &str) -> Error {
        Error::Incomplete {
            what: self.what.clone(),
            offset: self.position,
            item: item.to_owned(),
        }
    }

    /// Reads as much of `buffer` as there is; less only at the end of the archive.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let wanted = buffer.len() as u64;
        let mut rest = buffer;
        let copied = io::copy(&mut self.inner.by_ref().take(wanted), &mut rest);
        let n = copied.map_err(|error| self.io(error))?;
        self.position += n;
        Ok(usize::try_from(n).unwrap_or(usize::MAX))
    }

    /// The next member; what is left of the one before is skipped. `None` at the end of the archive.
    ///
    /// # Errors
    /// What is cut or is no header, and those of the reader.
    pub(super) fn next(&mut self) -> Result<Option<Member>> {
        let left = core::mem::take(&mut self.left);
        let skipped = io::copy(&mut self.inner.by_ref().take(left), &mut io::sink());
        let skipped = skipped.map_err(|error| self.io(error))?;
        self.position += skipped;
        if skipped < left {
            return Err(self.incomplete("a member"));
        }
        let padding = core::mem::take(&mut self.padding);
        self.fill(&mut [0; 1][..usize::try_from(padding).unwrap_or_default()])?;
        let offset = self.position;
        let mut header = [0; HEADER_LEN];
        match self.fill(&mut header)? {
            0 => return Ok(None),
            HEADER_LEN => {}
            _ => return Err(self.incomplete("a member's header")),
        }
        let text = |from: usize, to: usize| {
            let bytes = header.get(from..to).unwrap_or_default();
            String::from_utf8_lossy(bytes).trim_end_matches(' ').to_owned()
        };
        let digits = text(48, 58);
        let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
        let size = digits.parse::<u64>().ok().filter(|_| is_number);
        let (Some(size), "`\n") = (size, text(58, 60).as_str()) else {
            return Err(self.malformed(offset, "not the header of an archive's member"));
        };
        (self.left, self.padding) = (size, size % 2);
        let name = text(0, 16);
        let name = name.strip_suffix('/').unwrap_or(&name).to_owned();
        Ok(Some(Member { name, size }))
    }
}

impl<R: Read> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.by_ref().take(self.left).read(buffer)?;
        if n == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.position += n as u64;
        self.left -= n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn member(name: &str, size: &str, content: &[u8]) -> Vec<u8> {
        let header = format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{size:<10}`\n", 0, 0, 0, 100_644);
        [header.as_bytes(), content].concat()
    }

    fn names(parts: &[Vec<u8>]) -> Result<Vec<(String, Vec<u8>)>> {
        let bytes = [MAGIC.to_vec(), parts.concat()].concat();
        let mut members = Members::new("x", bytes.as_slice())?;
        let mut all = Vec::new();
        while let Some(member) = members.next()? {
            let mut content = Vec::new();
            let read = members.read_to_end(&mut content);
            read.map_err(|_| members.incomplete("content"))?;
            assert_eq!(content.len() as u64, member.size);
            all.push((member.name, content));
        }
        Ok(all)
    }

    #[test]
    fn members_are_read_with_their_padding_and_names_without_what_fills_them() {
        let parts = [
            member("one", "3", b"abc\n"),
            member("two/", "2", b"de"),
            member("three", "0", b""),
            // Without its padding at the end.
            member("four", "1", b"f"),
        ];
        let found = names(&parts).unwrap();
        let found: Vec<_> = found.iter().map(|(n, c)| (n.as_str(), c.as_slice())).collect();
        assert_eq!(
            found,
            [
                ("one", &b"abc"[..]),
                ("two", b"de"),
                ("three", b""),
                ("four", b"f")
            ]
        );
    }

    #[test]
    fn headers_that_are_none_and_sizes_beyond_the_archive_are_errors() {
        for (name, size) in [
            // The names of GNU's and BSD's archives that refer to others or to lengths.
            ("/9999999", "3"),
            ("//", "9999999999"),
            ("#1/9999999999", "9999999999"),
            ("x", "9999999999"),
            ("x", "4"),
            ("x", ""),
            ("x", "-1"),
            ("x", "+3"),
            ("x", "0x3"),
        ] {
            let found = names(&[member(name, size, b"abc")]);
            // Such a name is one like any other here.
            assert!(found.is_err() || name == "/9999999", "{name} {size}: {found:?}");
        }
        let mut broken = member("x", "3", b"abc");
        broken[58] = b' ';
        let error = names(&[broken]).unwrap_err().to_string();
        assert!(error.contains("x: at byte 8: "), "{error}");
        for bytes in [&b""[..], b"!<arch>", b"PK\x03\x04 and more"] {
            assert!(Members::new("x", bytes).is_err(), "{bytes:?}");
        }
    }
}
