//! Reference values of a boot from a unified kernel image: what the firmware will measure when it loads the
//! image, what the image's stub will measure when it loads the kernel, and the command line and the initrd
//! that it hands over.
//!
//! Promise: every offset of the image is checked before it is used. The values say nothing of the firmware
//! itself (PCR 0 to 3, 5 to 7, of a trust domain RTMR 0): those are learned (see [`crate::learned_boot`]).
//! Not here: how the stub makes command line and initrd of its sections (see [`crate::stub`]), signatures of
//! images, add-ons, credentials and drop-ins beside the image.
//!
//! Source: Microsoft, "Windows Authenticode Portable Executable Signature Format", "Calculating the PE Image
//! Hash"; UAPI Group Specification "Unified Kernel Image"; EDK II, DxeTpm2MeasureBootLib,
//! `MeasurePeImageAndExtend`; systemd's src/boot, stub.c `measure_sections` and measure.c, which measures by
//! EFI_CC_MEASUREMENT_PROTOCOL where there is no TPM; UEFI 2.11, section 38.4.1.

use crate::domain::within_tdx;
use crate::learned_boot::policy_name;
use crate::stub::Stub;
use cgpath_evidence::{
    Bank, Digest,
    boot::{EventType, RegisterSet},
};
use cgpath_policy::{BootEvent, BootPolicy};

/// An image is never longer than this many bytes.
pub const MAX_IMAGE_LEN: usize = 512 * 1024 * 1024;
/// It never has more sections than this (the Windows loader's limit).
const MAX_SECTIONS: usize = 96;
/// What the stub measures of its sections, each by name and content: PCR 11, which is RTMR 2 of a trust
/// domain. It leaves out `.pcrsig`, and of device trees and firmware measures what fits the machine.
const MEASURED_SECTIONS: [&str; 11] = [
    ".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".uname", ".sbat", ".pcrpkey",
    ".hwids",
];
/// What is in memory behind the bytes of a section, a part of it.
const ZEROS: [u8; 4096] = [0; 4096];

