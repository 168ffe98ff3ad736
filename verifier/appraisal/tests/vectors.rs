//! A quote that a TPM made and nobody here wrote, at `../shared/vectors/tpm` beside the repository.

use crate::published::vector;
use cgpath_appraisal::{Context, ExpectedNonce, PinnedKey, Rule, Verdict, appraise};
use cgpath_evidence::Quote;
use cgpath_testkit::{KeyKind, NODE, NOW, Node};

/// What rule V1 says of the quote; everything else of the evidence is another node's.
fn v1(quote: &Quote, key: &PinnedKey, nonce: &[u8]) -> Vec<String> {
    let mut node = Node::boot(KeyKind::EcdsaP256);
    let mut evidence = node.attest(b"another nonce");
    evidence.quote = quote.clone().into();
    let context = Context {
        node: NODE.into(),
        key: key.clone(),
        td: cgpath_appraisal::TdContext::default(),
        nonce: ExpectedNonce::Value(nonce.to_vec()),
        now: NOW,
        previous: None,
    };
    let verdict: Verdict = appraise(&evidence, &node.policy(), &context).unwrap();
    assert!(!verdict.trusted);
    verdict
        .failures()
        .filter(|f| f.rule == Rule::Quote)
        .map(|f| f.text.clone())
        .collect()
}

#[test]
fn a_real_quote_verifies_and_is_refused_only_for_the_registers_that_it_selects() {
    let (Some(attest), Some(signature), Some(ak)) =
        (vector("tpm/q.msg"), vector("tpm/q.sig"), vector("tpm/ak.pub"))
    else {
        return;
    };
    let nonce = b"abcdefghijklmnopqrst";
    let key = PinnedKey::from_public(&ak).unwrap();
    let PinnedKey::Public(public) = &key else {
        panic!("a file gives the key itself")
    };
    let quote = Quote {
        attest,
        signature,
        ak: public.clone(),
    };
    let only = v1(&quote, &key, nonce);
    // It covers PCR 0 to 10, and nobody states what PCR 0 to 9 are.
    assert!(
        only.iter()
            .all(|text| text.contains("cover") && text.contains("PCR ")),
        "{only:?}"
    );
    assert_eq!(only.len(), 2, "{only:?}");

    let by_name = PinnedKey::Name(key.name().unwrap());
    assert_eq!(v1(&quote, &by_name, nonce), only);
    assert!(
        v1(&quote, &key, b"abcdefghijklmnopqrsu")
            .iter()
            .any(|t| t.contains("nonce"))
    );
    for at in 0..quote.signature.len() {
        let mut bad = quote.clone();
        bad.signature[at] ^= 1;
        assert!(
            v1(&bad, &key, nonce).iter().any(|t| t.contains("signature")),
            "byte {at}"
        );
    }
    let mut other = quote.clone();
    let at = other.attest.len() - 1;
    other.attest[at] ^= 1;
    assert!(v1(&other, &key, nonce).iter().any(|t| t.contains("signature")));
}
