//! A tenant's bundle: what it shows, what it hides, and what must fail.

use crate::ways::{load_tenant, not_proven, tenant_context, verdict_key};
use cgpath_appraisal::{
    Rule, State, appraise,
    ear::{self, Scope},
    tenant::{Outcome, TenantContext, TenantState, TenantVerdict, verify},
};
use cgpath_evidence::{
    Bank, Digest, Entry, Evidence, PartitionKey, PodUid, SealedCheckpoint, TenantBundle,
    bundle::ProveError,
    challenge::{Opening, digest},
    proof::PartitionProof,
};
use cgpath_policy::Policy;
use cgpath_testkit::{Actor, FirmwareLog, KeyKind, Node, pod, sha256, tpm};
use p256::ecdsa::SigningKey;

const NONCE: &[u8] = b"the nonce of this request";

/// Pods 1 and 2 of one image, pod 3 with files of its own, and the host.
fn node() -> Node {
    let mut node = Node::boot(KeyKind::EcdsaP256);
    // Not the bytes of a pod's UID.
    node.boot_id = [0xb0; 16];
    node.load();
    for (n, path) in [(3, "/opt/only-in-three"), (3, "/opt/second-of-three")] {
        let files = node.pod_files.get_mut(&pod(n)).unwrap();
        files
            .entry(path.into())
            .or_default()
            .insert(sha256(path.as_bytes()));
        node.execute_good(&Actor::pod(pod(n), path), path);
    }
    for n in [2, 1] {
        for path in ["/bin/app", "/lib/libc.so"] {
            node.execute_good(&Actor::pod(pod(n), "/bin/app"), path);
        }
    }
    node.execute_good(&Actor::host("/usr/bin/tool"), "/usr/bin/tool");
    node
}

fn tenant_yaml(uid: PodUid) -> String {
    format!(
        "version: 1\n\
         pod: {uid}\n\
         name: shop/web\n\
         templates: [ima-ng]\n\
         banks: [sha256]\n\
         references: [{uid}.json]\n"
    )
}

/// The policy of a tenant whose pod is this one of the node.
pub fn policy(node: &Node, uid: PodUid) -> Policy {
    load_tenant(node, uid, &tenant_yaml(uid))
}

fn context(node: &Node, previous: Option<TenantState>) -> TenantContext {
    TenantContext {
        previous,
        ..tenant_context(node.context(NONCE, None))
    }
}

/// What a full verifier of this node says of the evidence, about one pod.
fn ear_of(node: &Node, evidence: &Evidence, uid: PodUid) -> String {
    ear_over(node, evidence, uid, NONCE)
}

/// The same for evidence over another nonce.
fn ear_over(node: &Node, evidence: &Evidence, uid: PodUid, nonce: &[u8]) -> String {
    let verdict = appraise(evidence, &node.policy(), &node.context(nonce, None)).unwrap();
    ear::token_for(&verdict, Scope::Pod(uid), Some(nonce), &verdict_key()).unwrap()
}

fn bundle_from(node: &Node, evidence: &Evidence, uid: PodUid, from: u64) -> TenantBundle {
    let mut bundle = TenantBundle::prove(evidence, uid, from).unwrap();
    bundle.ear = Some(ear_of(node, evidence, uid));
    bundle
}

fn bundle(node: &mut Node, uid: PodUid) -> (Evidence, TenantBundle) {
    let evidence = node.attest(NONCE);
    let bundle = bundle_from(node, &evidence, uid, 0);
    (evidence, bundle)
}

fn appraised(
    node: &Node,
    bundle: &TenantBundle,
    uid: PodUid,
    previous: Option<TenantState>,
) -> TenantVerdict {
    // As it travels.
    let bundle = TenantBundle::from_cbor(&bundle.to_cbor()).unwrap();
    verify(&bundle, uid, &policy(node, uid), &context(node, previous)).unwrap()
}

/// `change` makes the bundle of pod 1 fail by `rule`.
#[track_caller]
fn must_fail(rule: Rule, change: impl FnOnce(&mut TenantBundle, &mut Node)) -> TenantVerdict {
    let mut node = node();
    let (_, mut bundle) = bundle(&mut node, pod(1));
    assert_eq!(appraised(&node, &bundle, pod(1), None).outcome, Outcome::Trusted);
    change(&mut bundle, &mut node);
    let verdict = appraised(&node, &bundle, pod(1), None);
    assert_eq!(verdict.outcome, Outcome::Untrusted, "{verdict}");
    let own = verdict.pod.iter().flat_map(|pod| &pod.findings);
    assert!(
        verdict
            .findings
            .iter()
            .chain(own)
            .any(|finding| finding.rule == rule),
        "no finding of {rule} in\n{verdict}"
    );
    assert!(verdict.state.is_none() || rule == Rule::PodContents, "{verdict}");
    verdict
}

