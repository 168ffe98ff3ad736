//! Reference values of the boot from evidence of a good one, as the `boot:` of a node's policy.
//!
//! Promise: what is written is read back by [`crate::NodePolicy`], and accepts this boot. Values are learned: whoever
//! writes them down trusts the boot that they come from. Not here: whether a quote vouches for them (the caller's).

use evidence::{
    Bank, Digest, Error,
    boot::{Boot, CommandLine, EventLog, EventType, ReplayError},
};
use std::fmt::Write as _;

/// Why a boot gives no reference values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BootError {
    /// No log came along.
    #[error("the evidence holds no boot log: the node's kernel shows no binary_bios_measurements")]
    NoLog,
    /// The log cannot be read.
    #[error("the boot log cannot be read: {0}")]
    Log(#[from] Error),
    /// It gives no registers in a bank.
    #[error("{0}")]
    Replay(#[from] ReplayError),
    /// The log is not that of the registers.
    #[error("the boot log replays to {replayed} for PCR {pcr}, which is {quoted}")]
    Differs {
        /// The register.
        pcr: usize,
        /// By the log.
        replayed: Box<Digest>,
        /// As it was quoted.
        quoted: Box<Digest>,
    },
    /// A command line whose text is not known.
    #[error("the kernel command line that was measured is not what /proc/cmdline said")]
    CommandLine,
}

/// YAML strings are JSON strings.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The text of a measured command line, if it is GRUB's or what the node told.
fn text_of(line: &CommandLine, boot: &Boot, banks: &[Bank]) -> Option<String> {
    let text = match line {
        CommandLine::Grub(_, text) => *text,
        CommandLine::LoadOptions(_) => boot.command_line.as_deref()?,
    };
    let is_measured = banks.iter().all(|bank| line.is(text, *bank));
    String::from_utf8(text.to_vec()).ok().filter(|_| is_measured)
}

/// The `boot:` that accepts exactly this boot: its registers, command lines and the EFI applications that were loaded.
///
/// # Errors
/// [`BootError`] if the log is missing, is not that of the stated registers, or measures a command line that is not known.
pub fn from_boot(boot: &Boot) -> Result<String, BootError> {
    let log = EventLog::parse(boot.log.as_deref().ok_or(BootError::NoLog)?)?;
    let banks: Vec<Bank> = boot.registers.iter().map(|registers| registers.bank()).collect();
    for registers in &boot.registers {
        let replayed = log.replay(registers.bank())?;
        let mut both = replayed.values().iter().zip(registers.values()).enumerate();
        if let Some((pcr, (replayed, quoted))) = both.find(|(_, (replayed, quoted))| replayed != quoted) {
            return Err(BootError::Differs {
                pcr,
                replayed: Box::new(replayed.clone()),
                quoted: Box::new(quoted.clone()),
            });
        }
    }
    let list = |digests: Vec<Digest>| {
        let digests: Vec<String> = digests.iter().map(|digest| format!("\"{digest}\"")).collect();
        digests.join(", ")
    };
    let mut out = String::from("boot:\n  registers:\n");
    for pcr in 0..evidence::boot::REGISTERS {
        let values = boot.registers.iter();
        let values = values.filter_map(|registers| registers.values().get(pcr).cloned());
        let _ = writeln!(out, "    {pcr}: [{}]", list(values.collect()));
    }
    let mut lines = Vec::new();
    for line in log.command_lines() {
        lines.push(text_of(&line, boot, &banks).ok_or(BootError::CommandLine)?);
    }
    if !lines.is_empty() {
        out.push_str("  command-lines:\n");
    }
    for line in &lines {
        let _ = writeln!(out, "    - {}", quoted(line));
    }
    let mut applications = log
        .events()
        .iter()
        .filter(|event| event.pcr == 4 && event.kind == EventType::APPLICATION)
        .enumerate()
        .peekable();
    if applications.peek().is_some() {
        out.push_str("  events:\n");
    }
    for (n, event) in applications {
        let label = match event.label() {
            label if label.is_empty() => format!("EFI application {}, from memory", n + 1),
            label => label,
        };
        let digests = banks.iter().filter_map(|bank| event.digest(*bank).cloned());
        let _ = writeln!(
            out,
            "    - {{pcr: 4, type: {}, name: {}, digests: [{}]}}",
            event.kind,
            quoted(&label),
            list(digests.collect())
        );
    }
    Ok(out)
}
