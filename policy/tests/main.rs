//! Every integration test of the policy model in one program.
//!
//! Promises: a module is one subject, and its tests share nothing with others but the process, which none of
//! them changes (environment, current directory); files are in a directory of the test's own. Not here: tests
//! within the crate, beside what they test.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod corim;
mod examples;
mod excludes;
mod ima;
mod keylime;
mod model;
mod schema;
mod workloads;

/// Processor time of this thread: what may be bounded on a machine that does other things, too.
fn used() -> std::time::Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID)
        .unwrap()
        .into()
}
