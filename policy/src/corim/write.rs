//! An unsigned manifest, in deterministic CBOR.

use super::{COMMAND_LINE, Error, Manifest, PROFILE, Result, VENDOR, algorithm, attribute, sets, tag};
use crate::{BootPolicy, Reference};
use cgpath_evidence::{Bank, Digest};
use minicbor::{Encoder, data::Tag};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;

type Out<'a> = Encoder<&'a mut Vec<u8>>;
type Written = core::result::Result<(), minicbor::encode::Error<core::convert::Infallible>>;

fn encode(write: impl FnOnce(&mut Out<'_>) -> Written) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut Encoder::new(&mut out)).expect("encoding into memory cannot fail");
    out
}

/// Writes `manifest` as an unsigned CoRIM (tag 501), and names what has no form in one.
///
/// What has none: excludes, SHA-1 (no named information algorithm), paths that are not UTF-8 or not folder
/// and name. Left out they make what is written stricter, never laxer.
///
/// # Errors
/// [`Error::Empty`] if a reference has no file that could be written, or there is nothing at all.
pub fn write(manifest: &Manifest) -> Result<(Vec<u8>, Vec<String>)> {
    let mut left_out = Vec::new();
    let mut ids = Vec::new();
    let mut tags = Vec::new();
    let mut known = BTreeSet::new();
    for reference in &manifest.references {
        let id = tag_id(reference);
        if known.insert(id.clone()) {
            tags.push((tag::COSWID, coswid(reference, &id, &mut left_out)?));
        }
        ids.push(id);
    }
    if let Some(comid) = comid(manifest, &ids, &mut left_out)? {
        tags.push((tag::COMID, comid));
    }
    if tags.is_empty() {
        return Err(Error::Empty("there are no reference values".into()));
    }
    let bytes = encode(|e| {
        e.tag(Tag::new(tag::CORIM))?.map(4)?;
        e.u8(0)?.str(&manifest.id)?;
        e.u8(1)?.array(tags.len() as u64)?;
        for (tag, bytes) in &tags {
            e.tag(Tag::new(*tag))?.bytes(bytes)?;
        }
        e.u8(3)?.tag(Tag::new(tag::URI))?.str(PROFILE)?;
        // Entities: name, and the role manifest-creator.
        e.u8(5)?
            .array(1)?
            .map(2)?
            .u8(0)?
            .str(VENDOR)?
            .u8(2)?
            .array(1)?
            .u8(1)?
            .ok()
    });
    Ok((bytes, left_out))
}

/// A tag's identifier: the SHA-256 of the reference values as their file has them.
fn tag_id(reference: &Reference) -> String {
    let mut hasher = Sha256::new();
    reference.write_json(&mut hasher).expect("hashing cannot fail");
    format!("sha256:{}", hex::encode(hasher.finalize()))
}

/// A path as CoSWID has it: whether it begins at the root, its folder, its name.
fn split(path: &[u8]) -> Option<(bool, Option<&str>, &str)> {
    let text = core::str::from_utf8(path).ok()?;
    let (root, rest) = match text.strip_prefix('/') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    if rest.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return None;
    }
    Some(match rest.rsplit_once('/') {
        Some((folder, name)) => (root, Some(folder), name),
        None => (root, None, rest),
    })
}

/// What of a reference has no form.
#[derive(Default)]
struct NoForm {
    paths: u64,
    example: Option<String>,
    sha1: u64,
}

impl NoForm {
    fn tell(self, reference: &Reference, left_out: &mut Vec<String>) {
        let name = &reference.source.name;
        for exclude in reference.excludes.items() {
            left_out.push(format!(
                "{name}: exclude {exclude}: an exclude is no reference value"
            ));
        }
        if let Some(example) = self.example {
            left_out.push(format!(
                "{name}: {} paths, such as {example:?}: not UTF-8, or not a folder and a name",
                self.paths
            ));
        }
        if self.sha1 > 0 {
            left_out.push(format!(
                "{name}: {} SHA-1 digests: SHA-1 is no named information algorithm",
                self.sha1
            ));
        }
    }
}

