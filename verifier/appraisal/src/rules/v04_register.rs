//! V4 where a trust domain's register is an anchor: each checkpoint extended it, in order and once, nobody
//! else did whom the policy does not name, and that is what the quote has.
//!
//! Promise: the register's value is computed from checkpoints' files, never taken from its log. What the
//! register held before checkpoint 0 is judged by policy. Not here: the checkpoints themselves (see
//! `v04_chain`), the list (see `v02_bound`).

use crate::inputs::round::Round;
use crate::results::finding::{Finding, Findings, Subject};
use crate::rules::Rule;
use crate::rules::v01_td::TdQuoted;
use cgpath_evidence::boot::EventType;
use cgpath_evidence::td::log::{self, Extension};
use cgpath_evidence::td::{Origin, Register, checkpoint_digest, digest, extend, node_key_hash};
use cgpath_evidence::{Bank, Checkpoint, Quotes, SealedCheckpoint};
use cgpath_policy::{RtmrWriter, TdxPolicy};

/// The tag of CoCo's attestation agent. Source: guest-components, attestation-agent/src/eventlog/tcg2.rs.
const AGENT_TAG: u32 = 0x4141_454c;
/// Of extensions by others, findings show this many.
const MAX_SHOWN: usize = 8;

/// How far the register was followed.
#[derive(Debug, Default)]
pub(crate) struct RegisterChain {
    /// How many checkpoints extended it.
    checkpoints: u64,
    /// Its value after the last of them; before the first, the origin.
    value: Option<Register>,
    origin: Option<Origin>,
    times: Times,
}

/// When checkpoints were sealed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Times {
    last_ns: u64,
    longest_ns: u64,
}

fn fail(text: impl Into<String>) -> Finding {
    Finding::fail(Rule::Chain, Subject::Node, text)
}

/// What is asked of the register.
pub(crate) struct Anchored<'a> {
    /// Which RTMR.
    pub rtmr: u8,
    pub policy: &'a TdxPolicy,
    pub quoted: Option<&'a TdQuoted>,
}

/// What is new of a register's log.
struct Log<'a> {
    bytes: Option<&'a [u8]>,
    /// So many checkpoints there are with it.
    total: u64,
    /// What a checkpoint must have extended the register with, where its file is at hand.
    digest: &'a dyn Fn(u64) -> Option<Register>,
}

