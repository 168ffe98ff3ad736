//! The daemon's configuration: one TOML file, then the environment, then the command line; the last one wins.
//!
//! Promises: a key that is not known, from whichever source, is an error that names it and where it stands.
//! Not here: whether what a key names exists (see [`crate::check`] and the parts that use it).

use crate::bpf::{Mode, Orders};
use crate::tpm::KeyKind;
use cgpath_evidence::Bank;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The commented file with every default, as it is shipped.
pub const EXAMPLE: &str = include_str!("../../deploy/cgpathd.toml");

/// Where the configuration is looked for when no path is given.
pub const DEFAULT_PATH: &str = "/etc/ima-cgpath/cgpathd.toml";

/// Prefix of the environment's overrides.
const ENV_PREFIX: &str = "CGPATHD_";

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("configuration {path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML, or a key or value in it is not known. The message names line and column.
    #[error("configuration {path}: {message}")]
    Parse {
        /// Which.
        path: PathBuf,
        /// What `toml` says, with the line.
        message: String,
    },
    /// A variable of the environment, or `--set`, names no key or gives it no fitting value.
    #[error("{origin}: {message}")]
    Override {
        /// The variable or the option as given.
        origin: String,
        /// Why.
        message: String,
    },
    /// A value that has the right type and cannot be used.
    #[error("configuration key {key}: {why}")]
    Value {
        /// The key with its section.
        key: &'static str,
        /// Why.
        why: String,
    },
}

/// All of it. See `deploy/cgpathd.toml` for what each key means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What the node calls itself; empty: the host name.
    pub node: String,
    /// Where records and checkpoints are kept, a directory for each boot below it.
    pub state_dir: PathBuf,
    /// How many boots' directories are kept, this one included; at least 1.
    pub keep_boots: usize,
    /// The checkpoint key and the socket; on tmpfs.
    pub run_dir: PathBuf,
    /// Filter of the log.
    pub log: String,
    /// Where evidence goes.
    pub verifier: Verifier,
    /// The TPM and its key.
    pub tpm: Tpm,
    /// The eBPF programs.
    pub bpf: Bpf,
    /// The cgroup hierarchy.
    pub cgroup: Cgroup,
    /// The kernel's list and policy.
    pub ima: Ima,
    /// When and how checkpoints are made.
    pub seal: Seal,
    /// What a pod may have recorded.
    pub budget: Budget,
    /// Who touches our own parts.
    pub guard: Guard,
    /// Pods that are not trusted.
    pub enforce: Enforce,
    /// Lost records.
    pub fail_closed: FailClosed,
    /// What container runtimes look like.
    pub runtimes: Runtimes,
    /// Where evidence goes beside the verifier.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sink: Vec<Sink>,
}

/// `[verifier]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Verifier {
    /// Base URL, `https://…`; empty: nothing is sent.
    pub url: String,
    /// The only CA that is trusted, PEM.
    pub ca: PathBuf,
    /// The node's own certificate, PEM, where the verifier wants one; its DNS name is the node's name. Empty: none.
    pub client_certificate: PathBuf,
    /// Its key, PEM.
    pub client_key: PathBuf,
    /// Seconds between two attestations.
    pub interval: u64,
    /// Seconds until a request is given up.
    pub timeout: u64,
    /// Longest pause between tries, seconds.
    pub max_backoff: u64,
}

