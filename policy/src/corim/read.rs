//! A manifest from its bytes: signature and frame here, what it holds in `comid` and `coswid`.

use super::{
    Error, MAX_CORIM_LEN, MAX_TAGS, Manifest, PROFILE, Read, Result,
    cbor::{CborReader, Key, Key::Number},
    comid::{self, Comid, Owner},
    coswid::{self, Coswid},
    sign, tag,
};
use cgpath_evidence::text::quoted;
use minicbor::data::Type;
use p256::ecdsa::VerifyingKey;

/// What vouches for a manifest.
#[derive(Debug, Clone, Copy)]
pub enum Trust<'a> {
    /// It must be signed by this key.
    Key(&'a VerifyingKey),
    /// Nothing: it may be unsigned, and a signature is not checked. Everybody who can change the file can
    /// change the policy.
    DangerousNone,
}

/// Reads a manifest, unsigned (tag 501) or signed (18), also within the tags 500 and 502 of earlier drafts.
/// `now` is in unix seconds.
///
/// # Errors
/// [`Error`]: whatever is not understood is refused, with its place.
pub fn read(bytes: &[u8], trust: Trust<'_>, now: u64) -> Result<Read> {
    if bytes.len() > MAX_CORIM_LEN {
        return Err(Error::Limit {
            offset: 0,
            place: "corim: bytes".into(),
            found: bytes.len() as u64,
            limit: MAX_CORIM_LEN as u64,
        });
    }
    let mut reader = CborReader::new(bytes, 0, "corim")?;
    let mut kind = reader.tag()?;
    for legacy in [tag::LEGACY, tag::LEGACY_SIGNED] {
        if kind == legacy {
            kind = reader.tag()?;
        }
    }
    let mut notes = Vec::new();
    let (manifest, signer) = match (kind, trust) {
        (tag::CORIM, Trust::Key(_)) => {
            return Err(Error::Signature(
                "it is not signed, and a key was given to check it by".into(),
            ));
        }
        (tag::CORIM, Trust::DangerousNone) => {
            notes.push("it is not signed: nothing vouches for these values".to_owned());
            (corim(&mut reader, bytes, now, &mut notes)?, None)
        }
        (tag::SIGN1, trust) => {
            let key = match trust {
                Trust::Key(key) => Some(key),
                Trust::DangerousNone => None,
            };
            let begin = reader.offset();
            let signed = sign::open(bytes.get(begin..).unwrap_or_default(), begin, key, now)?;
            if key.is_none() {
                notes.push(format!(
                    "its signature was not checked: nothing shows that it is by {}",
                    quoted(&signed.signer)
                ));
            }
            let mut payload = CborReader::new(&signed.payload, signed.offset, "corim")?;
            payload.tagged(tag::CORIM)?;
            (
                corim(&mut payload, bytes, now, &mut notes)?,
                key.map(|_| signed.signer),
            )
        }
        (other, _) => {
            return Err(
                reader.unsupported(format!("tag {other}"), "a CoRIM has tag 501, a signed one tag 18")
            );
        }
    };
    Ok(Read {
        manifest,
        signer,
        notes,
    })
}

/// Tags of a manifest as they were met.
#[derive(Default)]
struct Tags<'b> {
    coswids: Vec<Coswid<'b>>,
    comid: Comid<'b>,
}

/// `corim-map`. `file` is the whole file, whose digest names values that come from elsewhere.
fn corim(reader: &mut CborReader<'_>, file: &[u8], now: u64, notes: &mut Vec<String>) -> Result<Manifest> {
    let mut id = None;
    let mut tags = Tags::default();
    let mut paths = 0;
    reader.map(|r, key| match key {
        Number(0) => r.field("id", |r| {
            id = Some(comid::identifier(r)?.to_string());
            Ok(())
        }),
        Number(1) => r.field("tags", |r| {
            r.array(MAX_TAGS, |r| match r.tag()? {
                tag::COSWID => {
                    let mut inner = r.embedded("coswid")?;
                    let coswid = coswid::read(&mut inner, file, &mut paths)?;
                    if tags.coswids.iter().any(|other| other.id == coswid.id) {
                        return Err(r.malformed(format!("a second CoSWID {}", coswid.id)));
                    }
                    tags.coswids.push(coswid);
                    Ok(())
                }
                tag::COMID => comid::read(&mut r.embedded("comid")?, &mut tags.comid),
                other => Err(r.unsupported(format!("tag {other}"), "CoSWID (505) and CoMID (506) are")),
            })
        }),
        Number(3) => r.field("profile", profile),
        Number(4) => r.field("rim-validity", |r| validity(r, now)),
        // Who made it: for people.
        Number(5) => r.skip(),
        // Advisory by the draft: a reader need not follow them.
        Number(2) => {
            notes.push("manifests that it depends on (dependent-rims) were not fetched".to_owned());
            r.skip()
        }
        other => Err(r.unsupported(other, "an extension can change what is accepted")),
    })?;
    let id = id.ok_or_else(|| reader.malformed("no id (key 0)"))?;
    assemble(reader, id, tags)
}

