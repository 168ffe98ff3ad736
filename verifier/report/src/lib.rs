//! One self-contained HTML page about a node: what was concluded over time, and everything it rests on.
//!
//! Pure: evidence and verdicts in, text out. Promises: the page loads nothing and runs nothing; untrusted
//! text is escaped; what is left out for length is counted on the page. Not here: appraisal, and where files
//! come from.
//!
//! # A page about one round
//!
//! ```
//! use cgpath_report::{ReportOptions, Round, render};
//! # use cgpath_testkit::{KeyKind, NODE, NOW, Node};
//! # let nonce = b"0123456789abcdef";
//! # let mut node = Node::busy(KeyKind::EcdsaP256);
//! # let evidence = node.attest(nonce);
//! # let verdict = cgpath_appraisal::appraise(&evidence, &node.policy(), &node.context(nonce, None))?;
//!
//! let round = Round {
//!     evidence: Some(&evidence),
//!     verdict: &verdict,
//!     time: NOW,
//! };
//! let page = render(&[round], &ReportOptions::new(NOW + 60));
//! assert!(page.starts_with("<!doctype html>") && page.contains(NODE));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

pub mod html;
mod line;
mod node;
mod pods;
mod rounds;
mod tree;

use cgpath_appraisal::accept::WaiverNote;
use cgpath_appraisal::{Finding, Severity, State, Verdict, text::utc};
use cgpath_evidence::{Evidence, PodUid, Provenance};
use html::Html;
pub use pods::containers;
use std::collections::BTreeMap;

/// One request, its answer and what was concluded.
#[derive(Debug, Clone, Copy)]
pub struct Round<'a> {
    /// What the node sent. It may be absent where a later round of the same boot has it: evidence holds all
    /// records of its boot, so that the last one of each boot is enough.
    pub evidence: Option<&'a Evidence>,
    /// What was concluded.
    pub verdict: &'a Verdict,
    /// When, in unix seconds.
    pub time: u64,
}

/// The round that has the evidence for round `at`: itself, the next one of its boot, or the one before.
fn with_evidence<'a>(rounds: &[Round<'a>], at: usize) -> Option<(usize, &'a Evidence)> {
    let boot = rounds.get(at)?.verdict.node.boot_id;
    let of_boot = |i: &usize| rounds[*i].verdict.node.boot_id == boot && rounds[*i].evidence.is_some();
    let found = (at..rounds.len())
        .find(of_boot)
        .or_else(|| (0..at).rev().find(of_boot))?;
    Some((found, rounds[found].evidence?))
}

/// What the index of images says of a container, or of what is outside of all (`cgpath identify`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identified {
    /// For people, on one line.
    pub text: String,
    /// One image has all of it, but for what is the runtime's own, and the runtime names no other.
    pub is_clean: bool,
}

/// The parts of each pod that were asked for.
pub type AllIdentified = BTreeMap<PodUid, Vec<Identified>>;

/// How much is shown.
#[derive(Debug, Clone, Copy)]
pub struct ReportOptions {
    /// When the page is made, in unix seconds.
    pub now: u64,
    /// Records of each partition; those that a finding names are shown in any case.
    pub records: usize,
    /// Files of each pod.
    pub files: usize,
    /// Processes of each partition.
    pub processes: usize,
    /// Findings of each subject.
    pub findings: usize,
    /// Rounds; the last ones.
    pub rounds: usize,
    /// Checkpoints of each boot; the last ones.
    pub checkpoints: usize,
}

impl ReportOptions {
    /// What a browser on a phone still shows well.
    pub fn new(now: u64) -> ReportOptions {
        ReportOptions {
            now,
            records: 500,
            files: 1000,
            processes: 300,
            findings: 200,
            rounds: 60,
            checkpoints: 120,
        }
    }
}