impl RegisterChain {
    /// Where the chain begins, as checkpoint 0 states.
    pub(crate) fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref()
    }

    /// The longest time between two checkpoints, or from the boot to the first one, milliseconds: so long
    /// nothing bound what was listed.
    pub(crate) fn longest_ms(&self) -> u64 {
        self.times.longest_ns / 1_000_000
    }

    /// Follows the register through what is new of its log.
    pub(crate) fn step(&mut self, round: &Round<'_>, asked: &Anchored<'_>, findings: &mut Findings) {
        let files = round.checkpoints;
        for (place, file) in files.iter().enumerate() {
            if let Ok(sealed) = SealedCheckpoint::from_file(file) {
                let is_first = self.checkpoints == 0 && place == 0;
                self.binding(&sealed.checkpoint, is_first, asked, findings);
            }
        }
        speaks_for(round.quote, files.last(), findings);
        let first = self.checkpoints;
        let log = Log {
            bytes: round.td.map(|td| &td.register_log[..]),
            total: first.saturating_add(files.len() as u64),
            digest: &|number| {
                let place = usize::try_from(number.checked_sub(first)?).ok()?;
                Some(checkpoint_digest(files.get(place)?))
            },
        };
        self.follow(&log, asked, findings);
    }

    /// Follows the register where the first checkpoint and the last are at hand and no others: what is
    /// between them are digests of the log.
    pub(crate) fn ends(
        &mut self,
        (first, last): (&SealedCheckpoint, &SealedCheckpoint),
        quotes: &Quotes,
        register_log: Option<&[u8]>,
        asked: &Anchored<'_>,
        findings: &mut Findings,
    ) {
        let number = last.checkpoint.number;
        self.binding(&first.checkpoint, true, asked, findings);
        if number > 0 {
            self.binding(&last.checkpoint, false, asked, findings);
        } else if first.file != last.file {
            findings.push(fail("there are two files of checkpoint 0"));
        }
        speaks_for(quotes, Some(&last.file), findings);
        let log = Log {
            bytes: register_log,
            total: number.saturating_add(1),
            digest: &|at| {
                let ends = [(0, first), (number, last)].into_iter();
                let end = ends.filter(|(number, _)| *number == at);
                end.map(|(_, sealed)| checkpoint_digest(&sealed.file)).next()
            },
        };
        self.follow(&log, asked, findings);
    }

    /// Follows what is new of the register's log.
    fn follow(&mut self, new: &Log<'_>, asked: &Anchored<'_>, findings: &mut Findings) {
        let Some(register_log) = new.bytes else {
            findings.push(fail("there is no log of the register"));
            return;
        };
        let mut strangers = 0;
        let Some(mut value) = self.value else {
            findings.push(fail(
                "checkpoint 0 does not state what the register held before it",
            ));
            return;
        };
        let events = match log::read(register_log) {
            Ok(events) => events,
            Err(why) => return findings.push(fail(format!("the register's log cannot be read: {why}"))),
        };
        for event in events {
            let event = match event {
                Ok(event) => event,
                Err(why) => {
                    findings.push(fail(format!("the register's log cannot be read: {why}")));
                    return;
                }
            };
            if event.rtmr != asked.rtmr {
                findings.push(
                    fail("the register's log has an extension of another register")
                        .found(format!("RTMR {}", event.rtmr))
                        .expected(format!("RTMR {}", asked.rtmr)),
                );
                continue;
            }
            value = extend(&value, &event.digest);
            let Some(number) = event.checkpoint() else {
                if !is_named(&event, asked.policy) {
                    strangers += 1;
                    if strangers <= MAX_SHOWN {
                        findings.push(stranger(&event, asked.rtmr));
                    }
                }
                continue;
            };
            if number != self.checkpoints || number >= new.total {
                findings.push(
                    fail("the register's log has a checkpoint that is not the next one")
                        .found(format!("checkpoint {number}"))
                        .expected(format!("checkpoint {}", self.checkpoints)),
                );
                continue;
            }
            if let Some(digest) = (new.digest)(number)
                && digest != event.digest
            {
                findings.push(
                    fail(format!(
                        "the register was extended with another file than checkpoint {number}"
                    ))
                    .found(hex::encode(event.digest))
                    .expected(hex::encode(digest)),
                );
            }
            self.checkpoints += 1;
            self.value = Some(value);
        }
        if let Some(more) = strangers.checked_sub(MAX_SHOWN).filter(|more| *more > 0) {
            findings.push(fail(format!(
                "{more} more extension(s) of the register by others"
            )));
        }
        if self.checkpoints != new.total {
            findings.push(
                fail(format!(
                    "the register's log does not have checkpoint {}: it never extended the register",
                    self.checkpoints
                ))
                .found(format!("{} checkpoint(s)", self.checkpoints))
                .expected(format!("{} checkpoint(s)", new.total)),
            );
        }
        self.is_quoted(&value, asked, findings);
    }

    /// What a checkpoint states of binding the list.
    fn binding(
        &mut self,
        checkpoint: &Checkpoint,
        is_first: bool,
        asked: &Anchored<'_>,
        findings: &mut Findings,
    ) {
        let n = checkpoint.number;
        let Some(binding) = &checkpoint.binding else {
            findings.push(fail(format!(
                "checkpoint {n} states no running value of the list: it was not made for a register"
            )));
            return;
        };
        let times = &mut self.times;
        if binding.sealed_ns < times.last_ns {
            findings.push(
                fail(format!("the time of sealing went back in checkpoint {n}"))
                    .found(binding.sealed_ns)
                    .expected(format!("at least {}", times.last_ns)),
            );
        }
        times.longest_ns = times
            .longest_ns
            .max(binding.sealed_ns.saturating_sub(times.last_ns));
        times.last_ns = binding.sealed_ns;
        match (&binding.origin, is_first) {
            (Some(origin), true) => self.begin(origin, asked, findings),
            (None, true) => {
                findings.push(fail(
                    "checkpoint 0 does not state what the register held before it",
                ));
            }
            (Some(_), false) => findings.push(fail(format!(
                "checkpoint {n} states what only checkpoint 0 may: the register's origin"
            ))),
            (None, false) => {}
        }
    }

    fn begin(&mut self, origin: &Origin, asked: &Anchored<'_>, findings: &mut Findings) {
        if origin.register != asked.rtmr {
            findings.push(
                fail("checkpoints extend another register than the policy's anchor")
                    .found(format!("RTMR {}", origin.register))
                    .expected(format!("RTMR {}", asked.rtmr)),
            );
        }
        let value = digest(&origin.value);
        let accepted = &asked.policy.rtmr_origin;
        if !accepted.contains(&value) {
            let text = "what the register held before checkpoint 0 is not what the policy accepts \
                (tdx.rtmr-origin): something extended it before the collector, or a kernel was started by \
                kexec";
            findings.push(accepted.iter().fold(fail(text).found(value), Finding::expected));
        }
        if let Some(quoted) = asked.quoted
            && node_key_hash(&origin.node_key) != quoted.node_key
        {
            findings.push(
                fail("checkpoint 0 states another node's key than the trust domain's quote")
                    .found(hex::encode(node_key_hash(&origin.node_key)))
                    .expected(hex::encode(quoted.node_key)),
            );
        }
        self.value = Some(origin.value);
        self.origin = Some(origin.clone());
    }

    fn is_quoted(&self, value: &Register, asked: &Anchored<'_>, findings: &mut Findings) {
        let quoted = asked
            .quoted
            .and_then(|quoted| quoted.body.rtmrs.get(usize::from(asked.rtmr)));
        let Some(quoted) = quoted else { return };
        if quoted != value {
            findings.push(
                fail(format!(
                    "the register's log does not lead to the quoted RTMR {}: it was extended by somebody \
                     else, or the log is another one",
                    asked.rtmr
                ))
                .found(hex::encode(value))
                .expected(hex::encode(quoted)),
            );
        }
    }
}

