//! Every integration test of the generators of reference values in one program.
//!
//! Promises: a module is one subject, and its tests share nothing with others but the process, which none of
//! them changes (environment, current directory); files are in a directory of the test's own. Not here: tests
//! within the crate, beside what they test.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod containerd;
mod deb;
mod images;
mod layers;
#[path = "common/stacks.rs"]
mod stacks;