#[test]
fn a_tenant_reaches_the_full_verifiers_verdict_on_its_own_pod() {
    for kind in [KeyKind::EcdsaP256, KeyKind::Rsassa2048] {
        let mut node = Node { ..node() };
        node.ak = cgpath_testkit::AttestationKey::new(kind, 1);
        node.execute(&Actor::pod(pod(3), "/bin/app"), "/bin/app", &sha256(b"evil"));
        node.execute(
            &Actor::intruder(pod(2), "/bin/app"),
            "/lib/libc.so",
            &sha256(b"1/lib/libc.so"),
        );
        let evidence = node.attest(NONCE);
        let full = appraise(&evidence, &node.policy(), &node.context(NONCE, None)).unwrap();
        for (n, outcome) in [
            (1, Outcome::Trusted),
            (2, Outcome::Untrusted),
            (3, Outcome::Untrusted),
        ] {
            let bundle = bundle_from(&node, &evidence, pod(n), 0);
            let verdict = appraised(&node, &bundle, pod(n), None);
            assert_eq!(verdict.outcome, outcome, "{verdict}");
            assert_eq!(verdict.trusted, outcome == Outcome::Trusted);
            let (own, theirs) = (verdict.pod.unwrap(), full.pod(pod(n)).unwrap());
            assert_eq!(own.state, theirs.state);
            assert_eq!(
                (own.entries, own.executions, own.suspect),
                (theirs.entries, theirs.executions, theirs.suspect)
            );
            assert_eq!(own.files, theirs.files);
            let texts = |findings: &[cgpath_appraisal::Finding]| {
                findings
                    .iter()
                    .map(|f| (f.rule, f.text.clone(), f.seq))
                    .collect::<Vec<_>>()
            };
            assert_eq!(texts(&own.findings), texts(&theirs.findings));
        }
    }
}

/// A token without one of its claims, signed again by the same key.
fn without(token: &str, claim: &str) -> String {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    use p256::ecdsa::{Signature, signature::Signer};
    let (header, rest) = token.split_once('.').unwrap();
    let claims = URL_SAFE_NO_PAD.decode(rest.split_once('.').unwrap().0).unwrap();
    let mut claims: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&claims).unwrap();
    claims.remove(claim).unwrap();
    let message = format!(
        "{header}.{}",
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&claims).unwrap())
    );
    let signature: Signature = verdict_key().sign(message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature.to_bytes()))
}

#[test]
fn without_a_matching_result_of_a_trusted_verifier_it_is_partition_only_and_never_trusted() {
    let mut node = node();
    let (evidence, good) = bundle(&mut node, pod(1));
    let only = |bundle: &TenantBundle, why: &str| {
        let verdict = appraised(&node, bundle, pod(1), None);
        assert_eq!(
            (verdict.outcome, verdict.trusted),
            (Outcome::PartitionOnly, false),
            "{verdict}"
        );
        assert!(
            verdict.why_not_more.as_deref().unwrap().contains(why),
            "{verdict}"
        );
        assert!(verdict.full_verifier.is_none());
    };
    let with = |ear: Option<String>| TenantBundle { ear, ..good.clone() };
    only(&with(None), "no attestation result");
    only(&with(Some("a.b".into())), "not a JWT");
    // By a key that this tenant does not trust.
    let full = appraise(&evidence, &node.policy(), &node.context(NONCE, None)).unwrap();
    let other = SigningKey::from_slice(&[6; 32]).unwrap();
    let token = |verdict: &cgpath_appraisal::Verdict, scope, key: &SigningKey| {
        ear::token_for(verdict, scope, Some(NONCE), key).unwrap()
    };
    only(
        &with(Some(token(&full, Scope::Pod(pod(1)), &other))),
        "not signed by a key",
    );
    // About another checkpoint, or none.
    let mut before = full.clone();
    before.node.checkpoint_sha256 = Some([1; 32]);
    only(
        &with(Some(token(&before, Scope::Pod(pod(1)), &verdict_key()))),
        "another checkpoint",
    );
    before.node.checkpoint_sha256 = None;
    only(
        &with(Some(token(&before, Scope::Pod(pod(1)), &verdict_key()))),
        "another checkpoint",
    );
    // About another pod.
    only(
        &with(Some(ear_of(&node, &evidence, pod(2)))),
        "does not speak of this pod",
    );
    // Made for somebody else, without an end, and after its end.
    let issued = |terms: &dyn Fn(&mut ear::Terms<'_>)| {
        let mut own = ear::Terms::new(Scope::Pod(pod(1)), Some(NONCE));
        terms(&mut own);
        with(ear::issue(&full, &own, &verdict_key()).ok())
    };
    only(
        &issued(&|terms| terms.audience = "https://another.example".into()),
        "is for \"https://another.example\", not for urn:ima-cgpath:pod:",
    );
    only(&issued(&|terms| terms.lifetime = 0), "counted until 20");
    let for_anyone = issued(&|terms| terms.audience = ear::ANYONE.into());
    assert_eq!(
        appraised(&node, &for_anyone, pod(1), None).outcome,
        Outcome::Trusted
    );
    let mut later = context(&node, None);
    later.now += ear::LIFETIME;
    let verdict = verify(&good, pod(1), &policy(&node, pod(1)), &later).unwrap();
    assert_eq!(verdict.outcome, Outcome::PartitionOnly, "{verdict}");
    for (left_out, why) in [("exp", "has no end"), ("aud", "whom it is for")] {
        only(&with(Some(without(good.ear.as_deref().unwrap(), left_out))), why);
    }
    // Each changed character of a good token.
    let token = good.ear.clone().unwrap();
    for at in (0..token.len()).step_by(7) {
        let mut bytes = token.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let verdict = appraised(&node, &with(String::from_utf8(bytes).ok()), pod(1), None);
        assert_eq!(verdict.outcome, Outcome::PartitionOnly, "character {at}");
    }
    // No key at all.
    let mut context = context(&node, None);
    context.verifiers.clear();
    let verdict = verify(&good, pod(1), &policy(&node, pod(1)), &context).unwrap();
    assert_eq!(verdict.outcome, Outcome::PartitionOnly);
}

