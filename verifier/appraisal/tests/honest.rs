//! What an honest node's evidence must give: nothing but trust, in every accepted shape.

use cgpath_appraisal::{Verdict, appraise};
use cgpath_testkit::{KeyKind, Node};

const NONCE: &[u8] = b"a nonce of this request";

fn appraised(
    node: &Node,
    evidence: &cgpath_evidence::Evidence,
    previous: Option<cgpath_appraisal::NodeState>,
) -> Verdict {
    appraise(evidence, &node.policy(), &node.context(NONCE, previous)).unwrap()
}

#[test]
fn an_honest_node_and_its_pods_are_trusted() {
    for kind in [KeyKind::EcdsaP256, KeyKind::Rsassa2048, KeyKind::Rsapss2048] {
        let mut node = Node::busy(kind);
        let evidence = node.attest(NONCE);
        let verdict = appraised(&node, &evidence, None);
        assert!(verdict.trusted, "{kind:?}\n{verdict}");
        assert_eq!(verdict.pods.len(), 4);
        assert_eq!(verdict.node.covered, verdict.node.entries);
        assert_eq!(verdict.dangerous, ["dangerous-boot-not-judged"]);
        assert_eq!(verdict.node.pending, 1, "the last checkpoint's own entry");
    }
}
