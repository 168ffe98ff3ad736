//! The first fields of evidence, or of a delta: what says who sent it and what it answers.
//!
//! Promise: nothing behind them is looked at, and what they hold is bounded, so that a verifier can refuse a
//! stranger's bytes as soon as the first few of them are there. Not here: whether the quote holds (see
//! `cgpath-appraisal`).

use crate::td::{
    MAX_NONCE_LEN, MAX_OUTBLOB_LEN, MAX_PROVIDER_LEN, NODE_KEY_LEN, POSSESSION_LEN, REGISTER_LEN,
};
use crate::{Error, EvidenceDelta, Quote, Quotes, Result, TdQuote, wire};

/// What the node calls itself is not longer, in bytes.
const MAX_NODE: u64 = 1024;
/// Nor is any structure of its quote. A TPM2B has a size of 16 bits; of an attestation with all PCR banks, an
/// RSA-4096 signature and key each takes less than 2 KiB.
const MAX_STRUCTURE: u64 = 8 * 1024;
/// What the quote of a trust domain takes at most.
const MAX_TD: usize =
    MAX_PROVIDER_LEN + MAX_OUTBLOB_LEN + MAX_NONCE_LEN + REGISTER_LEN + NODE_KEY_LEN + POSSESSION_LEN;
/// A head is never longer: its strings, and the headers between them.
pub const MAX_HEAD_LEN: usize = (MAX_NODE + 3 * MAX_STRUCTURE) as usize + MAX_TD + 128;

/// Version, node and quote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// As in [`crate::Evidence::node`].
    pub node: String,
    /// As in [`crate::Evidence::boot_id`].
    pub boot_id: [u8; 16],
    /// As in [`crate::Evidence::quote`].
    pub quote: Quotes,
}

impl Head {
    /// Reads what evidence or a delta begins with; the rest may be missing.
    ///
    /// # Errors
    /// [`Error::Incomplete`] where more bytes could make a head, which is at most [`MAX_HEAD_LEN`] bytes
    /// long; else [`Error::Malformed`], [`Error::Limit`] or [`Error::NotDeterministic`]. Another version than
    /// 1 is malformed.
    pub fn read(bytes: &[u8]) -> Result<Head> {
        let is_delta = EvidenceDelta::is_delta(bytes);
        let what = if is_delta { "part of evidence" } else { "evidence" };
        let mut reader = HeadReader { bytes, at: 0, what };
        let fields = reader.count(if is_delta { ARRAY } else { MAP })?;
        if fields < FIELDS {
            return Err(Error::malformed(0, format!("{what} with {fields} fields")));
        }
        let key = |reader: &mut HeadReader, n| if is_delta { Ok(()) } else { reader.key(n) };
        key(&mut reader, 0)?;
        let at = reader.at;
        let version = reader.count(UNSIGNED)?;
        wire::check_version(version, at, format_args!("version {version} of {what}"))?;
        key(&mut reader, 1)?;
        reader.count(UNSIGNED)?;
        key(&mut reader, 2)?;
        let at = reader.at;
        let node = core::str::from_utf8(reader.string(TEXT, "the node's name", MAX_NODE)?)
            .map_err(|_| Error::malformed(at as u64, "the node's name is not UTF-8"))?
            .to_owned();
        key(&mut reader, 3)?;
        let at = reader.at;
        let boot_id = reader
            .string(BYTES, "the boot id", 16)?
            .try_into()
            .map_err(|_| Error::malformed(at as u64, "the boot id has not 16 bytes"))?;
        key(&mut reader, 4)?;
        let at = reader.at;
        let (has_tpm, has_td) = match reader.count(MAP)? {
            1 => (false, true),
            3 => (true, false),
            4 => (true, true),
            other => {
                let why =
                    format!("a quote of {other} structures: a TPM's has three, a trust domain's is one");
                return Err(Error::malformed(at as u64, why));
            }
        };
        let tpm = if has_tpm { Some(reader.tpm()?) } else { None };
        let td = if has_td { Some(reader.td()?) } else { None };
        let quote = Quotes { tpm, td };
        Ok(Head { node, boot_id, quote })
    }
}

/// Fields of a head; what it is the head of has more.
const FIELDS: u64 = 5;

/// Major types of RFC 8949 section 3.1.
const UNSIGNED: u8 = 0;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;

