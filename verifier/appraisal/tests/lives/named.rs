//! Random pods under policies of version 2: named in time, late, otherwise than they are, twice, or never;
//! and what the second reading of the rules makes of them.
//!
//! Promise: a life follows from its seed. Not here: what the rules are (see `naive::named`), forged evidence
//! (see `world`).

use super::plan::Random;
use crate::naive::named::{FILES, Happened, Limits, Opinion, Part, RUNC, Use, What, Workload, appraise};
use crate::workloads::{Case, id};
use cgpath_appraisal::{PodVerdict, Severity, State, Verdict};
use cgpath_evidence::{EventKind, FileHash, PodUid};
use cgpath_testkit::{Actor, pod, sha256};
use std::collections::BTreeMap;

const LIVES: u64 = 80;
const ROUNDS: usize = 5;

/// By their places in a pod: what they truly are, and the image that each truly runs; the first is the
/// sandbox.
const CONTAINERS: [(&str, u8); 4] = [("", 0), ("web", 1), ("log", 3), ("job", 4)];

fn limits(r: &mut Random, images: &[u8]) -> Limits {
    Limits {
        images: images.to_vec(),
        hides_tmp: r.percent(30),
        only_bin: r.percent(30),
    }
}

fn part(r: &mut Random) -> Part {
    let empty = Workload {
        name: "",
        uid: None,
        namespace: None,
        app: None,
        containers: Vec::new(),
    };
    let mut all = vec![
        Workload {
            name: "shop/web",
            namespace: Some("shop"),
            app: Some("web"),
            containers: vec![("web", limits(r, &[1])), ("log", limits(r, &[3]))],
            ..empty.clone()
        },
        Workload {
            name: "shop/any",
            namespace: Some("shop"),
            containers: vec![("*", limits(r, &[1, 3]))],
            ..empty.clone()
        },
        Workload {
            name: "jobs",
            app: Some("job"),
            containers: vec![("job", limits(r, &[4])), ("*", limits(r, &[1, 3, 4]))],
            ..empty.clone()
        },
        Workload {
            name: "static",
            uid: Some(pod(20)),
            containers: vec![("*", limits(r, &[1, 3, 4]))],
            ..empty.clone()
        },
        Workload {
            name: "bank/bare",
            uid: Some(pod(21)),
            namespace: Some("bank"),
            containers: vec![("web", limits(r, &[1, 4])), ("*", limits(r, &[3]))],
            ..empty
        },
    ];
    let mut workloads = Vec::new();
    for _ in 0..1 + r.below(all.len()) {
        workloads.push(all.remove(r.below(all.len())));
    }
    Part {
        workloads,
        settle: r.one_of(&[0, 60, 120]),
        reports: r.percent(30),
    }
}

fn yaml(part: &Part) -> String {
    let unknown = if part.reports { "report" } else { "node-untrusted" };
    let mut text = format!(
        "version: 2\nunknown-pods: {unknown}\nsettle: {}s\nworkloads:\n",
        part.settle
    );
    for it in &part.workloads {
        let uid = it.uid.map(|uid| format!("uid: {uid}"));
        let namespace = it.namespace.map(|own| format!("namespace: {own}"));
        let app = it.app.map(|app| format!("labels: {{app: {app}}}"));
        let selector: Vec<String> = [uid, namespace, app].into_iter().flatten().collect();
        text += &format!(
            "  - name: {}\n    match: {{{}}}\n    containers:\n",
            it.name,
            selector.join(", ")
        );
        for (name, limits) in &it.containers {
            let references: Vec<String> = limits
                .images
                .iter()
                .map(|n| format!("{}.json", pod(*n)))
                .collect();
            let excludes = if limits.hides_tmp {
                ", excludes: ['^/tmp/']"
            } else {
                ""
            };
            let only = if limits.only_bin {
                ", only: ['/bin/**']"
            } else {
                ""
            };
            text += &format!(
                "      '{name}': {{references: [{}]{excludes}{only}}}\n",
                references.join(", ")
            );
        }
    }
    text
}

struct Life {
    case: Case,
    part: Part,
    happened: Vec<Happened>,
    times: Vec<u64>,
}

impl Life {
    fn new(r: &mut Random) -> Life {
        let part = part(r);
        let mut case = Case::new("");
        case.node.workloads = Some(yaml(&part));
        case.node.extra_policy += &format!("runtime-files: [{RUNC}]\n");
        Life {
            case,
            part,
            happened: Vec::new(),
            times: Vec::new(),
        }
    }

    fn add(&mut self, uid: PodUid, what: What) {
        let round = self.times.len();
        self.happened.push(Happened { round, uid, what });
    }

    fn is_named(&self, uid: PodUid, container: Option<&str>) -> bool {
        self.happened.iter().any(|it| {
            it.uid == uid
                && match (&it.what, container) {
                    (What::Pod(..), None) => true,
                    (What::Container(id, _), Some(own)) => id == own,
                    _ => false,
                }
        })
    }

