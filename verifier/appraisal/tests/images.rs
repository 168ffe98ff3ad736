//! Containers whose images the policy lists: each is appraised by the values of the image that the container
//! runtime says it runs, and an image that is not listed fails its pod.
//!
//! Each round is judged whole, encoded again and followed, and all three say the same.

use crate::ways::Ways;
use cgpath_appraisal::{ContainerVerdict, Finding, PodVerdict, Rule, Severity, State, Verdict};
use cgpath_evidence::{ContainerName, Digest, Named};
use cgpath_policy::refs::Image;
use cgpath_testkit::{Actor, KeyKind, Node, pod, sha256};

/// The digest of something that an image has.
fn of(image: &str, what: &str) -> Digest {
    sha256(format!("{image} {what}").as_bytes())
}

/// An image as the policy lists it, and as a registry's runtime names it.
fn by(image: &str, what: &str) -> String {
    format!("registry.example/shop/{image}@{}", of(image, what))
}

/// A container's id.
fn id(n: u8) -> String {
    format!("{n:02x}").repeat(32)
}

/// A node whose policy has one workload, `shop/web`, with the container `web`, which may run the images `a`
/// and `b`.
struct Case {
    node: Node,
    ways: Ways,
    rounds: u32,
}

impl Case {
    fn new(keys: &str) -> Case {
        let mut node = Node::boot(KeyKind::EcdsaP256);
        for name in ["a", "b", "c"] {
            let mut image = Image::new(of(name, "configuration"));
            image.manifests.insert(of(name, "manifest"));
            image.indexes.insert(of(name, "index"));
            node.add_image(
                image,
                &[("/bin/app", of(name, "program")), ("/bin/sh", sha256(b"shell"))],
            );
        }
        node.workloads = Some(format!(
            "version: 2
workloads:
  - name: shop/web
    match: {{namespace: shop, labels: {{app: web}}}}
    containers:
      web: {{images: ['{}', '{}']{keys}}}
",
            by("a", "index"),
            by("b", "manifest"),
        ));
        Case {
            node,
            ways: Ways::default(),
            rounds: 0,
        }
    }

    /// The pod and its container `n`, of which the runtime says this.
    fn named(&mut self, n: u8, references: &[String]) {
        self.node.name_pod(pod(n), "shop", &[("app", "web")]);
        let container = ContainerName {
            id: id(n),
            name: "web".into(),
            sandbox: false,
            image: "registry.example/shop/a:7".into(),
            references: references.to_vec(),
        };
        self.node.record_name(pod(n), Named::Container(container));
    }

    fn runs(&mut self, n: u8, path: &str, content: &Digest) {
        let actor = Actor::container(pod(n), &id(n), "", path);
        self.node.execute(&actor, path, content);
    }

    fn round(&mut self) -> Verdict {
        self.rounds += 1;
        let nonce = format!("the nonce of round {}", self.rounds).into_bytes();
        let evidence = self.node.attest(&nonce);
        let context = self.ways.next(self.node.context(&nonce, None));
        let appraised = self
            .ways
            .appraise(&evidence, &self.node.policy(), &context, &[])
            .unwrap();
        if let Some((way, one, whole)) = appraised.disagreement() {
            panic!("{way} differs:\n{one:#?}\n{whole:#?}");
        }
        appraised.whole
    }
}

fn pod_of(verdict: &Verdict, n: u8) -> &PodVerdict {
    verdict.pod(pod(n)).unwrap_or_else(|| panic!("{n}:\n{verdict}"))
}

fn container(verdict: &Verdict, n: u8) -> &ContainerVerdict {
    &pod_of(verdict, n).containers[0]
}

#[track_caller]
fn fails<'v>(verdict: &'v Verdict, n: u8, rule: Rule, words: &str) -> &'v Finding {
    let pod = pod_of(verdict, n);
    assert_eq!(pod.state, State::Untrusted, "{verdict}");
    assert_eq!(container(verdict, n).state, State::Untrusted, "{verdict}");
    let found = pod
        .findings
        .iter()
        .find(|f| f.severity == Severity::Fail && f.rule == rule && f.text.contains(words));
    found.unwrap_or_else(|| panic!("no failure of {rule} that says {words:?}:\n{verdict}"))
}

#[test]
fn an_image_is_known_by_each_digest_that_runtimes_give_and_the_verdict_says_which_it_is() {
    let mut case = Case::new("");
    let configuration = of("a", "configuration").to_string();
    let digits = configuration.replace("sha256:", "");
    let said = [
        // containerd: the configuration, and the repository's digest of the index.
        vec![configuration.clone(), by("a", "index")],
        // Imported: the configuration alone.
        vec![configuration],
        // CRI-O: digits alone.
        vec![digits, by("a", "manifest")],
        vec![by("a", "index")],
        // CRI-O of an image that it pulled in parts: an id that no configuration has.
        vec![sha256(b"no configuration").to_string(), by("a", "index")],
        vec![format!("docker-pullable://{}", by("a", "manifest"))],
    ];
    for (n, references) in (20..).zip(&said) {
        case.named(n, references);
        case.runs(n, "/bin/app", &of("a", "program"));
        case.runs(n, "/bin/sh", &sha256(b"shell"));
    }
    let verdict = case.round();
    assert!(verdict.trusted, "{verdict}");
    for n in (20..).take(said.len()) {
        let container = container(&verdict, n);
        assert_eq!(container.listed, Some(by("a", "index")));
        assert!(
            verdict
                .to_string()
                .contains(&format!("listed as {}", by("a", "index")))
        );
        assert_eq!(pod_of(&verdict, n).name.as_deref(), Some("shop/web"));
    }
}

