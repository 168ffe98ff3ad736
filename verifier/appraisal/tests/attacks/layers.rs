//! A file under an overlay: who writes it in its layer changes what others run, and IMA logs nothing.

use super::{Life, busy, conclude, tenant_policy};
use crate::ways;
use cgpath_appraisal::State;
use cgpath_evidence::{EventKind, FileHash, Identity, LayerFile, PartitionKey, record::OVERLAYFS_MAGIC};
use cgpath_testkit::{Actor, EXT4, EXT4_DEVICE, Node, pod, sha256};

const APP: &str = "/bin/app";
/// What `APP` of pods 1 and 2 is where their image lies, and what pod 1's is once it has a copy of its own.
const LOWER: LayerFile = layer(4711);
const UPPER: LayerFile = layer(4712);

const fn layer(ino: u64) -> LayerFile {
    LayerFile {
        dev: EXT4_DEVICE,
        ino,
        generation: 3,
    }
}

fn app(n: u8) -> Actor {
    Actor::pod(pod(n), APP)
}

/// A pod's own file: its overlay, and the file in a layer.
fn through(overlay: u64, layer: LayerFile) -> Identity {
    Identity {
        generation: overlay,
        magic: EXT4,
        layer: Some(layer),
        written: false,
    }
}

fn is(node: &mut Node, n: u8, identity: Identity) {
    node.identities
        .insert((PartitionKey::Pod(pod(n)), APP.into()), identity);
}

/// A node of which pods 1 and 2 run one image: the program is one file in a layer of both.
fn with_layers() -> Node {
    let mut node = busy();
    node.identifies = true;
    for n in 1..=2 {
        is(&mut node, n, through(n.into(), LOWER));
    }
    node
}

fn map(node: &mut Node, n: u8) {
    let content = node.pod_files[&pod(n)][APP.as_bytes()].first().unwrap().clone();
    node.measure(&app(n), APP, &content);
    node.record_execution(&app(n), EventKind::Mapping, APP, FileHash::PreCheck(content));
}

/// Somebody opens a file of a layer, there, for writing.
fn write(node: &mut Node, by: &Actor, file: LayerFile) {
    node.record_layer_write(by, "/var/lib/layers/bin/app");
    let (_, record) = node.waiting.last_mut().unwrap();
    (record.dev, record.ino) = (file.dev, file.ino);
    record.identity = Some(Box::new(Identity {
        generation: file.generation.into(),
        magic: EXT4,
        layer: None,
        written: false,
    }));
}

/// Somebody opens it for writing through an overlay of their own, in which that layer is the upper one.
fn write_through_another(node: &mut Node, by: &Actor, file: LayerFile) {
    node.record_layer_write(by, "/mnt/bin/app");
    let (_, record) = node.waiting.last_mut().unwrap();
    (record.dev, record.ino) = (77, 1);
    record.identity = Some(Box::new(through(77, file)));
}

/// A pod with the layers' directory of the host.
fn writer() -> Actor {
    app(4)
}

#[test]
fn who_runs_a_file_through_an_overlay_is_untrusted_once_its_layers_file_is_written() {
    let ways: [fn(&mut Node, &Actor, LayerFile); 2] = [write, write_through_another];
    for (written, writer_first) in ways.into_iter().flat_map(|way| [(way, false), (way, true)]) {
        for is_late in [false, true] {
            let mut life = Life::begin(with_layers());
            let act = |life: &mut Life, is_writer: bool| {
                if is_writer {
                    written(&mut life.node, &writer(), LOWER);
                } else {
                    map(&mut life.node, 1);
                    map(&mut life.node, 2);
                }
            };
            act(&mut life, writer_first);
            if is_late {
                life.round();
            }
            act(&mut life, !writer_first);
            let round = life.round();
            let mut wrong = round.trusted_pods(&[1, 2, 4]);
            if round.trusted_pods(&[3]).len() < 2 || round.appraised.whole.node.state != State::Trusted {
                wrong.push("pod 3 or the node is not trusted".into());
            }
            conclude("layer-written-below-an-overlay", &wrong);
        }
    }
}

#[test]
fn a_host_that_writes_in_a_layer_makes_the_node_and_who_runs_the_file_untrusted() {
    let mut life = Life::begin(with_layers());
    map(&mut life.node, 1);
    write(&mut life.node, &Actor::host("/usr/bin/tool"), LOWER);
    let round = life.round();
    let mut wrong = round.trusted();
    wrong.extend(round.trusted_pods(&[1]));
    conclude("layer-written-by-the-host", &wrong);
}

