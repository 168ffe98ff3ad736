//! What runs inside a test guest: init and command channel as PID 1, and by name the pods' and tests'
//! workloads.
//!
//! Promises: one static file, usable in any root file system and as any container's program. Not here: what
//! tests expect (`vm-tests`).
#![deny(unsafe_code)]

mod channel;
mod cri;
mod init;
mod initrd;
mod restored;
mod tpm;
mod workload;
mod workload_cgroup;
mod workload_container;
mod workload_flood;
mod workload_guard;
mod workload_kexec;
mod workload_memory;
mod workload_pod;
mod workload_quotes;
mod workload_rights;
mod workload_serve;
mod workload_timed;
mod workload_tpm;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        // The kernel passes parameters that it does not know as arguments, so init is recognised by its place
        // alone.
        _ if std::process::id() == 1 && std::env::args().next().as_deref() == Some("/usr/sbin/guest") => {
            init::run()
        }
        // Where another init is PID 1 and starts this as a service.
        Some("agent") => init::agent(),
        Some("cri") => exit(cri::run(&arguments[1..])),
        Some("workload") => exit(workload::run(&arguments[1..])),
        other => {
            eprintln!("guest: no such command: {}", other.unwrap_or("(none)"));
            ExitCode::from(2)
        }
    }
}

fn exit(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("guest: {error:#}");
            ExitCode::FAILURE
        }
    }
}
