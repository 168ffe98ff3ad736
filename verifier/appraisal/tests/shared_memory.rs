//! V9: code in shared memory without a name, which .NET and others compile, and what only looks like it.
//!
//! Promise: each round is judged whole, encoded again, followed and as each tenant's, and all say the same.
//! Not here: the same by container (see `workloads`) and drawn at random (see `lives`).

use crate::policies::policy_with;
use crate::ways::{self, Ways, verdict_key};
use cgpath_appraisal::ear::{self, AttestationResult, EarStatus, Scope};
use cgpath_appraisal::follow::Follower;
use cgpath_appraisal::{Finding, Rule, Severity, State, Verdict, accept};
use cgpath_evidence::{
    EventKind, FileHash, Identity, LayerFile, PodLoss, PodUid, Record,
    record::{TMPFS_MAGIC, UNLINKED_MEMORY_DEVICE},
};
use cgpath_policy::Policy;
use cgpath_testkit::{Actor, EXT4, EXT4_DEVICE, KeyKind, Node, pod, sha256};

const MEMFD: &str = "/memfd:doublemapper (deleted)";
const KEY: &str = "shared-memory-code: trust";

fn app(n: u8) -> Actor {
    Actor::pod(pod(n), "/bin/app")
}

/// A record of an event that is about a memfd, as the kernel's programs make it.
pub fn memfd(node: &mut Node, actor: &Actor, kind: EventKind) {
    memfd_named(node, actor, kind, MEMFD);
}

/// The same, of a memfd with this name.
pub fn memfd_named(node: &mut Node, actor: &Actor, kind: EventKind, name: &str) {
    node.record_execution(actor, kind, name, FileHash::Unhashed(0));
    let record = last(node);
    (record.dev, record.ino) = (UNLINKED_MEMORY_DEVICE, 1025);
    record.identity = Some(Box::new(Identity {
        generation: 5,
        magic: TMPFS_MAGIC,
        layer: None,
        written: false,
    }));
}

/// .NET makes a piece of its memory executable.
fn compiles(node: &mut Node, n: u8) {
    memfd(node, &app(n), EventKind::LateMapping);
}

fn last(node: &mut Node) -> &mut Record {
    &mut node.waiting.last_mut().unwrap().1
}

fn identity(node: &mut Node) -> &mut Identity {
    last(node).identity.as_mut().unwrap()
}

/// A node on which pods 1 to 4 run, and whose policy, and tenant's, trusts pod 1 with such code, or not.
struct Case {
    node: Node,
    ways: Ways,
    is_trusted: bool,
    rounds: u32,
}

impl Case {
    fn new(is_trusted: bool) -> Case {
        Case {
            node: Node::busy(KeyKind::EcdsaP256),
            ways: Ways::default(),
            is_trusted,
            rounds: 0,
        }
    }

    fn policy(&self) -> Policy {
        let own = format!("references: [{}.json]", pod(1));
        let key = if self.is_trusted {
            KEY
        } else {
            "shared-memory-code: untrust"
        };
        policy_with(&self.node, &own, &format!("{own}, {key}")).unwrap()
    }

    fn tenant(&self, uid: PodUid) -> Policy {
        let key = if self.is_trusted && uid == pod(1) { KEY } else { "" };
        let yaml = format!(
            "version: 1\npod: {uid}\nname: pod-{}\ntemplates: [ima-ng]\nbanks: [sha256]\n\
             references: [{uid}.json]\n{key}\n",
            uid.0[0]
        );
        ways::load_tenant(&self.node, uid, &yaml)
    }

    /// A round, and what every way says of it.
    fn round(&mut self) -> Verdict {
        self.rounds += 1;
        let nonce = format!("the nonce of round {}", self.rounds).into_bytes();
        let evidence = self.node.attest(&nonce);
        let (policy, context) = (self.policy(), self.ways.next(self.node.context(&nonce, None)));
        let appraised = self.ways.appraise(&evidence, &policy, &context, &[]).unwrap();
        if let Some((way, one, whole)) = appraised.disagreement() {
            panic!("{way} differs:\n{one}\n{whole}");
        }
        let whole = appraised.whole;
        for uid in (1..=4).map(pod) {
            let own = ways::tenant(&evidence, &whole, uid, &self.tenant(uid), &context).unwrap();
            let shown = own.pod.as_ref().unwrap();
            let listed = whole.pod(uid).unwrap();
            assert_eq!(shown.state, listed.state, "{own}\n{whole}");
            assert_eq!(
                of_memory(&shown.findings),
                of_memory(&listed.findings),
                "{own}\n{whole}"
            );
            let is_it = |key: &String| key.ends_with(KEY);
            assert_eq!(
                own.relaxations.iter().any(is_it),
                self.is_trusted && uid == pod(1),
                "{own}"
            );
        }
        whole
    }
}