/// IMA logs what is done to the layer's file where somebody uses that one by its own path: a violation of the
/// one is one of the other.
#[test]
fn a_violation_of_a_layers_file_counts_for_who_runs_it_through_an_overlay_and_the_other_way_round() {
    let host = Actor::host("/usr/bin/tool");
    let plain = |node: &mut Node| {
        let (_, record) = node.waiting.last_mut().unwrap();
        (record.dev, record.ino) = (LOWER.dev, LOWER.ino);
        record.identity = Some(Box::new(Identity {
            generation: LOWER.generation.into(),
            layer: None,
            ..through(0, LOWER)
        }));
    };
    let mut life = Life::begin(with_layers());
    map(&mut life.node, 2);
    life.node.violate(&writer(), "/var/lib/layers/bin/app");
    plain(&mut life.node);
    conclude("violation-of-a-layers-file", &life.round().trusted_pods(&[2, 4]));

    let mut life = Life::begin(with_layers());
    let tool = sha256(b"/usr/bin/tool");
    life.node.record_execution(
        &host,
        EventKind::Mapping,
        "/usr/bin/tool",
        FileHash::PreCheck(tool),
    );
    plain(&mut life.node);
    life.node.violate(&app(1), APP);
    let round = life.round();
    let mut wrong = round.trusted();
    wrong.extend(round.trusted_pods(&[1]));
    conclude("violation-through-an-overlay", &wrong);
}

/// Its first write gives a pod a copy of its own in the upper layer. The file that all have is as it was.
#[test]
fn a_pod_that_writes_its_own_copy_changes_nothing_for_those_that_have_the_image_too() {
    let mut life = Life::begin(with_layers());
    map(&mut life.node, 1);
    map(&mut life.node, 2);
    is(&mut life.node, 1, through(1, UPPER));
    life.node.violate(&app(1), APP);
    let round = life.round();
    assert!(round.trusted_pods(&[2]).len() >= 2, "{}", round.appraised.whole);
    conclude("own-copy-written", &round.trusted_pods(&[1]));
}

/// By the overlay both names are one file, though its content lies elsewhere since.
#[test]
fn a_file_of_an_overlay_is_one_before_and_after_its_copy() {
    let mut life = Life::begin(with_layers());
    map(&mut life.node, 1);
    let shown = life.node.file(&PartitionKey::Pod(pod(1)), APP.as_bytes());
    life.node.violate(&writer(), "/proc/1/root/bin/app");
    let (_, record) = life.node.waiting.last_mut().unwrap();
    (record.dev, record.ino) = shown;
    record.identity = Some(Box::new(through(1, UPPER)));
    conclude(
        "overlay-written-from-outside",
        &life.round().trusted_pods(&[1, 4]),
    );
}

/// A number that the file system gave to another file, and the number of an overlay that is another one
/// since.
#[test]
fn a_number_that_is_used_again_is_another_file() {
    let reused = LayerFile {
        generation: LOWER.generation + 1,
        ..LOWER
    };
    let mut life = Life::begin(with_layers());
    map(&mut life.node, 1);
    write(&mut life.node, &writer(), reused);
    let round = life.round();
    assert!(round.trusted_pods(&[1]).len() >= 2, "{}", round.appraised.whole);

    let mut life = Life::begin(with_layers());
    let shown = life.node.file(&PartitionKey::Pod(pod(1)), APP.as_bytes());
    is(&mut life.node, 1, through(1, UPPER));
    life.node.violate(&app(1), APP);
    map(&mut life.node, 2);
    // Pod 2's overlay has the device number now that pod 1's had, and the image is the same.
    let (_, record) = life.node.waiting.last_mut().unwrap();
    (record.dev, record.ino) = shown;
    let round = life.round();
    assert!(round.trusted_pods(&[2]).len() >= 2, "{}", round.appraised.whole);
}

/// What older collectors, and kernels whose overlayfs is not known, do not say is taken for the worse: the
/// number alone says that it is the same file.
#[test]
fn without_a_generation_a_number_is_one_file_for_the_whole_boot() {
    for is_writer_older in [false, true] {
        let mut life = Life::begin(with_layers());
        let shown = life.node.file(&PartitionKey::Pod(pod(1)), APP.as_bytes());
        map(&mut life.node, 1);
        let nothing = |node: &mut Node| node.waiting.last_mut().unwrap().1.identity = None;
        if !is_writer_older {
            nothing(&mut life.node);
        }
        life.node.violate(&app(3), APP);
        let (_, record) = life.node.waiting.last_mut().unwrap();
        (record.dev, record.ino) = shown;
        record.identity = Some(Box::new(through(77, UPPER)));
        if is_writer_older {
            nothing(&mut life.node);
        }
        conclude("number-without-a-generation", &life.round().trusted_pods(&[1]));
    }
}

/// The limit: an overlay whose layer is not known is its own file alone. Its file system is not known either,
/// so that no pod is trusted with it unless the policy permits `overlay`, which each verdict repeats.
#[test]
fn limit_a_write_in_a_layer_is_not_charged_to_who_uses_an_overlay_whose_layer_is_not_known() {
    let unknown = Identity {
        generation: 0,
        magic: OVERLAYFS_MAGIC,
        layer: None,
        written: false,
    };
    for is_permitted in [false, true] {
        let mut life = Life::begin(with_layers());
        if is_permitted {
            life.node.extra_policy += "file-systems: {permit: [overlay]}\n";
        }
        is(&mut life.node, 1, unknown);
        map(&mut life.node, 1);
        write(&mut life.node, &writer(), LOWER);
        let round = life.round();
        let state = round.appraised.whole.pod(pod(1)).unwrap().state;
        assert_eq!(state == State::Trusted, is_permitted, "{}", round.appraised.whole);
        let repeated = ["file-systems.permit: overlay".to_owned()];
        assert_eq!(
            round.appraised.whole.relaxations,
            &repeated[..usize::from(is_permitted)]
        );
        conclude("writer-where-no-layer-is-known", &round.trusted_pods(&[4]));
    }
}

