//! V9 for pods in which a program ran that runs others out of the kernel's sight.
//!
//! Not here: which programs these are (see `cgpath_policy::is_opaque`).

use crate::results::finding::{Finding, Subject};
use crate::rules::Rule;
use cgpath_evidence::PartitionKey;
use cgpath_policy::Policy;

/// The finding on the use of the program at this path, if it is opaque and a pod used it.
pub(crate) fn finding(policy: &Policy, key: PartitionKey, path: &[u8]) -> Option<Finding> {
    let PartitionKey::Pod(uid) = key else { return None };
    if !cgpath_policy::is_opaque(path) {
        return None;
    }
    let text =
        "opaque: this program runs others out of the kernel's sight, so nobody knows what ran in the pod";
    let subject = Subject::Partition(key);
    Some(if policy.trusts_opaque(&uid) {
        Finding::tolerated(Rule::PodContents, subject, text)
    } else {
        Finding::fail(Rule::PodContents, subject, text).expected("opaque: trust, in the policy of this pod")
    })
}
