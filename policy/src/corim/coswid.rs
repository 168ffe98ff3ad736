//! CoSWID (RFC 9393): the files of a payload, each with the hash of its content.

use super::{
    MAX_PATHS_LEN, Result, attribute,
    cbor::{
        CborReader,
        Key::{Number, Text},
    },
    comid::{TagId, digest, identifier},
    read::other,
};
use crate::reference::{MAX_DIGESTS, MAX_FILES, MAX_ORIGINS, MAX_PATH_LEN, Origins};
use crate::{Reference, Source, SourceKind};
use cgpath_evidence::{Bank, Digest, text::quoted};

/// One tag and its files.
pub(super) struct Coswid<'b> {
    pub(super) id: TagId<'b>,
    pub(super) reference: Reference,
}

/// What of a tag is not its files.
#[derive(Default)]
struct Head<'b> {
    id: Option<TagId<'b>>,
    name: Option<&'b str>,
    kind: Option<SourceKind>,
    digest: Option<Digest>,
    is_learned: bool,
    origins: Vec<String>,
}

/// Reads a tag. `file` is the manifest's file, `paths` counts the bytes of all its paths.
pub(super) fn read<'b>(r: &mut CborReader<'b>, file: &[u8], paths: &mut usize) -> Result<Coswid<'b>> {
    let mut head = Head::default();
    let mut files = Files {
        reference: Reference::new(Source {
            kind: SourceKind::Corim,
            name: String::new(),
            digest: None,
        }),
        from: Vec::new(),
        paths,
    };
    r.map(|r, key| match key {
        Number(0) => r.field("tag-id", |r| {
            head.id = Some(identifier(r)?);
            Ok(())
        }),
        Number(1) => r.field("software-name", |r| {
            head.name = Some(r.text()?);
            Ok(())
        }),
        // Entities, links, meta data, media, tag version, version and its scheme, language: for people.
        Number(2 | 4 | 5 | 10 | 12..=15) => r.skip(),
        Number(3) => Err(r.unsupported("evidence", "a payload (6) says what must be there")),
        Number(6) => r.field("payload", |r| files.collection(r)),
        Number(n @ (8 | 9 | 11)) => match r.boolean()? {
            false => Ok(()),
            true => Err(r.unsupported(
                match n {
                    8 => "a corpus tag",
                    9 => "a patch tag",
                    _ => "a supplemental tag",
                },
                "a tag of software as it is installed is",
            )),
        },
        Text(attribute::KIND) => r.field(attribute::KIND, |r| {
            let kind = SourceKind::from_name(r.text()?);
            head.kind = Some(kind.ok_or_else(|| r.malformed("no kind of source"))?);
            Ok(())
        }),
        Text(attribute::DIGEST) => r.field(attribute::DIGEST, |r| {
            let digest = Digest::parse(r.text()?);
            head.digest = Some(digest.ok_or_else(|| r.malformed("no digest"))?);
            Ok(())
        }),
        Text(attribute::LEARNED) => r.field(attribute::LEARNED, |r| match r.integer()? {
            1 => {
                head.is_learned = true;
                Ok(())
            }
            _ => Err(r.malformed("it is 1, or left out")),
        }),
        Text(attribute::ORIGINS) => r.field(attribute::ORIGINS, |r| {
            r.one_or_more(MAX_ORIGINS, |r| {
                head.origins.push(r.text()?.to_owned());
                Ok(())
            })
        }),
        key => other(r, key),
    })?;
    let Files {
        mut reference, from, ..
    } = files;
    let id = head.id.ok_or_else(|| r.malformed("no tag-id (key 0)"))?;
    let name = head.name.ok_or_else(|| r.malformed("no software-name (key 1)"))?;
    if reference.files.is_empty() {
        return Err(r.malformed("no files: such a tag would accept nothing"));
    }
    reference.source.name = name.to_owned();
    reference.source.digest = match head.kind {
        Some(kind) => {
            reference.source.kind = kind;
            head.digest
        }
        None => Some(Bank::Sha256.hash(&[file])),
    };
    reference.learned = head.is_learned;
    if reference.source.kind == SourceKind::Log && !head.is_learned {
        return Err(r.malformed("values from a log are learned, and this tag does not say so"));
    }
    reference.origins = Origins::from_numbers(head.origins, from).map_err(|(_, why)| r.malformed(why))?;
    Ok(Coswid { id, reference })
}

struct Files<'p> {
    reference: Reference,
    from: Vec<(Vec<u8>, u32)>,
    paths: &'p mut usize,
}

