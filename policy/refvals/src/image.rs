//! Reference values of a container image: OCI layouts (archive or folder) and `docker save` archives.
//!
//! Promise: every byte that counts was checked against the digest that names it, from the manifest down to
//! each layer's uncompressed content (`diff_ids`). Not here: whether the manifest itself is to be believed;
//! its digest stands in the result. Formats: OCI image specification 1.1 ("Image Layout", "Image Index",
//! "Image Manifest", "Image Configuration"), and Docker's image specification v1.2 ("Combined Image JSON +
//! Filesystem Changeset Format").

pub use crate::platform::Platform;
use crate::stream::{Decompress, Hashing};
use crate::tarball::{Kind, TarReader};
use crate::tree::Tree;
use crate::{Error, HashOptions, Progress, Result};
use cgpath_evidence::text::{library_message, quoted};
use cgpath_evidence::{Bank, Digest};
use cgpath_policy::reference::{Reference, Source, SourceKind};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};

/// An index, manifest or configuration is never longer than this many bytes.
const MAX_JSON_LEN: u64 = 8 * 1024 * 1024;
/// A layer is never longer than this many bytes, packed or unpacked.
pub(super) const MAX_LAYER_LEN: u64 = 256 * 1024 * 1024 * 1024;
/// Parts of an image archive; each blob is one.
const MAX_PARTS: usize = 65_536;
/// An index may name another index, so deep at most.
const MAX_NESTING: usize = 4;

/// Where the parts of an image are read from.
pub trait Store {
    /// What errors call the image: its file or folder.
    fn name(&self) -> &str;

    /// Opens a part by its path inside of the archive or folder (`index.json`, `blobs/sha256/…`); `None` if
    /// there is none. `path` has no `..` and no empty component.
    ///
    /// # Errors
    /// When it is there and cannot be opened.
    fn open(&mut self, path: &str) -> Result<Option<Box<dyn Read + '_>>>;
}

/// Which image of an archive is meant.
#[derive(Debug, Clone, Default)]
pub struct Choice {
    /// Its name, tag or manifest digest; may be left out where there is only one.
    pub image: Option<String>,
    /// Its platform; may be left out: then it is this machine's, where there are several.
    pub platform: Option<Platform>,
}

/// A host's file that the pod sees at another path (a bind mount).
#[derive(Debug, Clone)]
pub struct Mount {
    /// Where the container sees it.
    pub path: Vec<u8>,
    /// Its digests, one for each of the algorithms.
    pub digests: Vec<Digest>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    digest: String,
    size: u64,
    #[serde(default)]
    platform: Option<Platform>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

impl Descriptor {
    fn names(&self) -> impl Iterator<Item = &str> {
        ["io.containerd.image.name", "org.opencontainers.image.ref.name"]
            .into_iter()
            .filter_map(|key| self.annotations.get(key).map(String::as_str))
    }

    /// Build tools put attestations beside the images, as manifests of no platform.
    fn is_attestation(&self) -> bool {
        self.annotations.contains_key("vnd.docker.reference.type")
            || self.platform.as_ref().is_some_and(|p| p.os == "unknown")
    }

    fn shown(&self) -> String {
        let name = self.names().next().unwrap_or(&self.digest);
        match &self.platform {
            Some(platform) => format!("{name} ({platform})"),
            None => name.to_owned(),
        }
    }
}

/// An image index or an image manifest: distinguished by what is in it, since media types are often left out.
#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
}

#[derive(Deserialize)]
struct Configuration {
    #[serde(default)]
    os: Option<String>,
    #[serde(default)]
    architecture: Option<String>,
    #[serde(default)]
    variant: Option<String>,
    rootfs: RootFs,
}

