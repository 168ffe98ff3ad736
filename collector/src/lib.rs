//! The collector: reads the kernel's measurement list and the eBPF records, attributes them, seals
//! checkpoints, anchors them in the TPM and sends evidence.
//!
//! [`pipeline`] is pure and holds every decision; everything else here moves bytes to and from it.
//!
//! This is a library for the daemon, its tests and the fuzz targets alone: no API for others, and none is
//! written down in `docs/api`. What others rely on are the daemon's commands, its configuration and what it
//! sends.
//!
//! # A record of the ring buffer
//!
//! ```
//! use bytes::Bytes;
//! use cgpath_ebpf_common::{LAYOUT_VERSION, MAX_NAME, kind};
//! use cgpathd::decode::{Body, DecodeError, decode};
//!
//! // A cgroup directory was made: header, its inode number and its parent's, hierarchy, name.
//! let len = 48 + MAX_NAME;
//! let mut raw = Vec::new();
//! raw.extend(1u64.to_ne_bytes()); // the first record
//! raw.extend(5_000u64.to_ne_bytes()); // nanoseconds since the boot
//! raw.extend(kind::CGROUP_NEW.to_ne_bytes());
//! raw.extend(LAYOUT_VERSION.to_ne_bytes());
//! raw.extend((len as u32).to_ne_bytes());
//! raw.extend([7u64, 1].map(u64::to_ne_bytes).concat());
//! raw.extend([0u32, 4].map(u32::to_ne_bytes).concat());
//! raw.extend(b"pods");
//! raw.resize(len, 0);
//!
//! let event = decode(&Bytes::from(raw.clone()))?;
//! assert!(matches!(&event.body, Body::Cgroup(made) if made.name == "pods" && made.parent_id == Some(1)));
//! let cut = decode(&Bytes::copy_from_slice(&raw[..40]));
//! assert!(matches!(cut, Err(DecodeError::Incomplete { have: 40, .. })));
//! # Ok::<(), DecodeError>(())
//! ```
#![deny(unsafe_code)]

pub mod anchor;
pub mod bpf;
pub mod check;
pub mod cli;
pub mod config;
pub mod control;
pub mod decode;
pub mod deliver;
pub mod engine;
pub mod journal;
pub mod node;
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
