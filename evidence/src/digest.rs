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
        let mut digest = Digest::zero(self);
        self.hash_into(parts, &mut digest.bytes);
        digest
    }

    /// Hashes the concatenation of `parts` into the first [`Bank::len`] bytes of `out`; the rest stays as it
    /// is.
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

/// Extends registers: the compression functions are called with whole blocks, because half of a hash of so
/// few bytes goes into buffering.
impl Bank {
    /// The register's next value, H(register || digest), in place. Both have [`Bank::len`] bytes; what stands
    /// behind them is not read, and stays as it is in `register`.
    ///
    /// # Panics
    /// If `digest` is shorter.
    pub fn extend_register(self, register: &mut [u8; Bank::MAX_LEN], digest: &[u8]) {
        match self {
            Bank::Sha1 => {
                let mut state = initial::SHA1;
                let block = one_block::<20, 64>(register, digest);
                sha1::compress(&mut state, core::slice::from_ref((&block).into()));
                words32(register, &state);
            }
            Bank::Sha256 => {
                static PADDING: [u8; 64] = padding(2 * 32);
                let mut state = initial::SHA256;
                for block in [&two_halves::<32, 64>(register, digest), &PADDING] {
                    sha2::compress256(&mut state, core::slice::from_ref(block.into()));
                }
                words32(register, &state);
            }
            Bank::Sha384 => {
                let mut state = initial::SHA384;
                let block = one_block::<48, 128>(register, digest);
                sha2::compress512(&mut state, core::slice::from_ref((&block).into()));
                words64(register, &state[..6]);
            }
            Bank::Sha512 => {
                static PADDING: [u8; 128] = padding(2 * 64);
                let mut state = initial::SHA512;
                for block in [&two_halves::<64, 128>(register, digest), &PADDING] {
                    sha2::compress512(&mut state, core::slice::from_ref(block.into()));
                }
                words64(register, &state);
            }
        }
    }
}

/// SHA-1 and SHA-256 of a short message, whose padding they share: digests in the first bytes, zeros behind
/// them. `None` for a longer message.
pub(crate) fn sha1_and_sha256(message: &[u8]) -> Option<[[u8; Bank::MAX_LEN]; 2]> {
    const BLOCKS: usize = 4;
    const BLOCK_LEN: usize = 64;
    let count = (message.len() + 1 + 8).div_ceil(BLOCK_LEN);
    let mut padded = [0; BLOCKS * BLOCK_LEN];
    let padded = padded.get_mut(..count * BLOCK_LEN)?;
    padded[..message.len()].copy_from_slice(message);
    padded[message.len()] = 0x80;
    let bits = message.len() as u64 * 8;
    padded[count * BLOCK_LEN - 8..].copy_from_slice(&bits.to_be_bytes());
    let mut out = [[0; Bank::MAX_LEN]; 2];
    let (mut sha1, mut sha256) = (initial::SHA1, initial::SHA256);
    for block in padded.as_chunks::<BLOCK_LEN>().0 {
        sha1::compress(&mut sha1, core::slice::from_ref(block.into()));
        sha2::compress256(&mut sha256, core::slice::from_ref(block.into()));
    }
    words32(&mut out[0], &sha1);
    words32(&mut out[1], &sha256);
    Some(out)
}

/// SHA-256 of a message of 65 bytes: two blocks with their padding.
pub(crate) fn sha256_of_two_blocks(message: &[u8; 65]) -> [u8; 32] {
    let mut blocks = [0; 128];
    blocks[..65].copy_from_slice(message);
    blocks[65] = 0x80;
    blocks[120..].copy_from_slice(&(8 * 65u64).to_be_bytes());
    let mut state = initial::SHA256;
    for block in blocks.as_chunks::<64>().0 {
        sha2::compress256(&mut state, core::slice::from_ref(block.into()));
    }
    let mut out = [0; 32];
    for (bytes, word) in out.as_chunks_mut().0.iter_mut().zip(state) {
        *bytes = word.to_be_bytes();
    }
    out
}

/// The first `LEN` bytes of each, one after the other, and zeros.
fn two_halves<const LEN: usize, const BLOCK: usize>(a: &[u8; Bank::MAX_LEN], b: &[u8]) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    block[..LEN].copy_from_slice(&a[..LEN]);
    block[LEN..2 * LEN].copy_from_slice(&b[..LEN]);
    block
}

/// The same with the padding that follows. Source: FIPS 180-4, section 5.1.
fn one_block<const LEN: usize, const BLOCK: usize>(a: &[u8; Bank::MAX_LEN], b: &[u8]) -> [u8; BLOCK] {
    let mut block = two_halves::<LEN, BLOCK>(a, b);
    block[2 * LEN] = 0x80;
    block[BLOCK - 8..].copy_from_slice(&(16 * LEN as u64).to_be_bytes());
    block
}

/// The block of padding behind `len` bytes that fill their blocks.
const fn padding<const BLOCK: usize>(len: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    block[0] = 0x80;
    // No loops over iterators and no slices' methods in constants.
    let bits = (8 * len).to_be_bytes();
    let mut n = 0;
    while n < bits.len() {
        block[BLOCK - bits.len() + n] = bits[n];
        n += 1;
    }
    block
}

fn words32(out: &mut [u8; Bank::MAX_LEN], state: &[u32]) {
    for (bytes, word) in out.as_chunks_mut().0.iter_mut().zip(state) {
        *bytes = word.to_be_bytes();
    }
}

