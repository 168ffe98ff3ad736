//! What the container runtime says, in the terms of evidence.
//!
//! Promises: what Kubernetes could not have meant is passed over and said so, and nothing is guessed: an
//! image is what the pod's specification has, and references are as the runtime says them. Not here: which
//! of this becomes a record (see [`crate::pipeline`]).

use super::Pod;
use super::cri::{Container, ContainerStatus, ImageSpec, Sandbox};
use crate::pipeline::Stated;
use cgpath_evidence::name::MAX_REFERENCE;
use cgpath_evidence::{ContainerName, Named, PodName, PodUid};
use std::collections::HashMap;

/// What the status of a container has beyond the list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct More {
    image: String,
    references: Vec<String>,
}

impl More {
    /// What is too long for a reference is not kept: so many bytes are kept for each container.
    pub(super) fn of(status: ContainerStatus) -> More {
        let short = |text: &String| !text.is_empty() && text.len() <= MAX_REFERENCE;
        let image = status.image.unwrap_or_default().user_specified_image;
        let references = [status.image_ref, status.image_id];
        More {
            image: Some(image).filter(short).unwrap_or_default(),
            references: references.into_iter().filter(short).collect(),
        }
    }
}

/// An answer of the runtime.
#[derive(Debug, Default)]
pub(super) struct Words {
    /// Pods by name; of a pod that has several sandboxes the one that was made last counts, and stands last.
    pub(super) pods: Vec<(PodUid, Pod)>,
    /// The same, their sandboxes and containers, as records have them; those that were made first come first.
    pub(super) stated: Vec<Stated>,
    /// Sandboxes whose labels are left out: who makes a pod chooses them, so that this is no fault of the
    /// runtime.
    pub(super) labels_left_out: u64,
    /// What was passed over, if anything was.
    pub(super) passed_over: Option<String>,
}

/// What an answer that came at `boot_ns` says. Each container has what its status says beside it.
pub(super) fn words<'a>(
    mut sandboxes: Vec<Sandbox>,
    containers: impl IntoIterator<Item = (&'a Container, &'a More)>,
    boot_ns: u64,
) -> Words {
    let mut words = Words::default();
    sandboxes.sort_by_key(|sandbox| sandbox.of.created_at);
    let mut pods: HashMap<String, PodUid> = HashMap::new();
    for Sandbox {
        of: sandbox,
        has_labels,
    } in sandboxes
    {
        let metadata = sandbox.metadata.unwrap_or_default();
        // One that no kubelet made is no pod's.
        let Some(uid) = PodUid::parse(metadata.uid.as_bytes()) else {
            continue;
        };
        let labels = sandbox.labels.into_iter().collect();
        let mut name = PodName::new(metadata.namespace, metadata.name, labels);
        name.labels_left_out |= !has_labels;
        words.labels_left_out += u64::from(name.labels_left_out);
        let own = ContainerName {
            id: sandbox.id.clone(),
            name: String::new(),
            sandbox: true,
            image: String::new(),
            references: Vec::new(),
        };
        pods.insert(sandbox.id, uid);
        if words.state(uid, boot_ns, Named::Pod(name.clone())) {
            let PodName {
                namespace,
                name,
                labels,
                labels_left_out: _,
            } = name;
            let labels = labels.into_iter().collect();
            let pod = Pod {
                namespace,
                name,
                labels,
            };
            words.pods.push((uid, pod));
        }
        words.state(uid, boot_ns, Named::Container(own));
    }
    for (container, more) in containers {
        // Its sandbox is newer than the list of sandboxes: the next answer has both.
        let Some(uid) = pods.get(&container.pod_sandbox_id) else {
            continue;
        };
        words.state(*uid, boot_ns, Named::Container(container_name(container, more)));
    }
    words
}

impl Words {
    /// Gives whether it is a name.
    fn state(&mut self, uid: PodUid, boot_ns: u64, named: Named) -> bool {
        if let Some(fault) = named.fault() {
            let why = || format!("of pod {uid} a name is passed over: {fault}");
            self.passed_over.get_or_insert_with(why);
            return false;
        }
        self.stated.push(Stated { uid, boot_ns, named });
        true
    }
}

fn container_name(container: &Container, more: &More) -> ContainerName {
    let metadata = container.metadata.as_ref();
    let own = [&container.image_ref, &container.image_id];
    let mut references: Vec<String> = Vec::new();
    for said in own.into_iter().chain(&more.references) {
        if !said.is_empty() && !references.contains(said) {
            references.push(said.clone());
        }
    }
    let image = container.image.as_ref().map_or("", specified);
    ContainerName {
        id: container.id.clone(),
        name: metadata.map(|metadata| metadata.name.clone()).unwrap_or_default(),
        sandbox: false,
        image: if image.is_empty() {
            more.image.clone()
        } else {
            image.to_owned()
        },
        references,
    }
}

/// The image as the pod's specification has it. Kubelets ask for an image by its id, and since 1.28 say
/// beside it what the specification has; an id alone is not that.
fn specified(image: &ImageSpec) -> &str {
    let asked = image.image.as_str();
    let id = asked.strip_prefix("sha256:").unwrap_or(asked);
    let is_id = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    match image.user_specified_image.as_str() {
        "" if is_id => "",
        "" => asked,
        said => said,
    }
}

