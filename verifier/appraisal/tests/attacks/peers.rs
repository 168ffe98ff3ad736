//! What was published against other verifiers, as far as a test of this one can show it. The names are those
//! of the advisories.

use super::{Life, busy, tenant_policy};
use crate::ways;
use cgpath_appraisal::{Rule, State, Verdict, appraise};
use cgpath_evidence::boot::Registers;
use cgpath_evidence::{Bank, Boot, Evidence};
use cgpath_policy::Policy;
use cgpath_testkit::{AttestationKey, KeyKind, Node, pod, sha256, tpm};
use std::panic::{AssertUnwindSafe, catch_unwind};

const NONCE: &[u8] = b"the nonce of this request";

fn verdict(node: &Node, evidence: &Evidence, policy: &Policy) -> Verdict {
    appraise(evidence, policy, &node.context(NONCE, None)).unwrap()
}

#[track_caller]
fn refused(what: &str, verdict: &Verdict, rule: Rule) {
    assert!(!verdict.trusted, "{what}: {verdict}");
    assert!(
        verdict.pods.iter().all(|pod| pod.state != State::Trusted),
        "{what}: {verdict}"
    );
    assert!(
        verdict.failures().any(|finding| finding.rule == rule),
        "{what}: {verdict}"
    );
    assert!(verdict.state.is_none(), "{what}: nothing of it is remembered");
}

/// CVE-2022-3500 (Keylime): an error in the verifier ended a node's attestation and left it trusted. Whatever
/// cannot be read here is a verdict that is not trusted, and never an error that leaves none.
#[test]
fn cve_2022_3500_what_cannot_be_read_is_a_verdict_and_not_an_error() {
    let mut node = busy();
    let good = node.attest(NONCE);
    let policy = node.policy();
    assert!(verdict(&node, &good, &policy).trusted);
    type Damage = fn(&mut Evidence);
    let damages: [(&str, Damage); 12] = [
        ("no attestation", |e| tpm(&mut e.quote).attest.clear()),
        ("half an attestation", |e| tpm(&mut e.quote).attest.truncate(30)),
        ("no signature", |e| tpm(&mut e.quote).signature.clear()),
        ("no key", |e| tpm(&mut e.quote).ak.clear()),
        ("no list", |e| e.list.clear()),
        ("an entry of one byte", |e| {
            e.list[3] = cgpath_evidence::Entry::Full(vec![0])
        }),
        ("an entry of nothing", |e| {
            e.list.push(cgpath_evidence::Entry::Full(Vec::new()))
        }),
        ("no checkpoints", |e| e.checkpoints.clear()),
        ("a checkpoint of nothing", |e| e.checkpoints[1].clear()),
        ("half a checkpoint", |e| e.checkpoints[0].truncate(20)),
        ("no records", |e| e.partitions.clear()),
        ("records without end", |e| {
            let record = e.partitions[0].records[0].clone();
            e.partitions[0].records.extend(vec![record; 200]);
        }),
    ];
    for (what, damage) in damages {
        let mut evidence = good.clone();
        damage(&mut evidence);
        let verdict = catch_unwind(AssertUnwindSafe(|| verdict(&node, &evidence, &policy)));
        let verdict = verdict.unwrap_or_else(|_| panic!("{what}: no verdict"));
        assert!(!verdict.trusted, "{what}: {verdict}");
    }
}

/// CVE-2022-1053 (Keylime): the key that was enrolled was not the key that was judged. The key that comes
/// along is the pinned one by its bytes, and it is these bytes that the signature is checked with.
#[test]
fn cve_2022_1053_the_key_that_is_pinned_is_the_key_that_is_appraised() {
    let mut node = busy();
    let good = node.attest(NONCE);
    let ours = good.quote.tpm().unwrap();
    let policy = node.policy();
    let mut other = node.clone();
    other.ak = AttestationKey::new(KeyKind::EcdsaP256, 2);
    let theirs = other.quote(NONCE);
    let mut mixes = vec![("another TPM's quote", theirs.clone())];
    let mut mixed = theirs.clone();
    mixed.ak = ours.ak.clone();
    mixes.push(("another TPM's quote beside the pinned key", mixed));
    let mut mixed = ours.clone();
    mixed.ak = theirs.ak.clone();
    mixes.push(("the pinned key's quote beside another key", mixed));
    let mut mixed = theirs.clone();
    mixed.ak = [&ours.ak[..], &theirs.ak].concat();
    mixes.push(("both keys, the pinned one first", mixed));
    let mut mixed = theirs.clone();
    mixed.ak = [&theirs.ak[..], &ours.ak].concat();
    mixes.push(("both keys, the pinned one last", mixed));
    for (what, quote) in mixes {
        let evidence = Evidence {
            quote: quote.into(),
            ..good.clone()
        };
        refused(what, &verdict(&node, &evidence, &policy), Rule::Quote);
    }
}

