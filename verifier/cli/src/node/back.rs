//! `cgpath node policy`, `accept`, `forget`, `stop` and `reactivate`: how a node that is untrusted comes
//! back.
//!
//! All kept evidence since the node's boot is re-appraised, without asking the node; what verdicts said
//! before is kept.
//! Not here: how evidence is re-appraised (see `cgpath_service::reappraisal`).

use super::StoreArgs;
use crate::input;
use crate::kept;
use crate::output::{Colour, Failure, Output, Status, escape};
use crate::policy;
use cgpath_appraisal::accept::{self, Waiver};
use cgpath_appraisal::forget;
use cgpath_appraisal::text::utc;
use cgpath_appraisal::{Finding, State, Verdict};
use cgpath_evidence::Bank;
use cgpath_service::changes;
use cgpath_service::policy_files;
use cgpath_service::reappraisal::{self, Reappraisal};
use cgpath_service::setup;
use cgpath_service::store::{Change, Forgotten, Node, Store, StoreError};
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;

/// How often it is done again because evidence arrived meanwhile.
const TRIES: u32 = 5;

#[derive(Args)]
pub struct SetPolicy {
    /// The node
    name: String,
    /// Its new policy; without it the enrolled one stays, and the evidence is re-appraised
    policy: Option<PathBuf>,
    #[command(flatten)]
    store: StoreArgs,
}

#[derive(Args)]
pub struct Accept {
    /// The node
    name: String,
    /// The finding, as `cgpath explain` names it; its first digits, as many as are clear. With --revoke also
    /// those of the statement's digest
    finding: String,
    /// Why it is accepted
    #[arg(long, value_name = "TEXT", required_unless_present = "revoke")]
    reason: Option<String>,
    /// Until when: `2027-01-31`, `2027-01-31T12:00:00Z`, or from now on `90m`, `12h`, `7d`; at most a year
    #[arg(long, value_name = "TIME", value_parser = Until::parse, required_unless_present = "revoke")]
    until: Option<Until>,
    /// Takes an accept statement back: the finding counts again
    #[arg(long, conflicts_with_all = ["reason", "until"])]
    revoke: bool,
    #[command(flatten)]
    store: StoreArgs,
}

#[derive(Args)]
pub struct Forget {
    /// The node
    name: String,
    /// Why
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    store: StoreArgs,
}

impl Forget {
    pub(super) fn run(self, out: &mut Output) -> Result<Status, Failure> {
        let store = Store::open(&self.store.dir)?;
        let key = setup::verdict_key(&self.store.dir)?;
        let forgotten = tried(|now| {
            let round = store.round(&self.name)?;
            let state = round.state.ok_or_else(|| {
                Failure::new("nothing-known", format!("nothing is known of {}", self.name))
                    .hint("its next evidence is compared with nothing before in any case")
            })?;
            let statement = forget::Statement {
                node: self.name.clone(),
                state: Bank::Sha256.hash(&[&state]),
                reason: self.reason.clone(),
                iat: now,
            };
            let signed = forget::sign(&statement, &key).map_err(|e| Failure::new("accept", e.to_string()))?;
            let forgotten = Forgotten {
                time: now,
                reason: self.reason.clone(),
                digest: Bank::Sha256.hash(&[signed.as_bytes()]).to_string(),
                statement: signed,
            };
            unless_conflict(
                store
                    .forget(&self.name, round.version, &forgotten)
                    .map(|()| forgotten),
            )
        })?;
        if out.json() {
            out.object(&forgotten)?;
        } else {
            out.line(format_args!(
                "{}: its next evidence is compared with nothing before",
                self.name
            ))?;
            out.line(format_args!("  statement  {}", forgotten.digest))?;
        }
        Ok(Status::Clean)
    }
}

#[derive(Args)]
pub struct Named {
    /// The node
    name: String,
    #[command(flatten)]
    store: StoreArgs,
}

/// A point in time, or a time from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    At(u64),
    After(u64),
}

