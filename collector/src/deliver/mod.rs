//! Sends evidence away: to the verifier ([`push`]) and to any number of sinks beside it ([`sink`]); gives
//! figures to Prometheus ([`metrics`]).
//!
//! Promise: who is away, slow or full delays nothing but what goes to him. Not here: how evidence is made
//! (asked of a [`Source`](crate::request::Source)), the HTTPS client (`cgpath-net`).

mod backoff;
pub mod metrics;
pub mod push;
pub mod sink;
mod stream;
