//! Makes an image of a stated size, for `cargo xtask bench image`: an OCI layout in a folder, the same each
//! time.
//!
//! Usage: make_image FOLDER gzip|zstd|plain MEGABYTES — of packed layers, five of them. Files are of mixed
//! sizes, their content is words and random bytes, so that it packs to about a half; upper layers remove,
//! replace and hide files of lower ones. Not here: what is measured.

#![allow(clippy::unwrap_used, reason = "a tool that cannot go on ends")]

use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

const LAYERS: u64 = 5;
const MIB: u64 = 1 << 20;

/// xorshift64*: the same numbers everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn bytes(&mut self, out: &mut Vec<u8>, len: usize) {
        while out.len() < len {
            out.extend(self.next().to_le_bytes());
        }
        out.truncate(len);
    }
}

/// Hashes and counts what is written.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
    count: u64,
}

impl<W: Write> Hashing<W> {
    fn new(inner: W) -> Self {
        let (hash, count) = (Sha256::new(), 0);
        Hashing { inner, hash, count }
    }

    fn hex(self) -> (String, u64, W) {
        let digest = self.hash.finalize();
        let hex = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        (hex, self.count, self.inner)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hash.update(&bytes[..n]);
        self.count += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// A file's content: runs of words, and of random bytes.
fn content(random: &mut Random, words: &[Vec<u8>], len: usize, out: &mut Vec<u8>) {
    out.clear();
    while out.len() < len {
        let end = out.len() + 1024;
        if random.below(4) == 0 {
            random.bytes(out, end);
        } else {
            while out.len() < end {
                out.extend(&words[random.below(words.len() as u64) as usize]);
            }
        }
    }
    out.truncate(len);
}

/// Mostly small ones; half of all bytes are in files above a MiB.
fn size(random: &mut Random) -> usize {
    let below = match random.below(200) {
        0 => 16 * MIB,
        1..5 => 2 * MIB,
        5..40 => 128 * 1024,
        _ => 16 * 1024,
    };
    random.below(below) as usize
}

fn header(kind: tar::EntryType, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o755);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// Writes one layer's archive until `packed` says that enough is there.
fn layer(number: u64, tar: &mut tar::Builder<impl Write>, is_enough: impl Fn() -> bool) {
    let mut random = Random(0x9e37_79b9 + number);
    let words: Vec<Vec<u8>> = (0..4096)
        .map(|_| {
            let mut word = Vec::new();
            let len = 3 + random.below(9) as usize;
            random.bytes(&mut word, len);
            word
        })
        .collect();
    let mut put = |name: &str, bytes: &[u8]| {
        let mut header = header(tar::EntryType::Regular, bytes.len() as u64);
        tar.append_data(&mut header, name, bytes).unwrap();
    };
    // From the second layer on: files of the layer below go, and a folder of it is hidden.
    if let Some(below) = number.checked_sub(1) {
        for n in 0..50 {
            put(&format!("usr/lib/layer{below}/d0/.wh.f{n}"), b"");
        }
        put(&format!("usr/lib/layer{below}/d1/.wh..wh..opq"), b"");
        put(&format!("usr/lib/layer{below}/d2/f1"), b"replaced");
    }
    let mut bytes = Vec::new();
    let mut n = 0;
    while !is_enough() {
        let len = size(&mut random);
        content(&mut random, &words, len, &mut bytes);
        put(&format!("usr/lib/layer{number}/d{}/f{n}", n / 100), &bytes);
        n += 1;
    }
    let mut link = header(tar::EntryType::Symlink, 0);
    tar.append_link(
        &mut link,
        format!("usr/lib/link{number}"),
        format!("layer{number}"),
    )
    .unwrap();
}

/// Where a layer's packed bytes go: their number is looked at while they are written.
struct Counted<W> {
    inner: W,
    count: std::rc::Rc<std::cell::Cell<u64>>,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.count.set(self.count.get() + n as u64);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// A blob's name, once it is written.
fn blob(folder: &Path, bytes: &[u8]) -> (String, u64) {
    let mut hashing = Hashing::new(io::sink());
    hashing.write_all(bytes).unwrap();
    let (hex, length, _) = hashing.hex();
    fs::write(folder.join("blobs/sha256").join(&hex), bytes).unwrap();
    (hex, length)
}

/// Writes one layer; gives the digests of the unpacked and the packed bytes, and the length of these.
fn write_layer(folder: &Path, number: u64, compression: &str, enough: u64) -> (String, String, u64) {
    let path = folder.join("layer.part");
    let count = std::rc::Rc::new(std::cell::Cell::new(0));
    let inner = Counted {
        inner: BufWriter::new(File::create(&path).unwrap()),
        count: count.clone(),
    };
    let packed = Hashing::new(inner);
    let is_enough = || count.get() >= enough;
    let (diff_id, packed) = match compression {
        "gzip" => {
            let encoder = flate2::write::GzEncoder::new(packed, flate2::Compression::default());
            let mut tar = tar::Builder::new(Hashing::new(encoder));
            layer(number, &mut tar, is_enough);
            let (diff_id, _, encoder) = tar.into_inner().unwrap().hex();
            (diff_id, encoder.finish().unwrap())
        }
        "plain" => {
            let mut tar = tar::Builder::new(Hashing::new(packed));
            layer(number, &mut tar, is_enough);
            let (diff_id, _, packed) = tar.into_inner().unwrap().hex();
            (diff_id, packed)
        }
        "zstd" => {
            // The encoder reads: what it is to read is written first, of 7/5 of the length.
            let plain = folder.join("plain.part");
            let unpacked = std::rc::Rc::new(std::cell::Cell::new(0));
            let file = Counted {
                inner: BufWriter::new(File::create(&plain).unwrap()),
                count: unpacked.clone(),
            };
            let mut tar = tar::Builder::new(Hashing::new(file));
            layer(number, &mut tar, || unpacked.get() >= enough * 7 / 5);
            let (diff_id, _, mut file) = tar.into_inner().unwrap().hex();
            file.flush().unwrap();
            let mut packed = packed;
            let level = ruzstd::encoding::CompressionLevel::Fastest;
            ruzstd::encoding::compress(File::open(&plain).unwrap(), &mut packed, level);
            fs::remove_file(plain).unwrap();
            (diff_id, packed)
        }
        other => panic!("{other}: gzip, zstd or plain"),
    };
    let (digest, length, mut counted) = packed.hex();
    counted.flush().unwrap();
    fs::rename(path, folder.join("blobs/sha256").join(&digest)).unwrap();
    (diff_id, digest, length)
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, compression, megabytes] = &arguments[..] else {
        panic!("make_image FOLDER gzip|zstd|plain MEGABYTES");
    };
    let folder = PathBuf::from(folder);
    let enough = megabytes.parse::<u64>().unwrap() * 1_000_000 / LAYERS;
    fs::create_dir_all(folder.join("blobs/sha256")).unwrap();
    let layers: Vec<(String, String, u64)> = (0..LAYERS)
        .map(|n| write_layer(&folder, n, compression, enough))
        .collect();
    let diff_ids: Vec<String> = layers.iter().map(|(id, ..)| format!("\"sha256:{id}\"")).collect();
    let config = format!(
        r#"{{"os":"linux","architecture":"amd64","rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        diff_ids.join(",")
    );
    let (config, length) = blob(&folder, config.as_bytes());
    let layers: Vec<String> = layers
        .iter()
        .map(|(_, digest, size)| format!(r#"{{"digest":"sha256:{digest}","size":{size}}}"#))
        .collect();
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"digest":"sha256:{config}","size":{length}}},"layers":[{}]}}"#,
        layers.join(",")
    );
    let (manifest, length) = blob(&folder, manifest.as_bytes());
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"digest":"sha256:{manifest}","size":{length},"annotations":{{"org.opencontainers.image.ref.name":"bench"}}}}]}}"#
    );
    fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    // Last, so that an image with an index is whole.
    fs::write(folder.join("index.json"), index).unwrap();
}
