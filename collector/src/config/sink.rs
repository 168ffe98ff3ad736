//! `[[sink]]`: where evidence goes beside the verifier, in which form, and of which nodes and pods.
//!
//! Not here: what of it cannot work (see [`super::validate`]), the sinks themselves (see
//! [`crate::deliver::sink`]).

use super::Verifier;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// `[[sink]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sink {
    /// Its name, and that of its directory in `state_dir/sinks`.
    pub name: String,
    /// What it is.
    pub kind: SinkKind,
    /// URL, directory, socket or `HOST:PORT`.
    pub to: String,
    /// The only CA that is trusted, PEM; for `verifier`, `tls` and `keylime-push`.
    #[serde(default = "Sink::ca")]
    pub ca: PathBuf,
    /// URL of the registrar of a `keylime-push`: `https://…`, or `http://…` as Keylime's own agents do.
    #[serde(default)]
    pub registrar: String,
    /// What a `keylime-push` calls the node; empty: its name.
    #[serde(default)]
    pub agent: String,
    /// The node's own certificate and its key, PEM, where a `verifier` or `tls` wants them. Empty: none.
    #[serde(default)]
    pub client_certificate: PathBuf,
    /// See `client_certificate`.
    #[serde(default)]
    pub client_key: PathBuf,
    /// In which form.
    #[serde(default)]
    pub format: SinkFormat,
    /// Only on nodes that call themselves one of these, a trailing `*` standing for any rest; empty: on all.
    #[serde(default)]
    pub nodes: Vec<String>,
    /// Only these pods, each as a tenant's bundle; with `namespaces` and `labels` empty, too: the whole node.
    #[serde(default)]
    pub pods: Vec<String>,
    /// And those in these namespaces, as the runtime states them.
    #[serde(default)]
    pub namespaces: Vec<String>,
    /// And those with all these labels, as the runtime states them; where namespaces are named, only of
    /// these.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Seconds between two rounds.
    #[serde(default = "Sink::interval")]
    pub interval: u64,
    /// Seconds until a delivery is given up and tried again later.
    #[serde(default = "Sink::timeout")]
    pub timeout: u64,
    /// MiB that wait on disk at most.
    #[serde(default = "Sink::spool")]
    pub spool: u64,
    /// MiB that a `file` sink keeps at most; the oldest go first.
    #[serde(default = "Sink::keep")]
    pub keep: u64,
    /// After so many rounds everything is sent once more instead of what is new; 1: always.
    #[serde(default = "Sink::whole_every")]
    pub whole_every: u64,
}

/// `sink.kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SinkKind {
    /// Another `cgpath serve`: it asks with its own nonces and says from where it follows.
    Verifier,
    /// A directory.
    File,
    /// A stream of lines into a local socket.
    Unix,
    /// The same over TLS.
    Tls,
    /// Keylime's push verifier, to which the node is an agent.
    #[serde(rename = "keylime-push")]
    KeylimePush,
}

impl SinkKind {
    /// As in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            SinkKind::Verifier => "verifier",
            SinkKind::File => "file",
            SinkKind::Unix => "unix",
            SinkKind::Tls => "tls",
            SinkKind::KeylimePush => "keylime-push",
        }
    }
}

/// `sink.format`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SinkFormat {
    /// Evidence, then parts of it.
    #[default]
    Evidence,
    /// An unsigned EAT (UCCS) with whole evidence.
    Eat,
    /// The same in a CMW record.
    Cmw,
}

impl Sink {
    fn ca() -> PathBuf {
        Verifier::default().ca
    }
    fn interval() -> u64 {
        60
    }
    fn timeout() -> u64 {
        30
    }
    fn spool() -> u64 {
        64
    }
    fn keep() -> u64 {
        1024
    }
    fn whole_every() -> u64 {
        64
    }

    /// Whether it is sent pods' bundles and not the whole node.
    pub fn is_of_pods(&self) -> bool {
        !self.pods.is_empty() || self.is_by_name()
    }

    /// Whether pods are selected by what the runtime states of them.
    pub fn is_by_name(&self) -> bool {
        !self.namespaces.is_empty() || !self.labels.is_empty()
    }

    /// Whether a pod is selected by what the runtime stated of it.
    pub fn selects(&self, pod: &crate::runtime::Pod) -> bool {
        let has = |(key, value): (&String, &String)| pod.labels.get(key) == Some(value);
        self.is_by_name()
            && (self.namespaces.is_empty() || self.namespaces.contains(&pod.namespace))
            && self.labels.iter().all(has)
    }

    /// Whether it is there on the node of this name.
    pub fn is_on(&self, node: &str) -> bool {
        let fits = |pattern: &String| match pattern.strip_suffix('*') {
            Some(start) => node.starts_with(start),
            None => node == pattern,
        };
        self.nodes.is_empty() || self.nodes.iter().any(fits)
    }

    /// What a `keylime-push` calls a node with this name.
    pub fn agent_id<'a>(&'a self, node: &'a str) -> &'a str {
        if self.agent.is_empty() { node } else { &self.agent }
    }
}
