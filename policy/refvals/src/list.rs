//! Reference values copied from a measurement list: *learned*, nobody has looked at what is in them.

use crate::{Error, Result};
use cgpath_evidence::{Digest, text::quoted};
use cgpath_policy::reference::{Reference, Source, SourceKind};

/// What was left out of the values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Violations: their digest says nothing.
    pub violations: u64,
    /// `boot_aggregate` and our own checkpoints: they change with each boot and are judged by other rules.
    pub per_boot: u64,
    /// Entries without a path, or with a content digest that is none of the known algorithms.
    pub without_digest: u64,
}

/// Takes a list's entries one by one.
#[derive(Debug)]
pub struct Learner {
    name: String,
    entries: u64,
    reference: Reference,
    skipped: Skipped,
}

impl Learner {
    /// `name` is what errors and the reference file call the list.
    pub fn new(name: &str) -> Learner {
        let source = Source {
            kind: SourceKind::Log,
            name: name.to_owned(),
            digest: None,
        };
        Learner {
            name: name.to_owned(),
            entries: 0,
            reference: Reference::new(source),
            skipped: Skipped::default(),
        }
    }

    /// The next entry: its file's path and content digest, where it has them.
    ///
    /// # Errors
    /// A path that cannot stand in a reference file.
    pub fn entry(&mut self, path: Option<&[u8]>, digest: Option<Digest>, violation: bool) -> Result<()> {
        let index = self.entries;
        self.entries += 1;
        match (path, digest) {
            _ if violation => self.skipped.violations += 1,
            (Some(path), _)
                if path == b"boot_aggregate"
                    || cgpath_evidence::checkpoint::number_from_path(path).is_some() =>
            {
                self.skipped.per_boot += 1;
            }
            (Some(path), Some(digest)) => {
                self.reference
                    .insert(path.to_vec(), digest)
                    .map_err(|why| Error::Unsupported {
                        what: self.name.clone(),
                        why: format!("entry {index}, path {}: {why}", quoted(path)),
                    })?;
            }
            (None, _) | (_, None) => self.skipped.without_digest += 1,
        }
        Ok(())
    }

    /// All entries were seen. `digest` is that of the list's file.
    ///
    /// # Errors
    /// A list that gives no values.
    pub fn finish(mut self, digest: Digest) -> Result<(Reference, Skipped)> {
        if self.reference.files.is_empty() {
            return Err(Error::Unsupported {
                what: self.name,
                why:
                    "no entry in it has a path and a content digest, so that its values would accept nothing"
                        .into(),
            });
        }
        self.reference.source.digest = Some(digest);
        Ok((self.reference, self.skipped))
    }
}
