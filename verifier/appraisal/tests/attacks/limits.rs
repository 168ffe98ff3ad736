//! What a holder of the checkpoint key can still hide: docs/threat-model.md states it as a limit.
//!
//! These tests hold as long as the limit does: one that fails shows that a limit is gone and that a text has
//! to be changed.

use super::{Life, busy};
use cgpath_appraisal::State;
use cgpath_evidence::{Digest, EventKind, Record};
use cgpath_testkit::{Actor, pod, sha256};

const LIBRARY: &str = "/lib/m.so";

/// A life in which pod 1 alone may have the library.
fn with_library() -> (Life, Digest) {
    let content = sha256(b"a library of pod 1");
    let mut node = busy();
    let files = node.pod_files.get_mut(&pod(1)).unwrap();
    files.insert(LIBRARY.into(), [content.clone()].into());
    (Life::begin(node), content)
}

#[test]
fn limit_a_content_is_hidden_by_saying_that_it_was_used_where_it_is_accepted() {
    // Root used it on the host, and its record says that a pod did.
    for (said, is_hidden) in [(1, true), (3, false)] {
        let (mut life, content) = with_library();
        life.node
            .measure(&Actor::pod(pod(said), "/bin/app"), LIBRARY, &content);
        for _ in 0..3 {
            let round = life.round();
            assert_eq!(
                round.appraised.whole.trusted, is_hidden,
                "{}",
                round.appraised.whole
            );
            // The pod that is said to have used it answers for it.
            let state = round.appraised.whole.pod(pod(said)).unwrap().state;
            assert_eq!(state == State::Trusted, is_hidden);
        }
    }
}

#[test]
fn limit_an_execution_of_what_was_measured_before_is_hidden_by_withholding_its_record() {
    let (mut life, content) = with_library();
    let app = Actor::pod(pod(1), "/bin/app");
    life.node.execute(&app, LIBRARY, &content);
    assert!(life.round().appraised.whole.trusted);
    // Pod 3 executes it, too: IMA lists it once, so that nothing but the records tells.
    let thief = Actor::pod(pod(3), "/bin/app");
    life.node.execute(&thief, LIBRARY, &content);
    let is_of = |record: &Record| record.path == LIBRARY.as_bytes() && record.kind != EventKind::Guard;
    let withheld = life
        .node
        .waiting
        .iter()
        .filter(|(_, record)| is_of(record))
        .count();
    assert_eq!(withheld, 2, "of the add that IMA refused, and of the execution");
    life.node.waiting.retain(|(_, record)| !is_of(record));
    assert!(life.round().appraised.whole.trusted);

    // With its records the pod is untrusted, and so it is with either of them.
    for kept in [EventKind::Entry, EventKind::Execution] {
        life.node.execute(&thief, LIBRARY, &content);
        life.node
            .waiting
            .retain(|(_, record)| !is_of(record) || record.kind == kept);
        let round = life.round();
        assert_eq!(round.trusted_pods(&[3]), Vec::<String>::new(), "{kept:?}");
    }
}
