//! The processes behind a partition's records, as a tree.
//!
//! A process stands where it was first seen: its parent may end later and leave it to another. Whatever the
//! records say, each process gets one parent that was there before it, so that the tree has no cycle.

use super::{Html, ReportOptions, left_out};
use cgpath_evidence::{EventKind, Record, record::ExeSource};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

/// Deeper levels are not shown: browsers nest elements to some hundreds only.
const MAX_DEPTH: usize = 64;
/// Executables shown of one process.
const MAX_EXES: usize = 6;

/// Start time and thread group id: unique within a boot.
type Key = (u64, u32);

#[derive(Default)]
struct Process<'a> {
    /// What it executed, one after the other.
    exes: Vec<(&'a [u8], ExeSource)>,
    children: Vec<Key>,
    measured: u64,
    executed: u64,
    named: bool,
    /// Its own ancestors are not known.
    cut: bool,
}

pub(super) fn section(page: &mut Html, records: &[Record], named: &BTreeSet<u64>, options: &ReportOptions) {
    let mut processes: BTreeMap<Key, Process<'_>> = BTreeMap::new();
    let mut roots: Vec<Key> = Vec::new();
    for record in records {
        let mut parent: Option<Key> = None;
        for (level, ancestor) in record.ancestry.iter().enumerate().rev() {
            let key = (ancestor.start_ns, ancestor.tgid);
            if let Entry::Vacant(place) = processes.entry(key) {
                let cut = parent.is_none() && record.ancestry_cut;
                place.insert(Process {
                    cut,
                    ..Process::default()
                });
                match parent.and_then(|p| processes.get_mut(&p)) {
                    Some(parent) => parent.children.push(key),
                    None => roots.push(key),
                }
            }
            if let Some(process) = processes.get_mut(&key) {
                let exe = (ancestor.exe.as_slice(), ancestor.source);
                if process.exes.last() != Some(&exe) {
                    process.exes.push(exe);
                }
                if level == 0 {
                    match record.kind {
                        EventKind::Entry | EventKind::Violation => process.measured += 1,
                        _ => process.executed += 1,
                    }
                    process.named |= named.contains(&record.seq);
                }
            }
            parent = Some(key);
        }
    }
    if processes.is_empty() {
        return;
    }
    // What a finding points at is open from the start.
    let open = processes.values().any(|p| p.named);
    page.raw(if open {
        "<details open><summary>Ancestry of "
    } else {
        "<details><summary>Ancestry of "
    });
    page.counted(processes.len() as u64, "process", "processes");
    page.raw("</summary><div class=\"scroll\"><ul class=\"tree\">\n");
    // Not recursive: how deep it goes is the evidence's choice.
    enum Step {
        Show(Key, usize),
        Close,
    }
    let mut steps: Vec<Step> = roots.iter().rev().map(|k| Step::Show(*k, 0)).collect();
    let mut shown = 0;
    while let Some(step) = steps.pop() {
        let (key, depth) = match step {
            Step::Close => {
                page.raw("</ul></li>\n");
                continue;
            }
            Step::Show(key, depth) => (key, depth),
        };
        let Some(process) = processes.get(&key) else {
            continue;
        };
        if shown >= options.processes || depth >= MAX_DEPTH {
            continue;
        }
        shown += 1;
        label(page, key, process);
        if process.children.is_empty() {
            page.raw("</li>\n");
        } else {
            page.raw("<ul>\n");
            steps.push(Step::Close);
            steps.extend(
                process
                    .children
                    .iter()
                    .rev()
                    .map(|child| Step::Show(*child, depth + 1)),
            );
        }
    }
    page.raw("</ul></div>\n");
    left_out(page, processes.len(), shown, "processes", None);
    page.raw("</details>\n");
}

fn label(page: &mut Html, (start_ns, tgid): Key, process: &Process<'_>) {
    page.raw("<li>");
    if process.cut {
        page.raw("<span class=\"tag\">ancestors cut at 32</span> ");
    }
    let skipped = process.exes.len().saturating_sub(MAX_EXES);
    if skipped > 0 {
        page.raw("<span class=\"soft\">… </span>");
    }
    for (i, (exe, source)) in process.exes[skipped..].iter().enumerate() {
        if i > 0 {
            page.raw(" → ");
        }
        if exe.is_empty() {
            page.raw("<i>no executable known</i>");
        } else {
            page.path(exe);
        }
        match source {
            ExeSource::Recorded => {}
            ExeSource::Seeded => {
                page.raw(
                    " <span class=\"tag\" title=\"older than the collector: read from /proc\">seeded</span>",
                );
            }
            ExeSource::Inherited => {
                page.raw(
                    " <span class=\"tag\" title=\"forked, never executed: runs what its parent \
                    ran\">inherited</span>",
                );
            }
            ExeSource::Unknown => {
                page.raw(" <span class=\"tag\">unknown</span>");
            }
        }
    }
    page.raw(" <span class=\"soft\" title=\"started ")
        .text(super::pods::seconds(start_ns))
        .raw(" after the kernel\">")
        .text(tgid);
    page.raw("</span>");
    if process.measured + process.executed > 0 {
        page.raw(" <span class=\"chip seen\">");
        if process.measured > 0 {
            page.number(process.measured).raw(" measured");
        }
        if process.executed > 0 {
            page.raw(if process.measured > 0 { ", " } else { "" })
                .number(process.executed)
                .raw(" executed");
        }
        page.raw("</span>");
    }
    if process.named {
        page.raw(" <span class=\"chip untrusted\">✗ named by a finding</span>");
    }
}
