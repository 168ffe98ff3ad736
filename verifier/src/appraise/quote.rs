//! V1: a TPM's quote, by the pinned, restricted, fixedTPM signing key, over this request's nonce.
//!
//! Promise: a [`Quoted`] is what the attestation says, whether or not to believe it: that is what the findings tell.
//! Structures and constants: TPM 2.0 Library, Part 2 "Structures". Signatures are checked in pure Rust.

use super::{
    context::{Context, ExpectedNonce, NodeState, PinnedKey},
    coverage::PCR,
    finding::{Finding, Rule, Subject},
};
use evidence::{Bank, Digest, Quote};
use sha2::{Digest as _, Sha256};

/// TPM_GENERATED_VALUE: the structure was made inside of a TPM. Part 2, 6.2.
const MAGIC: u32 = 0xff54_4347;
/// TPM_ST_ATTEST_QUOTE. Part 2, 6.9.
const ATTEST_QUOTE: u16 = 0x8018;
const ALG_RSA: u16 = 0x0001;
const ALG_SHA256: u16 = 0x000b;
const ALG_NULL: u16 = 0x0010;
const ALG_RSASSA: u16 = 0x0014;
const ALG_RSAPSS: u16 = 0x0016;
const ALG_ECDSA: u16 = 0x0018;
const ALG_ECC: u16 = 0x0023;
const ECC_NIST_P256: u16 = 0x0003;

/// TPMA_OBJECT bits that a key must have, with their names. Part 2, 8.3.
const REQUIRED: [(u32, &str); 5] = [
    (1 << 1, "fixedTPM"),
    (1 << 4, "fixedParent"),
    (1 << 5, "sensitiveDataOrigin"),
    (1 << 16, "restricted"),
    (1 << 18, "sign"),
];
/// TPMA_OBJECT bit that a key must not have: a key that decrypts is no attestation key.
const DECRYPT: u32 = 1 << 17;

/// Why bytes are no attestation key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Neither TPMT_PUBLIC nor TPM2B_PUBLIC.
    #[error("not a TPMT_PUBLIC or TPM2B_PUBLIC: {0}")]
    Public(String),
    /// Not a Name: the algorithm's number and a digest of its length.
    #[error("not a key's Name: it begins with 000b and has 34 bytes")]
    Name,
    /// A name algorithm other than SHA-256.
    #[error("the key's name algorithm is {0:#06x}, only SHA-256 (0x000b) is known here")]
    NameAlgorithm(u16),
}

/// Reads big-endian structures; every error says what was being read and where.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, at: 0 }
    }

    fn take(&mut self, len: usize, what: &str) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(len);
        let slice = end.and_then(|end| self.bytes.get(self.at..end));
        let slice = slice.ok_or_else(|| format!("it ends at byte {} inside of {what}", self.bytes.len()))?;
        self.at += len;
        Ok(slice)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], String> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N, what)?);
        Ok(out)
    }

    fn u16(&mut self, what: &str) -> Result<u16, String> {
        self.array(what).map(u16::from_be_bytes)
    }

    fn u32(&mut self, what: &str) -> Result<u32, String> {
        self.array(what).map(u32::from_be_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64, String> {
        self.array(what).map(u64::from_be_bytes)
    }

    /// A TPM2B: its size in 16 bits, then its bytes.
    fn sized(&mut self, what: &str) -> Result<&'a [u8], String> {
        let len = self.u16(what)?;
        self.take(usize::from(len), what)
    }

    fn end(&self, what: &str) -> Result<(), String> {
        let left = self.bytes.len() - self.at;
        if left == 0 {
            Ok(())
        } else {
            Err(format!("{left} byte(s) follow the {what}"))
        }
    }
}

/// TPMS_ATTEST with TPMS_QUOTE_INFO. Part 2, 10.12.1 and 10.12.12.
struct Attest<'a> {
    extra: &'a [u8],
    clock_ms: u64,
    reset_count: u32,
    restart_count: u32,
    safe: u8,
    /// TPM_ALG_ID and the bit map of selected registers.
    selection: Vec<(u16, &'a [u8])>,
    pcr_digest: &'a [u8],
}

