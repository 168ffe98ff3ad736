//! Files of which an archive stores only the parts that are not zero: PAX sparse formats 0.0, 0.1 and 1.0
//! (GNU tar manual, "Storing Sparse Files").
//!
//! Promise: a map is in order, without overlaps, within the file's length, and names all bytes that are
//! stored. Not here: the old GNU format (type `S`), which no runtime unpacks.

/// What PAX records say of a sparse file.
#[derive(Debug, Default)]
pub(super) struct Records {
    major: Option<Vec<u8>>,
    minor: Option<Vec<u8>>,
    /// The file's real name: the entry's is made up.
    pub(super) name: Option<Vec<u8>>,
    size: Option<Vec<u8>>,
    real_size: Option<Vec<u8>>,
    blocks: Option<Vec<u8>>,
    /// Format 0.1: all numbers, with commas.
    map: Option<Vec<u8>>,
    /// Format 0.0: offset and length in turn, one record each.
    numbers: Vec<Vec<u8>>,
}

/// Where a sparse file's map is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Map {
    /// In the records.
    Here(Vec<Piece>),
    /// In front of the content (format 1.0).
    InContent,
}

/// Bytes that are stored: offset in the file, and length.
pub(super) type Piece = (u64, u64);

/// Why a map is not one.
pub(super) type Why = &'static str;

impl Records {
    /// Takes a record whose key begins with `GNU.sparse.`; `key` is the rest.
    ///
    /// # Errors
    /// Numbers of format 0.0 out of turn.
    pub(super) fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), Why> {
        let value = value.to_vec();
        match key {
            b"major" => self.major = Some(value),
            b"minor" => self.minor = Some(value),
            b"name" => self.name = Some(value).filter(|name| !name.is_empty()),
            b"size" => self.size = Some(value),
            b"realsize" => self.real_size = Some(value),
            b"numblocks" => self.blocks = Some(value),
            b"map" => self.map = Some(value),
            b"offset" | b"numbytes" => {
                if (key == b"offset") != self.numbers.len().is_multiple_of(2) || value.contains(&b',') {
                    return Err("offsets and lengths of a sparse file that are not in turn");
                }
                self.numbers.push(value);
            }
            _ => {}
        }
        Ok(())
    }

    /// The file's length and its map; `None` where the records describe no sparse file.
    ///
    /// # Errors
    /// What is not a number, and a version that is not known: a reader that does not know it takes the stored
    /// bytes for the content.
    pub(super) fn map(self, stored: u64) -> Result<Option<(u64, Map)>, Why> {
        let map = if self.numbers.is_empty() {
            self.map.clone()
        } else {
            Some(self.numbers.join(&b','))
        };
        let version = (
            self.major.as_deref().unwrap_or_default(),
            self.minor.as_deref().unwrap_or_default(),
        );
        let in_content = match version {
            (b"0", b"0" | b"1") => false,
            (b"1", b"0") => true,
            (b"", b"") if map.as_ref().is_some_and(|map| !map.is_empty()) => false,
            (b"", b"") => return Ok(None),
            _ => return Err("a sparse file of a version that is not known"),
        };
        let size = [self.size, self.real_size].into_iter().flatten();
        let size = match size.into_iter().find(|text| !text.is_empty()) {
            Some(text) => number(&text)?,
            None => stored,
        };
        if in_content {
            return Ok(Some((size, Map::InContent)));
        }
        let map = map.unwrap_or_default();
        let numbers = match &map[..] {
            b"" => Vec::new(),
            map => map
                .split(|byte| *byte == b',')
                .map(number)
                .collect::<Result<_, _>>()?,
        };
        if number(&self.blocks.unwrap_or_default())?.checked_mul(2) != Some(numbers.len() as u64) {
            return Err("a sparse file whose map has another number of parts than it says");
        }
        Ok(Some((size, Map::Here(pieces(&numbers)))))
    }
}

/// Reads the map in front of a content (format 1.0): decimal numbers, a line each, of which the first says
/// how many pairs come. `None` where more bytes are needed.
///
/// # Errors
/// What is not a number.
pub(super) fn in_content(bytes: &[u8]) -> Result<Option<Vec<Piece>>, Why> {
    let mut lines = bytes.split_inclusive(|byte| *byte == b'\n').map(|line| {
        line.strip_suffix(b"\n").map_or(
            if line.len() > 20 {
                number(line).map(Some)
            } else {
                Ok(None)
            },
            |line| number(line).map(Some),
        )
    });
    let Some(count) = lines.next().transpose()?.flatten() else {
        return Ok(None);
    };
    let mut numbers = Vec::new();
    for line in lines {
        if numbers.len() as u64 / 2 == count {
            break;
        }
        match line? {
            Some(number) => numbers.push(number),
            None => return Ok(None),
        }
    }
    Ok((count.checked_mul(2) == Some(numbers.len() as u64)).then(|| pieces(&numbers)))
}