/// A verifier's nonce that commits to what is in an opening.
fn committed(opening: &Opening) -> Vec<u8> {
    [&[1; 4][..], &opening.commitment(), &[2; 12]].concat()
}

#[test]
fn a_tenants_own_nonce_counts_where_the_quoted_one_commits_to_it_and_nowhere_else() {
    let mut node = node();
    // A round of which nobody knew the tenant's nonce, and the one after it.
    let unasked = committed(&Opening::new([6; 32], [digest(b"another tenant's")]));
    let opening = Opening::new([7; 32], [digest(b"another tenant's"), digest(NONCE)]);
    let [old, new] = [unasked, committed(&opening)].map(|nonce| {
        let evidence = node.attest(&nonce);
        let mut bundle = TenantBundle::prove(&evidence, pod(1), 0).unwrap();
        bundle.ear = Some(ear_over(&node, &evidence, pod(1), &nonce));
        bundle
    });
    let with = |bundle: &TenantBundle, opening: Option<&[u8]>| TenantBundle {
        opening: opening.map(<[u8]>::to_vec),
        ..bundle.clone()
    };
    let verdict = appraised(&node, &with(&new, Some(opening.as_bytes())), pod(1), None);
    assert_eq!(verdict.outcome, Outcome::Trusted, "{verdict}");
    assert!(
        verdict.notes.iter().any(|note| note.contains("2 nonce(s)")),
        "{verdict}"
    );

    let others = [digest(b"another tenant's")];
    let swapped = [digest(NONCE), digest(b"another tenant's")];
    let cut = &opening.as_bytes()[..opening.as_bytes().len() - 1];
    for (what, bundle) in [
        ("not opened", with(&new, None)),
        (
            "an opening without it",
            with(&new, Some(Opening::new([7; 32], others).as_bytes())),
        ),
        (
            "of another salt",
            with(&new, Some(Opening::new([8; 32], swapped).as_bytes())),
        ),
        (
            "in another order",
            with(&new, Some(Opening::new([7; 32], swapped).as_bytes())),
        ),
        (
            "of it alone",
            with(&new, Some(Opening::new([7; 32], [digest(NONCE)]).as_bytes())),
        ),
        ("cut", with(&new, Some(cut))),
        ("empty", with(&new, Some(&[]))),
        // What an operator has who did not let the node answer.
        ("an older round", with(&old, Some(opening.as_bytes()))),
        (
            "an older round, opened as it was",
            with(&old, Some(Opening::new([6; 32], others).as_bytes())),
        ),
    ] {
        let verdict = appraised(&node, &bundle, pod(1), None);
        assert_eq!(verdict.outcome, Outcome::Untrusted, "{what}: {verdict}");
        for rule in [Rule::Quote, Rule::Chain] {
            let found = verdict.findings.iter().any(|finding| finding.rule == rule);
            assert!(found, "{what}: no finding of {rule} in\n{verdict}");
        }
    }
}

#[test]
fn a_full_verifier_that_does_not_trust_the_node_or_the_pod_makes_it_untrusted() {
    must_fail(Rule::Absent, |bundle, node| {
        node.execute(&Actor::host("/usr/bin/tool"), "/usr/bin/evil", &sha256(b"evil"));
        let evidence = node.attest(NONCE);
        *bundle = bundle_from(node, &evidence, pod(1), 0);
    });
}

