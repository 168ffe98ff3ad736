//! IMA policy rules: reads a rule file as the kernel does, and says what the project needs and does not find.
//!
//! The kernel's grammar: security/integrity/ima/ima_policy.c (`ima_parse_rule`) and Documentation/ABI/testing/ima_policy.
//! Promise: a file that is refused here would be refused there, or carries an option that no supported kernel (6.1 and
//! newer) has. Not here: which policy is in force (see the collector's `check`).

use crate::text::{foreign, quoted};

/// A rule file is never longer than this many bytes.
pub const MAX_LEN: usize = 1024 * 1024;

const ACTIONS: [&str; 7] = [
    "measure",
    "dont_measure",
    "appraise",
    "dont_appraise",
    "audit",
    "hash",
    "dont_hash",
];

/// `enum ima_hooks`, as far as a policy may name it on 6.1.
const FUNCTIONS: [&str; 13] = [
    "FILE_CHECK",
    "MMAP_CHECK",
    "BPRM_CHECK",
    "CREDS_CHECK",
    "MODULE_CHECK",
    "FIRMWARE_CHECK",
    "KEXEC_KERNEL_CHECK",
    "KEXEC_INITRAMFS_CHECK",
    "POLICY_CHECK",
    "KEXEC_CMDLINE",
    "KEY_CHECK",
    "CRITICAL_DATA",
    "SETXATTR_CHECK",
];

/// Conditions and options with a value. uid, euid, gid, egid, fowner and fgroup also take `>` and `<`.
const KEYS: [&str; 25] = [
    "func",
    "mask",
    "fsmagic",
    "fsname",
    "fsuuid",
    "uid",
    "euid",
    "gid",
    "egid",
    "fowner",
    "fgroup",
    "subj_user",
    "subj_role",
    "subj_type",
    "obj_user",
    "obj_role",
    "obj_type",
    "appraise_type",
    "appraise_flag",
    "appraise_algos",
    "keyrings",
    "label",
    "template",
    "pcr",
    "digest_type",
];

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Line in the file, from 1.
    pub line: usize,
    /// `measure`, `dont_measure`…
    pub action: String,
    /// Conditions and options: key, then value (empty for a flag), as written and in order.
    pub options: Vec<(String, String)>,
}

/// Why a rule file would be refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct RuleError {
    /// Line, from 1; 0 for the file as a whole.
    pub line: usize,
    /// Why.
    pub why: String,
}

impl Rule {
    /// The value of an option.
    pub fn option(&self, key: &str) -> Option<&str> {
        self.options
            .iter()
            .find(|(k, _)| k == key)
            .map(|(_, v)| v.as_str())
    }

    fn parse(line: usize, text: &str) -> Result<Rule, RuleError> {
        let refuse = |why: String| RuleError { line, why };
        let mut words = text.split([' ', '\t']).filter(|w| !w.is_empty());
        let action = words.next().unwrap_or_default();
        if !ACTIONS.contains(&action) {
            return Err(refuse(format!(
                "{} is not an action ({})",
                quoted(action),
                ACTIONS.join(", ")
            )));
        }
        let mut options: Vec<(String, String)> = Vec::new();
        for word in words {
            if word.starts_with('#') {
                return Err(refuse(
                    "a comment after a rule: the kernel refuses it; put it on a line of its own".into(),
                ));
            }
            if word == "permit_directio" {
                options.push((word.to_owned(), String::new()));
                continue;
            }
            let at = word
                .find(['=', '<', '>'])
                .ok_or_else(|| refuse(format!("{} is not an option", quoted(word))))?;
            let (key, value) = (&word[..at], &word[at + 1..]);
            let compares = ["uid", "euid", "gid", "egid", "fowner", "fgroup"].contains(&key);
            if !KEYS.contains(&key) || (!word[at..].starts_with('=') && !compares) {
                return Err(refuse(format!("{} is not an option", quoted(word))));
            }
            if value.is_empty() || options.iter().any(|(k, _)| k == key) {
                return Err(refuse(format!("{key} has no value, or is there twice")));
            }
            check_value(key, value).map_err(refuse)?;
            options.push((key.to_owned(), value.to_owned()));
        }
        Ok(Rule {
            line,
            action: action.to_owned(),
            options,
        })
    }
}

