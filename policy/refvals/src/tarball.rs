//! Reads tar archives entry by entry: ustar, GNU and PAX (POSIX.1-2017 pax, "ustar Interchange Format" and
//! "pax Header Block"; GNU tar manual, "Basic Tar Format").
//!
//! An own loop around the `tar` crate's header: its entries read long names and PAX headers into memory
//! unbounded, and its errors have no offset.

use crate::sparse::{self, Map, Piece};
use crate::stream::Decompress;
use crate::tree::Tree;
use crate::{Error, HashOptions, Progress, Result};
use cgpath_evidence::text::quoted;
use cgpath_policy::reference::{MAX_PATH_LEN, Reference, Source, SourceKind};
use std::io::{self, BufRead, Read};

/// A PAX header or a GNU long name is never longer than this many bytes.
const MAX_EXTENSION_LEN: u64 = 1024 * 1024;
const BLOCK: u64 = 512;
/// What is said of a size beyond 2^63 - 1 bytes, which is a file's limit in the kernel and in Go.
const NO_SIZE: &str = "its size is one that no file has";

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    /// Devices, FIFOs and sockets: nothing in them is executed or measured by content.
    Special,
    /// A character device 0/0: where overlayfs finds it in a layer, it hides what is below.
    Whiteout,
    /// A header for all entries that follow, which nobody heeds; runtimes unpack it as nothing with a name.
    Global,
}

/// Whose reading of an archive is followed where readers differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// GNU tar's, dpkg's.
    Tar,
    /// Go's `archive/tar`, which containerd, CRI-O and Docker unpack layers with.
    Go,
}

/// One entry's header. Its content is read from the [`TarReader`] right after.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    /// As the archive has it.
    pub(super) path: Vec<u8>,
    /// Target of a link, as the archive has it.
    pub(super) link: Vec<u8>,
    /// Bytes of content.
    pub(super) size: u64,
    /// Whether not all of them are stored.
    pub(super) is_sparse: bool,
    /// Where the header begins.
    pub(super) offset: u64,
    /// Where the content begins.
    pub(super) content: u64,
}

/// Headers and contents of a tar stream.
pub(super) struct TarReader<R> {
    what: String,
    inner: R,
    reading: Reading,
    position: u64,
    /// Bytes of the current entry's content not read yet, and the padding after them.
    left: u64,
    padding: u64,
    /// Of a sparse file: what is stored of the rest, the last part first; where its reading is, and its
    /// length.
    sparse: Option<Sparse>,
    /// Zeros that archives did not store, in all.
    zeros: u64,
    current: String,
    done: bool,
    /// Whether the archive ended in the empty block that marks its end.
    marked: bool,
}

/// How far the reading of a sparse file is.
struct Sparse {
    /// What is stored and not read yet, the last part first.
    pieces: Vec<Piece>,
    at: u64,
    size: u64,
}

/// Names and sizes from extension headers, for the entry that follows them.
#[derive(Default)]
struct Extensions {
    /// GNU's long names; they count before those of PAX.
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    /// The last PAX header: it takes the place of one before it.
    pax: Pax,
    seen: bool,
}

/// What a PAX header says that counts here.
#[derive(Default)]
struct Pax {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    sparse: sparse::Records,
}

impl<R: Read> TarReader<R> {
    pub(super) fn new(what: impl Into<String>, inner: R) -> TarReader<R> {
        TarReader::with(what.into(), inner, Reading::Tar)
    }

    /// Reads an image's layer as container runtimes read it.
    pub(super) fn of_layer(what: impl Into<String>, inner: R) -> TarReader<R> {
        TarReader::with(what.into(), inner, Reading::Go)
    }

    fn with(what: String, inner: R, reading: Reading) -> TarReader<R> {
        let current = "the first header".into();
        TarReader {
            what,
            inner,
            reading,
            position: 0,
            left: 0,
            padding: 0,
            sparse: None,
            zeros: 0,
            current,
            done: false,
            marked: false,
        }
    }

    pub(super) fn malformed(&self, offset: u64, why: impl Into<String>) -> Error {
        Error::Malformed {
            what: self.what.clone(),
            offset,
            why: why.into(),
        }
    }

    fn io(&self, source: io::Error) -> Error {
        if source.kind() == io::ErrorKind::UnexpectedEof {
            return self.incomplete();
        }
        Error::Io {
            what: self.what.clone(),
            offset: self.position,
            source,
        }
    }

    fn incomplete(&self) -> Error {
        Error::Incomplete {
            what: self.what.clone(),
            offset: self.position,
            item: self.current.clone(),
        }
    }

