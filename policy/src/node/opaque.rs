//! Programs that run others out of this kernel's sight, and what a policy does about a pod in which one ran (V9).
//!
//! Not here: where in a pod's records they are looked for (see `cgpath-appraisal`).

use schemars::JsonSchema;
use serde::Deserialize;

/// What to do about a pod in which a program ran that runs others out of the kernel's sight: gVisor, a virtual machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Opaque {
    /// It is not trusted: nobody knows what runs inside.
    #[default]
    Untrust,
    /// It is said in the verdict, no more.
    Trust,
}

/// Programs, by the last component of their paths, that run others so that this kernel sees neither executions nor mappings
/// of those: application kernels and virtual machine monitors, and the shims of runtimes that bring one of their own.
/// `qemu-system-*` are known by their beginning.
const OPAQUE: &[&str] = &[
    "runsc",
    "quark",
    "qemu-kvm",
    "cloud-hypervisor",
    "firecracker",
    "crosvm",
    "stratovirt",
    "krun",
    "containerd-shim-kata-v2",
    "containerd-shim-runsc-v1",
];

/// Whether the program at this path runs others out of this kernel's sight.
pub fn is_opaque(path: &[u8]) -> bool {
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
    OPAQUE.iter().any(|known| known.as_bytes() == name) || name.starts_with(b"qemu-system-")
}
