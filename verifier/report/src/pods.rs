//! Each pod: its state and why, its files, its records, its processes.

use super::{
    AllIdentified, Html, Identified, ReportOptions, Round, chip, findings, left_out, provenance,
    rounds::pod_name, state_class, tree, with_evidence,
};
use cgpath_appraisal::{Deviation, Finding, LeftOut, PodVerdict, SeenFile, State};
use cgpath_evidence::{
    Bank, Digest, Entry, EventKind, Evidence, FileHash, Loaded, PartitionKey, Record, list::ListEntry,
};
use std::collections::{BTreeSet, HashMap};

/// -EEXIST: the list has this entry already.
const EEXIST: i32 = -17;

/// Contents of files by the template digest of their entry, for records of entries.
pub(super) struct Contents(HashMap<Digest, Digest>);

impl Contents {
    /// What the list of `evidence` says. Redacted entries and those of other shapes say nothing.
    pub(super) fn of(evidence: &Evidence) -> Contents {
        let mut wanted: BTreeSet<Bank> = BTreeSet::new();
        for log in &evidence.partitions {
            wanted.extend(log.records.iter().filter_map(template).map(Digest::bank));
        }
        let mut contents = HashMap::new();
        for (index, entry) in evidence.list.iter().enumerate() {
            let Entry::Full(record) = entry else { continue };
            let Ok(entry) = ListEntry::from_canonical(index as u64, record.as_slice()) else {
                continue;
            };
            let Some(content) = entry.file_digest().and_then(|d| d.digest()) else {
                continue;
            };
            for bank in &wanted {
                contents.insert(entry.template_digest(*bank), content.clone());
            }
        }
        Contents(contents)
    }
}

/// The digest by which a record's entry is looked up and shown.
fn template(record: &Record) -> Option<&Digest> {
    record
        .digests
        .iter()
        .find(|d| d.bank() == Bank::Sha256)
        .or(record.digests.first())
}

