//! Errors of policies and reference files name the line of the value that is wrong, and the keys that lead
//! to it.

use cgpath_policy::{Error, NodePolicy, Policy, Reference, WorkloadsFile};

const D256: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
const D1: &str = "sha1:0000000000000000000000000000000000000000";

/// Twenty lines before anything.
fn far_below(text: &str) -> String {
    "#\n".repeat(20) + text
}

fn node(from: &str, to: &str) -> String {
    let base = format!(
        "version: 1
node: demo-node
accept:
  tiers: [bpf]
  templates: [ima-ng]
  banks: [sha256]
  ima-policies: [{D256}]
  collector: /usr/sbin/cgpathd
host: {{references: [rootfs.json]}}
pods:
  - uid: 6b0c2e1a-0f3d-4f7e-9a51-2f6f3c9d0a11
    name: demo/pod-a
    references: [busybox.json]
"
    );
    replaced(&base, from, to)
}

/// The text, with digests for D256 and D1.
fn replaced(base: &str, from: &str, to: &str) -> String {
    assert!(base.contains(from), "{from}");
    let to = to.replace("D256", D256).replace("D1", D1);
    far_below(&base.replacen(from, &to, 1))
}

/// The error is at the line that has the mark, and begins with the key.
#[track_caller]
fn is_at_mark(text: &str, key: &str, error: Error) {
    let at = text.lines().position(|line| line.contains("# here")).unwrap() + 1;
    let Error::Syntax { line, why, .. } = &error else {
        panic!("{key}: {error}");
    };
    assert!(
        *line == at && why.starts_with(&format!("{key}: ")),
        "{key} in line {at}: {error}"
    );
}

