//! V4: checkpoints, their chain, their anchors and who read their files.

use super::*;

/// Two checkpoints without a nonce between checkpoint 0 and the last one.
fn long() -> Node {
    let mut node = busy();
    node.seal(None);
    node.execute_good(&Actor::pod(pod(3), "/bin/app"), "/bin/app");
    node.seal(None);
    node
}

#[test]
fn a_dropped_a_doubled_and_a_reordered_checkpoint_are_refused() {
    let mut node = long();
    let good = node.attest(NONCE);
    assert!(appraised(&node, &good).trusted);
    let mut dropped = good.clone();
    dropped.checkpoints.remove(1);
    let mut doubled = good.clone();
    doubled.checkpoints.insert(1, good.checkpoints[1].clone());
    let mut reordered = good.clone();
    reordered.checkpoints.swap(1, 2);
    for evidence in [dropped, doubled, reordered] {
        disbelieved(&appraised(&node, &evidence), Rule::Chain, "numbered");
    }
    let mut without_last = good.clone();
    without_last.checkpoints.pop();
    disbelieved(
        &appraised(&node, &without_last),
        Rule::Chain,
        "not made for this request",
    );
    let mut without_first = good.clone();
    without_first.checkpoints.remove(0);
    disbelieved(&appraised(&node, &without_first), Rule::Chain, "key");
    let mut without_any = good.clone();
    without_any.checkpoints.clear();
    for with_records in [true, false] {
        if !with_records {
            without_any.partitions.clear();
        }
        let verdict = appraised(&node, &without_any);
        disbelieved(&verdict, Rule::Chain, "holds no checkpoint");
    }
    let mut unreadable = good;
    unreadable.checkpoints[2] = b"no checkpoint".to_vec();
    disbelieved(
        &appraised(&node, &unreadable),
        Rule::Chain,
        "checkpoint file 2 cannot be read",
    );
}

#[test]
fn a_fork_shows_the_second_file_of_one_number() {
    let mut node = busy();
    let fork = SealedCheckpoint::seal(node.draft(Some(b"some other nonce")), &node.signing);
    node.seal(None);
    node.anchor(&fork);
    let evidence = node.attest(NONCE);
    let finding = disbelieved(&appraised(&node, &evidence), Rule::Chain, "forked");
    assert!(finding.path.unwrap().ends_with(b"/checkpoint/1"));
}

#[test]
fn a_checkpoint_that_was_swapped_after_it_was_measured_is_refused() {
    let mut node = long();
    let mut evidence = node.attest(NONCE);
    let mut other = node.checkpoints[1].checkpoint.clone();
    other.starts = 9;
    evidence.checkpoints[1] = SealedCheckpoint::seal(other, &node.signing).file;
    let verdict = appraised(&node, &evidence);
    disbelieved(&verdict, Rule::Chain, "does not stand in the covered part");
    fails(&verdict, Rule::Chain, "as its predecessor");
}

#[test]
fn a_checkpoint_that_another_key_signed_is_refused() {
    let mut node = busy();
    node.signing = p256::ecdsa::SigningKey::from_slice(&[7; 32]).unwrap();
    let evidence = node.attest(NONCE);
    disbelieved(
        &appraised(&node, &evidence),
        Rule::Chain,
        "not signed by the key of checkpoint 0",
    );
}

#[test]
fn a_last_checkpoint_with_no_nonce_or_another_is_refused() {
    for nonce in [None, Some(&b"another nonce"[..])] {
        let mut node = busy();
        node.seal(nonce);
        let quote = node.quote(NONCE);
        let evidence = node.evidence(quote);
        disbelieved(
            &appraised(&node, &evidence),
            Rule::Chain,
            "not made for this request",
        );
    }
}

#[test]
fn a_last_checkpoint_that_the_quote_does_not_cover_is_refused() {
    let mut node = busy();
    let quote = node.quote(NONCE);
    node.seal(Some(NONCE));
    let evidence = node.evidence(quote);
    disbelieved(
        &appraised(&node, &evidence),
        Rule::Chain,
        "does not stand in the covered part",
    );
}

