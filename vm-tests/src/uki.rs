//! Unified kernel images and the EFI system partitions that hold them: what UEFI firmware starts a guest
//! from.
//!
//! Promises: the same kernel, command line and stub give the same image; firmware can load it, wherever the
//! stub was linked to. Not here: what the firmware measures of it (see `cgpath_refvals::uki`).

use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use object::LittleEndian;
use object::read::pe::{ImageNtHeaders as _, ImageOptionalHeader as _, PeFile64};

use crate::host;

/// systemd's EFI stub, of Debian's package systemd-boot-efi.
const STUB: &str = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";
/// Sections that are added begin at a multiple of this many bytes in memory, or of the stub's own alignment
/// if it is larger.
const PAGE: u64 = 4096;
/// Where firmware looks on a disk that no boot entry names.
const DEFAULT_LOADER: &str = "::/EFI/BOOT/BOOTX64.EFI";
/// Room beside the image on its partition.
const ROOM_MIB: u64 = 16;

/// Puts kernel and command line into an image that the firmware can start. Source: UAPI Group Specification
/// "Unified Kernel Image"; systemd-stub(7).
pub(crate) fn image(kernel: &Path, command_line: &str, output: &Path) -> Result<()> {
    let stub = host::existing(STUB.into(), "apt-get install systemd-boot-efi")?;
    image_with(&stub, kernel, command_line, output)
}

fn image_with(stub: &Path, kernel: &Path, command_line: &str, output: &Path) -> Result<()> {
    let scratch = tempfile::tempdir().context("making a temporary directory")?;
    let part = |name: &str, content: &str| -> Result<PathBuf> {
        let path = scratch.path().join(name);
        std::fs::write(&path, content).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    };
    let sections = [
        (".osrel", part("os-release", "ID=ima-cgpath-guest\n")?),
        (".cmdline", part("command-line", command_line)?),
        (".linux", kernel.to_path_buf()),
    ];
    let mut objcopy = Command::new(host::tool("objcopy", "binutils")?);
    let mut layout = Layout::read(stub)?;
    for (name, file) in &sections {
        let len = std::fs::metadata(file)
            .with_context(|| format!("looking at {}", file.display()))?
            .len();
        let address = layout.base + layout.append(name, len);
        objcopy
            .arg("--add-section")
            .arg(format!("{name}={}", file.display()))
            .args(["--change-section-vma", &format!("{name}={address:#x}")]);
    }
    host::output(objcopy.arg(stub).arg(output)).context("making the unified kernel image")?;
    // What objcopy cannot place it only warns of.
    Layout::read(output)?
        .check()
        .with_context(|| format!("{}, made with {}", output.display(), stub.display()))?;
    without_time(output)
}

/// Where the sections of an image lie in memory, as far as firmware looks at it before it loads the image.
///
/// Source: Microsoft, "PE Format", section table; EDK II, BasePeCoffLib, `PeCoffLoaderLoadImage`.
#[derive(Debug)]
struct Layout {
    /// The address that the image was linked to. Stubs of systemd 252 are linked to 0, later ones to an
    /// address above 4 GiB that differs from build to build.
    base: u64,
    alignment: u64,
    /// Bytes of memory that the image takes.
    size: u64,
    /// Names and places relative to `base`, in the table's order.
    sections: Vec<(String, Range<u64>)>,
}

impl Layout {
    fn read(image: &Path) -> Result<Self> {
        let bytes = std::fs::read(image).with_context(|| format!("reading {}", image.display()))?;
        let file =
            PeFile64::parse(&*bytes).with_context(|| format!("{} is not a PE32+ image", image.display()))?;
        let header = file.nt_headers().optional_header();
        let place = |section: &object::pe::ImageSectionHeader| {
            let name = String::from_utf8_lossy(section.raw_name()).into_owned();
            let at = u64::from(section.virtual_address.get(LittleEndian));
            (name, at..at + u64::from(section.virtual_size.get(LittleEndian)))
        };
        Ok(Self {
            base: header.image_base(),
            alignment: u64::from(header.section_alignment()).max(PAGE),
            size: u64::from(header.size_of_image()),
            sections: file.section_table().iter().map(place).collect(),
        })
    }

    /// Adds a section behind all others, and gives its place.
    fn append(&mut self, name: &str, len: u64) -> u64 {
        let ends = self.sections.iter().map(|(_, place)| place.end);
        let at = ends.max().unwrap_or_default().next_multiple_of(self.alignment);
        self.sections.push((name.to_owned(), at..at + len));
        at
    }

    /// Sections must ascend without overlap and end within the image's memory: firmware loads no other image.
    fn check(&self) -> Result<()> {
        let mut free = 0;
        for (name, place) in &self.sections {
            ensure!(
                place.start >= free && place.end <= self.size,
                "firmware cannot load this image: its section {name} is at {:#x} to {:#x}, the one before \
                 ends at {free:#x}, the image at {:#x}",
                place.start,
                place.end,
                self.size
            );
            free = place.end;
        }
        Ok(())
    }
}