fn of_memory(findings: &[Finding]) -> Vec<&Finding> {
    findings
        .iter()
        .filter(|f| f.text.contains("shared memory"))
        .collect()
}

fn state(verdict: &Verdict, n: u8) -> State {
    verdict.pod(pod(n)).unwrap().state
}

#[test]
fn code_in_unlinked_memory_is_counted_and_passes_in_the_pod_whose_policy_says_so_and_in_no_other() {
    let mut case = Case::new(true);
    assert!(case.round().trusted);
    for (more, all) in [(3, 3), (2, 5)] {
        for _ in 0..more {
            compiles(&mut case.node, 1);
        }
        let verdict = case.round();
        assert!(verdict.trusted, "{verdict}");
        let own = verdict.pod(pod(1)).unwrap();
        let [finding] = of_memory(&own.findings)[..] else {
            panic!("{verdict}")
        };
        assert_eq!(
            (finding.rule, finding.severity),
            (Rule::PodContents, Severity::Tolerated)
        );
        assert_eq!(finding.found, Some(format!("late mappings: {all}")));
        assert_eq!(finding.path.as_deref(), Some(MEMFD.as_bytes()));
        assert_eq!(own.executions, 2 + all, "{verdict}");
        // Every output repeats it, and nobody is affirmed.
        assert_eq!(verdict.relaxations, [format!("pod pod-1.{KEY}")]);
        let text = verdict.to_string();
        assert!(text.contains(&format!("RELAXED: pod pod-1.{KEY}\n")), "{text}");
        assert!(text.contains(&format!("late mappings: {all}")), "{text}");
        let key = verdict_key();
        let token = ear::token_for(&verdict, Scope::All, None, &key).unwrap();
        let result = AttestationResult::read(&token, &[*key.verifying_key()]).unwrap();
        assert_eq!(result.pods[&pod(1)], EarStatus::Warning);
    }
    assert_eq!(case.ways.followed, 2);
    // Another pod, of which the policy says nothing.
    compiles(&mut case.node, 2);
    for _ in 0..2 {
        let verdict = case.round();
        let states = [1, 2, 3, 4].map(|n| state(&verdict, n) == State::Trusted);
        assert_eq!(states, [true, false, true, true], "{verdict}");
        assert_eq!(verdict.node.state, State::Trusted, "{verdict}");
    }
}

#[test]
fn without_the_key_each_such_mapping_fails_its_pod_and_says_which_key_there_is() {
    let mut case = Case::new(false);
    for _ in 0..2 {
        compiles(&mut case.node, 1);
    }
    let verdict = case.round();
    assert_eq!(state(&verdict, 1), State::Untrusted, "{verdict}");
    let failures: Vec<_> = verdict.failures().collect();
    let [one, other] = failures[..] else {
        panic!("{verdict}")
    };
    assert_ne!(accept::id(one), accept::id(other));
    for finding in [one, other] {
        assert_eq!(finding.rule, Rule::PodContents);
        assert_eq!(finding.found.as_deref(), Some("no hash, error 0"));
        assert!(finding.expected[0].starts_with(KEY), "{finding}");
    }
    assert!(verdict.relaxations.is_empty());
}

/// What is done to a node.
type Change = fn(&mut Node);