impl Until {
    fn parse(text: &str) -> Result<Until, String> {
        let form = || "2027-01-31, 2027-01-31T12:00:00Z, or 90m, 12h, 7d".to_owned();
        if let Some(unit) = text.chars().last().filter(|c| "mhd".contains(*c)) {
            let number: u64 = text[..text.len() - 1].parse().map_err(|_| form())?;
            let seconds = match unit {
                'm' => 60,
                'h' => 3600,
                _ => 86_400,
            };
            return number.checked_mul(seconds).map(Until::After).ok_or_else(form);
        }
        let (date, time) = text
            .strip_suffix('Z')
            .and_then(|t| t.split_once('T'))
            .unwrap_or((text, "00:00:00"));
        let numbers =
            |text: &str, sign| -> Option<Vec<u32>> { text.split(sign).map(|n| n.parse().ok()).collect() };
        let parsed = || {
            let (date, time) = (numbers(date, '-')?, numbers(time, ':')?);
            let ([year, month, day], [hour, minute, second]) =
                (date[..].try_into().ok()?, time[..].try_into().ok()?);
            let small = |n: u32| u8::try_from(n).ok();
            let month = time::Month::try_from(small(month)?).ok()?;
            let date = time::Date::from_calendar_date(i32::try_from(year).ok()?, month, small(day)?).ok()?;
            let time = time::Time::from_hms(small(hour)?, small(minute)?, small(second)?).ok()?;
            u64::try_from(date.with_time(time).assume_utc().unix_timestamp()).ok()
        };
        parsed().map(Until::At).ok_or_else(form)
    }

    fn seconds(self, now: u64) -> u64 {
        match self {
            Until::At(at) => at,
            Until::After(after) => now.saturating_add(after),
        }
    }
}

/// Enrols what stands in `node` in place of what there is, and re-appraises all kept evidence since its boot.
///
/// # Errors
/// Evidence that cannot be appraised by it; nothing is changed then.
pub fn enrol(
    store: &Store,
    node: &Node,
    new: &cgpath_policy::Policy,
    reason: &str,
) -> Result<Reappraisal, Failure> {
    tried(|now| {
        let waivers = reappraisal::waivers(store, &node.name, now)?;
        let decided = Decided {
            node,
            version: store.round(&node.name)?.version,
            policy: new,
            waivers: &waivers,
            change: Change::Enrolment(node),
            reason,
            now,
        };
        decided.apply(store)
    })
}

/// Does it again where evidence arrived meanwhile, which `attempt` says by `None`. It is given the time.
fn tried<T>(mut attempt: impl FnMut(u64) -> Result<Option<T>, Failure>) -> Result<T, Failure> {
    for _ in 0..TRIES {
        if let Some(done) = attempt(input::now()?)? {
            return Ok(done);
        }
    }
    Err(StoreError::Conflict.into())
}

/// Something that is to count from now on.
struct Decided<'a> {
    node: &'a Node,
    /// What it was decided from.
    version: i64,
    policy: &'a cgpath_policy::Policy,
    waivers: &'a [Waiver],
    change: Change<'a>,
    reason: &'a str,
    now: u64,
}

impl Decided<'_> {
    /// Re-appraises all kept evidence since the node's boot and keeps both; `None` where the node changed
    /// meanwhile.
    fn apply(&self, store: &Store) -> Result<Option<Reappraisal>, Failure> {
        let again = reappraisal::since_boot(store, self.node, self.policy, self.waivers, self.now)?;
        let kept = store.change(
            &self.node.name,
            self.version,
            &self.change,
            &again.reappraised,
            &changes::of_reappraisal(&again.changes),
            again.state(),
            self.reason,
            self.now,
        );
        unless_conflict(kept.map(|()| again))
    }
}

/// `None` for a change that came too late.
fn unless_conflict<T>(result: Result<T, StoreError>) -> Result<Option<T>, Failure> {
    match result {
        Err(StoreError::Conflict) => Ok(None),
        other => other.map(Some).map_err(Failure::from),
    }
}

