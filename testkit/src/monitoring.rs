//! What the alert rules and the dashboard in `deploy/` name, compared with what a daemon serves.
//!
//! Promises: each name of a metric and of a label in an expression, an annotation or a legend is looked at.
//! Not here: whether an expression is right (`promtool`, see `foreign-verifiers/tests/prometheus.rs`).

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Labels that Prometheus gives to each sample of what it scrapes.
const OF_THE_TARGET: [&str; 2] = ["instance", "job"];

/// Words before a list of labels in parentheses.
const BEFORE_LABELS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];

/// An expression, and what else stands beside it.
#[derive(Debug)]
struct Named {
    place: String,
    expression: String,
    /// Labels in annotations or the legend.
    shown: BTreeSet<String>,
}

fn deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(file)
}

fn read(file: &str) -> String {
    std::fs::read_to_string(deploy(file)).unwrap_or_else(|error| panic!("deploy/{file}: {error}"))
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// The alert rules, in the form of Prometheus' files.
fn rules() -> Vec<Value> {
    let file: Value = serde_norway::from_str(&read("prometheus/alerts.yml")).unwrap();
    list(&file["groups"])
        .flat_map(|group| list(&group["rules"]).cloned().collect::<Vec<_>>())
        .collect()
}

/// Words of a query or a template: of letters, digits, `_` and `$`.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '$')))
        .filter(|word| !word.is_empty())
}

/// The first word behind each `mark`.
fn behind<'a>(text: &'a str, mark: &'a str) -> impl Iterator<Item = String> + use<'a> {
    text.split(mark)
        .skip(1)
        .filter_map(|rest| words(rest).next().map(str::to_owned))
}

fn of_alerts() -> Vec<Named> {
    let rules = rules();
    assert!(!rules.is_empty());
    rules
        .iter()
        .map(|rule| {
            let annotations = rule["annotations"].as_object().expect("annotations");
            let said = annotations.values().filter_map(Value::as_str);
            Named {
                place: format!("alert {}", text(rule, "alert")),
                expression: text(rule, "expr").to_owned(),
                shown: said.flat_map(|text| behind(text, "$labels.")).collect(),
            }
        })
        .collect()
}

fn of_dashboard() -> Vec<Named> {
    let board: Value = serde_json::from_str(&read("grafana/ima-cgpath.json")).unwrap();
    let mut found = Vec::new();
    for panel in list(&board["panels"]) {
        for target in list(&panel["targets"]) {
            found.push(Named {
                place: format!("panel {}", text(panel, "title")),
                expression: text(target, "expr").to_owned(),
                shown: behind(text(target, "legendFormat"), "{{").collect(),
            });
        }
    }
    for variable in list(&board["templating"]["list"]) {
        let place = format!("variable {}", text(variable, "name"));
        let query = match &variable["query"] {
            Value::String(query) => query.clone(),
            query => text(query, "query").to_owned(),
        };
        // `label_values(metric, label)`; the kind of a data source is no query.
        if let Some((metric, label)) = query
            .strip_prefix("label_values(")
            .and_then(|query| query.strip_suffix(')'))
            .and_then(|query| query.split_once(", "))
        {
            found.push(Named {
                place,
                expression: metric.to_owned(),
                shown: BTreeSet::from([label.to_owned()]),
            });
        }
    }
    assert!(!found.is_empty());
    found
}

impl Named {
    /// The expression without what stands in quotation marks.
    fn bare(&self) -> String {
        self.expression
            .split('"')
            .step_by(2)
            .collect::<Vec<_>>()
            .join("\"\"")
    }

    /// What stands in parentheses or braces behind these words or names.
    fn labels(&self) -> BTreeSet<String> {
        let bare = self.bare();
        let mut labels = self.shown.clone();
        for part in bare.split('{').skip(1) {
            let within = part.split('}').next().unwrap_or_default();
            labels.extend(words(within).map(str::to_owned));
        }
        for part in bare.split('(').collect::<Vec<_>>().windows(2) {
            let word = words(part[0]).last().unwrap_or_default();
            if BEFORE_LABELS.contains(&word) && part[0].trim_end().ends_with(word) {
                let within = part[1].split(')').next().unwrap_or_default();
                labels.extend(words(within).map(str::to_owned));
            }
        }
        labels
    }

