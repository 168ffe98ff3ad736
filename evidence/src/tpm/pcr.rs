//! Which registers a quote covers, and their values: TPML_PCR_SELECTION, the digest over the values, and the
//! file in which tpm2-tools keep them.
//!
//! Not here: what the values are to be (see [`crate::quoted`]).

use super::TpmReader;
use crate::{Bank, Digest, Error, Result};

/// A selection never names more banks than this (TPML_PCR_SELECTION's HASH_COUNT in tpm2-tss).
pub const MAX_BANKS: usize = 16;
/// A bank's bitmap never has more bytes than this (PCR_SELECT_MAX).
pub const MAX_SELECT_LEN: usize = 4;

/// TPMS_PCR_SELECTION (10.6.2): PCRs of one bank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BankSelection {
    /// TPM_ALG_ID of the bank.
    pub alg: u16,
    /// Bit `n % 8` of byte `n / 8` is PCR `n`.
    pub bitmap: Vec<u8>,
}

impl BankSelection {
    /// The bank, if it is one that this crate computes.
    pub fn bank(&self) -> Option<Bank> {
        Bank::from_tpm_alg(self.alg)
    }

    /// The selected PCRs, rising.
    pub fn pcrs(&self) -> impl Iterator<Item = u32> {
        let bits = self
            .bitmap
            .iter()
            .enumerate()
            .flat_map(|(n, b)| (0..8).map(move |bit| (n, *b, bit)));
        bits.filter(|(_, b, bit)| b & (1 << bit) != 0)
            .map(|(n, _, bit)| n as u32 * 8 + bit)
    }
}

/// TPML_PCR_SELECTION (10.9.7).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PcrSelection {
    /// Banks, in the order in which their values enter the digest.
    pub banks: Vec<BankSelection>,
}

impl PcrSelection {
    /// PCRs below 24 of one bank, in the three bytes that TPMs use.
    pub fn of(bank: Bank, pcrs: &[u32]) -> PcrSelection {
        let mut bitmap = vec![0; 3];
        for pcr in pcrs {
            if let Some(byte) = bitmap.get_mut(*pcr as usize / 8) {
                *byte |= 1 << (pcr % 8);
            }
        }
        PcrSelection {
            banks: vec![BankSelection {
                alg: bank.tpm_alg(),
                bitmap,
            }],
        }
    }

    /// The selected registers in the order in which their values enter the digest: bank's TPM_ALG_ID and PCR.
    pub fn iter(&self) -> impl Iterator<Item = (u16, u32)> {
        self.banks.iter().flat_map(|b| b.pcrs().map(|pcr| (b.alg, pcr)))
    }

    /// # Errors
    /// [`Error::Incomplete`], [`Error::Malformed`], [`Error::Limit`].
    pub fn parse(bytes: &[u8]) -> Result<PcrSelection> {
        let mut r = TpmReader::new(bytes, "TPML_PCR_SELECTION");
        let selection = PcrSelection::read(&mut r)?;
        r.end()?;
        Ok(selection)
    }

    pub(super) fn read(r: &mut TpmReader) -> Result<PcrSelection> {
        let offset = r.at() as u64;
        let count = r.u32()?;
        if count as usize > MAX_BANKS {
            let limit = MAX_BANKS as u64;
            return Err(Error::Limit {
                offset,
                what: "number of banks",
                found: u64::from(count),
                limit,
            });
        }
        let mut banks = Vec::new();
        for _ in 0..count {
            let alg = r.u16()?;
            let len = usize::from(r.u8()?);
            if len > MAX_SELECT_LEN {
                return r.malformed(
                    1,
                    format_args!("a bitmap of {len} bytes, the limit is {MAX_SELECT_LEN}"),
                );
            }
            banks.push(BankSelection {
                alg,
                bitmap: r.take(len)?.to_vec(),
            });
        }
        Ok(PcrSelection { banks })
    }

    /// The structure's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend((self.banks.len() as u32).to_be_bytes());
        for bank in &self.banks {
            out.extend(bank.alg.to_be_bytes());
            out.push(bank.bitmap.len() as u8);
            out.extend(&bank.bitmap);
        }
    }
}

/// The digest that a quote carries: over the values of the selected registers, one after the other.
///
/// `hash` is the algorithm of the key's signing scheme, `values` in the order of [`PcrSelection::iter`].
pub fn composite<'a>(hash: Bank, values: impl IntoIterator<Item = &'a [u8]>) -> Digest {
    hash.hash(&values.into_iter().collect::<Vec<_>>())
}

/// The registers beside a quote, as `tpm2_quote -o` of tpm2-tools writes them and Keylime takes them: the C
/// structures of tpm2-tss in memory, little-endian.
///
/// Source: tpm2-tools, lib/pcr.c, `pcr_fwrite_serialized` (format `serialized`); tpm2-tss, tss2_tpm2_types.h.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PcrBlob {
    /// What was selected.
    pub select: PcrSelection,
    /// The values, in the order of [`PcrSelection::iter`].
    pub values: Vec<Vec<u8>>,
}