/// Checks a map against the file's length and the number of bytes that are stored.
///
/// # Errors
/// Pieces out of order, that overlap or leave the file; stored bytes that no piece has, or too few of them.
pub(super) fn check(map: &[Piece], size: u64, stored: u64) -> Result<(), Why> {
    let (mut end, mut sum) = (0u64, 0u64);
    for (offset, length) in map {
        if *offset < end {
            return Err("a sparse file whose parts are not in order");
        }
        end = offset
            .checked_add(*length)
            .ok_or("a sparse file that is too long")?;
        sum += length;
    }
    if end > size {
        return Err("a sparse file with parts behind its end");
    }
    if sum != stored {
        return Err("a sparse file whose parts are not the bytes that are stored");
    }
    Ok(())
}

fn pieces(numbers: &[u64]) -> Vec<Piece> {
    numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()
}

/// A number in decimal digits; at most what a length in bytes may be.
fn number(text: &[u8]) -> Result<u64, Why> {
    core::str::from_utf8(text)
        .ok()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .filter(|number| i64::try_from(*number).is_ok())
        .ok_or("a number of a sparse file that is not one")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(records: &[(&str, &str)]) -> Result<Option<(u64, Map)>, Why> {
        let mut all = Records::default();
        for (key, value) in records {
            all.take(key.as_bytes(), value.as_bytes())?;
        }
        all.map(7)
    }

    #[test]
    fn each_format_is_known_by_its_records_and_what_is_none_is_no_sparse_file() {
        let map = Map::Here(vec![(0, 2), (9, 5)]);
        let zero = [
            ("size", "20"),
            ("numblocks", "2"),
            ("offset", "0"),
            ("numbytes", "2"),
            ("offset", "9"),
            ("numbytes", "5"),
        ];
        assert_eq!(records(&zero), Ok(Some((20, map))));
        let one = [("size", "20"), ("numblocks", "1"), ("map", "0,7")];
        assert_eq!(records(&one), Ok(Some((20, Map::Here(vec![(0, 7)])))));
        let two = [("major", "1"), ("minor", "0"), ("realsize", "20")];
        assert_eq!(records(&two), Ok(Some((20, Map::InContent))));
        assert_eq!(records(&[("name", "x"), ("size", "20")]), Ok(None));
    }

    #[test]
    fn a_map_that_is_none_is_refused() {
        for bad in [
            &[("offset", "0"), ("offset", "1")][..],
            &[("numbytes", "1")],
            &[("map", "0,7"), ("numblocks", "2")],
            &[("map", "0,x"), ("numblocks", "1")],
            &[("map", "0,-1"), ("numblocks", "1")],
            &[("map", "0,9223372036854775808"), ("numblocks", "1")],
            &[("major", "2"), ("minor", "0")],
            &[("major", "1"), ("minor", "0"), ("realsize", "+1")],
        ] {
            assert!(records(bad).is_err(), "{bad:?}");
        }
        for (map, size, stored) in [
            (&[(5, 1), (0, 1)][..], 9, 2),
            (&[(0, 3), (2, 1)], 9, 4),
            (&[(0, 10)], 9, 10),
            (&[(0, 2)], 9, 3),
            (&[(0, 3)], 9, 2),
            (&[(u64::MAX, 2)], 9, 2),
        ] {
            assert!(check(map, size, stored).is_err(), "{map:?}");
        }
        assert_eq!(check(&[(0, 2), (5, 1), (9, 0)], 9, 3), Ok(()));
    }

    #[test]
    fn a_map_in_the_content_is_read_when_it_is_whole() {
        let text = b"2\n0\n2\n9\n5\n";
        for end in 0..text.len() {
            assert_eq!(in_content(&text[..end]), Ok(None), "{end}");
        }
        let whole = [&text[..], &[0; 40]].concat();
        assert_eq!(in_content(&whole), Ok(Some(vec![(0, 2), (9, 5)])));
        assert_eq!(in_content(b"0\n"), Ok(Some(vec![])));
        assert!(in_content(b"x\n").is_err() && in_content(&[b'1'; 30]).is_err());
    }
}