/// Puts owners and values together.
fn assemble(reader: &CborReader<'_>, id: String, tags: Tags<'_>) -> Result<Manifest> {
    let Tags { coswids, comid } = tags;
    let mut manifest = Manifest {
        id,
        node: comid.node,
        boot: comid.boot,
        ..Manifest::default()
    };
    for (owner, ids) in comid.owners {
        let mut positions = Vec::new();
        for id in ids {
            let position = coswids.iter().position(|coswid| coswid.id == id);
            let why = || format!("a triple names the CoSWID {id}, which is not in it");
            positions.push(position.ok_or_else(|| reader.malformed(why()))?);
        }
        match owner {
            Owner::Host => manifest.host.extend(positions),
            Owner::Sandbox => manifest.sandbox.extend(positions),
            Owner::Pod(uid, name) => {
                if manifest.pods.iter().any(|pod| pod.uid == uid) {
                    return Err(reader.malformed(format!("two triples for pod {uid}")));
                }
                manifest.pods.push(super::ManifestPod {
                    uid,
                    name,
                    references: positions,
                });
            }
        }
    }
    manifest.references = coswids.into_iter().map(|coswid| coswid.reference).collect();
    if manifest.references.is_empty() && manifest.boot.is_none() {
        return Err(reader.malformed("no reference values: such a manifest would accept nothing"));
    }
    Ok(manifest)
}

fn profile(r: &mut CborReader<'_>) -> Result<()> {
    let hint = "a profile can change what everything else means";
    // The draft's own examples have a URI without its tag.
    if r.kind() != Some(Type::String) && r.tag()? != tag::URI {
        return Err(r.unsupported("a profile that is no URI", hint));
    }
    match r.text()? {
        PROFILE => Ok(()),
        other => Err(r.unsupported(format!("profile {}", quoted(other)), hint)),
    }
}

/// `validity-map`: it must hold now.
pub(super) fn validity(r: &mut CborReader<'_>, now: u64) -> Result<()> {
    let mut has_end = false;
    r.map(|r, key| match key {
        Number(0) => r.field("not-before", |r| from(time(r)?, now, r)),
        Number(1) => r.field("not-after", |r| {
            has_end = true;
            until(time(r)?, now, r)
        }),
        other => Err(r.unsupported(other, "it could say when this counts")),
    })?;
    if has_end {
        return Ok(());
    }
    Err(r.malformed("no not-after (key 1)"))
}

fn time(r: &mut CborReader<'_>) -> Result<i64> {
    r.tagged(tag::TIME)?;
    r.integer()
}

pub(super) fn from(limit: i64, now: u64, r: &CborReader<'_>) -> Result<()> {
    within(i128::from(limit) <= i128::from(now), "from", limit, now, r)
}

pub(super) fn until(limit: i64, now: u64, r: &CborReader<'_>) -> Result<()> {
    within(i128::from(now) <= i128::from(limit), "until", limit, now, r)
}

fn within(holds: bool, when: &'static str, limit: i64, now: u64, r: &CborReader<'_>) -> Result<()> {
    if holds {
        return Ok(());
    }
    Err(Error::NotValid {
        place: r.place(),
        when,
        limit,
        now,
    })
}

/// A label that is a text is an attribute for people (RFC 9393 `any-attribute`); a number that is not known
/// is an extension.
pub(super) fn other(r: &mut CborReader<'_>, key: Key<'_>) -> Result<()> {
    match (key, r.kind()) {
        (Key::Text(_), Some(Type::String | Type::Array)) => r.skip(),
        (Key::Text(_), _) => r.integer().map(drop),
        (Key::Number(_), _) => Err(r.unsupported(key, "an extension can change what is accepted")),
    }
}