#[test]
fn a_pod_that_ran_nothing_yet_is_no_failure_and_a_follower_goes_on_to_trusted() {
    let node_with_a_name = || {
        let mut node = Node::boot(KeyKind::EcdsaP256);
        node.boot_id = [0xb0; 16];
        node.load();
        node.name_pod(pod(1), "shop", &[]);
        node.execute_good(&Actor::host("/usr/bin/tool"), "/usr/bin/tool");
        node
    };
    let mut node = node_with_a_name();
    let (evidence, first) = bundle(&mut node, pod(1));
    let verdict = appraised(&node, &first, pod(1), None);
    assert_eq!(verdict.outcome, Outcome::PartitionOnly, "{verdict}");
    assert!(!verdict.trusted && verdict.findings.is_empty(), "{verdict}");
    let own = verdict.pod.as_ref().unwrap();
    assert_eq!((own.state, own.charged), (State::Pending, false), "{verdict}");
    assert!(
        verdict
            .notes
            .iter()
            .any(|note| note.contains("neither good nor bad")),
        "{verdict}"
    );
    assert!(verdict.full_verifier.is_some(), "{verdict}");
    assert!(
        verdict
            .why_not_more
            .as_deref()
            .unwrap()
            .starts_with("nothing is sealed"),
        "{verdict}"
    );
    assert!(verdict.to_string().contains("nothing to trust yet"), "{verdict}");
    // Without a full verifier's result that is what is missing first.
    let alone = TenantBundle::prove(&evidence, pod(1), 0).unwrap();
    let alone = appraised(&node, &alone, pod(1), None);
    assert_eq!(alone.outcome, Outcome::PartitionOnly, "{alone}");
    assert!(
        alone
            .why_not_more
            .as_deref()
            .unwrap()
            .contains("no attestation result"),
        "{alone}"
    );
    // It is passed for a pod that is silent by its own policy, and for no other.
    let mut ran = node.clone();
    ran.execute_good(&Actor::pod(pod(1), "/bin/app"), "/bin/app");
    let (evidence, mut unsaid) = bundle(&mut ran, pod(1));
    let mut full = appraise(&evidence, &ran.policy(), &ran.context(NONCE, None)).unwrap();
    full.pods.iter_mut().for_each(|pod| pod.state = State::Pending);
    unsaid.ear = ear::token_for(&full, Scope::Pod(pod(1)), Some(NONCE), &verdict_key()).ok();
    let verdict_of_ran = appraised(&ran, &unsaid, pod(1), None);
    assert_eq!(verdict_of_ran.outcome, Outcome::Untrusted, "{verdict_of_ran}");
    // A follower goes on from here, once it runs.
    let state = verdict.state.unwrap();
    node.execute_good(&Actor::pod(pod(1), "/bin/app"), "/bin/app");
    let evidence = node.attest(NONCE);
    let next = bundle_from(&node, &evidence, pod(1), state.followed());
    let verdict = appraised(&node, &next, pod(1), Some(state));
    assert_eq!(verdict.outcome, Outcome::Trusted, "{verdict}");
    assert_eq!(verdict.why_not_more, None, "{verdict}");
    // One that runs what nobody accepts is untrusted, named or not, and so is a silent one of a node that is.
    let mut node = node_with_a_name();
    node.execute(&Actor::pod(pod(1), "/bin/app"), "/bin/app", &sha256(b"evil"));
    let (_, bad) = bundle(&mut node, pod(1));
    assert_eq!(appraised(&node, &bad, pod(1), None).outcome, Outcome::Untrusted);
    let mut node = node_with_a_name();
    node.execute(&Actor::host("/usr/bin/tool"), "/usr/bin/evil", &sha256(b"evil"));
    let (_, of_bad) = bundle(&mut node, pod(1));
    let verdict = appraised(&node, &of_bad, pod(1), None);
    assert_eq!(verdict.outcome, Outcome::Untrusted, "{verdict}");
    assert!(
        verdict
            .findings
            .iter()
            .any(|finding| finding.rule == Rule::Absent),
        "{verdict}"
    );
}

#[test]
fn nothing_of_other_pods_is_in_a_bundle() {
    let mut node = node();
    node.pods = (1..=4)
        .map(|n| cgpath_evidence::PodInfo {
            uid: pod(n),
            namespace: format!("namespace-{n}"),
            name: format!("name-{n}"),
        })
        .collect();
    let evidence = node.attest(NONCE);
    let holds = |haystack: &[u8], needle: &[u8]| haystack.windows(needle.len()).any(|w| w == needle);
    for n in [1u8, 2, 3] {
        let bundle = bundle_from(&node, &evidence, pod(n), 0);
        let cbor = bundle.to_cbor();
        let json = serde_json::to_vec(&bundle).unwrap();
        let claims = {
            use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
            let token = bundle.ear.clone().unwrap();
            URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()
        };
        let mut own = 0;
        for log in &evidence.partitions {
            let is_own = log.key == PartitionKey::Pod(pod(n));
            for record in &log.records {
                let bytes = record.to_cbor();
                assert_eq!(
                    holds(&cbor, &bytes),
                    is_own,
                    "record {} in the bundle of {n}",
                    record.seq
                );
                own += usize::from(is_own);
                // A path that this pod does not use itself, and its hash.
                let shared = |path: &[u8]| {
                    evidence
                        .records(PartitionKey::Pod(pod(n)))
                        .iter()
                        .any(|r| r.path == path)
                };
                if !is_own && !shared(&record.path) && !record.path.starts_with(b"/run/ima-cgpath/") {
                    for place in [&cbor, &json, &claims] {
                        assert!(
                            !holds(place, &record.path),
                            "{:?} in the bundle of {n}",
                            String::from_utf8_lossy(&record.path)
                        );
                    }
                    let digest = record.hash.as_ref().and_then(cgpath_evidence::FileHash::digest);
                    if let Some(digest) = digest.filter(|_| !shared(&record.path)) {
                        assert!(!holds(&cbor, digest.bytes()));
                    }
                }
                if !is_own
                    && let Some(cgroup) = &record.cgroup
                    && record.path.starts_with(b"/opt")
                {
                    assert!(!holds(&cbor, cgroup));
                }
            }
        }
        assert_eq!(own, bundle.records.len());
        for other in (1..=4).filter(|other| *other != n) {
            let uid = pod(other);
            for needle in [
                uid.to_string().into_bytes(),
                uid.0.to_vec(),
                format!("name-{other}").into_bytes(),
                format!("pod-{other}").into_bytes(),
            ] {
                for (what, place) in [("cbor", &cbor), ("json", &json), ("ear", &claims)] {
                    assert!(
                        !holds(place, &needle),
                        "{} in the {what} of {n}",
                        String::from_utf8_lossy(&needle)
                    );
                }
            }
        }
        // Of the list: digests, and the collector's checkpoints whole.
        for entry in &bundle.list {
            if let Entry::Full(record) = entry {
                assert!(holds(record, b"/run/ima-cgpath/checkpoint/"));
            }
        }
        let whole = bundle
            .list
            .iter()
            .filter(|entry| matches!(entry, Entry::Full(_)))
            .count();
        assert_eq!(
            whole,
            evidence.checkpoints.len(),
            "checkpoint entries are never redacted"
        );
    }
}

