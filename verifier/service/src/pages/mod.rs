//! The small page with the current verdicts of all nodes and pods.

pub mod detail;

use crate::api::answers::{NodeSummary, ScopedSummary};
use cgpath_appraisal::text::utc;
use cgpath_appraisal::{PodVerdict, State, Verdict};
use cgpath_report::html::Html;
use cgpath_report::{accepted_of, chip, findings, notices_of, pods_chip, state_class, state_sign};

/// Seconds until a browser loads the page again.
pub const REFRESH: u32 = 10;
/// Findings shown of one subject.
const FINDINGS: usize = 20;

/// The page. `now` in unix seconds; verdicts older than `stale_after` seconds are shown as stale.
pub fn page(nodes: &[NodeSummary], now: u64, stale_after: u64) -> String {
    let mut page = Html::document("ima-cgpath verifier", Some(REFRESH));
    page.raw("<header><p class=\"eyebrow\">ima-cgpath verifier</p><div class=\"head\"><h1>");
    page.counted(nodes.len() as u64, "node", "nodes")
        .raw("</h1></div><p class=\"soft\">As of ")
        .text(utc(now));
    page.raw(" UTC. Verdicts older than ")
        .number(stale_after)
        .raw(" s are stale.</p></header>\n");
    if nodes.is_empty() {
        page.raw(
            "<p class=\"card\">No node is enrolled. <code>cgpath node add NAME --ak FILE --policy \
            FILE</code></p>\n",
        );
    }
    for node in nodes {
        one(&mut page, node);
    }
    page.raw(
        "<footer><p>Refreshes itself. JSON: <code>/v1/nodes</code>, <code>/v1/nodes/NAME/verdict</code>, ",
    );
    page.raw(
        "<code>/v1/nodes/NAME/history</code>. All about a node: <code>cgpath report --store DIR --node \
        NAME -o report.html</code>",
    );
    page.raw("</p></footer>\n");
    page.finish_document()
}

/// The page of a reader with a scope: nodes that have a pod of it, and these pods.
pub fn scoped(nodes: &[ScopedSummary], now: u64, stale_after: u64) -> String {
    let mut page = Html::document("ima-cgpath verifier", Some(REFRESH));
    page.raw("<header><p class=\"eyebrow\">ima-cgpath verifier</p><div class=\"head\"><h1>");
    let count: usize = nodes.iter().map(|node| node.last.pods.len()).sum();
    page.counted(count as u64, "pod of yours", "pods of yours")
        .raw("</h1></div><p class=\"soft\">As of ")
        .text(utc(now));
    page.raw(" UTC. Verdicts older than ")
        .number(stale_after)
        .raw(" s are stale.</p></header>\n");
    for node in nodes {
        one_scoped(&mut page, node);
    }
    page.raw(
        "<footer><p>Refreshes itself. JSON: <code>/v1/nodes</code>, \
        <code>/v1/nodes/NAME/pods/UID</code></p></footer>\n",
    );
    page.finish_document()
}

/// A node as a reader with a scope sees it.
pub(crate) fn one_scoped(page: &mut Html, node: &ScopedSummary) {
    let class = if node.stale {
        "stale"
    } else {
        state_class(node.last.state)
    };
    page.raw("<section class=\"card ")
        .raw(class)
        .raw("\"><div class=\"head\"><h2 style=\"margin:0\">");
    link(page, &node.last.node);
    page.raw("</h2>");
    chip(page, node.last.state, false);
    if node.stale {
        page.raw("<span class=\"chip stale\">◷ stale</span>");
    }
    page.raw("<span class=\"soft push\">")
        .text(ago(node.age))
        .raw("</span></div>\n");
    notices_of(page, &node.last.dangerous, false, &[]);
    pods(page, &node.last.node, &node.last.pods);
    page.raw("</section>\n");
}

/// The name of a node, as a link to its page.
fn link(page: &mut Html, node: &str) {
    page.raw("<a href=\"/nodes/")
        .text(node)
        .raw("\">")
        .text(node)
        .raw("</a>");
}

