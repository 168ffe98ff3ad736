//! Whose a cgroup path is: the partition it belongs to, the container at its leaf, and whether an ancestry
//! fits it.
//!
//! Promises: a path is a pod's only if its first component is the kubelet's pods root and every component
//! down to the pod has the shape that the kubelet writes; the outermost pod counts; whatever is no absolute
//! path is never the host.
//! Not here: what a pod may run (see `cgpath-policy`).
//!
//! Source of the shapes: kubernetes, pkg/kubelet/cm (`cgroup_manager_linux.go`,
//! `pod_container_manager_linux.go`).

use crate::list::unescaped;
use crate::name::ID_LEN;
use crate::{PartitionKey, PodUid};

/// Directories in which pods have theirs, from the hierarchy's root.
pub const POD_PARENTS: [&str; 12] = [
    "/kubepods",
    "/kubepods/burstable",
    "/kubepods/besteffort",
    "/kubepods.slice",
    "/kubepods.slice/kubepods-burstable.slice",
    "/kubepods.slice/kubepods-besteffort.slice",
    "/kubelet/kubepods",
    "/kubelet/kubepods/burstable",
    "/kubelet/kubepods/besteffort",
    "/kubelet.slice/kubelet-kubepods.slice",
    "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice",
    "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice",
];

/// What a cgroup path says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribution {
    /// The partition: a pod, the host, or unattributed where the path is unusable.
    pub key: PartitionKey,
    /// The container, where the component below the pod has a form that a runtime writes. A pod's own
    /// directory and forms that are not known have none.
    pub container: Option<Container>,
}

/// A container's identity as its cgroup directory has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Container {
    /// The id: 64 hex digits in lower case, as the runtime's API gives it.
    pub id: String,
    /// Which runtime wrote the directory's name.
    pub runtime: Runtime,
    /// The runtime's own monitor for that container (CRI-O's conmon), not the container.
    pub monitor: bool,
}

/// Which runtime wrote a container's cgroup name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Runtime {
    /// `cri-containerd-<id>.scope`.
    Containerd,
    /// `crio-<id>.scope`, `crio-<id>`, `crio-conmon-<id>.scope`.
    Crio,
    /// `docker-<id>.scope`.
    Docker,
    /// `libpod-<id>.scope`.
    Podman,
    /// `<id>` alone: the cgroupfs driver of containerd and docker.
    Unnamed,
}

/// The partition of a cgroup path; `None` (no path known) is unattributed.
///
/// The path is the kernel's: absolute, from the hierarchy's root, raw bytes.
pub fn partition_of(cgroup: Option<&[u8]>) -> PartitionKey {
    cgroup.map_or(PartitionKey::Unattributed, |path| attribute(path).key)
}

/// Reads a cgroup path (see [`partition_of`]).
///
/// Known forms, in cgroup v1 and v2 alike:
/// - cgroupfs driver: `/kubepods/[burstable/|besteffort/]pod<uid>/<container>`;
/// - systemd driver:
///   `/kubepods.slice/[kubepods-burstable.slice/]kubepods-burstable-pod<uid_>.slice/<container>`;
/// - both below kubelet's own root, as kind and `--cgroup-root=/kubelet` have it: `/kubelet/kubepods/…`,
///   `/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod<uid_>.slice/…`.
pub fn attribute(path: &[u8]) -> Attribution {
    let only = |key| Attribution { key, container: None };
    if path.first() != Some(&b'/') {
        return only(PartitionKey::Unattributed);
    }
    let mut parts = path.split(|b| *b == b'/').filter(|p| !p.is_empty());
    if parts.clone().any(|p| p == b"." || p == b"..") {
        // Relative to somebody's cgroup namespace: what it is relative to is not known here.
        return only(PartitionKey::Unattributed);
    }
    let Some(pod) = pod_of(&mut parts) else {
        return only(PartitionKey::Host);
    };
    let container = parts.next().and_then(|leaf| container(without_deleted(leaf)));
    Attribution {
        key: PartitionKey::Pod(pod),
        container,
    }
}

/// Takes components up to and with the pod's, if the path is one of a pod.
fn pod_of<'a>(parts: &mut impl Iterator<Item = &'a [u8]>) -> Option<PodUid> {
    match parts.next()? {
        b"kubepods" => cgroupfs_pod(parts),
        b"kubepods.slice" => systemd_pod(parts, b"kubepods"),
        b"kubelet" => match parts.next()? {
            b"kubepods" => cgroupfs_pod(parts),
            _ => None,
        },
        b"kubelet.slice" => match parts.next()? {
            b"kubelet-kubepods.slice" => systemd_pod(parts, b"kubelet-kubepods"),
            _ => None,
        },
        _ => None,
    }
}

