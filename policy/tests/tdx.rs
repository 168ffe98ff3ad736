//! `accept.anchors` and `tdx`: what is taken by default, and which keys are refused because nothing judges
//! them.

use crate::values;
use cgpath_policy::{Anchor, NodeKeyPolicy, Policy, SourceKind, TcbStatus};

const BANKS: &str = "  banks: [sha256]\n";

fn sha384(byte: &str) -> String {
    format!("sha384:{}", byte.repeat(48))
}

/// The least that a trust domain's `tdx` has.
fn least() -> String {
    format!(
        "  mrtd: ['{}']\n  attributes: ['0000001000000000']\n  xfam: ['e702060000000000']\n",
        sha384("11")
    )
}

/// All three registers.
fn boot() -> String {
    let value = sha384("22");
    format!("  boot: {{registers: {{0: ['{value}'], 1: ['{value}'], 2: ['{value}']}}}}\n")
}

/// A policy with these lines of `accept`, of its top and of its `tdx`.
fn yaml(accept: &str, top: &str, tdx: &str) -> String {
    let ima = format!("sha256:{}", "33".repeat(32));
    let tdx = if tdx.is_empty() {
        String::new()
    } else {
        format!("tdx:\n{tdx}")
    };
    format!(
        "version: 1\n\
         node: n\n\
         accept:\n  \
         tiers: [bpf]\n  \
         templates: [ima-ng]\n  \
         ima-policies: ['{ima}']\n  \
         collector: /usr/sbin/cgpathd\n\
         {accept}{top}host: {{references: [r.json]}}\n\
         pods: []\n\
         {tdx}"
    )
}

fn load(yaml: &str) -> Result<Policy, String> {
    let json = values(SourceKind::Rootfs, &[("/usr/sbin/cgpathd", "collector")]);
    Policy::load("n.yaml", yaml.as_bytes(), |_| Ok(json.clone())).map_err(|e| e.to_string())
}

/// A policy for RTMR 3 alone.
fn alone(tdx: &str) -> Result<Policy, String> {
    load(&yaml("  anchors: [rtmr-3]\n", "", &(least() + tdx)))
}

#[track_caller]
fn refused(read: Result<Policy, String>, words: &[&str]) {
    let error = read.expect_err("this policy was taken");
    for word in words {
        assert!(error.contains(word), "{word}: {error}");
    }
}

#[test]
fn by_default_pcr_10_is_the_anchor_and_the_strictest_of_a_domain_is_asked() {
    let policy = load(&yaml(BANKS, "", "")).unwrap();
    assert_eq!(policy.file.accept.anchors, [Anchor::Pcr10]);
    let policy = alone(&boot()).unwrap();
    let tdx = policy.file.tdx.as_ref().unwrap();
    assert_eq!(tdx.tcb_status, [TcbStatus::UpToDate]);
    assert_eq!((tdx.max_collateral_age, tdx.key), (30, NodeKeyPolicy::Enrolled));
    assert_eq!(
        tdx.rtmr_origin
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        [sha384("00")]
    );
    assert!(tdx.advisories.is_empty() && tdx.rtmr_writers.is_empty() && tdx.rtmr_extensions.is_empty());
    assert!(policy.dangerous_keys().is_empty() && policy.relaxations().is_empty());
}

#[test]
fn a_key_that_nothing_checks_is_refused() {
    let tdx = least() + &boot();
    // Of a TPM, where none is asked for.
    for (accept, top, key) in [
        (BANKS, "", "accept.banks"),
        ("", "boot: {command-lines: [quiet]}\n", "boot"),
        (
            "",
            "dangerous-boot-not-judged: true\n",
            "dangerous-boot-not-judged",
        ),
        ("", "padded-banks: report\n", "padded-banks"),
        ("", "kexec: allow\n", "kexec"),
    ] {
        let accept = format!("  anchors: [rtmr-2]\n{accept}");
        refused(load(&yaml(&accept, top, &tdx)), &[key, "does not name pcr-10"]);
    }
    // Of a trust domain, where none is asked for.
    refused(
        load(&yaml(BANKS, "", &tdx)),
        &["tdx", "names no register of a trust domain"],
    );
    // And what is asked for must be there.
    refused(load(&yaml("", "", "")), &["accept.banks", "pcr-10"]);
    refused(
        load(&yaml("  anchors: [rtmr-3]\n", "", "")),
        &["tdx", "not there"],
    );
    assert!(load(&yaml(&format!("  anchors: [pcr-10, rtmr-3]\n{BANKS}"), "", &tdx)).is_ok());
}