    /// Names of metrics that begin so.
    fn metrics(&self, prefix: &str) -> BTreeSet<String> {
        let bare = self.bare();
        words(&bare)
            .filter(|word| word.starts_with(prefix))
            .map(str::to_owned)
            .collect()
    }
}

/// The samples of a text of OpenMetrics: names, and the labels of each.
fn samples(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let end = line.find(['{', ' ']).unwrap_or(line.len());
        let (name, rest) = line.split_at(end);
        let labels = found.entry(name.to_owned()).or_default();
        if let Some(rest) = rest.strip_prefix('{') {
            // A value may hold anything but a quotation mark, before which a backslash stands.
            let rest = rest.replace("\\\\", "").replace("\\\"", "");
            let names = rest.split('"').step_by(2);
            labels.extend(names.filter_map(|part| {
                let name = part.trim_start_matches(',').strip_suffix('=')?;
                Some(name.to_owned())
            }));
        }
    }
    found
}

/// What alerts and dashboard name of the metrics that begin with `prefix`, and of labels beside them, that
/// `served` does not have: a text of OpenMetrics in which each family has a sample.
///
/// # Panics
/// If they name none at all.
pub fn not_served(prefix: &str, served: &str) -> Vec<String> {
    let samples = samples(served);
    let (mut missing, mut count) = (Vec::new(), 0);
    for named in of_alerts().into_iter().chain(of_dashboard()) {
        let metrics = named.metrics(prefix);
        if metrics.is_empty() {
            continue;
        }
        count += metrics.len();
        let mut labels: BTreeSet<&str> = OF_THE_TARGET.into();
        for metric in &metrics {
            match samples.get(metric) {
                Some(has) => labels.extend(has.iter().map(String::as_str)),
                None => missing.push(format!("{}: {metric}", named.place)),
            }
        }
        let wanted = named.labels();
        let unknown = wanted.iter().filter(|label| !labels.contains(label.as_str()));
        missing.extend(unknown.map(|label| format!("{}: label {label}", named.place)));
    }
    assert!(count > 0, "no metric named {prefix}… is used");
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_expression_names_is_found() {
        let named = Named {
            place: String::new(),
            expression:
                "sum by (a, b) (rate(x_total{c=\"by (d)\", e=~\"$f\"}[5m])) / on (g) x_size > (x_low)"
                    .to_owned(),
            shown: BTreeSet::from(["h".to_owned()]),
        };
        let set = |names: &[&str]| {
            names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<BTreeSet<_>>()
        };
        assert_eq!(named.labels(), set(&["a", "b", "c", "e", "g", "h"]));
        assert_eq!(named.metrics("x_"), set(&["x_low", "x_size", "x_total"]));
        let served = samples("# HELP x_total X\nx_total{c=\"a,b=\\\"\",e=\"\"} 1 2\nx_size 3\n");
        assert_eq!(served["x_total"], set(&["c", "e"]));
        assert_eq!((served["x_size"].len(), served.len()), (0, 2));
    }

    #[test]
    fn each_expression_is_about_one_daemon() {
        for named in of_alerts().into_iter().chain(of_dashboard()) {
            let daemons = ["cgpath_", "cgpathd_"].map(|prefix| named.metrics(prefix).len());
            let of_the_service = named.expression.contains("up{job=\"cgpath\"}");
            assert!(
                daemons.iter().filter(|count| **count > 0).count() == 1 || of_the_service,
                "{named:?}"
            );
        }
    }

    /// That these say what happens, `promtool test rules` finds out.
    #[test]
    fn each_alert_has_a_test_in_which_it_fires_and_one_in_which_it_clears() {
        let tests: Value = serde_norway::from_str(&read("prometheus/alerts.test.yml")).unwrap();
        let tests: Vec<&Value> = list(&tests["tests"])
            .flat_map(|test| list(&test["alert_rule_test"]))
            .collect();
        for rule in rules() {
            let name = text(&rule, "alert");
            let of = |fires: bool| {
                tests.iter().any(|test| {
                    text(test, "alertname") == name && (list(&test["exp_alerts"]).count() > 0) == fires
                })
            };
            assert!(of(true) && of(false), "{name}");
            let severity = text(&rule["labels"], "severity");
            assert!(["critical", "warning"].contains(&severity), "{name}: {severity}");
        }
    }
}
