//! A tenant's bundle of a node that has a register and no TPM: entries by their hashes alone, and what must
//! fail.

use super::*;
use crate::ways::{load_tenant, not_proven, tenant_context, verdict_key};
use cgpath_appraisal::ear::{self, Scope};
use cgpath_appraisal::tenant::{Outcome, TenantContext, TenantState, TenantVerdict, verify};
use cgpath_appraisal::{PinnedKey, Unusable};
use cgpath_evidence::bundle::ProveError;
use cgpath_evidence::challenge::{Opening, digest};
use cgpath_evidence::td::log;
use cgpath_evidence::{Entry, EntryHash, PodUid, SealedCheckpoint, TenantBundle};
use cgpath_testkit::sha256;
use p256::ecdsa::SigningKey;

/// What it is called, by which rule it fails, and what is done to the bundle.
type Change = (&'static str, Rule, fn(&mut TenantBundle));

/// The tenant's policy of this pod as text; `more` are lines of its `tdx`, indented by two.
fn yaml(node: &Node, uid: PodUid, more: &str) -> String {
    let td = node.td.as_ref().unwrap();
    let domain = td.policy.split("  boot:\n").next().unwrap();
    format!(
        "version: 1\n\
         pod: {uid}\n\
         name: shop/web\n\
         templates: [ima-ng]\n\
         anchor: rtmr-{}\n\
         references: [{uid}.json]\n\
         tdx:\n{domain}{more}",
        td.rtmr,
    )
}

fn policy(node: &Node, uid: PodUid, more: &str) -> Policy {
    load_tenant(node, uid, &yaml(node, uid, more))
}

fn context(node: &Node, nonce: &[u8], previous: Option<TenantState>) -> TenantContext {
    TenantContext {
        previous,
        ..tenant_context(node.context(nonce, None))
    }
}

fn bundle_from(node: &Node, evidence: &Evidence, uid: PodUid, nonce: &[u8], from: u64) -> TenantBundle {
    let verdict = appraise_in(node, evidence, &node.context(nonce, None));
    let mut bundle = TenantBundle::prove(evidence, uid, from).unwrap();
    bundle.ear = ear::token_for(&verdict, Scope::Pod(uid), Some(nonce), &verdict_key()).ok();
    bundle
}

/// As it travels, and by the tenant's own means.
fn as_tenant(
    node: &Node,
    bundle: &TenantBundle,
    uid: PodUid,
    nonce: &[u8],
    previous: Option<TenantState>,
) -> TenantVerdict {
    let bundle = TenantBundle::from_cbor(&bundle.to_cbor()).unwrap();
    verify(
        &bundle,
        uid,
        &policy(node, uid, ""),
        &context(node, nonce, previous),
    )
    .unwrap()
}

#[track_caller]
fn refused(verdict: &TenantVerdict, rule: Rule, what: &str) {
    assert_eq!(verdict.outcome, Outcome::Untrusted, "{what}: {verdict}");
    let own = verdict.pod.iter().flat_map(|pod| &pod.findings);
    let mut all = verdict.findings.iter().chain(own);
    assert!(
        all.any(|finding| finding.rule == rule && finding.severity == Severity::Fail),
        "{what}: no failure of {rule} in\n{verdict}"
    );
}

#[test]
fn a_tenant_of_a_node_without_a_tpm_reaches_the_full_verifiers_verdict_by_hashes_alone() {
    let mut node = busy();
    node.execute(&Actor::pod(pod(3), "/bin/app"), "/bin/app", &sha256(b"evil"));
    let evidence = node.attest(NONCE);
    let full = appraised(&node, &evidence);
    for (n, outcome) in [(1, Outcome::Trusted), (3, Outcome::Untrusted)] {
        let bundle = bundle_from(&node, &evidence, pod(n), NONCE, 0);
        assert_eq!(bundle.list.len(), evidence.list.len());
        for (redacted, whole) in bundle.list.iter().zip(&evidence.list) {
            let (Entry::Opaque { digests, hash, .. }, Entry::Full(bytes)) = (redacted, whole) else {
                panic!("{redacted:?}")
            };
            assert!(digests.is_empty());
            assert_eq!(**hash.as_ref().unwrap(), EntryHash::of(bytes));
        }
        let verdict = as_tenant(&node, &bundle, pod(n), NONCE, None);
        assert_eq!(verdict.outcome, outcome, "{verdict}");
        assert_eq!(verdict.dangerous, ["tdx.dangerous-root"]);
        assert_eq!(verdict.covered, evidence.list.len() as u64);
        assert!(
            verdict.notes.iter().any(|note| note.contains("RTMR 3")),
            "{verdict}"
        );
        let (own, theirs) = (verdict.pod.unwrap(), full.pod(pod(n)).unwrap());
        assert_eq!((own.state, own.entries), (theirs.state, theirs.entries));
        assert_eq!(own.files, theirs.files);
        let places = |findings: &[Finding]| findings.iter().map(|f| (f.rule, f.index)).collect::<Vec<_>>();
        assert_eq!(places(&own.findings), places(&theirs.findings));
        // In JSON it is the same.
        let json = serde_json::to_vec(&bundle).unwrap();
        let read: TenantBundle = cgpath_evidence::json::from_slice(&json, "bundle", 1 << 24).unwrap();
        assert_eq!(read, bundle);
    }
    // Without the full verifier's word it is no more than the partition.
    let alone = TenantBundle::prove(&evidence, pod(1), 0).unwrap();
    let verdict = as_tenant(&node, &alone, pod(1), NONCE, None);
    assert_eq!(verdict.outcome, Outcome::PartitionOnly, "{verdict}");
    // Evidence that is redacted already serves as well; nobody appraises the whole node by it.
    let mut redacted = evidence.clone();
    redacted.list.clone_from(&alone.list);
    let again = TenantBundle::prove(&redacted, pod(4), 0);
    assert!(matches!(again, Err(ProveError::NoEntry { .. })), "{again:?}");
    disbelieved(&appraised(&node, &redacted), Rule::Template, "redacted");
}

#[test]
fn hashes_that_are_others_are_gone_or_stand_for_the_pods_own_entries_are_refused() {
    let mut node = busy();
    let evidence = node.attest(NONCE);
    let good = bundle_from(&node, &evidence, pod(1), NONCE, 0);
    let trusted = as_tenant(&node, &good, pod(1), NONCE, None);
    assert_eq!(trusted.outcome, Outcome::Trusted, "{trusted}");
    fn hash(entry: &mut Entry) -> &mut Option<Box<EntryHash>> {
        match entry {
            Entry::Opaque { hash, .. } => hash,
            Entry::Full(_) => panic!(),
        }
    }
    let changes: [Change; 12] = [
        ("another hash", Rule::Coverage, |b| {
            *hash(&mut b.list[5]) = Some(Box::new(EntryHash([7; 32])));
        }),
        ("no hash", Rule::Coverage, |b| *hash(&mut b.list[5]) = None),
        ("taken out", Rule::Coverage, |b| drop(b.list.remove(5))),
        ("taken out, and another at the end", Rule::Coverage, |b| {
            let entry = b.list.remove(5);
            b.list.push(entry);
        }),
        ("swapped", Rule::Coverage, |b| b.list.swap(5, 6)),
        ("empty", Rule::Coverage, |b| b.list.clear()),
        ("a hash for an entry of its own", Rule::Records, |b| {
            b.entries.remove(0);
        }),
        ("its own entry altered", Rule::Records, |b| {
            let at = b.entries[0].len() - 2;
            b.entries[0][at] ^= 1;
        }),
        ("a record gone", Rule::Records, |b| drop(b.records.pop())),
        ("the list from elsewhere", Rule::Chain, |b| b.from = 1),
        ("no checkpoint 0", Rule::Chain, |b| b.first = None),
        ("checkpoint 0 as the last", Rule::Chain, |b| {
            b.last = b.first.clone().unwrap();
        }),
    ];
    for (what, rule, change) in changes {
        let mut bundle = good.clone();
        change(&mut bundle);
        refused(&as_tenant(&node, &bundle, pod(1), NONCE, None), rule, what);
    }
    // A checkpoint that the node's key signed and that extended nothing: records taken out and sealed anew.
    let mut forged = SealedCheckpoint::from_file(&good.last).unwrap().checkpoint;
    forged.records -= 1;
    let mut bundle = good.clone();
    bundle.last = SealedCheckpoint::seal(forged, &node.signing).file;
    let verdict = as_tenant(&node, &bundle, pod(1), NONCE, None);
    refused(&verdict, Rule::Chain, "a forged checkpoint");
}

#[test]
fn a_bundle_with_another_domains_quote_or_another_registers_log_is_refused() {
    let mut node = busy();
    let evidence = node.attest(NONCE);
    let good = bundle_from(&node, &evidence, pod(1), NONCE, 0);
    let refuses = |what: &str, rule: Rule, bundle: &TenantBundle| {
        refused(&as_tenant(&node, bundle, pod(1), NONCE, None), rule, what);
    };
    // Another domain on the same host; with the node's own key, too, as if it were copied.
    for is_copied in [false, true] {
        let mut domain = domain();
        if !is_copied {
            domain.key = SigningKey::from_slice(&[9; 32]).unwrap();
        }
        let mut other = busy_in(domain, false);
        other.execute_good(&Actor::pod(pod(2), "/bin/app"), "/bin/app");
        let theirs = bundle_from(&other, &other.clone().attest(NONCE), pod(1), NONCE, 0);
        let mut bundle = good.clone();
        bundle.quote = theirs.quote.clone();
        let rule = if is_copied { Rule::Chain } else { Rule::Quote };
        refuses("another domain's quote", rule, &bundle);
        let mut bundle = good.clone();
        bundle.register_log = theirs.register_log.clone();
        refuses("another domain's log", Rule::Chain, &bundle);
    }
    // Without it, cut, and with a checkpoint of another digest.
    for register_log in [None, Some(vec![]), Some(vec![1, 2, 3])] {
        let mut bundle = good.clone();
        bundle.register_log = register_log;
        refuses("no log", Rule::Chain, &bundle);
    }
    let mut bundle = good.clone();
    bundle.register_log.as_mut().unwrap()[20] ^= 1;
    refuses("another digest", Rule::Chain, &bundle);
    // A TPM's bundle, where the policy's anchor is a register; and no key to pin one by.
    let mut with_tpm = Node::boot(KeyKind::EcdsaP256);
    run(&mut with_tpm);
    let of_tpm = TenantBundle::prove(&with_tpm.attest(NONCE), pod(1), 0).unwrap();
    refuses("a TPM's quote", Rule::Quote, &of_tpm);
    let mut asked = context(&node, NONCE, None);
    asked.td.node_key = None;
    let verdict = verify(&good, pod(1), &policy(&node, pod(1), ""), &asked).unwrap();
    refused(&verdict, Rule::Quote, "no key is pinned");
    let mut asked = context(&node, NONCE, None);
    asked.td.collateral.clear();
    let verdict = verify(&good, pod(1), &policy(&node, pod(1), ""), &asked).unwrap();
    refused(&verdict, Rule::Quote, "no collateral");
    // The other way round: a policy for a TPM, and no key of one.
    let asked = TenantContext {
        key: PinnedKey::NoTpm,
        ..context(&node, NONCE, None)
    };
    let for_tpm = crate::tenant::policy(&with_tpm, pod(1));
    assert_eq!(verify(&good, pod(1), &for_tpm, &asked), Err(Unusable::NoKey));
}

#[test]
fn what_others_extended_is_shown_by_its_digest_and_counts_where_the_tenant_names_it() {
    let mut node = busy();
    let td = node.td.as_mut().unwrap();
    td.policy += "  rtmr-writers: [attestation-agent]\n";
    let text = "what an agent says of another pod";
    td.agent(text);
    let evidence = node.attest(NONCE);
    let whole = &evidence.td.as_ref().unwrap().register_log;
    let mut events = log::read(whole).unwrap().map(Result::unwrap);
    let digest = events.find(|event| event.checkpoint().is_none()).unwrap().digest;
    let bundle = bundle_from(&node, &evidence, pod(1), NONCE, 0);
    let shown = bundle.to_cbor();
    assert!(!shown.windows(text.len()).any(|part| part == text.as_bytes()));
    let asked = context(&node, NONCE, None);
    let td = node.td.as_mut().unwrap();
    td.policy = td.policy.replace("  rtmr-writers: [attestation-agent]\n", "");
    let verdict = verify(&bundle, pod(1), &policy(&node, pod(1), ""), &asked).unwrap();
    refused(&verdict, Rule::Chain, "an extension by another");
    let named = format!("  rtmr-extensions: ['sha384:{}']\n", hex::encode(digest));
    let verdict = verify(&bundle, pod(1), &policy(&node, pod(1), &named), &asked).unwrap();
    assert_eq!(verdict.outcome, Outcome::Trusted, "{verdict}");
    assert!(
        verdict
            .relaxations
            .iter()
            .any(|one| one.contains("rtmr-extensions")),
        "{verdict}"
    );
}

#[test]
fn a_follower_of_a_register_is_sent_only_new_hashes_and_goes_on_from_where_it_was() {
    let mut node = busy();
    let first = bundle_from(&node.clone(), &node.attest(NONCE), pod(1), NONCE, 0);
    let state = as_tenant(&node, &first, pod(1), NONCE, None).state.unwrap();
    assert_eq!(state.followed(), node.list.len() as u64);
    assert!(state.node.ak_name.is_empty() && state.node.td.is_some());
    node.execute_good(&Actor::pod(pod(1), "/bin/app"), "/bin/app");
    node.execute_good(&Actor::host("/sbin/init"), "/usr/bin/containerd");
    let evidence = node.attest(NEXT);
    let next = bundle_from(&node, &evidence, pod(1), NEXT, state.followed());
    assert!(
        !next.list.is_empty() && next.list.len() <= 3,
        "{}",
        next.list.len()
    );
    let whole = bundle_from(&node, &evidence, pod(1), NEXT, 0);
    let later = as_tenant(&node, &next, pod(1), NEXT, Some(state.clone()));
    assert_eq!(later.outcome, Outcome::Trusted, "{later}");
    let again = as_tenant(&node, &whole, pod(1), NEXT, Some(state.clone()));
    assert_eq!(again.outcome, Outcome::Trusted, "{again}");
    assert_eq!(again.state, later.state);
    let after = later.state.unwrap();
    for (what, bundle, before, rule) in [
        ("one that has not followed", &next, None, Rule::Chain),
        ("again", &next, Some(after.clone()), Rule::Chain),
        ("an older one", &first, Some(after), Rule::Chain),
    ] {
        let nonce = if core::ptr::eq(bundle, &first) {
            NONCE
        } else {
            NEXT
        };
        refused(&as_tenant(&node, bundle, pod(1), nonce, before), rule, what);
    }
    // A list that was another one before.
    let mut elsewhere = state.clone();
    elsewhere.node.td.as_mut().unwrap().list = [1; 48];
    let verdict = as_tenant(&node, &next, pod(1), NEXT, Some(elsewhere.clone()));
    refused(&verdict, Rule::Coverage, "another list before");
    let verdict = as_tenant(&node, &whole, pod(1), NEXT, Some(elsewhere));
    refused(&verdict, Rule::Chain, "another list before, and the whole");
    // Another node's key within the boot.
    let mut other = state;
    other.node.td.as_mut().unwrap().node_key = [1; 32];
    let verdict = as_tenant(&node, &whole, pod(1), NEXT, Some(other));
    refused(&verdict, Rule::Quote, "another key within the boot");
}

/// The rest of docs/threat-model.md's list is that of a node with a TPM: see `tenant`.
#[test]
fn a_domains_bundle_shows_exactly_what_is_stated_and_checkpoint_0_to_a_follower_too() {
    let mut node = Node::boot(KeyKind::EcdsaP256);
    node.predating = vec![pod(5)];
    // Not the bytes of a pod's UID, after the boot that this is.
    node.boot_id = [0xaf; 16];
    let mut node = node.in_domain(domain(), false);
    run(&mut node);
    let first = node.attest(NONCE);
    let followed = first.list.len() as u64;
    node.execute_good(&Actor::host("/sbin/init"), "/usr/bin/containerd");
    let evidence = node.attest(NEXT);
    let whole = TenantBundle::prove(&evidence, pod(1), 0).unwrap();
    let later = TenantBundle::prove(&evidence, pod(1), followed).unwrap();
    assert!(later.list.len() < whole.list.len());
    let holds = |bundle: &TenantBundle, uid: PodUid| bundle.to_cbor().windows(16).any(|w| w == uid.0);
    let read = |file: &[u8]| SealedCheckpoint::from_file(file).unwrap().checkpoint;
    let domain = node.td.as_ref().unwrap();
    for bundle in [&whole, &later] {
        // Checkpoint 0, and with it pods that are older than the collector; of others nothing.
        let first = read(bundle.first.as_ref().unwrap());
        assert_eq!((first.number, &first.predating), (0, &node.predating));
        assert!(holds(bundle, pod(5)) && (2..=4).all(|n| !holds(bundle, pod(n))));
        // Register, its value before, the node's key; then running value and time of both.
        let origin = first.binding.as_ref().unwrap().origin.clone().unwrap();
        assert_eq!(origin.register, domain.rtmr);
        let key: &[u8] = &origin.node_key;
        assert_eq!(key, &cgpath_evidence::td::public_node_key(&domain.key)[..]);
        let last = read(&bundle.last);
        let (began, bound) = (first.binding.unwrap(), last.binding.unwrap());
        assert!(bound.origin.is_none() && bound.list != began.list && bound.sealed_ns > began.sealed_ns);
        // Its quote alone, each checkpoint by its digest, and of the list no more than hashes.
        assert!(bundle.quote.tpm.is_none() && bundle.registers.is_none());
        let shown = bundle.register_log.as_ref().unwrap();
        let events: Vec<_> = log::read(shown).unwrap().map(Result::unwrap).collect();
        assert_eq!(events.len() as u64, last.number + 1);
        assert!(events.iter().all(|event| event.checkpoint().is_some()));
        let is_hash = |entry: &Entry| match entry {
            Entry::Opaque { digests, hash, .. } => digests.is_empty() && hash.is_some(),
            Entry::Full(_) => false,
        };
        assert!(bundle.list.iter().all(is_hash));
        assert_eq!(bundle.from + bundle.list.len() as u64, last.list_len);
    }
}

/// A limit, stated: what is bound by a hash is what the list of this bundle has.
#[test]
fn what_a_follower_is_shown_again_is_bound_by_its_template_digest_alone() {
    // `ima-ng` as its own field list, which has the same shape and the same template digest.
    let relabelled = |bundle: &TenantBundle| {
        let mut bundle = bundle.clone();
        let label = b"d-ng|n-ng";
        let label = [&(label.len() as u32).to_le_bytes()[..], label].concat();
        bundle.entries[0].splice(24..34, label);
        bundle
    };
    let mut node = busy();
    let first = bundle_from(&node.clone(), &node.attest(NONCE), pod(1), NONCE, 0);
    let state = as_tenant(&node, &first, pod(1), NONCE, None).state.unwrap();
    node.execute_good(&Actor::host("/sbin/init"), "/usr/bin/containerd");
    let evidence = node.attest(NEXT);
    let next = relabelled(&bundle_from(&node, &evidence, pod(1), NEXT, state.followed()));
    let whole = relabelled(&bundle_from(&node, &evidence, pod(1), NEXT, 0));
    // The policy has one template of the shape: refused, wherever the list begins.
    let verdict = as_tenant(&node, &next, pod(1), NEXT, Some(state.clone()));
    refused(&verdict, Rule::Template, "relabelled");
    let verdict = as_tenant(&node, &whole, pod(1), NEXT, Some(state.clone()));
    refused(&verdict, Rule::Records, "relabelled, and the whole");
    // It has both: only a list from 0 tells them apart.
    let yaml = yaml(&node, pod(1), "").replace("[ima-ng]", "[ima-ng, 'd-ng|n-ng']");
    let both = load_tenant(&node, pod(1), &yaml);
    let asked = context(&node, NEXT, Some(state));
    let verdict = verify(&whole, pod(1), &both, &asked).unwrap();
    refused(&verdict, Rule::Records, "relabelled, and the whole");
    let verdict = verify(&next, pod(1), &both, &asked).unwrap();
    assert_eq!(verdict.outcome, Outcome::Trusted, "{verdict}");
    // What it says is bound all the same.
    let mut altered = next;
    let at = altered.entries[0].len() - 2;
    altered.entries[0][at] ^= 1;
    let verdict = verify(&altered, pod(1), &both, &asked).unwrap();
    assert_eq!(verdict.outcome, Outcome::Untrusted, "{verdict}");
}

#[test]
fn registers_and_a_register_log_beside_the_other_kinds_quote_are_refused() {
    let mut node = busy();
    let evidence = node.attest(NONCE);
    let mut bundle = bundle_from(&node, &evidence, pod(1), NONCE, 0);
    bundle.registers = Some(Vec::new());
    let verdict = as_tenant(&node, &bundle, pod(1), NONCE, None);
    refused(&verdict, Rule::Quote, "registers of a TPM");
    let mut with_tpm = Node::boot(KeyKind::EcdsaP256);
    run(&mut with_tpm);
    let evidence = with_tpm.attest(NONCE);
    let mut bundle = TenantBundle::prove(&evidence, pod(1), 0).unwrap();
    let (policy, asked) = (
        crate::tenant::policy(&with_tpm, pod(1)),
        context(&with_tpm, NONCE, None),
    );
    let verdict = verify(&bundle, pod(1), &policy, &asked).unwrap();
    assert_eq!(verdict.outcome, Outcome::PartitionOnly, "{verdict}");
    bundle.register_log = Some(Vec::new());
    let verdict = verify(&bundle, pod(1), &policy, &asked).unwrap();
    refused(&verdict, Rule::Quote, "a register's log");
}

#[test]
fn a_tenants_own_nonce_is_answered_by_a_domains_quote_that_commits_to_it() {
    let mut node = busy();
    let opening = Opening::new([7; 32], [digest(NONCE)]);
    let mut committed = [3; 32];
    committed[4..20].copy_from_slice(&opening.commitment());
    let evidence = node.attest(&committed);
    let mut bundle = bundle_from(&node, &evidence, pod(1), &committed, 0);
    let verdict = as_tenant(&node, &bundle, pod(1), NONCE, None);
    refused(&verdict, Rule::Quote, "not opened");
    bundle.opening = Some(opening.as_bytes().to_vec());
    let verdict = as_tenant(&node, &bundle, pod(1), NONCE, None);
    assert_eq!(verdict.outcome, Outcome::Trusted, "{verdict}");
    bundle.opening = Some(Opening::new([8; 32], [digest(NONCE)]).as_bytes().to_vec());
    let verdict = as_tenant(&node, &bundle, pod(1), NONCE, None);
    refused(&verdict, Rule::Quote, "another opening");
}

#[test]
fn no_bundle_is_made_of_a_domains_evidence_that_does_not_hold_together() {
    let mut node = busy();
    let evidence = node.attest(NONCE);
    let prove = |change: &dyn Fn(&mut Evidence), from| not_proven(&evidence, pod(1), from, change);
    assert!(matches!(prove(&|e| e.td = None, 0), ProveError::Unbound(_)));
    assert!(matches!(
        prove(&|e| drop(e.list.pop()), 0),
        ProveError::Unbound(_)
    ));
    assert!(matches!(prove(&|_| {}, u64::MAX), ProveError::From { .. }));
    assert!(matches!(
        prove(&|e| e.td.as_mut().unwrap().register_log.truncate(9), 0),
        ProveError::Unreadable { .. }
    ));
    let redact = |e: &mut Evidence| {
        e.list[2] = Entry::Opaque {
            pcr: 10,
            digests: vec![],
            hash: None,
        };
    };
    assert_eq!(prove(&redact, 0), ProveError::Redacted { index: 2 });
    // Of a node that has both, the TPM's list is shown.
    let mut both = busy_in(domain(), true);
    let bundle = TenantBundle::prove(&both.attest(NONCE), pod(1), 0).unwrap();
    assert!(bundle.quote.td.is_none() && bundle.register_log.is_none());
}

#[test]
fn no_changed_byte_of_a_domains_bundle_makes_it_trusted_with_other_content() {
    let mut node = busy();
    let evidence = node.attest(NONCE);
    let good = bundle_from(&node, &evidence, pod(1), NONCE, 0);
    let bytes = good.to_cbor();
    let (policy, context) = (policy(&node, pod(1), ""), context(&node, NONCE, None));
    // The verifier has a root of its own, so that the quote's copy of it is passed over; so is white space of
    // certificates in PEM.
    let pem = bytes.windows(10).position(|text| text == b"-----BEGIN").unwrap();
    let root = bytes.windows(10).rposition(|text| text == b"-----BEGIN").unwrap();
    let end = bytes.windows(8).rposition(|text| text == b"-----END").unwrap();
    let is_passed =
        |at: usize| (root..end + 32).contains(&at) || (pem..root).contains(&at) && bytes[at] == b'\n';
    let mut decoded = 0;
    for at in (0..bytes.len()).step_by(41).filter(|at| !is_passed(*at)) {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        let Ok(bundle) = TenantBundle::from_cbor(&changed) else {
            continue;
        };
        decoded += 1;
        let verdict = verify(&bundle, pod(1), &policy, &context).unwrap();
        // What nothing binds: the node's name for itself, and a redacted entry's PCR, which nobody reads.
        let is_same = |one: &Entry, other: &Entry| match (one, other) {
            (Entry::Opaque { hash: one, .. }, Entry::Opaque { hash: other, .. }) => one == other,
            (one, other) => one == other,
        };
        let list = bundle.list.iter().zip(&good.list).all(|(a, b)| is_same(a, b));
        let is_bound = bundle.node == good.node && !(list && bundle.list != good.list);
        assert!(
            verdict.outcome != Outcome::Trusted || !is_bound,
            "byte {at}: {verdict}"
        );
    }
    assert!(decoded > 100, "{decoded}");
}