const QOS: [&[u8]; 2] = [b"burstable", b"besteffort"];

fn cgroupfs_pod<'a>(parts: &mut impl Iterator<Item = &'a [u8]>) -> Option<PodUid> {
    let mut part = parts.next()?;
    if QOS.contains(&part) {
        part = parts.next()?;
    }
    PodUid::parse(without_deleted(part).strip_prefix(b"pod")?)
}

/// systemd repeats a slice's parents in its name, so `parent` is what the next slice's name must begin with.
fn systemd_pod<'a>(parts: &mut impl Iterator<Item = &'a [u8]>, parent: &[u8]) -> Option<PodUid> {
    fn below<'a>(part: &'a [u8], parent: &[u8]) -> Option<&'a [u8]> {
        without_deleted(part)
            .strip_prefix(parent)?
            .strip_prefix(b"-")?
            .strip_suffix(b".slice")
    }
    let mut parent = parent.to_vec();
    let mut stem = below(parts.next()?, &parent)?;
    if QOS.contains(&stem) {
        parent.push(b'-');
        parent.extend_from_slice(stem);
        stem = below(parts.next()?, &parent)?;
    }
    PodUid::parse(stem.strip_prefix(b"pod")?)
}

/// /proc and the kernel's path helpers mark a removed directory, IMA turns the blank into `_`.
fn without_deleted(part: &[u8]) -> &[u8] {
    part.strip_suffix(b" (deleted)")
        .or_else(|| part.strip_suffix(b"_(deleted)"))
        .unwrap_or(part)
}

fn container(leaf: &[u8]) -> Option<Container> {
    let (name, is_scope) = match leaf.strip_suffix(b".scope") {
        Some(name) => (name, true),
        None => (leaf, false),
    };
    let known: [(&[u8], Runtime, bool); 5] = [
        (b"cri-containerd-", Runtime::Containerd, false),
        (b"crio-conmon-", Runtime::Crio, true),
        (b"crio-", Runtime::Crio, false),
        (b"docker-", Runtime::Docker, false),
        (b"libpod-", Runtime::Podman, false),
    ];
    let (id, runtime, monitor) = known
        .iter()
        .find_map(|(prefix, runtime, monitor)| Some((name.strip_prefix(*prefix)?, *runtime, *monitor)))
        .or((!is_scope).then_some((name, Runtime::Unnamed, false)))?;
    let id = is_container_id(id).then(|| String::from_utf8(id.to_vec()).ok())??;
    Some(Container { id, runtime, monitor })
}