#[test]
fn who_uses_a_file_that_is_open_for_writing_below_the_overlay_is_untrusted_unless_the_path_is_permitted() {
    let written = Identity {
        written: true,
        ..through(1, LOWER)
    };
    let kinds = [
        EventKind::Execution,
        EventKind::Script,
        EventKind::Mapping,
        EventKind::LateMapping,
    ];
    for kind in kinds {
        let mut life = Life::begin(with_layers());
        is(&mut life.node, 1, written);
        let content = life.node.pod_files[&pod(1)][APP.as_bytes()]
            .first()
            .unwrap()
            .clone();
        life.node
            .record_execution(&app(1), kind, APP, FileHash::PreCheck(content));
        conclude("open-below-an-overlay", &life.round().trusted_pods(&[1]));
    }
    // An entry whose record is not sealed yet.
    let (path, content) = ("/bin/new", sha256(b"new"));
    for written in [false, true] {
        let mut node = with_layers();
        let files = node.pod_files.get_mut(&pod(1)).unwrap();
        files.insert(path.into(), [content.clone()].into());
        let mut life = Life::begin(node);
        let nonce = life.nonce();
        life.node.seal(Some(&nonce));
        life.node.measure(&app(1), path, &content);
        let (_, record) = life.node.waiting.last_mut().unwrap();
        record.identity.as_mut().unwrap().written = written;
        let trusted = life.round_quoted().trusted_pods(&[1]);
        assert_eq!(trusted.is_empty(), written, "{trusted:?}");
    }

    let mut node = with_layers();
    node.extra_policy += "violations: {permit: [/bin/app]}\n";
    let mut life = Life::begin(node);
    is(&mut life.node, 1, written);
    map(&mut life.node, 1);
    let round = life.round();
    assert!(round.appraised.whole.trusted, "{}", round.appraised.whole);
}

/// Of a file on such a file system nobody knows what is read later.
#[test]
fn a_file_on_a_file_system_that_others_change_makes_who_uses_it_untrusted_unless_the_policy_permits_it() {
    let on = |magic: u64, layer: Option<LayerFile>| Identity {
        magic,
        layer,
        ..through(1, LOWER)
    };
    let nfs_layer = LayerFile { dev: 55, ..LOWER };
    // Plain, as a layer of an overlay, and one that nobody knows.
    for identity in [on(0x6969, None), on(0x6969, Some(nfs_layer)), on(0x1234, None)] {
        let mut life = Life::begin(with_layers());
        is(&mut life.node, 1, identity);
        map(&mut life.node, 1);
        let round = life.round();
        let mut wrong = round.trusted_pods(&[1]);
        if round.trusted_pods(&[2]).len() < 2 || round.appraised.whole.node.state != State::Trusted {
            wrong.push("pod 2 or the node is not trusted".into());
        }
        conclude("file-system-that-others-change", &wrong);
        // By the tenant's own policy alone, too.
        let mut node = with_layers();
        is(&mut node, 1, identity);
        map(&mut node, 1);
        let nonce = b"a nonce of the tenant's".to_vec();
        let evidence = node.attest(&nonce);
        let context = node.context(&nonce, None);
        node.extra_policy += "file-systems: {permit: [nfs, '0x1234']}\n";
        let whole = cgpath_appraisal::appraise(&evidence, &node.policy(), &context).unwrap();
        assert!(whole.trusted, "{whole}");
        let tenant = tenant_policy(&node, pod(1));
        let verdict = ways::tenant(&evidence, &whole, pod(1), &tenant, &context).unwrap();
        assert!(!verdict.trusted, "{verdict}");
    }
}

#[test]
fn a_host_that_uses_a_file_on_such_a_file_system_is_untrusted_unless_the_policy_permits_it() {
    let tool = "/usr/bin/tool";
    for is_permitted in [false, true] {
        let mut node = with_layers();
        if is_permitted {
            node.extra_policy += "file-systems: {permit: [9p]}\n";
        }
        let mut life = Life::begin(node);
        let key = (PartitionKey::Host, tool.as_bytes().to_vec());
        let identity = Identity {
            magic: 0x0102_1997,
            layer: None,
            ..through(0, LOWER)
        };
        life.node.identities.insert(key, identity);
        life.node.execute_good(&Actor::host("/sbin/init"), tool);
        let round = life.round();
        if is_permitted {
            assert!(round.appraised.whole.trusted, "{}", round.appraised.whole);
            let said = round.appraised.whole.node.findings.iter();
            let said: Vec<_> = said.filter(|f| f.found.as_deref() == Some("9p")).collect();
            assert_eq!(said.len(), 1, "{}", round.appraised.whole);
        } else {
            conclude("file-of-the-host-that-others-change", &round.trusted());
        }
    }
}