impl<'a> Attest<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Attest<'a>, String> {
        let mut r = Reader::new(bytes);
        let magic = r.u32("magic")?;
        let kind = r.u16("type")?;
        if magic != MAGIC || kind != ATTEST_QUOTE {
            // What follows has another shape.
            return Err(format!(
                "magic {magic:#010x} and type {kind:#06x}, not {MAGIC:#010x} and {ATTEST_QUOTE:#06x}"
            ));
        }
        r.sized("qualifiedSigner")?;
        let extra = r.sized("extraData")?;
        let clock_ms = r.u64("clock")?;
        let reset_count = r.u32("resetCount")?;
        let restart_count = r.u32("restartCount")?;
        let safe = r.array::<1>("safe")?[0];
        r.u64("firmwareVersion")?;
        let count = r.u32("pcrSelect count")?;
        let mut selection = Vec::new();
        // TPML_PCR_SELECTION holds at most HASH_COUNT (16) banks. Part 2, 10.9.7.
        if count > 16 {
            return Err(format!("{count} banks in pcrSelect, there can be 16"));
        }
        for _ in 0..count {
            let alg = r.u16("pcrSelect hash")?;
            let len = r.array::<1>("sizeofSelect")?[0];
            selection.push((alg, r.take(usize::from(len), "pcrSelect bits")?));
        }
        let pcr_digest = r.sized("pcrDigest")?;
        r.end("TPMS_ATTEST")?;
        Ok(Attest {
            extra,
            clock_ms,
            reset_count,
            restart_count,
            safe,
            selection,
            pcr_digest,
        })
    }
}

/// Registers that a bit map selects: bit `n % 8` of byte `n / 8`. Part 2, 10.6.1.
fn registers(bits: &[u8]) -> Vec<u32> {
    (0u32..)
        .zip(
            bits.iter()
                .flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1)),
        )
        .filter(|(_, set)| *set)
        .map(|(n, _)| n)
        .collect()
}

/// Banks that an attestation selects; none if it cannot be read.
pub(crate) fn banks(attest: &[u8]) -> Vec<Bank> {
    let selection = Attest::parse(attest).map(|a| a.selection).unwrap_or_default();
    selection
        .into_iter()
        .filter_map(|(alg, _)| Bank::from_tpm_alg(alg))
        .collect()
}

/// TPMT_PUBLIC of a signing key. Part 2, 12.2.4.
struct Public {
    name_alg: u16,
    attributes: u32,
    scheme: u16,
    scheme_hash: u16,
    key: VerifyingKey,
}

enum VerifyingKey {
    P256(p256::ecdsa::VerifyingKey),
    Rsa2048(Box<rsa::RsaPublicKey>),
}