/// A CoSWID (RFC 9393): each accepted content of each path is a file of its payload, since a file has one
/// hash.
fn coswid(reference: &Reference, id: &str, left_out: &mut Vec<String>) -> Result<Vec<u8>> {
    let mut no_form = NoForm::default();
    let mut files = Vec::new();
    for (path, digests) in &reference.files {
        let Some(parts) = split(path) else {
            no_form.paths += 1;
            no_form
                .example
                .get_or_insert_with(|| String::from_utf8_lossy(path).into_owned());
            continue;
        };
        for digest in digests {
            match algorithm(digest.bank()) {
                Some(algorithm) => files.push((parts, algorithm, digest, reference.origins.number(path))),
                None => no_form.sha1 += 1,
            }
        }
    }
    no_form.tell(reference, left_out);
    if files.is_empty() {
        return Err(Error::Empty(format!("{}: no file of it", reference.source.name)));
    }
    let source = &reference.source;
    let origins = reference.origins.names();
    let attributes = 1
        + u64::from(source.digest.is_some())
        + u64::from(reference.learned)
        + u64::from(!origins.is_empty());
    Ok(encode(|e| {
        e.map(5 + attributes)?;
        e.u8(0)?.str(id)?;
        e.u8(1)?.str(&source.name)?;
        // Entity: name, and the role tag-creator.
        e.u8(2)?.map(2)?.u8(31)?.str(VENDOR)?.u8(33)?.u8(1)?;
        e.u8(6)?.map(1)?.u8(17)?;
        one_or_more(e, &files, |e, ((root, folder, name), algorithm, digest, from)| {
            e.map(2 + u64::from(*root) + u64::from(folder.is_some()) + u64::from(from.is_some()))?;
            e.u8(7)?.array(2)?.u8(*algorithm)?.bytes(digest.bytes())?;
            if let Some(folder) = folder {
                e.u8(23)?.str(folder)?;
            }
            e.u8(24)?.str(name)?;
            if *root {
                e.u8(25)?.str("/")?;
            }
            if let Some(from) = from {
                e.str(attribute::FROM)?.u32(*from)?;
            }
            Ok(())
        })?;
        e.u8(12)?.u8(0)?;
        e.str(attribute::KIND)?.str(source.kind.name())?;
        if let Some(digest) = &source.digest {
            e.str(attribute::DIGEST)?.str(&digest.to_string())?;
        }
        if reference.learned {
            e.str(attribute::LEARNED)?.u8(1)?;
        }
        if !origins.is_empty() {
            e.str(attribute::ORIGINS)?;
            one_or_more(e, origins, |e, name| e.str(name)?.ok())?;
        }
        Ok(())
    }))
}

/// RFC 9393: one item is itself, several are an array.
fn one_or_more<T>(
    e: &mut Out<'_>,
    items: &[T],
    mut write: impl FnMut(&mut Out<'_>, &T) -> Written,
) -> Written {
    if items.len() != 1 {
        e.array(items.len() as u64)?;
    }
    items.iter().try_for_each(|item| write(e, item))
}

/// Whose reference values: the environment of a triple.
enum Environment<'a> {
    Part(&'static str, &'a str),
    Pod(&'a super::ManifestPod),
}

impl Environment<'_> {
    fn write(&self, e: &mut Out<'_>) -> Written {
        let model = match self {
            Environment::Part(model, _) => model,
            Environment::Pod(_) => "pod",
        };
        e.map(if let Environment::Pod(_) = self { 3 } else { 2 })?;
        e.u8(0)?.map(2)?.u8(1)?.str(VENDOR)?.u8(2)?.str(model)?;
        e.u8(1)?;
        match self {
            Environment::Part(_, node) => e.tag(Tag::new(tag::BYTES))?.bytes(node.as_bytes())?.ok(),
            Environment::Pod(pod) => {
                e.tag(Tag::new(tag::UUID))?.bytes(&pod.uid.0)?;
                e.u8(2)?
                    .tag(Tag::new(tag::BYTES))?
                    .bytes(pod.name.as_bytes())?
                    .ok()
            }
        }
    }
}

