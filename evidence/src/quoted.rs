//! The registers that a quote of ours selects: PCR 10 alone, or PCR 0 to 10.
//!
//! Promise: the digest over them is computed for each value of PCR 10 in turn without hashing the others
//! anew; PCR 0 to 9 are what the evidence states, and a false statement fits no value of PCR 10. Not here:
//! who signed (see `cgpath-appraisal`).

use crate::{
    Bank, Digest,
    boot::{REGISTERS, Registers},
    tpm::{Attest, BankSelection},
};
use sha2::{Digest as _, Sha256};

/// The register that IMA extends.
pub const IMA_PCR: u32 = 10;

/// Which registers of a bank are selected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selected {
    /// None.
    Nothing,
    /// PCR 10 alone.
    Ima,
    /// PCR 0 to 10.
    BootAndIma,
    /// Others.
    Other,
}

impl Selected {
    /// What is selected of one bank.
    pub fn of(selection: &BankSelection) -> Selected {
        let pcrs: Vec<u32> = selection.pcrs().collect();
        match pcrs.as_slice() {
            [] => Selected::Nothing,
            [IMA_PCR] => Selected::Ima,
            all if all.iter().copied().eq(0..=REGISTERS as u32) => Selected::BootAndIma,
            _ => Selected::Other,
        }
    }
}

/// Why a quote's digest cannot be computed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SelectionError {
    /// Registers of a bank that is not known here.
    #[error("the quote selects registers of a bank that is not known here: {0:#06x}")]
    UnknownBank(u16),
    /// Other registers, or a bank twice.
    #[error(
        "the quote selects other registers of the bank {bank} than PCR 10, alone or with PCR 0 to 9, once"
    )]
    Other {
        /// Which bank.
        bank: Bank,
    },
    /// PCR 0 to 9 are selected and their values not stated.
    #[error("the quote covers PCR 0 to 9 in the bank {bank}, whose values there the evidence does not state")]
    Unstated {
        /// Which bank.
        bank: Bank,
    },
    /// Nothing is selected.
    #[error("the quote does not cover PCR 10")]
    Nothing,
}

/// The registers of one quote, and its digest over them.
#[derive(Debug, Clone)]
pub struct QuotedRegisters {
    banks: Vec<(Bank, Option<Registers>)>,
    /// Fed with what stands before the first PCR 10.
    first: Sha256,
    /// What stands before each further PCR 10.
    between: Vec<Vec<u8>>,
    digest: Vec<u8>,
}

fn joined(registers: Option<&Registers>) -> Vec<u8> {
    let values = registers.map(Registers::values).unwrap_or_default();
    values
        .iter()
        .flat_map(|value| value.bytes().iter().copied())
        .collect()
}

impl QuotedRegisters {
    /// The registers that `attest` selects, with the values of PCR 0 to 9 that are `stated`. Each selection
    /// that is of no use here is given to `refuse` and left out.
    pub fn of(
        attest: &Attest,
        stated: &[Registers],
        mut refuse: impl FnMut(SelectionError),
    ) -> QuotedRegisters {
        let mut banks: Vec<(Bank, Option<Registers>)> = Vec::new();
        for selection in &attest.pcr_select.banks {
            let selected = Selected::of(selection);
            let Some(bank) = selection.bank() else {
                if selected != Selected::Nothing {
                    refuse(SelectionError::UnknownBank(selection.alg));
                }
                continue;
            };
            let is_new = banks.iter().all(|(known, _)| *known != bank);
            match selected {
                Selected::Nothing => {}
                Selected::Ima if is_new => banks.push((bank, None)),
                Selected::BootAndIma if is_new => match stated.iter().find(|r| r.bank() == bank) {
                    Some(registers) => banks.push((bank, Some(registers.clone()))),
                    None => refuse(SelectionError::Unstated { bank }),
                },
                _ => refuse(SelectionError::Other { bank }),
            }
        }
        if banks.is_empty() {
            refuse(SelectionError::Nothing);
        }
        let mut before = banks.iter().map(|(_, registers)| joined(registers.as_ref()));
        let first = Sha256::new().chain_update(before.next().unwrap_or_default());
        let between = before.collect();
        QuotedRegisters {
            between,
            banks,
            first,
            digest: attest.pcr_digest.clone(),
        }
    }

    /// The same, where nothing is left out.
    ///
    /// # Errors
    /// The first [`SelectionError`].
    pub fn strict(attest: &Attest, stated: &[Registers]) -> Result<QuotedRegisters, SelectionError> {
        let mut first = None;
        let registers = QuotedRegisters::of(attest, stated, |error| {
            first.get_or_insert(error);
        });
        first.map_or(Ok(registers), Err)
    }

    /// Banks in which PCR 10 is quoted, in the quote's order.
    pub fn banks(&self) -> impl Iterator<Item = Bank> {
        self.banks.iter().map(|(bank, _)| *bank)
    }