impl SetPolicy {
    pub(super) fn run(self, out: &mut Output) -> Result<Status, Failure> {
        let store = Store::open(&self.store.dir)?;
        let old = store.node(&self.name)?;
        let given = self
            .policy
            .as_deref()
            .map(policy_files::Whole::load)
            .transpose()?;
        let enrolled;
        let new = match &given {
            Some(given) => &given.policy,
            None => {
                enrolled = enrolled_policy(&old)?;
                &enrolled
            }
        };
        if new.file.node != self.name {
            return Err(Failure::new(
                "policy",
                format!(
                    "the policy is for node {:?}, not for {:?}",
                    new.file.node, self.name
                ),
            ));
        }
        let mut node = Node {
            policy_digest: new.digest().to_string(),
            ..old.clone()
        };
        if let Some(given) = &given {
            node.policy = given.keep(&store)?;
            node.policy_source = Some(given.source.clone());
        }
        let again = enrol(&store, &node, new, "policy")?;
        if !out.json() {
            out.line(format_args!("{}: policy {}", node.name, node.policy_digest))?;
            if node.policy_digest != old.policy_digest {
                out.line(format_args!("  before   {}", old.policy_digest))?;
            }
        }
        report(&node.name, &again, None, out)
    }
}

#[derive(Serialize)]
struct Before {
    subject: String,
    old: Option<State>,
    new: Option<State>,
}

#[derive(Serialize)]
struct Changed<'a> {
    node: &'a str,
    /// Verdicts whose evidence was re-appraised.
    rejudged: usize,
    without_evidence: usize,
    /// Subjects of the last verdict whose state is another one now.
    changes: Vec<Before>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trusted: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    statement: Option<String>,
}

/// What the re-appraisal changed of the last verdict.
pub fn report(
    node: &str,
    again: &Reappraisal,
    statement: Option<String>,
    out: &mut Output,
) -> Result<Status, Failure> {
    let mut changes = Vec::new();
    if let Some((old, new)) = again.changes.last() {
        let (old, new) = (policy::states(old), policy::states(new));
        let subjects: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        for subject in subjects {
            let (old, new) = (old.get(subject).map(|s| s.1), new.get(subject).map(|s| s.1));
            if old != new {
                changes.push(Before {
                    subject: subject.clone(),
                    old,
                    new,
                });
            }
        }
    }
    let trusted = again.changes.last().map(|(_, new)| new.trusted);
    // A node without evidence is as it was.
    let status = Status::clean_if(trusted != Some(false));
    let changed = Changed {
        node,
        rejudged: again.reappraised.len(),
        without_evidence: again.without_evidence,
        changes,
        trusted,
        statement,
    };
    if out.json() {
        out.object(&changed)?;
        return Ok(status);
    }
    out.line(format_args!(
        "  re-appraised: {} verdicts since the node's boot",
        changed.rejudged
    ))?;
    if changed.without_evidence > 0 {
        out.line(format_args!(
            "  {} verdicts have no evidence any more and stay",
            changed.without_evidence
        ))?;
    }
    let state = |s: Option<State>| s.map_or_else(|| "not there".to_owned(), |s| s.to_string());
    for change in &changed.changes {
        out.line(format_args!(
            "  {}: was {}, is {}",
            change.subject,
            state(change.old),
            state(change.new)
        ))?;
    }
    match trusted {
        Some(true) => {
            let word = out.paint(Colour::Green, "trusted");
            out.line(format_args!("  all is {word}"))?;
        }
        Some(false) => {
            let word = out.paint(Colour::Red, "untrusted");
            out.line(format_args!(
                "  something is {word}: cgpath explain --node {node}"
            ))?;
        }
        None => {}
    }
    Ok(status)
}