impl Configuration {
    fn platform(&self) -> Option<Platform> {
        Some(Platform {
            os: self.os.clone()?,
            architecture: self.architecture.clone()?,
            variant: self.variant.clone(),
        })
    }
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

/// One image of a `docker save` archive.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// A layer as its manifest has it: where its bytes are, and what they must be.
struct Layer {
    path: String,
    blob: Option<(Digest, u64)>,
    diff_id: Digest,
}

/// The digests that name one image, and what else is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// What the archive or folder calls it; nothing where it does not.
    pub names: Vec<String>,
    /// The image indexes in it through which the manifest was found, the outermost first. The layout's own
    /// `index.json` is none: no registry has it.
    pub indexes: Vec<Digest>,
    /// Its manifest; a docker archive has none.
    pub manifest: Option<Digest>,
    /// Its configuration.
    pub configuration: Digest,
    /// Its platform, as the configuration says.
    pub platform: Option<Platform>,
}

/// Reference values of one image: every regular file of all layers together, and of `mounts`.
///
/// # Errors
/// What cannot be read as an image, bytes that are not what their digest says, no image or several that fit
/// `choice`.
pub fn from_image(
    store: &mut dyn Store,
    choice: &Choice,
    mounts: &[Mount],
    options: &mut HashOptions<'_>,
) -> Result<Reference> {
    identified(store, choice, mounts, options).map(|(reference, _)| reference)
}

/// The same, and which image it is.
///
/// # Errors
/// As [`from_image`].
pub fn identified(
    store: &mut dyn Store,
    choice: &Choice,
    mounts: &[Mount],
    options: &mut HashOptions<'_>,
) -> Result<(Reference, Identity)> {
    let what = store.name().to_owned();
    let Found {
        source,
        identity,
        layers,
    } = if let Some(index) = json::<Document>(store, "index.json", None)? {
        oci(store, index, choice)?
    } else if let Some(saved) = json::<Vec<Saved>>(store, "manifest.json", None)? {
        docker(store, saved, choice)?
    } else {
        return Err(Error::Missing {
            what,
            missing: "index.json (OCI layout) or manifest.json (docker archive)".into(),
            hint: "make the archive with `skopeo copy … oci-archive:FILE`, `docker save` or `ctr images \
                export`",
        });
    };
    let mut tree = Tree::new(options.banks);
    let mut progress = Progress::default();
    for layer in &layers {
        apply(store, layer, &mut tree, &mut progress, options.progress)?;
    }
    for mount in mounts {
        tree.mount(&mount.path, mount.digests.clone())
            .map_err(|why| Error::Unsupported {
                what: format!("mount at {}", quoted(&mount.path)),
                why,
            })?;
    }
    let reference = tree.into_reference(&what, Reference::new(source))?;
    Ok((reference, identity))
}

/// An image that was found, before its layers are read.
struct Found {
    source: Source,
    identity: Identity,
    layers: Vec<Layer>,
}

