//! Unified kernel images and the EFI system partitions that hold them: what UEFI firmware starts a guest from.
//!
//! Promise: the same kernel and command line give the same image. Not here: what the firmware measures of it (see
//! `policy::generate::uki`).

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::host;

/// systemd's EFI stub, of Debian's package systemd-boot-efi.
const STUB: &str = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";
/// Where the sections lie in memory: behind the stub, the kernel last, since it is the largest.
const OS_RELEASE_AT: &str = "0x20000";
const COMMAND_LINE_AT: &str = "0x30000";
const KERNEL_AT: &str = "0x2000000";
/// Where firmware looks on a disk that no boot entry names.
const DEFAULT_LOADER: &str = "::/EFI/BOOT/BOOTX64.EFI";
/// Room beside the image on its partition.
const ROOM_MIB: u64 = 16;

/// Puts kernel and command line into an image that the firmware can start. Source: UAPI Group Specification "Unified
/// Kernel Image"; systemd-stub(7).
pub(crate) fn image(kernel: &Path, command_line: &str, output: &Path) -> Result<()> {
    let stub = host::existing(STUB.into(), "apt-get install systemd-boot-efi")?;
    let scratch = tempfile::tempdir().context("making a temporary directory")?;
    let part = |name: &str, content: &str| -> Result<PathBuf> {
        let path = scratch.path().join(name);
        std::fs::write(&path, content).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    };
    let sections = [
        (
            ".osrel",
            part("os-release", "ID=ima-cgpath-guest\n")?,
            OS_RELEASE_AT,
        ),
        (".cmdline", part("command-line", command_line)?, COMMAND_LINE_AT),
        (".linux", kernel.to_path_buf(), KERNEL_AT),
    ];
    let mut objcopy = Command::new(host::tool("objcopy", "binutils")?);
    for (name, file, address) in &sections {
        objcopy
            .arg("--add-section")
            .arg(format!("{name}={}", file.display()))
            .args(["--change-section-vma", &format!("{name}={address}")]);
    }
    host::output(objcopy.arg(stub).arg(output)).context("making the unified kernel image")?;
    without_time(output)
}

/// Clears the time at which the image was made, which objcopy writes into the COFF header: it would be another image each
/// time.
fn without_time(image: &Path) -> Result<()> {
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(image)
        .with_context(|| format!("opening {}", image.display()))?;
    // The PE signature's place stands at 0x3c of the DOS header; behind it come machine and number of sections.
    let mut at = [0; 4];
    file.read_exact_at(&mut at, 0x3c)?;
    file.write_all_at(&[0; 4], u64::from(u32::from_le_bytes(at)) + 8)?;
    Ok(())
}

/// Makes a FAT file system that holds the image where firmware looks for it.
pub(crate) fn partition(image: &Path, output: &Path) -> Result<()> {
    let len = std::fs::metadata(image)
        .with_context(|| format!("looking at {}", image.display()))?
        .len();
    let file = std::fs::File::create(output).with_context(|| format!("making {}", output.display()))?;
    file.set_len(len.next_multiple_of(1 << 20) + (ROOM_MIB << 20))?;
    host::output(Command::new(host::tool("mkfs.fat", "dosfstools")?).arg(output))?;
    let directories = ["::/EFI", "::/EFI/BOOT"];
    host::output(
        Command::new(host::tool("mmd", "mtools")?)
            .arg("-i")
            .arg(output)
            .args(directories),
    )?;
    host::output(
        Command::new(host::tool("mcopy", "mtools")?)
            .arg("-i")
            .arg(output)
            .arg(image)
            .arg(DEFAULT_LOADER),
    )?;
    Ok(())
}
