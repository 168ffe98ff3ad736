//! The measurement list as Keylime wants it: ASCII lines from an entry that it names.
//!
//! Promise: lines that were certified are not kept, and never more than a limit; an offset before those that
//! are kept is answered by reading the list from its head.

use super::KeylimeError;
use crate::sources::list::ListReader;
use cgpath_evidence::list::Templates;
use std::path::PathBuf;

/// Bytes of lines that are sent at most: Keylime takes requests of 100 MiB, and escapes and base64 need room.
pub(super) const MAX_LINES: usize = 64 << 20;

/// The list, followed as it grows.
pub(super) struct AsciiList {
    path: PathBuf,
    limit: usize,
    reader: Option<ListReader>,
    /// Number of the first line that is kept.
    first: u64,
    /// Lines read so far.
    count: u64,
    lines: Vec<u8>,
}

impl AsciiList {
    pub(super) fn new(path: PathBuf) -> AsciiList {
        AsciiList {
            path,
            limit: MAX_LINES,
            reader: None,
            first: 0,
            count: 0,
            lines: Vec::new(),
        }
    }

    /// Reads what was added; gives the number of entries.
    ///
    /// # Errors
    /// [`KeylimeError::List`]; [`KeylimeError::Line`] for an entry that no line can say.
    pub(super) fn poll(&mut self) -> Result<u64, KeylimeError> {
        let reader = match &mut self.reader {
            Some(reader) => reader,
            None => self.reader.insert(ListReader::open(&self.path)?),
        };
        let (count, first, lines, limit) = (&mut self.count, &mut self.first, &mut self.lines, self.limit);
        let polled = reader.poll(|entry| {
            *count += 1;
            // Those before the offset that is looked for.
            if *count <= *first {
                return Ok::<(), KeylimeError>(());
            }
            let line = entry.to_ascii(Templates::builtin())?;
            if lines.len() + line.len() + 1 > limit {
                // They are too many to be sent; a later question gets these.
                *lines = Vec::new();
                *first = *count;
                return Ok(());
            }
            lines.extend_from_slice(&line);
            lines.push(b'\n');
            Ok(())
        });
        if polled.is_err() {
            self.restart(0);
        }
        polled
    }

    /// The lines from entry `offset` on, and their number.
    ///
    /// # Errors
    /// As [`AsciiList::poll`]; [`KeylimeError::TooLong`].
    pub(super) fn since(&mut self, offset: u64) -> Result<(String, u64), KeylimeError> {
        if offset < self.first {
            self.restart(offset);
        }
        self.poll()?;
        if offset < self.first {
            return Err(KeylimeError::TooLong {
                offset,
                limit: self.limit >> 20,
            });
        }
        let skipped = self.lines_before(offset);
        let lines = String::from_utf8(self.lines[skipped..].to_vec()).map_err(|e| KeylimeError::Text {
            after: self.first,
            at: e.utf8_error().valid_up_to(),
        })?;
        Ok((lines, self.count.saturating_sub(offset)))
    }

    /// The entries before `offset` will not be asked for again.
    pub(super) fn forget(&mut self, offset: u64) {
        let offset = offset.min(self.count);
        if offset > self.first {
            let skipped = self.lines_before(offset);
            self.lines.drain(..skipped);
            self.first = offset;
        }
    }

    /// Bytes of the lines from the first that is kept up to entry `offset`.
    fn lines_before(&self, offset: u64) -> usize {
        let Some(nth) = offset.checked_sub(self.first).and_then(|n| n.checked_sub(1)) else {
            return 0;
        };
        let mut ends = self.lines.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
        let end = usize::try_from(nth).ok().and_then(|nth| ends.nth(nth));
        end.map_or(self.lines.len(), |(at, _)| at + 1)
    }

    fn restart(&mut self, first: u64) {
        self.reader = None;
        self.first = first;
        self.count = 0;
        self.lines = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cgpath_evidence::{Bank, Digest};
    use cgpath_testkit::Measurement;
    use std::io::Write as _;

    /// A binary `ima-ng` entry. ima_fs.c, `ima_measurements_show`.
    fn entry(name: &str) -> Vec<u8> {
        let digest = Digest::new(Bank::Sha256, &[7; 32]).unwrap();
        Measurement::ima_ng(name.as_bytes(), &digest).bytes()
    }

    fn names(lines: &str) -> Vec<&str> {
        lines
            .lines()
            .map(|line| line.rsplit(' ').next().unwrap())
            .collect()
    }

    #[test]
    fn any_offset_is_answered_also_one_that_was_forgotten() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        for name in ["/a", "/b", "/c"] {
            file.write_all(&entry(name)).unwrap();
        }
        let mut list = AsciiList::new(file.path().to_owned());
        assert_eq!(list.poll().unwrap(), 3);
        for (offset, expected) in [(0, &["/a", "/b", "/c"][..]), (2, &["/c"]), (3, &[]), (9, &[])] {
            let (lines, count) = list.since(offset).unwrap();
            assert_eq!(names(&lines), expected);
            assert_eq!(count as usize, expected.len());
        }
        list.forget(2);
        let needed = list.since(2).unwrap().0;
        assert_eq!(list.lines, needed.as_bytes(), "only what is needed");
        file.write_all(&entry("/d")).unwrap();
        assert_eq!(names(&list.since(2).unwrap().0), ["/c", "/d"]);
        assert_eq!(
            names(&list.since(1).unwrap().0),
            ["/b", "/c", "/d"],
            "from the head again"
        );
        assert_eq!(names(&list.since(0).unwrap().0), ["/a", "/b", "/c", "/d"]);
        list.forget(99);
        assert_eq!(list.since(4).unwrap(), (String::new(), 0));
    }

    #[test]
    fn more_lines_than_the_limit_are_an_error_and_later_ones_are_not() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        for _ in 0..5 {
            file.write_all(&entry("/a")).unwrap();
        }
        let mut list = AsciiList::new(file.path().to_owned());
        let line = list.since(4).unwrap().0.len();
        list.restart(0);
        list.limit = 3 * line;
        assert_eq!(list.poll().unwrap(), 5, "they are counted all the same");
        assert!(matches!(
            list.since(0),
            Err(KeylimeError::TooLong { offset: 0, .. })
        ));
        assert_eq!(list.since(2).unwrap().1, 3);
        assert_eq!(list.since(5).unwrap().1, 0);
    }

    #[test]
    fn a_name_that_would_forge_a_line_is_an_error_that_names_the_entry() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&entry("/a")).unwrap();
        file.write_all(&entry("/b\n10 0000")).unwrap();
        let mut list = AsciiList::new(file.path().to_owned());
        let error = list.poll().unwrap_err().to_string();
        assert!(error.contains("entry 1"), "{error}");
        assert!(list.poll().is_err(), "it stays one");
    }
}
