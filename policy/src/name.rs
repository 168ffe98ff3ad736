//! A file's path with where it was seen: a list writes another one than the kernel knows.

use cgpath_evidence::list::as_listed;

/// A file's path, by where it was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name<'a> {
    /// As the kernel knows it: a record's.
    True(&'a [u8]),
    /// As a measurement list writes it, with `_` for each space: see [`as_listed`].
    Listed(&'a [u8]),
}

impl<'a> Name<'a> {
    /// The path, as it was seen.
    pub fn bytes(self) -> &'a [u8] {
        let (Name::True(path) | Name::Listed(path)) = self;
        path
    }

    /// Whether the file of a reference value may have been seen under this name. `is_listed` says that the
    /// value's path is one that a list wrote.
    pub(crate) fn is_of(self, known: &[u8], is_listed: bool) -> bool {
        match self {
            Name::True(path) if is_listed => is_listed_as(path, known),
            Name::True(path) => path == known,
            Name::Listed(path) => is_listed_as(known, path),
        }
    }
}

/// Whether a file may stand in the list under this name.
pub(crate) fn is_listed_as(path: &[u8], listed: &[u8]) -> bool {
    path.len() == listed.len() && *as_listed(path) == *listed
}
