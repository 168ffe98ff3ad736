//! Reference values: which content each path may have, and where that is known from. One JSON file a source.
//!
//! Promise: paths stand in rising byte order and none twice, so that one set of values has one file. Paths are bytes:
//! text where they are UTF-8, else `{"hex": "…"}`. Not here: how they are made from images, folders and logs (see
//! `cgpath-refvals`).

use crate::error::{within, without_place};
use crate::place::{At, Step};
use crate::{Error, Excludes, Name, Result};
use cgpath_evidence::text::quoted;
use cgpath_evidence::{Digest, record::lossy_path};
use schemars::JsonSchema;
use serde::de::DeserializeSeed;
use serde::{Deserialize, Deserializer, Serialize, de};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};

/// A path is never longer than this many bytes: the kernel's PATH_MAX.
pub const MAX_PATH_LEN: usize = 4096;
/// A reference file never has more paths than this.
pub const MAX_FILES: usize = 2_000_000;
/// A path never has more digests than this.
pub const MAX_DIGESTS: usize = 4096;
/// A reference file is never longer than this many bytes.
pub const MAX_REFERENCE_LEN: usize = 512 * 1024 * 1024;

/// A reference file never names more layers or packages than this.
pub const MAX_ORIGINS: usize = 65_536;

/// What a set of reference values was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    /// A container image.
    Image,
    /// A folder that holds a root file system.
    Rootfs,
    /// A measurement list: nobody has looked at what is in it.
    Log,
    /// A Keylime runtime policy.
    Keylime,
    /// Debian packages.
    Deb,
    /// A CoRIM of others.
    Corim,
}

impl SourceKind {
    const ALL: [SourceKind; 6] = [
        SourceKind::Image,
        SourceKind::Rootfs,
        SourceKind::Log,
        SourceKind::Keylime,
        SourceKind::Deb,
        SourceKind::Corim,
    ];

    /// Its name in a reference file.
    pub fn name(self) -> &'static str {
        match self {
            SourceKind::Image => "image",
            SourceKind::Rootfs => "rootfs",
            SourceKind::Log => "log",
            SourceKind::Keylime => "keylime",
            SourceKind::Deb => "deb",
            SourceKind::Corim => "corim",
        }
    }

    /// The kind of that name.
    pub fn from_name(name: &str) -> Option<SourceKind> {
        SourceKind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// Where reference values come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Source {
    /// What it is.
    pub kind: SourceKind,
    /// What people call it: an image's name, a folder, a file.
    pub name: String,
    /// The image manifest's or the log file's digest; absent for a folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "digest_schema")]
    pub digest: Option<Digest>,
}

/// Reference values of one source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Where they come from.
    pub source: Source,
    /// Copied from a running machine, not from something that was looked at: verdicts that rest on it repeat this.
    pub learned: bool,
    /// Paths that are not appraised where these values count: a Keylime runtime policy brings its own.
    pub excludes: Excludes,
    /// Accepted digests by path; never an empty set.
    pub files: BTreeMap<Vec<u8>, BTreeSet<Digest>>,
    /// Where each path is from, as far as it is known: [`Origin`]s by number.
    pub origins: Origins,
}

/// Layers of an image, or packages, and which path is from which of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins {
    names: Vec<String>,
    of: BTreeMap<Vec<u8>, u32>,
}

impl Origins {
    /// Says that `path` is from `name`; the last word counts.
    ///
    /// # Errors
    /// Why one more name cannot be taken; for people.
    pub fn set(&mut self, path: Vec<u8>, name: &str) -> core::result::Result<(), String> {
        // Files come origin by origin: the one looked for is nearly always the last.
        let number = match self.names.iter().rposition(|known| known == name) {
            Some(number) => number,
            None if self.names.len() >= MAX_ORIGINS => {
                return Err(format!("more than {MAX_ORIGINS} origins"));
            }
            None => {
                check_origin(name)?;
                self.names.push(name.to_owned());
                self.names.len() - 1
            }
        };
        self.of.insert(path, u32::try_from(number).unwrap_or(u32::MAX));
        Ok(())
    }

