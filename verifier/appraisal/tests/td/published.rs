//! Quotes and collateral that nobody here made: they verify or fail as their collateral says. What is in
//! their report data is not over a request of ours, so none of them is believed.

use super::*;
use crate::published::vector;
use cgpath_appraisal::Collateral;
use cgpath_appraisal::TdVerdict;

/// What is said of this quote at this time, under Intel's root.
fn appraised(outblob: Vec<u8>, collateral: &[u8], now: u64) -> Verdict {
    let verdict = beside(outblob, collateral, now, |_| ());
    // They are not of this node and not for this request.
    disbelieved(&verdict, Rule::Quote, "report data");
    verdict
}

/// The same, where the rest of the evidence was changed, and whatever is said of its report data.
fn beside(outblob: Vec<u8>, collateral: &[u8], now: u64, change: impl FnOnce(&mut Evidence)) -> Verdict {
    let mut node = busy();
    let td = node.td.as_mut().unwrap();
    let root = format!("  dangerous-root: '{}'\n", hex::encode(td.platform.root()));
    td.policy = td.policy.replace(&root, "");
    let mut evidence = node.attest(NONCE);
    evidence.quote.td.as_mut().unwrap().outblob = outblob;
    change(&mut evidence);
    let mut context = node.context(NONCE, None);
    context.now = now;
    context.td.collateral = vec![Collateral::from_json(collateral).unwrap()];
    let verdict = appraise_in(&node, &evidence, &context);
    assert!(verdict.dangerous.is_empty(), "{:?}", verdict.dangerous);
    verdict
}

fn says(verdict: &Verdict, words: &str) -> bool {
    verdict.failures().any(|finding| finding.text.contains(words))
}

/// The quote's chain, signatures and collateral hold at this time.
#[track_caller]
fn verifies(verdict: &Verdict) -> TdVerdict {
    for words in [
        "does not verify",
        "the collateral ended",
        "has ended",
        "issued later",
        "no collateral",
        "cannot be read",
    ] {
        assert!(!says(verdict, words), "{words}: {verdict}");
    }
    verdict.node.td.clone().unwrap()
}