impl Files<'_> {
    /// `payload-entry`.
    fn collection(&mut self, r: &mut CborReader<'_>) -> Result<()> {
        r.map(|r, key| match key {
            Number(16 | 17) => self.elements(r, key, None),
            Number(18 | 19) => Err(r.unsupported(key, "files and directories are")),
            Number(15) => r.skip(),
            key => other(r, key),
        })
    }

    /// `path-elements-group`: directories (16) or files (17), below `parent`.
    fn elements(
        &mut self,
        r: &mut CborReader<'_>,
        key: super::cbor::Key<'_>,
        parent: Option<&str>,
    ) -> Result<()> {
        match key {
            Number(16) => r.field("directory", |r| {
                r.one_or_more(MAX_FILES, |r| self.directory(r, parent))
            }),
            _ => r.field("file", |r| r.one_or_more(MAX_FILES * 2, |r| self.file(r, parent))),
        }
    }

    /// `directory-entry`.
    fn directory(&mut self, r: &mut CborReader<'_>, parent: Option<&str>) -> Result<()> {
        let mut item = Item::default();
        let mut folder = None;
        r.map(|r, key| match key {
            // Name, location and root (23 to 25) come first in deterministic form.
            Number(26) => r.field("path-elements", |r| {
                let path = item.path(r, parent)?;
                let path = folder.insert(path);
                r.map(|r, key| match key {
                    Number(16 | 17) => self.elements(r, key, Some(path)),
                    key => Err(r.unsupported(key, "directories (16) and files (17) are")),
                })
            }),
            key => item.read(r, key),
        })?;
        match folder {
            Some(_) => Ok(()),
            // An empty folder accepts nothing; its name must be one all the same.
            None => item.path(r, parent).map(drop),
        }
    }

    /// `file-entry`.
    fn file(&mut self, r: &mut CborReader<'_>, parent: Option<&str>) -> Result<()> {
        let mut item = Item::default();
        let mut hash = None;
        let mut from = None;
        r.map(|r, key| match key {
            Number(7) => r.field("hash", |r| {
                hash = Some(digest(r)?);
                Ok(())
            }),
            // Size and version: for people.
            Number(20 | 21) => r.skip(),
            Text(attribute::FROM) => r.field(attribute::FROM, |r| {
                let n = u32::try_from(r.integer()?).ok();
                from = Some(n.ok_or_else(|| r.malformed("no number of an origin"))?);
                Ok(())
            }),
            key => item.read(r, key),
        })?;
        let path = item.path(r, parent)?.into_bytes();
        let Some(hash) = hash else {
            return Err(r.unsupported("a file without a hash", "it says nothing of the content"));
        };
        let known = self.reference.files.get(&path);
        if known.is_some_and(|known| known.contains(&hash)) {
            return Err(r.malformed("the same file with the same hash twice"));
        }
        if known.is_some_and(|known| known.len() >= MAX_DIGESTS) {
            return Err(r.limit("hashes of one path", MAX_DIGESTS as u64 + 1, MAX_DIGESTS));
        }
        if known.is_none() {
            *self.paths += path.len();
            if *self.paths > MAX_PATHS_LEN {
                return Err(r.limit("all paths, in bytes", *self.paths as u64, MAX_PATHS_LEN));
            }
            if let Some(from) = from {
                self.from.push((path.clone(), from));
            }
        }
        self.reference.insert(path, hash).map_err(|why| r.malformed(why))
    }
}

/// `filesystem-item`.
#[derive(Default)]
struct Item<'b> {
    location: Option<&'b str>,
    name: Option<&'b str>,
    root: Option<&'b str>,
}

impl<'b> Item<'b> {
    fn read(&mut self, r: &mut CborReader<'b>, key: super::cbor::Key<'_>) -> Result<()> {
        match key {
            // Whether it is needed for the software to run, and the language.
            Number(22 | 15) => r.skip()?,
            Number(23) => self.location = Some(r.text()?),
            Number(24) => self.name = Some(r.text()?),
            Number(25) => self.root = Some(r.text()?),
            key => other(r, key)?,
        }
        Ok(())
    }

    /// The path: of its folder, or its root, then its location, then its name.
    fn path(&self, r: &CborReader<'_>, parent: Option<&str>) -> Result<String> {
        let name = self.name.ok_or_else(|| r.malformed("no fs-name (key 24)"))?;
        if name.contains('/') {
            return Err(r.malformed("a fs-name with a slash: the folder belongs into location (23)"));
        }
        let location = self.location.unwrap_or_default();
        let location = location.strip_suffix('/').unwrap_or(location);
        let (begin, location) = match (parent, self.root, location.strip_prefix('/')) {
            (Some(parent), None, None) => (format!("{parent}/"), location),
            (Some(_), ..) => {
                return Err(r.malformed("an absolute path below another folder"));
            }
            (None, Some("/"), None) => ("/".to_owned(), location),
            (None, None, Some(rest)) => ("/".to_owned(), rest),
            (None, None, None) => (String::new(), location),
            (None, Some(root), _) => {
                return Err(r.unsupported(
                    format!("root {}", quoted(root)),
                    "\"/\" is, with a relative location",
                ));
            }
        };
        let parts = location.split('/').filter(|_| !location.is_empty());
        if parts.chain([name]).any(|part| matches!(part, "" | "." | "..")) {
            return Err(r.malformed("a path with an empty part, `.` or `..`"));
        }
        let path = match location {
            "" => format!("{begin}{name}"),
            _ => format!("{begin}{location}/{name}"),
        };
        // No file is reached through a longer one, and folders would multiply it.
        if path.len() > MAX_PATH_LEN {
            return Err(r.limit("a path, in bytes", path.len() as u64, MAX_PATH_LEN));
        }
        Ok(path)
    }
}
