//! The initramfs of guests whose disk needs modules: the guest's own init, and those modules.
//!
//! Promise: the same kernel and init give the same bytes. Not here: what init does there
//! (`guest/src/initrd.rs`), guests that need none.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::host;
use crate::kernel::Kernel;

/// The modules that the root file system's disk needs beside their dependencies. Debian's kernels have ext4
/// built in.
const MODULES: [&str; 2] = ["virtio_pci", "virtio_blk"];

/// Modes of an archive's members, with their types. Source: cpio(5).
const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;

/// The initramfs for this kernel.
///
/// # Errors
/// When a module cannot be read.
pub(crate) fn make(kernel: &Kernel) -> Result<Vec<u8>> {
    let guest = host::guest_binary()?;
    let init = std::fs::read(&guest).with_context(|| format!("reading {}", guest.display()))?;
    let mut archive = Archive::default();
    for directory in [
        "/dev",
        "/new-root",
        "/usr",
        "/usr/sbin",
        vm_protocol::INITRD_MODULES,
    ] {
        archive.member(directory, DIRECTORY, &[]);
    }
    archive.member("/usr/sbin/guest", PROGRAM, &init);
    let list = kernel.modules().join("modules.dep");
    let text = std::fs::read_to_string(&list).with_context(|| format!("reading {}", list.display()))?;
    for (number, path) in in_order(&text, &MODULES).into_iter().enumerate() {
        let module = plain(&kernel.modules().join(path))?;
        let name = format!("{}/{number:02}", vm_protocol::INITRD_MODULES);
        archive.member(&name, FILE, &module);
    }
    Ok(archive.end())
}

/// The files of modules and of what they depend on, as they are to be loaded. What a kernel has built in is
/// in no list. `modules.dep` names the dependencies of a module from the last to be loaded to the first.
fn in_order<'a>(list: &'a str, wanted: &[&str]) -> Vec<&'a str> {
    let mut found: Vec<&str> = Vec::new();
    for name in wanted {
        let of_name = |path: &str| {
            let file = path.rsplit('/').next().unwrap_or(path);
            file.split('.').next() == Some(name)
        };
        let line = list
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(path, _)| of_name(path));
        let Some((path, needs)) = line else { continue };
        for file in needs.split_whitespace().rev().chain([path]) {
            if !found.contains(&file) {
                found.push(file);
            }
        }
    }
    found
}

/// A module's ELF file, unpacked.
fn plain(path: &Path) -> Result<Vec<u8>> {
    let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => Ok(bytes),
        Some("xz") => {
            let mut module = Vec::new();
            lzma_rust2::XzReader::new(bytes.as_slice(), true)
                .read_to_end(&mut module)
                .with_context(|| format!("unpacking {}", path.display()))?;
            Ok(module)
        }
        _ => bail!(
            "{} is compressed in a way that is not known here; .ko and .ko.xz are",
            path.display()
        ),
    }
}

/// A cpio archive in the "newc" format, which kernels read. Source:
/// Documentation/driver-api/early-userspace/buffer-format.rst.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    members: u32,
}

impl Archive {
    fn member(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.members += 1;
        let name = path.trim_start_matches('/');
        let numbers = [
            self.members,
            mode,
            0,
            0,
            1,
            0,
            content.len() as u32,
            0,
            0,
            0,
            0,
            name.len() as u32 + 1,
            0,
        ];
        let mut header = "070701".to_owned();
        for number in numbers {
            // Writing to a string cannot fail.
            let _ = write!(header, "{number:08x}");
        }
        self.bytes.extend(header.bytes().chain(name.bytes()).chain([0]));
        self.align();
        self.bytes.extend(content);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn end(mut self) -> Vec<u8> {
        self.member("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "\
kernel/drivers/virtio/virtio.ko:
kernel/drivers/virtio/virtio_ring.ko: kernel/drivers/virtio/virtio.ko
kernel/drivers/virtio/virtio_pci.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/drivers/block/virtio_blk.ko.xz: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
";

    #[test]
    fn a_module_comes_after_what_it_depends_on_and_once() {
        let files: Vec<&str> = in_order(LIST, &MODULES)
            .into_iter()
            .map(|path| path.rsplit('/').next().unwrap())
            .collect();
        assert_eq!(
            files,
            ["virtio.ko", "virtio_ring.ko", "virtio_pci.ko", "virtio_blk.ko.xz"]
        );
        assert_eq!(in_order("", &MODULES), Vec::<&str>::new());
    }

    #[test]
    fn members_are_aligned_and_the_trailer_ends_them() {
        let mut archive = Archive::default();
        archive.member("/a", DIRECTORY, &[]);
        archive.member("/a/b", FILE, b"12345");
        let bytes = archive.end();
        assert_eq!(bytes.len() % 4, 0);
        let starts: Vec<usize> = bytes
            .windows(6)
            .enumerate()
            .filter(|(_, window)| window == b"070701")
            .map(|(at, _)| at)
            .collect();
        assert_eq!(starts.len(), 3);
        assert!(starts.iter().all(|at| at % 4 == 0));
        assert!(bytes.windows(5).any(|window| window == b"12345"));
    }
}
