//! Code is written into a mapping of an accepted file that is executable at the same time.

use super::{Life, busy, conclude};
use cgpath_appraisal::State;
use cgpath_evidence::{EventKind, FileHash};
use cgpath_testkit::{Actor, Node, pod, sha256};

/// A file is mapped whose content is accepted.
fn map(node: &mut Node, actor: &Actor, kind: EventKind, path: &str, content: &str) {
    let hash = FileHash::PreCheck(sha256(content.as_bytes()));
    node.record_execution(actor, kind, path, hash);
}

fn is_writable(node: &mut Node) {
    node.waiting.last_mut().unwrap().1.writable = true;
}

#[test]
fn who_maps_an_accepted_file_writable_and_executable_at_once_is_untrusted_in_every_way() {
    for kind in [EventKind::Mapping, EventKind::LateMapping] {
        let mut life = Life::begin(busy());
        let app = Actor::pod(pod(3), "/bin/app");
        map(&mut life.node, &app, kind, "/bin/app", "3/bin/app");
        let plain = life.round();
        assert!(plain.appraised.whole.trusted, "{}", plain.appraised.whole);
        map(&mut life.node, &app, kind, "/bin/app", "3/bin/app");
        is_writable(&mut life.node);
        let mut wrong = Vec::new();
        // It stays so as long as the pod is there.
        for _ in 0..3 {
            let round = life.round();
            wrong.extend(round.trusted_pods(&[3]));
            if round.appraised.whole.node.state != State::Trusted || round.trusted_pods(&[1, 2, 4]).len() < 6
            {
                wrong.push("the node or another pod is not trusted".into());
            }
        }
        conclude("mapping-that-is-writable-too", &wrong);
    }
}

#[test]
fn a_host_that_maps_an_accepted_file_so_is_untrusted_in_every_way() {
    for kind in [EventKind::Mapping, EventKind::LateMapping] {
        let mut life = Life::begin(busy());
        let tool = Actor::host("/usr/bin/tool");
        map(&mut life.node, &tool, kind, "/usr/bin/tool", "/usr/bin/tool");
        is_writable(&mut life.node);
        let mut wrong = Vec::new();
        for _ in 0..2 {
            let round = life.round();
            let trusts = round.appraised.verdicts();
            let trusts = trusts.filter(|(_, verdict)| verdict.node.state == State::Trusted);
            wrong.extend(trusts.map(|(way, _)| format!("{way} trusts the node")));
            wrong.extend(round.differs());
        }
        conclude("mapping-of-the-host-that-is-writable-too", &wrong);
    }
}
