//! `cgpath policy migrate`: a policy of version 1 as the two files of version 2.

use crate::output::{Failure, Output, Status, escape};
use cgpath_policy::migrate::to_version_2;
use cgpath_service::files::read_bounded;
use cgpath_service::policy_files::PolicyFileError;
use clap::Args;
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

#[derive(Args)]
pub struct Migrate {
    /// The policy of version 1
    policy: PathBuf,
    /// Where to write the node part; it must not be there yet. In the policy's own folder, since names of
    /// reference files are relative to it
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Where to write the workload part, beside the node part; it must not be there yet
    #[arg(long, value_name = "NAME", default_value = "workloads.yaml")]
    workloads: String,
}

impl Migrate {
    pub(super) fn run(self, out: &mut Output) -> Result<Status, Failure> {
        let yaml = read_bounded(&self.policy, cgpath_policy::MAX_POLICY_LEN as u64)
            .map_err(|e| Failure::file(&self.policy, &e))?;
        let name = self.policy.display().to_string();
        let made = to_version_2(&name, &yaml, &self.workloads)
            .map_err(|error| Failure::from(PolicyFileError::Policy(error)))?;
        let beside = self
            .output
            .parent()
            .unwrap_or(Path::new(""))
            .join(&self.workloads);
        write_new(&beside, &made.workloads)?;
        write_new(&self.output, &made.node)?;
        for path in [&self.output, &beside] {
            out.line(format_args!("written: {}", escape(path.as_os_str().as_bytes())))?;
        }
        out.line("each pod became a workload by its UID; the collector must name containers (runtimes.cri)")?;
        Ok(Status::Clean)
    }
}

/// Nothing is overwritten: what is there may be what the other file was made of.
fn write_new(path: &Path, text: &str) -> Result<(), Failure> {
    let file = File::options().write(true).create_new(true).open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    written.map_err(|e| Failure::file(path, &e))
}
