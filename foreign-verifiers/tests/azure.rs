//! What Trustee's verifier of Azure's trust domains (`az-tdx-vtpm`) compares, by the crate that it uses: why
//! there is no export for it.
//!
//! Promise: the paravisor's report and quote are published ones. Not here: that verifier itself, which needs
//! Intel's library; our TPM evidence (see `trustee`).

use crate::published::vector;
use crate::trustee::{evidence, export, read};
use az_cvm_vtpm::hcl::{HclReport, ReportType};
use az_cvm_vtpm::tdx::TdReport;
use az_cvm_vtpm::vtpm::VerifyError;
use dcap_qvl::quote::Quote;
use openssl::pkey::PKey;

/// A report of Azure's paravisor on TDX.
fn report() -> HclReport {
    HclReport::new(include_bytes!("../samples/hcl-report-tdx.bin").to_vec()).unwrap()
}

#[test]
fn a_paravisor_states_the_hash_of_its_own_report_so_that_no_checkpoint_can_be_in_a_domains_quote() {
    let report = report();
    assert_eq!(report.report_type(), ReportType::Tdx);
    let hash = report.var_data_sha256();
    let domain = TdReport::try_from(&report).unwrap();
    // What the verifier compares: 32 bytes. The others are no room for a caller, and no register is in use.
    let stated = domain.report_mac.reportdata;
    assert_eq!((&stated[..32], &stated[32..]), (&hash[..], &[0; 32][..]));
    for register in domain.tdinfo.rtmr {
        assert_eq!(register.register_data, [0; 48]);
    }
    // So it is in a quote that somebody else published.
    let Some(quote) = vector("tdx/tdx_quote_azure_paravisor.bin") else {
        return;
    };
    let quote = Quote::parse(&quote).unwrap();
    let body = quote.report.as_td10().unwrap();
    assert_ne!(body.report_data[..32], [0; 32]);
    assert_eq!(body.report_data[32..], [0; 32]);
    assert_eq!([body.rt_mr0, body.rt_mr1, body.rt_mr2, body.rt_mr3], [[0; 48]; 4]);
}

#[test]
fn a_quote_by_the_collectors_own_key_is_none_by_the_key_that_a_paravisors_report_names() {
    let (quote, ours) = read(&export(&evidence()).unwrap());
    quote.verify_signature(&ours).unwrap();
    let paravisors = report().ak_pub().unwrap().key.try_to_der().unwrap();
    let paravisors = PKey::public_key_from_der(&paravisors).unwrap();
    assert!(matches!(
        quote.verify_signature(&paravisors),
        Err(VerifyError::SignatureMismatch)
    ));
}
