//! V1: what collateral says of the platform, and of its own time.

use super::*;
use cgpath_appraisal::Collateral;
use cgpath_appraisal::text::utc;
use cgpath_testkit::NOW;
use serde_json::{Value, json};

const DAY: u64 = 24 * 3600;

fn date(seconds: u64) -> Value {
    json!(utc(seconds).replace(' ', "T") + "Z")
}

/// What is said of a node with this collateral, under a policy with these lines more.
fn with(node: &mut Node, collateral: Vec<Collateral>, lines: &str) -> Verdict {
    node.td.as_mut().unwrap().policy += lines;
    let evidence = node.attest(NONCE);
    let mut context = node.context(NONCE, None);
    context.td.collateral = collateral;
    appraise_in(node, &evidence, &context)
}

fn platform() -> Platform {
    Platform::new("root", "host 1")
}

/// A node on a platform that is behind.
fn outdated() -> Node {
    let mut domain = domain();
    domain.body.tee_tcb_svn[..3].copy_from_slice(&[2, 0, 4]);
    busy_in(domain, false)
}

fn fresh() -> Vec<Collateral> {
    vec![platform().collateral(NOW - DAY)]
}

#[test]
fn an_outdated_platform_fails_and_the_finding_names_its_advisories() {
    let verdict = with(&mut outdated(), fresh(), "");
    let finding = disbelieved(&verdict, Rule::Quote, "TCB status");
    assert_eq!(finding.found.as_deref(), Some("OutOfDate"));
    assert_eq!(finding.expected, ["UpToDate"]);
    assert!(finding.text.contains("INTEL-SA-01036"), "{}", finding.text);
    let accepted = "  tcb-status: [UpToDate, OutOfDate]\n";
    let verdict = with(&mut outdated(), fresh(), accepted);
    let finding = disbelieved(
        &verdict,
        Rule::Quote,
        "an advisory that the policy does not accept",
    );
    assert_eq!(finding.found.as_deref(), Some("INTEL-SA-01036"));
    let accepted = format!("{accepted}  advisories: [INTEL-SA-01036]\n");
    let verdict = with(&mut outdated(), fresh(), &accepted);
    assert!(verdict.trusted, "{verdict}");
    let td = verdict.node.td.unwrap();
    assert_eq!(
        (td.tcb_status.as_str(), td.advisories),
        ("OutOfDate", vec!["INTEL-SA-01036".to_owned()])
    );
    // Every output repeats it.
    assert!(
        verdict.relaxations.iter().any(|line| line.contains("tcb-status")),
        "{:?}",
        verdict.relaxations
    );
}

#[test]
fn an_outdated_quoting_enclave_counts_like_an_outdated_platform() {
    let mut node = busy();
    node.td.as_mut().unwrap().platform.qe_svn = 3;
    let finding = disbelieved(&with(&mut node, fresh(), ""), Rule::Quote, "TCB status");
    assert_eq!(finding.found.as_deref(), Some("OutOfDate"));
    assert!(finding.text.contains("INTEL-SA-00615"), "{}", finding.text);
}

#[test]
fn an_outdated_platform_does_not_hide_a_false_quoting_enclave() {
    let accepted = "  tcb-status: [UpToDate, OutOfDate]\n  advisories: [INTEL-SA-01036]\n";
    let false_signer = platform().collateral_with(NOW - DAY, |_, identity| {
        identity["mrsigner"] = json!("ab".repeat(32));
    });
    let verdict = with(&mut outdated(), vec![false_signer], accepted);
    disbelieved(&verdict, Rule::Quote, "does not verify");
    let other_product = platform().collateral_with(NOW - DAY, |_, identity| {
        identity["isvprodid"] = json!(9);
    });
    let verdict = with(&mut outdated(), vec![other_product], accepted);
    disbelieved(&verdict, Rule::Quote, "does not verify");
}

