//! A tenant's bundle: what shows one pod that its partition is complete under a quoted checkpoint, and
//! nothing of others.
//!
//! Pure. Made of whole evidence by [`TenantBundle::prove`]; who reads it replays a list of template digests
//! alone, or of entries' hashes where the node has a trust domain's register and no TPM.
//! Promise: of other pods it holds no path, no name, no record and no UID, but for what docs/threat-model.md
//! states under "What a tenant's bundle shows of the node". Not here: whether it is to be believed (see
//! `cgpath_appraisal::tenant`).

use crate::{
    Bank, Checkpoint, Digest, Entry, Error, EventKind, Evidence, PartitionKey, PodUid, Quote, Quotes, Record,
    Result, SealedCheckpoint,
    boot::Registers,
    checkpoint::number_from_path,
    evidence::lists,
    list::ListEntry,
    merkle::{self, Hash},
    proof::{PartitionProof, PartitionTree, SealedPartition, SealedTree},
    quoted::{IMA_PCR as PCR, QuotedRegisters, SelectionError},
    replay::{Fill, Replay, ReplayError},
    serde_bytes_hex,
    td::log,
    tpm::Attest,
    wire,
};
use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};

/// A bundle is never longer than this many bytes.
pub const MAX_BUNDLE_LEN: usize = 512 * 1024 * 1024;

/// What one pod is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[serde(deny_unknown_fields)]
#[cbor(map)]
pub struct TenantBundle {
    /// Format version: 1.
    #[n(0)]
    pub version: u32,
    /// The pod.
    #[n(1)]
    pub pod: PodUid,
    /// What the node calls itself; only a hint, the key decides.
    #[n(2)]
    pub node: String,
    /// boot_id of the running kernel, 16 bytes.
    #[n(3)]
    #[cbor(with = "minicbor::bytes")]
    #[serde(with = "serde_bytes_hex")]
    pub boot_id: [u8; 16],
    /// The quote over PCR 0 to 10; a trust domain's alone, where there is no TPM.
    #[n(4)]
    pub quote: Quotes,
    /// How many entries of the measurement list stand before [`TenantBundle::list`]: those that the reader
    /// has followed already; 0 for one that has not.
    #[n(5)]
    pub from: u64,
    /// The list from there to the last entry that the quote covers: template digests in the quoted banks, and
    /// the entries of the collector's checkpoints whole. Where a trust domain's register binds it, to the
    /// last entry that the last checkpoint counts, and hashes alone.
    #[n(6)]
    #[cbor(decode_with = "lists::entries")]
    pub list: Vec<Entry>,
    /// Checkpoint 0, which names the key of this boot's checkpoints; absent for a reader that has followed,
    /// but where a trust domain's register begins with it.
    #[n(7)]
    #[cbor(with = "minicbor::bytes")]
    #[serde(
        with = "serde_bytes_hex::option",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub first: Option<Vec<u8>>,
    /// The last checkpoint.
    #[n(8)]
    #[cbor(with = "minicbor::bytes")]
    #[serde(with = "serde_bytes_hex")]
    pub last: Vec<u8>,
    /// The pod's partition under the last checkpoint's partitions root, or that there is none.
    #[n(9)]
    pub proof: PartitionProof,
    /// All its records since the load, in the order in which they were sealed.
    #[n(10)]
    #[cbor(decode_with = "lists::records")]
    pub records: Vec<Record>,
    /// The entries of the list that these records are about, whole, each once: the content hashes stand in
    /// them.
    #[n(11)]
    #[cbor(with = "crate::evidence::files")]
    #[serde(with = "serde_bytes_hex::list")]
    pub entries: Vec<Vec<u8>>,
    /// A full verifier's signed attestation result for the last checkpoint, about the node and this pod alone
    /// (a JWT).
    #[n(12)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ear: Option<String>,
    /// PCR 0 to 9 in the quoted banks, without which the quote's digest cannot be computed; absent where it
    /// is over PCR 10 alone.
    #[n(13)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registers: Option<Vec<Registers>>,
    /// What the quoted nonce commits to, where a nonce of the reader's own was asked for: the bytes of an
    /// [`Opening`](crate::challenge::Opening).
    #[n(14)]
    #[cbor(with = "minicbor::bytes")]
    #[serde(
        with = "serde_bytes_hex::option",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub opening: Option<Vec<u8>>,
    /// Every extension of the trust domain's register, where there is no TPM: see [`crate::td::log`]. Of
    /// those by others the digest alone, without what their events say.
    #[n(15)]
    #[cbor(with = "minicbor::bytes")]
    #[serde(
        with = "serde_bytes_hex::option",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub register_log: Option<Vec<u8>>,
}