struct HeadReader<'a> {
    bytes: &'a [u8],
    at: usize,
    what: &'static str,
}

impl<'a> HeadReader<'a> {
    /// The argument of an item of this major type.
    fn count(&mut self, wanted: u8) -> Result<u64> {
        // What cannot be it is refused by its first byte.
        if let Some(first) = self.bytes.get(self.at)
            && first >> 5 != wanted
        {
            let why = format!(
                "{}: an item of major type {}, not {wanted}",
                self.what,
                first >> 5
            );
            return Err(Error::malformed(self.at as u64, why));
        }
        let (_, argument, len) = wire::header(self.bytes, self.at, self.what)?;
        self.at += len;
        Ok(argument)
    }

    fn key(&mut self, wanted: u64) -> Result<()> {
        let at = self.at;
        let found = self.count(UNSIGNED)?;
        if found == wanted {
            return Ok(());
        }
        let why = format!("{}: key {found}, where {wanted} is to come", self.what);
        Err(Error::malformed(at as u64, why))
    }

    fn tpm(&mut self) -> Result<Quote> {
        let mut structure = |n| {
            self.key(n)?;
            let bytes = self.string(BYTES, "a structure of the quote", MAX_STRUCTURE)?;
            Ok::<_, Error>(bytes.to_vec())
        };
        Ok(Quote {
            attest: structure(0)?,
            signature: structure(1)?,
            ak: structure(2)?,
        })
    }

    fn td(&mut self) -> Result<TdQuote> {
        self.key(3)?;
        let at = self.at as u64;
        if self.count(MAP)? != 6 {
            return Err(Error::malformed(at, "a trust domain's quote has six fields"));
        }
        self.key(0)?;
        let at = self.at as u64;
        let provider = self.string(TEXT, "the name of the quote's provider", MAX_PROVIDER_LEN as u64)?;
        let provider = core::str::from_utf8(provider)
            .map_err(|_| Error::malformed(at, "the provider's name is not UTF-8"))?
            .to_owned();
        self.key(1)?;
        let outblob = self.string(BYTES, "a trust domain's quote", MAX_OUTBLOB_LEN as u64)?;
        let outblob = outblob.to_vec();
        self.key(2)?;
        let nonce = self.string(BYTES, "the nonce", MAX_NONCE_LEN as u64)?.to_vec();
        self.key(3)?;
        let checkpoint = self.exact("the last checkpoint's digest")?;
        self.key(4)?;
        let node_key = self.exact("the node's key")?;
        self.key(5)?;
        let possession = self.exact("the node key's signature")?;
        Ok(TdQuote {
            provider,
            outblob,
            nonce,
            checkpoint,
            node_key,
            possession,
        })
    }