#[test]
fn no_level_of_the_collateral_and_a_revoked_one_fail_whatever_is_accepted() {
    let mut node = busy();
    let all = "  tcb-status: [UpToDate, OutOfDate, SWHardeningNeeded, ConfigurationNeeded]\n";
    node.td.as_mut().unwrap().body.tee_tcb_svn = [0; 16];
    let verdict = with(&mut node, fresh(), all);
    disbelieved(&verdict, Rule::Quote, "does not verify");
    let revoked = platform().collateral_with(NOW - DAY, |info, _| {
        info["tcbLevels"][0]["tcbStatus"] = json!("Revoked");
    });
    let verdict = with(&mut busy(), vec![revoked], all);
    disbelieved(&verdict, Rule::Quote, "");
}

#[test]
fn collateral_that_has_ended_fails_with_the_number_of_days() {
    let ended = platform().collateral(NOW - 33 * DAY);
    let verdict = with(&mut busy(), vec![ended], "  max-collateral-age: 90\n");
    disbelieved(&verdict, Rule::Quote, "the collateral ended 3 day(s) before");
    // The end of one part is the end of both.
    for part in [0, 1] {
        let ended = platform().collateral_with(NOW - 10 * DAY, |info, identity| {
            [info, identity][part]["nextUpdate"] = date(NOW - DAY);
        });
        let verdict = with(&mut busy(), vec![ended], "");
        disbelieved(&verdict, Rule::Quote, "the collateral ended 1 day(s) before");
        // What else is wrong is still said.
        assert_eq!(verdict.node.td.unwrap().tcb_status, "UpToDate");
    }
}

#[test]
fn collateral_that_is_not_yet_issued_fails() {
    let early = platform().collateral(NOW + DAY);
    let verdict = with(&mut busy(), vec![early], "");
    disbelieved(&verdict, Rule::Quote, "was issued later");
    let early = platform().collateral_with(NOW - DAY, |_, identity| identity["issueDate"] = date(NOW + 60));
    disbelieved(
        &with(&mut busy(), vec![early], ""),
        Rule::Quote,
        "was issued later",
    );
}

#[test]
fn how_old_collateral_may_be_is_the_policys_word_whatever_it_says_of_its_own_end() {
    let old = platform().collateral(NOW - 10 * DAY);
    let verdict = with(&mut busy(), vec![old], "  max-collateral-age: 9\n");
    let finding = disbelieved(&verdict, Rule::Quote, "max-collateral-age");
    assert_eq!(finding.found.as_deref(), Some("10 day(s)"));
    let for_ever = platform().collateral_with(NOW - 40 * DAY, |info, identity| {
        for part in [info, identity] {
            part["nextUpdate"] = json!("2045-01-01T00:00:00Z");
        }
    });
    disbelieved(
        &with(&mut busy(), vec![for_ever], ""),
        Rule::Quote,
        "max-collateral-age",
    );
}

#[test]
fn collateral_does_not_go_back_to_what_was_issued_before_what_was_seen() {
    let mut node = busy();
    let before = first_round(&mut node);
    assert_eq!(before.td.as_ref().unwrap().evaluation, 20);
    let mut context = node.context(NEXT, Some(before));
    let numbered = |number: u32| {
        platform().collateral_with(NOW - DAY, |info, identity| {
            for part in [info, identity] {
                part["tcbEvaluationDataNumber"] = json!(number);
            }
        })
    };
    node.seal(Some(NEXT));
    let quotes = node.quotes(NEXT);
    let evidence = node.evidence(quotes);
    context.td.collateral = vec![numbered(19)];
    let finding = disbelieved(
        &appraise_in(&node, &evidence, &context),
        Rule::Quote,
        "tcbEvaluationDataNumber",
    );
    assert_eq!(
        (finding.found.as_deref(), &finding.expected[..]),
        (Some("19"), &["at least 20".to_owned()][..])
    );
    context.td.collateral = vec![numbered(21)];
    let verdict = appraise_in(&node, &evidence, &context);
    assert!(verdict.trusted, "{verdict}");
    assert_eq!(verdict.state.unwrap().td.unwrap().evaluation, 21);
}