    /// Reads as much of `buffer` as there is; less only at the end of the stream.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.inner.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(n) => {
                    filled += n;
                    self.position += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.io(e)),
            }
        }
        Ok(filled)
    }

    fn skip(&mut self, bytes: u64) -> Result<()> {
        let mut left = bytes;
        let mut sink = [0; 8192];
        while left > 0 {
            let n = usize::try_from(left).map_or(sink.len(), |l| l.min(sink.len()));
            if self.fill(&mut sink[..n])? < n {
                return Err(self.incomplete());
            }
            left -= n as u64;
        }
        Ok(())
    }

    /// Gives what is left of the current entry's content, piece by piece.
    pub(super) fn each_piece(&mut self, buffer: &mut [u8], mut take: impl FnMut(&[u8])) -> Result<()> {
        loop {
            match self.read_content(buffer)? {
                0 => return Ok(()),
                n => take(&buffer[..n]),
            }
        }
    }

    /// Reads more of the current entry's content; 0 at its end.
    fn read_content(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let Some(sparse) = &mut self.sparse else {
            return self.read_stored(buffer);
        };
        let wanted = |bytes: u64| usize::try_from(bytes).map_or(buffer.len(), |b| b.min(buffer.len()));
        while sparse.pieces.last().is_some_and(|(_, length)| *length == 0) {
            sparse.pieces.pop();
        }
        match sparse.pieces.last_mut() {
            Some((offset, length)) if *offset == sparse.at => {
                let n = wanted(*length);
                *offset += n as u64;
                *length -= n as u64;
                sparse.at += n as u64;
                self.read_stored(&mut buffer[..n])
            }
            next => {
                let end = next.map_or(sparse.size, |(offset, _)| *offset);
                let n = wanted(end - sparse.at);
                sparse.at += n as u64;
                buffer[..n].fill(0);
                Ok(n)
            }
        }
    }

    fn read_stored(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let want = usize::try_from(self.left).map_or(buffer.len(), |l| l.min(buffer.len()));
        let n = self.fill(&mut buffer[..want])?;
        if n < want {
            return Err(self.incomplete());
        }
        self.left -= n as u64;
        Ok(n)
    }

    /// Makes the current entry a sparse file of `size` bytes.
    fn begin_sparse(&mut self, offset: u64, size: u64, map: Map) -> Result<()> {
        let bad = |reader: &Self, why: &str| reader.malformed(offset, why);
        let pieces = match map {
            Map::Here(pieces) => pieces,
            Map::InContent => {
                let mut bytes = Vec::new();
                loop {
                    let mut block = [0; BLOCK as usize];
                    if self.left < BLOCK || bytes.len() as u64 > MAX_EXTENSION_LEN {
                        return Err(bad(self, "a sparse file without a whole map"));
                    }
                    self.read_stored(&mut block)?;
                    bytes.extend(block);
                    if let Some(pieces) = sparse::in_content(&bytes).map_err(|why| bad(self, why))? {
                        break pieces;
                    }
                }
            }
        };
        sparse::check(&pieces, size, self.left).map_err(|why| bad(self, why))?;
        self.zeros += size - self.left;
        if self.zeros > crate::image::MAX_LAYER_LEN {
            return Err(Error::Limit {
                what: self.what.clone(),
                item: "the length of its sparse files, in bytes,",
                found: self.zeros,
                limit: crate::image::MAX_LAYER_LEN,
            });
        }
        let pieces = pieces.into_iter().rev().collect();
        self.sparse = Some(Sparse { pieces, at: 0, size });
        Ok(())
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>> {
        if size > MAX_EXTENSION_LEN {
            return Err(Error::Limit {
                what: self.what.clone(),
                item: "a long name or PAX header, in bytes,",
                found: size,
                limit: MAX_EXTENSION_LEN,
            });
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
        if self.fill(&mut bytes)? < bytes.len() {
            return Err(self.incomplete());
        }
        self.skip(pad(size))?;
        Ok(bytes)
    }

    /// Refuses an archive that ended without the block that marks its end: where no digest of the whole is
    /// known, nothing else shows that it was cut between two entries.
    pub(super) fn expect_end_marker(&self) -> Result<()> {
        if self.marked {
            return Ok(());
        }
        let item = "the archive: its end marker is not there".to_owned();
        Err(Error::Incomplete {
            what: self.what.clone(),
            offset: self.position,
            item,
        })
    }

    /// The next entry; what is left of the one before is skipped. `None` at the end of the archive.
    pub(super) fn next(&mut self) -> Result<Option<Entry>> {
        if self.done {
            return Ok(None);
        }
        self.skip(self.left)?;
        self.left = 0;
        self.sparse = None;
        // Some writers (umoci) end a layer right after the last content, without its padding; Go's reader
        // takes it.
        let mut padding = [0; BLOCK as usize];
        let wanted = usize::try_from(self.padding).unwrap_or_default();
        self.padding = 0;
        if self.fill(&mut padding[..wanted])? < wanted {
            self.done = true;
            return Ok(None);
        }
        let mut extensions = Extensions::default();
        loop {
            let offset = self.position;
            self.current = format!("the header at byte {offset}");
            let mut block = [0; BLOCK as usize];
            let n = self.fill(&mut block)?;
            // Two zero blocks end an archive; like other readers, one is enough, and so is the end of the
            // stream.
            let end = n == 0 || (n == block.len() && block.iter().all(|b| *b == 0));
            if end {
                if extensions.seen {
                    return Err(self.malformed(offset, "an extended header with no entry after it"));
                }
                self.done = true;
                self.marked = n > 0;
                return Ok(None);
            }
            if n < block.len() {
                return Err(self.incomplete());
            }
            if let Some(entry) = self.header(&block, offset, &mut extensions)? {
                self.current = quoted(&entry.path);
                return Ok(Some(entry));
            }
        }
    }

    fn header(&mut self, block: &[u8], offset: u64, extensions: &mut Extensions) -> Result<Option<Entry>> {
        let header = tar::Header::from_byte_slice(block);
        let shown = format!("entry {}", quoted(header.path_bytes()));
        // The checksum's own eight bytes count as spaces.
        let sum: u32 = block
            .iter()
            .enumerate()
            .map(|(i, b)| {
                if (148..156).contains(&i) {
                    32
                } else {
                    u32::from(*b)
                }
            })
            .sum();
        if header.cksum().ok() != Some(sum) {
            return Err(self.malformed(offset, "not a tar header (its checksum does not match)"));
        }
        let size = header
            .entry_size()
            .map_err(|e| self.malformed(offset, format!("{shown}: size: {e}")))?;
        // In base 256 the crate reads the last eight bytes alone: the others would make it negative or
        // larger.
        let is_size = |size: u64| i64::try_from(size).is_ok();
        let field = &header.as_old().size;
        if !is_size(size) || (field[0] & 0x80 != 0 && field[..4] != [0x80, 0, 0, 0]) {
            return Err(self.malformed(offset, format!("{shown}: {NO_SIZE}")));
        }
        let unsupported = |what: &str, why: &str| Error::Unsupported {
            what: what.to_owned(),
            why: format!("{shown} at byte {offset}: {why}"),
        };
        // The byte itself: the crate takes NUL for `0`.
        let byte = block[156];
        let kind = match byte {
            b'x' => {
                extensions.seen = true;
                let bytes = self.extension(size)?;
                extensions.pax = self.pax(&bytes, offset)?;
                return Ok(None);
            }
            b'g' => {
                // Comments (git archive) are harmless; names and sizes for all entries are not used by
                // anyone.
                let bytes = self.extension(size)?;
                let global = self.pax(&bytes, offset)?;
                if self.reading == Reading::Go {
                    *extensions = Extensions::default();
                    return Ok(Some(Entry {
                        kind: Kind::Global,
                        path: header.path_bytes().into_owned(),
                        link: Vec::new(),
                        size: 0,
                        is_sparse: false,
                        offset,
                        content: self.position,
                    }));
                }
                if global.path.is_some() || global.link.is_some() || global.size.is_some() {
                    return Err(unsupported(
                        &self.what,
                        "a global PAX header that sets names or sizes",
                    ));
                }
                return Ok(None);
            }
            b'L' => {
                extensions.seen = true;
                extensions.path = Some(without_nul(self.extension(size)?));
                return Ok(None);
            }
            b'K' => {
                extensions.seen = true;
                extensions.link = Some(without_nul(self.extension(size)?));
                return Ok(None);
            }
            b'7' if self.reading == Reading::Go => {
                return Err(unsupported(&self.what, "type '7' is one that no runtime unpacks"));
            }
            b'0' | b'\0' | b'7' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' if is_whiteout(header) => Kind::Whiteout,
            b'3' | b'4' | b'6' => Kind::Special,
            b'5' => Kind::Directory,
            b'S' => {
                return Err(unsupported(
                    &self.what,
                    "a sparse file of the old GNU format, which no runtime unpacks: make the archive with \
                     --format=pax or without --sparse",
                ));
            }
            other => {
                return Err(unsupported(
                    &self.what,
                    &format!("type {:?} is not known", char::from(other)),
                ));
            }
        };
        let named = |name: Option<Vec<u8>>| name.filter(|name| !name.is_empty());
        let Pax {
            path,
            link,
            size: real_size,
            sparse,
        } = core::mem::take(&mut extensions.pax);
        let path = named(extensions.path.take())
            .or(named(path))
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let link = named(extensions.link.take())
            .or(named(link))
            .or_else(|| header.link_name_bytes().map(|l| l.into_owned()))
            .unwrap_or_default();
        // Before POSIX a directory was a file whose name ends in a slash.
        let is_old = byte == b'\0' || self.reading == Reading::Tar;
        let kind = if kind == Kind::File && is_old && path.ends_with(b"/") {
            Kind::Directory
        } else {
            kind
        };
        let mut size = real_size.unwrap_or(size);
        if !is_size(size) {
            return Err(self.malformed(offset, format!("{shown}: {NO_SIZE}")));
        }
        let content = self.position;
        self.left = if kind == Kind::File { size } else { 0 };
        self.padding = pad(self.left);
        let name = sparse.name.clone();
        let sparse = sparse
            .map(size)
            .map_err(|why| self.malformed(offset, format!("{shown}: {why}")))?;
        let is_sparse = sparse.is_some();
        let path = name.filter(|_| is_sparse).unwrap_or(path);
        if let Some((length, map)) = sparse {
            if kind != Kind::File {
                return Err(self.malformed(offset, format!("{shown}: sparse, and not a file")));
            }
            self.begin_sparse(offset, length, map)?;
            size = length;
        }
        if path.len() > MAX_PATH_LEN || link.len() > MAX_PATH_LEN {
            return Err(Error::Limit {
                what: self.what.clone(),
                item: "a path, in bytes,",
                found: path.len().max(link.len()) as u64,
                limit: MAX_PATH_LEN as u64,
            });
        }
        if path.contains(&0) || link.contains(&0) {
            return Err(self.malformed(offset, format!("{shown}: a NUL byte in its name")));
        }
        if matches!(kind, Kind::Symlink | Kind::HardLink) && link.is_empty() {
            return Err(self.malformed(offset, format!("{shown}: a link without a target")));
        }
        Ok(Some(Entry {
            kind,
            path,
            link,
            size,
            is_sparse,
            offset,
            content,
        }))
    }

    /// Records of a PAX header: `LENGTH KEY=VALUE\n`, the length counting the whole record.
    fn pax(&self, bytes: &[u8], offset: u64) -> Result<Pax> {
        let mut pax = Pax::default();
        let bad = |why: &str| self.malformed(offset, format!("PAX header: {why}"));
        let mut rest = bytes;
        // Some writers pad the last record with zeros.
        while !rest.is_empty() && rest[0] != 0 {
            let space = rest
                .iter()
                .take(20)
                .position(|b| *b == b' ')
                .ok_or_else(|| bad("no length"))?;
            let length: usize = core::str::from_utf8(&rest[..space])
                .ok()
                .and_then(|t| t.parse().ok())
                .ok_or_else(|| bad("a length that is not a number"))?;
            if length <= space + 1 || length > rest.len() || rest[length - 1] != b'\n' {
                return Err(bad("a length that does not fit its record"));
            }
            let record = &rest[space + 1..length - 1];
            let equals = record
                .iter()
                .position(|b| *b == b'=')
                .ok_or_else(|| bad("a record without ="))?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"path" => pax.path = Some(value.to_vec()),
                b"linkpath" => pax.link = Some(value.to_vec()),
                b"size" => {
                    let size = core::str::from_utf8(value).ok().and_then(|t| t.parse().ok());
                    pax.size = Some(size.ok_or_else(|| bad("a size that is not a number"))?);
                }
                _ => {
                    if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                        pax.sparse.take(key, value).map_err(bad)?;
                    }
                }
            }
            rest = &rest[length..];
        }
        Ok(pax)
    }
}

