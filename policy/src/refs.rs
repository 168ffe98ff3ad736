//! The index of images that policies of version 2 take values from: the files of one folder, as `cgpath
//! refs` writes them.
//!
//! ```text
//! digests/sha256-HEX.json   which images this digest names: an index's, a manifest's or a configuration's
//! images/sha256-HEX.json    an image by its configuration: all its digests, and its layers
//! layers/sha256-HEX.json    reference values: what an image has of a layer, by the SHA-256 of the file
//! ```
//! Promises: an image is found by each of its digests and by nothing else; images that have the same of a
//! layer share its file. Not here: the folder itself (see `cgpath refs`), how values are made of an image
//! (see `cgpath-refvals`).

use crate::error::{within, without_place};
use crate::form::{MAX_ITEMS, version_one};
use crate::{Error, Reference, Result, Source, SourceKind};
use cgpath_evidence::text::quoted;
use cgpath_evidence::{Bank, Digest};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A file of the index that is no layer's is never longer than this many bytes.
pub const MAX_INDEX_LEN: usize = 4 * 1024 * 1024;
/// A name of an image is never longer than this many bytes.
pub const MAX_IMAGE_NAME: usize = 1024;

/// What the file is called that says which images a digest names.
pub fn digest_file(digest: &Digest) -> String {
    file("digests", digest)
}

/// What the file of the image with this configuration is called.
pub fn image_file(configuration: &Digest) -> String {
    file("images", configuration)
}

/// What the file of reference values with this SHA-256 is called.
pub fn values_file(values: &Digest) -> String {
    file("layers", values)
}

fn file(folder: &str, digest: &Digest) -> String {
    let name = digest.to_string().replacen(':', "-", 1);
    format!("{folder}/{name}.json")
}

/// An image of one platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    #[serde(deserialize_with = "version_one")]
    version: u32,
    /// SHA-256 of its configuration; what runtimes call the image's id.
    pub configuration: Digest,
    /// What people call it, as far as it is known.
    pub names: BTreeSet<String>,
    /// Its manifests: an image whose layers are packed in another way has another one.
    pub manifests: BTreeSet<Digest>,
    /// Image indexes that name one of its manifests.
    pub indexes: BTreeSet<Digest>,
    /// Its platform: `linux/amd64`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// The layers of which it has a file, the lowest first.
    pub layers: Vec<Layer>,
}

/// What an image has of one of its layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// SHA-256 of the layer, unpacked (`diff_id`).
    pub layer: Digest,
    /// SHA-256 of the reference file: see [`values_file`].
    pub values: Digest,
}

/// Which images a digest names: one, or of an index that of each platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Images {
    #[serde(deserialize_with = "version_one")]
    version: u32,
    /// Their configurations.
    pub images: BTreeSet<Digest>,
}

impl Image {
    /// An image of which no more than this is known.
    pub fn new(configuration: Digest) -> Image {
        Image {
            version: 1,
            configuration,
            names: BTreeSet::new(),
            manifests: BTreeSet::new(),
            indexes: BTreeSet::new(),
            platform: None,
            layers: Vec::new(),
        }
    }

    /// All digests that name it.
    pub fn digests(&self) -> impl Iterator<Item = &Digest> {
        let own = core::iter::once(&self.configuration);
        own.chain(&self.manifests).chain(&self.indexes)
    }

    /// Whether a digest names it.
    pub fn is_named(&self, digest: &Digest) -> bool {
        self.digests().any(|own| own == digest)
    }

    /// Takes what else is known of the same image. Its layers are those of `other`.
    pub fn update(&mut self, other: Image) {
        self.names.extend(other.names);
        self.manifests.extend(other.manifests);
        self.indexes.extend(other.indexes);
        self.platform = other.platform.or(self.platform.take());
        self.layers = other.layers;
    }

    /// Reads an image's file. `file` is what errors call it.
    ///
    /// # Errors
    /// [`Error::Limit`] for a file longer than [`MAX_INDEX_LEN`], [`Error::Syntax`] for what is no image, and
    /// [`Error::Meaning`] for one that cannot be.
    pub fn from_json(file: &str, json: &[u8]) -> Result<Image> {
        let image: Image = read(file, json)?;
        let refused = |key: &str, why: String| meaning(file, key, why);
        let others = image.layers.iter().flat_map(|of| [&of.layer, &of.values]);
        if let Some(digest) = image.digests().chain(others).find(|d| d.bank() != Bank::Sha256) {
            return Err(refused("configuration", format!("{digest} is no SHA-256")));
        }
        let count = [
            image.names.len(),
            image.manifests.len(),
            image.indexes.len(),
            image.layers.len(),
        ];
        if image.layers.is_empty() || count.iter().any(|n| *n > MAX_ITEMS) {
            let why = format!("an image has 1 to {MAX_ITEMS} layers, and as many names and digests at most");
            return Err(refused("layers", why));
        }
        let platform = image.platform.iter();
        match image.names.iter().chain(platform).find(|name| !is_name(name)) {
            Some(name) => Err(refused("names", format!("{} is no name", quoted(name)))),
            None => Ok(image),
        }
    }

