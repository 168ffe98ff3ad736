//! Keylime's runtime policies, version 1: read as reference values, and written from them.
//!
//! Promise: every field is kept or refused by its name; nothing is passed over. `digests` are files;
//! `keyrings` (keys that were measured when they were put into a keyring) and `ima-buf` (other buffers) are
//! names without a file, which the list has in the place of the path, so they are kept under these names;
//! `excludes` are kept. Not here: signatures of files and of policies (DSSE).
//! Source: Keylime 7.14, keylime/ima/ima.py `RUNTIME_POLICY_SCHEMA`.

use crate::error::{within, without_place};
use crate::{Error, Excludes, Reference, Result, Source, SourceKind};
use cgpath_evidence::text::{foreign, quoted};
use cgpath_evidence::{Bank, Digest};
use serde::{Deserialize, Deserializer, Serialize, de};
use std::collections::{BTreeMap, BTreeSet};

/// What [`crate::reference::Origins`] call the names that stood in `keyrings`.
pub const KEYRINGS: &str = "keylime keyrings";
/// What they call the names that stood in `ima-buf`.
pub const BUFFERS: &str = "keylime ima-buf";
/// The exclude that keeps our checkpoint files out of Keylime's judgement, and nothing else.
pub const CHECKPOINTS: &str = "^/run/ima-cgpath/checkpoint/[0-9]+$";

/// Fields that accept what is not judged here. Without them a policy is stricter, so they may be left out on
/// demand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// `verification-keys`: files that carry a signature by one of these keys are accepted.
    VerificationKeys,
    /// `ima.ignored_keyrings`: any key may be put into these keyrings.
    IgnoredKeyrings,
    /// `ima.dm_policy`: device mapper events are judged by rules of their own.
    DmPolicy,
}

