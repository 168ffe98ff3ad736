//! Every integration test of the appraisal in one program.
//!
//! Promises: a module is one subject, and its tests share nothing with others but the process, which none of
//! them changes (environment, current directory); files are in a directory of the test's own. Not here: the
//! service and the command (see `verifier/cli/tests`).
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod accept;
mod attacks;
mod boot_log;
mod ear;
mod follow;
mod honest;
mod images;
mod learned;
mod lives;
mod long_lists;
mod measured;
mod naive;
mod only;
mod pem;
mod policies;
mod properties;
#[path = "../../../evidence/tests/common/vectors.rs"]
mod published;
mod rules;
mod shared_memory;
mod td;
mod tenant;
mod vectors;
#[path = "common/ways.rs"]
mod ways;
mod workloads;
