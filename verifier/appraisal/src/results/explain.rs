//! Why a finding stands: from the verdict down to the key that signed, and from the file up to where its
//! value is from.
//!
//! Pure, and no judge: it looks up what the verdict rests on, and says what it cannot find. Not here: whether
//! that is to be believed (the rules).

use crate::accept;
use crate::inputs::context::Context;
use crate::inputs::decoded;
use crate::inputs::round::Round;
use crate::results::finding::{Finding, Findings, Subject};
use crate::results::verdict::Verdict;
use crate::rules::{v01_quote, v02_coverage};
use crate::text::{escape, utc};
use cgpath_evidence::td::{QuoteBody, TdBody, TdQuote, log, node_key_hash};
use cgpath_evidence::{
    Digest, Evidence, PartitionKey, Quote, Record, SealedCheckpoint, checkpoint::number_from_path,
    tpm::Attest,
};
use cgpath_policy::{Allowed, Policy};
use serde::Serialize;

/// One step of the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// `verdict`, `finding`, `record`, `entry`, `checkpoint`, `register`, `quote`, `key`, `reference`.
    pub what: &'static str,
    /// One line each, safe to print.
    pub lines: Vec<String>,
}

/// Walks from the verdict over record, list entry, checkpoint, register and quote to the key, then to the
/// reference values.
pub fn explain(
    finding: &Finding,
    verdict: &Verdict,
    evidence: &Evidence,
    policy: &Policy,
    context: &Context,
) -> Vec<Step> {
    let mut steps = vec![of_verdict(finding, verdict), of_finding(finding)];
    let view = decoded::view(&Round::from(evidence));
    let lines = view.lines.as_slice();
    let record = finding.seq.and_then(|seq| find(evidence, seq));
    if finding.seq.is_some() || finding.index.is_none() {
        steps.push(of_record(finding, record));
    }
    let joined = record.and_then(|(_, _, record)| {
        (0..lines.len()).find(|index| {
            !record.digests.is_empty()
                && record
                    .digests
                    .iter()
                    .all(|digest| view.digests.has(*index, digest))
        })
    });
    let index = finding.index.and_then(|i| usize::try_from(i).ok()).or(joined);
    steps.push(of_entry(index, lines));
    let checkpoints: Vec<SealedCheckpoint> = evidence
        .checkpoints
        .iter()
        .map_while(|file| SealedCheckpoint::from_file(file).ok())
        .collect();
    steps.push(of_checkpoint(index, finding.seq, &checkpoints, lines));
    let mut ignored = Findings::default();
    let tpm = evidence.quote.tpm();
    let quoted = tpm
        .as_ref()
        .ok()
        .and_then(|quote| v01_quote::check(quote, evidence.registers(), context, &mut ignored));
    let covered = quoted
        .as_ref()
        .and_then(|q| v02_coverage::step(&view, None, q, policy, &mut ignored));
    let mut registers = match &covered {
        None if tpm.is_err() => Vec::new(),
        None => vec!["the quoted register is not that of any prefix of the list".into()],
        Some(covered) => {
            let mut lines = vec![format!(
                "PCR 10 after {} of {} entries:",
                covered.entries,
                evidence.list.len()
            )];
            lines.extend(covered.pcrs.iter().map(|pcr| format!("  {pcr}")));
            if let Some(index) = index {
                let is_in = if index < covered.entries {
                    "is covered by it"
                } else {
                    "came after it"
                };
                lines.push(format!("entry {index} {is_in}"));
            }
            lines
        }
    };
    let mut quotes = tpm
        .as_ref()
        .map_or_else(|_| Vec::new(), |quote| of_tpm_quote(quote));
    let mut keys = match tpm.map(|quote| v01_quote::key_name(&quote.ak)) {
        Ok(Ok(name)) => vec![format!("{} signed it", hex::encode(name))],
        Ok(Err(error)) => vec![format!(
            "the key that came with the quote cannot be read: {error}"
        )],
        Err(_) => Vec::new(),
    };
    if let Some(quote) = &evidence.quote.td {
        let body = QuoteBody::parse(&quote.outblob);
        registers.push(of_rtmr(evidence, body.as_ref().ok().map(|quote| &quote.body)));
        quotes.extend(of_td_quote(quote, body.as_ref().map(|quote| &quote.body)));
        keys.push(format!(
            "{} is the node's, which the trust domain's quote names",
            hex::encode(node_key_hash(&quote.node_key))
        ));
    }
    for (what, lines) in [("register", registers), ("quote", quotes), ("key", keys)] {
        steps.push(Step { what, lines });
    }
    steps.push(of_reference(finding, verdict, policy));
    steps
}