#[test]
fn a_bundle_shows_exactly_what_is_stated_and_an_absence_names_two_neighbours() {
    let mut node = node();
    node.predating = vec![pod(4)];
    node.load();
    for n in [1, 3] {
        node.execute_good(&Actor::pod(pod(n), "/bin/app"), "/bin/app");
    }
    let evidence = node.attest(NONCE);
    let text = |bundle: &TenantBundle| serde_json::to_string(bundle).unwrap();
    // Checkpoint 0 names pods older than the collector, in whatever bundle holds it: to a reader that has not
    // followed.
    let holds = |bundle: &TenantBundle, uid: PodUid| bundle.to_cbor().windows(16).any(|w| w == uid.0);
    let whole = TenantBundle::prove(&evidence, pod(1), 0).unwrap();
    assert!(holds(&whole, pod(4)));
    let later = TenantBundle::prove(&evidence, pod(1), 4).unwrap();
    assert!(!holds(&later, pod(4)) && later.first.is_none());
    // Number of partitions, length of the list, counts: they stand in the checkpoint.
    let last = SealedCheckpoint::from_file(&whole.last).unwrap().checkpoint;
    assert_eq!((last.partitions, whole.list.len() as u64), (3, last.list_len + 1));
    // An absence names its neighbours.
    let absent = TenantBundle::prove(&evidence, pod(2), 0).unwrap();
    assert!(text(&absent).contains(&pod(1).to_string()) && text(&absent).contains(&pod(3).to_string()));
    let verdict = appraised(&node, &absent, pod(2), None);
    assert_eq!(
        (verdict.outcome, verdict.pod, verdict.records),
        (Outcome::Absent, None, 0)
    );
}

#[test]
fn a_record_removed_from_the_partition_is_refused_though_the_proof_is_adjusted() {
    for gone in 0..4 {
        must_fail(Rule::Records, |bundle, _| {
            bundle.records.remove(gone);
            let PartitionProof::Present(placed) = &mut bundle.proof else {
                panic!()
            };
            placed.partition.size -= 1;
            placed.partition.root =
                cgpath_evidence::merkle::root(bundle.records.iter().map(cgpath_evidence::Record::leaf_hash));
        });
        must_fail(Rule::Records, |bundle, _| {
            bundle.records.remove(gone);
        });
    }
    must_fail(Rule::Records, |bundle, _| bundle.records.swap(0, 1));
    must_fail(Rule::Records, |bundle, _| {
        bundle.records[0].path = b"/bin/other".to_vec()
    });
}

#[test]
fn the_partition_of_another_pod_under_this_uid_is_refused() {
    must_fail(Rule::Records, |bundle, node| {
        let evidence = node.evidence(bundle.quote.clone());
        let theirs = TenantBundle::prove(&evidence, pod(2), 0).unwrap();
        *bundle = TenantBundle {
            pod: pod(1),
            ear: bundle.ear.clone(),
            ..theirs
        };
    });
    must_fail(Rule::Records, |bundle, node| {
        let evidence = node.evidence(bundle.quote.clone());
        let mut theirs = TenantBundle::prove(&evidence, pod(2), 0).unwrap();
        if let PartitionProof::Present(placed) = &mut theirs.proof {
            placed.partition.key = PartitionKey::Pod(pod(1));
        }
        *bundle = TenantBundle {
            pod: pod(1),
            ear: bundle.ear.clone(),
            ..theirs
        };
    });
    // The bundle as it is, for a reader who asks about another pod.
    let mut node = node();
    let (_, theirs) = bundle(&mut node, pod(2));
    let verdict = appraised(&node, &theirs, pod(1), None);
    assert_eq!(verdict.outcome, Outcome::Untrusted, "{verdict}");
}

#[test]
fn a_proof_for_a_tree_of_another_size_or_with_counts_that_overflow_is_refused() {
    for (size, index) in [(u64::MAX, 0), (0, 0), (4, u64::MAX), (4, 3), (3, 0)] {
        must_fail(Rule::Records, |bundle, _| {
            let PartitionProof::Present(placed) = &mut bundle.proof else {
                panic!()
            };
            (placed.partition.size, placed.index) = (size, index);
        });
    }
    must_fail(Rule::Chain, |bundle, _| bundle.from = u64::MAX);
}

