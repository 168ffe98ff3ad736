//! Every section and key but sinks, with its default.
//!
//! Promise: what stands here is what `deploy/cgpathd.toml` states. Not here: which values are refused (see
//! [`super::validate`]).

use super::{Metrics, Sink};
use crate::tpm::KeyKind;
use cgpath_evidence::{Bank, GuardMode};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

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
    /// Where checkpoints are anchored.
    pub anchor: Anchor,
    /// What signs for the node.
    pub quote: Quote,
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
    /// Figures for Prometheus.
    pub metrics: Metrics,
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
    /// The node's own certificate, PEM, where the verifier wants one; its DNS name is the node's name. Empty:
    /// none.
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

/// Where the kernel shows the registers of a trust domain.
pub const REGISTERS: &str = "/sys/devices/virtual/misc/tdx_guest/measurements";
/// Where reports are asked for, in configfs.
pub const REPORTS: &str = "/sys/kernel/config/tsm/report";

/// `[anchor]`: where checkpoints are anchored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Anchor {
    /// At least one.
    pub to: Vec<AnchorKind>,
    /// Which register of a trust domain: 2 or 3.
    pub rtmr: u8,
    /// The directory in which the kernel shows the registers.
    pub registers: PathBuf,
    /// The log of another writer of that register; empty: there is none.
    pub other_log: PathBuf,
}

/// An item of `anchor.to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AnchorKind {
    /// PCR 10: IMA measures the checkpoint's file.
    Pcr10,
    /// A runtime-extendable register of a trust domain.
    Rtmr,
}

/// `[quote]`: what signs for the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quote {
    /// `tpm`, and a provider of the kernel's configfs-tsm.
    pub by: Vec<String>,
    /// The directory of reports in configfs.
    pub reports: PathBuf,
    /// Seconds until a report is given up.
    pub timeout: u64,
    /// File of the node's key; empty: made at each boot.
    pub node_key: PathBuf,
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
    /// Whether files are read for their hash where a server answers for them: FUSE, NFS, SMB, 9p, Ceph, AFS,
    /// plain or as an overlay's layer.
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

/// `[budget]`: what a pod may have recorded, in records whose path is no longer than 255 bytes, and how many
/// entries of IMA's list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Budget {
    /// At once; never more than half of the ring holds.
    pub burst: u32,
    /// How many come back each second.
    pub per_second: u32,
    /// Entries of IMA's list with which a pod is denied executions, by `enforce.mode`; 0: however many.
    pub entries: u32,
}

/// `[guard]`: what is done about others who touch the collector's parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Guard {
    /// Programs, maps, pins, the collector's process, the TPM's driver, `kernel.ftrace_enabled`.
    pub mode: GuardMode,
    /// Others who open the TPM.
    pub tpm: GuardMode,
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
            anchor: Anchor::default(),
            quote: Quote::default(),
            bpf: Bpf::default(),
            cgroup: Cgroup::default(),
            ima: Ima::default(),
            seal: Seal::default(),
            budget: Budget::default(),
            guard: Guard::default(),
            enforce: Enforce::default(),
            fail_closed: FailClosed::default(),
            runtimes: Runtimes::default(),
            metrics: Metrics::default(),
            sink: Vec::new(),
        }
    }
}

impl Default for Guard {
    fn default() -> Self {
        Guard {
            mode: GuardMode::Record,
            tpm: GuardMode::Record,
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

impl Default for Anchor {
    fn default() -> Self {
        Anchor {
            to: vec![AnchorKind::Pcr10],
            rtmr: 3,
            registers: REGISTERS.into(),
            other_log: PathBuf::new(),
        }
    }
}

impl Default for Quote {
    fn default() -> Self {
        Quote {
            by: vec![super::TPM.to_owned()],
            reports: REPORTS.into(),
            timeout: 60,
            node_key: PathBuf::new(),
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
            entries: 0,
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
