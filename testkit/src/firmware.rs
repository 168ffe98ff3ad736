//! Boot logs, before they are written out.

use cgpath_evidence::boot::{EventType, REGISTERS, Registers};
use cgpath_evidence::{Bank, Digest};

/// What a firmware, a boot loader and a kernel's EFI stub measure, before it is written out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirmwareLog {
    /// Register, type, what is measured, what the event says.
    pub events: Vec<(u32, EventType, Vec<u8>, Vec<u8>)>,
    /// What `/proc/cmdline` says.
    pub command_line: String,
}

impl FirmwareLog {
    /// The banks of the log.
    pub const BANKS: [Bank; 2] = [Bank::Sha1, Bank::Sha256];
    /// The kernel's command line.
    pub const COMMAND_LINE: &'static str = "quiet ima_policy=tcb";

    /// What a good boot measures.
    pub fn good() -> FirmwareLog {
        let mut log = FirmwareLog {
            events: Vec::new(),
            command_line: String::new(),
        };
        log.events
            .push((0, EventType(8), b"firmware 1".to_vec(), b"firmware 1".to_vec()));
        for pcr in 0..8 {
            log.events
                .push((pcr, EventType::SEPARATOR, vec![0; 4], vec![0; 4]));
        }
        log.events
            .push((4, EventType::APPLICATION, b"image 1".to_vec(), vec![0; 40]));
        log.add_command_line(FirmwareLog::COMMAND_LINE);
        log
    }

    /// The kernel's EFI stub measures its command line.
    pub fn add_command_line(&mut self, text: &str) {
        self.command_line = text.to_owned();
        let measured = text
            .encode_utf16()
            .chain([0])
            .flat_map(u16::to_le_bytes)
            .collect();
        let mut data = 0x8f3b_22edu32.to_le_bytes().to_vec();
        data.extend(26u32.to_le_bytes());
        data.extend(b"LOADED_IMAGE::LoadOptions\0");
        self.events.push((9, EventType::EVENT_TAG, measured, data));
    }

    /// PCR 0 to 9.
    pub fn registers(&self, bank: Bank) -> Registers {
        let mut values = vec![Digest::zero(bank); REGISTERS];
        for (pcr, kind, measured, _) in &self.events {
            if let Some(value) = values
                .get_mut(*pcr as usize)
                .filter(|_| *kind != EventType::NO_ACTION)
            {
                *value = value.extend(&bank.hash(&[measured]));
            }
        }
        Registers::new(values).unwrap()
    }

    /// `binary_bios_measurements`. Source: TCG PC Client Platform Firmware Profile, section 10.2.
    pub fn bytes(&self) -> Vec<u8> {
        self.bytes_of(&Self::BANKS)
    }

    /// The CCEL of a trust domain, whose registers count from 1.
    pub fn ccel(&self) -> Vec<u8> {
        self.written(&[Bank::Sha384], 1)
    }

    /// The same with digests in these banks.
    pub fn bytes_of(&self, banks: &[Bank]) -> Vec<u8> {
        self.written(banks, 0)
    }

    fn written(&self, banks: &[Bank], first: u32) -> Vec<u8> {
        let number = |n: usize| u32::try_from(n).unwrap().to_le_bytes();
        let mut id = b"Spec ID Event03\0\0\0\0\0\0\x02\0\x02".to_vec();
        id.extend(number(banks.len()));
        for bank in banks {
            id.extend(bank.tpm_alg().to_le_bytes());
            id.extend(u16::try_from(bank.len()).unwrap().to_le_bytes());
        }
        id.push(0);
        let mut out = [
            &first.to_le_bytes()[..],
            &number(3),
            &[0; 20],
            &number(id.len()),
            &id,
        ]
        .concat();
        for (pcr, kind, measured, data) in &self.events {
            out.extend(
                [
                    first.wrapping_add(*pcr),
                    kind.0,
                    u32::try_from(banks.len()).unwrap(),
                ]
                .map(u32::to_le_bytes)
                .concat(),
            );
            for bank in banks {
                out.extend(bank.tpm_alg().to_le_bytes());
                out.extend(bank.hash(&[measured]).bytes());
            }
            out.extend(number(data.len()));
            out.extend(data);
        }
        out
    }
}
