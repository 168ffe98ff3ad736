//! The pages about one node and one pod: what is now, and what was before.
//!
//! What a reader may see was decided before (see `read`); here it is only shown.

use crate::api::answers::{NodeSummary, PodAnswer, Scoped, ScopedSummary};
use crate::pages::{self, REFRESH};
use cgpath_appraisal::text::utc;
use cgpath_appraisal::{PodVerdict, State};
use cgpath_evidence::PodUid;
use cgpath_report::html::Html;
use cgpath_report::{chip, containers, findings, notices_of, state_class, state_sign};

/// Findings shown of a pod.
const FINDINGS: usize = 200;
/// Files shown of a pod.
const FILES: usize = 2_000;

/// What is known of a node now, as far as the reader may see it.
pub(crate) enum Now<'a> {
    /// All.
    Whole(&'a NodeSummary),
    /// The reader's pods, and whether the node is trusted.
    Scoped(&'a ScopedSummary),
}

fn head(title: &str, as_of: u64) -> Html {
    let mut page = Html::document(title, Some(REFRESH));
    page.raw("<header><p class=\"eyebrow\"><a href=\"/\">ima-cgpath verifier</a></p><h1>")
        .text(title)
        .raw("</h1><p class=\"soft\">As of ")
        .text(utc(as_of))
        .raw(" UTC.</p></header>\n");
    page
}

fn small_chip(page: &mut Html, state: State) {
    page.raw("<span class=\"chip ")
        .raw(state_class(state))
        .raw("\">")
        .raw(state_sign(state))
        .raw(" ")
        .text(state)
        .raw("</span>");
}

fn begin_history(page: &mut Html, columns: &'static str) {
    page.raw(
        "<section class=\"card\" id=\"history\"><h2>History</h2><div \
        class=\"scroll\"><table><thead><tr><th>Time (UTC)</th><th>Node</th>",
    )
    .raw(columns)
    .raw("</tr></thead><tbody>\n");
}

/// The page about a node; `past` has its verdicts, the newest first.
pub(crate) fn node(now: &Now<'_>, past: &[Scoped], as_of: u64) -> String {
    let name = match now {
        Now::Whole(node) => &node.name,
        Now::Scoped(node) => &node.last.node,
    };
    let mut page = head(name, as_of);
    match now {
        Now::Whole(node) => pages::one(&mut page, node),
        Now::Scoped(node) => pages::one_scoped(&mut page, node),
    }
    begin_history(&mut page, "<th>Pods</th>");
    for verdict in past {
        page.raw("<tr><td class=\"nowrap\">")
            .text(utc(verdict.time))
            .raw("</td><td class=\"nowrap\">");
        small_chip(&mut page, verdict.state);
        if let Some(first) = &verdict.first {
            page.raw("<br>");
            reappraised(
                &mut page,
                Some(first.node.state).filter(|was| *was != verdict.state),
            );
        }
        page.raw("</td><td>");
        let mut shown = 0_u64;
        for pod in verdict.pods.iter().filter(|pod| pod.state != State::Trusted) {
            page.text(called(pod)).raw(" ");
            small_chip(&mut page, pod.state);
            page.raw(" ");
            shown += 1;
        }
        for (pod, was) in verdict
            .pods
            .iter()
            .filter_map(|pod| Some((pod, changed(verdict, pod)?)))
        {
            page.text(called(pod)).raw(" ");
            reappraised(&mut page, Some(was));
            page.raw(" ");
        }
        page.number(verdict.pods.len() as u64 - shown)
            .raw(" trusted</td></tr>\n");
    }
    page.raw("</tbody></table></div></section>\n");
    page.finish_document()
}

fn called(pod: &PodVerdict) -> &str {
    pod.name
        .as_deref()
        .or(pod.told.as_deref())
        .unwrap_or("unknown pod")
}

/// The page about a pod; `past` has the verdicts of its node, the newest first.
pub(crate) fn pod(answer: &PodAnswer, past: &[Scoped], as_of: u64) -> String {
    let pod = &answer.pod;
    let mut page = head(called(pod), as_of);
    page.raw("<section class=\"card ")
        .raw(state_class(pod.state))
        .raw("\"><div class=\"head\"><h2 style=\"margin:0\"><code>")
        .text(pod.shown_uid())
        .raw("</code></h2>");
    chip(&mut page, pod.state, false);
    page.raw("<span class=\"soft push\">on node <a href=\"/nodes/")
        .text(&answer.node)
        .raw("\">")
        .text(&answer.node)
        .raw("</a>, ")
        .text(utc(answer.time))
        .raw("</span></div>\n");
    notices_of(&mut page, &answer.dangerous, pod.learned, &[]);
    page.raw("<p class=\"small soft\">");
    page.counted(pod.entries, "measurement", "measurements")
        .raw(", ")
        .counted(pod.executions, "execution", "executions")
        .raw(", hidden by excludes: ")
        .number(pod.excluded)
        .raw("</p>\n");
    if !pod.containers.is_empty() {
        page.raw("<dl class=\"facts\">");
        containers(&mut page, &answer.node, pod, None);
        page.raw("</dl>\n");
    }
    findings(&mut page, &pod.findings, FINDINGS);
    page.raw(
        "<h3>Files</h3><div class=\"scroll\"><table><thead><tr><th>Path</th><th>Content</th><th \
        class=\"n\">Measured</th>",
    );
    page.raw("<th class=\"n\">Executed</th><th>Accepted</th></tr></thead><tbody>\n");
    for file in pod.files.iter().take(FILES) {
        page.raw(if file.accepted {
            "<tr><td>"
        } else {
            "<tr class=\"bad\"><td>"
        })
        .path(&file.path)
        .raw("</td><td>");
        if let Some(digest) = &file.digest {
            page.short_digest(digest);
        }
        page.raw("</td><td class=\"n\">")
            .number(file.entries)
            .raw("</td><td class=\"n\">")
            .number(file.executions)
            .raw("</td><td>")
            .raw(match (file.accepted, file.excluded) {
                (true, true) => "excluded",
                (true, false) => "yes",
                (false, _) => "no",
            })
            .raw("</td></tr>\n");
    }
    page.raw("</tbody></table></div>");
    let shown = pod.files.len().min(FILES) as u64;
    if pod.file_count() > shown {
        page.raw("<p class=\"soft\">and ")
            .number(pod.file_count() - shown)
            .raw(" more</p>");
    }
    page.raw("</section>\n");
    begin_history(
        &mut page,
        "<th>Pod</th><th class=\"n\">Measurements</th><th class=\"n\">Executions</th>",
    );
    for (verdict, was) in past
        .iter()
        .filter_map(|verdict| Some((verdict, of(verdict, pod.uid)?)))
    {
        page.raw("<tr><td class=\"nowrap\">")
            .text(utc(verdict.time))
            .raw("</td><td class=\"nowrap\">");
        small_chip(&mut page, verdict.state);
        page.raw("</td><td class=\"nowrap\">");
        small_chip(&mut page, was.state);
        if let Some(state) = changed(verdict, was) {
            page.raw("<br>");
            reappraised(&mut page, Some(state));
        }
        page.raw("</td><td class=\"n\">")
            .number(was.entries)
            .raw("</td><td class=\"n\">")
            .number(was.executions)
            .raw("</td></tr>\n");
    }
    page.raw("</tbody></table></div></section>\n");
    page.finish_document()
}

/// The pod's state when the evidence came, where its re-appraisal made another of it.
fn changed(verdict: &Scoped, pod: &PodVerdict) -> Option<State> {
    let first = verdict.first.as_ref()?.pod(pod.uid)?.state;
    (first != pod.state).then_some(first)
}

/// Says of a verdict that it was re-appraised, and what it was when its evidence came if that is another.
fn reappraised(page: &mut Html, was: Option<State>) {
    page.raw("<span class=\"small soft\">re-appraised");
    if let Some(was) = was {
        page.raw("; was ");
        small_chip(page, was);
    }
    page.raw("</span>");
}

fn of(verdict: &Scoped, uid: PodUid) -> Option<&PodVerdict> {
    verdict.pods.iter().find(|pod| pod.uid == uid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cgpath_testkit::{Actor, KeyKind, Node, pod as uid, sha256};

    #[test]
    fn the_page_of_a_pod_names_its_containers_and_how_to_ask_which_image_each_really_runs() {
        let mut node = Node::boot(KeyKind::EcdsaP256);
        node.workloads = Some(format!(
            "version: 2
workloads:
  - name: shop/web
    match: {{namespace: shop}}
    containers: {{web: {{references: [{}.json]}}}}
",
            uid(1)
        ));
        let id = "ab".repeat(32);
        node.name_pod(uid(20), "shop", &[]);
        node.name_container(uid(20), &id, "web");
        let actor = Actor::container(uid(20), &id, "", "/bin/app");
        node.execute(&actor, "/bin/app", &sha256(b"1/bin/app"));
        let nonce = b"the nonce of this request";
        let evidence = node.attest(nonce);
        let context = node.context(nonce, None);
        let verdict = cgpath_appraisal::appraise(&evidence, &node.policy(), &context).unwrap();
        let page = |pod: &PodVerdict| {
            let answer = PodAnswer {
                node: "worker-1".into(),
                time: 1,
                state: verdict.node.state,
                dangerous: Vec::new(),
                pod: pod.clone(),
            };
            super::pod(&answer, &[], 2)
        };
        let pod = verdict.pod(uid(20)).unwrap();
        let named = page(pod);
        let ask = format!("cgpath identify --pod {} --node worker-1 --refs DIR", uid(20));
        assert!(
            named.contains("container web abababababab") && named.contains(&ask),
            "{named}"
        );
        // Under version 1 nobody knows of containers.
        let without = PodVerdict {
            containers: Vec::new(),
            ..pod.clone()
        };
        assert!(!page(&without).contains("identify"));
    }
}