#[test]
fn digests_of_the_list_that_were_altered_dropped_or_reordered_are_refused() {
    must_fail(Rule::Coverage, |bundle, _| {
        let other = vec![Digest::ones(Bank::Sha256)];
        bundle.list[2] = Entry::Opaque {
            pcr: 10,
            digests: other,
            hash: None,
        };
    });
    must_fail(Rule::Coverage, |bundle, _| {
        bundle.list.remove(1);
    });
    must_fail(Rule::Coverage, |bundle, _| bundle.list.swap(1, 2));
    must_fail(Rule::Coverage, |bundle, _| {
        bundle.list[2] = Entry::Opaque {
            pcr: 10,
            digests: vec![],
            hash: None,
        };
    });
    must_fail(Rule::Coverage, |bundle, _| bundle.list.clear());
}

#[test]
fn a_checkpoint_that_is_not_in_the_quoted_list_not_signed_or_not_fresh_is_refused() {
    // Redacted: nothing says any more what file it was.
    must_fail(Rule::Chain, |bundle, node| {
        let full = bundle.list.len() - 1;
        let digest = node.list[full].digest(Bank::Sha256);
        bundle.list[full] = Entry::Opaque {
            pcr: 10,
            digests: vec![digest],
            hash: None,
        };
    });
    // Another file in its place: signed by the same key, and never extended.
    must_fail(Rule::Chain, |bundle, node| {
        let mut forged = SealedCheckpoint::from_file(&bundle.last).unwrap().checkpoint;
        forged.losses = cgpath_evidence::Losses::default();
        forged.records += 1;
        bundle.last = SealedCheckpoint::seal(forged, &node.signing).file;
    });
    must_fail(Rule::Chain, |bundle, _| {
        bundle.last = bundle.first.clone().unwrap()
    });
    must_fail(Rule::Chain, |bundle, _| bundle.first = None);
    must_fail(Rule::Chain, |bundle, _| bundle.first = Some(bundle.last.clone()));
    must_fail(Rule::Quote, |bundle, node| {
        let evidence = node.attest(b"another nonce than this");
        let fresh = TenantBundle::prove(&evidence, pod(1), 0).unwrap();
        *bundle = fresh;
    });
    // The right nonce in the quote, another one in the checkpoint.
    must_fail(Rule::Chain, |bundle, node| {
        node.seal(Some(b"another nonce than this"));
        let quote = node.quote(NONCE);
        *bundle = TenantBundle::prove(&node.evidence(quote), pod(1), 0).unwrap();
    });
}

#[test]
fn another_key_losses_a_blind_checkpoint_and_another_template_are_refused() {
    must_fail(Rule::Quote, |_, node| {
        node.ak = cgpath_testkit::AttestationKey::new(KeyKind::EcdsaP256, 9)
    });
    must_fail(Rule::Losses, |bundle, node| {
        node.losses.reserve = 1;
        let evidence = node.attest(NONCE);
        *bundle = TenantBundle::prove(&evidence, pod(1), 0).unwrap();
    });
    must_fail(Rule::Losses, |bundle, node| {
        node.blind = true;
        let evidence = node.attest(NONCE);
        *bundle = TenantBundle::prove(&evidence, pod(1), 0).unwrap();
    });
    // A relabelled entry of the pod's own, and one of the checkpoint's.
    must_fail(Rule::Template, |bundle, _| relabel(&mut bundle.entries[0]));
    must_fail(Rule::Template, |bundle, _| {
        let Some(Entry::Full(record)) = bundle.list.last_mut() else {
            panic!()
        };
        relabel(record);
    });
}

/// `ima-ng` as its own field list, which has the same shape: so it still replays.
fn relabel(record: &mut Vec<u8>) {
    let label = b"d-ng|n-ng";
    record.splice(24..34, [&(label.len() as u32).to_le_bytes()[..], label].concat());
}

#[test]
fn an_entry_of_the_pod_that_is_hidden_or_another_one_is_refused() {
    must_fail(Rule::Records, |bundle, _| {
        bundle.entries.remove(0);
    });
    must_fail(Rule::Coverage, |bundle, _| {
        let last = bundle.entries[0].len() - 2;
        bundle.entries[0][last] ^= 1;
    });
}

