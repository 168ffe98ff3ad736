//! V1 and V7: which node it is, within a boot and from one boot to the next.

use super::*;
use cgpath_evidence::td::{prove_possession, public_node_key};
use cgpath_testkit::{COLLECTOR, sha256};
use p256::ecdsa::SigningKey;

fn other_key() -> SigningKey {
    SigningKey::from_slice(&[9; 32]).unwrap()
}

/// A domain whose policy accepts a new key with each boot, on its own platform.
fn per_boot() -> TrustDomain {
    let mut domain = domain();
    domain.policy += &format!(
        "  key: per-boot\n  platforms: ['{}']\n",
        hex::encode(domain.platform.id)
    );
    domain
}

#[test]
fn a_nonce_that_is_relayed_to_a_healthy_domain_of_the_same_image_gives_another_nodes_key() {
    let mut taken_over = busy();
    let mut healthy = busy();
    healthy.td.as_mut().unwrap().key = other_key();
    healthy.reboot();
    healthy.now = taken_over.now;
    run(&mut healthy);
    let relayed = healthy.attest(NONCE);
    disbelieved(&appraised(&taken_over, &relayed), Rule::Quote, "another key");
    // Naming the public key of the other node needs the private one, too.
    let ours = taken_over.attest(NONCE).quote.td.unwrap();
    let mut claimed = relayed.clone();
    claimed.quote.td.as_mut().unwrap().node_key = ours.node_key;
    let verdict = appraised(&taken_over, &claimed);
    disbelieved(&verdict, Rule::Quote, "report data");
    disbelieved(&verdict, Rule::Quote, "did not sign");
    // Root of the healthy domain can make a quote over the other node's public key; not its signature.
    let mut root = healthy.clone();
    let mut quote = relayed.quote.td.clone().unwrap();
    quote.node_key = ours.node_key;
    let report_data = quote.report_data(&[]);
    let td = root.td.as_mut().unwrap();
    quote.outblob = td.platform.quote(&td.report(report_data));
    quote.possession = prove_possession(&td.key, &report_data);
    let mut forged = relayed;
    forged.quote.td = Some(quote);
    let verdict = appraised(&taken_over, &forged);
    disbelieved(&verdict, Rule::Quote, "did not sign");
    assert!(
        !verdict
            .failures()
            .any(|finding| finding.text.contains("report data are not"))
    );
}

#[test]
fn without_a_pinned_key_nothing_is_believed_but_on_first_use() {
    let mut node = busy();
    let evidence = node.attest(NONCE);
    let mut context = node.context(NONCE, None);
    context.td.node_key = None;
    disbelieved(
        &appraise_in(&node, &evidence, &context),
        Rule::Quote,
        "no key of this node",
    );
    context.key = cgpath_appraisal::PinnedKey::DangerousTofu;
    let verdict = appraise_in(&node, &evidence, &context);
    assert!(verdict.trusted, "{verdict}");
    assert!(verdict.dangerous.contains(&"dangerous-tofu".to_owned()));
    // From then on that key is pinned, whatever boot it is.
    node.td.as_mut().unwrap().key = other_key();
    node.reboot();
    run(&mut node);
    let evidence = node.attest(NEXT);
    let context = Context {
        previous: verdict.state,
        td: cgpath_appraisal::TdContext {
            node_key: None,
            ..node.context(NEXT, None).td
        },
        key: cgpath_appraisal::PinnedKey::DangerousTofu,
        ..node.context(NEXT, None)
    };
    disbelieved(
        &appraise_in(&node, &evidence, &context),
        Rule::Quote,
        "another key",
    );
}

#[test]
fn a_reboot_is_seen_without_counters_and_one_that_is_too_fast_is_none() {
    let mut node = busy();
    let state = first_round(&mut node);
    node.reboot();
    run(&mut node);
    let evidence = node.attest(NEXT);
    let verdict = appraised_next(&node, &evidence, &state);
    assert!(verdict.trusted, "{verdict}");
    assert!(
        verdict
            .node
            .notes
            .iter()
            .any(|note| note.contains("another boot")),
        "{verdict}"
    );
    let mut context = node.context(NEXT, Some(state.clone()));
    context.now = state.time + 10;
    assert!(appraise_in(&node, &evidence, &context).trusted);
    context.now = state.time + 9;
    let verdict = appraise_in(&node, &evidence, &context);
    disbelieved(&verdict, Rule::History, "sooner than the machine can reboot");
}