fn oci(store: &mut dyn Store, index: Document, choice: &Choice) -> Result<Found> {
    let what = store.name().to_owned();
    let mut candidates = index.manifests.unwrap_or_default();
    if let Some(image) = &choice.image {
        let all: Vec<String> = candidates.iter().map(Descriptor::shown).collect();
        candidates.retain(|d| d.digest == *image || d.names().any(|name| name == image));
        if candidates.is_empty() {
            return Err(Error::Choose {
                what,
                why: format!("no image {}", quoted(image)),
                choices: all,
            });
        }
    }
    let mut name = None;
    let mut indexes = Vec::new();
    for _ in 0..MAX_NESTING {
        let chosen = choose(&what, candidates, choice)?;
        name = name.or_else(|| chosen.names().next().map(str::to_owned));
        let digest = sha256(&what, &chosen.digest)?;
        let path = blob_path(&digest);
        let document: Document =
            json(store, &path, Some((&digest, chosen.size)))?.ok_or_else(|| missing(&what, &path))?;
        match (document.manifests, document.config, document.layers) {
            (Some(manifests), _, _) => {
                candidates = manifests;
                indexes.push(digest);
            }
            (None, Some(config), Some(layers)) => {
                let config_digest = sha256(&what, &config.digest)?;
                let path = blob_path(&config_digest);
                let configuration: Configuration = json(store, &path, Some((&config_digest, config.size)))?
                    .ok_or_else(|| missing(&what, &path))?;
                let diff_ids = diff_ids(&what, &configuration, choice, layers.len())?;
                let layers = layers.iter().zip(diff_ids).map(|(layer, diff_id)| {
                    let digest = sha256(&what, &layer.digest)?;
                    Ok(Layer {
                        path: blob_path(&digest),
                        blob: Some((digest, layer.size)),
                        diff_id,
                    })
                });
                let identity = Identity {
                    names: name.iter().cloned().collect(),
                    indexes,
                    manifest: Some(digest.clone()),
                    configuration: config_digest,
                    platform: configuration.platform(),
                };
                let layers = layers.collect::<Result<_>>()?;
                let source = Source {
                    kind: SourceKind::Image,
                    name: name.unwrap_or(what),
                    digest: Some(digest),
                };
                return Ok(Found {
                    source,
                    identity,
                    layers,
                });
            }
            _ => {
                return Err(Error::Unsupported {
                    what: format!("{what}: {path}"),
                    why: "neither an image index nor an image manifest with config and layers".into(),
                });
            }
        }
    }
    Err(Error::Unsupported {
        what,
        why: format!("image indexes nested deeper than {MAX_NESTING}"),
    })
}

/// The one descriptor that is meant.
fn choose(what: &str, mut candidates: Vec<Descriptor>, choice: &Choice) -> Result<Descriptor> {
    let all: Vec<String> = candidates.iter().map(Descriptor::shown).collect();
    candidates.retain(|d| !d.is_attestation());
    if candidates.len() > 1 || choice.platform.is_some() {
        let platform = choice.platform.clone().unwrap_or_else(Platform::this);
        // Without a platform in the descriptor, the configuration decides.
        if candidates.iter().any(|d| d.platform.is_some()) {
            let fit = |d: &Descriptor| d.platform.as_ref().and_then(|p| platform.fit(p));
            let best = candidates.iter().filter_map(fit).min();
            candidates.retain(|d| best.is_some() && fit(d) == best);
        }
        if candidates.is_empty() {
            let why = format!("no image for platform {platform}");
            return Err(Error::Choose {
                what: what.to_owned(),
                why,
                choices: all,
            });
        }
    }
    // One image under several names is one.
    let mut seen = BTreeSet::new();
    candidates.retain(|d| seen.insert(d.digest.clone()));
    match candidates.len() {
        1 => Ok(candidates.remove(0)),
        0 => Err(Error::Choose {
            what: what.to_owned(),
            why: "no image in it".into(),
            choices: all,
        }),
        n => {
            let why = format!("{n} images fit: say which one is meant, by its name or digest");
            Err(Error::Choose {
                what: what.to_owned(),
                why,
                choices: all,
            })
        }
    }
}