    /// PCR 0 to 9 of this bank, if the quote covers them.
    pub fn boot(&self, bank: Bank) -> Option<&Registers> {
        let (_, registers) = self.banks.iter().find(|(known, _)| *known == bank)?;
        registers.as_ref()
    }

    /// Whether the quoted digest is that of these values of PCR 10, one for each of
    /// [`QuotedRegisters::banks`]. The digest is SHA-256, as the only signing schemes that are accepted.
    pub fn is_with(&self, ima: &[Digest]) -> bool {
        let mut hash = self.first.clone();
        for (n, value) in ima.iter().enumerate() {
            if let Some(before) = n.checked_sub(1).and_then(|n| self.between.get(n)) {
                hash.update(before);
            }
            hash.update(value.bytes());
        }
        ima.len() == self.banks.len() && hash.finalize()[..] == self.digest[..]
    }

    /// All selected values in the order of the digest, with these of PCR 10.
    pub fn values(&self, ima: &[Digest]) -> Vec<Digest> {
        let mut values = Vec::new();
        for ((_, registers), ima) in self.banks.iter().zip(ima) {
            values.extend_from_slice(registers.as_ref().map(Registers::values).unwrap_or_default());
            values.push(ima.clone());
        }
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tpm::{ClockInfo, PcrSelection, composite};

    fn registers(bank: Bank, seed: u8) -> Registers {
        Registers::new((0..10).map(|n| bank.hash(&[&[n, seed]])).collect()).unwrap()
    }

    fn attest(selections: &[(Bank, &[u32])], digest: &[u8]) -> Attest {
        let banks = selections
            .iter()
            .flat_map(|(bank, pcrs)| PcrSelection::of(*bank, pcrs).banks);
        Attest {
            qualified_signer: vec![],
            extra_data: vec![],
            clock: ClockInfo {
                clock: 0,
                reset_count: 0,
                restart_count: 0,
                safe: true,
            },
            firmware_version: 0,
            pcr_select: PcrSelection {
                banks: banks.collect(),
            },
            pcr_digest: digest.to_vec(),
        }
    }

    const ALL: &[u32] = &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10];

    #[test]
    fn the_digest_is_over_all_selected_values_in_their_order_and_over_no_others() {
        let stated = [registers(Bank::Sha256, 1), registers(Bank::Sha1, 2)];
        for selections in [
            vec![(Bank::Sha256, ALL)],
            vec![(Bank::Sha256, &[10][..])],
            vec![(Bank::Sha1, ALL), (Bank::Sha256, ALL)],
            vec![(Bank::Sha384, &[10][..]), (Bank::Sha1, ALL)],
        ] {
            let ima: Vec<Digest> = selections.iter().map(|(bank, _)| bank.hash(&[b"ima"])).collect();
            let open = QuotedRegisters::strict(&attest(&selections, &[]), &stated).unwrap();
            let values = open.values(&ima);
            assert_eq!(
                values.len(),
                selections.iter().map(|(_, pcrs)| pcrs.len()).sum::<usize>()
            );
            let digest = composite(Bank::Sha256, values.iter().map(Digest::bytes));
            let quoted = QuotedRegisters::strict(&attest(&selections, digest.bytes()), &stated).unwrap();
            assert!(quoted.is_with(&ima));
            assert!(!quoted.is_with(&ima[1..]));
            assert_eq!(quoted.is_with(&values), values == ima);
            let other: Vec<Digest> = ima.iter().map(|d| d.bank().hash(&[b"other"])).collect();
            assert!(!quoted.is_with(&other));
            let false_statement = [registers(Bank::Sha256, 3), registers(Bank::Sha1, 4)];
            let doubted =
                QuotedRegisters::strict(&attest(&selections, digest.bytes()), &false_statement).unwrap();
            assert_eq!(
                doubted.is_with(&ima),
                selections.iter().all(|(_, pcrs)| pcrs.len() == 1)
            );
        }
    }

    #[test]
    fn other_selections_are_refused_by_name() {
        let stated = [registers(Bank::Sha256, 1)];
        let other = SelectionError::Other { bank: Bank::Sha256 };
        for (selections, why) in [
            (vec![(Bank::Sha256, &[0, 10][..])], other.clone()),
            (vec![(Bank::Sha256, &[9][..])], other.clone()),
            (vec![(Bank::Sha256, ALL), (Bank::Sha256, ALL)], other),
            (
                vec![(Bank::Sha1, ALL)],
                SelectionError::Unstated { bank: Bank::Sha1 },
            ),
            (vec![], SelectionError::Nothing),
            (vec![(Bank::Sha256, &[][..])], SelectionError::Nothing),
        ] {
            assert_eq!(
                QuotedRegisters::strict(&attest(&selections, &[]), &stated).err(),
                Some(why)
            );
        }
        let mut unknown = attest(&[(Bank::Sha256, ALL)], &[]);
        unknown.pcr_select.banks[0].alg = 0x12;
        let why = QuotedRegisters::strict(&unknown, &stated).err();
        assert_eq!(why, Some(SelectionError::UnknownBank(0x12)));
    }
}
