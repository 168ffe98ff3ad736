//! Verifiers of others, and Prometheus' tool, in one program, which links their dependencies once.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test that cannot go on has failed"
)]

mod azure;
mod prometheus;
#[path = "../../evidence/tests/common/vectors.rs"]
mod published;
mod tdx;
mod trustee;
