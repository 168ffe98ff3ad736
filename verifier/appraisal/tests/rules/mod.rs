//! Must-fail tests: one interference for each property, by the number of the rule that must notice it.
//!
//! Each starts from a node that is trusted and ends in a verdict that is not, for the reason that is meant.

mod kernel_tier;
mod output;
mod v10_boot;
mod v11_host;
mod v12_violations;
mod v13_absence;
mod v14_guard;
mod v1_quote;
mod v2_list;
mod v3_template;
mod v4_checkpoints;
mod v5_records;
mod v6_losses;
mod v7_history;
mod v8_pods;
mod v9_pods_files;

use cgpath_appraisal::{
    Context, ExpectedNonce, Finding, MAX_UNNAMED, NodeState, PinnedKey, Rule, Severity, State, Subject,
    Unusable, Verdict, appraise,
};
use cgpath_evidence::{
    Bank, Digest, Entry, EventKind, Evidence, FileHash, GuardAction, GuardMode, Load, Loaded, Losses,
    PartitionKey, PodLoss, SealedCheckpoint, Tier,
};
use cgpath_policy::Policy;
use cgpath_testkit::{
    Actor, AttestationKey, COLLECTOR, GOOD_ATTRIBUTES, IMA_POLICY, KeyKind, Measurement, Node, pod, sha256,
    tpm,
};

const NONCE: &[u8] = b"the nonce of this request";
const NEXT: &[u8] = b"the nonce of the next one";

/// Pods 1 to 4 and the host have run what they may.
fn busy() -> Node {
    Node::busy(KeyKind::EcdsaP256)
}

fn appraised(node: &Node, evidence: &Evidence) -> Verdict {
    appraise(evidence, &node.policy(), &node.context(NONCE, None)).unwrap()
}

fn appraised_next(node: &Node, evidence: &Evidence, before: &NodeState) -> Verdict {
    appraise(
        evidence,
        &node.policy(),
        &node.context(NEXT, Some(before.clone())),
    )
    .unwrap()
}

/// The programs are loaded after this entry, the last one of the boot.
fn load_after(node: &mut Node, entry: Measurement) {
    node.list.truncate(usize::try_from(node.boot_len).unwrap());
    node.list.push(entry);
    node.load_again();
}

/// A first round that is trusted, and what to remember of it.
fn first_round(node: &mut Node) -> NodeState {
    let evidence = node.attest(NONCE);
    let verdict = appraised(node, &evidence);
    assert!(verdict.trusted, "{verdict}");
    verdict.state.unwrap()
}

#[track_caller]
fn fails(verdict: &Verdict, rule: Rule, words: &str) -> Finding {
    let found = verdict
        .failures()
        .find(|f| f.rule == rule && f.text.contains(words))
        .cloned();
    assert!(!verdict.trusted, "trusted though {rule} must fail:\n{verdict}");
    found.unwrap_or_else(|| panic!("no failure of {rule} that says {words:?}:\n{verdict}"))
}

/// The node fails and so does every pod: nothing of the evidence is to be believed.
#[track_caller]
fn disbelieved(verdict: &Verdict, rule: Rule, words: &str) -> Finding {
    let finding = fails(verdict, rule, words);
    assert_eq!(verdict.node.state, State::Untrusted);
    assert!(
        verdict.pods.iter().all(|p| p.state != State::Trusted),
        "{verdict}"
    );
    assert!(
        verdict.state.is_none(),
        "what is not believed must not be remembered"
    );
    finding
}

/// The pods' states in the order of their UIDs.
fn states(verdict: &Verdict) -> Vec<State> {
    verdict.pods.iter().map(|p| p.state).collect()
}
