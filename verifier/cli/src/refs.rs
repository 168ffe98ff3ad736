//! `cgpath refs`: the index of images that policies of version 2 take values from.
//!
//! Promises: what a file names is there before the file is, so that a reader finds whole images; two commands
//! that change one index wait for each other. Not here: what stands in its files (`cgpath_policy::refs`), how
//! values are made of an image (`cgpath_refvals`).

use crate::input::replace;
use crate::output::{Failure, Output, Status, count, escape};
use crate::policy::files::{Bar, open_image};
use crate::policy::{algorithm, failure, platform, reference, refused};
use cgpath_evidence::{Bank, Digest};
use cgpath_policy::refs::{
    Image, Images, Layer, MAX_IMAGE_NAME, MAX_INDEX_LEN, by_layers, digest_file, image_file, values_file,
};
use cgpath_policy::{Allowed, Reference};
use cgpath_refvals::HashOptions;
use cgpath_refvals::image::{self, Identity, Platform};
use cgpath_service::files::read_bounded;
use clap::{Args, Subcommand};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

/// The folders of the index.
const FOLDERS: [&str; 3] = ["digests", "images", "layers"];
/// What those who change the index hold.
const LOCK: &str = "lock";

#[derive(Subcommand)]
pub enum RefsCommand {
    /// Adds an image: from an archive, an OCI layout's folder, or containerd's store
    #[command(after_help = "Examples:
  skopeo copy --all docker://registry.example/shop/web:7 oci:web:7
  cgpath refs add refs web
  cgpath refs add refs app.tar --image app:1.2
  sudo cgpath refs add refs /var/lib/containerd --image registry.example/shop/web@sha256:…

The digest of a multi-platform image's index is known only from a source that has the index: copy with \
--all. One platform is added at a time.")]
    Add(Add),
    /// Lists the images, each with its digests
    List {
        /// The index's folder
        dir: PathBuf,
    },
    /// Shows an image: its digests and its layers, and which of these others share
    Show(One),
    /// Removes an image, and the layers that no other image has
    Remove(One),
}

#[derive(Args)]
pub struct Add {
    /// The index's folder, made where it is missing
    dir: PathBuf,
    /// The image: a tar archive, packed with gzip, xz or zstd or not, the folder of an OCI layout, or
    /// containerd's (`/var/lib/containerd`)
    source: PathBuf,
    /// Which image, where there are several: name, tag or manifest digest; of containerd's NAME@DIGEST
    #[arg(long, value_name = "NAME")]
    image: Option<String>,
    /// Which platform, where there are several; this machine's by default
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_parser = platform)]
    platform: Option<Platform>,
    /// Digest algorithm, as `ima_hash=` on the node; may be given several times
    #[arg(long = "alg", value_name = "ALGORITHM", default_value = "sha256", value_parser = algorithm)]
    algorithms: Vec<Bank>,
}

#[derive(Args)]
pub struct One {
    /// The index's folder
    dir: PathBuf,
    /// The image: any of its digests, with a name before it or not (`NAME@sha256:…`), or its name
    image: String,
}

/// An image for people and programs.
#[derive(Serialize)]
struct Shown<'a> {
    names: &'a BTreeSet<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<&'a str>,
    indexes: &'a BTreeSet<Digest>,
    manifests: &'a BTreeSet<Digest>,
    configuration: &'a Digest,
    layers: usize,
}

#[derive(Serialize)]
struct ShownLayer<'a> {
    layer: &'a Digest,
    values: &'a Digest,
    paths: usize,
    /// How many images have it, this one among them.
    images: usize,
}

impl RefsCommand {
    /// Runs the subcommand.
    ///
    /// # Errors
    /// An index or an image that cannot be read, or written.
    pub fn run(self, out: &mut Output) -> Result<Status, Failure> {
        match self {
            RefsCommand::Add(add) => add.run(out),
            RefsCommand::List { dir } => list(&Index::open(dir)?, out),
            RefsCommand::Show(one) => show(&Index::open(one.dir)?, &one.image, out),
            RefsCommand::Remove(one) => remove(&Index::open(one.dir)?, &one.image, out),
        }
    }
}

impl Add {
    fn run(self, out: &mut Output) -> Result<Status, Failure> {
        let mut bar = Bar::new();
        let (mut store, choice) = open_image(&self.source, self.image, self.platform)?;
        let mut progress = |p| bar.show(p);
        let mut options = HashOptions {
            banks: &self.algorithms,
            progress: &mut progress,
        };
        let found = image::identified(&mut *store, &choice, &[], &mut options);
        bar.end();
        let (values, identity) = found.map_err(|e| failure(&e))?;
        let index = Index::make(self.dir)?;
        let _lock = index.lock()?;
        let added = index.add(&values, identity)?;
        if out.json() {
            out.object(&shown(&added))?;
        } else {
            out.line(format_args!("{} added", title(&added)))?;
            digests(&added, out)?;
        }
        Ok(Status::Clean)
    }
}

/// The folder of an index.
pub(crate) struct Index {
    dir: PathBuf,
}

