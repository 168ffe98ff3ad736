//! The quoting service that a trust domain's host would have: quotes for the test's TDX module.
//!
//! Promise: each is over the registers and the report data that the module asks with, in the layout of a
//! quote of version 4. Not here: the chain of certificates behind the key, which a test makes.
//!
//! Source: Intel TDX DCAP Quoting Library API, appendix A.3 (quote version 4).

use anyhow::{Context as _, Result, ensure};
use p256::ecdsa::{Signature, SigningKey, signature::Signer as _};
use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::path::Path;

/// Bytes of a quote's header, and of a TD report's body.
const HEADER: usize = 48;
const BODY: usize = 584;

/// Where the body has MRTD, RTMR 0 to 3, and the report data.
const MRTD: usize = HEADER + 136;
const RTMRS: usize = HEADER + 328;
const REPORT_DATA: usize = HEADER + 520;

/// A request: report data, MRTD, four RTMRs (`struct test_request` of vm-tests/tdx).
const REQUEST: usize = 64 + 48 + 4 * 48;

/// Answers requests until it is killed.
///
/// # Errors
/// When the device cannot be opened, or an argument is not what it should be.
pub fn answer(device: &Path, head: &str, key: &str, tail: &str) -> Result<()> {
    let head = hex::decode(head).context("a head that is not hex")?;
    ensure!(head.len() == HEADER + BODY, "a head of {} bytes", head.len());
    let key = SigningKey::from_slice(&hex::decode(key).context("a key that is not hex")?)?;
    let tail = hex::decode(tail).context("a tail that is not hex")?;
    let mut device = OpenOptions::new()
        .read(true)
        .write(true)
        .open(device)
        .with_context(|| format!("opening {}", device.display()))?;
    loop {
        let mut request = [0; REQUEST];
        let read = device.read(&mut request).context("reading a request")?;
        ensure!(read == REQUEST, "a request of {read} bytes");
        let quote = quote(&head, &key, &tail, &request)?;
        // Who asked may have given up meanwhile.
        if let Err(error) = device.write_all(&quote) {
            eprintln!("a quote that nobody took: {error}");
        }
    }
}

fn quote(head: &[u8], key: &SigningKey, tail: &[u8], request: &[u8; REQUEST]) -> Result<Vec<u8>> {
    let (report_data, registers) = request.split_at(64);
    let (mrtd, rtmrs) = registers.split_at(48);
    let mut quote = head.to_vec();
    for (at, bytes) in [(MRTD, mrtd), (RTMRS, rtmrs), (REPORT_DATA, report_data)] {
        quote[at..at + bytes.len()].copy_from_slice(bytes);
    }
    let signature: Signature = key.sign(&quote);
    let signature = signature.to_bytes();
    quote.extend(u32::try_from(signature.len() + tail.len())?.to_le_bytes());
    quote.extend(signature);
    quote.extend(tail);
    Ok(quote)
}