#[test]
fn a_frozen_register_fails_since_the_new_checkpoint_is_not_in_it() {
    let mut node = busy();
    let state = first_round(&mut node);
    let frozen = node.list.len();
    node.execute_good(&Actor::pod(pod(1), "/bin/app"), "/bin/app");
    node.seal(Some(NEXT));
    node.never_extended.extend(frozen..node.list.len());
    let quote = node.quote(NEXT);
    let evidence = node.evidence(quote);
    disbelieved(
        &appraised_next(&node, &evidence, &state),
        Rule::Chain,
        "does not stand in the covered part",
    );
}

#[test]
fn checkpoints_are_the_collectors_and_nobody_elses() {
    for actor in [Actor::host("/usr/bin/tool"), Actor::pod(pod(1), COLLECTOR)] {
        let mut node = busy();
        for (key, record) in std::mem::take(&mut node.waiting) {
            node.sealed.entry(key).or_default().push(record);
        }
        let sealed = SealedCheckpoint::seal(node.draft(None), &node.signing);
        node.measure(
            &actor,
            format!("{}1", cgpath_evidence::checkpoint::DIRECTORY),
            &sha256(&sealed.file),
        );
        node.checkpoints.push(sealed);
        let evidence = node.attest(NONCE);
        disbelieved(
            &appraised(&node, &evidence),
            Rule::Chain,
            "not read into the list by the collector",
        );
    }
}

#[test]
fn who_read_a_checkpoint_must_be_known_whatever_else_may_stay_unattributed() {
    let mut node = busy();
    node.extra_policy += "tolerance: {unattributed: 9}\n";
    let at = node.list.len() as u64;
    node.seal(None);
    node.waiting
        .retain(|(_, record)| !record.path.ends_with(b"/checkpoint/1"));
    node.seal_with(None, |c| c.settled = at);
    node.seal_with(Some(NONCE), |c| c.settled = at);
    let quote = node.quote(NONCE);
    let evidence = node.evidence(quote);
    disbelieved(
        &appraised(&node, &evidence),
        Rule::Chain,
        "no record says who read checkpoint 1",
    );
}

#[test]
fn a_checkpoint_shaped_entry_of_a_pod_is_charged_to_that_pod_alone() {
    let mut node = busy();
    let path = format!("{}1", cgpath_evidence::checkpoint::DIRECTORY);
    node.measure(
        &Actor::pod(pod(2), "/bin/app"),
        &path,
        &sha256(b"not a checkpoint"),
    );
    let evidence = node.attest(NONCE);
    let verdict = appraised(&node, &evidence);
    assert_eq!(verdict.node.state, State::Trusted, "{verdict}");
    assert_eq!(
        states(&verdict),
        [State::Trusted, State::Untrusted, State::Trusted, State::Trusted]
    );
}

#[test]
fn totals_that_go_back_are_refused() {
    type Change = fn(&mut cgpath_evidence::Checkpoint);
    let changes: [(Change, &str); 7] = [
        (|c| c.list_len = 1, "length of the list"),
        (|c| c.settled = 0, "settled"),
        (|c| c.records = 0, "records"),
        (|c| c.executions = 0, "executions"),
        (|c| c.last_seq = 0, "last sequence number"),
        (|c| c.partitions = 0, "partitions"),
        (|c| c.starts = 0, "starts"),
    ];
    for (change, words) in changes {
        let mut node = long();
        node.seal_with(Some(NONCE), change);
        let quote = node.quote(NONCE);
        let evidence = node.evidence(quote);
        disbelieved(
            &appraised(&node, &evidence),
            Rule::Chain,
            &format!("{words} went back"),
        );
    }
}

#[test]
fn losses_that_shrink_are_refused_each_by_its_name() {
    type Change = fn(&mut Losses);
    let kinds: [(Change, &str); 4] = [
        (|l| l.reserve = 1, "reserve"),
        (|l| l.recursion = 1, "recursion"),
        (|l| l.read = 1, "read"),
        (|l| l.spool = 1, "spool"),
    ];
    for (lose, words) in kinds {
        let mut node = busy();
        node.extra_policy += "tolerance: {lost: 5}\n";
        lose(&mut node.losses);
        node.seal(None);
        node.losses = Losses::default();
        let evidence = node.attest(NONCE);
        disbelieved(
            &appraised(&node, &evidence),
            Rule::Chain,
            &format!("losses ({words}) went back"),
        );
    }
}