#[test]
fn a_follower_is_sent_only_what_is_new_and_the_next_bundle_must_go_on_from_there() {
    let mut node = node();
    let (_, first) = bundle(&mut node, pod(1));
    let state = appraised(&node, &first, pod(1), None).state.unwrap();
    assert_eq!(state.followed(), node.list.len() as u64);
    node.execute_good(&Actor::host("/sbin/init"), "/sbin/init");
    let evidence = node.attest(NONCE);
    let next = bundle_from(&node, &evidence, pod(1), state.followed());
    assert!(
        next.list.len() <= 3 && next.first.is_none(),
        "{}",
        next.list.len()
    );
    let verdict = appraised(&node, &next, pod(1), Some(state.clone()));
    assert_eq!(verdict.outcome, Outcome::Trusted, "{verdict}");
    let later = verdict.state.unwrap();
    // The whole list again serves as well: resynchronisation.
    let whole = bundle_from(&node, &evidence, pod(1), 0);
    assert_eq!(
        appraised(&node, &whole, pod(1), Some(state.clone())).outcome,
        Outcome::Trusted
    );

    let refused = |bundle: &TenantBundle, state: Option<TenantState>, rule: Rule| {
        let verdict = appraised(&node, bundle, pod(1), state);
        assert_eq!(verdict.outcome, Outcome::Untrusted, "{verdict}");
        assert!(verdict.findings.iter().any(|f| f.rule == rule), "{verdict}");
    };
    // To one that has not followed, or is somewhere else; again; an older one.
    refused(&next, None, Rule::Chain);
    refused(
        &TenantBundle {
            from: next.from - 1,
            ..next.clone()
        },
        Some(state.clone()),
        Rule::Chain,
    );
    refused(&next, Some(later.clone()), Rule::Chain);
    refused(&first, Some(later), Rule::Chain);
    // A list that was another one before.
    let mut elsewhere = state.clone();
    elsewhere.node.pcrs = vec![Digest::ones(Bank::Sha256)];
    refused(&next, Some(elsewhere.clone()), Rule::Coverage);
    refused(&whole, Some(elsewhere), Rule::Chain);
    // A record of before that is another one now.
    let mut altered = state.clone();
    altered.partition.as_mut().unwrap().root = [1; 32];
    refused(&next, Some(altered), Rule::Records);
    // Another pod's memory, another checkpoint key.
    refused(
        &next,
        Some(TenantState {
            pod: pod(2),
            ..state.clone()
        }),
        Rule::History,
    );
    let key = vec![2; 33];
    refused(
        &next,
        Some(TenantState {
            checkpoint_key: key,
            ..state.clone()
        }),
        Rule::Chain,
    );
    // After a reboot the old position is worth nothing, and a bundle from the start is.
    node.reboot();
    node.execute_good(&Actor::pod(pod(1), "/bin/app"), "/bin/app");
    let (_, rebooted) = bundle(&mut node, pod(1));
    let verdict = appraised(&node, &rebooted, pod(1), Some(state));
    assert_eq!(verdict.outcome, Outcome::Trusted, "{verdict}");
}

#[test]
fn a_pod_that_is_older_than_the_collector_is_never_trusted_and_a_follower_remembers_it() {
    let mut node = node();
    node.predating = vec![pod(1)];
    node.load();
    node.execute_good(&Actor::pod(pod(1), "/bin/app"), "/bin/app");
    let (_, first) = bundle(&mut node, pod(1));
    let verdict = appraised(&node, &first, pod(1), None);
    assert_eq!(verdict.pod.as_ref().unwrap().state, State::PredatesCollector);
    assert_ne!(verdict.outcome, Outcome::Trusted);
    // The full verifier says so as well, so there is nothing to remember here; a follower would have learned
    // it before.
    let only = TenantBundle { ear: None, ..first };
    let state = appraised(&node, &only, pod(1), None).state.unwrap();
    assert!(state.predates);
    let evidence = node.attest(NONCE);
    let next = TenantBundle::prove(&evidence, pod(1), state.followed()).unwrap();
    let verdict = appraised(&node, &next, pod(1), Some(state));
    assert_eq!(verdict.pod.unwrap().state, State::PredatesCollector);
}

#[test]
fn no_bundle_is_made_of_evidence_that_does_not_hold_together() {
    let mut node = node();
    let evidence = node.attest(NONCE);
    let prove = |change: &dyn Fn(&mut Evidence), from| not_proven(&evidence, pod(1), from, change);
    assert_eq!(prove(&|e| e.checkpoints.clear(), 0), ProveError::NoCheckpoint);
    assert!(matches!(
        prove(&|e| e.checkpoints.truncate(1), 0),
        ProveError::NotSealed
    ));
    assert!(matches!(
        prove(&|e| e.list.truncate(3), 0),
        ProveError::NotCovered { entries: 3 }
    ));
    assert!(matches!(prove(&|_| {}, u64::MAX), ProveError::From { .. }));
    assert!(matches!(
        prove(&|_| {}, evidence.list.len() as u64),
        ProveError::NotAnchored(_)
    ));
    assert_eq!(
        prove(&|e| e.partitions[0].records.clear(), 0),
        ProveError::NotSealed
    );
    assert!(matches!(
        prove(&|e| tpm(&mut e.quote).attest.truncate(9), 0),
        ProveError::Unreadable { .. }
    ));
}

#[test]
fn no_changed_byte_of_a_bundle_makes_it_trusted_with_other_content() {
    let mut node = node();
    let (_, good) = bundle(&mut node, pod(1));
    let bytes = good.to_cbor();
    let (policy, context) = (policy(&node, pod(1)), context(&node, None));
    let mut decoded = 0;
    // Of the places that decode, each second one: the whole takes a quarter of a minute.
    for at in (0..bytes.len()).step_by(2) {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        let Ok(bundle) = TenantBundle::from_cbor(&changed) else {
            continue;
        };
        decoded += 1;
        let verdict = verify(&bundle, pod(1), &policy, &context).unwrap();
        // The node's own name for itself is the one thing that nothing binds: the key decides.
        assert!(
            verdict.outcome != Outcome::Trusted || bundle.node != good.node,
            "byte {at}: {verdict}"
        );
    }
    assert!(decoded > 500, "{decoded}");
}

