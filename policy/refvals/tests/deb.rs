//! Debian packages that the real dpkg-deb made give the SHA-256 of what they hold, at the paths where it
//! comes to lie.

use cgpath_evidence::{Bank, Digest};
use cgpath_policy::{Reference, Source, SourceKind};
use cgpath_refvals::{Error, HashOptions, Progress, deb};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

fn sha256(content: &[u8]) -> Digest {
    Bank::Sha256.hash(&[content])
}

/// A package with these files, packed with this compression.
fn package(dir: &Path, version: &str, compression: &str, files: &[(&str, &[u8])]) -> PathBuf {
    package_of(
        ["Package", "Version", "Architecture"],
        dir,
        version,
        compression,
        files,
    )
}

/// The same, with fields of these names.
fn package_of(
    [package, number, architecture]: [&str; 3],
    dir: &Path,
    version: &str,
    compression: &str,
    files: &[(&str, &[u8])],
) -> PathBuf {
    let root = dir.join(format!("root-{version}-{compression}"));
    fs::create_dir_all(root.join("DEBIAN")).unwrap();
    let control = format!(
        "{package}: demo\n\
         {number}: {version}\n\
         {architecture}: amd64\n\
         Maintainer: A <a@example.org>\n\
         Description: demo\n \
         Version: none of it\n"
    );
    fs::write(root.join("DEBIAN/control"), control).unwrap();
    for (path, content) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let out = dir.join(format!("demo-{version}-{compression}.deb"));
    let made = Command::new("dpkg-deb")
        .args(["--root-owner-group", &format!("-Z{compression}"), "--build"])
        .arg(&root)
        .arg(&out)
        .output()
        .expect("dpkg-deb is needed");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    out
}

fn empty() -> Reference {
    Reference::new(Source {
        kind: SourceKind::Deb,
        name: "test".into(),
        digest: None,
    })
}

fn add(reference: &mut Reference, archive: impl std::io::Read, merged: bool) -> Result<usize, Error> {
    let mut report = |_: Progress| {};
    let mut options = HashOptions {
        banks: &[Bank::Sha256],
        progress: &mut report,
    };
    let mut progress = Progress::default();
    deb::add_package(
        "demo.deb",
        archive,
        merged,
        reference,
        &mut progress,
        &mut options,
    )
    .map(|(_, files)| files)
}

#[test]
fn names_of_control_fields_are_read_in_any_case() {
    let dir = tempfile::tempdir().unwrap();
    for (nth, names) in [
        ["package", "VERSION", "aRCHITECTURE"],
        ["PACKAGE", "version", "architecture"],
        // What dpkg takes before a colon.
        ["Package ", "Version\t", "Architecture  "],
    ]
    .into_iter()
    .enumerate()
    {
        let archive = package_of(
            names,
            dir.path(),
            &format!("1.{nth}"),
            "none",
            &[("usr/bin/a", b"a")],
        );
        let mut reference = empty();
        let files = add(&mut reference, fs::File::open(archive).unwrap(), true).unwrap();
        assert_eq!(files, 1);
        let origin = reference.origins.of(b"/usr/bin/a").map(str::to_owned);
        assert_eq!(origin, Some(format!("deb demo 1.{nth} amd64")), "{names:?}");
    }
}

#[test]
fn every_compression_gives_the_contents_digests_and_the_package_that_they_are_from() {
    let dir = tempfile::tempdir().unwrap();
    for compression in ["none", "gzip", "xz", "zstd"] {
        let big = vec![7; 300_000];
        let files: [(&str, &[u8]); 2] = [("usr/bin/demo", b"program"), ("usr/share/demo/big", &big)];
        let path = package(dir.path(), "1.0-1", compression, &files);
        let mut reference = empty();
        assert_eq!(
            add(&mut reference, File::open(path).unwrap(), true).unwrap(),
            2,
            "{compression}"
        );
        assert!(reference.files[&b"/usr/bin/demo"[..]].contains(&sha256(b"program")));
        assert!(reference.files[&b"/usr/share/demo/big"[..]].contains(&sha256(&big)));
        assert_eq!(
            reference.origins.of(b"/usr/bin/demo"),
            Some("deb demo 1.0-1 amd64")
        );
    }
}