/// Why no bundle can be made of evidence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProveError {
    /// The evidence seals nothing.
    #[error("the evidence holds no checkpoint, so no partition is sealed in it")]
    NoCheckpoint,
    /// A part of it cannot be read.
    #[error("{what}: {source}")]
    Unreadable {
        /// Which part.
        what: &'static str,
        /// Why.
        source: Error,
    },
    /// Only a trust domain's quote is there, without what binds the list to its register.
    #[error("the evidence has no TPM's quote, and nothing binds the list to a trust domain's register: {0}")]
    Unbound(&'static str),
    /// An entry is redacted, and its hash is not there.
    #[error("entry {index} of the list is redacted, and its hash is not known")]
    Redacted {
        /// Its place.
        index: usize,
    },
    /// The quote selects what is of no use here.
    #[error("{0}")]
    Quote(#[from] SelectionError),
    /// The list does not lead to the quote.
    #[error("the measurement list cannot be replayed: {0}")]
    Replay(#[from] ReplayError),
    /// No prefix of the list gives the quoted digest.
    #[error(
        "no prefix of the list's {entries} entries replays to the quoted PCR 10 (a padded bank is not \
         supported here)"
    )]
    NotCovered {
        /// Length of the list.
        entries: usize,
    },
    /// The reader would have followed more than there is.
    #[error("the list is to begin at entry {from}, and the quote covers {covered}")]
    From {
        /// Where to begin.
        from: u64,
        /// How many entries are covered.
        covered: u64,
    },
    /// The last checkpoint's file is not among the entries that would be shown.
    #[error("the last checkpoint, number {0}, does not stand in the covered list from where it is to begin")]
    NotAnchored(u64),
    /// The records are not those that were sealed.
    #[error("the records are not those that the last checkpoint seals: appraise the evidence first")]
    NotSealed,
    /// An entry that a record is about is not in the list.
    #[error("record {seq} is about an entry that is not in the list: appraise the evidence first")]
    NoEntry {
        /// Its sequence number.
        seq: u64,
    },
}

/// What cannot be read, where it is the list.
const LIST: &str = "the measurement list";

fn unreadable(what: &'static str) -> impl FnOnce(Error) -> ProveError {
    move |source| ProveError::Unreadable { what, source }
}

/// Whether a record says that IMA held an entry for what was measured: added now, or there before (-17,
/// EEXIST).
pub fn is_of_entry(record: &Record) -> bool {
    record.kind == EventKind::Entry && matches!(record.ret, 0 | -17)
}

/// The digest by which an entry is looked up for a record: SHA-1, which every kernel has, or the first there
/// is.
pub fn join_digest(record: &Record) -> Option<&Digest> {
    let sha1 = record.digests.iter().find(|d| d.bank() == Bank::Sha1);
    sha1.or_else(|| record.digests.first())
}

/// How many entries the quote covers.
fn covered(list: &[Entry], quoted: &QuotedRegisters, banks: &[Bank]) -> Result<usize, ProveError> {
    let mut replay = Replay::new(banks.iter().map(|bank| (*bank, Fill::Hashed)));
    let is_quoted = |replay: &Replay| {
        let values: Option<Vec<Digest>> = banks
            .iter()
            .map(|bank| replay.value(PCR, *bank, Fill::Hashed))
            .collect();
        values.is_some_and(|values| quoted.is_with(&values))
    };
    let mut found = is_quoted(&replay).then_some(0);
    for (index, entry) in list.iter().enumerate() {
        replay.push_entry(entry)?;
        if is_quoted(&replay) {
            found = Some(index + 1);
        }
    }
    found.ok_or(ProveError::NotCovered { entries: list.len() })
}

/// How many entries the last checkpoint binds to the register of a trust domain.
fn bound(list: &[Entry], last: &Checkpoint) -> Result<usize, ProveError> {
    if last.binding.is_none() {
        return Err(ProveError::Unbound(
            "the last checkpoint has no value of the list",
        ));
    }
    let stated = usize::try_from(last.list_len).ok();
    stated
        .filter(|stated| *stated <= list.len())
        .ok_or(ProveError::Unbound(
            "the list ends before the last checkpoint's length",
        ))
}

