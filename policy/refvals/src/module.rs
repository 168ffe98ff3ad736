//! Files whose content the kernel can get in another form than they have: packed modules.
//!
//! kmod unpacks a packed module itself where the kernel does not, and hands the kernel the bytes
//! (`init_module`): that is what a record of it has the SHA-256 of. Promise: memory is bounded, whatever a
//! file claims; a file that is no packed module of its name has its own digests alone. Not here: who is
//! accepted with which content.

use crate::stream::{Decompress, Digester, each_piece};
use cgpath_evidence::{Bank, Digest};
use std::io::{self, Read};

/// What kmod unpacks, by the ends of names. Source: kmod, libkmod/libkmod-file.c.
const PACKED: [&[u8]; 3] = [b".ko.gz", b".ko.xz", b".ko.zst"];
/// No packed module is longer, in bytes.
const MAX_PACKED_LEN: usize = 64 * 1024 * 1024;
/// A longer one has no hash in a record (`MAX_LOAD` of the eBPF programs), in bytes.
const MAX_LEN: u64 = 128 * 1024 * 1024;

/// Hashes the content of one file in several algorithms at once; and of a module that by SHA-256 which the
/// kernel is handed, whatever the algorithms are.
pub struct FileDigester {
    digester: Digester,
    /// All of a packed module.
    packed: Option<Vec<u8>>,
}

impl FileDigester {
    /// For a file with this path or name.
    pub fn new(banks: &[Bank], path: &[u8]) -> FileDigester {
        let is_packed = PACKED.iter().any(|end| path.ends_with(end));
        let is_module = is_packed || path.ends_with(b".ko");
        let all: Vec<Bank> = match is_module && !banks.contains(&Bank::Sha256) {
            true => banks.iter().copied().chain([Bank::Sha256]).collect(),
            false => banks.to_vec(),
        };
        FileDigester {
            digester: Digester::new(&all),
            packed: is_packed.then(Vec::new),
        }
    }

    /// Takes more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.digester.update(bytes);
        if let Some(packed) = &mut self.packed {
            packed.extend_from_slice(bytes);
        }
        self.packed = self.packed.take().filter(|packed| packed.len() <= MAX_PACKED_LEN);
    }

    /// The digests of the file, in the order of the algorithms, then that of what it is unpacked to.
    pub fn finish(self) -> Vec<Digest> {
        let mut digests = self.digester.finish();
        digests.extend(
            self.packed
                .as_deref()
                .and_then(|packed| unpacked(packed, MAX_LEN)),
        );
        digests
    }

    /// Hashes all of `reader`, which has the file with this path; also gives its length in bytes.
    ///
    /// # Errors
    /// Those of the reader.
    pub fn read(banks: &[Bank], path: &[u8], reader: impl Read) -> io::Result<(Vec<Digest>, u64)> {
        let mut digester = FileDigester::new(banks, path);
        let length = each_piece(reader, |piece| digester.update(piece))?;
        Ok((digester.finish(), length))
    }
}

/// SHA-256 of what this is unpacked to; `None` for what is not packed, not whole, or longer than `most`.
fn unpacked(packed: &[u8], most: u64) -> Option<Digest> {
    let reader = Decompress::new("a module", packed).ok()?;
    if matches!(reader, Decompress::Plain(_)) {
        return None;
    }
    let mut digester = Digester::new(&[Bank::Sha256]);
    let length = each_piece(reader.take(most + 1), |piece| digester.update(piece)).ok()?;
    digester.finish().into_iter().next().filter(|_| length <= most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn sha256(bytes: &[u8]) -> Digest {
        Bank::Sha256.hash(&[bytes])
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(bytes).unwrap();
        gzip.finish().unwrap()
    }

    fn digests(banks: &[Bank], path: &str, bytes: &[u8]) -> Vec<Digest> {
        let (digests, length) = FileDigester::read(banks, path.as_bytes(), bytes).unwrap();
        assert_eq!(length, bytes.len() as u64);
        digests
    }

    #[test]
    fn a_packed_module_has_the_digest_of_what_the_kernel_is_handed_whatever_the_algorithms_are() {
        let module = [b"\x7fELF module".as_slice(), &[7; 300_000]].concat();
        let packed = gzip(&module);
        let (own, inner) = (sha256(&packed), sha256(&module));
        assert_eq!(
            digests(&[Bank::Sha256], "a/dummy.ko.gz", &packed),
            [own.clone(), inner.clone()]
        );
        let sha512 = Bank::Sha512.hash(&[&packed]);
        assert_eq!(
            digests(&[Bank::Sha512], "dummy.ko.gz", &packed),
            [sha512, own.clone(), inner.clone()]
        );
        let sha512 = Bank::Sha512.hash(&[&module]);
        assert_eq!(digests(&[Bank::Sha512], "dummy.ko", &module), [sha512, inner]);
        // Other files are what they are.
        assert_eq!(digests(&[Bank::Sha256], "dummy.gz", &packed), [own]);
    }

    #[test]
    fn what_is_no_whole_packed_module_has_its_own_digests_alone() {
        let packed = gzip(&[7; 300_000]);
        let cut = &packed[..packed.len() - 9];
        let plain: &[u8] = b"not packed";
        for bytes in [cut, plain, b"", b"\xfd7zXZ\0", b"BZh9"] {
            for name in ["x.ko.gz", "x.ko.xz", "x.ko.zst"] {
                assert_eq!(digests(&[Bank::Sha256], name, bytes), [sha256(bytes)], "{name}");
            }
        }
    }

    #[test]
    fn a_module_that_unpacks_to_more_than_is_hashed_in_a_kernel_has_no_such_digest() {
        let packed = gzip(&[0; 5000]);
        assert_eq!(unpacked(&packed, 5000), Some(sha256(&[0; 5000])));
        assert_eq!(unpacked(&packed, 4999), None);
    }
}