    /// What [`Image::from_json`] reads.
    pub fn to_json(&self) -> String {
        json(self)
    }
}

impl Images {
    /// Images with these configurations.
    pub fn new(images: BTreeSet<Digest>) -> Images {
        Images { version: 1, images }
    }

    /// Reads such a file. `file` is what errors call it.
    ///
    /// # Errors
    /// As [`Image::from_json`].
    pub fn from_json(file: &str, json: &[u8]) -> Result<Images> {
        let images: Images = read(file, json)?;
        let is_sha256 = images.images.iter().all(|digest| digest.bank() == Bank::Sha256);
        match (1..=MAX_ITEMS).contains(&images.images.len()) && is_sha256 {
            true => Ok(images),
            false => {
                let why = format!("it names 1 to {MAX_ITEMS} images by their SHA-256");
                Err(meaning(file, "images", why))
            }
        }
    }

    /// What [`Images::from_json`] reads.
    pub fn to_json(&self) -> String {
        json(self)
    }
}

/// Reads what an image has of a layer. `file` is what errors call it, and `values` the SHA-256 that its name
/// says.
///
/// # Errors
/// [`Error::Meaning`] for another file's bytes, and for values that no image has of a layer; else as
/// [`Reference::from_json`].
pub fn values_from_json(file: &str, values: &Digest, json: &[u8]) -> Result<Reference> {
    let refused = |why: &str| meaning(file, "layers", format!("it {why}"));
    if Bank::Sha256.hash(&[json]) != *values {
        return Err(refused(NOT_ITS_NAME));
    }
    let reference = Reference::from_json(file, json)?;
    match misfit(&reference) {
        Some(why) => Err(refused(why)),
        None => Ok(reference),
    }
}

/// Of a file of values with another hash than its name has.
pub(crate) const NOT_ITS_NAME: &str = "is not what its name says";

/// Why no image has these values of a layer. Excludes would hide paths in every policy that names the image,
/// and no output would say so.
pub(crate) fn misfit(values: &Reference) -> Option<&'static str> {
    let is_image = values.source.kind == SourceKind::Image;
    let fits = is_image && !values.learned && values.excludes.is_empty();
    (!fits).then_some(
        "is not what an image has of a layer: such values are of kind `image`, not learned, and without \
         excludes",
    )
}

/// Whether a text can be the name of an image that people are shown: 1 to [`MAX_IMAGE_NAME`] bytes without
/// control characters.
pub fn is_name(text: &str) -> bool {
    (1..=MAX_IMAGE_NAME).contains(&text.len()) && !text.chars().any(char::is_control)
}

fn read<T: DeserializeOwned>(file: &str, json: &[u8]) -> Result<T> {
    within(
        file,
        "file of the index of images, in bytes,",
        json,
        MAX_INDEX_LEN,
    )?;
    serde_json::from_slice(json).map_err(|error| Error::Syntax {
        file: file.to_owned(),
        line: error.line(),
        column: error.column(),
        why: without_place(&error),
    })
}

fn meaning(file: &str, key: &str, why: String) -> Error {
    Error::Meaning {
        file: file.to_owned(),
        key: key.to_owned(),
        why,
        hint: "add the image to the index again: `cgpath refs add`".to_owned(),
    }
}

/// Sets and texts alone: they have a form in JSON.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

/// The values of an image by the layers that its files are from, the lowest layer first: reference values of
/// their own, which say nothing of the image, so that images share them.
///
/// # Errors
/// A path that is from no layer; for people.
pub fn by_layers(reference: &Reference) -> core::result::Result<Vec<(Digest, Reference)>, String> {
    let layer = |name: &String| -> Result<(Digest, Reference), String> {
        let digest = name.strip_prefix("layer ").and_then(Digest::parse);
        let digest = digest.ok_or_else(|| format!("{} is no layer", quoted(name)))?;
        let source = Source {
            kind: SourceKind::Image,
            name: format!("layer {digest}"),
            digest: None,
        };
        Ok((digest, Reference::new(source)))
    };
    let names = reference.origins.names().iter();
    let mut parts = names.map(layer).collect::<Result<Vec<_>, String>>()?;
    for (path, digests) in &reference.files {
        let number = reference.origins.number(path);
        let number = number.and_then(|number| usize::try_from(number).ok());
        let part = number.and_then(|number| parts.get_mut(number));
        let (_, part) = part.ok_or_else(|| format!("path {} is from no layer", quoted(path)))?;
        part.files.insert(path.clone(), digests.clone());
    }
    parts.retain(|(_, part)| !part.files.is_empty());
    Ok(parts)
}