#[test]
fn a_bundle_in_another_form_or_with_absurd_lengths_is_refused() {
    let mut node = node();
    let (_, good) = bundle(&mut node, pod(1));
    let bytes = good.to_cbor();
    for n in (0..bytes.len()).step_by(11) {
        assert!(
            matches!(
                TenantBundle::from_cbor(&bytes[..n]),
                Err(cgpath_evidence::Error::Incomplete { .. })
            ),
            "{n}"
        );
    }
    // Version 1 with a longer argument; 10 GiB where the node's name stands.
    let longer = [&bytes[..2], &[0x18, 1], &bytes[3..]].concat();
    assert_eq!(
        TenantBundle::from_cbor(&longer),
        Err(cgpath_evidence::Error::NotDeterministic {
            what: "tenant's bundle"
        })
    );
    let name = bytes.windows(8).position(|w| w == b"worker-1").unwrap();
    let huge = [
        &bytes[..name - 1],
        &[0x7b],
        &(10u64 << 30).to_be_bytes(),
        &bytes[name..],
    ]
    .concat();
    assert!(matches!(
        TenantBundle::from_cbor(&huge),
        Err(cgpath_evidence::Error::Incomplete { .. })
    ));
    let json = serde_json::to_string(&good).unwrap();
    let twice = json.replacen("\"version\":1", "\"version\":1,\"version\":1", 1);
    let read =
        |text: &str| cgpath_evidence::json::from_slice::<TenantBundle>(text.as_bytes(), "bundle", 1 << 24);
    assert_eq!(read(&json).unwrap(), good);
    assert!(read(&twice).unwrap_err().to_string().contains("stands twice"));
}

#[test]
fn a_bundle_of_a_measured_boot_carries_its_registers_and_believes_no_others() {
    let mut node = Node::boot(KeyKind::EcdsaP256).with_boot(|_| ());
    node.execute_good(&Actor::pod(pod(1), "/bin/app"), "/bin/app");
    let (evidence, bundle) = bundle(&mut node, pod(1));
    assert_eq!(appraised(&node, &bundle, pod(1), None).outcome, Outcome::Trusted);
    let boot = evidence.boot.unwrap();
    assert_eq!(bundle.registers.as_ref(), Some(&boot.registers));
    let bytes = bundle.to_cbor();
    let log = boot.log.unwrap();
    assert!(
        !bytes
            .windows(64)
            .any(|part| log.windows(64).any(|logged| logged == part)),
        "the log is not shown"
    );

    let mut other = FirmwareLog::good();
    other.add_command_line("init=/bin/sh");
    for registers in [None, Some(vec![]), Some(vec![other.registers(Bank::Sha256)])] {
        let false_bundle = TenantBundle {
            registers,
            ..bundle.clone()
        };
        assert_eq!(
            appraised(&node, &false_bundle, pod(1), None).outcome,
            Outcome::Untrusted
        );
    }
}

#[test]
fn a_finding_names_the_entry_that_the_node_s_list_has_under_that_number() {
    let mut node = node();
    node.execute(&Actor::pod(pod(1), "/bin/app"), "/bin/app", &sha256(b"evil"));
    let (evidence, whole) = bundle(&mut node, pod(1));
    let full = appraise(&evidence, &node.policy(), &node.context(NONCE, None)).unwrap();
    let number = |findings: &[cgpath_appraisal::Finding]| {
        let wrong = findings
            .iter()
            .find(|f| f.rule == Rule::PodContents && f.path.is_some());
        wrong.unwrap().index
    };
    let wanted = number(&full.pod(pod(1)).unwrap().findings);
    // Of a bundle it is the only entry that is shown, or one of few.
    assert!(wanted > Some(2), "{wanted:?}");
    let verdict = appraised(&node, &whole, pod(1), None);
    assert_eq!(
        number(&verdict.pod.as_ref().unwrap().findings),
        wanted,
        "{verdict}"
    );

    // Another template than the tenant's policy pins: each finding names an entry that has it.
    let yaml = tenant_yaml(pod(1)).replace("templates: [ima-ng]", "templates: [ima-sig]");
    let other = load_tenant(&node, pod(1), &yaml);
    let verdict = verify(&whole, pod(1), &other, &context(&node, None)).unwrap();
    let templates: Vec<_> = verdict
        .findings
        .iter()
        .filter(|f| f.rule == Rule::Template)
        .collect();
    assert!(!templates.is_empty(), "{verdict}");
    for finding in templates {
        let index = usize::try_from(finding.index.unwrap()).unwrap();
        let Entry::Full(entry) = &evidence.list[index] else {
            panic!("the node's list is whole")
        };
        let path = finding.path.as_deref().unwrap();
        assert!(entry.windows(path.len()).any(|part| part == path), "{finding:?}");
    }
}
