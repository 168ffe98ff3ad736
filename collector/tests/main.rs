//! Every integration test of the collector in one program, which links the TPM library, tokio and TLS once.
//!
//! Promises: a module is one subject, and its tests share nothing with others but the process, which none of
//! them changes (environment, current directory); files and the software TPM are the test's own. Not here:
//! tests within the crate, beside what they test.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod appraised;
mod command;
mod common;
mod delivery;
mod handover;
mod keylime_push;
mod registers;
mod rounds;
mod sinks;
mod swtpm;