impl Public {
    fn parse(bytes: &[u8]) -> Result<Public, String> {
        let mut r = Reader::new(bytes);
        let kind = r.u16("type")?;
        let name_alg = r.u16("nameAlg")?;
        let attributes = r.u32("objectAttributes")?;
        r.sized("authPolicy")?;
        let symmetric = r.u16("symmetric")?;
        if symmetric != ALG_NULL {
            return Err(format!(
                "symmetric algorithm {symmetric:#06x}: it is a storage key, not a signing key"
            ));
        }
        let scheme = r.u16("scheme")?;
        let scheme_hash = if scheme == ALG_NULL {
            0
        } else {
            r.u16("scheme hash")?
        };
        let key = match kind {
            ALG_ECC => {
                let curve = r.u16("curveID")?;
                let kdf = r.u16("kdf")?;
                if curve != ECC_NIST_P256 || kdf != ALG_NULL {
                    return Err(format!(
                        "curve {curve:#06x}, kdf {kdf:#06x}: only NIST P-256 without a kdf is known here"
                    ));
                }
                let coordinate = |bytes: &[u8]| {
                    let mut out = p256::FieldBytes::default();
                    let start = out
                        .len()
                        .checked_sub(bytes.len())
                        .ok_or("a coordinate longer than 32 bytes")?;
                    out[start..].copy_from_slice(bytes);
                    Ok::<_, String>(out)
                };
                let x = coordinate(r.sized("x")?)?;
                let y = coordinate(r.sized("y")?)?;
                let point = p256::EncodedPoint::from_affine_coordinates(&x, &y, false);
                let key = p256::ecdsa::VerifyingKey::from_encoded_point(&point)
                    .map_err(|_| "its point is not on the curve".to_owned())?;
                VerifyingKey::P256(key)
            }
            ALG_RSA => {
                let bits = r.u16("keyBits")?;
                let exponent = r.u32("exponent")?;
                let modulus = r.sized("modulus")?;
                // Exponent 0 stands for the default, 2^16 + 1. Part 2, 12.2.3.5.
                if bits != 2048 || !matches!(exponent, 0 | 65537) || modulus.len() != 256 {
                    return Err(format!(
                        "an RSA key of {bits} bits, exponent {exponent}, modulus of {} bytes: only 2048 bits with 65537 are known here",
                        modulus.len()
                    ));
                }
                let n = rsa::BigUint::from_bytes_be(modulus);
                let key =
                    rsa::RsaPublicKey::new(n, 65537u32.into()).map_err(|e| format!("not an RSA key: {e}"))?;
                VerifyingKey::Rsa2048(Box::new(key))
            }
            other => return Err(format!("key type {other:#06x}: only ECC and RSA are known here")),
        };
        r.end("TPMT_PUBLIC")?;
        Ok(Public {
            name_alg,
            attributes,
            scheme,
            scheme_hash,
            key,
        })
    }

    /// Checks a TPMT_SIGNATURE over `message`. Part 2, 11.3.4.
    fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), String> {
        let mut r = Reader::new(signature);
        let scheme = r.u16("sigAlg")?;
        let hash = r.u16("hash")?;
        if scheme != self.scheme || hash != self.scheme_hash {
            return Err(format!(
                "made by scheme {scheme:#06x} with hash {hash:#06x}, the key's is {:#06x} with {:#06x}",
                self.scheme, self.scheme_hash
            ));
        }
        if hash != ALG_SHA256 {
            return Err(format!("hash {hash:#06x}: only SHA-256 (0x000b) is known here"));
        }
        let bad = || "it does not verify".to_owned();
        match (&self.key, scheme) {
            (VerifyingKey::P256(key), ALG_ECDSA) => {
                use p256::ecdsa::signature::Verifier as _;
                let scalar = |bytes: &[u8]| {
                    let mut out = p256::FieldBytes::default();
                    let start = out.len().checked_sub(bytes.len()).ok_or_else(bad)?;
                    out[start..].copy_from_slice(bytes);
                    Ok::<_, String>(out)
                };
                let first = scalar(r.sized("r")?)?;
                let second = scalar(r.sized("s")?)?;
                r.end("TPMT_SIGNATURE")?;
                let signature = p256::ecdsa::Signature::from_scalars(first, second).map_err(|_| bad())?;
                key.verify(message, &signature).map_err(|_| bad())
            }
            (VerifyingKey::Rsa2048(key), ALG_RSASSA) => {
                use rsa::signature::Verifier as _;
                let bytes = r.sized("sig")?;
                r.end("TPMT_SIGNATURE")?;
                let signature = rsa::pkcs1v15::Signature::try_from(bytes).map_err(|_| bad())?;
                rsa::pkcs1v15::VerifyingKey::<Sha256>::new((**key).clone())
                    .verify(message, &signature)
                    .map_err(|_| bad())
            }
            (VerifyingKey::Rsa2048(key), ALG_RSAPSS) => {
                let bytes = r.sized("sig")?;
                r.end("TPMT_SIGNATURE")?;
                verify_pss(key, message, bytes).map_err(|()| bad())
            }
            _ => Err(format!("scheme {scheme:#06x} does not fit the key")),
        }
    }
}

