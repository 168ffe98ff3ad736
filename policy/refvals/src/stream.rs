//! Hashing and decompressing readers.

use crate::{Error, Result};
use cgpath_evidence::{Bank, Digest};
use sha2::digest::DynDigest;
use std::io::{self, BufRead, Read};

/// Hashes one stream in several algorithms at once.
pub struct Digester {
    hashes: Vec<(Bank, Box<dyn DynDigest>)>,
}

impl Digester {
    /// For these algorithms.
    pub fn new(banks: &[Bank]) -> Digester {
        let hash = |bank: &Bank| -> Box<dyn DynDigest> {
            match bank {
                Bank::Sha1 => Box::<sha1::Sha1>::default(),
                Bank::Sha256 => Box::<sha2::Sha256>::default(),
                Bank::Sha384 => Box::<sha2::Sha384>::default(),
                Bank::Sha512 => Box::<sha2::Sha512>::default(),
            }
        };
        Digester {
            hashes: banks.iter().map(|bank| (*bank, hash(bank))).collect(),
        }
    }

    /// Takes more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        for (_, hash) in &mut self.hashes {
            hash.update(bytes);
        }
    }

    /// The digests, in the order of the algorithms.
    pub fn finish(self) -> Vec<Digest> {
        self.hashes
            .into_iter()
            .filter_map(|(bank, hash)| Digest::new(bank, &hash.finalize()))
            .collect()
    }
}

/// Gives `take` all of `reader`, a piece at a time; says its length in bytes.
pub(super) fn each_piece(mut reader: impl Read, mut take: impl FnMut(&[u8])) -> io::Result<u64> {
    let mut buffer = vec![0; 128 * 1024];
    let mut length = 0;
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(length),
            Ok(n) => {
                take(&buffer[..n]);
                length += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// A reader that hashes what goes through it, counts it, and stops at a limit.
pub(super) struct Hashing<R> {
    inner: R,
    hash: sha2::Sha256,
    count: u64,
    limit: u64,
}

impl<R: Read> Hashing<R> {
    pub(super) fn new(inner: R, limit: u64) -> Hashing<R> {
        Hashing {
            inner,
            hash: sha2::Digest::new(),
            count: 0,
            limit,
        }
    }

    /// Bytes that went through so far.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Reads the rest, and gives the digest of all bytes and their number.
    pub(super) fn finish(mut self) -> io::Result<(Digest, u64)> {
        io::copy(&mut self, &mut io::sink())?;
        let bytes = sha2::Digest::finalize(self.hash);
        let digest =
            Digest::new(Bank::Sha256, &bytes).ok_or_else(|| io::Error::other("sha256 has 32 bytes"))?;
        Ok((digest, self.count))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.count += n as u64;
        if self.count > self.limit {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("more than {} bytes", self.limit),
            ));
        }
        sha2::Digest::update(&mut self.hash, &buffer[..n]);
        Ok(n)
    }
}

/// What unpacking xz may take: `xz -9` has a dictionary of 64 MiB.
const XZ_MEMORY_KIB: u32 = 80 * 1024;

/// The compression that a stream's first bytes show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
    Xz,
}

/// Decompresses gzip, xz and zstd streams of any number of members and frames; passes all else through.
pub(super) enum Decompress<R: Read> {
    Plain(R),
    Gzip(Box<flate2::bufread::MultiGzDecoder<R>>),
    Zstd(Box<Zstd<R>>),
    Xz(Box<lzma_rust2::XzReader<R>>),
}

impl<R: BufRead> Decompress<R> {
    /// Looks at the first bytes of `source`.
    pub(super) fn new(what: &str, mut source: R) -> Result<Decompress<R>> {
        let io = |source| Error::Io {
            what: what.to_owned(),
            offset: 0,
            source,
        };
        let start = source.fill_buf().map_err(io)?;
        Ok(match Compression::of(start, what)? {
            Compression::None => Decompress::Plain(source),
            Compression::Gzip => Decompress::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(source))),
            Compression::Zstd => Decompress::Zstd(Box::new(Zstd {
                source,
                decoder: ruzstd::decoding::FrameDecoder::new(),
                in_frame: false,
            })),
            Compression::Xz => Decompress::Xz(Box::new(lzma_rust2::XzReader::new_mem_limit(
                source,
                true,
                XZ_MEMORY_KIB,
            ))),
        })
    }
}

impl Compression {
    fn of(start: &[u8], what: &str) -> Result<Compression> {
        let is = |magic: &[u8]| start.starts_with(magic);
        let unsupported = |name: &str| {
            Err(Error::Unsupported {
                what: what.to_owned(),
                why: format!(
                    "compressed with {name}; gzip, xz, zstd and plain archives are read: unpack it first"
                ),
            })
        };
        // A skippable frame may come first (zstd:chunked has them at its end).
        let skippable =
            start.len() >= 4 && (0x50..=0x5f).contains(&start[0]) && start[1..4] == [0x2a, 0x4d, 0x18];
        match () {
            () if is(&[0x1f, 0x8b]) => Ok(Compression::Gzip),
            () if is(&[0x28, 0xb5, 0x2f, 0xfd]) || skippable => Ok(Compression::Zstd),
            () if is(b"\xfd7zXZ\0") => Ok(Compression::Xz),
            () if is(b"BZh") => unsupported("bzip2"),
            () => Ok(Compression::None),
        }
    }
}

impl<R: BufRead> Read for Decompress<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Decompress::Plain(r) => r.read(buffer),
            Decompress::Gzip(r) => r.read(buffer),
            Decompress::Zstd(r) => r.read(buffer),
            Decompress::Xz(r) => r.read(buffer),
        }
    }
}

/// Zstandard frames one after the other (RFC 8878 section 3.1). The decoder's own bound on a window is 100
/// MiB.
pub(super) struct Zstd<R> {
    source: R,
    decoder: ruzstd::decoding::FrameDecoder,
    in_frame: bool,
}

impl<R: BufRead> Zstd<R> {
    /// Begins the next frame; false at the end of the stream.
    fn next_frame(&mut self) -> io::Result<bool> {
        use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
        loop {
            if self.source.fill_buf()?.is_empty() {
                return Ok(false);
            }
            match self.decoder.init(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let skipped = io::copy(&mut (&mut self.source).take(length.into()), &mut io::sink())?;
                    if skipped < u64::from(length) {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(e) => return Err(io::Error::new(io::ErrorKind::InvalidData, e)),
            }
        }
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        use ruzstd::decoding::BlockDecodingStrategy::UptoBytes;
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if self.in_frame {
                while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                    self.decoder
                        .decode_blocks(&mut self.source, UptoBytes(buffer.len()))
                        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
                }
                let n = self.decoder.read(buffer)?;
                if n > 0 {
                    return Ok(n);
                }
                let (said, is) = (
                    self.decoder.get_checksum_from_data(),
                    self.decoder.get_calculated_checksum(),
                );
                if said.is_some() && said != is {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "zstd checksum does not match",
                    ));
                }
            }
            self.in_frame = self.next_frame()?;
            if !self.in_frame {
                return Ok(0);
            }
        }
    }
}
