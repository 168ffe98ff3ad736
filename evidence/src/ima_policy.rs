//! IMA policy rules: reads a rule file as the kernel does, and says what the project needs and does not find.
//!
//! The kernel's grammar: security/integrity/ima/ima_policy.c (`policy_tokens`, `ima_parse_rule`) and
//! Documentation/ABI/testing/ima_policy. Promise: what the parser of a supported kernel takes is taken here;
//! which of them know a word is in the tables below. Not here: which policy is in force (see the collector's
//! `check`).

use crate::record::{OVERLAYFS_MAGIC, TMPFS_MAGIC};
use crate::text::{foreign, quoted};

/// A rule file is never longer than this many bytes.
pub const MAX_LEN: usize = 1024 * 1024;

/// A word of the grammar, and the first supported kernel that knows it: 6.1, 6.12 and 7.3 are.
type Word = (&'static str, &'static str);

/// `policy_tokens` without a value that say what a rule does.
const ACTIONS: [Word; 8] = [
    ("measure", "6.1"),
    ("dont_measure", "6.1"),
    ("appraise", "6.1"),
    ("dont_appraise", "6.1"),
    ("audit", "6.1"),
    ("dont_audit", "7.3"),
    ("hash", "6.1"),
    ("dont_hash", "6.1"),
];

/// `policy_tokens` without a value that say how it is done.
const FLAGS: [Word; 2] = [
    ("permit_directio", "6.1"),
    // Of the series in kernel-patches/, no released kernel's.
    ("per_cgroup", "patched"),
];

/// What `func=` may be; [`Rule::function`] tells which are two names of one.
const FUNCTIONS: [Word; 16] = [
    ("FILE_CHECK", "6.1"),
    ("PATH_CHECK", "6.1"),
    ("MMAP_CHECK", "6.1"),
    ("FILE_MMAP", "6.1"),
    // Since 6.3: the protection that was asked for, not the one that was given, so that it is no other name
    // of MMAP_CHECK.
    ("MMAP_CHECK_REQPROT", "6.12"),
    ("BPRM_CHECK", "6.1"),
    ("CREDS_CHECK", "6.1"),
    ("MODULE_CHECK", "6.1"),
    ("FIRMWARE_CHECK", "6.1"),
    ("KEXEC_KERNEL_CHECK", "6.1"),
    ("KEXEC_INITRAMFS_CHECK", "6.1"),
    ("POLICY_CHECK", "6.1"),
    ("KEXEC_CMDLINE", "6.1"),
    ("KEY_CHECK", "6.1"),
    ("CRITICAL_DATA", "6.1"),
    ("SETXATTR_CHECK", "6.1"),
];

/// `policy_tokens` with a value. uid, euid, gid, egid, fowner and fgroup also take `>` and `<`.
const KEYS: [Word; 26] = [
    ("func", "6.1"),
    ("mask", "6.1"),
    ("fsmagic", "6.1"),
    ("fsname", "6.1"),
    ("fs_subtype", "7.3"),
    ("fsuuid", "6.1"),
    ("uid", "6.1"),
    ("euid", "6.1"),
    ("gid", "6.1"),
    ("egid", "6.1"),
    ("fowner", "6.1"),
    ("fgroup", "6.1"),
    ("subj_user", "6.1"),
    ("subj_role", "6.1"),
    ("subj_type", "6.1"),
    ("obj_user", "6.1"),
    ("obj_role", "6.1"),
    ("obj_type", "6.1"),
    ("appraise_type", "6.1"),
    ("appraise_flag", "6.1"),
    ("appraise_algos", "6.1"),
    ("keyrings", "6.1"),
    ("label", "6.1"),
    ("template", "6.1"),
    ("pcr", "6.1"),
    ("digest_type", "6.1"),
];

/// Keys that a rule may have twice: the last one counts, or both say the same.
const REPEATED: [&str; 5] = ["fsname", "pcr", "appraise_type", "appraise_flag", "digest_type"];

/// Registers that a rule may name: as many as `measured_pcrs` has bits (`INVALID_PCR`).
const REGISTERS: u32 = 64;

/// include/uapi/linux/magic.h.
const RAMFS_MAGIC: u64 = 0x8584_58f6;