fn sample(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/td/published/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

#[test]
fn a_published_quote_is_up_to_date_in_the_time_of_its_collateral() {
    let (Some(quote), Some(collateral)) = (vector("tdx/tdx_quote"), vector("tdx/tdx_quote_collateral.json"))
    else {
        return;
    };
    let td = verifies(&appraised(quote.clone(), &collateral, 1_750_332_747));
    assert_eq!((td.tcb_status.as_str(), td.advisories.len()), ("UpToDate", 0));
    // A changed byte of what is signed, and of the signature.
    for at in [60, 200, 700] {
        let mut changed = quote.clone();
        changed[at] ^= 1;
        assert!(
            says(&appraised(changed, &collateral, 1_750_332_747), "does not verify"),
            "byte {at}"
        );
    }
    // A year later.
    let verdict = appraised(quote, &collateral, 1_782_000_000);
    assert!(says(&verdict, "the collateral ended"), "{verdict}");
}

#[test]
fn a_published_quote_of_version_4_is_out_of_date_with_its_advisories() {
    let (Some(quote), Some(collateral)) = (
        vector("tdx/tdx_quote_4.dat"),
        vector("tdx/collateral-2026-03/50806f000000.json"),
    ) else {
        return;
    };
    let verdict = appraised(quote.clone(), &collateral, 1_774_000_000);
    let td = verifies(&verdict);
    assert_eq!((td.tcb_status.as_str(), td.advisories.len()), ("OutOfDate", 11));
    assert!(says(&verdict, "TCB status is not one"), "{verdict}");
    let verdict = appraised(quote, &collateral, 1_776_500_000);
    assert!(says(&verdict, "the collateral ended"), "{verdict}");
}

#[test]
fn a_published_quote_that_no_level_matches_does_not_verify_nor_does_one_with_anothers_collateral() {
    let Some(five) = vector("tdx/tdx_quote_5.dat") else {
        return;
    };
    let four = vector("tdx/tdx_quote_4.dat").unwrap();
    let of_five = vector("tdx/collateral-2026-03/90c06f000000.json").unwrap();
    let of_four = vector("tdx/collateral-2026-03/50806f000000.json").unwrap();
    let verdict = appraised(five.clone(), &of_five, 1_774_000_000);
    assert!(says(&verdict, "does not verify"), "{verdict}");
    for (quote, collateral) in [(five, of_four), (four, of_five)] {
        let verdict = appraised(quote, &collateral, 1_774_000_000);
        assert!(says(&verdict, "no collateral for the platform"), "{verdict}");
    }
}

#[test]
fn a_sample_of_the_extended_td_report_verifies_in_the_time_of_its_collateral_alone() {
    let (quote, collateral) = (
        sample("tdx_quote_td15ex"),
        sample("tdx_quote_td15ex_collateral.json"),
    );
    // October 10 and November 5, 2026.
    for now in [1_791_600_000, 1_793_900_000] {
        let td = verifies(&appraised(quote.clone(), &collateral, now));
        assert_eq!((td.tcb_status.as_str(), td.advisories.len()), ("UpToDate", 0));
    }
    let verdict = appraised(quote.clone(), &collateral, 1_791_000_000);
    assert!(says(&verdict, "issued later"), "{verdict}");
    let verdict = appraised(quote, &collateral, 1_796_000_000);
    assert!(
        says(&verdict, "the collateral ended 24 day(s) before"),
        "{verdict}"
    );
}

#[test]
fn a_sample_of_a_platform_below_every_level_does_not_verify() {
    let (quote, collateral) = (
        sample("tdx_quote_outdated"),
        sample("tdx_quote_outdated_collateral.json"),
    );
    let verdict = appraised(quote, &collateral, 1_772_000_000);
    assert!(
        says(&verdict, "does not verify: No matching TCB level"),
        "{verdict}"
    );
    assert!(!says(&verdict, "the collateral ended"), "{verdict}");
}

#[test]
fn samples_that_came_without_collateral_are_below_every_level_of_their_kind_of_platform() {
    let old = vector("tdx/tdx_quote_collateral.json").map(|file| (file, 1_750_332_747));
    let new = (sample("tdx_quote_td15ex_collateral.json"), 1_791_600_000);
    for name in ["tdx-quote", "quote-from-tappd"] {
        for (collateral, now) in old.iter().chain([&new]) {
            let below = "does not verify: No matching TCB level";
            let verdict = appraised(sample(name), collateral, *now);
            assert!(
                says(&verdict, below) && !says(&verdict, "no collateral"),
                "{verdict}"
            );
            // That is said of a quote that is genuine.
            let mut changed = sample(name);
            changed[600] ^= 1;
            let verdict = appraised(changed, collateral, *now);
            assert!(
                says(&verdict, "does not verify") && !says(&verdict, below),
                "{verdict}"
            );
        }
    }
}

#[test]
fn a_sample_of_an_enclaves_quote_is_none_of_a_trust_domain() {
    let verdict = beside(
        sample("sgx_quote"),
        &sample("tdx_quote_td15ex_collateral.json"),
        1_791_600_000,
        |_| (),
    );
    disbelieved(&verdict, Rule::Quote, "a quote of version 3");
}

#[test]
fn a_published_quote_and_the_published_log_of_another_domain_do_not_go_together() {
    let (Some(quote), Some(collateral), Some(ccel)) = (
        vector("tdx/tdx_quote"),
        vector("tdx/tdx_quote_collateral.json"),
        vector("tdx/tdreport_ccel.bin"),
    ) else {
        return;
    };
    let verdict = beside(quote, &collateral, 1_750_332_747, |evidence| {
        evidence.td.as_mut().unwrap().ccel = Some(ccel);
    });
    verifies(&verdict);
    disbelieved(&verdict, Rule::Boot, "does not replay to the quoted RTMR 0");
}

#[test]
fn a_paravisors_quote_is_named_as_one_that_anchors_nothing() {
    let (Some(quote), Some(collateral)) = (
        vector("tdx/tdx_quote_azure_paravisor.bin"),
        vector("tdx/tdx_quote_collateral.json"),
    ) else {
        return;
    };
    let verdict = appraised(quote, &collateral, 1_750_332_747);
    assert!(says(&verdict, "a paravisor runs it"), "{verdict}");
}