/// RSASSA-PSS. The TPM takes the longest salt that fits, or the hash's length where it must follow FIPS 186 (Part 1,
/// B.7): for 2048 bits and SHA-256 that is 222 or 32 bytes.
fn verify_pss(key: &rsa::RsaPublicKey, message: &[u8], signature: &[u8]) -> Result<(), ()> {
    let hashed = Sha256::digest(message);
    [32, 222]
        .into_iter()
        .any(|salt| {
            key.verify(rsa::Pss::new_with_salt::<Sha256>(salt), &hashed, signature)
                .is_ok()
        })
        .then_some(())
        .ok_or(())
}

/// The Name of a key: its name algorithm, big-endian, and the hash of its TPMT_PUBLIC. Part 1, "Names".
///
/// # Errors
/// [`KeyError`] if `public` is not a TPMT_PUBLIC, or its name algorithm is not SHA-256.
pub fn key_name(public: &[u8]) -> Result<Vec<u8>, KeyError> {
    let parsed = Public::parse(public).map_err(KeyError::Public)?;
    if parsed.name_alg != ALG_SHA256 {
        return Err(KeyError::NameAlgorithm(parsed.name_alg));
    }
    Ok(name(public))
}

fn name(public: &[u8]) -> Vec<u8> {
    let mut out = ALG_SHA256.to_be_bytes().to_vec();
    out.extend(Sha256::digest(public));
    out
}

impl PinnedKey {
    /// Reads a key as a file holds it: TPMT_PUBLIC, or TPM2B_PUBLIC, which has its size before it.
    ///
    /// # Errors
    /// [`KeyError`] if it is neither.
    pub fn from_public(bytes: &[u8]) -> Result<PinnedKey, KeyError> {
        let sized = bytes
            .split_first_chunk::<2>()
            .filter(|(len, rest)| usize::from(u16::from_be_bytes(**len)) == rest.len());
        let public = match sized {
            Some((_, rest)) if Public::parse(rest).is_ok() => rest,
            _ => bytes,
        };
        key_name(public)?;
        Ok(PinnedKey::Public(public.to_vec()))
    }

    /// Reads a fingerprint: the Name in hex, 68 digits.
    ///
    /// # Errors
    /// [`KeyError::Name`].
    pub fn from_fingerprint(text: &str) -> Result<PinnedKey, KeyError> {
        let key = PinnedKey::Name(hex::decode(text.trim()).map_err(|_| KeyError::Name)?);
        key.check()?;
        Ok(key)
    }

    /// The Name of the key that is pinned, if one is.
    pub fn name(&self) -> Option<Vec<u8>> {
        match self {
            PinnedKey::Public(public) => Some(name(public)),
            PinnedKey::Name(name) => Some(name.clone()),
            PinnedKey::DangerousTofu => None,
        }
    }

    pub(crate) fn check(&self) -> Result<(), KeyError> {
        match self {
            PinnedKey::Public(public) => key_name(public).map(|_| ()),
            PinnedKey::Name(name) if name.len() == 34 && name.starts_with(&ALG_SHA256.to_be_bytes()) => {
                Ok(())
            }
            PinnedKey::Name(_) => Err(KeyError::Name),
            PinnedKey::DangerousTofu => Ok(()),
        }
    }
}

/// What a quote says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Quoted {
    /// Name of the key that came with the quote.
    pub ak_name: Vec<u8>,
    /// Banks in which PCR 10 was quoted, in the quote's order.
    pub banks: Vec<Bank>,
    pub pcr_digest: Vec<u8>,
    pub reset_count: u32,
    pub restart_count: u32,
    pub clock_ms: u64,
    pub safe: bool,
}

impl Quoted {
    /// Whether the quoted digest is that of these registers, one for each of [`Quoted::banks`]. The digest is SHA-256,
    /// as the only signing schemes that are accepted.
    pub(crate) fn is_of(&self, pcrs: &[Digest]) -> bool {
        let composite = pcrs
            .iter()
            .fold(Sha256::new(), |hash, pcr| hash.chain_update(pcr.bytes()))
            .finalize();
        self.pcr_digest[..] == composite[..]
    }
}

