//! What systemd-stub hands to the kernel of the sections of its image: the command line and the initrd, by
//! its version.
//!
//! Promise: nothing of what lies beside the image on the disk is guessed; an image that leaves the outcome
//! open is an error.
//! Not here: how sections are found (see [`crate::uki`]).
//!
//! Source: systemd's src/boot (before 257: src/boot/efi): stub.c, util.c `mangle_stub_cmdline`, efi-string.c
//! `xstrn8_to_16`, cpio.c `pack_cpio_literal`, `pack_cpio_trailer`; systemd-stub(7). The kernel's EFI stub
//! measures the one as LoadOptions and the other as "Linux initrd".

use crate::uki::{Image, UkiError};
use cgpath_policy::MAX_COMMAND_LINE;

/// Before the version in the section .sdmagic.
const MAGIC: &str = "LoaderInfo: systemd-stub ";
/// The end of each archive, which is a literal of its own there.
const TRAILER: &[u8] = b"070701\
    00000000000000000000000000000000000000010000000000000000\
    000000000000000000000000000000000000000B00000000TRAILER!!!\0\0\0\0";

/// The stub of an image.
pub(super) struct Stub {
    /// Major and minor version; `None` where the image does not say.
    version: Option<(u32, u32)>,
}

impl Stub {
    pub(super) fn of(image: &Image) -> Stub {
        let version = || {
            let magic = core::str::from_utf8(image.section(".sdmagic").ok()?).ok()?;
            let (_, version) = magic.split_once(MAGIC)?;
            let number = |text: &str| {
                let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
                Some((text.get(..end)?.parse().ok()?, text.get(end..)?.to_owned()))
            };
            let (major, rest) = number(version)?;
            let minor = rest
                .strip_prefix('.')
                .and_then(number)
                .map_or(0, |(minor, _)| minor);
            Some((major, minor))
        };
        Stub { version: version() }
    }

    /// Whether it is at least this version. One that does not say its version is taken for a new one.
    fn is_at_least(&self, major: u32, minor: u32) -> bool {
        self.version.is_none_or(|version| version >= (major, minor))
    }

    /// The command lines of which it hands over one. Each is as `/proc/cmdline` shows it, and one where the
    /// version is known to take off white space at both ends and to make control characters spaces. An older
    /// one hands the bytes over as they are, unless its distribution has changed that (RHEL 9's 252 did).
    pub(super) fn command_lines(&self, section: &[u8]) -> Result<Vec<String>, UkiError> {
        let text = section.split(|b| *b == 0).next().unwrap_or_default();
        let text = core::str::from_utf8(text).map_err(|_| UkiError::CommandLine("is not UTF-8"))?;
        // What has no place in one unit of UTF-16 is left out.
        let given: String = text.chars().filter(|c| u32::from(*c) <= 0xffff).collect();
        let is_space = |c: char| c <= ' ' || c == '\x7f';
        let trimmed = given.trim_matches(is_space);
        let spaced: String = trimmed
            .chars()
            .map(|c| if is_space(c) { ' ' } else { c })
            .collect();
        if spaced.is_empty() {
            return Err(UkiError::CommandLine(
                "is empty: the image has no command line of its own",
            ));
        }
        if given.len() > MAX_COMMAND_LINE {
            return Err(UkiError::CommandLine("is longer than 4096 bytes"));
        }
        let mut lines = vec![spaced];
        // The kernel reads up to a newline.
        let raw = given.strip_suffix('\n').unwrap_or(&given);
        if !self.is_at_least(252, 5) && lines.iter().all(|line| line != raw) {
            lines.push(raw.to_owned());
        }
        Ok(lines)
    }

    /// Whether the firmware always measures the kernel as an image of its own. Up to 251 the kernel is
    /// entered without being loaded; from 253 on the firmware is kept from judging it, which keeps most from
    /// measuring it; from 258 on the stub loads it by itself (systemd pull request 37372). The image that
    /// holds it has been measured in any case.
    pub(super) fn measures_the_kernel(&self) -> bool {
        self.version.is_some_and(|(major, _)| major == 252)
    }

    /// The initrd; `None` where there is none.
    pub(super) fn initrd(&self, image: &Image) -> Result<Option<Vec<u8>>, UkiError> {
        let section = |name| image.section(name).ok().filter(|bytes| !bytes.is_empty());
        let is_new = self.is_at_least(257, 0);
        if is_new && section(".profile").is_some() {
            return Err(UkiError::Initrd(
                "the image has profiles, and its initrd is another one for each: learn the values of each \
                 from a boot (`cgpath policy from-boot`)",
            ));
        }
        let mut parts: Vec<Vec<u8>> = Vec::new();
        if let Some(microcode) = section(".ucode").filter(|_| self.is_at_least(256, 0)) {
            parts.push(microcode.to_vec());
        }
        parts.extend(section(".initrd").map(<[u8]>::to_vec));
        for (name, path, since) in [
            (".pcrsig", "tpm2-pcr-signature.json", 252),
            (".pcrpkey", "tpm2-pcr-public-key.pem", 252),
            (".osrel", "os-release", 257),
        ] {
            let content = section(name).filter(|_| self.is_at_least(since, 0));
            parts.extend(content.map(|content| archive(path, content)));
        }
        if parts.len() > 1 {
            parts.iter_mut().for_each(pad);
        }
        Ok(Some(parts.concat()).filter(|initrd| !initrd.is_empty()))
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// A cpio archive (newc) with one file in `/.extra`.
fn archive(name: &str, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut add = |inode: usize, mode: usize, path: &str, content: &[u8]| {
        let words = [
            inode,
            mode,
            0,
            0,
            1,
            0,
            content.len(),
            0,
            0,
            0,
            0,
            path.len() + 1,
            0,
        ];
        out.extend(b"070701");
        for word in words {
            out.extend(format!("{word:08x}").as_bytes());
        }
        out.extend(path.as_bytes());
        out.push(0);
        pad(&mut out);
        out.extend(content);
        pad(&mut out);
    };
    add(1, 0o40555, ".extra", b"");
    add(2, 0o100444, &format!(".extra/{name}"), content);
    out.extend(TRAILER);
    out
}
