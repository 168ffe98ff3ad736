//! The alert rules and the dashboard's queries, read by Prometheus' own tool.
//!
//! Not here: whether the daemons serve what these name (`monitoring::not_served` of `cgpath-testkit`).

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(file)
}

fn promtool(arguments: &[&str], file: &Path) -> Output {
    Command::new("promtool")
        .args(arguments)
        .arg(file)
        .output()
        .expect("no promtool: `cargo xtask test` installs it (Debian package prometheus)")
}

fn good(output: &Output) {
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn each_alert_fires_and_clears_as_its_test_says() {
    good(&promtool(&["check", "rules"], &deploy("prometheus/alerts.yml")));
    good(&promtool(
        &["test", "rules"],
        &deploy("prometheus/alerts.test.yml"),
    ));
    let rules = std::fs::read_to_string(deploy("prometheus/alerts.yml")).unwrap();
    let alerts = named(&rules, |_| true);
    assert!(alerts.len() > 20, "{alerts:?}");
    // Each rule counts: with another expression its test fails.
    for other in ["vector(1)", "vector(0) > 1"] {
        fail(&changed(&rules, "expr: ", |_| Some(other.to_owned())), &alerts);
    }
    // So do the time that it must last and, one by one, the thresholds.
    let lasting = named(&rules, |rule| rule.contains(" for: "));
    assert!(lasting.len() > 5, "{lasting:?}");
    for other in ["0s", "30d"] {
        fail(&changed(&rules, "for: ", |_| Some(other.to_owned())), &lasting);
    }
    for (threshold, lower) in [
        ("< 14 * 86400", "< 15 * 86400"),
        ("> 0.5", "> 0.49"),
        ("> 512 * ", "> 511 * "),
        ("> 30", "> 28"),
    ] {
        let of = named(&rules, |rule| rule.contains(threshold));
        assert!(!of.is_empty(), "{threshold}");
        let lowered = |expression: &str| {
            expression
                .contains(threshold)
                .then(|| expression.replace(threshold, lower))
        };
        fail(&changed(&rules, "expr: ", lowered), &of);
    }
}

/// The names of rules that are such.
fn named(rules: &str, is_such: impl Fn(&str) -> bool) -> Vec<String> {
    let each = rules.split("- alert: ").skip(1).filter(|rule| is_such(rule));
    each.filter_map(|rule| rule.lines().next().map(str::to_owned))
        .collect()
}

/// The rules with another value of a key, where there is one.
fn changed(rules: &str, key: &str, other: impl Fn(&str) -> Option<String>) -> String {
    let line = |line: &str| match line.split_once(key) {
        Some((before, value)) if before.trim().is_empty() => {
            let value = other(value).unwrap_or_else(|| value.to_owned());
            format!("{before}{key}{value}\n")
        }
        _ => format!("{line}\n"),
    };
    rules.lines().map(line).collect()
}

/// The tests of these alerts fail with these rules.
fn fail(rules: &str, alerts: &[String]) {
    let dir = tempfile::tempdir().unwrap();
    let tests = dir.path().join("alerts.test.yml");
    std::fs::copy(deploy("prometheus/alerts.test.yml"), &tests).unwrap();
    std::fs::write(dir.path().join("alerts.yml"), rules).unwrap();
    let output = promtool(&["test", "rules"], &tests);
    assert!(!output.status.success());
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    for alert in alerts {
        let failed = format!("alertname: {alert}, ");
        assert!(
            said.contains(&failed),
            "{alert} does as well with {rules}: {said}"
        );
    }
}

#[test]
fn the_examples_on_operation_are_configurations_of_a_server_and_of_an_agent() {
    let page = std::fs::read_to_string(deploy("../docs/operate.md")).unwrap();
    let examples: Vec<&str> = page
        .split("```yaml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap_or_default())
        .collect();
    let [server, agent] = examples[..] else {
        panic!("{examples:?}")
    };
    let check = |text: &str, options: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("prometheus.yml");
        std::fs::write(&file, text).unwrap();
        let check = [&["check", "config", "--syntax-only"][..], options].concat();
        promtool(&check, &file)
    };
    good(&check(server, &[]));
    good(&check(agent, &["--agent"]));
    // An agent evaluates no rules.
    assert!(!check(server, &["--agent"]).status.success());
    // By default the address of the target is its `instance`, the same on each node.
    let nodes: Vec<&str> = [server, agent]
        .into_iter()
        .flat_map(str::lines)
        .filter(|line| line.contains("- { targets: "))
        .collect();
    assert_eq!(nodes.len(), 2, "{nodes:?}");
    assert!(
        nodes
            .iter()
            .all(|line| line.contains("labels: { instance: worker-")),
        "{nodes:?}"
    );
}

#[test]
fn each_query_of_the_dashboard_is_one() {
    let text = std::fs::read_to_string(deploy("grafana/ima-cgpath.json")).unwrap();
    let board: Value = serde_json::from_str(&text).unwrap();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let queries: Vec<String> = list(&board["panels"])
        .iter()
        .flat_map(|panel| list(&panel["targets"]))
        .map(|target| target["expr"].as_str().unwrap().to_owned())
        .collect();
    assert!(queries.len() > 20, "{queries:?}");
    let check = |queries: &[String]| {
        let rules: Vec<Value> = queries
            .iter()
            .enumerate()
            .map(|(n, query)| {
                // What Grafana puts in its place.
                let query = query.replace("$__rate_interval", "5m");
                json!({"record": format!("query{n}"), "expr": query})
            })
            .collect();
        let dir = tempfile::tempdir().unwrap();
        // JSON is YAML.
        let file = dir.path().join("queries.yml");
        let groups = json!({"groups": [{"name": "dashboard", "rules": rules}]});
        std::fs::write(&file, groups.to_string()).unwrap();
        promtool(&["check", "rules"], &file)
    };
    good(&check(&queries));
    assert!(!check(&["sum by (".to_owned()]).status.success());
}
