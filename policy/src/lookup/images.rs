//! The images that a container may run, with their values out of the index of images, and which of them a
//! container runtime says that it runs.
//!
//! Promises: an image that the runtime does not name by one of its digests is none of them: nothing is
//! guessed; values of images bring no excludes. Not here: the index's files (see `refs`), what follows from
//! it (see `cgpath-appraisal`).

use super::workloads::{beside, of_part};
use super::{Allowed, ContainerPolicy, Loader};
use crate::refs::{Image, Images, NOT_ITS_NAME, digest_file, image_file, misfit, values_file};
use crate::{Container, Error, ListedImage, Result, WorkloadsFile};
use cgpath_evidence::Digest;

/// One image that a container may run.
#[derive(Debug, Clone)]
pub struct ImagePolicy {
    /// The first entry of `images` that names it.
    pub listed: ListedImage,
    /// Which it is.
    pub image: Image,
    /// What the container may have while it runs this image: the image's values and those of `references`.
    pub allowed: Allowed,
}

impl core::fmt::Display for ImagePolicy {
    /// As the policy lists it, with the configuration where that is another digest: an index has several.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}", self.listed)?;
        match self.listed.digest() == &self.image.configuration {
            true => Ok(()),
            false => write!(f, " ({})", self.image.configuration),
        }
    }
}

/// Why what a runtime says of a container's image names none that its policy lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImageFault {
    /// There is no digest among what it says.
    #[error("the container runtime names no digest of its image")]
    NoDigest,
    /// The digests are of none of them.
    #[error("its image is none of those that its workload lists")]
    NotListed,
    /// Its digests are of several of them: one of an index, whose images of several platforms are listed, or
    /// those of several repositories.
    #[error(
        "what the container runtime says of its image names several of those that its workload lists: by an \
         index of several platforms, or by digests of several repositories"
    )]
    Several,
}

impl ContainerPolicy {
    /// Which of its images it runs, by what the container runtime says of it (`image_ref` and `image_id` of
    /// CRI, or `imageID` of the Kubernetes API); `None` where the policy lists no images for it.
    ///
    /// A digest that stands alone is the runtime's id of the image. Where one names an image of these, the
    /// ids decide; else those behind a repository's name do, which are of an index or a manifest: CRI-O gives
    /// an image that it pulled in parts an id that no configuration has. A runtime that lies gains nothing by
    /// such an id, since it may leave the id out.
    ///
    /// # Errors
    /// [`ImageFault`].
    pub fn image<'a>(
        &self,
        references: impl IntoIterator<Item = &'a String>,
    ) -> core::result::Result<Option<&ImagePolicy>, ImageFault> {
        if self.images.is_empty() {
            return Ok(None);
        }
        let (mut ids, mut others) = (Vec::new(), Vec::new());
        for reference in references {
            match Claim::parse(reference) {
                Some(Claim::Id(digest)) => ids.push(digest),
                Some(Claim::OfRepository(digest)) => others.push(digest),
                None => {}
            }
        }
        let is_said = !ids.is_empty() || !others.is_empty();
        let is_listed = |digest: &Digest| self.images.iter().any(|image| image.image.is_named(digest));
        if !ids.iter().any(is_listed) {
            ids.clear();
        }
        let is_meant = |image: &&ImagePolicy| match ids.is_empty() {
            true => others.iter().any(|digest| image.image.is_named(digest)),
            false => ids.iter().all(|digest| image.image.is_named(digest)),
        };
        let mut meant = self.images.iter().filter(is_meant);
        match (meant.next(), meant.next()) {
            (Some(image), None) => Ok(Some(image)),
            (Some(_), Some(_)) => Err(ImageFault::Several),
            (None, _) if !is_said => Err(ImageFault::NoDigest),
            (None, _) => Err(ImageFault::NotListed),
        }
    }

    /// All values that it may have, one set for each image that it may run: a container runs one of them.
    pub fn all_allowed(&self) -> impl Iterator<Item = (Option<&ImagePolicy>, &Allowed)> {
        let any = self.images.is_empty().then_some((None, &self.allowed));
        let images = self.images.iter().map(|image| (Some(image), &image.allowed));
        any.into_iter().chain(images)
    }
}

/// A digest by which a runtime names an image.
#[derive(Debug, PartialEq, Eq)]
enum Claim {
    /// It stands alone: `sha256:HEX`, or the digits.
    Id(Digest),
    /// `REPOSITORY@sha256:HEX`.
    OfRepository(Digest),
}

impl Claim {
    fn parse(text: &str) -> Option<Claim> {
        // What kubelets put before it: `docker://`, `docker-pullable://`.
        let text = text.split_once("://").map_or(text, |(_, rest)| rest);
        if let Some((_, digest)) = text.rsplit_once('@') {
            return Digest::parse(digest).map(Claim::OfRepository);
        }
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        Digest::parse(&format!("sha256:{digits}")).map(Claim::Id)
    }
}

