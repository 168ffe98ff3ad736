//! A file system that a process answers for (FUSE), with one file in it.
//!
//! Promises: the file has the content that the directory's own one had; nothing else is there. Not here: what
//! is made of it. Source of the messages: include/uapi/linux/fuse.h, protocol 7.31.

use anyhow::{Context as _, Result};
use nix::libc::{ENOENT, ENOSYS};
use nix::mount::{MsFlags, mount};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::Path;

/// Room for any request: more than the kernel's FUSE_MIN_READ_BUFFER and `MAX_WRITE`.
const REQUEST: usize = 1 << 20;
const MAX_WRITE: u32 = 4096;
/// `struct fuse_in_header`.
const HEADER: usize = 40;

/// `enum fuse_opcode`.
const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const RELEASE: u32 = 18;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;

/// Numbers of the directory and of the file in it.
const ROOT: u64 = 1;
const FILE: u64 = 2;

/// Mounts a file system over the directory that `file` is in, and answers for it until it is unmounted.
///
/// # Errors
/// When it cannot be mounted.
pub fn serve(file: &Path) -> Result<()> {
    let content = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let name = file.file_name().context("a file's name")?.as_encoded_bytes();
    let at = file.parent().context("a file in a directory")?;
    let mut device = File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .context("cannot open /dev/fuse")?;
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,allow_other",
        device.as_raw_fd()
    );
    let kind = Some("fuse");
    mount(kind, at, kind, MsFlags::empty(), Some(options.as_str()))
        .with_context(|| format!("cannot mount over {}", at.display()))?;
    let mut request = vec![0; REQUEST];
    loop {
        // ENODEV once it is unmounted.
        let Ok(len) = device.read(&mut request) else {
            return Ok(());
        };
        let request = request.get(..len).unwrap_or_default();
        if let Some(answer) = answer(request, name, &content) {
            device.write_all(&answer).context("cannot answer")?;
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
    word.map_or(0, u32::from_ne_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let word = bytes.get(at..at + 8).and_then(|word| word.try_into().ok());
    word.map_or(0, u64::from_ne_bytes)
}

/// The answer to a request, with its header; none is wanted to some.
fn answer(request: &[u8], name: &[u8], content: &[u8]) -> Option<Vec<u8>> {
    let (opcode, unique, node) = (u32_at(request, 4), u64_at(request, 8), u64_at(request, 16));
    let body = request.get(HEADER..).unwrap_or_default();
    let answer = match opcode {
        FORGET | BATCH_FORGET | INTERRUPT => return None,
        INIT => Ok(init(u32_at(body, 8))),
        LOOKUP if body.strip_suffix(b"\0") == Some(name) => {
            let mut entry = words(&[FILE, 0, 60, 0]);
            entry.extend([0; 8]);
            entry.extend(attributes(FILE, content.len()));
            Ok(entry)
        }
        LOOKUP => Err(ENOENT),
        GETATTR => {
            let mut attr = words(&[0, 0]);
            attr.extend(attributes(node, content.len()));
            Ok(attr)
        }
        OPEN => Ok(words(&[0, 0])),
        READ => {
            let from = usize::try_from(u64_at(body, 8)).unwrap_or(usize::MAX);
            let rest = content.get(from..).unwrap_or_default();
            Ok(rest[..rest.len().min(u32_at(body, 16) as usize)].to_vec())
        }
        RELEASE | FLUSH => Ok(Vec::new()),
        _ => Err(ENOSYS),
    };
    let (error, body) = match answer {
        Ok(body) => (0, body),
        Err(error) => (-error, Vec::new()),
    };
    let mut whole = Vec::new();
    whole.extend((16 + body.len() as u32).to_ne_bytes());
    whole.extend(error.to_ne_bytes());
    whole.extend(unique.to_ne_bytes());
    whole.extend(body);
    Some(whole)
}

/// `struct fuse_init_out`.
fn init(max_readahead: u32) -> Vec<u8> {
    let mut out = Vec::new();
    for word in [7, 31, max_readahead, 0, 0, MAX_WRITE, 1] {
        out.extend(u32::to_ne_bytes(word));
    }
    out.resize(64, 0);
    out
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// `struct fuse_attr`.
fn attributes(node: u64, len: usize) -> Vec<u8> {
    let (size, mode) = if node == ROOT {
        (0, 0o040_755)
    } else {
        (len as u64, 0o100_755)
    };
    let mut out = words(&[node, size, size.div_ceil(512), 0, 0, 0]);
    for word in [0, 0, 0, mode, 1, 0, 0, 0, 4096, 0] {
        out.extend(u32::to_ne_bytes(word));
    }
    out
}
