//! V3: templates and their fields.

use super::*;

#[test]
fn a_relabelled_template_is_refused_though_it_replays() {
    let mut node = busy();
    let mut evidence = node.attest(NONCE);
    let Entry::Full(record) = &mut evidence.list[6] else {
        panic!()
    };
    // A field list of the same shape: same data, same digest, another name.
    let name = b"d-ng|n-ng";
    let mut relabelled = record[..24].to_vec();
    relabelled.extend(u32::try_from(name.len()).unwrap().to_le_bytes());
    relabelled.extend(name);
    relabelled.extend(&record[24 + 4 + "ima-ng".len()..]);
    *record = relabelled;
    let verdict = appraised(&node, &evidence);
    assert_eq!(verdict.node.covered, verdict.node.entries, "it replays");
    let finding = disbelieved(&verdict, Rule::Template, "not one that the policy pins");
    assert_eq!(finding.index, Some(6));
}

#[test]
fn a_redacted_entry_is_not_enough_to_appraise_a_node_by() {
    let mut node = busy();
    let mut evidence = node.attest(NONCE);
    evidence.list[6] = Entry::Opaque {
        pcr: 10,
        digests: vec![node.list[6].digest(Bank::Sha1), node.list[6].digest(Bank::Sha256)],
        hash: None,
    };
    let verdict = appraised(&node, &evidence);
    assert_eq!(verdict.node.covered, verdict.node.entries, "it replays");
    disbelieved(&verdict, Rule::Template, "redacted");
}

#[test]
fn the_kernel_tier_can_not_be_claimed_for_a_list_without_its_template() {
    let mut node = busy();
    node.accept_templates = "[ima-ng]".into();
    let mut evidence = node.attest(NONCE);
    evidence.tier = Tier::Kernel;
    node.tier = Tier::Kernel;
    disbelieved(
        &appraised(&node, &evidence),
        Rule::Template,
        "claims the kernel tier",
    );
}