/// Sinks at most: each asks the TPM for quotes of its own.
const MAX_SINKS: usize = 8;

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
    /// And those in these namespaces, as the runtime tells.
    #[serde(default)]
    pub namespaces: Vec<String>,
    /// And those with all these labels, as the runtime tells; where namespaces are named, only of these.
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

    /// Whether pods are selected by what the runtime tells of them.
    pub fn is_by_name(&self) -> bool {
        !self.namespaces.is_empty() || !self.labels.is_empty()
    }

    /// Whether a pod is selected by what the runtime told of it.
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

    /// What cannot work.
    fn validate(&self) -> Result<(), String> {
        let name = &self.name;
        let fits = (1..=64).contains(&name.len())
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        if !fits {
            return Err(format!(
                "{name:?} is not a sink's name (letters, digits, '-', '_'; at most 64)"
            ));
        }
        let why = match self.kind {
            SinkKind::Verifier if !self.to.starts_with("https://") => "`to` must begin with https://",
            SinkKind::KeylimePush if !self.to.starts_with("https://") => "`to` must begin with https://",
            SinkKind::KeylimePush
                if !["https://", "http://"]
                    .iter()
                    .any(|scheme| self.registrar.starts_with(scheme)) =>
            {
                "`registrar` must begin with https:// or http://"
            }
            // Keylime takes a certificate of its CA for an administrator's.
            SinkKind::KeylimePush
                if !self.client_certificate.as_os_str().is_empty()
                    || !self.client_key.as_os_str().is_empty() =>
            {
                "an agent of Keylime shows no certificate: leave `client_certificate` and `client_key` out"
            }
            SinkKind::KeylimePush if !is_agent_id(&self.agent) => {
                "`agent`: letters, digits, '-', '_', '.'; at most 80"
            }
            SinkKind::Verifier | SinkKind::KeylimePush
                if self.is_of_pods() || self.format != SinkFormat::Evidence =>
            {
                "a verifier takes evidence of the whole node"
            }
            _ if self.kind != SinkKind::KeylimePush
                && !(self.registrar.is_empty() && self.agent.is_empty()) =>
            {
                "`registrar` and `agent` are for keylime-push"
            }
            SinkKind::File | SinkKind::Unix if !Path::new(&self.to).is_absolute() => {
                "`to` must be an absolute path"
            }
            SinkKind::Tls
                if self
                    .to
                    .rsplit_once(':')
                    .is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err()) =>
            {
                "`to` must be HOST:PORT"
            }
            _ if self.is_of_pods() && self.format != SinkFormat::Evidence => {
                "pods are sent as bundles: leave `format` out"
            }
            _ if [
                self.interval,
                self.timeout,
                self.spool,
                self.keep,
                self.whole_every,
            ]
            .contains(&0) =>
            {
                "interval, timeout, spool, keep and whole_every must be at least 1"
            }
            _ if [self.spool, self.keep].iter().any(|mib| *mib > 1 << 24) => {
                "spool and keep: at most 16777216 MiB"
            }
            _ => match self
                .pods
                .iter()
                .find(|uid| cgpath_evidence::PodUid::parse(uid.as_bytes()).is_none())
            {
                Some(uid) => return Err(format!("sink {name}: {uid:?} is not a pod's UID")),
                None => return Ok(()),
            },
        };
        Err(format!("sink {name}: {why}"))
    }
}

/// Whether Keylime takes it for an agent's id. Source: keylime/common/validators.py, and the column's length.
fn is_agent_id(id: &str) -> bool {
    id.len() <= 80
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// `[tpm]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tpm {
    /// TCTI configuration string, as tpm2-tss has them.
    pub tcti: String,
    /// The kind of attestation key.
    pub key: KeyKind,
    /// The bank that is quoted.
    pub bank: Bank,
    /// Authorisation of the endorsement hierarchy: text, `hex:…` or `file:…`.
    pub endorsement_auth: String,
}

/// `[bpf]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bpf {
    /// Path of the object; empty: the one built in.
    pub object: PathBuf,
    /// Bytes of the ring buffer, a power of two.
    pub ring_bytes: u32,
    /// Directory of the pins, on bpffs.
    pub pin_dir: PathBuf,
    /// Files that are longer, in MiB, are not read for their hash.
    pub max_hash_mib: u32,
    /// Whether files are read for their hash where a server answers for them: FUSE, NFS, SMB, 9p, Ceph.
    pub hash_served: bool,
}

/// `[cgroup]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cgroup {
    /// `auto`, `v2` or `v1:CONTROLLER`.
    pub hierarchy: String,
}

/// `[ima]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ima {
    /// The binary list; empty: found in securityfs.
    pub list: PathBuf,
    /// The policy file whose digest is stated.
    pub policy: PathBuf,
}

/// `[seal]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Seal {
    /// Records that wait until a checkpoint is sealed unasked; 0: never unasked.
    pub records: u64,
    /// Seconds to wait for records on their way.
    pub drain_timeout: u64,
    /// Checkpoint files kept on their file system.
    pub keep_files: u64,
}

