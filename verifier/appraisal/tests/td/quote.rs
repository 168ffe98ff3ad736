//! V1: a trust domain's quote that must not be believed.

use super::*;
use cgpath_evidence::{Quotes, TdQuote};

/// What a finding says, and what is done to the domain.
type Change = (&'static str, fn(&mut TrustDomain));

fn td(evidence: &mut Evidence) -> &mut TdQuote {
    evidence.quote.td.as_mut().unwrap()
}

#[test]
fn a_quote_for_another_nonce_or_checkpoint_is_refused() {
    let mut node = busy();
    let old = node.attest(b"an earlier nonce");
    disbelieved(&appraised(&node, &old), Rule::Quote, "not made for this request");
    // The nonce alone is exchanged.
    let mut evidence = old.clone();
    td(&mut evidence).nonce = NONCE.to_vec();
    let verdict = appraised(&node, &evidence);
    disbelieved(&verdict, Rule::Quote, "report data");
    disbelieved(&verdict, Rule::Chain, "not made for this request");
    // A quote that speaks for another checkpoint than the last one.
    let mut evidence = node.attest(NONCE);
    td(&mut evidence).checkpoint[0] ^= 1;
    let verdict = appraised(&node, &evidence);
    disbelieved(&verdict, Rule::Quote, "report data");
    disbelieved(&verdict, Rule::Chain, "another checkpoint");
}

#[test]
fn no_changed_byte_of_a_quote_is_believed() {
    let mut node = busy();
    let good = node.attest(NONCE);
    let outblob = &good.quote.td.as_ref().unwrap().outblob;
    // Header, report, signature, enclave, and the certificates but for the copy of the root: it is the
    // verifier's own that counts.
    let root = outblob.windows(10).rposition(|text| text == b"-----BEGIN");
    let len = root.unwrap();
    for at in (0..1600).step_by(23).chain((1600..len).step_by(131)) {
        let mut evidence = good.clone();
        td(&mut evidence).outblob[at] ^= 4;
        let verdict = appraised(&node, &evidence);
        assert!(!verdict.trusted && !verdict.node.believed, "byte {at}: {verdict}");
    }
    for change in [
        |td: &mut TdQuote| td.possession[9] ^= 1,
        |td: &mut TdQuote| td.node_key[9] ^= 1,
        |td: &mut TdQuote| td.outblob.truncate(900),
        |td: &mut TdQuote| td.outblob.clear(),
    ] {
        let mut evidence = good.clone();
        change(td(&mut evidence));
        assert!(!appraised(&node, &evidence).node.believed);
    }
}

#[test]
fn version_5_under_the_number_of_version_4_is_not_read() {
    let mut domain = domain();
    domain.body.service = Some((domain.body.tee_tcb_svn, [0; 48]));
    let mut node = busy_in(domain, false);
    let mut evidence = node.attest(NONCE);
    td(&mut evidence).outblob[0] = 4;
    disbelieved(&appraised(&node, &evidence), Rule::Quote, "cannot be read");
}

#[test]
fn another_provider_is_named_and_not_verified() {
    let mut node = busy();
    let mut evidence = node.attest(NONCE);
    td(&mut evidence).provider = "sev_guest".to_owned();
    let finding = disbelieved(&appraised(&node, &evidence), Rule::Quote, "this provider");
    assert_eq!(finding.found.as_deref(), Some("sev_guest"));
}

#[test]
fn a_domain_under_debug_is_refused_whatever_the_policy_names() {
    let mut domain = domain();
    domain.body.attributes[0] = 1;
    let mut node = busy_in(domain, false);
    disbelieved(
        &appraised(&node.clone(), &node.attest(NONCE)),
        Rule::Quote,
        "under debug",
    );
    // And cannot be named.
    node.td.as_mut().unwrap().policy = node.td.as_ref().unwrap().policy_lines();
    let yaml = node.policy_yaml();
    let error = cgpath_policy::NodePolicy::from_yaml("p", yaml.as_bytes()).unwrap_err();
    assert!(error.to_string().contains("debug"), "{error}");
}

#[test]
fn another_domain_than_the_policys_is_refused_by_each_of_its_measurements() {
    let change: [Change; 4] = [
        ("MRTD", |d| d.body.mrtd[0] ^= 1),
        ("MRSEAM", |d| d.body.mrseam[0] ^= 1),
        ("TD attributes", |d| d.body.attributes[7] ^= 0x80),
        ("XFAM", |d| d.body.xfam[1] ^= 1),
    ];
    for (what, change) in change {
        let mut domain = domain();
        let seam = hex::encode(domain.body.mrseam);
        domain.policy += &format!("  mrseam: ['sha384:{seam}']\n");
        change(&mut domain);
        let mut node = busy_in(domain, false);
        disbelieved(&appraised(&node.clone(), &node.attest(NONCE)), Rule::Quote, what);
    }
}

#[test]
fn under_a_paravisor_no_register_can_be_the_anchor_and_the_finding_names_the_way() {
    let Some(outblob) = crate::published::vector("tdx/tdx_quote_azure_paravisor.bin") else {
        return;
    };
    let mut node = busy();
    let mut evidence = node.attest(NONCE);
    td(&mut evidence).outblob = outblob;
    let finding = disbelieved(&appraised(&node, &evidence), Rule::Quote, "all registers");
    assert!(finding.text.contains("vTPM"), "{}", finding.text);
}

#[test]
fn quotes_of_two_machines_do_not_go_together() {
    let mut ours = busy_in(domain(), true);
    let mut theirs = busy_in(TrustDomain::new(Platform::new("root", "host 2")), true);
    theirs.ak = cgpath_testkit::AttestationKey::new(KeyKind::EcdsaP256, 2);
    theirs.td.as_mut().unwrap().key = p256::ecdsa::SigningKey::from_slice(&[9; 32]).unwrap();
    theirs.reboot();
    theirs.now = ours.now;
    run(&mut theirs);
    let (good, other) = (ours.attest(NONCE), theirs.attest(NONCE));
    // Their domain beside our TPM, no matter whose the rest is.
    for rest in [&good, &other] {
        let evidence = Evidence {
            quote: Quotes {
                tpm: good.quote.tpm.clone(),
                td: other.quote.td.clone(),
            },
            ..rest.clone()
        };
        let verdict = appraised(&ours, &evidence);
        disbelieved(&verdict, Rule::Quote, "report data");
        disbelieved(&verdict, Rule::Quote, "another key");
    }
    // Their TPM beside our domain.
    let evidence = Evidence {
        quote: Quotes {
            tpm: other.quote.tpm.clone(),
            td: good.quote.td.clone(),
        },
        ..good.clone()
    };
    let verdict = appraised(&ours, &evidence);
    disbelieved(&verdict, Rule::Quote, "report data");
    disbelieved(&verdict, Rule::Quote, "another key");
    // Even where our TPM was made to speak for their checkpoints, checkpoint 0 names their node's key.
    let mut root = ours.clone();
    root.checkpoints = theirs.checkpoints.clone();
    let evidence = Evidence {
        checkpoints: other.checkpoints.clone(),
        ..good
    };
    disbelieved(&appraised(&root, &evidence), Rule::Chain, "another node's key");
}