/// The page. `rounds` are of one node, in the order of time; with none the page says so.
pub fn render(rounds: &[Round<'_>], options: &ReportOptions) -> String {
    render_identified(rounds, &AllIdentified::new(), options)
}

/// The same, with what the index of images says of the pods that stand in `identified`; of the others the
/// page says how to ask.
pub fn render_identified(
    rounds: &[Round<'_>],
    identified: &AllIdentified,
    options: &ReportOptions,
) -> String {
    let Some(last) = rounds.last() else {
        let mut page = Html::document("ima-cgpath report", None);
        page.raw("<p class=\"eyebrow\">ima-cgpath report</p><h1>No evidence</h1>")
            .raw("<p class=\"card\">There is no round of evidence to report on.</p>");
        footer(&mut page, options);
        return page.finish_document();
    };
    let node = &last.verdict.node;
    let mut page = Html::document(&format!("{} – ima-cgpath report", node.name), None);
    page.raw("<header>\n<p class=\"eyebrow\">ima-cgpath report</p>\n<div class=\"head\"><h1>Node ")
        .text(&node.name)
        .raw("</h1>");
    chip(&mut page, node.state, true);
    pods_chip(&mut page, last.verdict);
    page.raw("</div>\n<p class=\"soft\">As of ")
        .text(utc(last.time))
        .raw(" UTC, ");
    page.counted(rounds.len() as u64, "round", "rounds")
        .raw(" of evidence");
    if let Some(first) = rounds.first().filter(|_| rounds.len() > 1) {
        page.raw(" since ").text(utc(first.time));
    }
    page.raw(".</p>\n");
    notices(&mut page, rounds);
    page.raw(
        "<nav><a href=\"#time\">Over time</a><a href=\"#node\">Node</a><a href=\"#pods\">Pods</a>\
         <a href=\"#checkpoints\">Checkpoints</a><a href=\"#legend\">How to read this</a></nav>\n</header>\n",
    );
    rounds::section(&mut page, rounds, options);
    node::section(&mut page, rounds, last, options);
    pods::section(&mut page, rounds, identified, options);
    line::section(&mut page, rounds, options);
    legend(&mut page);
    footer(&mut page, options);
    page.finish_document()
}

/// The class of a state in the style sheet.
pub fn state_class(state: State) -> &'static str {
    match state {
        State::Trusted => "trusted",
        State::Untrusted => "untrusted",
        State::Unknown => "unknown",
        State::PredatesCollector => "predates",
        State::Pending => "pending",
    }
}

/// A state's sign: colour alone does not reach everybody.
pub fn state_sign(state: State) -> &'static str {
    match state {
        State::Trusted => "✓",
        State::Untrusted => "✗",
        State::Unknown => "?",
        State::PredatesCollector => "◷",
        State::Pending => "…",
    }
}

/// A state as a coloured label.
pub fn chip(page: &mut Html, state: State, big: bool) {
    page.raw("<span class=\"chip ")
        .raw(state_class(state))
        .raw(if big { " big\">" } else { "\">" });
    page.raw(state_sign(state)).raw(" ").text(state).raw("</span>");
}

/// How many pods are what.
pub fn pods_chip(page: &mut Html, verdict: &Verdict) {
    let count = |state| verdict.pods.iter().filter(|p| p.state == state).count();
    page.raw("<span class=\"soft\">");
    page.counted(verdict.pods.len() as u64, "pod", "pods");
    for (state, what) in [
        (State::Trusted, " trusted"),
        (State::Untrusted, " untrusted"),
        (State::Unknown, " unknown"),
        (State::PredatesCollector, " older than the collector"),
        (State::Pending, " pending"),
    ] {
        let n = count(state);
        if n > 0 {
            page.raw(" · ").number(n as u64).raw(what);
        }
    }
    page.raw("</span>");
}

/// What every output must repeat: bypasses, learned values, relaxed limits.
pub fn notices_of(page: &mut Html, dangerous: &[String], learned: bool, relaxations: &[String]) {
    if !dangerous.is_empty() {
        page.raw(
            "<div class=\"notice danger\"><b>Checks are switched off.</b> These verdicts rest on less \
            than they should:<ul>",
        );
        for key in dangerous {
            page.raw("<li><code>").text(key).raw("</code></li>");
        }
        page.raw("</ul></div>\n");
    }
    if learned {
        page.raw(
            "<div class=\"notice\"><b>Learned reference values.</b> Some of what is accepted was copied from \
             a running machine, not computed from an image: what ran there then is accepted, whatever it \
             was.</div>\n",
        );
    }
    if !relaxations.is_empty() {
        page.raw("<div class=\"notice\"><b>Relaxed by the policy:</b> ");
        for (i, relaxation) in relaxations.iter().enumerate() {
            page.raw(if i > 0 { ", " } else { "" })
                .raw("<code>")
                .text(relaxation)
                .raw("</code>");
        }
        page.raw("</div>\n");
    }
}

