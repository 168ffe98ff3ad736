//! V6: losses of the node and of a pod.

use super::*;

#[test]
fn each_kind_of_loss_counts_and_the_tolerance_is_the_policys() {
    type Change = fn(&mut Losses);
    let kinds: [Change; 4] = [
        |l| l.reserve = 2,
        |l| l.recursion = 2,
        |l| l.read = 2,
        |l| l.spool = 2,
    ];
    for lose in kinds {
        let mut node = busy();
        lose(&mut node.losses);
        let evidence = node.attest(NONCE);
        let verdict = appraised(&node, &evidence);
        disbelieved(&verdict, Rule::Losses, "2 record(s) were lost");
        assert_eq!(verdict.node.lost, 2);
        node.extra_policy = "dangerous-boot-not-judged: true\ntolerance: {lost: 1}\n".into();
        disbelieved(&appraised(&node, &evidence), Rule::Losses, "were lost");
        node.extra_policy = "dangerous-boot-not-judged: true\ntolerance: {lost: 2}\n".into();
        let verdict = appraised(&node, &evidence);
        assert!(verdict.trusted, "{verdict}");
        assert!(
            verdict
                .node
                .findings
                .iter()
                .any(|f| f.severity == Severity::Tolerated && f.rule == Rule::Losses)
        );
    }
}

fn noise(mappings: u64) -> PodLoss {
    PodLoss {
        executions: 3,
        mappings,
        denials: 1,
        repeats: 5,
        first_ns: 61_005_000_000,
        last_ns: 62_000_000_000,
    }
}

#[test]
fn what_a_pod_lost_by_its_own_noise_is_the_pods_alone_until_it_ends_whatever_is_tolerated() {
    let mut node = busy();
    let noisy = Actor::pod(pod(2), "/bin/app");
    node.record_pod_loss(&noisy, noise(10));
    let first = node.attest(NONCE);
    let before = appraised(&node, &first).state.unwrap();
    // The later record holds, and is reported once.
    node.record_pod_loss(&noisy, noise(200));
    node.execute_good(&noisy, "/bin/app");
    for policy in ["", "tolerance: {lost: 1000000, unattributed: 1000}\n"] {
        node.extra_policy = format!("dangerous-boot-not-judged: true\n{policy}");
        let evidence = node.clone().attest(NEXT);
        let verdict = appraised_next(&node, &evidence, &before);
        let finding = fails(&verdict, Rule::Losses, "more than its budget");
        assert_eq!(finding.subject, Subject::Partition(PartitionKey::Pod(pod(2))));
        let found = finding.found.unwrap();
        assert!(
            found.contains("3 executions, 200 mappings, 1 denials, 5 entries") && found.contains("61.005 s"),
            "{found}"
        );
        assert_eq!(verdict.failures().count(), 1, "{verdict}");
        assert_eq!((verdict.node.state, verdict.node.lost), (State::Trusted, 0));
        for found in &verdict.pods {
            let is_it = found.uid == pod(2);
            let wanted = if is_it { State::Untrusted } else { State::Trusted };
            assert_eq!((found.state, found.charged), (wanted, is_it), "{verdict}");
        }
    }
    assert!(!cgpath_appraisal::accept::is_waivable(Rule::Losses));
}

#[test]
fn a_loss_for_a_budget_that_is_no_pods_or_is_half_stated_is_the_nodes() {
    for actor in [Actor::host("/usr/bin/tool"), Actor::lost("/bin/app")] {
        let mut node = busy();
        node.record_pod_loss(&actor, noise(1));
        let evidence = node.attest(NONCE);
        disbelieved(&appraised(&node, &evidence), Rule::Losses, "outside of all pods");
    }
    let mut node = busy();
    node.record_pod_loss(&Actor::pod(pod(2), "/bin/app"), noise(1));
    node.waiting.last_mut().unwrap().1.pod_loss = None;
    let evidence = node.attest(NONCE);
    disbelieved(
        &appraised(&node, &evidence),
        Rule::Losses,
        "does not say what was lost",
    );
    let mut node = busy();
    node.execute_good(&Actor::pod(pod(2), "/bin/app"), "/bin/app");
    node.waiting.last_mut().unwrap().1.pod_loss = Some(noise(1));
    let evidence = node.attest(NONCE);
    disbelieved(&appraised(&node, &evidence), Rule::Losses, "of another kind");
}

#[test]
fn hidden_losses_break_the_signature() {
    let mut node = busy();
    node.losses.reserve = 5;
    let mut evidence = node.attest(NONCE);
    let last = evidence.checkpoints.last_mut().unwrap();
    // Map key 10, losses, of which key 0 is 5.
    let at = last
        .windows(4)
        .position(|w| w == [0x0a, 0xa4, 0x00, 0x05])
        .unwrap();
    last[at + 3] = 0;
    let verdict = appraised(&node, &evidence);
    disbelieved(&verdict, Rule::Chain, "not signed");
    fails(&verdict, Rule::Chain, "does not stand in the covered part");
}

#[test]
fn a_blind_checkpoint_fails_also_when_a_later_one_sees_again() {
    let mut node = busy();
    node.blind = true;
    let evidence = node.attest(NONCE);
    disbelieved(
        &appraised(&node, &evidence),
        Rule::Losses,
        "checkpoint 1 is blind",
    );
    node.blind = false;
    let evidence = node.attest(NEXT);
    let verdict = appraise(&evidence, &node.policy(), &node.context(NEXT, None)).unwrap();
    disbelieved(&verdict, Rule::Losses, "checkpoint 1 is blind");
}