/// As a distribution packs its modules.
fn packed(dir: &Path, module: &[u8], with: &[&str]) -> Vec<u8> {
    let file = dir.join("module");
    fs::write(&file, module).unwrap();
    let made = Command::new(with[0])
        .args(&with[1..])
        .arg("-c")
        .arg(&file)
        .output();
    let made = made.unwrap_or_else(|error| panic!("{} is needed: {error}", with[0]));
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    made.stdout
}

#[test]
fn a_packed_module_is_accepted_as_the_file_and_as_what_kmod_unpacks_it_to() {
    let dir = tempfile::tempdir().unwrap();
    let module: Vec<u8> = (0..200_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
    for (end, with) in [
        ("gz", &["gzip"][..]),
        ("xz", &["xz", "--check=crc32", "--lzma2=dict=1MiB"]),
        ("zst", &["zstd", "-q", "-19"]),
    ] {
        let packed = packed(dir.path(), &module, with);
        let name = format!("lib/modules/6.12/dummy.ko.{end}");
        let files = [(name.as_str(), packed.as_slice()), ("usr/share/notes", b"notes")];
        let archive = package(dir.path(), &format!("2.{end}"), "none", &files);
        let mut reference = empty();
        add(&mut reference, File::open(archive).unwrap(), true).unwrap();
        let found = &reference.files[format!("/usr/{name}").as_bytes()];
        assert_eq!(*found, [sha256(&packed), sha256(&module)].into(), "{end}");
        // Another module of this name is another content.
        assert!(!found.contains(&sha256(&module[1..])));
        assert_eq!(reference.files[&b"/usr/share/notes"[..]].len(), 1);
    }
}

#[test]
fn files_of_a_merged_system_stand_where_the_kernel_sees_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = package(
        dir.path(),
        "1",
        "xz",
        &[
            ("bin/demo", b"a"),
            ("lib/x86_64-linux-gnu/libdemo.so", b"b"),
            ("etc/demo", b"c"),
        ],
    );
    let paths = |merged| {
        let mut reference = empty();
        add(&mut reference, File::open(&path).unwrap(), merged).unwrap();
        reference
            .files
            .into_keys()
            .map(|p| String::from_utf8(p).unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        paths(true),
        [
            "/etc/demo",
            "/usr/bin/demo",
            "/usr/lib/x86_64-linux-gnu/libdemo.so"
        ]
    );
    assert_eq!(
        paths(false),
        ["/bin/demo", "/etc/demo", "/lib/x86_64-linux-gnu/libdemo.so"]
    );
}

#[test]
fn two_versions_of_a_package_are_both_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let mut reference = empty();
    for (version, content) in [("1", &b"old"[..]), ("2", b"new")] {
        let path = package(dir.path(), version, "gzip", &[("usr/bin/demo", content)]);
        add(&mut reference, File::open(path).unwrap(), true).unwrap();
    }
    assert_eq!(reference.files[&b"/usr/bin/demo"[..]].len(), 2);
    assert_eq!(reference.origins.of(b"/usr/bin/demo"), Some("deb demo 2 amd64"));
}

#[test]
fn what_is_no_package_or_is_cut_is_an_error_and_never_less_values() {
    let dir = tempfile::tempdir().unwrap();
    let path = package(dir.path(), "1", "xz", &[("usr/bin/demo", &[9; 50_000])]);
    let whole = fs::read(path).unwrap();
    let whole_ends = whole.len();
    for length in (0..whole_ends - 8).step_by(17) {
        assert!(
            add(&mut empty(), &whole[..length], true).is_err(),
            "{length} of {whole_ends} bytes are taken"
        );
    }
    assert!(matches!(
        add(&mut empty(), &b"!<arch>\n"[..], true),
        Err(Error::Malformed { .. })
    ));
    assert!(add(&mut empty(), &b"PK\x03\x04 something else"[..], true).is_err());
}