/// Why a file is not an image that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UkiError {
    /// It ends where something should be.
    #[error("the image ends before its {what} at byte {offset}")]
    Incomplete {
        /// What should be there.
        what: &'static str,
        /// Where.
        offset: usize,
    },
    /// It is not what it should be.
    #[error("byte {offset}: {why}")]
    Malformed {
        /// Where.
        offset: usize,
        /// Why.
        why: &'static str,
    },
    /// A section is missing.
    #[error("the image has no section {0}: it is not a unified kernel image with a command line of its own")]
    NoSection(&'static str),
    /// The command line cannot be written down.
    #[error("the section .cmdline {0}")]
    CommandLine(&'static str),
    /// The stub's version is not the one of systemd, or gives what is not computed here.
    #[error("{0}")]
    Initrd(&'static str),
}

type Result<T> = core::result::Result<T, UkiError>;

/// A portable executable, as far as its hash and its sections need it.
pub(super) struct Image<'a> {
    bytes: &'a [u8],
    checksum: usize,
    /// Where the certificate table's entry stands, and the table's length.
    certificates: Option<(usize, usize)>,
    headers: usize,
    sections: Vec<Section>,
}

struct Section {
    name: [u8; 8],
    size: usize,
    raw_size: usize,
    raw_at: usize,
}

impl<'a> Image<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Image<'a>> {
        let at = |offset: usize, len: usize, what| {
            let end = offset.saturating_add(len);
            bytes
                .get(offset..end)
                .ok_or(UkiError::Incomplete { what, offset })
        };
        let u16_at = |offset, what| -> Result<usize> {
            let bytes: [u8; 2] = at(offset, 2, what)?.try_into().unwrap_or_default();
            Ok(usize::from(u16::from_le_bytes(bytes)))
        };
        let u32_at = |offset, what| -> Result<usize> {
            let bytes: [u8; 4] = at(offset, 4, what)?.try_into().unwrap_or_default();
            Ok(u32::from_le_bytes(bytes) as usize)
        };
        let wrong = |offset, why| Err(UkiError::Malformed { offset, why });
        if at(0, 2, "DOS header")? != b"MZ" {
            return wrong(0, "not a portable executable: it does not begin with MZ");
        }
        let pe = u32_at(0x3c, "DOS header")?;
        if at(pe, 4, "PE signature")? != b"PE\0\0" {
            return wrong(pe, "not a portable executable: no PE signature");
        }
        let count = u16_at(pe + 6, "COFF header")?;
        let optional_len = u16_at(pe + 20, "COFF header")?;
        let optional = pe + 24;
        let directories = match u16_at(optional, "optional header")? {
            0x10b => optional + 96,
            0x20b => optional + 112,
            _ => return wrong(optional, "an optional header of neither PE32 nor PE32+"),
        };
        if count > MAX_SECTIONS {
            return wrong(pe + 6, "more than 96 sections");
        }
        let headers = u32_at(optional + 60, "optional header")?;
        let certificates = if u32_at(directories - 4, "optional header")? > 4 {
            let entry = directories + 4 * 8;
            Some((entry, u32_at(entry + 4, "certificate table's entry")?))
        } else {
            None
        };
        let end = certificates.map_or(optional + 68, |(entry, _)| entry + 8);
        if headers < end || headers > bytes.len() {
            return wrong(optional + 60, "headers of an impossible size");
        }
        let mut sections = Vec::with_capacity(count);
        for n in 0..count {
            let header = at(optional + optional_len + 40 * n, 40, "section header")?;
            let number = |at: usize| {
                let bytes = header.get(at..).and_then(|rest| rest.first_chunk().copied());
                u32::from_le_bytes(bytes.unwrap_or_default()) as usize
            };
            let section = Section {
                name: header.first_chunk().copied().unwrap_or_default(),
                size: number(8),
                raw_size: number(16),
                raw_at: number(20),
            };
            at(section.raw_at, section.raw_size, "section")?;
            sections.push(section);
        }
        sections.sort_by_key(|section| section.raw_at);
        Ok(Image {
            bytes,
            checksum: optional + 64,
            certificates,
            headers,
            sections,
        })
    }

    /// The Authenticode hash: over all but the checksum and the certificates.
    fn digest(&self, bank: Bank) -> Digest {
        let range = |from: usize, to: usize| self.bytes.get(from..to).unwrap_or_default();
        let mut parts = vec![range(0, self.checksum)];
        let behind = self.checksum + 4;
        match self.certificates {
            Some((entry, _)) => parts.extend([range(behind, entry), range(entry + 8, self.headers)]),
            None => parts.push(range(behind, self.headers)),
        }
        let mut hashed = self.headers;
        for section in &self.sections {
            parts.push(range(section.raw_at, section.raw_at + section.raw_size));
            hashed = hashed.saturating_add(section.raw_size);
        }
        let certificates = self.certificates.map_or(0, |(_, len)| len);
        parts.push(range(hashed, self.bytes.len().saturating_sub(certificates)));
        bank.hash(&parts)
    }

    fn find(&self, name: &str) -> Option<&Section> {
        let is_it = |section: &&Section| section.name.split(|b| *b == 0).next() == Some(name.as_bytes());
        self.sections.iter().find(is_it)
    }

    /// A section as it is in memory, in parts; `None` where there is none, or an empty one.
    fn in_memory(&self, name: &'static str) -> Result<Option<Vec<&'a [u8]>>> {
        let Some(section) = self.find(name).filter(|section| section.size > 0) else {
            return Ok(None);
        };
        if section.size > MAX_IMAGE_LEN {
            return Err(UkiError::Malformed {
                offset: section.raw_at,
                why: "a section that is longer in memory than an image may be",
            });
        }
        let given = self.section(name)?;
        let mut parts = vec![given];
        let mut missing = section.size - given.len();
        while missing > 0 {
            let part = ZEROS.get(..missing).unwrap_or(&ZEROS);
            missing -= part.len();
            parts.push(part);
        }
        Ok(Some(parts))
    }

    /// What the file has of a section.
    pub(super) fn section(&self, name: &'static str) -> Result<&'a [u8]> {
        let section = self.find(name).ok_or(UkiError::NoSection(name))?;
        let len = section.size.min(section.raw_size);
        self.bytes
            .get(section.raw_at..section.raw_at + len)
            .ok_or(UkiError::NoSection(name))
    }
}

/// The `boot:` that accepts this image, its kernel, its initrd and its command line, with digests in `banks`.
/// `name` is what people call the image; what a policy's name cannot hold of it is escaped or cut.
///
/// # Errors
/// [`UkiError`] if it is no unified kernel image, or has no command line.
pub fn from_uki(name: &str, bytes: &[u8], banks: &[Bank]) -> Result<String> {
    let mut out = values(name, bytes, RegisterSet::Pcr, banks)?.to_yaml(&[]);
    out.push_str(
        "  # The firmware is not judged by these: `cgpath policy from-boot` learns its registers. Add-ons, \
         credentials and extensions\n  \
         # beside the image change its command line or its initrd, and are not in these values.\n",
    );
    Ok(out)
}

/// The same for a trust domain without a TPM: `boot` within a policy's `tdx`, by events of RTMR 1 and 2.
///
/// What the stub measures of its sections is `optional`: an older one does not do so without a TPM.
/// The image's own digest, which must be there, is over all of them.
///
/// # Errors
/// As [`from_uki`].
pub fn from_uki_of_domain(name: &str, bytes: &[u8]) -> Result<String> {
    let boot = values(name, bytes, RegisterSet::Rtmr, &[Bank::Sha384])?.to_yaml(&[]);
    let mut out = "tdx:\n".to_owned() + &within_tdx(&boot);
    out.push_str(
        "    # `mrtd`, `attributes`, `xfam` and RTMR 0 are learned by `cgpath policy from-boot`, and so are \
         the other events of\n    \
         # RTMR 1: the partition table, and a boot loader before the image. Add-ons, credentials and \
         extensions beside\n    \
         # the image are not in these values.\n",
    );
    Ok(out)
}

/// Those of an image, in registers of this set.
fn values(name: &str, bytes: &[u8], set: RegisterSet, banks: &[Bank]) -> Result<BootPolicy> {
    let image = Image::parse(bytes)?;
    let kernel = Image::parse(image.section(".linux")?)?;
    let stub = Stub::of(&image);
    let initrd = stub.initrd(&image)?;
    let mut values = BootPolicy {
        set,
        command_lines: stub.command_lines(image.section(".cmdline")?)?,
        ..BootPolicy::default()
    };
    let name = policy_name(name).unwrap_or_else(|| "unified kernel image".to_owned());
    let mut add = |pcr, kind, name: String, optional, digest: &dyn Fn(Bank) -> Digest| {
        values.events.push(BootEvent {
            pcr,
            kind,
            name: policy_name(&name).unwrap_or_default(),
            digests: banks.iter().map(|bank| digest(*bank)).collect(),
            optional,
        });
    };
    let applications = set.applications();
    add(
        applications,
        EventType::APPLICATION,
        name.clone(),
        false,
        &|bank| image.digest(bank),
    );
    let is_optional = !stub.measures_the_kernel();
    add(
        applications,
        EventType::APPLICATION,
        format!("kernel of {name}"),
        is_optional,
        &|bank| kernel.digest(bank),
    );
    // The kernel's EFI stub measures it, where it measures the command line, too.
    let by_kernel = set.command_lines().last().copied().unwrap_or_default();
    if let Some(initrd) = initrd {
        let name = format!("initrd of {name}");
        add(by_kernel, EventType::EVENT_TAG, name, false, &|bank| {
            bank.hash(&[&initrd])
        });
    }
    let sections: &[&'static str] = match set {
        // PCR 11 is none of the boot's registers.
        RegisterSet::Pcr => &[],
        RegisterSet::Rtmr => &MEASURED_SECTIONS,
    };
    for section in sections {
        let Some(content) = image.in_memory(section)? else {
            continue;
        };
        let title = format!("name of {section} of {name}");
        add(by_kernel, EventType::IPL, title, true, &|bank| {
            bank.hash(&[section.as_bytes(), &[0]])
        });
        let title = format!("{section} of {name}");
        add(by_kernel, EventType::IPL, title, true, &|bank| {
            bank.hash(&content)
        });
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    /// A PE32+ with these sections, 512 bytes of headers, and `extra` behind its sections.
    fn image(sections: &[(&str, &[u8])], extra: &[u8], certificates: u32) -> Vec<u8> {
        let mut out = vec![0; 512];
        out[..2].copy_from_slice(b"MZ");
        out[0x3c] = 64;
        out[64..68].copy_from_slice(b"PE\0\0");
        out[70..72].copy_from_slice(&(sections.len() as u16).to_le_bytes());
        out[84..86].copy_from_slice(&160u16.to_le_bytes());
        let optional = 88;
        out[optional..optional + 2].copy_from_slice(&0x20bu16.to_le_bytes());
        out[optional + 60..optional + 64].copy_from_slice(&512u32.to_le_bytes());
        out[optional + 64..optional + 68].fill(0xcc);
        out[optional + 108] = 6;
        out[optional + 148..optional + 152].copy_from_slice(&certificates.to_le_bytes());
        for (n, (name, content)) in sections.iter().enumerate() {
            let header = optional + 160 + 40 * n;
            let (at, len) = (out.len() as u32, content.len() as u32);
            out[header..header + name.len()].copy_from_slice(name.as_bytes());
            for (offset, value) in [(8, len), (16, len), (20, at)] {
                out[header + offset..header + offset + 4].copy_from_slice(&value.to_le_bytes());
            }
            out.extend(*content);
        }
        out.extend(extra);
        out
    }

    fn uki() -> Vec<u8> {
        let kernel = image(&[(".text", b"kernel")], b"", 0);
        image(&[(".cmdline", b"quiet\0"), (".linux", &kernel)], b"", 0)
    }

    #[test]
    fn the_hash_is_over_all_but_checksum_and_certificates() {
        let plain = image(&[(".text", b"code")], b"behind", 0);
        let digest = |bytes: &[u8]| Image::parse(bytes).unwrap().digest(Bank::Sha256);
        let without = [&plain[..152], &plain[156..88 + 144], &plain[88 + 152..]].concat();
        assert_eq!(digest(&plain), Bank::Sha256.hash(&[&without]));
        let mut checksum = plain.clone();
        checksum[152] ^= 1;
        assert_eq!(digest(&checksum), digest(&plain));
        let mut code = plain.clone();
        code[513] ^= 1;
        assert_ne!(digest(&code), digest(&plain));
        let signed = image(&[(".text", b"code")], b"behindSIGN", 4);
        assert_eq!(digest(&signed), digest(&plain));
    }

    #[test]
    fn a_unified_kernel_image_gives_its_own_digest_its_kernels_and_its_command_line() {
        let yaml = from_uki("a.efi", &uki(), &[Bank::Sha256]).unwrap();
        assert!(yaml.contains("    - \"quiet\"\n"), "{yaml}");
        // It has no initrd.
        assert_eq!(yaml.matches("sha256:").count(), 2);
        let kernel = image(&[(".text", b"kernel")], b"", 0);
        let digest = Image::parse(&kernel).unwrap().digest(Bank::Sha256);
        assert!(
            yaml.contains(&format!("kernel of a.efi\", digests: [\"{digest}\"]")),
            "{yaml}"
        );
    }

    /// The values that an image with these sections and a kernel gives.
    fn values_of(sections: &[(&str, &[u8])]) -> Result<BootPolicy> {
        let kernel = image(&[(".text", b"kernel")], b"", 0);
        let all = [sections, &[(".linux", &kernel[..])]].concat();
        let yaml = from_uki("a", &image(&all, b"", 0), &[Bank::Sha256])?;
        let value: serde_json::Value = serde_norway::from_str(&yaml).unwrap();
        Ok(serde_json::from_value(value["boot"].clone()).unwrap())
    }

    #[test]
    fn every_name_of_an_image_gives_values_that_a_policy_takes() {
        let long = "x".repeat(300);
        let wide = "\u{1f427}".repeat(100);
        for (name, first) in [
            ("", "unified kernel image"),
            ("\n", "\\n"),
            ("a\tb\u{85}c\u{7}\0", "a\\tb\\u{85}c\\x07\\x00"),
            ("a\\b", "a\\b"),
            ("\"'#: {", "\"'#: {"),
            (long.as_str(), &long[..253]),
            (wide.as_str(), &wide[..252]),
        ] {
            let yaml = from_uki(name, &uki(), &[Bank::Sha256]).unwrap();
            let value: serde_json::Value = serde_norway::from_str(&yaml).unwrap();
            let values: BootPolicy = serde_json::from_value(value["boot"].clone())
                .unwrap_or_else(|error| panic!("{name:?}: {error}: {yaml}"));
            let names: Vec<&str> = values.events.iter().map(|event| event.name.as_str()).collect();
            assert_eq!(names[0], first, "{name:?}");
            let kernel = format!("kernel of {}", first.chars().take(60).collect::<String>());
            assert!(names[1].starts_with(&kernel), "{names:?}");
        }
    }

    fn magic(version: &str) -> Vec<u8> {
        format!("#### LoaderInfo: systemd-stub {version} ####\0").into_bytes()
    }

    #[test]
    fn the_command_line_is_what_the_stub_of_each_version_hands_over() {
        let lines = |version: Option<&str>, line: &[u8]| {
            let magic = version.map(magic).unwrap_or_default();
            let all = [(".sdmagic", &magic[..]), (".cmdline", line)];
            values_of(&all[usize::from(version.is_none())..])
                .unwrap()
                .command_lines
        };
        const MADE: &str = "root=LABEL=r ro quiet";
        let new = [
            None,
            Some("252.5"),
            Some("252.39-1~deb12u2"),
            Some("253"),
            Some("257.13-1~deb13u1"),
            Some("258~rc1"),
        ];
        for version in new {
            for line in [
                &b"root=LABEL=r ro quiet"[..],
                b"root=LABEL=r ro quiet\n",
                b"root=LABEL=r ro quiet\n\0",
                b" \t\x01root=LABEL=r\nro\x7fquiet \0behind",
                b"root=LABEL=r ro quiet \r\n\0\0",
            ] {
                assert_eq!(lines(version, line), [MADE], "{version:?} {line:?}");
            }
        }
        // These hand over the bytes as they are, up to a NUL, unless their distribution has brought the newer
        // way back to them.
        for version in ["249.11", "251.4", "252", "252.4-1", "252-27.el9"] {
            assert_eq!(lines(Some(version), b"root=LABEL=r ro quiet\0"), [MADE]);
            assert_eq!(lines(Some(version), b"root=LABEL=r ro quiet\n"), [MADE]);
            let raw = lines(Some(version), b" root=LABEL=r\tro quiet \0");
            assert_eq!(raw, [MADE, " root=LABEL=r\tro quiet "], "{version}");
        }
        // No character beyond the first plane is handed over.
        assert_eq!(lines(None, "a=\u{1f600}b \u{e9}".as_bytes()), ["a=b \u{e9}"]);
    }

    #[test]
    fn the_kernel_must_have_been_measured_by_a_stub_that_always_lets_the_firmware_load_it() {
        for (version, is_optional) in [
            (Some("252.39-1~deb12u2"), false),
            (Some("251.4"), true),
            (Some("253"), true),
            (Some("258.1"), true),
            (None, true),
        ] {
            let magic = version.map(magic).unwrap_or_default();
            let all = [(".sdmagic", &magic[..]), (".cmdline", b"quiet")];
            let events = values_of(&all[usize::from(version.is_none())..]).unwrap().events;
            let optional: Vec<(&str, bool)> = events.iter().map(|e| (&*e.name, e.optional)).collect();
            assert_eq!(
                optional,
                [("a", false), ("kernel of a", is_optional)],
                "{version:?}"
            );
        }
    }

    #[test]
    fn the_initrd_is_what_the_stub_of_each_version_puts_together() {
        let digest = |version: Option<&str>, sections: &[(&str, &[u8])]| {
            let magic = version.map(magic).unwrap_or_default();
            let all = [
                &[(".sdmagic", &magic[..]), (".cmdline", b"quiet")][usize::from(version.is_none())..],
                sections,
            ]
            .concat();
            let events = values_of(&all).unwrap().events;
            let (initrd, others): (Vec<_>, Vec<_>) = events.into_iter().partition(|event| event.pcr == 9);
            assert_eq!(others.len(), 2);
            assert!(
                initrd
                    .iter()
                    .all(|event| event.name == "initrd of a" && event.kind == EventType::EVENT_TAG)
            );
            initrd.first().map(|event| event.digests[0].clone())
        };
        let hash = |bytes: &[u8]| Some(Bank::Sha256.hash(&[bytes]));
        let osrel = |name: &str| {
            let entry = |inode: u32, mode: u32, path: &str, content: &str| {
                let words = [
                    inode,
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
                    path.len() as u32 + 1,
                    0,
                ];
                let words: String = words.iter().map(|word| format!("{word:08x}")).collect();
                let mut out = format!("070701{words}{path}\0").into_bytes();
                out.resize(out.len().next_multiple_of(4), 0);
                out.extend(content.as_bytes());
                out.resize(out.len().next_multiple_of(4), 0);
                out
            };
            let trailer = format!(
                "070701{}00000001{}0000000B{}TRAILER!!!\0\0\0\0",
                "0".repeat(32),
                "0".repeat(48),
                "0".repeat(8)
            );
            [
                entry(1, 0o40555, ".extra", ""),
                entry(2, 0o100444, name, "ID=x\n"),
                trailer.into_bytes(),
            ]
            .concat()
        };
        let (old, new) = (Some("252.39-1~deb12u2"), Some("257.13-1~deb13u1"));
        for version in [old, new, None] {
            assert_eq!(digest(version, &[]), None);
            assert_eq!(digest(version, &[(".initrd", b"odd")]), hash(b"odd"));
        }
        let release: (&str, &[u8]) = (".osrel", b"ID=x\n");
        assert_eq!(digest(old, &[release, (".initrd", b"odd")]), hash(b"odd"));
        let extra = osrel(".extra/os-release");
        for version in [new, None] {
            assert_eq!(digest(version, &[release]), hash(&extra));
            assert_eq!(
                digest(version, &[release, (".initrd", b"odd")]),
                hash(&[b"odd\0", &extra[..]].concat())
            );
            assert_eq!(
                digest(version, &[(".initrd", b"base"), (".ucode", b"micro")]),
                hash(b"micro\0\0\0base")
            );
        }
        let key = osrel(".extra/tpm2-pcr-public-key.pem");
        let signature = osrel(".extra/tpm2-pcr-signature.json");
        let sections: [(&str, &[u8]); 3] = [
            (".pcrpkey", b"ID=x\n"),
            (".pcrsig", b"ID=x\n"),
            (".initrd", b"base"),
        ];
        assert_eq!(
            digest(old, &sections),
            hash(&[b"base", &signature[..], &key].concat())
        );
        // A profile's initrd depends on which one is chosen.
        let profile = values_of(&[(".cmdline", b"quiet"), (".profile", b"ID=a")]).unwrap_err();
        assert!(matches!(profile, UkiError::Initrd(why) if why.contains("profiles")));
    }

    #[test]
    fn of_a_domain_the_stubs_sections_are_in_rtmr_2_and_what_is_in_memory_alone_is_zeros() {
        let kernel = image(&[(".text", b"kernel")], b"", 0);
        let sections: [(&str, &[u8]); 5] = [
            (".cmdline", b"quiet"),
            (".linux", &kernel),
            (".uname", b"6.12"),
            (".pcrsig", b"signature"),
            (".sbat", b""),
        ];
        let mut bytes = image(&sections, b"", 0);
        // The third section is 10 bytes longer in memory.
        bytes[88 + 160 + 40 * 2 + 8] = 14;
        let values = values("a", &bytes, RegisterSet::Rtmr, &[Bank::Sha384]).unwrap();
        let found: Vec<_> = values
            .events
            .iter()
            .map(|event| (event.pcr, event.kind, &*event.name, event.optional))
            .collect();
        let (application, ipl) = (EventType::APPLICATION, EventType::IPL);
        assert_eq!(
            found,
            [
                (1, application, "a", false),
                (1, application, "kernel of a", true),
                (2, EventType::EVENT_TAG, "initrd of a", false),
                (2, ipl, "name of .linux of a", true),
                (2, ipl, ".linux of a", true),
                (2, ipl, "name of .cmdline of a", true),
                (2, ipl, ".cmdline of a", true),
                (2, ipl, "name of .uname of a", true),
                (2, ipl, ".uname of a", true),
            ]
        );
        let hash = |bytes: &[u8]| vec![Bank::Sha384.hash(&[bytes])];
        assert_eq!(values.events[3].digests, hash(b".linux\0"));
        assert_eq!(values.events[4].digests, hash(&kernel));
        assert_eq!(values.events[8].digests, hash(b"6.12\0\0\0\0\0\0\0\0\0\0"));
        let yaml = from_uki_of_domain("a", &bytes).unwrap();
        assert!(yaml.starts_with("tdx:\n  boot:\n    command-lines:\n"), "{yaml}");
        assert!(
            yaml.contains("      - {rtmr: 2, type: EV_IPL, name: \"name of .linux of a\""),
            "{yaml}"
        );
        // Of a TPM there is nothing of them.
        assert!(!from_uki("a", &bytes, &[Bank::Sha256]).unwrap().contains("EV_IPL"));
        // Longer in memory than any image.
        bytes[88 + 160 + 40 * 2 + 8..][..4].fill(0xff);
        let why = from_uki_of_domain("a", &bytes).unwrap_err();
        assert!(matches!(why, UkiError::Malformed { .. }), "{why}");
        assert!(from_uki("a", &bytes, &[Bank::Sha256]).is_ok());
    }

    #[test]
    fn what_is_no_such_image_is_refused_by_name() {
        let why = |bytes: &[u8]| from_uki("a", bytes, &[Bank::Sha256]).unwrap_err();
        assert!(matches!(why(b""), UkiError::Incomplete { offset: 0, .. }));
        assert!(matches!(why(b"ELF"), UkiError::Malformed { offset: 0, .. }));
        let kernel = image(&[(".text", b"kernel")], b"", 0);
        assert_eq!(why(&kernel), UkiError::NoSection(".linux"));
        assert_eq!(
            why(&image(&[(".linux", &kernel)], b"", 0)),
            UkiError::NoSection(".cmdline")
        );
        for (line, word) in [
            (&b" \n\0"[..], "empty"),
            (b"a\xffb", "UTF-8"),
            (&[b'a'; 5000], "longer"),
        ] {
            let bad = image(&[(".cmdline", line), (".linux", &kernel)], b"", 0);
            assert!(why(&bad).to_string().contains(word), "{word}");
        }
        let good = uki();
        for len in 0..good.len() {
            assert!(
                from_uki("a", &good[..len], &[Bank::Sha256]).is_err(),
                "cut after {len} bytes"
            );
        }
        for at in 0..512 {
            for value in [0, 0x7f, 0xff] {
                let mut changed = good.clone();
                changed[at] = value;
                let _ = from_uki("a", &changed, &[Bank::Sha256]);
            }
        }
    }
}