    /// A byte string of this length.
    fn exact<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N]> {
        let at = self.at as u64;
        let bytes = self.string(BYTES, what, N as u64)?;
        <[u8; N]>::try_from(bytes).map_err(|_| {
            let why = format!("{what} has {} bytes, not {N}", bytes.len());
            Error::malformed(at, why)
        })
    }

    fn string(&mut self, major: u8, what: &'static str, limit: u64) -> Result<&'a [u8]> {
        let offset = self.at as u64;
        let found = self.count(major)?;
        if found > limit {
            return Err(Error::Limit {
                offset,
                what,
                found,
                limit,
            });
        }
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        // At most the limit: fits.
        let len = usize::try_from(found).unwrap_or(usize::MAX);
        let string = rest.get(..len).ok_or_else(|| Error::Incomplete {
            offset,
            need: found - rest.len() as u64,
            what,
        })?;
        self.at += len;
        Ok(string)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cursor, Evidence, Tier};

    fn tpm(len: usize) -> Quote {
        Quote {
            attest: vec![1; len],
            signature: vec![2; 70],
            ak: vec![3; 90],
        }
    }

    fn td(len: usize) -> TdQuote {
        TdQuote {
            provider: "tdx_guest".into(),
            outblob: vec![4; len],
            nonce: vec![7; 32],
            checkpoint: [8; 48],
            node_key: [5; 33],
            possession: [6; 64],
        }
    }

    fn evidence() -> Evidence {
        Evidence {
            version: 1,
            tier: Tier::Bpf,
            node: "worker-1".into(),
            boot_id: [3; 16],
            quote: tpm(200).into(),
            list: vec![],
            checkpoints: vec![vec![9; 300]; 3],
            partitions: vec![],
            pods: vec![],
            kernel: "6.12".into(),
            boot: None,
            unsealed: vec![],
            in_flight: vec![],
            td: None,
        }
    }

    fn delta() -> EvidenceDelta {
        let e = evidence();
        EvidenceDelta {
            version: 1,
            tier: e.tier,
            node: e.node,
            boot_id: e.boot_id,
            quote: e.quote,
            list: vec![],
            checkpoints: e.checkpoints,
            partitions: vec![],
            pods: vec![],
            kernel: e.kernel,
            boot: None,
            unsealed: vec![],
            in_flight: vec![],
            td: None,
            from: Cursor {
                base: [0; 32],
                boot_id: [3; 16],
                entries: 0,
                checkpoint: 0,
                digest: [0; 32],
            },
        }
    }

    #[test]
    fn a_head_is_read_from_its_bytes_alone_and_no_fewer() {
        let quotes = [
            (Some(tpm(200)), None),
            (None, Some(td(100))),
            (Some(tpm(200)), Some(td(20))),
        ];
        for (tpm, td) in quotes {
            let quote = Quotes { tpm, td };
            let evidence = Evidence {
                quote: quote.clone(),
                ..evidence()
            };
            let delta = EvidenceDelta {
                quote: quote.clone(),
                ..delta()
            };
            reads_the_head(quote, [evidence.to_cbor(), delta.to_cbor()]);
        }
    }

    fn reads_the_head(quote: Quotes, both: [Vec<u8>; 2]) {
        let of = evidence();
        let expected = Head {
            node: of.node.clone(),
            boot_id: of.boot_id,
            quote,
        };
        for bytes in both {
            let read = |len: usize| Head::read(&bytes[..len]);
            let len = (0..bytes.len())
                .find(|len| !matches!(read(*len), Err(Error::Incomplete { .. })))
                .unwrap();
            assert_eq!(read(len), Ok(expected.clone()));
            assert!(len < 800, "{len}");
            // What follows is not looked at.
            let mut other = bytes[..len].to_vec();
            other.extend([0xff; 100]);
            assert_eq!(Head::read(&other), Ok(expected.clone()));
        }
    }

    #[test]
    fn what_is_no_head_is_refused_by_its_place() {
        let good = evidence().to_cbor();
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            Head::read(&bytes).unwrap_err()
        };
        // Version 2; the second key not the next one; the third field no text; a count of no length; four
        // fields.
        for (at, byte) in [(2, 2), (3, 2), (6, 0x48), (0, 0xbf), (0, 0xa4)] {
            let error = with(at, byte);
            assert!(
                matches!(error, Error::Malformed { .. } | Error::NotDeterministic { .. }),
                "{at}: {error}"
            );
        }
        for other in [&b"{}"[..], b"\x00", b"\x5b"] {
            assert!(Head::read(other).is_err());
        }
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_its_bytes_come() {
        let mut long = evidence();
        long.quote = tpm(8193).into();
        let bytes = long.to_cbor();
        let error = Head::read(&bytes[..60]).unwrap_err();
        assert!(matches!(error, Error::Limit { found: 8193, .. }), "{error}");
        // The longest that there is.
        let mut longest = evidence();
        longest.node = "n".repeat(1024);
        let eight_kib = || vec![0; 8192];
        longest.quote = Quotes {
            tpm: Some(Quote {
                attest: eight_kib(),
                signature: eight_kib(),
                ak: eight_kib(),
            }),
            td: Some(TdQuote {
                provider: "p".repeat(64),
                nonce: vec![7; 64],
                ..td(16 * 1024)
            }),
        };
        longest.checkpoints = vec![vec![0; 300]; 3];
        assert!(Head::read(&longest.to_cbor()[..MAX_HEAD_LEN]).is_ok());
        // And what is longer.
        for td in [
            td(16 * 1024 + 1),
            TdQuote {
                provider: "p".repeat(65),
                ..td(10)
            },
        ] {
            let quote = Quotes {
                tpm: None,
                td: Some(td),
            };
            let bytes = Evidence { quote, ..evidence() }.to_cbor();
            let error = Head::read(&bytes[..60]).unwrap_err();
            assert!(matches!(error, Error::Limit { .. }), "{error}");
        }
    }
}
