//! What the TPM says of itself. Nothing in it is changed; the attestation key is made and flushed again.

use super::facts::TpmFacts;
use crate::config::Config;
use crate::tpm::{Tpm, fingerprint};
use cgpath_evidence::Bank;
use std::str::FromStr;
use tss_esapi::constants::{CapabilityType, PropertyTag};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::structures::{CapabilityData, PcrSlot};
use tss_esapi::{Context, TctiNameConf};

// Bits of TPMA_PERMANENT. TPM 2.0 Library, Part 2, 8.6.
const OWNER_AUTH_SET: u32 = 1 << 0;
const ENDORSEMENT_AUTH_SET: u32 = 1 << 1;
const IN_LOCKOUT: u32 = 1 << 9;

/// First persistent handle. TPM 2.0 Library, Part 2, 7.4.
const PERSISTENT_FIRST: u32 = 0x8100_0000;

/// Asks the TPM that is configured.
pub(super) fn ask(config: &Config) -> Result<TpmFacts, String> {
    let tcti = &config.tpm.tcti;
    let conf = TctiNameConf::from_str(tcti).map_err(|e| format!("tpm.tcti = {tcti:?}: {e}"))?;
    let mut context = Context::new(conf).map_err(|e| format!("{tcti}: {e}"))?;
    let mut property = |tag: PropertyTag| {
        let value = context
            .get_tpm_property(tag)
            .map_err(|e| format!("TPM2_GetCapability: {e}"))?;
        Ok::<u32, String>(value.unwrap_or_default())
    };
    let permanent = property(PropertyTag::Permanent)?;
    let available = property(PropertyTag::HrPersistentAvail)?;
    let manufacturer = property(PropertyTag::Manufacturer)?;
    let firmware = property(PropertyTag::FirmwareVersion1)?;
    let capability = |context: &mut Context, kind, first, count| {
        context
            .get_capability(kind, first, count)
            .map_err(|e| format!("TPM2_GetCapability: {e}"))
    };
    let (pcrs, _) = capability(&mut context, CapabilityType::AssignedPcr, 0, 16)?;
    let (handles, _) = capability(&mut context, CapabilityType::Handles, PERSISTENT_FIRST, 254)?;
    // The daemon's own way to the key is what counts; a TPM without a resource manager has room for one user
    // only.
    drop(context);
    let key = config
        .tpm_options()
        .map_err(|e| e.to_string())
        .and_then(|options| Tpm::open(&options).map_err(|e| e.to_string()))
        .map(|tpm| fingerprint(tpm.ak()));
    let name: String = manufacturer
        .to_be_bytes()
        .into_iter()
        .filter(|b| b.is_ascii_graphic())
        .map(char::from)
        .collect();
    Ok(TpmFacts {
        name: format!("{name}, firmware {}.{}", firmware >> 16, firmware & 0xffff),
        banks: banks(&pcrs),
        owner_auth: permanent & OWNER_AUTH_SET != 0,
        endorsement_auth: permanent & ENDORSEMENT_AUTH_SET != 0,
        in_lockout: permanent & IN_LOCKOUT != 0,
        persistent: (
            match handles {
                CapabilityData::Handles(list) => u32::try_from(list.len()).unwrap_or(u32::MAX),
                _ => 0,
            },
            available,
        ),
        key,
    })
}

fn banks(pcrs: &CapabilityData) -> Vec<Bank> {
    let CapabilityData::AssignedPcr(list) = pcrs else {
        return Vec::new();
    };
    let of = |algorithm| match algorithm {
        HashingAlgorithm::Sha1 => Some(Bank::Sha1),
        HashingAlgorithm::Sha256 => Some(Bank::Sha256),
        HashingAlgorithm::Sha384 => Some(Bank::Sha384),
        HashingAlgorithm::Sha512 => Some(Bank::Sha512),
        _ => None,
    };
    list.get_selections()
        .iter()
        .filter(|s| s.is_selected(PcrSlot::Slot10))
        .filter_map(|s| of(s.hashing_algorithm()))
        .collect()
}
