//! Processes, with their ancestry and cgroup.

use crate::SHIM;
use cgpath_evidence::cgroup::partition_of;
use cgpath_evidence::{PartitionKey, PodUid};

/// Who acts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// The cgroup's path.
    pub cgroup: Option<Vec<u8>>,
    /// Executables of the ancestry, the process itself first.
    pub exes: Vec<Vec<u8>>,
}

impl Actor {
    /// A process of a pod, below a shim, in a cgroup of the cgroupfs driver.
    pub fn pod(uid: PodUid, exe: &str) -> Actor {
        Actor::container(uid, &"c".repeat(64), "", exe)
    }

    /// A process of a container of a pod, in the group `below` of it, or in the container's own where that is
    /// empty.
    pub fn container(uid: PodUid, id: &str, below: &str, exe: &str) -> Actor {
        let cgroup = format!("/kubepods/burstable/pod{uid}/{id}{below}");
        Actor {
            cgroup: Some(cgroup.into_bytes()),
            exes: [exe, SHIM, "/sbin/init"].map(|e| e.as_bytes().to_vec()).into(),
        }
    }

    /// A service of the host.
    pub fn host(exe: &str) -> Actor {
        Actor {
            cgroup: Some(b"/system.slice/some.service".to_vec()),
            exes: [exe, "/sbin/init"].map(|e| e.as_bytes().to_vec()).into(),
        }
    }

    /// A process in the pod's cgroup that no container runtime put there.
    pub fn intruder(uid: PodUid, exe: &str) -> Actor {
        Actor {
            cgroup: Actor::pod(uid, exe).cgroup,
            exes: [exe, "/bin/bash", "/sbin/init"]
                .map(|e| e.as_bytes().to_vec())
                .into(),
        }
    }

    /// A process whose cgroup is not known.
    pub fn lost(exe: &str) -> Actor {
        Actor {
            cgroup: None,
            ..Actor::host(exe)
        }
    }

    /// The partition of what it does.
    pub fn key(&self) -> PartitionKey {
        partition_of(self.cgroup.as_deref())
    }
}