/// `[budget]`: what a pod may have recorded, in records whose path is no longer than 255 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Budget {
    /// At once; never more than half of the ring holds.
    pub burst: u32,
    /// How many come back each second.
    pub per_second: u32,
}

/// Both values of `[budget]`.
const BUDGET: std::ops::RangeInclusive<u32> = 1..=1_000_000;

/// `[guard]`: what is done about others who touch the collector's parts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Guard {
    /// Programs, maps, pins, the collector's process, the TPM's driver, `kernel.ftrace_enabled`.
    pub mode: Mode,
    /// Others who open the TPM.
    pub tpm: Mode,
}

/// `[enforce]`: executions in pods that the verifier does not trust.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Enforce {
    /// Whether they are denied.
    pub mode: EnforceMode,
    /// Whether executable mappings are, too.
    pub mappings: bool,
    /// Cgroups, with all below them, that are never denied anything.
    pub exempt: Vec<String>,
    /// Seconds after which nobody is denied any more if no collector is there.
    pub lapse: u64,
}

/// `enforce.mode`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EnforceMode {
    /// Nothing is denied.
    #[default]
    Off,
    /// Executions in pods that the last verdict calls untrusted.
    UntrustedPods,
}

/// `[fail_closed]`: executions in pods after a record was lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FailClosed {
    /// Whether they are denied.
    pub mode: FailClosedMode,
    /// Cgroups, with all below them, that are never denied anything.
    pub exempt: Vec<String>,
    /// Seconds after which nobody is denied any more, whether the loss was acknowledged or not.
    pub lapse: u64,
}

/// `fail_closed.mode`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailClosedMode {
    /// Nothing is denied.
    #[default]
    Off,
    /// Executions in pods.
    Pods,
}

/// `[runtimes]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Runtimes {
    /// File names of programs; a trailing `*` stands for any rest.
    pub names: Vec<String>,
    /// Sockets.
    pub sockets: Vec<PathBuf>,
    /// `unix:///…` of the runtime that is asked for pods' names, by CRI v1; empty: none is.
    pub cri: String,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            node: String::new(),
            state_dir: "/var/lib/ima-cgpath".into(),
            keep_boots: 3,
            run_dir: "/run/ima-cgpath".into(),
            log: "info".into(),
            verifier: Verifier::default(),
            tpm: Tpm::default(),
            bpf: Bpf::default(),
            cgroup: Cgroup::default(),
            ima: Ima::default(),
            seal: Seal::default(),
            budget: Budget::default(),
            guard: Guard::default(),
            enforce: Enforce::default(),
            fail_closed: FailClosed::default(),
            runtimes: Runtimes::default(),
            sink: Vec::new(),
        }
    }
}

impl Default for Enforce {
    fn default() -> Self {
        Enforce {
            mode: EnforceMode::Off,
            mappings: false,
            exempt: Vec::new(),
            lapse: 300,
        }
    }
}

impl Default for FailClosed {
    fn default() -> Self {
        FailClosed {
            mode: FailClosedMode::Off,
            exempt: Vec::new(),
            lapse: 60,
        }
    }
}

/// Seconds that a lapse may have: long enough to be restarted in, and never for ever.
const LAPSE: std::ops::RangeInclusive<u64> = 10..=86_400;

/// The pods' root itself is looked up by no program, so a path of one component would exempt nobody.
fn is_cgroup_path(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    path.starts_with('/')
        && (2..=cgpath_ebpf_common::MAX_POD_LEVEL).contains(&parts.len())
        && parts.iter().all(|part| !matches!(*part, "" | "." | ".."))
}

impl Default for Verifier {
    fn default() -> Self {
        Verifier {
            url: String::new(),
            ca: "/etc/ima-cgpath/verifier-ca.pem".into(),
            client_certificate: PathBuf::new(),
            client_key: PathBuf::new(),
            interval: 60,
            timeout: 120,
            max_backoff: 300,
        }
    }
}

