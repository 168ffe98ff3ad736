//! Checkpoints on a time line, a boot at a time.

use super::{Html, ReportOptions, Round, left_out, node::uuid};
use cgpath_appraisal::text::utc;
use cgpath_evidence::SealedCheckpoint;

/// Distance of two checkpoints on the line.
const STEP: f64 = 46.0;
/// Height of the highest bar.
const BAR: f64 = 56.0;

/// One boot's checkpoints, from the round that has most of them.
struct Boot {
    id: [u8; 16],
    checkpoints: Vec<Result<SealedCheckpoint, cgpath_evidence::Error>>,
    /// Number of a checkpoint, and of the round that it was made for, and when.
    asked: Vec<(u64, usize, u64)>,
}

pub(super) fn section(page: &mut Html, rounds: &[Round<'_>], options: &ReportOptions) {
    let mut boots: Vec<Boot> = Vec::new();
    for (i, round) in rounds.iter().enumerate() {
        let id = round.verdict.node.boot_id;
        let at = boots.iter().position(|b| b.id == id).unwrap_or_else(|| {
            boots.push(Boot {
                id,
                checkpoints: Vec::new(),
                asked: Vec::new(),
            });
            boots.len() - 1
        });
        let boot = &mut boots[at];
        if let Some(evidence) = round
            .evidence
            .filter(|e| e.checkpoints.len() >= boot.checkpoints.len())
        {
            boot.checkpoints = evidence
                .checkpoints
                .iter()
                .map(|file| SealedCheckpoint::from_file(file))
                .collect();
        }
        if let Some(number) = round.verdict.node.checkpoint {
            boot.asked.push((number, i + 1, round.time));
        }
    }
    page.raw("<h2 id=\"checkpoints\">Checkpoints</h2>\n");
    page.raw(
        "<p class=\"soft small\">Each is a signed statement about all records so far, measured by the \
        kernel into the ",
    );
    page.raw(
        "register. Filled: made for a request, with its nonce. Bars: records sealed since the one \
        before.</p>\n",
    );
    for boot in &boots {
        page.raw("<section class=\"card\"><h3>Boot <code>")
            .text(uuid(&boot.id))
            .raw("</code></h3>\n");
        if boot.checkpoints.is_empty() {
            page.raw("<p class=\"soft\">No checkpoints.</p>");
        } else {
            one(page, boot, options);
        }
        page.raw("</section>\n");
    }
}

fn one(page: &mut Html, boot: &Boot, options: &ReportOptions) {
    let first = boot.checkpoints.len().saturating_sub(options.checkpoints);
    let shown = &boot.checkpoints[first..];
    left_out(
        page,
        boot.checkpoints.len(),
        shown.len(),
        "older checkpoints",
        None,
    );
    let before = first
        .checked_sub(1)
        .and_then(|i| boot.checkpoints[i].as_ref().ok());
    let mut records = before.map_or(0, |s| s.checkpoint.records);
    let mut starts = before.map_or(1, |s| s.checkpoint.starts);
    let mut lost = before.map_or(0, |s| s.checkpoint.losses.total());
    // (records since, started anew, lost since) of each.
    let deltas: Vec<Option<(u64, bool, u64)>> = shown
        .iter()
        .map(|sealed| {
            let c = &sealed.as_ref().ok()?.checkpoint;
            let delta = (
                c.records.saturating_sub(records),
                c.starts > starts,
                c.losses.total().saturating_sub(lost),
            );
            (records, starts, lost) = (c.records, c.starts, c.losses.total());
            Some(delta)
        })
        .collect();
    let most = deltas.iter().flatten().map(|d| d.0).max().unwrap_or(0).max(1);
    let width = STEP * (shown.len() as f64) + 30.0;
    page.raw(
        "<div class=\"scroll\"><svg class=\"line\" role=\"img\" aria-label=\"Checkpoints in order\" \
        height=\"152\" width=\"",
    );
    page.value(width)
        .raw("\" viewBox=\"0 0 ")
        .value(width)
        .raw(" 152\">\n<line class=\"axis\" x1=\"8\" y1=\"92\" y2=\"92\" x2=\"");
    page.value(width - 8.0).raw("\"/>\n");
    for (i, (sealed, delta)) in shown.iter().zip(&deltas).enumerate() {
        let x = 15.0 + STEP * (i as f64 + 0.5);
        let (Ok(sealed), Some((new, restarted, lost))) = (sealed, delta) else {
            page.raw("<circle class=\"dot bad\" cy=\"92\" r=\"7\" cx=\"")
                .value(x)
                .raw("\"><title>not readable</title></circle>\n");
            continue;
        };
        let c = &sealed.checkpoint;
        if *new > 0 {
            // f64 holds counts below 2^53 exactly; a picture needs less.
            let height = (BAR * (*new as f64) / (most as f64)).max(2.0);
            page.raw("<rect class=\"bar\" width=\"18\" rx=\"2\" x=\"")
                .value(x - 9.0)
                .raw("\" y=\"")
                .value(82.0 - height);
            page.raw("\" height=\"")
                .value(height)
                .raw("\"><title>")
                .counted(*new, "record", "records")
                .raw(" more</title></rect>\n");
            page.raw("<text x=\"")
                .value(x)
                .raw("\" y=\"")
                .value(78.0 - height)
                .raw("\">")
                .text(compact(*new))
                .raw("</text>\n");
        }
        if *restarted {
            page.raw("<line class=\"mark\" y1=\"8\" y2=\"110\" x1=\"")
                .value(x - STEP / 2.0)
                .raw("\" x2=\"")
                .value(x - STEP / 2.0);
            page.raw("\"><title>the collector was started again</title></line>\n");
        }
        page.raw("<circle cy=\"92\" r=\"7\" cx=\"")
            .value(x)
            .raw("\" class=\"dot");
        page.raw(if c.blind || *lost > 0 {
            " bad"
        } else if c.nonce_hash.is_some() {
            " asked"
        } else {
            ""
        });
        page.raw("\"><title>checkpoint ")
            .number(c.number)
            .raw(": list of ")
            .number(c.list_len)
            .raw(", settled ")
            .number(c.settled);
        page.raw(", ")
            .counted(c.records, "record", "records")
            .raw(if c.blind { ", BLIND" } else { "" });
        if *lost > 0 {
            page.raw(", ").number(*lost).raw(" LOST");
        }
        page.raw("</title></circle>\n<text class=\"strong\" y=\"116\" x=\"")
            .value(x)
            .raw("\">")
            .text(c.number)
            .raw("</text>\n");
        let asked: Vec<usize> = boot
            .asked
            .iter()
            .filter(|a| a.0 == c.number)
            .map(|a| a.1)
            .collect();
        let label = if c.blind {
            Some("blind".to_owned())
        } else if *lost > 0 {
            Some(format!("{} lost", compact(*lost)))
        } else {
            asked.first().map(|round| format!("round {round}"))
        };
        if let Some(label) = label {
            page.raw(if c.blind || *lost > 0 {
                "<text class=\"warn\" y=\"132\" x=\""
            } else {
                "<text y=\"132\" x=\""
            });
            page.value(x).raw("\">").text(label).raw("</text>\n");
        }
        if *restarted {
            page.raw("<text class=\"warn\" y=\"147\" x=\"")
                .value(x)
                .raw("\">restart</text>\n");
        }
    }
    page.raw("</svg></div>\n");
    table(page, shown, boot);
}

fn table(page: &mut Html, shown: &[Result<SealedCheckpoint, cgpath_evidence::Error>], boot: &Boot) {
    page.raw("<details><summary>")
        .counted(shown.len() as u64, "checkpoint", "checkpoints")
        .raw(" in figures</summary>");
    page.raw(
        "<div class=\"scroll\"><table><thead><tr><th class=\"n\">No.</th><th>For</th><th \
        class=\"n\">List</th>",
    );
    page.raw(
        "<th class=\"n\">Settled</th><th class=\"n\">Records</th><th class=\"n\">Executions</th><th \
        class=\"n\">Partitions</th>",
    );
    page.raw("<th class=\"n\">Lost</th><th class=\"n\">Starts</th><th>File</th></tr></thead><tbody>\n");
    for sealed in shown {
        let sealed = match sealed {
            Ok(sealed) => sealed,
            Err(error) => {
                page.raw("<tr class=\"bad\"><td class=\"n\">?</td><td colspan=\"9\">")
                    .text(error)
                    .raw("</td></tr>\n");
                continue;
            }
        };
        let c = &sealed.checkpoint;
        let lost = c.losses.total();
        page.raw(if c.blind || lost > 0 {
            "<tr class=\"bad\"><td class=\"n\">"
        } else {
            "<tr><td class=\"n\">"
        });
        page.number(c.number).raw("</td><td>");
        match boot.asked.iter().find(|a| a.0 == c.number) {
            Some((_, round, time)) => {
                page.raw("round ")
                    .number(*round as u64)
                    .raw(", ")
                    .text(utc(*time));
            }
            None => {
                page.raw(match (c.number, c.nonce_hash.is_some()) {
                    (0, _) => "load",
                    (_, true) => "a request not shown here",
                    (_, false) => "–",
                });
            }
        }
        page.raw(if c.blind {
            " <span class=\"no\">blind</span>"
        } else {
            ""
        });
        for n in [
            c.list_len,
            c.settled,
            c.records,
            c.executions,
            c.partitions,
            lost,
            u64::from(c.starts),
        ] {
            page.raw("</td><td class=\"n\">").number(n);
        }
        page.raw("</td><td><code>")
            .text(&hex::encode(sealed.digest())[..16])
            .raw("…</code></td></tr>\n");
    }
    page.raw("</tbody></table></div></details>\n");
}

/// A count in few characters: 950, 12k, 3M.
fn compact(n: u64) -> String {
    match n {
        0..10_000 => n.to_string(),
        10_000..10_000_000 => format!("{}k", n / 1_000),
        _ => format!("{}M", n / 1_000_000),
    }
}
