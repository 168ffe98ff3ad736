//! V14: the guard.

use super::*;

const AGAINST_US: [GuardAction; 12] = [
    GuardAction::MapOpened,
    GuardAction::MapRead,
    GuardAction::ProgramOpened,
    GuardAction::LinkOpened,
    GuardAction::LinkChanged,
    GuardAction::PinRemoved,
    GuardAction::PinRenamed,
    GuardAction::DirectoryRemoved,
    GuardAction::Unmounted,
    GuardAction::Traced,
    GuardAction::TpmUnbound,
    GuardAction::FtraceOpened,
];

#[test]
fn whoever_touches_the_collectors_parts_makes_the_node_untrusted_and_is_named() {
    for action in AGAINST_US {
        for is_denied in [false, true] {
            let mut node = busy();
            node.record_guard(&Actor::host("/usr/bin/rm"), action, "link_executed", is_denied);
            let evidence = node.attest(NONCE);
            let verdict = appraised(&node, &evidence);
            let words = if is_denied { ": denied" } else { ": not denied" };
            let finding = fails(&verdict, Rule::Guard, words);
            assert_eq!(finding.subject, Subject::Node);
            assert_eq!(finding.path.as_deref(), Some(&b"link_executed"[..]));
            let found = finding.found.unwrap();
            for part in [
                "/usr/bin/rm < /sbin/init",
                "/system.slice/some.service",
                "pid 1000",
                "uid 0",
            ] {
                assert!(found.contains(part), "{action:?}: {found}");
            }
            assert_eq!(verdict.node.state, State::Untrusted);
            assert_eq!(states(&verdict), [State::Trusted; 4], "the pods did nothing");
        }
    }
}

#[test]
fn a_pod_that_touches_them_makes_the_node_untrusted_and_is_named() {
    for action in AGAINST_US {
        let mut node = busy();
        node.record_guard(&Actor::pod(pod(2), "/bin/app"), action, "", false);
        let evidence = node.attest(NONCE);
        let verdict = appraised(&node, &evidence);
        let finding = fails(&verdict, Rule::Guard, ": not denied");
        assert_eq!((finding.subject, finding.path), (Subject::Node, None));
        assert!(finding.found.unwrap().contains(&pod(2).to_string()));
        assert_eq!(verdict.node.state, State::Untrusted);
    }
}

#[test]
fn what_was_denied_to_a_pod_is_the_pods_alone() {
    for action in AGAINST_US {
        let mut node = busy();
        node.record_guard(&Actor::pod(pod(2), "/bin/app"), action, "x", true);
        let evidence = node.attest(NONCE);
        let verdict = appraised(&node, &evidence);
        let finding = fails(&verdict, Rule::Guard, ": denied");
        assert_eq!(finding.subject, Subject::Partition(PartitionKey::Pod(pod(2))));
        assert_eq!(verdict.node.state, State::Trusted, "{verdict}");
        for found in &verdict.pods {
            let is_it = found.uid == pod(2);
            assert_eq!(found.state == State::Untrusted, is_it, "{verdict}");
            assert_eq!(found.state == State::Trusted, !is_it, "{verdict}");
        }
    }
}

#[test]
fn who_is_charged_with_something_of_its_own_is_named_though_the_node_is_not_believed() {
    let mut node = busy();
    let verdict = appraised(&node, &node.clone().attest(NONCE));
    assert!(verdict.node.believed && verdict.pods.iter().all(|p| !p.charged));
    node.record_guard(&Actor::pod(pod(2), "/bin/app"), GuardAction::Traced, "", true);
    let is_charged = |verdict: &Verdict| {
        for found in &verdict.pods {
            assert_eq!(found.charged, found.uid == pod(2), "{verdict}");
        }
    };
    let verdict = appraised(&node, &node.clone().attest(NONCE));
    assert!(verdict.node.believed, "{verdict}");
    is_charged(&verdict);
    node.losses.reserve = 1;
    let evidence = node.attest(NONCE);
    let verdict = appraised(&node, &evidence);
    assert!(!verdict.node.believed, "{verdict}");
    assert!(verdict.pods.iter().all(|p| p.state == State::Untrusted));
    is_charged(&verdict);
}

#[test]
fn an_outcome_that_the_programs_do_not_write_is_no_denial() {
    for ret in [1, -13, i32::MIN] {
        let mut node = busy();
        node.record_guard(&Actor::pod(pod(2), "/bin/app"), GuardAction::Traced, "", true);
        node.waiting.last_mut().unwrap().1.ret = ret;
        let evidence = node.attest(NONCE);
        let finding = fails(&appraised(&node, &evidence), Rule::Guard, "not denied");
        assert_eq!(finding.subject, Subject::Node);
    }
}

