//! What the node installer put onto a host, as it writes it down there.
//!
//! Promises: total, an error and never a panic; what is read names only places that the installer uses
//! itself, so that a removal cannot lead elsewhere. Not here: reading and writing the file (see
//! [`super::host`]).

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Where it lies on the host.
pub const PLACE: &str = "/var/lib/ima-cgpath-install/manifest.json";

/// The form of this version.
const FORMAT: u32 = 1;

/// Longer ones are refused, in bytes.
pub const MAX: u64 = 1 << 20;

/// Entries of one kind.
const MAX_ENTRIES: usize = 4096;

/// Below these lies everything that the installer makes; the first two are prefixes of programs.
const PLACES: [&str; 7] = [
    "/usr/",
    "/opt/ima-cgpath/",
    "/etc/systemd/system/",
    "/etc/modules-load.d/",
    "/etc/ima-cgpath/",
    "/etc/ima/",
    "/etc/default/grub.d/",
];

/// What was put onto a host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The form.
    pub format: u32,
    /// Of the program that installed last.
    pub version: String,
    /// Below which the program and its libraries lie.
    pub prefix: String,
    /// Everything was put in place. Else an installation or a removal was interrupted.
    pub done: bool,
    /// Files, by path.
    pub files: Vec<Put>,
    /// Symbolic links, by path.
    pub links: Vec<Link>,
    /// Directories that were made, the outer ones first.
    pub dirs: Vec<String>,
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Put {
    /// Where on the host.
    pub path: String,
    /// SHA-256 of the contents that are ours, as hex: two while one is exchanged for the other.
    pub sha256: Vec<String>,
}

/// A symbolic link.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Where on the host.
    pub path: String,
    /// What it says.
    pub target: String,
}

/// Why a manifest is not believed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ManifestError {
    /// It is no JSON of this form.
    #[error("{PLACE}: malformed: {0}")]
    Malformed(String),
    /// Of another version.
    #[error("{PLACE}: format {0}, and this version knows {FORMAT}: use the version that installed")]
    Format(u32),
    /// It has too many entries.
    #[error("{PLACE}: more than {MAX_ENTRIES} entries")]
    Limit,
    /// It names a place that is not the installer's.
    #[error("{PLACE}: names {0}, which no installer makes")]
    Place(String),
}

impl Manifest {
    /// One with nothing in it.
    pub fn new(prefix: &str) -> Self {
        Self {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            prefix: prefix.to_owned(),
            ..Self::default()
        }
    }

    /// Reads one.
    ///
    /// # Errors
    /// See [`ManifestError`].
    pub fn parse(text: &[u8]) -> Result<Self, ManifestError> {
        let malformed = |e: serde_json::Error| ManifestError::Malformed(e.to_string());
        let value: serde_json::Value = serde_json::from_slice(text).map_err(malformed)?;
        let format = value["format"].as_u64().unwrap_or_default();
        if format != u64::from(FORMAT) {
            return Err(ManifestError::Format(u32::try_from(format).unwrap_or(u32::MAX)));
        }
        let read: Self = serde_json::from_value(value).map_err(malformed)?;
        if [read.files.len(), read.links.len(), read.dirs.len()]
            .iter()
            .any(|n| *n > MAX_ENTRIES)
        {
            return Err(ManifestError::Limit);
        }
        let files = read.files.iter().map(|file| &file.path);
        let links = read.links.iter().map(|link| &link.path);
        for path in files.chain(links) {
            if !is_ours(path) {
                return Err(ManifestError::Place(path.clone()));
            }
        }
        // Those around the places are made, too, where a host has none.
        for dir in &read.dirs {
            let inside = format!("{dir}/");
            let around = PLACES.iter().any(|place| place.starts_with(&inside));
            if !(around || is_ours(&format!("{dir}/x"))) {
                return Err(ManifestError::Place(dir.clone()));
            }
        }
        Ok(read)
    }

    /// The contents of a path that are ours.
    pub fn digests(&self, path: &str) -> BTreeSet<&str> {
        let file = self.files.iter().filter(|file| file.path == path);
        file.flat_map(|file| file.sha256.iter().map(String::as_str))
            .collect()
    }

    /// Its bytes on the host.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn text(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        Ok(text)
    }
}

/// Whether a path is below one of the places, and does not lead out of it.
fn is_ours(path: &str) -> bool {
    PLACES
        .iter()
        .any(|place| path.len() > place.len() && path.starts_with(place))
        && path
            .split('/')
            .skip(1)
            .all(|part| !matches!(part, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_that_leads_elsewhere_or_is_of_another_form_is_refused() {
        let mut good = Manifest::new("/usr");
        good.files.push(Put {
            path: "/usr/sbin/cgpathd".into(),
            sha256: vec!["aa".into()],
        });
        good.links.push(Link {
            path: "/etc/systemd/system/x.wants/y".into(),
            target: "../y".into(),
        });
        good.dirs = vec![
            "/opt".into(),
            "/etc/ima-cgpath".into(),
            "/etc/systemd/system/x.wants".into(),
        ];
        assert_eq!(Manifest::parse(&good.text().unwrap()), Ok(good.clone()));
        for path in [
            "/etc/passwd",
            "/usr/../etc/passwd",
            "usr/sbin/x",
            "/usr/",
            "/usr//x",
            "/",
            "",
        ] {
            let mut bad = good.clone();
            bad.files[0].path = path.into();
            let refused = Err(ManifestError::Place(path.into()));
            assert_eq!(Manifest::parse(&bad.text().unwrap()), refused, "{path}");
            let mut bad = good.clone();
            bad.links[0].path = path.into();
            assert_eq!(Manifest::parse(&bad.text().unwrap()), refused, "{path}");
        }
        for dir in ["/home", "/usr/../home", "/var/lib/kubelet"] {
            let mut bad = good.clone();
            bad.dirs[0] = dir.into();
            assert_eq!(
                Manifest::parse(&bad.text().unwrap()),
                Err(ManifestError::Place(dir.into()))
            );
        }
        let mut other = good.clone();
        other.format = 2;
        assert_eq!(
            Manifest::parse(&other.text().unwrap()),
            Err(ManifestError::Format(2))
        );
        let text = String::from_utf8(good.text().unwrap()).unwrap();
        let more = text.replacen('{', "{\"more\": 1,", 1);
        assert!(matches!(
            Manifest::parse(more.as_bytes()),
            Err(ManifestError::Malformed(_))
        ));
        for end in 0..text.len() - 2 {
            assert!(Manifest::parse(&text.as_bytes()[..end]).is_err(), "{end}");
        }
        good.dirs = vec!["/opt".into(); MAX_ENTRIES + 1];
        assert_eq!(Manifest::parse(&good.text().unwrap()), Err(ManifestError::Limit));
    }
}