/// All findings of a verdict, the node's first.
pub fn findings(verdict: &Verdict) -> impl Iterator<Item = &Finding> {
    verdict
        .node
        .findings
        .iter()
        .chain(verdict.pods.iter().flat_map(|pod| &pod.findings))
}

/// The finding that `digits` begin the name of.
///
/// # Errors
/// None, or several that differ.
pub fn find<'a>(verdict: &'a Verdict, digits: &str) -> Result<&'a Finding, Failure> {
    let mut found: Vec<&Finding> = findings(verdict)
        .filter(|f| accept::id(f).starts_with(digits))
        .collect();
    found.dedup_by_key(|f| accept::id(f));
    match found[..] {
        [one] if !digits.is_empty() => Ok(one),
        [] => Err(Failure::new(
            "no-finding",
            format!("no finding {} in the last verdict", escape(digits.as_bytes())),
        )
        .hint("cgpath explain --node NAME lists them")),
        _ => Err(Failure::new(
            "no-finding",
            format!("{} begins several findings", escape(digits.as_bytes())),
        )
        .hint("give more digits")),
    }
}

/// The policy of a node as it was enrolled.
fn enrolled_policy(node: &Node) -> Result<cgpath_policy::Policy, Failure> {
    let policy = policy_files::load(&node.policy)?;
    if policy.digest().to_string() != node.policy_digest {
        return Err(Failure::new(
            "policy",
            "the policy or one of its reference files changed since it was enrolled",
        )
        .hint(format!(
            "cgpath node policy {} FILE enrols it as it is now",
            node.name
        )));
    }
    Ok(policy)
}

impl Accept {
    pub(super) fn run(self, out: &mut Output) -> Result<Status, Failure> {
        let store = Store::open(&self.store.dir)?;
        match (self.revoke, &self.reason, self.until) {
            (false, Some(reason), Some(until)) => self.accept(&store, reason, until, out),
            _ => self.revoke(&store, out),
        }
    }

    /// The one statement that holds and whose digest, or whose finding's id, begins with what was given.
    fn statement<'a>(&self, waivers: &'a [Waiver]) -> Result<&'a Waiver, Failure> {
        let given = self.finding.trim_start_matches("sha256:");
        let named: Vec<&Waiver> = waivers
            .iter()
            .filter(|a| {
                a.statement.finding.starts_with(given) || hex::encode(a.digest.bytes()).starts_with(given)
            })
            .collect();
        let shown = escape(self.finding.as_bytes());
        match named[..] {
            [one] if !given.is_empty() => Ok(one),
            [] => Err(Failure::new(
                "no-statement",
                format!("nothing that holds was accepted as {shown}"),
            )
            .hint(format!("cgpath node show {} lists what is accepted", self.name))),
            _ => Err(
                Failure::new("no-statement", format!("{shown} begins several statements"))
                    .hint("give more digits, or the statement's digest"),
            ),
        }
    }

    fn revoke(&self, store: &Store, out: &mut Output) -> Result<Status, Failure> {
        let (digest, again) = tried(|now| {
            let round = store.round(&self.name)?;
            let mut waivers = reappraisal::waivers(store, &self.name, now)?;
            let digest = self.statement(&waivers)?.digest.to_string();
            waivers.retain(|a| a.digest.to_string() != digest);
            let decided = Decided {
                node: &round.node,
                version: round.version,
                policy: &enrolled_policy(&round.node)?,
                waivers: &waivers,
                change: Change::Revoke(&digest),
                reason: &format!("revoke {digest}"),
                now,
            };
            let again = decided.apply(store)?;
            Ok(again.map(|again| (digest, again)))
        })?;
        if !out.json() {
            out.line(format_args!("{}: taken back", self.name))?;
            out.line(format_args!("  statement  {digest}"))?;
        }
        report(&self.name, &again, Some(digest), out)
    }

    fn accept(&self, store: &Store, reason: &str, until: Until, out: &mut Output) -> Result<Status, Failure> {
        let key = setup::verdict_key(&self.store.dir)?;
        let refused = |e: accept::AcceptError| Failure::new("accept", e.to_string());
        let (signed, again) = tried(|now| {
            let round = store.round(&self.name)?;
            let last = store
                .last_verdict(&self.name)?
                .ok_or_else(|| kept::silent(&self.name))?;
            let verdict: Verdict = serde_json::from_str(last.verdict.get())
                .map_err(|e| Failure::new("store", format!("verdict {}: {e}", last.id)))?;
            let finding = find(&verdict, &self.finding)?;
            let (boot_id, until) = (verdict.node.boot_id, until.seconds(now));
            let statement =
                accept::sign(&self.name, boot_id, finding, reason, now, until, &key).map_err(refused)?;
            let signed = accept::verify(&statement, key.verifying_key()).map_err(refused)?;
            let digest = signed.digest.to_string();
            let mut waivers = reappraisal::waivers(store, &self.name, now)?;
            waivers.push(signed.clone());
            let decided = Decided {
                node: &round.node,
                version: round.version,
                policy: &enrolled_policy(&round.node)?,
                waivers: &waivers,
                change: Change::Accept {
                    digest: &digest,
                    until,
                    statement: &statement,
                },
                reason: &format!("accept {digest}"),
                now,
            };
            let again = decided.apply(store)?;
            Ok(again.map(|again| (signed, again)))
        })?;
        let (digest, said) = (signed.digest.to_string(), &signed.statement);
        if !out.json() {
            out.line(format_args!(
                "{}: accepted until {} UTC",
                self.name,
                utc(said.exp)
            ))?;
            out.line(format_args!("  finding    {}", said.finding))?;
            out.line(format_args!("  statement  {digest}"))?;
        }
        report(&self.name, &again, Some(digest), out)
    }
}

