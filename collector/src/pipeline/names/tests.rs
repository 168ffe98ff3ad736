use super::*;
use cgpath_evidence::{ContainerName, PodName};

const POD: &str = "f52130f4-c5be-423e-8070-daaca055a5ad";
const ID: &str = "5bab9779a4ffb2a5acc4160dedb8571b75806c6ad25bf936387678aefd19cb9e";

fn uid() -> PodUid {
    PodUid::parse(POD.as_bytes()).unwrap()
}

fn expand(path: &str) -> String {
    path.replace("<uid>", POD)
        .replace("<uid_>", &POD.replace('-', "_"))
        .replace("<hash>", &POD.replace('-', ""))
        .replace("<id>", ID)
}

fn pod(uid: PodUid, name: &str) -> Stated {
    let named = Named::Pod(PodName {
        namespace: "shop".into(),
        name: name.into(),
        labels: vec![("app".into(), "web".into())],
        labels_left_out: false,
    });
    let boot_ns = 5;
    Stated { uid, boot_ns, named }
}

fn container(uid: PodUid, id: &str, name: &str) -> Stated {
    let named = Named::Container(ContainerName {
        id: id.into(),
        name: name.into(),
        sandbox: false,
        image: "registry.example/shop/web:7".into(),
        references: Vec::new(),
    });
    let boot_ns = 6;
    Stated { uid, boot_ns, named }
}

fn made(names: &mut Names, id: u64, path: &str) -> Option<Stated> {
    names.made(id, expand(path).as_bytes())
}

#[test]
fn a_name_is_wanted_for_pods_and_for_what_lies_right_below_them_with_a_containers_name() {
    let whose = |path: &str| Who::at(expand(path).as_bytes());
    let own = Some(Who::Pod(uid()));
    for path in [
        "/kubepods/pod<uid>",
        "/kubepods/besteffort/pod<hash>",
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid_>.slice",
        "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod<uid_>.slice",
    ] {
        assert_eq!(whose(path), own, "{path}");
    }
    let containers = Some(Who::Container(uid(), digits(ID).unwrap()));
    for path in [
        "/kubepods/pod<uid>/<id>",
        "/kubepods.slice/kubepods-pod<uid_>.slice/cri-containerd-<id>.scope",
        "/kubepods.slice/kubepods-pod<uid_>.slice/crio-<id>.scope",
    ] {
        assert_eq!(whose(path), containers, "{path}");
    }
    for path in [
        "/",
        "/kubepods",
        "/kubepods/burstable",
        "/system.slice/containerd.service",
        // The monitor of a container carries its id, and is not the container.
        "/kubepods.slice/kubepods-pod<uid_>.slice/crio-conmon-<id>.scope",
        // crun puts a group below the container's own; a container may nest what it likes.
        "/kubepods.slice/kubepods-pod<uid_>.slice/crio-<id>.scope/container",
        "/kubepods/pod<uid>/<id>/<id>",
        "/kubepods/pod<uid>/other/<id>",
        "/kubepods/pod<uid>/other",
        "/kubepods/pod<uid>//...",
        // In kind the node is itself a container, and its id is of no pod.
        "/docker/<id>",
        "/docker/<id>/kubelet/kubepods/pod<uid>/<id>",
    ] {
        assert_eq!(whose(path), None, "{path}");
    }
}

#[test]
fn the_first_word_on_each_who_has_a_directory_is_due_and_is_so_once() {
    let mut names = Names::default();
    assert_eq!(made(&mut names, 2, "/kubepods/pod<uid>"), None);
    assert_eq!(made(&mut names, 3, "/kubepods/pod<uid>/<id>"), None);
    assert_eq!(names.unnamed(), Unnamed { seen: 2, left: 2 });
    let all = vec![
        pod(uid(), "web"),
        pod(uid(), "other"),
        container(uid(), ID, "web"),
        container(uid(), ID, "other"),
    ];
    let due = names.heard(all.clone());
    assert_eq!(due, [all[0].clone(), all[2].clone()]);
    for stated in &due {
        assert_eq!(names.place(stated), Some(2));
        names.recorded(stated);
        assert_eq!(names.place(stated), None);
    }
    assert!(names.heard(all).is_empty());
    assert_eq!(names.unnamed(), Unnamed { seen: 2, left: 0 });
    // It is not named anew when its directory is made anew.
    names.removed(3);
    assert_eq!(made(&mut names, 4, "/kubepods/pod<uid>/<id>"), None);
    assert!(names.heard(vec![container(uid(), ID, "other")]).is_empty());
    assert_eq!(names.unnamed().left, 0);
}