impl Field {
    /// Its name in a runtime policy.
    pub fn name(self) -> &'static str {
        match self {
            Field::VerificationKeys => "verification-keys",
            Field::IgnoredKeyrings => "ima.ignored_keyrings",
            Field::DmPolicy => "ima.dm_policy",
        }
    }

    fn meaning(self) -> &'static str {
        match self {
            Field::VerificationKeys => {
                "it accepts files by their signature, and signatures are not judged here"
            }
            Field::IgnoredKeyrings => {
                "it accepts every key in these keyrings, and keys are judged by their digest here"
            }
            Field::DmPolicy => "it has rules for device mapper events, which are judged by their digest here",
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RuntimePolicy {
    meta: Meta,
    release: u64,
    digests: Digests,
    excludes: Excludes,
    keyrings: Digests,
    ima: Ima,
    ima_buf: Digests,
    verification_keys: String,
}

/// `RUNTIME_POLICY_GENERATOR.LegacyAllowList`, as Keylime's own tool writes. For 0 or 1 the verifier's push
/// mode takes the policy for none, and asks for no evidence. keylime/ima/ima.py and
/// keylime/verification/tpm_engine.py of 7.14.3.
const LEGACY_ALLOW_LIST: u64 = 3;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Meta {
    version: u64,
    #[serde(rename = "generator")]
    _generator: u64,
    #[serde(default, rename = "timestamp")]
    _timestamp: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ima {
    ignored_keyrings: Vec<String>,
    /// The hash of the list's template digests. We compute every bank from the entries themselves.
    #[serde(rename = "log_hash_alg")]
    _log_hash_alg: LogHash,
    dm_policy: Option<serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum LogHash {
    Sha1,
    Sha256,
    Sha384,
    Sha512,
}

/// A map from names to digests in which no name stands twice.
struct Digests(BTreeMap<String, BTreeSet<Digest>>);

impl<'de> Deserialize<'de> for Digests {
    fn deserialize<D: Deserializer<'de>>(d: D) -> core::result::Result<Self, D::Error> {
        struct Names;
        impl<'de> de::Visitor<'de> for Names {
            type Value = Digests;
            fn expecting(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.write_str("an object from names to lists of digests")
            }
            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> core::result::Result<Digests, A::Error> {
                let mut names: BTreeMap<String, BTreeSet<Digest>> = BTreeMap::new();
                while let Some((name, texts)) = map.next_entry::<String, Vec<String>>()? {
                    let mut digests = BTreeSet::new();
                    for text in &texts {
                        digests.insert(digest(text).ok_or_else(|| {
                            de::Error::custom(format!(
                                "{}: not a digest in hex (40, 64, 96 or 128 digits)",
                                foreign(format!("{name}: {text}"))
                            ))
                        })?);
                    }
                    if digests.is_empty() {
                        return Err(de::Error::custom(format!("{} has no digests", quoted(&name))));
                    }
                    if names.contains_key(&name) {
                        return Err(de::Error::custom(format!("{} stands twice", quoted(&name))));
                    }
                    names.insert(name, digests);
                }
                Ok(Digests(names))
            }
        }
        d.deserialize_map(Names)
    }
}

/// Digests have no algorithm there: the length tells. SM3 has the length of SHA-256; nothing else than its
/// content will ever have this value, so that a wrong guess accepts nothing.
fn digest(text: &str) -> Option<Digest> {
    if text.contains(':') {
        return Digest::parse(text);
    }
    let bytes = hex::decode(text).ok()?;
    Digest::new(Bank::from_len(bytes.len())?, &bytes)
}

/// Reads a runtime policy. `file` is what errors call it; what stands in `leave_out` is passed over.
///
/// # Errors
/// [`Error::Syntax`] with line and column for what is not a runtime policy of version 1, and for a signed
/// one; [`Error::Meaning`] for a field that accepts what cannot be judged here, and for a policy with nothing
/// in `digests`; [`Error::Limit`].
pub fn read(file: &str, json: &[u8], leave_out: &[Field]) -> Result<Reference> {
    within(
        file,
        "runtime policy, in bytes,",
        json,
        crate::reference::MAX_REFERENCE_LEN,
    )?;
    let read: RuntimePolicy = serde_json::from_slice(json).map_err(|e| {
        let mut why = without_place(&e);
        if why.contains("`payload`") {
            why = "a signed policy (DSSE): check its signature and give the payload, decoded from base64"
                .into();
        }
        Error::Syntax {
            file: file.to_owned(),
            line: e.line(),
            column: e.column(),
            why,
        }
    })?;
    let meaning = |key: &str, why: String, hint: &str| Error::Meaning {
        file: file.to_owned(),
        key: key.to_owned(),
        why,
        hint: hint.to_owned(),
    };
    if read.meta.version > 1 {
        let why = format!("version {} is not known here, 1 is", read.meta.version);
        return Err(meaning(
            "meta.version",
            why,
            "convert it with Keylime's own tools",
        ));
    }
    if read.release != 0 {
        let why = format!("release {} means nothing here", read.release);
        return Err(meaning("release", why, "only 0 has been in use"));
    }
    for (field, is_used) in [
        (Field::VerificationKeys, !read.verification_keys.is_empty()),
        (Field::IgnoredKeyrings, !read.ima.ignored_keyrings.is_empty()),
        (Field::DmPolicy, read.ima.dm_policy.is_some()),
    ] {
        if is_used && !leave_out.contains(&field) {
            let hint = "leave it out (--leave-out): the policy accepts less then";
            return Err(meaning(field.name(), field.meaning().to_owned(), hint));
        }
    }
    if read.digests.0.is_empty() {
        let why = "it is empty: such a policy would accept nothing, or everything".to_owned();
        return Err(meaning("digests", why, "give a policy that names files"));
    }
    let mut reference = Reference::new(Source {
        kind: SourceKind::Keylime,
        name: file.to_owned(),
        digest: Some(Bank::Sha256.hash(&[json])),
    });
    reference.excludes = read.excludes;
    for (names, origin) in [
        (read.digests, None),
        (read.keyrings, Some(KEYRINGS)),
        (read.ima_buf, Some(BUFFERS)),
    ] {
        for (name, digests) in names.0 {
            let place = |why: String| {
                meaning(
                    "digests",
                    format!("{}: {why}", quoted(&name)),
                    "shorten the policy",
                )
            };
            if let Some(origin) = origin {
                if reference.files.contains_key(name.as_bytes()) {
                    let why = format!("{} stands in two of digests, keyrings and ima-buf", quoted(&name));
                    return Err(meaning(
                        origin,
                        why,
                        "nothing says which of them a measurement is",
                    ));
                }
                reference
                    .origins
                    .set(name.clone().into_bytes(), origin)
                    .map_err(place)?;
            }
            for digest in digests {
                reference
                    .insert(name.clone().into_bytes(), digest)
                    .map_err(place)?;
            }
        }
    }
    Ok(reference)
}

/// A runtime policy as it is written; keys in the order in which Keylime has them.
#[derive(Serialize)]
struct Written<'a> {
    meta: WrittenMeta<'a>,
    release: u64,
    digests: BTreeMap<String, Vec<String>>,
    excludes: Vec<&'a str>,
    keyrings: BTreeMap<String, Vec<String>>,
    ima: WrittenIma,
    #[serde(rename = "ima-buf")]
    ima_buf: BTreeMap<String, Vec<String>>,
    #[serde(rename = "verification-keys")]
    verification_keys: &'static str,
}

#[derive(Serialize)]
struct WrittenMeta<'a> {
    version: u64,
    /// `RUNTIME_POLICY_GENERATOR.Unknown`: none of Keylime's own.
    generator: u64,
    timestamp: &'a str,
}

