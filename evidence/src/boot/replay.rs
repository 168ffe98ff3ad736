//! From the log to the registers, and from the registers to the first entry of IMA's list.

use super::{Event, EventLog, EventType, FIRMWARE_REGISTERS, REGISTERS, RegisterSet, Registers};
use crate::{Bank, Digest};

/// Why a log gives no registers in a bank.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// The Spec ID does not name the bank.
    #[error(
        "the boot log has no digests in the bank {bank}, only in: {has}. Switch the bank on in the \
         firmware's setup (PCR banks), or quote and accept one that the log has"
    )]
    Bank {
        /// Which.
        bank: Bank,
        /// The log's banks, for people.
        has: String,
    },
    /// One event lacks its digest.
    #[error(
        "the event at byte {offset} of the boot log ({set} {pcr}, {kind}) has no digest in the bank {bank}"
    )]
    Digest {
        /// Where the event begins.
        offset: u64,
        /// Whose registers it is about.
        set: RegisterSet,
        /// The register that it extends.
        pcr: u32,
        /// Its type.
        kind: EventType,
        /// Which bank.
        bank: Bank,
    },
}

impl EventLog<'_> {
    /// PCR 0 to 9 after all events, in `bank`. Of a log of another set's registers there are none.
    ///
    /// # Errors
    /// [`ReplayError`] if an event has no digest in this bank.
    pub fn replay(&self, bank: Bank) -> Result<Registers, ReplayError> {
        let none = ReplayError::Bank {
            bank,
            has: "those of other registers".to_owned(),
        };
        Registers::new(self.replay_all(bank)?).ok_or(none)
    }

    /// The registers of the boot after all events, in `bank`: [`RegisterSet::count`] of them.
    ///
    /// # Errors
    /// [`ReplayError`] if an event has no digest in this bank.
    pub fn replay_all(&self, bank: Bank) -> Result<Vec<Digest>, ReplayError> {
        let unknown = || {
            let has: Vec<String> = self.banks().iter().map(Bank::to_string).collect();
            let has = if has.is_empty() {
                "none that is computed here".to_owned()
            } else {
                has.join(", ")
            };
            ReplayError::Bank { bank, has }
        };
        if !self.banks().contains(&bank) {
            return Err(unknown());
        }
        let mut values = vec![Digest::zero(bank); self.set().count()];
        // TPM2_Startup at locality 3, or a hardware root of trust at 4, leaves its number in PCR 0. Part 3,
        // 9.3.
        let mut first = vec![0; bank.len()];
        if let Some(last) = first.last_mut() {
            *last = self.startup_locality();
        }
        if let (Some(pcr0), Some(first)) = (values.first_mut(), Digest::new(bank, &first)) {
            *pcr0 = first;
        }
        for event in self
            .events()
            .iter()
            .filter(|event| event.kind != EventType::NO_ACTION)
        {
            let Some(value) = values.get_mut(event.pcr as usize) else {
                continue;
            };
            let missing = |event: &Event| ReplayError::Digest {
                offset: event.offset,
                set: event.set,
                pcr: event.pcr,
                kind: event.kind,
                bank,
            };
            *value = value.extend(event.digest(bank).ok_or_else(|| missing(event))?);
        }
        Ok(values)
    }
}

/// The digest of IMA's first entry: over PCR 0 to 9 of its own bank, over PCR 0 to 7 in the SHA-1 bank.
///
/// Source: security/integrity/ima/ima_crypto.c, `ima_calc_boot_aggregate_tfm`.
pub fn boot_aggregate(registers: &Registers) -> Digest {
    let bank = registers.bank();
    let count = if bank == Bank::Sha1 {
        FIRMWARE_REGISTERS
    } else {
        REGISTERS
    };
    let values: Vec<&[u8]> = registers.values().iter().take(count).map(Digest::bytes).collect();
    bank.hash(&values)
}
