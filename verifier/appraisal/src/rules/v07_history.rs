//! V7: a node never goes back: its TPM's resets, restarts and clock, its boot, its coverage.
//!
//! Counters are compared by their difference: for a key outside of the endorsement hierarchy the TPM adds a
//! constant to them (TPM 2.0 Part 1, "Attestation"), which cancels as long as the key is the same one.

use crate::inputs::context::NodeState;
use crate::results::finding::{Finding, Findings, Subject};
use crate::rules::Rule;

/// A TPM's clock goes back by less than this at an unorderly shutdown, milliseconds: TPM 2.0 Part 1, "Clock":
/// it is written to non-volatile memory at least every 2^22 ms.
pub const MAX_CLOCK_LOSS_MS: u64 = 1 << 22;

/// What of this evidence is compared with the node's past.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Present<'a> {
    pub ak_name: &'a [u8],
    pub boot_id: [u8; 16],
    pub reset_count: u32,
    pub restart_count: u32,
    pub clock_ms: u64,
    /// TPMS_CLOCK_INFO.safe: no greater clock value was ever reported.
    pub safe: bool,
}

/// How this evidence stands to the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Relation {
    /// There is none before.
    First,
    /// The same boot goes on.
    SameBoot,
    /// The TPM was reset in between.
    Rebooted,
    /// Another boot id, and the TPM was not reset.
    Kexec,
}

/// Of a node without a TPM: another boot id is another boot. What stands for the counters is elsewhere: a
/// register is reset with its trust domain alone (`v04_register` judges where it began), and its log only
/// grows.
pub(crate) fn without_counters(
    boot_id: [u8; 16],
    before: Option<&NodeState>,
    asked: Asked,
    findings: &mut Findings,
    notes: &mut Vec<String>,
) -> Relation {
    let Some(before) = before else {
        notes.push("first evidence of this node: nothing to compare it with".into());
        return Relation::First;
    };
    if before.boot_id == boot_id {
        return Relation::SameBoot;
    }
    let passed = asked.now.saturating_sub(before.time);
    if passed < asked.min_reboot.into() {
        findings.push(
            Finding::fail(
                Rule::History,
                Subject::Node,
                "the boot id changed sooner than the machine can reboot",
            )
            .found(format!("{passed} s after the last evidence"))
            .expected(format!("at least {} s", asked.min_reboot)),
        );
    }
    notes.push(
        "another boot since the last evidence, and no TPM that counts them: the chain of checkpoints starts \
         anew"
            .into(),
    );
    Relation::Rebooted
}

/// What the verifier asks of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    /// Its clock, seconds since 1970.
    pub now: u64,
    /// A reboot takes at least this long, seconds.
    pub min_reboot: u32,
    pub kexec_allowed: bool,
}

/// `after - before` on a circle of 2^32; `None` if that is a step back.
fn advance(before: u32, after: u32) -> Option<u32> {
    let step = after.wrapping_sub(before);
    (step < 1 << 31).then_some(step)
}

pub(crate) fn check(
    now: Present<'_>,
    before: Option<&NodeState>,
    asked: Asked,
    findings: &mut Findings,
    notes: &mut Vec<String>,
) -> Relation {
    let fail = |text: String| Finding::fail(Rule::History, Subject::Node, text);
    let Some(before) = before else {
        notes.push("first evidence of this node: nothing to compare its counters with".into());
        return Relation::First;
    };
    if before.ak_name != now.ak_name {
        findings.push(
            fail(
                "the remembered state is that of another attestation key; forget it when a node is enrolled \
                anew"
                    .into(),
            )
            .found(hex::encode(now.ak_name))
            .expected(hex::encode(&before.ak_name)),
        );
    }
    let resets = advance(before.reset_count, now.reset_count);
    match resets {
        None => findings.push(
            fail("the TPM's reset counter went back".into())
                .found(now.reset_count)
                .expected(format!("at least {}", before.reset_count)),
        ),
        Some(0) => {
            if advance(before.restart_count, now.restart_count).is_none() {
                findings.push(
                    fail("the TPM's restart counter went back".into())
                        .found(now.restart_count)
                        .expected(format!("at least {}", before.restart_count)),
                );
            }
        }
        Some(_) => {}
    }
    if now.clock_ms < before.clock_ms {
        let lost = before.clock_ms - now.clock_ms;
        let unorderly = resets.is_some_and(|r| r > 0) && !now.safe && lost < MAX_CLOCK_LOSS_MS;
        if unorderly {
            notes.push(format!("the TPM's clock lost {lost} ms at an unorderly shutdown"));
        } else {
            findings.push(
                fail("the TPM's clock went back".into())
                    .found(format!("{} ms", now.clock_ms))
                    .expected(format!("at least {} ms", before.clock_ms)),
            );
        }
    }
    let was_reset = resets.is_some_and(|r| r > 0);
    match (before.boot_id == now.boot_id, was_reset) {
        (true, false) => Relation::SameBoot,
        (true, true) => {
            findings.push(fail("the TPM was reset and the boot id is still the same".into()));
            Relation::SameBoot
        }
        (false, true) => {
            let passed = asked.now.saturating_sub(before.time);
            if passed < asked.min_reboot.into() {
                findings.push(
                    fail("the TPM was reset sooner than the machine can reboot".into())
                        .found(format!("{passed} s after the last evidence"))
                        .expected(format!("at least {} s", asked.min_reboot)),
                );
            }
            notes.push("rebooted since the last evidence: the chain of checkpoints starts anew".into());
            Relation::Rebooted
        }
        (false, false) => {
            if asked.kexec_allowed {
                notes.push("a new kernel was started by kexec since the last evidence".into());
            } else {
                findings.push(
                    fail(
                        "the boot id changed and the TPM was not reset: a kernel was started by kexec, or \
                        the boot id is false"
                            .into(),
                    )
                    .found(hex::encode(now.boot_id))
                    .expected(hex::encode(before.boot_id)),
                );
            }
            Relation::Kexec
        }
    }
}
