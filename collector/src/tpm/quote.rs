//! Quotes, and the values of the registers that they are of.
//!
//! Promise: registers are read before they are quoted, so that a change in between shows as a quote that the
//! values do not fit. Not here: what a quote proves (`cgpath-appraisal`).
//!
//! Source: TPM 2.0 Library, Part 3: TPM2_Quote (18.4), TPM2_PCR_Read (22.4).

use super::retry::retried;
use super::{Tpm, TpmError, command};
use cgpath_evidence::boot::Registers;
use cgpath_evidence::tpm::{Attest, PcrBlob, PcrSelection};
use cgpath_evidence::{Bank, Quote};
use sha2::{Digest as _, Sha256};
use tss_esapi::Context;
use tss_esapi::constants::CapabilityType;
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{
    CapabilityData, Data, PcrSelectionList, PcrSelectionListBuilder, PcrSlot, SignatureScheme,
};
use tss_esapi::traits::Marshall as _;

/// How often registers are read and quoted before they are said to move.
const TRIES: usize = 8;

/// Registers in one TPM2_PCR_Read: a TPML_DIGEST holds eight.
const AT_ONCE: usize = 8;

/// The register that IMA extends.
const IMA_PCR: PcrSlot = PcrSlot::Slot10;

/// The registers that are extended before IMA begins, PCR 0 to 9, in the numbers that one TPM2_PCR_Read gives
/// (a TPML_DIGEST holds eight).
const BOOT_PCRS: [&[PcrSlot]; 2] = [
    &[
        PcrSlot::Slot0,
        PcrSlot::Slot1,
        PcrSlot::Slot2,
        PcrSlot::Slot3,
        PcrSlot::Slot4,
        PcrSlot::Slot5,
        PcrSlot::Slot6,
        PcrSlot::Slot7,
    ],
    &[PcrSlot::Slot8, PcrSlot::Slot9],
];

fn bank_algorithm(bank: Bank) -> HashingAlgorithm {
    match bank {
        Bank::Sha1 => HashingAlgorithm::Sha1,
        Bank::Sha256 => HashingAlgorithm::Sha256,
        Bank::Sha384 => HashingAlgorithm::Sha384,
        Bank::Sha512 => HashingAlgorithm::Sha512,
    }
}

/// The nonce in the form in which a command takes it.
pub(super) fn qualifying_data(bytes: &[u8]) -> Result<Data, TpmError> {
    if bytes.is_empty() || bytes.len() > 64 {
        return Err(TpmError::Nonce(bytes.len()));
    }
    Data::try_from(bytes.to_vec()).map_err(command("qualifying data"))
}

impl Tpm {
    /// Quotes PCR 0 to 10 with `nonce` as qualifying data, and gives the values of PCR 0 to 9, which were
    /// read before.
    ///
    /// # Errors
    /// [`TpmError::Nonce`] beyond 64 bytes, or what the TPM said.
    pub fn quote(&mut self, nonce: &[u8]) -> Result<(Quote, Registers), TpmError> {
        let data = qualifying_data(nonce)?;
        let registers = self.boot_registers()?;
        let slots = [&BOOT_PCRS.concat()[..], &[IMA_PCR]].concat();
        let selection = PcrSelectionListBuilder::new()
            .with_selection(bank_algorithm(self.bank), &slots)
            .build()
            .map_err(command("PCR selection"))?;
        Ok((self.quote_selection(data, selection)?, registers))
    }

    fn quote_selection(&mut self, data: Data, selection: PcrSelectionList) -> Result<Quote, TpmError> {
        let command = command("TPM2_Quote");
        let (context, key) = (&mut self.context, self.key);
        let (attest, signature) = retried(|| {
            context.execute_with_session(Some(AuthSession::Password), |c| {
                c.quote(key, data.clone(), SignatureScheme::Null, selection.clone())
            })
        })
        .map_err(command)?;
        Ok(Quote {
            attest: attest.marshall().map_err(command)?,
            signature: signature.marshall().map_err(command)?,
            ak: self.public.clone(),
        })
    }

