//! Hosts that are made for it: directories with what counts of a root file system.

use super::plan::{Plan, Step, staged};
use super::*;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use tempfile::TempDir;

/// Every directory, file (with its content) and link below a directory.
type Tree = BTreeMap<String, String>;

fn tree(root: &Path) -> Tree {
    let mut found = Tree::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let name = format!("/{}", path.strip_prefix(root).unwrap().display());
            let what = if path.is_symlink() {
                format!("-> {}", fs::read_link(&path).unwrap().display())
            } else if path.is_dir() {
                dirs.push(path);
                "directory".to_owned()
            } else {
                let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
                format!("{mode:o} {}", fs::read_to_string(&path).unwrap())
            };
            found.insert(name, what);
        }
    }
    found
}

struct Made {
    dir: TempDir,
}

impl Made {
    /// An image of the first version, and a host on which nothing of it is.
    fn new() -> Self {
        // Each file goes to the disk before the next step: in memory that takes no time.
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() {
            tempfile::tempdir_in(memory)
        } else {
            tempfile::tempdir()
        };
        let made = Self { dir: dir.unwrap() };
        for dir in [
            "usr/sbin",
            "usr/lib",
            "usr/share",
            "opt",
            "etc/systemd/system",
            "etc/modules-load.d",
            "var/lib",
        ] {
            fs::create_dir_all(made.host().join(dir)).unwrap();
        }
        made.image("program 1", "libtss2-esys.so.0");
        made
    }

    fn host(&self) -> PathBuf {
        self.dir.path().join("host")
    }

