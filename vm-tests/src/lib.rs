//! Guests for tests and for the demo: stock kernels with IMA and a software TPM each, run by QEMU.
//!
//! [`Vm`] is the driver; [`kernel`], [`root`] and the disk images below it come from the distribution's own
//! packages and are cached. Promises: no state is shared between guests, nothing is left behind. Not here:
//! what the product does (`cgpathd`, `cgpath`), what a person types (`xtask`).
//!
//! # A guest with IMA
//!
//! ```no_run
//! use vm_tests::{IMA, Stock, Vm};
//!
//! let guest = Vm::builder(Stock::V6_12).ima(IMA).start()?;
//! let list = guest.get_text("/sys/kernel/security/ima/ascii_runtime_measurements")?;
//! assert!(list.starts_with("10 "));
//! guest.power_off()?;
//! # Ok::<(), anyhow::Error>(())
//! ```
#![deny(unsafe_code)]
#![warn(unreachable_pub)]

pub mod bench;
mod channel;
pub mod demo;
pub mod demo_break;
mod demo_shown;
pub mod domain;
pub mod host;
mod image;
mod initrd;
pub mod kernel;
pub mod lists;
mod machine;
pub mod module;
pub mod oci;
pub mod pods;
mod qemu;
mod qmp;
pub mod root;
pub mod scenario;
pub mod scenario_https;
mod snapshot;
pub mod turn;
mod uki;
pub mod virtme;
mod vm;

pub use image::Stage;
pub use kernel::Stock;
pub use vm::{CgroupMode, Command, Exit, Hello, IMA, Output, PATIENCE, Process, Stream, Vm, VmBuilder};