/// The CoMID: whose the CoSWIDs are, and what the boot may be. `None` where it would say nothing.
fn comid(manifest: &Manifest, ids: &[String], left_out: &mut Vec<String>) -> Result<Option<Vec<u8>>> {
    let node = manifest.node.as_deref().unwrap_or_default();
    let mut owners = Vec::new();
    let pods = manifest.pods.iter();
    for (environment, references) in [
        (Environment::Part("host", node), &manifest.host),
        (Environment::Part("sandbox", node), &manifest.sandbox),
    ]
    .into_iter()
    .chain(pods.map(|pod| (Environment::Pod(pod), &pod.references)))
    {
        let mut named: Vec<&str> = Vec::new();
        for id in references.iter().filter_map(|n| ids.get(*n)) {
            if !named.contains(&id.as_str()) {
                named.push(id);
            }
        }
        if !named.is_empty() {
            owners.push((environment, named));
        }
    }
    let boot = match &manifest.boot {
        Some(boot) => boot_values(boot, left_out)?,
        None => Vec::new(),
    };
    if owners.is_empty() && boot.is_empty() {
        return Ok(None);
    }
    Ok(Some(encode(|e| {
        e.map(2)?;
        e.u8(1)?.map(1)?.u8(0)?.str(&manifest.id)?;
        e.u8(4)?
            .map(u64::from(!boot.is_empty()) + u64::from(!owners.is_empty()))?;
        if !boot.is_empty() {
            e.u8(0)?.array(boot.len() as u64)?;
            for value in &boot {
                e.array(2)?;
                Environment::Part("boot", node).write(e)?;
                e.array(1)?;
                value.write(e)?;
            }
        }
        if !owners.is_empty() {
            e.u8(6)?.array(owners.len() as u64)?;
            for (environment, ids) in &owners {
                e.array(2)?;
                environment.write(e)?;
                e.array(ids.len() as u64)?;
                ids.iter().try_for_each(|id| e.str(id)?.ok())?;
            }
        }
        Ok(())
    })))
}

/// One accepted value of the boot: a reference triple of its own, so that alternatives are alternatives.
enum BootValue<'a> {
    Register(u8, Vec<&'a Digest>),
    CommandLine(&'a str),
    Event(String, &'a str, Vec<&'a Digest>),
}

impl BootValue<'_> {
    fn write(&self, e: &mut Out<'_>) -> Written {
        match self {
            BootValue::Register(pcr, digests) => {
                e.map(1)?.u8(1)?.map(1)?.u8(14)?.map(1)?.u8(*pcr)?;
                write_digests(e, digests)
            }
            BootValue::CommandLine(line) => {
                e.map(2)?.u8(0)?.str(COMMAND_LINE)?;
                e.u8(1)?.map(1)?.u8(4)?;
                e.tag(Tag::new(tag::BYTES))?.bytes(line.as_bytes())?.ok()
            }
            BootValue::Event(key, name, digests) => {
                e.map(2)?.u8(0)?.str(key)?;
                e.u8(1)?.map(2)?.u8(2)?;
                write_digests(e, digests)?;
                e.u8(11)?.str(name)?.ok()
            }
        }
    }
}

fn write_digests(e: &mut Out<'_>, digests: &[&Digest]) -> Written {
    e.array(digests.len() as u64)?;
    for digest in digests {
        let algorithm = algorithm(digest.bank()).unwrap_or_default();
        e.array(2)?.u8(algorithm)?.bytes(digest.bytes())?;
    }
    Ok(())
}

fn boot_values<'a>(boot: &'a BootPolicy, left_out: &mut Vec<String>) -> Result<Vec<BootValue<'a>>> {
    let mut values = Vec::new();
    let mut sha1 = 0;
    let mut count = |digests: &[Digest]| sha1 += digests.iter().filter(|d| d.bank() == Bank::Sha1).count();
    for (pcr, digests) in &boot.registers {
        count(digests);
        values.extend(
            sets(digests)
                .into_iter()
                .map(|set| BootValue::Register(*pcr, set)),
        );
    }
    values.extend(boot.command_lines.iter().map(|line| BootValue::CommandLine(line)));
    for event in &boot.events {
        count(&event.digests);
        let key = format!("pcr-{}/{}", event.pcr, event.kind);
        let sets = sets(&event.digests).into_iter();
        values.extend(sets.map(|set| BootValue::Event(key.clone(), &event.name, set)));
    }
    if sha1 > 0 {
        left_out.push(format!(
            "boot: {sha1} SHA-1 digests: SHA-1 is no named information algorithm; do without the sha1 bank"
        ));
    }
    let optional = boot.events.iter().filter(|event| event.optional).count();
    if optional > 0 {
        left_out.push(format!(
            "boot.events: that {optional} of them need not have been measured"
        ));
    }
    if !boot.firmware_deviations.is_empty() {
        left_out.push(format!(
            "boot.firmware-deviations ({}): they say how evidence is judged",
            boot.firmware_deviations.len()
        ));
    }
    if values.is_empty() {
        return Err(Error::Empty("boot: no value of it".into()));
    }
    Ok(values)
}