fn docker(store: &mut dyn Store, mut images: Vec<Saved>, choice: &Choice) -> Result<Found> {
    let what = store.name().to_owned();
    let tags = |image: &Saved| image.repo_tags.clone().unwrap_or_default();
    let all: Vec<String> = images.iter().flat_map(tags).collect();
    if let Some(wanted) = &choice.image {
        images.retain(|image| tags(image).contains(wanted));
    }
    if images.len() != 1 {
        let why = match &choice.image {
            Some(wanted) => format!("{} images fit {}", images.len(), quoted(wanted)),
            None => format!("{} images: say which one is meant", images.len()),
        };
        return Err(Error::Choose {
            what,
            why,
            choices: all,
        });
    }
    let image = images.remove(0);
    let path = clean(&what, &image.config)?;
    let bytes = part(store, &path, MAX_JSON_LEN)?.ok_or_else(|| missing(&what, &path))?;
    let digest = Bank::Sha256.hash(&[&bytes]);
    // The name is the digest in all forms of this archive that were ever written.
    let stem = path.rsplit('/').next().unwrap_or(&path).trim_end_matches(".json");
    if stem.len() == 64 && stem.bytes().all(|b| b.is_ascii_hexdigit()) && stem != hex::encode(digest.bytes())
    {
        let (expected, found) = (format!("sha256:{stem}"), digest.to_string());
        return Err(Error::WrongDigest {
            what: format!("{what}: {path}"),
            expected,
            found,
        });
    }
    let configuration: Configuration = parse(&what, &path, &bytes)?;
    let diff_ids = diff_ids(&what, &configuration, choice, image.layers.len())?;
    let layers = image.layers.iter().zip(diff_ids).map(|(layer, diff_id)| {
        Ok(Layer {
            path: clean(&what, layer)?,
            blob: None,
            diff_id,
        })
    });
    let layers = layers.collect::<Result<_>>()?;
    let identity = Identity {
        names: tags(&image),
        indexes: Vec::new(),
        manifest: None,
        configuration: digest.clone(),
        platform: configuration.platform(),
    };
    let source = Source {
        kind: SourceKind::Image,
        name: identity.names.first().cloned().unwrap_or(what),
        digest: Some(digest),
    };
    Ok(Found {
        source,
        identity,
        layers,
    })
}

/// The digests of the unpacked layers, one for each of `layers`; also checks the platform where one was asked
/// for.
fn diff_ids(
    what: &str,
    configuration: &Configuration,
    choice: &Choice,
    layers: usize,
) -> Result<Vec<Digest>> {
    if let (Some(wanted), Some(found)) = (&choice.platform, configuration.platform())
        && wanted.fit(&found).is_none()
    {
        let why = format!("no image for platform {wanted}");
        return Err(Error::Choose {
            what: what.to_owned(),
            why,
            choices: vec![found.to_string()],
        });
    }
    let ids = &configuration.rootfs.diff_ids;
    if ids.len() != layers {
        return Err(Error::Malformed {
            what: what.to_owned(),
            offset: 0,
            why: format!(
                "the configuration names {} layers, the manifest {layers}",
                ids.len()
            ),
        });
    }
    ids.iter().map(|id| sha256(what, id)).collect()
}

fn apply(
    store: &mut dyn Store,
    layer: &Layer,
    tree: &mut Tree<'_>,
    progress: &mut Progress,
    report: &mut dyn FnMut(Progress),
) -> Result<()> {
    let archive = store.name().to_owned();
    let what = format!("{archive}: layer {}", layer.path);
    let reader = store
        .open(&layer.path)?
        .ok_or_else(|| missing(&archive, &layer.path))?;
    let io = |source| Error::Io {
        what: what.clone(),
        offset: 0,
        source,
    };
    let mut packed = BufReader::with_capacity(128 * 1024, Hashing::new(reader, MAX_LAYER_LEN));
    let mut unpacked = Hashing::new(Decompress::new(&what, &mut packed)?, MAX_LAYER_LEN);
    tree.name_next(format!("layer {}", layer.diff_id));
    tree.apply_layer(&mut TarReader::of_layer(&what, &mut unpacked), progress, report)?;
    let (diff_id, _) = unpacked.finish().map_err(io)?;
    let (digest, length) = packed.into_inner().finish().map_err(io)?;
    let wrong = |expected: String, found: String| {
        Err(Error::WrongDigest {
            what: what.clone(),
            expected,
            found,
        })
    };
    if let Some((expected, size)) = &layer.blob {
        if digest != *expected {
            return wrong(expected.to_string(), digest.to_string());
        }
        if length != *size {
            return wrong(format!("{size} bytes"), format!("{length} bytes"));
        }
    }
    if diff_id != layer.diff_id {
        return wrong(format!("{} (diff_id)", layer.diff_id), diff_id.to_string());
    }
    Ok(())
}

