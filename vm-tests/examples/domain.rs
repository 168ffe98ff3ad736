//! What `cargo xtask demo --anchor rtmr` gives the demo: a platform for its trust domain, as JSON.
//!
//! Not here: what the demo does with it (`vm_tests::domain`).
#![forbid(unsafe_code)]

use anyhow::Result;
use cgpath_testkit::td::Outside;
use std::time::{SystemTime, UNIX_EPOCH};
use vm_tests::domain::Domain;

fn main() -> Result<()> {
    println!("{}", serde_json::to_string(&outside()?)?);
    Ok(())
}

/// A platform whose certificates and collateral are the test's; no firmware measured anything.
///
/// # Errors
/// When this machine's clock is before 1970.
pub fn outside() -> Result<Domain> {
    Ok(of(Outside::of_zeros(yesterday()?)))
}

/// When its collateral was issued, in unix seconds.
///
/// # Errors
/// When this machine's clock is before 1970.
pub fn yesterday() -> Result<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(now.as_secs().saturating_sub(24 * 3600))
}

/// The same as JSON has it.
pub fn of(outside: Outside) -> Domain {
    let measured = outside.measured.iter();
    Domain {
        head: hex::encode(outside.head),
        key: hex::encode(outside.key),
        tail: hex::encode(outside.tail),
        policy: outside.policy,
        collateral: outside.collateral,
        platform: hex::encode(outside.platform),
        measured: measured
            .map(|(rtmr, digest)| (*rtmr, hex::encode(digest)))
            .collect(),
        ccel: hex::encode(outside.ccel),
        beside_tpm: false,
    }
}
