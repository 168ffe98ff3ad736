//! The TPM by its bare commands, as a benchmark's lower bound: no library, no session, nothing retried.
//!
//! Promises: the same kind of key and the same quote as the collector makes. Not here: checking what a TPM
//! says. Source: TPM 2.0 Library, Part 3: TPM2_CreatePrimary (24.1), TPM2_PCR_Extend (22.2), TPM2_Quote
//! (18.4); all big-endian.

use anyhow::{Context as _, Result, bail, ensure};
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};

/// The kernel's resource manager: each opening has TPM objects of its own.
const DEVICE: &str = "/dev/tpmrm0";

/// TPM_ALG_ID and digest size in bytes. Source: TPM 2.0 Part 2, 6.3.
const ALGORITHMS: [(u16, usize); 4] = [(0x0004, 20), (0x000b, 32), (0x000c, 48), (0x000d, 64)];

/// One opening of the TPM.
pub struct Tpm(File);

/// A command: its code, its handle, the empty password for it, its parameters.
fn command(code: u32, handle: u32, parameters: &[u8]) -> Vec<u8> {
    const PASSWORD: [u8; 13] = [0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0];
    let size = 10 + 4 + PASSWORD.len() + parameters.len();
    let mut bytes = vec![0x80, 0x02];
    bytes.extend((size as u32).to_be_bytes());
    bytes.extend(code.to_be_bytes());
    bytes.extend(handle.to_be_bytes());
    bytes.extend(PASSWORD);
    bytes.extend(parameters);
    bytes
}

impl Tpm {
    /// Opens it anew.
    ///
    /// # Errors
    /// When there is none.
    pub fn open() -> Result<Tpm> {
        let file = OpenOptions::new().read(true).write(true).open(DEVICE);
        Ok(Tpm(file.with_context(|| format!("cannot open {DEVICE}"))?))
    }

    /// Sends a command and gives what follows the header of the response.
    fn ask(&mut self, command: &[u8], what: &str) -> Result<Vec<u8>> {
        self.0
            .write_all(command)
            .with_context(|| format!("sending {what}"))?;
        let mut response = vec![0; 4096];
        let length = self
            .0
            .read(&mut response)
            .with_context(|| format!("the answer to {what}"))?;
        response.truncate(length);
        let code = response
            .get(6..10)
            .with_context(|| format!("{what}: an answer of {length} bytes"))?;
        ensure!(code == [0; 4], "{what} failed: {}", hex::encode(code));
        Ok(response.split_off(10))
    }

    /// Makes a restricted signing key, ECDSA over P-256, as a primary of the endorsement hierarchy; gives its
    /// handle.
    ///
    /// # Errors
    /// What the TPM says.
    pub fn signing_key(&mut self) -> Result<u32> {
        const ENDORSEMENT: u32 = 0x4000_000b;
        // fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, restricted, sign.
        const ATTRIBUTES: [u8; 4] = 0x0005_0472_u32.to_be_bytes();
        // ECC, SHA-256, attributes, no policy, no symmetric cipher, ECDSA with SHA-256, P-256, no KDF, no
        // point.
        let mut public = vec![0x00, 0x23, 0x00, 0x0b];
        public.extend(ATTRIBUTES);
        public.extend([0, 0, 0, 0x10, 0, 0x18, 0, 0x0b, 0, 3, 0, 0x10, 0, 0, 0, 0]);
        // No authorisation and no data of the key, then the template, no outside information, no creation
        // PCRs.
        let mut parameters = vec![0, 4, 0, 0, 0, 0];
        parameters.extend((public.len() as u16).to_be_bytes());
        parameters.extend(public);
        parameters.extend([0; 6]);
        let answer = self.ask(&command(0x131, ENDORSEMENT, &parameters), "TPM2_CreatePrimary")?;
        let handle = answer
            .first_chunk()
            .context("TPM2_CreatePrimary gave no handle")?;
        Ok(u32::from_be_bytes(*handle))
    }

    /// The digests with which [`Tpm::extend`] extends: one for each bank that has registers, as IMA does it.
    ///
    /// # Errors
    /// What the TPM says.
    pub fn banks(&mut self) -> Result<Vec<u8>> {
        // TPM2_GetCapability, without sessions: TPM_CAP_PCRS, from 0, at most 16.
        let mut ask = vec![0x80, 0x01, 0, 0, 0, 22, 0, 0, 0x01, 0x7a];
        ask.extend([0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 16]);
        let answer = self.ask(&ask, "TPM2_GetCapability")?;
        // moreData, the capability, then a TPML_PCR_SELECTION.
        let mut rest = answer.get(9..).context("TPM2_GetCapability: a short answer")?;
        let (mut count, mut digests) = (0u32, Vec::new());
        while let Some((&[high, low, size], after)) = rest.split_first_chunk() {
            let algorithm = u16::from_be_bytes([high, low]);
            let (selected, after) = after
                .split_at_checked(usize::from(size))
                .context("TPM2_GetCapability: a selection that ends early")?;
            rest = after;
            if selected.iter().all(|byte| *byte == 0) {
                continue;
            }
            let Some((_, length)) = ALGORITHMS.into_iter().find(|(id, _)| *id == algorithm) else {
                bail!("the TPM has a bank of algorithm {algorithm:#x}");
            };
            count += 1;
            digests.extend(algorithm.to_be_bytes());
            digests.resize(digests.len() + length, 0x5a);
        }
        ensure!(count > 0, "the TPM has no bank");
        Ok([count.to_be_bytes().to_vec(), digests].concat())
    }

    /// Extends PCR 16, which is there for such things and quoted by nobody.
    ///
    /// # Errors
    /// What the TPM says.
    pub fn extend(&mut self, digests: &[u8]) -> Result<()> {
        self.ask(&command(0x182, 16, digests), "TPM2_PCR_Extend")
            .map(drop)
    }

    /// Quotes PCR 10 of the SHA-256 bank.
    ///
    /// # Errors
    /// What the TPM says.
    pub fn quote(&mut self, key: u32, nonce: &[u8; 32]) -> Result<()> {
        let mut parameters = vec![0, 32];
        parameters.extend(nonce);
        // The key's own scheme; one bank, three octets of registers.
        parameters.extend([0, 0x10, 0, 0, 0, 1, 0, 0x0b, 3, 0, 4, 0]);
        self.ask(&command(0x158, key, &parameters), "TPM2_Quote")
            .map(drop)
    }
}
