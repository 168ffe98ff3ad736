//! V9 for pods in which a program ran that runs others out of the kernel's sight, and for those of which
//! nothing was seen.
//!
//! Not here: which programs these are (see `cgpath_policy::is_opaque`).

use crate::results::finding::{Finding, Subject};
use crate::rules::Rule;
use cgpath_evidence::PartitionKey;
use cgpath_policy::Policy;

/// The finding on the use of the program at this path, if it is opaque and a pod used it.
pub(crate) fn finding(policy: &Policy, key: PartitionKey, path: &[u8]) -> Option<Finding> {
    let PartitionKey::Pod(uid) = key else { return None };
    of_path(Subject::Partition(key), path, policy.trusts_opaque(&uid), "")
}

/// The same, where the policy trusts it or not. `label` stands before the text.
pub(crate) fn of_path(subject: Subject, path: &[u8], is_trusted: bool, label: &str) -> Option<Finding> {
    if !cgpath_policy::is_opaque(path) {
        return None;
    }
    let text = format!(
        "{label}opaque: this program runs others out of the kernel's sight, so nobody knows what ran in the \
         pod"
    );
    Some(if is_trusted {
        Finding::tolerated(Rule::PodContents, subject, text)
    } else {
        Finding::fail(Rule::PodContents, subject, text).expected("opaque: trust, in the policy of this pod")
    })
}

/// What to say of a pod of which nothing is recorded but what the container runtime calls it. A virtual
/// machine's monitor can run outside of the pod's directory: Kata's does unless `sandbox_cgroup_only` is set
/// (docs/design/host-cgroups.md of Kata Containers). A pod that is just being made looks the same.
pub(crate) fn unseen(subject: Subject, is_trusted: bool) -> Finding {
    let text = "opaque, or not begun: the container runtime has named this pod, and the kernel saw nothing \
                run in it";
    if is_trusted {
        Finding::tolerated(Rule::PodContents, subject, text)
    } else {
        Finding::note(Rule::PodContents, subject, text).expected("opaque: trust, in the policy of this pod")
    }
}
