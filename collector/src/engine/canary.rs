//! A program that ends at once, executed to see whether it is seen.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The first argument with which this program does nothing: what it executes to see whether it is seen.
pub const CANARY_ARGUMENT: &str = "__canary";

/// A program that ends at once.
///
/// The dynamic linker by itself, asked for its version, maps nothing else: one record instead of a dozen at
/// each request. Where there is none, or an update replaced it, it is this very program. Both are files that
/// IMA knows and every policy accepts.
#[derive(Debug)]
pub struct Canary {
    linker: Option<PathBuf>,
}

impl Canary {
    /// Looks for the dynamic linker of this process.
    pub fn find() -> Canary {
        Canary {
            linker: dynamic_linker(),
        }
    }

    /// Executes it, waits for its end, and gives its process id; `None` if it could not be executed.
    pub fn run(&self) -> Option<u32> {
        let linker = self
            .linker
            .as_deref()
            .and_then(|path| spawn(path, "--version").ok());
        // Not its path: the file may have been replaced by an update since.
        let child = linker.map_or_else(|| spawn(Path::new("/proc/self/exe"), CANARY_ARGUMENT), Ok);
        match child {
            Ok(mut child) => {
                let pid = child.id();
                if let Err(error) = child.wait() {
                    tracing::warn!(%error, "waiting for the canary");
                }
                Some(pid)
            }
            Err(error) => {
                tracing::error!(%error, "the canary could not be executed");
                None
            }
        }
    }
}

/// A program that should end at once gets so long.
const PATIENCE: Duration = Duration::from_secs(5);

/// Executes a program that may be of another version than this one, as if it were a canary; gives its process
/// id, or `None` if it could not be executed. One that does not end is ended.
pub fn try_program(program: &Path) -> Option<u32> {
    let mut child = match spawn(program, CANARY_ARGUMENT) {
        Ok(child) => child,
        Err(error) => {
            tracing::error!(program = %program.display(), %error, "it could not be executed");
            return None;
        }
    };
    let pid = child.id();
    if let Err(error) = ended(&mut child, PATIENCE) {
        tracing::warn!(program = %program.display(), %error, "waiting for its end");
    }
    Some(pid)
}

/// Waits for the end of a process, and brings it about after this time.
fn ended(child: &mut Child, patience: Duration) -> io::Result<()> {
    let begin = Instant::now();
    while child.try_wait()?.is_none() {
        if begin.elapsed() >= patience {
            child.kill()?;
            child.wait()?;
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn spawn(program: &Path, argument: &str) -> io::Result<Child> {
    Command::new(program)
        .arg(argument)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

/// The dynamic linker that is mapped into this process.
fn dynamic_linker() -> Option<PathBuf> {
    let maps = procfs::process::Process::myself().and_then(|p| p.maps()).ok()?;
    maps.into_iter().find_map(|map| match map.pathname {
        procfs::process::MMapPath::Path(path) => {
            let name = path.file_name()?.to_string_lossy();
            (name.starts_with("ld-linux") || name.starts_with("ld64")).then_some(path)
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_canary_is_a_process_that_ended_even_if_the_linker_was_replaced() {
        let replaced = Canary {
            linker: Some("/nonexistent/ld-linux.so".into()),
        };
        for canary in [Canary::find(), replaced] {
            let pid = canary.run().unwrap();
            assert!(pid > 1 && !std::path::Path::new(&format!("/proc/{pid}")).exists());
        }
    }

    #[test]
    fn a_program_that_is_tried_ends_whether_it_wants_to_or_not() {
        assert_eq!(try_program(Path::new("/nonexistent/cgpathd")), None);
        let pid = try_program(Path::new("/proc/self/exe")).unwrap();
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        ended(&mut child, Duration::ZERO).unwrap();
        assert!(child.try_wait().unwrap().is_some_and(|status| !status.success()));
    }
}
