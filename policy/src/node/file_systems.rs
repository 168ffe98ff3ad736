//! File systems, by the magic numbers that records have: those whose content this kernel alone changes, and
//! those that a policy permits beside them (V9, V11).
//!
//! Promise: what is not known to be this machine's own is not, a number that nobody here knows included.
//! Not here: which records are looked at (see `cgpath-appraisal`).

use cgpath_evidence::{
    record::{OVERLAYFS_MAGIC, TMPFS_MAGIC},
    text::quoted,
};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de};
use std::borrow::Cow;

/// File systems on this machine's own disks or in its memory, and those that its kernel makes up:
/// include/uapi/linux/magic.h, and where a name stands behind the number, there.
const LOCAL: &[u64] = &[
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // xfs
    0x9123_683e, // btrfs
    0xf2f5_2010, // f2fs
    0xca45_1a4e, // bcachefs: fs/bcachefs/bcachefs_format.h
    0x2fc1_2fc1, // zfs: OpenZFS, include/sys/fs/zfs.h
    TMPFS_MAGIC, // memfds and devtmpfs, too
    0x8584_58f6, // ramfs
    0x9584_58f6, // hugetlbfs
    0x5345_434d, // secretmem
    0x7371_7368, // squashfs
    0xe0f5_e1e2, // erofs
    0x28cd_3d45, // cramfs
    0x7275,      // romfs
    0x9660,      // isofs
    0x1501_3346, // udf
    0x4d44,      // vfat, msdos
    0x2011_bab0, // exfat
    0x5265_4973, // reiserfs
    0x3153_464a, // jfs: fs/jfs/jfs_superblock.h
    0x3434,      // nilfs2
    0x2405_1905, // ubifs: fs/ubifs/ubifs.h
    0x72b6,      // jffs2
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x6e73_6673, // nsfs
    0xcafe_4a11, // bpf
    0xde5e_81e4, // efivarfs
    0x0904_1934, // anonymous inodes
];

/// Names for policies and people: file systems on which a server, another machine or a process can change
/// content, and overlayfs where the layer is not known.
const NAMED: &[(&str, &[u64])] = &[
    // Virtiofs has the same number.
    ("fuse", &[0x6573_5546]),
    ("nfs", &[0x6969]),
    // fs/smb/common/smb1pdu.h and smb2pdu.h.
    ("smb", &[0xff53_4d42, 0xfe53_4d42]),
    ("9p", &[0x0102_1997]),
    // fs/ceph/super.h.
    ("ceph", &[0x00c3_6400]),
    // The kernel's own and OpenAFS'.
    ("afs", &[0x6b41_4653, 0x5346_414f]),
    ("coda", &[0x7375_7245]),
    // fs/orangefs/orangefs-kernel.h.
    ("orangefs", &[0x2003_0528]),
    ("ocfs2", &[0x7461_636f]),
    // include/uapi/linux/gfs2_ondisk.h.
    ("gfs2", &[0x0116_1970]),
    // Lustre, lustre/include/uapi/linux/lustre/lustre_user.h.
    ("lustre", &[0x0bd0_0bd0]),
    // fs/vboxsf/super.c.
    ("vboxsf", &[0x786f_4256]),
    ("overlay", &[OVERLAYFS_MAGIC]),
];

/// Whether this machine's kernel alone changes what is on such a file system.
pub fn is_local(magic: u64) -> bool {
    LOCAL.contains(&magic)
}

/// What a file system is called; its number where nobody here has a name for it.
pub fn file_system_name(magic: u64) -> Cow<'static, str> {
    let named = NAMED.iter().find(|(_, magics)| magics.contains(&magic));
    named.map_or_else(|| format!("{magic:#x}").into(), |(name, _)| (*name).into())
}

/// A file system that a policy permits, by its name or its magic number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSystem {
    text: String,
    magics: Vec<u64>,
}

impl FileSystem {
    /// Reads a name, or a number as `0x6969`.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn parse(text: &str) -> core::result::Result<FileSystem, String> {
        let number = || {
            let digits = text.strip_prefix("0x")?;
            let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            u64::from_str_radix(digits, 16).ok().filter(|_| is_hex)
        };
        let magics = match NAMED.iter().find(|(name, _)| *name == text) {
            Some((_, magics)) => magics.to_vec(),
            None => number().into_iter().collect(),
        };
        if magics.is_empty() {
            let names: Vec<&str> = NAMED.iter().map(|(name, _)| *name).collect();
            return Err(format!(
                "{} is no file system that needs a permission: {}, or the magic number of another one, as \
                 0x6969",
                quoted(text),
                names.join(", ")
            ));
        }
        if let Some(magic) = magics.iter().find(|magic| is_local(**magic)) {
            return Err(format!("{magic:#x} is permitted in any case"));
        }
        let text = text.to_owned();
        Ok(FileSystem { text, magics })
    }

    /// Whether it is the file system of this magic number.
    pub fn is(&self, magic: u64) -> bool {
        self.magics.contains(&magic)
    }
}

impl core::fmt::Display for FileSystem {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for FileSystem {
    fn deserialize<D: Deserializer<'de>>(d: D) -> core::result::Result<Self, D::Error> {
        FileSystem::parse(&String::deserialize(d)?).map_err(de::Error::custom)
    }
}

impl JsonSchema for FileSystem {
    fn schema_name() -> Cow<'static, str> {
        "FileSystem".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let names: Vec<&str> = NAMED.iter().map(|(name, _)| *name).collect();
        schemars::json_schema!({
            "type": "string",
            "description": "A file system by its name, or by its magic number as 0x6969.",
            "anyOf": [{ "enum": names }, { "pattern": "^0x[0-9a-fA-F]{1,16}$" }],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_is_local_has_a_name_or_is_known_by_its_number() {
        for (name, magics) in NAMED {
            let one = FileSystem::parse(name).unwrap();
            for magic in *magics {
                assert!(one.is(*magic) && !is_local(*magic), "{name}");
                assert_eq!(file_system_name(*magic), *name);
                assert!(FileSystem::parse(&format!("{magic:#x}")).unwrap().is(*magic));
            }
        }
        assert!(is_local(0xef53) && !is_local(0) && !is_local(0x1234_5678));
        assert_eq!(file_system_name(0x1234_5678), "0x12345678");
        let other = FileSystem::parse("0x12345678").unwrap();
        assert!(other.is(0x1234_5678) && !other.is(0x6969));
        assert_eq!(other.to_string(), "0x12345678");
    }

    #[test]
    fn what_is_no_file_system_or_needs_no_permission_is_refused() {
        for (text, why) in [
            ("", "fuse, nfs"),
            ("NFS", "fuse, nfs"),
            ("ext4", "fuse, nfs"),
            ("6969", "fuse, nfs"),
            ("0x", "fuse, nfs"),
            ("0x+6969", "fuse, nfs"),
            ("0x10000000000000000", "fuse, nfs"),
            ("0xef53", "in any case"),
        ] {
            let error = FileSystem::parse(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