fn of_verdict(finding: &Finding, verdict: &Verdict) -> Step {
    let state = match finding.subject {
        Subject::Partition(PartitionKey::Pod(uid)) => verdict.pod(uid).map_or_else(String::new, |pod| {
            format!(
                "pod {uid} ({}): {}",
                escape(pod.name.as_deref().unwrap_or("in no policy").as_bytes()),
                pod.state
            )
        }),
        _ => format!(
            "node {}: {}",
            escape(verdict.node.name.as_bytes()),
            verdict.node.state
        ),
    };
    let mut lines = vec![
        format!("of {} UTC, by policy {}", utc(verdict.time), verdict.policy),
        state,
    ];
    if let Some(again) = verdict.rejudged {
        lines.push(format!("re-appraised at {} UTC", utc(again)));
    }
    Step {
        what: "verdict",
        lines,
    }
}

fn of_finding(finding: &Finding) -> Step {
    let mut lines = vec![format!("{} about {}", accept::id(finding), finding.subject)];
    lines.extend(
        finding
            .to_string()
            .lines()
            .map(|line| line.trim_start().to_owned()),
    );
    Step {
        what: "finding",
        lines,
    }
}

fn find(evidence: &Evidence, seq: u64) -> Option<(PartitionKey, usize, &Record)> {
    evidence.partitions.iter().find_map(|log| {
        let at = log.records.iter().position(|record| record.seq == seq)?;
        Some((log.key, at, log.records.get(at)?))
    })
}

fn of_record(finding: &Finding, found: Option<(PartitionKey, usize, &Record)>) -> Step {
    let lines = match (finding.seq, found) {
        (None, _) => vec!["none: the finding is about the evidence itself, or the list says it alone".into()],
        (Some(seq), None) => vec![format!("{seq} is not in this evidence")],
        (Some(seq), Some((key, at, record))) => {
            let mut lines = vec![
                format!(
                    "{seq}, number {at} of partition {key}: {:?}, returned {}",
                    record.kind, record.ret
                ),
                format!("path     {}", escape(&record.path)),
                format!(
                    "cgroup   {}",
                    record.cgroup.as_deref().map_or_else(|| "unknown".into(), escape)
                ),
                format!(
                    "process  {} of user {}, {:.3} s after boot",
                    record.pid,
                    record.uid,
                    record.boot_ns as f64 / 1e9
                ),
            ];
            let chain: Vec<String> = record
                .ancestry
                .iter()
                .map(|a| format!("{} ({})", escape(&a.exe), a.tgid))
                .collect();
            lines.push(format!("below    {}", chain.join(" < ")));
            lines
        }
    };
    Step {
        what: "record",
        lines,
    }
}

fn of_entry(index: Option<usize>, lines: &[decoded::Line]) -> Step {
    let text = match index.map(|index| (index, lines.get(index))) {
        None => vec!["none: IMA added no entry for this, or the finding is about no file".into()],
        Some((index, None)) => vec![format!("{index} is not in this list")],
        Some((index, Some(line))) => vec![
            format!(
                "{index}: template {}, {}",
                line.template.map_or_else(|| "redacted".into(), escape),
                line.path.map_or_else(|| "no path".into(), escape)
            ),
            match (&line.file, line.violation) {
                (_, true) => "a violation: its hash says nothing".into(),
                (Some(file), _) => format!("content {file}"),
                (None, _) => "no content hash".into(),
            },
        ],
    };
    Step {
        what: "entry",
        lines: text,
    }
}

fn of_checkpoint(
    index: Option<usize>,
    seq: Option<u64>,
    checkpoints: &[SealedCheckpoint],
    lines: &[decoded::Line],
) -> Step {
    let sealed = seq.and_then(|seq| checkpoints.iter().find(|c| c.checkpoint.last_seq >= seq));
    let settled = index.and_then(|i| checkpoints.iter().find(|c| c.checkpoint.settled > i as u64));
    let mut text = Vec::new();
    for (what, found) in [("sealed the record", sealed), ("settled the entry", settled)] {
        let Some(found) = found else { continue };
        let number = found.checkpoint.number;
        let anchor = lines
            .iter()
            .position(|line| line.path.and_then(number_from_path) == Some(number));
        text.push(format!(
            "{number} {what}; its file stands in the list as {}",
            anchor.map_or_else(|| "no entry".into(), |at| format!("entry {at}"))
        ));
        text.push(format!("  sha256:{}", hex::encode(found.digest())));
    }
    if text.is_empty() {
        text.push("none is concerned".into());
    }
    Step {
        what: "checkpoint",
        lines: text,
    }
}

/// The register that the last checkpoint extended, by the register's own log, with the value that is quoted.
fn of_rtmr(evidence: &Evidence, body: Option<&TdBody>) -> String {
    let log = evidence.td.as_ref().map_or(&[][..], |td| &td.register_log);
    let last = log::read(log)
        .into_iter()
        .flat_map(|extensions| extensions.map_while(Result::ok))
        .filter_map(|extension| Some((extension.rtmr, extension.checkpoint()?)))
        .last();
    let Some((rtmr, number)) = last else {
        return "the log of the trust domain's register names no checkpoint".into();
    };
    let value = body
        .and_then(|body| body.rtmrs.get(usize::from(rtmr)))
        .map_or_else(
            || "it is not quoted".into(),
            |value| format!("sha384:{}", hex::encode(value)),
        );
    format!("RTMR {rtmr} after checkpoint {number}: {value}")
}

