//! Tests of the configuration as a whole.

use super::*;
use crate::tpm::KeyKind;
use std::path::Path;

fn parts(text: &str, env: &[(&str, &str)], sets: &[&str]) -> Result<Config, ConfigError> {
    let env: Vec<(String, String)> = env.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    let sets: Vec<String> = sets.iter().map(|s| s.to_string()).collect();
    Config::from_parts(Path::new("test.toml"), text, env, &sets)
}

#[test]
fn the_shipped_file_states_exactly_the_defaults() {
    assert_eq!(parts(EXAMPLE, &[], &[]).unwrap(), Config::default());
    // And every key stands in it: what is not there cannot be found by reading it.
    let all = toml::Table::try_from(Config::default()).unwrap();
    let shipped: toml::Table = EXAMPLE.parse().unwrap();
    assert_eq!(all, shipped);
}

#[test]
fn an_unknown_key_is_an_error_that_names_its_line() {
    let e = parts("node = \"a\"\n[tpm]\ntcit = \"x\"\n", &[], &[])
        .unwrap_err()
        .to_string();
    assert!(e.contains("line 3") && e.contains("tcit"), "{e}");
}

#[test]
fn the_environment_overrides_the_file_and_the_command_line_overrides_both() {
    let c = parts(
        "[verifier]\ninterval = 5\n",
        &[
            ("CGPATHD_VERIFIER__INTERVAL", "6"),
            ("CGPATHD_NODE", "n1"),
            ("HOME", "/"),
        ],
        &["verifier.interval=7", "tpm.key=rsa-2048", "runtimes.names=a,b"],
    )
    .unwrap();
    assert_eq!(
        (c.verifier.interval, c.node.as_str(), c.tpm.key),
        (7, "n1", KeyKind::Rsa2048)
    );
    assert_eq!(c.runtimes.names, ["a", "b"]);
}

#[test]
fn an_override_of_no_key_or_of_a_section_or_with_a_wrong_value_is_an_error() {
    for (env, set) in [
        (Some(("CGPATHD_NO_SUCH", "1")), None),
        (Some(("CGPATHD_VERIFIER__INTERVAL", "often")), None),
        (None, Some("verifier=1")),
        (None, Some("tpm.key=dsa")),
        (None, Some("seal.records")),
        (None, Some("seal.records.x=1")),
    ] {
        let env: Vec<(&str, &str)> = env.into_iter().collect();
        let set: Vec<&str> = set.into_iter().collect();
        assert!(
            matches!(parts("", &env, &set), Err(ConfigError::Override { .. })),
            "{env:?} {set:?}"
        );
    }
}

#[test]
fn sinks_have_defaults_and_what_can_not_work_is_refused_by_name() {
    let sink = |lines: &str| parts(&format!("[[sink]]\nname = \"s\"\n{lines}"), &[], &[]);
    let good = sink("kind = \"file\"\nto = \"/var/spool/evidence\"\n").unwrap();
    assert_eq!(
        (
            good.sink[0].interval,
            good.sink[0].spool,
            good.sink[0].whole_every
        ),
        (60, 64, 64)
    );
    let text = toml::to_string(&good).unwrap();
    assert_eq!(
        parts(&text, &[], &[]).unwrap(),
        good,
        "what is printed reads back"
    );
    for lines in [
        "kind = \"verifier\"\nto = \"http://plain\"",
        "kind = \"verifier\"\nto = \"https://v\"\nformat = \"eat\"",
        "kind = \"file\"\nto = \"relative\"",
        "kind = \"tls\"\nto = \"host\"",
        "kind = \"tls\"\nto = \"host:99999\"",
        "kind = \"unix\"\nto = \"/s\"\nspool = 0",
        "kind = \"unix\"\nto = \"/s\"\nregistrar = \"http://r\"",
        "kind = \"keylime-push\"\nto = \"https://v\"",
        "kind = \"keylime-push\"\nto = \"http://v\"\nregistrar = \"http://r\"",
        "kind = \"keylime-push\"\nto = \"https://v\"\nregistrar = \"http://r\"\nagent = \"a/b\"",
        "kind = \"keylime-push\"\nto = \"https://v\"\nregistrar = \"http://r\"\nclient_key = \"/k\"",
        "kind = \"unix\"\nto = \"/s\"\npods = [\"p\"]",
        "kind = \"file\"\nto = \"/d\"\nname = \"../x\"",
        "kind = \"file\"\nto = \"/d\"\n[[sink]]\nname = \"s\"\nkind = \"file\"\nto = \"/e\"",
        "kind = \"file\"\nto = \"/d\"\nunknown = 1",
        "to = \"/d\"",
    ] {
        assert!(sink(lines).is_err(), "{lines}");
    }
}