/// A package `package` with this value of Multi-Arch, whose control files `fill` makes in their folder.
fn scripted(dir: &Path, package: &str, multi: &str, fill: impl Fn(&Path)) -> PathBuf {
    let root = dir.join(format!("{package}-{multi}"));
    fs::create_dir_all(root.join("DEBIAN")).unwrap();
    fs::create_dir_all(root.join("usr/bin")).unwrap();
    fs::write(root.join("usr/bin/a"), b"a").unwrap();
    let control = format!(
        "Package: {package}\n\
         Version: 1\n\
         Architecture: amd64\n\
         multi-arch: {multi}\n\
         Maintainer: A <a@example.org>\n\
         Description: demo\n"
    );
    fs::write(root.join("DEBIAN/control"), control).unwrap();
    fill(&root.join("DEBIAN"));
    let out = dir.join(format!("{package}-{multi}.deb"));
    let made = Command::new("dpkg-deb")
        .args(["--root-owner-group", "--nocheck", "--build"])
        .args([&root, &out])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    out
}

fn script(folder: &Path, name: &str, content: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    let path = folder.join(name);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

const SCRIPTS: [&str; 5] = ["preinst", "postinst", "prerm", "postrm", "config"];

#[test]
fn maintainer_scripts_stand_where_dpkg_runs_them() {
    let dir = tempfile::tempdir().unwrap();
    for (package, multi, stem) in [
        ("demo", "no", "demo"),
        ("demo", "foreign", "demo"),
        ("demo", "same", "demo:amd64"),
        ("demo", "Same", "demo:amd64"),
        ("demo", "SAME", "demo:amd64"),
        // dpkg knows it in lower case.
        ("Demo", "no", "demo"),
    ] {
        let archive = scripted(dir.path(), package, multi, |folder| {
            for name in SCRIPTS {
                script(folder, name, &format!("#!/bin/sh\n# {name} {multi}\n"));
            }
            fs::write(folder.join("conffiles"), "").unwrap();
        });
        let mut reference = empty();
        assert_eq!(
            add(&mut reference, File::open(archive).unwrap(), true).unwrap(),
            1
        );
        assert_eq!(reference.files.len(), 11);
        for name in SCRIPTS {
            let wanted = sha256(format!("#!/bin/sh\n# {name} {multi}\n").as_bytes());
            for path in [
                format!("/var/lib/dpkg/tmp.ci/{name}"),
                format!("/var/lib/dpkg/info/{stem}.{name}"),
            ] {
                let known = &reference.files[path.as_bytes()];
                assert!(known.len() == 1 && known.contains(&wanted), "{path}");
                let origin = format!("deb {package} 1 amd64");
                assert_eq!(reference.origins.of(path.as_bytes()), Some(origin.as_str()));
            }
        }
    }
}

#[test]
fn a_maintainer_script_that_is_a_hard_link_is_read_and_another_link_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let archive = scripted(dir.path(), "hard", "no", |folder| {
        script(folder, "config", "#!/bin/sh\n");
        for name in SCRIPTS.iter().filter(|name| **name != "config") {
            fs::hard_link(folder.join("config"), folder.join(name)).unwrap();
        }
    });
    let mut reference = empty();
    add(&mut reference, File::open(archive).unwrap(), true).unwrap();
    for name in SCRIPTS {
        let path = format!("/var/lib/dpkg/info/hard.{name}");
        assert!(
            reference.files[path.as_bytes()].contains(&sha256(b"#!/bin/sh\n")),
            "{path}"
        );
    }
    for name in SCRIPTS {
        let archive = scripted(dir.path(), &format!("soft-{name}"), "no", |folder| {
            script(folder, "helper", "#!/bin/sh\n");
            std::os::unix::fs::symlink("helper", folder.join(name)).unwrap();
        });
        let error = add(&mut empty(), File::open(archive).unwrap(), true).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, Error::Malformed { .. }), "{text}");
        assert!(
            text.contains(&format!("\"./{name}\" is no regular file")) && text.contains("control.tar"),
            "{text}"
        );
    }
}