pub(super) fn section(
    page: &mut Html,
    rounds: &[Round<'_>],
    identified: &AllIdentified,
    options: &ReportOptions,
) {
    page.raw("<h2 id=\"pods\">Pods</h2>\n");
    // Each pod as it was last seen.
    let mut seen = BTreeSet::new();
    let mut pods: Vec<(usize, &PodVerdict)> = Vec::new();
    for (i, round) in rounds.iter().enumerate().rev() {
        for pod in &round.verdict.pods {
            if seen.insert(pod.uid) {
                pods.push((i, pod));
            }
        }
    }
    if pods.is_empty() {
        page.raw("<p class=\"card soft\">No pods were seen.</p>\n");
    }
    // What needs attention first, then by name.
    let rank = |s: State| match s {
        State::Unknown => 0,
        State::Untrusted => 1,
        State::PredatesCollector => 2,
        State::Pending => 3,
        State::Trusted => 4,
    };
    pods.sort_by_key(|(_, pod)| (rank(pod.state), pod_name(pod), pod.uid));
    // One list for each round that is shown, mostly the last one alone.
    let mut contents: HashMap<usize, Contents> = HashMap::new();
    for (i, pod) in pods {
        let gone = (i + 1 < rounds.len()).then_some(i + 1);
        let evidence = with_evidence(rounds, i);
        if let Some((at, evidence)) = evidence {
            contents.entry(at).or_insert_with(|| Contents::of(evidence));
        }
        let known = evidence.and_then(|(at, evidence)| Some((evidence, contents.get(&at)?)));
        let node = &rounds[i].verdict.node.name;
        let identified = identified.get(&pod.uid).map(Vec::as_slice);
        one(page, node, pod, identified, gone, known, options);
    }
}

/// The containers of a pod of this node, as rows of a list of facts, and what the index of images says of
/// them; where it was not looked up, how to. Of a pod without containers, nothing.
pub fn containers(page: &mut Html, node: &str, pod: &PodVerdict, identified: Option<&[Identified]>) {
    if !pod.containers.is_empty() {
        page.raw("<dt>Containers</dt><dd>");
        for container in &pod.containers {
            chip(page, container.state, false);
            page.raw(" ").text(container).raw("<br>");
        }
        let (shown, more) = (pod.containers.len(), pod.left_out.containers);
        left_out(
            page,
            shown.saturating_add(more as usize),
            shown,
            "containers",
            None,
        );
        page.raw("<span class=\"tag\">names are enriched</span></dd>");
    }
    match identified {
        Some(parts) => {
            page.raw("<dt>By the files</dt><dd>");
            for part in parts {
                page.raw(if part.is_clean {
                    "<span class=\"yes\">✓</span> "
                } else {
                    "<span class=\"no\">✗</span> "
                })
                .text(&part.text)
                .raw("<br>");
            }
            page.raw("</dd>");
        }
        None if !pod.containers.is_empty() => {
            page.raw("<dt>By the files</dt><dd class=\"soft\">not looked up: <code>cgpath identify --pod ")
                .text(pod.uid)
                .raw(" --node ")
                .text(node)
                .raw(" --refs DIR</code> says which image each really runs</dd>");
        }
        None => {}
    }
}

fn one(
    page: &mut Html,
    node: &str,
    pod: &PodVerdict,
    identified: Option<&[Identified]>,
    last_seen: Option<usize>,
    known: Option<(&Evidence, &Contents)>,
    options: &ReportOptions,
) {
    page.raw("<article class=\"card ")
        .raw(state_class(pod.state))
        .raw("\" id=\"pod-")
        .text(pod.uid)
        .raw("\">\n");
    page.raw("<div class=\"head\"><h3>")
        .text(pod_name(pod))
        .raw("</h3>");
    chip(page, pod.state, false);
    if let Some(number) = last_seen {
        page.raw("<span class=\"tag\">last seen in round ")
            .number(number as u64)
            .raw("</span>");
    }
    if pod.learned {
        page.raw("<span class=\"tag\">learned reference values</span>");
    }
    page.raw("</div>\n<dl class=\"facts\"><dt>UID</dt><dd><code>")
        .text(pod.shown_uid())
        .raw("</code></dd>");
    if let Some(stated) = &pod.told {
        page.raw("<dt>Called</dt><dd>")
            .text(stated)
            .raw(" <span class=\"tag\">enriched</span></dd>");
    }
    containers(page, node, pod, identified);
    page.raw("<dt>Seen</dt><dd>")
        .counted(pod.entries, "measurement", "measurements")
        .raw(", ");
    page.counted(pod.executions, "execution or mapping", "executions and mappings")
        .raw(", ");
    page.counted(pod.file_count(), "file", "files");
    if pod.suspect > 0 {
        page.raw(", <span class=\"no\">")
            .number(pod.suspect)
            .raw(" suspect</span>");
    }
    page.raw("</dd><dt>Rests on</dt><dd>")
        .raw(provenance(pod.provenance))
        .raw("</dd></dl>\n");
    findings(page, &pod.findings, options.findings);
    deviations(page, (&pod.fnf, &pod.filehash_err), pod.left_out, options);
    files(page, pod, options);
    match known {
        Some((evidence, contents)) => {
            let records = evidence.records(PartitionKey::Pod(pod.uid));
            partition(page, records, &pod.findings, contents, options);
        }
        None => {
            page.raw("<p class=\"more\">The evidence is not kept any more: no records can be shown.</p>\n");
        }
    }
    page.raw("</article>\n");
}

/// The two lists of what is not as the reference values have it: unknown paths, and known ones with another
/// content.
pub(super) fn deviations(
    page: &mut Html,
    (fnf, filehash_err): (&[Deviation], &[Deviation]),
    more: LeftOut,
    options: &ReportOptions,
) {
    for (list, more, name, what) in [
        (fnf, more.fnf, "fnf", "no reference value has a file there"),
        (
            filehash_err,
            more.filehash_err,
            "filehash_err",
            "the content is another one",
        ),
    ] {
        if list.is_empty() {
            continue;
        }
        page.raw("<details><summary><code>").raw(name).raw("</code>: ");
        let all = list.len() as u64 + more;
        page.counted(all, "file", "files");
        page.raw(", ").raw(what).raw("</summary><ul>\n");
        for deviation in list.iter().take(options.files) {
            page.raw("<li>").path(&deviation.path);
            page.raw(" <code class=\"hash\">")
                .text(&deviation.digest)
                .raw("</code></li>\n");
        }
        page.raw("</ul>\n");
        let shown = list.len().min(options.files);
        left_out(page, list.len() + more as usize, shown, "files", None);
        page.raw("</details>\n");
    }
}

fn files(page: &mut Html, pod: &PodVerdict, options: &ReportOptions) {
    let files = &pod.files;
    if files.is_empty() {
        return;
    }
    let refused = files.iter().filter(|f| !f.accepted).count();
    page.raw(if refused > 0 {
        "<details open><summary>"
    } else {
        "<details><summary>"
    });
    page.counted(pod.file_count(), "file", "files");
    if refused > 0 {
        page.raw(", ").number(refused as u64).raw(" not accepted");
    }
    page.raw("</summary><div class=\"scroll\"><table><thead><tr><th>Path</th><th>Content</th>");
    page.raw(
        "<th class=\"n\">Measured</th><th class=\"n\">Executed</th><th>Policy</th></tr></thead><tbody>\n",
    );
    let mut sorted: Vec<&SeenFile> = files.iter().collect();
    sorted.sort_by_key(|f| f.accepted);
    for file in sorted.iter().take(options.files) {
        page.raw(if file.accepted {
            "<tr><td>"
        } else {
            "<tr class=\"bad\"><td>"
        })
        .path(&file.path)
        .raw("</td><td>");
        match &file.digest {
            Some(digest) => page.raw("<code class=\"hash\">").text(digest).raw("</code>"),
            None => page.raw("<span class=\"no\">no hash</span>"),
        };
        page.raw("</td><td class=\"n\">")
            .number(file.entries)
            .raw("</td><td class=\"n\">")
            .number(file.executions);
        page.raw(match (file.accepted, file.excluded) {
            (true, true) => "</td><td class=\"nowrap no\">excluded, not judged</td></tr>\n",
            (true, false) => "</td><td class=\"nowrap yes\">accepted</td></tr>\n",
            (false, _) => "</td><td class=\"nowrap no\">not accepted</td></tr>\n",
        });
    }
    page.raw("</tbody></table></div>\n");
    let shown = files.len().min(options.files);
    left_out(
        page,
        files.len() + pod.left_out.files as usize,
        shown,
        "files",
        None,
    );
    page.raw("</details>\n");
}

/// The records and the processes of one partition.
pub(super) fn partition(
    page: &mut Html,
    records: &[Record],
    findings: &[Finding],
    contents: &Contents,
    options: &ReportOptions,
) {
    if records.is_empty() {
        return;
    }
    let named: BTreeSet<u64> = findings.iter().filter_map(|f| f.seq).collect();
    // The first ones, and in any case those that a finding names, as far as findings are shown.
    let mut shown: Vec<&Record> = records.iter().take(options.records).collect();
    let later = records.iter().skip(options.records);
    shown.extend(later.filter(|r| named.contains(&r.seq)).take(options.findings));
    page.raw("<details><summary>")
        .counted(records.len() as u64, "record", "records")
        .raw("</summary>");
    page.raw(
        "<div class=\"scroll\"><table><thead><tr><th class=\"n\">Record</th><th \
        class=\"n\">Time</th><th>What</th>",
    );
    page.raw(
        "<th>Path</th><th>Content</th><th>Process</th><th class=\"n\">User</th><th>Rests \
        on</th></tr></thead><tbody>\n",
    );
    for record in &shown {
        row(page, record, named.contains(&record.seq), contents);
    }
    page.raw("</tbody></table></div>\n");
    left_out(page, records.len(), shown.len(), "records", None);
    cgroups(page, records);
    page.raw("</details>\n");
    tree::section(page, records, &named, options);
}

fn row(page: &mut Html, record: &Record, named: bool, contents: &Contents) {
    page.raw(if named {
        "<tr class=\"bad\"><td class=\"n\">"
    } else {
        "<tr><td class=\"n\">"
    })
    .number(record.seq);
    page.raw("</td><td class=\"n\" title=\"since the kernel started\">")
        .text(seconds(record.boot_ns))
        .raw("</td><td class=\"nowrap\">");
    page.raw(match record.kind {
        EventKind::Entry => "entry",
        EventKind::Violation => "violation",
        EventKind::Execution => "execution",
        EventKind::Script => "script",
        EventKind::Mapping => "mapping",
        EventKind::LateMapping => "late mapping",
        EventKind::Guard => "guard",
        EventKind::PodLoss => "not recorded",
        EventKind::LayerWrite => "write below an overlay",
        EventKind::Name => "named",
        EventKind::Load => "handed to the kernel",
    });
    match record.ret {
        0 => {}
        EEXIST if record.kind == EventKind::Entry => {
            page.raw(
                " <span class=\"tag\" title=\"-EEXIST: the list has this entry already\">already \
                listed</span>",
            );
        }
        error => {
            page.raw(" <span class=\"tag\">error ").text(error).raw("</span>");
        }
    }
    page.raw("</td><td>");
    match (&record.name, &record.load) {
        (Some(named), _) => page.text(named),
        (None, Some(load)) => page.text(match load.what {
            Loaded::Module => "a module, as bytes",
            Loaded::Kexec => "a kernel, as bytes",
        }),
        (None, None) => page.path(&record.path),
    };
    if record.path_cut {
        page.raw(" <span class=\"tag\">cut</span>");
    }
    if record.writable {
        page.raw(
            " <span class=\"tag\" title=\"what ran there need not be the file's content\">writable</span>",
        );
    }
    page.raw("</td><td class=\"nowrap\">");
    match (&record.hash, template(record)) {
        (Some(FileHash::Measured(digest)), _) => page.short_digest(digest),
        (Some(FileHash::PreCheck(digest)), _) => page
            .short_digest(digest)
            .raw(" <span class=\"tag\" title=\"taken before IMA’s own turn\">pre-check</span>"),
        (Some(FileHash::Unhashed(error)), _) => page
            .raw("<span class=\"no\">no hash</span> (")
            .text(error)
            .raw(")"),
        (None, Some(template)) if contents.0.contains_key(template) => {
            page.short_digest(&contents.0[template])
        }
        (None, Some(template)) => page
            .short_digest(template)
            .raw(" <span class=\"tag\" title=\"digest of the entry’s template data\">template</span>"),
        (None, None) => page.raw("–"),
    };
    page.raw("</td><td>");
    match record.ancestry.first() {
        Some(process) => page
            .path(&process.exe)
            .raw(" <span class=\"soft\">")
            .text(record.pid)
            .raw("</span>"),
        None => page.raw("<span class=\"soft\">").text(record.pid).raw("</span>"),
    };
    page.raw("</td><td class=\"n\">").text(record.uid);
    let rests_on = if record.name.is_some() {
        "enriched"
    } else {
        "observed"
    };
    page.raw("</td><td>").raw(rests_on).raw("</td></tr>\n");
}

/// The control groups that the records name.
fn cgroups(page: &mut Html, records: &[Record]) {
    const SHOWN: usize = 20;
    let paths: BTreeSet<Option<&[u8]>> = records.iter().map(|r| r.cgroup.as_deref()).collect();
    page.raw("<p class=\"small soft\">Control groups: ");
    for (i, path) in paths.iter().take(SHOWN).enumerate() {
        page.raw(if i > 0 { ", " } else { "" });
        match path {
            Some(path) => page.path(path),
            None => page.raw("<span class=\"no\">unknown</span>"),
        };
    }
    page.raw("</p>\n");
    left_out(page, paths.len(), SHOWN, "control groups", None);
}

/// Nanoseconds as seconds with three places.
pub(super) fn seconds(ns: u64) -> String {
    format!("{}.{:03} s", ns / 1_000_000_000, ns / 1_000_000 % 1_000)
}