/// An entry's hash in its place.
fn hashed(index: usize, entry: &Entry) -> Result<Entry, ProveError> {
    match entry {
        Entry::Full(record) => ListEntry::from_canonical(index as u64, record.as_slice())
            .map(|whole| whole.to_hashed())
            .map_err(unreadable(LIST)),
        Entry::Opaque { hash: Some(_), .. } => Ok(entry.clone()),
        Entry::Opaque { hash: None, .. } => Err(ProveError::Redacted { index }),
    }
}

/// The register's log without what others say in it: their digests are what the register needs.
fn without_others(whole: &[u8]) -> Result<Vec<u8>> {
    let mut shown = Vec::with_capacity(whole.len());
    for extension in log::read(whole)? {
        let extension = extension?;
        let data = extension.checkpoint().map_or(&[][..], |_| extension.data);
        log::append(
            &mut shown,
            extension.rtmr,
            extension.kind,
            &extension.digest,
            data,
        );
    }
    Ok(shown)
}

/// The number of the checkpoint whose file this entry measures; `None` for any other entry, whatever its
/// name.
fn anchored(entry: &ListEntry<&[u8]>, files: &[Vec<u8>]) -> Option<u64> {
    let number = number_from_path(entry.file_name()?)?;
    let file = files.get(usize::try_from(number).ok()?)?;
    let digest = entry.file_digest()?.digest()?;
    let is_it = digest.bank() != Bank::Sha1 && digest.bank().hash(&[file]) == digest && !entry.is_violation();
    is_it.then_some(number)
}

/// What a bundle shows of quote and list.
struct Shown {
    quote: Quotes,
    list: Vec<Entry>,
    registers: Option<Vec<Registers>>,
    register_log: Option<Vec<u8>>,
}

/// Where the shown list begins.
fn begin(from: u64, covered: usize) -> Result<usize, ProveError> {
    let begin = usize::try_from(from).ok().filter(|from| *from <= covered);
    begin.ok_or(ProveError::From {
        from,
        covered: covered as u64,
    })
}

impl Shown {
    /// Of what PCR 10 covers.
    fn by_pcr(evidence: &Evidence, quote: &Quote, last: &Checkpoint, from: u64) -> Result<Shown, ProveError> {
        let attest = Attest::parse(&quote.attest).map_err(unreadable("the quote"))?;
        let quoted = QuotedRegisters::strict(&attest, evidence.registers())?;
        let banks: Vec<Bank> = quoted.banks().collect();
        let covered = covered(&evidence.list, &quoted, &banks)?;
        let begin = begin(from, covered)?;
        let mut list = Vec::with_capacity(covered - begin);
        let mut is_anchored = false;
        for (index, entry) in evidence.list.iter().enumerate().take(covered).skip(begin) {
            let Entry::Full(record) = entry else {
                list.push(entry.clone());
                continue;
            };
            let whole =
                ListEntry::from_canonical(index as u64, record.as_slice()).map_err(unreadable(LIST))?;
            match anchored(&whole, &evidence.checkpoints) {
                Some(number) => {
                    is_anchored |= number == last.number;
                    list.push(entry.clone());
                }
                None => list.push(whole.to_opaque(&banks)),
            }
        }
        if !is_anchored {
            return Err(ProveError::NotAnchored(last.number));
        }
        Ok(Shown {
            quote: quote.clone().into(),
            list,
            registers: evidence.boot.as_ref().map(|boot| boot.registers.clone()),
            register_log: None,
        })
    }

    /// Of what the last checkpoint binds to a trust domain's register.
    fn by_register(evidence: &Evidence, last: &Checkpoint, from: u64) -> Result<Shown, ProveError> {
        let td = evidence.td.as_ref();
        let td = td.ok_or(ProveError::Unbound("the register's log is not there"))?;
        let covered = bound(&evidence.list, last)?;
        let entries = evidence.list.iter().enumerate().take(covered);
        let entries = entries.skip(begin(from, covered)?);
        let list = entries.map(|(index, entry)| hashed(index, entry));
        let register_log = without_others(&td.register_log).map_err(unreadable("the register's log"))?;
        Ok(Shown {
            quote: evidence.quote.clone(),
            list: list.collect::<Result<_, _>>()?,
            registers: None,
            register_log: Some(register_log),
        })
    }
}

