//! Reference values from Debian packages: what their own archives hold, file by file.
//!
//! dpkg's `md5sums` are not used: they are MD5, and made by who made the package. Promise: each path is the
//! one that the kernel sees on a system whose `/bin`, `/sbin` and `/lib*` are links into `/usr`, unless that
//! is switched off. Not here: what maintainer scripts, diversions, alternatives and configuration make of a
//! system (the scripts themselves stand where dpkg runs them); signatures of repositories.
//! Source: deb(5), deb-control(5), and of dpkg lib/dpkg/dpkg.h and src/main/unpack.c.

use crate::image::{MAX_LAYER_LEN, normal};
use crate::members::{Member, Members};
use crate::stream::{Decompress, Hashing};
use crate::tarball::{Kind, TarReader};
use crate::tree::Tree;
use crate::{Digester, Error, HashOptions, Progress, Result};
use cgpath_evidence::{Bank, Digest, text::quoted};
use cgpath_policy::reference::Reference;
use std::collections::BTreeMap;
use std::io::{BufReader, Read};

/// Links that a merged system has. Source: Debian's usrmerge and base-files.
const MERGED: [(&str, &str); 6] = [
    ("bin", "usr/bin"),
    ("sbin", "usr/sbin"),
    ("lib", "usr/lib"),
    ("lib32", "usr/lib32"),
    ("lib64", "usr/lib64"),
    ("libx32", "usr/libx32"),
];
/// A control file is never longer than this many bytes.
const MAX_CONTROL_LEN: u64 = 1024 * 1024;
/// A package never has more files beside it than this.
const MAX_CONTROL_FILES: usize = 4096;

/// Scripts that dpkg runs, and debconf's, which it runs from where they lie before preinst and postinst.
/// Source: deb-preinst(5), deb-postinst(5), deb-prerm(5), deb-postrm(5); debconf's `frontend`.
const SCRIPTS: [&str; 5] = ["preinst", "postinst", "prerm", "postrm", "config"];
/// Where the scripts of an installed package are, and those of one that is being unpacked.
const INFO: &str = "/var/lib/dpkg/info/";
const UNPACKING: &str = "/var/lib/dpkg/tmp.ci/";

/// A package as its control file names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// `Package`.
    pub name: String,
    /// `Version`.
    pub version: String,
    /// `Architecture`.
    pub architecture: String,
}

impl core::fmt::Display for Package {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "deb {} {} {}", self.name, self.version, self.architecture)
    }
}

/// Adds the files of one package to `reference`; what stands there already stays accepted. `name` is what
/// errors call the archive. Gives the package and how many files it has.
///
/// # Errors
/// What is not a binary package of format 2.0, and those of the reader.
pub fn add_package(
    name: &str,
    archive: impl Read,
    is_merged: bool,
    reference: &mut Reference,
    progress: &mut Progress,
    options: &mut HashOptions<'_>,
) -> Result<(Package, usize)> {
    let malformed = |why: String| Error::Malformed {
        what: name.to_owned(),
        offset: 0,
        why,
    };
    let mut archive = Members::new(name, archive)?;
    let mut package: Option<(Package, Scripts)> = None;
    let mut is_first = true;
    while let Some(Member { name: member, size }) = archive.next()? {
        if is_first {
            let mut version = Vec::new();
            let read = archive.by_ref().take(16).read_to_end(&mut version);
            if member != "debian-binary" || read.is_err() || !version.starts_with(b"2.") {
                return Err(malformed(
                    "not a Debian package: it does not begin with `debian-binary` 2.x".into(),
                ));
            }
            is_first = false;
        } else if member.starts_with("control.tar") {
            package = Some(control(
                &format!("{name}: {member}"),
                &mut archive,
                options.banks,
            )?);
        } else if member.starts_with("data.tar") {
            let (package, scripts) =
                package.ok_or_else(|| malformed("`data.tar` comes before `control.tar`".into()))?;
            let links = if is_merged { &MERGED[..] } else { &[] };
            let mut tree = Tree::for_packages(options.banks, links);
            tree.name_next(package.to_string());
            let what = format!("{name}: {member}");
            data(&what, &mut archive, size, &mut tree, progress, options.progress)?;
            let files = tree.add_to(&what, reference)?;
            for (path, digests) in scripts {
                let refused = |why| Error::Unsupported {
                    what: name.to_owned(),
                    why,
                };
                for digest in digests {
                    reference.insert(path.clone(), digest).map_err(refused)?;
                }
                reference
                    .origins
                    .set(path, &package.to_string())
                    .map_err(refused)?;
            }
            return Ok((package, files));
        }
    }
    Err(malformed("there is no `data.tar` in it".into()))
}

/// Maintainer scripts where they are run, with their digests.
type Scripts = Vec<(Vec<u8>, Vec<Digest>)>;