    /// The runtime names the pod and its containers, or not yet, or otherwise.
    fn names(&mut self, r: &mut Random, n: u8) {
        let uid = pod(n);
        if r.percent(if self.is_named(uid, None) { 4 } else { 45 }) {
            let (namespace, app) = (r.one_of(&["shop", "bank"]), r.one_of(&["web", "job", "other"]));
            self.case
                .node
                .name_pod(uid, namespace, &[("app", app), ("more", "x")]);
            self.add(uid, What::Pod(namespace, app));
        }
        for (place, (truth, _)) in CONTAINERS.iter().enumerate() {
            let id = container(n, place);
            if r.percent(if self.is_named(uid, Some(&id)) { 3 } else { 45 }) {
                let lie = r.one_of(&["", "web", "log", "job", "debugger"]);
                let name = if r.percent(85) { *truth } else { lie };
                self.case.node.name_container(uid, &id, name);
                self.add(uid, What::Container(id, name));
            }
        }
    }

    /// Something is used in a container of the pod, or outside of all.
    fn uses(&mut self, r: &mut Random, n: u8) {
        let uid = pod(n);
        let place = r.below(CONTAINERS.len() + 1);
        let (part, actor, image) = match CONTAINERS.get(place) {
            Some((_, image)) => {
                let below = r.one_of(&[String::new(), format!("/{}", id(9)), "/container".to_owned()]);
                let id = container(n, place);
                let actor = Actor::container(uid, &id, &below, "/bin/app");
                (Some(id), actor, *image)
            }
            None => {
                let mut actor = Actor::pod(uid, "/pause");
                actor.cgroup = Some(format!("/kubepods/burstable/pod{uid}").into_bytes());
                (None, actor, 0)
            }
        };
        let own = |path: &'static str| (path, format!("{image}{path}"));
        let (path, content) = match r.below(24) {
            0 => ("/bin/app", "evil".to_owned()),
            1 => ("/bin/other", format!("{image}/bin/app")),
            2 => ("/tmp/x", "anything".to_owned()),
            3 => (r.one_of(&["/", "/bin/runc"]), RUNC.to_owned()),
            4 => ("/bin/app", format!("{}/bin/app", r.one_of(&[1, 3, 4]))),
            5 => ("/pause", "pause".to_owned()),
            _ if image == 0 => ("/pause", "pause".to_owned()),
            6..=9 => own(FILES[1]),
            _ => own(FILES[0]),
        };
        let digest = sha256(content.as_bytes());
        let node = &mut self.case.node;
        let ran = match r.below(4) {
            0 => {
                node.measure(&actor, path, &digest);
                false
            }
            1 => {
                let kind = r.one_of(&[EventKind::Mapping, EventKind::Script]);
                node.record_execution(&actor, kind, path, FileHash::Measured(digest));
                true
            }
            _ => {
                // What is measured is recorded of the same container.
                node.execute(&actor, path, &digest);
                true
            }
        };
        self.add(uid, What::Used(part, Use { path, content, ran }));
    }

    fn round(&mut self, r: &mut Random) -> Verdict {
        for n in 20..24 {
            self.names(r, n);
            if r.percent(70) {
                for _ in 0..r.below(4) {
                    self.uses(r, n);
                }
            }
        }
        self.case.after(r.one_of(&[0, 30, 61, 121]));
        self.times.push(self.case.node.now);
        // Whole, followed and encoded again say the same.
        self.case.round()
    }
}

fn container(n: u8, place: usize) -> String {
    id(n * 8 + place as u8)
}

fn concluded(pod: &PodVerdict) -> Opinion {
    let failures = pod
        .findings
        .iter()
        .filter(|finding| finding.severity == Severity::Fail);
    Opinion {
        state: pod.state,
        workload: pod.name.clone(),
        failed: failures.map(|finding| finding.rule).collect(),
        containers: pod
            .containers
            .iter()
            .map(|it| (it.id.clone(), it.state))
            .collect(),
    }
}

#[test]
fn pods_with_random_names_are_appraised_as_a_second_reading_of_the_rules_does() {
    let mut states: BTreeMap<String, u64> = BTreeMap::new();
    let (mut nodes, mut limited) = (0, 0);
    for seed in 0..LIVES {
        let mut r = Random(seed);
        let mut life = Life::new(&mut r);
        for round in 0..ROUNDS {
            let verdict = life.round(&mut r);
            let naive = appraise(&life.part, &life.happened, &life.times);
            let found: BTreeMap<PodUid, Opinion> =
                verdict.pods.iter().map(|pod| (pod.uid, concluded(pod))).collect();
            let node = match naive.values().any(|it| it.state == State::Unknown) && !life.part.reports {
                true => State::Untrusted,
                false => State::Trusted,
            };
            let shown = || {
                let (part, happened) = (&life.part, &life.happened);
                format!("seed {seed}, round {round}\n{part:#?}\n{happened:#?}\n{verdict}")
            };
            assert_eq!(found, naive, "{}", shown());
            assert_eq!(verdict.node.state, node, "{}", shown());
            for it in naive.values() {
                *states.entry(it.state.to_string()).or_default() += 1;
            }
            nodes += u64::from(node == State::Trusted);
            let is_only = |text: &str| text.ends_with("(only)");
            let all = verdict.pods.iter().flat_map(|pod| &pod.findings);
            limited += all.filter(|finding| is_only(&finding.text)).count();
        }
    }
    // A generator that makes one thing alone would compare nothing.
    println!("{LIVES} lives: {states:?}, {nodes} nodes trusted, {limited} findings of only");
    assert_eq!(states.len(), 4, "{states:?}");
    assert!(states.values().all(|count| *count > LIVES / 4), "{states:?}");
    assert!(
        nodes > LIVES / 4 && nodes < LIVES * ROUNDS as u64 * 3 / 4,
        "{nodes}"
    );
    assert!(limited > LIVES as usize / 8, "{limited}");
}