/// Clears the time at which the image was made, which objcopy writes into the COFF header: it would be
/// another image each time.
fn without_time(image: &Path) -> Result<()> {
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(image)
        .with_context(|| format!("opening {}", image.display()))?;
    // The PE signature's place stands at 0x3c of the DOS header; behind it come machine and number of
    // sections.
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    /// What the stubs of Debian 12 (systemd 252) and Debian 13 (systemd 257) were linked to.
    const BASES: [u64; 2] = [0, 0x1_4df9_0000];

    /// A stub with two sections of one byte each, linked to `base`.
    fn stub(base: u64) -> Vec<u8> {
        let mut out = vec![0; 0x600];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"MZ");
        put(0x3c, &[0x40]);
        put(0x40, b"PE\0\0");
        // COFF header: x86-64, two sections, length of the optional header, executable.
        put(0x44, &[0x64, 0x86, 2]);
        put(0x54, &[0xf0, 0, 0x2e, 2]);
        // Optional header: PE32+, entry, base, alignments, sizes, EFI application, number of directories.
        put(0x58, &[0x0b, 0x02]);
        put(0x58 + 16, &0x1000_u32.to_le_bytes());
        put(0x58 + 24, &base.to_le_bytes());
        put(0x58 + 32, &0x1000_u32.to_le_bytes());
        put(0x58 + 36, &0x200_u32.to_le_bytes());
        put(0x58 + 56, &0x3000_u32.to_le_bytes());
        put(0x58 + 60, &0x200_u32.to_le_bytes());
        put(0x58 + 68, &[10]);
        put(0x58 + 108, &[16]);
        for (n, name, flags) in [(0_u32, ".text", 0x6000_0020_u32), (1, ".data", 0xc000_0040)] {
            let header = 0x58 + 0xf0 + 40 * n as usize;
            put(header, name.as_bytes());
            let numbers = [1, 0x1000 * (n + 1), 0x200, 0x200 * (n + 1)];
            for (i, number) in numbers.into_iter().enumerate() {
                put(header + 8 + 4 * i, &number.to_le_bytes());
            }
            put(header + 36, &flags.to_le_bytes());
        }
        out
    }

    #[test]
    fn what_is_added_lies_behind_the_stub_wherever_that_was_linked_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("kernel"), [7; 10_000]).unwrap();
        for base in BASES {
            std::fs::write(path("stub"), stub(base)).unwrap();
            image_with(&path("stub"), &path("kernel"), "quiet", &path("image")).unwrap();
            let layout = Layout::read(&path("image")).unwrap();
            assert_eq!(layout.base, base);
            let places: Vec<(&str, u64)> = layout
                .sections
                .iter()
                .map(|(name, place)| (name.as_str(), place.start))
                .collect();
            let expected = [
                (".text", 0x1000),
                (".data", 0x2000),
                (".osrel", 0x3000),
                (".cmdline", 0x4000),
                (".linux", 0x5000),
            ];
            assert_eq!(places, expected, "linked to {base:#x}");
            assert!(layout.size >= 0x5000 + 10_000, "{layout:?}");
        }
    }

    #[test]
    fn an_image_whose_sections_wrap_or_overlap_is_refused_by_the_sections_name() {
        let fault = |sections: &[(&str, Range<u64>)]| {
            let sections = sections
                .iter()
                .map(|(name, place)| ((*name).to_owned(), place.clone()));
            let layout = Layout {
                base: BASES[1],
                alignment: PAGE,
                size: 0x4000,
                sections: sections.collect(),
            };
            layout.check().err().map(|error| error.to_string())
        };
        let (text, data) = ((".text", 0x1000..0x2800), (".data", 0x3000..0x3100));
        assert_eq!(fault(&[text.clone(), data.clone()]), None);
        // An address below the base, as objcopy writes it: 0x2_0000 less the base, of which 32 bits are left.
        let wrapped = (".osrel", 0xb209_0000..0xb209_0014);
        let beyond = (".linux", 0x3100..0x4001);
        let overlapping = (".linux", 0x2000..0x2100);
        for (sections, name) in [
            (vec![text.clone(), data.clone(), wrapped.clone()], ".osrel"),
            (vec![wrapped, text.clone(), data.clone()], ".osrel"),
            (vec![text.clone(), data.clone(), beyond], ".linux"),
            (vec![text.clone(), overlapping, data.clone()], ".linux"),
            (vec![data, text], ".text"),
        ] {
            let said = fault(&sections).unwrap();
            assert!(said.contains(&format!("section {name} is at")), "{said}");
        }
    }
}
