//! What evidence and verdict of each stage of the demo must show, beside the states.
//!
//! Promise: each check has what was found. Not here: the stages (see `demo`).

use crate::demo::{Check, PAYROLL, Stage, TOOL, key, tool, uid};
use crate::scenario::Round;
use cgpath_appraisal::{Rule, Severity};
use cgpath_evidence::{EventKind, Evidence, FileHash, Record, Tier};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;

/// `EEXIST`, negative, as the kernel's function returns it.
const EEXIST: i32 = -17;

fn entries(records: &[Record]) -> impl Iterator<Item = &Record> {
    records.iter().filter(|r| r.kind == EventKind::Entry)
}

/// A and B: both partitions show every file. A stock kernel keeps one entry for each, which both have; with
/// our template the tag is part of what is compared, so each pod has an entry of its own.
pub(crate) fn same_image(evidence: &Evidence, stage: &mut Stage) {
    let (a, b) = (evidence.records(key("A")), evidence.records(key("B")));
    let paths =
        |records: &[Record]| -> BTreeSet<Vec<u8>> { entries(records).map(|r| r.path.clone()).collect() };
    let (in_a, in_b) = (paths(a), paths(b));
    for file in ["/bin/busybox", "/app/start.sh", "/app/prices", "/app/server"] {
        let both = in_a.contains(file.as_bytes()) && in_b.contains(file.as_bytes());
        let found = format!(
            "A {}, B {}",
            in_a.contains(file.as_bytes()),
            in_b.contains(file.as_bytes())
        );
        stage.checks.push(Check::new(
            format!("{file} stands in both partitions"),
            both,
            found,
        ));
        let first = entries(a).find(|r| r.path == file.as_bytes() && r.ret == 0);
        let second = entries(b).find(|r| r.path == file.as_bytes());
        let as_must_be = match (evidence.tier, first, second) {
            (Tier::Bpf, Some(first), Some(second)) => second.ret == EEXIST && second.digests == first.digests,
            (Tier::Kernel, Some(first), Some(second)) => second.ret == 0 && second.digests != first.digests,
            _ => false,
        };
        let what = match evidence.tier {
            Tier::Bpf => format!("IMA kept A's entry of {file} and refused B's with -EEXIST"),
            Tier::Kernel => format!("IMA kept A's entry of {file} and B's"),
        };
        stage.checks.push(Check::new(
            what,
            as_must_be,
            format!("A {:?}, B {:?}", first.map(|r| r.ret), second.map(|r| r.ret)),
        ));
    }
    let refused = entries(b).filter(|r| r.ret == EEXIST).count();
    let kept = match evidence.tier {
        Tier::Bpf => format!("the kernel kept one entry for each and answered -EEXIST for B {refused} times"),
        Tier::Kernel => "the kernel kept an entry for each in each pod".to_owned(),
    };
    stage.learned.push(format!(
        "A and B: {} files of the same images; {kept}; both partitions show every file",
        in_a.intersection(&in_b).count()
    ));
}

/// C: an execution with its hash, and no entry at all.
pub(crate) fn same_inode(evidence: &Evidence, stage: &mut Stage) {
    let hash = hex::encode(Sha256::digest(tool()));
    let c = evidence.records(key("C"));
    let ran = c
        .iter()
        .find(|r| r.kind == EventKind::Execution && r.path == TOOL.as_bytes());
    let found = match ran.and_then(|r| r.hash.as_ref()) {
        Some(FileHash::Measured(digest)) => digest.to_string(),
        other => format!("{other:?}"),
    };
    stage.checks.push(Check::new(
        format!("C's partition has the execution of {TOOL} with its hash"),
        found == format!("sha256:{hash}"),
        found.clone(),
    ));
    let tried = entries(c).filter(|r| r.path == TOOL.as_bytes()).count();
    stage.checks.push(Check::new(
        "IMA did not even try an entry for C",
        tried == 0,
        format!("{tried} tries"),
    ));
    let first = entries(evidence.records(key("A"))).any(|r| r.path == TOOL.as_bytes() && r.ret == 0);
    stage.checks.push(Check::new(
        "A's entry of the same file is in the list",
        first,
        String::new(),
    ));
    stage.learned.push(format!(
        "C: {TOOL} ran there; IMA knew the inode and stayed silent; the record has {found}"
    ));
}

/// D: the path, the hash found and the hash expected.
pub(crate) fn replaced(round: &Round, evil: &str, good: &str, stage: &mut Stage) {
    let pod = round.verdict.pods.iter().find(|p| p.uid.to_string() == uid("D"));
    let finding = pod.and_then(|pod| {
        pod.findings.iter().find(|f| {
            f.severity == Severity::Fail
                && f.path.as_deref() == Some(PAYROLL.as_bytes())
                && f.found.as_deref().is_some_and(|found| found.contains(evil))
                && f.expected.iter().any(|expected| expected.contains(good))
        })
    });
    stage.checks.push(Check::new(
        format!("the verdict names {PAYROLL}, the hash found and the hash expected"),
        finding.is_some(),
        pod.map(|p| {
            p.findings
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(" / ")
        })
        .unwrap_or_default(),
    ));
    stage.learned.push(format!("D: {PAYROLL}"));
    stage.learned.push(format!("   found    sha256:{evil}"));
    stage.learned.push(format!("   expected sha256:{good}"));
    stage
        .learned
        .push("   A, B, C and the node stay trusted".to_owned());
}

/// E: the node's finding names the pod.
pub(crate) fn stranger(round: &Round, stage: &mut Stage) {
    let uid = uid("E");
    let finding = round.verdict.node.findings.iter().find(|f| {
        f.rule == Rule::KnownPods
            && f.severity == Severity::Fail
            && (f.text.contains(&uid) || f.found.as_deref().is_some_and(|found| found.contains(&uid)))
    });
    stage.checks.push(Check::new(
        format!("the node's finding names pod {uid}"),
        finding.is_some(),
        round
            .verdict
            .node
            .findings
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" / "),
    ));
    stage.learned.push(format!(
        "E: the node is untrusted, since pod {uid} is in no policy"
    ));
}