    /// PCR 0 to 9. They are read anew for each quote: an extension that comes later is seen by the log that
    /// does not replay, not by a quote that fits nothing.
    fn boot_registers(&mut self) -> Result<Registers, TpmError> {
        let bank = self.bank;
        let mut values = Vec::new();
        for slots in BOOT_PCRS {
            let digests = self.registers(slots)?.into_iter();
            values.extend(digests.filter_map(|digest| cgpath_evidence::Digest::new(bank, &digest)));
        }
        Registers::new(values).ok_or(TpmError::Registers { bank })
    }

    /// Values of eight registers at most; those that are not allocated are left out.
    fn registers(&mut self, slots: &[PcrSlot]) -> Result<Vec<Vec<u8>>, TpmError> {
        let selection = PcrSelectionListBuilder::new()
            .with_selection(bank_algorithm(self.bank), slots)
            .build()
            .map_err(command("PCR selection"))?;
        let context = &mut self.context;
        let (_counter, _read, digests) =
            retried(|| context.execute_without_session(|c| c.pcr_read(selection.clone())))
                .map_err(command("TPM2_PCR_Read"))?;
        Ok(digests
            .value()
            .iter()
            .map(|digest| digest.value().to_vec())
            .collect())
    }

    /// Quotes these registers (0 to 23, rising) of the configured bank over `challenge`, and gives their
    /// values: those that the quote is of.
    ///
    /// # Errors
    /// [`TpmError::Nonce`] beyond 64 bytes; [`TpmError::Moving`]; or what the TPM said.
    pub fn quote_registers(
        &mut self,
        challenge: &[u8],
        registers: &[u8],
    ) -> Result<(Quote, PcrBlob), TpmError> {
        let data = qualifying_data(challenge)?;
        let slots: Result<Vec<PcrSlot>, _> = registers
            .iter()
            .map(|n| PcrSlot::try_from(1u32.checked_shl(u32::from(*n)).unwrap_or_default()))
            .collect();
        let slots = slots.map_err(command("PCR selection"))?;
        let selection = PcrSelectionListBuilder::new()
            .with_selection(bank_algorithm(self.bank), &slots)
            .build()
            .map_err(command("PCR selection"))?;
        for _ in 0..TRIES {
            let mut values = Vec::with_capacity(slots.len());
            for some in slots.chunks(AT_ONCE) {
                values.extend(self.registers(some)?);
            }
            let quote = self.quote_selection(data.clone(), selection.clone())?;
            // The key's own hash algorithm is SHA-256, whatever the bank.
            let digest = Sha256::digest(values.concat());
            let attest = Attest::parse(&quote.attest);
            if attest.is_ok_and(|attest| attest.pcr_digest == digest[..]) {
                let numbers: Vec<u32> = registers.iter().map(|n| u32::from(*n)).collect();
                let select = PcrSelection::of(self.bank, &numbers);
                return Ok((quote, PcrBlob { select, values }));
            }
        }
        Err(TpmError::Moving)
    }
}

/// Banks in which PCR 10 is allocated.
pub(super) fn allocated_banks(context: &mut Context) -> Result<Vec<Bank>, TpmError> {
    let (data, _more) =
        retried(|| context.get_capability(CapabilityType::AssignedPcr, 0, 16)).map_err(|source| {
            TpmError::Command {
                what: "TPM2_GetCapability",
                source,
            }
        })?;
    let CapabilityData::AssignedPcr(list) = data else {
        return Ok(Vec::new());
    };
    let banks = list
        .get_selections()
        .iter()
        .filter(|s| s.is_selected(IMA_PCR))
        .filter_map(|s| {
            Bank::ALL
                .into_iter()
                .find(|b| bank_algorithm(*b) == s.hashing_algorithm())
        });
    Ok(banks.collect())
}
