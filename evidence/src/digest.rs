//! Hash banks of a TPM and digests in them.

use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};

/// A PCR bank: the hash algorithm that a set of registers uses.
///
/// Encoded as its TPM_ALG_ID. Source: TCG "Algorithm Registry", table of TPM_ALG_ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bank {
    /// SHA-1, 20 bytes, TPM_ALG_ID 0x0004.
    Sha1,
    /// SHA-256, 32 bytes, TPM_ALG_ID 0x000b.
    Sha256,
    /// SHA-384, 48 bytes, TPM_ALG_ID 0x000c.
    Sha384,
    /// SHA-512, 64 bytes, TPM_ALG_ID 0x000d.
    Sha512,
}

impl Bank {
    /// All banks that this crate replays.
    pub const ALL: [Bank; 4] = [Bank::Sha1, Bank::Sha256, Bank::Sha384, Bank::Sha512];

    /// Length of a digest, in bytes.
    #[allow(clippy::len_without_is_empty, reason = "no digest is empty")]
    pub const fn len(self) -> usize {
        match self {
            Bank::Sha1 => 20,
            Bank::Sha256 => 32,
            Bank::Sha384 => 48,
            Bank::Sha512 => 64,
        }
    }

    /// TPM_ALG_ID.
    pub const fn tpm_alg(self) -> u16 {
        match self {
            Bank::Sha1 => 0x0004,
            Bank::Sha256 => 0x000b,
            Bank::Sha384 => 0x000c,
            Bank::Sha512 => 0x000d,
        }
    }

    /// The bank with this TPM_ALG_ID.
    pub fn from_tpm_alg(alg: u16) -> Option<Bank> {
        Bank::ALL.into_iter().find(|b| b.tpm_alg() == alg)
    }

    /// The bank with digests of this many bytes.
    pub fn from_len(len: usize) -> Option<Bank> {
        Bank::ALL.into_iter().find(|b| b.len() == len)
    }

    /// The kernel's and the TCG's lower-case name: `sha1`, `sha256`, `sha384`, `sha512`.
    pub const fn name(self) -> &'static str {
        match self {
            Bank::Sha1 => "sha1",
            Bank::Sha256 => "sha256",
            Bank::Sha384 => "sha384",
            Bank::Sha512 => "sha512",
        }
    }

    /// The bank with this name (see [`Bank::name`]).
    pub fn from_name(name: &str) -> Option<Bank> {
        Bank::ALL.into_iter().find(|b| b.name() == name)
    }

    /// Length of the longest digest, in bytes.
    pub const MAX_LEN: usize = 64;

    /// Hashes the concatenation of `parts`.
    pub fn hash(self, parts: &[&[u8]]) -> Digest {
        let mut out = [0; Bank::MAX_LEN];
        self.hash_into(parts, &mut out);
        Digest {
            bank: self,
            bytes: out[..self.len()].to_vec(),
        }
    }

    /// Hashes the concatenation of `parts` into the first [`Bank::len`] bytes of `out`; the rest stays as it is.
    pub fn hash_into(self, parts: &[&[u8]], out: &mut [u8; Bank::MAX_LEN]) {
        fn run<D: sha2::Digest>(parts: &[&[u8]], out: &mut [u8]) {
            let mut h = D::new();
            for p in parts {
                h.update(p);
            }
            out.copy_from_slice(&h.finalize());
        }
        let out = &mut out[..self.len()];
        match self {
            Bank::Sha1 => run::<sha1::Sha1>(parts, out),
            Bank::Sha256 => run::<sha2::Sha256>(parts, out),
            Bank::Sha384 => run::<sha2::Sha384>(parts, out),
            Bank::Sha512 => run::<sha2::Sha512>(parts, out),
        }
    }
}

impl core::fmt::Display for Bank {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

/// A digest and the algorithm that made it. CBOR: `[alg: uint, bytes: bstr]`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    bank: Bank,
    bytes: Vec<u8>,
}

impl Digest {
    /// A digest of `bank`; `None` if `bytes` has another length than the bank's.
    pub fn new(bank: Bank, bytes: &[u8]) -> Option<Digest> {
        (bytes.len() == bank.len()).then(|| Digest {
            bank,
            bytes: bytes.to_vec(),
        })
    }
    /// All bytes zero: a violation's digest in the list, a resettable register's start.
    pub fn zero(bank: Bank) -> Digest {
        Digest {
            bank,
            bytes: vec![0; bank.len()],
        }
    }
    /// All bytes 0xff: what the kernel extends for a violation.
    pub fn ones(bank: Bank) -> Digest {
        Digest {
            bank,
            bytes: vec![0xff; bank.len()],
        }
    }
    /// The algorithm.
    pub fn bank(&self) -> Bank {
        self.bank
    }
    /// The bytes, as many as [`Bank::len`].
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
    /// Whether every byte is zero.
    pub fn is_zero(&self) -> bool {
        self.bytes.iter().all(|b| *b == 0)
    }
    /// The register's next value: H(self || digest). Both must be of one bank.
    pub fn extend(&self, digest: &Digest) -> Digest {
        debug_assert_eq!(self.bank, digest.bank);
        self.bank.hash(&[&self.bytes, &digest.bytes])
    }
    /// Reads `alg:hex`, the form of [`core::fmt::Display`].
    pub fn parse(text: &str) -> Option<Digest> {
        let (name, digits) = text.split_once(':')?;
        Digest::new(Bank::from_name(name)?, &hex::decode(digits).ok()?)
    }
}

impl core::fmt::Display for Digest {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}:{}", self.bank, hex::encode(&self.bytes))
    }
}

impl core::fmt::Debug for Digest {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        Digest::parse(&text).ok_or_else(|| serde::de::Error::custom("expected ALGORITHM:HEX"))
    }
}

impl<C> Encode<C> for Digest {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.array(2)?.u16(self.bank.tpm_alg())?.bytes(&self.bytes)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Digest {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        let at = d.position();
        if d.array()? != Some(2) {
            return Err(decode::Error::message("a digest is an array of two").at(at));
        }
        let alg = d.u16()?;
        let bytes = d.bytes()?;
        let bank =
            Bank::from_tpm_alg(alg).ok_or_else(|| decode::Error::message("unknown hash algorithm").at(at))?;
        Digest::new(bank, bytes).ok_or_else(|| decode::Error::message("digest of a wrong length").at(at))
    }
}