/// A node with all that is known of it.
pub(crate) fn one(page: &mut Html, node: &NodeSummary) {
    let verdict: Option<Verdict> = node
        .last
        .as_ref()
        .and_then(|v| serde_json::from_str(v.verdict.get()).ok());
    let class = match &verdict {
        Some(_) if node.stale => "stale",
        Some(verdict) => state_class(verdict.node.state),
        None => "stale",
    };
    page.raw("<section class=\"card ")
        .raw(class)
        .raw("\"><div class=\"head\"><h2 style=\"margin:0\">");
    link(page, &node.name);
    page.raw("</h2>");
    if let Some(verdict) = &verdict {
        chip(page, verdict.node.state, false);
        pods_chip(page, verdict);
    }
    if node.stale {
        page.raw("<span class=\"chip stale\">◷ ");
        page.raw(if node.last.is_some() {
            "stale"
        } else {
            "no evidence yet"
        })
        .raw("</span>");
    }
    if let (Some(age), Some(last)) = (node.age, &node.last) {
        page.raw("<span class=\"soft push\" title=\"")
            .text(utc(last.time))
            .raw(" UTC, verdict ")
            .number(last.id.unsigned_abs());
        page.raw("\">").text(ago(age)).raw("</span>");
    }
    page.raw("</div>\n");
    if !node.policy_usable {
        page.raw(
            "<div class=\"notice danger\"><b>The policy cannot be used:</b> what the node sends is \
            refused. <code>cgpath node policy ",
        )
        .text(&node.name)
        .raw(" FILE</code></div>\n");
    }
    if let Some(refused) = &node.refused {
        page.raw("<div class=\"notice\"><b>")
            .counted(refused.count, "submission was", "submissions were");
        page.raw(" refused</b> since the service started, last ")
            .text(utc(refused.time))
            .raw(" UTC: ")
            .text(&refused.error);
        page.raw("</div>\n");
    }
    match (&verdict, &node.last) {
        (Some(verdict), _) => body(page, verdict),
        (None, Some(_)) => {
            page.raw("<p class=\"no\">The kept verdict cannot be read by this version.</p>\n");
        }
        (None, None) => {
            page.raw("<p class=\"small soft\">Key <code class=\"hash\">")
                .text(&node.ak)
                .raw("</code></p>\n");
        }
    }
    page.raw("</section>\n");
}

fn body(page: &mut Html, verdict: &Verdict) {
    let node = &verdict.node;
    notices_of(page, &verdict.dangerous, verdict.learned, &verdict.relaxations);
    accepted_of(page, &verdict.accepted);
    page.raw("<p class=\"small soft\">Tier ")
        .text(node.tier)
        .raw(", ")
        .text(&node.anchor)
        .raw(", ")
        .number(node.covered);
    page.raw(" of ")
        .counted(node.entries, "entry", "entries")
        .raw(" covered, unattributed ")
        .number(node.unattributed);
    page.raw(", lost ")
        .number(node.lost)
        .raw(", boot: ")
        .text(node.boot)
        .raw(", kernel ")
        .text(&node.kernel)
        .raw("</p>\n");
    findings(page, &node.findings, FINDINGS);
    if verdict.pods.is_empty() {
        page.raw("<p class=\"soft\">No pods.</p>\n");
        return;
    }
    pods(page, &verdict.node.name, &verdict.pods);
}

fn pods(page: &mut Html, node: &str, pods: &[PodVerdict]) {
    page.raw(
        "<div class=\"scroll\"><table><thead><tr><th>Pod</th><th>State</th><th class=\"n\">Measurements</th>",
    );
    page.raw("<th class=\"n\">Executions</th><th class=\"n\">Files</th><th>UID</th></tr></thead><tbody>\n");
    for pod in pods {
        let name = pod
            .name
            .as_deref()
            .or(pod.told.as_deref())
            .unwrap_or("unknown pod");
        page.raw(if matches!(pod.state, State::Untrusted | State::Unknown) {
            "<tr class=\"bad\"><td>"
        } else {
            "<tr><td>"
        });
        page.text(name)
            .raw("</td><td class=\"nowrap\"><span class=\"chip ")
            .raw(state_class(pod.state))
            .raw("\">");
        page.raw(state_sign(pod.state))
            .raw(" ")
            .text(pod.state)
            .raw("</span></td><td class=\"n\">")
            .number(pod.entries);
        page.raw("</td><td class=\"n\">")
            .number(pod.executions)
            .raw("</td><td class=\"n\">")
            .number(pod.file_count());
        page.raw("</td><td><a href=\"/nodes/")
            .text(node)
            .raw("/pods/")
            .text(pod.uid)
            .raw("\"><code>")
            .text(pod.shown_uid())
            .raw("</code></a></td></tr>\n");
    }
    page.raw("</tbody></table></div>\n");
    for pod in pods.iter().filter(|p| !p.findings.is_empty()) {
        page.raw("<h4>")
            .text(
                pod.name
                    .as_deref()
                    .or(pod.told.as_deref())
                    .unwrap_or("unknown pod"),
            )
            .raw("</h4>\n");
        findings(page, &pod.findings, FINDINGS);
    }
}

fn ago(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s ago"),
        120..7200 => format!("{} min ago", seconds / 60),
        7200..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}