#[test]
fn what_the_policy_tolerates_is_shown_and_nothing_else_is() {
    for action in AGAINST_US {
        let mut node = busy();
        node.extra_policy += &format!("guard: {{tolerate: [{}]}}\n", action.name());
        node.record_guard(&Actor::host("/usr/bin/tool"), action, "x", false);
        let verdict = appraised(&node, &node.clone().attest(NONCE));
        assert!(verdict.trusted, "{action:?}\n{verdict}");
        let shown = verdict
            .node
            .findings
            .iter()
            .find(|f| f.rule == Rule::Guard)
            .unwrap();
        assert_eq!(shown.severity, Severity::Tolerated);
        assert!(
            verdict
                .relaxations
                .contains(&format!("guard.tolerate: {}", action.name()))
        );
        let other = AGAINST_US[(AGAINST_US.iter().position(|a| *a == action).unwrap() + 1) % 12];
        node.record_guard(&Actor::host("/usr/bin/tool"), other, "x", false);
        let evidence = node.attest(NONCE);
        fails(&appraised(&node, &evidence), Rule::Guard, "not denied");
    }
}

#[test]
fn others_at_the_tpm_are_shown_unless_the_policy_does_not_want_them() {
    let mut node = busy();
    node.record_guard(
        &Actor::host("/usr/bin/tool"),
        GuardAction::TpmOpened,
        "tpmrm0",
        false,
    );
    let verdict = appraised(&node, &node.clone().attest(NONCE));
    assert!(verdict.trusted, "{verdict}");
    let shown = verdict
        .node
        .findings
        .iter()
        .find(|f| f.rule == Rule::Guard)
        .unwrap();
    assert_eq!(shown.severity, Severity::Note);
    node.extra_policy += "guard: {tpm-opened: untrust}\n";
    let evidence = node.attest(NONCE);
    fails(&appraised(&node, &evidence), Rule::Guard, "opened the TPM");
}

#[test]
fn a_denied_execution_is_reported_of_its_pod_and_held_against_nobody() {
    for action in [
        GuardAction::ExecutionDenied,
        GuardAction::MappingDenied,
        GuardAction::ExecutionDeniedOnLoss,
        GuardAction::ExecutionDeniedOnEntries,
        GuardAction::MappingDeniedOnEntries,
    ] {
        let mut node = busy();
        node.record_guard(&Actor::pod(pod(2), "/bin/app"), action, "/bin/evil", true);
        let verdict = appraised(&node, &node.clone().attest(NONCE));
        assert!(verdict.trusted, "{verdict}");
        let noted = &verdict.pod(pod(2)).unwrap().findings;
        assert!(
            noted
                .iter()
                .any(|f| f.rule == Rule::Guard && f.severity == Severity::Note),
            "{noted:?}"
        );
        // The programs never do this to the host: what says so was not made by them.
        node.record_guard(&Actor::host("/usr/bin/tool"), action, "/bin/tool", true);
        let evidence = node.attest(NONCE);
        fails(&appraised(&node, &evidence), Rule::Guard, "outside of all pods");
    }
}

#[test]
fn a_checkpoint_that_states_less_than_the_policy_wants_is_refused() {
    let states = |mode| {
        move |c: &mut cgpath_evidence::Checkpoint| {
            c.protection = c
                .protection
                .map(|p| cgpath_evidence::Protection { guard: mode, ..p })
        }
    };
    for (wanted, stated, good) in [
        ("off", GuardMode::Off, true),
        ("record", GuardMode::Off, false),
        ("record", GuardMode::Record, true),
        ("record", GuardMode::Deny, true),
        ("deny", GuardMode::Record, false),
    ] {
        let mut node = busy();
        node.extra_policy += &format!("guard: {{at-least: {wanted}}}\n");
        // Switched for one checkpoint only, and back.
        node.protection.guard = GuardMode::Deny;
        node.seal_with(None, states(stated));
        let evidence = node.attest(NONCE);
        let verdict = appraised(&node, &evidence);
        if good {
            assert!(verdict.trusted, "{wanted}, {stated:?}\n{verdict}");
        } else {
            let finding = fails(&verdict, Rule::Guard, "guarded less than the policy wants");
            assert_eq!(finding.expected, [format!("at least {wanted}")]);
        }
    }
    let mut node = busy();
    node.seal_with(None, |c| c.protection = None);
    let evidence = node.attest(NONCE);
    let finding = fails(&appraised(&node, &evidence), Rule::Guard, "guarded less");
    assert_eq!(finding.found.as_deref(), Some("guard.mode nothing"));
}

#[test]
fn records_that_only_half_belong_to_the_guard_are_refused() {
    let mut node = busy();
    node.record_guard(
        &Actor::host("/usr/bin/tool"),
        GuardAction::TpmOpened,
        "tpm0",
        false,
    );
    node.waiting.last_mut().unwrap().1.guard = None;
    let evidence = node.attest(NONCE);
    fails(
        &appraised(&node, &evidence),
        Rule::Guard,
        "does not say what was done",
    );

    let mut node = busy();
    node.execute_good(&Actor::host("/sbin/init"), "/usr/bin/tool");
    let guard = cgpath_evidence::Guard {
        action: GuardAction::TpmOpened,
        object: 0,
    };
    node.waiting.last_mut().unwrap().1.guard = Some(guard);
    let evidence = node.attest(NONCE);
    fails(&appraised(&node, &evidence), Rule::Guard, "another kind");
}