/// Whether a runtime gives such ids: 64 hex digits in lower case.
pub(crate) fn is_container_id(id: &[u8]) -> bool {
    id.len() == ID_LEN && id.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Executables that start containers: an ancestry inside of a pod's cgroup that shows none of them is
/// suspect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtimes(Vec<Vec<u8>>);

/// [`Runtimes::default`]'s list.
pub const DEFAULT_RUNTIMES: &[&str] = &[
    "containerd-shim",
    "containerd-shim-*",
    "docker-containerd-shim",
    "conmon",
    "conmonrs",
    "crio",
    "crio-*",
    "runc",
    "crun",
    "youki",
    "kata-runtime",
    "runsc",
    "k3s",
    "k3s-*",
];

impl Default for Runtimes {
    fn default() -> Runtimes {
        Runtimes::new(DEFAULT_RUNTIMES)
    }
}

impl Runtimes {
    /// Each name is an executable's last path component, or with a `/` in it its whole path; a `*` at its end
    /// stands for anything but `/`.
    pub fn new<T: AsRef<[u8]>>(names: impl IntoIterator<Item = T>) -> Runtimes {
        Runtimes(
            names
                .into_iter()
                .map(|n| n.as_ref().to_vec())
                .filter(|n| !n.is_empty())
                .collect(),
        )
    }

    /// Whether `exe` (a path, or a bare name where no path was known) is one of them.
    pub fn contains(&self, exe: &[u8]) -> bool {
        let exe = without_deleted(exe);
        let base = exe.rsplit(|b| *b == b'/').next().unwrap_or(exe);
        self.0.iter().any(|name| {
            let subject = if name.contains(&b'/') { exe } else { base };
            match name.strip_suffix(b"*") {
                Some(prefix) => subject
                    .strip_prefix(prefix)
                    .is_some_and(|rest| !rest.contains(&b'/')),
                None => subject == name.as_slice(),
            }
        })
    }

    /// Whether what runs in a pod's cgroup cannot have been started there by a container runtime: no process
    /// of the ancestry (the process itself first) runs one. An empty ancestry is suspect.
    ///
    /// Descriptive: a process can change its executable's name and be reparented. Verdicts rest on the cgroup
    /// path; suspicion can only take trust away.
    pub fn suspect(&self, ancestry: impl IntoIterator<Item: AsRef<[u8]>>) -> bool {
        !ancestry.into_iter().any(|exe| self.contains(exe.as_ref()))
    }

    /// [`Runtimes::suspect`] for the `dep` field of a measurement list: executables joined by colons,
    /// escaped.
    pub fn suspect_dep(&self, dep: &[u8]) -> bool {
        self.suspect(dep.split(|b| *b == b':').map(unescaped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const UID: &str = "f52130f4-c5be-423e-8070-daaca055a5ad";
    const ID: &str = "5bab9779a4ffb2a5acc4160dedb8571b75806c6ad25bf936387678aefd19cb9e";

    fn key(path: &str) -> PartitionKey {
        attribute(path.as_bytes()).key
    }

    fn expand(path: &str) -> String {
        path.replace("<uid>", UID)
            .replace("<uid_>", &UID.replace('-', "_"))
            .replace("<hash>", &UID.replace('-', ""))
            .replace("<id>", ID)
    }

    #[test]
    fn every_form_that_kubelet_and_the_runtimes_write_is_the_pods() {
        let pod = PartitionKey::Pod(PodUid::parse(UID.as_bytes()).unwrap());
        for (path, runtime) in [
            ("/kubepods/pod<uid>/<id>", Some(Runtime::Unnamed)),
            ("/kubepods/burstable/pod<uid>/<id>", Some(Runtime::Unnamed)),
            (
                "/kubepods/besteffort/pod<uid>/<id>/sub/init.scope",
                Some(Runtime::Unnamed),
            ),
            ("/kubepods/burstable/pod<hash>/<id>", Some(Runtime::Unnamed)),
            ("/kubepods/burstable/pod<uid>/crio-<id>", Some(Runtime::Crio)),
            (
                "/kubepods.slice/kubepods-pod<uid_>.slice/cri-containerd-<id>.scope",
                Some(Runtime::Containerd),
            ),
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid_>.slice/crio-<id>.scope",
                Some(Runtime::Crio),
            ),
            (
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod<uid_>.slice/docker-<id>.scope/x",
                Some(Runtime::Docker),
            ),
            (
                "/kubelet/kubepods/besteffort/pod<uid>/<id>",
                Some(Runtime::Unnamed),
            ),
            (
                "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod<uid_>.slice/cri-containerd-<id>.scope",
                Some(Runtime::Containerd),
            ),
            (
                "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod<uid_>.slice",
                None,
            ),
            ("/kubepods/pod<uid>", None),
            ("/kubepods/pod<uid>/", None),
            ("/kubepods/pod<uid> (deleted)", None),
            ("/kubepods/pod<uid>/not-an-id", None),
            // A cluster in a pod: the outermost counts.
            (
                "/kubepods/pod<uid>/<id>/kubelet/kubepods/pod11111111-2222-3333-4444-555555555555/x",
                Some(Runtime::Unnamed),
            ),
        ] {
            let found = attribute(expand(path).as_bytes());
            assert_eq!(found.key, pod, "{path}");
            assert_eq!(found.container.as_ref().map(|c| c.runtime), runtime, "{path}");
            assert!(found.container.is_none_or(|c| c.id == ID && !c.monitor), "{path}");
        }
        let conmon = expand("/kubepods.slice/kubepods-pod<uid_>.slice/crio-conmon-<id>.scope");
        assert!(attribute(conmon.as_bytes()).container.unwrap().monitor);
    }

    #[test]
    fn look_alikes_and_the_slices_themselves_are_the_host() {
        for path in [
            "/",
            "/kubepods",
            "/kubepods/",
            "/kubepods/burstable",
            "/kubepods.slice",
            "/kubepods.slice/kubepods-burstable.slice",
            "/kubelet",
            "/kubelet/kubepods",
            "/kubelet.slice/kubelet-kubepods.slice",
            "/system.slice/kubepods-fake-pod<uid_>.service",
            "/system.slice/kubepods.slice/kubepods-pod<uid_>.slice/cri-containerd-<id>.scope",
            "/system.slice/kubepods-pod<uid_>.slice:cri-containerd:<id>",
            "/docker/<id>",
            "/docker/<id>/kubelet/kubepods/pod<uid>/<id>",
            "/system.slice/docker-<id>.scope/kubepods/pod<uid>",
            "/user.slice/user-0.slice/kubepods/pod<uid>/<id>",
            "/kubepods-pod<uid>/<id>",
            "/kubepods.slice.d/kubepods-pod<uid_>.slice",
            "/Kubepods/pod<uid>",
            "/kubepods/pod<uid>x/<id>",
            "/kubepods/xpod<uid>/<id>",
            "/kubepods/pod/<id>",
            "/kubepods/pod<uid_>-/<id>",
            "/kubepods/guaranteed/pod<uid>/<id>",
            "/kubepods/burstable/besteffort/pod<uid>/<id>",
            "/kubepods.slice/kubepods-burstable-pod<uid_>.slice/x",
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-burstable-pod<uid_>.slice/x",
            "/kubepods.slice/pod<uid>/<id>",
            "/kubelet.slice/kubepods.slice/kubepods-pod<uid_>.slice",
            "/kubelet/kubelet/kubepods/pod<uid>",
        ] {
            let found = attribute(expand(path).as_bytes());
            assert_eq!(
                found,
                Attribution {
                    key: PartitionKey::Host,
                    container: None
                },
                "{path}"
            );
        }
    }

    #[test]
    fn a_pods_directory_is_right_below_one_of_the_parents_of_pods_and_below_no_other() {
        let pod = PartitionKey::Pod(PodUid::parse(UID.as_bytes()).unwrap());
        for parent in POD_PARENTS {
            assert_eq!(key(parent), PartitionKey::Host, "{parent}");
            let own = match parent.rsplit('/').next().unwrap().strip_suffix(".slice") {
                Some(stem) => expand(&format!("{parent}/{stem}-pod<uid_>.slice")),
                None => expand(&format!("{parent}/pod<uid>")),
            };
            assert_eq!(key(&own), pod, "{own}");
        }
        let slashes: BTreeSet<usize> = POD_PARENTS.iter().map(|path| path.matches('/').count()).collect();
        assert_eq!(slashes, BTreeSet::from([1, 2, 3]));
    }

    #[test]
    fn what_is_no_absolute_path_is_never_the_host() {
        for path in [
            "",
            "-",
            "kubepods/pod<uid>",
            "/../kubepods/pod<uid>/<id>",
            "/..",
            "/a/./b",
        ] {
            assert_eq!(key(&expand(path)), PartitionKey::Unattributed, "{path}");
        }
        assert_eq!(partition_of(None), PartitionKey::Unattributed);
    }

    #[test]
    fn a_pod_cannot_leave_its_partition_by_nesting_cgroups() {
        let deep = expand("/kubepods/pod<uid>/<id>") + &"/x".repeat(100_000);
        assert_eq!(key(&deep), key(&expand("/kubepods/pod<uid>")));
    }

    #[test]
    fn an_ancestry_without_a_runtime_is_suspect() {
        let runtimes = Runtimes::default();
        let shim: &[u8] = b"/var/lib/rancher/k3s/data/a3/bin/containerd-shim-runc-v2";
        assert!(!runtimes.suspect([b"/bin/sh".as_slice(), shim, b"/usr/lib/systemd/systemd"]));
        assert!(!runtimes.suspect([b"/usr/bin/conmon (deleted)".as_slice()]));
        assert!(runtimes.suspect([
            b"/bin/sh".as_slice(),
            b"/usr/sbin/sshd",
            b"/usr/lib/systemd/systemd"
        ]));
        assert!(runtimes.suspect([b"/bin/notrunc".as_slice(), b"/runc/sh", b"/bin/runc2", b""]));
        assert!(runtimes.suspect(core::iter::empty::<&[u8]>()));
        assert!(!runtimes.suspect_dep(b"runc:/usr/lib/systemd/systemd:swapper/0"));
        assert!(runtimes.suspect_dep(b"/bin/bash:/usr/lib/systemd/systemd:swapper/0"));
        let own = Runtimes::new(["/opt/bin/shim*"]);
        assert!(own.contains(b"/opt/bin/shim-v2") && !own.contains(b"/tmp/shim-v2"));
        assert!(!own.contains(b"/opt/bin/shim/x") && !own.contains(b"runc"));
    }
}