impl Index {
    /// One that is there.
    pub(crate) fn open(dir: PathBuf) -> Result<Index, Failure> {
        let images = dir.join("images");
        fs::metadata(&images).map_err(|e| {
            Failure::file(&images, &e)
                .hint("name the folder of an index: `cgpath refs add DIR IMAGE` makes it")
        })?;
        Ok(Index { dir })
    }

    fn make(dir: PathBuf) -> Result<Index, Failure> {
        for folder in FOLDERS {
            let path = dir.join(folder);
            fs::create_dir_all(&path).map_err(|e| Failure::file(&path, &e))?;
        }
        Ok(Index { dir })
    }

    /// Nobody else changes the index while this is held.
    fn lock(&self) -> Result<File, Failure> {
        let path = self.dir.join(LOCK);
        let file = File::create(&path).map_err(|e| Failure::file(&path, &e))?;
        file.lock().map_err(|e| Failure::file(&path, &e))?;
        Ok(file)
    }

    fn read<T>(
        &self,
        name: &str,
        from_json: impl FnOnce(&str, &[u8]) -> cgpath_policy::Result<T>,
    ) -> Result<Option<T>, Failure> {
        let path = self.dir.join(name);
        let bytes = match read_bounded(&path, MAX_INDEX_LEN as u64) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|e| Failure::file(&path, &e))?,
        };
        let read = from_json(&path.display().to_string(), &bytes);
        read.map(Some).map_err(|e| refused(&e))
    }

    fn image(&self, configuration: &Digest) -> Result<Option<Image>, Failure> {
        self.read(&image_file(configuration), Image::from_json)
    }

    /// The configurations of the images that a digest names.
    fn named(&self, digest: &Digest) -> Result<BTreeSet<Digest>, Failure> {
        let named = self.read(&digest_file(digest), Images::from_json)?;
        Ok(named.map(|named| named.images).unwrap_or_default())
    }

    /// All images, by name and platform.
    pub(crate) fn images(&self) -> Result<Vec<Image>, Failure> {
        let folder = self.dir.join("images");
        let error = |e| Failure::file(&folder, &e);
        let mut images = Vec::new();
        for entry in fs::read_dir(&folder).map_err(error)? {
            let name = entry.map_err(error)?.file_name();
            // What a command that was interrupted left has another ending.
            let name = name.to_str().filter(|name| name.ends_with(".json"));
            if let Some(name) = name {
                images.extend(self.read(&format!("images/{name}"), Image::from_json)?);
            }
        }
        images.sort_by(|a, b| {
            let key = |image: &Image| {
                (
                    image.names.clone(),
                    image.platform.clone(),
                    image.configuration.clone(),
                )
            };
            key(a).cmp(&key(b))
        });
        Ok(images)
    }

    /// What an image has.
    pub(crate) fn allowed(&self, image: &Image) -> Result<Allowed, Failure> {
        let values = |of: &Layer| reference(&self.dir.join(values_file(&of.values)));
        let values = image.layers.iter().map(values).collect::<Result<Vec<_>, _>>()?;
        Ok(Allowed::of(values))
    }

    /// Those that are meant: by any of their digests, or by a name.
    fn meant(&self, text: &str) -> Result<Vec<Image>, Failure> {
        let (_, last) = text.rsplit_once('@').unwrap_or(("", text));
        let mut images = self.images()?;
        match Digest::parse(last) {
            Some(digest) => images.retain(|image| image.is_named(&digest)),
            None => images.retain(|image| image.names.contains(text)),
        }
        if images.is_empty() {
            let why = format!("no image of the index is {}", escape(text.as_bytes()));
            return Err(Failure::new("unknown", why).hint("`cgpath refs list` shows names and digests"));
        }
        Ok(images)
    }

    fn put(&self, name: &str, text: &str) -> Result<(), Failure> {
        replace(&self.dir.join(name), text.as_bytes())
    }

    fn add(&self, values: &Reference, identity: Identity) -> Result<Image, Failure> {
        let mut image = Image::new(identity.configuration);
        let names = identity.names.into_iter();
        let is_name =
            |name: &String| (1..=MAX_IMAGE_NAME).contains(&name.len()) && !name.contains(char::is_control);
        image.names.extend(names.filter(is_name));
        image.indexes.extend(identity.indexes);
        image.manifests.extend(identity.manifest);
        image.platform = identity.platform.map(|platform| platform.to_string());
        let parts = by_layers(values).map_err(|why| Failure::new("internal", why))?;
        for (layer, values) in parts {
            let mut json = Vec::new();
            values.write_json(&mut json)?;
            let hash = Bank::Sha256.hash(&[&json]);
            let path = self.dir.join(values_file(&hash));
            // What is there may be damaged: it is written again where it is another.
            let known = fs::read(&path).unwrap_or_default();
            if known != json {
                replace(&path, &json)?;
            }
            image.layers.push(Layer { layer, values: hash });
        }
        let known = self.image(&image.configuration)?;
        if let Some(mut known) = known {
            known.update(image);
            image = known;
        }
        self.put(&image_file(&image.configuration), &image.to_json())?;
        for digest in image.digests() {
            let mut named = self.named(digest)?;
            if named.insert(image.configuration.clone()) {
                self.put(&digest_file(digest), &Images::new(named).to_json())?;
            }
        }
        self.sweep()?;
        Ok(image)
    }

    fn remove(&self, image: &Image) -> Result<(), Failure> {
        for digest in image.digests() {
            let mut named = self.named(digest)?;
            named.remove(&image.configuration);
            match named.is_empty() {
                true => self.delete(&digest_file(digest))?,
                false => self.put(&digest_file(digest), &Images::new(named).to_json())?,
            }
        }
        self.delete(&image_file(&image.configuration))
    }

    /// Takes away the values that no image has any more.
    fn sweep(&self) -> Result<(), Failure> {
        let used: BTreeSet<String> = self
            .images()?
            .iter()
            .flat_map(|image| image.layers.iter().map(|of| values_file(&of.values)))
            .collect();
        let folder = self.dir.join("layers");
        let error = |e| Failure::file(&folder, &e);
        for entry in fs::read_dir(&folder).map_err(error)? {
            let name = entry.map_err(error)?.file_name();
            let name = format!("layers/{}", name.to_string_lossy());
            if !used.contains(&name) {
                self.delete(&name)?;
            }
        }
        Ok(())
    }

    fn delete(&self, name: &str) -> Result<(), Failure> {
        let path = self.dir.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Failure::file(&path, &error)),
            _ => Ok(()),
        }
    }
}