#[test]
fn anchors_are_named_once_and_one_register_is_enough() {
    let tdx = least() + &boot();
    for (anchors, words) in [
        ("[]", "empty"),
        ("[rtmr-3, rtmr-3]", "twice"),
        ("[rtmr-2, rtmr-3]", "one RTMR"),
        ("[rtmr-1]", "rtmr-1"),
    ] {
        refused(
            load(&yaml(&format!("  anchors: {anchors}\n"), "", &tdx)),
            &[words],
        );
    }
}

#[test]
fn the_boot_is_appraised_or_the_policy_says_that_it_is_not() {
    refused(alone(""), &["tdx.boot", "not judged"]);
    refused(
        alone(&(boot() + "  dangerous-boot-not-judged: true\n")),
        &["also says what the boot must be"],
    );
    refused(alone("  boot: {}\n"), &["names nothing"]);
    let policy = alone("  dangerous-boot-not-judged: true\n").unwrap();
    assert_eq!(policy.dangerous_keys(), ["tdx.dangerous-boot-not-judged"]);
    // RTMR 3 is none of the boot's, and a register has 48 bytes.
    let value = sha384("22");
    refused(
        alone(&format!("  boot: {{registers: {{3: ['{value}']}}}}\n")),
        &["RTMR 3"],
    );
    let short = format!("sha256:{}", "22".repeat(32));
    refused(
        alone(&format!("  boot: {{registers: {{0: ['{short}']}}}}\n")),
        &["sha384"],
    );
    refused(
        alone(&format!(
            "  boot: {{events: [{{pcr: 1, type: EV_ACTION, name: x, digests: ['{value}']}}]}}\n"
        )),
        &["pcr"],
    );
}

#[test]
fn a_key_per_boot_needs_pinned_registers_and_platforms() {
    let per_boot = "  key: per-boot\n";
    let platform = format!("  platforms: ['{}']\n", "ab".repeat(16));
    let lines = "  boot: {command-lines: [quiet]}\n";
    refused(
        alone(&format!("{per_boot}{platform}{lines}")),
        &["tdx.key", "tdx.boot.registers"],
    );
    refused(
        alone(&(boot() + per_boot)),
        &["tdx.key", "copy of the node's disk"],
    );
    let policy = alone(&(boot() + per_boot + &platform)).unwrap();
    assert_eq!(policy.relaxations(), ["tdx.key: per-boot"]);
    let any = "  dangerous-any-platform: true\n";
    let policy = alone(&(boot() + per_boot + any)).unwrap();
    assert_eq!(policy.dangerous_keys(), ["tdx.dangerous-any-platform"]);
    // Where nothing asks for it, it is refused.
    refused(
        alone(&(boot() + any)),
        &["tdx.dangerous-any-platform", "nothing asks for it"],
    );
    refused(
        alone(&(boot() + per_boot + &platform + any)),
        &["nothing asks for it"],
    );
}

#[test]
fn neither_debug_nor_a_revoked_platform_can_be_named() {
    let debug = least().replace("0000001000000000", "0100001000000000") + &boot();
    refused(load(&yaml("  anchors: [rtmr-3]\n", "", &debug)), &["debug"]);
    for status in ["Revoked", "uptodate", ""] {
        refused(
            alone(&(boot() + &format!("  tcb-status: ['{status}']\n"))),
            &["tcb-status"],
        );
    }
    for (from, to) in [
        ("0000001000000000", "00"),
        ("e702060000000000", "E702060000000000"),
        (&sha384("11"), "x"),
    ] {
        let tdx = least().replace(from, to) + &boot();
        assert!(load(&yaml("  anchors: [rtmr-3]\n", "", &tdx)).is_err(), "{to}");
    }
}