/// Findings that somebody accepted, and until when.
pub fn accepted_of(page: &mut Html, accepted: &[WaiverNote]) {
    if accepted.is_empty() {
        return;
    }
    page.raw(
        "<div class=\"notice\"><b>Accepted findings.</b> These would fail, and somebody answers for \
        them for a time:<ul>",
    );
    for note in accepted {
        page.raw("<li>")
            .text(&note.about)
            .raw("<br>reason: ")
            .text(&note.reason);
        page.raw("; until ")
            .text(utc(note.until))
            .raw(" UTC; statement <code>")
            .text(&note.statement);
        page.raw("</code>");
        if !note.in_use {
            page.raw("; <b>not in use</b>: the finding is not in this verdict");
        }
        page.raw("</li>");
    }
    page.raw("</ul></div>\n");
}

fn notices(page: &mut Html, rounds: &[Round<'_>]) {
    let all = |of: fn(&Verdict) -> &[String]| {
        let mut found: Vec<String> = rounds.iter().flat_map(|r| of(r.verdict)).cloned().collect();
        found.sort();
        found.dedup();
        found
    };
    let dangerous = all(|v| &v.dangerous);
    let relaxations = all(|v| &v.relaxations);
    let learned = rounds.iter().any(|r| r.verdict.learned);
    notices_of(page, &dangerous, learned, &relaxations);
    if let Some(last) = rounds.last() {
        accepted_of(page, &last.verdict.accepted);
    }
}

/// A word for what a statement rests on.
fn provenance(provenance: Provenance) -> &'static str {
    match provenance {
        Provenance::Attested => "attested",
        Provenance::Observed => "observed",
        Provenance::Enriched => "enriched",
    }
}

/// Findings, failing ones first.
pub fn findings(page: &mut Html, findings: &[Finding], limit: usize) {
    let mut sorted: Vec<&Finding> = findings.iter().collect();
    sorted.sort_by_key(|f| core::cmp::Reverse(f.severity));
    for finding in sorted.iter().take(limit) {
        let (class, word) = match finding.severity {
            Severity::Fail => ("fail", "fails"),
            Severity::Tolerated => ("tolerated", "tolerated"),
            Severity::Accepted => ("tolerated", "accepted"),
            Severity::Note => ("note", "note"),
        };
        page.raw("<div class=\"finding ")
            .raw(class)
            .raw("\"><b class=\"rule\">")
            .text(finding.rule)
            .raw(" ")
            .raw(word);
        page.raw("</b> ").text(&finding.text).raw("<dl>");
        if let Some(path) = &finding.path {
            page.raw("<dt>path</dt><dd>").path(path).raw("</dd>");
        }
        if let Some(found) = &finding.found {
            page.raw("<dt>found</dt><dd><code class=\"hash\">")
                .text(found)
                .raw("</code></dd>");
        }
        for expected in finding.expected.iter().take(16) {
            page.raw("<dt>expected</dt><dd><code class=\"hash\">")
                .text(expected)
                .raw("</code></dd>");
        }
        left_out(
            page,
            finding.expected.len(),
            16,
            "accepted values",
            Some(("<dt></dt><dd>", "</dd>")),
        );
        if finding.index.is_some() || finding.seq.is_some() || finding.provenance.is_some() {
            page.raw("<dt>where</dt><dd>");
            let mut parts = 0;
            let mut part = |page: &mut Html| {
                page.raw(if parts > 0 { ", " } else { "" });
                parts += 1;
            };
            if let Some(index) = finding.index {
                part(page);
                page.raw("entry ").number(index);
            }
            if let Some(seq) = finding.seq {
                part(page);
                page.raw("record ").number(seq);
            }
            if let Some(rests_on) = finding.provenance {
                part(page);
                page.raw(provenance(rests_on));
            }
            page.raw("</dd>");
        }
        page.raw("</dl></div>\n");
    }
    left_out(page, findings.len(), limit, "findings", None);
}

/// Says how many of `total` were not shown.
fn left_out(
    page: &mut Html,
    total: usize,
    shown: usize,
    what: &'static str,
    around: Option<(&'static str, &'static str)>,
) {
    if total > shown {
        let (before, after) = around.unwrap_or(("<p class=\"more\">", "</p>\n"));
        page.raw(before)
            .number((total - shown) as u64)
            .raw(" more ")
            .raw(what)
            .raw(" are left out here")
            .raw(after);
    }
}

fn legend(page: &mut Html) {
    page.raw(include_str!("legend.html"));
}

fn footer(page: &mut Html, options: &ReportOptions) {
    page.raw("<footer><p>Made ")
        .text(utc(options.now))
        .raw(" UTC by cgpath ")
        .raw(env!("CARGO_PKG_VERSION"));
    page.raw(
        ". This page loads nothing and runs nothing; it can be kept, mailed and opened \
        anywhere.</p></footer>\n",
    );
}

#[cfg(test)]
mod tests;
