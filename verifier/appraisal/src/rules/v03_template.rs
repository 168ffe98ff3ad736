//! V3: every covered entry uses a template that the policy pins.
//!
//! The template digest does not cover the template's name: an entry that was relabelled to a template of the
//! same shape replays, and must be refused here.

use crate::inputs::decoded::Line;
use crate::inputs::kept::Lines;
use crate::results::finding::{Finding, Findings, Subject};
use crate::rules::Rule;
use crate::text::foreign;
use cgpath_evidence::Tier;
use cgpath_policy::Policy;
use std::collections::BTreeSet;
use std::ops::Range;

/// The kernel tier's template. Source: our patch series.
const TAGGED: &str = "ima-cgpath";

/// What was seen of the templates in use.
#[derive(Debug, Default)]
pub(crate) struct Templates {
    is_tagged: bool,
}

impl Templates {
    /// Looks at the new entries before `covered`.
    pub(crate) fn step(
        &mut self,
        lines: &Lines<'_>,
        covered: usize,
        tier: Tier,
        policy: &Policy,
        findings: &mut Findings,
    ) {
        check(lines, 0..covered, policy, findings);
        if tier == Tier::Kernel && !self.is_tagged {
            let new = lines.new_ones().iter();
            self.is_tagged = new
                .take(covered.saturating_sub(lines.first()))
                .any(|line| line.template == Some(TAGGED.as_bytes()));
        }
    }

    pub(crate) fn conclude(&self, tier: Tier, findings: &mut Findings) {
        if tier == Tier::Kernel && !self.is_tagged {
            findings.push(
                Finding::fail(
                    Rule::Template,
                    Subject::Node,
                    "the evidence claims the kernel tier and no entry has its template",
                )
                .expected(TAGGED),
            );
        }
    }
}

/// Names the new entries within `range` whose template is not pinned, each template once.
pub(crate) fn check(lines: &Lines<'_>, range: Range<usize>, policy: &Policy, findings: &mut Findings) {
    if range.is_empty() {
        return;
    }
    let accepted = &policy.file.accept.templates;
    let mut said = BTreeSet::new();
    let is_accepted = |line: &Line| accepted.iter().any(|name| line.template == Some(name.as_bytes()));
    let places = lines.places(range.end, |line| !is_accepted(line)).into_iter();
    for index in places.filter(|index| *index >= range.start) {
        let Some(line) = lines.get(index) else { continue };
        let path = line.path.unwrap_or_default();
        let fail = |text: &str| {
            Finding::fail(Rule::Template, Subject::Node, text)
                .at_index(index)
                .at_path(path)
        };
        let Some(template) = line.template else {
            findings.push(fail(
                "a redacted entry, or one that cannot be read, does not show its template",
            ));
            continue;
        };
        if said.insert(template) {
            let finding = fail(
                "an entry's template is not one that the policy pins; `cgpathd check` on the node names it",
            )
            .found(foreign(template));
            findings.push(accepted.iter().fold(finding, Finding::expected));
        }
    }
}
