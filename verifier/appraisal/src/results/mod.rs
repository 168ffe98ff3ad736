//! What comes out: findings, the verdict, and why a finding stands.

pub mod explain;
pub(crate) mod finding;
pub(crate) mod verdict;
