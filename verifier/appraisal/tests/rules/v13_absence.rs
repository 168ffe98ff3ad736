//! V13: what is absent.

use super::*;

#[test]
fn a_tier_that_the_policy_does_not_accept_is_refused() {
    let mut node = busy();
    let evidence = node.attest(NONCE);
    node.tier = Tier::Kernel;
    disbelieved(
        &appraised(&node, &evidence),
        Rule::Absent,
        "does not accept this tier",
    );
}

#[test]
fn evidence_without_one_of_its_parts_is_never_trusted() {
    type Remove = fn(&mut Evidence);
    let parts: [(&str, Remove); 9] = [
        ("the attestation", |e| tpm(&mut e.quote).attest.clear()),
        ("the signature", |e| tpm(&mut e.quote).signature.clear()),
        ("the key", |e| tpm(&mut e.quote).ak.clear()),
        ("the list", |e| e.list.clear()),
        ("the checkpoints", |e| e.checkpoints.clear()),
        ("the partitions", |e| e.partitions.clear()),
        ("the boot id", |e| e.boot_id = [0; 16]),
        ("a checkpoint's bytes", |e| e.checkpoints[0].clear()),
        ("an entry's bytes", |e| e.list[2] = Entry::Full(vec![])),
    ];
    for (what, remove) in parts {
        let mut node = busy();
        let mut evidence = node.attest(NONCE);
        remove(&mut evidence);
        let verdict = appraised(&node, &evidence);
        assert!(!verdict.trusted, "trusted without {what}");
        assert_eq!(verdict.node.state, State::Untrusted, "without {what}");
        assert!(
            verdict.pods.iter().all(|p| p.state != State::Trusted),
            "without {what}"
        );
    }
}

#[test]
fn evidence_without_one_of_its_fields_can_not_be_read() {
    let mut node = busy();
    let mut evidence = node.attest(NONCE);
    // What waits for the next seal may be absent.
    evidence.unsealed.clear();
    let bytes = evidence.to_cbor();
    // A map of ten: each pair is taken out in turn.
    assert_eq!(bytes[0], 0xaa);
    let mut pairs = Vec::new();
    let mut decoder = minicbor::Decoder::new(&bytes[1..]);
    for _ in 0..10 {
        let start = decoder.position() + 1;
        decoder.skip().unwrap();
        decoder.skip().unwrap();
        pairs.push(start..decoder.position() + 1);
    }
    for (field, pair) in pairs.into_iter().enumerate() {
        let mut without = vec![0xa9];
        without.extend(&bytes[1..pair.start]);
        without.extend(&bytes[pair.end..]);
        assert!(
            Evidence::from_cbor(&without).is_err(),
            "field {field} is absent and nobody noticed"
        );
    }
}

#[test]
fn another_version_is_unusable() {
    let mut node = busy();
    let mut evidence = node.attest(NONCE);
    evidence.version = 2;
    let answer = appraise(&evidence, &node.policy(), &node.context(NONCE, None));
    assert_eq!(answer.unwrap_err(), Unusable::Version(2));
}
