//! What a policy file says where it says nothing.
//!
//! Not here: keys whose default is the first variant of their type (see the types themselves).

/// Seconds that a reboot takes at least, unless the policy says otherwise.
pub const DEFAULT_MIN_REBOOT: u32 = 10;

/// Programs that put processes into containers: a record in a pod's cgroup with none of these among its
/// ancestors is *suspect*. A name matches the last component of an executable's path, an absolute path the
/// whole of it.
pub const DEFAULT_RUNTIMES: [&str; 9] = [
    "containerd-shim",
    "containerd-shim-runc-v1",
    "containerd-shim-runc-v2",
    "conmon",
    "conmonrs",
    "crio",
    "runc",
    "crun",
    "k3s",
];

pub(super) fn default_min_reboot() -> u32 {
    DEFAULT_MIN_REBOOT
}

pub(crate) fn default_runtimes() -> Vec<String> {
    DEFAULT_RUNTIMES.map(str::to_owned).to_vec()
}
