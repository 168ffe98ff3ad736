//! The policy file as it is written: one YAML file for each node.
//!
//! Promise: a value of [`NodePolicy`] that came out of [`NodePolicy::from_yaml`] has no unknown key, no empty allow
//! list and no list longer than its limit. Not here: the reference files that it names (see `lookup`).

pub(crate) mod defaults;
mod file_systems;
mod fit;
pub(crate) mod form;
mod keys;
mod opaque;
mod pattern;
mod shared_memory;

pub use defaults::{DEFAULT_MIN_REBOOT, DEFAULT_RUNTIMES};
pub use file_systems::{FileSystem, file_system_name, is_local};
pub use opaque::{Opaque, is_opaque};
pub use pattern::Pattern;
pub use shared_memory::SharedMemoryCode;

pub(crate) use fit::{misfit, misfit_of_tenant};

use crate::anchor::{Anchor, anchors, default_anchors};
use crate::error::{within, without_place};
use crate::form::{bounded, digests_schema, in_words_of_yaml, name, some, texts, version_one_or_two};
use crate::place::{At, Step, Track, of_byte};
use crate::{BootPolicy, Error, Excludes, Result, TdxPolicy};
use cgpath_evidence::{Bank, Digest, GuardAction, PodUid, Tier};
use defaults::{default_min_reboot, default_runtimes};
use form::{
    OfVersion1, OfVersion2, WrittenUid, absolute, actions_schema, banks_schema, file_name, host_paths, pods,
    some_sha256, tiers_schema, touches, uid_schema,
};
use schemars::JsonSchema;
use serde::de::{DeserializeOwned, DeserializeSeed};
use serde::{Deserialize, Deserializer};

/// A policy file is never longer than this many bytes.
pub const MAX_POLICY_LEN: usize = 4 * 1024 * 1024;

/// What is allowed on one node and in its pods.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[schemars(
    title = "ima-cgpath node policy",
    extend("$id" = "urn:ima-cgpath:schema:node-policy:1"),
    extend("oneOf" = [{ "required": ["pods"] }, { "required": ["workloads"] }])
)]
pub struct NodePolicy {
    /// Format version: 1, with `pods`; 2, with `workloads`.
    #[serde(deserialize_with = "version_one_or_two")]
    #[schemars(extend("enum" = [1, 2]))]
    pub version: u32,
    /// The node's name, as it is enrolled (`cgpath node add`).
    #[serde(deserialize_with = "name")]
    #[schemars(length(min = 1, max = 253))]
    pub node: String,
    /// Which evidence is looked at, at all.
    pub accept: Accept,
    /// How much may be missing; nothing by default.
    #[serde(default)]
    pub tolerance: Tolerance,
    /// Banks in which the kernel extended a SHA-1 padded with zeros, since it lacked the hash when it booted.
    #[serde(default)]
    pub padded_banks: PaddedBanks,
    /// Pods that are older than the collector, so that their first executions have no records.
    #[serde(default)]
    pub predating_pods: PredatingPods,
    /// A new boot id without a reset of the TPM: a kernel that was started by kexec.
    #[serde(default)]
    pub kexec: Kexec,
    /// A reboot takes at least this long, in seconds from the last accepted evidence to the first of the new boot, by the
    /// verifier's clock (V7): a TPM that was reset sooner was reset without its machine.
    #[serde(default = "default_min_reboot")]
    #[schemars(range(max = 3600))]
    pub min_reboot: u32,
    /// Container runtimes: a record in a pod whose ancestry shows none of them is suspect. A name (`crun`) or an
    /// absolute path (`/usr/bin/crun`).
    #[serde(default = "default_runtimes", deserialize_with = "texts")]
    #[schemars(length(min = 1, max = 4096))]
    pub runtimes: Vec<String>,
    /// What may run on the host, outside of all pods.
    pub host: References,
    /// Host paths whose reference values may appear in any pod's partition, whatever the path there, and on the host at
    /// a path that has none: the runtime runs a copy of itself, with its libraries, while it sets a container up (runc
    /// from a memfd or a detached mount, first in its own cgroup, then in the pod's).
    #[serde(default, deserialize_with = "host_paths")]
    #[schemars(length(max = 4096))]
    pub runtime_files: Vec<String>,
    /// What may run in every pod: the sandbox (pause) image. Its excludes count in every pod, too.
    #[serde(default)]
    pub sandbox: Option<References>,
    /// V14: how the collector's own parts are to be guarded, and what may be done to them.
    #[serde(default)]
    pub guard: GuardPolicy,
    /// Violations (a file written while it was measured) that do not count.
    #[serde(default)]
    pub violations: Violations,
    /// V9, V11: file systems that others can change, from which files may be used all the same.
    #[serde(default)]
    pub file_systems: FileSystems,
    /// Version 1: the pods that may be there, all of them. With an empty list any pod makes the node
    /// untrusted.
    #[serde(default, deserialize_with = "pods")]
    #[schemars(length(max = 4096))]
    pub pods: Vec<Pod>,
    /// Version 2: the file that says which workloads may be there, relative to the policy file's folder.
    /// Policies of many nodes may name the same.
    #[serde(default, deserialize_with = "file_name")]
    #[schemars(with = "String", length(min = 1, max = 4096))]
    pub workloads: Option<String>,
    /// V10: what the firmware, the boot loader and the kernel may be (PCR 0 to 9). `cgpath policy from-boot` makes it.
    #[serde(default, deserialize_with = "crate::boot_policy::not_empty")]
    #[schemars(with = "Option<BootPolicy>")]
    pub boot: Option<BootPolicy>,
    /// V10 is switched off: firmware and kernel (PCR 0-9) are not appraised. It does not go with `boot`.
    #[serde(default)]
    pub dangerous_boot_not_judged: bool,
    /// What a trust domain (Intel TDX) may be, where `accept.anchors` names one of its registers. `cgpath policy from-boot`
    /// makes it.
    #[serde(default)]
    pub tdx: Option<TdxPolicy>,
}

