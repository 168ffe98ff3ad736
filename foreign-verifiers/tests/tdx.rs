//! The TDX shape: what a quote of a TDX guest would have to carry for our evidence, checked by `dcap-qvl` on
//! a published quote.
//!
//! There is no TDX hardware here. Our own appraisal of such quotes is tested in
//! `verifier/appraisal/tests/td`. Shown is that the verifier accepts a real quote, where report data and
//! RTMRs stand in it, and that neither can be changed; not shown is a quote over a checkpoint of ours.

use crate::published::vector;
use dcap_qvl::{QuoteCollateralV3, quote::Quote, verify::verify};
use sha2::{Digest as _, Sha384};

/// When the published collateral is valid, in unix seconds.
const NOW: u64 = 1_750_332_747;

fn published() -> Option<(Vec<u8>, QuoteCollateralV3)> {
    let collateral = serde_json::from_slice(&vector("tdx/tdx_quote_collateral.json")?).unwrap();
    Some((vector("tdx/tdx_quote")?, collateral))
}

#[test]
fn a_real_quote_is_accepted_and_its_report_data_and_rtmrs_are_read() {
    let Some((quote, collateral)) = published() else {
        return;
    };
    let verified = verify(&quote, &collateral, NOW).unwrap();
    assert_eq!(verified.status, "UpToDate");
    let report = verified.report.as_td10().unwrap();
    assert_eq!(
        report.report_data.len(),
        64,
        "room for SHA-256 of a checkpoint and of a nonce, or for SHA-512"
    );
    // An RTMR is extended as a register of the SHA-384 bank is: IMA's replay gives its value.
    assert_eq!(report.rt_mr3.len(), Sha384::output_size());
}

#[test]
fn a_quote_whose_report_data_or_rtmr_is_another_is_refused() {
    let Some((quote, collateral)) = published() else {
        return;
    };
    let parsed = Quote::parse(&quote).unwrap();
    let report = parsed.report.as_td10().unwrap();
    let at = |field: &[u8]| {
        quote
            .windows(field.len())
            .position(|window| window == field)
            .unwrap()
    };
    for field in [&report.report_data[..], &report.rt_mr0[..], &report.mr_td[..]] {
        let mut changed = quote.clone();
        changed[at(field)] ^= 1;
        assert!(verify(&changed, &collateral, NOW).is_err());
    }
    assert!(
        verify(&quote, &collateral, NOW + 10 * 366 * 24 * 3600).is_err(),
        "long after its collateral ended"
    );
}
