//! A made-up node, met and unmet in every way.

use super::facts::{DaemonFacts, Facts, Probed, Probes, TpmFacts, Unknown, gather};
use super::*;
use cgpath_evidence::{Bank, Digest, checkpoint, probe};
use cgpath_testkit::Measurement;
use std::collections::BTreeSet;
use std::fs;

const POLICY: &str = include_str!("../../../policy/ima/recommended");

/// A folder that looks like the root of a node on which all is well.
struct Node(tempfile::TempDir);

impl Node {
    fn new() -> Node {
        let node = Node(tempfile::tempdir().unwrap());
        node.file("proc/sys/kernel/osrelease", "6.12.1-amd64\n")
            .file("proc/sys/kernel/arch", "x86_64\n")
            .file("proc/sys/kernel/ftrace_enabled", "1\n")
            .file("proc/sys/net/core/bpf_jit_enable", "1\n")
            .file(
                "proc/cmdline",
                "root=/dev/vda1 ima_policy=tcb ima_template=ima-ng\n",
            )
            .file("proc/self/status", "Name:\tx\nCapEff:\t000001ffffffffff\n")
            .file("proc/self/cgroup", "0::/init.scope\n")
            .file(
                "proc/self/mountinfo",
                "20 1 8:1 / / rw - ext4 /dev/vda1 rw\n\
                 21 20 0:5 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n\
                 22 20 0:6 / /sys/fs/bpf rw shared:1 - bpf bpf rw\n",
            )
            .file("proc/1/comm", "systemd\n")
            .file(
                "proc/kallsyms",
                "0000000000000000 T _text\n0000000000000000 T register_ftrace_direct\n",
            )
            .file("proc/77/comm", "containerd-shim\n")
            .file("sys/kernel/btf/vmlinux", btf(&facts::HOOKS))
            .file(
                "sys/kernel/tracing/available_filter_functions",
                "a\nima_add_template_entry\nb [m]\n",
            )
            .file("sys/kernel/security/lsm", "lockdown,capability,bpf,ima")
            .file(
                "sys/kernel/security/lockdown",
                "[none] integrity confidentiality\n",
            )
            .file("etc/ima/ima-policy", POLICY)
            .file("usr/sbin/mke2fs", "")
            .file("usr/bin/mount", "")
            .file("dev/loop-control", "")
            .file("sys/class/tpm/tpm0/tpm_version_major", "2\n")
            .file("sys/class/tpm/tpm0/pcr-sha256/10", "00")
            .file(
                "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c",
                [6, 0, 0, 0, 1],
            );
        node.list(&[
            ("boot_aggregate", b"firmware"),
            ("/etc/ima/ima-policy", POLICY.as_bytes()),
            ("/bin/sh", b"sh"),
        ]);
        node
    }