fn missing(what: &str, path: &str) -> Error {
    Error::Missing {
        what: what.to_owned(),
        missing: path.to_owned(),
        hint: "the archive is incomplete, or was exported for another platform: export it again",
    }
}

/// All bytes of one part.
fn part(store: &mut dyn Store, path: &str, limit: u64) -> Result<Option<Vec<u8>>> {
    let what = format!("{}: {path}", store.name());
    let Some(reader) = store.open(path)? else {
        return Ok(None);
    };
    let mut bytes = Vec::new();
    reader
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| Error::Io {
            what: what.clone(),
            offset: bytes.len() as u64,
            source,
        })?;
    if bytes.len() as u64 > limit {
        return Err(Error::Limit {
            what,
            item: "its length in bytes",
            found: bytes.len() as u64,
            limit,
        });
    }
    Ok(Some(bytes))
}

fn json<T: for<'de> Deserialize<'de>>(
    store: &mut dyn Store,
    path: &str,
    expected: Option<(&Digest, u64)>,
) -> Result<Option<T>> {
    let what = store.name().to_owned();
    let Some(bytes) = part(store, path, MAX_JSON_LEN)? else {
        return Ok(None);
    };
    if let Some((digest, size)) = expected {
        let found = Bank::Sha256.hash(&[&bytes]);
        if found != *digest || bytes.len() as u64 != size {
            return Err(Error::WrongDigest {
                what: format!("{what}: {path}"),
                expected: format!("{digest} of {size} bytes"),
                found: format!("{found} of {} bytes", bytes.len()),
            });
        }
    }
    parse(&what, path, &bytes).map(Some)
}

fn parse<T: for<'de> Deserialize<'de>>(what: &str, path: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| {
        // The parser gives a line and a column; an offset is what the other errors have.
        let before: usize = bytes
            .split_inclusive(|b| *b == b'\n')
            .take(e.line().saturating_sub(1))
            .map(<[u8]>::len)
            .sum();
        let offset = (before + e.column().saturating_sub(1)) as u64;
        Error::Malformed {
            what: format!("{what}: {path}"),
            offset,
            why: library_message(&e),
        }
    })
}

fn sha256(what: &str, text: &str) -> Result<Digest> {
    Digest::parse(text)
        .filter(|d| d.bank() == Bank::Sha256 && d.to_string() == text)
        .ok_or_else(|| Error::Unsupported {
            what: what.to_owned(),
            why: format!("digest {}: only sha256 in lower-case hex is read", quoted(text)),
        })
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", hex::encode(digest.bytes()))
}

/// A path inside of an archive as [`Store::open`] wants it.
fn clean(what: &str, path: &str) -> Result<String> {
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
    if parts.is_empty() || parts.contains(&"..") {
        return Err(Error::Unsupported {
            what: what.to_owned(),
            why: format!("{} does not name a part inside of the archive", quoted(path)),
        });
    }
    Ok(parts.join("/"))
}

/// The parts of an image in a tar archive that can be read at any place.
pub struct TarStore<R> {
    name: String,
    reader: R,
    parts: BTreeMap<Vec<u8>, Part>,
}

#[derive(Clone)]
enum Part {
    /// Offset and length of the content.
    File(u64, u64),
    /// Old `docker save` archives link equal layers to each other.
    Link(Vec<u8>),
}