#[test]
fn nobody_is_named_of_whom_there_is_no_directory_and_no_container_but_in_its_own_pod() {
    let mut names = Names::default();
    let other = PodUid([7; 16]);
    made(&mut names, 2, "/kubepods/pod<uid>");
    made(&mut names, 3, "/kubepods/pod<uid>/<id>");
    names.made(4, format!("/kubepods/pod{other}").as_bytes());
    for stated in [
        pod(PodUid([8; 16]), "made-up"),
        container(uid(), &"00".repeat(32), "made-up"),
        container(other, ID, "web"),
    ] {
        assert_eq!(names.place(&stated), None, "{stated:?}");
        assert!(names.heard(vec![stated]).is_empty());
    }
    // And nothing that is no name.
    let bad = pod(uid(), "web\n");
    assert_eq!(names.place(&bad), None);
    assert!(names.heard(vec![bad]).is_empty());
}

#[test]
fn what_is_said_too_early_waits_for_its_directory_and_the_first_word_stands() {
    let mut names = Names::default();
    let first = container(uid(), ID, "web");
    let said = vec![first.clone(), container(uid(), ID, "other"), pod(uid(), "web")];
    assert!(names.heard(said).is_empty());
    assert_eq!(made(&mut names, 2, "/kubepods/pod<uid>"), Some(pod(uid(), "web")));
    assert_eq!(made(&mut names, 3, "/kubepods/pod<uid>/<id>"), Some(first));
    assert_eq!(names.waiting.bytes, 0);
}

#[test]
fn what_waits_is_bounded_in_number_and_bytes_and_the_newest_stays() {
    let mut names = Names::default();
    let id = |n: usize| hex::encode([&[0xee; 24][..], &(n as u64).to_be_bytes()].concat());
    let many = 40 * MAX_WAITING;
    names.heard((0..many).map(|n| container(uid(), &id(n), "web")).collect());
    assert_eq!(names.waiting.stated.len(), MAX_WAITING);
    assert_eq!(names.waiting.order.len(), MAX_WAITING);
    made(&mut names, 2, "/kubepods/pod<uid>");
    let newest = format!("/kubepods/pod<uid>/{}", id(many - 1));
    assert!(made(&mut names, 3, &newest).is_some());
    let oldest = format!("/kubepods/pod<uid>/{}", id(0));
    assert_eq!(made(&mut names, 4, &oldest), None);

    let long = |n: usize| {
        let mut stated = container(uid(), &id(n), "web");
        if let Named::Container(container) = &mut stated.named {
            container.references = vec!["x".repeat(1024); 16];
        }
        stated
    };
    names.heard((many..many + 1000).map(long).collect());
    assert!(names.waiting.bytes <= MAX_WAITING_BYTES);
    assert!((1..100).contains(&names.waiting.stated.len()));
    let sum: usize = names.waiting.stated.values().map(weight).sum();
    assert_eq!(sum, names.waiting.bytes);
}

#[test]
fn one_whose_directory_is_gone_can_still_be_named_until_many_others_went() {
    let mut names = Names::default();
    let id = |n: usize| hex::encode([&[0xee; 24][..], &(n as u64).to_be_bytes()].concat());
    made(&mut names, 1, "/kubepods/pod<uid>");
    names.recorded(&pod(uid(), "web"));
    let all = KEPT_GONE + 2;
    for n in 0..all {
        made(
            &mut names,
            10 + n as u64,
            &format!("/kubepods/pod<uid>/{}", id(n)),
        );
        assert_eq!(names.unnamed().left, 1);
        names.removed(10 + n as u64);
    }
    assert_eq!(
        names.unnamed(),
        Unnamed {
            seen: 1 + all as u64,
            left: 0
        }
    );
    let kept = |n: usize| names.place(&container(uid(), &id(n), "web"));
    assert_eq!((kept(0), kept(1), kept(2)), (None, None, Some(1)));
    assert_eq!(kept(all - 1), Some(1));
    assert!(names.directories.len() == 1 && names.known.len() == KEPT_GONE + 1);
    // The pod itself is kept beside them, named as it is.
    names.removed(1);
    assert_eq!(names.place(&container(uid(), &id(all - 1), "web")), Some(1));
    assert_eq!(names.place(&pod(uid(), "other")), None);
}

