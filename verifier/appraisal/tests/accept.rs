//! Accept statements: signed, bounded in time and scope, never for what everything else rests on.

use cgpath_appraisal::accept::{AcceptError, MAX_REASON_LEN, MAX_TERM, Statement, Waiver, id, sign, verify};
use cgpath_appraisal::{Finding, Rule, Severity, State, Subject, Verdict, appraise_with_waivers};
use cgpath_testkit::{Actor, KeyKind, NODE, NOW, Node, pod, sha256};
use p256::ecdsa::SigningKey;

const NONCE: &[u8] = b"the nonce of this request";

fn key(n: u8) -> SigningKey {
    SigningKey::from_slice(&[n; 32]).unwrap()
}

/// Pod 4 ran a replaced file.
fn tampered() -> Node {
    let mut node = Node::boot(KeyKind::EcdsaP256);
    node.execute_good(&Actor::pod(pod(1), "/bin/app"), "/bin/app");
    node.execute(&Actor::pod(pod(4), "/bin/app"), "/bin/app", &sha256(b"hotfix"));
    node
}

fn appraised(node: &mut Node, accepted: &[Waiver], now: u64) -> Verdict {
    let evidence = node.attest(NONCE);
    appraise_with_waivers(
        &evidence,
        &node.policy(),
        &node.context(NONCE, None),
        accepted,
        now,
    )
    .unwrap()
}

fn failure(verdict: &Verdict) -> Finding {
    verdict.failures().next().unwrap().clone()
}

fn statement(verdict: &Verdict, boot_id: [u8; 16], name: &str, from: u64) -> Waiver {
    let text = sign(
        name,
        boot_id,
        &failure(verdict),
        "known",
        from,
        from + 100,
        &key(1),
    )
    .unwrap();
    verify(&text, key(1).verifying_key()).unwrap()
}

#[test]
fn a_statement_holds_from_its_beginning_until_its_end_for_its_node_and_boot() {
    let mut node = tampered();
    let verdict = appraised(&mut node, &[], NOW);
    let boot = verdict.node.boot_id;
    let cases = [
        (statement(&verdict, boot, NODE, NOW), NOW, true),
        (statement(&verdict, boot, NODE, NOW), NOW + 99, true),
        (statement(&verdict, boot, NODE, NOW), NOW + 100, false),
        (statement(&verdict, boot, NODE, NOW + 1), NOW, false),
        (statement(&verdict, boot, "another", NOW), NOW, false),
        (statement(&verdict, [9; 16], NODE, NOW), NOW, false),
    ];
    for (accepted, now, holds) in cases {
        let verdict = appraised(&mut node, std::slice::from_ref(&accepted), now);
        let expected = if holds { State::Trusted } else { State::Untrusted };
        assert_eq!(
            verdict.pod(pod(4)).unwrap().state,
            expected,
            "{accepted:?} at {now}"
        );
        assert_eq!(verdict.trusted, holds);
        assert_eq!(verdict.accepted.len(), usize::from(holds));
        if holds {
            assert!(verdict.accepted[0].in_use);
            let shown = verdict
                .pod(pod(4))
                .unwrap()
                .findings
                .iter()
                .find(|f| f.severity == Severity::Accepted);
            assert_eq!(id(shown.unwrap()), accepted.statement.finding);
            assert!(verdict.to_string().contains("ACCEPTED until"), "{verdict}");
        }
    }
}

#[test]
fn every_statement_that_holds_is_repeated_even_where_its_finding_is_gone() {
    let mut node = tampered();
    let accepted = statement(
        &appraised(&mut node, &[], NOW),
        appraised(&mut node, &[], NOW).node.boot_id,
        NODE,
        NOW,
    );
    let mut honest = Node::boot(KeyKind::EcdsaP256);
    honest.execute_good(&Actor::pod(pod(4), "/bin/app"), "/bin/app");
    let verdict = appraised(&mut honest, &[accepted], NOW);
    assert!(verdict.trusted);
    assert!(!verdict.accepted[0].in_use);
}

#[test]
fn what_everything_else_rests_on_cannot_be_accepted_and_nothing_without_reason_or_end() {
    let fail = |rule| Finding::fail(rule, Subject::Node, "text");
    let by =
        |finding: &Finding, reason: &str, until| sign(NODE, [1; 16], finding, reason, NOW, until, &key(1));
    for rule in Rule::ALL {
        let result = by(&fail(rule), "why", NOW + 1);
        let may = matches!(
            rule,
            Rule::KnownPods | Rule::PodContents | Rule::Boot | Rule::Host | Rule::Violations | Rule::Guard
        );
        assert_eq!(result.is_ok(), may, "{rule}");
    }
    let good = fail(Rule::PodContents);
    let note = Finding::note(Rule::PodContents, Subject::Node, "text");
    assert_eq!(by(&note, "why", NOW + 1), Err(AcceptError::NoFailure));
    assert_eq!(by(&good, " ", NOW + 1), Err(AcceptError::Reason(1)));
    assert_eq!(by(&good, "a\nb", NOW + 1), Err(AcceptError::Reason(3)));
    assert_eq!(
        by(&good, &"a".repeat(1025), NOW + 1),
        Err(AcceptError::Reason(1025))
    );
    assert_eq!(by(&good, "why", NOW), Err(AcceptError::Term));
    assert_eq!(by(&good, "why", NOW + MAX_TERM + 1), Err(AcceptError::Term));
    // The longest that may be, in reason, term and text; and it can be read.
    assert_eq!(MAX_TERM, 366 * 24 * 3600);
    let long = Finding::fail(Rule::PodContents, Subject::Node, "a".repeat(5000));
    let text = by(&long, &"a".repeat(MAX_REASON_LEN), NOW + MAX_TERM).unwrap();
    let statement = verify(&text, key(1).verifying_key()).unwrap().statement;
    assert_eq!((statement.about.len(), statement.reason.len()), (4096, 1024));
}