#[test]
fn a_new_key_needs_an_enrolment_unless_the_policy_says_per_boot_and_then_every_output_repeats_it() {
    let mut node = busy();
    let (state, context) = (first_round(&mut node), node.context(NEXT, None));
    node.reboot();
    node.td.as_mut().unwrap().key = other_key();
    node.load();
    run(&mut node);
    let evidence = node.attest(NEXT);
    let enrolled = Context {
        now: node.now,
        previous: Some(state.clone()),
        ..context
    };
    disbelieved(
        &appraise_in(&node, &evidence, &enrolled),
        Rule::Quote,
        "another key",
    );

    let mut node = busy_in(per_boot(), false);
    let context = node.context(NEXT, None);
    let state = first_round(&mut node);
    node.td.as_mut().unwrap().key = other_key();
    node.reboot();
    run(&mut node);
    let evidence = node.attest(NEXT);
    let context = Context {
        now: node.now,
        previous: Some(state),
        ..context
    };
    let verdict = appraise_in(&node, &evidence, &context);
    assert!(verdict.trusted, "{verdict}");
    assert!(verdict.relaxations.contains(&"tdx.key: per-boot".to_owned()));
    let mut tolerated = verdict.node.findings.iter();
    assert!(
        tolerated.any(|f| f.severity == Severity::Tolerated && f.text.contains("of this boot alone")),
        "{verdict}"
    );
}

#[test]
fn within_a_boot_the_key_stays_even_where_each_boot_may_have_its_own() {
    let mut node = busy_in(per_boot(), false);
    let context = node.context(NEXT, None);
    let state = first_round(&mut node);
    // Somebody else begins anew under the same boot id.
    node.td.as_mut().unwrap().boot();
    node.td.as_mut().unwrap().key = other_key();
    node.load();
    run(&mut node);
    let evidence = node.attest(NEXT);
    let context = Context {
        previous: Some(state),
        ..context
    };
    disbelieved(
        &appraise_in(&node, &evidence, &context),
        Rule::Quote,
        "another key",
    );
}

#[test]
fn a_copied_disk_on_another_host_has_no_key_that_is_accepted() {
    // By default the key ends with the boot: the copy makes its own.
    let node = busy();
    let mut copy = busy_in(TrustDomain::new(Platform::new("root", "host 2")), false);
    copy.td.as_mut().unwrap().key = other_key();
    copy.td.as_mut().unwrap().boot();
    copy.load();
    run(&mut copy);
    let evidence = copy.attest(NONCE);
    disbelieved(&appraised(&node, &evidence), Rule::Quote, "another key");
    // Where each boot may have its own, the platform is another one.
    let node = busy_in(per_boot(), false);
    let finding = disbelieved(
        &appraised(&node, &evidence),
        Rule::Quote,
        "platform that the policy does not name",
    );
    assert_eq!(
        finding.found,
        Some(hex::encode(copy.td.as_ref().unwrap().platform.id))
    );
    assert_ne!(
        public_node_key(&copy.td.as_ref().unwrap().key),
        public_node_key(&node.td.as_ref().unwrap().key)
    );
}

#[test]
fn a_new_boot_with_the_origin_of_the_old_one_is_a_kexec_and_is_refused() {
    let mut node = busy();
    let state = first_round(&mut node);
    // The register goes on where the kernel before left it.
    let td = node.td.as_ref().unwrap();
    let (rtmrs, log) = (td.body.rtmrs, td.log.clone());
    assert!(!log.is_empty());
    node.now += 60;
    node.boot_id = [77; 16];
    let td = node.td.as_mut().unwrap();
    td.boot();
    td.body.rtmrs[3] = rtmrs[3];
    td.origin = rtmrs[3];
    node.load();
    run(&mut node);
    let evidence = node.attest(NEXT);
    disbelieved(
        &appraised_next(&node, &evidence, &state),
        Rule::Chain,
        "before checkpoint 0",
    );
}

#[test]
fn one_collector_follows_another_in_a_trust_domain_by_the_rules_that_hold_beside_a_tpm() {
    let next = sha256(b"the next collector");
    let mut node = busy();
    let of_collector = node.host_files.get_mut(COLLECTOR.as_bytes()).unwrap();
    of_collector.insert(next.clone());
    let state = first_round(&mut node);
    let mut without = node.clone();
    node.hand_over(&next);
    node.restart(&next);
    let evidence = node.attest(NEXT);
    let verdict = appraised_next(&node, &evidence, &state);
    assert!(verdict.trusted, "{verdict}");
    without.restart(&next);
    let evidence = without.attest(NEXT);
    let verdict = appraised_next(&without, &evidence, &state);
    let mut failures = verdict.failures();
    let is_said = |f: &Finding| f.rule == Rule::Guard && f.text.contains("without a handover");
    assert!(!verdict.trusted && failures.any(is_said), "{verdict}");
}
