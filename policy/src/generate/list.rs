//! Reference values copied from a measurement list: *learned*, nobody has looked at what is in them.

use super::{Error, Result};
use crate::reference::{Reference, Source, SourceKind};
use evidence::Digest;

/// What was left out of the values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Violations: entries with a zero digest.
    pub violations: u64,
    /// `boot_aggregate` and our own checkpoints: they change with each boot and are judged by other rules.
    pub per_boot: u64,
}

/// Copies path and content digest of each entry. `source_digest` is the list file's own digest; a violation has a zero
/// digest. `name` is what errors and the reference file call it.
///
/// # Errors
/// A path that cannot stand in a reference file; a list that gives no values.
pub fn learn<'a>(
    name: &str,
    source_digest: Digest,
    entries: impl IntoIterator<Item = (&'a [u8], Digest)>,
) -> Result<(Reference, Skipped)> {
    let source = Source {
        kind: SourceKind::Log,
        name: name.to_owned(),
        digest: Some(source_digest),
    };
    let mut reference = Reference::new(source);
    let mut skipped = Skipped::default();
    for (index, (path, digest)) in entries.into_iter().enumerate() {
        if digest.is_zero() {
            skipped.violations += 1;
        } else if path == b"boot_aggregate" || evidence::checkpoint::number_from_path(path).is_some() {
            skipped.per_boot += 1;
        } else {
            reference
                .insert(path.to_vec(), digest)
                .map_err(|why| Error::Unsupported {
                    what: name.to_owned(),
                    why: format!("entry {index}, path {:?}: {why}", String::from_utf8_lossy(path)),
                })?;
        }
    }
    if reference.files.is_empty() {
        return Err(Error::Unsupported {
            what: name.to_owned(),
            why: "no entry in it has a path and a content digest".into(),
        });
    }
    Ok((reference, skipped))
}
