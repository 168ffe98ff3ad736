//! All tests that run guests, in one program, so that as many guests run at once as there are cores until the
//! last test.
//!
//! Modules whose names begin with `kernel_` need a patched kernel (`CGPATH_KERNEL`) and run in a step of
//! their own. Not here: how guests are made (`vm_tests`).
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod attacks_pod;
mod attacks_rights;
mod attacks_root;
mod burst;
mod enforce;
mod firmware;
mod flood;
mod guard;
mod guest;
mod handover;
mod hierarchies;
mod install;
mod kernel_debug;
mod kernel_package;
mod kernel_per_cgroup;
mod kernel_staging;
mod kernel_tier;
mod kernel_tier_virtme;
mod keylime_push;
mod load;
mod lsm_advice;
mod out_of_sight;
mod overlays;
mod pending;
mod per_kernel;
mod pods;
mod pods_appraised;
mod records;
mod restarts;
mod runtime;
mod snapshot;
mod tdx;
