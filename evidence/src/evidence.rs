//! The evidence that answers one request: quote, measurement list, checkpoints, records.

use crate::{
    Boot, Entry, InFlight, PartitionKey, PodUid, Record, Result, TdEvidence, TdQuote, json, pending,
    serde_bytes_hex, wire,
};
use minicbor::{Decode, Decoder, Encode, Encoder, bytes::ByteVec};
use serde::{Deserialize, Serialize};

/// Where the tags live.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Encode, Decode,
)]
#[serde(rename_all = "lowercase")]
#[cbor(index_only)]
pub enum Tier {
    /// In the template data itself: a kernel with our series.
    #[n(1)]
    Kernel,
    /// Beside the list, by our eBPF programs: a stock kernel.
    #[n(2)]
    Bpf,
}

impl core::fmt::Display for Tier {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Tier::Kernel => "kernel",
            Tier::Bpf => "bpf",
        })
    }
}

/// A TPM quote and the key that signed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct Quote {
    /// TPMS_ATTEST, big-endian as the TPM gave it, without a TPM2B size. TPM 2.0 Part 2, 10.12.12.
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    #[serde(with = "serde_bytes_hex")]
    pub attest: Vec<u8>,
    /// TPMT_SIGNATURE. TPM 2.0 Part 2, 11.3.4.
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    #[serde(with = "serde_bytes_hex")]
    pub signature: Vec<u8>,
    /// TPMT_PUBLIC of the attestation key, without a TPM2B size. TPM 2.0 Part 2, 12.2.4.
    #[n(2)]
    #[cbor(with = "minicbor::bytes")]
    #[serde(with = "serde_bytes_hex")]
    pub ak: Vec<u8>,
}

/// What signs for a node: a TPM's quote, that of a trusted execution environment, or both; never neither.
///
/// In CBOR one map: the TPM's three structures are its keys 0 to 2, the other quote is key 3.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "FlatQuotes")]
pub struct Quotes {
    /// The TPM's.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub tpm: Option<Quote>,
    /// The trusted execution environment's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub td: Option<TdQuote>,
}

const NO_QUOTE: &str =
    "a quote is a TPM's three structures, that of a trusted execution environment, or both";

impl Quotes {
    pub(crate) fn new(tpm: Option<Quote>, td: Option<TdQuote>) -> Option<Quotes> {
        (tpm.is_some() || td.is_some()).then_some(Quotes { tpm, td })
    }

    /// The TPM's, for those who can do with nothing else.
    ///
    /// # Errors
    /// [`Error::Malformed`](crate::Error::Malformed) where there is none.
    pub fn tpm(&self) -> Result<&Quote> {
        let none = || crate::Error::malformed(0, "the evidence has no TPM's quote");
        self.tpm.as_ref().ok_or_else(none)
    }
}

impl From<Quote> for Quotes {
    fn from(quote: Quote) -> Quotes {
        Quotes {
            tpm: Some(quote),
            td: None,
        }
    }
}

/// As JSON has it. What is not whole is lost here, and missed when it is written again.
#[derive(Deserialize)]
struct FlatQuotes {
    #[serde(flatten)]
    tpm: Option<Quote>,
    td: Option<TdQuote>,
}

impl TryFrom<FlatQuotes> for Quotes {
    type Error = &'static str;

    fn try_from(flat: FlatQuotes) -> core::result::Result<Quotes, &'static str> {
        Quotes::new(flat.tpm, flat.td).ok_or(NO_QUOTE)
    }
}

impl<C> Encode<C> for Quotes {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut Encoder<W>,
        ctx: &mut C,
    ) -> core::result::Result<(), minicbor::encode::Error<W::Error>> {
        let Quotes { tpm, td } = self;
        e.map(3 * u64::from(tpm.is_some()) + u64::from(td.is_some()))?;
        if let Some(Quote {
            attest,
            signature,
            ak,
        }) = tpm
        {
            e.u8(0)?
                .bytes(attest)?
                .u8(1)?
                .bytes(signature)?
                .u8(2)?
                .bytes(ak)?;
        }
        if let Some(td) = td {
            e.u8(3)?.encode_with(td, ctx)?;
        }
        Ok(())
    }
}