impl Default for Tpm {
    fn default() -> Self {
        Tpm {
            tcti: "device:/dev/tpmrm0".into(),
            key: KeyKind::EccP256,
            bank: Bank::Sha256,
            endorsement_auth: String::new(),
        }
    }
}

impl Default for Bpf {
    fn default() -> Self {
        Bpf {
            object: PathBuf::new(),
            ring_bytes: crate::bpf::DEFAULT_RING_BYTES,
            pin_dir: "/sys/fs/bpf/ima-cgpath".into(),
            max_hash_mib: crate::bpf::DEFAULT_MAX_HASH_MIB,
            hash_served: false,
        }
    }
}

impl Default for Cgroup {
    fn default() -> Self {
        Cgroup {
            hierarchy: "auto".into(),
        }
    }
}

impl Default for Ima {
    fn default() -> Self {
        Ima {
            list: PathBuf::new(),
            policy: "/etc/ima/ima-policy".into(),
        }
    }
}

impl Default for Seal {
    fn default() -> Self {
        Seal {
            records: 50_000,
            drain_timeout: 10,
            keep_files: 32,
        }
    }
}

impl Default for Budget {
    fn default() -> Self {
        Budget {
            burst: 8192,
            per_second: 500,
        }
    }
}

impl Default for Runtimes {
    fn default() -> Self {
        Runtimes {
            names: [
                "containerd-shim*",
                "containerd",
                "conmon",
                "crio",
                "runc",
                "crun",
                "youki",
                "k3s",
                "dockerd",
            ]
            .map(String::from)
            .to_vec(),
            sockets: [
                "/run/containerd/containerd.sock",
                "/run/crio/crio.sock",
                "/run/k3s/containerd/containerd.sock",
                "/var/run/cri-dockerd.sock",
            ]
            .map(PathBuf::from)
            .to_vec(),
            cri: String::new(),
        }
    }
}

impl Runtimes {
    /// The socket of `cri`; `None` where no runtime is asked.
    pub fn cri_socket(&self) -> Option<&Path> {
        let path = self.cri.strip_prefix("unix://").unwrap_or(&self.cri);
        (!path.is_empty()).then_some(Path::new(path))
    }
}