#[test]
fn what_checkpoint_0_fixed_stays_fixed() {
    type Change = fn(&mut cgpath_evidence::Checkpoint);
    let changes: [(Change, &str); 5] = [
        (|c| c.boot_len += 1, "changes what checkpoint 0 fixed"),
        (
            |c| c.hierarchy = "v1:pids".into(),
            "changes what checkpoint 0 fixed",
        ),
        (|c| c.key = Some(vec![2; 33]), "what only checkpoint 0 may"),
        (|c| c.predating = vec![pod(9)], "what only checkpoint 0 may"),
        (|c| c.boot_id = [9; 16], "of another boot"),
    ];
    for (change, words) in changes {
        let mut node = busy();
        node.seal_with(Some(NONCE), change);
        let quote = node.quote(NONCE);
        let evidence = node.evidence(quote);
        disbelieved(&appraised(&node, &evidence), Rule::Chain, words);
    }
}

#[test]
fn checkpoint_0_can_not_call_more_of_the_boot_than_there_was() {
    let mut node = busy();
    node.checkpoints.clear();
    node.boot_len = 1_000;
    node.seal(Some(NONCE));
    let quote = node.quote(NONCE);
    let evidence = node.evidence(quote);
    disbelieved(
        &appraised(&node, &evidence),
        Rule::Chain,
        "older than the load than the list had",
    );
}

#[test]
fn a_checkpoint_that_claims_a_longer_list_than_where_it_stands_is_refused() {
    let mut node = busy();
    node.seal_with(Some(NONCE), |c| c.list_len += 1_000);
    let quote = node.quote(NONCE);
    let evidence = node.evidence(quote);
    disbelieved(
        &appraised(&node, &evidence),
        Rule::Chain,
        "longer than where it stands",
    );
}

#[test]
fn the_chain_goes_on_from_the_last_round() {
    let mut node = busy();
    let state = first_round(&mut node);
    node.execute_good(&Actor::pod(pod(1), "/bin/app"), "/bin/app");
    let evidence = node.attest(NEXT);
    let verdict = appraised_next(&node, &evidence, &state);
    assert!(verdict.trusted, "{verdict}");

    let mut other = state.clone();
    other.checkpoint.as_mut().unwrap().digest = [3; 32];
    disbelieved(
        &appraised_next(&node, &evidence, &other),
        Rule::Chain,
        "another one than the one seen before",
    );
    let mut without = state.clone();
    without.checkpoint = None;
    disbelieved(
        &appraised_next(&node, &evidence, &without),
        Rule::Chain,
        "had no checkpoints and this one does",
    );
    let mut ahead = state.clone();
    ahead.checkpoint.as_mut().unwrap().number = 100;
    disbelieved(&appraised_next(&node, &evidence, &ahead), Rule::Chain, "is gone");
    let mut further = state.clone();
    further.covered = 1_000;
    disbelieved(
        &appraised_next(&node, &evidence, &further),
        Rule::Chain,
        "covers less",
    );
    let mut rewritten = state;
    rewritten.pcrs = vec![sha256(b"another history")];
    disbelieved(
        &appraised_next(&node, &evidence, &rewritten),
        Rule::Chain,
        "is another one now",
    );
}

#[test]
fn evidence_without_a_new_checkpoint_is_refused_even_without_a_nonce() {
    let mut node = busy();
    let state = first_round(&mut node);
    let quote = node.quote(NEXT);
    let evidence = node.evidence(quote);
    let context = Context {
        nonce: ExpectedNonce::DangerousNone,
        ..node.context(NEXT, Some(state))
    };
    disbelieved(
        &appraise(&evidence, &node.policy(), &context).unwrap(),
        Rule::Chain,
        "no checkpoint was made since",
    );
}