/// Which evidence is looked at, at all.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Accept {
    /// Tiers: `kernel`, `bpf`.
    #[serde(deserialize_with = "some")]
    #[schemars(schema_with = "tiers_schema")]
    pub tiers: Vec<Tier>,
    /// The measurement list's templates (V3: the template is pinned, since the digest does not cover its name).
    #[serde(deserialize_with = "texts")]
    #[schemars(length(min = 1, max = 4096))]
    pub templates: Vec<String>,
    /// What must vouch for the list, each of them: `pcr-10`, and `rtmr-2` or `rtmr-3`.
    #[serde(default = "default_anchors", deserialize_with = "anchors")]
    #[schemars(length(min = 1, max = 2))]
    pub anchors: Vec<Anchor>,
    /// Quoted PCR banks that are appraised: `sha1`, `sha256`, `sha384`, `sha512`. Each of them must be quoted. There are none
    /// where `anchors` does not name `pcr-10`.
    #[serde(default, deserialize_with = "some")]
    #[schemars(schema_with = "banks_schema")]
    pub banks: Vec<Bank>,
    /// Digests of the BPF object that the collector loads. Left out: any, since the collector itself is appraised.
    #[serde(default, deserialize_with = "some_sha256")]
    #[schemars(schema_with = "digests_schema")]
    pub bpf_objects: Option<Vec<Digest>>,
    /// V11: digests of the IMA policy files that may be in force (their POLICY_CHECK entry).
    #[serde(deserialize_with = "some")]
    #[schemars(schema_with = "digests_schema")]
    pub ima_policies: Vec<Digest>,
    /// V11: the collector's executable; it must stand in the list with a hash that `host` accepts.
    #[serde(deserialize_with = "absolute")]
    #[schemars(regex(pattern = "^/"))]
    pub collector: String,
}

/// How much may be missing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Tolerance {
    /// V5: list entries with no record. More of them make the node untrusted.
    pub unattributed: u64,
    /// V6: records that were lost. More of them make the node untrusted.
    pub lost: u64,
}

/// What to do about banks with padded digests (V2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PaddedBanks {
    /// The node is untrusted.
    #[default]
    Deny,
    /// It is said in the verdict, no more.
    Report,
}

/// What to do about pods older than the collector (V8).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PredatingPods {
    /// Neither trusted nor failed: `predates collector`.
    #[default]
    Report,
    /// Appraised by what was seen of them since.
    Trust,
    /// Untrusted.
    Untrust,
}

/// What to do about a kernel started by kexec (V7), and about one that was handed over as bytes (V11).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Kexec {
    /// The node is untrusted.
    #[default]
    Deny,
    /// A kernel may be started. Files that were loaded for it are appraised as all others; `kexec_load`, which shows
    /// nothing of its kernel, fails.
    Allow,
    /// The same, and `kexec_load` is tolerated: what runs then, nothing says.
    AllowUnmeasured,
}

impl Kexec {
    /// Whether a kernel may be started by kexec.
    pub fn is_allowed(self) -> bool {
        self != Kexec::Deny
    }
}