    /// An image with this program and this library, and with things that stay in it.
    fn image(&self, program: &str, library: &str) {
        let image = self.dir.path().join("image");
        let _ = fs::remove_dir_all(&image);
        for (path, content) in [
            ("usr/sbin/cgpathd", program),
            (&*format!("usr/lib/ima-cgpath/{library}"), program),
            ("usr/share/ima-cgpath/ima/minimal", "policy"),
            ("usr/share/doc/ima-cgpath/licences/x.txt", "licence"),
            ("usr/share/man/man8/cgpathd.8", "manual"),
            ("lib64/ld-linux-x86-64.so.2", "loader"),
            ("usr/share/zsh/site-functions/_cgpathd", "completion"),
        ] {
            let path = image.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
    }

    fn put(&self, path: &str, content: &str) {
        let path = self.host().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn tree(&self) -> Tree {
        tree(&self.host())
    }

    /// As [`install`] is called by a pod, without its start.
    fn install(&self, wanted: &Install) -> Result<String, NodeError> {
        let mut out = Vec::new();
        let image = self.dir.path().join("image");
        install(&self.host(), &image, wanted, &Config::default(), &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    fn uninstall(&self) -> String {
        let mut out = Vec::new();
        uninstall(&self.host(), &Config::default(), false, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    /// The plan, and what its steps need.
    fn plan(&self, wanted: &Install) -> (Plan, Contents) {
        let on = Root::new(&self.host());
        let image = self.dir.path().join("image");
        let contents = contents(&self.host(), &image, "/usr", wanted, &Config::default()).unwrap();
        let links = links(false);
        let paths = contents
            .keys()
            .map(String::as_str)
            .chain(links.iter().map(|link| link.path.as_str()));
        let host = on.look(paths, false).unwrap();
        let pieces = host::pieces(&contents, part).unwrap();
        (
            plan::install("/usr", &pieces, &links, &host, false).unwrap(),
            contents,
        )
    }

    /// Ends after so many steps, in the middle of the next one where that writes.
    fn killed(&self, steps: &[Step], contents: &Contents, after: usize) {
        let on = Root::new(&self.host());
        for step in &steps[..after] {
            on.apply(step, contents).unwrap();
        }
        let writes = match steps.get(after) {
            Some(Step::Stage(path)) => Some(staged(path)),
            Some(Step::Note(_)) => Some(staged(manifest::PLACE)),
            _ => None,
        };
        if let Some(path) = writes {
            let path = on.inside(&path).unwrap();
            if path.parent().unwrap().is_dir() {
                fs::write(path, "hal").unwrap();
            }
        }
    }
}

fn plain() -> Install {
    Install {
        dry_run: false,
        prefix: None,
        settings: None,
        setup: false,
        start: false,
        handover: false,
    }
}

fn refusal(result: Result<String, NodeError>) -> Refusal {
    match result {
        Err(NodeError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_fresh_host_gets_all_of_it_once_and_an_uninstall_leaves_nothing() {
    let made = Made::new();
    let before = made.tree();
    let dry = made
        .install(&Install {
            dry_run: true,
            ..plain()
        })
        .unwrap();
    assert!(
        dry.contains("made      /usr/sbin/cgpathd") && made.tree() == before,
        "{dry}"
    );
    let text = made.install(&plain()).unwrap();
    assert!(text.contains("made      /usr/sbin/cgpathd\n"), "{text}");
    let after = made.tree();
    for (path, content) in [
        ("/usr/sbin/cgpathd", "755 program 1"),
        ("/usr/lib/ima-cgpath/libtss2-esys.so.0", "644 program 1"),
        ("/usr/share/doc/ima-cgpath/licences/x.txt", "644 licence"),
        (
            "/etc/systemd/system/multi-user.target.wants/cgpathd.service",
            "-> /etc/systemd/system/cgpathd.service",
        ),
        (
            "/etc/systemd/system/sockets.target.wants/cgpathd-check.socket",
            "-> /etc/systemd/system/cgpathd-check.socket",
        ),
    ] {
        assert_eq!(after.get(path).map(String::as_str), Some(content), "{path}");
    }
    assert_eq!(
        after["/etc/systemd/system/cgpathd.service"],
        format!("644 {}", setup::UNIT)
    );
    assert_eq!(after["/etc/ima-cgpath/cgpathd.toml"], format!("600 {EXAMPLE}"));
    for path in ["/lib64", "/usr/share/zsh", "/etc/ima", "/etc/default"] {
        assert!(!after.contains_key(path), "{path}");
    }
    assert!(
        !after.keys().any(|path| path.ends_with(".cgpathd-new")),
        "{after:?}"
    );
    let text = made.install(&plain()).unwrap();
    assert!(text.lines().all(|line| line.starts_with("is there")), "{text}");
    assert_eq!(made.tree(), after);
    let text = made.uninstall();
    assert!(text.contains("stays     /var/lib/ima-cgpath"), "{text}");
    assert_eq!(made.tree(), before);
    assert!(made.uninstall().contains("nothing was installed"));
    // An image without libraries is one, and one without the program is none.
    let image = made.dir.path().join("image/usr");
    fs::remove_dir_all(image.join("lib")).unwrap();
    made.install(&plain()).unwrap();
    made.uninstall();
    fs::remove_file(image.join("sbin/cgpathd")).unwrap();
    assert!(matches!(made.install(&plain()), Err(NodeError::Image { .. })));
    assert_eq!(made.tree(), before);
}

#[test]
fn settings_and_what_setup_makes_are_put_where_there_is_nothing_and_go_again() {
    let made = Made::new();
    made.put("/etc/ima-cgpath/cgpathd.toml", "own");
    made.put("/usr/sbin/update-grub", "");
    let before = made.tree();
    // As a ConfigMap is mounted.
    let settings = made.dir.path().join("settings");
    fs::create_dir_all(settings.join("..data")).unwrap();
    for name in ["cgpathd.toml", "verifier-ca.pem", "other"] {
        fs::write(settings.join("..data").join(name), name).unwrap();
        symlink(format!("..data/{name}"), settings.join(name)).unwrap();
    }
    let text = made
        .install(&Install {
            settings: Some(settings),
            setup: true,
            ..plain()
        })
        .unwrap();
    assert!(text.contains("kept      /etc/ima-cgpath/cgpathd.toml"), "{text}");
    assert!(text.contains("to do     GRUB: run: update-grub"), "{text}");
    let after = made.tree();
    assert_eq!(after["/etc/ima-cgpath/verifier-ca.pem"], "600 verifier-ca.pem");
    assert_eq!(
        after["/etc/ima-cgpath/cgpathd.toml"],
        before["/etc/ima-cgpath/cgpathd.toml"]
    );
    assert!(!after.contains_key("/etc/ima-cgpath/other"));
    assert!(
        after.contains_key("/etc/ima/ima-policy") && after.contains_key("/etc/default/grub.d/ima-cgpath.cfg")
    );
    made.uninstall();
    assert_eq!(made.tree(), before);
}

#[test]
fn where_usr_is_read_only_the_program_goes_to_opt_and_where_neither_takes_files_the_error_says_so() {
    let made = Made::new();
    let before = made.tree();
    let (usr, opt) = (made.host().join("usr"), made.host().join("opt"));
    let tried = |dirs: Vec<PathBuf>| {
        if nix::unistd::geteuid().is_root() {
            // Mounts of this thread alone.
            std::thread::scope(|scope| {
                let inside = || {
                    use nix::mount::{MsFlags, mount};
                    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
                    let none = None::<&str>;
                    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
                    for dir in &dirs {
                        let bind = MsFlags::MS_BIND;
                        mount(Some(dir), dir, none, bind, none).unwrap();
                        let flags = bind | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
                        mount(none, dir, none, flags, none).unwrap();
                    }
                    let installed = made.install(&plain());
                    (installed, made.tree())
                };
                scope.spawn(inside).join().unwrap()
            })
        } else {
            let mode = |mode| {
                for dir in &dirs {
                    let below = if dir.ends_with("usr") {
                        dir.join("sbin")
                    } else {
                        dir.clone()
                    };
                    fs::set_permissions(below, fs::Permissions::from_mode(mode)).unwrap();
                }
            };
            mode(0o555);
            let installed = made.install(&plain());
            mode(0o755);
            (installed, made.tree())
        }
    };
    let (refused, after) = tried(vec![usr.clone(), opt]);
    let Refusal::ReadOnly(why) = refusal(refused) else {
        panic!()
    };
    assert!(
        why.contains("/usr: ") && why.contains("/opt/ima-cgpath: "),
        "{why}"
    );
    assert_eq!(after, before);

    let (text, after) = tried(vec![usr]);
    text.unwrap();
    assert_eq!(after["/opt/ima-cgpath/sbin/cgpathd"], "755 program 1");
    assert!(after.contains_key("/opt/ima-cgpath/lib/ima-cgpath/libtss2-esys.so.0"));
    let unit = &after["/etc/systemd/system/cgpathd.service"];
    assert!(
        unit.contains("ExecStart=/opt/ima-cgpath/sbin/cgpathd run") && !unit.contains(PROGRAM),
        "{unit}"
    );
    let asked = &after["/etc/systemd/system/cgpathd-check@.service"];
    assert!(
        asked.contains("ExecStart=/opt/ima-cgpath/sbin/cgpathd node answer"),
        "{asked}"
    );
    // Later versions go where the first one is, also where /usr takes files by now.
    made.image("program 2", "libtss2-esys.so.0");
    made.install(&plain()).unwrap();
    assert_eq!(made.tree()["/opt/ima-cgpath/sbin/cgpathd"], "755 program 2");
    assert!(!made.tree().contains_key("/usr/sbin/cgpathd"));
    made.uninstall();
    assert_eq!(made.tree(), before);
    let other = refusal(made.install(&Install {
        prefix: Some("/srv".into()),
        ..plain()
    }));
    assert_eq!(other, Refusal::Prefix("/srv".into()));
}

/// What the package brings.
fn package(made: &Made) {
    let files = [
        "/usr/sbin/cgpathd",
        "/usr/lib/systemd/system/cgpathd.service",
        "/etc/ima-cgpath/cgpathd.toml",
    ];
    for file in files {
        made.put(file, "the package's");
    }
    made.put(
        "/var/lib/dpkg/info/ima-cgpath-collector.list",
        &(files.join("\n") + "\n"),
    );
}

#[test]
fn where_the_package_is_installed_only_the_units_for_asking_are_put_beside_it() {
    let made = Made::new();
    package(&made);
    let before = made.tree();
    let text = made.install(&plain()).unwrap();
    assert!(
        text.contains("is there  /usr/sbin/cgpathd: the package's"),
        "{text}"
    );
    let mut after = made.tree();
    let enabled = "/etc/systemd/system/multi-user.target.wants/cgpathd.service";
    assert_eq!(after[enabled], "-> /usr/lib/systemd/system/cgpathd.service");
    after.retain(|path, what| before.get(path) != Some(what) && what != "directory");
    let new: Vec<&str> = after.keys().map(String::as_str).collect();
    assert_eq!(
        new,
        [
            "/etc/systemd/system/cgpathd-check.socket",
            "/etc/systemd/system/cgpathd-check@.service",
            enabled,
            "/etc/systemd/system/sockets.target.wants/cgpathd-check.socket",
            manifest::PLACE,
        ]
    );
    made.uninstall();
    assert_eq!(made.tree(), before);
    // Somebody enabled it: in whatever words, it stays.
    let link = made.host().join(enabled.trim_start_matches('/'));
    fs::create_dir_all(link.parent().unwrap()).unwrap();
    symlink("/lib/systemd/system/cgpathd.service", link).unwrap();
    let before = made.tree();
    made.install(&plain()).unwrap();
    made.uninstall();
    assert_eq!(made.tree(), before);
}

#[test]
fn a_package_that_comes_after_a_pod_stops_the_pod_and_keeps_its_own_files() {
    let made = Made::new();
    made.install(&plain()).unwrap();
    package(&made);
    assert_eq!(refusal(made.install(&plain())), Refusal::PackageCame);
    made.uninstall();
    let after = made.tree();
    assert_eq!(after["/usr/sbin/cgpathd"], "755 the package's");
    assert!(after.contains_key("/etc/ima-cgpath/cgpathd.toml"));
    assert!(!after.contains_key("/etc/systemd/system/cgpathd.service"));
    made.install(&plain()).unwrap();
}

#[test]
fn an_older_version_is_exchanged_with_its_configuration_kept_and_its_leftovers_removed() {
    let made = Made::new();
    made.install(&plain()).unwrap();
    made.put("/etc/ima-cgpath/cgpathd.toml", "changed by hand");
    made.put("/etc/ima-cgpath/by-hand.pem", "a person's");
    made.image("program 2", "libtss2-esys.so.1");
    let text = made.install(&plain()).unwrap();
    assert!(text.contains("exchanged /usr/sbin/cgpathd\n"), "{text}");
    assert!(
        text.contains("removed   /usr/lib/ima-cgpath/libtss2-esys.so.0: this version has none"),
        "{text}"
    );
    assert!(text.contains("kept      /etc/ima-cgpath/cgpathd.toml"), "{text}");
    let after = made.tree();
    assert_eq!(after["/usr/sbin/cgpathd"], "755 program 2");
    assert!(after.contains_key("/usr/lib/ima-cgpath/libtss2-esys.so.1"));
    assert!(!after.contains_key("/usr/lib/ima-cgpath/libtss2-esys.so.0"));
    assert!(after["/etc/ima-cgpath/cgpathd.toml"].ends_with("changed by hand"));
    made.install(&plain()).unwrap();
    assert_eq!(made.tree(), after);
    let text = made.uninstall();
    assert!(
        text.contains("kept      /etc/ima-cgpath/cgpathd.toml: it was changed"),
        "{text}"
    );
    let after = made.tree();
    assert!(after["/etc/ima-cgpath/cgpathd.toml"].ends_with("changed by hand"));
    assert!(after.contains_key("/etc/ima-cgpath/by-hand.pem") && !after.contains_key("/usr/sbin/cgpathd"));
}

#[test]
fn what_is_not_ours_in_the_way_is_never_overwritten_and_then_nothing_is_done() {
    for path in [
        "/usr/sbin/cgpathd",
        "/etc/systemd/system/cgpathd.service",
        "/etc/modules-load.d/cgpathd.conf",
    ] {
        for kind in ["file", "link", "directory"] {
            let made = Made::new();
            let place = made.host().join(path.trim_start_matches('/'));
            match kind {
                "file" => made.put(path, "somebody's"),
                "link" => symlink("/etc/passwd", &place).unwrap(),
                _ => fs::create_dir(&place).unwrap(),
            }
            let before = made.tree();
            let refused = refusal(made.install(&plain()));
            assert!(
                matches!(&refused, Refusal::Foreign { path: found, .. } if found == path),
                "{refused}"
            );
            assert_eq!(made.tree(), before, "{path} {kind}");
        }
    }
    // The same file, put there by hand, stays the person's.
    let made = Made::new();
    made.put("/usr/sbin/cgpathd", "program 1");
    let before = made.tree();
    made.install(&plain()).unwrap();
    made.uninstall();
    assert_eq!(made.tree(), before);
    // What was changed since is somebody's, too.
    let made = Made::new();
    made.install(&plain()).unwrap();
    made.put("/usr/sbin/cgpathd", "patched");
    let before = made.tree();
    assert_eq!(
        refusal(made.install(&plain())),
        Refusal::Changed("/usr/sbin/cgpathd".into())
    );
    assert_eq!(made.tree(), before);
    let text = made.uninstall();
    assert!(
        text.contains("kept      /usr/sbin/cgpathd: it was changed"),
        "{text}"
    );
}

#[test]
fn after_a_kill_at_any_step_the_next_run_comes_to_the_same_end_and_an_uninstall_to_the_begin() {
    // An installation on a fresh host, and an upgrade.
    for upgrade in [false, true] {
        let prepared = || {
            let made = Made::new();
            let fresh = made.tree();
            if upgrade {
                made.install(&plain()).unwrap();
                made.image("program 2", "libtss2-esys.so.1");
            }
            (made, fresh)
        };
        let (whole, fresh) = prepared();
        let earlier = whole.tree();
        let steps = whole.plan(&plain()).0.steps;
        assert!(steps.len() > 6, "{steps:?}");
        whole.install(&plain()).unwrap();
        let end = whole.tree();
        for after in 0..=steps.len() {
            for then in ["again", "earlier", "uninstall"] {
                let (made, _) = prepared();
                let (plan, contents) = made.plan(&plain());
                assert_eq!(plan.steps, steps);
                made.killed(&plan.steps, &contents, after);
                // The program is there as a whole, or not at all.
                let program = made.tree().get("/usr/sbin/cgpathd").cloned();
                assert!(
                    program.is_none_or(|program| program == "755 program 1" || program == "755 program 2"),
                    "{after}"
                );
                let expected = match then {
                    "uninstall" => {
                        made.uninstall();
                        &fresh
                    }
                    "earlier" if upgrade => {
                        made.image("program 1", "libtss2-esys.so.0");
                        made.install(&plain()).unwrap();
                        &earlier
                    }
                    _ => {
                        made.install(&plain()).unwrap();
                        &end
                    }
                };
                assert_eq!(&made.tree(), expected, "{then} after {after} of {steps:?}");
            }
        }
    }
}

#[test]
fn after_a_kill_at_any_step_of_an_uninstall_the_next_one_comes_to_its_end() {
    let fresh = Made::new().tree();
    let steps = |made: &Made| {
        let host = Root::new(&made.host()).look(std::iter::empty(), false).unwrap();
        plan::uninstall(&host).steps
    };
    let whole = Made::new();
    whole.install(&plain()).unwrap();
    let end = whole.tree();
    for after in 0..=steps(&whole).len() {
        for then_install in [false, true] {
            let made = Made::new();
            made.install(&plain()).unwrap();
            made.killed(&steps(&made), &Contents::new(), after);
            if then_install {
                made.install(&plain()).unwrap();
                assert_eq!(made.tree(), end, "{after}");
            } else {
                made.uninstall();
                assert_eq!(made.tree(), fresh, "{after}");
            }
        }
    }
}

#[test]
fn links_of_the_host_lead_where_they_lead_on_the_host() {
    let made = Made::new();
    let host = made.host();
    fs::remove_dir(host.join("opt")).unwrap();
    fs::create_dir_all(host.join("var/opt")).unwrap();
    symlink("/var/opt", host.join("opt")).unwrap();
    fs::rename(host.join("usr/sbin"), host.join("usr/bin")).unwrap();
    symlink("bin", host.join("usr/sbin")).unwrap();
    let before = made.tree();
    for (prefix, place) in [
        ("/usr", "/usr/bin/cgpathd"),
        ("/opt/ima-cgpath", "/var/opt/ima-cgpath/sbin/cgpathd"),
    ] {
        made.install(&Install {
            prefix: Some(prefix.into()),
            ..plain()
        })
        .unwrap();
        assert_eq!(made.tree()[place], "755 program 1");
        made.uninstall();
        assert_eq!(made.tree(), before, "{prefix}");
    }
    // Out of the host's root leads none.
    let outside = made.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::remove_file(host.join("opt")).unwrap();
    symlink(&outside, host.join("opt")).unwrap();
    let refused = made.install(&Install {
        prefix: Some("/opt/ima-cgpath".into()),
        ..plain()
    });
    assert!(refused.is_err() && tree(&outside).is_empty(), "{refused:?}");
}

#[test]
fn a_collector_that_runs_is_exchanged_by_a_handover_alone() {
    let made = Made::new();
    made.install(&plain()).unwrap();
    let on = Root::new(&made.host());
    let planned = |handover| {
        let image = made.dir.path().join("image");
        let contents = contents(&made.host(), &image, "/usr", &plain(), &Config::default()).unwrap();
        let host = on.look(contents.keys().map(String::as_str), true).unwrap();
        plan::install(
            "/usr",
            &host::pieces(&contents, part).unwrap(),
            &[],
            &host,
            handover,
        )
    };
    assert!(planned(false).unwrap().steps.is_empty());
    made.image("program 2", "libtss2-esys.so.0");
    assert!(matches!(planned(false), Err(Refusal::Runs { old, new }) if old != new && new.len() == 64));
    let plan = planned(true).unwrap();
    assert!(plan.exchanges && plan.steps.contains(&Step::Swap("/usr/sbin/cgpathd".into())));
    // A handover that was refused is tried again, though the file is exchanged already.
    let (_, contents) = made.plan(&plain());
    for step in &plan.steps[..plan.steps.len() - 1] {
        on.apply(step, &contents).unwrap();
    }
    assert_eq!(made.tree()["/usr/sbin/cgpathd"], "755 program 2");
    assert!(matches!(planned(false), Err(Refusal::Runs { .. })));
    let plan = planned(true).unwrap();
    assert!(plan.exchanges && plan.steps.len() == 2, "{plan:?}");
    for step in &plan.steps {
        on.apply(step, &contents).unwrap();
    }
    let plan = planned(false).unwrap();
    assert!(!plan.exchanges && plan.steps.is_empty(), "{plan:?}");
}

#[test]
fn files_with_another_selinux_type_are_named_with_what_mends_them() {
    let made = Made::new();
    made.install(&plain()).unwrap();
    let on = Root::new(&made.host());
    let paths = [
        "/usr/sbin/cgpathd",
        "/etc/systemd/system/cgpathd.service",
        "/etc/ima-cgpath/cgpathd.toml",
    ];
    let lines = |label: &dyn Fn(&Path) -> Option<String>| wrong_labels(&on, paths.into_iter(), label);
    let unlabelled = |_: &Path| None;
    assert_eq!(lines(&unlabelled), "", "no SELinux");
    made.put("/sys/fs/selinux/enforce", "1");
    let text = lines(&unlabelled);
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(
        text.contains("is without a label, not bin_t: run: restorecon -v /usr/sbin/cgpathd"),
        "{text}"
    );
    let etc = |_: &Path| Some("etc_t".to_owned());
    assert!(lines(&etc).contains("cgpathd.service is etc_t, not systemd_unit_file_t"));
    let good = |path: &Path| {
        let unit = path.ends_with("cgpathd.service");
        Some(if unit { "systemd_unit_file_t" } else { "bin_t" }.to_owned())
    };
    assert_eq!(lines(&good), "");
}

#[test]
fn a_question_is_answered_and_an_answer_understood() {
    let made = Made::new();
    let config = Config {
        run_dir: made.host().join("run"),
        ..Config::default()
    };
    let answered = |question: &str| {
        let mut out = Vec::new();
        answer(&config, &mut question.as_bytes(), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    };
    let (line, works) = described(Ok(answered("status\n")));
    assert!(
        line.starts_with("no collector runs on this host: ") && !works,
        "{line}"
    );
    assert!(answered("unload\n").contains("no such question"));
    assert!(answered("").contains("no such question"));
    assert!(matches!(report(&answered("x\n")), Err(NodeError::Answer(_))));

    let rows = r#"{"rows": [{"id": "kernel", "state": "ok", "found": "6.12", "needs_reboot": false},
        {"id": "ima", "state": "fail", "found": "no list", "remedy": "ima_policy=tcb", "needs_reboot": true},
        {"id": "jit", "state": "skip", "found": "unreadable", "needs_reboot": false}]}"#;
    let found = report(rows).unwrap();
    assert_eq!(
        (found.missing.as_slice(), found.code),
        (["ima".to_owned()].as_slice(), 1)
    );
    assert_eq!(
        found.table,
        "fail  ima  no list -> ima_policy=tcb\nskip  jit  unreadable\n"
    );

    let status = |more: &str| {
        format!(
            r#"{{"checkpoint": 7, "list_len": 85, "records": 92, "unjoined": 0, "lost": 0, "stalled": false,
            "protection": {{"guard": "record", "tpm": "record", "enforce": false, "fail_closed": false}},
            "denied": 0, "partitions": [] {more}}}"#
        )
    };
    let (line, works) = described(Ok(status("")));
    assert!(
        works && line == "the collector runs; no pod is older than it",
        "{line}"
    );
    let (line, works) = described(Ok(status(r#", "predating": 3"#)));
    assert!(
        works && line.contains("older than it: 3; they are `predates collector` until they end"),
        "{line}"
    );
    let (line, works) = described(Ok(status(r#", "blind": 4"#)));
    assert!(!works && line.contains("checkpoint 4"), "{line}");
    let (line, works) = described(ask(&made.host(), "status"));
    assert!(
        !works && line.contains("/run/ima-cgpath-check/check.sock"),
        "{line}"
    );
}

#[test]
fn the_socket_is_where_pods_ask_and_the_units_name_the_installed_program() {
    assert!(ASK_SOCKET_TEXT.contains(&format!("ListenStream=/{ASK}\n")));
    assert!(ASK_SOCKET_TEXT.contains("SocketMode=0600\n"));
    assert!(ASKED_TEXT.contains(&format!("ExecStart={PROGRAM} node answer\n")));
    assert!(setup::UNIT.contains(&format!("ExecStart={PROGRAM} run\n")));
}

/// `kubectl cgpath check` with a kubectl that answers from files: a test of its arguments and of what it
/// makes of answers, not of a cluster.
#[test]
fn the_plugin_prints_one_table_of_what_each_node_says() {
    use crate::check::{Report, Row, State};
    let dir = tempfile::tempdir().unwrap();
    let row = |id, state, remedy: Option<&str>| Row {
        id,
        state,
        found: "a \"word\" and a \\".to_owned(),
        remedy: remedy.map(str::to_owned),
        needs_reboot: false,
    };
    let reports = [
        (
            "one",
            vec![row("kernel", State::Ok, None), row("guard", State::Ok, None)],
        ),
        (
            "two",
            vec![
                row("kernel", State::Skip, None),
                row("ima", State::Fail, Some("ima_policy=tcb")),
            ],
        ),
        ("three", vec![row("kernel", State::Skip, None)]),
    ];
    for (pod, rows) in reports {
        let text = serde_json::to_string_pretty(&Report { rows }).unwrap();
        fs::write(dir.path().join(pod), text).unwrap();
    }
    let kubectl = dir.path().join("kubectl");
    let script = r#"#!/bin/sh
echo "$*" >> "$ANSWERS/asked"
case $1 in
get) cat "$ANSWERS/pods" ;;
exec) cat "$ANSWERS/$3" 2>/dev/null && exit "${CODE:-0}" || exit 1 ;;
esac
"#;
    fs::write(&kubectl, script).unwrap();
    fs::set_permissions(&kubectl, fs::Permissions::from_mode(0o755)).unwrap();
    let plugin = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kubectl-cgpath");
    let run = |pods: &[&str], arguments: &[&str]| {
        let lines: String = pods
            .iter()
            .map(|pod| format!("node-{pod} monitoring {pod}\n"))
            .collect();
        fs::write(dir.path().join("pods"), lines).unwrap();
        let _ = fs::remove_file(dir.path().join("asked"));
        let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
        let mut command = std::process::Command::new("sh");
        command
            .arg(&plugin)
            .args(arguments)
            .env("PATH", path)
            .env("ANSWERS", dir.path());
        let output = command.output().unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code(), said)
    };
    let (code, text) = run(&["one", "two", "none"], &["check", "-n", "monitoring"]);
    assert_eq!(code, Some(1), "{text}");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines,
        [
            "NODE       STATE    WHAT    FOUND",
            "node-one   ok       -       2 preconditions are met",
            "node-two   skip     kernel  a \"word\" and a \\",
            "node-two   fail     ima     a \"word\" and a \\ -> ima_policy=tcb",
            "node-none  unasked  -       kubectl logs --namespace=monitoring none --all-containers says why",
        ]
    );
    let asked = fs::read_to_string(dir.path().join("asked")).unwrap();
    assert!(
        asked.starts_with("get pods --namespace=monitoring -l app.kubernetes.io/name=ima-cgpath"),
        "{asked}"
    );
    let exec = "exec --namespace=monitoring two --container=wait -- /usr/sbin/cgpathd node check\n";
    assert!(asked.contains(exec), "{asked}");
    for (pods, code) in [
        (&["one"][..], 0),
        (&["one", "three"], 2),
        (&["none"], 2),
        (&["none", "two"], 1),
    ] {
        let (found, text) = run(pods, &["check"]);
        assert_eq!(found, Some(code), "{pods:?} {text}");
    }
    let (_, text) = run(&["one", "two"], &["check", "--json", "node-two"]);
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["nodes"].as_array().unwrap().len(), 1);
    assert_eq!(value["nodes"][0]["node"], "node-two");
    assert_eq!(value["nodes"][0]["check"]["rows"][1]["id"], "ima");
    for wrong in [&[][..], &["watch"], &["check", "--wide"], &["check", "-n"]] {
        let (code, text) = run(&["one"], wrong);
        assert!(
            code == Some(2) && text.contains("Usage: kubectl cgpath check"),
            "{wrong:?} {text}"
        );
    }
    assert_eq!(run(&[], &["check"]).0, Some(2));
    // Of a check that is not met kubectl ends with 1.
    assert_eq!(run(&["one"], &["check", "--help"]).0, Some(0));
}
