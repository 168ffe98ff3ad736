//! `cgpath policy from-deb`: packages in, reference values out.

use super::{Bar, Common, failure, finish};
use crate::output::{Failure, Output, Status, escape};
use cgpath_policy::{Reference, Source, SourceKind};
use cgpath_refvals::{HashOptions, Progress, deb};
use clap::Args;
use std::fs::{self, File};
use std::io::BufReader;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

#[derive(Args)]
pub struct FromDeb {
    /// Packages (`.deb`), or folders of them
    #[arg(required = true)]
    packages: Vec<PathBuf>,
    /// For a system whose /bin, /sbin and /lib are folders of their own, not links into /usr
    #[arg(long)]
    not_merged: bool,
    #[command(flatten)]
    common: Common,
}

impl FromDeb {
    pub(super) fn run(self, out: &mut Output) -> Result<Status, Failure> {
        let mut files = Vec::new();
        for path in &self.packages {
            let error = |e: std::io::Error| Failure::file(path, &e);
            if !fs::metadata(path).map_err(error)?.is_dir() {
                files.push(path.clone());
                continue;
            }
            let before = files.len();
            for entry in fs::read_dir(path).map_err(error)? {
                let file = entry.map_err(error)?.path();
                if file.extension().is_some_and(|e| e == "deb") {
                    files.push(file);
                }
            }
            if files.len() == before {
                let shown = escape(path.as_os_str().as_bytes());
                return Err(Failure::new(
                    "empty",
                    format!("{shown}: no .deb file in this folder"),
                ));
            }
        }
        files.sort();
        let name = match &files[..] {
            [one] => escape(one.as_os_str().as_bytes()),
            all => format!("{} packages", all.len()),
        };
        let mut reference = Reference::new(Source {
            kind: SourceKind::Deb,
            name,
            digest: None,
        });
        let mut bar = Bar::new();
        let mut progress = Progress::default();
        let mut without_files = Vec::new();
        for path in &files {
            let file = File::open(path).map_err(|e| Failure::file(path, &e))?;
            let mut report = |p| bar.show(p);
            let mut options = HashOptions {
                banks: &self.common.algorithms,
                progress: &mut report,
            };
            let reader = BufReader::with_capacity(128 * 1024, file);
            let shown = escape(path.as_os_str().as_bytes());
            let merged = !self.not_merged;
            let (package, count) = deb::add_package(
                &shown,
                reader,
                merged,
                &mut reference,
                &mut progress,
                &mut options,
            )
            .map_err(|e| failure(&e))?;
            if count == 0 {
                without_files.push(format!("{package}: no regular file in it"));
            }
        }
        if reference.files.is_empty() {
            return Err(Failure::new(
                "empty",
                "there is no regular file in these packages: such values would accept nothing",
            ));
        }
        bar.progress = progress;
        finish(&reference, &self.common.output, bar, without_files, out)
    }
}