#[test]
fn entries_have_a_limit_only_where_something_may_be_denied() {
    let text = |mode: &str| format!("[budget]\nentries = 70000\n[enforce]\nmode = \"{mode}\"\n");
    let refused = parts(&text("off"), &[], &[]).unwrap_err().to_string();
    assert!(
        refused.contains("budget.entries") && refused.contains("enforce.mode"),
        "{refused}"
    );
    let orders = parts(&text("untrusted-pods"), &[], &[]).unwrap().orders();
    assert_eq!((orders.untrusted, orders.budget.entries), (true, 70000));
    assert_eq!(Config::default().orders().budget.entries, 0);
}

#[test]
fn anchors_and_quotes_belong_together() {
    let both = &["anchor.to=rtmr", "quote.by=tdx_guest"];
    let text = "[anchor]\nto = [\"rtmr\"]\n[quote]\nby = [\"tdx_guest\"]\n";
    let td = parts(text, &[], &[]).unwrap();
    assert_eq!(parts("", &[], both).unwrap(), td);
    assert_eq!(
        (td.has_tpm(), td.provider(), td.anchor_rtmr()),
        (false, Some("tdx_guest"), Some(3))
    );
    let all = parts(
        "",
        &[],
        &["anchor.to=pcr10,rtmr", "quote.by=tpm,tdx_guest", "anchor.rtmr=2"],
    )
    .unwrap();
    assert_eq!(
        (all.has_tpm(), all.provider(), all.anchor_rtmr()),
        (true, Some("tdx_guest"), Some(2))
    );
    let other = parts("", &[], &["quote.by=tpm,sev_guest"]).unwrap();
    assert_eq!((other.provider(), other.anchor_rtmr()), (Some("sev_guest"), None));
    let keylime = "[anchor]\nto = [\"rtmr\"]\n[quote]\nby = [\"tdx_guest\"]\n[[sink]]\nname = \"k\"\n\
                   kind = \"keylime-push\"\nto = \"https://v\"\nregistrar = \"http://r\"\n";
    assert!(matches!(
        parts(keylime, &[], &[]),
        Err(ConfigError::Value { key: "sink", .. })
    ));
}

#[test]
fn values_that_can_not_work_are_refused_by_name() {
    for set in [
        "keep_boots=0",
        "state_dir=relative",
        "bpf.ring_bytes=100000",
        "budget.burst=0",
        "budget.per_second=0",
        "budget.per_second=1000001",
        "budget.entries=1",
        "metrics.listen=127.0.0.1:80",
        "metrics.listen=0.0.0.0:9464",
        "metrics.listen=unix:/run/ima-cgpath/cgpathd.sock",
        "metrics.listen=unix:/run//ima-cgpath/./cgpathd.sock",
        "bpf.max_hash_mib=0",
        "verifier.url=http://plain.example",
        "verifier.interval=0",
        "verifier.timeout=604801",
        "verifier.max_backoff=9223372036854775807",
        "seal.keep_files=1",
        "seal.drain_timeout=0",
        "seal.drain_timeout=21",
        "cgroup.hierarchy=v1:",
        "anchor.to=",
        "anchor.to=pcr10,pcr10",
        "anchor.to=rtmr",
        "anchor.rtmr=1",
        "anchor.registers=measurements",
        "anchor.other_log=eventlog",
        "quote.by=",
        "quote.by=tdx_guest",
        "quote.by=tpm,tdx_guest",
        "quote.by=tpm,a,b",
        "quote.by=tpm,tpm",
        "quote.by=../x",
        "quote.timeout=0",
        "quote.node_key=key",
        "enforce.lapse=0",
        "fail_closed.lapse=100000",
        "enforce.exempt=kubepods",
        "enforce.exempt=/",
        "fail_closed.exempt=/kubepods/../system.slice",
    ] {
        assert!(
            matches!(parts("", &[], &[set]), Err(ConfigError::Value { .. })),
            "{set}"
        );
    }
}
