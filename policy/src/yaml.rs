//! What this crate writes of a node's policy as YAML.
//!
//! Promise: it is read back as what it was made of ([`crate::NodePolicy`]), whatever the texts hold. Not
//! here: whole policies, which people write.

use crate::BootPolicy;
use cgpath_evidence::{Digest, boot::RegisterSet};
use std::fmt::Write as _;

/// A text in double quotes. Whatever is neither a letter nor printable ASCII is escaped: a line break of YAML
/// is one of Unicode, too.
pub(crate) fn text(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            c if c.is_alphanumeric() => out.push(c),
            c => {
                let _ = write!(out, "\\U{:08x}", u32::from(c));
            }
        }
    }
    out.push('"');
    out
}

/// Digests as a list on one line.
pub(crate) fn digests(digests: &[Digest]) -> String {
    let digests: Vec<String> = digests.iter().map(|digest| format!("\"{digest}\"")).collect();
    format!("[{}]", digests.join(", "))
}

impl BootPolicy {
    /// The `boot:` of a node's policy. Each of `remarks` becomes a comment below it.
    pub fn to_yaml(&self, remarks: &[String]) -> String {
        let register = match self.set {
            RegisterSet::Pcr => "pcr",
            RegisterSet::Rtmr => "rtmr",
        };
        let mut out = String::from("boot:\n");
        for remark in remarks {
            let _ = writeln!(out, "  # {}", cgpath_evidence::text::escape(remark.as_bytes()));
        }
        if !self.registers.is_empty() {
            out.push_str("  registers:\n");
        }
        for (pcr, values) in &self.registers {
            let _ = writeln!(out, "    {pcr}: {}", digests(values));
        }
        if !self.command_lines.is_empty() {
            out.push_str("  command-lines:\n");
        }
        for line in &self.command_lines {
            let _ = writeln!(out, "    - {}", text(line));
        }
        if !self.events.is_empty() {
            out.push_str("  events:\n");
        }
        for event in &self.events {
            let optional = if event.optional { ", optional: true" } else { "" };
            let _ = writeln!(
                out,
                "    - {{{register}: {}, type: {}, name: {}, digests: {}{optional}}}",
                event.pcr,
                event.kind,
                text(&event.name),
                digests(&event.digests)
            );
        }
        if !self.firmware_deviations.is_empty() {
            out.push_str("  firmware-deviations:\n");
        }
        for item in &self.firmware_deviations {
            let count = item.count.map(|count| format!(", count: {count}"));
            let _ = writeln!(
                out,
                "    - {{{register}: {}, type: {}, name: {}{}, digests: {}}}",
                item.pcr,
                item.kind,
                text(&item.name),
                count.unwrap_or_default(),
                digests(&item.digests)
            );
        }
        out
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_text_is_read_back_as_it_was(given in any::<String>()) {
            let read: String = serde_norway::from_str(&text(&given)).unwrap();
            prop_assert_eq!(read, given);
        }
    }

    #[test]
    fn what_yaml_would_fold_or_refuse_is_read_back_as_it_was() {
        let given: String = (0..=0x2100)
            .chain(0xfee0..=0xffff)
            .filter_map(char::from_u32)
            .collect();
        let read: String = serde_norway::from_str(&text(&given)).unwrap();
        assert_eq!(read, given);
    }
}