fn of_tpm_quote(quote: &Quote) -> Vec<String> {
    match Attest::parse(&quote.attest) {
        Err(error) => vec![format!("it cannot be read: {error}")],
        Ok(attest) => vec![
            format!("registers' digest {}", hex::encode(&attest.pcr_digest)),
            format!("nonce {}", hex::encode(&attest.extra_data)),
            format!(
                "TPM clock {} ms, reset {} times",
                attest.clock.clock, attest.clock.reset_count
            ),
        ],
    }
}

fn of_td_quote(quote: &TdQuote, body: Result<&TdBody, &cgpath_evidence::Error>) -> Vec<String> {
    let provider = escape(quote.provider.as_bytes());
    match body {
        Err(error) => vec![format!("of {provider}: it cannot be read: {error}")],
        Ok(body) => vec![
            format!("of {provider}: MRTD {}", hex::encode(body.mrtd)),
            format!("nonce {}", hex::encode(&quote.nonce)),
        ],
    }
}

/// Lines about reference values, over all whose they are.
const MAX_REFERENCE_LINES: usize = 40;

const SANDBOX: &str = "the sandbox";

/// Whose reference values may accept a content, by what people are shown: the part that the finding names
/// first, for what is beyond [`MAX_REFERENCE_LINES`] is left out.
fn parts<'p>(finding: &Finding, verdict: &Verdict, policy: &'p Policy) -> Vec<(String, &'p Allowed)> {
    let mut parts = Vec::new();
    let own = |allowed| ("its own".to_owned(), allowed);
    match finding.subject {
        Subject::Partition(PartitionKey::Pod(uid)) => {
            parts.extend(policy.pods.get(&uid).map(|pod| own(&pod.allowed)));
            let name = verdict.pod(uid).and_then(|pod| pod.name.as_deref());
            let mut workloads = policy.all_workloads();
            let workload = workloads.find(|one| Some(one.workload.name.as_str()) == name);
            let containers = workload.into_iter().flat_map(|workload| workload.containers());
            for (name, of) in containers {
                let all = of.all_allowed().map(|(_, allowed)| allowed);
                parts.extend(all.map(|allowed| (format!("container {name}"), allowed)));
            }
            parts.push((SANDBOX.to_owned(), &policy.sandbox));
        }
        _ => parts.push(own(&policy.host)),
    }
    let (label, _) = finding.text.split_once(": ").unwrap_or_default();
    let named = match label.starts_with("pod runtime") || label == "sandbox" {
        true => SANDBOX,
        false => label,
    };
    parts.sort_by_key(|(part, _)| part != named);
    parts
}

/// What one part has at this path, and where it has this content.
fn of_part(part: &str, allowed: &Allowed, path: &[u8], found: Option<&Digest>) -> Vec<String> {
    let mut lines = Vec::new();
    for reference in allowed.references() {
        let Some(digests) = reference.files.get(path) else {
            continue;
        };
        let source = &reference.source;
        let digest = source
            .digest
            .as_ref()
            .map(|d| format!(" ({d})"))
            .unwrap_or_default();
        lines.push(format!(
            "{part}: {} {}{digest}",
            serde_json::to_string(&source.kind)
                .unwrap_or_default()
                .trim_matches('"'),
            escape(source.name.as_bytes())
        ));
        if let Some(origin) = reference.origins.of(path) {
            lines.push(format!("  the path is from {}", escape(origin.as_bytes())));
        }
        lines.extend(digests.iter().take(8).map(|digest| format!("  accepts {digest}")));
    }
    let paths = found.map(|found| allowed.paths_of(found));
    let others = paths.into_iter().flatten().filter(|other| *other != path);
    for other in others.take(3) {
        let origin = allowed.origin(other).and_then(|(_, origin)| origin);
        let from = origin
            .map(|o| format!(", from {}", escape(o.as_bytes())))
            .unwrap_or_default();
        lines.push(format!(
            "{part}: the content that was found is accepted at {}{from}",
            escape(other)
        ));
    }
    lines
}

fn of_reference(finding: &Finding, verdict: &Verdict, policy: &Policy) -> Step {
    let Some(path) = &finding.path else {
        return Step {
            what: "reference",
            lines: vec!["the finding names no file".into()],
        };
    };
    let found = finding.found.as_deref().and_then(Digest::parse);
    let parts = parts(finding, verdict, policy);
    let all = parts
        .iter()
        .flat_map(|(part, allowed)| of_part(part, allowed, path, found.as_ref()));
    let mut lines: Vec<String> = all.take(MAX_REFERENCE_LINES + 1).collect();
    if lines.len() > MAX_REFERENCE_LINES {
        lines.truncate(MAX_REFERENCE_LINES);
        lines.push("there are more, which are left out".into());
    }
    if lines.is_empty() {
        lines.push("no reference value has this path or this content".into());
    }
    Step {
        what: "reference",
        lines,
    }
}
