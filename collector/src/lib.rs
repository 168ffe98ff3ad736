//! The collector: reads the kernel's measurement list and the eBPF records, attributes them, seals
//! checkpoints, anchors them in the TPM and sends evidence.
//!
//! [`pipeline`] is pure and holds every decision; everything else here moves bytes to and from it.
#![deny(unsafe_code)]

pub mod anchor;
pub mod bpf;
pub mod check;
pub mod cli;
pub mod config;
pub mod control;
pub mod deliver;
pub mod engine;
pub mod journal;
pub mod pipeline;
pub mod quote;
pub mod request;
pub mod runtime;
pub mod service;
pub mod setup;
pub mod sources;
pub mod status;
pub mod store;
mod sync;
pub mod tpm;