fn check_value(key: &str, value: &str) -> Result<(), String> {
    let known = match key {
        "func" => FUNCTIONS.contains(&value),
        "mask" => {
            let mask = value.strip_prefix('^').unwrap_or(value);
            ["MAY_EXEC", "MAY_WRITE", "MAY_READ", "MAY_APPEND"].contains(&mask)
        }
        "fsmagic" => {
            let digits = value.strip_prefix("0x").unwrap_or(value);
            u64::from_str_radix(digits, 16).is_ok()
        }
        "fsuuid" => crate::PodUid::parse(value.as_bytes()).is_some() && value.contains('-'),
        "uid" | "euid" | "gid" | "egid" | "fowner" | "fgroup" => value.parse::<u32>().is_ok(),
        "pcr" => value.parse::<u32>().is_ok_and(|pcr| pcr < 24),
        _ => true,
    };
    if known {
        Ok(())
    } else {
        Err(format!(
            "{key}={}: the kernel does not know this value",
            foreign(value)
        ))
    }
}

/// Reads a rule file.
///
/// # Errors
/// The first line that the kernel would refuse; then it refuses the whole file.
pub fn parse(text: &str) -> Result<Vec<Rule>, RuleError> {
    if text.len() > MAX_LEN {
        return Err(RuleError {
            line: 0,
            why: format!("longer than {MAX_LEN} bytes"),
        });
    }
    let mut rules = Vec::new();
    for (n, line) in text.split('\n').enumerate() {
        let line = line.trim_start_matches([' ', '\t']);
        if !line.is_empty() && !line.starts_with('#') {
            rules.push(Rule::parse(n + 1, line)?);
        }
    }
    if rules.is_empty() {
        return Err(RuleError {
            line: 0,
            why: "no rules in it".into(),
        });
    }
    Ok(rules)
}

/// Rules that the project needs and `rules` lacks, as the lines to add. Empty if all are there.
///
/// A rule counts only if it has no further condition, since each condition leaves something out; and only if no
/// exclusion of tmpfs or overlayfs stands before it, where containers' files live.
pub fn missing(rules: &[Rule]) -> Vec<String> {
    let wanted: [(&str, &str); 7] = [
        ("BPRM_CHECK", ""),
        ("MMAP_CHECK", "MAY_EXEC"),
        ("MODULE_CHECK", ""),
        ("FIRMWARE_CHECK", ""),
        ("KEXEC_KERNEL_CHECK", ""),
        ("KEXEC_INITRAMFS_CHECK", ""),
        ("POLICY_CHECK", ""),
    ];
    let mut missing = Vec::new();
    for (function, mask) in wanted {
        let found = rules.iter().find(|rule| {
            rule.action == "measure"
                && rule.option("func") == Some(function)
                && rule.options.iter().all(|(key, value)| match key.as_str() {
                    "func" | "template" => true,
                    // Mappings and executions ask for this mask anyhow.
                    "mask" => value.trim_start_matches('^') == "MAY_EXEC",
                    _ => false,
                })
        });
        let mask = if mask.is_empty() {
            String::new()
        } else {
            format!(" mask={mask}")
        };
        match found {
            None => missing.push(format!("measure func={function}{mask}")),
            Some(found) => missing.extend(excluded_before(rules, found, function)),
        }
    }
    let uuid = crate::checkpoint::FS_UUID;
    let checkpoint = rules.iter().find(|rule| {
        rule.action == "measure"
            && rule
                .option("fsuuid")
                .is_some_and(|v| v.eq_ignore_ascii_case(uuid))
            && rule.option("func") == Some("FILE_CHECK")
            && rule.options.iter().all(|(key, value)| match key.as_str() {
                "func" | "fsuuid" => true,
                "mask" => value.trim_start_matches('^') == "MAY_READ",
                _ => false,
            })
    });
    if checkpoint.is_none() {
        missing.push(format!("measure func=FILE_CHECK mask=^MAY_READ fsuuid={uuid}"));
    }
    missing
}

/// An exclusion before `rule` that takes tmpfs, ramfs or overlayfs out of it.
fn excluded_before(rules: &[Rule], rule: &Rule, function: &str) -> Option<String> {
    // TMPFS_MAGIC, RAMFS_MAGIC, OVERLAYFS_SUPER_MAGIC (include/uapi/linux/magic.h).
    const KEPT: [u64; 3] = [0x0102_1994, 0x8584_58f6, 0x794c_7630];
    let other = |r: &Rule| r.option("func").is_some_and(|f| f != function);
    rules
        .iter()
        .take_while(|r| r.line < rule.line)
        .find(|r| {
            let magic = r.option("fsmagic").map(|m| m.trim_start_matches("0x"));
            let magic = magic.and_then(|m| u64::from_str_radix(m, 16).ok());
            r.action == "dont_measure" && !other(r) && magic.is_none_or(|m| KEPT.contains(&m))
        })
        .map(|r| {
            format!(
                "measure func={function} (before the exclusion in line {})",
                r.line
            )
        })
}