/// The guard of the collector's own parts (V14).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct GuardPolicy {
    /// What every checkpoint must state, or more, of the collector's `guard.mode`.
    pub at_least: GuardLevel,
    /// Another process than the collector opened the TPM's device.
    pub tpm_opened: TpmOpened,
    /// What others may do to the collector's parts; it is said in the verdict, no more. `map-read`, `program-opened`,
    /// `map-opened` and `link-opened` are what tools do that list all eBPF programs and maps.
    #[serde(deserialize_with = "touches")]
    #[schemars(schema_with = "actions_schema")]
    pub tolerate: Vec<GuardAction>,
}

/// How much the collector's own parts are guarded, the least first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum GuardLevel {
    /// Not at all.
    Off,
    /// What is done to them is recorded.
    #[default]
    Record,
    /// It is recorded and denied.
    Deny,
}

impl core::fmt::Display for GuardLevel {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            GuardLevel::Off => "off",
            GuardLevel::Record => "record",
            GuardLevel::Deny => "deny",
        })
    }
}

/// What to do about others who open the TPM (V14).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TpmOpened {
    /// It is said in the verdict, no more: other agents use the TPM, too.
    #[default]
    Report,
    /// The node is untrusted.
    Untrust,
}

/// Reference files, by name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct References {
    /// Names, relative to the policy file's folder. What stands in any of them is allowed.
    #[serde(deserialize_with = "texts")]
    #[schemars(length(min = 1, max = 4096))]
    pub references: Vec<String>,
    /// Paths that are not appraised.
    #[serde(default)]
    pub excludes: Excludes,
}

/// Violations that do not count (V12).
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Violations {
    /// Path patterns: `*` and `?` do not match `/`, `**` does.
    #[serde(deserialize_with = "bounded")]
    #[schemars(length(max = 4096))]
    pub permit: Vec<Pattern>,
}

/// File systems that others than this machine's kernel can change (V9, V11).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct FileSystems {
    /// From these, files may be executed, mapped and measured: by name (`nfs`, `smb`, `9p`, `fuse`, which is virtiofs, too,
    /// `ceph`, …) or magic number (`0x6969`). What is read there later can be another content than the one that was
    /// measured. `overlay` is a file of an overlay whose layer the node did not know.
    #[serde(deserialize_with = "bounded")]
    #[schemars(length(max = 4096))]
    pub permit: Vec<FileSystem>,
}

/// One pod that may be there.
#[derive(Debug, Clone, PartialEq, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Pod {
    /// The pod's UID, with dashes; a static pod's as the kubelet writes it, 32 digits, or with dashes.
    #[schemars(schema_with = "uid_schema")]
    pub uid: PodUid,
    /// The file has the UID without dashes.
    #[serde(skip)]
    pub is_undashed: bool,
    /// What people call it, `namespace/name`; only for the output.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Reference files of its images, relative to the policy file's folder.
    #[schemars(length(min = 1, max = 4096))]
    pub references: Vec<String>,
    /// Paths that are not appraised in this pod.
    #[serde(default)]
    pub excludes: Excludes,
    /// V9: what to do when a program ran in it that runs others out of the kernel's sight.
    #[serde(default)]
    pub opaque: Opaque,
    /// V9: what to do when it makes shared memory without a name (a memfd) executable after it was mapped.
    #[serde(default)]
    pub shared_memory_code: SharedMemoryCode,
}

impl Pod {
    /// The UID for people, as the file has it.
    pub fn shown_uid(&self) -> String {
        self.uid.shown(self.is_undashed)
    }
}

impl<'de> Deserialize<'de> for Pod {
    fn deserialize<D: Deserializer<'de>>(d: D) -> core::result::Result<Pod, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields, rename_all = "kebab-case", rename = "Pod")]
        struct Written {
            uid: WrittenUid,
            #[serde(deserialize_with = "name")]
            name: String,
            #[serde(deserialize_with = "texts")]
            references: Vec<String>,
            #[serde(default)]
            excludes: Excludes,
            #[serde(default)]
            opaque: Opaque,
            #[serde(default)]
            shared_memory_code: SharedMemoryCode,
        }
        let Written {
            uid,
            name,
            references,
            excludes,
            opaque,
            shared_memory_code,
        } = Written::deserialize(d)?;
        Ok(Pod {
            uid: uid.uid,
            is_undashed: uid.is_undashed,
            name,
            references,
            excludes,
            opaque,
            shared_memory_code,
        })
    }
}

