//! The table of verdicts over time, and what changed from one round to the next.

use super::{Html, ReportOptions, Round, left_out, state_class, state_sign};
use cgpath_appraisal::{Finding, PodVerdict, Severity, State, text::utc};
use cgpath_evidence::PodUid;
use std::collections::{BTreeMap, BTreeSet};

/// What a round says of one row: its state and the first reason for it; nothing where the row is not in it.
type CellOf<'a> = dyn Fn(&Round<'_>) -> Option<(State, Option<Finding>)> + 'a;

/// What people call a pod, and its UID in any case.
pub(super) fn pod_name(pod: &PodVerdict) -> String {
    match (&pod.name, &pod.told) {
        (Some(name), _) => name.clone(),
        (None, Some(stated)) => format!("unknown pod, called {stated}"),
        (None, None) => "unknown pod".to_owned(),
    }
}

/// A column of the table.
enum Column {
    /// A round, by its index.
    Round(usize),
    /// So many rounds that are left out.
    Gap(usize),
}

/// The rounds to show: around each change first, then the latest ones, at most `limit`.
fn columns(rounds: &[Round<'_>], limit: usize) -> Vec<Column> {
    fn states<'a>(round: &'a Round<'_>) -> impl Iterator<Item = (Option<PodUid>, State)> + 'a {
        let pods = round.verdict.pods.iter().map(|p| (Some(p.uid), p.state));
        core::iter::once((None, round.verdict.node.state)).chain(pods)
    }
    let mut shown: BTreeSet<usize> = BTreeSet::new();
    for i in (0..rounds.len()).rev() {
        let changed = i == 0 || !states(&rounds[i]).eq(states(&rounds[i - 1]));
        if changed && shown.len() < limit {
            shown.insert(i);
        }
        if changed && i > 0 && shown.len() < limit {
            shown.insert(i - 1);
        }
    }
    for i in (0..rounds.len()).rev() {
        if shown.len() >= limit {
            break;
        }
        shown.insert(i);
    }
    let mut columns = Vec::new();
    let mut next = 0;
    for i in shown {
        if i > next {
            columns.push(Column::Gap(i - next));
        }
        columns.push(Column::Round(i));
        next = i + 1;
    }
    if next < rounds.len() {
        columns.push(Column::Gap(rounds.len() - next));
    }
    columns
}

pub(super) fn section(page: &mut Html, rounds: &[Round<'_>], options: &ReportOptions) {
    let columns = columns(rounds, options.rounds.max(1));
    // Pods in the order in which they were first seen.
    let mut pods: Vec<PodUid> = Vec::new();
    let mut seen: BTreeMap<PodUid, &PodVerdict> = BTreeMap::new();
    for round in rounds {
        for pod in &round.verdict.pods {
            if seen.insert(pod.uid, pod).is_none() {
                pods.push(pod.uid);
            }
        }
    }
    page.raw("<h2 id=\"time\">Verdicts over time</h2>\n<section class=\"card\">\n");
    page.raw("<div class=\"scroll\"><table class=\"rounds\"><thead><tr><th class=\"who\"></th>");
    let mut day = String::new();
    for column in &columns {
        let index = match column {
            Column::Gap(n) => {
                page.raw("<th class=\"round\" title=\"").number(*n as u64);
                page.raw(" rounds left out: nothing changed in them, or too much to show\"><b>…</b>")
                    .number(*n as u64);
                page.raw("<br>left out</th>");
                continue;
            }
            Column::Round(index) => *index,
        };
        let time = utc(rounds[index].time);
        let (date, clock) = time.split_once(' ').unwrap_or((&time, ""));
        page.raw("<th class=\"round\" scope=\"col\"><b>")
            .number((index + 1) as u64)
            .raw("</b>")
            .text(clock);
        if day != date {
            page.raw("<br>").text(date);
            day = date.to_owned();
        }
        page.raw("</th>");
    }
    page.raw("</tr></thead><tbody>\n<tr class=\"node\"><th class=\"who\" scope=\"row\">Node</th>");
    let row = |page: &mut Html, of: &CellOf<'_>| {
        for column in &columns {
            match column {
                Column::Round(index) => cell(page, index + 1, of(&rounds[*index])),
                Column::Gap(_) => {
                    page.raw("<td class=\"soft\">…</td>");
                }
            }
        }
        page.raw("</tr>\n");
    };
    row(page, &|round| {
        Some((
            round.verdict.node.state,
            reason(&round.verdict.node.findings).cloned(),
        ))
    });
    for uid in pods {
        let Some(pod) = seen.get(&uid) else { continue };
        page.raw("<tr><th class=\"who\" scope=\"row\"><a href=\"#pod-")
            .text(uid)
            .raw("\">")
            .text(pod_name(pod))
            .raw("</a></th>");
        row(page, &|round| {
            round
                .verdict
                .pod(uid)
                .map(|p| (p.state, reason(&p.findings).cloned()))
        });
    }
    page.raw("</tbody></table></div>\n");
    changes(page, rounds, options);
    page.raw("</section>\n");
}

fn reason(findings: &[Finding]) -> Option<&Finding> {
    findings.iter().find(|f| f.severity == Severity::Fail)
}

fn cell(page: &mut Html, number: usize, verdict: Option<(State, Option<Finding>)>) {
    match verdict {
        Some((state, reason)) => {
            page.raw("<td><span class=\"cell ")
                .raw(state_class(state))
                .raw("\" title=\"round ")
                .number(number as u64);
            page.raw(": ").text(state);
            if let Some(finding) = reason {
                page.raw(", ").text(finding.rule).raw(": ").text(&finding.text);
            }
            page.raw("\">").raw(state_sign(state)).raw("</span></td>");
        }
        None => {
            page.raw("<td><span class=\"cell\" title=\"round ")
                .number(number as u64)
                .raw(": not there\">–</span></td>");
        }
    }
}

/// One change of one subject.
struct Change<'a> {
    round: usize,
    time: u64,
    who: String,
    uid: Option<PodUid>,
    before: Option<State>,
    after: State,
    reason: Option<&'a Finding>,
}