#[test]
fn what_weakens_a_rule_is_listed() {
    let lines = format!(
        "  tcb-status: [UpToDate, OutOfDate]\n  \
         advisories: [INTEL-SA-01036]\n  \
         max-collateral-age: 31\n  \
         rtmr-origin: ['{}']\n  \
         rtmr-writers: [attestation-agent]\n  \
         rtmr-extensions: ['{}']\n  \
         dangerous-root: '3082'\n",
        sha384("44"),
        sha384("55"),
    );
    let policy = alone(&(boot() + &lines)).unwrap();
    assert_eq!(policy.dangerous_keys(), ["tdx.dangerous-root"]);
    assert_eq!(
        policy.relaxations(),
        [
            "tdx.tcb-status: OutOfDate".to_owned(),
            "tdx.advisories: INTEL-SA-01036".to_owned(),
            "tdx.max-collateral-age: 31".to_owned(),
            format!("tdx.rtmr-origin: {}", sha384("44")),
            "tdx.rtmr-writers: attestation-agent".to_owned(),
            format!("tdx.rtmr-extensions: {}", sha384("55")),
        ]
    );
    refused(
        alone(&(boot() + "  max-collateral-age: 0\n")),
        &["max-collateral-age"],
    );
    refused(alone(&(boot() + "  dangerous-root: xy\n")), &["certificate"]);
}

/// A tenant's policy with these lines.
fn tenant(lines: &str) -> Result<Policy, String> {
    let yaml = format!(
        "version: 1\n\
         pod: 6b0c2e1a-0f3d-4f7e-9a51-2f6f3c9d0a11\n\
         name: shop/web\n\
         templates: [ima-ng]\n\
         references: [r.json]\n\
         {lines}"
    );
    let json = values(SourceKind::Rootfs, &[("/bin/app", "app")]);
    let read = Policy::load_tenant("t.yaml", yaml.as_bytes(), |_| Ok(json.clone()));
    read.map(|(_, policy)| policy).map_err(|e| e.to_string())
}

#[test]
fn a_tenants_policy_has_one_anchor_and_no_key_that_is_a_full_verifiers() {
    let domain = |more: &str| tenant(&format!("anchor: rtmr-3\ntdx:\n{}{more}", least()));
    let policy = domain("").unwrap();
    assert_eq!(policy.file.accept.anchors, [Anchor::Rtmr3]);
    assert!(policy.file.accept.banks.is_empty() && policy.file.tdx.is_some());
    let policy = tenant("banks: [sha256]\n").unwrap();
    assert_eq!(policy.file.accept.anchors, [Anchor::Pcr10]);
    refused(tenant(""), &["banks", "pcr-10"]);
    refused(tenant("anchor: rtmr-3\n"), &["tdx", "mrtd"]);
    let with_banks = format!("anchor: rtmr-3\nbanks: [sha256]\ntdx:\n{}", least());
    refused(tenant(&with_banks), &["banks", "nothing judges it"]);
    let with_pcr = format!("banks: [sha256]\ntdx:\n{}", least());
    refused(tenant(&with_pcr), &["tdx", "nothing judges it"]);
    refused(tenant("anchor: rtmr-1\nbanks: [sha256]\n"), &["rtmr-1"]);
    for (lines, key) in [
        (boot(), "tdx.boot"),
        (
            "  dangerous-boot-not-judged: true\n".to_owned(),
            "tdx.dangerous-boot-not-judged",
        ),
        ("  key: per-boot\n".to_owned(), "tdx.key"),
        (
            "  dangerous-any-platform: true\n".to_owned(),
            "tdx.dangerous-any-platform",
        ),
        (
            "  rtmr-writers: [attestation-agent]\n".to_owned(),
            "tdx.rtmr-writers",
        ),
    ] {
        refused(domain(&lines), &[key, "nothing judges it"]);
    }
}