/// The quote's report data speak for the last checkpoint.
fn speaks_for(quotes: &Quotes, last: Option<&Vec<u8>>, findings: &mut Findings) {
    let (Some(td), Some(last)) = (&quotes.td, last) else {
        return;
    };
    let expected = checkpoint_digest(last);
    if td.checkpoint != expected {
        findings.push(
            fail("the trust domain's quote speaks for another checkpoint than the last one")
                .found(hex::encode(td.checkpoint))
                .expected(hex::encode(expected)),
        );
    }
}

/// Whether the policy names who made this extension, or the extension.
fn is_named(event: &Extension<'_>, policy: &TdxPolicy) -> bool {
    let tag = event.data.first_chunk().copied().map(u32::from_le_bytes);
    let is_agents = event.kind == EventType::EVENT_TAG
        && tag == Some(AGENT_TAG)
        && Bank::Sha384.hash(&[event.data]).bytes() == event.digest;
    (is_agents && policy.rtmr_writers.contains(&RtmrWriter::AttestationAgent))
        || policy.rtmr_extensions.contains(&digest(&event.digest))
}

fn stranger(event: &Extension<'_>, rtmr: u8) -> Finding {
    fail(format!(
        "shared-register: somebody else extended RTMR {rtmr}, whom the policy does not name \
         (tdx.rtmr-writers, tdx.rtmr-extensions)"
    ))
    .found(format!(
        "{} at byte {} of the register's log, digest {}",
        event.kind,
        event.offset,
        digest(&event.digest)
    ))
}