#[test]
fn a_roll_out_to_another_image_of_the_policy_stays_trusted() {
    let mut case = Case::new("");
    for (n, image) in [(20, "a"), (21, "b")] {
        case.named(n, &[of(image, "configuration").to_string()]);
        case.runs(n, "/bin/app", &of(image, "program"));
        let verdict = case.round();
        assert!(verdict.trusted, "{verdict}");
    }
    assert_eq!(case.ways.followed, 1);
}

#[test]
fn an_image_that_is_not_listed_fails_its_pod_alone_and_is_named() {
    let mut case = Case::new("");
    // In the index of images, and not in the policy.
    let other = [of("c", "configuration").to_string(), by("c", "index")];
    case.named(20, &other);
    case.runs(20, "/bin/sh", &sha256(b"shell"));
    // Of no image that anybody knows.
    case.named(21, &[sha256(b"nobody's").to_string(), by("c", "index")]);
    case.named(22, &[by("a", "configuration of another")]);
    case.named(23, &[]);
    case.named(24, &[of("a", "configuration").to_string()]);
    for n in 21..25 {
        case.runs(n, "/bin/app", &of("a", "program"));
    }
    let verdict = case.round();
    for n in 20..23 {
        let finding = fails(&verdict, n, Rule::KnownPods, "container web: its image is none");
        assert_eq!(finding.expected, [by("a", "index"), by("b", "manifest")]);
        assert_eq!(container(&verdict, n).listed, None);
    }
    let found = fails(&verdict, 20, Rule::KnownPods, "its image").found.clone();
    let found = found.unwrap();
    assert!(other.iter().all(|reference| found.contains(reference)), "{found}");
    fails(&verdict, 23, Rule::KnownPods, "names no digest of its image");
    assert_eq!(pod_of(&verdict, 24).state, State::Trusted);
    assert_eq!(verdict.node.state, State::Trusted, "{verdict}");
}

#[test]
fn a_runtime_that_names_one_image_and_runs_another_fails_by_the_contents() {
    let mut case = Case::new("");
    case.named(20, &[of("a", "configuration").to_string(), by("a", "index")]);
    case.runs(20, "/bin/sh", &sha256(b"shell"));
    // `b` is an image that the policy has for this container, `c` is none.
    case.runs(20, "/bin/app", &of("b", "program"));
    case.named(21, &[of("a", "configuration").to_string()]);
    case.runs(21, "/bin/app", &of("c", "program"));
    let verdict = case.round();
    for (n, image) in [(20, "b"), (21, "c")] {
        let finding = fails(
            &verdict,
            n,
            Rule::PodContents,
            "container web: the file's content",
        );
        assert_eq!(finding.found, Some(of(image, "program").to_string()));
        assert_eq!(finding.expected, [of("a", "program").to_string()]);
        assert_eq!(container(&verdict, n).listed, Some(by("a", "index")));
    }
}

#[test]
fn an_image_that_executes_nothing_of_its_own_passes_as_another_that_is_listed() {
    // A limit: what is only read is not recorded. The shell is in `c` as well, which is not listed.
    let mut case = Case::new("");
    case.named(20, &[of("b", "configuration").to_string()]);
    case.runs(20, "/bin/sh", &sha256(b"shell"));
    let verdict = case.round();
    assert!(verdict.trusted, "{verdict}");
    assert_eq!(container(&verdict, 20).listed, Some(by("b", "manifest")));
    // The first file of its own says which it is.
    case.runs(20, "/bin/app", &of("c", "program"));
    let verdict = case.round();
    let words = "container web: the file's content";
    fails(&verdict, 20, Rule::PodContents, words);
}

#[test]
fn what_is_said_first_of_an_image_holds_and_another_word_is_a_finding() {
    let mut case = Case::new("");
    case.named(20, &[of("a", "configuration").to_string()]);
    case.runs(20, "/bin/app", &of("a", "program"));
    assert!(case.round().trusted);
    case.named(20, &[of("b", "configuration").to_string()]);
    case.runs(20, "/bin/app", &of("b", "program"));
    let verdict = case.round();
    fails(
        &verdict,
        20,
        Rule::PodContents,
        "container web: the file's content",
    );
    let is_name = |f: &&Finding| f.severity == Severity::Fail && f.rule == Rule::KnownPods;
    assert!(
        pod_of(&verdict, 20).findings.iter().any(|f| is_name(&f)),
        "{verdict}"
    );
}

#[test]
fn references_beside_images_count_in_each_of_these_and_in_no_other() {
    let mut case = Case::new(&format!(", references: [{}.json]", pod(1)));
    // What the node's own pod 1 may run.
    let mounted = sha256(b"1/bin/mounted");
    let files = case.node.pod_files.entry(pod(1)).or_default();
    files.insert("/bin/mounted".into(), [mounted.clone()].into());
    for (n, image) in [(20, "a"), (21, "b"), (22, "c")] {
        case.named(n, &[of(image, "configuration").to_string()]);
        case.runs(n, "/bin/mounted", &mounted);
    }
    let verdict = case.round();
    assert_eq!(pod_of(&verdict, 20).state, State::Trusted, "{verdict}");
    assert_eq!(pod_of(&verdict, 21).state, State::Trusted, "{verdict}");
    fails(&verdict, 22, Rule::KnownPods, "its image is none");
}
