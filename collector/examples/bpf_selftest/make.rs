//! Makes things happen: programs, scripts, long paths, executions.

use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

pub fn run(program: &Path, args: &[&str]) -> Result<u32> {
    let mut child = Command::new(program)
        .args(args)
        .spawn()
        .with_context(|| format!("{}", program.display()))?;
    let pid = child.id();
    let status = child.wait()?;
    ensure!(status.success(), "{} {args:?}: {status}", program.display());
    Ok(pid)
}

pub fn program(path: &Path, tail: &[u8]) -> Result<()> {
    let mut bytes = fs::read("/bin/busybox")?;
    bytes.extend_from_slice(tail);
    fs::write(path, bytes)?;
    // Not opened for reading: IMA would measure that, too.
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

pub fn script(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// A path of exactly `len` bytes below `dir`, with its parents made.
pub fn deep(dir: &Path, len: usize) -> Result<PathBuf> {
    let mut path = dir.join(format!("d{len}"));
    while path.as_os_str().len() + 250 < len {
        path = path.join("d".repeat(200));
    }
    fs::create_dir_all(&path)?;
    let rest = len - path.as_os_str().len() - 1;
    // A name that busybox takes for its own.
    let leaf = format!(
        "busybox{}",
        "p".repeat(rest.checked_sub(7).context("no room for a name")?)
    );
    Ok(path.join(leaf))
}