#[derive(Serialize)]
struct WrittenIma {
    ignored_keyrings: [String; 0],
    log_hash_alg: &'static str,
    dm_policy: Option<()>,
}

/// Writes reference values as one runtime policy: their files, keyrings, buffers and excludes, and `excludes`
/// beside them. `timestamp` is written as it is.
///
/// Paths are written as the measurement list has them, with `_` for each space. Keylime compares the list's
/// text, so that it can have no path that is not UTF-8.
///
/// # Errors
/// [`Error::Meaning`] for a path that is not UTF-8.
pub fn write(references: &[Reference], excludes: &Excludes, timestamp: &str) -> Result<Vec<u8>> {
    let mut all: [BTreeMap<String, BTreeSet<String>>; 3] = Default::default();
    for reference in references {
        for (path, digests) in &reference.files {
            let Ok(text) = core::str::from_utf8(path) else {
                return Err(Error::Meaning {
                    file: reference.source.name.clone(),
                    key: String::from_utf8_lossy(path).into_owned(),
                    why: "the path is not UTF-8, and a runtime policy is JSON".into(),
                    hint: "rename the file, or leave it out of the reference values".into(),
                });
            };
            let section = match reference.origins.of(path) {
                Some(KEYRINGS) => 1,
                Some(BUFFERS) => 2,
                _ => 0,
            };
            let entry = all[section].entry(text.replace(' ', "_")).or_default();
            entry.extend(digests.iter().map(|digest| hex::encode(digest.bytes())));
        }
    }
    let [digests, keyrings, ima_buf] = all.map(|section| {
        let lists = section
            .into_iter()
            .map(|(name, digests)| (name, digests.into_iter().collect()));
        lists.collect()
    });
    let lists = references.iter().map(|r| &r.excludes).chain([excludes]);
    let mut joined: Vec<&str> = Vec::new();
    for item in lists.flat_map(Excludes::items) {
        if !joined.contains(&item.as_str()) {
            joined.push(item);
        }
    }
    let written = Written {
        meta: WrittenMeta {
            version: 1,
            generator: LEGACY_ALLOW_LIST,
            timestamp,
        },
        release: 0,
        digests,
        excludes: joined,
        keyrings,
        ima: WrittenIma {
            ignored_keyrings: [],
            log_hash_alg: "sha1",
            dm_policy: None,
        },
        ima_buf,
        verification_keys: "",
    };
    let mut bytes = serde_json::to_vec_pretty(&written).map_err(|e| Error::Meaning {
        file: "runtime policy".into(),
        key: "digests".into(),
        why: e.to_string(),
        hint: "report this".into(),
    })?;
    bytes.push(b'\n');
    Ok(bytes)
}