impl<'b, C> Decode<'b, C> for Quotes {
    fn decode(d: &mut Decoder<'b>, ctx: &mut C) -> core::result::Result<Quotes, minicbor::decode::Error> {
        #[derive(Decode)]
        #[cbor(map)]
        struct Keys {
            #[n(0)]
            attest: Option<ByteVec>,
            #[n(1)]
            signature: Option<ByteVec>,
            #[n(2)]
            ak: Option<ByteVec>,
            #[n(3)]
            td: Option<TdQuote>,
        }
        let at = d.position();
        let Keys {
            attest,
            signature,
            ak,
            td,
        } = Keys::decode(d, ctx)?;
        let bad = || minicbor::decode::Error::message(NO_QUOTE).at(at);
        let tpm = match (attest, signature, ak) {
            (Some(attest), Some(signature), Some(ak)) => Some(Quote {
                attest: attest.into(),
                signature: signature.into(),
                ak: ak.into(),
            }),
            (None, None, None) => None,
            _ => return Err(bad()),
        };
        Quotes::new(tpm, td).ok_or_else(bad)
    }
}

/// The records of one partition, in the order in which they were sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Decode)]
#[cbor(map)]
pub struct PartitionLog {
    /// Whose.
    #[n(0)]
    pub key: PartitionKey,
    /// All records since the load.
    #[n(1)]
    #[cbor(decode_with = "lists::records")]
    pub records: Vec<Record>,
}

/// What the container runtime says of a pod: *Enriched*, never the ground of a verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct PodInfo {
    /// The pod.
    #[n(0)]
    pub uid: PodUid,
    /// Kubernetes namespace.
    #[n(1)]
    pub namespace: String,
    /// Pod name.
    #[n(2)]
    pub name: String,
}

/// Evidence for one request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Decode)]
#[cbor(map)]
pub struct Evidence {
    /// Format version: 1.
    #[n(0)]
    pub version: u32,
    /// The tier in use.
    #[n(1)]
    pub tier: Tier,
    /// What the node calls itself; only a hint, the key decides.
    #[n(2)]
    pub node: String,
    /// boot_id of the running kernel, 16 bytes.
    #[n(3)]
    #[cbor(with = "minicbor::bytes")]
    #[serde(with = "serde_bytes_hex")]
    pub boot_id: [u8; 16],
    /// The TPM's quote over PCR 0 to 10, made with the verifier's nonce as qualifying data; that of a trusted
    /// execution environment; or both.
    #[n(4)]
    pub quote: Quotes,
    /// The measurement list, read after the quote, from its first entry.
    #[n(5)]
    #[cbor(decode_with = "lists::entries")]
    pub list: Vec<Entry>,
    /// All checkpoint files of this boot, from number 0.
    #[n(6)]
    #[cbor(with = "files")]
    #[serde(with = "serde_bytes_hex::list")]
    pub checkpoints: Vec<Vec<u8>>,
    /// All partitions with at least one record, sorted by printed key.
    #[n(7)]
    pub partitions: Vec<PartitionLog>,
    /// Names of pods, as the runtime reported them.
    #[n(8)]
    pub pods: Vec<PodInfo>,
    /// Kernel release, for people.
    #[n(9)]
    pub kernel: String,
    /// What was measured before IMA began; absent where the quote is over PCR 10 alone.
    #[n(10)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<Boot>,
    /// Records behind the last seal, of entries and violations: numbers above the last checkpoint's
    /// `last_seq`, by partition. The next checkpoint seals them unchanged.
    #[n(11)]
    #[cbor(with = "pending::list", has_nil)]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unsealed: Vec<PartitionLog>,
    /// Threads that were adding an entry when this was made.
    #[n(12)]
    #[cbor(with = "pending::marks", has_nil)]
    #[serde(default, with = "pending::marks", skip_serializing_if = "Vec::is_empty")]
    pub in_flight: Vec<InFlight>,
    /// What belongs to the quote of a trusted execution environment; absent without one.
    #[n(13)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub td: Option<TdEvidence>,
}