/// What the project needs measured, and the mask that the kernel passes with it: of a file that is executed
/// or mapped for that MAY_EXEC, of one that the kernel reads MAY_READ. Source:
/// security/integrity/ima/ima_main.c, `ima_bprm_check`, `ima_file_mmap`, `ima_post_read_file`.
const WANTED: [(&str, &str); 7] = [
    ("BPRM_CHECK", "MAY_EXEC"),
    ("MMAP_CHECK", "MAY_EXEC"),
    ("MODULE_CHECK", "MAY_READ"),
    ("FIRMWARE_CHECK", "MAY_READ"),
    ("KEXEC_KERNEL_CHECK", "MAY_READ"),
    ("KEXEC_INITRAMFS_CHECK", "MAY_READ"),
    ("POLICY_CHECK", "MAY_READ"),
];

fn is_of(words: &[Word], word: &str) -> bool {
    words.iter().any(|(known, _)| *known == word)
}

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
    /// The value of an option; the last one where it is there twice.
    pub fn option(&self, key: &str) -> Option<&str> {
        self.options
            .iter()
            .rev()
            .find(|(k, _)| k == key)
            .map(|(_, v)| v.as_str())
    }

    /// The value of `func`, by the name that the kernel itself has for it.
    pub fn function(&self) -> Option<&str> {
        self.option("func").map(|name| match name {
            "FILE_MMAP" => "MMAP_CHECK",
            "PATH_CHECK" => "FILE_CHECK",
            name => name,
        })
    }

    fn parse(line: usize, text: &str) -> Result<Rule, RuleError> {
        let refuse = |why: String| RuleError { line, why };
        let mut found: Option<&str> = None;
        let mut options: Vec<(String, String)> = Vec::new();
        for word in text.split([' ', '\t']).filter(|w| !w.is_empty()) {
            if word.starts_with('#') {
                // A comment behind a rule: 7.3 skips it, kernels before refuse the file.
                break;
            }
            if is_of(&ACTIONS, word) {
                if found.replace(word).is_some() {
                    return Err(refuse(format!("{} is a second action", quoted(word))));
                }
                continue;
            }
            if is_of(&FLAGS, word) {
                options.push((word.to_owned(), String::new()));
                continue;
            }
            let option = word
                .find(['=', '<', '>'])
                .map(|at| (&word[..at], &word[at..], &word[at + 1..]));
            let Some((key, operator, value)) = option else {
                // The first word is an action in every policy that people write.
                let what = if found.is_none() && options.is_empty() {
                    format!("an action ({})", ACTIONS.map(|(name, _)| name).join(", "))
                } else {
                    "an option".to_owned()
                };
                return Err(refuse(format!("{} is not {what}", quoted(word))));
            };
            let compares = ["uid", "euid", "gid", "egid", "fowner", "fgroup"].contains(&key);
            if !is_of(&KEYS, key) || (!operator.starts_with('=') && !compares) {
                return Err(refuse(format!("{} is not an option", quoted(word))));
            }
            let is_twice = !REPEATED.contains(&key) && options.iter().any(|(k, _)| k == key);
            if value.is_empty() || is_twice {
                return Err(refuse(format!("{key} has no value, or is there twice")));
            }
            check_value(key, value).map_err(refuse)?;
            options.push((key.to_owned(), value.to_owned()));
        }
        let Some(action) = found else {
            let actions = ACTIONS.map(|(name, _)| name).join(", ");
            return Err(refuse(format!("there is no action in it ({actions})")));
        };
        Ok(Rule {
            line,
            action: action.to_owned(),
            options,
        })
    }
}

/// A UUID as `uuid_parse` reads it (lib/uuid.c): hex digits of either case, with dashes.
fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// A number in base 16 as `kstrtoul` reads it (lib/kstrtox.c): `+`, then `0x` or `0X`, may stand before it.
fn magic(text: &str) -> Option<u64> {
    let text = text.strip_prefix('+').unwrap_or(text);
    let digits = text
        .strip_prefix("0x")
        .or(text.strip_prefix("0X"))
        .unwrap_or(text);
    // The standard library would take a sign here.
    let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    u64::from_str_radix(digits, 16).ok().filter(|_| is_hex)
}

/// Whether a rule with this `mask=` is about accesses with `mask`, one flag.
fn is_mask(value: &str, mask: &str) -> bool {
    value.strip_prefix('^').unwrap_or(value) == mask
}