impl PcrBlob {
    const SELECTION_LEN: usize = 4 + MAX_BANKS * 8;
    const DIGEST_LEN: usize = 2 + 64;
    const DIGESTS: usize = 8;
    const MAX_LISTS: usize = 32;
    const LIST_LEN: usize = 4 + PcrBlob::DIGESTS * PcrBlob::DIGEST_LEN;

    /// # Errors
    /// [`Error::Incomplete`]; [`Error::Limit`]; [`Error::Malformed`], also if the number of values is not
    /// that of the selected registers.
    pub fn parse(bytes: &[u8]) -> Result<PcrBlob> {
        let mut r = TpmReader::new(bytes, "PCR blob");
        let u16_le = |r: &mut TpmReader| r.array().map(u16::from_le_bytes);
        let u32_le = |r: &mut TpmReader| r.array().map(u32::from_le_bytes);
        let count = u32_le(&mut r)? as usize;
        if count > MAX_BANKS {
            return r.malformed(4, format_args!("{count} banks, the limit is {MAX_BANKS}"));
        }
        let mut banks = Vec::new();
        for n in 0..MAX_BANKS {
            let (alg, len) = (u16_le(&mut r)?, usize::from(r.u8()?));
            let (bitmap, _padding) = (r.array::<MAX_SELECT_LEN>()?, r.u8()?);
            if n >= count {
                continue;
            }
            let Some(bitmap) = bitmap.get(..len) else {
                return r.malformed(
                    6,
                    format_args!("a bitmap of {len} bytes, the limit is {MAX_SELECT_LEN}"),
                );
            };
            banks.push(BankSelection {
                alg,
                bitmap: bitmap.to_vec(),
            });
        }
        let select = PcrSelection { banks };
        let selected = select.iter().count();
        let lists = u32_le(&mut r)? as usize;
        if lists > PcrBlob::MAX_LISTS {
            return r.malformed(
                4,
                format_args!("{lists} lists of digests, the limit is {}", PcrBlob::MAX_LISTS),
            );
        }
        let mut values = Vec::new();
        for _ in 0..lists {
            let count = u32_le(&mut r)? as usize;
            if count > PcrBlob::DIGESTS {
                return r.malformed(
                    4,
                    format_args!("{count} digests, the limit is {}", PcrBlob::DIGESTS),
                );
            }
            for n in 0..PcrBlob::DIGESTS {
                let len = usize::from(u16_le(&mut r)?);
                let digest = r.array::<64>()?;
                if n >= count {
                    continue;
                }
                let Some(digest) = digest.get(..len) else {
                    return r.malformed(66, format_args!("a digest of {len} bytes"));
                };
                values.push(digest.to_vec());
            }
        }
        r.end()?;
        if values.len() != selected {
            let why = format!("PCR blob: {} values for {selected} registers", values.len());
            return Err(Error::malformed(PcrBlob::SELECTION_LEN as u64, why));
        }
        Ok(PcrBlob { select, values })
    }

    /// The blob's bytes. At most 16 banks, bitmaps of four bytes and values of 64 bytes find place; more is
    /// cut.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let banks = self.select.banks.get(..MAX_BANKS).unwrap_or(&self.select.banks);
        out.extend((banks.len() as u32).to_le_bytes());
        for bank in banks {
            let bitmap = bank.bitmap.get(..MAX_SELECT_LEN).unwrap_or(&bank.bitmap);
            out.extend(bank.alg.to_le_bytes());
            out.push(bitmap.len() as u8);
            out.extend(bitmap);
            out.resize(out.len() + MAX_SELECT_LEN - bitmap.len() + 1, 0);
        }
        out.resize(PcrBlob::SELECTION_LEN, 0);
        out.extend((self.values.len().div_ceil(PcrBlob::DIGESTS) as u32).to_le_bytes());
        for list in self.values.chunks(PcrBlob::DIGESTS) {
            let end = out.len() + PcrBlob::LIST_LEN;
            out.extend((list.len() as u32).to_le_bytes());
            for value in list {
                let value = value.get(..64).unwrap_or(value);
                out.extend((value.len() as u16).to_le_bytes());
                out.extend(value);
                out.resize(out.len() + 64 - value.len(), 0);
            }
            out.resize(end, 0);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use crate::Bank;
    use crate::tpm::attest::tests::attest;

    #[test]
    fn selected_registers_come_in_the_order_of_the_digest() {
        let select = attest().pcr_select;
        assert_eq!(
            select.iter().collect::<Vec<_>>(),
            [(0x0b, 0), (0x0b, 10), (0x0b, 23)]
        );
        assert_eq!(select.banks[0].bank(), Some(Bank::Sha256));
    }
}