/// Arrays of what evidence is made of, each with the length of the smallest item.
pub(crate) mod lists {
    use crate::{Entry, Record, wire::list};
    use minicbor::{Decoder, decode::Error};

    /// `[1, [h'']]`.
    const ENTRY: usize = 4;
    /// A map with its 18 keys, and a value for each.
    const RECORD: usize = 37;

    pub(crate) fn entries<C>(d: &mut Decoder<'_>, ctx: &mut C) -> Result<Vec<Entry>, Error> {
        list(d, ctx, ENTRY)
    }

    pub(crate) fn records<C>(d: &mut Decoder<'_>, ctx: &mut C) -> Result<Vec<Record>, Error> {
        list(d, ctx, RECORD)
    }
}

/// An array of byte strings.
pub(crate) mod files {
    use minicbor::{Decoder, Encoder, bytes::ByteVec};

    pub(crate) fn encode<C, W: minicbor::encode::Write>(
        files: &[Vec<u8>],
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.array(files.len() as u64)?;
        for file in files {
            e.bytes(file)?;
        }
        Ok(())
    }

    pub(crate) fn decode<'b, C>(
        d: &mut Decoder<'b>,
        ctx: &mut C,
    ) -> Result<Vec<Vec<u8>>, minicbor::decode::Error> {
        // The same allocation holds them before and after.
        let files: Vec<ByteVec> = crate::wire::list(d, ctx, 1)?;
        Ok(files.into_iter().map(Vec::from).collect())
    }
}

/// Evidence is never longer than this many bytes.
pub const MAX_EVIDENCE_LEN: usize = 512 * 1024 * 1024;
/// Nor is its JSON form longer than this: bytes are two digits each there.
pub const MAX_JSON_LEN: usize = 2 * MAX_EVIDENCE_LEN;

impl Evidence {
    /// Deterministic CBOR.
    pub fn to_cbor(&self) -> Vec<u8> {
        wire::to_vec(self)
    }

    /// # Errors
    /// As [`wire::from_slice`]; [`Error::Malformed`](crate::Error::Malformed) for another version than 1.
    pub fn from_cbor(bytes: &[u8]) -> Result<Evidence> {
        let evidence: Evidence = wire::from_slice(bytes, "evidence", MAX_EVIDENCE_LEN)?;
        evidence.of_this_version()
    }

    /// The lossless JSON form: what CBOR holds and nothing else.
    ///
    /// # Errors
    /// [`Error::Malformed`](crate::Error::Malformed) if the encoder refuses it.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        json::to_vec(self)
    }

    /// Reads what [`Evidence::to_json`] wrote, whatever its white space and the order of its keys.
    ///
    /// # Errors
    /// As [`json::from_slice`]; [`Error::Malformed`](crate::Error::Malformed) for another version than 1.
    pub fn from_json(bytes: &[u8]) -> Result<Evidence> {
        let evidence: Evidence = json::from_slice(bytes, "evidence", MAX_JSON_LEN)?;
        evidence.of_this_version()
    }

    fn of_this_version(self) -> Result<Evidence> {
        let named = format_args!("evidence version {}", self.version);
        wire::check_version(self.version, 0, named)?;
        Ok(self)
    }

    /// The values of PCR 0 to 9 that it states.
    pub fn registers(&self) -> &[crate::boot::Registers] {
        self.boot.as_ref().map_or(&[], |boot| &boot.registers)
    }

    /// The records of one partition; empty where it has none.
    pub fn records(&self, key: PartitionKey) -> &[Record] {
        self.partitions
            .iter()
            .find(|p| p.key == key)
            .map_or(&[], |p| &p.records)
    }
}