impl TenantBundle {
    /// Makes the bundle of `pod`, for a reader that has followed the first `from` entries of the list (0:
    /// none).
    ///
    /// The evidence is taken as judged: what is checked here is only that the bundle will hold together.
    ///
    /// # Errors
    /// [`ProveError`].
    pub fn prove(evidence: &Evidence, pod: PodUid, from: u64) -> Result<TenantBundle, ProveError> {
        let last_file = evidence.checkpoints.last().ok_or(ProveError::NoCheckpoint)?;
        let last = SealedCheckpoint::from_file(last_file).map_err(unreadable("the last checkpoint"))?;
        let shown = match &evidence.quote.tpm {
            Some(quote) => Shown::by_pcr(evidence, quote, &last.checkpoint, from)?,
            None => Shown::by_register(evidence, &last.checkpoint, from)?,
        };

        let key = PartitionKey::Pod(pod);
        let tree = PartitionTree::new(evidence.partitions.iter().map(|log| SealedPartition {
            key: log.key,
            size: log.records.len() as u64,
            root: merkle::root(log.records.iter().map(Record::leaf_hash)),
        }));
        if tree.sealed() != SealedTree::from(&last.checkpoint) {
            return Err(ProveError::NotSealed);
        }
        let records = evidence.records(key).to_vec();
        Ok(TenantBundle {
            version: wire::VERSION,
            pod,
            node: evidence.node.clone(),
            boot_id: evidence.boot_id,
            from,
            first: evidence
                .checkpoints
                .first()
                .filter(|_| from == 0 || shown.register_log.is_some())
                .cloned(),
            quote: shown.quote,
            list: shown.list,
            last: last_file.clone(),
            proof: tree.prove(key),
            entries: own_entries(&evidence.list, &records)?,
            records,
            ear: None,
            registers: shown.registers,
            opening: None,
            register_log: shown.register_log,
        })
    }

    /// Deterministic CBOR.
    pub fn to_cbor(&self) -> Vec<u8> {
        wire::to_vec(self)
    }

    /// # Errors
    /// As [`wire::from_slice`]; [`Error::Malformed`] for another version than 1.
    pub fn from_cbor(bytes: &[u8]) -> Result<TenantBundle> {
        let bundle: TenantBundle = wire::from_slice(bytes, "tenant's bundle", MAX_BUNDLE_LEN)?;
        let named = format_args!("tenant's bundle version {}", bundle.version);
        wire::check_version(bundle.version, 0, named)?;
        Ok(bundle)
    }

    /// SHA-256 of the last checkpoint's file: what an attestation result must name to speak of this bundle.
    pub fn checkpoint_digest(&self) -> Hash {
        let digest = Bank::Sha256.hash(&[&self.last]);
        Hash::try_from(digest.bytes()).expect("SHA-256 has 32 bytes")
    }
}

/// The entries that `records` are about, each once, in the order of first use.
fn own_entries(list: &[Entry], records: &[Record]) -> Result<Vec<Vec<u8>>, ProveError> {
    let about: Vec<(u64, &Digest)> = records
        .iter()
        .filter(|record| is_of_entry(record))
        .map(|record| {
            let digest = join_digest(record);
            digest
                .map(|d| (record.seq, d))
                .ok_or(ProveError::NoEntry { seq: record.seq })
        })
        .collect::<Result<_, _>>()?;
    let wanted: HashSet<&Digest> = about.iter().map(|(_, digest)| *digest).collect();
    let mut banks: Vec<Bank> = wanted.iter().map(|digest| digest.bank()).collect();
    banks.sort_unstable();
    banks.dedup();
    let mut found: HashMap<Digest, &[u8]> = HashMap::new();
    for (index, entry) in list.iter().enumerate() {
        let Entry::Full(record) = entry else { continue };
        let Ok(whole) = ListEntry::from_canonical(index as u64, record.as_slice()) else {
            continue;
        };
        for bank in &banks {
            let digest = whole.template_digest(*bank);
            if !whole.is_violation() && wanted.contains(&digest) {
                found.entry(digest).or_insert(record);
            }
        }
    }
    let mut given = HashSet::new();
    let mut entries = Vec::new();
    for (seq, digest) in about {
        let record = found.get(digest).ok_or(ProveError::NoEntry { seq })?;
        if given.insert(*record) {
            entries.push(record.to_vec());
        }
    }
    Ok(entries)
}
