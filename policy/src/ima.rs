//! The IMA rule files that are shipped in `policy/ima/`. How rules are read: [`cgpath_evidence::ima_policy`].

pub use cgpath_evidence::ima_policy::{Rule, RuleError, missing, parse};

/// The rule file with only what is needed.
pub const MINIMAL: &str = include_str!("../ima/minimal");
/// The rule file that we recommend.
pub const RECOMMENDED: &str = include_str!("../ima/recommended");
