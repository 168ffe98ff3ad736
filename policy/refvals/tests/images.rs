//! Properties of the generators: images, root file systems and lists become reference values.

use cgpath_evidence::{Bank, Digest};
use cgpath_policy::{Reference, SourceKind};
use cgpath_refvals::image::{Choice, Mount, Platform, Store, TarStore, decompress, from_image};
use cgpath_refvals::{Error, HashOptions, list, rootfs_archive};
use std::io::{Cursor, Read, Write};

/// One entry of a test's archive.
enum E<'a> {
    File(&'a str, &'a str),
    Dir(&'a str),
    Link(&'a str, &'a str),
    Hard(&'a str, &'a str),
    Fifo(&'a str),
}
use E::{Dir, Fifo, File, Hard, Link};

fn tar(entries: &[E<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_mode(0o755);
        let (path, content) = match entry {
            File(path, content) => {
                header.set_size(content.len() as u64);
                (path, *content)
            }
            Dir(path) => {
                header.set_entry_type(tar::EntryType::Directory);
                (path, "")
            }
            Link(path, to) => {
                header.set_entry_type(tar::EntryType::Symlink);
                if to.len() > 100 {
                    builder.append_link(&mut header, path, to).unwrap();
                    continue;
                }
                header.set_link_name_literal(to).unwrap();
                (path, "")
            }
            Hard(path, to) => {
                header.set_entry_type(tar::EntryType::Link);
                header.set_link_name_literal(to).unwrap();
                (path, "")
            }
            Fifo(path) => {
                header.set_entry_type(tar::EntryType::Fifo);
                (path, "")
            }
        };
        // Not `set_path`: paths that it refuses are among the tests.
        if path.len() < 100 {
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_cksum();
            builder.append(&header, content.as_bytes()).unwrap();
        } else {
            builder
                .append_data(&mut header, path, content.as_bytes())
                .unwrap();
        }
    }
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut e = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    e.write_all(bytes).unwrap();
    e.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

fn sha256(bytes: impl AsRef<[u8]>) -> Digest {
    Bank::Sha256.hash(&[bytes.as_ref()])
}

fn blob(bytes: &[u8]) -> (String, Vec<u8>) {
    (
        format!("blobs/sha256/{}", hex::encode(sha256(bytes).bytes())),
        bytes.to_vec(),
    )
}

fn descriptor(bytes: &[u8], more: &str) -> String {
    format!(
        "{{\"digest\":\"{}\",\"size\":{}{more}}}",
        sha256(bytes),
        bytes.len()
    )
}

struct Image {
    parts: Vec<(String, Vec<u8>)>,
    manifest: Vec<u8>,
}

/// Manifest, configuration and blobs of packed layers with the given unpacked forms.
fn image(layers: &[(Vec<u8>, Vec<u8>)]) -> Image {
    let diff_ids: Vec<String> = layers
        .iter()
        .map(|(_, plain)| format!("\"{}\"", sha256(plain)))
        .collect();
    let config = format!(
        "{{\"os\":\"linux\",\"architecture\":\"amd64\",\"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[{}]}}}}",
        diff_ids.join(",")
    );
    let packed: Vec<String> = layers.iter().map(|(packed, _)| descriptor(packed, "")).collect();
    let manifest = format!(
        "{{\"schemaVersion\":2,\"config\":{},\"layers\":[{}]}}",
        descriptor(config.as_bytes(), ""),
        packed.join(",")
    )
    .into_bytes();
    let mut parts: Vec<_> = layers.iter().map(|(packed, _)| blob(packed)).collect();
    parts.push(blob(config.as_bytes()));
    parts.push(blob(&manifest));
    Image { parts, manifest }
}

fn archive(parts: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, bytes) in parts {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, path, bytes.as_slice()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn oci(image: &Image, index: &str) -> Vec<u8> {
    let mut parts = image.parts.clone();
    parts.push((
        "oci-layout".into(),
        b"{\"imageLayoutVersion\":\"1.0.0\"}".to_vec(),
    ));
    parts.push(("index.json".into(), index.as_bytes().to_vec()));
    archive(&parts)
}

fn single(image: &Image) -> Vec<u8> {
    let name = ",\"annotations\":{\"org.opencontainers.image.ref.name\":\"demo:1\"}";
    oci(
        image,
        &format!("{{\"manifests\":[{}]}}", descriptor(&image.manifest, name)),
    )
}

fn read_with(archive: &[u8], choice: &Choice, mounts: &[Mount]) -> Result<Reference, Error> {
    let mut ignore = |_| {};
    let mut options = HashOptions {
        banks: &[Bank::Sha256],
        progress: &mut ignore,
    };
    let mut store = TarStore::new("image.tar", Cursor::new(archive))?;
    from_image(&mut store, choice, mounts, &mut options)
}

fn read(archive: &[u8]) -> Result<Reference, Error> {
    read_with(archive, &Choice::default(), &[])
}

fn layers(layers: &[&[E<'_>]]) -> Result<Reference, Error> {
    let layers: Vec<_> = layers.iter().map(|l| (tar(l), tar(l))).collect();
    read(&single(&image(&layers)))
}

/// Paths and contents that are accepted, as text.
fn shown(reference: &Reference, contents: &[&str]) -> Vec<String> {
    let content = |digest: &Digest| {
        contents
            .iter()
            .find(|c| sha256(c) == *digest)
            .map_or("?".to_owned(), |c| (*c).to_owned())
    };
    reference
        .files
        .iter()
        .map(|(path, digests)| {
            let digests: Vec<_> = digests.iter().map(content).collect();
            format!("{}={}", String::from_utf8_lossy(path), digests.join("|"))
        })
        .collect()
}

#[test]
fn later_layers_replace_files_and_links_become_plain_paths() {
    let found = layers(&[
        &[
            Dir("./usr/"),
            Dir("./usr/bin/"),
            Link("./bin", "usr/bin"),
            File("./usr/bin/busybox", "old"),
            Hard("./usr/bin/sh", "./usr/bin/busybox"),
            Link("./usr/bin/link", "busybox"),
            Fifo("./usr/bin/fifo"),
            File("./etc/conf", "conf"),
        ],
        &[File("usr/bin/busybox", "new"), File("usr/bin/more", "more")],
    ])
    .unwrap();
    assert_eq!(
        shown(&found, &["old", "new", "more", "conf"]),
        [
            "/etc/conf=conf",
            "/usr/bin/busybox=new",
            "/usr/bin/more=more",
            "/usr/bin/sh=old"
        ]
    );
    assert_eq!(found.source.kind, SourceKind::Image);
    assert_eq!(found.source.name, "demo:1");
    assert!(!found.learned);
}

#[test]
fn a_layer_sees_no_link_and_no_file_of_the_layers_below() {
    let lower: &[E<'_>] = &[
        File("usr/bin/sh", "sh"),
        Link("bin", "usr/bin"),
        File("x", "x"),
        Link("kept", "usr"),
    ];
    // A parent that the layer does not name is a real directory, and hides what is below; one that it names
    // merges.
    let upper: &[E<'_>] = &[
        File("bin/app", "app"),
        File("x/y", "y"),
        Dir("usr/"),
        File("usr/z", "z"),
    ];
    let found = layers(&[lower, upper]).unwrap();
    assert_eq!(
        shown(&found, &["sh", "x", "app", "y", "z"]),
        ["/bin/app=app", "/usr/bin/sh=sh", "/usr/z=z", "/x/y=y"]
    );
    // Its own links it does follow.
    let own: &[E<'_>] = &[Link("bin", "usr/bin"), File("bin/app", "app")];
    let found = layers(&[lower, own]).unwrap();
    assert_eq!(
        shown(&found, &["sh", "x", "app"]),
        ["/usr/bin/app=app", "/usr/bin/sh=sh", "/x=x"]
    );
    // A hard link to what only a layer below has.
    let why = layers(&[lower, &[Hard("again", "usr/bin/sh")]])
        .unwrap_err()
        .to_string();
    assert!(
        why.contains("\"usr/bin/sh\", which is not there in this layer"),
        "{why}"
    );
}

#[test]
fn whiteouts_are_what_the_kernel_makes_of_them() {
    let lower: &[E<'_>] = &[File("d/one", "1"), File("e/two", "2"), File("three", "3")];
    // An opaque marker at the root has no effect: overlayfs looks at every layer for the root.
    let found = layers(&[lower, &[File(".wh..wh..opq", ""), File("four", "4")]]).unwrap();
    assert_eq!(
        shown(&found, &["1", "2", "3", "4"]),
        ["/d/one=1", "/e/two=2", "/four=4", "/three=3"]
    );
    // What is hidden comes back neither by a directory above it nor by one in its place.
    let found = layers(&[
        lower,
        &[File(".wh.d", ""), File("e/.wh..wh..opq", "")],
        &[Dir("d/"), Dir("e/"), File("d/n", "n")],
    ]);
    assert_eq!(shown(&found.unwrap(), &["n", "3"]), ["/d/n=n", "/three=3"]);
    // A name that the layer has is hidden by nobody: containerd and Docker cannot unpack it.
    let why = layers(&[lower, &[File("n", "n"), File(".wh.n", "")]])
        .unwrap_err()
        .to_string();
    assert!(why.contains("a name that this layer itself has"), "{why}");
    // In the first layer it only removes what came before it.
    let found = layers(&[&[
        File("n", "n"),
        File(".wh.n", ""),
        File("m", "m"),
        File(".wh..wh..opq", ""),
    ]])
    .unwrap();
    assert_eq!(shown(&found, &["m"]), ["/m=m"]);
    for name in [".wh.", ".wh..", ".wh..."] {
        let why = layers(&[lower, &[File(name, "")]]).unwrap_err().to_string();
        assert!(why.contains("whiteout of no name"), "{why}");
    }
}

#[test]
fn names_that_lead_out_of_a_layer_stay_in_it() {
    let names: &[E<'_>] = &[
        File("../../up", "1"),
        File("/abs", "2"),
        File("a/../b//./c", "3"),
        Dir("."),
        Dir("/"),
    ];
    let found = layers(&[names]).unwrap();
    assert_eq!(shown(&found, &["1", "2", "3"]), ["/abs=2", "/b/c=3", "/up=1"]);
}

#[test]
fn a_link_that_leads_out_of_the_root_stays_inside() {
    let found = layers(&[&[
        Dir("etc"),
        Link("out", "../../../../etc"),
        Link("abs", "/etc"),
        File("out/a", "a"),
        File("abs/b", "b"),
    ]])
    .unwrap();
    assert_eq!(shown(&found, &["a", "b"]), ["/etc/a=a", "/etc/b=b"]);
}

#[test]
fn a_whiteout_removes_what_lower_layers_have_and_nothing_of_its_own_layer() {
    let lower: &[E<'_>] = &[
        File("a/one", "1"),
        File("a/two", "2"),
        File("b/three", "3"),
        File("b/sub/four", "4"),
        File("c", "5"),
        File("d/six", "6"),
    ];
    let found = layers(&[
        lower,
        &[
            File("a/.wh.one", ""),
            // The opaque marker may come after what its own layer brings.
            File("b/sub/new", "n"),
            File("b/.wh..wh..opq", ""),
            File(".wh.c", ""),
            File("c", "5 again"),
            File(".wh.d", ""),
            File(".wh..wh.plnk", ""),
        ],
    ])
    .unwrap();
    assert_eq!(
        shown(&found, &["1", "2", "3", "4", "5", "6", "n", "5 again"]),
        ["/a/two=2", "/b/sub/new=n", "/c=5 again"]
    );
}

#[test]
fn a_file_takes_the_place_of_a_folder_and_the_other_way_round() {
    let found = layers(&[
        &[
            File("a/x", "x"),
            File("b", "b"),
            Link("c", "/nowhere"),
            Dir("d"),
            File("d/keep", "k"),
        ],
        &[
            File("a", "a"),
            Dir("b"),
            File("b/y", "y"),
            Dir("c"),
            File("c/z", "z"),
            Dir("d"),
        ],
    ])
    .unwrap();
    assert_eq!(
        shown(&found, &["x", "b", "a", "y", "z", "k"]),
        ["/a=a", "/b/y=y", "/c/z=z", "/d/keep=k"]
    );
}

#[test]
fn gzip_and_zstd_layers_of_several_members_are_read() {
    let one = tar(&[File("one", "1")]);
    let two = tar(&[File("two", &"2".repeat(300_000))]);
    let (head, tail) = two.split_at(1000);
    let members = [gzip(head), gzip(tail)].concat();
    let skippable = b"\x50\x2a\x4d\x18\x03\0\0\0abc".to_vec();
    let frames = [skippable.clone(), zstd(head), zstd(tail), skippable].concat();
    for packed in [members, frames] {
        let found = read(&single(&image(&[
            (gzip(&one), one.clone()),
            (packed, two.clone()),
        ])))
        .unwrap();
        assert_eq!(found.files.len(), 2);
        assert!(found.files[&b"/two"[..]].contains(&sha256("2".repeat(300_000))));
    }
}

#[test]
fn a_layer_that_ends_right_after_its_last_content_is_read_and_its_digest_vouches_for_it() {
    let mut plain = tar(&[File("one", "1")]);
    plain.truncate(513);
    assert_eq!(
        read(&single(&image(&[(gzip(&plain), plain)])))
            .unwrap()
            .files
            .len(),
        1
    );
}

#[test]
fn a_root_file_system_archive_that_was_cut_anywhere_is_refused() {
    let bytes = tar(&[File("one", "1"), File("two", "2"), Dir("three")]);
    assert!(rootfs(&bytes).is_ok());
    // One of the two empty blocks at its end is enough.
    for n in 0..bytes.len() - 1023 {
        assert!(
            matches!(rootfs(&bytes[..n]), Err(Error::Incomplete { .. })),
            "at {n}"
        );
    }
}

#[test]
fn a_mounted_host_file_stands_at_its_place_in_the_container() {
    let image = image(&[(
        tar(&[File("etc/app.conf", "from image")]),
        tar(&[File("etc/app.conf", "from image")]),
    )]);
    let mount = Mount {
        path: b"/etc/app.conf".to_vec(),
        digests: vec![sha256("from host")],
    };
    let found = read_with(&single(&image), &Choice::default(), &[mount]).unwrap();
    assert_eq!(
        shown(&found, &["from host", "from image"]),
        ["/etc/app.conf=from host"]
    );
}

#[test]
fn bytes_that_are_not_what_their_digest_says_are_refused() {
    let plain = tar(&[File("one", "1")]);
    let good = image(&[(gzip(&plain), plain.clone())]);
    assert!(read(&single(&good)).is_ok());
    for part in 0..good.parts.len() {
        let mut parts = good.parts.clone();
        // Another content of the same length under the same name.
        let other = match part {
            0 => gzip(&tar(&[File("one", "2")])),
            _ => {
                let mut json = parts[part].1.clone();
                let at = json.iter().position(|b| *b == b':').unwrap();
                json.insert(at + 1, b' ');
                json
            }
        };
        parts[part].1 = other;
        let changed = Image {
            parts,
            manifest: good.manifest.clone(),
        };
        let error = read(&single(&changed)).unwrap_err();
        assert!(matches!(error, Error::WrongDigest { .. }), "part {part}: {error}");
    }
    // The packed form is as the manifest says, the unpacked one is not what the configuration says.
    let error = read(&single(&image(&[(gzip(&plain), tar(&[File("one", "2")]))]))).unwrap_err();
    assert!(error.to_string().contains("diff_id"), "{error}");
}

#[test]
fn bytes_after_the_end_of_a_layer_count_for_its_digest() {
    let plain = tar(&[File("one", "1")]);
    let longer = [plain.clone(), vec![7; 512]].concat();
    assert!(read(&single(&image(&[(longer.clone(), longer.clone())]))).is_ok());
    let error = read(&single(&image(&[(longer, plain)]))).unwrap_err();
    assert!(matches!(error, Error::WrongDigest { .. }), "{error}");
}

#[test]
fn an_image_is_chosen_by_name_and_platform_and_never_guessed() {
    let one = image(&[(tar(&[File("one", "1")]), tar(&[File("one", "1")]))]);
    let two = image(&[(tar(&[File("two", "2")]), tar(&[File("two", "2")]))]);
    let both = Image {
        parts: [one.parts.clone(), two.parts.clone()].concat(),
        manifest: vec![],
    };
    let named = |name: &str| format!(",\"annotations\":{{\"io.containerd.image.name\":\"{name}\"}}");
    let index = format!(
        "{{\"manifests\":[{},{}]}}",
        descriptor(&one.manifest, &named("one")),
        descriptor(&two.manifest, &named("two"))
    );
    let bytes = oci(&both, &index);
    let error = read(&bytes).unwrap_err().to_string();
    assert!(error.contains("one, two"), "{error}");
    let image = |name: &str| Choice {
        image: Some(name.into()),
        platform: None,
    };
    assert!(
        read_with(&bytes, &image("two"), &[])
            .unwrap()
            .files
            .contains_key(&b"/two"[..])
    );
    assert!(matches!(
        read_with(&bytes, &image("three"), &[]),
        Err(Error::Choose { .. })
    ));

    let platform = |arch: &str| format!(",\"platform\":{{\"os\":\"linux\",\"architecture\":\"{arch}\"}}");
    let attestation = ",\"platform\":{\"os\":\"unknown\",\"architecture\":\"unknown\"},\"annotations\":{\"vnd.docker.reference.type\":\"attestation-manifest\"}";
    let inner = format!(
        "{{\"manifests\":[{},{},{}]}}",
        descriptor(&one.manifest, &platform("amd64")),
        descriptor(&two.manifest, &platform("riscv64")),
        descriptor(&two.manifest, attestation),
    );
    let mut nested = both;
    nested.parts.push(blob(inner.as_bytes()));
    let bytes = oci(
        &nested,
        &format!(
            "{{\"manifests\":[{}]}}",
            descriptor(inner.as_bytes(), &named("app:1"))
        ),
    );
    let on = |text: &str| Choice {
        image: None,
        platform: Some(Platform::parse(text).unwrap()),
    };
    let found = read_with(&bytes, &on("linux/amd64"), &[]).unwrap();
    assert!(found.files.contains_key(&b"/one"[..]));
    assert_eq!(
        (found.source.name.as_str(), found.source.digest),
        ("app:1", Some(sha256(&one.manifest)))
    );
    assert!(matches!(
        read_with(&bytes, &on("linux/s390x"), &[]),
        Err(Error::Choose { .. })
    ));
    // The configuration says amd64, whatever the index claims.
    assert!(matches!(
        read_with(&bytes, &on("linux/riscv64"), &[]),
        Err(Error::Choose { .. })
    ));
}

#[test]
fn a_docker_archive_with_linked_layers_is_read() {
    let (first, second) = (tar(&[File("one", "1")]), tar(&[File("two", "2")]));
    let config = format!(
        "{{\"os\":\"linux\",\"architecture\":\"amd64\",\"rootfs\":{{\"diff_ids\":[\"{}\",\"{}\",\"{}\"]}}}}",
        sha256(&first),
        sha256(&second),
        sha256(&first)
    );
    let name = format!("{}.json", hex::encode(sha256(&config).bytes()));
    let manifest = format!(
        "[{{\"Config\":\"{name}\",\"RepoTags\":[\"demo:2\"],\"Layers\":[\"a/layer.tar\",\"b/layer.tar\",\"c/layer.tar\"]}}]"
    );
    let build = |config_name: &str, config: &str| {
        let first = String::from_utf8(first.clone()).unwrap();
        let second = String::from_utf8(second.clone()).unwrap();
        tar(&[
            File("a/layer.tar", &first),
            File("b/layer.tar", &second),
            Link("c/layer.tar", "../a/layer.tar"),
            File(config_name, config),
            File("manifest.json", &manifest),
        ])
    };
    let found = read(&build(&name, &config)).unwrap();
    assert_eq!(shown(&found, &["1", "2"]), ["/one=1", "/two=2"]);
    assert_eq!(
        (found.source.name.as_str(), found.source.digest),
        ("demo:2", Some(sha256(&config)))
    );
    // As `docker save | gzip` leaves it, of one member or more.
    let plain = build(&name, &config);
    let (head, tail) = plain.split_at(700);
    for packed in [gzip(&plain), zstd(&plain), [gzip(head), gzip(tail)].concat()] {
        let why = read(&packed).unwrap_err().to_string();
        assert!(why.contains("compressed archive"), "{why}");
        let mut unpacked = Vec::new();
        assert!(decompress("x", &packed[..], &mut unpacked).unwrap());
        assert_eq!(unpacked, plain);
        assert!(decompress("x", &packed[..packed.len() - 9], &mut Vec::new()).is_err());
    }
    let mut unpacked = Vec::new();
    assert!(!decompress("x", &plain[..], &mut unpacked).unwrap() && unpacked.is_empty());
    let changed = config.replace("amd64", "arm64");
    assert!(matches!(
        read(&build(&name, &changed)),
        Err(Error::WrongDigest { .. })
    ));
}

#[test]
fn every_truncation_of_an_image_archive_is_an_error_and_none_panics() {
    let plain = tar(&[File("one", "1"), Link("l", "one")]);
    let bytes = single(&image(&[(gzip(&plain), plain)]));
    // `index.json` is the last part: after its content only padding follows.
    let end = bytes.iter().rposition(|b| *b == b'}').unwrap();
    for n in (0..=end).step_by(7) {
        assert!(read(&bytes[..n]).is_err(), "at {n}");
    }
}

#[test]
fn every_truncation_of_a_layer_is_an_error_that_names_it() {
    let plain = tar(&[File("one", "1"), File("two", &"2".repeat(600))]);
    for pack in [gzip, zstd, |b: &[u8]| b.to_vec()] {
        let packed = pack(&plain);
        for n in (0..packed.len()).step_by(if packed.len() > 1000 { 13 } else { 1 }) {
            let error = read(&single(&image(&[(packed[..n].to_vec(), plain.clone())]))).unwrap_err();
            assert!(
                error.to_string().contains("layer blobs/sha256/"),
                "at {n}: {error}"
            );
        }
    }
}

#[test]
fn changed_bytes_of_an_archive_never_panic() {
    let plain = tar(&[File("one", "1"), Dir("d"), Hard("h", "one")]);
    let bytes = single(&image(&[(gzip(&plain), plain.clone())]));
    for n in (0..bytes.len()).step_by(3) {
        for to in [0, 0xff, b'/', b'{'] {
            let mut changed = bytes.clone();
            changed[n] = to;
            let _ = read(&changed);
        }
    }
    let mut ignore = |_| {};
    for n in 0..plain.len() {
        let mut changed = plain.clone();
        changed[n] ^= 0x41;
        let mut options = HashOptions {
            banks: &[Bank::Sha256],
            progress: &mut ignore,
        };
        let _ = rootfs_archive("x", changed.as_slice(), &mut options);
    }
}

fn rootfs(bytes: &[u8]) -> Result<Reference, Error> {
    let mut ignore = |_| {};
    rootfs_archive(
        "root.tar",
        bytes,
        &mut HashOptions {
            banks: &[Bank::Sha256, Bank::Sha1],
            progress: &mut ignore,
        },
    )
}

#[test]
fn a_root_file_system_archive_gives_real_paths_in_every_asked_algorithm() {
    let long = format!("usr/share/{}", "x".repeat(200));
    let bytes = tar(&[
        Link("bin", "usr/bin"),
        File("bin/ls", "ls"),
        File(&long, "long"),
        File("usr/.wh.kept", "not a whiteout here"),
    ]);
    for packed in [bytes.clone(), gzip(&bytes), zstd(&bytes)] {
        let found = rootfs(&packed).unwrap();
        let ls = &found.files[&b"/usr/bin/ls"[..]];
        assert!(ls.contains(&sha256("ls")) && ls.contains(&Bank::Sha1.hash(&[b"ls"])) && ls.len() == 2);
        assert!(found.files.contains_key(format!("/{long}").as_bytes()));
        assert!(found.files.contains_key(&b"/usr/.wh.kept"[..]));
        assert_eq!(found.files.len(), 3);
    }
}

#[test]
fn pax_names_that_are_not_text_are_read() {
    let mut builder = tar::Builder::new(Vec::new());
    builder
        .append_pax_extensions([("path", &b"usr/\xff\n"[..]), ("mtime", b"1.5")])
        .unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_path("placeholder").unwrap();
    header.set_size(1);
    header.set_cksum();
    builder.append(&header, &b"x"[..]).unwrap();
    let found = rootfs(&builder.into_inner().unwrap()).unwrap();
    assert_eq!(found.files.keys().collect::<Vec<_>>(), [b"/usr/\xff\n"]);
}

fn why(bytes: &[u8]) -> String {
    rootfs(bytes).unwrap_err().to_string()
}

#[test]
fn what_cannot_be_unpacked_is_an_error_that_names_entry_and_offset() {
    let second = |entry: E<'_>| why(&tar(&[File("one", "1"), entry]));
    for (entry, part) in [
        (File("../up", ""), ".."),
        (Hard("h", "gone"), "\"gone\", which is not there"),
        (Hard("h", "/"), "not there"),
        (File("one/below", ""), "not a directory"),
        (Link("l", ""), "without a target"),
    ] {
        let error = second(entry);
        assert!(
            error.contains("at byte 1024") && error.contains("entry") && error.contains(part),
            "{error}"
        );
    }
    let loops = why(&tar(&[Link("a", "b"), Link("b", "a"), File("a/x", "")]));
    assert!(loops.contains("symbolic links"), "{loops}");
    assert!(why(b"not a tar archive, but longer than nothing").contains("incomplete"));
    assert!(why(&[b'x'; 1024]).contains("checksum"));
    assert!(why(b"BZh91AY&SY").contains("bzip2"));
    assert!(why(&tar(&[Dir("d")])).contains("no regular file"));
    let mut bytes = tar(&[File("one", "123")]);
    bytes.truncate(514);
    let cut = why(&bytes);
    assert!(
        cut.contains("ends at byte 514") && cut.contains("\"one\""),
        "{cut}"
    );
}

#[test]
fn a_size_that_no_file_has_is_an_error_in_every_archive_and_names_its_entry() {
    // The twelve bytes of the field: negative ones, more than 64 bits, and 2^63.
    let mut low = [0; 12];
    (low[0], low[3], low[11]) = (0x80, 1, 3);
    let mut high = [0; 12];
    (high[0], high[4]) = (0x80, 0x80);
    let mut negative = [0xff; 12];
    negative[11] = 3;
    for (size, kind) in [
        ([0xff; 12], b'0'),
        (negative, b'0'),
        (low, b'0'),
        (high, b'0'),
        ([0xff; 12], b'x'),
        ([0xff; 12], b'L'),
        ([0xff; 12], b'5'),
        (low, b'x'),
    ] {
        let mut bytes = tar(&[File("one", "1")]);
        bytes.truncate(1024);
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..3].copy_from_slice(b"two");
        header.as_old_mut().size = size;
        header.as_old_mut().linkflag = [kind];
        header.set_cksum();
        bytes.extend(header.as_bytes());
        bytes.extend([0; 1024]);
        refused(&bytes, &format!("{size:?} {kind}"));
    }
    for size in [
        "18446744073709551615",
        "18446744073709551104",
        "9223372036854775808",
    ] {
        let mut builder = tar::Builder::new(Vec::new());
        builder
            .append_pax_extensions([("size", size.as_bytes())])
            .unwrap();
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..3].copy_from_slice(b"two");
        header.set_size(0);
        header.set_cksum();
        builder.append(&header, std::io::empty()).unwrap();
        let bytes = builder.into_inner().unwrap();
        assert_eq!(bytes.len(), 512 * 5);
        refused(&bytes, size);
    }
}

/// As a root file system, as an image's layer and as the archive that an image is in.
fn refused(bytes: &[u8], what: &str) {
    let layer = read(&single(&image(&[(bytes.to_vec(), bytes.to_vec())])));
    for (error, name) in [(rootfs(bytes), "x"), (layer, "layer"), (read(bytes), "image.tar")] {
        let error = error.unwrap_err();
        let text = error.to_string();
        assert!(
            matches!(error, Error::Malformed { offset: 1024, .. }) && text.contains("one that no file has"),
            "{what}, {name}: {text}"
        );
        assert!(text.contains("\"two\""), "{what}, {name}: {text}");
    }
}

#[test]
fn names_and_headers_longer_than_their_limits_are_refused_before_they_are_read() {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::GNULongName);
    header.set_size(1 << 40);
    header.set_cksum();
    assert!(why(header.as_bytes()).contains("the limit is 1048576"));
    let long = format!("{}x", "d/".repeat(2100));
    assert!(why(&tar(&[File(&long, "")])).contains("the limit is 4096"));
    // No runtime unpacks the old format; those in PAX headers are read (`layers`).
    let mut sparse = tar::Header::new_gnu();
    sparse.set_entry_type(tar::EntryType::GNUSparse);
    sparse.set_size(0);
    sparse.set_cksum();
    assert!(why(sparse.as_bytes()).contains("sparse"));
}

#[test]
fn folders_nested_as_deep_as_a_path_can_be_are_no_trouble() {
    let deep = format!("{}x", "d/".repeat(2047));
    let found = layers(&[&[File(&deep, "x")], &[File(".wh.d", ""), File("kept", "k")]]).unwrap();
    assert_eq!(shown(&found, &["k"]), ["/kept=k"]);
    assert_eq!(rootfs(&tar(&[File(&deep, "x")])).unwrap().files.len(), 1);
    // Links that make a path longer than any archive entry could say.
    let far = "e/".repeat(1000);
    let error = why(&tar(&[
        Link("l", &far),
        Link("l/l", &far),
        Link("l/l/l", &far),
        File("l/l/l/x", ""),
    ]));
    assert!(error.contains("longer than"), "{error:.200}");
}

#[test]
fn a_compressed_image_archive_is_refused_with_what_to_do() {
    let plain = tar(&[File("one", "1")]);
    let error = read(&gzip(&single(&image(&[(plain.clone(), plain)]))))
        .unwrap_err()
        .to_string();
    assert!(error.contains("unpack it first"), "{error}");
    assert!(
        read(&tar(&[File("x", "")]))
            .unwrap_err()
            .to_string()
            .contains("index.json")
    );
}

#[test]
fn a_list_gives_learned_values_without_violations_and_what_changes_at_each_boot() {
    let mut learner = list::Learner::new("list");
    for (path, digest, violation) in [
        (&b"boot_aggregate"[..], Some(sha256("boot")), false),
        (b"/bin/a", Some(sha256("a")), false),
        (b"/bin/a", Some(sha256("a2")), false),
        (b"/bin/v", Some(Digest::zero(Bank::Sha256)), true),
        (b"/bin/md4", None, false),
        (b"/run/ima-cgpath/checkpoint/0", Some(sha256("c")), false),
    ] {
        learner.entry(Some(path), digest, violation).unwrap();
    }
    let (found, skipped) = learner.finish(sha256("list")).unwrap();
    assert!(found.learned);
    assert_eq!(
        (skipped.violations, skipped.per_boot, skipped.without_digest),
        (1, 2, 1)
    );
    assert_eq!(found.files.len(), 1);
    assert_eq!(found.files[&b"/bin/a"[..]].len(), 2);
    let mut empty = list::Learner::new("list");
    empty
        .entry(Some(b"boot_aggregate"), Some(sha256("b")), false)
        .unwrap();
    assert!(empty.finish(sha256("list")).is_err());
    let mut json = Vec::new();
    found.write_json(&mut json).unwrap();
    assert!(Reference::from_json("r", &json).unwrap().learned);
}

#[test]
fn links_between_the_parts_of_an_archive_in_a_circle_end() {
    let bytes = tar(&[Link("index.json", "other"), Link("other", "index.json")]);
    let mut store = TarStore::new("x", Cursor::new(bytes)).unwrap();
    assert!(matches!(store.open("index.json"), Err(Error::Unsupported { .. })));
    let mut byte = [0];
    let bytes = tar(&[Link("./d/l", "../x"), File("x", "1")]);
    let mut store = TarStore::new("x", Cursor::new(bytes)).unwrap();
    store.open("d/l").unwrap().unwrap().read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"1");
}
