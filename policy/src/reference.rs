//! Reference values: which content each path may have, and where that is known from. One JSON file a source.
//!
//! Promise: paths stand in rising byte order and none twice, so that one set of values has one file. Paths are bytes:
//! text where they are UTF-8, else `{"hex": "…"}`. Not here: how they are made from images, folders and logs (see
//! `generate`).

use crate::{Error, Result};
use evidence::{Digest, record::lossy_path};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};
use std::collections::{BTreeMap, BTreeSet};

/// A path is never longer than this many bytes: the kernel's PATH_MAX.
pub const MAX_PATH_LEN: usize = 4096;
/// A reference file never has more paths than this.
pub const MAX_FILES: usize = 2_000_000;
/// A path never has more digests than this.
pub const MAX_DIGESTS: usize = 4096;
/// A reference file is never longer than this many bytes.
pub const MAX_REFERENCE_LEN: usize = 512 * 1024 * 1024;

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
    /// Copied from a running machine, not from something that was judged: verdicts that rest on it repeat this.
    pub learned: bool,
    /// Accepted digests by path; never an empty set.
    pub files: BTreeMap<Vec<u8>, BTreeSet<Digest>>,
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
    #[schemars(schema_with = "crate::node::digests_schema")]
    digests: Vec<Digest>,
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
    /// Files in rising byte order of their paths, none twice.
    #[serde(deserialize_with = "files")]
    #[schemars(with = "Vec<FileLine>")]
    files: BTreeMap<Vec<u8>, BTreeSet<Digest>>,
}

fn files<'de, D: Deserializer<'de>>(
    d: D,
) -> core::result::Result<BTreeMap<Vec<u8>, BTreeSet<Digest>>, D::Error> {
    struct Files;
    impl<'de> de::Visitor<'de> for Files {
        type Value = BTreeMap<Vec<u8>, BTreeSet<Digest>>;
        fn expecting(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
            f.write_str("a list of files")
        }
        fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> core::result::Result<Self::Value, A::Error> {
            let mut files: Self::Value = BTreeMap::new();
            while let Some(line) = seq.next_element::<FileLine>()? {
                let shown = String::from_utf8_lossy(&line.path).into_owned();
                let refuse = |why: String| de::Error::custom(format!("path {shown:?}: {why}"));
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
                files.insert(line.path, line.digests.into_iter().collect());
            }
            if files.is_empty() {
                return Err(de::Error::custom(
                    "no files: such a reference would accept nothing",
                ));
            }
            Ok(files)
        }
    }
    d.deserialize_seq(Files)
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
    /// An empty set of values.
    pub fn new(source: Source) -> Reference {
        Reference {
            learned: source.kind == SourceKind::Log,
            source,
            files: BTreeMap::new(),
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
        if json.len() > MAX_REFERENCE_LEN {
            return Err(Error::Limit {
                file: file.to_owned(),
                what: "reference file, in bytes,",
                found: json.len() as u64,
                limit: MAX_REFERENCE_LEN as u64,
            });
        }
        let syntax = |line, column, why| Error::Syntax {
            file: file.to_owned(),
            line,
            column,
            why,
        };
        let read: ReferenceFile = serde_json::from_slice(json).map_err(|e| {
            let mut why = e.to_string();
            // The parser repeats the place at the end of its message.
            if let Some(at) = why.rfind(" at line ") {
                why.truncate(at);
            }
            syntax(e.line(), e.column(), why)
        })?;
        if read.version != 1 {
            return Err(syntax(
                0,
                0,
                format!("version {} is not known here, 1 is", read.version),
            ));
        }
        if read.source.kind == SourceKind::Log && !read.learned {
            return Err(syntax(
                0,
                0,
                "values from a log are learned: \"learned\" must be true".into(),
            ));
        }
        Ok(Reference {
            source: read.source,
            learned: read.learned,
            files: read.files,
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
        write!(out, " \"files\":[")?;
        for (n, (path, digests)) in self.files.iter().enumerate() {
            let line = FileLine {
                path: path.clone(),
                digests: digests.iter().cloned().collect(),
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
    let list = crate::node::digests_schema(generator);
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