#[test]
fn of_several_the_newest_for_the_kind_of_platform_is_used_and_another_kinds_is_not() {
    let (old, new, early) = (
        platform().collateral(NOW - 60 * DAY),
        platform().collateral(NOW - DAY),
        platform().collateral(NOW + DAY),
    );
    let other = platform().collateral_with(NOW, |info, _| info["fmspc"] = json!("00806f050000"));
    for given in [
        vec![old.clone(), new.clone(), early.clone(), other.clone()],
        vec![other.clone(), early, new, old],
    ] {
        let verdict = with(&mut busy(), given, "");
        assert!(verdict.trusted, "{verdict}");
        assert_eq!(verdict.node.td.unwrap().collateral_until, NOW + 29 * DAY);
    }
    let finding = disbelieved(
        &with(&mut busy(), vec![other], ""),
        Rule::Quote,
        "there is no collateral for the platform",
    );
    assert_eq!(finding.found.as_deref(), Some("FMSPC 00806f050000"));
    assert_eq!(finding.expected, ["FMSPC b0c06f000000"]);
    disbelieved(
        &with(&mut busy(), vec![], ""),
        Rule::Quote,
        "there is no collateral for the platform",
    );
}

#[test]
fn what_the_root_did_not_sign_says_nothing() {
    let file = String::from_utf8(platform().collateral_json(NOW - DAY, |_, _| ())).unwrap();
    // Levels, numbers, dates: none of it can be rewritten.
    for (from, to) in [
        ("OutOfDate", "UpToDate"),
        (":20,", ":21,"),
        ("TDX", "SGX"),
        ("isvprodid", "isvprodix"),
    ] {
        let changed = file.replace(from, to);
        assert_ne!(changed, file, "{from}");
        if let Ok(changed) = Collateral::from_json(changed.as_bytes()) {
            disbelieved(
                &with(
                    &mut outdated(),
                    vec![changed],
                    "  tcb-status: [UpToDate, OutOfDate]\n",
                ),
                Rule::Quote,
                "does not verify",
            );
        }
    }
    let others = Platform::new("another root", "host 1").collateral(NOW - DAY);
    disbelieved(
        &with(&mut busy(), vec![others], ""),
        Rule::Quote,
        "does not verify",
    );
    // Nor a platform that another root certified.
    let mut node = busy();
    node.td.as_mut().unwrap().platform = Platform::new("another root", "host 1");
    disbelieved(&with(&mut node, fresh(), ""), Rule::Quote, "does not verify");
}

#[test]
fn without_a_dangerous_root_it_is_intels_that_counts_and_with_one_every_verdict_says_so() {
    let mut node = busy();
    let td = node.td.as_mut().unwrap();
    let root = format!("  dangerous-root: '{}'\n", hex::encode(td.platform.root()));
    td.policy = td.policy.replace(&root, "");
    let verdict = with(&mut node, fresh(), "");
    disbelieved(&verdict, Rule::Quote, "does not verify");
    assert!(verdict.dangerous.is_empty());
    let verdict = with(&mut node, fresh(), &root);
    // The order of keys does not matter.
    assert!(!verdict.dangerous.is_empty());
}

#[test]
fn where_the_policy_names_platforms_the_domain_runs_on_one_of_them() {
    let id = hex::encode(platform().id);
    let verdict = with(&mut busy(), fresh(), &format!("  platforms: ['{id}']\n"));
    assert!(verdict.trusted, "{verdict}");
    let other = "ab".repeat(16);
    let verdict = with(&mut busy(), fresh(), &format!("  platforms: ['{other}']\n"));
    let finding = disbelieved(&verdict, Rule::Quote, "a platform that the policy does not name");
    assert_eq!((finding.found, &finding.expected[..]), (Some(id), &[other][..]));
}

#[test]
fn a_file_that_is_no_collateral_is_an_error_that_names_the_part() {
    let good = platform().collateral_json(NOW, |_, _| ());
    assert!(Collateral::from_json(&good).is_ok());
    let bad: [(Vec<u8>, &str); 4] = [
        (b"{}".to_vec(), "not collateral"),
        (vec![b' '; 2 << 20], "the limit is"),
        (
            platform().collateral_json(NOW, |info, _| info["fmspc"] = json!("xy")),
            "fmspc",
        ),
        (
            platform().collateral_json(NOW, |_, identity| identity["issueDate"] = json!("yesterday")),
            "qe_identity: a date",
        ),
    ];
    // The helper that builds a value insists on a good one, so these are read from bytes.
    for (bytes, words) in bad {
        let error = Collateral::from_json(&bytes).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}
