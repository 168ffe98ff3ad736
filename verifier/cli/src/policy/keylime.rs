//! `cgpath policy from-keylime` and `to-keylime`: runtime policies in and out.

use super::{Bar, finish, reference, refused};
use crate::input;
use crate::output::{Failure, Output, Status, count, escape};
use cgpath_appraisal::text::utc;
use cgpath_policy::keylime::{self, Field};
use cgpath_policy::{Excludes, reference::MAX_REFERENCE_LEN};
use cgpath_service::files::read_bounded;
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

#[derive(Args)]
pub struct FromKeylime {
    /// The runtime policy (JSON, version 1)
    policy: PathBuf,
    /// Does without a field that accepts what is not appraised here; may be given several times
    #[arg(long, value_name = "FIELD")]
    leave_out: Vec<LeaveOut>,
    /// Where to write the reference values; `-` for standard output
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

/// Fields that a runtime policy can be read without.
#[derive(Clone, Copy, ValueEnum)]
enum LeaveOut {
    /// `verification-keys`
    VerificationKeys,
    /// `ima.ignored_keyrings`
    IgnoredKeyrings,
    /// `ima.dm_policy`
    DmPolicy,
}

impl FromKeylime {
    pub(super) fn run(self, out: &mut Output) -> Result<Status, Failure> {
        let fields: Vec<Field> = self
            .leave_out
            .iter()
            .map(|field| match field {
                LeaveOut::VerificationKeys => Field::VerificationKeys,
                LeaveOut::IgnoredKeyrings => Field::IgnoredKeyrings,
                LeaveOut::DmPolicy => Field::DmPolicy,
            })
            .collect();
        let json = read_bounded(&self.policy, MAX_REFERENCE_LEN as u64)
            .map_err(|e| Failure::file(&self.policy, &e))?;
        let name = escape(self.policy.as_os_str().as_bytes());
        let reference = keylime::read(&name, &json, &fields).map_err(|e| match e {
            cgpath_policy::Error::Syntax { .. } => {
                refused(&e).hint("give a runtime policy of Keylime as JSON, of version 1")
            }
            e => refused(&e),
        })?;
        let left_out = fields.iter().map(|field| field.name().to_owned()).collect();
        let status = finish(&reference, &self.output, Bar::new(), left_out, out)?;
        if self.output != Path::new("-") && !out.json() {
            for exclude in reference.excludes.items() {
                out.line(format_args!(
                    "excludes, not judged: {}",
                    escape(exclude.as_bytes())
                ))?;
            }
        }
        Ok(status)
    }
}

#[derive(Args)]
pub struct ToKeylime {
    /// Files of reference values; together they become one policy
    #[arg(required = true)]
    references: Vec<PathBuf>,
    /// A pattern of paths that are not appraised; may be given several times
    #[arg(long, value_name = "REGEX")]
    exclude: Vec<String>,
    /// Excludes the checkpoints of ima-cgpath, and nothing else: their names and hashes are different in each
    /// boot
    #[arg(long)]
    exclude_checkpoints: bool,
    /// Where to write the runtime policy; `-` for standard output
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

impl ToKeylime {
    pub(super) fn run(mut self, out: &mut Output) -> Result<Status, Failure> {
        let references = self
            .references
            .iter()
            .map(|path| reference(path))
            .collect::<Result<Vec<_>, _>>()?;
        if self.exclude_checkpoints {
            self.exclude.push(keylime::CHECKPOINTS.to_owned());
        }
        let excludes = Excludes::new(self.exclude).map_err(|e| {
            Failure::new(
                "usage",
                format!("--exclude: {}", escape(e.to_string().as_bytes())),
            )
        })?;
        let bytes = keylime::write(&references, &excludes, &utc(input::now()?)).map_err(|e| refused(&e))?;
        if self.output == Path::new("-") {
            out.raw(&bytes)?;
            return Ok(Status::Clean);
        }
        input::replace(&self.output, &bytes)?;
        let paths: usize = references.iter().map(|r| r.files.len()).sum();
        if out.json() {
            #[derive(Serialize)]
            struct Written<'a> {
                output: &'a Path,
                references: usize,
                paths: usize,
            }
            out.object(&Written {
                output: &self.output,
                references: references.len(),
                paths,
            })?;
        } else {
            let name = escape(self.output.as_os_str().as_bytes());
            out.line(format_args!(
                "{name}: {} from {}",
                count(paths, "path"),
                count(references.len(), "reference file")
            ))?;
            if references.iter().any(|r| r.learned) {
                out.line("some of them are learned, which a runtime policy cannot say")?;
            }
        }
        Ok(Status::Clean)
    }
}