#[test]
fn a_statement_that_was_made_for_what_everything_else_rests_on_accepts_nothing() {
    let mut node = Node::busy(KeyKind::EcdsaP256);
    node.losses.reserve = 1;
    let verdict = appraised(&mut node, &[], NOW);
    let finding = failure(&verdict);
    assert_eq!(finding.rule, Rule::Losses);
    // No program of ours signs it; who has the key can.
    let accepted = Waiver {
        statement: Statement {
            node: NODE.to_owned(),
            boot_id: verdict.node.boot_id,
            finding: id(&finding),
            about: "records were lost".to_owned(),
            reason: "known".to_owned(),
            iat: NOW,
            exp: NOW + 1,
        },
        digest: sha256(b"statement"),
    };
    let verdict = appraised(&mut node, &[accepted], NOW);
    assert!(!verdict.trusted && !verdict.accepted[0].in_use, "{verdict}");
}

#[test]
fn what_the_policy_tolerates_is_not_what_somebody_accepted() {
    let mut node = Node::busy(KeyKind::EcdsaP256);
    node.violate(&Actor::host("/sbin/init"), "/var/log/some");
    let verdict = appraised(&mut node, &[], NOW);
    let accepted = statement(&verdict, verdict.node.boot_id, NODE, NOW);
    node.extra_policy += "violations: { permit: ['/var/log/*'] }\n";
    let verdict = appraised(&mut node, &[accepted], NOW);
    assert!(verdict.trusted && !verdict.accepted[0].in_use, "{verdict}");
}

#[test]
fn a_statement_that_was_changed_or_that_another_key_signed_is_refused() {
    let finding = Finding::fail(Rule::PodContents, Subject::Node, "text");
    let text = sign(NODE, [1; 16], &finding, "why", NOW, NOW + 1, &key(1)).unwrap();
    assert!(verify(&text, key(1).verifying_key()).is_ok());
    assert_eq!(verify(&text, key(2).verifying_key()), Err(AcceptError::Signature));
    for at in 0..text.len() {
        let mut changed = text.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        assert!(verify(&changed, key(1).verifying_key()).is_err(), "byte {at}");
    }
    assert!(verify("", key(1).verifying_key()).is_err());
    let too_long = AcceptError::Malformed("it is longer than 16 KiB");
    for (len, is_too_long) in [(16 * 1024, false), (16 * 1024 + 1, true), (20_000, true)] {
        let error = verify(&"a".repeat(len), key(1).verifying_key()).unwrap_err();
        assert_eq!(error == too_long, is_too_long, "{len}");
    }
    // The service's other tokens are no statements, though the same key signs them.
    let verdict = appraised(&mut tampered(), &[], NOW);
    let ear = cgpath_appraisal::ear::token(&verdict, None, &key(1)).unwrap();
    assert!(matches!(
        verify(&ear, key(1).verifying_key()),
        Err(AcceptError::Malformed(_))
    ));
}

#[test]
fn findings_that_are_only_counted_cannot_be_accepted_with_the_others() {
    let mut node = Node::boot(KeyKind::EcdsaP256);
    for n in 0..150 {
        node.execute(
            &Actor::pod(pod(4), "/bin/app"),
            format!("/tmp/{n}"),
            &sha256(b"x"),
        );
    }
    let verdict = appraised(&mut node, &[], NOW);
    let boot = verdict.node.boot_id;
    let findings = &verdict.pod(pod(4)).unwrap().findings;
    let accepted: Vec<Waiver> = findings
        .iter()
        .map(|finding| {
            let text = sign(NODE, boot, finding, "all of it", NOW, NOW + 9, &key(1)).unwrap();
            verify(&text, key(1).verifying_key()).unwrap()
        })
        .collect();
    assert!(accepted.len() > 100);
    let verdict = appraised(&mut node, &accepted, NOW);
    assert_eq!(verdict.pod(pod(4)).unwrap().state, State::Untrusted);
}

#[test]
fn a_result_about_one_pod_says_nothing_of_what_was_accepted_for_another() {
    use base64::Engine as _;
    let mut node = tampered();
    let first = appraised(&mut node, &[], NOW);
    let accepted = statement(&first, first.node.boot_id, NODE, NOW);
    let verdict = appraised(&mut node, &[accepted], NOW);
    let claims = |uid| {
        let token =
            cgpath_appraisal::ear::token_for(&verdict, cgpath_appraisal::ear::Scope::Pod(uid), None, &key(1))
                .unwrap();
        let claims =
            base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap());
        String::from_utf8(claims.unwrap()).unwrap()
    };
    let (own, other) = (claims(pod(4)), claims(pod(1)));
    assert!(
        own.contains("/bin/app") && own.contains("\"reason\":\"known\""),
        "{own}"
    );
    for secret in [
        "/bin/app",
        "known",
        &pod(4).to_string(),
        &verdict.accepted[0].finding,
    ] {
        assert!(!other.contains(secret), "{secret}: {other}");
    }
    // That something was accepted on the node is no secret: nothing of it is affirmed without that.
    assert!(
        other.contains("a finding outside of this scope") && !other.contains("affirming"),
        "{other}"
    );
}
