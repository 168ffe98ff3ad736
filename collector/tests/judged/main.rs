//! What sinks are sent, taken at the far side and judged there by the verifier's library.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod drops;
mod formats;
mod names;
mod node;
#[path = "../common/sink.rs"]
mod sink;
mod tls;