    /// Where `path` is from.
    pub fn of(&self, path: &[u8]) -> Option<&str> {
        let number = usize::try_from(*self.of.get(path)?).ok()?;
        self.names.get(number).map(String::as_str)
    }

    /// Which of [`Origins::names`] `path` is from.
    pub(crate) fn number(&self, path: &[u8]) -> Option<u32> {
        self.of.get(path).copied()
    }

    /// Origins as a file has them: names, and the number of each path's.
    ///
    /// # Errors
    /// A name that cannot be one, a number that has no name, with the path that has it; for people.
    pub(crate) fn from_numbers(
        names: Vec<String>,
        of: impl IntoIterator<Item = (Vec<u8>, u32)>,
    ) -> core::result::Result<Origins, (Option<Vec<u8>>, String)> {
        let checked = names.iter().try_for_each(|name| check_origin(name));
        checked.map_err(|why| (None, why))?;
        let of: BTreeMap<Vec<u8>, u32> = of.into_iter().collect();
        if let Some((path, from)) = of.iter().find(|(_, n)| **n as usize >= names.len()) {
            let why = format!(
                "path {}: \"from\" is {from}, and there are {} origins",
                quoted(path),
                names.len()
            );
            return Err((Some(path.clone()), why));
        }
        Ok(Origins { names, of })
    }

    /// All names, in the order in which they were met.
    pub fn names(&self) -> &[String] {
        &self.names
    }
}

fn check_origin(name: &str) -> core::result::Result<(), String> {
    if name.is_empty() || name.len() > 512 || name.chars().any(char::is_control) {
        return Err("an origin is 1 to 512 bytes of text without control characters".into());
    }
    Ok(())
}

/// One line of a reference file.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FileLine {
    /// The path as the measurement list has it: from the container's or the host's root, links resolved. Text, or
    /// {"hex": "…"} where it is not UTF-8.
    #[serde(with = "lossy_path")]
    #[schemars(schema_with = "path_schema")]
    path: Vec<u8>,
    /// Digests of contents that are accepted there.
    #[schemars(schema_with = "crate::form::digests_schema")]
    digests: Vec<Digest>,
    /// Which of `origins` it is from, counted from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from: Option<u32>,
}

/// Reference values: which content each path may have.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(
    title = "ima-cgpath reference values",
    rename = "ReferenceFile",
    extend("$id" = "urn:ima-cgpath:schema:reference:1")
)]
pub(crate) struct ReferenceFile {
    /// Format version: 1.
    #[schemars(extend("const" = 1))]
    version: u32,
    /// Where the values come from.
    source: Source,
    /// Copied from a running machine: nobody has looked at what is in it.
    learned: bool,
    /// Paths that are not appraised where these values count.
    #[serde(default)]
    excludes: Excludes,
    /// Layers of an image, or packages, that the files are from.
    #[serde(default, deserialize_with = "origins")]
    #[schemars(length(max = 65536))]
    origins: Vec<String>,
    /// Files in rising byte order of their paths, none twice.
    #[serde(deserialize_with = "files")]
    #[schemars(with = "Vec<FileLine>")]
    files: Files,
}

/// Digests by path, and the number of the origin by path.
#[derive(Default)]
struct Files {
    digests: BTreeMap<Vec<u8>, BTreeSet<Digest>>,
    from: BTreeMap<Vec<u8>, u32>,
}