impl Config {
    /// Reads `path`, or [`DEFAULT_PATH`] where none is given (defaults hold if that one is absent), then applies the
    /// variables of `env` that begin with `CGPATHD_`, then `sets` (`key=value`, sections by dots).
    ///
    /// # Errors
    /// See [`ConfigError`]. A path that was given must exist.
    pub fn load(
        path: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
        sets: &[String],
    ) -> Result<Config, ConfigError> {
        let file = path.unwrap_or(Path::new(DEFAULT_PATH));
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(e) if path.is_none() && e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(source) => {
                return Err(ConfigError::Read {
                    path: file.to_owned(),
                    source,
                });
            }
        };
        Config::from_parts(file, &text, env, sets)
    }

    /// As [`Config::load`] with the file's text given; `path` is named in errors.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn from_parts(
        path: &Path,
        text: &str,
        env: impl IntoIterator<Item = (String, String)>,
        sets: &[String],
    ) -> Result<Config, ConfigError> {
        // Read as it stands first: only so an error can name the line.
        let mut config: Config = toml::from_str(text).map_err(|e| ConfigError::Parse {
            path: path.to_owned(),
            message: e.to_string().trim_end().to_owned(),
        })?;
        let mut overrides: Vec<(String, String, String)> = env
            .into_iter()
            .filter_map(|(name, value)| {
                let key = name
                    .strip_prefix(ENV_PREFIX)?
                    .to_ascii_lowercase()
                    .replace("__", ".");
                Some((format!("environment variable {name}"), key, value))
            })
            .collect();
        overrides.sort();
        for set in sets {
            let Some((key, value)) = set.split_once('=') else {
                return Err(ConfigError::Override {
                    origin: format!("--set {set}"),
                    message: "expected KEY=VALUE, for instance verifier.interval=10".into(),
                });
            };
            overrides.push((format!("--set {set}"), key.trim().to_owned(), value.to_owned()));
        }
        for (origin, key, value) in overrides {
            config = config
                .with(&key, &value)
                .map_err(|message| ConfigError::Override { origin, message })?;
        }
        config.validate()?;
        Ok(config)
    }

    /// The same with one key changed; `key` has its section before a dot.
    fn with(&self, key: &str, value: &str) -> Result<Config, String> {
        let mut root = toml::Table::try_from(self).map_err(|e| e.to_string())?;
        let (section, name) = match key.split_once('.') {
            Some((section, name)) => (Some(section), name),
            None => (None, key),
        };
        let unknown = || format!("no configuration key {key:?}; `cgpathd config` prints all of them");
        let table = match section {
            Some(section) => root
                .get_mut(section)
                .and_then(toml::Value::as_table_mut)
                .ok_or_else(unknown)?,
            None => &mut root,
        };
        let slot = table
            .get_mut(name)
            .filter(|v| !v.is_table())
            .ok_or_else(unknown)?;
        *slot = match slot {
            // Text needs no quotes on a command line.
            toml::Value::String(_) => toml::Value::String(value.to_owned()),
            toml::Value::Array(_) if !value.trim_start().starts_with('[') => toml::Value::Array(
                value
                    .split(',')
                    .filter(|v| !v.is_empty())
                    .map(|v| toml::Value::String(v.trim().into()))
                    .collect(),
            ),
            _ => format!("v = {value}")
                .parse::<toml::Table>()
                .ok()
                .and_then(|mut t| t.remove("v"))
                .ok_or_else(|| format!("{value:?} is not a value for {key}"))?,
        };
        root.try_into()
            .map_err(|e: toml::de::Error| format!("{key}: {}", e.message()))
    }

    fn validate(&self) -> Result<(), ConfigError> {
        let bad = |key, why: String| Err(ConfigError::Value { key, why });
        if self.keep_boots == 0 {
            return bad(
                "keep_boots",
                "must be at least 1: this boot's directory is needed".into(),
            );
        }
        for (key, path) in [
            ("state_dir", &self.state_dir),
            ("run_dir", &self.run_dir),
            ("bpf.pin_dir", &self.bpf.pin_dir),
        ] {
            if !path.is_absolute() {
                return bad(key, format!("{} is not an absolute path", path.display()));
            }
        }
        if !self.bpf.ring_bytes.is_power_of_two() || self.bpf.ring_bytes < 64 << 10 {
            return bad(
                "bpf.ring_bytes",
                format!("{} is not a power of two of at least 65536", self.bpf.ring_bytes),
            );
        }
        if self.bpf.max_hash_mib == 0 {
            return bad("bpf.max_hash_mib", "0 MiB: nothing could be hashed".into());
        }
        let url = &self.verifier.url;
        if !url.is_empty() && !url.starts_with("https://") {
            return bad("verifier.url", format!("{url:?} does not begin with https://"));
        }
        if self.verifier.interval == 0 || self.verifier.timeout == 0 || self.verifier.max_backoff == 0 {
            return bad(
                "verifier.interval",
                "interval, timeout and max_backoff must be at least 1 second".into(),
            );
        }
        let socket = self.runtimes.cri_socket();
        if socket.is_some_and(|path| !path.is_absolute()) {
            let why = format!("{:?} is not unix:///PATH", self.runtimes.cri);
            return bad("runtimes.cri", why);
        }
        if let Some(sink) = self
            .sink
            .iter()
            .find(|sink| sink.is_by_name() && socket.is_none())
        {
            let why = format!(
                "sink {} selects pods by names, which the runtime tells: set runtimes.cri",
                sink.name
            );
            return bad("sink", why);
        }
        if self.sink.len() > MAX_SINKS {
            return bad(
                "sink",
                format!("{} of them, at most {MAX_SINKS}", self.sink.len()),
            );
        }
        for (n, sink) in self.sink.iter().enumerate() {
            if let Err(why) = sink.validate() {
                return bad("sink", why);
            }
            if self.sink[..n].iter().any(|other| other.name == sink.name) {
                return bad("sink", format!("two are named {}", sink.name));
            }
        }
        if self.seal.keep_files < 2 {
            return bad(
                "seal.keep_files",
                "must be at least 2: the last one and the one being made".into(),
            );
        }
        for (key, lapse) in [
            ("enforce.lapse", self.enforce.lapse),
            ("fail_closed.lapse", self.fail_closed.lapse),
        ] {
            if !LAPSE.contains(&lapse) {
                return bad(
                    key,
                    format!("{lapse} is not from {} to {}", LAPSE.start(), LAPSE.end()),
                );
            }
        }
        for (key, value) in [
            ("budget.burst", self.budget.burst),
            ("budget.per_second", self.budget.per_second),
        ] {
            if !BUDGET.contains(&value) {
                let why = format!("{value} is not from {} to {}", BUDGET.start(), BUDGET.end());
                return bad(key, why);
            }
        }
        for (key, exempt) in [
            ("enforce.exempt", &self.enforce.exempt),
            ("fail_closed.exempt", &self.fail_closed.exempt),
        ] {
            if let Some(path) = exempt.iter().find(|path| !is_cgroup_path(path)) {
                let most = cgpath_ebpf_common::MAX_POD_LEVEL;
                return bad(
                    key,
                    format!("{path:?} is not a cgroup's path: absolute, no \"..\", 2 to {most} components"),
                );
            }
        }
        let h = &self.cgroup.hierarchy;
        let v1 = h
            .strip_prefix("v1:")
            .is_some_and(|c| !c.is_empty() && c.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
        if h != "auto" && h != "v2" && !v1 {
            return bad(
                "cgroup.hierarchy",
                format!("{h:?} is none of \"auto\", \"v2\", \"v1:CONTROLLER\""),
            );
        }
        Ok(())
    }

    /// What the eBPF programs are to do about others.
    pub fn orders(&self) -> Orders {
        Orders {
            guard: self.guard.mode,
            tpm: self.guard.tpm,
            untrusted: self.enforce.mode == EnforceMode::UntrustedPods,
            untrusted_mappings: self.enforce.mappings,
            untrusted_lapse: Duration::from_secs(self.enforce.lapse),
            loss: self.fail_closed.mode == FailClosedMode::Pods,
            loss_lapse: Duration::from_secs(self.fail_closed.lapse),
            budget: crate::bpf::Budget {
                burst: self.budget.burst,
                per_second: self.budget.per_second,
            }
            .within(self.bpf.ring_bytes),
        }
    }

    /// What the node calls itself: the key `node`, or the host name.
    ///
    /// # Errors
    /// [`ConfigError::Value`] if neither gives a name that fits into a URL's path.
    pub fn node_name(&self) -> Result<String, ConfigError> {
        let name = if self.node.is_empty() {
            std::fs::read_to_string("/proc/sys/kernel/hostname")
                .unwrap_or_default()
                .trim()
                .to_owned()
        } else {
            self.node.clone()
        };
        let fits = !name.is_empty()
            && name.len() <= 253
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
            && !name.starts_with('.');
        if fits {
            Ok(name)
        } else {
            Err(ConfigError::Value {
                key: "node",
                why: format!("{name:?} is not a node name (letters, digits, '-', '_', '.'; at most 253)"),
            })
        }
    }

    /// The bytes of `tpm.endorsement_auth`.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for hex that is none and [`ConfigError::Read`] for a file that cannot be read.
    pub fn endorsement_auth(&self) -> Result<Vec<u8>, ConfigError> {
        let text = &self.tpm.endorsement_auth;
        if let Some(digits) = text.strip_prefix("hex:") {
            return hex::decode(digits).map_err(|e| ConfigError::Value {
                key: "tpm.endorsement_auth",
                why: e.to_string(),
            });
        }
        if let Some(path) = text.strip_prefix("file:") {
            return std::fs::read(path).map_err(|source| ConfigError::Read {
                path: path.into(),
                source,
            });
        }
        Ok(text.clone().into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn values_that_can_not_work_are_refused_by_name() {
        for set in [
            "keep_boots=0",
            "state_dir=relative",
            "bpf.ring_bytes=100000",
            "budget.burst=0",
            "budget.per_second=0",
            "budget.per_second=1000001",
            "bpf.max_hash_mib=0",
            "verifier.url=http://plain.example",
            "seal.keep_files=1",
            "cgroup.hierarchy=v1:",
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
}
