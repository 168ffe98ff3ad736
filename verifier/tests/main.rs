//! Every integration test of the verifier in one program, which links SQLite, tokio and TLS once.
//!
//! Promises: a module is one subject, and its tests share nothing with others but the process, which none of them changes
//! (environment, current directory); files are in a directory of the test's own. Not here: tests within a crate, beside
//! what they test.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod accept;
mod attacks;
mod boot;
#[cfg(feature = "service")]
mod cases;
#[cfg(feature = "service")]
mod corim;
#[cfg(feature = "service")]
mod documents;
mod ear;
#[cfg(feature = "service")]
mod export;
mod follow;
mod honest;
mod learned;
mod lives;
#[cfg(feature = "service")]
mod log;
mod long_lists;
mod measured;
mod naive;
mod policies;
#[cfg(feature = "service")]
#[path = "common/port.rs"]
mod port;
mod properties;
#[cfg(feature = "service")]
mod prove;
#[path = "../../evidence/tests/common/vectors.rs"]
mod published;
#[cfg(feature = "service")]
#[path = "common/python.rs"]
mod python;
mod rules;
#[cfg(feature = "service")]
mod serve;
mod tenant;
mod vectors;
#[cfg(feature = "service")]
mod verify;
#[path = "common/ways.rs"]
mod ways;