fn origins<'de, D: Deserializer<'de>>(d: D) -> core::result::Result<Vec<String>, D::Error> {
    struct Names;
    impl<'de> de::Visitor<'de> for Names {
        type Value = Vec<String>;
        fn expecting(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
            f.write_str("a list of origins")
        }
        fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> core::result::Result<Self::Value, A::Error> {
            let mut names = Vec::new();
            while let Some(name) = seq.next_element::<String>()? {
                if names.len() == MAX_ORIGINS {
                    return Err(de::Error::custom(format!("more than {MAX_ORIGINS} origins")));
                }
                check_origin(&name).map_err(de::Error::custom)?;
                names.push(name);
            }
            Ok(names)
        }
    }
    d.deserialize_seq(Names)
}

fn files<'de, D: Deserializer<'de>>(d: D) -> core::result::Result<Files, D::Error> {
    struct Lines;
    impl<'de> de::Visitor<'de> for Lines {
        type Value = Files;
        fn expecting(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
            f.write_str("a list of files")
        }
        fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> core::result::Result<Self::Value, A::Error> {
            let mut read = Files::default();
            let files = &mut read.digests;
            while let Some(line) = seq.next_element::<FileLine>()? {
                let refuse = |why: String| de::Error::custom(format!("path {}: {why}", quoted(&line.path)));
                if files.len() == MAX_FILES {
                    return Err(refuse(format!("more than {MAX_FILES} files")));
                }
                check_path(&line.path).map_err(refuse)?;
                if files.last_key_value().is_some_and(|(last, _)| *last >= line.path) {
                    return Err(refuse(
                        "not after the one before it in byte order, or there twice".into(),
                    ));
                }
                if line.digests.is_empty() || line.digests.len() > MAX_DIGESTS {
                    return Err(refuse(format!(
                        "{} digests, there must be 1 to {MAX_DIGESTS}",
                        line.digests.len()
                    )));
                }
                if let Some(from) = line.from {
                    read.from.insert(line.path.clone(), from);
                }
                files.insert(line.path, line.digests.into_iter().collect());
            }
            if files.is_empty() {
                return Err(de::Error::custom(
                    "no files: such a reference would accept nothing",
                ));
            }
            Ok(read)
        }
    }
    d.deserialize_seq(Lines)
}

/// A path in a reference: absolute, without NUL, within [`MAX_PATH_LEN`]. Names that the kernel makes up itself
/// (`boot_aggregate`, `kexec-cmdline`) have no slash and are taken too.
fn check_path(path: &[u8]) -> core::result::Result<(), String> {
    if path.is_empty() || path.len() > MAX_PATH_LEN {
        return Err(format!(
            "{} bytes long, there must be 1 to {MAX_PATH_LEN}",
            path.len()
        ));
    }
    if path.contains(&0) {
        return Err("a NUL byte in it".into());
    }
    Ok(())
}

impl Reference {
    /// Whether its paths are as a measurement list writes them, with `_` for each space: values that were copied from a
    /// list, or that another verifier compares with one. See [`Name`].
    pub fn is_listed(&self) -> bool {
        self.learned || matches!(self.source.kind, SourceKind::Log | SourceKind::Keylime)
    }

