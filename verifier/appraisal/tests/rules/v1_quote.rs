//! V1: the quote, its key, its nonce, the clock.

use super::*;

#[test]
fn a_nonce_of_another_request_is_refused() {
    let mut node = busy();
    let evidence = node.attest(b"the nonce of another one");
    disbelieved(
        &appraised(&node, &evidence),
        Rule::Quote,
        "not made for this request",
    );
    fails(
        &appraised(&node, &evidence),
        Rule::Chain,
        "not made for this request",
    );
}

#[test]
fn evidence_that_was_good_once_is_not_good_for_the_next_nonce() {
    let mut node = busy();
    let evidence = node.attest(NONCE);
    let state = appraised(&node, &evidence).state.unwrap();
    disbelieved(
        &appraised_next(&node, &evidence, &state),
        Rule::Quote,
        "not made for this request",
    );
}

#[test]
fn another_key_than_the_pinned_one_is_refused_with_both_fingerprints() {
    let mut node = busy();
    let context = node.context(NONCE, None);
    let expected = hex::encode(node.ak.name());
    node.ak = AttestationKey::new(KeyKind::EcdsaP256, 2);
    let evidence = node.attest(NONCE);
    let verdict = appraise(&evidence, &node.policy(), &context).unwrap();
    let finding = disbelieved(&verdict, Rule::Quote, "another key");
    assert_eq!(finding.found, Some(hex::encode(node.ak.name())));
    assert_eq!(finding.expected, [expected]);
}

#[test]
fn a_key_pinned_by_its_name_is_as_good_as_the_key_itself_and_another_name_is_not() {
    let mut node = busy();
    let evidence = node.attest(NONCE);
    let mut context = node.context(NONCE, None);
    context.key = PinnedKey::from_fingerprint(&hex::encode(node.ak.name())).unwrap();
    assert!(appraise(&evidence, &node.policy(), &context).unwrap().trusted);
    context.key = PinnedKey::Name(AttestationKey::new(KeyKind::EcdsaP256, 2).name());
    disbelieved(
        &appraise(&evidence, &node.policy(), &context).unwrap(),
        Rule::Quote,
        "another key",
    );
}

#[test]
fn each_attribute_that_an_attestation_key_needs_is_needed() {
    let needed = [
        (1, "fixedTPM"),
        (4, "fixedParent"),
        (5, "sensitiveDataOrigin"),
        (16, "restricted"),
        (18, "sign"),
    ];
    for (bit, name) in needed {
        let mut node = busy();
        node.ak.attributes = GOOD_ATTRIBUTES & !(1 << bit);
        let evidence = node.attest(NONCE);
        disbelieved(&appraised(&node, &evidence), Rule::Quote, name);
    }
}

#[test]
fn a_key_that_also_decrypts_is_refused() {
    let mut node = busy();
    node.ak.attributes |= 1 << 17;
    let evidence = node.attest(NONCE);
    disbelieved(&appraised(&node, &evidence), Rule::Quote, "decrypt");
}

#[test]
fn a_signature_over_something_else_is_refused_whatever_the_scheme() {
    for kind in [KeyKind::EcdsaP256, KeyKind::Rsassa2048, KeyKind::Rsapss2048] {
        let mut node = Node::boot(kind);
        let mut evidence = node.attest(NONCE);
        tpm(&mut evidence.quote).signature = node.ak.sign(b"something else");
        disbelieved(&appraised(&node, &evidence), Rule::Quote, "signature");
    }
}

#[test]
fn a_signature_by_another_scheme_than_the_keys_own_is_refused() {
    let mut node = Node::boot(KeyKind::Rsassa2048);
    let mut evidence = node.attest(NONCE);
    let quote = tpm(&mut evidence.quote);
    quote.signature = AttestationKey::new(KeyKind::Rsapss2048, 1).sign(&quote.attest);
    disbelieved(&appraised(&node, &evidence), Rule::Quote, "scheme");
}

#[test]
fn a_structure_that_no_tpm_made_is_no_quote_though_the_key_signed_it() {
    for change in [
        |a: &mut cgpath_testkit::Attest| a.magic = 0,
        |a: &mut cgpath_testkit::Attest| a.kind = 0x8017,
    ] {
        let mut node = busy();
        node.seal(Some(NONCE));
        let quote = node.quote_with(NONCE, change);
        let evidence = node.evidence(quote);
        disbelieved(&appraised(&node, &evidence), Rule::Quote, "not a TPM's quote");
    }
}

#[test]
fn a_quote_of_other_registers_than_pcr_10_is_refused() {
    for registers in [vec![], vec![11], vec![10, 11]] {
        let mut node = busy();
        node.seal(Some(NONCE));
        let quote = node.quote_with(NONCE, |a| a.selection = vec![(Bank::Sha256, registers.clone())]);
        let evidence = node.evidence(quote);
        disbelieved(&appraised(&node, &evidence), Rule::Quote, "PCR 10");
    }
}

#[test]
fn trust_on_first_use_is_repeated_and_is_for_the_first_use_only() {
    let mut node = busy();
    let evidence = node.attest(NONCE);
    let mut context = node.context(NONCE, None);
    context.key = PinnedKey::DangerousTofu;
    let verdict = appraise(&evidence, &node.policy(), &context).unwrap();
    assert!(verdict.trusted);
    assert!(verdict.dangerous.contains(&"dangerous-tofu".to_owned()));
    assert!(verdict.to_string().contains("DANGEROUS: dangerous-tofu"));

    node.ak = AttestationKey::new(KeyKind::EcdsaP256, 2);
    let evidence = node.attest(NEXT);
    let context = Context {
        key: PinnedKey::DangerousTofu,
        ..node.context(NEXT, verdict.state)
    };
    disbelieved(
        &appraise(&evidence, &node.policy(), &context).unwrap(),
        Rule::Quote,
        "another key",
    );
}

#[test]
fn evidence_without_a_nonce_is_taken_only_with_the_dangerous_key_which_is_repeated() {
    let mut node = busy();
    let evidence = node.attest(NONCE);
    let context = Context {
        nonce: ExpectedNonce::DangerousNone,
        ..node.context(NONCE, None)
    };
    let verdict = appraise(&evidence, &node.policy(), &context).unwrap();
    assert!(verdict.trusted && verdict.dangerous.contains(&"dangerous-no-nonce".to_owned()));
}

#[test]
fn questions_that_make_no_sense_are_unusable() {
    let mut node = busy();
    let evidence = node.attest(NONCE);
    let ask = |change: &dyn Fn(&mut Context)| {
        let mut context = node.context(NONCE, None);
        change(&mut context);
        appraise(&evidence, &node.policy(), &context).unwrap_err()
    };
    assert!(matches!(
        ask(&|c| c.node = "other".into()),
        Unusable::OtherNode { .. }
    ));
    assert!(matches!(
        ask(&|c| c.nonce = ExpectedNonce::Value(vec![1; 7])),
        Unusable::Nonce { len: 7 }
    ));
    assert!(matches!(
        ask(&|c| c.nonce = ExpectedNonce::Value(vec![1; 65])),
        Unusable::Nonce { len: 65 }
    ));
    assert!(matches!(
        ask(&|c| c.key = PinnedKey::Public(vec![1, 2])),
        Unusable::PinnedKey(_)
    ));
    assert!(matches!(
        ask(&|c| c.key = PinnedKey::Name(vec![0, 0x0b])),
        Unusable::PinnedKey(_)
    ));
}