    fn file(&self, path: &str, content: impl AsRef<[u8]>) -> &Node {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    fn without(&self, path: &str) -> &Node {
        let path = self.0.path().join(path);
        if path.is_dir() {
            fs::remove_dir_all(path)
        } else {
            fs::remove_file(path)
        }
        .unwrap();
        self
    }

    fn list(&self, entries: &[(&str, &[u8])]) -> &Node {
        let bytes: Vec<u8> = entries
            .iter()
            .flat_map(|(path, content)| entry(path, Bank::Sha256.hash(&[content]).bytes()))
            .collect();
        self.file("sys/kernel/security/ima/binary_runtime_measurements", bytes)
    }

    fn facts(&self) -> Facts {
        self.facts_for(&Config::default())
    }

    fn facts_for(&self, config: &Config) -> Facts {
        let ask = facts::Ask {
            tpm: &|_| Ok(tpm()),
            provider: &provider,
            probe: &|_, _| {
                Ok(Probes {
                    run: Probed::Measured,
                    map: Probed::Measured,
                })
            },
            types: &|_| Ok(None),
            overlay: &|_| Ok(true),
            systemd: &|| Ok("systemd 252 (252.39-1~deb12u1)\n+PAM +AUDIT +IMA -SMACK\n".into()),
            daemon: &|_| Ok(None),
        };
        gather(self.0.path(), config, &ask)
    }

    fn row(&self, id: &str) -> Row {
        row(&self.facts(), id)
    }
}

fn row(facts: &Facts, id: &str) -> Row {
    let rows = assess(facts, &Config::default());
    rows.into_iter()
        .find(|row| row.id == id)
        .unwrap_or_else(|| panic!("no row {id}"))
}

/// Who makes reports, as a file of the tree says in place of configfs.
fn provider(directory: &Path) -> Result<String, String> {
    let text = fs::read_to_string(directory.join("provider")).map_err(|e| e.to_string())?;
    Ok(text.trim().to_owned())
}

fn tpm() -> TpmFacts {
    TpmFacts {
        name: "SW, firmware 1.2".into(),
        banks: vec![Bank::Sha256],
        owner_auth: false,
        endorsement_auth: false,
        in_lockout: false,
        persistent: (1, 6),
        key: Ok("000b00".into()),
    }
}

/// An `ima-ng` entry as the binary list has it.
fn entry(path: &str, sha256: &[u8]) -> Vec<u8> {
    let digest = Digest::new(Bank::Sha256, sha256).unwrap();
    Measurement::ima_ng(path.as_bytes(), &digest).bytes()
}

/// Type information with these functions and typedefs. Documentation/bpf/btf.rst.
fn btf(names: &[&str]) -> Vec<u8> {
    let (mut types, mut strings) = (Vec::new(), vec![0u8]);
    let mut add = |name: u32, info: u32, of: u32| {
        types.extend([name, info, of].iter().flat_map(|n| n.to_le_bytes()));
    };
    add(0, 13 << 24, 0);
    for name in names {
        let at = u32::try_from(strings.len()).unwrap();
        strings.extend(name.bytes().chain([0]));
        if name.starts_with("btf_trace_") {
            add(at, 8 << 24, 1)
        } else {
            add(at, 12 << 24, 1)
        }
    }
    let (t, s) = (
        u32::try_from(types.len()).unwrap(),
        u32::try_from(strings.len()).unwrap(),
    );
    let mut out = vec![0x9f, 0xeb, 1, 0];
    out.extend([24, 0, t, t, s].iter().flat_map(|n| n.to_le_bytes()));
    [out, types, strings].concat()
}

#[test]
fn a_node_on_which_all_is_well_gives_exit_0_and_no_remedy() {
    let report = Report {
        rows: assess(&Node::new().facts(), &Config::default()),
    };
    for row in &report.rows {
        assert_eq!(
            (row.state, &row.remedy),
            (State::Ok, &None),
            "{}: {}",
            row.id,
            row.found
        );
    }
    assert_eq!(report.exit_code(), 0);
}

#[test]
fn an_empty_tree_meets_nothing_and_passes_nothing_over() {
    let root = tempfile::tempdir().unwrap();
    let ask = facts::Ask {
        tpm: &|_| Err("none".into()),
        provider: &provider,
        probe: &|_, _| panic!("no list to probe"),
        types: &types,
        overlay: &overlay,
        systemd: &|| Err(Unknown::Absent("systemctl".into())),
        daemon: &|_| Ok(None),
    };
    let facts = gather(root.path(), &Config::default(), &ask);
    let report = Report {
        rows: assess(&facts, &Config::default()),
    };
    for row in &report.rows {
        // What the kernel was built without, or what this program itself states.
        let known = [
            "architecture",
            "lockdown",
            "secure-boot",
            "guard",
            "daemon",
            // Not an anchor and not a quote of this configuration.
            "rtmr",
            "td-report",
        ];
        let known = known.contains(&row.id);
        assert_eq!(
            row.state == State::Fail || row.state == State::Skip,
            !known,
            "{}: {:?}",
            row.id,
            row.state
        );
    }
    assert_eq!(report.exit_code(), 1);
}

#[test]
fn each_precondition_that_is_not_met_fails_with_a_remedy_that_says_whether_to_reboot() {
    type Break = fn(&Node);
    let cases: [(&str, bool, Break); 22] = [
        ("hook", true, |n| {
            n.file(
                "proc/kallsyms",
                "0000000000000000 T _text\n0000000000000000 t register_ftrace_direct_x\n\
                 0000000000000000 t register_ftrace_direct\t[m]\n",
            );
        }),
        ("loadpin", true, |n| {
            n.file("sys/kernel/security/lsm", "capability,loadpin,bpf,ima")
                .file("proc/sys/kernel/loadpin/enforce", "1\n")
                .file(
                    "proc/self/mountinfo",
                    "20 1 254:0 / / ro - ext2 /dev/dm-0 ro\n21 20 0:7 / /etc rw - overlay overlay rw\n",
                )
                .list(&[("boot_aggregate", b"x"), ("/bin/sh", b"sh")]);
        }),
        ("architecture", false, |n| {
            n.file("proc/sys/kernel/arch", "s390x\n");
        }),
        ("privileges", false, |n| {
            n.file("proc/self/status", "CapEff:\t0000000000000000\n");
        }),
        ("btf", true, |n| {
            n.without("sys/kernel/btf/vmlinux");
        }),
        ("btf", true, |n| {
            n.file("sys/kernel/btf/vmlinux", btf(&facts::HOOKS[1..]));
        }),
        ("hook", true, |n| {
            n.file(
                "sys/kernel/tracing/available_filter_functions",
                "ima_add_template_entry_x\n",
            );
        }),
        ("hook", false, |n| {
            n.file("proc/sys/kernel/ftrace_enabled", "0\n");
        }),
        ("bpf-jit", false, |n| {
            n.file("proc/sys/net/core/bpf_jit_enable", "0\n");
        }),
        ("bpf-lsm", true, |n| {
            n.file("sys/kernel/security/lsm", "capability,ima");
        }),
        ("bpf-lsm", false, |n| {
            n.without("sys/kernel/security/lsm");
        }),
        ("loadpin", false, |n| {
            n.without("sys/kernel/security/lsm");
        }),
        ("lockdown", true, |n| {
            {
                n.file(
                    "sys/kernel/security/lockdown",
                    "none integrity [confidentiality]\n",
                );
            };
        }),
        ("ima", true, |n| {
            n.list(&[("/bin/sh", b"sh")]);
        }),
        ("ima", false, |n| {
            n.without("sys/kernel/security/ima/binary_runtime_measurements");
        }),
        ("ima-policy", true, |n| {
            let short = POLICY.replace("measure func=MODULE_CHECK", "# gone");
            n.file("etc/ima/ima-policy", &short);
            n.list(&[
                ("boot_aggregate", b"x"),
                ("/etc/ima/ima-policy", short.as_bytes()),
            ]);
        }),
        ("ima-policy-file", true, |n| {
            n.list(&[("boot_aggregate", b"x"), ("/bin/sh", b"sh")]);
        }),
        ("checkpoint-rule", true, |n| {
            let short = POLICY.replace("fsuuid=1ca09a17", "fsuuid=00000000");
            n.file("etc/ima/ima-policy", &short);
            n.list(&[
                ("boot_aggregate", b"x"),
                ("/etc/ima/ima-policy", short.as_bytes()),
            ]);
        }),
        ("checkpoint-files", false, |n| {
            n.without("dev/loop-control");
        }),
        ("checkpoint-files", false, |n| {
            n.without("usr/sbin/mke2fs");
        }),
        ("tpm", true, |n| {
            n.file("sys/class/tpm/tpm0/tpm_version_major", "1\n");
        }),
        ("cgroup", false, |n| {
            n.file("proc/self/cgroup", "");
        }),
    ];
    for (id, reboot, break_it) in cases {
        let node = Node::new();
        break_it(&node);
        let row = node.row(id);
        assert_eq!(
            (row.state, row.needs_reboot),
            (State::Fail, reboot),
            "{id}: {}",
            row.found
        );
        assert!(row.remedy.is_some(), "{id}: {}", row.found);
    }
}

#[test]
fn features_decide_and_an_old_version_is_only_reported() {
    let node = Node::new();
    // RHEL 9's: old by its number, and with everything that was added since.
    node.file("proc/sys/kernel/osrelease", "5.14.0-362.el9.x86_64\n");
    let mut facts = node.facts();
    assert_eq!(row(&facts, "kernel").state, State::Warn);
    let report = |facts: &Facts| Report {
        rows: assess(facts, &Config::default()),
    };
    assert_eq!(report(&facts).exit_code(), 0);
    let lacks = "this kernel has no BPF_FUNC_ima_file_hash in enum bpf_func_id: it came with 5.18";
    facts.types_missing = Ok(Some(lacks.into()));
    let btf = row(&facts, "btf");
    assert_eq!(
        (btf.state, btf.found.as_str(), btf.needs_reboot),
        (State::Fail, lacks, true)
    );
    assert_eq!(report(&facts).exit_code(), 1);
}

#[test]
fn a_systemd_that_does_not_load_the_policy_fails_unless_something_else_did() {
    let node = Node::new();
    let mut facts = node.facts();
    assert_eq!(row(&facts, "systemd-ima").state, State::Ok);
    facts.systemd_ima = Ok(false);
    assert_eq!(row(&facts, "systemd-ima").state, State::Ok);
    node.list(&[("boot_aggregate", b"x"), ("/bin/sh", b"sh")]);
    facts.list = node.facts().list;
    let failed = row(&facts, "systemd-ima");
    assert!(failed.state == State::Fail && failed.needs_reboot, "{failed:?}");
    assert!(failed.remedy.unwrap().contains("/etc/ima/ima-policy"));
    // Another PID 1 is not systemd's to judge, and what cannot be asked is not met.
    facts.init = Ok("init".into());
    assert_eq!(row(&facts, "systemd-ima").state, State::Ok);
    facts.init = Ok("systemd".into());
    facts.systemd_ima = Err(Unknown::Failed("systemctl --version says nothing of IMA".into()));
    assert_eq!(row(&facts, "systemd-ima").state, State::Skip);
}

#[test]
fn loadpin_is_assessed_by_where_the_policy_lies_and_whether_it_was_loaded() {
    let node = Node::new();
    node.file("sys/kernel/security/lsm", "capability,loadpin,bpf,ima");
    // Without the sysctl it is enforced; here the policy was loaded all the same.
    let found = node.row("loadpin");
    assert!(
        found.state == State::Ok && found.found.starts_with("enforced"),
        "{found:?}"
    );
    node.list(&[("boot_aggregate", b"x"), ("/bin/sh", b"sh")]);
    assert_eq!(node.row("loadpin").state, State::Warn);
    node.file(
        "proc/self/mountinfo",
        "20 1 254:0 / / ro - ext2 /dev/dm-0 ro\n21 20 0:7 / /etc rw - overlay overlay rw\n",
    );
    assert_eq!(node.row("loadpin").state, State::Fail);
    node.file("proc/cmdline", "root=/dev/dm-0 loadpin.enforce=0\n");
    assert_eq!(node.row("loadpin").state, State::Ok);
    node.file("proc/sys/kernel/loadpin/enforce", "1\n");
    assert_eq!(node.row("loadpin").state, State::Fail);
}

#[test]
fn what_should_be_known_and_is_no_failure_warns() {
    let node = Node::new();
    node.file("proc/78/comm", "keylime_agent\n");
    let row = node.row("other-agents");
    assert_eq!(row.state, State::Warn);
    assert!(
        row.remedy
            .unwrap()
            .ends_with(": ^/run/ima-cgpath/checkpoint/[0-9]+$"),
        "{}",
        row.found
    );
    node.without("proc/77");
    assert_eq!(node.row("container-runtimes").state, State::Warn);
    node.without("sys/kernel/tracing");
    assert_eq!(node.row("hook").state, State::Warn);
    node.file("etc/ima/ima-policy", "measure func=BPRM_CHECK\n");
    assert_eq!(node.row("ima-policy-file").state, State::Warn);
    node.file("proc/self/mountinfo", "20 1 8:1 / / rw - ext4 /dev/vda1 rw\n");
    assert_eq!(node.row("bpffs").state, State::Warn);
    node.file(
        "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c",
        [6, 0, 0, 0, 0],
    );
    assert_eq!(node.row("secure-boot").state, State::Warn);
}

#[test]
fn a_register_that_is_not_ours_and_a_tpm_that_came_too_late_for_ima_fail() {
    let node = Node::new();
    let mut other = entry("/bin/sh", &[1; 32]);
    other[0] = 11;
    let list = [entry("boot_aggregate", &[1; 32]), other].concat();
    node.file("sys/kernel/security/ima/binary_runtime_measurements", &list);
    assert!(node.row("ima").found.contains("PCR 11"));
    node.file(
        "sys/kernel/security/ima/binary_runtime_measurements",
        entry("boot_aggregate", &[0; 32]),
    );
    assert_eq!(node.row("ima").state, State::Fail);
    node.file("sys/kernel/security/ima/binary_runtime_measurements", [1, 2, 3]);
    assert_eq!(node.row("ima").state, State::Fail, "{}", node.row("ima").found);
}

#[test]
fn a_fresh_file_that_is_not_measured_fails_and_a_probe_that_cannot_be_made_is_no_success() {
    let node = Node::new();
    let with = |run: Probed, map: Probed| {
        let mut facts = node.facts();
        facts.probes = Ok(Probes { run, map });
        row(&facts, "ima-policy")
    };
    assert_eq!(with(Probed::Measured, Probed::Measured).state, State::Ok);
    for (run, map) in [
        (Probed::NotMeasured, Probed::Measured),
        (Probed::Measured, Probed::NotMeasured),
    ] {
        let row = with(run, map);
        assert!(row.state == State::Fail && row.needs_reboot, "{}", row.found);
    }
    let row = with(Probed::Impossible("noexec".into()), Probed::Measured);
    assert!(row.state == State::Skip && row.found.contains("noexec"));
}

#[test]
fn rules_that_the_kernel_shows_count_more_than_the_file() {
    let node = Node::new();
    node.file("sys/kernel/security/ima/policy", "measure func=BPRM_CHECK \n");
    assert_eq!(node.row("ima-policy").state, State::Fail);
    assert_eq!(node.row("checkpoint-rule").state, State::Fail);
    node.file("sys/kernel/security/ima/policy", POLICY);
    assert_eq!(node.row("ima-policy").state, State::Ok);
}

#[test]
fn rules_that_nobody_shows_are_not_taken_for_good() {
    let node = Node::new();
    node.file("etc/ima/ima-policy", "another one\n");
    assert_eq!(node.row("ima-policy").state, State::Warn);
    assert_eq!(node.row("checkpoint-rule").state, State::Skip);
    let mount = "20 1 8:1 / / rw - ext4 /dev/vda1 rw\n\
        23 20 7:0 / /run/ima-cgpath/checkpoint rw - ext4 /dev/loop0 rw\n";
    node.file("proc/self/mountinfo", mount);
    assert_eq!(node.row("checkpoint-rule").state, State::Fail);
    let name = format!("{}3", checkpoint::DIRECTORY);
    node.list(&[("boot_aggregate", b"x"), (&name, b"checkpoint")]);
    let row = node.row("checkpoint-rule");
    assert!(row.state == State::Ok && row.found.contains('3'));
}

#[test]
fn the_tpm_is_assessed_by_what_it_says() {
    let node = Node::new();
    let with = |id: &str, change: fn(&mut TpmFacts)| {
        let mut facts = node.facts();
        let mut tpm = tpm();
        change(&mut tpm);
        facts.tpm = Ok(tpm);
        row(&facts, id)
    };
    assert_eq!(
        with("tpm-authorisation", |t| t.endorsement_auth = true).state,
        State::Fail
    );
    assert_eq!(
        with("tpm-authorisation", |t| t.owner_auth = true).state,
        State::Ok
    );
    assert_eq!(
        with("tpm-authorisation", |t| t.in_lockout = true).state,
        State::Warn
    );
    assert_eq!(with("tpm-handles", |t| t.persistent = (7, 0)).state, State::Warn);
    assert_eq!(
        with("attestation-key", |t| t.key = Err("no".into())).state,
        State::Fail
    );
    let banks = with("pcr-banks", |t| t.banks = vec![Bank::Sha1]);
    assert!(banks.state == State::Fail && banks.needs_reboot && banks.found.contains("sha1"));
    let mut facts = node.facts();
    facts.tpm = Err("no device".into());
    assert_eq!(row(&facts, "tpm").state, State::Fail);
    // The kernel shows the banks without the TPM being asked.
    assert_eq!(row(&facts, "pcr-banks").state, State::Ok);
    assert_eq!(row(&facts, "attestation-key").state, State::Skip);
}

#[test]
fn what_may_not_be_read_is_skipped_and_never_ok() {
    let node = Node::new();
    let mut facts = node.facts();
    facts.list = Err(Unknown::Denied(
        "/sys/kernel/security/ima/binary_runtime_measurements".into(),
    ));
    facts.probes = facts.list.clone().map(|_| unreachable!());
    for id in [
        "ima",
        "template",
        "ima-policy",
        "ima-policy-file",
        "checkpoint-rule",
    ] {
        let row = row(&facts, id);
        assert_eq!(row.state, State::Skip, "{id}");
        assert_eq!(row.remedy.as_deref(), Some("sudo cgpathd check"));
    }
    assert_eq!(
        Report {
            rows: assess(&facts, &Config::default())
        }
        .exit_code(),
        2
    );
}

#[test]
fn the_list_tells_template_policy_checkpoint_and_probes() {
    let node = Node::new();
    let (run, map) = (probe::content(0), probe::content(1));
    node.list(&[
        ("boot_aggregate", b"x"),
        ("/etc/ima/ima-policy", b"old"),
        ("/etc/ima/ima-policy", b"new"),
        (probe::RUN_PATH, &run),
        (probe::MAP_PATH, &map),
        (probe::MAP_PATH, b"not a probe"),
        ("/run/ima-cgpath/checkpoint/12", b"c"),
        ("/run/ima-cgpath/checkpoint/9", b"c"),
    ]);
    let list = node.facts().list.unwrap();
    assert_eq!((list.entries, list.checkpoint), (8, Some(12)));
    assert_eq!(list.last_file, Some(("ima-ng".into(), "sha256".into())));
    assert_eq!(list.policies, [b"old", b"new"].map(|c| Bank::Sha256.hash(&[c])));
    assert_eq!(list.probes, [BTreeSet::from([0]), BTreeSet::from([1])]);
    assert_eq!(list.boot_aggregate, Some(true));
    assert!(Digest::zero(Bank::Sha256).is_zero());
}

#[test]
fn the_advice_for_the_security_modules_keeps_ima_working() {
    let node = Node::new();
    for (active, advice) in [
        // What 6.1 shows where IMA measures: it needs `integrity`, which is active there and not listed.
        (
            "lockdown,capability,yama,apparmor",
            "add lsm=lockdown,capability,yama,apparmor,integrity,bpf to the kernel's command line",
        ),
        (
            "lockdown,capability,ima,evm",
            "add lsm=lockdown,capability,ima,evm,bpf to the kernel's command line",
        ),
    ] {
        node.file("sys/kernel/security/lsm", active);
        let row = node.row("bpf-lsm");
        assert_eq!((row.state, row.needs_reboot), (State::Fail, true));
        assert_eq!(row.remedy.as_deref(), Some(advice));
    }
}

#[test]
fn ids_are_unique_and_the_table_and_the_json_show_every_row() {
    let node = Node::new();
    node.file("sys/kernel/security/lsm", "ima");
    let report = Report {
        rows: assess(&node.facts(), &Config::default()),
    };
    let ids: BTreeSet<&str> = report.rows.iter().map(|row| row.id).collect();
    assert_eq!(ids.len(), report.rows.len());
    let (table, json) = (report.table(), serde_json::to_string(&report).unwrap());
    for id in ids {
        assert!(table.contains(id) && json.contains(&format!("\"{id}\"")));
    }
    assert!(
        table.contains("-> add lsm=ima,bpf to the kernel's command line (needs a reboot)"),
        "{table}"
    );
    assert!(json.contains("\"needs_reboot\":true"));
}

#[test]
fn a_guard_that_is_off_and_an_enforcement_without_verdicts_are_reported() {
    let row = |set: &str| {
        let config = Config::from_parts(Path::new("x"), "", [], &[set.to_owned()]).unwrap();
        let rows = assess(&Node::new().facts(), &config);
        rows.into_iter().find(|row| row.id == "guard").unwrap()
    };
    assert_eq!(row("guard.mode=deny").state, State::Ok);
    for set in ["guard.mode=off", "enforce.mode=untrusted-pods"] {
        let row = row(set);
        assert!(row.state == State::Warn && row.remedy.is_some(), "{row:?}");
    }
}

#[test]
fn a_machine_without_a_tpm_is_given_one_cause_once() {
    let node = Node::new();
    node.without("sys/class/tpm").list(&[("boot_aggregate", b"")]);
    node.file(
        "sys/kernel/security/ima/binary_runtime_measurements",
        [entry("boot_aggregate", &[0; 32]), entry("/bin/sh", &[1; 32])].concat(),
    );
    let mut facts = node.facts();
    facts.tpm = Err("no such device".into());
    let ima = row(&facts, "ima");
    assert_eq!(ima.state, State::Fail);
    assert_eq!(ima.remedy.as_deref(), Some("see the row tpm"));
    assert_eq!(row(&facts, "tpm").state, State::Fail);
    for id in ["pcr-banks", "tpm-authorisation", "tpm-handles", "attestation-key"] {
        assert_eq!(row(&facts, id).state, State::Skip, "{id}");
    }
    // There is one now: its driver is what came too late.
    let remedy = row(
        &Facts {
            tpm: Ok(tpm()),
            ..facts
        },
        "ima",
    )
    .remedy;
    assert!(remedy.unwrap().contains("driver built in"));
}

#[test]
fn programs_that_were_unloaded_behind_a_checkpoint_of_this_boot_are_not_met_though_no_daemon_runs() {
    let node = Node::new();
    let checkpoint: (&str, &[u8]) = ("/run/ima-cgpath/checkpoint/0", b"c");
    node.list(&[("boot_aggregate", b"x"), checkpoint]);
    let row = node.row("daemon");
    assert_eq!(
        (row.state, row.needs_reboot),
        (State::Fail, true),
        "{}",
        row.found
    );
    assert!(row.found.contains("were unloaded"), "{}", row.found);
    // A daemon that was stopped leaves them: it goes on from there.
    let pin = "sys/fs/bpf/ima-cgpath/map_meta";
    node.file(pin, "");
    assert_eq!(node.row("daemon").state, State::Ok);
    node.without(pin);
    // A checkpoint of the kernel before a kexec is none of this boot.
    node.list(&[("boot_aggregate", b"x"), checkpoint, ("boot_aggregate", b"x")]);
    assert_eq!(node.facts().list.unwrap().checkpoint, None);
    assert_eq!(node.row("daemon").state, State::Ok);
}

#[test]
fn what_ended_this_boots_attestation_is_not_met() {
    let mut facts = Node::new().facts();
    assert_eq!(row(&facts, "daemon").state, State::Ok);
    let runs = DaemonFacts::default();
    let cases = [
        (runs, State::Ok, "runs"),
        (DaemonFacts { lost: 3, ..runs }, State::Warn, "3 records"),
        (
            DaemonFacts {
                stalled: true,
                ..runs
            },
            State::Fail,
            "disk",
        ),
        (
            DaemonFacts {
                blind: Some(4),
                ..runs
            },
            State::Fail,
            "checkpoint 4 was sealed blind",
        ),
    ];
    for (daemon, state, found) in cases {
        facts.daemon = Ok(Some(daemon));
        let row = row(&facts, "daemon");
        assert_eq!(row.state, state);
        assert!(row.found.contains(found), "{}", row.found);
    }
    facts.daemon = Err(Unknown::Failed("no answer".into()));
    assert_eq!(row(&facts, "daemon").state, State::Skip);
}

#[test]
fn a_sink_to_keylime_needs_the_key_that_keylime_takes() {
    let facts = Node::new().facts();
    let mut config = Config::default();
    let sink =
        "[[sink]]\nname = \"k\"\nkind = \"keylime-push\"\nto = \"https://v\"\nregistrar = \"http://r\"\n";
    config.sink = toml::from_str::<toml::Table>(sink).unwrap()["sink"]
        .clone()
        .try_into()
        .unwrap();
    let row = |config: &Config| {
        let rows = assess(&facts, config);
        rows.into_iter().find(|row| row.id == "attestation-key").unwrap()
    };
    assert_eq!(row(&config).state, State::Fail);
    assert!(row(&config).remedy.unwrap().contains("--replace"));
    config.tpm.key = crate::tpm::KeyKind::Rsa2048;
    assert_eq!(row(&config).state, State::Ok);
}

/// A trust domain without a TPM, and the configuration for it.
fn trust_domain() -> (Node, Config) {
    let node = Node::new();
    node.without("sys/class/tpm")
        .file("proc/sys/kernel/osrelease", "7.3.4-amd64\n")
        .file(
            "sys/kernel/security/ima/binary_runtime_measurements",
            [
                entry("boot_aggregate", &[0; 32]),
                entry(
                    "/etc/ima/ima-policy",
                    Bank::Sha256.hash(&[POLICY.as_bytes()]).bytes(),
                ),
                entry("/bin/sh", &[1; 32]),
            ]
            .concat(),
        )
        .file(
            "sys/devices/virtual/misc/tdx_guest/measurements/rtmr3:sha384",
            [0; 48],
        )
        .file("sys/kernel/config/tsm/report/provider", "tdx_guest\n")
        .file(
            "proc/self/mountinfo",
            "20 1 8:1 / / rw - ext4 /dev/vda1 rw\n\
             21 20 0:5 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n\
             22 20 0:6 / /sys/fs/bpf rw shared:1 - bpf bpf rw\n\
             23 20 0:7 / /sys/kernel/config rw - configfs configfs rw\n",
        );
    let sets = ["anchor.to=rtmr", "quote.by=tdx_guest"].map(str::to_owned);
    let config = Config::from_parts(Path::new("x"), "", [], &sets).unwrap();
    (node, config)
}

fn row_of(node: &Node, config: &Config, id: &str) -> Row {
    let rows = assess(&node.facts_for(config), config);
    rows.into_iter().find(|row| row.id == id).unwrap()
}

#[test]
fn a_trust_domain_without_a_tpm_lacks_nothing() {
    let (node, config) = trust_domain();
    let report = Report {
        rows: assess(&node.facts_for(&config), &config),
    };
    for row in &report.rows {
        assert_eq!(
            (row.state, &row.remedy),
            (State::Ok, &None),
            "{}: {}",
            row.id,
            row.found
        );
    }
    let found = |id: &str| row_of(&node, &config, id).found;
    assert!(found("rtmr").starts_with("RTMR 3 at "));
    assert!(found("td-report").starts_with("tdx_guest at "));
    for id in ["tpm", "attestation-key", "checkpoint-files", "checkpoint-rule"] {
        assert!(found(id).starts_with("not needed"), "{id}");
    }
    // On a node whose configuration does not ask for it, it is there and no matter.
    let plain = Config::default();
    for (id, says) in [("rtmr", "RTMR 3 is there"), ("td-report", "tdx_guest is there")] {
        let row = row_of(&node, &plain, id);
        assert!(row.state == State::Ok && row.found.starts_with(says), "{row:?}");
    }
}

#[test]
fn what_a_trust_domain_lacks_is_named_by_its_cause() {
    type Break = fn(&Node);
    let measurements = "sys/devices/virtual/misc/tdx_guest/measurements";
    assert_eq!(
        Path::new("/").join(measurements),
        Path::new(crate::config::REGISTERS)
    );
    let cases: [(&str, State, bool, &str, Break); 9] = [
        ("rtmr", State::Fail, true, "kernels from 6.16 on do", |n| {
            n.without("sys/devices")
                .file("proc/sys/kernel/osrelease", "6.12.1-amd64\n");
        }),
        ("rtmr", State::Fail, true, "shows no registers", |n| {
            n.without("sys/devices/virtual/misc/tdx_guest/measurements");
        }),
        ("rtmr", State::Fail, false, "no trust domain", |n| {
            n.without("sys/devices");
        }),
        ("rtmr", State::Fail, false, "rtmr3:sha384 is not there", |n| {
            n.without("sys/devices/virtual/misc/tdx_guest/measurements/rtmr3:sha384");
        }),
        ("rtmr", State::Fail, false, "has 32 bytes, not 48", |n| {
            n.file(
                "sys/devices/virtual/misc/tdx_guest/measurements/rtmr3:sha384",
                [0; 32],
            );
        }),
        (
            "td-report",
            State::Fail,
            false,
            "not on configfs but on ext4",
            |n| {
                n.without("sys/kernel/config")
                    .file("proc/self/mountinfo", "20 1 8:1 / / rw - ext4 /dev/vda1 rw\n");
            },
        ),
        ("td-report", State::Fail, false, "tsm/report is not there", |n| {
            n.without("sys/kernel/config");
        }),
        (
            "td-report",
            State::Fail,
            false,
            "sev_guest makes reports; quote.by has tdx_guest",
            |n| {
                n.file("sys/kernel/config/tsm/report/provider", "sev_guest\n");
            },
        ),
        ("td-report", State::Fail, false, "No such file", |n| {
            n.without("sys/kernel/config/tsm/report/provider");
        }),
    ];
    for (id, state, reboot, says, break_it) in cases {
        let (node, config) = trust_domain();
        break_it(&node);
        let row = row_of(&node, &config, id);
        assert_eq!(
            (row.state, row.needs_reboot),
            (state, reboot),
            "{id}: {}",
            row.found
        );
        assert!(row.found.contains(says), "{id}: {}", row.found);
        assert!(row.remedy.is_some(), "{id}: {}", row.found);
    }
}

#[test]
fn a_provider_that_was_not_tested_is_named_so() {
    let (node, _) = trust_domain();
    node.file("sys/kernel/config/tsm/report/provider", "sev_guest\n");
    let sets = ["quote.by=tpm,sev_guest".to_owned()];
    let config = Config::from_parts(Path::new("x"), "", [], &sets).unwrap();
    let row = row_of(&node, &config, "td-report");
    assert!(
        row.state == State::Warn && row.found.contains("not been tested"),
        "{row:?}"
    );
}
