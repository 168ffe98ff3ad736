//! `cgpath refs`: the index of images that policies of version 2 take values from.
//!
//! Promises: what a file names is there before the file is; commands that change one index wait for each
//! other; an image that is added again mends its files; no file is written through a link, and none deleted
//! that the index did not make. Not here: what stands in its files (`cgpath_policy::refs`), how values are
//! made of an image (`cgpath_refvals`).

use crate::input::replace;
use crate::output::{Failure, Output, Status, count, escape};
use crate::policy::files::{Bar, open_image};
use crate::policy::{algorithm, failure, platform, refused};
use cgpath_evidence::{Bank, Digest};
use cgpath_policy::reference::MAX_REFERENCE_LEN;
use cgpath_policy::refs::{
    Image, Images, Layer, MAX_INDEX_LEN, by_layers, digest_file, image_file, is_name, values_file,
    values_from_json,
};
use cgpath_policy::{Error, Reference};
use cgpath_refvals::HashOptions;
use cgpath_refvals::image::{self, Identity, Platform};
use cgpath_service::files::read_bounded;
use clap::{Args, Subcommand};
use nix::libc;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

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
    /// Removes images, and the layers that no other image has
    ///
    /// A configuration's digest is of one image, also of one whose file cannot be read. A name, or an index's
    /// digest, removes all images that have it.
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
    ///
    /// Of an image that is there, those that it has must be among them.
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
        for folder in FOLDERS {
            let path = dir.join(folder);
            is_folder(&path).map_err(|e| {
                Failure::file(&path, &e).hint(
                    "name the folder of an index, whose own folders are no links: `cgpath refs add DIR \
                     IMAGE` makes one",
                )
            })?;
        }
        Ok(Index { dir })
    }

    /// The one that is there, or a new one in a folder that has nothing else.
    fn make(dir: PathBuf) -> Result<Index, Failure> {
        fs::create_dir_all(&dir).map_err(|e| Failure::file(&dir, &e))?;
        if let Ok(index) = Index::open(dir.clone()) {
            return Ok(index);
        }
        let error = |e| Failure::file(&dir, &e);
        for entry in fs::read_dir(&dir).map_err(error)? {
            let name = entry.map_err(error)?.file_name();
            // Another command may be making it, or was interrupted.
            if !FOLDERS.iter().chain([&LOCK]).any(|own| name == *own) {
                let dir = escape(dir.as_os_str().as_encoded_bytes());
                let why = format!("{dir}: no index of images, and not empty");
                return Err(Failure::new("usage", why).hint("name a new folder, or that of an index"));
            }
        }
        for folder in FOLDERS {
            let path = dir.join(folder);
            match fs::create_dir(&path) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(Failure::file(&path, &e)),
                _ => {}
            }
        }
        Index::open(dir)
    }

    /// Nobody else changes the index while this is held.
    fn lock(&self) -> Result<File, Failure> {
        let path = self.dir.join(LOCK);
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.custom_flags(libc::O_NOFOLLOW).open(&path);
        let file = file.map_err(|e| Failure::file(&path, &e))?;
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
        let name = image_file(configuration);
        let image = self.read(&name, Image::from_json)?;
        match image.as_ref().map(|image| image.configuration == *configuration) {
            Some(false) => {
                let path = self.dir.join(name);
                let why = format!(
                    "{}: it is another image's",
                    escape(path.as_os_str().as_encoded_bytes())
                );
                Err(Failure::new("policy", why)
                    .hint("add the image whose file this is to the index again: `cgpath refs add`"))
            }
            _ => Ok(image),
        }
    }

    /// The configurations of the images that a digest names.
    fn named(&self, digest: &Digest) -> Result<BTreeSet<Digest>, Failure> {
        let named = self.read(&digest_file(digest), Images::from_json)?;
        Ok(named.map(|named| named.images).unwrap_or_default())
    }

    /// What the files in one of the index's folders are named after.
    fn digests_in(&self, folder: &str) -> Result<Vec<Digest>, Failure> {
        let names = self.names_in(folder)?;
        // What a command that was interrupted left has another ending.
        Ok(names.iter().filter_map(|name| named_after(name)).collect())
    }

    fn names_in(&self, folder: &str) -> Result<Vec<String>, Failure> {
        let folder = self.dir.join(folder);
        let entries = fs::read_dir(&folder)
            .and_then(Iterator::collect::<io::Result<Vec<_>>>)
            .map_err(|e| Failure::file(&folder, &e))?;
        let names = entries.into_iter().map(|entry| entry.file_name());
        Ok(names.filter_map(|name| name.into_string().ok()).collect())
    }

    /// All images, by name and platform.
    pub(crate) fn images(&self) -> Result<Vec<Image>, Failure> {
        let mut images = Vec::new();
        for configuration in self.digests_in("images")? {
            images.extend(self.image(&configuration)?);
        }
        images.sort_by_cached_key(|image| {
            (
                image.names.clone(),
                image.platform.clone(),
                image.configuration.clone(),
            )
        });
        Ok(images)
    }

    /// What an image has of a layer.
    pub(crate) fn values(&self, of: &Layer) -> Result<Reference, Failure> {
        let path = self.dir.join(values_file(&of.values));
        let json = read_bounded(&path, MAX_REFERENCE_LEN as u64).map_err(|e| Failure::file(&path, &e))?;
        values_from_json(&path.display().to_string(), &of.values, &json).map_err(|e| refused(&e))
    }

    /// The image of this configuration, whatever others are. Of one whose file cannot be read nothing else is
    /// known.
    fn of_configuration(&self, text: &str) -> Option<Image> {
        let configuration = digest_of(text)?;
        self.image(&configuration)
            .unwrap_or_else(|_| Some(Image::new(configuration)))
    }

    /// Writes a file that is another: what is there may be damaged.
    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), Failure> {
        let path = self.dir.join(name);
        match read_bounded(&path, bytes.len() as u64).is_ok_and(|known| known == bytes) {
            true => Ok(()),
            false => replace(&path, bytes),
        }
    }

    fn add(&self, values: &Reference, identity: Identity) -> Result<Image, Failure> {
        let mut image = Image::new(identity.configuration);
        let names = identity.names.into_iter();
        image.names.extend(names.filter(|name| is_name(name)));
        image.indexes.extend(identity.indexes);
        image.manifests.extend(identity.manifest);
        image.platform = identity.platform.map(|platform| platform.to_string());
        // All is read as others will read it before anything is written: what they refuse would make the
        // index useless for every image.
        let mut files = Vec::new();
        for (layer, part) in by_layers(values).map_err(|why| Failure::new("internal", why))? {
            let json = json_of(&part)?;
            let values = Bank::Sha256.hash(&[&json]);
            let name = values_file(&values);
            values_from_json(&name, &values, &json).map_err(|e| unfit(&e))?;
            image.layers.push(Layer { layer, values });
            files.push((name, json));
        }
        // What is there and cannot be read is as if it were not, and is written again.
        if let Some(mut known) = self.image(&image.configuration).ok().flatten() {
            self.keeps_algorithms(&known, &image, values)?;
            known.update(image);
            image = known;
        }
        let (name, json) = (image_file(&image.configuration), image.to_json().into_bytes());
        Image::from_json(&name, &json).map_err(|e| unfit(&e))?;
        files.push((name, json));
        for digest in image.digests() {
            let name = digest_file(digest);
            let json = Images::new(self.named_with(digest, &image)?)
                .to_json()
                .into_bytes();
            Images::from_json(&name, &json).map_err(|e| unfit(&e))?;
            files.push((name, json));
        }
        // What a file names is there before it.
        for (name, json) in &files {
            self.put(name, json)?;
        }
        self.sweep()?;
        Ok(image)
    }

    /// Refuses to take values away on which policies for nodes with another algorithm rest.
    fn keeps_algorithms(&self, known: &Image, image: &Image, values: &Reference) -> Result<(), Failure> {
        let mut algorithms = BTreeSet::new();
        for of in known.layers.iter().filter(|of| !image.layers.contains(of)) {
            // What cannot be read is lost in any case.
            let known = self.values(of).ok();
            algorithms.extend(known.iter().flat_map(algorithms_of));
        }
        let own: BTreeSet<Bank> = algorithms_of(values).collect();
        if algorithms.is_subset(&own) {
            return Ok(());
        }
        let names = |all: &BTreeSet<Bank>| all.iter().map(|bank| bank.name()).collect::<Vec<_>>();
        let why = format!(
            "the index has this image's values by {}, and this would leave {} alone",
            names(&algorithms).join(", "),
            names(&own).join(", ")
        );
        let all = names(&algorithms.union(&own).copied().collect()).join(" --alg ");
        let hint = format!("name all of them: --alg {all}; or remove the image first: `cgpath refs remove`");
        Err(Failure::new("algorithms", why).hint(hint))
    }

    /// The configurations of the images that a digest names once this one, which has it, is there.
    fn named_with(&self, digest: &Digest, image: &Image) -> Result<BTreeSet<Digest>, Failure> {
        let has = |known: Option<Image>| known.is_some_and(|known| known.is_named(digest));
        let mut named = match self.named(digest) {
            // One that cannot be read stays: it may be added again.
            Ok(mut named) => {
                named.retain(|other| self.image(other).map_or(true, has));
                named
            }
            // Each image says by itself which digests name it.
            Err(_) => {
                let mut all = self.digests_in("images")?;
                all.retain(|other| self.image(other).is_ok_and(has));
                all.into_iter().collect()
            }
        };
        named.insert(image.configuration.clone());
        Ok(named)
    }

    /// Takes an image away, whatever its own file says.
    fn remove(&self, configuration: &Digest) -> Result<(), Failure> {
        for digest in self.digests_in("digests")? {
            let mut named = self.named(&digest).unwrap_or_default();
            let was_named = named.remove(configuration);
            match named.is_empty() {
                true if was_named || digest == *configuration => self.delete(&digest_file(&digest))?,
                false if was_named => {
                    self.put(&digest_file(&digest), Images::new(named).to_json().as_bytes())?;
                }
                _ => {}
            }
        }
        self.delete(&image_file(configuration))
    }

    /// Takes away the values that no image has any more, where it is known what all of them have. What is not
    /// named as the index names its files is not the index's.
    fn sweep(&self) -> Result<(), Failure> {
        let Ok(images) = self.images() else {
            return Ok(());
        };
        let used = images.iter().flat_map(|image| &image.layers);
        let used: BTreeSet<String> = used.map(|of| values_file(&of.values)).collect();
        for name in self.names_in("layers")? {
            let is_own = named_after(name.strip_suffix(".new").unwrap_or(&name)).is_some();
            let name = format!("layers/{name}");
            if is_own && !used.contains(&name) {
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

/// Whether this is a folder, and no link to one: what a link leads to is not the index's.
fn is_folder(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path)?.is_dir() {
        true => Ok(()),
        false => Err(io::ErrorKind::NotADirectory.into()),
    }
}

/// What a file of the index is named after: `sha256-HEX.json`.
fn named_after(name: &str) -> Option<Digest> {
    let digits = name.strip_suffix(".json")?.strip_prefix("sha256-")?;
    let digest = Digest::parse(&format!("sha256:{digits}"))?;
    // Digits of another case are another file.
    digest.to_string().ends_with(digits).then_some(digest)
}

/// The digest in `NAME@sha256:…`, or that stands alone.
fn digest_of(text: &str) -> Option<Digest> {
    let (_, last) = text.rsplit_once('@').unwrap_or(("", text));
    Digest::parse(last)
}

/// Those of the index that are meant: by any of their digests, or by a name.
fn meant(mut images: Vec<Image>, text: &str) -> Result<Vec<Image>, Failure> {
    match digest_of(text) {
        Some(digest) => images.retain(|image| image.is_named(&digest)),
        None => images.retain(|image| image.names.contains(text)),
    }
    if images.is_empty() {
        let why = format!("no image of the index is {}", escape(text.as_bytes()));
        return Err(Failure::new("unknown", why).hint("`cgpath refs list` shows names and digests"));
    }
    Ok(images)
}

fn json_of(values: &Reference) -> io::Result<Vec<u8>> {
    let mut json = Vec::new();
    values.write_json(&mut json)?;
    Ok(json)
}

fn algorithms_of(values: &Reference) -> impl Iterator<Item = Bank> {
    values.files.values().flatten().map(Digest::bank)
}

/// Of what readers of the index would refuse.
fn unfit(error: &Error) -> Failure {
    let why = match error {
        Error::Meaning { key, why, .. } => format!("{key}: {why}"),
        other => other.to_string(),
    };
    let why = format!("an index cannot have this image: {why}");
    Failure::new("unsupported", escape(why.as_bytes()))
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
    let images = index.images()?;
    for of in images.iter().flat_map(|image| &image.layers) {
        *users.entry(of.values.clone()).or_default() += 1;
    }
    for image in meant(images, text)? {
        let part = |of: &'_ Layer| -> Result<usize, Failure> { Ok(index.values(of)?.files.len()) };
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
    let images = match index.of_configuration(text) {
        Some(image) => vec![image],
        None => meant(index.images()?, text)?,
    };
    for image in &images {
        index.remove(&image.configuration)?;
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