/// What is not a late mapping of memory without a name, or is more than that, beside one that passes.
const NOT: [(&str, Change); 20] = [
    ("execution of the memfd", |node| {
        memfd(node, &app(1), EventKind::Execution)
    }),
    ("a script in it", |node| memfd(node, &app(1), EventKind::Script)),
    ("a mapping that is executable at once", |node| {
        memfd(node, &app(1), EventKind::Mapping);
    }),
    ("execution with a hash", |node| {
        memfd(node, &app(1), EventKind::Execution);
        last(node).hash = Some(FileHash::Measured(sha256(b"evil")));
    }),
    ("a content that is stated and not accepted", |node| {
        compiles(node, 1);
        last(node).hash = Some(FileHash::PreCheck(sha256(b"evil")));
    }),
    ("a file on disk of that name", |node| {
        compiles(node, 1);
        (last(node).dev, identity(node).magic) = (EXT4_DEVICE, EXT4);
    }),
    ("a file on disk, by a number that is the memory's", |node| {
        compiles(node, 1);
        identity(node).magic = EXT4;
    }),
    ("a file of the pod's overlay", |node| {
        node.record_execution(&app(1), EventKind::LateMapping, MEMFD, FileHash::Unhashed(0));
    }),
    ("a file that lies in a layer on memory", |node| {
        compiles(node, 1);
        identity(node).layer = Some(LayerFile {
            dev: UNLINKED_MEMORY_DEVICE,
            ino: 1025,
            generation: 5,
        });
    }),
    ("a file of a tmpfs that the pod mounted, of that name", |node| {
        compiles(node, 1);
        last(node).dev = 0x1a;
    }),
    ("a file in /dev/shm", |node| {
        compiles(node, 1);
        last(node).dev = 0x1a;
        last(node).path = b"/dev/shm/doublemapper".to_vec();
    }),
    ("a file in /dev/shm whose name says that it was removed", |node| {
        compiles(node, 1);
        last(node).dev = 0x1a;
        last(node).path = b"/dev/shm/doublemapper (deleted)".to_vec();
    }),
    ("a record with a name for what has none", |node| {
        compiles(node, 1);
        last(node).path = b"/memfd:doublemapper".to_vec();
    }),
    ("memory of huge pages", |node| {
        compiles(node, 1);
        (last(node).dev, identity(node).magic) = (0xf, 0x9584_58f6);
    }),
    ("a record that does not say what file it is", |node| {
        compiles(node, 1);
        last(node).identity = None;
    }),
    ("a device that could not be read", |node| {
        compiles(node, 1);
        last(node).dev = 0;
    }),
    ("a path that could not be read", |node| {
        compiles(node, 1);
        last(node).path_cut = true;
    }),
    ("a mapping that is writable at once", |node| {
        compiles(node, 1);
        last(node).writable = true;
    }),
    ("somebody whom no runtime put there", |node| {
        memfd(node, &Actor::intruder(pod(1), "/bin/app"), EventKind::LateMapping);
    }),
    ("what was not recorded for the pod's budget", |node| {
        let loss = PodLoss {
            executions: 0,
            mappings: 3000,
            denials: 0,
            repeats: 0,
            first_ns: 1,
            last_ns: 2,
        };
        node.record_pod_loss(&app(1), loss);
    }),
];

#[test]
fn what_is_no_late_mapping_of_unlinked_memory_fails_the_pod_that_is_trusted_with_them() {
    for (what, act) in NOT {
        let mut case = Case::new(true);
        compiles(&mut case.node, 1);
        assert!(case.round().trusted, "{what}");
        act(&mut case.node);
        for _ in 0..2 {
            let verdict = case.round();
            assert_eq!(state(&verdict, 1), State::Untrusted, "{what}: {verdict}");
            assert_eq!(verdict.node.state, State::Trusted, "{what}: {verdict}");
            let others = [2, 3, 4].map(|n| state(&verdict, n));
            assert_eq!(others, [State::Trusted; 3], "{what}: {verdict}");
            // What passed before is counted as it was.
            let own = &verdict.pod(pod(1)).unwrap().findings;
            let tolerated = own.iter().filter(|f| f.severity == Severity::Tolerated);
            let found: Vec<_> = tolerated.filter_map(|f| f.found.as_deref()).collect();
            let count = if what.starts_with("somebody") { 2 } else { 1 };
            assert_eq!(found, [format!("late mappings: {count}")], "{what}: {verdict}");
        }
    }
}

#[test]
fn no_policy_of_a_pod_trusts_the_host_or_an_unknown_pod_with_code_in_memory() {
    for (actor, rule) in [
        (Actor::host("/usr/bin/tool"), Rule::Host),
        (app(9), Rule::PodContents),
    ] {
        let mut case = Case::new(true);
        assert!(case.round().trusted);
        memfd(&mut case.node, &actor, EventKind::LateMapping);
        let verdict = case.round();
        assert_eq!(verdict.node.state, State::Untrusted, "{verdict}");
        let found = verdict
            .failures()
            .find(|f| f.rule == rule && f.text.contains("no hash"));
        assert!(found.is_some(), "{verdict}");
    }
}

/// What is kept of such mappings is the first one's name, which is the pod's to choose.
#[test]
fn the_name_of_the_first_such_mapping_is_weighed_with_what_is_kept_of_the_node() {
    let nonce = b"the nonce of this request";
    let weight = |len: usize| {
        let mut case = Case::new(true);
        let name = format!("/memfd:{} (deleted)", "x".repeat(len));
        memfd_named(&mut case.node, &app(1), EventKind::LateMapping, &name);
        let evidence = case.node.attest(nonce);
        let context = case.node.context(nonce, None);
        let begun = Follower::begin(&evidence, &case.policy(), &context, &[], context.now);
        let (verdict, follower) = begun.unwrap();
        assert!(verdict.trusted, "{verdict}");
        follower.unwrap().weight()
    };
    assert_eq!(weight(3000) - weight(1), 2999);
}
