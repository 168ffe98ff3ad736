//! Every integration test of the command in one program, the service's among them: it is tried as users start
//! it.
//!
//! Promises: a module is one subject, and its tests share nothing with others but the process, which none of
//! them changes (environment, current directory); files are in a directory of the test's own. Not here: what
//! a verdict says (see `verifier/appraisal/tests`), and tests within a crate, beside what they test.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod attacks;
mod cases;
mod collateral;
mod corim;
mod documents;
mod export;
mod identify;
mod log;
mod policies;
mod prove;
#[path = "../../../evidence/tests/common/vectors.rs"]
mod published;
mod refs;
mod serve;
mod verify;

/// What a program prints to standard output; it must succeed.
#[track_caller]
fn printed(command: &mut std::process::Command) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).unwrap()
}