#[cfg(test)]
mod tests {
    use super::super::cri::{ContainerMetadata, PodSandbox, PodSandboxMetadata};
    use super::*;

    const UID: &str = "11111111-0000-4000-8000-000000000001";

    fn sandbox(uid: &str, namespace: &str, name: &str) -> PodSandbox {
        PodSandbox {
            id: "d0".repeat(32),
            metadata: Some(PodSandboxMetadata {
                name: name.into(),
                uid: uid.into(),
                namespace: namespace.into(),
            }),
            created_at: 1,
            labels: [("tier", "front"), ("app", "till")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
        }
    }

    fn container() -> Container {
        Container {
            id: "c1".repeat(32),
            pod_sandbox_id: "d0".repeat(32),
            metadata: Some(ContainerMetadata { name: "web".into() }),
            ..Container::default()
        }
    }

    fn said(sandboxes: Vec<PodSandbox>, containers: &[(Container, More)]) -> Words {
        let containers = containers.iter().map(|(container, more)| (container, more));
        let whole = |of| Sandbox { of, has_labels: true };
        words(sandboxes.into_iter().map(whole).collect(), containers, 77)
    }

    fn one(container: &Container, status: ContainerStatus) -> ContainerName {
        container_name(container, &More::of(status))
    }

    #[test]
    fn a_pod_its_sandbox_and_its_containers_have_names_in_the_form_of_evidence() {
        let words = said(
            vec![sandbox(UID, "shop", "till-0.x")],
            &[(container(), More::default())],
        );
        assert_eq!((words.labels_left_out, words.passed_over), (0, None));
        let pod = PodName {
            namespace: "shop".into(),
            name: "till-0.x".into(),
            labels: [("app", "till"), ("tier", "front")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .to_vec(),
            labels_left_out: false,
        };
        let named: Vec<&Named> = words.stated.iter().map(|stated| &stated.named).collect();
        assert_eq!(named[0], &Named::Pod(pod));
        let is_sandbox = |named: &Named| match named {
            Named::Container(container) => container.sandbox,
            Named::Pod(_) => panic!("{named:?}"),
        };
        assert_eq!(
            (named.len(), is_sandbox(named[1]), is_sandbox(named[2])),
            (3, true, false)
        );
        let uid = PodUid::parse(UID.as_bytes()).unwrap();
        assert!(
            words
                .stated
                .iter()
                .all(|stated| (stated.uid, stated.boot_ns) == (uid, 77))
        );
        assert_eq!(words.pods[0].1.labels["app"], "till");
    }

    #[test]
    fn what_kubernetes_could_not_call_a_pod_is_no_name_and_keeps_no_other_from_having_one() {
        for bad in [
            sandbox(UID, "", "till"),
            sandbox(UID, "shop", "till\n<b>"),
            sandbox(UID, "Shop", "till"),
            sandbox(UID, "shop", &"a".repeat(254)),
        ] {
            let other = PodSandbox {
                id: "d1".repeat(32),
                ..sandbox("11111111-0000-4000-8000-000000000002", "shop", "book")
            };
            let words = said(vec![bad.clone(), other], &[]);
            let names: Vec<&str> = words.pods.iter().map(|(_, pod)| pod.name.as_str()).collect();
            assert_eq!(names, ["book"], "{bad:?}");
            assert!(words.passed_over.is_some(), "{bad:?}");
        }
        let mut nameless = container();
        nameless.metadata = None;
        let short = Container {
            id: "c1".into(),
            ..container()
        };
        for bad in [nameless, short] {
            let words = said(
                vec![sandbox(UID, "shop", "till")],
                &[(bad.clone(), More::default())],
            );
            assert_eq!(words.stated.len(), 2, "{bad:?}");
            assert!(words.passed_over.is_some(), "{bad:?}");
        }
    }

    #[test]
    fn labels_that_no_record_holds_are_left_out_and_the_pod_has_a_name() {
        let mut many = sandbox(UID, "shop", "till");
        many.labels = (0..300).map(|n| (n.to_string(), String::new())).collect();
        let mut long = sandbox(UID, "shop", "till");
        long.labels = [("app".to_owned(), "x".repeat(1000))].into();
        let bare = PodSandbox {
            labels: Default::default(),
            ..sandbox(UID, "shop", "till")
        };
        for (of, has_labels) in [(many, true), (long, true), (bare, false)] {
            let words = words(vec![Sandbox { of, has_labels }], [], 77);
            let Named::Pod(name) = &words.stated[0].named else {
                panic!("{words:?}")
            };
            assert!(name.labels_left_out && name.labels.is_empty(), "{name:?}");
            assert_eq!(
                (name.namespace.as_str(), name.name.as_str(), words.stated.len()),
                ("shop", "till", 2)
            );
            assert_eq!((words.labels_left_out, words.passed_over), (1, None));
            assert_eq!(words.pods.len(), 1);
        }
    }

    #[test]
    fn what_is_of_no_pod_or_of_a_sandbox_that_is_not_listed_yet_is_nobodys() {
        let not_kubelets = sandbox("hdishd83djaidwnduwk28bcsb", "shop", "till");
        let bare = PodSandbox {
            metadata: None,
            ..sandbox(UID, "shop", "till")
        };
        let words = said(vec![not_kubelets, bare], &[(container(), More::default())]);
        assert!(words.pods.is_empty() && words.stated.is_empty());
        assert_eq!(words.passed_over, None);
    }

    #[test]
    fn of_two_sandboxes_of_a_pod_the_first_one_made_comes_first_and_the_last_one_is_for_sinks() {
        let old = sandbox(UID, "shop", "old");
        let new = PodSandbox {
            id: "d1".repeat(32),
            created_at: 9,
            ..sandbox(UID, "shop", "new")
        };
        let words = said(vec![new, old], &[]);
        let names: Vec<&str> = words.pods.iter().map(|(_, pod)| pod.name.as_str()).collect();
        assert_eq!(names, ["old", "new"]);
        assert!(matches!(&words.stated[0].named, Named::Pod(pod) if pod.name == "old"));
    }

    /// What runtimes say of an image. The index, the manifest of a platform and the configuration are three
    /// digests of one image, and which of them is said differs.
    #[test]
    fn references_of_an_image_are_as_each_runtime_says_them() {
        let config = format!("sha256:{}", "0c".repeat(32));
        let index = format!("registry.example/shop/web@sha256:{}", "01".repeat(32));
        let bare = "0c".repeat(32);
        let spec = |image: &str, user: &str| {
            Some(ImageSpec {
                image: image.into(),
                user_specified_image: user.into(),
            })
        };
        let status = |image_ref: &str, image_id: &str| ContainerStatus {
            image: spec("registry.example/shop/web:7", ""),
            image_ref: image_ref.into(),
            image_id: image_id.into(),
        };
        let by_tag = "registry.example/shop/web:7";
        for (who, image, image_ref, image_id, status, expected_image, expected) in [
            (
                "containerd 1.6, asked with the specification's name: the configuration, then the index",
                spec(by_tag, ""),
                config.as_str(),
                "",
                status(&index, ""),
                by_tag,
                vec![&config, &index],
            ),
            (
                "containerd 2 with a kubelet of 1.28 and later: by id, with the specification's beside it",
                spec(&config, by_tag),
                config.as_str(),
                config.as_str(),
                status(&index, &config),
                by_tag,
                vec![&config, &index],
            ),
            (
                "an older kubelet: by id, and nobody says what the specification has",
                spec(&config, ""),
                config.as_str(),
                "",
                status(&index, ""),
                "",
                vec![&config, &index],
            ),
            (
                "an image that was imported: it has a configuration and no repository",
                spec("localhost/web:1", ""),
                config.as_str(),
                "",
                status(&config, ""),
                "localhost/web:1",
                vec![&config],
            ),
            (
                "an image that was imported and tagged anew: none",
                spec("localhost/web:2", ""),
                "",
                "",
                status("", ""),
                "localhost/web:2",
                vec![],
            ),
            (
                "CRI-O since 1.28: its own id of the image, and the repository's digest in the status",
                spec(&bare, by_tag),
                bare.as_str(),
                bare.as_str(),
                status(&index, &bare),
                by_tag,
                vec![&bare, &index],
            ),
            (
                "a container that was removed before it could be asked for",
                spec(by_tag, ""),
                config.as_str(),
                "",
                ContainerStatus::default(),
                by_tag,
                vec![&config],
            ),
        ] {
            let listed = Container {
                image,
                image_ref: image_ref.into(),
                image_id: image_id.into(),
                ..container()
            };
            let name = one(&listed, status);
            assert_eq!(name.image, expected_image, "{who}");
            assert_eq!(name.references.iter().collect::<Vec<_>>(), expected, "{who}");
            assert_eq!(Named::Container(name).fault(), None, "{who}");
        }
    }

    #[test]
    fn what_the_specification_has_may_be_said_by_the_status_alone() {
        let status = ContainerStatus {
            image: Some(ImageSpec {
                image: "registry.example/shop/web:8".into(),
                user_specified_image: "registry.example/shop/web:7".into(),
            }),
            ..ContainerStatus::default()
        };
        let listed = Container {
            image: Some(ImageSpec {
                image: "0c".repeat(32),
                user_specified_image: String::new(),
            }),
            ..container()
        };
        assert_eq!(one(&listed, status).image, "registry.example/shop/web:7");
    }

    #[test]
    fn of_a_status_nothing_is_kept_that_is_too_long_for_a_reference() {
        let more = More::of(ContainerStatus {
            image: Some(ImageSpec {
                image: String::new(),
                user_specified_image: "x".repeat(1 << 20),
            }),
            image_ref: "x".repeat(1 << 20),
            image_id: "sha256:00".into(),
        });
        assert_eq!(
            (more.image.len(), more.references),
            (0, vec!["sha256:00".to_owned()])
        );
    }
}