fn words64(out: &mut [u8; Bank::MAX_LEN], state: &[u64]) {
    for (bytes, word) in out.as_chunks_mut().0.iter_mut().zip(state) {
        *bytes = word.to_be_bytes();
    }
}

/// Initial hash values. Source: FIPS 180-4, section 5.3.
pub(crate) mod initial {
    pub(crate) const SHA1: [u32; 5] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];
    /// Fractions of the square roots of the first eight primes.
    pub(crate) const SHA256: [u32; 8] = [
        0x6a09_e667,
        0xbb67_ae85,
        0x3c6e_f372,
        0xa54f_f53a,
        0x510e_527f,
        0x9b05_688c,
        0x1f83_d9ab,
        0x5be0_cd19,
    ];
    /// Fractions of the square roots of the ninth to the sixteenth prime.
    pub(crate) const SHA384: [u64; 8] = [
        0xcbbb_9d5d_c105_9ed8,
        0x629a_292a_367c_d507,
        0x9159_015a_3070_dd17,
        0x152f_ecd8_f70e_5939,
        0x6733_2667_ffc0_0b31,
        0x8eb4_4a87_6858_1511,
        0xdb0c_2e0d_64f9_8fa7,
        0x47b5_481d_befa_4fa4,
    ];
    /// Fractions of the square roots of the first eight primes.
    pub(crate) const SHA512: [u64; 8] = [
        0x6a09_e667_f3bc_c908,
        0xbb67_ae85_84ca_a73b,
        0x3c6e_f372_fe94_f82b,
        0xa54f_f53a_5f1d_36f1,
        0x510e_527f_ade6_82d1,
        0x9b05_688c_2b3e_6c1f,
        0x1f83_d9ab_fb41_bd6b,
        0x5be0_cd19_137e_2179,
    ];
}

impl core::fmt::Display for Bank {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

/// A digest and the algorithm that made it. CBOR: `[alg: uint, bytes: bstr]`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Digest {
    bank: Bank,
    /// Zero behind the bank's length.
    bytes: [u8; Bank::MAX_LEN],
}

impl core::hash::Hash for Digest {
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        core::hash::Hash::hash(&self.bank, state);
        state.write(self.bytes());
    }
}

impl Digest {
    /// A digest of `bank`; `None` if `bytes` has another length than the bank's.
    pub fn new(bank: Bank, bytes: &[u8]) -> Option<Digest> {
        let mut digest = Digest::zero(bank);
        (bytes.len() == bank.len()).then(|| {
            digest.bytes[..bank.len()].copy_from_slice(bytes);
            digest
        })
    }
    /// All bytes zero: a violation's digest in the list, a resettable register's start.
    pub fn zero(bank: Bank) -> Digest {
        Digest {
            bank,
            bytes: [0; Bank::MAX_LEN],
        }
    }
    /// All bytes 0xff: what the kernel extends for a violation.
    pub fn ones(bank: Bank) -> Digest {
        let mut digest = Digest::zero(bank);
        digest.bytes[..bank.len()].fill(0xff);
        digest
    }
    /// The algorithm.
    pub fn bank(&self) -> Bank {
        self.bank
    }
    /// The bytes, as many as [`Bank::len`].
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.bank.len()]
    }
    /// Whether every byte is zero.
    pub fn is_zero(&self) -> bool {
        self.bytes.iter().all(|b| *b == 0)
    }
    /// The register's next value: H(self || digest). Both must be of one bank.
    pub fn extend(&self, digest: &Digest) -> Digest {
        debug_assert_eq!(self.bank, digest.bank);
        self.bank.hash(&[self.bytes(), digest.bytes()])
    }
    /// Reads `alg:hex`, the form of [`core::fmt::Display`].
    pub fn parse(text: &str) -> Option<Digest> {
        let (name, digits) = text.split_once(':')?;
        Digest::new(Bank::from_name(name)?, &hex::decode(digits).ok()?)
    }
}

impl core::fmt::Display for Digest {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}:{}", self.bank, hex::encode(self.bytes()))
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
        e.array(2)?.u16(self.bank.tpm_alg())?.bytes(self.bytes())?.ok()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_hashes_of_a_short_message_are_those_that_it_has_alone() {
        let bytes: Vec<u8> = (0..400u32).map(|n| (n * n % 251) as u8).collect();
        for len in 0..bytes.len() {
            let message = &bytes[..len];
            let alone = [Bank::Sha1, Bank::Sha256].map(|bank| {
                let mut digest = [0; Bank::MAX_LEN];
                bank.hash_into(&[message], &mut digest);
                digest
            });
            assert_eq!(
                sha1_and_sha256(message),
                (len < 248).then_some(alone),
                "{len} bytes"
            );
        }
    }

    #[test]
    fn a_register_is_extended_by_the_hash_of_both() {
        for bank in Bank::ALL {
            let mut register = [0xee; Bank::MAX_LEN];
            register[..bank.len()].fill(0);
            let mut expected = Digest::zero(bank);
            for n in 0..50u8 {
                let mut digest = [0x77; Bank::MAX_LEN];
                let value = bank.hash(&[&[n]]);
                digest[..bank.len()].copy_from_slice(value.bytes());
                bank.extend_register(&mut register, &digest);
                expected = expected.extend(&value);
                assert_eq!(&register[..bank.len()], expected.bytes(), "{bank}, {n}");
                assert!(register[bank.len()..].iter().all(|b| *b == 0xee), "{bank}");
            }
        }
    }
}
