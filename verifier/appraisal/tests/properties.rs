//! No change to evidence makes an untrusted node trusted, and whatever is changed in trusted evidence shows.

use cgpath_appraisal::{Context, Verdict, appraise};
use cgpath_evidence::{Entry, Evidence, PodInfo};
use cgpath_policy::Policy;
use cgpath_testkit::{Actor, KeyKind, Node, pod, sha256, tpm};
use proptest::prelude::*;
use std::sync::OnceLock;

const NONCE: &[u8] = b"the nonce of this request";

/// A small node: one pod, one service of the host, one violation that the policy permits, three checkpoints.
fn small() -> Node {
    let mut node = Node::boot(KeyKind::EcdsaP256);
    node.extra_policy += "violations: {permit: ['/var/log/*']}\n";
    node.pod_files.retain(|uid, _| *uid == pod(1));
    node.execute_good(&Actor::host("/sbin/init"), "/usr/bin/tool");
    node.seal(None);
    node.execute_good(&Actor::pod(pod(1), "/bin/app"), "/bin/app");
    node.pods = vec![PodInfo {
        uid: pod(1),
        namespace: "default".into(),
        name: "app".into(),
    }];
    node
}

struct Case {
    evidence: Evidence,
    policy: Policy,
    context: Context,
}

impl Case {
    fn new(mut node: Node) -> Case {
        let mut evidence = node.attest(NONCE);
        // Nothing binds what waits for the next seal; that one must seal it as it was shown.
        evidence.unsealed.clear();
        Case {
            evidence,
            policy: node.policy(),
            context: node.context(NONCE, None),
        }
    }

    fn appraise(&self, evidence: &Evidence) -> Verdict {
        appraise(evidence, &self.policy, &self.context).unwrap()
    }

    /// Whether the bytes are evidence, and are trusted.
    fn trusts(&self, bytes: &[u8]) -> Option<Evidence> {
        let evidence = Evidence::from_cbor(bytes).ok()?;
        appraise(&evidence, &self.policy, &self.context)
            .is_ok_and(|v| v.trusted)
            .then_some(evidence)
    }
}

fn trusted() -> &'static Case {
    static CASE: OnceLock<Case> = OnceLock::new();
    CASE.get_or_init(|| {
        let case = Case::new(small());
        let verdict = case.appraise(&case.evidence);
        assert!(verdict.trusted, "{verdict}");
        case
    })
}

fn untrusted() -> &'static Case {
    static CASE: OnceLock<Case> = OnceLock::new();
    CASE.get_or_init(|| {
        let mut node = small();
        node.execute(&Actor::pod(pod(1), "/bin/app"), "/bin/app", &sha256(b"tampered"));
        let case = Case::new(node);
        assert!(!case.appraise(&case.evidence).trusted);
        case
    })
}

/// The same but for what only people read: what the node calls itself, its kernel's name, what the runtime
/// calls pods.
fn without_hints(evidence: &Evidence) -> Evidence {
    Evidence {
        node: String::new(),
        kernel: String::new(),
        pods: Vec::new(),
        ..evidence.clone()
    }
}

#[test]
fn each_changed_byte_of_trusted_evidence_shows() {
    let case = trusted();
    let bytes = case.evidence.to_cbor();
    let mut hints = 0;
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        // Each position gets another bit, so that all of them are tried many times over.
        changed[at] ^= 1 << (at % 8);
        if let Some(evidence) = case.trusts(&changed) {
            assert_eq!(
                without_hints(&evidence),
                without_hints(&case.evidence),
                "byte {at} of {} was changed and nobody noticed",
                bytes.len()
            );
            hints += 1;
        }
    }
    assert!(hints > 0 && hints < 64, "{hints} bytes were taken for hints");
}

#[test]
fn no_truncation_of_trusted_evidence_is_evidence() {
    let bytes = trusted().evidence.to_cbor();
    for len in 0..bytes.len() {
        assert!(
            Evidence::from_cbor(&bytes[..len]).is_err(),
            "{len} of {}",
            bytes.len()
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_changed_bytes_turn_untrusted_evidence_into_trusted(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let case = untrusted();
        let mut bytes = case.evidence.to_cbor();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        prop_assert!(case.trusts(&bytes).is_none());
    }

    #[test]
    fn no_parts_taken_from_good_evidence_turn_untrusted_evidence_into_trusted(
        take in prop::collection::vec(any::<bool>(), 5),
    ) {
        let (good, bad) = (&trusted().evidence, &untrusted().evidence);
        prop_assume!(take.iter().any(|t| !t));
        let mut mixed = bad.clone();
        if take[0] { mixed.quote = good.quote.clone(); }
        if take[1] { mixed.list = good.list.clone(); }
        if take[2] { mixed.checkpoints = good.checkpoints.clone(); }
        if take[3] { mixed.partitions = good.partitions.clone(); }
        if take[4] { mixed.pods = Vec::new(); }
        let all = take[..4].iter().all(|t| *t);
        prop_assert_eq!(untrusted().appraise(&mixed).trusted, all);
    }

    #[test]
    fn no_dropped_doubled_or_swapped_item_turns_untrusted_evidence_into_trusted(
        which in 0..3usize,
        how in 0..3usize,
        a in any::<prop::sample::Index>(),
        b in any::<prop::sample::Index>(),
    ) {
        fn shuffle<T: Clone>(items: &mut Vec<T>, how: usize, a: prop::sample::Index, b: prop::sample::Index) {
            let (a, b) = (a.index(items.len()), b.index(items.len()));
            match how {
                0 => { items.remove(a); }
                1 => items.insert(b, items[a].clone()),
                _ => items.swap(a, b),
            }
        }
        for case in [trusted(), untrusted()] {
            let mut evidence = case.evidence.clone();
            match which {
                0 => shuffle(&mut evidence.list, how, a, b),
                1 => shuffle(&mut evidence.checkpoints, how, a, b),
                _ => {
                    let log = a.index(evidence.partitions.len());
                    shuffle(&mut evidence.partitions[log].records, how, a, b);
                }
            }
            // What follows the covered prefix is ahead of the quote, and nobody vouches for it.
            let is_same = evidence.list.starts_with(&case.evidence.list)
                && evidence.checkpoints == case.evidence.checkpoints
                && evidence.partitions == case.evidence.partitions;
            prop_assert!(!case.appraise(&evidence).trusted || is_same);
        }
    }

    #[test]
    fn appraisal_never_panics_whatever_the_parts_hold(
        attest in prop::collection::vec(any::<u8>(), 0..200),
        signature in prop::collection::vec(any::<u8>(), 0..200),
        ak in prop::collection::vec(any::<u8>(), 0..200),
        entry in prop::collection::vec(any::<u8>(), 0..200),
        checkpoint in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let case = trusted();
        let mut evidence = case.evidence.clone();
        tpm(&mut evidence.quote).attest = attest;
        tpm(&mut evidence.quote).signature = signature;
        tpm(&mut evidence.quote).ak = ak;
        evidence.list.push(Entry::Full(entry));
        evidence.checkpoints.push(checkpoint);
        prop_assert!(!case.appraise(&evidence).trusted);
    }
}