/// Writes an archive without its compression to `to`, where it has one; false where it has none, and nothing
/// is written. Parts of a compressed archive cannot be read at any place, as [`TarStore`] must.
///
/// # Errors
/// A compression that is not read, an archive that is longer than any layer may be, and those of reader and
/// writer.
pub fn decompress(name: &str, archive: impl BufRead, to: &mut impl Write) -> Result<bool> {
    let source = Decompress::new(name, archive)?;
    if matches!(source, Decompress::Plain(_)) {
        return Ok(false);
    }
    let mut source = Hashing::new(source, MAX_LAYER_LEN);
    io::copy(&mut source, to).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::Incomplete {
            what: name.to_owned(),
            offset: source.count(),
            item: "the compressed archive".into(),
        },
        _ => Error::Io {
            what: name.to_owned(),
            offset: source.count(),
            source: error,
        },
    })?;
    Ok(true)
}

impl<R: Read + Seek> TarStore<R> {
    /// Reads all headers of the archive. `name` is what errors call it.
    ///
    /// # Errors
    /// What is not an uncompressed tar archive, and those of the reader.
    pub fn new(name: &str, mut reader: R) -> Result<TarStore<R>> {
        let io = |offset| {
            move |source| Error::Io {
                what: name.to_owned(),
                offset,
                source,
            }
        };
        reader.seek(SeekFrom::Start(0)).map_err(io(0))?;
        let mut parts = BTreeMap::new();
        let mut buffered = BufReader::with_capacity(128 * 1024, &mut reader);
        if !matches!(Decompress::new(name, &mut buffered)?, Decompress::Plain(_)) {
            return Err(Error::Unsupported {
                what: name.to_owned(),
                why:
                    "a compressed archive, of which no part can be read by itself: unpack it first (gunzip, \
                    zstd -d)"
                        .into(),
            });
        }
        let mut tar = TarReader::new(name, buffered);
        while let Some(entry) = tar.next()? {
            let path = normal(&[], &entry.path);
            let part = match entry.kind {
                Kind::File if entry.is_sparse => {
                    return Err(
                        tar.malformed(entry.offset, "a part of an image archive that is a sparse file")
                    );
                }
                Kind::File => Part::File(entry.content, entry.size),
                Kind::HardLink => Part::Link(normal(&[], &entry.link)),
                Kind::Symlink => {
                    let folder = path
                        .iter()
                        .rposition(|b| *b == b'/')
                        .map_or(&[][..], |at| &path[..at]);
                    Part::Link(normal(folder, &entry.link))
                }
                Kind::Directory | Kind::Special | Kind::Whiteout | Kind::Global => continue,
            };
            if parts.len() == MAX_PARTS {
                return Err(Error::Limit {
                    what: name.to_owned(),
                    item: "the number of its parts",
                    found: parts.len() as u64 + 1,
                    limit: MAX_PARTS as u64,
                });
            }
            parts.insert(path, part);
        }
        Ok(TarStore {
            name: name.to_owned(),
            reader,
            parts,
        })
    }
}

impl<R: Read + Seek> Store for TarStore<R> {
    fn name(&self) -> &str {
        &self.name
    }

    fn open(&mut self, path: &str) -> Result<Option<Box<dyn Read + '_>>> {
        let mut path = path.as_bytes().to_vec();
        for _ in 0..16 {
            match self.parts.get(&path) {
                None => return Ok(None),
                Some(Part::Link(target)) => path = target.clone(),
                Some(Part::File(offset, size)) => {
                    let (offset, size) = (*offset, *size);
                    self.reader
                        .seek(SeekFrom::Start(offset))
                        .map_err(|source: io::Error| Error::Io {
                            what: self.name.clone(),
                            offset,
                            source,
                        })?;
                    return Ok(Some(Box::new((&mut self.reader).take(size))));
                }
            }
        }
        Err(Error::Unsupported {
            what: self.name.clone(),
            why: "links between its parts in a circle".into(),
        })
    }
}

/// `path` seen from `folder`, without `.` and `..`; what would leave the archive stays at its top.
pub(super) fn normal(folder: &[u8], path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in folder.split(|b| *b == b'/').chain(path.split(|b| *b == b'/')) {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            other => parts.push(other),
        }
    }
    parts.join(&b'/')
}