fn check_value(key: &str, value: &str) -> Result<(), String> {
    let known = match key {
        "func" => is_of(&FUNCTIONS, value),
        "mask" => {
            let mask = value.strip_prefix('^').unwrap_or(value);
            ["MAY_EXEC", "MAY_WRITE", "MAY_READ", "MAY_APPEND"].contains(&mask)
        }
        "fsmagic" => magic(value).is_some(),
        "fsuuid" => is_uuid(value),
        // -1 is no identity (`uid_valid`).
        "uid" | "euid" | "gid" | "egid" | "fowner" | "fgroup" => {
            value.parse::<u32>().is_ok_and(|id| id != u32::MAX)
        }
        "pcr" => value.parse::<u32>().is_ok_and(|pcr| pcr < REGISTERS),
        "digest_type" => value == "verity",
        "appraise_type" => ["imasig", "imasig|modsig", "sigv3"].contains(&value),
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
/// A rule counts only if it has no further condition, since each condition leaves something out; and only if
/// no exclusion of tmpfs or overlayfs stands before it, where containers' files live.
pub fn missing(rules: &[Rule]) -> Vec<String> {
    let mut missing = Vec::new();
    for (function, mask) in WANTED {
        let found = rules.iter().find(|rule| {
            rule.action == "measure"
                && rule.function() == Some(function)
                && rule.options.iter().all(|(key, value)| match key.as_str() {
                    // One more entry for each group leaves nothing out.
                    "func" | "template" | "per_cgroup" => true,
                    // All that the function is called for has this mask; another one matches nothing.
                    "mask" => is_mask(value, mask),
                    _ => false,
                })
        });
        match found {
            // As the kernel's own policies write it.
            None if function == "MMAP_CHECK" => missing.push(format!("measure func={function} mask={mask}")),
            None => missing.push(format!("measure func={function}")),
            Some(found) => {
                let line = format!("measure func={function}");
                let kept = [TMPFS_MAGIC, RAMFS_MAGIC, OVERLAYFS_MAGIC];
                missing.extend(excluded_before(
                    rules.iter(),
                    found,
                    (function, mask),
                    &kept,
                    &line,
                ));
            }
        }
    }
    let uuid = crate::checkpoint::FS_UUID;
    let checkpoint = rules.iter().find(|rule| {
        rule.action == "measure"
            && rule
                .option("fsuuid")
                .is_some_and(|v| v.eq_ignore_ascii_case(uuid))
            && rule.function() == Some("FILE_CHECK")
            && rule.options.iter().all(|(key, value)| match key.as_str() {
                "func" | "fsuuid" => true,
                "mask" => is_mask(value, "MAY_READ"),
                _ => false,
            })
    });
    let line = format!("measure func=FILE_CHECK mask=^MAY_READ fsuuid={uuid}");
    match checkpoint {
        None => missing.push(line),
        Some(found) => {
            // Exclusions of other file systems, by their UUID or their number (EXT4_SUPER_MAGIC is ours).
            let rules = rules.iter().filter(|rule| {
                let other = rule.option("fsuuid");
                other.is_none_or(|other| other.eq_ignore_ascii_case(uuid))
            });
            let used = ("FILE_CHECK", "MAY_READ");
            missing.extend(excluded_before(rules, found, used, &[0xef53], &line));
        }
    }
    missing
}

/// An exclusion before `rule` that takes out of it files of one of these file systems, by magic number; and
/// what is to be added then.
fn excluded_before<'a>(
    rules: impl Iterator<Item = &'a Rule>,
    rule: &Rule,
    (function, mask): (&str, &str),
    kept: &[u64],
    line: &str,
) -> Option<String> {
    let other = |r: &Rule| {
        r.function().is_some_and(|f| f != function) || r.option("mask").is_some_and(|m| !is_mask(m, mask))
    };
    rules
        .take_while(|r| r.line < rule.line)
        .find(|r| {
            let magic = r.option("fsmagic").and_then(magic);
            r.action == "dont_measure" && !other(r) && magic.is_none_or(|m| kept.contains(&m))
        })
        .map(|r| format!("{line} (before the exclusion in line {})", r.line))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rules that the parser of each supported kernel takes, one for each of its words. Source: ima_policy.c
    /// of Debian's 6.1.192, 6.12.117 and 7.3.4; 6.1 knows the first part, 6.12 the second one too, 7.3 all
    /// but the last.
    const BY_KERNEL: [(&str, &[&str]); 4] = [
        (
            "6.1",
            &[
                "measure",
                "dont_measure",
                "appraise",
                "dont_appraise",
                "audit",
                "hash",
                "dont_hash",
                "measure obj_user=system_u",
                "measure obj_role=object_r",
                "measure obj_type=bin_t",
                "measure subj_user=system_u",
                "measure subj_role=system_r",
                "measure subj_type=init_t",
                "measure func=FILE_CHECK",
                "measure func=PATH_CHECK",
                "measure func=MODULE_CHECK",
                "measure func=FIRMWARE_CHECK",
                "measure func=FILE_MMAP",
                "measure func=MMAP_CHECK",
                "measure func=BPRM_CHECK",
                "measure func=CREDS_CHECK",
                "measure func=KEXEC_KERNEL_CHECK",
                "measure func=KEXEC_INITRAMFS_CHECK",
                "measure func=POLICY_CHECK",
                "measure func=KEXEC_CMDLINE",
                "measure func=KEY_CHECK keyrings=.builtin_trusted_keys|.ima",
                "measure func=CRITICAL_DATA label=selinux",
                "appraise func=SETXATTR_CHECK appraise_algos=sha256,sha512",
                "measure mask=MAY_EXEC",
                "measure mask=^MAY_WRITE",
                "measure mask=MAY_READ",
                "measure mask=MAY_APPEND",
                "measure fsmagic=0x9fa0",
                "measure fsmagic=9FA0",
                "measure fsmagic=0X9fa0",
                "measure fsmagic=+0x9fa0",
                "measure fsname=rootfs",
                "measure fsname=a fsname=b",
                "measure fsuuid=1CA09A17-30b2-46f6-8f5a-c9a7c9a7c9a7",
                "measure uid=0",
                "measure uid>1",
                "measure uid<2",
                "measure euid=0",
                "measure euid>1",
                "measure euid<2",
                "measure gid=0",
                "measure gid>1",
                "measure gid<2",
                "measure egid=0",
                "measure egid>1",
                "measure egid<2",
                "measure fowner=0",
                "measure fowner>1",
                "measure fowner<2",
                "measure fgroup=0",
                "measure fgroup>1",
                "measure fgroup<2",
                "measure digest_type=verity template=ima-ngv2",
                "appraise appraise_type=imasig",
                "appraise appraise_type=imasig|modsig",
                "appraise digest_type=verity appraise_type=sigv3",
                "appraise appraise_type=imasig appraise_flag=check_blacklist",
                "appraise permit_directio",
                "measure pcr=0",
                "measure pcr=10",
                "measure pcr=24",
                "measure pcr=63",
                "measure template=ima-sig",
                "func=BPRM_CHECK measure",
                "\t measure  func=BPRM_CHECK\tmask=MAY_EXEC",
            ],
        ),
        ("6.12", &["measure func=MMAP_CHECK_REQPROT"]),
        (
            "7.3",
            &[
                "dont_audit",
                "measure fs_subtype=sshfs",
                "measure func=BPRM_CHECK # why",
                "appraise appraise_type=sigv3",
            ],
        ),
        (
            "patched",
            &["measure func=BPRM_CHECK template=ima-cgpath per_cgroup"],
        ),
    ];

    #[test]
    fn each_word_of_each_supported_kernels_parser_is_taken() {
        for (kernel, rules) in BY_KERNEL {
            for rule in rules {
                let parsed = parse(rule).unwrap_or_else(|e| panic!("{kernel}: {rule}: {e}"));
                assert_eq!(parsed.len(), 1, "{kernel}: {rule}");
            }
        }
    }

    #[test]
    fn each_word_of_the_tables_is_in_a_rule_of_the_kernel_that_it_is_from() {
        let words = ACTIONS.iter().chain(&FLAGS).chain(&FUNCTIONS).chain(&KEYS);
        for (word, kernel) in words {
            let (_, rules) = BY_KERNEL.iter().find(|(name, _)| name == kernel).unwrap();
            let is_there = |rule: &&&str| rule.split(['=', ' ', '<', '>', '\t']).any(|part| part == *word);
            assert!(rules.iter().any(|rule| is_there(&rule)), "{kernel}: {word}");
        }
    }

    #[test]
    fn what_no_supported_kernel_takes_is_refused() {
        for rule in [
            "measure pcr=64",
            "measure pcr=-1",
            "measure dont_measure",
            "func=BPRM_CHECK",
            "measure func=POST_SETATTR",
            "measure func=file_check",
            "measure mask=MAY_EXECUTE",
            "measure digest_type=sha256",
            "appraise appraise_type=sig",
            "measure fsuuid=1ca09a1730b246f68f5ac9a7c9a7c9a7",
            "measure uid=0 uid>1",
            "measure uid=4294967295",
            "measure fsmagic=0x",
            "measure fsmagic=0x+9fa0",
            "measure fsmagic=++9fa0",
            "measure fsmagic=-1",
            "measure fs_subtype<1",
            "measure permit_directio=1",
            "# all of it",
            "measure func=BPRM_CHECK why",
        ] {
            assert!(parse(rule).is_err(), "{rule}");
        }
    }

    #[test]
    fn a_mask_counts_for_a_function_that_the_kernel_calls_with_it_and_for_no_other() {
        let all: String = missing(&[]).iter().map(|rule| format!("{rule}\n")).collect();
        let plain = all.replace("MMAP_CHECK mask=MAY_EXEC", "MMAP_CHECK");
        assert_eq!(missing(&parse(&plain).unwrap()), Vec::<String>::new());
        for (function, used) in WANTED {
            for mask in ["MAY_EXEC", "MAY_READ", "MAY_WRITE", "MAY_APPEND"] {
                for sign in ["", "^"] {
                    let rule = format!("func={function} mask={sign}{mask}");
                    let text = plain.replace(&format!("func={function}\n"), &format!("{rule}\n"));
                    assert!(text.contains(&rule), "{rule}");
                    let found = missing(&parse(&text).unwrap());
                    assert_eq!(found.is_empty(), mask == used, "{rule}: {found:?}");
                }
            }
        }
    }

    #[test]
    fn an_exclusion_counts_by_the_number_and_the_mask_that_the_kernel_reads() {
        let all: String = missing(&[]).iter().map(|rule| format!("{rule}\n")).collect();
        for (exclusion, hidden) in [
            ("fsmagic=0x9fa0", 0),
            ("fsmagic=0X9fa0", 0),
            ("fsmagic=9FA0", 0),
            ("fsmagic=+0X9FA0", 0),
            // Base 16, with any zeros before it.
            ("fsmagic=0009fa0", 0),
            ("fsmagic=0x01021994", WANTED.len()),
            ("fsmagic=0X1021994", WANTED.len()),
            ("fsmagic=01021994", WANTED.len()),
            ("fsmagic=+0X794C7630", WANTED.len()),
            ("mask=MAY_WRITE", 0),
            ("mask=^MAY_APPEND", 0),
            ("mask=MAY_EXEC", 2),
            // The checkpoints' rule, too.
            ("mask=^MAY_READ", 6),
            ("func=FILE_CHECK", 1),
            ("func=FILE_CHECK fsmagic=0xef53", 1),
            ("func=FILE_CHECK fsmagic=0x01021994", 0),
            ("func=FILE_CHECK mask=MAY_EXEC", 0),
            ("func=FILE_CHECK fsuuid=00000000-0000-0000-0000-000000000001", 0),
            ("func=MODULE_CHECK mask=MAY_EXEC", 0),
            ("func=MODULE_CHECK mask=MAY_READ", 1),
        ] {
            let text = format!("dont_measure {exclusion}\n{all}");
            let found = missing(&parse(&text).unwrap());
            assert_eq!(found.len(), hidden, "{exclusion}: {found:?}");
        }
    }

    #[test]
    fn other_names_of_a_function_count_as_it_and_hide_it_alike() {
        let all: String = missing(&[]).iter().map(|rule| format!("{rule}\n")).collect();
        let renamed = all
            .replace("=MMAP_CHECK", "=FILE_MMAP")
            .replace("=FILE_CHECK", "=PATH_CHECK");
        assert!(renamed.contains("FILE_MMAP") && renamed.contains("PATH_CHECK"));
        assert_eq!(missing(&parse(&renamed).unwrap()), Vec::<String>::new());
        for exclusion in ["FILE_MMAP", "MMAP_CHECK"] {
            let text = format!("dont_measure func={exclusion} fsmagic=0x01021994\n{all}");
            let found = missing(&parse(&text).unwrap());
            assert!(
                found[0].contains("before the exclusion in line 1"),
                "{exclusion}: {found:?}"
            );
        }
        // The protection that was asked for is another one, and another register is not the one that is
        // quoted.
        for (from, to) in [
            ("=MMAP_CHECK", "=MMAP_CHECK_REQPROT"),
            ("=BPRM_CHECK", "=BPRM_CHECK pcr=24"),
        ] {
            assert_eq!(missing(&parse(&all.replace(from, to)).unwrap()).len(), 1, "{to}");
        }
        let grouped = all.replace("=BPRM_CHECK", "=BPRM_CHECK per_cgroup");
        assert!(missing(&parse(&grouped).unwrap()).is_empty());
    }
}