fn fail(text: impl Into<String>) -> Finding {
    Finding::fail(Rule::V1, Subject::Node, text)
}

pub(crate) fn check(quote: &Quote, context: &Context, findings: &mut Vec<Finding>) -> Option<Quoted> {
    let ak_name = key(quote, context, findings);
    let attest = match Attest::parse(&quote.attest) {
        Ok(attest) => attest,
        Err(why) => {
            findings.push(fail(format!("the attestation is not a TPM's quote: {why}")));
            return None;
        }
    };
    if let ExpectedNonce::Value(nonce) = &context.nonce
        && attest.extra != nonce
    {
        findings.push(
            fail("the quote was not made for this request: its nonce is another one")
                .found(hex::encode(attest.extra))
                .expected(hex::encode(nonce)),
        );
    }
    if attest.safe > 1 {
        findings.push(
            fail("the quote's clock is neither safe nor unsafe")
                .found(attest.safe)
                .expected("0 or 1"),
        );
    }
    let banks = selected(&attest, findings);
    Some(Quoted {
        ak_name,
        banks,
        pcr_digest: attest.pcr_digest.to_vec(),
        reset_count: attest.reset_count,
        restart_count: attest.restart_count,
        clock_ms: attest.clock_ms,
        safe: attest.safe == 1,
    })
}

/// The key is the pinned one, is an attestation key, and signed. Gives its Name.
fn key(quote: &Quote, context: &Context, findings: &mut Vec<Finding>) -> Vec<u8> {
    let ak_name = name(&quote.ak);
    let pinned = context.key.name().or_else(|| {
        // Trust on first use, and on no other: a key that the node used before stays pinned.
        context
            .previous
            .as_ref()
            .map(|NodeState { ak_name, .. }| ak_name.clone())
    });
    if let Some(pinned) = pinned
        && pinned != ak_name
    {
        findings.push(
            fail("the quote was made by another key than the one pinned for this node")
                .found(hex::encode(&ak_name))
                .expected(hex::encode(pinned)),
        );
    }
    let public = match Public::parse(&quote.ak) {
        Ok(public) => public,
        Err(why) => {
            findings.push(fail(format!("the attestation key cannot be used: {why}")));
            return ak_name;
        }
    };
    if public.name_alg != ALG_SHA256 {
        findings.push(fail(KeyError::NameAlgorithm(public.name_alg).to_string()));
    }
    for (bit, name) in REQUIRED {
        if public.attributes & bit == 0 {
            findings.push(
                fail(format!(
                    "the key is no attestation key: it lacks the attribute {name}"
                ))
                .found(format!("{:#010x}", public.attributes)),
            );
        }
    }
    if public.attributes & DECRYPT != 0 {
        findings.push(
            fail("the key is no attestation key: it has the attribute decrypt")
                .found(format!("{:#010x}", public.attributes)),
        );
    }
    if let Err(why) = public.verify(&quote.attest, &quote.signature) {
        findings.push(fail(format!("the quote's signature: {why}")));
    }
    ak_name
}

/// Banks in which PCR 10, and nothing else, is selected.
fn selected(attest: &Attest<'_>, findings: &mut Vec<Finding>) -> Vec<Bank> {
    let mut banks = Vec::new();
    for (alg, bits) in &attest.selection {
        let selected = registers(bits);
        if selected.is_empty() {
            continue;
        }
        match Bank::from_tpm_alg(*alg) {
            None => findings.push(fail(format!(
                "the quote selects registers of a bank that is not known here: {alg:#06x}"
            ))),
            Some(bank) if selected == [PCR] && !banks.contains(&bank) => banks.push(bank),
            Some(bank) => findings.push(
                fail(format!(
                    "the quote selects other registers of the bank {bank} than PCR {PCR} alone, once"
                ))
                .found(format!("{selected:?}"))
                .expected(format!("[{PCR}]")),
            ),
        }
    }
    if banks.is_empty() {
        findings.push(fail(format!("the quote does not cover PCR {PCR}")));
    }
    banks
}
