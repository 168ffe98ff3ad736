//! A file that more than one partition has: who writes it changes what the others run.

use super::{Life, busy, conclude};
use cgpath_appraisal::State;
use cgpath_evidence::{Digest, EventKind, FileHash};
use cgpath_testkit::{Actor, Node, pod, sha256};

const LIBRARY: &str = "/data/lib.so";
const INODE: (u64, u64) = (77, 5);

fn app(n: u8) -> Actor {
    Actor::pod(pod(n), "/bin/app")
}

fn library() -> Digest {
    sha256(b"a library")
}

/// A node of which pods 1 to 3 may have the library on a volume of their own, and all that they map of it is
/// one file.
fn with_volume() -> Node {
    let mut node = busy();
    for n in 1..=3 {
        let files = node.pod_files.get_mut(&pod(n)).unwrap();
        files.insert(LIBRARY.into(), [library()].into());
    }
    node.host_files.insert(LIBRARY.into(), [library()].into());
    node.shared.insert(LIBRARY.into(), INODE);
    node
}

fn map(node: &mut Node, actor: &Actor, kind: EventKind) {
    node.measure(actor, LIBRARY, &library());
    node.record_execution(actor, kind, LIBRARY, FileHash::PreCheck(library()));
}

/// Pod 1 maps it by `kind`, pod 2 writes it, in the same round or in another one, before or after; nobody may
/// trust pod 1 or 2, and everybody the others.
fn wrong(kind: EventKind, is_late: bool, writer_first: bool) -> Vec<String> {
    let mut life = Life::begin(with_volume());
    let what = format!("{kind:?}, late {is_late}, writer first {writer_first}");
    let act = |life: &mut Life, is_writer: bool| {
        if is_writer {
            life.node.violate(&app(2), LIBRARY);
        } else {
            map(&mut life.node, &app(1), kind);
        }
    };
    act(&mut life, writer_first);
    if is_late {
        life.round();
    }
    act(&mut life, !writer_first);
    let mut all = Vec::new();
    for _ in 0..2 {
        let round = life.round();
        for n in [3, 4] {
            if round.trusted_pods(&[n]).len() < 2 {
                all.push(format!("pod {n} is not trusted"));
            }
        }
        if round.appraised.whole.node.state != State::Trusted {
            all.push("the node is not trusted".into());
        }
        all.extend(round.trusted_pods(&[1, 2]));
    }
    all.into_iter().map(|wrong| format!("{what}: {wrong}")).collect()
}

#[test]
fn every_pod_that_ran_a_file_that_was_written_is_untrusted_and_no_other() {
    let kinds = [
        EventKind::Execution,
        EventKind::Script,
        EventKind::Mapping,
        EventKind::LateMapping,
    ];
    let mut all = Vec::new();
    for kind in kinds {
        for bits in 0..4 {
            all.extend(wrong(kind, bits & 1 == 1, bits & 2 == 2));
        }
    }
    conclude("library-written-by-a-neighbour", &all);
}

#[test]
fn a_host_that_ran_a_file_that_a_pod_wrote_is_untrusted() {
    let mut life = Life::begin(with_volume());
    map(&mut life.node, &Actor::host("/usr/bin/tool"), EventKind::Mapping);
    life.node.violate(&app(2), LIBRARY);
    let all: Vec<String> = (0..2).flat_map(|_| life.round().trusted()).collect();
    conclude("library-of-the-host-written-by-a-pod", &all);
}

/// One file under two names: a bind mount, a hard link, the volume at another place.
#[test]
fn a_file_is_one_whatever_its_path() {
    let mut life = Life::begin(with_volume());
    life.node.shared.insert(b"/mnt/other/name".to_vec(), INODE);
    map(&mut life.node, &app(1), EventKind::Mapping);
    life.node.violate(&app(2), "/mnt/other/name");
    let round = life.round();
    conclude("library-written-under-another-name", &round.trusted_pods(&[1, 2]));
}

/// A path that the policy permits is permitted to its writer; who runs the file at another path was promised
/// nothing.
#[test]
fn a_permitted_path_of_the_writer_excuses_nobody_elses_file() {
    let mut node = with_volume();
    node.extra_policy += "violations: {permit: ['/mnt/**']}\n";
    let mut life = Life::begin(node);
    life.node.shared.insert(b"/mnt/other/name".to_vec(), INODE);
    map(&mut life.node, &app(1), EventKind::Mapping);
    life.node.violate(&app(2), "/mnt/other/name");
    let round = life.round();
    conclude(
        "library-written-under-a-permitted-name",
        &round.trusted_pods(&[1]),
    );
}

/// The write is behind the last seal: its record is there, and not sealed yet.
#[test]
fn a_write_that_is_not_sealed_yet_counts_for_who_runs_the_file() {
    let mut life = Life::begin(with_volume());
    map(&mut life.node, &app(1), EventKind::Mapping);
    let nonce = life.nonce();
    life.node.seal(Some(&nonce));
    life.node.violate(&app(2), LIBRARY);
    let mut wrong = life.round_quoted().trusted_pods(&[1, 2]);
    wrong.extend(life.round().trusted_pods(&[1, 2]));
    conclude("library-written-behind-the-seal", &wrong);
}

/// Neither is another file on the same device, or the same number on another one.
#[test]
fn another_device_or_inode_is_another_file() {
    for other in [(INODE.0, 6), (78, INODE.1)] {
        let mut life = Life::begin(with_volume());
        map(&mut life.node, &app(1), EventKind::Mapping);
        life.node.shared.insert(b"/data/other".to_vec(), other);
        life.node.violate(&app(2), "/data/other");
        let round = life.round();
        assert!(round.trusted_pods(&[1]).len() >= 2, "{}", round.appraised.whole);
        assert_eq!(round.trusted_pods(&[2]), Vec::<String>::new());
    }
}
