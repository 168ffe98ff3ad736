//! V7: what is remembered of the node: boots, resets, lists that shrink.

use super::*;

#[test]
fn a_reboot_is_accepted_with_the_chain_starting_anew() {
    let mut node = busy();
    let state = first_round(&mut node);
    node.reboot();
    let evidence = node.attest(NEXT);
    let verdict = appraised_next(&node, &evidence, &state);
    assert!(verdict.trusted, "{verdict}");
    assert!(verdict.node.notes.iter().any(|n| n.contains("rebooted")));
}

#[test]
fn a_tpm_that_was_reset_sooner_than_a_machine_reboots_is_refused_unless_the_policy_says_how_fast_it_is() {
    let mut node = busy();
    let state = first_round(&mut node);
    node.reboot();
    for (seconds, min, is_good) in [
        (9, "", false),
        (10, "", true),
        (0, "min-reboot: 0\n", true),
        (60, "min-reboot: 61\n", false),
    ] {
        let mut node = node.clone();
        node.now = state.time + seconds;
        node.extra_policy += min;
        let evidence = node.attest(NEXT);
        let verdict = appraised_next(&node, &evidence, &state);
        if is_good {
            assert!(verdict.trusted, "{verdict}");
        } else {
            disbelieved(&verdict, Rule::History, "sooner than the machine can reboot");
        }
    }
}

/// A TPM that was reset by itself cannot be distinguished, after a wait, from a machine that rebooted.
#[test]
fn limit_a_tpm_that_is_reset_by_itself_and_fed_again_is_a_reboot_once_that_time_has_passed() {
    let mut node = busy();
    let state = first_round(&mut node);
    // The old kernel goes on, and hides what it ran: the new list begins as that of a real boot does.
    node.execute(&Actor::pod(pod(1), "/bin/app"), "/bin/hidden", &sha256(b"hidden"));
    node.reboot();
    let evidence = node.attest(NEXT);
    assert!(appraised_next(&node, &evidence, &state).trusted);
}

#[test]
fn evidence_of_the_boot_before_is_refused_after_a_reboot() {
    let mut node = busy();
    let mut old = node.clone();
    let _ = first_round(&mut node);
    node.reboot();
    let evidence = node.attest(NONCE);
    let state = appraised(&node, &evidence).state.unwrap();
    old.clock = node.clock + 1;
    let evidence = old.attest(NEXT);
    disbelieved(
        &appraised_next(&old, &evidence, &state),
        Rule::History,
        "reset counter went back",
    );
}

#[test]
fn a_restart_counter_or_a_clock_that_goes_back_is_refused() {
    let mut node = busy();
    node.restart_count = 5;
    let state = first_round(&mut node);
    node.restart_count = 4;
    let evidence = node.attest(NEXT);
    disbelieved(
        &appraised_next(&node, &evidence, &state),
        Rule::History,
        "restart counter went back",
    );

    let mut node = busy();
    let state = first_round(&mut node);
    node.clock -= 10_000;
    let evidence = node.attest(NEXT);
    disbelieved(
        &appraised_next(&node, &evidence, &state),
        Rule::History,
        "clock went back",
    );
}

#[test]
fn a_clock_may_lose_what_a_tpm_can_lose_at_an_unorderly_shutdown_and_no_more() {
    let go_back = |by: u64, safe: bool, is_reset: bool| {
        let mut node = busy();
        node.clock = 100_000_000;
        let state = first_round(&mut node);
        if is_reset {
            node.reboot();
        }
        node.clock = state.clock_ms - by;
        node.seal(Some(NEXT));
        let quote = node.quote_with(NEXT, |a| {
            a.clock = state.clock_ms - by;
            a.safe = safe;
        });
        let evidence = node.evidence(quote);
        appraised_next(&node, &evidence, &state)
    };
    let most = (1 << 22) - 1;
    let verdict = go_back(most, false, true);
    assert!(verdict.trusted, "{verdict}");
    let note = "lost 4194303 ms at an unorderly shutdown";
    assert!(verdict.node.notes.iter().any(|n| n.contains(note)), "{verdict}");
    disbelieved(&go_back(most + 1, false, true), Rule::History, "clock went back");
    disbelieved(&go_back(1, true, true), Rule::History, "clock went back");
    // That its clock may be wrong is no excuse for a TPM that counted no reset.
    disbelieved(&go_back(1, false, false), Rule::History, "clock went back");
}