#[test]
fn who_is_gone_leaves_and_is_neither_named_again_nor_otherwise_however_often_it_comes_back() {
    let mut names = Names::default();
    let number = |n: usize| (n as u64).to_be_bytes();
    let uid = |n: usize| PodUid([[0xee; 8], number(n)].concat().try_into().unwrap());
    let id = |n: usize| hex::encode([&[0xee; 24][..], &number(n)].concat());
    let all = KEPT_GONE + 7;
    // Each container is made, named before or after its end, and gone, as is its pod.
    let come = |names: &mut Names, n: usize| {
        let (pod, directory) = (format!("/kubepods/pod{}", uid(n)), 10 + 2 * n as u64);
        names.made(directory, pod.as_bytes());
        names.made(directory + 1, format!("{pod}/{}", id(n)).as_bytes());
    };
    let go = |names: &mut Names, n: usize| {
        names.removed(11 + 2 * n as u64);
        names.removed(10 + 2 * n as u64);
    };
    let said = |n: usize, name: &str| vec![pod(uid(n), name), container(uid(n), &id(n), name)];
    for n in 0..all {
        come(&mut names, n);
        let first = said(n, "web");
        assert_eq!(names.heard(first.clone()), first);
        names.recorded(&first[0]);
        if n % 2 == 0 {
            names.recorded(&first[1]);
        }
        go(&mut names, n);
        if n % 2 == 1 {
            assert_eq!(names.place(&first[1]), Some(10 + 2 * n as u64));
            names.recorded(&first[1]);
        }
        assert!(names.known.len() <= KEPT_GONE && names.gone.len() <= KEPT_GONE);
    }
    assert_eq!(names.known.len() + names.named.len(), 2 * all);
    let is_known = |n: usize| names.known.contains_key(&Who::Pod(uid(n)));
    assert_eq!([0, 1, all - 1].map(is_known), [false, false, true]);
    assert!(names.directories.is_empty() && names.waiting.stated.is_empty());
    assert_eq!(names.unnamed().left, 0);
    // A runtime lists them on, and calls them otherwise; and they come back.
    for n in [0, 1, all - 1] {
        for round in 0..2 {
            for stated in ["web", "other"].into_iter().flat_map(|name| said(n, name)) {
                assert_eq!(names.place(&stated), None, "{round} {stated:?}");
                assert!(names.heard(vec![stated]).is_empty(), "{round}");
            }
            come(&mut names, n);
            assert_eq!(names.unnamed().left, 0);
        }
        go(&mut names, n);
    }
    assert!(names.waiting.stated.is_empty());
    assert!(names.known.len() <= KEPT_GONE);
}

#[test]
fn a_directory_that_is_renamed_found_twice_or_there_twice_wants_one_name() {
    let mut names = Names::default();
    made(&mut names, 1, "/kubepods/pod<uid>");
    made(&mut names, 1, "/kubepods/pod<uid>");
    assert_eq!(names.unnamed(), Unnamed { seen: 1, left: 1 });
    // Of both hierarchies' forms the one that was made last is the pod's.
    made(&mut names, 2, "/kubepods/burstable/pod<uid>");
    assert_eq!(names.unnamed().left, 1);
    assert_eq!(names.place(&pod(uid(), "web")), Some(2));
    names.removed(1);
    assert_eq!(names.unnamed().left, 1);
    names.made(2, b"/kubepods/burstable/else");
    assert_eq!(names.unnamed().left, 0);
}