/// Whether a character device's number is 0/0 for the kernel, which has 12 bits for the first part and 20 for
/// the second (include/linux/kdev_t.h, `new_decode_dev`).
fn is_whiteout(header: &tar::Header) -> bool {
    let number = |part: io::Result<Option<u32>>| part.ok().flatten().unwrap_or_default();
    let (major, minor) = (number(header.device_major()), number(header.device_minor()));
    major & 0xfff == 0 && minor & 0xf_ffff == 0
}

fn pad(size: u64) -> u64 {
    (BLOCK - size % BLOCK) % BLOCK
}

fn without_nul(mut name: Vec<u8>) -> Vec<u8> {
    if let Some(end) = name.iter().position(|b| *b == 0) {
        name.truncate(end);
    }
    name
}

/// Reference values of a root file system in a tar archive, plain or compressed with gzip or zstd. `name` is
/// what errors and the reference file call it.
///
/// # Errors
/// Input that is not such an archive, and those of the reader.
pub fn rootfs_archive(name: &str, archive: impl BufRead, options: &mut HashOptions<'_>) -> Result<Reference> {
    let mut tree = Tree::new(options.banks);
    let mut progress = Progress::default();
    let mut tar = TarReader::new(name, Decompress::new(name, archive)?);
    tree.apply_archive(&mut tar, &mut progress, options.progress)?;
    tar.expect_end_marker()?;
    let reference = Reference::new(Source {
        kind: SourceKind::Rootfs,
        name: name.to_owned(),
        digest: None,
    });
    tree.into_reference(name, reference)
}