#[test]
fn each_value_of_a_nodes_policy_that_is_refused_is_named_with_its_keys_and_line() {
    let top = |to: &str| ("host:", format!("{to}\nhost:"));
    let of_accept = |to: &str| ("  collector", format!("  {to}\n  collector"));
    let of_pod = |to: &str| ("    references: [b", format!("    {to}\n    references: [b"));
    let of_boot = |to: &str| top(&format!("boot:\n  {to}"));
    let of_tdx = |to: &str| top(&format!("tdx:\n  {to}"));
    let is = |from: &'static str, to: &str| (from, to.to_owned());
    for ((from, to), key) in [
        (is("version: 1", "version: 3 # here"), "version"),
        (is("node: demo-node", "node: '' # here"), "node"),
        (is("node: demo-node", "node: \"a\\nb\" # here"), "node"),
        (is("[bpf]", "[] # here"), "accept.tiers"),
        (is("[bpf]", "\n  - bpf\n  - ebpf # here"), "accept.tiers[1]"),
        (is("[ima-ng]", "[] # here"), "accept.templates"),
        (
            is("[ima-ng]", "\n  - ima-ng\n  - '' # here"),
            "accept.templates[1]",
        ),
        (is("[sha256]", "[] # here"), "accept.banks"),
        (is("[sha256]", "\n  - sha256\n  - md5 # here"), "accept.banks[1]"),
        (
            is("ima-policies: [", "ima-policies: [] # here [\n  #"),
            "accept.ima-policies",
        ),
        (
            is(
                "ima-policies: [",
                "ima-policies: [D256,\n    sha256:0, # here\n    ",
            ),
            "accept.ima-policies[1]",
        ),
        (is("/usr/sbin/cgpathd", "cgpathd # here"), "accept.collector"),
        (of_accept("anchors: [] # here"), "accept.anchors"),
        (of_accept("anchors: [rtmr-2, rtmr-3] # here"), "accept.anchors"),
        (of_accept("bpf-objects: [] # here"), "accept.bpf-objects"),
        (
            of_accept("bpf-objects:\n  - D256\n  - D1 # here"),
            "accept.bpf-objects[1]",
        ),
        (is("[rootfs.json]", "[] # here\n "), "host.references"),
        (is("[rootfs.json]", "[a,\n  '' # here\n ]"), "host.references[1]"),
        (
            is("[rootfs.json]", "[a],\n excludes: ['('] # here\n "),
            "host.excludes",
        ),
        (top("sandbox:\n  references: [] # here"), "sandbox.references"),
        (
            top("sandbox:\n  references: [a]\n  excludes: ['('] # here"),
            "sandbox.excludes",
        ),
        (top("runtimes: [] # here"), "runtimes"),
        (top("runtimes:\n- runc\n- '' # here"), "runtimes[1]"),
        (
            top("runtime-files:\n- /usr/sbin/runc\n- usr # here"),
            "runtime-files[1]",
        ),
        (top("workloads: '' # here"), "workloads"),
        (
            top("violations:\n  permit:\n  - /a\n  - b # here"),
            "violations.permit[1]",
        ),
        (
            top("file-systems:\n  permit:\n  - nfs\n  - ext4 # here"),
            "file-systems.permit[1]",
        ),
        (
            top("guard:\n  tolerate:\n  - map-read\n  - nothing # here"),
            "guard.tolerate[1]",
        ),
        (top("guard:\n  at-least: all # here"), "guard.at-least"),
        (top("tolerance:\n  lost: -1 # here"), "tolerance.lost"),
        (top("min-reboot: soon # here"), "min-reboot"),
        (top("kexec: sometimes # here"), "kexec"),
        (
            is("6b0c2e1a-0f3d-4f7e-9a51-2f6f3c9d0a11", "6B # here"),
            "pods[0].uid",
        ),
        (is("demo/pod-a", "'' # here"), "pods[0].name"),
        (is("[busybox.json]", "[] # here"), "pods[0].references"),
        (
            is("[busybox.json]", "[a,\n      '' # here\n    ]"),
            "pods[0].references[1]",
        ),
        (of_pod("excludes: ['('] # here"), "pods[0].excludes"),
        (of_pod("opaque: maybe # here"), "pods[0].opaque"),
        (top("boot: {} # here"), "boot"),
        (
            of_boot("registers:\n    0: [D256]\n    12: [D256] # here"),
            "boot.registers",
        ),
        (of_boot("registers:\n    0: [] # here"), "boot.registers.0"),
        (
            of_boot("registers:\n    0:\n    - D256\n    - x # here"),
            "boot.registers.0[1]",
        ),
        (
            of_boot("command-lines:\n  - quiet\n  - '' # here"),
            "boot.command-lines[1]",
        ),
        (of_boot("events:\n  - pcr: 12 # here"), "boot.events[0].pcr"),
        (
            of_boot("events:\n  - pcr: 4\n    type: EV_X # here"),
            "boot.events[0].type",
        ),
        (
            of_boot("events:\n  - pcr: 4\n    name: '' # here"),
            "boot.events[0].name",
        ),
        (
            of_boot("events:\n  - pcr: 4\n    digests: [] # here"),
            "boot.events[0].digests",
        ),
        (
            of_boot(
                "firmware-deviations:\n  - {pcr: 0, type: EV_S_CRTM_VERSION, name: x, digests: [D256]}\n  \
                 - {pcr: 1, type: EV_S_CRTM_VERSION, name: x, digests: [D256]} # here\n  \
                 registers:\n    0: [D256]",
            ),
            "boot.firmware-deviations[1]",
        ),
        (of_tdx("mrtd: [] # here"), "tdx.mrtd"),
        (of_tdx("mrtd:\n  - D256 # here"), "tdx.mrtd[0]"),
        (
            of_tdx("attributes:\n  - '0100000000000000' # here"),
            "tdx.attributes[0]",
        ),
        (of_tdx("xfam:\n  - zz # here"), "tdx.xfam[0]"),
        (of_tdx("platforms:\n  - zz # here"), "tdx.platforms[0]"),
        (of_tdx("advisories:\n  - '' # here"), "tdx.advisories[0]"),
        (of_tdx("max-collateral-age: 0 # here"), "tdx.max-collateral-age"),
        (of_tdx("rtmr-origin:\n  - D256 # here"), "tdx.rtmr-origin[0]"),
        (
            of_tdx("rtmr-extensions:\n  - D256 # here"),
            "tdx.rtmr-extensions[0]",
        ),
        (of_tdx("dangerous-root: zz # here"), "tdx.dangerous-root"),
        (of_tdx("boot: {} # here"), "tdx.boot"),
        (
            of_tdx("boot:\n    registers:\n      3: [] # here"),
            "tdx.boot.registers",
        ),
        (
            of_tdx("boot:\n    command-lines:\n    - '' # here"),
            "tdx.boot.command-lines[0]",
        ),
    ] {
        let text = node(from, &to);
        is_at_mark(
            &text,
            key,
            NodePolicy::from_yaml("n.yaml", text.as_bytes()).unwrap_err(),
        );
    }
}

#[test]
fn each_value_of_a_tenants_policy_that_is_refused_is_named_with_its_keys_and_line() {
    let base = "version: 1
pod: 6b0c2e1a-0f3d-4f7e-9a51-2f6f3c9d0a11
name: shop/web
templates: [ima-ng]
banks: [sha256]
references: [web.json]
";
    let more = |to: &str| ("banks:", format!("{to}\nbanks:"));
    let is = |from: &'static str, to: &str| (from, to.to_owned());
    for ((from, to), key) in [
        (is("version: 1", "version: 2 # here"), "version"),
        (is("6b0c2e1a-0f3d-4f7e-9a51-2f6f3c9d0a11", "x # here"), "pod"),
        (is("shop/web", "'' # here"), "name"),
        (is("[ima-ng]", "[] # here"), "templates"),
        (is("[ima-ng]", "\n- ima-ng\n- '' # here"), "templates[1]"),
        (is("[sha256]", "[] # here"), "banks"),
        (is("[web.json]", "[] # here"), "references"),
        (is("[web.json]", "\n- web.json\n- '' # here"), "references[1]"),
        (more("runtimes: [] # here"), "runtimes"),
        (more("lost: -1 # here"), "lost"),
        (
            more("permit-violations:\n- /a\n- b # here"),
            "permit-violations[1]",
        ),
        (
            more("permit-file-systems:\n- nfs\n- ext4 # here"),
            "permit-file-systems[1]",
        ),
    ] {
        let text = replaced(base, from, &to);
        let read = Policy::load_tenant("t.yaml", text.as_bytes(), |_| Err("not asked for".into()));
        is_at_mark(&text, key, read.unwrap_err());
    }
}