fn shown(image: &Image) -> Shown<'_> {
    Shown {
        names: &image.names,
        platform: image.platform.as_deref(),
        indexes: &image.indexes,
        manifests: &image.manifests,
        configuration: &image.configuration,
        layers: image.layers.len(),
    }
}

/// What an image is called, on one line.
fn title(image: &Image) -> String {
    let names: Vec<&str> = image.names.iter().map(String::as_str).collect();
    let names = match names.is_empty() {
        true => "image without a name".to_owned(),
        false => names.join(", "),
    };
    let platform = image.platform.iter().map(|platform| format!("  {platform}"));
    escape((names + &platform.collect::<String>()).as_bytes())
}

fn digests(image: &Image, out: &mut Output) -> Result<(), Failure> {
    for (kind, digests) in [("index", &image.indexes), ("manifest", &image.manifests)] {
        for digest in digests {
            out.line(format_args!("  {kind:<13} {digest}"))?;
        }
    }
    out.line(format_args!("  configuration {}", image.configuration))
}

fn list(index: &Index, out: &mut Output) -> Result<Status, Failure> {
    let images = index.images()?;
    if out.json() {
        for image in &images {
            out.object(&shown(image))?;
        }
        return Ok(Status::Clean);
    }
    for image in &images {
        out.line(title(image))?;
        digests(image, out)?;
    }
    out.line(count(images.len(), "image"))?;
    Ok(Status::Clean)
}

fn show(index: &Index, text: &str, out: &mut Output) -> Result<Status, Failure> {
    #[derive(Serialize)]
    struct WithLayers<'a> {
        #[serde(flatten)]
        image: Shown<'a>,
        parts: Vec<ShownLayer<'a>>,
    }
    let mut users: BTreeMap<Digest, usize> = BTreeMap::new();
    for image in index.images()? {
        for of in image.layers {
            *users.entry(of.values).or_default() += 1;
        }
    }
    for image in index.meant(text)? {
        let part = |of: &'_ Layer| -> Result<usize, Failure> {
            Ok(reference(&index.dir.join(values_file(&of.values)))?.files.len())
        };
        let paths = image.layers.iter().map(part).collect::<Result<Vec<_>, _>>()?;
        let parts = image.layers.iter().zip(paths).map(|(of, paths)| ShownLayer {
            layer: &of.layer,
            values: &of.values,
            paths,
            images: users.get(&of.values).copied().unwrap_or_default(),
        });
        let parts: Vec<ShownLayer<'_>> = parts.collect();
        if out.json() {
            out.object(&WithLayers {
                image: shown(&image),
                parts,
            })?;
            continue;
        }
        out.line(title(&image))?;
        digests(&image, out)?;
        for part in parts {
            let shared = match part.images {
                0 | 1 => String::new(),
                n => format!(", of {n} images"),
            };
            out.line(format_args!(
                "  layer {}: {}{shared}",
                part.layer,
                count(part.paths, "path")
            ))?;
        }
    }
    Ok(Status::Clean)
}

fn remove(index: &Index, text: &str, out: &mut Output) -> Result<Status, Failure> {
    let _lock = index.lock()?;
    let images = index.meant(text)?;
    for image in &images {
        index.remove(image)?;
    }
    index.sweep()?;
    for image in &images {
        match out.json() {
            true => out.object(&shown(image))?,
            false => out.line(format_args!("{} removed", title(image)))?,
        }
    }
    Ok(Status::Clean)
}
