//! The verifier's service: nonces out, evidence in, verdicts kept and shown.
//!
//! One HTTPS listener and one directory. Nodes push; the service connects to webhooks alone. [`run::serve`]
//! is all of it; commands that work on a store without the service take [`store`], [`reappraisal`],
//! [`setup`], [`policy_files`] and [`files`].
//! Not here: what a verdict is (`cgpath-appraisal`), and arguments and output of the command (`cgpath`).
//!
//! # A service on a new directory
//!
//! ```no_run
//! use cgpath_service::api::Settings;
//! use cgpath_service::run::{self, RunError, ServiceOptions};
//! use cgpath_service::{STALE_AFTER, setup, store::Limits};
//! use std::path::PathBuf;
//! use std::time::Duration;
//!
//! let dir = PathBuf::from("verifier");
//! setup::init(&dir, &setup::names(&[]), time::OffsetDateTime::now_utc())?;
//! let options = ServiceOptions {
//!     dir,
//!     listen: "[::]:8443".to_owned(),
//!     read_token: None,
//!     read_token_always: true,
//!     readers: None,
//!     client_ca: None,
//!     nonce_lifetime: 300,
//!     settings: Settings {
//!         max_evidence: 64 << 20,
//!         upload: Duration::from_secs(60),
//!         stale_after: STALE_AFTER,
//!         ear_lifetime: STALE_AFTER,
//!         webhooks: Vec::new(),
//!     },
//!     keep: Limits {
//!         verdicts: 1000,
//!         evidence_bytes: 4 << 30,
//!     },
//!     follow_memory: 256 << 20,
//!     webhook_ca: PathBuf::new(),
//!     webhook_queue: 10_000,
//! };
//! // Until SIGTERM.
//! run::serve(&options, |address| {
//!     println!("listening on {address}");
//!     Ok::<(), RunError>(())
//! })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

pub mod api;
pub mod audit;
pub mod challenges;
pub mod changes;
pub mod clock;
pub mod files;
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