    /// All paths, by what they are names of.
    pub fn names(&self) -> impl Iterator<Item = Name<'_>> {
        let is_listed = self.is_listed();
        self.files.keys().map(move |path| {
            if is_listed && !path.contains(&b' ') {
                Name::Listed(path)
            } else {
                Name::True(path)
            }
        })
    }

    /// An empty set of values.
    pub fn new(source: Source) -> Reference {
        Reference {
            learned: source.kind == SourceKind::Log,
            source,
            excludes: Excludes::default(),
            files: BTreeMap::new(),
            origins: Origins::default(),
        }
    }

    /// Adds one accepted content.
    ///
    /// # Errors
    /// Why the path or one more digest cannot be taken; for people.
    pub fn insert(&mut self, path: Vec<u8>, digest: Digest) -> core::result::Result<(), String> {
        check_path(&path)?;
        if self.files.len() >= MAX_FILES && !self.files.contains_key(&path) {
            return Err(format!("more than {MAX_FILES} files"));
        }
        let digests = self.files.entry(path).or_default();
        if digests.len() >= MAX_DIGESTS && !digests.contains(&digest) {
            return Err(format!("more than {MAX_DIGESTS} digests"));
        }
        digests.insert(digest);
        Ok(())
    }

    /// Reads a reference file. `file` is what errors call it.
    ///
    /// # Errors
    /// [`Error::Limit`] for a file longer than [`MAX_REFERENCE_LEN`]; [`Error::Syntax`] with line and column for all else.
    pub fn from_json(file: &str, json: &[u8]) -> Result<Reference> {
        within(file, "reference file, in bytes,", json, MAX_REFERENCE_LEN)?;
        let syntax = |line, column, why| Error::Syntax {
            file: file.to_owned(),
            line,
            column,
            why,
        };
        let read: ReferenceFile =
            serde_json::from_slice(json).map_err(|e| syntax(e.line(), e.column(), without_place(&e)))?;
        // What depends on more than one value is said at the one that is at fault.
        let refused = |path: &[Step], why: String| {
            let mut parser = serde_json::Deserializer::from_slice(json);
            let at = At { path, why: &why }.deserialize(&mut parser).err();
            let (line, column) = at.map_or((0, 0), |e| (e.line(), e.column()));
            syntax(line, column, why)
        };
        if read.version != 1 {
            let why = format!("version {} is not known here, 1 is", read.version);
            return Err(refused(&[Step::Of("version")], why));
        }
        if read.source.kind == SourceKind::Log && !read.learned {
            let why = "values from a log are learned: \"learned\" must be true".into();
            return Err(refused(&[Step::Of("learned")], why));
        }
        let digests = &read.files.digests;
        let origins =
            Origins::from_numbers(read.origins, read.files.from).map_err(|(path, why)| match path {
                // Files stand in the order of their paths.
                Some(path) => {
                    let file = digests.range::<[u8], _>((Unbounded, Excluded(&path[..]))).count();
                    refused(&[Step::Of("files"), Step::Nth(file), Step::Of("from")], why)
                }
                None => refused(&[Step::Of("origins")], why),
            })?;
        Ok(Reference {
            source: read.source,
            learned: read.learned,
            excludes: read.excludes,
            files: read.files.digests,
            origins,
        })
    }

    /// Writes a reference file, one path a line, so that two of them can be compared with `diff`.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write_json(&self, out: &mut impl std::io::Write) -> std::io::Result<()> {
        writeln!(out, "{{\"version\":1,")?;
        writeln!(out, " \"source\":{},", serde_json::to_string(&self.source)?)?;
        writeln!(out, " \"learned\":{},", self.learned)?;
        if !self.excludes.is_empty() {
            writeln!(out, " \"excludes\":{},", serde_json::to_string(&self.excludes)?)?;
        }
        if !self.origins.names.is_empty() {
            writeln!(
                out,
                " \"origins\":{},",
                serde_json::to_string(&self.origins.names)?
            )?;
        }
        write!(out, " \"files\":[")?;
        for (n, (path, digests)) in self.files.iter().enumerate() {
            let line = FileLine {
                path: path.clone(),
                digests: digests.iter().cloned().collect(),
                from: self.origins.of.get(path).copied(),
            };
            write!(
                out,
                "{}\n  {}",
                if n == 0 { "" } else { "," },
                serde_json::to_string(&line)?
            )?;
        }
        writeln!(out, "\n ]}}")
    }
}

fn digest_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let list = crate::form::digests_schema(generator);
    let one = list.get("items").cloned().unwrap_or_default();
    schemars::Schema::try_from(one).unwrap_or_default()
}

fn path_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "anyOf": [
            { "type": "string", "minLength": 1, "maxLength": 4096 },
            {
                "type": "object",
                "properties": { "hex": { "type": "string", "pattern": "^([0-9a-f]{2})+$" } },
                "required": ["hex"],
                "additionalProperties": false,
            },
        ],
    })
}