/// The digest by which a runtime names an image, in any form in which one does.
pub fn named_digest(reference: &str) -> Option<Digest> {
    Claim::parse(reference).map(|(Claim::Id(digest) | Claim::OfRepository(digest))| digest)
}

impl Loader<'_> {
    /// The images of a container. `part` is what the policy calls the workload part, `key` what errors call
    /// the container, and `names` its reference files as the policy calls them.
    pub(super) fn images(
        &mut self,
        part: &str,
        file: &WorkloadsFile,
        key: &str,
        container: &Container,
        names: &[String],
    ) -> Result<Vec<ImagePolicy>> {
        let mut found: Vec<ImagePolicy> = Vec::new();
        for listed in &container.images {
            for image in self.images_of(part, &file.refs, key, listed)? {
                // An index and an image of it may both be listed.
                if found
                    .iter()
                    .any(|known| known.image.configuration == image.configuration)
                {
                    continue;
                }
                let mut all = names.to_vec();
                for layer in &image.layers {
                    let name = beside(part, &format!("{}/{}", file.refs, values_file(&layer.values)));
                    let values = self.reference(&name).map_err(of_part(part))?;
                    let hash = self.hash(&name);
                    let why = match hash.is_some_and(|hash| hash[..] == *layer.values.bytes()) {
                        true => misfit(&values.reference),
                        false => Some(NOT_ITS_NAME),
                    };
                    if let Some(why) = why {
                        return Err(broken(part, key, listed, &format!("{name} {why}")));
                    }
                    all.push(name);
                }
                let allowed = self
                    .allowed(key, &all, &container.excludes)
                    .map_err(of_part(part))?;
                found.push(ImagePolicy {
                    listed: listed.clone(),
                    image,
                    allowed,
                });
            }
        }
        Ok(found)
    }

    /// The images that a digest names by the index in the folder `refs`.
    fn images_of(&mut self, part: &str, refs: &str, key: &str, listed: &ListedImage) -> Result<Vec<Image>> {
        let digest = listed.digest();
        let folder = beside(part, refs);
        let name = beside(part, &format!("{refs}/{}", digest_file(digest)));
        let known = self.index_file(&name, Images::from_json);
        let known = known.map_err(|error| match error {
            Error::Unresolved { why, .. } => Error::Meaning {
                file: part.to_owned(),
                key: key.to_owned(),
                why: format!("image {listed} is not in the index of images `{refs}` ({why})"),
                hint: format!(
                    "add it: cgpath refs add {folder} IMAGE; `cgpath refs list {folder}` shows which digests \
                     are known"
                ),
            },
            other => other,
        })?;
        let mut images = Vec::new();
        for configuration in known.images {
            let name = beside(part, &format!("{refs}/{}", image_file(&configuration)));
            let image = self
                .index_file(&name, Image::from_json)
                .map_err(|error| match error {
                    unresolved @ Error::Unresolved { .. } => unresolved.in_file(part),
                    // One that is malformed names itself.
                    other => other,
                })?;
            if image.configuration != configuration || !image.is_named(digest) {
                return Err(broken(part, key, listed, &format!("{name} is another image's")));
            }
            images.push(image);
        }
        Ok(images)
    }

    /// What a file of the index says that has no reference values. It is read once.
    fn index_file<T>(&mut self, name: &str, parse: impl FnOnce(&str, &[u8]) -> Result<T>) -> Result<T> {
        if let Some(bytes) = self.index.get(name) {
            return parse(name, bytes);
        }
        let (parsed, bytes) = self.read_file(name, parse)?;
        self.index.insert(name.to_owned(), bytes);
        Ok(parsed)
    }
}

fn broken(part: &str, key: &str, listed: &ListedImage, why: &str) -> Error {
    Error::Meaning {
        file: part.to_owned(),
        key: key.to_owned(),
        why: format!("image {listed}: {why}"),
        hint: "the index of images was changed by another than `cgpath refs`: add the image again".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cgpath_evidence::Bank;

    #[test]
    fn a_digest_is_read_in_each_form_in_which_runtimes_write_it() {
        let digest = Bank::Sha256.hash(&[b"image"]);
        let hex = digest.to_string().replace("sha256:", "");
        let id = || Some(Claim::Id(digest.clone()));
        let of_repository = || Some(Claim::OfRepository(digest.clone()));
        for (text, expected) in [
            (format!("sha256:{hex}"), id()),
            (hex.clone(), id()),
            (format!("docker://sha256:{hex}"), id()),
            (format!("registry.example/shop/web@sha256:{hex}"), of_repository()),
            (
                format!("registry.example:5000/web:7@sha256:{hex}"),
                of_repository(),
            ),
            (
                format!("docker-pullable://registry.example/shop/web@sha256:{hex}"),
                of_repository(),
            ),
            ("registry.example/shop/web:7".to_owned(), None),
            (format!("registry.example/shop/web@sha256:{}", &hex[1..]), None),
            (format!("registry.example/{hex}"), None),
            (String::new(), None),
        ] {
            assert_eq!(Claim::parse(&text), expected, "{text}");
        }
    }
}
