//! Whether the keys of a policy that are about anchors go together, of a node's and of a tenant's.
//!
//! Promise: a key that nothing judges is named, as is one that is missing, with what to do. Not here: each
//! key's own form.

use super::{NodePolicy, PaddedBanks};
use crate::anchor::Anchor;
use crate::tdx::NodeKeyPolicy;

/// A key that does not fit the others: which, what is wrong, and what to do.
pub(crate) type Misfit = (&'static str, &'static str, &'static str);

/// The first key that nothing judges, or that lacks another.
pub(crate) fn misfit(node: &NodePolicy) -> Option<Misfit> {
    let anchors = &node.accept.anchors;
    let has_pcr = anchors.contains(&Anchor::Pcr10);
    let has_rtmr = anchors.iter().any(|anchor| anchor.rtmr().is_some());
    const NOT_PCR: &str = "leave it out, or name pcr-10 in `accept.anchors`";
    let unchecked = "nothing judges it: `accept.anchors` does not name pcr-10";
    let of_pcr = [
        ("accept.banks", !node.accept.banks.is_empty()),
        ("boot", node.boot.is_some()),
        ("dangerous-boot-not-judged", node.dangerous_boot_not_judged),
        ("padded-banks", node.padded_banks == PaddedBanks::Report),
        ("kexec", node.kexec.is_allowed()),
    ];
    if has_pcr && node.accept.banks.is_empty() {
        return Some((
            "accept.banks",
            "it is not there, and `accept.anchors` names pcr-10",
            "name the banks that must be quoted",
        ));
    }
    if let Some((key, _)) = of_pcr.into_iter().find(|(_, is_there)| !has_pcr && *is_there) {
        return Some((key, unchecked, NOT_PCR));
    }
    let tdx = match (&node.tdx, has_rtmr) {
        (None, false) => return None,
        (None, true) => {
            return Some((
                "tdx",
                "it is not there, and `accept.anchors` names a register of a trust domain",
                "say what the domain must be (`cgpath policy from-boot` makes it)",
            ));
        }
        (Some(_), false) => {
            return Some((
                "tdx",
                "nothing judges it: `accept.anchors` names no register of a trust domain",
                "leave it out, or name rtmr-3 in `accept.anchors`",
            ));
        }
        (Some(tdx), true) => tdx,
    };
    let is_per_boot = tdx.key == NodeKeyPolicy::PerBoot;
    match (tdx.boot.is_some(), tdx.dangerous_boot_not_judged) {
        (true, true) => {
            return Some((
                "tdx.dangerous-boot-not-judged",
                "the policy also says what the boot must be",
                "leave out one of `tdx.boot` and `tdx.dangerous-boot-not-judged`",
            ));
        }
        (false, false) => {
            return Some((
                "tdx.boot",
                "it is not there, so that RTMR 0 to 2 are not judged",
                "let `cgpath policy from-boot` make it, or say `dangerous-boot-not-judged: true` within \
                 `tdx`",
            ));
        }
        _ => {}
    }
    if is_per_boot && !tdx.pins_boot() {
        return Some((
            "tdx.key",
            "a new key is accepted where MRTD and RTMR 0 to 2 are as pinned, and `tdx.boot.registers` does \
             not have each of these",
            "name values for 0, 1 and 2 in `tdx.boot.registers`",
        ));
    }
    if is_per_boot && tdx.platforms.is_none() && !tdx.dangerous_any_platform {
        return Some((
            "tdx.key",
            "a copy of the node's disk on another host would be a new boot of this node",
            "name `tdx.platforms`, or say `dangerous-any-platform: true`",
        ));
    }
    if tdx.dangerous_any_platform && (!is_per_boot || tdx.platforms.is_some()) {
        return Some((
            "tdx.dangerous-any-platform",
            "nothing asks for it: it is for `key: per-boot` without `platforms`",
            "leave it out",
        ));
    }
    None
}

/// The same of a tenant's policy, whose `banks`, `anchor` and `tdx` are those of `node`.
pub(crate) fn misfit_of_tenant(node: &NodePolicy) -> Option<Misfit> {
    let has_rtmr = node.accept.anchors.iter().any(|anchor| anchor.rtmr().is_some());
    let missing = match (has_rtmr, node.accept.banks.is_empty(), &node.tdx) {
        (false, true, _) => Some((
            "banks",
            "it is not there, and the anchor is pcr-10",
            "name the banks that must be quoted",
        )),
        (true, false, _) => Some((
            "banks",
            "nothing judges it: the anchor is a register of a trust domain",
            "leave it out",
        )),
        (false, _, Some(_)) => Some((
            "tdx",
            "nothing judges it: the anchor is pcr-10",
            "leave it out, or say `anchor: rtmr-3`",
        )),
        (true, _, None) => Some((
            "tdx",
            "it is not there, and the anchor is a register of a trust domain",
            "say what the domain must be: `mrtd`, `attributes` and `xfam`",
        )),
        _ => None,
    };
    if missing.is_some() {
        return missing;
    }
    let tdx = node.tdx.as_ref()?;
    let left = |key| {
        (
            key,
            "nothing judges it in a tenant's policy: the boot and the node's key are a full verifier's",
            "leave it out",
        )
    };
    let unjudged: [(bool, Misfit); 5] = [
        (tdx.boot.is_some(), left("tdx.boot")),
        (
            tdx.dangerous_boot_not_judged,
            left("tdx.dangerous-boot-not-judged"),
        ),
        (tdx.key == NodeKeyPolicy::PerBoot, left("tdx.key")),
        (tdx.dangerous_any_platform, left("tdx.dangerous-any-platform")),
        (
            !tdx.rtmr_writers.is_empty(),
            (
                "tdx.rtmr-writers",
                "nothing judges it in a tenant's policy: a bundle does not show what others say in the log",
                "name the digests in `tdx.rtmr-extensions`",
            ),
        ),
    ];
    let (_, misfit) = unjudged.into_iter().find(|(is_there, _)| *is_there)?;
    Some(misfit)
}
