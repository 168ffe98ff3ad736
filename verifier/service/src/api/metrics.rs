//! What Prometheus scrapes: one sample for each node and pod that the reader may see.
//!
//! Made anew for each scrape from what is kept, so that a restart loses nothing and a removed node is gone.

use crate::api::answers::{NodeSummary, ScopedSummary};
use crate::api::readers::namespace;
use crate::webhook::Waiting;
use cgpath_appraisal::{PodVerdict, State, Verdict};
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::{family::Family, gauge::Gauge};
use prometheus_client::registry::Registry;
use std::fmt;

/// Of the text format that `Metrics::text` gives.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Node {
    node: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Pod {
    node: String,
    uid: String,
    namespace: String,
    pod: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Rule {
    node: String,
    rule: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    version: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Hook {
    webhook: String,
}

/// The samples of one scrape.
#[derive(Default)]
pub struct Metrics {
    node_trusted: Family<Node, Gauge>,
    node_age: Family<Node, Gauge>,
    node_stale: Family<Node, Gauge>,
    node_stopped: Family<Node, Gauge>,
    node_entries: Family<Node, Gauge>,
    node_records: Family<Node, Gauge>,
    node_lost: Family<Node, Gauge>,
    node_unattributed: Family<Node, Gauge>,
    node_refused: Family<Node, Gauge>,
    node_policy: Family<Node, Gauge>,
    failures: Family<Rule, Gauge>,
    certificate: Option<i64>,
    pod_trusted: Family<Pod, Gauge>,
    pod_executions: Family<Pod, Gauge>,
    webhook_waiting: Family<Hook, Gauge>,
    webhook_dropped: Family<Hook, Gauge>,
}

fn count(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

impl Metrics {
    /// A node, for readers who see everything.
    pub fn node(&mut self, node: &NodeSummary, verdict: Option<&Verdict>) {
        let label = Node {
            node: node.name.clone(),
        };
        self.node_stale.get_or_create(&label).set(i64::from(node.stale));
        self.node_stopped
            .get_or_create(&label)
            .set(i64::from(node.stopped));
        self.node_refused
            .get_or_create(&label)
            .set(node.refused.as_ref().map_or(0, |refused| count(refused.count)));
        self.node_policy
            .get_or_create(&label)
            .set(i64::from(node.policy_usable));
        if let Some(age) = node.age {
            self.node_age.get_or_create(&label).set(count(age));
        }
        let Some(verdict) = verdict else { return };
        let appraised = &verdict.node;
        for (family, value) in [
            (&self.node_trusted, i64::from(appraised.state == State::Trusted)),
            (&self.node_entries, count(appraised.entries)),
            (&self.node_records, count(appraised.records)),
            (&self.node_lost, count(appraised.lost)),
            (&self.node_unattributed, count(appraised.unattributed)),
        ] {
            family.get_or_create(&label).set(value);
        }
        for finding in verdict.failures() {
            let label = Rule {
                node: node.name.clone(),
                rule: finding.rule.to_string(),
            };
            self.failures.get_or_create(&label).inc();
        }
        self.pods(&node.name, &verdict.pods);
    }

    /// Until when the server's certificate is good, in unix seconds, for readers who see everything.
    pub fn certificate(&mut self, not_after: Option<i64>) {
        self.certificate = not_after;
    }

    /// The same for a reader with a scope.
    pub fn scoped(&mut self, node: &ScopedSummary) {
        let label = Node {
            node: node.last.node.clone(),
        };
        for (family, value) in [
            (&self.node_trusted, i64::from(node.last.state == State::Trusted)),
            (&self.node_age, count(node.age)),
            (&self.node_stale, i64::from(node.stale)),
            (&self.node_stopped, i64::from(node.stopped)),
        ] {
            family.get_or_create(&label).set(value);
        }
        self.pods(&node.last.node, &node.last.pods);
    }

    /// A webhook, for readers who see everything.
    pub fn webhook(&mut self, waiting: &Waiting) {
        let label = Hook {
            webhook: waiting.webhook.clone(),
        };
        self.webhook_waiting
            .get_or_create(&label)
            .set(count(waiting.events));
        self.webhook_dropped
            .get_or_create(&label)
            .set(count(waiting.dropped));
    }

    fn pods(&mut self, node: &str, pods: &[PodVerdict]) {
        for pod in pods {
            let name = pod.name.clone().unwrap_or_default();
            let label = Pod {
                node: node.to_owned(),
                uid: pod.uid.to_string(),
                namespace: namespace(&name).unwrap_or_default().to_owned(),
                pod: name,
            };
            let trusted = i64::from(pod.state == State::Trusted);
            self.pod_trusted.get_or_create(&label).set(trusted);
            self.pod_executions
                .get_or_create(&label)
                .set(count(pod.executions));
        }
    }

    /// In the OpenMetrics text format.
    ///
    /// # Errors
    /// Those of the encoder.
    pub fn text(self) -> Result<String, fmt::Error> {
        let mut registry = Registry::with_prefix("cgpath");
        registry.register(
            "node_trusted",
            "1 if the node itself is trusted",
            self.node_trusted,
        );
        registry.register(
            "node_verdict_age_seconds",
            "Age of the last verdict",
            self.node_age,
        );
        registry.register(
            "node_stale",
            "1 if the last verdict is too old or there is none",
            self.node_stale,
        );
        registry.register(
            "node_stopped",
            "1 if an operator stopped the node",
            self.node_stopped,
        );
        registry.register(
            "node_entries",
            "Entries of the measurement list",
            self.node_entries,
        );
        registry.register("node_records", "Records", self.node_records);
        registry.register("node_lost_records", "Records lost since the load", self.node_lost);
        registry.register(
            "node_unattributed",
            "Entries and records with no known cgroup",
            self.node_unattributed,
        );
        registry.register(
            "node_refused_submissions",
            "Submissions in the node's name that were refused since the service started",
            self.node_refused,
        );
        registry.register(
            "node_policy_usable",
            "0 if what the node sends is refused since its policy cannot be used",
            self.node_policy,
        );
        registry.register(
            "node_failures",
            "Findings of the last verdict that fail, by rule, those of its pods with them",
            self.failures,
        );
        if let Some(not_after) = self.certificate {
            // One that was never set would be 0, a certificate that ended long ago.
            let certificate: Gauge = Gauge::default();
            certificate.set(not_after);
            registry.register(
                "certificate_not_after_seconds",
                "Until when the server's certificate is good, in unix seconds",
                certificate,
            );
        }
        let build = Family::<Build, Gauge>::default();
        build
            .get_or_create(&Build {
                version: env!("CARGO_PKG_VERSION"),
            })
            .set(1);
        registry.register("build_info", "1, with the version of cgpath", build);
        registry.register("pod_trusted", "1 if the pod is trusted", self.pod_trusted);
        registry.register(
            "pod_executions",
            "Executions and mappings of the pod",
            self.pod_executions,
        );
        registry.register(
            "webhook_waiting_events",
            "Events that the receiver has not taken yet",
            self.webhook_waiting,
        );
        registry.register(
            "webhook_dropped_events",
            "Events that were dropped since too many waited",
            self.webhook_dropped,
        );
        let mut text = String::new();
        text::encode(&mut text, &registry)?;
        Ok(text)
    }
}
