//! A finding that was accepted accepts one thing: what comes later is another finding, though it looks the
//! same.

use super::{Life, busy, conclude};
use crate::ways::verdict_key;
use cgpath_appraisal::{Severity, accept};
use cgpath_evidence::{EventKind, FileHash, GuardAction};
use cgpath_testkit::{Actor, NODE, NOW, Node, pod, sha256};

fn app() -> Actor {
    Actor::pod(pod(1), "/bin/app")
}

fn good(node: &Node) -> FileHash {
    FileHash::Measured(
        node.pod_files[&pod(1)][&b"/bin/app".to_vec()]
            .first()
            .unwrap()
            .clone(),
    )
}

type Act = fn(&mut Node);

/// What a pod, or somebody else, does again and again.
const ACTS: [(&str, Act); 9] = [
    ("violation", |node| node.violate(&app(), "/data/log")),
    ("violation of the host", |node| {
        node.violate(&Actor::host("/usr/bin/tool"), "/var/log")
    }),
    ("late mapping", |node| {
        node.record_execution(
            &app(),
            EventKind::LateMapping,
            "/lib/libc.so",
            FileHash::Unhashed(-5),
        );
    }),
    ("execution without a hash", |node| {
        node.record_execution(&app(), EventKind::Execution, "/bin/app", FileHash::Unhashed(0));
    }),
    ("cut path", |node| {
        let hash = good(node);
        node.record_execution(&app(), EventKind::Mapping, "/bin/app", hash);
        node.waiting.last_mut().unwrap().1.path_cut = true;
    }),
    ("suspect", |node| {
        let hash = good(node);
        node.record_execution(
            &Actor::intruder(pod(1), "/bin/app"),
            EventKind::Execution,
            "/bin/app",
            hash,
        );
    }),
    ("suspect entry", |node| {
        let digest = node.pod_files[&pod(1)][&b"/bin/app".to_vec()]
            .first()
            .unwrap()
            .clone();
        node.measure(&Actor::intruder(pod(1), "/bin/app"), "/bin/app", &digest);
    }),
    ("traced", |node| {
        node.record_guard(&Actor::host("/usr/bin/tool"), GuardAction::Traced, "", false);
    }),
    ("denied", |node| {
        node.record_guard(
            &Actor::host("/usr/bin/tool"),
            GuardAction::MapOpened,
            "tasks",
            true,
        );
    }),
];

/// Accepts every failure of the last round. Gives whether all of it may be accepted.
fn accept_all(life: &mut Life, findings: &[cgpath_appraisal::Finding]) {
    for finding in findings {
        let (key, boot) = (verdict_key(), life.node.boot_id);
        let text = accept::sign(NODE, boot, finding, "known, harmless", NOW - 10, NOW + 1000, &key).unwrap();
        life.accepted
            .push(accept::verify(&text, key.verifying_key()).unwrap());
    }
}

#[test]
fn what_comes_later_is_another_finding_than_the_accepted_one() {
    let mut wrong = Vec::new();
    for (what, act) in ACTS {
        let mut life = Life::begin(busy());
        act(&mut life.node);
        let first = life.round().appraised.whole;
        assert!(!first.trusted, "{what}: {first}");
        let failures: Vec<_> = first.failures().cloned().collect();
        accept_all(&mut life, &failures);
        for _ in 0..2 {
            let then = life.round();
            assert!(
                then.appraised.whole.trusted,
                "{what}, accepted:\n{}",
                then.appraised.whole
            );
        }
        act(&mut life.node);
        for _ in 0..2 {
            let later = life.round();
            for (way, verdict) in later.appraised.verdicts().filter(|(_, verdict)| verdict.trusted) {
                wrong.push(format!("{what}: {way} trusts what came later"));
                let accepted = verdict.accepted.iter().filter(|note| note.in_use).count();
                assert_eq!(accepted, failures.len(), "{what}");
            }
        }
    }
    conclude("accepted-once", &wrong);
}

/// A content has its name: what was accepted of it holds for all who use it at that path, however often.
#[test]
fn the_same_content_at_the_same_path_stays_accepted() {
    let mut life = Life::begin(busy());
    let hotfix = sha256(b"hotfix");
    life.node.execute(&app(), "/bin/app", &hotfix);
    let failures: Vec<_> = life.round().appraised.whole.failures().cloned().collect();
    accept_all(&mut life, &failures);
    for _ in 0..3 {
        life.node.execute(&app(), "/bin/app", &hotfix);
        let verdict = life.round().appraised.whole;
        assert!(verdict.trusted, "{verdict}");
    }
    for (path, content) in [("/bin/app", sha256(b"another")), ("/bin/other", hotfix)] {
        let mut life = Life {
            node: life.node.clone(),
            accepted: life.accepted.clone(),
            ..Life::begin(busy())
        };
        life.ways = Default::default();
        life.node.execute(&app(), path, &content);
        let verdict = life.round().appraised.whole;
        assert!(!verdict.trusted, "{path}: {verdict}");
        assert!(
            verdict.pods[0]
                .findings
                .iter()
                .any(|f| f.severity == Severity::Accepted),
            "{verdict}"
        );
    }
}