#[test]
fn counters_that_a_tpm_obfuscates_are_compared_by_their_difference() {
    let mut node = busy();
    node.reset_count = u32::MAX;
    node.restart_count = u32::MAX;
    let state = first_round(&mut node);
    node.reset_count = 0;
    node.now += 60;
    node.boot_id = [2; 16];
    node.load();
    let evidence = node.attest(NEXT);
    let verdict = appraised_next(&node, &evidence, &state);
    assert!(verdict.trusted, "{verdict}");
}

#[test]
fn a_reset_without_a_new_boot_id_is_refused() {
    let mut node = busy();
    let state = first_round(&mut node);
    node.reset_count += 1;
    let evidence = node.attest(NEXT);
    disbelieved(
        &appraised_next(&node, &evidence, &state),
        Rule::History,
        "boot id is still the same",
    );
}

/// The list goes on in the new kernel, which adds its own boot_aggregate.
fn kexec(node: &mut Node, carry: bool) {
    let list = node.list.clone();
    let resets = node.reset_count;
    node.reboot();
    node.reset_count = resets;
    if carry {
        let boot: Vec<Measurement> = node
            .list
            .drain(..)
            .take(usize::try_from(node.boot_len).unwrap())
            .collect();
        node.list = list;
        node.list.push(Measurement::ima_ng(
            b"boot_aggregate",
            &sha256(b"pcrs of the new kernel"),
        ));
        node.list.extend(
            boot.into_iter()
                .filter(|m| !node.list.contains(m))
                .collect::<Vec<_>>(),
        );
        node.load_again();
    }
}

#[test]
fn a_new_boot_id_without_a_reset_is_refused_unless_the_policy_allows_kexec() {
    let mut node = busy();
    // What pods ran before stands in the new boot's part of the list, so the host must know it.
    let pods: Vec<_> = node.pod_files.values().cloned().collect();
    for (path, digests) in pods.into_iter().flatten() {
        node.host_files.entry(path).or_default().extend(digests);
    }
    let state = first_round(&mut node);
    kexec(&mut node, true);
    let evidence = node.attest(NEXT);
    disbelieved(&appraised_next(&node, &evidence, &state), Rule::History, "kexec");
    node.extra_policy += "kexec: allow\n";
    let verdict = appraised_next(&node, &evidence, &state);
    assert!(verdict.trusted, "{verdict}");
    assert!(verdict.node.notes.iter().any(|n| n.contains("kexec")));
}

#[test]
fn a_kexec_that_does_not_carry_the_list_over_is_refused_even_where_kexec_is_allowed() {
    let mut node = busy();
    node.extra_policy += "kexec: allow\n";
    let state = first_round(&mut node);
    kexec(&mut node, false);
    let evidence = node.attest(NEXT);
    let verdict = appraised_next(&node, &evidence, &state);
    disbelieved(&verdict, Rule::Chain, "");
}

#[test]
fn a_state_of_another_key_is_not_compared_away() {
    let mut node = busy();
    let mut state = first_round(&mut node);
    state.ak_name = AttestationKey::new(KeyKind::EcdsaP256, 2).name();
    let evidence = node.attest(NEXT);
    disbelieved(
        &appraised_next(&node, &evidence, &state),
        Rule::History,
        "another attestation key",
    );
}

/// What was covered last is what was judged in its time. A content under a checkpoint's name that comes right
/// behind that is judged by its content, by each kernel that the list is carried over to.
#[test]
fn a_checkpoints_name_right_behind_what_was_covered_hides_nothing_behind_a_kexec() {
    let mut node = busy();
    node.extra_policy += "kexec: allow\n";
    let pods: Vec<_> = node.pod_files.values().cloned().collect();
    for (path, digests) in pods.into_iter().flatten() {
        node.host_files.entry(path).or_default().extend(digests);
    }
    let first = first_round(&mut node);
    let place = node.list.len() as u64;
    assert_eq!(first.covered, place);
    let path = format!("{}70", cgpath_evidence::checkpoint::DIRECTORY);
    node.list
        .push(Measurement::ima_ng(path.as_bytes(), &sha256(b"rootkit")));
    let mut state = first;
    for kernel in 1..=2 {
        kexec(&mut node, true);
        for round in 0..2 {
            let evidence = node.attest(NEXT);
            let verdict = appraised_next(&node, &evidence, &state);
            let said = verdict.failures().filter(|f| f.rule == Rule::Host);
            let places: Vec<_> = said.map(|finding| finding.index).collect();
            assert_eq!(places, [Some(place)], "kernel {kernel}, round {round}: {verdict}");
            assert_eq!(verdict.node.state, State::Untrusted, "{verdict}");
            state = verdict.state.expect("the evidence is believed");
            assert_eq!(state.impostors, [place], "kernel {kernel}, round {round}");
        }
    }
}
