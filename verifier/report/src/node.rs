//! The node as of the last round: figures, findings, and the records of the host.

use super::{Html, ReportOptions, Round, chip, findings, pods, with_evidence};
use cgpath_appraisal::State;
use cgpath_evidence::PartitionKey;

pub(super) fn section(page: &mut Html, rounds: &[Round<'_>], round: &Round<'_>, options: &ReportOptions) {
    let node = &round.verdict.node;
    page.raw("<h2 id=\"node\">Node</h2>\n<section class=\"card ")
        .raw(super::state_class(node.state))
        .raw("\">\n");
    page.raw("<div class=\"head\"><h3>").text(&node.name).raw("</h3>");
    chip(page, node.state, false);
    page.raw("</div>\n<div class=\"tiles\">");
    tile(page, node.covered, "entries covered by the quote", false);
    tile(page, node.entries, "entries in the list", false);
    tile(page, node.boot_entries, "older than the collector", false);
    tile(page, node.records, "records", false);
    tile(page, node.executions, "executions and mappings", false);
    tile(page, node.pending, "pending", false);
    tile(page, node.unattributed, "unattributed", node.unattributed > 0);
    tile(page, node.lost, "lost", node.lost > 0);
    tile(page, node.suspect, "suspect", node.suspect > 0);
    page.raw("</div>\n<dl class=\"facts\">");
    page.raw("<dt>Tier</dt><dd>")
        .text(node.tier)
        .raw("</dd><dt>Anchor</dt><dd>")
        .text(&node.anchor)
        .raw("</dd>");
    page.raw("<dt>Kernel</dt><dd>")
        .text(&node.kernel)
        .raw(" <span class=\"tag\">as the node states it</span></dd>");
    page.raw("<dt>Boot</dt><dd><code>")
        .text(uuid(&node.boot_id))
        .raw("</code></dd>");
    page.raw("<dt>Boot log (V10)</dt><dd>")
        .text(node.boot)
        .raw("</dd>");
    if let Some(checkpoint) = node.checkpoint {
        page.raw("<dt>Last checkpoint</dt><dd>")
            .number(checkpoint)
            .raw("</dd>");
    }
    page.raw("<dt>Key</dt><dd><code class=\"hash\">")
        .text(hex::encode(&node.key))
        .raw("</code></dd>");
    page.raw("<dt>Policy</dt><dd><code class=\"hash\">")
        .text(&round.verdict.policy)
        .raw("</code></dd>");
    page.raw("</dl>\n");
    if !node.notes.is_empty() {
        page.raw("<h4>Notes</h4><ul>");
        for note in &node.notes {
            page.raw("<li>").text(note).raw("</li>");
        }
        page.raw("</ul>\n");
    }
    if !node.findings.is_empty() {
        page.raw("<h4>Findings</h4>\n");
        findings(page, &node.findings, options.findings);
    } else if node.state == State::Trusted {
        page.raw("<p class=\"soft small\">No findings.</p>\n");
    }
    pods::deviations(page, (&node.fnf, &node.filehash_err), node.left_out, options);
    match with_evidence(rounds, rounds.len().saturating_sub(1)) {
        Some((_, evidence)) => {
            let contents = pods::Contents::of(evidence);
            for (key, title) in [
                (PartitionKey::Host, "Host"),
                (PartitionKey::Unattributed, "Unattributed"),
            ] {
                let records = evidence.records(key);
                if !records.is_empty() {
                    page.raw("<h4>").raw(title).raw("</h4>\n");
                    pods::partition(page, records, &node.findings, &contents, options);
                }
            }
        }
        None => {
            page.raw("<p class=\"more\">The evidence is not kept any more: no records can be shown.</p>\n");
        }
    }
    page.raw("</section>\n");
}

fn tile(page: &mut Html, n: u64, what: &'static str, bad: bool) {
    page.raw(if bad {
        "<div class=\"tile bad\"><b>"
    } else {
        "<div class=\"tile\"><b>"
    })
    .number(n);
    page.raw("</b><span>").raw(what).raw("</span></div>");
}

pub(super) fn uuid(id: &[u8; 16]) -> String {
    let h = hex::encode(id);
    format!(
        "{}-{}-{}-{}-{}",
        &h[..8],
        &h[8..12],
        &h[12..16],
        &h[16..20],
        &h[20..]
    )
}