/// The same in a later round, whole and followed: a node that was followed gets no other key for that.
#[test]
fn cve_2022_1053_a_followed_node_does_not_get_another_key() {
    let mut life = Life::begin(busy());
    let context = life.node.context(&life.nonce(), None);
    life.node.ak = AttestationKey::new(KeyKind::EcdsaP256, 2);
    let nonce = life.nonce();
    let evidence = life.node.attest(&nonce);
    let context = life.ways.next(context);
    let appraised = life
        .ways
        .appraise(&evidence, &life.node.policy(), &context, &[])
        .unwrap();
    for (way, verdict) in appraised.verdicts() {
        refused(way, verdict, Rule::Quote);
    }
    let policy = tenant_policy(&life.node, pod(1));
    let tenant = ways::tenant(&evidence, &appraised.whole, pod(1), &policy, &context).unwrap();
    assert!(
        tenant.findings.iter().any(|finding| finding.rule == Rule::Quote),
        "{tenant}"
    );
}

/// CVE-2022-0317 (go-attestation): register values were taken that stood beside a quote which did not cover
/// them, or covered none.
#[test]
fn cve_2022_0317_register_values_beside_a_quote_that_does_not_cover_them_count_for_nothing() {
    let reference = {
        let mut good = Node::boot(KeyKind::EcdsaP256).with_boot(|_| ());
        cgpath_refvals::learned_boot::from_boot(good.attest(NONCE).boot.as_ref().unwrap())
            .unwrap()
            .yaml()
    };
    let booted = || {
        let mut node = Node::boot(KeyKind::EcdsaP256).with_boot(|_| ());
        node.extra_policy = reference.clone();
        node
    };
    let mut node = booted();
    let good = node.attest(NONCE);
    let policy = node.policy();
    assert!(verdict(&node, &good, &policy).trusted);
    let stated = good.boot.clone().unwrap();

    // The quote is over PCR 10 alone, and the good boot stands beside it.
    let mut alone = booted();
    alone.boot = None;
    let mut evidence = alone.attest(NONCE);
    evidence.boot = Some(stated.clone());
    refused(
        "beside PCR 10 alone",
        &verdict(&alone, &evidence, &policy),
        Rule::Boot,
    );

    // It selects nothing at all, in a bank or in none; its digest is that of nothing.
    for selection in [vec![], vec![(Bank::Sha256, vec![])]] {
        let mut node = booted();
        node.seal(Some(NONCE));
        let nothing = sha256(b"");
        let quote = node.quote_with(NONCE, |attest| {
            attest.selection = selection.clone();
            attest.pcr_digest = nothing.bytes().to_vec();
        });
        let mut evidence = node.evidence(quote);
        evidence.boot = Some(stated.clone());
        refused(
            "a quote of nothing",
            &verdict(&node, &evidence, &policy),
            Rule::Quote,
        );
    }

    // Other registers are quoted than those that are stated, under another number or in another bank.
    let mut other = booted();
    other.boot.as_mut().unwrap().add_command_line("init=/bin/sh");
    other.load();
    let mut evidence = other.attest(NONCE);
    evidence.boot = Some(stated.clone());
    refused(
        "another boot's",
        &verdict(&other, &evidence, &policy),
        Rule::Coverage,
    );
    let of_sha1 = Registers::new((0..10).map(|n| Bank::Sha1.hash(&[&[n]])).collect()).unwrap();
    for registers in [vec![], vec![of_sha1]] {
        let mut evidence = good.clone();
        evidence.boot = Some(Boot {
            registers,
            ..stated.clone()
        });
        refused("another bank's", &verdict(&node, &evidence, &policy), Rule::Quote);
    }
    // A second value for a register changes nothing that the first one said.
    let mut evidence = good.clone();
    let wrong = Registers::new((0..10).map(|n| sha256(&[n])).collect()).unwrap();
    evidence.boot.as_mut().unwrap().registers.insert(0, wrong);
    refused("two values", &verdict(&node, &evidence, &policy), Rule::Coverage);
}

/// An "evidence factory": a node asks a genuine one with the nonce that it was given itself.
#[test]
fn evidence_of_another_node_proves_nothing_of_this_one() {
    let policy = busy().policy();
    let node = busy();
    let mut genuine = busy();
    genuine.ak = AttestationKey::new(KeyKind::EcdsaP256, 2);
    let relayed = genuine.attest(NONCE);
    refused("relayed", &verdict(&node, &relayed, &policy), Rule::Quote);
    let tenant = tenant_policy(&node, pod(1));
    let context = node.context(NONCE, None);
    let whole = verdict(&genuine, &relayed, &policy);
    assert!(whole.trusted, "it is good evidence of the other node: {whole}");
    let seen = ways::tenant(&relayed, &whole, pod(1), &tenant, &context).unwrap();
    assert!(
        !seen.trusted && seen.findings.iter().any(|finding| finding.rule == Rule::Quote),
        "{seen}"
    );

    // What its own TPM quotes, beside the genuine one's list, checkpoints and records.
    let mut own = busy();
    own.execute(
        &cgpath_testkit::Actor::host("/sbin/init"),
        "/usr/bin/rootkit",
        &sha256(b"rootkit"),
    );
    let mine = own.attest(NONCE);
    let mixed = Evidence {
        quote: mine.quote.clone(),
        ..relayed.clone()
    };
    refused("its own quote", &verdict(&own, &mixed, &policy), Rule::Coverage);
    let mixed = Evidence {
        checkpoints: relayed.checkpoints.clone(),
        partitions: relayed.partitions.clone(),
        ..mine
    };
    refused("its own list", &verdict(&own, &mixed, &policy), Rule::Chain);
}