fn changes(page: &mut Html, rounds: &[Round<'_>], options: &ReportOptions) {
    let mut found: Vec<Change<'_>> = Vec::new();
    let mut states: BTreeMap<Option<PodUid>, State> = BTreeMap::new();
    for (i, round) in rounds.iter().enumerate() {
        let verdict = round.verdict;
        let subjects = core::iter::once((
            None,
            "Node".to_owned(),
            verdict.node.state,
            &verdict.node.findings,
        ))
        .chain(
            verdict
                .pods
                .iter()
                .map(|p| (Some(p.uid), pod_name(p), p.state, &p.findings)),
        );
        for (uid, who, after, findings) in subjects {
            let before = states.insert(uid, after);
            if before != Some(after) {
                found.push(Change {
                    round: i + 1,
                    time: round.time,
                    who,
                    uid,
                    before,
                    after,
                    reason: reason(findings),
                });
            }
        }
    }
    // What was good from the first is not news.
    found.retain(|c| c.before.is_some() || c.after != State::Trusted);
    if found.is_empty() {
        page.raw("<p class=\"soft small\">Nothing changed: all were trusted in every round.</p>\n");
        return;
    }
    page.raw("<ol class=\"changes\">\n");
    let skipped = found.len().saturating_sub(options.findings);
    for change in &found[skipped..] {
        page.raw("<li><span class=\"soft\">Round ")
            .number(change.round as u64)
            .raw(", ")
            .text(utc(change.time))
            .raw("</span> ");
        page.raw("<b>");
        match change.uid {
            Some(uid) => page
                .raw("<a href=\"#pod-")
                .text(uid)
                .raw("\">")
                .text(&change.who)
                .raw("</a>"),
            None => page.text(&change.who),
        };
        page.raw("</b> ");
        if let Some(before) = change.before {
            page.text(before).raw(" → ");
        }
        super::chip(page, change.after, false);
        if let Some(finding) = change.reason {
            page.raw("<br><span class=\"small\"><b>")
                .text(finding.rule)
                .raw("</b> ")
                .text(&finding.text);
            if let Some(path) = &finding.path {
                page.raw(" ").path(path);
            }
            page.raw("</span>");
        }
        page.raw("</li>\n");
    }
    page.raw("</ol>\n");
    left_out(page, found.len(), found.len() - skipped, "older changes", None);
}
