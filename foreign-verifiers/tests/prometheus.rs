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
    // Each rule counts: with another expression its test fails.
    let rules = std::fs::read_to_string(deploy("prometheus/alerts.yml")).unwrap();
    let named = |line: &str| line.trim().strip_prefix("- alert: ").map(str::to_owned);
    let alerts: Vec<String> = rules.lines().filter_map(named).collect();
    assert!(alerts.len() > 20, "{alerts:?}");
    let dir = tempfile::tempdir().unwrap();
    let tests = dir.path().join("alerts.test.yml");
    std::fs::copy(deploy("prometheus/alerts.test.yml"), &tests).unwrap();
    for other in ["vector(1)", "vector(0) > 1"] {
        let changed = rules.lines().map(|line| match line.split_once("expr: ") {
            Some((before, _)) => format!("{before}expr: {other}\n"),
            None => format!("{line}\n"),
        });
        std::fs::write(dir.path().join("alerts.yml"), changed.collect::<String>()).unwrap();
        let output = promtool(&["test", "rules"], &tests);
        assert!(!output.status.success());
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        for alert in &alerts {
            let failed = format!("alertname: {alert}, ");
            assert!(
                said.contains(&failed),
                "{alert} does as well with {other}: {said}"
            );
        }
    }
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
