//! What an honest node's evidence must give: nothing but trust, in every accepted shape.

use verifier::{
    Verdict, appraise,
    testing::{Actor, KeyKind, Node, pod},
};

const NONCE: &[u8] = b"a nonce of this request";

fn judge(node: &Node, evidence: &evidence::Evidence, previous: Option<verifier::NodeState>) -> Verdict {
    appraise(evidence, &node.policy(), &node.context(NONCE, previous)).unwrap()
}

fn busy(kind: KeyKind) -> Node {
    let mut node = Node::boot(kind);
    node.execute_good(&Actor::host("/sbin/init"), "/usr/bin/tool");
    for n in 1..=4 {
        let actor = Actor::pod(pod(n), "/bin/app");
        node.execute_good(&actor, "/bin/app");
        node.execute_good(&actor, "/lib/libc.so");
    }
    node
}

#[test]
fn an_honest_node_and_its_pods_are_trusted() {
    for kind in [KeyKind::EcdsaP256, KeyKind::Rsassa2048, KeyKind::Rsapss2048] {
        let mut node = busy(kind);
        let evidence = node.attest(NONCE);
        let verdict = judge(&node, &evidence, None);
        assert!(verdict.trusted, "{kind:?}\n{verdict}");
        assert_eq!(verdict.pods.len(), 4);
        assert_eq!(verdict.node.covered, verdict.node.entries);
        assert_eq!(verdict.dangerous, ["dangerous-boot-not-judged"]);
        assert_eq!(verdict.node.pending, 1, "the last checkpoint's own entry");
    }
}