fn control(what: &str, entry: impl Read, banks: &[Bank]) -> Result<(Package, Scripts)> {
    let mut tar = TarReader::new(what, Decompress::new(what, BufReader::new(entry))?);
    let mut package = None;
    let mut files: BTreeMap<Vec<u8>, Vec<Digest>> = BTreeMap::new();
    while let Some(entry) = tar.next()? {
        let member = normal(&[], &entry.path);
        let is_control = member == b"control";
        let is_script = SCRIPTS.iter().any(|script| script.as_bytes() == member);
        let digests = match entry.kind {
            Kind::File => {
                if is_control && entry.size > MAX_CONTROL_LEN {
                    return Err(Error::Limit {
                        what: what.to_owned(),
                        item: "control file, in bytes,",
                        found: entry.size,
                        limit: MAX_CONTROL_LEN,
                    });
                }
                let (mut digester, mut text) = (Digester::new(banks), Vec::new());
                tar.each_piece(&mut [0; 4096], |piece| {
                    digester.update(piece);
                    if is_control {
                        text.extend(piece);
                    }
                })?;
                if is_control {
                    let bad = |why: String| tar.malformed(entry.offset, why);
                    package = Some(fields(&String::from_utf8_lossy(&text)).map_err(bad)?);
                }
                digester.finish()
            }
            Kind::HardLink if !is_control => {
                let target = files.get(&normal(&[], &entry.link)).cloned();
                target.ok_or_else(|| {
                    let (path, link) = (quoted(&entry.path), quoted(&entry.link));
                    let why = format!("{path} is a hard link to {link}, which is not there");
                    tar.malformed(entry.offset, why)
                })?
            }
            _ if is_control || is_script => {
                let why = format!(
                    "{} is no regular file but a link or another kind: what dpkg would take for it is not in \
                     the package",
                    quoted(&entry.path)
                );
                return Err(tar.malformed(entry.offset, why));
            }
            _ => {
                files.remove(&member);
                continue;
            }
        };
        if files.len() == MAX_CONTROL_FILES {
            return Err(Error::Limit {
                what: what.to_owned(),
                item: "number of control files",
                found: files.len() as u64 + 1,
                limit: MAX_CONTROL_FILES as u64,
            });
        }
        files.insert(member, digests);
    }
    let (package, stem) = package.ok_or_else(|| Error::Missing {
        what: what.to_owned(),
        missing: "control".into(),
        hint: "build the package with dpkg-deb",
    })?;
    let mut placed = Vec::new();
    for script in SCRIPTS {
        if let Some(digests) = files.remove(script.as_bytes()) {
            placed.push((format!("{UNPACKING}{script}").into_bytes(), digests.clone()));
            placed.push((format!("{INFO}{stem}.{script}").into_bytes(), digests));
        }
    }
    Ok((package, placed))
}

/// The package of a control file, and what the names of its scripts begin with in [`INFO`].
fn fields(text: &str) -> core::result::Result<(Package, String), String> {
    let field = |key: &str| {
        let value = text
            .lines()
            .find_map(|line| {
                // deb-control(5): names of fields are not case-sensitive; dpkg takes blanks before the colon
                // (lib/dpkg/parse.c, `parse_stanza`). A line that goes on begins with a blank.
                let (name, value) = line.split_once(':')?;
                let name = name.trim_end();
                name.eq_ignore_ascii_case(key).then_some(value)
            })
            .map(str::trim);
        let is_clean = |v: &&str| !v.is_empty() && v.len() <= 128 && v.chars().all(|c| c.is_ascii_graphic());
        let value = value.filter(is_clean).map(str::to_owned);
        value.ok_or_else(|| format!("the control file has no usable field {key}"))
    };
    let found = Package {
        name: field("Package")?,
        version: field("Version")?,
        architecture: field("Architecture")?,
    };
    // dpkg knows packages in lower case (`pkg_hash_find_set`), and keeps several architectures of such a one
    // apart (`pkg_infodb_get_file`).
    let name = found.name.to_ascii_lowercase();
    let is_same = field("Multi-Arch").is_ok_and(|value| value.eq_ignore_ascii_case("same"));
    let stem = if is_same {
        format!("{name}:{}", found.architecture)
    } else {
        name
    };
    Ok((found, stem))
}

fn data(
    what: &str,
    entry: impl Read,
    length: u64,
    tree: &mut Tree<'_>,
    progress: &mut Progress,
    report: &mut dyn FnMut(Progress),
) -> Result<()> {
    let mut packed = BufReader::with_capacity(128 * 1024, Hashing::new(entry, MAX_LAYER_LEN));
    let mut unpacked = Decompress::new(what, &mut packed)?;
    let mut tar = TarReader::new(what, &mut unpacked);
    tree.apply_archive(&mut tar, progress, report)?;
    tar.expect_end_marker()?;
    // What comes after the archive's end marker is padding and the checksums of the compression.
    let io = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::UnexpectedEof => cut(what),
        _ => Error::Io {
            what: what.to_owned(),
            offset: 0,
            source,
        },
    };
    std::io::copy(&mut unpacked, &mut std::io::sink()).map_err(io)?;
    drop(unpacked);
    let (_, found) = packed.into_inner().finish().map_err(io)?;
    if found < length {
        return Err(cut(what));
    }
    Ok(())
}

fn cut(what: &str) -> Error {
    Error::Incomplete {
        what: what.to_owned(),
        offset: 0,
        item: "the archive".into(),
    }
}