impl NodePolicy {
    /// Reads a policy file. `file` is what errors call it.
    ///
    /// # Errors
    /// [`Error::Limit`] for a file longer than [`MAX_POLICY_LEN`]; [`Error::Syntax`] with line and column for all else.
    pub fn from_yaml(file: &str, yaml: &[u8]) -> Result<NodePolicy> {
        let yaml = text_of(file, yaml)?;
        let policy: NodePolicy = read(file, yaml)?;
        // Which keys there must be depends on one of them: what is wrong then has its place, too.
        match policy.version {
            1 => parse::<OfVersion1>(file, yaml).map(|_| ())?,
            _ => parse::<OfVersion2>(file, yaml).map(|_| ())?,
        }
        let of_domain = policy.tdx.as_ref().and_then(|tdx| tdx.boot.as_ref());
        let boots: [(&[Step], _); 2] = [
            (&[Step::Of("boot")], policy.boot.as_ref()),
            (&[Step::Of("tdx"), Step::Of("boot")], of_domain),
        ];
        for (keys, boot) in boots {
            if let Some((n, why)) = boot.and_then(crate::boot_policy::refused) {
                let path = [keys, &[Step::Of("firmware-deviations"), Step::Nth(n)]].concat();
                return Err(refused_at(file, yaml, &path, &why));
            }
        }
        Ok(policy)
    }
}

/// A text without the byte order mark that some editors write before it, which the parser would take for a
/// part of the first key.
pub(crate) fn without_mark(yaml: &[u8]) -> &[u8] {
    yaml.strip_prefix("\u{feff}".as_bytes()).unwrap_or(yaml)
}

/// Reads a file of this form; see [`NodePolicy::from_yaml`].
pub(crate) fn from_yaml<T: DeserializeOwned>(file: &str, yaml: &[u8]) -> Result<T> {
    read(file, text_of(file, yaml)?)
}

/// The text of a file that is not too long.
fn text_of<'y>(file: &str, yaml: &'y [u8]) -> Result<&'y [u8]> {
    within(file, "policy file, in bytes,", yaml, MAX_POLICY_LEN)?;
    Ok(without_mark(yaml))
}

/// Reads such a text.
fn read<T: DeserializeOwned>(file: &str, yaml: &[u8]) -> Result<T> {
    match keys::twice(yaml) {
        Some(twice) => Err(refused(file, yaml, &twice)),
        None => parse(file, yaml),
    }
}

/// The same of a text whose keys were looked at.
fn parse<T: DeserializeOwned>(file: &str, yaml: &[u8]) -> Result<T> {
    let track = Track::default();
    let error = match T::deserialize(track.of(serde_norway::Deserializer::from_slice(yaml))) {
        Ok(read) => return Ok(read),
        Err(error) => error,
    };
    let is_lost = error.location().is_none();
    if is_lost && let Some(second) = serde_norway::Deserializer::from_slice(yaml).nth(1) {
        let why = "a second document begins here, and a policy is one";
        let at = At { path: &[], why }.deserialize(second);
        return Err(refused(file, yaml, &at.err().unwrap_or(error)));
    }
    let again = match track.first() {
        Some(first) if is_lost || !first.by_parser => {
            let track = Track::again(first);
            T::deserialize(track.of(serde_norway::Deserializer::from_slice(yaml))).err()
        }
        _ => None,
    };
    Err(refused(file, yaml, &again.unwrap_or(error)))
}

/// What is wrong with the value to which the path leads, at its place.
fn refused_at(file: &str, yaml: &[u8], path: &[Step], why: &str) -> Error {
    let parser = serde_norway::Deserializer::from_slice(yaml);
    match (At { path, why }).deserialize(parser) {
        Err(error) => refused(file, yaml, &error),
        // It never says nothing.
        Ok(()) => refused(file, yaml, &serde::de::Error::custom(why)),
    }
}

fn refused(file: &str, yaml: &[u8], error: &serde_norway::Error) -> Error {
    let place = error.location().map_or((0, 0), |l| (l.line(), l.column()));
    let mut why = without_place(error);
    // What is no text at all has a place in bytes alone.
    let of_bytes = why.rsplit_once(" at position ");
    let of_bytes = of_bytes.and_then(|(what, at)| Some((what.len(), at.parse().ok()?)));
    let (line, column) = match of_bytes {
        Some((length, at)) if place == (1, 1) => {
            why.truncate(length);
            of_byte(yaml, at)
        }
        _ => place,
    };
    Error::Syntax {
        file: file.to_owned(),
        line,
        column,
        why: in_words_of_yaml(why),
    }
}