impl Named {
    /// Takes nothing of the node any more.
    pub(super) fn stop(self, out: &mut Output) -> Result<Status, Failure> {
        let now = input::now()?;
        Store::open(&self.store.dir)?.set_stopped(&self.name, Some(now))?;
        self.say(
            "stopped: no evidence of it is taken until `cgpath node reactivate`",
            out,
        )
    }

    /// Takes its evidence again.
    pub(super) fn reactivate(self, out: &mut Output) -> Result<Status, Failure> {
        Store::open(&self.store.dir)?.set_stopped(&self.name, None)?;
        self.say("active: its evidence is taken again", out)
    }

    /// Everything is to be sent again.
    pub(super) fn resync(self, out: &mut Output) -> Result<Status, Failure> {
        Store::open(&self.store.dir)?.resync(&self.name)?;
        self.say("to be resynchronised: its next round sends everything", out)
    }

    fn say(&self, what: &str, out: &mut Output) -> Result<Status, Failure> {
        if out.json() {
            #[derive(Serialize)]
            struct Said<'a> {
                node: &'a str,
                state: &'a str,
            }
            let state = what.split(':').next().unwrap_or_default();
            out.object(&Said {
                node: &self.name,
                state,
            })?;
        } else {
            out.line(format_args!("{} is {what}", self.name))?;
        }
        Ok(Status::Clean)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_taken_in_the_forms_that_help_shows_and_no_others() {
        assert_eq!(Until::parse("1970-01-02"), Ok(Until::At(86_400)));
        assert_eq!(Until::parse("2027-01-15T08:00:00Z"), Ok(Until::At(1_800_000_000)));
        assert_eq!(Until::parse("90m"), Ok(Until::After(5400)));
        assert_eq!(Until::parse("7d").map(|u| u.seconds(1)), Ok(604_801));
        for bad in [
            "",
            "d",
            "1w",
            "2027-13-01",
            "2027-02-30",
            "2027-01-15T25:00:00Z",
            "-1d",
            "tomorrow",
            "99999999999999999999d",
            "1970-01-02-03",
        ] {
            assert!(Until::parse(bad).is_err(), "{bad}");
        }
    }
}
