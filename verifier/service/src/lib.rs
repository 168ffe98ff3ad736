//! The verifier's service: nonces out, evidence in, verdicts kept and shown.
//!
//! One HTTPS listener and one directory. Nodes push; the service connects to webhooks alone. [`run::serve`]
//! is all of it; commands that work on a store without the service take [`store`], [`reappraisal`], [`setup`]
//! and [`policy_files`].
//! Not here: what a verdict is (`cgpath-appraisal`), and arguments and output of the command (`cgpath`).
#![forbid(unsafe_code)]

pub mod api;
pub mod audit;
pub mod changes;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod ingest;
pub mod listener;
pub mod nonce;
pub mod pages;
pub mod pinned;
pub mod policy_files;
pub mod reappraisal;
pub mod run;
pub mod setup;
pub mod store;
pub mod webhook;

/// Age from which a verdict is stale where no service ever said another one, seconds.
pub const STALE_AFTER: u64 = 300;