#[test]
fn each_value_of_workloads_that_is_refused_is_named_with_its_keys_and_line() {
    let base = "version: 2
workloads:
  - name: shop/web
    match:
      namespace: shop
    containers:
      web:
        references: [web.json]
";
    for (from, to, key) in [
        ("version: 2", "version: 1 # here", "version"),
        ("workloads:\n", "settle: 2h # here\nworkloads:\n", "settle"),
        ("shop/web", "'' # here", "workloads[0].name"),
        (
            "namespace: shop",
            "namespace: Shop # here",
            "workloads[0].match.namespace",
        ),
        ("namespace: shop", "uid: x # here", "workloads[0].match.uid"),
        (
            "[web.json]",
            "[] # here",
            "workloads[0].containers.web.references",
        ),
        (
            "[web.json]",
            "\n        - '' # here",
            "workloads[0].containers.web.references[0]",
        ),
        (
            "[web.json]",
            "[a]\n        excludes: ['('] # here",
            "workloads[0].containers.web.excludes",
        ),
    ] {
        let text = replaced(base, from, to);
        is_at_mark(
            &text,
            key,
            WorkloadsFile::from_yaml("w.yaml", text.as_bytes()).unwrap_err(),
        );
    }
}

/// Line and words of an error.
fn said(error: Error) -> (usize, String) {
    match error {
        Error::Syntax { line, why, .. } => (line, why),
        other => panic!("{other}"),
    }
}

#[test]
fn what_is_no_text_or_more_than_one_document_is_refused_with_its_line() {
    let whole = node("version", "version");
    let lines = whole.lines().count();
    let refused = |bytes: &[u8]| said(NodePolicy::from_yaml("n.yaml", bytes).unwrap_err());
    for bad in [&b"kexec: \xff\n"[..], b"kexec: \"\x01\"\n"] {
        let (line, why) = refused(&[whole.as_bytes(), bad].concat());
        assert_eq!(line, lines + 1, "{why}");
        assert!(!why.contains("position"), "{why}");
    }
    let (line, why) = refused(format!("{whole}---\nversion: 1\n").as_bytes());
    assert_eq!(line, lines + 2, "{why}");
    assert!(why.contains("second document"), "{why}");
    // A mark of the byte order is no part of the first key.
    let marked = format!("\u{feff}{}", node("version", "version"));
    NodePolicy::from_yaml("n.yaml", marked.as_bytes()).unwrap();
    let marked = marked.trim_start_matches(['\u{feff}', '#', '\n']);
    NodePolicy::from_yaml("n.yaml", format!("\u{feff}{marked}").as_bytes()).unwrap();
}

#[test]
fn aliases_that_make_too_much_of_a_file_are_refused_at_the_list_that_has_them() {
    let aliases = vec!["*digest"; 600].join(", ");
    let events = "  - *event\n".repeat(600);
    let whole = node("version", "version");
    let text = format!(
        "{whole}boot:\n  registers: {{0: [&digest {D256}]}}\n  events:\n  - &event\n    pcr: 1\n    \
         type: EV_S_CRTM_VERSION\n    name: x\n    digests: [{aliases}] # here\n{events}"
    );
    let (line, why) = said(NodePolicy::from_yaml("n.yaml", text.as_bytes()).unwrap_err());
    assert_eq!(line, whole.lines().count() + 8, "{why}");
    let is_named = why.starts_with("boot.events[") && why.ends_with("].digests: repetition limit exceeded");
    assert!(is_named, "{why}");
}

#[test]
fn what_is_wrong_with_a_reference_file_as_a_whole_has_a_line() {
    let file = format!(
        "{{\n\"version\":1,\n\"source\":{{\"kind\":\"log\",\"name\":\"x\"}},\n\"learned\":true,\n\
         \"origins\":[\"a\"],\n\"files\":[\n{{\"path\":\"/a\",\"digests\":[\"{D256}\"],\"from\":0}},\n\
         {{\"path\":\"/b\",\"digests\":[\"{D256}\"],\"from\":0}}\n]}}"
    );
    Reference::from_json("r.json", file.as_bytes()).unwrap();
    for (from, to, line, words) in [
        ("\"version\":1", "\"version\":2", 2, "version 2"),
        (
            "\"learned\":true",
            "\"learned\":false",
            4,
            "\"learned\" must be true",
        ),
        ("\"from\":0}\n", "\"from\":1}\n", 8, "\"from\" is 1"),
        ("\"learned\":true,\n", "", 8, "missing field `learned`"),
    ] {
        assert!(file.contains(from), "{from}");
        let error = Reference::from_json("r.json", file.replacen(from, to, 1).as_bytes()).unwrap_err();
        let (found, why) = said(error);
        assert!(found == line && why.contains(words), "{line}: {found}: {why}");
    }
}
