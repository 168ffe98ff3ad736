//! Reads binary formats of fixed fields: what the TCG, Intel and firmware write.
//!
//! Promise: never beyond the input; an error names the place in the whole input and what is missing there.
//! Not here: the formats (see `boot::log`, `td`, `tpm`).

use crate::error::{Error, Result};

/// Where a reader stands in its input. Integers are little-endian.
#[derive(Debug, Clone)]
pub(crate) struct ByteReader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> ByteReader<'a> {
    /// From an offset on, which is at most the input's length.
    pub(crate) fn new(bytes: &'a [u8], at: usize) -> ByteReader<'a> {
        ByteReader { bytes, at }
    }

    /// How many bytes of the whole input stand before what comes next.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// What was not read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    pub(crate) fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8]> {
        let end = self.at.saturating_add(len);
        let taken = self.bytes.get(self.at..end).ok_or_else(|| Error::Incomplete {
            offset: self.at as u64,
            need: (end - self.bytes.len()) as u64,
            what,
        })?;
        self.at = end;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, what)?);
        Ok(array)
    }

    pub(crate) fn u16(&mut self, what: &'static str) -> Result<u16> {
        self.array(what).map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self, what: &'static str) -> Result<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    /// A 32-bit number that counts or measures, at most `limit`.
    pub(crate) fn count(&mut self, what: &'static str, limit: usize) -> Result<usize> {
        let offset = self.at as u64;
        let found = self.u32(what)?;
        if found as usize > limit {
            return Err(Error::Limit {
                offset,
                what,
                found: u64::from(found),
                limit: limit as u64,
            });
        }
        Ok(found as usize)
    }

    /// What comes next, alone; places are still those of the whole input.
    pub(crate) fn part(&mut self, len: usize, what: &'static str) -> Result<ByteReader<'a>> {
        let at = self.at;
        self.take(len, what)?;
        Ok(ByteReader {
            bytes: self.bytes.get(..self.at).unwrap_or_default(),
            at,
        })
    }

    /// Leaves the rest unread.
    pub(crate) fn finish(&mut self) {
        self.at = self.bytes.len();
    }
}

pub(crate) fn malformed<T>(offset: usize, why: impl Into<String>) -> Result<T> {
    Err(Error::malformed(offset as u64, why))
}
